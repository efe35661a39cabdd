"""Applies history events to a run: matches those its commands made, and resolves what waits for the others.

One table, by event type. `RECORDED` events come from commands: each takes the next command the code issued in the
previous workflow task, which must be the one it records. The others arrive from outside, and those in `PASSED` need
nothing done. A type in neither table is from a newer service than this code knows: a clear error, never a guess.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from perdure.api import messages as m
from perdure.exceptions import (
    ActivityError,
    ApplicationError,
    CancelledError,
    ChildWorkflowError,
    FailureError,
    NondeterminismError,
    RetryState,
    TerminatedError,
    TimeoutError,
    TimeoutType,
    WorkflowAlreadyStartedError,
)
from perdure.replay.calls import ActivityHandle, ChildHandle, Issued, Timer, command
from perdure.replay.frames import waiting_at
from perdure.replay.matching import EXPECTED, attributes_of, describe_event, differs, is_deprecated_patch, unasked
from perdure.replay.runtime import WorkflowRuntime

__all__ = ["APPLY", "PASSED", "RECORDED", "RESET_RUN_ID", "Expected"]

_E = m.EventType
_RESET = m.WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW
_ID_TAKEN = m.StartChildWorkflowExecutionFailedCause.Value(
    "START_CHILD_WORKFLOW_EXECUTION_FAILED_CAUSE_WORKFLOW_ALREADY_EXISTS"
)

RESET_RUN_ID = "reset_run_id"
"""Where the runtime's scratch tells which run has taken up the history in the end: its chance differs from there on."""


class Expected:
    """What applying a segment keeps track of.

    Attributes:
        issued: the commands of the previous workflow task, in order.
        at: how many of them an event has recorded.
        signals: signals met, to be delivered ahead of what else the segment wakes.
        updates: messages and events that bring updates, to be delivered after them.
    """

    __slots__ = ("at", "issued", "signals", "updates")

    def __init__(self) -> None:
        self.issued: list[Issued] = []
        self.at = 0
        self.signals: list[m.HistoryEvent] = []
        self.updates: list[m.Message | m.HistoryEvent] = []

    def rest(self) -> list[Issued]:
        """What no event has recorded."""
        return self.issued[self.at :]


Handler = Callable[[WorkflowRuntime, m.HistoryEvent, Expected], None]


def _unasked(runtime: WorkflowRuntime, event: m.HistoryEvent) -> NondeterminismError:
    waiting = "".join(f"\n                 {place}" for place in waiting_at(runtime.loop.pending_tasks()))
    return unasked(event, runtime.describe(), waiting)


# What commands made.


def _activity_scheduled(runtime: WorkflowRuntime, event: m.HistoryEvent, expected: Expected) -> None:
    attrs = event.activity_task_scheduled_event_attributes
    at = expected.at
    if at >= len(expected.issued):
        raise _unasked(runtime, event)
    issued = expected.issued[at]
    call: ActivityHandle[Any] = issued.call
    if (
        issued.kind != command.SCHEDULE_ACTIVITY
        or attrs.activity_id != call.activity_id
        or attrs.activity_type.name != call.name
    ):
        raise differs(event, issued, runtime.describe())
    expected.at = at + 1
    call.issued = None
    call.event_id = event_id = event.event_id
    runtime.pending[event_id] = call


def _timer_started(runtime: WorkflowRuntime, event: m.HistoryEvent, expected: Expected) -> None:
    at = expected.at
    if at >= len(expected.issued):
        raise _unasked(runtime, event)
    issued = expected.issued[at]
    timer: Timer = issued.call
    if issued.kind != command.START_TIMER or event.timer_started_event_attributes.timer_id != timer.timer_id:
        raise differs(event, issued, runtime.describe())
    expected.at = at + 1
    timer.issued = None
    timer.event_id = event_id = event.event_id
    runtime.pending[event_id] = timer


def _match(runtime: WorkflowRuntime, event: m.HistoryEvent, expected: Expected) -> Issued:
    at = expected.at
    if at >= len(expected.issued):
        raise _unasked(runtime, event)
    issued = expected.issued[at]
    expectation = EXPECTED[event.event_type]
    if issued.kind != expectation.command or expectation.of_event(attributes_of(event)) != expectation.of_call(
        issued.call
    ):
        raise differs(event, issued, runtime.describe())
    expected.at = at + 1
    return issued


def _recorded(runtime: WorkflowRuntime, event: m.HistoryEvent, expected: Expected) -> None:
    _match(runtime, event, expected)


def _call_recorded(runtime: WorkflowRuntime, event: m.HistoryEvent, expected: Expected) -> None:
    call = _match(runtime, event, expected).call
    call.issued = None
    call.event_id = event.event_id
    runtime.pending[event.event_id] = call


