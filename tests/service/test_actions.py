"""Acting on a workflow from outside: signal, cancel, terminate, describe; and the namespaces they happen in."""

from __future__ import annotations

import pytest

from perdure.api import StatusCode
from perdure.api import messages as m
from tests.service.support import Driver, complete_workflow, continue_as_new, refusal, schedule_activity, start_timer


async def test_a_signal_calls_a_workflow_task(driver: Driver) -> None:
    await driver.start()
    await driver.step()
    assert not (await driver.poll()).task_token
    await driver.signal()
    assert (await driver.poll()).task_token


async def test_a_repeated_signal_counts_once(driver: Driver) -> None:
    await driver.start()
    for _ in range(3):
        await driver.signal(request_id="same")
    assert (await driver.event_names()).count("WorkflowExecutionSignaled") == 1


async def test_signals_during_a_task_are_buffered_and_follow_its_commands(driver: Driver) -> None:
    await driver.start()
    task = await driver.poll()
    await driver.signal()
    assert (await driver.event_names()) == ["WorkflowExecutionStarted", "WorkflowTaskScheduled"]
    await driver.complete(task, start_timer("t", 5))
    assert (await driver.event_names())[2:] == [
        "WorkflowTaskStarted",
        "WorkflowTaskCompleted",
        "TimerStarted",
        "WorkflowExecutionSignaled",
        "WorkflowTaskScheduled",
    ]


async def test_completing_with_buffered_events_is_refused_and_tried_again(driver: Driver) -> None:
    await driver.start()
    task = await driver.poll()
    await driver.signal()
    error = await refusal(driver.complete(task, complete_workflow()))
    assert error.code is StatusCode.INVALID_ARGUMENT
    assert "UnhandledCommand" in error.message
    task = await driver.poll()
    await driver.complete(task, complete_workflow())
    assert await driver.status() == "COMPLETED"


async def test_cancelling_a_closed_workflow_has_come_about(driver: Driver) -> None:
    await driver.start()
    await driver.step(complete_workflow())
    before = await driver.event_names()
    await driver.cancel()
    assert await driver.event_names() == before


@pytest.mark.parametrize("action", ["signal", "terminate"])
async def test_a_closed_workflow_takes_nothing_in(driver: Driver, action: str) -> None:
    await driver.start()
    await driver.step(complete_workflow())
    error = await refusal(getattr(driver, action)())
    assert error.code is StatusCode.NOT_FOUND
    assert "completed" in error.message


@pytest.mark.parametrize("action", ["signal", "cancel", "terminate", "describe", "history", "query"])
async def test_an_unknown_workflow_is_not_found(driver: Driver, action: str) -> None:
    assert (await refusal(getattr(driver, action)("nobody"))).code is StatusCode.NOT_FOUND
    assert (await refusal(getattr(driver, action)(""))).code is StatusCode.INVALID_ARGUMENT


async def test_a_run_id_of_another_workflow_is_not_found(driver: Driver) -> None:
    await driver.start("one")
    run_id = await driver.start("two")
    assert (await refusal(driver.describe("one", run_id))).code is StatusCode.NOT_FOUND
    assert (await refusal(driver.signal("one", run_id=run_id))).code is StatusCode.NOT_FOUND


async def test_cancel_is_recorded_once(driver: Driver) -> None:
    await driver.start()
    await driver.cancel(request_id="a")
    await driver.cancel(request_id="b")
    assert (await driver.event_names()).count("WorkflowExecutionCancelRequested") == 1


async def test_a_caller_may_insist_on_the_chain_it_started(driver: Driver) -> None:
    first = await driver.start()
    await driver.step(continue_as_new())
    error = await refusal(driver.cancel(first_execution_run_id="another"))
    assert error.code is StatusCode.NOT_FOUND
    await driver.cancel(first_execution_run_id=first)
    await driver.terminate(first_execution_run_id=first)
    assert await driver.status() == "TERMINATED"


