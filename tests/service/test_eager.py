"""Tasks in the answer to a call of the worker's own: durable before they leave, and taken back if nobody is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from perdure.api import messages as m
from perdure.engine.store.memory import MemoryStore
from tests.service.support import (
    STICKY,
    Driver,
    complete_workflow,
    schedule_activity,
    start_timer,
    turns,
)
from tests.service.test_barrier import HeldStore


@pytest.fixture(params=[True, False], ids=["here", "elsewhere"])
async def held(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Driver, HeldStore]]:
    """An engine on a store that can be held back, for workers of this process and of others."""
    store = HeldStore()
    async with Driver(store, in_process=request.param) as driver:
        yield driver, store
        store.commits_open.set()


Held = tuple[Driver, HeldStore]


def eager(activity_id: str = "a", **options: object) -> m.Command:
    command = schedule_activity(activity_id, **options)  # type: ignore[arg-type]
    command.schedule_activity_task_command_attributes.request_eager_execution = True
    return command


async def start(driver: Driver, workflow_id: str = "wf", **fields: object) -> m.StartWorkflowExecutionResponse:
    request = driver.start_request(workflow_id, request_eager_execution=True, **fields)
    return await driver.service.start_workflow_execution(request)


async def test_the_first_task_comes_with_the_start(held: Held) -> None:
    driver, store = held
    store.commits_open.clear()
    answer = asyncio.ensure_future(start(driver))
    await turns()
    assert not answer.done()
    store.commits_open.set()
    task = (await answer).eager_workflow_task
    assert [event.event_id for event in task.history.events] == [1, 2, 3]
    assert task.history.events[0].workflow_execution_started_event_attributes.eager_execution_accepted
    assert task.workflow_execution_task_queue.name == "queue"
    assert not (await driver.poll()).task_token, "it is out already"
    await driver.complete(task, complete_workflow())
    await driver.settle()
    assert await driver.status() == "COMPLETED"


async def test_a_delayed_start_has_no_first_task_yet(held: Held) -> None:
    driver, _ = held
    request = driver.start_request(request_eager_execution=True)
    request.workflow_start_delay.seconds = 60
    answer = await driver.service.start_workflow_execution(request)
    assert not answer.HasField("eager_workflow_task")
    (event,) = await driver.history()
    assert not event.workflow_execution_started_event_attributes.eager_execution_accepted
    assert driver.engine.advance()
    await driver.rest()
    assert (await driver.poll()).task_token


async def test_a_start_that_finds_another_run_has_no_task(held: Held) -> None:
    driver, _ = held
    await start(driver, request_id="same")
    repeated = await start(driver, request_id="same")
    assert not repeated.HasField("eager_workflow_task")


@pytest.mark.in_process("when a cancelled call reaches a server is not for a test to say")
async def test_the_first_task_of_a_start_whose_caller_has_gone_is_offered(held: Held) -> None:
    driver, store = held
    store.commits_open.clear()
    answer = asyncio.ensure_future(start(driver))
    await turns()
    answer.cancel()
    signal = asyncio.ensure_future(driver.signal())
    await turns()
    store.commits_open.set()
    with pytest.raises(asyncio.CancelledError):
        await answer
    await signal
    task = await driver.poll()
    assert task.started_event_id == 4, "the signal that came meanwhile is in its history"
    await driver.complete(task, complete_workflow())
    await driver.settle()


async def test_activities_come_with_the_completion(held: Held) -> None:
    driver, store = held
    await driver.start()
    task = await driver.poll()
    store.commits_open.clear()
    commands = [eager("a"), schedule_activity("b"), eager("c")]
    answer = asyncio.ensure_future(driver.complete(task, *commands))
    await turns()
    assert not answer.done()
    store.commits_open.set()
    taken = (await answer).activity_tasks
    assert [each.activity_id for each in taken] == ["a", "c"]
    other = await driver.poll_activity()
    assert other.activity_id == "b"
    assert not (await driver.poll_activity()).task_token
    if not driver.in_process:
        assert isinstance(driver.store, MemoryStore)
        async with Driver(MemoryStore(driver.store.snapshot()), clock=driver.clock, seed=2) as successor:
            assert not (await successor.poll_activity()).task_token, "their worker may live on"
    for each in [*taken, other]:
        await driver.complete_activity(each)
    await driver.step(complete_workflow())
    await driver.settle()


async def test_activities_that_do_not_outlive_the_completion_are_not_handed_out(held: Held) -> None:
    driver, _ = held
    await driver.start()
    answer = await driver.complete(await driver.poll(), eager("c"), complete_workflow())
    assert not answer.activity_tasks
    await driver.settle()


@pytest.mark.in_process("when a cancelled call reaches a server is not for a test to say")
async def test_what_comes_with_a_completion_whose_caller_has_gone_is_offered(held: Held) -> None:
    driver, store = held
    await driver.start()
    task = await driver.poll()
    await driver.signal()
    store.commits_open.clear()
    answer = asyncio.ensure_future(driver.complete(task, eager("a"), return_new_workflow_task=True))
    await turns()
    answer.cancel()
    await turns()
    store.commits_open.set()
    with pytest.raises(asyncio.CancelledError):
        await answer
    activity = await driver.poll_activity()
    assert activity.activity_id == "a"
    await driver.complete_activity(activity)
    await driver.step(complete_workflow())
    await driver.settle()


async def test_the_next_task_has_its_history_also_without_a_cache(held: Held) -> None:
    driver, _ = held
    await driver.start()
    for number in range(3):
        await driver.signal()
        task = await driver.poll()
        await driver.complete(task, start_timer(f"t{number}", 60))
    await driver.signal()
    task = await driver.poll()
    await driver.signal()
    following = (await driver.complete(task, start_timer("t", 60), return_new_workflow_task=True)).workflow_task
    ids = [event.event_id for event in following.history.events]
    assert ids == list(range(1, following.started_event_id + 1))
    assert not following.next_page_token
    await driver.signal()
    answer = await driver.complete(following, start_timer("u", 60), sticky=STICKY, return_new_workflow_task=True)
    following = answer.workflow_task
    ids = [event.event_id for event in following.history.events]
    assert ids == list(range(following.previous_started_event_id + 1, following.started_event_id + 1))
    await driver.complete(following, complete_workflow())
    await driver.settle()
