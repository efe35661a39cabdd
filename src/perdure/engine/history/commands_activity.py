"""Commands for activities: schedule one, ask one to cancel."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from perdure.api import messages as m
from perdure.engine.history import deadlines, events, evolve, failures, frames, pending, retrying
from perdure.engine.history.planning import (
    BadCommand,
    Plan,
    check_name,
    check_policy,
    check_size,
    check_span,
    write,
)
from perdure.engine.history.recording import append_frame
from perdure.engine.history.state import ActivityItem, Run
from perdure.engine.history.transition import Transition

_NOT_STARTED: Final = "ACTIVITY_ID_NOT_STARTED"

_C = m.WorkflowTaskFailedCause
_BAD_ACTIVITY = _C.WORKFLOW_TASK_FAILED_CAUSE_BAD_SCHEDULE_ACTIVITY_ATTRIBUTES
_BAD_ACTIVITY_CANCEL = _C.WORKFLOW_TASK_FAILED_CAUSE_BAD_REQUEST_CANCEL_ACTIVITY_ATTRIBUTES


class _ActivityPlan(Struct):
    """What a check has read from the command, so that it is read once."""

    activity_id: str
    activity_type: str
    task_queue: str
    timeouts_ms: tuple[int, int, int, int]
    policy: retrying.Policy
    adjusted: bool


def check_schedule_activity(plan: Plan, attributes: m.ScheduleActivityTaskCommandAttributes) -> _ActivityPlan:
    activity_id = attributes.activity_id
    activity_type = attributes.activity_type.name
    task_queue = attributes.task_queue.name
    check_name(plan, activity_id, "ActivityId", _BAD_ACTIVITY)
    check_name(plan, activity_type, "ActivityType", _BAD_ACTIVITY)
    if task_queue:
        check_name(plan, task_queue, "TaskQueue", _BAD_ACTIVITY)
    known = plan.run.live.activity_ids
    if activity_id in plan.activity_ids or (
        activity_id in known and known[activity_id] not in plan.cancelled_activities
    ):
        raise BadCommand(
            _C.WORKFLOW_TASK_FAILED_CAUSE_SCHEDULE_ACTIVITY_DUPLICATE_ID,
            f"an activity with id {activity_id!r} is pending already.",
        )
    if len(known) + len(plan.activity_ids) >= plan.limits.pending_activities:
        raise BadCommand(
            _C.WORKFLOW_TASK_FAILED_CAUSE_PENDING_ACTIVITIES_LIMIT_EXCEEDED,
            f"the number of pending activities has reached the limit of {plan.limits.pending_activities}.",
        )
    if plan.oversize:
        check_size(plan, attributes.input, "ScheduleActivityTaskCommandAttributes.Input", _BAD_ACTIVITY)
        check_size(plan, attributes.header, "ScheduleActivityTaskCommandAttributes.Header", _BAD_ACTIVITY)
    has = attributes.HasField
    policy = check_policy(attributes.retry_policy, _BAD_ACTIVITY) if has("retry_policy") else retrying.DEFAULT
    given = (
        check_span(attributes.schedule_to_close_timeout, "ScheduleToCloseTimeout", _BAD_ACTIVITY)
        if has("schedule_to_close_timeout")
        else 0,
        check_span(attributes.schedule_to_start_timeout, "ScheduleToStartTimeout", _BAD_ACTIVITY)
        if has("schedule_to_start_timeout")
        else 0,
        check_span(attributes.start_to_close_timeout, "StartToCloseTimeout", _BAD_ACTIVITY)
        if has("start_to_close_timeout")
        else 0,
        check_span(attributes.heartbeat_timeout, "HeartbeatTimeout", _BAD_ACTIVITY) if has("heartbeat_timeout") else 0,
    )
    timeouts_ms = _activity_timeouts(given, plan.run.state.run_timeout_ms)
    plan.activity_ids.add(activity_id)
    return _ActivityPlan(activity_id, activity_type, task_queue, timeouts_ms, policy, timeouts_ms != given)


def _activity_timeouts(given: tuple[int, int, int, int], run_timeout_ms: int) -> tuple[int, int, int, int]:
    """The timeouts that hold: each bounded by the longer ones and by the run's; missing ones deduced."""
    to_close, to_start, start_to_close, heartbeat = given
    if start_to_close and not (to_close or run_timeout_ms):
        if heartbeat <= start_to_close:
            return given
    elif to_close:
        to_start = min(to_start or to_close, to_close)
        start_to_close = min(start_to_close or to_close, to_close)
    elif start_to_close:
        to_close = run_timeout_ms
        to_start = to_start or run_timeout_ms
    else:
        raise BadCommand(_BAD_ACTIVITY, "a valid StartToClose or ScheduleToCloseTimeout is not set on command.")
    if run_timeout_ms:
        to_close = min(to_close, run_timeout_ms)
        to_start = min(to_start, run_timeout_ms)
        start_to_close = min(start_to_close, run_timeout_ms)
    return to_close, to_start, start_to_close, min(heartbeat, start_to_close)


