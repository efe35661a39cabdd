"""The events of updates; as in `events`, an id of 0 is left unset."""

from __future__ import annotations

from perdure.api import messages as m
from perdure.engine.history.events import new_event

_T = m.EventType
_ADMITTED = _T.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED
_ACCEPTED = _T.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED
_COMPLETED = _T.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED


def update_admitted(
    event_id: int, at_ms: int, request: m.Request, origin: m.UpdateAdmittedEventOrigin.ValueType
) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _ADMITTED)
    attributes = event.workflow_execution_update_admitted_event_attributes
    attributes.request.CopyFrom(request)
    attributes.origin = origin
    return event


def update_accepted(
    event_id: int, at_ms: int, update_id: str, acceptance: m.Acceptance, request: m.Request | None
) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _ACCEPTED)
    attributes = event.workflow_execution_update_accepted_event_attributes
    attributes.protocol_instance_id = update_id
    attributes.accepted_request_message_id = acceptance.accepted_request_message_id
    attributes.accepted_request_sequencing_event_id = acceptance.accepted_request_sequencing_event_id
    if request is not None:
        attributes.accepted_request.CopyFrom(request)
    return event


def update_completed(
    event_id: int, at_ms: int, meta: m.Meta, accepted_event_id: int, outcome: m.Outcome
) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _COMPLETED)
    attributes = event.workflow_execution_update_completed_event_attributes
    attributes.meta.CopyFrom(meta)
    attributes.accepted_event_id = accepted_event_id
    attributes.outcome.CopyFrom(outcome)
    return event
