"""Activities: from Scheduled to the one event that closes them, over any number of attempts.

    state        kept as                                     event in
    -----------  ------------------------------------------  ----------------------------------------------------
    waiting      item, next_attempt_at_ms 0                  start → started; schedule-to-start → closed
    backing off  item, next_attempt_at_ms set                due → waiting
    started      live.activities, or item.held               completed, cancelled → closed; failed, start-to-close,
                                                             heartbeat timeout → backing off | waiting | closed
    any          item                                        schedule-to-close → closed; cancel command before a
                                                             start → closed

Handing out an attempt writes no event: after a crash it is handed out again, unless it was held (see `holding`). The
Started event is written together with the closing one and speaks of the last attempt. `attempt` is the fence: a
report of another attempt than the present one is refused with NOT_FOUND. An attempt nobody is known to hold may be
reported all the same, since its worker may have outlived the engine. `held` marks an attempt that survives restarts:
it completes from outside, or its worker is another process.
"""

from __future__ import annotations

from typing import Final

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.engine.history import (
    activity_control,
    deadlines,
    events,
    failures,
    frames,
    holding,
    nexus,
    pending,
    retrying,
    standalone,
    workflow_task,
)
from perdure.engine.history.events import DEFERRED
from perdure.engine.history.recording import arrival_id, arrive, arrive_frames
from perdure.engine.history.state import ActivityItem, ActivityLive, Run
from perdure.engine.history.transition import DEFAULT_LIMITS, Limits, Transition

HELD_KEY: Final = "perdure-completes-async"
"""A heartbeat payload with this metadata key says: the attempt will be completed from outside."""

_IN_PROGRESS = m.RetryState.RETRY_STATE_IN_PROGRESS
_CANCEL_REQUESTED = m.RetryState.RETRY_STATE_CANCEL_REQUESTED
_TIMEOUT = m.RetryState.RETRY_STATE_TIMEOUT
_TYPE = m.TimeoutType

_GONE = "invalid activityID or activity already timed out or invoking workflow is completed"


def find(run: Run, scheduled_event_id: int, attempt: int) -> ActivityItem:
    """The activity whose present attempt is `attempt`.

    Raises:
        RpcError: NOT_FOUND, it is closed or at another attempt.
    """
    item = run.state.items.get(scheduled_event_id)
    if type(item) is not ActivityItem or item.attempt != attempt or item.next_attempt_at_ms:
        raise RpcError(StatusCode.NOT_FOUND, _GONE)
    return item


def activity_by_id(run: Run, activity_id: str) -> ActivityItem:
    """The pending activity of that id.

    Raises:
        RpcError: NOT_FOUND.
    """
    event_id = run.live.activity_ids.get(activity_id)
    item = run.state.items.get(event_id) if event_id is not None else None
    if not isinstance(item, ActivityItem):
        raise RpcError(StatusCode.NOT_FOUND, f"no activity {activity_id!r} is pending: {_GONE}")
    return item


def dispatchable_activities(run: Run, now_ms: int) -> list[int]:
    """Scheduled event ids of activities and Nexus operations that may be handed out now and are not."""
    if run.state.pause is not None:
        return []
    items = run.state.items
    held = run.live.activities
    found: list[int] = []
    for event_id in run.live.activity_ids.values():
        item = items[event_id]
        if (
            isinstance(item, ActivityItem)
            and event_id not in held
            and not item.held
            and not item.paused
            and item.next_attempt_at_ms <= now_ms
        ):
            found.append(event_id)
    return found + nexus.dispatchable(run) if run.live.nexus_ids else found


def start_activity(run: Run, scheduled_event_id: int, *, identity: str, now_ms: int) -> ActivityLive:
    """Hand out an attempt; known only to this process.

    Raises:
        RpcError: NOT_FOUND, it is closed, handed out already, paused, or not yet due.
    """
    item = run.state.items.get(scheduled_event_id)
    if (
        type(item) is not ActivityItem
        or item.held
        or item.next_attempt_at_ms > now_ms
        or (item.control is not None and item.control.paused_at_ms)
        or run.state.pause is not None
    ):
        raise RpcError(StatusCode.NOT_FOUND, _GONE)
    held = run.live.activities
    if scheduled_event_id in held:
        raise RpcError(StatusCode.NOT_FOUND, "activity task is handed out already")
    item.next_attempt_at_ms = 0
    live = held[scheduled_event_id] = ActivityLive(now_ms, identity, 0)
    span_ms = item.heartbeat_ms or item.start_to_close_ms
    if span_ms:
        deadlines.push(run, now_ms + span_ms, deadlines.ACTIVITY, scheduled_event_id)
    return live


