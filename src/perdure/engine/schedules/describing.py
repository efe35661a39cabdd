"""What callers are shown of a schedule."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from perdure.api import messages as m
from perdure.api.durations import set_timestamp_ms
from perdure.engine.schedules.definition import Definition
from perdure.engine.schedules.state import Recent, State

__all__ = ["conflict_token", "describe", "future_ms", "list_entry"]

_FUTURE: Final = 10
_LISTED: Final = 5
"""Recent and future actions in a list's entry."""


def conflict_token(state: State) -> bytes:
    """What an update may bring back to say which version it is about."""
    return state.version.to_bytes(8, "big")


def future_ms(definition: Definition, state: State, now_ms: int, count: int = _FUTURE) -> list[int]:
    """The next instants of the spec, also of a schedule that is paused."""
    if state.limited:
        count = min(count, max(0, state.remaining))
    found = definition.times.acting_after(now_ms, count)
    return [each.actual_ms for each in found if each.nominal_ms > state.cursor_ms or each.actual_ms > now_ms]


def describe(definition: Definition, state: State, now_ms: int) -> m.DescribeScheduleResponse:
    """All there is to know. Raises RpcError DATA_LOSS."""
    message = definition.message
    response = m.DescribeScheduleResponse(conflict_token=conflict_token(state))
    response.schedule.CopyFrom(message.schedule)
    shown = response.schedule.state
    shown.notes = state.notes
    shown.paused = state.paused
    shown.limited_actions = state.limited
    shown.remaining_actions = state.remaining
    if message.HasField("memo"):
        response.memo.CopyFrom(message.memo)
    if message.HasField("search_attributes"):
        response.search_attributes.CopyFrom(message.search_attributes)
    info = response.info
    info.action_count = state.taken
    info.missed_catchup_window = state.missed
    info.overlap_skipped = state.skipped
    info.buffer_dropped = state.dropped
    info.buffer_size = len(state.buffer) + len(state.starting)
    for running in state.running:
        info.running_workflows.add(workflow_id=running.workflow_id, run_id=running.run_id)
    info.recent_actions.extend(_recent(state.recent))
    for at_ms in future_ms(definition, state, now_ms):
        set_timestamp_ms(info.future_action_times.add(), at_ms)
    set_timestamp_ms(info.create_time, state.created_ms)
    if state.updated_ms:
        set_timestamp_ms(info.update_time, state.updated_ms)
    info.state_size_bytes = len(definition.row) + len(state.last_result or b"") + len(state.failure or b"")
    return response


def list_entry(definition: Definition, state: State, now_ms: int) -> m.ScheduleListEntry:
    """A schedule in a list. Raises RpcError DATA_LOSS."""
    message = definition.message
    entry = m.ScheduleListEntry(schedule_id=message.schedule_id)
    if message.HasField("memo"):
        entry.memo.CopyFrom(message.memo)
    if message.HasField("search_attributes"):
        entry.search_attributes.CopyFrom(message.search_attributes)
    info = entry.info
    info.spec.CopyFrom(message.schedule.spec)
    info.spec.ClearField("timezone_data")
    info.workflow_type.CopyFrom(message.schedule.action.start_workflow.workflow_type)
    info.notes = state.notes
    info.paused = state.paused
    info.recent_actions.extend(_recent(state.recent[-_LISTED:]))
    for at_ms in future_ms(definition, state, now_ms, _LISTED):
        set_timestamp_ms(info.future_action_times.add(), at_ms)
    info.state_size_bytes = len(definition.row)
    return entry


def _recent(actions: Iterable[Recent]) -> Iterable[m.ScheduleActionResult]:
    for action in actions:
        shown = m.ScheduleActionResult(start_workflow_status=m.WorkflowExecutionStatus.ValueType(action.status))
        set_timestamp_ms(shown.schedule_time, action.scheduled_ms)
        set_timestamp_ms(shown.actual_time, action.actual_ms)
        shown.start_workflow_result.workflow_id = action.workflow_id
        shown.start_workflow_result.run_id = action.run_id
        yield shown