def _timer_canceled(runtime: WorkflowRuntime, event: m.HistoryEvent, expected: Expected) -> None:
    _match(runtime, event, expected)
    runtime.pending.pop(event.timer_canceled_event_attributes.started_event_id, None)


def _marker_recorded(runtime: WorkflowRuntime, event: m.HistoryEvent, expected: Expected) -> None:
    attrs = event.marker_recorded_event_attributes
    if is_deprecated_patch(attrs):
        identity = EXPECTED[event.event_type].of_event(attrs)
        rest = expected.rest()
        if not rest or rest[0].kind != command.RECORD_MARKER or rest[0].call != identity:
            return
    _match(runtime, event, expected)


RECORDED: dict[int, Handler] = {
    **dict.fromkeys(EXPECTED, _recorded),
    _E.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED: _activity_scheduled,
    _E.EVENT_TYPE_TIMER_STARTED: _timer_started,
    _E.EVENT_TYPE_TIMER_CANCELED: _timer_canceled,
    _E.EVENT_TYPE_MARKER_RECORDED: _marker_recorded,
    _E.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED: _call_recorded,
    _E.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED: _call_recorded,
    _E.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED: _call_recorded,
}


# What comes from outside.


def _waiting(runtime: WorkflowRuntime, event: m.HistoryEvent, event_id: int) -> Any:
    call = runtime.pending.pop(event_id, None)
    if call is None:
        raise NondeterminismError(
            f"{describe_event(event)} refers to event {event_id}, which nothing in this run waits for "
            f"({runtime.describe()}): the history is damaged or from another run"
        )
    return call


def _resolve(runtime: WorkflowRuntime, call: Any, result: m.Payloads, hint: Any) -> None:
    if not call.done():
        payloads = result.payloads
        runtime.resolve_with(call, payloads[0] if payloads else None, hint)


def _activity_completed(runtime: WorkflowRuntime, event: m.HistoryEvent, _: Expected) -> None:
    attrs = event.activity_task_completed_event_attributes
    event_id = attrs.scheduled_event_id
    call: ActivityHandle[Any] = runtime.pending.pop(event_id, None) or _waiting(runtime, event, event_id)
    if not call.done():
        payloads = attrs.result.payloads
        runtime.resolve_with(call, payloads[0] if payloads else None, call.result_type)


def _activity_error(call: ActivityHandle[Any], attrs: Any, cause: BaseException, what: str) -> ActivityError:
    error = ActivityError(
        f"activity {call.name!r} {what}: {cause}",
        scheduled_event_id=attrs.scheduled_event_id,
        started_event_id=attrs.started_event_id,
        identity=getattr(attrs, "identity", ""),
        activity_type=call.name,
        activity_id=call.activity_id,
        retry_state=_retry_state(attrs),
    )
    error.__cause__ = cause
    return error


def _retry_state(attrs: Any) -> RetryState | None:
    state = getattr(attrs, "retry_state", 0)
    return RetryState(state) if state in RetryState._value2member_map_ and state else None


def _activity_failed(runtime: WorkflowRuntime, event: m.HistoryEvent, _: Expected) -> None:
    attrs = event.activity_task_failed_event_attributes
    call: ActivityHandle[Any] = _waiting(runtime, event, attrs.scheduled_event_id)
    if not call.done():
        cause = runtime.converter.from_failure(attrs.failure)
        call.reject(_activity_error(call, attrs, cause, "failed"))


def _activity_timed_out(runtime: WorkflowRuntime, event: m.HistoryEvent, _: Expected) -> None:
    attrs = event.activity_task_timed_out_event_attributes
    call: ActivityHandle[Any] = _waiting(runtime, event, attrs.scheduled_event_id)
    if not call.done():
        cause = runtime.converter.from_failure(attrs.failure)
        call.reject(_activity_error(call, attrs, cause, "timed out"))


def _activity_canceled(runtime: WorkflowRuntime, event: m.HistoryEvent, _: Expected) -> None:
    attrs = event.activity_task_canceled_event_attributes
    call: ActivityHandle[Any] = _waiting(runtime, event, attrs.scheduled_event_id)
    if call.done():
        return
    if call.cancel_requested:
        call.finish_cancel()
    else:
        details = runtime.converter.from_payloads(attrs.details.payloads)
        call.reject(_activity_error(call, attrs, CancelledError("Cancelled", *details), "was cancelled"))


def _timer_fired(runtime: WorkflowRuntime, event: m.HistoryEvent, _: Expected) -> None:
    _waiting(runtime, event, event.timer_fired_event_attributes.started_event_id).fire()