def complete_activity(
    run: Run,
    scheduled_event_id: int,
    attempt: int,
    result: bytes | None,
    *,
    identity: str,
    limits: Limits = DEFAULT_LIMITS,
    now_ms: int,
) -> Transition:
    """The attempt succeeded. A result (serialized ``Payloads``) that is too large fails the activity instead."""
    item = find(run, scheduled_event_id, attempt)
    if result is not None:
        if len(result) > limits.blob_bytes:
            failure = failures.server_failure("Complete result exceeds size limit.", non_retryable=True)
            return fail_activity(run, scheduled_event_id, attempt, failure, identity=identity, now_ms=now_ms)
        held = run.live.activities.get(scheduled_event_id)
        if held is not None and run.live.task is None and not item.last_failure and item.control is None:
            return _complete_at_once(run, item, held, result, identity, now_ms)
    return _complete(run, item, result, identity, now_ms)


def _complete(run: Run, item: ActivityItem, result: bytes | None, identity: str, now_ms: int) -> Transition:
    event_id, started = _started(run, item, identity, now_ms)
    completed_id, started_id = (event_id + 1, event_id) if event_id else (0, DEFERRED)
    completed = frames.activity_completed(completed_id, now_ms, item.event_id, started_id, result, identity)
    transition = Transition(run, now_ms)
    arrive_frames(transition, started, completed)
    _end(transition, item, standalone.COMPLETED)
    return transition


def _complete_at_once(
    run: Run, item: ActivityItem, held: ActivityLive, result: bytes, identity: str, now_ms: int
) -> Transition:
    """`_complete` of a held attempt that is the first to end, while no worker holds the workflow task.

    The same, written out: every step of every workflow comes by here.
    """
    state = run.state
    live = run.live
    scheduled_id = item.event_id
    event_id = state.next_event_id
    done = frames.activity_done(
        event_id, held.started_at_ms, now_ms, scheduled_id, item.attempt, held.identity, result, identity
    )
    started, completed = done
    transition = Transition(run, now_ms, [started, completed])
    live.frames += done
    state.next_event_id = event_id + 2
    state.history_bytes += len(started) + len(completed)
    del state.items[scheduled_id]
    if state.spilled:
        live.dirty_items.add(scheduled_id)
    del live.activity_ids[item.activity_id]
    del live.activities[scheduled_id]
    live.scheduled.pop(scheduled_id, None)
    if live.news is not None:
        live.news.completed.append((scheduled_id, result))
    if state.task_scheduled_event_id:
        workflow_task.call(transition)
    else:
        workflow_task.schedule(transition)
    return transition


def fail_activity(
    run: Run,
    scheduled_event_id: int,
    attempt: int,
    failure: m.Failure,
    *,
    identity: str,
    last_heartbeat_details: m.Payloads | None = None,
    limits: Limits = DEFAULT_LIMITS,
    now_ms: int,
) -> Transition:
    """The attempt failed: try again, or close the activity with the failure."""
    item = find(run, scheduled_event_id, attempt)
    outcome = _next_attempt(item, failure, now_ms)
    failure = failures.bounded(failure, limits.blob_bytes)
    transition = Transition(run, now_ms)
    if last_heartbeat_details is not None and last_heartbeat_details.payloads:
        item.heartbeat_details = last_heartbeat_details.SerializeToString()
    if outcome.retry_state == _IN_PROGRESS:
        _retry(transition, item, failure, identity, outcome.delay_ms)
        return transition
    started_id = _record_started(transition, item, identity)
    event = events.activity_failed(
        arrival_id(run), now_ms, scheduled_event_id, started_id, failure, outcome.retry_state, identity
    )
    arrive(transition, event)
    _end(transition, item, standalone.FAILED)
    return transition


