"""Commands for activities: schedule one, ask one to cancel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from perdure.api import messages as m
from perdure.api.direct import ActivityCommand, Command
from perdure.engine.history import deadlines, events, evolve, failures, frames, pending, reports, terms
from perdure.engine.history.planning import (
    BadCommand,
    Plan,
    at_limit,
    check_name,
    check_size,
    write,
)
from perdure.engine.history.recording import append_frame
from perdure.engine.history.state import ActivityItem, News, Run
from perdure.engine.history.transition import Limits, Transition

_NOT_STARTED: Final = "ACTIVITY_ID_NOT_STARTED"

_C = m.WorkflowTaskFailedCause
_BAD_ACTIVITY = _C.WORKFLOW_TASK_FAILED_CAUSE_BAD_SCHEDULE_ACTIVITY_ATTRIBUTES
_BAD_ACTIVITY_CANCEL = _C.WORKFLOW_TASK_FAILED_CAUSE_BAD_REQUEST_CANCEL_ACTIVITY_ATTRIBUTES


def check_schedule_activity(plan: Plan, attributes: m.ScheduleActivityTaskCommandAttributes) -> terms.Asked:
    return check_schedule(plan, attributes.SerializeToString())


def check_schedule(plan: Plan, data: bytes) -> terms.Asked:
    """`check_schedule_activity` for serialized attributes."""
    state = plan.run.state
    limits = plan.limits
    try:
        asked = terms.read(data, state.task_queue, state.run_timeout_ms)
    except terms.BadTerms as error:
        raise BadCommand(_BAD_ACTIVITY, str(error)) from None
    activity_id = asked.activity_id
    agreed = asked.terms
    check_name(plan, activity_id, "ActivityId", _BAD_ACTIVITY)
    check_name(plan, agreed.activity_type, "ActivityType", _BAD_ACTIVITY)
    check_name(plan, agreed.task_queue, "TaskQueue", _BAD_ACTIVITY)
    known = plan.run.live.activity_ids
    if activity_id in plan.activity_ids or (
        activity_id in known and known[activity_id] not in plan.cancelled_activities
    ):
        raise BadCommand(
            _C.WORKFLOW_TASK_FAILED_CAUSE_SCHEDULE_ACTIVITY_DUPLICATE_ID,
            f"an activity with id {activity_id!r} is pending already.",
        )
    if len(known) + len(plan.activity_ids) >= limits.pending_activities:
        raise BadCommand(
            _C.WORKFLOW_TASK_FAILED_CAUSE_PENDING_ACTIVITIES_LIMIT_EXCEEDED,
            at_limit("pending activities", limits.pending_activities, "pending_activities"),
        )
    if len(data) > limits.blob_bytes:
        attributes = m.ScheduleActivityTaskCommandAttributes.FromString(data)
        check_size(plan, attributes.input, "ScheduleActivityTaskCommandAttributes.Input", _BAD_ACTIVITY)
        check_size(plan, attributes.header, "ScheduleActivityTaskCommandAttributes.Header", _BAD_ACTIVITY)
    plan.activity_ids.add(activity_id)
    return asked


def schedule_activity(
    plan: Plan, transition: Transition, command: m.Command, attributes: Any, asked: terms.Asked
) -> None:
    run = plan.run
    event_id = run.state.next_event_id
    now_ms = plan.now_ms
    scheduled = frames.activity_scheduled(event_id, now_ms, asked.event(plan.completed_event_id))
    if attributes is None:
        append_frame(transition, scheduled)
    else:
        write(transition, command, m.HistoryEvent.FromString(frames.body_of(scheduled)))
    _add(run, event_id, asked, now_ms)
    transition.activities.append(event_id)
    if asked.terms.eager:
        if transition.eager is None:
            transition.eager = []
        transition.eager.append(event_id)


def _add(run: Run, event_id: int, asked: terms.Asked, now_ms: int) -> None:
    """An activity is pending from now on."""
    agreed = asked.terms
    to_close, to_start, start_to_close, heartbeat = agreed.timeouts_ms
    item = ActivityItem(
        event_id,
        asked.activity_id,
        agreed.activity_type,
        agreed.task_queue,
        now_ms,
        to_close,
        to_start,
        start_to_close,
        heartbeat,
        agreed.retry,
        1,
        0,
        now_ms,
    )
    if agreed.priority:
        item.priority = agreed.priority
    live = run.live
    run.state.items[event_id] = item
    if run.state.spilled:
        live.dirty_items.add(event_id)
    live.activity_ids[asked.activity_id] = event_id
    live.scheduled[event_id] = asked
    if to_close or to_start:
        deadlines.push_activity(run, item)


def plan_all(run: Run, commands: Sequence[Command], limits: Limits) -> list[terms.Asked] | None:
    """Check a completion that asks for activities and nothing else. None if it is not one, or if any does not hold.

    The ordinary completion, whose commands need not be looked at one by one in the light of the others.
    """
    known = run.live.activity_ids
    if not commands or len(known) + len(commands) > limits.pending_activities:
        return None
    state = run.state
    longest = limits.id_length
    found: list[terms.Asked] = []
    for command in commands:
        try:
            if isinstance(command, ActivityCommand):
                if len(command.input_field) > limits.blob_bytes:
                    return None
                asked = terms.of_command(command, state.task_queue, state.run_timeout_ms)
            else:
                start = reports.plain_schedule(command)
                if not start or len(command) > limits.blob_bytes:
                    return None
                asked = terms.read(command, state.task_queue, state.run_timeout_ms, start)
        except terms.BadTerms:
            return None
        activity_id = asked.activity_id
        if activity_id in known or not 0 < len(activity_id) <= longest or "\0" in activity_id:
            return None
        agreed = asked.terms
        if agreed.eager or not 0 < agreed.longest_name <= longest:
            return None
        found.append(asked)
    if len(found) > 1 and len({asked.activity_id for asked in found}) < len(found):
        return None
    return found


def schedule_all(transition: Transition, planned: Sequence[terms.Asked]) -> None:
    """Carry out what `plan_all` has checked."""
    run = transition.run
    state = run.state
    live = run.live
    now_ms = transition.now_ms
    completed_id = state.last_task_completed_event_id
    first_id = state.next_event_id
    written: list[bytes] = []
    written_bytes = 0
    event_id = first_id
    for asked in planned:
        frame = frames.activity_scheduled(event_id, now_ms, asked.event(completed_id))
        written.append(frame)
        written_bytes += len(frame)
        _add(run, event_id, asked, now_ms)
        event_id += 1
    transition.activities = list(range(first_id, event_id))
    live.news = News(transition.activities.copy(), [])
    transition.frames += written
    live.frames += written
    state.next_event_id = event_id
    state.history_bytes += written_bytes


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
