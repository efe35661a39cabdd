"""Operations that are updates: the handler updates a workflow, and what comes of the update completes the operation."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure.api import StatusCode
from perdure.api import messages as m
from perdure.engine.store.memory import MemoryStore
from tests.service.support import Driver, complete_workflow, names, refusal, turns
from tests.service.test_nexus import answer, callback_of, called, later, operations, poll
from tests.service.updating import ACCEPTED, acceptance, place, rejection, response, say, update_request

HANDLED = "handled"


async def handled_runs(driver: Driver) -> None:
    await driver.start(HANDLED, task_queue=m.TaskQueue(name=HANDLED))
    await driver.complete(await driver.poll(HANDLED))


async def update(
    driver: Driver, task: m.PollNexusTaskQueueResponse, *said: m.Message, **fields: Any
) -> m.UpdateWorkflowExecutionResponse:
    """The handler updates the workflow; its worker says this."""
    request = update_request(HANDLED, stage=ACCEPTED)
    request.request.request_id = task.request.start_operation.request_id
    request.request.completion_callbacks.append(callback_of(task))
    updating = asyncio.ensure_future(driver.service.update_workflow_execution(request))
    await turns()
    if said:
        await say(driver, await driver.poll(HANDLED), *said)
    return await updating


async def told(driver: Driver) -> list[int]:
    await driver.wait_idle(but_held=True)
    return [callback.state for callback in (await driver.describe(HANDLED)).callbacks]


SUCCEEDED = m.CallbackState.CALLBACK_STATE_SUCCEEDED
STANDBY = m.CallbackState.CALLBACK_STATE_STANDBY


@pytest.mark.parametrize("fails", [False, True])
async def test_an_update_completes_the_operation(driver: Driver, fails: bool) -> None:
    task = await called(driver)
    await handled_runs(driver)
    await update(driver, task, acceptance())
    await answer(driver, task, **later())
    (info,) = (await driver.describe(HANDLED)).callbacks
    assert info.trigger.update_workflow_execution_completed.update_id == "u" and info.state == STANDBY
    said = response()
    if fails:
        body = m.Response(outcome=m.Outcome(failure=m.Failure(message="no")))
        body.meta.update_id = "u"
        said.body.Pack(body)
    await driver.signal(HANDLED)
    await driver.complete(await driver.poll(HANDLED), place(said), messages=[said])
    assert await told(driver) == [SUCCEEDED]
    assert await operations(driver) == ["Scheduled", "Started", "Failed" if fails else "Completed"]
    assert await driver.status(HANDLED) == "RUNNING"
    await driver.terminate(HANDLED)
    await driver.wait_idle(but_held=True)


async def test_a_workflow_that_ends_without_completing_its_update(driver: Driver) -> None:
    task = await called(driver)
    await handled_runs(driver)
    await update(driver, task, acceptance())
    await answer(driver, task, **later())
    await driver.terminate(HANDLED)
    assert await told(driver) == [SUCCEEDED]
    assert await operations(driver) == ["Scheduled", "Started", "Failed"]


async def test_a_rejected_update_leaves_no_callback(driver: Driver) -> None:
    task = await called(driver)
    await handled_runs(driver)
    answered = await update(driver, task, rejection())
    assert answered.outcome.HasField("failure")
    assert await told(driver) == []


@pytest.mark.parametrize("accepted", [False, True])
async def test_two_operations_share_an_update(driver: Driver, accepted: bool) -> None:
    task = await called(driver)
    await handled_runs(driver)
    first = asyncio.ensure_future(update(driver, task))
    await turns()
    if accepted:
        await say(driver, await driver.poll(HANDLED), acceptance())
    await driver.start("second")
    await driver.complete(await driver.poll(), *call_again())
    second_task = await poll(driver)
    second = asyncio.ensure_future(update(driver, second_task))
    again = asyncio.ensure_future(update(driver, second_task))
    await turns()
    if not accepted:
        await say(driver, await driver.poll(HANDLED), acceptance())
    await asyncio.gather(first, second, again)
    for each in (task, second_task):
        await answer(driver, each, **later())
    await driver.signal(HANDLED)
    await say(driver, await driver.poll(HANDLED), response(), also=(complete_workflow(),))
    assert await told(driver) == [SUCCEEDED, SUCCEEDED]
    for workflow_id in ("wf", "second"):
        assert await operations(driver, workflow_id) == ["Scheduled", "Started", "Completed"]
    updated = "WorkflowExecutionOptionsUpdated" in names(await driver.history(HANDLED))
    assert updated == accepted


def call_again() -> list[m.Command]:
    command = m.Command(command_type=m.CommandType.COMMAND_TYPE_SCHEDULE_NEXUS_OPERATION)
    about = command.schedule_nexus_operation_command_attributes
    about.endpoint, about.service, about.operation = "desk", "service", "operation"
    return [command]


async def test_callbacks_of_updates_go_where_callbacks_may_go() -> None:
    async with Driver(MemoryStore()) as driver:
        await handled_runs(driver)
        request = update_request(HANDLED)
        request.request.completion_callbacks.add().nexus.url = "http://127.0.0.1/"
        error = await refusal(driver.service.update_workflow_execution(request))
        assert error.code is StatusCode.INVALID_ARGUMENT