def cancel_activity(
    run: Run,
    scheduled_event_id: int,
    attempt: int,
    details: m.Payloads | None,
    *,
    identity: str,
    limits: Limits = DEFAULT_LIMITS,
    now_ms: int,
) -> Transition:
    """The attempt gave in to a cancel request.

    Raises:
        RpcError: NOT_FOUND; INVALID_ARGUMENT when no cancel was requested.
    """
    item = find(run, scheduled_event_id, attempt)
    if not item.cancel_requested_event_id:
        raise RpcError(StatusCode.INVALID_ARGUMENT, "invalid task state: activity cancel was not requested")
    if details is not None and details.ByteSize() > limits.blob_bytes:
        raise RpcError(StatusCode.INVALID_ARGUMENT, "details of the cancelled activity exceed the size limit")
    transition = Transition(run, now_ms)
    started_id = _record_started(transition, item, identity)
    event = events.activity_canceled(
        arrival_id(run), now_ms, scheduled_event_id, started_id, item.cancel_requested_event_id, details, identity
    )
    arrive(transition, event)
    _end(transition, item, standalone.CANCELED)
    return transition


def _end(transition: Transition, item: ActivityItem, status: int) -> None:
    """The activity's closing event is written: what comes of it for its run."""
    run = transition.run
    if run.state.standalone is not None:
        standalone.close(transition, item, status)
        return
    pending.remove_activity(run, item)
    workflow_task.call(transition)


def heartbeat_activity(
    run: Run,
    scheduled_event_id: int,
    attempt: int,
    details: m.Payloads | None,
    *,
    identity: str,
    limits: Limits = DEFAULT_LIMITS,
    now_ms: int,
) -> Transition:
    """The attempt is alive. changed only when that must survive a restart: details, or a held attempt."""
    item = find(run, scheduled_event_id, attempt)
    if details is not None and details.ByteSize() > limits.blob_bytes:
        raise RpcError(StatusCode.INVALID_ARGUMENT, "heartbeat details exceed the size limit")
    transition = Transition(run, now_ms)
    held = run.live.activities.get(scheduled_event_id)
    if held is None:
        if item.held:
            held = ActivityLive(item.last_started_at_ms, item.last_worker_identity, now_ms)
        else:
            held = ActivityLive(now_ms, identity, now_ms)
        run.live.activities[scheduled_event_id] = held
        deadlines.push_activity(run, item)
    held.last_heartbeat_at_ms = now_ms
    if run.state.standalone is not None:
        run.state.standalone.heartbeats += 1
    item.last_heartbeat_at_ms = now_ms
    if details is not None and details.payloads:
        _keep_details(item, details, held)
    elif not item.held:
        transition.changed = False
        return transition
    pending.touch(run, scheduled_event_id)
    return transition


def _keep_details(item: ActivityItem, details: m.Payloads, held: ActivityLive) -> None:
    kept = m.Payloads(payloads=[payload for payload in details.payloads if HELD_KEY not in payload.metadata])
    if len(kept.payloads) != len(details.payloads):
        item.held = True
        item.last_started_at_ms = held.started_at_ms
        item.last_worker_identity = held.identity
    if kept.payloads:
        item.heartbeat_details = kept.SerializeToString()


def _next_attempt(item: ActivityItem, failure: m.Failure, now_ms: int) -> retrying.Attempt:
    if item.cancel_requested_event_id:
        return retrying.Attempt(_CANCEL_REQUESTED, 0)
    expires_at_ms = item.scheduled_at_ms + item.schedule_to_close_ms if item.schedule_to_close_ms else 0
    return retrying.next_attempt(item.retry, item.shown_attempt, failure, expires_at_ms=expires_at_ms, now_ms=now_ms)


def _retry(transition: Transition, item: ActivityItem, failure: m.Failure, identity: str, delay_ms: int) -> None:
    run = transition.run
    now_ms = transition.now_ms
    held = run.live.activities.pop(item.event_id, None)
    item.last_started_at_ms = held.started_at_ms if held is not None else item.last_started_at_ms
    item.last_worker_identity = held.identity if held is not None else identity
    item.last_failure = failure.SerializeToString()
    item.last_ended_at_ms = now_ms
    item.attempt += 1
    item.attempt_scheduled_at_ms = now_ms + delay_ms
    item.held = False
    control = item.control
    if control is not None:
        activity_control.after_attempt(item, control, now_ms)
    if control is not None and control.paused_at_ms:
        item.next_attempt_at_ms = 0
    elif delay_ms:
        item.next_attempt_at_ms = now_ms + delay_ms
    else:
        item.next_attempt_at_ms = 0
        transition.activities.append(item.event_id)
    pending.touch(run, item.event_id)
    deadlines.push_activity(run, item)


