"""Commands about Nexus operations: schedule one, ask for one to be cancelled."""

from __future__ import annotations

from typing import NamedTuple

from perdure.api import messages as m
from perdure.engine.history import deadlines, events_nexus, evolve_nexus, pending
from perdure.engine.history.planning import BadCommand, Plan, at_limit, check_name, check_size, check_span, write
from perdure.engine.history.recording import append
from perdure.engine.history.state import NexusItem, Run
from perdure.engine.history.transition import Transition

_C = m.WorkflowTaskFailedCause
_BAD = _C.WORKFLOW_TASK_FAILED_CAUSE_BAD_SCHEDULE_NEXUS_OPERATION_ATTRIBUTES
_BAD_CANCEL = _C.WORKFLOW_TASK_FAILED_CAUSE_BAD_REQUEST_CANCEL_NEXUS_OPERATION_ATTRIBUTES
_T = m.EventType

_CLOSINGS: dict[int, str] = {
    _T.EVENT_TYPE_NEXUS_OPERATION_COMPLETED: "nexus_operation_completed_event_attributes",
    _T.EVENT_TYPE_NEXUS_OPERATION_FAILED: "nexus_operation_failed_event_attributes",
    _T.EVENT_TYPE_NEXUS_OPERATION_CANCELED: "nexus_operation_canceled_event_attributes",
    _T.EVENT_TYPE_NEXUS_OPERATION_TIMED_OUT: "nexus_operation_timed_out_event_attributes",
}


class Prepared(NamedTuple):
    """What checking the command of an operation has found."""

    endpoint_id: str
    schedule_to_close_ms: int
    schedule_to_start_ms: int
    start_to_close_ms: int


def _capped(span_ms: int, most_ms: int) -> int:
    return min(span_ms or most_ms, most_ms) if most_ms else span_ms


def check_schedule(plan: Plan, attributes: m.ScheduleNexusOperationCommandAttributes) -> Prepared:
    check_name(plan, attributes.endpoint, "Endpoint", _BAD)
    check_name(plan, attributes.service, "Service", _BAD)
    check_name(plan, attributes.operation, "Operation", _BAD)
    close_ms = check_span(attributes.schedule_to_close_timeout, "ScheduleToCloseTimeout", _BAD)
    start_ms = check_span(attributes.schedule_to_start_timeout, "ScheduleToStartTimeout", _BAD)
    run_ms = check_span(attributes.start_to_close_timeout, "StartToCloseTimeout", _BAD)
    check_size(plan, attributes.input, "ScheduleNexusOperationCommandAttributes.Input", _BAD)
    header = attributes.nexus_header
    if sum(len(name) + len(value) for name, value in header.items()) > plan.limits.nexus_header_bytes:
        raise BadCommand(
            _BAD,
            "ScheduleNexusOperationCommandAttributes.NexusHeader exceeds size limit of"
            f" {plan.limits.nexus_header_bytes} bytes.",
        )
    endpoint_id = (plan.endpoints or {}).get(attributes.endpoint)
    if endpoint_id is None:
        raise BadCommand(_BAD, f'endpoint "{attributes.endpoint}" not found')
    plan.nexus += 1
    if len(plan.run.live.nexus_ids) + plan.nexus > plan.limits.pending_nexus_operations:
        raise BadCommand(
            _C.WORKFLOW_TASK_FAILED_CAUSE_PENDING_NEXUS_OPERATIONS_LIMIT_EXCEEDED,
            at_limit("pending Nexus operations", plan.limits.pending_nexus_operations, "pending_nexus_operations"),
        )
    close_ms = _capped(close_ms, plan.run.state.run_timeout_ms)
    if close_ms:
        start_ms = min(start_ms, close_ms)
        run_ms = min(run_ms, close_ms)
    return Prepared(endpoint_id, close_ms, start_ms, run_ms)


def schedule(
    plan: Plan,
    transition: Transition,
    command: m.Command,
    attributes: m.ScheduleNexusOperationCommandAttributes,
    prepared: Prepared,
) -> None:
    run = plan.run
    item = NexusItem(
        run.state.next_event_id,
        attributes.endpoint,
        prepared.endpoint_id,
        attributes.service,
        attributes.operation,
        plan.new_id(),
        plan.now_ms,
        prepared.schedule_to_close_ms,
        prepared.schedule_to_start_ms,
        prepared.start_to_close_ms,
    )
    event = events_nexus.operation_scheduled(item, plan.now_ms, attributes, plan.completed_event_id)
    write(transition, command, event)
    pending.add_nexus(run, item)
    deadlines.push_nexus(run, item)
    transition.activities.append(item.event_id)


def check_cancel(plan: Plan, attributes: m.RequestCancelNexusOperationCommandAttributes) -> None:
    event_id = attributes.scheduled_event_id
    item = plan.run.state.items.get(event_id)
    if not isinstance(item, NexusItem) and not _end_is_buffered(plan.run, event_id):
        raise BadCommand(
            _BAD_CANCEL,
            f"requested cancelation for a non-existing operation with scheduled event ID of {event_id}",
        )
    asked = isinstance(item, NexusItem) and item.cancel_requested_event_id
    if asked or event_id in plan.cancelled_nexus:
        raise BadCommand(
            _BAD_CANCEL, f"cancelation was already requested for an operation with scheduled event ID {event_id}"
        )
    plan.cancelled_nexus.add(event_id)


def cancel(
    plan: Plan,
    transition: Transition,
    command: m.Command,
    attributes: m.RequestCancelNexusOperationCommandAttributes,
    _: None,
) -> None:
    run = plan.run
    event_id = run.state.next_event_id
    scheduled_id = attributes.scheduled_event_id
    append(transition, events_nexus.cancel_requested(event_id, plan.now_ms, scheduled_id, plan.completed_event_id))
    item = run.state.items.get(scheduled_id)
    if not isinstance(item, NexusItem):
        return  # It has ended, and the workflow will see that after this task.
    evolve_nexus.apply_cancel_requested(item, event_id, plan.now_ms, plan.completed_event_id)
    pending.touch(run, scheduled_id)
    deadlines.push_nexus(run, item)
    if item.started_at_ms:
        transition.activities.append(scheduled_id)


def _end_is_buffered(run: Run, scheduled_event_id: int) -> bool:
    for data in run.state.buffered:
        event = m.HistoryEvent.FromString(data)
        name = _CLOSINGS.get(event.event_type)
        if name is not None and getattr(event, name).scheduled_event_id == scheduled_event_id:
            return True
    return False
