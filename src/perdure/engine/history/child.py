"""Child workflows, seen from the parent: Initiated, Started (or StartFailed), and the event that closes them.

The start travels as a START_CHILD message from the parent's outbox, its outcome comes back through `start_outcome`,
and the child's end as a CHILD_CLOSED message from the child's own outbox. Each may arrive twice; the item that is gone
tells. A child may even close before the parent has noted its start: both events are then written at once.

When the parent closes, its policy for each child becomes a message: TERMINATE, CANCEL, or none; a start that was not
yet delivered is withdrawn unless the child was to be abandoned.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Final

from perdure.api import messages as m
from perdure.engine.history import events_between, pending, versions, workflow_task
from perdure.engine.history.events import DEFERRED
from perdure.engine.history.events_between import ChildReference
from perdure.engine.history.recording import arrival_id, arrive, send
from perdure.engine.history.state import ChildItem, MessageKind, OutMessage, Run, RunState
from perdure.engine.history.transition import Lineage, Transition

_POLICY = m.ParentClosePolicy
_T = m.EventType

CLOSINGS: Final[dict[int, Callable[[int, int, ChildReference, m.HistoryEvent], m.HistoryEvent]]] = {
    _T.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED: events_between.child_completed,
    _T.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED: events_between.child_failed,
    _T.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED: events_between.child_canceled,
    _T.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT: events_between.child_timed_out,
    _T.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED: events_between.child_terminated,
}
"""How a child ended → the parent's event."""


def child_lineage(run: Run, message: OutMessage) -> Lineage:
    """What a child must know of its parent `run`; `message` is its START_CHILD."""
    state = run.state
    return Lineage(
        parent_namespace=state.namespace,
        parent_workflow_id=state.workflow_id,
        parent_run_id=state.run_id,
        parent_initiated_event_id=message.event_id,
        root_workflow_id=state.root_workflow_id or state.workflow_id,
        root_run_id=state.root_run_id or state.run_id,
        inherited_version=versions.pinned_version(state),
    )


def start_outcome(transition: Transition, message: OutMessage, run_id: str, failure_cause: int) -> None:
    """The START_CHILD message was delivered: the child runs as `run_id`, or could not be started."""
    run = transition.run
    item = run.state.items.get(message.event_id)
    if not isinstance(item, ChildItem) or item.started_event_id:
        return
    if failure_cause:
        event = events_between.child_start_failed(
            arrival_id(run),
            transition.now_ms,
            item.namespace,
            item.workflow_id,
            item.workflow_type,
            m.StartChildWorkflowExecutionFailedCause.ValueType(failure_cause),
            item.event_id,
        )
        arrive(transition, event)
        pending.remove_child(run, item)
    else:
        request = m.StartWorkflowExecutionRequest.FromString(message.data)
        _record_started(transition, item, run_id, request.header if request.HasField("header") else None)
    workflow_task.call(transition)


def _record_started(transition: Transition, item: ChildItem, run_id: str, header: m.Header | None) -> None:
    run = transition.run
    event = events_between.child_started(
        arrival_id(run),
        transition.now_ms,
        item.namespace,
        item.workflow_id,
        run_id,
        item.workflow_type,
        item.event_id,
        header,
    )
    arrive(transition, event)
    item.run_id = run_id
    item.started_event_id = event.event_id or DEFERRED
    pending.touch(run, item.event_id)


def child_closed(
    run: Run, initiated_event_id: int, close_event: m.HistoryEvent, child_run_id: str, *, now_ms: int
) -> Transition:
    """A child has ended with `close_event`, the last of its own history. changed=False if nobody waits for it."""
    transition = Transition(run, now_ms)
    item = run.state.items.get(initiated_event_id)
    build = CLOSINGS.get(close_event.event_type)
    if not isinstance(item, ChildItem) or build is None:
        transition.changed = False
        return transition
    if not item.started_event_id:
        _record_started(transition, item, child_run_id, None)
    child = ChildReference(
        item.namespace,
        item.workflow_id,
        child_run_id or item.run_id,
        item.workflow_type,
        initiated_event_id,
        item.started_event_id,
    )
    arrive(transition, build(arrival_id(run), now_ms, child, close_event))
    pending.remove_child(run, item)
    workflow_task.call(transition)
    return transition


def is_child_of(child: RunState, parent: RunState) -> bool:
    """Whether `parent`, or a run whose history it took up, has started `child`."""
    if child.parent_workflow_id != parent.workflow_id or child.parent_namespace != parent.namespace:
        return False
    return child.parent_run_id == parent.run_id or any(child.parent_run_id == base for _, base in parent.bases)


def apply_close_policies(transition: Transition, spared: Container[str] = ()) -> None:
    """The parent closes: withdraw starts that are not delivered yet, and tell the children that run.

    Args:
        transition: of the parent.
        spared: workflow ids of children that are told nothing: the run that follows has them.
    """
    run = transition.run
    state = run.state
    abandoned: set[int] = set()
    for event_id, item in state.items.items():
        if not isinstance(item, ChildItem) or item.workflow_id in spared:
            continue
        if item.parent_close_policy == _POLICY.PARENT_CLOSE_POLICY_ABANDON:
            abandoned.add(event_id)
        else:
            _send_policy(transition, item)
    state.outbox = [message for message in state.outbox if _still_goes(message, abandoned)]
    transition.messages = [message for message in transition.messages if _still_goes(message, abandoned)]


def _still_goes(message: OutMessage, abandoned: set[int]) -> bool:
    return message.kind != MessageKind.START_CHILD or message.event_id in abandoned


def _send_policy(transition: Transition, item: ChildItem) -> None:
    state = transition.run.state
    request_id = f"{state.run_id}:{item.event_id}:close"
    if item.parent_close_policy == _POLICY.PARENT_CLOSE_POLICY_REQUEST_CANCEL:
        kind = MessageKind.CANCEL
        cancel = m.RequestCancelWorkflowExecutionRequest(
            namespace=item.namespace, request_id=request_id, reason="by parent close policy"
        )
        cancel.workflow_execution.workflow_id = item.workflow_id
        data = cancel.SerializeToString()
    else:
        kind = MessageKind.TERMINATE
        terminate = m.TerminateWorkflowExecutionRequest(namespace=item.namespace, reason="by parent close policy")
        terminate.workflow_execution.workflow_id = item.workflow_id
        terminate.first_execution_run_id = item.run_id
        data = terminate.SerializeToString()
    send(transition, OutMessage(0, kind, item.namespace, item.workflow_id, "", data, child_only=True))
