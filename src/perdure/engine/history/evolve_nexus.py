"""How Nexus operations and completion callbacks change the state of a run: the part of `evolve` about them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from perdure.api import messages as m
from perdure.api.durations import duration_ms
from perdure.engine.history.state import CallbackItem, NexusItem, RunState

_T = m.EventType
_CANCEL_STATE = m.NexusOperationCancellationState


def nexus_item(event_id: int, at_ms: int, attributes: m.NexusOperationScheduledEventAttributes) -> NexusItem:
    """An operation as its Scheduled event describes it."""
    return NexusItem(
        event_id,
        attributes.endpoint,
        attributes.endpoint_id,
        attributes.service,
        attributes.operation,
        attributes.request_id,
        at_ms,
        duration_ms(attributes.schedule_to_close_timeout),
        duration_ms(attributes.schedule_to_start_timeout),
        duration_ms(attributes.start_to_close_timeout),
    )


def folded(item: NexusItem) -> object:
    """What a history tells of an operation."""
    return (
        item.event_id,
        item.endpoint,
        item.endpoint_id,
        item.service,
        item.operation,
        item.request_id,
        item.scheduled_at_ms,
        item.schedule_to_close_ms,
        item.schedule_to_start_ms,
        item.start_to_close_ms,
        item.token,
        item.started_at_ms,
        item.cancel_requested_event_id,
        item.cancel_requested_at_ms,
        item.cancel_task_completed_event_id,
        item.cancel_state,
    )


def apply_callbacks(state: RunState, callbacks: Iterable[m.Callback], at_ms: int, update_id: str = "") -> None:
    """A request that starts the workflow, or finds it running, or updates it, leaves its callbacks."""
    new = [
        CallbackItem(callback.SerializeToString(deterministic=True), at_ms, update_id=update_id)
        for callback in callbacks
    ]
    if new:
        state.callbacks = [*(state.callbacks or ()), *new]


def folded_callbacks(state: RunState) -> object:
    """What a history tells of the callbacks."""
    return [(item.callback, item.registered_at_ms, item.update_id) for item in state.callbacks or ()]


def apply_update(state: RunState, request: m.Request, at_ms: int) -> None:
    """An update is in the history, with whom to tell how it ends."""
    if request.completion_callbacks:
        apply_callbacks(state, request.completion_callbacks, at_ms, request.meta.update_id)


def apply_options(state: RunState, attributes: m.WorkflowExecutionOptionsUpdatedEventAttributes, at_ms: int) -> None:
    """Callbacks that were attached to the workflow, or to its updates."""
    apply_callbacks(state, attributes.attached_completion_callbacks, at_ms)
    for asked in attributes.workflow_update_options:
        apply_callbacks(state, asked.attached_completion_callbacks, at_ms, asked.update_id)


def _scheduled(state: RunState, event_id: int, at_ms: int, attributes: Any) -> None:
    state.items[event_id] = nexus_item(event_id, at_ms, attributes)


def _started(state: RunState, event_id: int, at_ms: int, attributes: Any) -> None:
    item = state.items.get(attributes.scheduled_event_id)
    if isinstance(item, NexusItem):
        item.token = attributes.operation_token or attributes.operation_id
        item.started_at_ms = at_ms


def _closed(state: RunState, event_id: int, at_ms: int, attributes: Any) -> None:
    state.items.pop(attributes.scheduled_event_id, None)


def apply_cancel_requested(item: NexusItem, event_id: int, at_ms: int, completed_event_id: int) -> None:
    item.cancel_requested_event_id = event_id
    item.cancel_requested_at_ms = at_ms
    item.cancel_task_completed_event_id = completed_event_id


def _cancel_requested(state: RunState, event_id: int, at_ms: int, attributes: Any) -> None:
    item = state.items.get(attributes.scheduled_event_id)
    if isinstance(item, NexusItem):
        apply_cancel_requested(item, event_id, at_ms, attributes.workflow_task_completed_event_id)


def _cancel_ended(cancel_state: int) -> Effect:
    def apply(state: RunState, event_id: int, at_ms: int, attributes: Any) -> None:
        item = state.items.get(attributes.scheduled_event_id)
        if isinstance(item, NexusItem):
            item.cancel_state = cancel_state

    return apply


Effect = Callable[[RunState, int, int, Any], None]

EFFECTS: Final[tuple[tuple[m.EventType.ValueType, Effect], ...]] = (
    (_T.EVENT_TYPE_NEXUS_OPERATION_SCHEDULED, _scheduled),
    (_T.EVENT_TYPE_NEXUS_OPERATION_STARTED, _started),
    (_T.EVENT_TYPE_NEXUS_OPERATION_COMPLETED, _closed),
    (_T.EVENT_TYPE_NEXUS_OPERATION_FAILED, _closed),
    (_T.EVENT_TYPE_NEXUS_OPERATION_CANCELED, _closed),
    (_T.EVENT_TYPE_NEXUS_OPERATION_TIMED_OUT, _closed),
    (_T.EVENT_TYPE_NEXUS_OPERATION_CANCEL_REQUESTED, _cancel_requested),
    (
        _T.EVENT_TYPE_NEXUS_OPERATION_CANCEL_REQUEST_COMPLETED,
        _cancel_ended(_CANCEL_STATE.NEXUS_OPERATION_CANCELLATION_STATE_SUCCEEDED),
    ),
    (
        _T.EVENT_TYPE_NEXUS_OPERATION_CANCEL_REQUEST_FAILED,
        _cancel_ended(_CANCEL_STATE.NEXUS_OPERATION_CANCELLATION_STATE_FAILED),
    ),
)
"""What each event does."""
