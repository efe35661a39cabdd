"""What operators do to pending activities: pause them, let them go on, reset them, change their options.

    state            pause                      unpause                   reset
    ---------------  -------------------------  ------------------------  ----------------------------------------------
    waiting          not handed out             waiting, due at once      counts from attempt 1, due at once
    backing off      not handed out             the same                  the same
    started          its worker is told with    its worker goes on        its worker is told with the next heartbeat;
                     the next heartbeat; after                            if the attempt fails, the next is attempt 1
                     it, not handed out

All of it is kept in the item's `control`, which most activities never have, and leaves no event. While an activity is
paused and nobody works on it none of its timeouts run, and the pause does not count for its schedule-to-close timeout.
What its Scheduled event says of options that are changed is kept, to be restored, and so that the state can still be
compared with the history.

The fence against stale reports is `item.attempt`, which never goes back; attempts that are to be forgotten are counted
beside it, and what is shown is the difference.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.api.durations import duration_ms, set_duration_ms
from perdure.engine.history import deadlines, lifecycle, pending, priorities, retrying
from perdure.engine.history.state import ActivityControl, ActivityItem, ActivityOriginal, Run
from perdure.engine.history.transition import Limits, Transition

_INNER_CAPITAL = re.compile(r"(?<=[a-z])[A-Z]")
_TIMEOUTS: Final = {
    "schedule_to_close_timeout": "schedule_to_close_ms",
    "schedule_to_start_timeout": "schedule_to_start_ms",
    "start_to_close_timeout": "start_to_close_ms",
    "heartbeat_timeout": "heartbeat_ms",
}
"""Options that are spans, and the items' fields that hold them."""
_RETRY_FIELDS: Final = ("initial_interval", "backoff_coefficient", "maximum_interval", "maximum_attempts")
_PRIORITY_FIELDS: Final = tuple(field.name for field in m.Priority.DESCRIPTOR.fields)


def select(run: Run, *, activity_id: str = "", activity_type: str = "", every: bool = False) -> list[int]:
    """Scheduled event ids of the pending activities that are meant: one, those of a type, or all of them.

    Raises:
        RpcError: NOT_FOUND, there is none; INVALID_ARGUMENT, none is named.
    """
    if not run.is_open:
        raise lifecycle.closed()
    if not (activity_id or activity_type or every):
        raise lifecycle.invalid("name an activity by its id or type")
    found: list[int] = []
    for event_id, item in run.state.items.items():
        if isinstance(item, ActivityItem) and (
            every or item.activity_id == activity_id or (activity_type and item.activity_type == activity_type)
        ):
            found.append(event_id)
    if not found:
        what = f"id {activity_id!r}" if activity_id else f"type {activity_type!r}" if activity_type else "any kind"
        raise RpcError(StatusCode.NOT_FOUND, f"no activity of {what} is pending")
    return found


def _controlled(run: Run, event_id: int) -> tuple[ActivityItem, ActivityControl]:
    """An activity to be changed, and its control."""
    item = run.state.items[event_id]
    assert isinstance(item, ActivityItem), "only activities are selected"
    control = item.control
    if control is None:
        control = item.control = ActivityControl()
    pending.touch(run, event_id)
    return item, control


def _is_started(run: Run, item: ActivityItem) -> bool:
    return item.held or item.event_id in run.live.activities


def pause(run: Run, event_ids: Sequence[int], *, identity: str, reason: str, limits: Limits, now_ms: int) -> Transition:
    """Hand these activities out no more. changed=False if all of them are paused already.

    Raises:
        RpcError: INVALID_ARGUMENT, a limit.
    """
    lifecycle.check_name(identity, "Identity", limits, required=False)
    lifecycle.check_size(len(reason), limits.blob_bytes, "Reason")
    transition = Transition(run, now_ms, changed=False)
    for event_id in event_ids:
        item = run.state.items[event_id]
        assert isinstance(item, ActivityItem), "only activities are selected"
        if item.paused:
            continue
        item, control = _controlled(run, event_id)
        control.paused_at_ms = now_ms
        control.pause_identity = identity
        control.pause_reason = reason
        transition.changed = True
    return transition


def unpause(
    run: Run,
    event_ids: Sequence[int],
    *,
    reset_attempts: bool = False,
    reset_heartbeat: bool = False,
    delay_ms: int = 0,
    now_ms: int,
) -> Transition:
    """Let these activities go on; those that wait are due after `delay_ms`. changed=False if none was paused."""
    transition = Transition(run, now_ms, changed=False)
    for event_id in event_ids:
        item = run.state.items[event_id]
        assert isinstance(item, ActivityItem), "only activities are selected"
        if not item.paused:
            continue
        item, control = _controlled(run, event_id)
        transition.changed = True
        if reset_attempts:
            control.attempts_forgotten = item.attempt - 1
        if reset_heartbeat:
            _forget_heartbeat(item)
        _resume(transition, item, control, delay_ms)
    return transition


