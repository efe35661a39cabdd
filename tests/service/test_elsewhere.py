"""Tasks for workers of other processes: nothing leaves before it is durable, and a restart knows who holds what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from perdure.api import StatusCode
from perdure.api import messages as m
from perdure.engine.store.memory import MemoryState, MemoryStore
from tests.service.support import (
    QUEUE,
    STICKY,
    Driver,
    complete_workflow,
    payloads,
    refusal,
    schedule_activity,
    start_timer,
    text_of,
    turns,
)
from tests.service.test_barrier import HeldStore


@pytest.fixture
async def held() -> AsyncIterator[tuple[Driver, HeldStore]]:
    """An engine whose callers are other processes, on a store that can be held back."""
    store = HeldStore()
    async with Driver(store, in_process=False) as driver:
        yield driver, store
        store.commits_open.set()
        store.reads_open.set()


Held = tuple[Driver, HeldStore]


def poll(driver: Driver) -> asyncio.Future[m.PollActivityTaskQueueResponse]:
    request = m.PollActivityTaskQueueRequest(namespace="default", identity="far")
    request.task_queue.name = QUEUE
    return asyncio.ensure_future(driver.service.poll_activity_task_queue(request))


async def heartbeat(driver: Driver, task: m.PollActivityTaskQueueResponse, *texts: str) -> None:
    request = m.RecordActivityTaskHeartbeatRequest(namespace="default", task_token=task.task_token)
    if texts:
        request.details.CopyFrom(payloads(*texts))
    await driver.service.record_activity_task_heartbeat(request)


def successor(driver: Driver, state: MemoryState | None = None) -> Driver:
    """The engine that comes after this one was killed."""
    assert isinstance(driver.store, MemoryStore)
    store = MemoryStore(state or driver.store.snapshot())
    return Driver(store, clock=driver.clock, seed=2, in_process=False)


async def test_an_activity_leaves_when_its_start_is_durable(held: Held) -> None:
    driver, store = held
    await driver.start()
    await driver.step(schedule_activity())
    store.commits_open.clear()
    task = poll(driver)
    await turns()
    assert not task.done()
    store.commits_open.set()
    assert (await task).activity_id == "a"


@pytest.mark.in_process("it counts commits, and calls over a wire arrive one by one")
async def test_hand_outs_share_a_commit(held: Held) -> None:
    driver, store = held
    await driver.start()
    await driver.step(*(schedule_activity(f"a{number}") for number in range(50)))
    before = store.commits
    tasks = await asyncio.gather(*(poll(driver) for _ in range(50)))
    assert {task.activity_id for task in tasks} == {f"a{number}" for number in range(50)}
    assert store.commits - before <= 3


async def test_a_restart_knows_who_holds_what(held: Held) -> None:
    driver, _ = held
    await driver.start()
    await driver.step(schedule_activity(start_to_close_s=60, attempts=2))
    started_ms = driver.clock.now_ms()
    task = await poll(driver)
    driver.clock.advance_by(20_000)
    async with successor(driver) as after:
        assert not (await after.poll_activity()).task_token, "its worker may live on"
        (pending,) = (await after.describe()).pending_activities
        assert pending.state == m.PendingActivityState.PENDING_ACTIVITY_STATE_STARTED
        assert pending.last_worker_identity == "far"
        assert pending.last_started_time.ToMilliseconds() == started_ms
        await heartbeat(after, task, "half")
        assert after.engine.next_deadline_ms() == started_ms + 60_000
        await after.complete_activity(task, "late")
        events = await after.history()
        started = events[5]
        assert started.event_time.ToMilliseconds() == started_ms
        assert started.activity_task_started_event_attributes.identity == "far"
        await after.step(complete_workflow())
        await after.settle()


async def test_after_a_restart_timeouts_run_on(held: Held) -> None:
    driver, _ = held
    await driver.start()
    await driver.step(schedule_activity(start_to_close_s=60, attempts=2))
    started_ms = driver.clock.now_ms()
    task = await poll(driver)
    driver.clock.advance_by(20_000)
    async with successor(driver) as after:
        await after.rest()
        assert after.engine.advance()
        assert after.clock.now_ms() == started_ms + 60_000
        await after.rest()
        assert after.engine.advance()
        await after.rest()
        assert (await after.poll_activity()).attempt == 2
        assert (await refusal(after.complete_activity(task))).code is StatusCode.NOT_FOUND


async def test_heartbeats_are_waited_for_afresh_after_a_restart(held: Held) -> None:
    """A worker could not reach an engine that was not there."""
    driver, _ = held
    await driver.start()
    await driver.step(schedule_activity(start_to_close_s=3600, heartbeat_s=10))
    task = await poll(driver)
    await heartbeat(driver, task, "one")
    driver.clock.advance_by(60_000)
    state = driver.store.snapshot()  # type: ignore[attr-defined]
    async with successor(driver, state) as after:
        await after.rest()
        assert (await after.describe()).pending_activities
        after.clock.advance_by(9_000)
        await heartbeat(after, task)
        after.clock.advance_by(9_000)
        await after.rest()
        assert (await after.describe()).pending_activities
        after.clock.advance_by(1_000)
        await after.rest()
        assert (await after.event_names()).count("ActivityTaskTimedOut") == 1


@pytest.mark.in_process("when a cancelled call reaches a server is not for a test to say")
async def test_a_poll_that_gives_up_leaves_the_task(held: Held) -> None:
    driver, store = held
    await driver.start()
    await driver.step(schedule_activity())
    store.commits_open.clear()
    first = poll(driver)
    await turns()
    first.cancel()
    await turns()
    store.commits_open.set()
    with pytest.raises(asyncio.CancelledError):
        await first
    await driver.rest()
    async with successor(driver) as after:
        assert (await after.poll_activity()).activity_id == "a", "nobody holds it, durably"
    second = await poll(driver)
    assert second.activity_id == "a"
    await driver.complete_activity(second)
    await driver.step(complete_workflow())
    await driver.settle()


@pytest.mark.in_process("when a cancelled call reaches a server is not for a test to say")
async def test_a_poll_waiting_in_the_queue_gets_what_another_gave_up(held: Held) -> None:
    driver, store = held
    await driver.start()
    await driver.step(schedule_activity())
    store.commits_open.clear()
    first = poll(driver)
    await turns()
    second = poll(driver)
    await turns()
    first.cancel()
    await turns()
    store.commits_open.set()
    assert (await second).activity_id == "a"


async def test_a_start_that_is_lost_is_nobodys(held: Held) -> None:
    driver, store = held
    await driver.start()
    await driver.step(schedule_activity())
    store.fail_next = True
    assert (await refusal(poll(driver))).code is StatusCode.UNAVAILABLE
    driver.clock.advance_by(1000)
    await driver.rest()
    task = await poll(driver)
    assert task.activity_id == "a"
    await driver.complete_activity(task)
    await driver.step(complete_workflow())
    await driver.settle()


@pytest.mark.in_process("when a cancelled call reaches a server is not for a test to say")
async def test_a_poll_that_gives_up_when_its_start_is_lost(held: Held) -> None:
    driver, store = held
    await driver.start()
    await driver.step(schedule_activity())
    store.commits_open.clear()
    first = poll(driver)
    await turns()
    first.cancel()
    store.fail_next = True
    store.commits_open.set()
    with pytest.raises(asyncio.CancelledError):
        await first
    driver.clock.advance_by(1000)
    await driver.rest()
    assert (await poll(driver)).activity_id == "a"
    assert not (await driver.poll_activity()).task_token, "it is there once"


async def test_a_crash_at_every_commit() -> None:
    """What was handed out before the crash is not handed out again; what was not, is."""
    states: list[tuple[MemoryState, bool]] = []
    left: list[m.PollActivityTaskQueueResponse] = []
    store = MemoryStore(after_commit=lambda _number, _batch: states.append((store.snapshot(), bool(left))))
    async with Driver(store, in_process=False) as driver:
        await driver.start()
        await driver.step(schedule_activity(attempts=2))
        left.append(await poll(driver))
        await heartbeat(driver, left[0], "x")
        states.append((store.snapshot(), True))
        clock = driver.clock
    handed_out = 0
    for state, is_out in states:
        async with Driver(MemoryStore(state.copy()), clock=clock, seed=3, in_process=False) as after:
            await after.rest()
            workflow_task = await after.poll() if await _exists(after) else None
            if workflow_task is not None and workflow_task.task_token:
                await after.complete(workflow_task, schedule_activity(attempts=2))
            again = await after.poll_activity()
            if is_out:
                assert not again.task_token
                await after.complete_activity(left[0])
                await after.step(complete_workflow())
                await after.settle()
            handed_out += bool(again.task_token)
    assert handed_out >= 2


async def _exists(driver: Driver) -> bool:
    try:
        await driver.describe()
    except Exception:
        return False
    return True


# -- workflow tasks


async def test_a_workflow_task_leaves_when_what_it_shows_is_durable(held: Held) -> None:
    driver, store = held
    store.commits_open.clear()
    started = asyncio.ensure_future(driver.start())
    task = asyncio.ensure_future(driver.service.poll_workflow_task_queue(driver.poll_request()))
    await turns()
    assert not task.done()
    store.commits_open.set()
    assert (await task).history.events[-1].event_type == m.EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED
    await started


async def test_a_sticky_task_leaves_when_what_it_shows_is_durable(held: Held) -> None:
    driver, store = held
    await driver.start()
    await driver.poll(STICKY, sticky=True)
    await driver.step(start_timer("t", 3600), sticky=STICKY)
    store.commits_open.clear()
    signal = asyncio.ensure_future(driver.signal())
    task = asyncio.ensure_future(driver.service.poll_workflow_task_queue(driver.poll_request(STICKY, sticky=True)))
    await turns()
    assert not task.done()
    store.commits_open.set()
    assert (await task).previous_started_event_id == 3
    await signal


async def test_the_next_task_comes_back_when_it_is_durable(held: Held) -> None:
    driver, store = held
    await driver.start()
    task = await driver.poll()
    await driver.signal()
    store.commits_open.clear()
    answer = asyncio.ensure_future(driver.complete(task, start_timer("t", 60), return_new_workflow_task=True))
    await turns()
    assert not answer.done()
    store.commits_open.set()
    following = (await answer).workflow_task
    assert following.previous_started_event_id == 3
    await driver.complete(following, complete_workflow())
    assert await driver.status() == "COMPLETED"


async def test_a_query_task_leaves_when_what_it_rests_on_is_durable(held: Held) -> None:
    driver, store = held
    await driver.start()
    task = await driver.poll()
    store.commits_open.clear()
    completion = asyncio.ensure_future(driver.complete(task, start_timer("t", 60)))
    await turns()
    query = asyncio.ensure_future(driver.query())
    direct = asyncio.ensure_future(driver.service.poll_workflow_task_queue(driver.poll_request()))
    await turns()
    assert not direct.done()
    store.commits_open.set()
    request = m.RespondQueryTaskCompletedRequest(
        namespace="default", task_token=(await direct).task_token, completed_type=1, query_result=payloads("yes")
    )
    await driver.service.respond_query_task_completed(request)
    assert text_of((await query).query_result) == "yes"
    await completion


async def test_a_workflow_task_is_handed_out_again_after_a_restart(held: Held) -> None:
    driver, _ = held
    await driver.start()
    stale = await driver.poll()
    async with successor(driver) as after:
        again = await after.poll()
        assert again.started_event_id == stale.started_event_id
        assert (await refusal(after.complete(stale, complete_workflow()))).code is StatusCode.NOT_FOUND
        assert (await refusal(after.fail_task(stale))).code is StatusCode.NOT_FOUND
        await after.complete(again, complete_workflow())
        await after.settle()