def _started(runtime: WorkflowRuntime, event: m.HistoryEvent, _: Expected) -> None:
    runtime.start(event)


def _cancel_requested(runtime: WorkflowRuntime, event: m.HistoryEvent, _: Expected) -> None:
    runtime.request_cancel(event.workflow_execution_cancel_requested_event_attributes.cause)


def _child_started(runtime: WorkflowRuntime, event: m.HistoryEvent, _: Expected) -> None:
    attrs = event.child_workflow_execution_started_event_attributes
    child: ChildHandle[Any] = _waiting(runtime, event, attrs.initiated_event_id)
    runtime.pending[attrs.initiated_event_id] = child
    child.started_event_id = event.event_id
    child.first_execution_run_id = attrs.workflow_execution.run_id
    if child.cancel_requested:
        child.issue_cancel()
    child.started.resolve(None)


def _child_not_started(runtime: WorkflowRuntime, event: m.HistoryEvent, _: Expected) -> None:
    attrs = event.start_child_workflow_execution_failed_event_attributes
    child: ChildHandle[Any] = _waiting(runtime, event, attrs.initiated_event_id)
    error: FailureError
    if attrs.cause == _ID_TAKEN:
        error = WorkflowAlreadyStartedError(child.id, child.name)
    else:
        cause = m.StartChildWorkflowExecutionFailedCause.Name(attrs.cause)
        error = ApplicationError(
            f"child workflow {child.id!r} ({child.name}) could not be started: {cause}", type="ChildNotStarted"
        )
    child.started.reject(error)
    child.reject(error)
    child._log_traceback = False  # pyright: ignore[reportAttributeAccessIssue] `started` tells it


def _child_completed(runtime: WorkflowRuntime, event: m.HistoryEvent, _: Expected) -> None:
    attrs = event.child_workflow_execution_completed_event_attributes
    child: ChildHandle[Any] = _waiting(runtime, event, attrs.initiated_event_id)
    _resolve(runtime, child, attrs.result, child.result_type)


def _child_error(child: ChildHandle[Any], attrs: Any, cause: BaseException, what: str) -> None:
    error = ChildWorkflowError(
        f"child workflow {child.id!r} ({child.name}) {what}: {cause}",
        namespace=child.namespace,
        workflow_id=child.id,
        run_id=attrs.workflow_execution.run_id,
        workflow_type=child.name,
        initiated_event_id=attrs.initiated_event_id,
        started_event_id=attrs.started_event_id,
        retry_state=_retry_state(attrs),
    )
    error.__cause__ = cause
    child.reject(error)


def _child_failed(runtime: WorkflowRuntime, event: m.HistoryEvent, _: Expected) -> None:
    attrs = event.child_workflow_execution_failed_event_attributes
    child: ChildHandle[Any] = _waiting(runtime, event, attrs.initiated_event_id)
    if not child.done():
        _child_error(child, attrs, runtime.converter.from_failure(attrs.failure), "failed")


def _child_canceled(runtime: WorkflowRuntime, event: m.HistoryEvent, _: Expected) -> None:
    attrs = event.child_workflow_execution_canceled_event_attributes
    child: ChildHandle[Any] = _waiting(runtime, event, attrs.initiated_event_id)
    if child.done():
        return
    if child.cancel_requested:
        child.finish_cancel()
    else:
        details = runtime.converter.from_payloads(attrs.details.payloads)
        _child_error(child, attrs, CancelledError("Cancelled", *details), "was cancelled")


def _child_timed_out(runtime: WorkflowRuntime, event: m.HistoryEvent, _: Expected) -> None:
    attrs = event.child_workflow_execution_timed_out_event_attributes
    child: ChildHandle[Any] = _waiting(runtime, event, attrs.initiated_event_id)
    if not child.done():
        cause = TimeoutError("workflow timed out", type=TimeoutType.START_TO_CLOSE)
        _child_error(child, attrs, cause, "timed out")


def _child_terminated(runtime: WorkflowRuntime, event: m.HistoryEvent, _: Expected) -> None:
    attrs = event.child_workflow_execution_terminated_event_attributes
    child: ChildHandle[Any] = _waiting(runtime, event, attrs.initiated_event_id)
    if not child.done():
        _child_error(child, attrs, TerminatedError("workflow terminated"), "was terminated")


def _external_signaled(runtime: WorkflowRuntime, event: m.HistoryEvent, _: Expected) -> None:
    attrs = event.external_workflow_execution_signaled_event_attributes
    _waiting(runtime, event, attrs.initiated_event_id).resolve(None)


