"""Builders of the events that speak of other runs: children, and signals and cancels to external workflows.

Same rules as `events`: one function an event type, an id of 0 is left unset, values that are messages are copied.
"""

from __future__ import annotations

from typing import NamedTuple

from perdure.api import messages as m
from perdure.engine.history.events import new_event

_T = m.EventType
_TERMINATE = m.ParentClosePolicy.PARENT_CLOSE_POLICY_TERMINATE
_CHILD_INITIATED = _T.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED
_CHILD_START_FAILED = _T.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_FAILED
_CHILD_STARTED = _T.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED
_CHILD_COMPLETED = _T.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED
_CHILD_FAILED = _T.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_FAILED
_CHILD_CANCELED = _T.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_CANCELED
_CHILD_TIMED_OUT = _T.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TIMED_OUT
_CHILD_TERMINATED = _T.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TERMINATED
_SIGNAL_INITIATED = _T.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED
_SIGNAL_FAILED = _T.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED
_SIGNAL_DELIVERED = _T.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_SIGNALED
_CANCEL_INITIATED = _T.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED
_CANCEL_FAILED = _T.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED
_CANCEL_DELIVERED = _T.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_CANCEL_REQUESTED


def child_initiated(
    event_id: int,
    at_ms: int,
    request: m.StartWorkflowExecutionRequest,
    command: m.StartChildWorkflowExecutionCommandAttributes,
    completed_event_id: int,
) -> m.HistoryEvent:
    """`request` is what starts the child: the command with every default filled in."""
    event = new_event(event_id, at_ms, _CHILD_INITIATED)
    attributes = event.start_child_workflow_execution_initiated_event_attributes
    attributes.namespace = request.namespace
    attributes.workflow_id = request.workflow_id
    attributes.workflow_type.CopyFrom(request.workflow_type)
    attributes.task_queue.CopyFrom(request.task_queue)
    attributes.workflow_execution_timeout.CopyFrom(request.workflow_execution_timeout)
    attributes.workflow_run_timeout.CopyFrom(request.workflow_run_timeout)
    attributes.workflow_task_timeout.CopyFrom(request.workflow_task_timeout)
    attributes.parent_close_policy = command.parent_close_policy or _TERMINATE
    attributes.control = command.control
    attributes.workflow_id_reuse_policy = request.workflow_id_reuse_policy
    attributes.cron_schedule = request.cron_schedule
    attributes.workflow_task_completed_event_id = completed_event_id
    for name in ("input", "retry_policy", "header", "memo", "search_attributes", "priority", "versioning_override"):
        if request.HasField(name):
            getattr(attributes, name).CopyFrom(getattr(request, name))
    return event


def child_start_failed(
    event_id: int,
    at_ms: int,
    namespace: str,
    workflow_id: str,
    workflow_type: str,
    cause: m.StartChildWorkflowExecutionFailedCause.ValueType,
    initiated_event_id: int,
) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _CHILD_START_FAILED)
    attributes = event.start_child_workflow_execution_failed_event_attributes
    attributes.namespace = namespace
    attributes.workflow_id = workflow_id
    attributes.workflow_type.name = workflow_type
    attributes.cause = cause
    attributes.initiated_event_id = initiated_event_id
    return event


def child_started(
    event_id: int,
    at_ms: int,
    namespace: str,
    workflow_id: str,
    run_id: str,
    workflow_type: str,
    initiated_event_id: int,
    header: m.Header | None,
) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _CHILD_STARTED)
    attributes = event.child_workflow_execution_started_event_attributes
    attributes.namespace = namespace
    attributes.workflow_execution.workflow_id = workflow_id
    attributes.workflow_execution.run_id = run_id
    attributes.workflow_type.name = workflow_type
    attributes.initiated_event_id = initiated_event_id
    if header is not None:
        attributes.header.CopyFrom(header)
    return event


class ChildReference(NamedTuple):
    """What every closing event of a child says about which child it was."""

    namespace: str
    workflow_id: str
    run_id: str
    workflow_type: str
    initiated_event_id: int
    started_event_id: int


_ChildClosing = (
    m.ChildWorkflowExecutionCompletedEventAttributes
    | m.ChildWorkflowExecutionFailedEventAttributes
    | m.ChildWorkflowExecutionCanceledEventAttributes
    | m.ChildWorkflowExecutionTimedOutEventAttributes
    | m.ChildWorkflowExecutionTerminatedEventAttributes
)


def _refer_to_child(attributes: _ChildClosing, child: ChildReference) -> None:
    attributes.namespace = child.namespace
    attributes.workflow_execution.workflow_id = child.workflow_id
    attributes.workflow_execution.run_id = child.run_id
    attributes.workflow_type.name = child.workflow_type
    attributes.initiated_event_id = child.initiated_event_id
    attributes.started_event_id = child.started_event_id


def child_completed(event_id: int, at_ms: int, child: ChildReference, closing: m.HistoryEvent) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _CHILD_COMPLETED)
    attributes = event.child_workflow_execution_completed_event_attributes
    _refer_to_child(attributes, child)
    source = closing.workflow_execution_completed_event_attributes
    if source.HasField("result"):
        attributes.result.CopyFrom(source.result)
    return event


