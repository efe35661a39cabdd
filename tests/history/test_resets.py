"""What a run is that takes up a workflow at an earlier point, in every case the fold of its history."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.engine import history as h
from tests.history.scenario import (
    LIMITS,
    START_MS,
    Scenario,
    cancel_other,
    finish,
    marker,
    name_of,
    payloads,
    retry,
    schedule,
    signal_other,
    start_child,
    timer,
)
from tests.history.test_updates import acceptance, admit, fates, response, say

EXCLUDE = m.ResetReapplyExcludeType
REAPPLY = m.ResetReapplyType
LATER_MS = 1_000_000


class Reset(Scenario):
    """The run that takes up another scenario's workflow."""

    def __init__(
        self,
        base: Scenario,
        finish_event_id: int,
        *,
        following: Scenario | None = None,
        ends: dict[int, h.ChildEnd] | None = None,
        run_id: str = "run-2",
        **fields: Any,
    ) -> None:
        self.limits = LIMITS
        self.now_ms = base.now_ms + LATER_MS
        self.frames = []
        self._numbers = count(1)
        request = m.ResetWorkflowExecutionRequest(
            reason="why", request_id="reset-1", workflow_task_finish_event_id=finish_event_id, **fields
        )
        h.check_reset(request, LIMITS)
        takeover = h.Takeover(finish_event_id)
        takeover.feed(base.frames)
        if following is not None:
            takeover.feed_following(following.frames)
        self.takeover = takeover
        transition = h.reset_run(
            takeover,
            request,
            base=base.state,
            current=(following or base).state,
            ends=ends or {},
            run_key=7,
            run_id=run_id,
            limits=LIMITS,
            now_ms=self.now_ms,
        )
        self.run = transition.run
        self.last = self.take(transition)


def base_with(*commands: m.Command, **fields: Any) -> Scenario:
    """A run after one workflow task (events 1 to 4, and the commands')."""
    scenario = Scenario(**fields)
    scenario.step(*commands)
    return scenario


def test_it_takes_up_the_history_and_fails_the_task() -> None:
    base = base_with(marker(), timer("t", 60))
    base.pass_time(60_000)
    base.wake()
    base.step(finish())
    names = base.names()
    assert names[6:9] == ["TimerFired", "WorkflowTaskScheduled", "WorkflowTaskStarted"]
    reset = Reset(base, 10)
    assert reset.names() == [*names[:9], "WorkflowTaskFailed", "WorkflowTaskScheduled"]
    assert [event.SerializeToString() for event in reset.events()[:9]] == [
        event.SerializeToString() for event in base.events()[:9]
    ]
    failed = reset.event(10).workflow_task_failed_event_attributes
    assert (failed.scheduled_event_id, failed.started_event_id) == (8, 9)
    assert failed.cause == m.WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW
    assert (failed.base_run_id, failed.new_run_id, failed.fork_event_version) == ("run-1", "run-2", 0)
    assert failed.failure.message == "why" and failed.failure.HasField("reset_workflow_failure_info")
    assert reset.event(11).workflow_task_scheduled_event_attributes.attempt == 1
    assert reset.last.workflow_task and reset.last.visibility
    state = reset.state
    assert (state.run_id, state.original_run_id, state.first_run_id) == ("run-2", "run-1", "run-1")
    assert state.start_request_id == "reset-1"
    assert (state.start_ms, state.original_start_ms) == (reset.now_ms, START_MS)
    assert state.bases == [(10, "run-1")]
    reset.reload()
    reset.step(finish())
    assert not reset.run.is_open


def test_a_task_that_was_only_scheduled_is_started_to_be_failed() -> None:
    base = base_with()
    base.signal()
    base.signal("second")
    base.step(finish())
    assert base.names(5) == [
        "WorkflowSignaled",
        "WorkflowTaskScheduled",
        "WorkflowSignaled",
        "WorkflowTaskStarted",
        "WorkflowTaskCompleted",
        "WorkflowCompleted",
    ]
    reset = Reset(base, 8)
    assert reset.names(7) == ["WorkflowSignaled", "WorkflowTaskStarted", "WorkflowTaskFailed", "WorkflowTaskScheduled"]
    assert reset.event(8).workflow_task_started_event_attributes.scheduled_event_id == 6
    between = Reset(base, 7)
    assert between.names(7) == [
        "WorkflowTaskStarted",
        "WorkflowTaskFailed",
        "WorkflowSignaled",
        "WorkflowTaskScheduled",
    ]


