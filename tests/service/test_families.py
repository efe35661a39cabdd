"""Runs that speak to each other: children, external signals and cancels, parent close policies."""

from __future__ import annotations

import pytest

from perdure.api import messages as m
from tests.service.support import (
    Driver,
    cancel_external,
    complete_workflow,
    continue_as_new,
    fail_workflow,
    signal_external,
    start_child,
)

POLICY = m.ParentClosePolicy


async def parent_with_child(driver: Driver, **options: object) -> None:
    """A parent whose child has started; the child works on a queue of its own."""
    await driver.start("parent")
    await driver.step(start_child("child", queue="child-queue", **options))  # type: ignore[arg-type]
    await driver.rest()


async def child_step(driver: Driver, *commands: m.Command) -> m.PollWorkflowTaskQueueResponse:
    task = await driver.poll("child-queue")
    assert task.task_token
    await driver.complete(task, *commands)
    return task


async def test_a_child_lives_and_tells_of_its_end(driver: Driver) -> None:
    await parent_with_child(driver)
    names = await driver.event_names("parent")
    assert names[4:6] == ["StartChildWorkflowExecutionInitiated", "ChildWorkflowExecutionStarted"]
    task = await child_step(driver, complete_workflow("hello"))
    started = task.history.events[0].workflow_execution_started_event_attributes
    assert started.parent_workflow_execution.workflow_id == "parent"
    await driver.rest()
    assert (await driver.event_names("parent")).count("ChildWorkflowExecutionCompleted") == 1
    await driver.step(complete_workflow())
    await driver.settle()


async def test_a_child_that_fails_tells_so(driver: Driver) -> None:
    await parent_with_child(driver)
    await child_step(driver, fail_workflow("broken child"))
    await driver.rest()
    event = (await driver.history("parent"))[-1]
    failed = event.child_workflow_execution_failed_event_attributes
    assert failed.failure.message == "broken child"


async def test_a_chain_of_runs_tells_only_of_its_last(driver: Driver) -> None:
    await parent_with_child(driver)
    again = continue_as_new()
    again.continue_as_new_workflow_execution_command_attributes.task_queue.name = "child-queue"
    await child_step(driver, again)
    await driver.rest()
    assert (await driver.event_names("parent")).count("ChildWorkflowExecutionCompleted") == 0
    await child_step(driver, complete_workflow())
    await driver.rest()
    assert (await driver.event_names("parent")).count("ChildWorkflowExecutionCompleted") == 1
    await driver.step(complete_workflow())
    await driver.settle()


async def test_a_child_whose_id_is_taken_does_not_start(driver: Driver) -> None:
    await driver.start("child", task_queue=m.TaskQueue(name="elsewhere"))
    await parent_with_child(driver)
    event = (await driver.history("parent"))[5]
    failed = event.start_child_workflow_execution_failed_event_attributes
    cause = m.StartChildWorkflowExecutionFailedCause
    assert failed.cause == cause.START_CHILD_WORKFLOW_EXECUTION_FAILED_CAUSE_WORKFLOW_ALREADY_EXISTS


@pytest.mark.parametrize(
    ("policy", "status"),
    [
        (POLICY.PARENT_CLOSE_POLICY_TERMINATE, "TERMINATED"),
        (POLICY.PARENT_CLOSE_POLICY_ABANDON, "RUNNING"),
        (POLICY.PARENT_CLOSE_POLICY_REQUEST_CANCEL, "RUNNING"),
    ],
)
async def test_parent_close_policies(driver: Driver, policy: int, status: str) -> None:
    await parent_with_child(driver, policy=policy)
    await driver.step(complete_workflow())
    await driver.rest()
    assert await driver.status("child") == status
    asked = (await driver.event_names("child")).count("WorkflowExecutionCancelRequested")
    assert asked == (policy == POLICY.PARENT_CLOSE_POLICY_REQUEST_CANCEL)
    await driver.settle()


async def test_an_external_signal_arrives(driver: Driver) -> None:
    await driver.start("other", task_queue=m.TaskQueue(name="other-queue"))
    await driver.start("sender")
    await driver.step(signal_external("other"))
    await driver.rest()
    assert "ExternalWorkflowExecutionSignaled" in await driver.event_names("sender")
    signalled = (await driver.history("other"))[-1].workflow_execution_signaled_event_attributes
    assert signalled.signal_name == "hello"
    assert signalled.external_workflow_execution.workflow_id == "sender"
    await driver.settle()


async def test_a_workflow_may_signal_itself(driver: Driver) -> None:
    await driver.start("self")
    await driver.step(signal_external("self"))
    await driver.rest()
    names = await driver.event_names("self")
    assert "ExternalWorkflowExecutionSignaled" in names
    assert "WorkflowExecutionSignaled" in names
    await driver.settle()


async def test_an_external_cancel_arrives(driver: Driver) -> None:
    await driver.start("other", task_queue=m.TaskQueue(name="other-queue"))
    await driver.start("sender")
    await driver.step(cancel_external("other"))
    await driver.rest()
    assert "ExternalWorkflowExecutionCancelRequested" in await driver.event_names("sender")
    assert (await driver.event_names("other"))[-1] == "WorkflowExecutionCancelRequested"


@pytest.mark.parametrize("command", [signal_external, cancel_external])
async def test_messages_to_nobody_fail_with_a_cause(driver: Driver, command: object) -> None:
    assert callable(command)
    await driver.start("sender")
    await driver.step(command("nobody"))
    await driver.rest()
    event = (await driver.history("sender"))[5]
    name = "signal" if command is signal_external else "request_cancel"
    failed = getattr(event, f"{name}_external_workflow_execution_failed_event_attributes")
    assert failed.cause == 1
    await driver.step(complete_workflow())
    await driver.settle()
