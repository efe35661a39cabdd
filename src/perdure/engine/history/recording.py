"""How events enter a run: appended at once, or buffered while a worker holds the workflow task.

A worker that was handed a task has been promised a history that ends with its Started event, so whatever arrives
meanwhile waits in `state.buffered` and is flushed after the events of the worker's commands. Its effect on what is
pending is immediate: an activity that completed is gone, though its Completed event has no id yet. On flush the
completions of activities, children and Nexus operations come last, so that a worker sees the signals that preceded
them first.

Every event that arrives from outside also calls for a workflow task: `arrive`, then `workflow_task.call`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from perdure.api import messages as m
from perdure.api.framing import frame
from perdure.engine.history import events, pending
from perdure.engine.history.events import DEFERRED
from perdure.engine.history.frames import body_of
from perdure.engine.history.state import ChildItem, OutMessage, Run
from perdure.engine.history.transition import Transition

_T = m.EventType

_CLOSING_LAST: Final[dict[int, str]] = {
    _T.EVENT_TYPE_ACTIVITY_TASK_COMPLETED: "activity_task_completed_event_attributes",
    _T.EVENT_TYPE_ACTIVITY_TASK_FAILED: "activity_task_failed_event_attributes",
    _T.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT: "activity_task_timed_out_event_attributes",
    _T.EVENT_TYPE_ACTIVITY_TASK_CANCELED: "activity_task_canceled_event_attributes",
    _T.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED: "child_workflow_execution_completed_event_attributes",
    _T.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_FAILED: "child_workflow_execution_failed_event_attributes",
    _T.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_CANCELED: "child_workflow_execution_canceled_event_attributes",
    _T.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TIMED_OUT: "child_workflow_execution_timed_out_event_attributes",
    _T.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TERMINATED: "child_workflow_execution_terminated_event_attributes",
}
"""Event types that sort last on flush, and where they name the Started event they close."""

_NEXUS_CLOSINGS: Final = frozenset(
    (
        _T.EVENT_TYPE_NEXUS_OPERATION_COMPLETED,
        _T.EVENT_TYPE_NEXUS_OPERATION_FAILED,
        _T.EVENT_TYPE_NEXUS_OPERATION_CANCELED,
        _T.EVENT_TYPE_NEXUS_OPERATION_TIMED_OUT,
    )
)
"""They sort last, too, and name no other event that could be buffered."""
_LAST: Final = frozenset(_CLOSING_LAST) | _NEXUS_CLOSINGS

_ACTIVITY_STARTED = _T.EVENT_TYPE_ACTIVITY_TASK_STARTED
_OPTIONS_UPDATED = _T.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED
_CHILD_STARTED = _T.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED


def append(transition: Transition, event: m.HistoryEvent) -> None:
    """Write an event whose id is state.next_event_id."""
    append_frame(transition, frame(event))


def append_frame(transition: Transition, data: bytes) -> None:
    """`append` for an event that is framed already."""
    run = transition.run
    state = run.state
    transition.frames.append(data)
    run.live.frames.append(data)
    state.next_event_id += 1
    state.history_bytes += len(data)


def append_frames(transition: Transition, new: Sequence[bytes]) -> None:
    """`append` for several."""
    run = transition.run
    state = run.state
    transition.frames += new
    run.live.frames += new
    state.next_event_id += len(new)
    state.history_bytes += sum(map(len, new))


def arrival_id(run: Run) -> int:
    """The id for an event from outside: the next one, or 0 when it will be buffered."""
    return 0 if run.live.task is not None else run.state.next_event_id


def arrive(transition: Transition, event: m.HistoryEvent) -> None:
    """Take in an event from outside that was built with `arrival_id`."""
    if event.event_id:
        append_frame(transition, frame(event))
    else:
        transition.run.state.buffered.append(event.SerializeToString())


def arrive_frames(transition: Transition, *new: bytes) -> None:
    """`arrive` for events that `frames` encoded."""
    run = transition.run
    if run.live.task is None:
        append_frames(transition, new)
    else:
        run.state.buffered += map(body_of, new)


def flush(transition: Transition) -> bool:
    """Append the buffered events in the order of a flush. True if there were any."""
    run = transition.run
    state = run.state
    if not state.buffered:
        return False
    first: list[m.HistoryEvent] = []
    last: list[m.HistoryEvent] = []
    for data in state.buffered:
        event = m.HistoryEvent.FromString(data)
        (last if event.event_type in _LAST else first).append(event)
    state.buffered = []
    started: dict[int, int] = {}
    for event in first:
        event_id = state.next_event_id
        events.renumber(event, event_id)
        if event.event_type == _ACTIVITY_STARTED:
            started[event.activity_task_started_event_attributes.scheduled_event_id] = event_id
        elif event.event_type == _CHILD_STARTED:
            initiated_id = event.child_workflow_execution_started_event_attributes.initiated_event_id
            started[initiated_id] = event_id
            child = state.items.get(initiated_id)
            if isinstance(child, ChildItem):
                child.started_event_id = event_id
                pending.touch(run, initiated_id)
        elif event.event_type == _OPTIONS_UPDATED and state.attached:
            request_id = event.workflow_execution_options_updated_event_attributes.attached_request_id
            if request_id in state.attached:
                state.attached[request_id] = event_id
        append(transition, event)
    for event in last:
        events.renumber(event, state.next_event_id)
        if event.event_type in _CLOSING_LAST:
            _refer_to_started(event, started)
        append(transition, event)
    return True


def _refer_to_started(event: m.HistoryEvent, started: dict[int, int]) -> None:
    attributes = getattr(event, _CLOSING_LAST[event.event_type])
    if attributes.started_event_id == DEFERRED:
        origin = attributes.initiated_event_id if hasattr(attributes, "initiated_event_id") else 0
        attributes.started_event_id = started[origin or attributes.scheduled_event_id]


def send(transition: Transition, message: OutMessage) -> None:
    """Put a message to another run into the outbox; it gets its number here."""
    state = transition.run.state
    message.seq = state.next_message_seq
    state.next_message_seq += 1
    state.outbox.append(message)
    transition.messages.append(message)
