"""Activity executions as messages."""

from __future__ import annotations

from perdure.api import messages as m
from perdure.api.durations import set_duration_ms, set_timestamp_ms
from perdure.engine import history
from perdure.engine.visibility.attributes import NAMESPACE_DIVISION

__all__ = ["describe", "listed", "options"]

_Status = m.ActivityExecutionStatus
_State = m.PendingActivityState
_Run = m.WorkflowExecutionStatus

STATUSES: dict[int, m.ActivityExecutionStatus.ValueType] = {
    _Run.WORKFLOW_EXECUTION_STATUS_RUNNING: _Status.ACTIVITY_EXECUTION_STATUS_RUNNING,
    _Run.WORKFLOW_EXECUTION_STATUS_COMPLETED: _Status.ACTIVITY_EXECUTION_STATUS_COMPLETED,
    _Run.WORKFLOW_EXECUTION_STATUS_FAILED: _Status.ACTIVITY_EXECUTION_STATUS_FAILED,
    _Run.WORKFLOW_EXECUTION_STATUS_CANCELED: _Status.ACTIVITY_EXECUTION_STATUS_CANCELED,
    _Run.WORKFLOW_EXECUTION_STATUS_TERMINATED: _Status.ACTIVITY_EXECUTION_STATUS_TERMINATED,
    _Run.WORKFLOW_EXECUTION_STATUS_TIMED_OUT: _Status.ACTIVITY_EXECUTION_STATUS_TIMED_OUT,
}
"""Status of a run → of an activity execution."""


def _state(run: history.Run, item: history.ActivityItem) -> m.PendingActivityState.ValueType:
    if not run.is_open:
        return _State.PENDING_ACTIVITY_STATE_UNSPECIFIED
    if item.cancel_requested_event_id:
        return _State.PENDING_ACTIVITY_STATE_CANCEL_REQUESTED
    held = history.is_activity_held(run)
    if item.paused:
        return _State.PENDING_ACTIVITY_STATE_PAUSE_REQUESTED if held else _State.PENDING_ACTIVITY_STATE_PAUSED
    return _State.PENDING_ACTIVITY_STATE_STARTED if held else _State.PENDING_ACTIVITY_STATE_SCHEDULED


def describe(
    run: history.Run, scheduled: m.ActivityTaskScheduledEventAttributes, now_ms: int
) -> m.ActivityExecutionInfo:
    """All there is to know of an activity execution; `scheduled` is of the event that scheduled it."""
    state = run.state
    item = history.activity_item_of(run)
    facts = history.activity_facts_of(run)
    info = m.ActivityExecutionInfo(
        activity_id=item.activity_id,
        run_id=state.run_id,
        status=STATUSES[state.status],
        run_state=_state(run, item),
        task_queue=item.task_queue,
        attempt=item.shown_attempt,
        canceled_reason=facts.cancel_reason,
        total_heartbeat_count=facts.heartbeats,
        state_transition_count=state.state_transitions,
        state_size_bytes=state.history_bytes,
    )
    if info.run_state == _State.PENDING_ACTIVITY_STATE_PAUSED:
        info.status = _Status.ACTIVITY_EXECUTION_STATUS_PAUSED
    info.activity_type.name = item.activity_type
    if scheduled.HasField("header"):
        info.header.CopyFrom(scheduled.header)
    if state.user_metadata:
        info.user_metadata.MergeFromString(state.user_metadata)
    if state.search_attributes:
        info.search_attributes.MergeFromString(state.search_attributes)
    held_options = options(run)
    for name in ("retry_policy", "priority", *_SPANS):
        if held_options.HasField(name):
            getattr(info, name).CopyFrom(getattr(held_options, name))
    _add_times(info, run, item, facts)
    _add_attempts(info, run, item, now_ms)
    return info


_SPANS = (
    "schedule_to_close_timeout",
    "schedule_to_start_timeout",
    "start_to_close_timeout",
    "heartbeat_timeout",
    "start_delay",
)


def options(run: history.Run) -> m.ActivityOptions:
    """The options that hold."""
    held = history.activity_options_of(history.activity_item_of(run))
    set_duration_ms(held.start_delay, history.activity_facts_of(run).delay_ms)
    return held


def _add_times(
    info: m.ActivityExecutionInfo, run: history.Run, item: history.ActivityItem, facts: history.Standalone
) -> None:
    state = run.state
    set_timestamp_ms(info.schedule_time, state.start_ms)
    set_timestamp_ms(info.execution_time, state.start_ms + facts.delay_ms)
    if item.schedule_to_close_ms:
        set_timestamp_ms(info.expiration_time, item.scheduled_at_ms + item.schedule_to_close_ms)
    if not run.is_open:
        set_timestamp_ms(info.close_time, state.close_ms)
        set_duration_ms(info.execution_duration, max(0, state.close_ms - state.start_ms))


def _add_attempts(info: m.ActivityExecutionInfo, run: history.Run, item: history.ActivityItem, now_ms: int) -> None:
    """How its attempts have gone."""
    held = run.live.activities.get(item.event_id)
    started_at_ms = held.started_at_ms if held is not None else item.last_started_at_ms
    if started_at_ms:
        set_timestamp_ms(info.last_started_time, started_at_ms)
    info.last_worker_identity = held.identity if held is not None else item.last_worker_identity
    if item.heartbeat_details:
        info.heartbeat_details.MergeFromString(item.heartbeat_details)
    if item.last_heartbeat_at_ms:
        set_timestamp_ms(info.last_heartbeat_time, item.last_heartbeat_at_ms)
    if item.last_failure:
        info.last_failure.MergeFromString(item.last_failure)
    if item.last_ended_at_ms:
        set_timestamp_ms(info.last_attempt_complete_time, item.last_ended_at_ms)
        if item.next_attempt_at_ms > now_ms and not item.paused:
            set_timestamp_ms(info.next_attempt_schedule_time, item.next_attempt_at_ms)
            set_duration_ms(info.current_retry_interval, item.next_attempt_at_ms - item.last_ended_at_ms)


def listed(run: m.WorkflowExecutionInfo) -> m.ActivityExecutionListInfo:
    """A line of a list, of the summary that lists of runs have."""
    info = m.ActivityExecutionListInfo(
        activity_id=run.execution.workflow_id,
        run_id=run.execution.run_id,
        status=STATUSES[run.status],
        task_queue=run.task_queue,
        state_transition_count=run.state_transition_count,
        state_size_bytes=run.history_size_bytes,
        schedule_time=run.start_time,
        execution_time=run.execution_time,
        search_attributes=run.search_attributes,
    )
    info.activity_type.name = run.type.name
    info.search_attributes.indexed_fields.pop(NAMESPACE_DIVISION, None)
    if run.HasField("close_time"):
        info.close_time.CopyFrom(run.close_time)
        duration_ms = run.close_time.ToMilliseconds() - run.start_time.ToMilliseconds()
        set_duration_ms(info.execution_duration, max(0, duration_ms))
    return info
