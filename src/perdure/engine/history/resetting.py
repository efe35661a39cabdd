"""Resets: a new run that takes up a workflow at an earlier point of its history.

The new run's history is that of the *base* up to a workflow task that was scheduled (and perhaps started), the failure
that ends that task and names both runs, then what came to the workflow from outside after the point, and a new
workflow task. So its state is the fold of its history like any other's. What was pending at the point:

    activity                 handed out again; its timeouts begin anew
    timer                    fires when it was to fire, or at once
    child that had started   stays the workflow's child; its end is told to the new run, now or when it comes
    child, signal, cancel    with its outcome in the base, that is written again; else it is sent again under the
    that was on its way      request id it had, so that it arrives once
    Nexus operation          with an event in the base that it started or ended, that is written again; else it is
                             requested again under the request id it had

What came after the point and is written again: signals, updates (as admitted ones, for the code to accept anew) and
changed options, also those of the runs that continued the base as new. Cancel requests are not: the workflow is taken
up so that it goes on.

`Takeover` reads the base, in slices, since histories may be long; nothing is decided there but whether the point
holds. `reset_run` makes the new run. How the run that was open until then ends is said in ``closing``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from google.protobuf.message import Message

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.engine.history import (
    activity,
    child,
    commands_between,
    deadlines,
    events,
    evolve,
    external,
    frames,
    lifecycle,
    options,
    pending,
    update,
    update_admission,
    workflow_task,
)
from perdure.engine.history.events_between import ChildReference
from perdure.engine.history.recording import append, append_frame, send
from perdure.engine.history.state import (
    CancelItem,
    ChildItem,
    MessageKind,
    NexusItem,
    OutMessage,
    Run,
    RunState,
    SignalItem,
)
from perdure.engine.history.transition import Limits, Transition

_T = m.EventType
_EXCLUDE = m.ResetReapplyExcludeType
_REAPPLY = m.ResetReapplyType
_SIGNALS: Final = _EXCLUDE.RESET_REAPPLY_EXCLUDE_TYPE_SIGNAL
_UPDATES: Final = _EXCLUDE.RESET_REAPPLY_EXCLUDE_TYPE_UPDATE
_NEXUS: Final = _EXCLUDE.RESET_REAPPLY_EXCLUDE_TYPE_NEXUS
_BY: Final = "history-service"
_BASES_KEPT: Final = 100
_TASK_STARTED: Final = int(_T.EVENT_TYPE_WORKFLOW_TASK_STARTED)

_FROM_OUTSIDE: Final[dict[int, int]] = {
    _T.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED: _SIGNALS,
    _T.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED: _UPDATES,
    _T.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED: _UPDATES,
    _T.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED: 0,
}
"""Events that are written again, and what excludes them; 0 = nothing does."""

_OUTCOMES: Final = frozenset(
    (
        _T.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_FAILED,
        _T.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED,
        _T.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED,
        _T.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_FAILED,
        _T.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_CANCELED,
        _T.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TIMED_OUT,
        _T.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TERMINATED,
        _T.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED,
        _T.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_SIGNALED,
        _T.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED,
        _T.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_CANCEL_REQUESTED,
    )
)
"""Events that are written again if what they speak of was pending at the point."""

_NEXUS_OUTCOMES: Final = frozenset(
    (
        _T.EVENT_TYPE_NEXUS_OPERATION_STARTED,
        _T.EVENT_TYPE_NEXUS_OPERATION_COMPLETED,
        _T.EVENT_TYPE_NEXUS_OPERATION_FAILED,
        _T.EVENT_TYPE_NEXUS_OPERATION_CANCELED,
        _T.EVENT_TYPE_NEXUS_OPERATION_TIMED_OUT,
        _T.EVENT_TYPE_NEXUS_OPERATION_CANCEL_REQUEST_COMPLETED,
        _T.EVENT_TYPE_NEXUS_OPERATION_CANCEL_REQUEST_FAILED,
    )
)
"""The same, of Nexus operations."""


_WRITTEN_AGAIN: Final = _FROM_OUTSIDE.keys() | _OUTCOMES | _NEXUS_OUTCOMES


class ChildEnd(NamedTuple):
    """How a child ended whose end the base was not told."""

    event: m.HistoryEvent
    """The closing event of its own history."""
    run_id: str


def erased_child(run_id: str) -> ChildEnd:
    """The end of a child of which nothing is left: it counts as terminated."""
    return ChildEnd(events.workflow_terminated(1, 0, "", None, ""), run_id)


class Takeover:
    """The base as read so far.

    Args:
        finish_event_id: of the event that ended the workflow task to take up; it and what follows are left behind.
    """

    def __init__(self, finish_event_id: int) -> None:
        self.state: RunState = evolve.blank()
        """The state at the point, once it has been read."""
        self.frames: list[bytes] = []
        """The history up to the point."""
        self.later: list[m.HistoryEvent] = []
        """What came after the point and may be written again."""
        self.events_read = 0
        """Of the base."""
        self._finish_event_id = finish_event_id
        self._last_type = 0

    def feed(self, batch: Iterable[bytes]) -> None:
        """Read on in the base.

        Raises:
            RpcError: INVALID_ARGUMENT, the workflow can't be taken up there.
            ValueError: the frames are not a history.
        """
        for data in batch:
            (event,) = m.History.FromString(data).events
            self.events_read += 1
            if event.event_id < self._finish_event_id:
                evolve.evolve(self.state, event)
                self.state.history_bytes += len(data)
                self.frames.append(data)
                self._last_type = event.event_type
            else:
                if event.event_id == self._finish_event_id:
                    self._check_point()
                if event.event_type in _WRITTEN_AGAIN:
                    self.later.append(event)

    def feed_following(self, batch: Iterable[bytes]) -> None:
        """Read a run that continued the base, or one such, as new."""
        for data in batch:
            (event,) = m.History.FromString(data).events
            if event.event_type in _FROM_OUTSIDE:
                self.later.append(event)

    def _check_point(self) -> None:
        state = self.state
        if not state.task_scheduled_event_id or state.task_scheduled_event_id >= state.next_event_id:
            raise lifecycle.invalid(
                f"event {self._finish_event_id} does not end a workflow task: give the id of a WorkflowTaskCompleted,"
                " WorkflowTaskFailed, WorkflowTaskTimedOut or WorkflowTaskStarted event"
            )

    @property
    def task_is_started(self) -> bool:
        """The task's Started event is part of the history up to the point."""
        return self._last_type == _TASK_STARTED

    def unfinished_children(self) -> list[ChildItem]:
        """Children of the new run that have started, as far as the base tells, and are not known to have ended."""
        started = {item.event_id: item for item in self.state.items.values() if isinstance(item, ChildItem)}
        for event in self.later:
            if event.event_type in _OUTCOMES:
                attributes = getattr(event, evolve.APPLIERS[event.event_type].attributes)
                item = started.get(attributes.initiated_event_id)
                if item is None:
                    continue
                if event.event_type == _T.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED:
                    known = ChildItem(item.event_id, item.namespace, item.workflow_id, item.workflow_type, 0)
                    known.run_id = attributes.workflow_execution.run_id
                    started[item.event_id] = known
                else:
                    del started[item.event_id]
        return [item for item in started.values() if item.run_id]


