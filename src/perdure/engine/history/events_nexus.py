"""Builders of the events of Nexus operations.

Same rules as `events`: one function an event type, an id of 0 is left unset, values that are messages are copied. The
closing events carry a failure that names the operation and has what went wrong as its cause.
"""

from __future__ import annotations

from collections.abc import Iterable

from perdure.api import messages as m
from perdure.api.durations import set_duration_ms
from perdure.engine.history.events import new_event
from perdure.engine.history.state import NexusItem

_T = m.EventType
_UNSUCCESSFUL = "nexus operation completed unsuccessfully"


def operation_scheduled(
    item: NexusItem, at_ms: int, command: m.ScheduleNexusOperationCommandAttributes, completed_event_id: int
) -> m.HistoryEvent:
    """`item` is the command with every default filled in."""
    event = new_event(item.event_id, at_ms, _T.EVENT_TYPE_NEXUS_OPERATION_SCHEDULED)
    attributes = event.nexus_operation_scheduled_event_attributes
    attributes.endpoint = item.endpoint
    attributes.endpoint_id = item.endpoint_id
    attributes.service = item.service
    attributes.operation = item.operation
    attributes.request_id = item.request_id
    attributes.workflow_task_completed_event_id = completed_event_id
    if command.HasField("input"):
        attributes.input.CopyFrom(command.input)
    for name, value in command.nexus_header.items():
        attributes.nexus_header[name.lower()] = value
    for target, span_ms in (
        (attributes.schedule_to_close_timeout, item.schedule_to_close_ms),
        (attributes.schedule_to_start_timeout, item.schedule_to_start_ms),
        (attributes.start_to_close_timeout, item.start_to_close_ms),
    ):
        if span_ms:
            set_duration_ms(target, span_ms)
    return event


def operation_started(
    event_id: int, at_ms: int, item: NexusItem, token: str, links: Iterable[m.Link]
) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _T.EVENT_TYPE_NEXUS_OPERATION_STARTED)
    attributes = event.nexus_operation_started_event_attributes
    attributes.scheduled_event_id = item.event_id
    attributes.operation_id = token
    attributes.operation_token = token
    attributes.request_id = item.request_id
    event.links.extend(links)
    return event


def operation_completed(
    event_id: int, at_ms: int, item: NexusItem, result: m.Payload | None, links: Iterable[m.Link]
) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _T.EVENT_TYPE_NEXUS_OPERATION_COMPLETED)
    attributes = event.nexus_operation_completed_event_attributes
    attributes.scheduled_event_id = item.event_id
    attributes.request_id = item.request_id
    if result is not None:
        attributes.result.CopyFrom(result)
    event.links.extend(links)
    return event


def operation_failed(
    event_id: int, at_ms: int, item: NexusItem, cause: m.Failure, links: Iterable[m.Link] = ()
) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _T.EVENT_TYPE_NEXUS_OPERATION_FAILED)
    attributes = event.nexus_operation_failed_event_attributes
    attributes.scheduled_event_id = item.event_id
    attributes.request_id = item.request_id
    _unsuccessful(attributes.failure, item, cause)
    event.links.extend(links)
    return event


def operation_canceled(
    event_id: int, at_ms: int, item: NexusItem, cause: m.Failure, links: Iterable[m.Link] = ()
) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _T.EVENT_TYPE_NEXUS_OPERATION_CANCELED)
    attributes = event.nexus_operation_canceled_event_attributes
    attributes.scheduled_event_id = item.event_id
    attributes.request_id = item.request_id
    _unsuccessful(attributes.failure, item, cause)
    event.links.extend(links)
    return event


def operation_timed_out(event_id: int, at_ms: int, item: NexusItem, cause: m.Failure) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _T.EVENT_TYPE_NEXUS_OPERATION_TIMED_OUT)
    attributes = event.nexus_operation_timed_out_event_attributes
    attributes.scheduled_event_id = item.event_id
    attributes.request_id = item.request_id
    _unsuccessful(attributes.failure, item, cause)
    return event


def cancel_requested(event_id: int, at_ms: int, scheduled_event_id: int, completed_event_id: int) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _T.EVENT_TYPE_NEXUS_OPERATION_CANCEL_REQUESTED)
    attributes = event.nexus_operation_cancel_requested_event_attributes
    attributes.scheduled_event_id = scheduled_event_id
    attributes.workflow_task_completed_event_id = completed_event_id
    return event


def cancel_request_completed(event_id: int, at_ms: int, item: NexusItem) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _T.EVENT_TYPE_NEXUS_OPERATION_CANCEL_REQUEST_COMPLETED)
    attributes = event.nexus_operation_cancel_request_completed_event_attributes
    attributes.requested_event_id = item.cancel_requested_event_id
    attributes.workflow_task_completed_event_id = item.cancel_task_completed_event_id
    attributes.scheduled_event_id = item.event_id
    return event


def cancel_request_failed(event_id: int, at_ms: int, item: NexusItem, failure: m.Failure) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _T.EVENT_TYPE_NEXUS_OPERATION_CANCEL_REQUEST_FAILED)
    attributes = event.nexus_operation_cancel_request_failed_event_attributes
    attributes.requested_event_id = item.cancel_requested_event_id
    attributes.workflow_task_completed_event_id = item.cancel_task_completed_event_id
    attributes.scheduled_event_id = item.event_id
    attributes.failure.CopyFrom(failure)
    return event


def _unsuccessful(failure: m.Failure, item: NexusItem, cause: m.Failure) -> None:
    failure.message = _UNSUCCESSFUL
    info = failure.nexus_operation_execution_failure_info
    info.scheduled_event_id = item.event_id
    info.endpoint = item.endpoint
    info.service = item.service
    info.operation = item.operation
    info.operation_id = item.token
    info.operation_token = item.token
    failure.cause.CopyFrom(cause)
