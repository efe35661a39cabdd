"""What comes late, twice, or from a life ago is refused, and nothing changes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.engine.store.memory import MemoryState, MemoryStore
from tests.service import support as do
from tests.service.support import NAMESPACE, Driver

Make = Callable[[Driver], Awaitable[bytes]]
Say = Callable[[Driver, bytes], Awaitable[Any]]


def durable(state: MemoryState) -> tuple[object, ...]:
    """Everything that is written about runs."""
    return (
        {key: (row.state, row.wake_at_ms) for key, row in state.runs.items()},
        {key: list(history.batches) for key, history in state.histories.items()},
        {key: dict(items) for key, items in state.items.items()},
        dict(state.visibility),
    )


# Workflow tasks that their worker no longer holds.


async def completed_task(driver: Driver) -> bytes:
    await driver.start()
    return (await driver.step(do.start_timer("t", 5))).task_token


async def failed_task(driver: Driver) -> bytes:
    await driver.start()
    task = await driver.poll()
    await driver.fail_task(task)
    return task.task_token


async def timed_out_task(driver: Driver) -> bytes:
    await driver.start()
    task = await driver.poll()
    driver.clock.advance_by(10_000)
    await driver.rest()
    return task.task_token


async def taken_over_task(driver: Driver) -> bytes:
    token = await timed_out_task(driver)
    assert (await driver.poll()).attempt == 2
    return token


async def task_of_a_terminated_run(driver: Driver) -> bytes:
    await driver.start()
    task = await driver.poll()
    await driver.terminate()
    return task.task_token


async def task_of_a_run_that_continued(driver: Driver) -> bytes:
    await driver.start()
    return (await driver.step(do.continue_as_new())).task_token


async def task_of_a_closed_run(driver: Driver) -> bytes:
    await driver.start()
    return (await driver.step(do.complete_workflow())).task_token


async def task_with_a_bad_command(driver: Driver) -> bytes:
    await driver.start()
    task = await driver.poll()
    await do.refusal(driver.complete(task, do.cancel_activity(77)))
    return task.task_token


LOST_TASKS: list[Make] = [
    completed_task,
    failed_task,
    timed_out_task,
    taken_over_task,
    task_of_a_terminated_run,
    task_of_a_run_that_continued,
    task_of_a_closed_run,
    task_with_a_bad_command,
]


async def complete_task(driver: Driver, token: bytes) -> Any:
    return await driver.complete(m.PollWorkflowTaskQueueResponse(task_token=token), do.complete_workflow())


async def fail_task(driver: Driver, token: bytes) -> Any:
    return await driver.fail_task(m.PollWorkflowTaskQueueResponse(task_token=token))


# Attempts of activities that are over.


async def activity(driver: Driver, **options: Any) -> m.PollActivityTaskQueueResponse:
    await driver.start()
    await driver.step(do.schedule_activity("a", **options))
    task = await driver.poll_activity()
    assert task.task_token
    return task


async def completed_activity(driver: Driver) -> bytes:
    task = await activity(driver)
    await driver.complete_activity(task)
    return task.task_token


async def failed_activity(driver: Driver) -> bytes:
    task = await activity(driver)
    await driver.fail_activity(task)
    return task.task_token


async def activity_backing_off(driver: Driver) -> bytes:
    task = await activity(driver, attempts=3)
    await driver.fail_activity(task)
    return task.task_token


async def activity_at_its_next_attempt(driver: Driver) -> bytes:
    token = await activity_backing_off(driver)
    driver.clock.advance_by(1_000)
    assert (await driver.poll_activity()).attempt == 2
    return token


async def timed_out_activity(driver: Driver) -> bytes:
    task = await activity(driver)
    driver.clock.advance_by(60_000)
    await driver.rest()
    return task.task_token


async def silent_activity(driver: Driver) -> bytes:
    task = await activity(driver, heartbeat_s=5, attempts=2)
    driver.clock.advance_by(5_000)
    await driver.rest()
    return task.task_token


async def activity_of_a_terminated_run(driver: Driver) -> bytes:
    task = await activity(driver)
    await driver.terminate()
    return task.task_token


async def activity_of_a_closed_run(driver: Driver) -> bytes:
    task = await activity(driver)
    await driver.signal()
    await driver.step(do.complete_workflow())
    return task.task_token


LOST_ACTIVITIES: list[Make] = [
    completed_activity,
    failed_activity,
    activity_backing_off,
    activity_at_its_next_attempt,
    timed_out_activity,
    silent_activity,
    activity_of_a_terminated_run,
    activity_of_a_closed_run,
]


async def complete_activity(driver: Driver, token: bytes) -> Any:
    return await driver.complete_activity(m.PollActivityTaskQueueResponse(task_token=token))


async def fail_activity(driver: Driver, token: bytes) -> Any:
    return await driver.fail_activity(m.PollActivityTaskQueueResponse(task_token=token))


async def give_in(driver: Driver, token: bytes) -> Any:
    request = m.RespondActivityTaskCanceledRequest(namespace=NAMESPACE, task_token=token)
    return await driver.service.respond_activity_task_canceled(request)


async def heartbeat(driver: Driver, token: bytes) -> Any:
    request = m.RecordActivityTaskHeartbeatRequest(namespace=NAMESPACE, task_token=token, details=do.payloads("1"))
    return await driver.service.record_activity_task_heartbeat(request)


def of(functions: list[Any]) -> list[str]:
    return [function.__name__ for function in functions]


async def refused(make: Make, say: Say) -> None:
    state = MemoryState()
    async with Driver(MemoryStore(state)) as driver:
        token = await make(driver)
        await driver.rest()
        before = durable(state)
        for _ in range(2):
            error = await do.refusal(say(driver, token))
            assert error.code is StatusCode.NOT_FOUND, error
        await driver.rest()
        assert durable(state) == before
        described = await driver.describe()
    # A new engine does not know it either, and the run is what it was.
    async with Driver(MemoryStore(state), clock=driver.clock, seed=2) as driver:
        await driver.rest()
        error = await do.refusal(say(driver, token))
        assert error.code is StatusCode.NOT_FOUND, error
        await driver.rest()
        assert durable(state) == before
        again = await driver.describe()
        assert again.workflow_execution_info == described.workflow_execution_info


@pytest.mark.parametrize("say", [complete_task, fail_task], ids=of([complete_task, fail_task]))
@pytest.mark.parametrize("make", LOST_TASKS, ids=of(LOST_TASKS))
async def test_a_workflow_task_that_is_over(make: Make, say: Say) -> None:
    await refused(make, say)


SAYINGS: list[Say] = [complete_activity, fail_activity, give_in, heartbeat]


@pytest.mark.parametrize("say", SAYINGS, ids=of(SAYINGS))
@pytest.mark.parametrize("make", LOST_ACTIVITIES, ids=of(LOST_ACTIVITIES))
async def test_an_attempt_that_is_over(make: Make, say: Say) -> None:
    await refused(make, say)


async def test_a_held_workflow_task_of_an_engine_that_died() -> None:
    state = MemoryState()
    async with Driver(MemoryStore(state)) as driver:
        await driver.start()
        task = await driver.poll()
        await driver.rest()
    before = durable(state)
    async with Driver(MemoryStore(state), clock=driver.clock, seed=2) as driver:
        for say in (complete_task, fail_task):
            assert (await do.refusal(say(driver, task.task_token))).code is StatusCode.NOT_FOUND
        assert durable(state) == before
        await driver.step(do.complete_workflow())
        assert await driver.status() == "COMPLETED"


async def test_a_query_answered_twice() -> None:
    state = MemoryState()
    async with Driver(MemoryStore(state)) as driver:
        await driver.start()
        await driver.step(do.start_timer("t", 5))
        await driver.rest()
        before = durable(state)
        asked = do.asyncio.ensure_future(driver.query())
        task = await driver.poll()
        answer = m.RespondQueryTaskCompletedRequest(
            namespace=NAMESPACE,
            task_token=task.task_token,
            completed_type=m.QueryResultType.QUERY_RESULT_TYPE_ANSWERED,
            query_result=do.payloads("5"),
        )
        await driver.service.respond_query_task_completed(answer)
        assert do.text_of((await asked).query_result) == "5"
        error = await do.refusal(driver.service.respond_query_task_completed(answer))
        assert error.code is StatusCode.NOT_FOUND
        for say in (complete_task, fail_task):
            with pytest.raises(RpcError):
                await say(driver, task.task_token)
        assert durable(state) == before