def _resume(transition: Transition, item: ActivityItem, control: ActivityControl, delay_ms: int) -> None:
    """End the pause of an activity, if there is one; if nobody works on it, it is due after a delay."""
    now_ms = transition.now_ms
    paused_at_ms, control.paused_at_ms = control.paused_at_ms, 0
    control.pause_identity = control.pause_reason = ""
    if not _is_started(transition.run, item):
        if paused_at_ms:
            _keep_original(item, control)
            item.scheduled_at_ms += now_ms - max(paused_at_ms, item.last_ended_at_ms)
        _make_due(transition, item, delay_ms)
    deadlines.push_activity(transition.run, item)


def _make_due(transition: Transition, item: ActivityItem, delay_ms: int) -> None:
    now_ms = transition.now_ms
    item.attempt_scheduled_at_ms = now_ms + delay_ms
    item.next_attempt_at_ms = now_ms + delay_ms if delay_ms else 0
    if not delay_ms:
        transition.activities.append(item.event_id)


def _forget_heartbeat(item: ActivityItem) -> None:
    item.heartbeat_details = b""
    item.last_heartbeat_at_ms = 0


def reset(
    run: Run,
    event_ids: Sequence[int],
    *,
    reset_heartbeat: bool = False,
    keep_paused: bool = False,
    restore_original: bool = False,
    delay_ms: int = 0,
    now_ms: int,
) -> Transition:
    """Begin these activities anew: attempts, timeouts and, on request, heartbeat details and options."""
    transition = Transition(run, now_ms)
    for event_id in event_ids:
        item, control = _controlled(run, event_id)
        if restore_original:
            _restore(transition, item, control)
        if _is_started(run, item):
            control.reset = True
            control.reset_heartbeat = reset_heartbeat
            continue
        control.attempts_forgotten = item.attempt - 1
        if reset_heartbeat:
            _forget_heartbeat(item)
        _keep_original(item, control)
        item.scheduled_at_ms = now_ms
        if control.paused_at_ms and keep_paused:
            control.paused_at_ms = now_ms
        elif control.paused_at_ms or item.next_attempt_at_ms:
            control.paused_at_ms = 0
            _make_due(transition, item, delay_ms)
        else:
            item.attempt_scheduled_at_ms = now_ms
        deadlines.push_activity(run, item)
    return transition


def after_attempt(item: ActivityItem, control: ActivityControl, now_ms: int) -> None:
    """An attempt has failed and `item.attempt` is the next one: bring about what was asked for meanwhile."""
    if not control.reset:
        return
    control.reset = False
    control.attempts_forgotten = item.attempt - 1
    _keep_original(item, control)
    item.scheduled_at_ms = now_ms
    if control.reset_heartbeat:
        control.reset_heartbeat = False
        _forget_heartbeat(item)


# Options


def options_of(item: ActivityItem) -> m.ActivityOptions:
    """The options that hold."""
    options = m.ActivityOptions()
    options.task_queue.name = item.task_queue
    for name, field in _TIMEOUTS.items():
        set_duration_ms(getattr(options, name), getattr(item, field))
    if item.retry is not None:
        retrying.fill_policy(options.retry_policy, item.retry)
    if item.priority:
        options.priority.MergeFromString(item.priority)
    return options


def update_options(
    run: Run,
    event_ids: Sequence[int],
    asked: m.ActivityOptions,
    mask: Sequence[str],
    *,
    limits: Limits,
    now_ms: int,
) -> Transition:
    """Change the options that `mask` names.

    Raises:
        RpcError: INVALID_ARGUMENT, what can't be set; nothing has changed.
    """
    if not mask:
        raise lifecycle.invalid("the update mask is empty: name the options to change")
    changed = [_merged(run, event_id, asked, mask, limits) for event_id in event_ids]
    transition = Transition(run, now_ms)
    for event_id, options in zip(event_ids, changed, strict=True):
        item, control = _controlled(run, event_id)
        _keep_original(item, control)
        _apply(transition, item, control, options)
    return transition


def restore_options(run: Run, event_ids: Sequence[int], *, now_ms: int) -> Transition:
    """Give these activities the options that they were scheduled with."""
    transition = Transition(run, now_ms)
    for event_id in event_ids:
        _restore(transition, *_controlled(run, event_id))
    return transition


def _merged(
    run: Run, event_id: int, asked: m.ActivityOptions, mask: Sequence[str], limits: Limits
) -> m.ActivityOptions:
    item = run.state.items[event_id]
    assert isinstance(item, ActivityItem), "only activities are selected"
    options = options_of(item)
    for path in mask:
        name, _, field = _INNER_CAPITAL.sub(lambda found: "_" + found[0].lower(), path).partition(".")
        if name == "task_queue" and field in ("", "name"):
            options.task_queue.name = asked.task_queue.name
        elif name in _TIMEOUTS and not field:
            lifecycle.span_ms(getattr(asked, name), name)
            getattr(options, name).CopyFrom(getattr(asked, name))
        elif name == "retry_policy" and (not field or field in _RETRY_FIELDS):
            _merge(options.retry_policy, asked.retry_policy, (field,) if field else _RETRY_FIELDS)
        elif name == "priority" and (not field or field in _PRIORITY_FIELDS):
            _merge(options.priority, asked.priority, (field,) if field else _PRIORITY_FIELDS)
        else:
            raise lifecycle.invalid(f"the update mask names {path!r}, which is no option of an activity")
    _check(options, limits)
    return options


