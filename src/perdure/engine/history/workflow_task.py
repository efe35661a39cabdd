"""The workflow task: at most one a run, from Scheduled to its end.

    state        kept as                                  event in
    -----------  ---------------------------------------  ------------------------------------------------------
    none         task_scheduled_event_id = 0              call → scheduled
    delayed      the same, task_not_before_ms set         wake when due → scheduled (start delay, retry back-off)
    scheduled    task_scheduled_event_id, attempt 1       start → held
    transient    the same, attempt > 1                    start → held (once task_not_before_ms has passed)
    speculative  live.speculative (see `update`)          start → held; call → scheduled
    held         live.task besides                        completed → none | scheduled | speculative;
                                                          failed, timed out → transient; forgotten → none | speculative

The Started event is made when the task is handed out, but is written only with what ends the task. Failing attempts
after the first leave nothing in the history: their Scheduled and Started events exist in the worker's response alone,
until one completes. When new events have come since a failure, the next attempt counts as a first one again, and
so it does when events were buffered during a failing attempt.
"""

from __future__ import annotations

from typing import Final

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.api.framing import frame
from perdure.engine.history import events, evolve, failures, frames, update
from perdure.engine.history.recording import append, append_frame, flush
from perdure.engine.history.state import Run, WorkflowTaskLive
from perdure.engine.history.transition import DEFAULT_LIMITS, Limits, Transition

LIVE_FRAMES_MAX: Final = 4096
"""Frames of recent events kept in memory of a run nobody works on; beyond, they are read from the store."""

_BACKOFF_EXPONENT_MAX: Final = 30
_FAILING_ATTEMPT: Final = 3
"""From this attempt on a workflow task is failing: what needs it is refused at once."""

_CAUSE = m.WorkflowTaskFailedCause
_TOO_LARGE = m.SuggestContinueAsNewReason.SUGGEST_CONTINUE_AS_NEW_REASON_HISTORY_SIZE_TOO_LARGE
_TOO_MANY_UPDATES = m.SuggestContinueAsNewReason.SUGGEST_CONTINUE_AS_NEW_REASON_TOO_MANY_UPDATES
_TOO_MANY = m.SuggestContinueAsNewReason.SUGGEST_CONTINUE_AS_NEW_REASON_TOO_MANY_HISTORY_EVENTS


def call(transition: Transition, limits: Limits = DEFAULT_LIMITS) -> None:
    """Something happened that the workflow must see: schedule a workflow task unless one is pending or held."""
    run = transition.run
    if run.live.task is not None:
        if len(run.state.buffered) > limits.buffered_events:
            _force_end(transition)
    elif not run.state.task_scheduled_event_id:
        schedule(transition)
    elif len(run.live.frames) > LIVE_FRAMES_MAX:
        run.live.frames = []
        run.live.news = None


def schedule(transition: Transition) -> None:
    """Write the Scheduled event of a new workflow task (precondition: the run is open, none is pending)."""
    run = transition.run
    state = run.state
    event_id = state.next_event_id
    now_ms = transition.now_ms
    scheduled = frames.task_scheduled(event_id, now_ms, state.task_queue, state.sticky_queue, state.task_timeout_ms, 1)
    append_frame(transition, scheduled)
    evolve.apply_task_scheduled(state, event_id, now_ms, 1)
    run.live.speculative = 0
    transition.workflow_task = True


def ready(run: Run, now_ms: int) -> bool:
    """A workflow task is pending, not handed out, its back-off is over, and the run is not paused."""
    state = run.state
    if not state.task_scheduled_event_id and not run.live.speculative:
        return False
    return run.live.task is None and state.task_not_before_ms <= now_ms and state.pause is None


def is_failing(run: Run) -> bool:
    """Its workflow task has failed again and again."""
    state = run.state
    return state.task_attempt >= _FAILING_ATTEMPT and bool(state.task_scheduled_event_id) and run.is_open


def pending_id(run: Run) -> int:
    """What names the pending workflow task in its queue: the id of its Scheduled event; 0 = none."""
    return run.state.task_scheduled_event_id or run.live.speculative


