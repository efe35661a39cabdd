"""Signals and cancels to other workflows: Initiated by a command, then delivered or failed.

The request travels as a message from the outbox, with a request id made of the ids of the Initiated event and the run
that wrote it first, so that delivering it twice changes nothing, also when the run has been reset in between.
`message_delivered` takes the outcome of any message out of the outbox.
"""

from __future__ import annotations

from bisect import bisect_left

from perdure.api import messages as m
from perdure.engine.history import callbacks, child, events_between, evolve, pending, workflow_task
from perdure.engine.history.events_between import ExternalReference
from perdure.engine.history.recording import arrival_id, arrive, send
from perdure.engine.history.state import CancelItem, MessageKind, OutMessage, Run, SignalItem
from perdure.engine.history.transition import Transition


def send_signal(
    transition: Transition, item: SignalItem, command: m.SignalExternalWorkflowExecutionCommandAttributes
) -> None:
    """Put the signal of an Initiated event into the outbox."""
    state = transition.run.state
    request = m.SignalWorkflowExecutionRequest(
        namespace=item.namespace,
        signal_name=command.signal_name,
        request_id=f"{evolve.owner_of(state, item.event_id)}:{item.event_id}",
        control=command.control,
    )
    request.workflow_execution.CopyFrom(command.execution)
    if command.HasField("input"):
        request.input.CopyFrom(command.input)
    if command.HasField("header"):
        request.header.CopyFrom(command.header)
    message = OutMessage(
        0,
        MessageKind.SIGNAL,
        item.namespace,
        item.workflow_id,
        item.run_id,
        request.SerializeToString(),
        item.event_id,
        command.child_workflow_only,
    )
    send(transition, message)


def send_cancel(
    transition: Transition, item: CancelItem, command: m.RequestCancelExternalWorkflowExecutionCommandAttributes
) -> None:
    """Put the cancel request of an Initiated event into the outbox."""
    state = transition.run.state
    request = m.RequestCancelWorkflowExecutionRequest(
        namespace=item.namespace,
        request_id=f"{evolve.owner_of(state, item.event_id)}:{item.event_id}",
        reason=command.reason,
    )
    request.workflow_execution.workflow_id = item.workflow_id
    request.workflow_execution.run_id = item.run_id
    message = OutMessage(
        0,
        MessageKind.CANCEL,
        item.namespace,
        item.workflow_id,
        item.run_id,
        request.SerializeToString(),
        item.event_id,
        command.child_workflow_only,
    )
    send(transition, message)


def message_delivered(run: Run, seq: int, *, run_id: str = "", failure_cause: int = 0, now_ms: int) -> Transition:
    """Record the outcome of a message. changed=False if it is not, or no longer, in the outbox.

    Args:
        run: the sender.
        seq: the message's number.
        run_id: of the child that was started, for START_CHILD.
        failure_cause: why it could not be delivered, by the FailedCause enum of its kind; 0 = it was delivered.
        now_ms: the present instant.
    """
    transition = Transition(run, now_ms)
    outbox = run.state.outbox
    index = bisect_left(outbox, seq, key=lambda message: message.seq)
    if index == len(outbox) or outbox[index].seq != seq:
        transition.changed = False
        return transition
    message = outbox.pop(index)
    match message.kind:
        case MessageKind.START_CHILD:
            child.start_outcome(transition, message, run_id, failure_cause)
        case MessageKind.SIGNAL:
            _signal_outcome(transition, message, failure_cause)
        case MessageKind.CANCEL:
            _cancel_outcome(transition, message, failure_cause)
        case MessageKind.CALLBACK:
            callbacks.ended(transition, message, failure_cause)
        case _:
            pass
    return transition


def _signal_outcome(transition: Transition, message: OutMessage, failure_cause: int) -> None:
    run = transition.run
    item = run.state.items.get(message.event_id)
    if not isinstance(item, SignalItem):
        return
    target = ExternalReference(item.event_id, item.namespace, item.workflow_id, item.run_id, item.control)
    if failure_cause:
        cause = m.SignalExternalWorkflowExecutionFailedCause.ValueType(failure_cause)
        event = events_between.external_signal_failed(arrival_id(run), transition.now_ms, target, cause)
    else:
        event = events_between.external_signal_delivered(arrival_id(run), transition.now_ms, target)
    arrive(transition, event)
    pending.remove_external(run, item.event_id)
    workflow_task.call(transition)


def _cancel_outcome(transition: Transition, message: OutMessage, failure_cause: int) -> None:
    run = transition.run
    item = run.state.items.get(message.event_id)
    if not isinstance(item, CancelItem):
        return
    target = ExternalReference(item.event_id, item.namespace, item.workflow_id, item.run_id, item.control)
    if failure_cause:
        cause = m.CancelExternalWorkflowExecutionFailedCause.ValueType(failure_cause)
        event = events_between.external_cancel_failed(arrival_id(run), transition.now_ms, target, cause)
    else:
        event = events_between.external_cancel_delivered(arrival_id(run), transition.now_ms, target)
    arrive(transition, event)
    pending.remove_external(run, item.event_id)
    workflow_task.call(transition)