@pytest.mark.parametrize("finish_event_id", [2, 5, 6])
def test_a_point_outside_a_task_is_refused(finish_event_id: int) -> None:
    base = base_with(timer())
    base.signal()
    assert base.names() == [
        "WorkflowStarted",
        "WorkflowTaskScheduled",
        "WorkflowTaskStarted",
        "WorkflowTaskCompleted",
        "TimerStarted",
        "WorkflowSignaled",
        "WorkflowTaskScheduled",
    ]
    with pytest.raises(RpcError) as refused:
        Reset(base, finish_event_id)
    assert refused.value.code is StatusCode.INVALID_ARGUMENT


def test_a_task_that_failed_or_timed_out_may_be_taken_up_and_nothing_after_it() -> None:
    base = base_with()
    base.signal()
    base.start_task()
    base.fail_task()
    base.start_task()
    base.fail_task()
    assert base.names(6) == ["WorkflowTaskScheduled", "WorkflowTaskStarted", "WorkflowTaskFailed"]
    reset = Reset(base, 8)
    assert reset.names(6) == [
        "WorkflowTaskScheduled",
        "WorkflowTaskStarted",
        "WorkflowTaskFailed",
        "WorkflowTaskScheduled",
    ]
    base.signal("late")
    with pytest.raises(RpcError):
        Reset(base, 9)


def test_signals_are_written_again_in_order() -> None:
    base = base_with()
    base.signal("one", "s-1", external=("other", "other-run"))
    base.step()
    base.signal("two", "s-2")
    reset = Reset(base, 4)
    assert reset.names(4) == ["WorkflowTaskFailed", "WorkflowSignaled", "WorkflowSignaled", "WorkflowTaskScheduled"]
    again = reset.event(5).workflow_execution_signaled_event_attributes
    assert (again.signal_name, again.input, again.request_id) == ("one", payloads(b"2"), "s-1")
    assert again.external_workflow_execution.run_id == "other-run"
    assert reset.event(5).event_time.ToMilliseconds() == reset.now_ms
    assert reset.state.signal_count == 2
    assert not reset.signal("two", "s-2").changed
    assert reset.signal("three", "s-3").changed


@pytest.mark.parametrize(
    ("fields", "again"),
    [
        ({}, True),
        ({"reset_reapply_type": REAPPLY.RESET_REAPPLY_TYPE_ALL_ELIGIBLE}, True),
        ({"reset_reapply_type": REAPPLY.RESET_REAPPLY_TYPE_SIGNAL}, True),
        ({"reset_reapply_type": REAPPLY.RESET_REAPPLY_TYPE_NONE}, False),
        ({"reset_reapply_exclude_types": [EXCLUDE.RESET_REAPPLY_EXCLUDE_TYPE_SIGNAL]}, False),
        ({"reset_reapply_exclude_types": [EXCLUDE.RESET_REAPPLY_EXCLUDE_TYPE_UPDATE]}, True),
    ],
)
def test_signals_may_be_left_behind(fields: dict[str, Any], again: bool) -> None:
    base = base_with()
    base.signal("one", "s-1")
    reset = Reset(base, 4, **fields)
    assert ("WorkflowSignaled" in reset.names()) is again
    assert not reset.signal("one", "s-1").changed, "it was served, though its event is left behind"


def test_cancel_requests_are_left_behind() -> None:
    base = base_with()
    base.cancel()
    reset = Reset(base, 4)
    assert not reset.state.cancel_requested
    assert reset.cancel().changed


def with_update(completed: bool = True) -> Scenario:
    """A run that has accepted an update in its second task, which begins with event 5."""
    base = base_with()
    admit(base, "u-1")
    base.start_task()
    say(base, acceptance("u-1"), *([response("u-1")] if completed else []))
    return base


@pytest.mark.parametrize("completed", [True, False])
def test_updates_are_admitted_again(completed: bool) -> None:
    base = with_update(completed)
    reset = Reset(base, 4)
    assert reset.names(4) == ["WorkflowTaskFailed", "WorkflowUpdateAdmitted", "WorkflowTaskScheduled"]
    attributes = reset.event(5).workflow_execution_update_admitted_event_attributes
    assert attributes.request.meta.update_id == "u-1" and attributes.request.input.args == payloads(b"7")
    assert attributes.origin == m.UpdateAdmittedEventOrigin.UPDATE_ADMITTED_EVENT_ORIGIN_REAPPLY
    reset.start_task()
    assert h.update_messages(reset.run, sticky=False) == [], "its worker finds the request in the history"
    say(reset, acceptance("u-1"), response("u-1"))
    assert reset.names(7)[1:] == ["WorkflowTaskCompleted", "WorkflowUpdateAccepted", "WorkflowUpdateCompleted"]
    assert not reset.event(9).workflow_execution_update_accepted_event_attributes.HasField("accepted_request")
    again = Reset(reset, 8, run_id="run-3")
    assert again.names(5) == [*reset.names(5)[:3], "WorkflowTaskFailed", "WorkflowTaskScheduled"], "admitted still"
    assert Reset(reset, 4, run_id="run-3").names(4) == reset.names(4)[:3]


