"""Workflows on a cron schedule, through the service and on the virtual clock."""

from __future__ import annotations

import pytest

from perdure.api import StatusCode
from perdure.api import messages as m
from tests.service.support import Driver, complete_workflow, fail_workflow, payloads, refusal

EVENT_TYPE = m.EventType


async def following(driver: Driver, run_id: str) -> str:
    """The run that follows, as a client that waits for the result finds it."""
    request = driver.history_request(run_id=run_id)
    request.history_event_filter_type = m.HistoryEventFilterType.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT
    request.wait_new_event = True
    (event,) = (await driver.service.get_workflow_execution_history(request)).history.events
    for name in ("completed", "failed", "timed_out", "continued_as_new"):
        attributes = getattr(event, f"workflow_execution_{name}_event_attributes")
        if attributes.new_execution_run_id:
            return attributes.new_execution_run_id
    return ""


async def test_it_runs_again_and_again(driver: Driver) -> None:
    run_id = await driver.start(cron_schedule="*/10 * * * *")
    assert not (await driver.poll()).task_token
    seen: list[str] = []
    for _ in range(3):
        assert driver.engine.advance()
        assert driver.clock.now_ms() % 600_000 == 0
        assert (await driver.describe(run_id=run_id)).workflow_execution_info.status == 1
        await driver.step(complete_workflow("done"))
        seen.append(run_id)
        run_id = await following(driver, run_id)
        described = await driver.describe()
        assert described.workflow_execution_info.execution.run_id == run_id
        assert described.workflow_execution_info.first_run_id == seen[0]
        assert described.workflow_execution_info.execution_time.ToMilliseconds() == driver.clock.now_ms() + 600_000
    await driver.settle()
    for finished in seen:
        assert await driver.status(run_id=finished) == "COMPLETED"
    await driver.terminate()
    assert not driver.engine.advance() or not (await driver.poll()).task_token
    assert await following(driver, run_id) == ""
    await driver.settle()


async def test_the_last_result_and_failure_are_told(driver: Driver) -> None:
    await driver.start(cron_schedule="@hourly")
    driver.engine.advance()
    await driver.step(complete_workflow("one"))
    driver.engine.advance()
    await driver.step(fail_workflow())
    started = (await driver.history())[0].workflow_execution_started_event_attributes
    assert started.last_completion_result == payloads("one")
    assert started.continued_failure.message
    driver.engine.advance()
    await driver.step(complete_workflow("three"))
    started = (await driver.history())[0].workflow_execution_started_event_attributes
    assert started.last_completion_result == payloads("three")
    assert not started.HasField("continued_failure")


@pytest.mark.parametrize("schedule", ["* * * *", "@sometimes", "CRON_TZ=Nowhere * * * * *", "61 * * * *"])
async def test_a_bad_schedule_is_refused(driver: Driver, schedule: str) -> None:
    error = await refusal(driver.start(cron_schedule=schedule))
    assert error.code is StatusCode.INVALID_ARGUMENT
    assert "CronSchedule" in error.message
    request = m.SignalWithStartWorkflowExecutionRequest(
        namespace="default", workflow_id="wf", signal_name="go", cron_schedule=schedule
    )
    request.workflow_type.name = "flow"
    request.task_queue.name = "queue"
    error = await refusal(driver.service.signal_with_start_workflow_execution(request))
    assert error.code is StatusCode.INVALID_ARGUMENT
    assert (await refusal(driver.describe())).code is StatusCode.NOT_FOUND


async def test_a_schedule_and_a_start_delay_exclude_each_other(driver: Driver) -> None:
    request = driver.start_request(cron_schedule="@hourly")
    request.workflow_start_delay.seconds = 1
    error = await refusal(driver.service.start_workflow_execution(request))
    assert error.code is StatusCode.INVALID_ARGUMENT


async def test_signal_with_start_of_a_schedule_waits_for_its_instant(driver: Driver) -> None:
    request = m.SignalWithStartWorkflowExecutionRequest(
        namespace="default", workflow_id="wf", request_id="r", signal_name="go", cron_schedule="@hourly"
    )
    request.workflow_type.name = "flow"
    request.task_queue.name = "queue"
    await driver.service.signal_with_start_workflow_execution(request)
    assert await driver.event_names() == ["WorkflowExecutionStarted", "WorkflowExecutionSignaled"]
    assert not (await driver.poll()).task_token
    driver.engine.advance()
    assert (await driver.poll()).task_token