def start(
    run: Run, *, identity: str, request_id: str, sticky: bool, limits: Limits = DEFAULT_LIMITS, now_ms: int
) -> WorkflowTaskLive:
    """Hand out the pending workflow task (precondition: `ready`); sets run.live.task."""
    state = run.state
    live = run.live
    scheduled_id = state.task_scheduled_event_id
    speculative = not scheduled_id and live.speculative != 0
    if not (scheduled_id or speculative) or live.task is not None or state.task_not_before_ms > now_ms:
        raise RpcError(StatusCode.NOT_FOUND, "workflow task not found: it is handed out, done, or not yet due")
    if not sticky:
        state.sticky_queue = ""
    started_id = state.next_event_id
    attempt = state.task_attempt
    scheduled_frame = b""
    if attempt > 1 or speculative:
        if scheduled_id != started_id:
            attempt = 1
        scheduled_id = started_id
        started_id += 1
        queue = state.sticky_queue
        scheduled_at_ms = live.speculative_at_ms if speculative else state.task_scheduled_at_ms
        scheduled_frame = frames.task_scheduled(
            scheduled_id, scheduled_at_ms, state.task_queue, queue, state.task_timeout_ms, attempt
        )
        live.speculative = 0
    suggest = None
    if (
        started_id >= limits.history_events_suggest
        or state.history_bytes >= limits.history_bytes_suggest
        or state.updates is not None
    ):
        suggest = _reasons(run, limits)
    started_frame = frames.task_started(
        started_id, now_ms, scheduled_id, identity, request_id, state.history_bytes, suggest
    )
    task = live.task = WorkflowTaskLive(
        scheduled_id,
        started_id,
        attempt,
        now_ms,
        now_ms + state.task_timeout_ms,
        identity,
        request_id,
        scheduled_frame,
        started_frame,
        sticky,
        speculative,
        bool(suggest),
    )
    return task


def tell_target_changed(run: Run) -> None:
    """Say in the held task that the traffic goes to other workers than those the run is pinned to."""
    task = run.live.task
    assert task is not None, "a task is held"
    started = m.History.FromString(task.started_frame).events[0]
    started.workflow_task_started_event_attributes.target_worker_deployment_version_changed = True
    task.started_frame = frame(started)


def release(run: Run, *, now_ms: int) -> Transition:
    """Undo `start`: nobody was there to take the task (precondition: one is held)."""
    live = run.live
    task, live.task = live.task, None
    if live.updates:
        update.unsend(run)
    transition = Transition(run, now_ms, workflow_task=True)
    flushed = flush(transition)
    if task is not None and task.speculative:
        if flushed:
            schedule(transition)
        else:
            update.speculate(transition)
            transition.changed = False
    return transition


def _reasons(run: Run, limits: Limits) -> list[m.SuggestContinueAsNewReason.ValueType]:
    reasons: list[m.SuggestContinueAsNewReason.ValueType] = []
    if run.state.history_bytes >= limits.history_bytes_suggest:
        reasons.append(_TOO_LARGE)
    if run.state.next_event_id >= limits.history_events_suggest:
        reasons.append(_TOO_MANY)
    book = run.state.updates
    if book is not None and len(book.completed) + len(book.accepted) >= limits.updates_suggest * limits.updates_per_run:
        reasons.append(_TOO_MANY_UPDATES)
    return reasons


def task_frames(run: Run, from_event_id: int) -> list[bytes]:
    """Frames from `from_event_id` up to the Started event of the held task (or to the newest, if none is held).

    Raises:
        LookupError: memory does not reach back that far; events before run.frames_first_event_id are in the store
            once everything written so far is committed.
    """
    known = run.live.frames
    skip = from_event_id - (run.state.next_event_id - len(known))
    if skip < 0:
        raise LookupError(f"events from {from_event_id} are not in memory")
    found = known[skip:]
    task = run.live.task
    if task is not None:
        if task.scheduled_frame:
            found.append(task.scheduled_frame)
        found.append(task.started_frame)
    return found


def write_started(transition: Transition, task: WorkflowTaskLive) -> None:
    """Write what hand-out had kept back: the Started event, and a transient task's Scheduled event."""
    if task.scheduled_frame:
        append_frame(transition, task.scheduled_frame)
    append_frame(transition, task.started_frame)


def fail(
    run: Run, request: m.RespondWorkflowTaskFailedRequest, *, limits: Limits = DEFAULT_LIMITS, now_ms: int
) -> Transition:
    """The worker could not complete the task it holds."""
    if run.live.task is None:
        raise RpcError(StatusCode.NOT_FOUND, "workflow task not found: it has timed out or was completed")
    failure = failures.bounded(request.failure, limits.blob_bytes) if request.HasField("failure") else None
    transition = Transition(run, now_ms)
    end_failed(transition, request.cause, failure, request.identity, limits)
    return transition