@pytest.mark.parametrize(
    "fields",
    [
        {"reset_reapply_type": REAPPLY.RESET_REAPPLY_TYPE_NONE},
        {"reset_reapply_type": REAPPLY.RESET_REAPPLY_TYPE_SIGNAL},
        {"reset_reapply_exclude_types": [EXCLUDE.RESET_REAPPLY_EXCLUDE_TYPE_UPDATE]},
    ],
)
def test_updates_may_be_left_behind(fields: dict[str, Any]) -> None:
    reset = Reset(with_update(), 4, **fields)
    assert "WorkflowUpdateAdmitted" not in reset.names()
    assert h.update_stage(reset.run, "u-1") is h.UpdateStage.NONE


def test_updates_from_before_the_point_are_known() -> None:
    base = with_update()
    base.signal()
    base.step()
    reset = Reset(base, base.names().index("WorkflowTaskCompleted", 9) + 1)
    assert h.update_stage(reset.run, "u-1") is h.UpdateStage.COMPLETED
    assert "WorkflowUpdateAdmitted" not in reset.names()


def test_updates_nobody_has_accepted_go_on_with_the_new_run() -> None:
    base = base_with()
    admit(base, "u-1")
    transition = h.terminate_for_reset(base.run, reason="", identity="", spared=set(), now_ms=base.now_ms)
    assert fates(transition) == [("u-1", "MOVED")]


def test_changed_options_are_written_again() -> None:
    base = base_with(priority=m.Priority(priority_key=2))
    asked = m.WorkflowExecutionOptions(priority=m.Priority(priority_key=4))
    base.take(h.update_options(base.run, asked, ["priority"], identity="", now_ms=base.now_ms))
    reset = Reset(base, 4)
    assert reset.names(5) == ["WorkflowOptionsUpdated", "WorkflowTaskScheduled"]
    assert h.options_of(reset.state).priority.priority_key == 4


def test_runs_that_continued_it_hand_on_what_came_to_them() -> None:
    base = base_with()
    base.signal("one")
    following = Scenario()
    following.signal("two")
    following.step()
    following.signal("three")
    reset = Reset(base, 4, following=following)
    signals = [event for event in reset.events() if name_of(event) == "WorkflowSignaled"]
    found = [event.workflow_execution_signaled_event_attributes.signal_name for event in signals]
    assert found == ["one", "two", "three"]


def test_pending_activities_begin_anew() -> None:
    base = base_with(schedule("a", retry_policy=retry(), schedule_to_close_timeout_s=60))
    base.signal()
    base.start_activity()
    base.fail_activity()
    base.step()
    reset = Reset(base, 8)
    item = reset.activity()
    assert (item.attempt, item.scheduled_at_ms, item.last_failure) == (1, reset.now_ms, b"")
    assert h.hot(reset.run) and h.dispatchable_activities(reset.run, reset.now_ms) == [5]
    assert h.next_deadline_ms(reset.run) == reset.now_ms + 60_000
    reset.start_activity()
    reset.complete_activity(result=payloads(b"1"))
    assert reset.names()[-2:] == ["ActivityTaskStarted", "ActivityTaskCompleted"]


def test_completed_activities_stay_completed() -> None:
    base = base_with(schedule())
    base.start_activity()
    base.complete_activity()
    base.step(finish())
    reset = Reset(base, 10)
    assert reset.names(5)[:3] == ["ActivityTaskScheduled", "ActivityTaskStarted", "ActivityTaskCompleted"]
    assert reset.state.items == {}


def test_timers_fire_when_they_were_to_fire() -> None:
    base = base_with(timer("late", 5000), timer("past", 60))
    base.signal()
    base.step()
    reset = Reset(base, 9)
    reset.step()
    assert h.next_deadline_ms(reset.run) == START_MS + 60_000
    reset.wake()
    assert reset.find("TimerFired").timer_fired_event_attributes.timer_id == "past"
    assert h.next_deadline_ms(reset.run) == START_MS + 5_000_000