def _external_signal_failed(runtime: WorkflowRuntime, event: m.HistoryEvent, _: Expected) -> None:
    attrs = event.signal_external_workflow_execution_failed_event_attributes
    cause = m.SignalExternalWorkflowExecutionFailedCause.Name(attrs.cause)
    _waiting(runtime, event, attrs.initiated_event_id).reject(
        ApplicationError(
            f"workflow {attrs.workflow_execution.workflow_id!r} could not be signalled: {_cause(cause)}",
            type="ExternalWorkflowNotFound" if "NOT_FOUND" in cause else "SignalExternalFailed",
            non_retryable=True,
        )
    )


def _external_cancel_requested(runtime: WorkflowRuntime, event: m.HistoryEvent, _: Expected) -> None:
    attrs = event.external_workflow_execution_cancel_requested_event_attributes
    call = _waiting(runtime, event, attrs.initiated_event_id)
    call.resolve(None)
    if call.child is not None and not call.child.done():
        call.child.cancel_delivered()


def _external_cancel_failed(runtime: WorkflowRuntime, event: m.HistoryEvent, _: Expected) -> None:
    attrs = event.request_cancel_external_workflow_execution_failed_event_attributes
    call = _waiting(runtime, event, attrs.initiated_event_id)
    if call.child is not None:
        return  # The child has closed in the meantime: its own closing event says how.
    cause = m.CancelExternalWorkflowExecutionFailedCause.Name(attrs.cause)
    call.reject(
        ApplicationError(
            f"workflow {attrs.workflow_execution.workflow_id!r} could not be cancelled: {_cause(cause)}",
            type="ExternalWorkflowNotFound" if "NOT_FOUND" in cause else "CancelExternalFailed",
            non_retryable=True,
        )
    )


def _cause(name: str) -> str:
    return name.partition("_CAUSE_")[2].lower().replace("_", " ") or name


def _signaled(runtime: WorkflowRuntime, event: m.HistoryEvent, expected: Expected) -> None:
    expected.signals.append(event)


def _update_admitted(runtime: WorkflowRuntime, event: m.HistoryEvent, expected: Expected) -> None:
    expected.updates.append(event)


def _task_failed(runtime: WorkflowRuntime, event: m.HistoryEvent, expected: Expected) -> None:
    attrs = event.workflow_task_failed_event_attributes
    if attrs.cause == _RESET:
        runtime.scratch[RESET_RUN_ID] = attrs.new_run_id


_ARRIVED: dict[int, Handler] = {
    _E.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED: _started,
    _E.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED: _cancel_requested,
    _E.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED: _signaled,
    _E.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED: _update_admitted,
    _E.EVENT_TYPE_WORKFLOW_TASK_FAILED: _task_failed,
    _E.EVENT_TYPE_ACTIVITY_TASK_COMPLETED: _activity_completed,
    _E.EVENT_TYPE_ACTIVITY_TASK_FAILED: _activity_failed,
    _E.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT: _activity_timed_out,
    _E.EVENT_TYPE_ACTIVITY_TASK_CANCELED: _activity_canceled,
    _E.EVENT_TYPE_TIMER_FIRED: _timer_fired,
    _E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED: _child_started,
    _E.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_FAILED: _child_not_started,
    _E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED: _child_completed,
    _E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_FAILED: _child_failed,
    _E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_CANCELED: _child_canceled,
    _E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TIMED_OUT: _child_timed_out,
    _E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TERMINATED: _child_terminated,
    _E.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_SIGNALED: _external_signaled,
    _E.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED: _external_signal_failed,
    _E.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_CANCEL_REQUESTED: _external_cancel_requested,
    _E.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED: _external_cancel_failed,
}

_PASSED = (
    _E.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED,
    _E.EVENT_TYPE_WORKFLOW_TASK_STARTED,
    _E.EVENT_TYPE_WORKFLOW_TASK_COMPLETED,
    _E.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT,
    _E.EVENT_TYPE_ACTIVITY_TASK_STARTED,
    _E.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED,
    _E.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT,
    _E.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_REJECTED,
    _E.EVENT_TYPE_WORKFLOW_PROPERTIES_MODIFIED_EXTERNALLY,
    _E.EVENT_TYPE_ACTIVITY_PROPERTIES_MODIFIED_EXTERNALLY,
    _E.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED,
    _E.EVENT_TYPE_WORKFLOW_EXECUTION_PAUSED,
    _E.EVENT_TYPE_WORKFLOW_EXECUTION_UNPAUSED,
    _E.EVENT_TYPE_WORKFLOW_EXECUTION_TIME_SKIPPING_TRANSITIONED,
)

PASSED: frozenset[int] = frozenset(map(int, _PASSED))
"""Events that change nothing for the code."""

APPLY: dict[int, Handler] = {**RECORDED, **_ARRIVED}
"""What every other known type of event does."""