def end_failed(
    transition: Transition,
    cause: m.WorkflowTaskFailedCause.ValueType,
    failure: m.Failure | None,
    identity: str,
    limits: Limits,
) -> None:
    """End the held task as failed and put up the next attempt."""
    task = _release(transition)
    state = transition.run.state
    if task.attempt == 1:
        write_started(transition, task)
        _write_failed(transition, task, cause, failure, identity)
    state.task_failure_cause = cause
    state.task_last_failure = failure.SerializeToString() if failure is not None else b""
    _next_attempt(transition, task, limits)


def end_timed_out(transition: Transition, limits: Limits) -> None:
    """End the held task as timed out (start-to-close) and put up the next attempt."""
    task = _release(transition)
    state = transition.run.state
    if task.attempt == 1:
        write_started(transition, task)
        event_id = state.next_event_id
        append(
            transition,
            events.task_timed_out(event_id, transition.now_ms, task.scheduled_event_id, task.started_event_id),
        )
    _next_attempt(transition, task, limits)


def _release(transition: Transition) -> WorkflowTaskLive:
    run = transition.run
    task = run.live.task
    if task is None:
        raise AssertionError("no workflow task is held")
    run.live.task = None
    run.state.sticky_queue = ""
    if run.live.updates:
        update.unsend(run)
    return task


def _write_failed(
    transition: Transition,
    task: WorkflowTaskLive,
    cause: m.WorkflowTaskFailedCause.ValueType,
    failure: m.Failure | None,
    identity: str,
) -> None:
    event = events.task_failed(
        transition.run.state.next_event_id,
        transition.now_ms,
        task.scheduled_event_id,
        task.started_event_id,
        cause,
        failure,
        identity,
    )
    append(transition, event)


def _next_attempt(transition: Transition, task: WorkflowTaskLive, limits: Limits) -> None:
    state = transition.run.state
    if flush(transition):
        state.task_scheduled_event_id = 0
        schedule(transition)
        return
    attempt = task.attempt + 1
    state.task_scheduled_event_id = state.next_event_id
    state.task_scheduled_at_ms = transition.now_ms
    state.task_attempt = attempt
    over = attempt - limits.task_attempts_before_backoff
    if over > 0:
        exponent = min(over - 1, _BACKOFF_EXPONENT_MAX)
        delay_ms = min(limits.task_backoff_initial_ms * 2**exponent, limits.task_backoff_max_ms)
        state.task_not_before_ms = transition.now_ms + delay_ms
    else:
        state.task_not_before_ms = 0
        transition.workflow_task = True


def _force_end(transition: Transition) -> None:
    """So many events wait that the held task is taken back; the next one sees them all."""
    failure = failures.server_failure("too many events arrived during the workflow task", non_retryable=True)
    end_failed(transition, _CAUSE.WORKFLOW_TASK_FAILED_CAUSE_FORCE_CLOSE_COMMAND, failure, "", DEFAULT_LIMITS)


def settle_before_close(transition: Transition) -> None:
    """The run is closed from outside: take back a held task and let buffered events into the history."""
    run = transition.run
    if run.live.task is not None:
        task = _release(transition)
        if task.attempt == 1:
            write_started(transition, task)
            cause = _CAUSE.WORKFLOW_TASK_FAILED_CAUSE_FORCE_CLOSE_COMMAND
            _write_failed(transition, task, cause, None, "")
    flush(transition)


def expire_sticky(run: Run, *, now_ms: int) -> Transition:
    """Back to the normal queue. changed=False if the run is not sticky."""
    state = run.state
    transition = Transition(run, now_ms)
    if not state.sticky_queue:
        transition.changed = False
        return transition
    state.sticky_queue = ""
    transition.workflow_task = run.is_open and ready(run, now_ms)
    return transition


def flush_buffered(run: Run, *, now_ms: int) -> Transition:
    """After a load: nobody holds the task any more, so buffered events enter the history. changed=False if none."""
    transition = Transition(run, now_ms)
    if run.live.task is not None or not flush(transition):
        transition.changed = False
        return transition
    call(transition)
    return transition