def _merge(target: m.RetryPolicy | m.Priority, source: m.RetryPolicy | m.Priority, names: Sequence[str]) -> None:
    for name in names:
        value = getattr(source, name)
        if hasattr(value, "CopyFrom"):
            getattr(target, name).CopyFrom(value)
        else:
            setattr(target, name, value)


def _check(options: m.ActivityOptions, limits: Limits) -> None:
    lifecycle.check_name(options.task_queue.name, "TaskQueue", limits)
    if not duration_ms(options.schedule_to_close_timeout) and not duration_ms(options.start_to_close_timeout):
        raise lifecycle.invalid("an activity needs a StartToClose or a ScheduleToClose timeout")
    refused = priorities.refusal(options.priority)
    if refused is not None:
        raise lifecycle.invalid(refused)
    try:
        retrying.policy_of(options.retry_policy)
    except ValueError as error:
        raise lifecycle.invalid(str(error)) from None


def _keep_original(item: ActivityItem, control: ActivityControl) -> None:
    """Remember what the Scheduled event says, before it changes."""
    if control.original is None:
        control.original = ActivityOriginal(
            item.task_queue,
            item.scheduled_at_ms,
            item.schedule_to_close_ms,
            item.schedule_to_start_ms,
            item.start_to_close_ms,
            item.heartbeat_ms,
            item.retry,
            item.priority,
        )


def keep_original(item: ActivityItem) -> None:
    """Remember what the Scheduled event of an activity says, before it changes (precondition: it has a control)."""
    assert item.control is not None, "it has been touched"
    _keep_original(item, item.control)


def _apply(transition: Transition, item: ActivityItem, control: ActivityControl, options: m.ActivityOptions) -> None:
    before = item.retry
    queue = item.task_queue
    item.task_queue = options.task_queue.name
    for name, field in _TIMEOUTS.items():
        setattr(item, field, lifecycle.span_ms(getattr(options, name), name))
    item.schedule_to_start_ms = _bounded(item.schedule_to_start_ms, item.schedule_to_close_ms)
    item.start_to_close_ms = _bounded(item.start_to_close_ms, item.schedule_to_close_ms)
    item.heartbeat_ms = min(item.heartbeat_ms, item.start_to_close_ms)
    item.retry = retrying.policy_of(options.retry_policy).retry
    item.priority = options.priority.SerializeToString()
    _place_again(transition, item, control, moved=queue != item.task_queue, retry_changed=before != item.retry)


def _bounded(span_ms: int, longest_ms: int) -> int:
    """A timeout that is no longer than the one around it, which also stands for a missing one."""
    return min(span_ms or longest_ms, longest_ms) if longest_ms else span_ms


def _restore(transition: Transition, item: ActivityItem, control: ActivityControl) -> None:
    original = control.original
    if original is None:
        return
    moved = original.task_queue != item.task_queue
    retry_changed = original.retry != item.retry
    item.task_queue = original.task_queue
    item.schedule_to_close_ms = original.schedule_to_close_ms
    item.schedule_to_start_ms = original.schedule_to_start_ms
    item.start_to_close_ms = original.start_to_close_ms
    item.heartbeat_ms = original.heartbeat_ms
    item.retry = original.retry
    item.priority = original.priority
    _place_again(transition, item, control, moved=moved, retry_changed=retry_changed)


def _place_again(
    transition: Transition, item: ActivityItem, control: ActivityControl, *, moved: bool, retry_changed: bool
) -> None:
    """Options have changed: a waiting activity goes to its new queue, a back-off is computed again."""
    run = transition.run
    if not _is_started(run, item):
        if item.next_attempt_at_ms:
            if retry_changed and item.retry is not None and item.last_ended_at_ms:
                delay_ms = retrying.backoff_ms(item.retry, item.shown_attempt - 1)
                item.next_attempt_at_ms = item.attempt_scheduled_at_ms = max(
                    item.last_ended_at_ms + delay_ms, transition.now_ms
                )
        elif moved:
            # The entry in the old queue names an attempt that is none any more.
            item.attempt += 1
            control.attempts_forgotten += 1
            if not control.paused_at_ms:
                transition.activities.append(item.event_id)
    deadlines.push_activity(run, item)


def told(item: ActivityItem, said: bytes) -> bytes:
    """What the worker is told of an activity whose options may have changed: `said`, with the options that hold."""
    control = item.control
    if control is None or control.original is None:
        return said
    task = m.PollActivityTaskQueueResponse.FromString(said)
    for name, field in _TIMEOUTS.items():
        if name != "schedule_to_start_timeout":
            set_duration_ms(getattr(task, name), getattr(item, field))
    if item.retry is not None:
        task.retry_policy.Clear()
        retrying.fill_policy(task.retry_policy, item.retry)
    task.priority.Clear()
    task.priority.MergeFromString(item.priority)
    return task.SerializeToString()
