"""What describe tells of a run: its configuration, what is pending, who asked for it, which worker had it last."""

from __future__ import annotations

import pytest

from perdure.api import StatusCode
from perdure.api import messages as m
from tests.service.support import (
    Driver,
    cancel_activity,
    complete_workflow,
    names,
    payloads,
    refusal,
    schedule_activity,
    start_child,
    text_of,
)

ActivityState = m.PendingActivityState
TaskState = m.PendingWorkflowTaskState
USE_EXISTING = m.WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING


def link(workflow_id: str) -> m.Link:
    found = m.Link()
    found.workflow_event.namespace = "default"
    found.workflow_event.workflow_id = workflow_id
    return found


async def test_configuration_and_expiry(driver: Driver) -> None:
    request = driver.start_request()
    request.workflow_execution_timeout.seconds = 3600
    request.workflow_run_timeout.seconds = 600
    request.workflow_task_timeout.seconds = 7
    request.user_metadata.summary.data = b'"words"'
    await driver.service.start_workflow_execution(request)
    now_ms = driver.clock.now_ms()
    described = await driver.describe()
    config = described.execution_config
    assert (config.task_queue.name, config.default_workflow_task_timeout.seconds) == ("queue", 7)
    assert (config.workflow_execution_timeout.seconds, config.workflow_run_timeout.seconds) == (3600, 600)
    assert config.user_metadata.summary.data == b'"words"'
    extended = described.workflow_extended_info
    assert extended.execution_expiration_time.ToMilliseconds() == now_ms + 3_600_000
    assert extended.run_expiration_time.ToMilliseconds() == now_ms + 600_000
    assert extended.original_start_time.ToMilliseconds() == now_ms
    assert extended.request_id_infos["start-1"].event_id == 1
    assert not extended.cancel_requested
    await driver.cancel()
    assert (await driver.describe()).workflow_extended_info.cancel_requested


async def test_the_pending_workflow_task(driver: Driver) -> None:
    await driver.start()
    scheduled_ms = driver.clock.now_ms()
    driver.clock.advance_by(1000)
    pending = (await driver.describe()).pending_workflow_task
    assert (pending.state, pending.attempt) == (TaskState.PENDING_WORKFLOW_TASK_STATE_SCHEDULED, 1)
    assert not pending.HasField("started_time")
    task = await driver.poll()
    pending = (await driver.describe()).pending_workflow_task
    assert pending.state == TaskState.PENDING_WORKFLOW_TASK_STATE_STARTED
    assert pending.scheduled_time.ToMilliseconds() == pending.original_scheduled_time.ToMilliseconds() == scheduled_ms
    assert pending.started_time.ToMilliseconds() == scheduled_ms + 1000
    await driver.fail_task(task)
    assert (await driver.describe()).pending_workflow_task.attempt == 2
    await driver.step(schedule_activity())
    assert not (await driver.describe()).HasField("pending_workflow_task")