def child_failed(event_id: int, at_ms: int, child: ChildReference, closing: m.HistoryEvent) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _CHILD_FAILED)
    attributes = event.child_workflow_execution_failed_event_attributes
    _refer_to_child(attributes, child)
    source = closing.workflow_execution_failed_event_attributes
    attributes.failure.CopyFrom(source.failure)
    attributes.retry_state = source.retry_state
    return event


def child_canceled(event_id: int, at_ms: int, child: ChildReference, closing: m.HistoryEvent) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _CHILD_CANCELED)
    attributes = event.child_workflow_execution_canceled_event_attributes
    _refer_to_child(attributes, child)
    source = closing.workflow_execution_canceled_event_attributes
    if source.HasField("details"):
        attributes.details.CopyFrom(source.details)
    return event


def child_timed_out(event_id: int, at_ms: int, child: ChildReference, closing: m.HistoryEvent) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _CHILD_TIMED_OUT)
    attributes = event.child_workflow_execution_timed_out_event_attributes
    _refer_to_child(attributes, child)
    attributes.retry_state = closing.workflow_execution_timed_out_event_attributes.retry_state
    return event


def child_terminated(event_id: int, at_ms: int, child: ChildReference, closing: m.HistoryEvent) -> m.HistoryEvent:
    """`closing` says nothing that the parent learns; it is taken so that the five closings are built alike."""
    event = new_event(event_id, at_ms, _CHILD_TERMINATED)
    _refer_to_child(event.child_workflow_execution_terminated_event_attributes, child)
    return event


# Signals and cancels to other runs


def external_signal_initiated(
    event_id: int,
    at_ms: int,
    namespace: str,
    command: m.SignalExternalWorkflowExecutionCommandAttributes,
    completed_event_id: int,
) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _SIGNAL_INITIATED)
    attributes = event.signal_external_workflow_execution_initiated_event_attributes
    attributes.workflow_task_completed_event_id = completed_event_id
    attributes.namespace = namespace
    attributes.workflow_execution.CopyFrom(command.execution)
    attributes.signal_name = command.signal_name
    attributes.control = command.control
    attributes.child_workflow_only = command.child_workflow_only
    if command.HasField("input"):
        attributes.input.CopyFrom(command.input)
    if command.HasField("header"):
        attributes.header.CopyFrom(command.header)
    return event


def external_cancel_initiated(
    event_id: int,
    at_ms: int,
    namespace: str,
    command: m.RequestCancelExternalWorkflowExecutionCommandAttributes,
    completed_event_id: int,
) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _CANCEL_INITIATED)
    attributes = event.request_cancel_external_workflow_execution_initiated_event_attributes
    attributes.workflow_task_completed_event_id = completed_event_id
    attributes.namespace = namespace
    attributes.workflow_execution.workflow_id = command.workflow_id
    attributes.workflow_execution.run_id = command.run_id
    attributes.control = command.control
    attributes.child_workflow_only = command.child_workflow_only
    attributes.reason = command.reason
    return event


class ExternalReference(NamedTuple):
    """Which signal or cancel to which run an outcome speaks of."""

    initiated_event_id: int
    namespace: str
    workflow_id: str
    run_id: str
    control: str


def external_signal_delivered(event_id: int, at_ms: int, target: ExternalReference) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _SIGNAL_DELIVERED)
    attributes = event.external_workflow_execution_signaled_event_attributes
    attributes.initiated_event_id = target.initiated_event_id
    attributes.namespace = target.namespace
    attributes.workflow_execution.workflow_id = target.workflow_id
    attributes.workflow_execution.run_id = target.run_id
    attributes.control = target.control
    return event


def external_signal_failed(
    event_id: int,
    at_ms: int,
    target: ExternalReference,
    cause: m.SignalExternalWorkflowExecutionFailedCause.ValueType,
) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _SIGNAL_FAILED)
    attributes = event.signal_external_workflow_execution_failed_event_attributes
    attributes.cause = cause
    attributes.initiated_event_id = target.initiated_event_id
    attributes.namespace = target.namespace
    attributes.workflow_execution.workflow_id = target.workflow_id
    attributes.workflow_execution.run_id = target.run_id
    attributes.control = target.control
    return event


def external_cancel_delivered(event_id: int, at_ms: int, target: ExternalReference) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _CANCEL_DELIVERED)
    attributes = event.external_workflow_execution_cancel_requested_event_attributes
    attributes.initiated_event_id = target.initiated_event_id
    attributes.namespace = target.namespace
    attributes.workflow_execution.workflow_id = target.workflow_id
    attributes.workflow_execution.run_id = target.run_id
    return event


def external_cancel_failed(
    event_id: int,
    at_ms: int,
    target: ExternalReference,
    cause: m.CancelExternalWorkflowExecutionFailedCause.ValueType,
) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _CANCEL_FAILED)
    attributes = event.request_cancel_external_workflow_execution_failed_event_attributes
    attributes.cause = cause
    attributes.initiated_event_id = target.initiated_event_id
    attributes.namespace = target.namespace
    attributes.workflow_execution.workflow_id = target.workflow_id
    attributes.workflow_execution.run_id = target.run_id
    attributes.control = target.control
    return event