async def test_terminate_ends_everything(driver: Driver) -> None:
    await driver.start()
    await driver.step(schedule_activity(), start_timer("t", 5))
    activity = await driver.poll_activity()
    await driver.terminate()
    assert await driver.status() == "TERMINATED"
    assert (await refusal(driver.complete_activity(activity))).code is StatusCode.NOT_FOUND
    await driver.settle()


async def test_describe_shows_what_is_pending(driver: Driver) -> None:
    run_id = await driver.start()
    described = await driver.describe()
    assert described.workflow_execution_info.execution.run_id == run_id
    assert described.HasField("pending_workflow_task")
    await driver.step(schedule_activity("a1"))
    described = await driver.describe()
    (activity,) = described.pending_activities
    assert activity.activity_id == "a1"
    assert not described.HasField("pending_workflow_task")


async def test_continue_as_new_starts_the_next_run_in_the_same_commit(driver: Driver) -> None:
    first = await driver.start()
    await driver.step(continue_as_new())
    assert await driver.status(run_id=first) == "CONTINUED_AS_NEW"
    second = (await driver.describe()).workflow_execution_info.execution.run_id
    assert second != first
    events = await driver.history(run_id=first)
    attributes = events[-1].workflow_execution_continued_as_new_event_attributes
    assert attributes.new_execution_run_id == second
    await driver.step(complete_workflow())
    assert await driver.status() == "COMPLETED"
    await driver.settle()


# -- namespaces ----------------------------------------------------------------------------------------------------


async def test_namespaces_are_registered_described_and_listed(driver: Driver) -> None:
    for name in ("b", "a", "c"):
        request = m.RegisterNamespaceRequest(namespace=name, description=f"about {name}")
        request.workflow_execution_retention_period.seconds = 3600
        await driver.service.register_namespace(request)
    described = await driver.service.describe_namespace(m.DescribeNamespaceRequest(namespace="a"))
    assert described.namespace_info.description == "about a"
    assert described.config.workflow_execution_retention_ttl.seconds == 3600
    assert described.namespace_info.capabilities.worker_poll_complete_on_shutdown
    by_id = await driver.service.describe_namespace(m.DescribeNamespaceRequest(id=described.namespace_info.id))
    assert by_id.namespace_info.name == "a"
    names: list[str] = []
    request_page = m.ListNamespacesRequest(page_size=3)
    while True:
        page = await driver.service.list_namespaces(request_page)
        names += [each.namespace_info.name for each in page.namespaces]
        if not page.next_page_token:
            break
        request_page.next_page_token = page.next_page_token
    assert names == ["a", "b", "c", "default"]


@pytest.mark.parametrize(
    ("name", "code"),
    [("default", StatusCode.ALREADY_EXISTS), ("", StatusCode.INVALID_ARGUMENT), ("a b", StatusCode.INVALID_ARGUMENT)],
)
async def test_namespaces_that_can_not_be_registered(driver: Driver, name: str, code: StatusCode) -> None:
    error = await refusal(driver.service.register_namespace(m.RegisterNamespaceRequest(namespace=name)))
    assert error.code is code


async def test_namespaces_keep_workflows_apart(driver: Driver) -> None:
    await driver.service.register_namespace(m.RegisterNamespaceRequest(namespace="other"))
    mine = await driver.start()
    other = await driver.start(namespace="other")
    assert mine != other
    request = m.DescribeWorkflowExecutionRequest(namespace="other")
    request.execution.workflow_id = "wf"
    request.execution.run_id = mine
    assert (await refusal(driver.service.describe_workflow_execution(request))).code is StatusCode.NOT_FOUND


async def test_capabilities_promise_no_more_than_there_is(driver: Driver) -> None:
    info = await driver.service.get_system_info(m.GetSystemInfoRequest())
    assert info.capabilities.sdk_metadata
    assert info.capabilities.count_group_by_execution_status
    assert info.capabilities.nexus
    assert info.capabilities.eager_workflow_start
    assert info.capabilities.supports_schedules