def test_timeouts_of_the_workflow_begin_anew() -> None:
    base = base_with(workflow_run_timeout_s=100, workflow_execution_timeout_s=200)
    base.signal()
    base.pass_time(100_000)
    base.wake()
    assert base.names()[-1] == "WorkflowTimedOut"
    reset = Reset(base, 4)
    assert reset.state.run_deadline_ms == reset.now_ms + 100_000
    assert reset.state.execution_deadline_ms == reset.now_ms + 200_000
    reset.wait_due()
    assert reset.names()[-1] == "WorkflowTimedOut"


def started_child(base: Scenario, event_id: int = 5) -> None:
    (message,) = [sent for sent in base.state.outbox if sent.event_id == event_id]
    base.deliver(message, run_id="child-run")


def closing(name: str = "COMPLETED") -> m.HistoryEvent:
    event = m.HistoryEvent(event_type=m.EventType.Value(f"EVENT_TYPE_WORKFLOW_EXECUTION_{name}"))
    if name == "COMPLETED":
        event.workflow_execution_completed_event_attributes.result.CopyFrom(payloads(b"7"))
    return event


def test_a_child_that_had_started_stays_the_child() -> None:
    base = base_with(start_child())
    started_child(base)
    base.step()
    reset = Reset(base, 9)
    item = reset.state.items[5]
    assert isinstance(item, h.ChildItem) and (item.run_id, item.started_event_id) == ("child-run", 6)
    assert reset.state.outbox == []
    assert [each.run_id for each in reset.takeover.unfinished_children()] == ["child-run"]
    reset.take(h.child_closed(reset.run, 5, closing(), "child-run", now_ms=reset.now_ms))
    assert reset.names()[-1] == "ChildWorkflowCompleted"
    assert reset.events()[-1].child_workflow_execution_completed_event_attributes.started_event_id == 6


def test_the_start_and_end_of_a_child_are_written_again() -> None:
    base = base_with(start_child())
    base.signal()
    base.step()
    started_child(base)
    base.take(h.child_closed(base.run, 5, closing(), "child-run", now_ms=base.now_ms))
    reset = Reset(base, 9)
    assert reset.names(10) == ["ChildWorkflowStarted", "ChildWorkflowCompleted", "WorkflowTaskScheduled"]
    completed = reset.event(11).child_workflow_execution_completed_event_attributes
    assert (completed.initiated_event_id, completed.started_event_id) == (5, 10)
    assert reset.state.items == {} and reset.state.outbox == []
    assert reset.takeover.unfinished_children() == []


def test_the_end_of_a_child_that_nobody_heard_of_is_written() -> None:
    base = base_with(start_child())
    started_child(base)
    base.step()
    end = h.ChildEnd(closing(), "child-run-2")
    reset = Reset(base, 9, ends={5: end})
    assert reset.names(10) == ["ChildWorkflowCompleted", "WorkflowTaskScheduled"]
    attributes = reset.event(10).child_workflow_execution_completed_event_attributes
    assert attributes.workflow_execution.run_id == "child-run-2" and attributes.started_event_id == 6
    assert attributes.result == payloads(b"7")


def test_what_was_on_its_way_is_sent_again_under_its_request_id() -> None:
    base = base_with(
        start_child(memo=m.Memo(fields={"k": m.Payload(data=b"v")}), cron_schedule="@daily"),
        signal_other(signal_name="hi", child_workflow_only=True),
        cancel_other(reason="enough"),
    )
    base.signal()
    sent = list(base.state.outbox)
    base.step()
    reset = Reset(base, 11)
    again = reset.state.outbox
    assert [(each.kind, each.event_id, each.child_only) for each in again] == [
        (each.kind, each.event_id, each.child_only) for each in sent
    ]
    for kind, one, two in zip(
        (
            m.StartWorkflowExecutionRequest,
            m.SignalWorkflowExecutionRequest,
            m.RequestCancelWorkflowExecutionRequest,
        ),
        sent,
        again,
        strict=True,
    ):
        assert kind.FromString(one.data) == kind.FromString(two.data)
    assert [each.seq for each in again] == [each.seq for each in reset.last.messages]


def test_outcomes_of_what_was_on_its_way_are_written_again() -> None:
    base = base_with(signal_other(), cancel_other())
    base.signal()
    base.step()
    for message in list(base.state.outbox):
        base.deliver(message)
    reset = Reset(base, 10)
    assert reset.names(11)[:2] == ["ExternalWorkflowSignaled", "ExternalWorkflowCancelRequested"]
    assert reset.state.items == {} and reset.state.outbox == []


