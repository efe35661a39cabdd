"""Nothing leaves before it is durable, and nothing in memory outlives what the store says: with a store held back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from perdure.api import StatusCode
from perdure.api import messages as m
from perdure.engine import EngineConfig
from perdure.engine.store.memory import MemoryStore
from perdure.engine.store.port import Batch, LoadedRun, StoreError
from tests.service.support import (
    START_MS,
    STICKY,
    Driver,
    complete_workflow,
    names,
    payloads,
    refusal,
    start_timer,
    text_of,
    turns,
)

CLOSE = m.HistoryEventFilterType.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT


class HeldStore(MemoryStore):
    """A store whose commits and reads wait while their gate is shut, and whose loads take a few turns."""

    def __init__(self) -> None:
        super().__init__()
        self.commits_open = asyncio.Event()
        self.commits_open.set()
        self.reads_open = asyncio.Event()
        self.reads_open.set()
        self.reading = asyncio.Event()
        self.fail_next = False

    async def commit(self, batch: Batch) -> None:
        await self.commits_open.wait()
        if self.fail_next:
            self.fail_next = False
            raise StoreError("injected")
        await super().commit(batch)

    async def current_run(self, namespace: str, workflow_id: str) -> int | None:
        found = await super().current_run(namespace, workflow_id)
        self.reading.set()
        await self.reads_open.wait()
        return found

    async def load_run(self, run_key: int) -> LoadedRun | None:
        await turns(3)
        return await super().load_run(run_key)


@pytest.fixture
async def held() -> AsyncIterator[tuple[Driver, HeldStore]]:
    """An engine on a store that can be held back."""
    store = HeldStore()
    async with Driver(store) as driver:
        yield driver, store
        store.commits_open.set()
        store.reads_open.set()


Held = tuple[Driver, HeldStore]


async def test_only_durable_events_are_shown(held: Held) -> None:
    driver, store = held
    await driver.start()
    follower = asyncio.ensure_future(
        driver.service.get_workflow_execution_history(driver.history_request(wait_new_event=True))
    )
    assert len((await follower).history.events) == 2
    store.commits_open.clear()
    signal = asyncio.ensure_future(driver.signal())
    await turns()
    assert not signal.done()
    assert await driver.event_names() == ["WorkflowExecutionStarted", "WorkflowTaskScheduled"]
    store.commits_open.set()
    await signal
    assert (await driver.event_names())[-1] == "WorkflowExecutionSignaled"


async def test_who_waits_for_a_run_whose_start_is_lost_waits_for_the_one_before(held: Held) -> None:
    driver, store = held
    first = await driver.start()
    await driver.step()
    store.commits_open.clear()
    reset = m.ResetWorkflowExecutionRequest(namespace="default", workflow_task_finish_event_id=4, reason="back")
    reset.workflow_execution.workflow_id = "wf"
    resetting = asyncio.ensure_future(driver.service.reset_workflow_execution(reset))
    await turns()
    request = driver.history_request(history_event_filter_type=CLOSE, wait_new_event=True)
    result = asyncio.ensure_future(driver.service.get_workflow_execution_history(request))
    await turns()
    store.fail_next = True
    store.commits_open.set()
    assert (await refusal(resetting)).code is StatusCode.UNAVAILABLE
    await turns()
    assert not result.done()
    await driver.terminate(run_id=first)
    assert names((await result).history.events) == ["WorkflowExecutionTerminated"]


async def test_a_result_is_told_only_when_it_is_durable(held: Held) -> None:
    driver, store = held
    await driver.start()
    task = await driver.poll()
    store.commits_open.clear()
    completion = asyncio.ensure_future(driver.complete(task, complete_workflow()))
    await turns()
    request = driver.history_request(history_event_filter_type=CLOSE)
    assert not (await driver.service.get_workflow_execution_history(request)).history.events
    request.wait_new_event = True
    result = asyncio.ensure_future(driver.service.get_workflow_execution_history(request))
    description = asyncio.ensure_future(driver.describe())
    await turns()
    assert not result.done()
    assert not description.done()
    store.commits_open.set()
    assert names((await result).history.events) == ["WorkflowExecutionCompleted"]
    await description
    await completion


async def test_a_refusal_waits_for_what_it_speaks_of(held: Held) -> None:
    driver, store = held
    store.commits_open.clear()
    first = asyncio.ensure_future(driver.start())
    await turns()
    second = asyncio.ensure_future(refusal(driver.start()))
    await turns()
    assert not second.done(), "the first start may yet be lost"
    store.commits_open.set()
    await first
    assert (await second).code is StatusCode.ALREADY_EXISTS
    task = await driver.poll()
    store.commits_open.clear()
    completion = asyncio.ensure_future(driver.complete(task, complete_workflow()))
    await turns()
    signal = asyncio.ensure_future(refusal(driver.signal()))
    await turns()
    assert not signal.done(), "the end may yet be lost"
    store.commits_open.set()
    await completion
    assert (await signal).code is StatusCode.NOT_FOUND


async def test_a_start_that_is_lost_gives_its_id_free(held: Held) -> None:
    driver, store = held
    store.commits_open.clear()
    first = asyncio.ensure_future(refusal(driver.start()))
    await turns()
    second = asyncio.ensure_future(driver.start())
    await turns()
    store.fail_next = True
    store.commits_open.set()
    assert (await first).code is StatusCode.UNAVAILABLE
    with pytest.raises(Exception, match="injected"):
        await second
    assert await driver.start()


async def test_a_run_that_was_lost_gives_its_worker_the_whole_history(held: Held) -> None:
    driver, store = held
    await driver.start()
    await driver.poll(STICKY, sticky=True)
    await driver.step(start_timer("t", 3600), sticky=STICKY)
    store.fail_next = True
    assert (await refusal(driver.signal())).code is StatusCode.UNAVAILABLE
    driver.clock.advance_by(1000)
    await driver.rest()
    await driver.poll(STICKY, sticky=True)
    await driver.signal()
    assert not (await driver.poll(STICKY, sticky=True)).task_token, "its cache may hold what was never written"
    assert (await driver.poll()).history.events[0].event_id == 1


@pytest.mark.in_process("over a wire the query itself waits until the end it sees is durable")
async def test_an_answer_waits_for_the_state_it_speaks_of(held: Held) -> None:
    driver, store = held
    await driver.start()
    task = await driver.poll()
    store.commits_open.clear()
    completion = asyncio.ensure_future(driver.complete(task, complete_workflow()))
    await turns()
    query = asyncio.ensure_future(driver.query())
    await turns()
    direct = await driver.service.poll_workflow_task_queue(driver.poll_request())
    request = m.RespondQueryTaskCompletedRequest(
        namespace="default", task_token=direct.task_token, completed_type=1, query_result=payloads("over")
    )
    await driver.service.respond_query_task_completed(request)
    await turns()
    assert not query.done(), "the end it saw may yet be lost"
    store.commits_open.set()
    assert text_of((await query).query_result) == "over"
    await completion


async def test_runs_with_waiting_tasks_stay_in_memory_longest() -> None:
    async with Driver(MemoryStore(), config=EngineConfig(cache_bytes=60_000)) as driver:
        await driver.start("waiting", task_queue=m.TaskQueue(name="nobody"))
        for number in range(30):
            await driver.start(f"wf{number}")
            await driver.step(start_timer("t", 86_400))
        names_held = {slot.run.state.workflow_id for slot in driver.engine.shard.cache.loaded.values()}
        assert "waiting" in names_held
        assert len(names_held) < 20
        await driver.settle()


async def test_a_run_being_erased_is_gone(held: Held) -> None:
    driver, store = held
    run_id = await driver.start()
    await driver.step(complete_workflow())
    store.commits_open.clear()
    driver.clock.advance_by(3 * 24 * 3600 * 1000)
    await turns()
    error = await refusal(driver.describe(run_id=run_id))
    assert error.code is StatusCode.NOT_FOUND
    store.commits_open.set()
    await driver.rest()
    assert driver.engine.statistics().loaded_runs == 0


async def test_a_run_somebody_asks_is_not_erased_meanwhile(held: Held) -> None:
    driver, _ = held
    await driver.start()
    await driver.step(complete_workflow())
    driver.clock.advance_by(3 * 24 * 3600 * 1000 - 5_000)
    query = asyncio.ensure_future(driver.query())
    await turns()
    driver.clock.advance_by(5_000)
    await turns()
    task = await driver.poll()
    request = m.RespondQueryTaskCompletedRequest(
        namespace="default", task_token=task.task_token, completed_type=1, query_result=payloads("still here")
    )
    await driver.service.respond_query_task_completed(request)
    assert text_of((await query).query_result) == "still here"
    driver.clock.advance_by(60_000)
    await driver.rest()
    assert (await refusal(driver.describe())).code is StatusCode.NOT_FOUND


async def test_an_answer_from_before_a_run_was_made_is_not_believed(held: Held) -> None:
    driver, store = held
    cache = driver.engine.shard.cache
    store.reads_open.clear()
    look_up = asyncio.ensure_future(cache.find_current("default", "wf"))
    await store.reading.wait()
    driver.engine.shard.create(driver.engine.shard.namespaces.get("default"), driver.start_request())
    while cache.loaded:
        group = next(iter(cache.loaded.values())).group
        if group is not None:
            await group.durable()
        cache.evict_cold()
    store.reads_open.set()
    found = await look_up
    assert found is not None


async def test_loads_at_once_do_not_push_each_other_out() -> None:
    async with Driver(HeldStore(), config=EngineConfig(cache_bytes=1)) as driver:
        for number in range(10):
            await driver.start(f"wf{number}")
        cache = driver.engine.shard.cache
        cache.evict_cold()
        slots = await asyncio.gather(*(cache.get(1 + number % 10) for number in range(100)))
        assert [slot.key for slot in slots] == [1 + number % 10 for number in range(100)]


async def test_a_sleeper_out_of_memory_wakes_on_time(held: Held) -> None:
    driver, _ = held
    await driver.start()
    await driver.step(start_timer("t", 86_400))
    assert driver.engine.shard.cache.evict_cold() == 1
    assert driver.engine.next_deadline_ms() == START_MS + 86_400_000
    assert driver.engine.advance()
    await driver.rest()
    assert driver.clock.now_ms() == START_MS + 86_400_000
    assert (await driver.poll()).task_token


async def test_a_waiting_activity_out_of_memory_times_out(held: Held) -> None:
    """The row of a run with tasks to hand out tells no deadline, so memory must."""
    driver, _ = held
    await driver.start()
    command = m.Command(command_type=m.CommandType.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK)
    about = command.schedule_activity_task_command_attributes
    about.activity_id = "a"
    about.activity_type.name = "work"
    about.task_queue.name = "nobody"
    about.start_to_close_timeout.seconds = 60
    about.schedule_to_start_timeout.seconds = 3600
    await driver.step(command)
    assert driver.engine.shard.cache.evict_cold() == 1
    while not (task := await driver.poll()).task_token:
        assert driver.engine.advance()
        await driver.rest()
    assert driver.clock.now_ms() == START_MS + 3_600_000
    assert "ActivityTaskTimedOut" in names(task.history.events)
