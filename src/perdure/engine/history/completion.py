"""The end of a workflow task that its worker completed.

In order: the Started event kept back at hand-out, Completed, the events of the commands, the events that were
buffered meanwhile, and a new Scheduled event if any were, or if the worker asked for one. When a command does not
hold, the task fails instead, and the caller is answered INVALID_ARGUMENT once that is written.

A speculative task (see `update`) whose worker did nothing but reject updates is forgotten: nothing is written, and the
worker is told the Started event to go back to. That needs a worker which has seen nothing new in it, or which says
that it can forget what it has seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.api.direct import Command
from perdure.engine.history import (
    closing,
    commands,
    commands_activity,
    evolve,
    failures,
    frames,
    reports,
    update,
    update_protocol,
    versions,
    workflow_task,
)
from perdure.engine.history.evolve import STATUS_RUNNING
from perdure.engine.history.planning import BadCommand, Plan, Step
from perdure.engine.history.recording import flush
from perdure.engine.history.state import Run, WorkflowTaskLive
from perdure.engine.history.transition import Limits, Transition


def complete_workflow_task(
    run: Run,
    request: m.RespondWorkflowTaskCompletedRequest,
    *,
    limits: Limits,
    new_id: Callable[[], str],
    attributes: Mapping[str, int] | None = None,
    endpoints: Mapping[str, str] | None = None,
    now_ms: int,
) -> Transition:
    """Carry out what the worker decided. The token has been checked by the caller.

    Args:
        attributes: the types of the namespace's own search attributes, by name.
        endpoints: ids of the Nexus endpoints by name.

    Raises:
        RpcError: NOT_FOUND, no task is held.
    """
    if run.live.task is None:
        raise RpcError(StatusCode.NOT_FOUND, "workflow task not found: it has timed out or was completed")
    asked, manner = reports.read(request)
    return carry_out(
        run,
        asked,
        manner,
        request,
        limits=limits,
        new_id=new_id,
        attributes=attributes,
        endpoints=endpoints,
        now_ms=now_ms,
    )


def carry_out(
    run: Run,
    asked: Sequence[Command],
    manner: reports.Manner,
    request: m.RespondWorkflowTaskCompletedRequest | None = None,
    *,
    limits: Limits,
    new_id: Callable[[], str],
    attributes: Mapping[str, int] | None = None,
    endpoints: Mapping[str, str] | None = None,
    now_ms: int,
) -> Transition:
    """`complete_workflow_task` for commands that are no messages (precondition: a task is held).

    Args:
        asked: the commands.
        manner: what the worker says besides.
        request: where its messages are; None if it never has any.
    """
    task = run.live.task
    assert task is not None, "the caller has looked"
    transition = Transition(run, now_ms)
    if not manner.has_messages and not task.speculative and run.live.updates is None:
        activities = commands_activity.plan_all(run, asked, limits)
        if activities is not None:
            _write_completed(transition, task, manner)
            commands_activity.schedule_all(transition, activities)
            if run.state.buffered or manner.wants_next:
                _go_on(transition, manner, limits, has_updates=False)
            else:
                _check_history_size(transition, limits)
            return transition
    plan = Plan(run, limits, now_ms, manner.identity, new_id, len(run.state.buffered))
    plan.attributes = attributes
    plan.endpoints = endpoints
    has_updates = run.live.updates is not None
    if has_updates:
        plan.unsent_updates = update.has_unsent(run)
    try:
        if request is not None and manner.has_messages:
            update_protocol.open_mailbox(plan, request)
        steps = commands.plan_commands(plan, [data if isinstance(data, bytes) else data.serialize() for data in asked])
        if manner.has_messages:
            steps = update_protocol.plan_rest(plan, steps)
    except BadCommand as bad:
        reason = str(bad)
        failure = failures.server_failure(reason, non_retryable=True)
        workflow_task.end_failed(transition, bad.cause, failure, manner.identity, limits)
        transition.error = RpcError(StatusCode.INVALID_ARGUMENT, reason)
        return transition
    if task.speculative and request is not None and _may_forget(run, task, request, manner):
        return _forget(plan, transition, steps, manner)
    _write_completed(transition, task, manner)
    plan.completed_event_id = run.state.last_task_completed_event_id
    for apply, command, attributes, prepared in steps:
        apply(plan, transition, command, attributes, prepared)
    if run.state.status == STATUS_RUNNING:
        _go_on(transition, manner, limits, has_updates=has_updates)
    return transition


def _go_on(transition: Transition, manner: reports.Manner, limits: Limits, *, has_updates: bool) -> None:
    """The commands are carried out, and the run is still open."""
    run = transition.run
    flushed = run.state.buffered and flush(transition)
    if flushed or manner.wants_next:
        workflow_task.schedule(transition)
    if has_updates:
        if not manner.wants_next:
            update.reject_unanswered(transition)
        update.call_again(transition)
    _check_history_size(transition, limits)


def _may_forget(
    run: Run, task: WorkflowTaskLive, request: m.RespondWorkflowTaskCompletedRequest, manner: reports.Manner
) -> bool:
    """Whether a speculative task has come to nothing."""
    state = run.state
    if state.buffered or manner.wants_next or not update_protocol.only_rejects(request):
        return False
    saw_nothing = task.scheduled_event_id == state.last_task_completed_event_id + 1
    return saw_nothing or request.capabilities.discard_speculative_workflow_task_with_events


def _forget(plan: Plan, transition: Transition, steps: list[Step], manner: reports.Manner) -> Transition:
    """Undo a speculative task. What its worker rejected is told; nothing is written."""
    run = transition.run
    state = run.state
    run.live.task = None
    state.sticky_queue = manner.sticky_queue
    state.sticky_timeout_ms = manner.sticky_timeout_ms
    transition.changed = False
    transition.reset_event_id = state.last_task_started_event_id
    for apply, command, attributes, prepared in steps:
        apply(plan, transition, command, attributes, prepared)
    update.reject_unanswered(transition)
    update.call_again(transition)
    return transition


def _write_completed(transition: Transition, task: WorkflowTaskLive, manner: reports.Manner) -> None:
    run = transition.run
    state = run.state
    live = run.live
    live.task = None
    started_event_id = task.started_event_id
    event_id = started_event_id + 1
    completed = frames.task_completed(
        event_id, transition.now_ms, task.scheduled_event_id, started_event_id, manner.event
    )
    started = task.started_frame
    transition.frames = [started, completed]
    live.frames = [completed]
    live.news = None
    state.next_event_id = event_id + 1
    state.history_bytes += len(started) + len(completed)
    if task.scheduled_frame:
        transition.frames.insert(0, task.scheduled_frame)
        state.history_bytes += len(task.scheduled_frame)
    evolve.apply_task_completed(state, event_id, started_event_id)
    if manner.worker != state.worker:
        if versions.is_versioned(manner.worker) or versions.is_versioned(state.worker):
            transition.visibility = transition.attributes = True
        state.worker = manner.worker
    state.sticky_queue = manner.sticky_queue
    state.sticky_timeout_ms = manner.sticky_timeout_ms


def _check_history_size(transition: Transition, limits: Limits) -> None:
    """A history may not grow without end: beyond its bounds the run is terminated."""
    state = transition.run.state
    if state.next_event_id - 1 > limits.history_events_max:
        reason = f"Workflow history count exceeds limit of {limits.history_events_max} events."
    elif state.history_bytes > limits.history_bytes_max:
        reason = f"Workflow history size exceeds limit of {limits.history_bytes_max} bytes."
    else:
        return
    closing.terminate(transition, reason, None, "history")
