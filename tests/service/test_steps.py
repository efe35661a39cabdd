"""One step after the other: start, workflow task, activity, completion."""

from __future__ import annotations

from perdure.api import StatusCode
from tests.service.support import (
    Driver,
    complete_workflow,
    payloads,
    refusal,
    schedule_activity,
    start_timer,
    text_of,
)


async def test_one_activity_from_start_to_result(driver: Driver) -> None:
    run_id = await driver.start(input=payloads("hello"))
    task = await driver.poll()
    assert task.workflow_execution.run_id == run_id
    assert task.workflow_execution_task_queue.name == "queue"
    assert task.previous_started_event_id == 0
    assert task.started_event_id == 3
    assert task.attempt == 1
    assert [event.event_id for event in task.history.events] == [1, 2, 3]
    await driver.complete(task, schedule_activity(text="the input"))
    activity = await driver.poll_activity()
    assert text_of(activity.input) == "the input"
    assert activity.activity_type.name == "work"
    assert activity.attempt == 1
    assert activity.start_to_close_timeout.seconds == 60
    await driver.complete_activity(activity, "the output")
    task = await driver.poll()
    assert task.previous_started_event_id == 3
    await driver.complete(task, complete_workflow("42"))
    await driver.settle()
    assert await driver.event_names() == [
        "WorkflowExecutionStarted",
        "WorkflowTaskScheduled",
        "WorkflowTaskStarted",
        "WorkflowTaskCompleted",
        "ActivityTaskScheduled",
        "ActivityTaskStarted",
        "ActivityTaskCompleted",
        "WorkflowTaskScheduled",
        "WorkflowTaskStarted",
        "WorkflowTaskCompleted",
        "WorkflowExecutionCompleted",
    ]
    assert await driver.status() == "COMPLETED"


async def test_a_timer_fires_when_it_is_due_and_once(driver: Driver) -> None:
    await driver.start()
    await driver.step(start_timer("t", 3600))
    await driver.settle()
    assert not (await driver.poll()).task_token
    before_ms = driver.clock.now_ms()
    while not (task := await driver.poll()).task_token:
        assert driver.engine.advance()
    assert driver.clock.now_ms() == before_ms + 3_600_000
    await driver.complete(task, complete_workflow())
    assert (await driver.event_names()).count("TimerFired") == 1


async def test_a_stale_completion_is_refused(driver: Driver) -> None:
    await driver.start()
    task = await driver.step(schedule_activity())
    error = await refusal(driver.complete(task, complete_workflow()))
    assert error.code is StatusCode.NOT_FOUND
    activity = await driver.activity()
    error = await refusal(driver.complete_activity(activity))
    assert error.code is StatusCode.NOT_FOUND