def test_what_was_begun_after_the_point_is_forgotten() -> None:
    base = base_with(timer())
    base.signal()
    base.step(start_child(), signal_other(), schedule())
    for message in list(base.state.outbox):
        base.deliver(message, run_id="child-run")
    reset = Reset(base, 4)
    assert reset.names(4) == ["WorkflowTaskFailed", "WorkflowSignaled", "WorkflowTaskScheduled"]
    assert reset.state.items == {}


def test_a_reset_run_may_be_reset() -> None:
    base = base_with(signal_other())
    base.signal()
    base.step(marker())
    first = Reset(base, 9)
    first.step(start_child())
    first.signal()
    first.step()
    names = first.names()
    second = Reset(first, names.index("WorkflowTaskCompleted", 10) + 1, run_id="run-3")
    assert second.state.run_id == "run-3"
    assert [base_run_id for _, base_run_id in second.state.bases] == ["run-1", "run-2"]
    assert second.state.original_start_ms == START_MS
    (message,) = second.state.outbox
    assert m.SignalWorkflowExecutionRequest.FromString(message.data).request_id == "run-1:5"
    assert [h.owner_of(second.state, event_id) for event_id in (8, 9, 40)] == ["run-1", "run-2", "run-3"]
    third = Reset(second, 9, run_id="run-4")
    assert third.state.bases == [(9, "run-1"), (9, "run-2"), (9, "run-3")]
    assert [h.owner_of(third.state, event_id) for event_id in (8, 9)] == ["run-1", "run-4"]


def test_very_many_resets_are_remembered_within_a_bound() -> None:
    base: Scenario = base_with()
    for number in range(130):
        base = Reset(base, 4, run_id=f"again-{number}")
    assert len(base.state.bases) <= 100
    assert h.owner_of(base.state, 3) == "run-1"
    assert base.state.bases[-1] == (4, "again-128")


def test_operations_after_the_reset() -> None:
    base = base_with()
    base.signal("early")
    signal = m.PostResetOperation.SignalWorkflow(signal_name="after", input=payloads(b"5"))
    options = m.PostResetOperation.UpdateWorkflowOptions()
    options.workflow_execution_options.priority.priority_key = 1
    options.update_mask.paths.append("priority")
    reset = Reset(
        base,
        4,
        post_reset_operations=[
            m.PostResetOperation(signal_workflow=signal),
            m.PostResetOperation(update_workflow_options=options),
        ],
    )
    assert reset.names(5) == [
        "WorkflowSignaled",
        "WorkflowSignaled",
        "WorkflowOptionsUpdated",
        "WorkflowTaskScheduled",
    ]
    assert reset.event(6).workflow_execution_signaled_event_attributes.signal_name == "after"


@pytest.mark.parametrize(
    "fields",
    [
        {"reset_reapply_type": 9},
        {"reset_reapply_exclude_types": [99]},
        {"post_reset_operations": [m.PostResetOperation()]},
        {
            "post_reset_operations": [
                m.PostResetOperation(update_workflow_options={"update_mask": {"paths": ["no"]}})  # type: ignore[arg-type]
            ]
        },
        {"identity": "x" * 1001},
    ],
)
def test_what_cannot_be_asked_for(fields: dict[str, Any]) -> None:
    with pytest.raises(RpcError) as refused:
        h.check_reset(m.ResetWorkflowExecutionRequest(**fields), LIMITS)
    assert refused.value.code is StatusCode.INVALID_ARGUMENT


def test_ending_a_run_for_a_reset() -> None:
    lineage = h.Lineage(
        parent_namespace="default", parent_workflow_id="p", parent_run_id="p-1", parent_initiated_event_id=5
    )
    base = Scenario(lineage=lineage)
    base.step(start_child("spared"), start_child("other"), start_child("coming"))
    for message in list(base.state.outbox)[:2]:
        base.deliver(message, run_id=f"{message.workflow_id}-run")
    base.start_task()
    base.signal("buffered")
    transition = base.take(
        h.terminate_for_reset(base.run, reason="why", identity="me", spared={"spared"}, now_ms=base.now_ms)
    )
    assert base.names()[-3:] == ["WorkflowTaskFailed", "WorkflowSignaled", "WorkflowTerminated"]
    assert [(sent.kind, sent.workflow_id) for sent in base.state.outbox] == [
        (h.MessageKind.TERMINATE, "other"),
        (h.MessageKind.TERMINATE, "coming"),
    ]
    assert transition.closed and transition.visibility
