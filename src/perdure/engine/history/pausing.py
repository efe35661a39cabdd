"""Pausing a whole workflow: nothing of it is handed out until it goes on.

    state      kept as         event in
    ---------  --------------  -----------------------------------------------------------------------------------
    running    pause = None    pause → paused
    paused     pause set       unpause → running; a close or a reset ends it, too

What a worker holds at that moment may be completed; a running activity is told with its next heartbeat. Whatever comes
from outside is recorded as ever: signals, timers that fire, children that end, timeouts. Only queries and updates,
which need a worker, are refused.
"""

from __future__ import annotations

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.engine.history import activity, events, evolve, lifecycle, workflow_task
from perdure.engine.history.recording import arrival_id, arrive
from perdure.engine.history.state import Run
from perdure.engine.history.transition import Limits, Transition


def _check(
    run: Run, request: m.PauseWorkflowExecutionRequest | m.UnpauseWorkflowExecutionRequest, limits: Limits
) -> None:
    if not run.is_open:
        raise lifecycle.closed()
    lifecycle.check_name(request.identity, "Identity", limits, required=False)
    lifecycle.check_name(request.request_id, "RequestId", limits, required=False)
    lifecycle.check_size(len(request.reason), limits.blob_bytes, "Reason")


def pause_run(run: Run, request: m.PauseWorkflowExecutionRequest, *, limits: Limits, now_ms: int) -> Transition:
    """Hand nothing of the run out any more. changed=False for a repeated request.

    Raises:
        RpcError: NOT_FOUND, closed; FAILED_PRECONDITION, it is paused; INVALID_ARGUMENT, a limit.
    """
    _check(run, request, limits)
    transition = Transition(run, now_ms)
    paused = run.state.pause
    if paused is not None:
        if request.request_id and paused.request_id == request.request_id:
            transition.changed = False
            return transition
        raise RpcError(StatusCode.FAILED_PRECONDITION, "the workflow is paused already")
    event = events.workflow_paused(arrival_id(run), now_ms, request)
    arrive(transition, event)
    evolve.apply_paused(run.state, now_ms, event.workflow_execution_paused_event_attributes)
    transition.visibility = True
    return transition


def unpause_run(run: Run, request: m.UnpauseWorkflowExecutionRequest, *, limits: Limits, now_ms: int) -> Transition:
    """Let the run go on.

    Raises:
        RpcError: NOT_FOUND, closed; FAILED_PRECONDITION, it is not paused; INVALID_ARGUMENT, a limit.
    """
    _check(run, request, limits)
    if run.state.pause is None:
        raise RpcError(StatusCode.FAILED_PRECONDITION, "the workflow is not paused")
    transition = Transition(run, now_ms, visibility=True)
    arrive(transition, events.workflow_unpaused(arrival_id(run), now_ms, request))
    run.state.pause = None
    transition.workflow_task = workflow_task.ready(run, now_ms)
    transition.activities = activity.dispatchable_activities(run, now_ms)
    return transition


def refusal(run: Run) -> RpcError | None:
    """What those are told who need a worker of a paused run."""
    if run.state.pause is None:
        return None
    return RpcError(StatusCode.FAILED_PRECONDITION, "the workflow is paused; unpause it first")