def _record_started(transition: Transition, item: ActivityItem, identity: str) -> int:
    """Write the Started event of the last attempt; its id, or what stands for it in a buffered event."""
    event_id, started = _started(transition.run, item, identity, transition.now_ms)
    arrive_frames(transition, started)
    return event_id or DEFERRED


def _started(run: Run, item: ActivityItem, identity: str, now_ms: int) -> tuple[int, bytes]:
    """The Started event of the last attempt: its id, 0 if it will be buffered, and its frame."""
    held = run.live.activities.get(item.event_id)
    if held is not None:
        now_ms = held.started_at_ms
        identity = held.identity
    elif item.held:
        now_ms = item.last_started_at_ms
        identity = item.last_worker_identity
    event_id = arrival_id(run)
    attempt = item.attempt if item.control is None else item.shown_attempt
    return event_id, frames.activity_started(event_id, now_ms, item.event_id, identity, attempt, item.last_failure)


def fire_due(transition: Transition, item: ActivityItem) -> None:
    """Something is due for an activity: the end of a back-off, or one of four timeouts."""
    run = transition.run
    now_ms = transition.now_ms
    timeout = _due_timeout(run, item, now_ms)
    if timeout is not None:
        _time_out(transition, item, timeout)
    elif item.next_attempt_at_ms and item.next_attempt_at_ms <= now_ms:
        item.next_attempt_at_ms = 0
        pending.touch(run, item.event_id)
        transition.activities.append(item.event_id)
        deadlines.push_activity(run, item)


def _due_timeout(run: Run, item: ActivityItem, now_ms: int) -> m.TimeoutType.ValueType | None:
    if item.paused and not item.held and item.event_id not in run.live.activities:
        return None
    if item.schedule_to_close_ms and item.scheduled_at_ms + item.schedule_to_close_ms <= now_ms:
        return _TYPE.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE
    held = run.live.activities.get(item.event_id)
    if held is None and not item.held:
        if item.next_attempt_at_ms or not item.schedule_to_start_ms:
            return None
        late = item.attempt_scheduled_at_ms + item.schedule_to_start_ms <= now_ms
        return _TYPE.TIMEOUT_TYPE_SCHEDULE_TO_START if late else None
    started_at_ms = held.started_at_ms if held is not None else item.last_started_at_ms
    beat_at_ms = max(held.last_heartbeat_at_ms if held is not None else item.last_heartbeat_at_ms, item.silent_from_ms)
    if item.start_to_close_ms and started_at_ms + item.start_to_close_ms <= now_ms:
        return _TYPE.TIMEOUT_TYPE_START_TO_CLOSE
    if item.heartbeat_ms and max(started_at_ms, beat_at_ms) + item.heartbeat_ms <= now_ms:
        return _TYPE.TIMEOUT_TYPE_HEARTBEAT
    return None


def _time_out(transition: Transition, item: ActivityItem, timeout: m.TimeoutType.ValueType) -> None:
    run = transition.run
    now_ms = transition.now_ms
    failure = failures.activity_timeout(timeout)
    outcome = _next_attempt(item, failure, now_ms)
    if outcome.retry_state == _TIMEOUT:
        failure = failures.no_time_for_retry()
    details = failure.timeout_failure_info.last_heartbeat_details
    if item.heartbeat_details:
        details.MergeFromString(item.heartbeat_details)
    if outcome.retry_state == _IN_PROGRESS:
        _retry(transition, item, failure, "", outcome.delay_ms)
        return
    if item.last_failure:
        failure.cause.MergeFromString(item.last_failure)
    started_id = 0
    if item.event_id in run.live.activities or item.held:
        started_id = _record_started(transition, item, "")
    event = events.activity_timed_out(arrival_id(run), now_ms, item.event_id, started_id, failure, outcome.retry_state)
    arrive(transition, event)
    _end(transition, item, standalone.TIMED_OUT)


def restart_waiting(run: Run, recovered_at_ms: int) -> None:
    """Activities that may have been handed out by a process now gone get a fresh schedule-to-start span."""
    for event_id in run.live.activity_ids.values():
        item = run.state.items[event_id]
        if not isinstance(item, ActivityItem):
            continue
        if item.held:
            holding.restart_held(item, recovered_at_ms)
        elif item.schedule_to_start_ms:
            item.attempt_scheduled_at_ms = max(item.attempt_scheduled_at_ms, recovered_at_ms)