def check_reset(request: m.ResetWorkflowExecutionRequest, limits: Limits) -> None:
    """Everything that can be wrong with a reset whatever the history is.

    Raises:
        RpcError: INVALID_ARGUMENT, UNIMPLEMENTED.
    """
    lifecycle.check_name(request.request_id, "RequestId", limits, required=False)
    lifecycle.check_name(request.identity, "Identity", limits, required=False)
    lifecycle.check_size(len(request.reason), limits.blob_bytes, "Reason")
    if request.reset_reapply_type not in _REAPPLY.values():
        raise lifecycle.invalid("the reset reapply type is unknown")
    if any(each not in _EXCLUDE.values() for each in request.reset_reapply_exclude_types):
        raise lifecycle.invalid("a reset reapply exclude type is unknown")
    for operation in request.post_reset_operations:
        kind = operation.WhichOneof("variant")
        if kind == "signal_workflow":
            lifecycle.check_signal(_signal_of(operation.signal_workflow, request.identity), limits)
        elif kind == "update_workflow_options":
            asked = operation.update_workflow_options
            options.check_options(asked.workflow_execution_options, asked.update_mask.paths)
        else:
            raise lifecycle.invalid("a post-reset operation is either a signal or a change of options")


def _excluded(request: m.ResetWorkflowExecutionRequest) -> set[int]:
    excluded: set[int] = set(request.reset_reapply_exclude_types)
    if request.reset_reapply_type == _REAPPLY.RESET_REAPPLY_TYPE_NONE:
        excluded |= {_SIGNALS, _UPDATES, _NEXUS}
    elif request.reset_reapply_type == _REAPPLY.RESET_REAPPLY_TYPE_SIGNAL:
        excluded |= {_UPDATES, _NEXUS}
    return excluded


def mark_reset(run: Run, new_run_id: str, *, now_ms: int) -> Transition:
    """Note in a run which one has taken up its history."""
    run.state.reset_run_id = new_run_id
    return Transition(run, now_ms)