async def test_a_pending_activity_through_its_life(driver: Driver) -> None:
    await driver.start()
    await driver.step(schedule_activity(attempts=3, heartbeat_s=30))
    scheduled_ms = driver.clock.now_ms()
    (pending,) = (await driver.describe()).pending_activities
    assert (pending.activity_id, pending.activity_type.name, pending.maximum_attempts) == ("a", "work", 3)
    assert (pending.state, pending.attempt) == (ActivityState.PENDING_ACTIVITY_STATE_SCHEDULED, 1)
    assert pending.scheduled_time.ToMilliseconds() == scheduled_ms
    assert not pending.HasField("last_started_time")
    assert pending.activity_options.heartbeat_timeout.seconds == 30
    assert pending.activity_options.retry_policy.maximum_attempts == 3

    driver.clock.advance_by(1000)
    task = await driver.poll_activity()
    beat = m.RecordActivityTaskHeartbeatRequest(
        namespace="default", task_token=task.task_token, details=payloads("half")
    )
    await driver.service.record_activity_task_heartbeat(beat)
    (pending,) = (await driver.describe()).pending_activities
    assert (pending.state, pending.last_worker_identity) == (ActivityState.PENDING_ACTIVITY_STATE_STARTED, "worker")
    assert (
        pending.last_started_time.ToMilliseconds()
        == pending.last_heartbeat_time.ToMilliseconds()
        == (scheduled_ms + 1000)
    )
    assert text_of(pending.heartbeat_details) == "half"

    driver.clock.advance_by(1000)
    await driver.fail_activity(task, "first")
    (pending,) = (await driver.describe()).pending_activities
    assert (pending.state, pending.attempt) == (ActivityState.PENDING_ACTIVITY_STATE_SCHEDULED, 2)
    assert pending.last_failure.message == "first"
    assert pending.last_attempt_complete_time.ToMilliseconds() == scheduled_ms + 2000
    assert pending.next_attempt_schedule_time.ToMilliseconds() == scheduled_ms + 3000
    assert pending.current_retry_interval.ToMilliseconds() == 1000
    assert pending.last_worker_identity == "worker"

    driver.clock.advance_by(1000)
    await driver.rest()
    await driver.poll_activity()
    await driver.signal()
    await driver.step(cancel_activity(5))
    (pending,) = (await driver.describe()).pending_activities
    assert pending.state == ActivityState.PENDING_ACTIVITY_STATE_CANCEL_REQUESTED


async def test_pending_children(driver: Driver) -> None:
    await driver.start()
    await driver.step(start_child("child", policy=2))
    (pending,) = (await driver.describe()).pending_children
    assert (pending.workflow_id, pending.workflow_type_name, pending.initiated_id) == ("child", "child", 5)
    assert pending.parent_close_policy == m.ParentClosePolicy.PARENT_CLOSE_POLICY_ABANDON
    await driver.rest()
    (pending,) = (await driver.describe()).pending_children
    assert pending.run_id == (await driver.describe("child")).workflow_execution_info.execution.run_id
    info = (await driver.describe("child")).workflow_execution_info
    assert info.parent_execution.workflow_id == info.root_execution.workflow_id == "wf"


async def test_the_version_of_the_worker(driver: Driver) -> None:
    await driver.start()
    request = m.RespondWorkflowTaskCompletedRequest(
        namespace="default",
        task_token=(await driver.poll()).task_token,
        commands=[schedule_activity()],
        versioning_behavior=m.VersioningBehavior.VERSIONING_BEHAVIOR_PINNED,
    )
    request.worker_version_stamp.build_id = "abc"
    request.deployment_options.deployment_name = "shop"
    request.deployment_options.build_id = "1.0"
    request.sdk_metadata.sdk_name = "an-sdk"
    request.metering_metadata.nonfirst_local_activity_execution_attempts = 3
    await driver.service.respond_workflow_task_completed(request)
    completed = (await driver.history())[3].workflow_task_completed_event_attributes
    assert completed.sdk_metadata.sdk_name == "an-sdk"
    assert completed.worker_version.build_id == "abc"
    assert completed.metering_metadata.nonfirst_local_activity_execution_attempts == 3
    info = (await driver.describe()).workflow_execution_info
    assert info.most_recent_worker_version_stamp.build_id == "abc"
    assert info.versioning_info.behavior == m.VersioningBehavior.VERSIONING_BEHAVIOR_PINNED
    assert info.versioning_info.deployment_version.build_id == "1.0"
    assert info.versioning_info.version == "shop.1.0"
    await driver.settle()


async def test_a_versioning_override_is_kept_and_shown(driver: Driver) -> None:
    override = m.VersioningOverride(auto_upgrade=True)
    await driver.start(versioning_override=override)
    assert (await driver.describe()).workflow_execution_info.versioning_info.versioning_override == override
    (started, _) = await driver.history()
    assert started.workflow_execution_started_event_attributes.versioning_override == override
    bad = m.VersioningOverride()
    bad.pinned.behavior = m.VersioningOverride.PinnedOverrideBehavior.PINNED_OVERRIDE_BEHAVIOR_PINNED
    assert (await refusal(driver.start("other", versioning_override=bad))).code is StatusCode.INVALID_ARGUMENT


