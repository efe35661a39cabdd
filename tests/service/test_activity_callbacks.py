"""Operations that are activities without a workflow: their end completes the operation."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.api import StatusCode
from perdure.api import messages as m
from tests.service.support import Driver, refusal
from tests.service.test_activity_executions import describe, start_request
from tests.service.test_nexus import answer, call, callback_of, called, later, operations, poll

USE_EXISTING = m.ActivityIdConflictPolicy.ACTIVITY_ID_CONFLICT_POLICY_USE_EXISTING


async def handled(driver: Driver, task: m.PollNexusTaskQueueResponse, **fields: Any) -> None:
    """The handler starts an activity, which is the operation."""
    request = start_request(
        driver,
        request_id=task.request.start_operation.request_id,
        completion_callbacks=[callback_of(task)],
        id_conflict_policy=USE_EXISTING,
        **fields,
    )
    request.on_conflict_options.attach_request_id = True
    request.on_conflict_options.attach_completion_callbacks = True
    await driver.service.start_activity_execution(request)


@pytest.mark.parametrize("end", ["complete", "fail", "terminate", "cancel"])
async def test_its_end_completes_the_operation(driver: Driver, end: str) -> None:
    task = await called(driver)
    await handled(driver, task)
    await answer(driver, task, **later())
    if end == "terminate":
        await driver.service.terminate_activity_execution(
            m.TerminateActivityExecutionRequest(namespace="default", activity_id="act", reason="why")
        )
    elif end == "cancel":
        await driver.service.request_cancel_activity_execution(
            m.RequestCancelActivityExecutionRequest(namespace="default", activity_id="act", reason="why")
        )
    else:
        working = await driver.poll_activity()
        if end == "complete":
            await driver.complete_activity(working, "out")
        else:
            await driver.fail_activity(working, non_retryable=True)
    await driver.wait_idle(but_held=True)
    names = {"complete": "Completed", "cancel": "Canceled"}
    assert await operations(driver) == ["Scheduled", "Started", names.get(end, "Failed")]
    (callback,) = (await describe(driver)).callbacks
    assert callback.trigger.HasField("activity_closed")
    assert callback.info.state == m.CallbackState.CALLBACK_STATE_SUCCEEDED


async def test_two_operations_share_an_activity(driver: Driver) -> None:
    task = await called(driver)
    await handled(driver, task)
    await driver.signal()
    await driver.step(call())
    second = await poll(driver)
    for _ in range(2):
        await handled(driver, second)
    for each in (task, second):
        await answer(driver, each, **later())
    await driver.complete_activity(await driver.poll_activity(), "out")
    await driver.wait_idle(but_held=True)
    assert sorted(await operations(driver)) == ["Completed"] * 2 + ["Scheduled"] * 2 + ["Started"] * 2
    assert len((await describe(driver)).callbacks) == 2


async def test_callbacks_of_activities_go_where_callbacks_may_go(driver: Driver) -> None:
    request = start_request(driver)
    request.completion_callbacks.add().nexus.url = "http://127.0.0.1/"
    error = await refusal(driver.service.start_activity_execution(request))
    assert error.code is StatusCode.INVALID_ARGUMENT