def reset_run(
    takeover: Takeover,
    request: m.ResetWorkflowExecutionRequest,
    *,
    base: RunState,
    current: RunState,
    ends: Mapping[int, ChildEnd],
    run_key: int,
    run_id: str,
    limits: Limits,
    now_ms: int,
) -> Transition:
    """Make the new run.

    Args:
        takeover: the base, read to its end, and the runs that continued it.
        request: what was asked for; checked.
        base: the state of the run that is reset.
        current: the state of the workflow's latest run until now; the base's or a later one's.
        ends: of unfinished children, by the id of their Initiated event.
        run_key: the new run's key.
        run_id: the new run's id.
        limits: bounds.
        now_ms: the present instant.
    """
    state = takeover.state
    state.namespace = base.namespace
    state.retention_ms = base.retention_ms
    state.user_metadata = base.user_metadata
    state.start_request_id = request.request_id
    state.signal_request_ids = list(current.signal_request_ids)
    run = Run(run_key, state)
    transition = Transition(run, now_ms, frames=takeover.frames, visibility=True)
    _fail_task(transition, takeover, request.reason, base, run_id)
    _write_again(transition, takeover.later, _excluded(request))
    _send_again(transition, takeover.frames)
    for event_id, end in ends.items():
        _end_child(transition, event_id, end)
    pending.index_all(run)
    deadlines.rebuild(run)
    transition.activities = activity.dispatchable_activities(run, now_ms)
    for operation in request.post_reset_operations:
        _operate(transition, operation, request.identity, limits)
    workflow_task.schedule(transition)
    return transition


def _fail_task(transition: Transition, takeover: Takeover, reason: str, base: RunState, run_id: str) -> None:
    state = transition.run.state
    now_ms = transition.now_ms
    scheduled_id = state.task_scheduled_event_id
    if takeover.task_is_started:
        started_id = state.next_event_id - 1
    else:
        started_id = state.next_event_id
        started = frames.task_started(started_id, now_ms, scheduled_id, _BY, "", state.history_bytes, None)
        append_frame(transition, started)
    event_id = state.next_event_id
    append(transition, events.task_reset(event_id, now_ms, scheduled_id, started_id, reason, base.run_id, run_id))
    evolve.apply_reset(state, event_id, now_ms, base.run_id, run_id)
    state.bases = _bases(base, event_id)


def _bases(base: RunState, event_id: int) -> list[tuple[int, str]]:
    """The runs before one that goes on at an event. Of very many, those that left it no event are dropped."""
    found = [(min(first_event_id, event_id), run_id) for first_event_id, run_id in base.bases]
    found.append((event_id, base.run_id))
    if len(found) <= _BASES_KEPT:
        return found
    starts = [0, *(first_event_id for first_event_id, _ in found)]
    recent = len(found) - _BASES_KEPT // 2
    return [each for at, each in enumerate(found) if starts[at] < each[0] or at >= recent]


def _append_effective(transition: Transition, event: m.HistoryEvent, attributes: Any) -> None:
    """Write an event and apply it."""
    state = transition.run.state
    event_id = event.event_id
    append(transition, event)
    evolve.APPLIERS[event.event_type].apply(state, event_id, transition.now_ms, attributes)


def _write_again(transition: Transition, later: Sequence[m.HistoryEvent], excluded: set[int]) -> None:
    state = transition.run.state
    for event in later:
        reason = _FROM_OUTSIDE.get(event.event_type)
        if reason is not None and reason in excluded:
            continue
        if reason == _UPDATES:
            _admit_again(transition, event)
            continue
        if event.event_type in _NEXUS_OUTCOMES:
            if _NEXUS not in excluded:
                _end_nexus_again(transition, event)
            continue
        again = events.again(event, state.next_event_id, transition.now_ms)
        attributes = getattr(again, evolve.APPLIERS[event.event_type].attributes)
        if reason is None:
            item = state.items.get(attributes.initiated_event_id)
            if item is None:
                continue  # It was begun after the point, too.
            if isinstance(item, ChildItem) and hasattr(attributes, "started_event_id"):
                attributes.started_event_id = item.started_event_id
        _append_effective(transition, again, attributes)


def _end_nexus_again(transition: Transition, event: m.HistoryEvent) -> None:
    """Write again what became of an operation, or of the request to cancel it, if that was pending at the point."""
    state = transition.run.state
    again = events.again(event, state.next_event_id, transition.now_ms)
    attributes = getattr(again, evolve.APPLIERS[event.event_type].attributes)
    item = state.items.get(attributes.scheduled_event_id)
    if not isinstance(item, NexusItem):
        return
    if getattr(attributes, "requested_event_id", item.cancel_requested_event_id) == item.cancel_requested_event_id:
        _append_effective(transition, again, attributes)