async def test_callbacks_to_elsewhere_are_refused(driver: Driver) -> None:
    callback = m.Callback()
    callback.nexus.url = "http://localhost/"
    error = await refusal(driver.start(completion_callbacks=[callback]))
    assert error.code is StatusCode.INVALID_ARGUMENT
    await driver.start()
    options = m.OnConflictOptions(attach_request_id=True, attach_completion_callbacks=True)
    again = driver.start_request(
        workflow_id_conflict_policy=USE_EXISTING, on_conflict_options=options, completion_callbacks=[callback]
    )
    error = await refusal(driver.service.start_workflow_execution(again))
    assert error.code is StatusCode.INVALID_ARGUMENT
    assert len(await driver.history()) == 2


async def test_links_are_on_the_events_they_belong_to(driver: Driver) -> None:
    await driver.start(links=[link("a")])
    signal = m.SignalWorkflowExecutionRequest(namespace="default", signal_name="go", links=[link("b")])
    signal.workflow_execution.workflow_id = "wf"
    await driver.service.signal_workflow_execution(signal)
    await driver.cancel(links=[link("c")])
    await driver.terminate(links=[link("d")])
    found = {
        event.links[0].workflow_event.workflow_id: names([event])[0] for event in await driver.history() if event.links
    }
    assert found == {
        "a": "WorkflowExecutionStarted",
        "b": "WorkflowExecutionSignaled",
        "c": "WorkflowExecutionCancelRequested",
        "d": "WorkflowExecutionTerminated",
    }
    both = m.SignalWithStartWorkflowExecutionRequest(
        namespace="default", workflow_id="both", signal_name="go", links=[link("e")]
    )
    both.workflow_type.name = "flow"
    both.task_queue.name = "queue"
    await driver.service.signal_with_start_workflow_execution(both)
    assert [len(event.links) for event in await driver.history("both")] == [1, 1, 0]


@pytest.mark.parametrize("buffered", [False, True])
async def test_a_start_that_finds_a_run_may_leave_its_mark(driver: Driver, buffered: bool) -> None:
    await driver.start()
    task = await driver.poll() if buffered else None
    request = driver.start_request(
        request_id="later",
        workflow_id_conflict_policy=USE_EXISTING,
        on_conflict_options=m.OnConflictOptions(attach_request_id=True, attach_links=True),
        links=[link("other")],
    )
    for _ in range(2):
        answer = await driver.service.start_workflow_execution(request)
        assert not answer.started
    info = (await driver.describe()).workflow_extended_info.request_id_infos["later"]
    assert info.event_type == m.EventType.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED
    assert info.buffered == buffered
    if task is not None:
        await driver.complete(task, schedule_activity())
    info = (await driver.describe()).workflow_extended_info.request_id_infos["later"]
    (event,) = [event for event in await driver.history() if event.links]
    assert (info.event_id, info.buffered) == (event.event_id, False)
    assert event.workflow_execution_options_updated_event_attributes.attached_request_id == "later"
    assert event.worker_may_ignore
    await driver.step(complete_workflow())
    assert not (await driver.service.start_workflow_execution(request)).started, "it has been served"
    await driver.settle()


async def test_a_start_that_finds_a_run_leaves_nothing_unless_it_asks(driver: Driver) -> None:
    await driver.start()
    for options in [None, m.OnConflictOptions(), m.OnConflictOptions(attach_links=True)]:
        request = driver.start_request(workflow_id_conflict_policy=USE_EXISTING, on_conflict_options=options)
        await driver.service.start_workflow_execution(request)
    assert len(await driver.history()) == 2