def schedule_activity(
    plan: Plan,
    transition: Transition,
    command: m.Command,
    attributes: m.ScheduleActivityTaskCommandAttributes,
    prepared: _ActivityPlan,
) -> None:
    run = plan.run
    state = run.state
    event_id = state.next_event_id
    now_ms = plan.now_ms
    policy = prepared.policy
    task_queue = prepared.task_queue
    if prepared.adjusted or not task_queue or command.HasField("user_metadata") or command.event_group_markers:
        task_queue = task_queue or state.task_queue
        event = events.activity_scheduled(event_id, now_ms, attributes, policy.message, plan.completed_event_id)
        events.set_activity_timeouts(event, prepared.timeouts_ms)
        events.set_activity_queue(event, task_queue)
        write(transition, command, event)
    else:
        body = frames.activity_scheduled(event_id, now_ms, attributes, policy.data, plan.completed_event_id)
        append_frame(transition, frames.framed(body))
        event = m.HistoryEvent.FromString(body)
    to_close, to_start, start_to_close, heartbeat = prepared.timeouts_ms
    item = ActivityItem(
        event_id,
        prepared.activity_id,
        prepared.activity_type,
        task_queue,
        now_ms,
        to_close,
        to_start,
        start_to_close,
        heartbeat,
        policy.retry,
        1,
        0,
        now_ms,
    )
    pending.add_activity(run, item)
    run.live.scheduled[event_id] = event
    transition.activities.append(event_id)
    if to_close or to_start:
        deadlines.push_activity(run, item)


def check_cancel_activity(plan: Plan, attributes: m.RequestCancelActivityTaskCommandAttributes) -> ActivityItem | None:
    event_id = attributes.scheduled_event_id
    item = plan.run.state.items.get(event_id)
    if isinstance(item, ActivityItem):
        if item.cancel_requested_event_id or event_id in plan.cancelled_activities:
            raise BadCommand(_BAD_ACTIVITY_CANCEL, f"activity {event_id} was asked to cancel already.")
        plan.cancelled_activities.add(event_id)
        return item
    if not _closing_is_buffered(plan.run, event_id):
        raise BadCommand(_BAD_ACTIVITY_CANCEL, f"no activity with scheduled event id {event_id} is pending.")
    return None


def _closing_is_buffered(run: Run, scheduled_event_id: int) -> bool:
    for data in run.state.buffered:
        event = m.HistoryEvent.FromString(data)
        applier = evolve.APPLIERS[event.event_type]
        if getattr(getattr(event, applier.attributes), "scheduled_event_id", 0) == scheduled_event_id:
            return True
    return False


def cancel_activity(
    plan: Plan,
    transition: Transition,
    command: m.Command,
    attributes: m.RequestCancelActivityTaskCommandAttributes,
    item: ActivityItem | None,
) -> None:
    run = plan.run
    event_id = run.state.next_event_id
    event = events.activity_cancel_requested(
        event_id, plan.now_ms, attributes.scheduled_event_id, plan.completed_event_id
    )
    write(transition, command, event)
    if item is None:
        return
    item.cancel_requested_event_id = event_id
    pending.touch(run, item.event_id)
    if item.event_id in run.live.activities or item.held:
        return
    # Nobody runs it, so it is cancelled at once; as any closing event of an activity, that sorts after the commands'.
    canceled = events.activity_canceled(
        0, plan.now_ms, item.event_id, 0, event_id, failures.text_payloads(_NOT_STARTED), plan.identity
    )
    run.state.buffered.append(canceled.SerializeToString())
    if item.event_id in transition.activities:
        transition.activities.remove(item.event_id)
    pending.remove_activity(run, item)