def _admit_again(transition: Transition, event: m.HistoryEvent) -> None:
    """Admit an update that was accepted, or admitted by an earlier reset, after the point."""
    if event.event_type == _T.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED:
        request = event.workflow_execution_update_admitted_event_attributes.request
    else:
        request = event.workflow_execution_update_accepted_event_attributes.accepted_request
    update_id = request.meta.update_id  # Missing where the update was admitted by an event.
    if update_id and update.stage(transition.run, update_id) is update.UpdateStage.NONE:
        update_admission.reapply(transition, request)


def _send_again(transition: Transition, prefix: Sequence[bytes]) -> None:
    """Put what was on its way, and is not known to have arrived, into the outbox."""
    for item in list(transition.run.state.items.values()):
        if isinstance(item, ChildItem) and not item.started_event_id:
            event = _event_at(prefix, item.event_id)
            command = m.Command()
            if event.HasField("user_metadata"):
                command.user_metadata.CopyFrom(event.user_metadata)
            asked = m.StartChildWorkflowExecutionCommandAttributes()
            _copy_shared(event.start_child_workflow_execution_initiated_event_attributes, asked)
            start = commands_between.child_request(transition.run, command, asked, item.event_id)
            data = start.SerializeToString()
            message = OutMessage(0, MessageKind.START_CHILD, item.namespace, item.workflow_id, "", data, item.event_id)
            send(transition, message)
        elif isinstance(item, SignalItem):
            attributes = _event_at(prefix, item.event_id).signal_external_workflow_execution_initiated_event_attributes
            signal = m.SignalExternalWorkflowExecutionCommandAttributes(execution=attributes.workflow_execution)
            _copy_shared(attributes, signal)
            external.send_signal(transition, item, signal)
        elif isinstance(item, CancelItem):
            initiated = _event_at(prefix, item.event_id)
            cancel = m.RequestCancelExternalWorkflowExecutionCommandAttributes()
            _copy_shared(initiated.request_cancel_external_workflow_execution_initiated_event_attributes, cancel)
            external.send_cancel(transition, item, cancel)


def _event_at(prefix: Sequence[bytes], event_id: int) -> m.HistoryEvent:
    return m.History.FromString(prefix[event_id - 1]).events[0]


def _copy_shared(source: Message, target: Message) -> None:
    """Copy the fields that both have: an Initiated event tells what its command said under the same names."""
    known = target.DESCRIPTOR.fields_by_name
    for field, value in source.ListFields():
        twin = known.get(field.name)
        if twin is None or twin.message_type is not field.message_type:
            continue
        if field.message_type is None:
            setattr(target, field.name, value)
        else:
            getattr(target, field.name).CopyFrom(value)


def _end_child(transition: Transition, initiated_event_id: int, end: ChildEnd) -> None:
    state = transition.run.state
    item = state.items[initiated_event_id]
    assert isinstance(item, ChildItem) and item.started_event_id, "only children that have started have ended"
    reference = ChildReference(
        item.namespace, item.workflow_id, end.run_id, item.workflow_type, initiated_event_id, item.started_event_id
    )
    event = child.CLOSINGS[end.event.event_type](state.next_event_id, transition.now_ms, reference, end.event)
    _append_effective(transition, event, getattr(event, evolve.APPLIERS[event.event_type].attributes))


def _signal_of(asked: m.PostResetOperation.SignalWorkflow, identity: str) -> m.SignalWorkflowExecutionRequest:
    return m.SignalWorkflowExecutionRequest(
        signal_name=asked.signal_name,
        input=asked.input if asked.HasField("input") else None,
        header=asked.header if asked.HasField("header") else None,
        links=asked.links,
        identity=identity,
    )


def _operate(transition: Transition, operation: m.PostResetOperation, identity: str, limits: Limits) -> None:
    if operation.WhichOneof("variant") == "signal_workflow":
        lifecycle.record_signal(transition, _signal_of(operation.signal_workflow, identity), None, limits)
        return
    asked = operation.update_workflow_options
    before = options.options_of(transition.run.state)
    after = options.merged(before, asked.workflow_execution_options, asked.update_mask.paths)
    if after != before:
        options.write_options(transition, before, after, identity)


def no_such_point(run: Run) -> RpcError:
    """The answer to an event id that is not in the history."""
    last_id = run.state.next_event_id - 1
    return RpcError(
        StatusCode.INVALID_ARGUMENT, f"the workflow task finish id must be greater than 1 and at most {last_id}"
    )
