"""What workers ask for: every command, every refusal."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from perdure.api import messages as m
from perdure.engine import history as h
from perdure.engine.history.commands import HANDLERS
from tests.history.scenario import (
    LIMITS,
    START_MS,
    Scenario,
    app_failure,
    apply_fields,
    cancel_activity,
    cancel_other,
    cancel_timer,
    command,
    continue_as_new,
    fail,
    finish,
    give_in,
    marker,
    payloads,
    retry,
    schedule,
    signal_other,
    start_child,
    timer,
)

BIG = payloads(b"x" * (LIMITS.blob_bytes + 1))
LONG = "n" * (LIMITS.id_length + 1)


def with_metadata(result: m.Command) -> m.Command:
    result.user_metadata.summary.data = b'"why"'
    return result


def test_timers_start_fire_and_are_cancelled() -> None:
    scenario = Scenario()
    scenario.step(timer("t1", 1.5), timer("t2", 60), timer("t3", 60))
    started = scenario.event(5).timer_started_event_attributes
    assert (started.timer_id, started.workflow_task_completed_event_id) == ("t1", 4)
    assert started.start_to_fire_timeout.ToMilliseconds() == 1500
    assert h.wake_at_ms(scenario.run) == START_MS + 1500
    assert scenario.wait_due().workflow_task
    fired = scenario.find("TimerFired").timer_fired_event_attributes
    assert (fired.timer_id, fired.started_event_id) == ("t1", 5)
    scenario.step(cancel_timer("t2"))
    canceled = scenario.find("TimerCanceled").timer_canceled_event_attributes
    assert (canceled.timer_id, canceled.started_event_id, canceled.identity) == ("t2", 6, "worker")
    assert canceled.workflow_task_completed_event_id == scenario.find("WorkflowTaskCompleted").event_id
    assert scenario.run.live.timer_ids == {"t3": 7}


def test_a_timer_id_may_be_used_again() -> None:
    scenario = Scenario()
    scenario.step(timer("t", 1), cancel_timer("t"), timer("t", 2))
    assert scenario.names(5) == ["TimerStarted", "TimerCanceled", "TimerStarted"]
    assert scenario.wait_due().workflow_task
    assert scenario.now_ms == START_MS + 2000


def test_cancelling_a_timer_whose_firing_is_buffered() -> None:
    scenario = Scenario()
    scenario.step(timer("t", 1), timer("u", 1))
    scenario.signal()
    scenario.start_task()
    scenario.wait_due()
    assert len(scenario.state.buffered) == 2
    scenario.complete(cancel_timer("u"))
    assert scenario.names(11) == ["TimerCanceled", "TimerFired", "WorkflowTaskScheduled"]
    assert scenario.event(11).timer_canceled_event_attributes.started_event_id == 6


def test_a_run_may_close_when_it_cancels_all_that_was_buffered() -> None:
    scenario = Scenario()
    scenario.step(timer("t", 1))
    scenario.signal()
    scenario.start_task()
    scenario.wait_due()
    scenario.complete(cancel_timer("t"), finish())
    assert scenario.names(10) == ["TimerCanceled", "WorkflowCompleted"]


def test_markers_and_command_metadata() -> None:
    scenario = Scenario()
    failing = marker("perdure.step")
    failing.record_marker_command_attributes.failure.message = "no"
    scenario.step(with_metadata(failing), with_metadata(schedule()), with_metadata(timer()))
    attributes = scenario.event(5).marker_recorded_event_attributes
    assert (attributes.marker_name, attributes.failure.message) == ("perdure.step", "no")
    assert attributes.details["data"] == payloads(b"5")
    assert [event.user_metadata.summary.data for event in scenario.events()[4:7]] == [b'"why"'] * 3


def test_an_activity_scheduled_with_metadata_equals_one_without() -> None:
    """Two ways lead to the Scheduled event; they may differ in nothing else."""
    fields = {"retry_policy": retry(maximum_attempts=2), "request_eager_execution": True}
    fields |= {"priority": m.Priority(priority_key=3), "header": m.Header()}
    scenario = Scenario()
    scenario.step(schedule("a", **fields), with_metadata(schedule("a2", **fields)))
    plain, other = (scenario.event(number) for number in (5, 6))
    other.ClearField("user_metadata")
    other.event_id = other.task_id = 5
    other.activity_task_scheduled_event_attributes.activity_id = "a"
    other.activity_task_scheduled_event_attributes.task_queue.name = "orders"
    assert scenario.activity("a").task_queue == scenario.activity("a2").task_queue == "orders"
    plain.activity_task_scheduled_event_attributes.task_queue.name = "orders"
    for timeout in ("schedule_to_close_timeout", "schedule_to_start_timeout", "heartbeat_timeout"):
        getattr(plain.activity_task_scheduled_event_attributes, timeout).SetInParent()
        getattr(other.activity_task_scheduled_event_attributes, timeout).SetInParent()
    assert plain == other


def test_the_encoded_scheduled_event_is_the_built_one() -> None:
    scenario = Scenario()
    rich = schedule("a", retry_policy=retry(maximum_attempts=2), request_eager_execution=True, heartbeat_timeout_s=1)
    apply_fields(rich.schedule_activity_task_command_attributes, {"task_queue": m.TaskQueue(name="q")})
    scenario.step(rich)
    attributes = scenario.event(5).activity_task_scheduled_event_attributes
    assert (attributes.task_queue.name, attributes.retry_policy.maximum_attempts) == ("q", 2)
    assert attributes.heartbeat_timeout.ToSeconds() == 1
    task = m.PollActivityTaskQueueResponse.FromString(scenario.run.live.scheduled[5].task())
    assert task == m.PollActivityTaskQueueResponse.FromString(h.asked_by(attributes).task())
    assert (task.activity_id, task.retry_policy.maximum_attempts) == ("a", 2)


def test_memo_and_search_attributes() -> None:
    memo = m.Memo(fields={"k": payloads(b"1").payloads[0], "gone": payloads(b"2").payloads[0]})
    found = m.SearchAttributes(indexed_fields={"City": payloads(b'"Bern"').payloads[0]})
    scenario = Scenario(memo=memo, search_attributes=found)
    more = m.Memo(fields={"new": payloads(b"3").payloads[0], "gone": m.Payload()})
    city = m.SearchAttributes(indexed_fields={"City": payloads(b'"Basel"').payloads[0]})
    transition = scenario.step(
        command("MODIFY_WORKFLOW_PROPERTIES", "modify_workflow_properties", upserted_memo=more),
        command("UPSERT_WORKFLOW_SEARCH_ATTRIBUTES", "upsert_workflow_search_attributes", search_attributes=city),
    )
    assert transition.visibility
    assert scenario.names(5) == ["WorkflowPropertiesModified", "UpsertWorkflowSearchAttributes"]
    info = h.describe(scenario.run, scenario.now_ms).workflow_execution_info
    assert sorted(info.memo.fields) == ["k", "new"]
    assert info.search_attributes.indexed_fields["City"].data == b'"Basel"'
    removal = m.SearchAttributes(indexed_fields={"City": payloads(b"null").payloads[0]})
    scenario.signal()
    scenario.step(
        command("UPSERT_WORKFLOW_SEARCH_ATTRIBUTES", "upsert_workflow_search_attributes", search_attributes=removal)
    )
    assert not h.describe(scenario.run, scenario.now_ms).workflow_execution_info.search_attributes.indexed_fields


def test_completing_closes_the_run() -> None:
    scenario = Scenario()
    transition = scenario.step(schedule(), timer(), finish(payloads(b"done")))
    assert transition.closed and transition.visibility and not transition.activities
    assert scenario.names(5) == ["ActivityTaskScheduled", "TimerStarted", "WorkflowCompleted"]
    completed = scenario.event(7).workflow_execution_completed_event_attributes
    assert (completed.result, completed.workflow_task_completed_event_id) == (payloads(b"done"), 4)
    assert scenario.state.status == m.WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_COMPLETED
    assert scenario.state.close_event_id == 7
    assert h.wake_at_ms(scenario.run) == scenario.state.retain_until_ms == START_MS + 86_400_000


def test_commands_after_the_closing_one_are_ignored() -> None:
    scenario = Scenario()
    scenario.step(finish(), timer(), fail())
    assert scenario.names(5) == ["WorkflowCompleted"]


def test_failing_and_giving_in() -> None:
    scenario = Scenario()
    scenario.step(fail(app_failure("it failed")))
    failed = scenario.event(5).workflow_execution_failed_event_attributes
    assert failed.failure.message == "it failed"
    assert failed.retry_state == m.RetryState.RETRY_STATE_RETRY_POLICY_NOT_SET
    assert (failed.workflow_task_completed_event_id, failed.new_execution_run_id) == (4, "")
    scenario = Scenario()
    scenario.cancel()
    scenario.step(give_in(payloads(b"why")))
    canceled = scenario.find("WorkflowCanceled").workflow_execution_canceled_event_attributes
    assert canceled.details == payloads(b"why")
    assert scenario.state.status == m.WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_CANCELED


@pytest.mark.parametrize(
    ("build", "cause"),
    [
        (lambda: schedule(""), "BAD_SCHEDULE_ACTIVITY_ATTRIBUTES"),
        (lambda: schedule(LONG), "BAD_SCHEDULE_ACTIVITY_ATTRIBUTES"),
        (lambda: schedule(task_queue=m.TaskQueue(name=LONG)), "BAD_SCHEDULE_ACTIVITY_ATTRIBUTES"),
        (lambda: schedule(start_to_close_timeout_s=None), "BAD_SCHEDULE_ACTIVITY_ATTRIBUTES"),
        (lambda: schedule(start_to_close_timeout_s=-1), "BAD_SCHEDULE_ACTIVITY_ATTRIBUTES"),
        (lambda: schedule(input=BIG), "BAD_SCHEDULE_ACTIVITY_ATTRIBUTES"),
        (lambda: schedule(retry_policy=retry(backoff_coefficient=0.5)), "BAD_SCHEDULE_ACTIVITY_ATTRIBUTES"),
        (lambda: schedule(retry_policy=retry(maximum_attempts=-1)), "BAD_SCHEDULE_ACTIVITY_ATTRIBUTES"),
        (lambda: schedule("pending"), "SCHEDULE_ACTIVITY_DUPLICATE_ID"),
        (lambda: cancel_activity(99), "BAD_REQUEST_CANCEL_ACTIVITY_ATTRIBUTES"),
        (lambda: cancel_activity(6), "BAD_REQUEST_CANCEL_ACTIVITY_ATTRIBUTES"),
        (lambda: timer(""), "BAD_START_TIMER_ATTRIBUTES"),
        (lambda: timer("new", 0), "BAD_START_TIMER_ATTRIBUTES"),
        (lambda: timer("new", -1), "BAD_START_TIMER_ATTRIBUTES"),
        (lambda: timer("running"), "START_TIMER_DUPLICATE_ID"),
        (lambda: cancel_timer("unknown"), "BAD_CANCEL_TIMER_ATTRIBUTES"),
        (lambda: marker(""), "BAD_RECORD_MARKER_ATTRIBUTES"),
        (lambda: finish(BIG), "BAD_COMPLETE_WORKFLOW_EXECUTION_ATTRIBUTES"),
        (lambda: give_in(BIG), "BAD_CANCEL_WORKFLOW_EXECUTION_ATTRIBUTES"),
        (
            lambda: command("FAIL_WORKFLOW_EXECUTION", "fail_workflow_execution"),
            "BAD_FAIL_WORKFLOW_EXECUTION_ATTRIBUTES",
        ),
        (lambda: continue_as_new(input=BIG), "BAD_CONTINUE_AS_NEW_ATTRIBUTES"),
        (lambda: continue_as_new(workflow_run_timeout_s=-1), "BAD_CONTINUE_AS_NEW_ATTRIBUTES"),
        (lambda: continue_as_new(cron_schedule="* * * * 9"), "BAD_CONTINUE_AS_NEW_ATTRIBUTES"),
        (lambda: continue_as_new(retry_policy=retry(maximum_attempts=-1)), "BAD_CONTINUE_AS_NEW_ATTRIBUTES"),
        (lambda: start_child(""), "BAD_START_CHILD_EXECUTION_ATTRIBUTES"),
        (lambda: start_child(namespace="elsewhere"), "BAD_START_CHILD_EXECUTION_ATTRIBUTES"),
        (lambda: start_child(input=BIG), "BAD_START_CHILD_EXECUTION_ATTRIBUTES"),
        (lambda: start_child(cron_schedule="@often"), "BAD_START_CHILD_EXECUTION_ATTRIBUTES"),
        (lambda: signal_other(signal_name=""), "BAD_SIGNAL_WORKFLOW_EXECUTION_ATTRIBUTES"),
        (lambda: signal_other(namespace="elsewhere"), "BAD_SIGNAL_WORKFLOW_EXECUTION_ATTRIBUTES"),
        (lambda: signal_other(execution=m.WorkflowExecution()), "BAD_SIGNAL_WORKFLOW_EXECUTION_ATTRIBUTES"),
        (lambda: signal_other(input=BIG), "BAD_SIGNAL_INPUT_SIZE"),
        (lambda: cancel_other(workflow_id=""), "BAD_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_ATTRIBUTES"),
        (
            lambda: command("UPSERT_WORKFLOW_SEARCH_ATTRIBUTES", "upsert_workflow_search_attributes"),
            "BAD_SEARCH_ATTRIBUTES",
        ),
        (
            lambda: command("MODIFY_WORKFLOW_PROPERTIES", "modify_workflow_properties"),
            "BAD_MODIFY_WORKFLOW_PROPERTIES_ATTRIBUTES",
        ),
        (
            lambda: command("PROTOCOL_MESSAGE", "protocol_message", message_id="u"),
            "BAD_UPDATE_WORKFLOW_EXECUTION_MESSAGE",
        ),
        (lambda: m.Command(command_type=m.CommandType.ValueType(999)), "FEATURE_DISABLED"),
    ],
)
def test_a_bad_command_fails_the_task_and_does_nothing(build: Callable[[], m.Command], cause: str) -> None:
    scenario = Scenario()
    scenario.step(schedule("pending"), timer("running"))
    scenario.signal()
    items = dict(scenario.state.items)
    message, found = scenario.refuse_commands(timer("first"), schedule("second"), build())
    assert found == cause
    assert message.startswith(cause.title().replace("_", ""))
    assert scenario.state.items == items
    assert not scenario.state.outbox
    assert scenario.names(9) == ["WorkflowTaskStarted", "WorkflowTaskFailed"]
    scenario.step(finish())


def test_every_command_type_has_a_handler_or_is_refused() -> None:
    known = {value.number for value in m.CommandType.DESCRIPTOR.values}
    assert set(HANDLERS) <= known
    refused = {m.CommandType.Name(number) for number in known - set(HANDLERS)}
    assert refused == {"COMMAND_TYPE_UNSPECIFIED"}


def test_ids_may_not_repeat_within_one_completion() -> None:
    scenario = Scenario()
    assert scenario.refuse_commands(schedule("a"), schedule("a"))[1] == "SCHEDULE_ACTIVITY_DUPLICATE_ID"
    scenario = Scenario()
    assert scenario.refuse_commands(timer("t"), timer("t"))[1] == "START_TIMER_DUPLICATE_ID"
    scenario = Scenario()
    assert scenario.refuse_commands(timer("t"), cancel_timer("t"), cancel_timer("t"))[1] == (
        "BAD_CANCEL_TIMER_ATTRIBUTES"
    )
    scenario = Scenario()
    scenario.step(schedule("a"))
    scenario.signal()
    assert scenario.refuse_commands(cancel_activity(5), cancel_activity(5))[1] == (
        "BAD_REQUEST_CANCEL_ACTIVITY_ATTRIBUTES"
    )


def test_an_activity_id_is_free_again_once_cancelled() -> None:
    scenario = Scenario()
    scenario.step(schedule("a"))
    scenario.signal()
    scenario.step(cancel_activity(5), schedule("a"))
    assert scenario.names(10) == [
        "ActivityTaskCancelRequested",
        "ActivityTaskScheduled",
        "ActivityTaskCanceled",
        "WorkflowTaskScheduled",
    ]
    assert scenario.activity("a").event_id == 11


@pytest.mark.parametrize(
    ("limits", "build", "cause"),
    [
        (h.Limits(pending_activities=3), lambda n: schedule(f"a{n}"), "PENDING_ACTIVITIES_LIMIT_EXCEEDED"),
        (h.Limits(pending_children=3), lambda n: start_child(f"c{n}"), "PENDING_CHILD_WORKFLOWS_LIMIT_EXCEEDED"),
        (h.Limits(pending_signals=3), lambda n: signal_other(), "PENDING_SIGNALS_LIMIT_EXCEEDED"),
        (h.Limits(pending_cancels=3), lambda n: cancel_other(), "PENDING_REQUEST_CANCEL_LIMIT_EXCEEDED"),
    ],
)
def test_pending_limits(limits: h.Limits, build: Callable[[int], m.Command], cause: str) -> None:
    scenario = Scenario(limits=limits)
    scenario.step(build(1), build(2))
    scenario.signal()
    scenario.step(build(3))
    scenario.signal()
    assert scenario.refuse_commands(build(4))[1] == cause
    scenario = Scenario(limits=limits)
    assert scenario.refuse_commands(*(build(number) for number in range(4)))[1] == cause


def test_continue_as_new_carries_over_what_is_left_out() -> None:
    memo = m.Memo(fields={"k": payloads(b"1").payloads[0]})
    scenario = Scenario(
        memo=memo,
        retry_policy=retry(maximum_attempts=5),
        workflow_execution_timeout_s=1000,
        workflow_run_timeout_s=100,
        workflow_task_timeout_s=7,
    )
    transition = scenario.step(continue_as_new(input=payloads(b"next")))
    event = scenario.event(5).workflow_execution_continued_as_new_event_attributes
    following = transition.next_run
    assert following is not None
    assert event.new_execution_run_id == following.run_id == scenario.state.new_run_id == "new-1"
    assert event.workflow_task_completed_event_id == 4
    assert (event.workflow_type.name, event.task_queue.name, event.input) == ("order", "orders", payloads(b"next"))
    assert following.request.memo == memo
    assert following.request.retry_policy.maximum_attempts == 5
    assert following.request.workflow_run_timeout.ToSeconds() == 100
    assert following.request.workflow_task_timeout.ToSeconds() == 7
    scenario.pass_time(50)
    new = Scenario(request=following.request, lineage=following.lineage)
    started = new.event(1).workflow_execution_started_event_attributes
    assert started.continued_execution_run_id == "run-1"
    assert started.first_execution_run_id == "run-1"
    assert started.initiator == m.ContinueAsNewInitiator.CONTINUE_AS_NEW_INITIATOR_WORKFLOW
    assert started.attempt == 1
    assert started.workflow_execution_expiration_time.ToMilliseconds() == START_MS + 1_000_000


def test_continue_as_new_may_change_and_delay() -> None:
    scenario = Scenario()
    transition = scenario.step(
        continue_as_new(
            workflow_type=m.WorkflowType(name="other"),
            task_queue=m.TaskQueue(name="elsewhere"),
            backoff_start_interval_s=30,
            memo=m.Memo(),
        )
    )
    following = transition.next_run
    assert following is not None
    new = Scenario(request=following.request, lineage=following.lineage)
    assert new.names() == ["WorkflowStarted"]
    new.signal()
    assert new.names() == ["WorkflowStarted", "WorkflowSignaled"]
    assert new.wait_due().workflow_task
    assert new.now_ms == START_MS + 30_000
    assert (new.state.workflow_type, new.state.task_queue) == ("other", "elsewhere")
