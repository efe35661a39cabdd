"""What of a state its history determines: the part that a fold must come to."""

from __future__ import annotations

from typing import Final

from msgspec import structs

from perdure.api import messages as m
from perdure.engine.history import evolve_nexus
from perdure.engine.history.state import ActivityItem, Item, NexusItem, RunState, UpdateBook

_NOT_IN_HISTORY: Final = frozenset(
    (
        "version",
        "namespace",
        "start_request_id",
        "retain_until_ms",
        "retention_ms",
        "deleted",
        "reset_run_id",
        "bases",
        "task_scheduled_at_ms",
        "task_attempt",
        "task_not_before_ms",
        "sticky_queue",
        "sticky_timeout_ms",
        "task_last_failure",
        "task_failure_cause",
        "cancel_request_ids",
        "signal_request_ids",
        "buffered",
        "next_message_seq",
        "outbox",
        "spilled",
        "items",
        "callbacks",
        "updates",
        "user_metadata",
        "state_transitions",
        "standalone",
    )
)
_FOLDED_FIELDS: Final = tuple(name for name in RunState.__struct_fields__ if name not in _NOT_IN_HISTORY)


def folded_view(state: RunState) -> object:
    """The part of a state that its history determines, as a value to compare."""
    view = {name: getattr(state, name) for name in _FOLDED_FIELDS}
    view["items"] = {event_id: _folded_item(item) for event_id, item in sorted(state.items.items())}
    view["callbacks"] = evolve_nexus.folded_callbacks(state)
    view["updates"] = _folded_updates(state.updates)
    view["transient"] = state.task_attempt > 1
    # The same attributes may have their maps written in another order.
    view["started_attributes"] = m.WorkflowExecutionStartedEventAttributes.FromString(state.started_attributes)
    if state.task_scheduled_event_id:
        view["task_scheduled_at_ms"] = 0 if state.task_attempt > 1 else state.task_scheduled_at_ms
    else:
        view["task_not_before_ms"] = state.task_not_before_ms
    return view


def _folded_updates(book: UpdateBook | None) -> object:
    """Without what is not in history: rejections, and where the row ends."""
    if book is None:
        return None
    admitted = {update_id: abs(event_id) for update_id, event_id in book.admitted.items()}
    return admitted, book.accepted, list(book.completed.items())


def _folded_item(item: Item) -> object:
    if isinstance(item, ActivityItem):
        changed = item.control.original if item.control is not None else None
        said = changed or item
        return (
            item.event_id,
            item.activity_id,
            item.activity_type,
            item.cancel_requested_event_id,
            said.task_queue,
            said.scheduled_at_ms,
            said.schedule_to_close_ms,
            said.schedule_to_start_ms,
            said.start_to_close_ms,
            said.heartbeat_ms,
            said.retry,
            said.priority,
        )
    return evolve_nexus.folded(item) if isinstance(item, NexusItem) else structs.asdict(item)
