"""How a run ends, and what follows it.

`close` writes the closing event, empties the run, applies the parent close policies and tells the parent. A run that
continues as new, or is retried, names its successor in the closing event; the successor's start is put into
`transition.next_run` and must be committed together with the close. The parent is told of the last run only. The
successor knows the request ids that its predecessors have taken in: a request repeated to it has been served.

    it ends by       what follows, the first that applies
    ---------------  -----------------------------------------------------------------------------
    completed        the next cron run
    failed           another attempt, if its retry policy says so; the next cron run
    run timeout      the same
    everything else  nothing: cancelled, terminated, or the whole execution has used up its time
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence

from perdure.api import messages as m
from perdure.api.durations import duration_ms, set_duration_ms
from perdure.engine.history import (
    callbacks,
    child,
    cron,
    events,
    evolve,
    failures,
    pending,
    retrying,
    update,
    versions,
    workflow_task,
)
from perdure.engine.history.evolve import STATUS_OF_CLOSING
from perdure.engine.history.recording import append, send
from perdure.engine.history.state import MessageKind, OutMessage, Run
from perdure.engine.history.transition import Lineage, NextRun, Transition

_IN_PROGRESS = m.RetryState.RETRY_STATE_IN_PROGRESS
_TIMEOUT = m.RetryState.RETRY_STATE_TIMEOUT
_BY_RETRY = m.ContinueAsNewInitiator.CONTINUE_AS_NEW_INITIATOR_RETRY
_BY_CRON = m.ContinueAsNewInitiator.CONTINUE_AS_NEW_INITIATOR_CRON_SCHEDULE
_USES_RAMPING = m.ContinueAsNewVersioningBehavior.CONTINUE_AS_NEW_VERSIONING_BEHAVIOR_USE_RAMPING_VERSION
_BY_WORKFLOW = m.ContinueAsNewInitiator.CONTINUE_AS_NEW_INITIATOR_WORKFLOW


def close(
    transition: Transition, event: m.HistoryEvent, new_run_id: str = "", *, spared: Container[str] | None = None
) -> None:
    """Write the closing event (built with the next id) and end the run.

    Args:
        transition: of the run.
        event: the closing event.
        new_run_id: of the run that follows, which tells the parent how it ended.
        spared: given if the run is reset: children that are left alone. The parent hears of the run that follows.
    """
    run = transition.run
    state = run.state
    append(transition, event)
    child.apply_close_policies(transition, spared or ())
    if state.parent_run_id and not new_run_id and spared is None:
        message = OutMessage(
            0,
            MessageKind.CHILD_CLOSED,
            state.parent_namespace,
            state.parent_workflow_id,
            state.parent_run_id,
            event.SerializeToString(),
            state.parent_initiated_event_id,
        )
        send(transition, message)
    if state.callbacks is not None and spared is None:
        callbacks.trigger(transition, moves=bool(new_run_id))
    pending.forget_all(run)
    run.live.task = None
    if run.live.updates is not None or state.updates is not None:
        update.close(transition, moves=bool(new_run_id) or spared is not None)
    evolve.apply_closed(state, event.event_id, transition.now_ms, STATUS_OF_CLOSING[event.event_type])
    state.new_run_id = new_run_id
    state.buffered = []
    state.retain_until_ms = transition.now_ms + state.retention_ms
    transition.closed = True
    transition.visibility = True
    transition.workflow_task = False
    transition.activities = []


def terminate(
    transition: Transition, reason: str, details: m.Payloads | None, identity: str, links: Sequence[m.Link] = ()
) -> None:
    """End the run from outside, whatever it is doing."""
    workflow_task.settle_before_close(transition)
    event_id = transition.run.state.next_event_id
    event = events.workflow_terminated(event_id, transition.now_ms, reason, details, identity)
    event.links.extend(links)
    close(transition, event)


def terminate_for_reset(run: Run, *, reason: str, identity: str, spared: Container[str], now_ms: int) -> Transition:
    """End an open run because another takes up its workflow at an earlier point.

    Args:
        run: the run.
        reason: why.
        identity: whose request it is.
        spared: workflow ids of children that are left alone.
        now_ms: the present instant.
    """
    transition = Transition(run, now_ms)
    workflow_task.settle_before_close(transition)
    event = events.workflow_terminated(run.state.next_event_id, now_ms, reason, None, identity)
    close(transition, event, spared=spared)
    transition.handed_on = True
    return transition


def delete_run(run: Run, *, identity: str, now_ms: int) -> Transition:
    """Mark a run to be erased, after ending it if it is open."""
    transition = Transition(run, now_ms)
    if run.is_open:
        terminate(transition, "deleted", None, identity)
    run.state.deleted = True
    run.state.retain_until_ms = now_ms
    return transition


def complete(
    transition: Transition,
    result: m.Payloads | None,
    command: m.Command,
    completed_event_id: int,
    new_id: Callable[[], str],
) -> None:
    """The workflow completed: close, and run it again when its cron schedule says so."""
    state = transition.run.state
    new_run_id = _next_cron_run(transition, None, result, new_id) if state.cron_schedule else ""
    event = events.workflow_completed(state.next_event_id, transition.now_ms, result, completed_event_id, new_run_id)
    events.carry_command_metadata(event, command)
    close(transition, event, new_run_id)


def fail(transition: Transition, failure: m.Failure, completed_event_id: int, new_id: Callable[[], str]) -> None:
    """The workflow failed: close, and run it again if its retry policy or cron schedule says so."""
    state = transition.run.state
    outcome = _next_attempt(transition, failure)
    new_run_id = _following(transition, outcome, failure, new_id)
    event = events.workflow_failed(
        state.next_event_id, transition.now_ms, failure, outcome.retry_state, completed_event_id, new_run_id
    )
    close(transition, event, new_run_id)


def time_out(transition: Transition, new_id: Callable[[], str]) -> None:
    """The run, or the whole execution, has used up its time: close, and retry the run if its policy says so."""
    state = transition.run.state
    workflow_task.settle_before_close(transition)
    new_run_id = ""
    if state.execution_deadline_ms and state.execution_deadline_ms <= transition.now_ms:
        outcome = retrying.Attempt(_TIMEOUT, 0)
    else:
        failure = failures.workflow_timeout()
        outcome = _next_attempt(transition, failure)
        new_run_id = _following(transition, outcome, failure, new_id)
    event = events.workflow_timed_out(state.next_event_id, transition.now_ms, outcome.retry_state, new_run_id)
    close(transition, event, new_run_id)


def _following(transition: Transition, outcome: retrying.Attempt, failure: m.Failure, new_id: Callable[[], str]) -> str:
    """Put the run that follows a failure into the transition; its id, "" if none does."""
    if outcome.retry_state == _IN_PROGRESS:
        new_run_id = new_id()
        attempt = transition.run.state.attempt + 1
        transition.next_run = _same_again(transition, new_run_id, _BY_RETRY, attempt, outcome.delay_ms, failure)
        return new_run_id
    return _next_cron_run(transition, failure, None, new_id) if transition.run.state.cron_schedule else ""


def _next_cron_run(
    transition: Transition, failure: m.Failure | None, result: m.Payloads | None, new_id: Callable[[], str]
) -> str:
    """Put the next run of the schedule into the transition; its id, "" if the schedule has come to its end.

    A failed run hands on the last result there was, with its failure; a completed one its own.
    """
    state = transition.run.state
    delay_ms = cron.backoff_ms(state.cron_schedule, state.execution_ms, transition.now_ms)
    if delay_ms is None:
        return ""
    new_run_id = new_id()
    transition.next_run = _same_again(transition, new_run_id, _BY_CRON, 1, delay_ms, failure, result)
    return new_run_id


def _next_attempt(transition: Transition, failure: m.Failure) -> retrying.Attempt:
    state = transition.run.state
    return retrying.next_attempt(
        state.retry,
        state.attempt,
        failure,
        expires_at_ms=state.execution_deadline_ms,
        now_ms=transition.now_ms,
    )


def _lineage(
    run: Run,
    *,
    initiator: m.ContinueAsNewInitiator.ValueType,
    attempt: int,
    backoff_ms: int,
    failure: m.Failure | None,
    last_result: m.Payloads | None,
    inherited_version: str = "",
    prefers_ramping: bool = False,
) -> Lineage:
    state = run.state
    return Lineage(
        first_run_id=state.first_run_id,
        continued_from_run_id=state.run_id,
        initiator=initiator,
        attempt=attempt,
        execution_deadline_ms=state.execution_deadline_ms,
        first_task_backoff_ms=backoff_ms,
        continued_failure=failure,
        last_completion_result=last_result,
        parent_namespace=state.parent_namespace,
        parent_workflow_id=state.parent_workflow_id,
        parent_run_id=state.parent_run_id,
        parent_initiated_event_id=state.parent_initiated_event_id,
        root_workflow_id=state.root_workflow_id,
        root_run_id=state.root_run_id,
        signal_request_ids=tuple(state.signal_request_ids),
        cancel_request_ids=tuple(state.cancel_request_ids),
        inherited_version=inherited_version,
        prefers_ramping=prefers_ramping,
    )


def _same_again(
    transition: Transition,
    new_run_id: str,
    initiator: m.ContinueAsNewInitiator.ValueType,
    attempt: int,
    delay_ms: int,
    failure: m.Failure | None,
    result: m.Payloads | None = None,
) -> NextRun:
    """The same start once more: the next attempt, or the next run of a schedule."""
    run = transition.run
    started = m.WorkflowExecutionStartedEventAttributes.FromString(run.state.started_attributes)
    request = m.StartWorkflowExecutionRequest(
        namespace=run.state.namespace,
        workflow_id=run.state.workflow_id,
        workflow_type=started.workflow_type,
        task_queue=started.task_queue,
        workflow_execution_timeout=started.workflow_execution_timeout,
        workflow_run_timeout=started.workflow_run_timeout,
        workflow_task_timeout=started.workflow_task_timeout,
        identity=started.identity,
        request_id=run.state.start_request_id,
        cron_schedule=started.cron_schedule,
    )
    if started.HasField("retry_policy"):
        request.retry_policy.CopyFrom(started.retry_policy)
    if failure is not None and started.HasField("last_completion_result"):
        result = started.last_completion_result
    for name in ("input", "header", "memo", "search_attributes", "priority"):
        if started.HasField(name):
            getattr(request, name).CopyFrom(getattr(started, name))
    _carry_over(run, request)
    inherits = initiator == _BY_RETRY and run.state.inherited
    lineage = _lineage(
        run,
        initiator=initiator,
        attempt=attempt,
        backoff_ms=delay_ms,
        failure=failure,
        last_result=result,
        inherited_version=versions.inherited_version(run.state) if inherits else "",
    )
    return NextRun(run_id=new_run_id, request=request, lineage=lineage)


def _carry_over(run: Run, request: m.StartWorkflowExecutionRequest) -> None:
    override = versions.inherited_override(run.state)
    if override:
        request.versioning_override.MergeFromString(override)
    if run.state.user_metadata:
        request.user_metadata.MergeFromString(run.state.user_metadata)
    callbacks.hand_on(run.state, request)


def continue_as_new(
    transition: Transition,
    command: m.ContinueAsNewWorkflowExecutionCommandAttributes,
    completed_event_id: int,
    new_id: Callable[[], str],
) -> m.HistoryEvent:
    """Close this run and go on with a fresh history. What the command leaves out is carried over."""
    run = transition.run
    new_run_id = new_id()
    request = continued_request(run, command)
    request.request_id = run.state.start_request_id
    backoff_ms = duration_ms(command.backoff_start_interval)
    attributes = m.WorkflowExecutionContinuedAsNewEventAttributes(
        new_execution_run_id=new_run_id,
        workflow_type=request.workflow_type,
        task_queue=request.task_queue,
        workflow_run_timeout=request.workflow_run_timeout,
        workflow_task_timeout=request.workflow_task_timeout,
        workflow_task_completed_event_id=completed_event_id,
        initiator=_BY_WORKFLOW,
        initial_versioning_behavior=command.initial_versioning_behavior,
    )
    if backoff_ms:
        set_duration_ms(attributes.backoff_start_interval, backoff_ms)
    for name in ("input", "header", "memo", "search_attributes"):
        if request.HasField(name):
            getattr(attributes, name).CopyFrom(getattr(request, name))
    last_result = command.last_completion_result if command.HasField("last_completion_result") else None
    if last_result is not None:
        attributes.last_completion_result.CopyFrom(last_result)
    lineage = _lineage(
        run,
        initiator=_BY_WORKFLOW,
        attempt=1,
        backoff_ms=backoff_ms,
        failure=command.failure if command.HasField("failure") else None,
        last_result=last_result,
        inherited_version="" if command.initial_versioning_behavior else versions.inherited_version(run.state),
        prefers_ramping=command.initial_versioning_behavior == _USES_RAMPING,
    )
    transition.next_run = NextRun(run_id=new_run_id, request=request, lineage=lineage)
    event = events.workflow_continued_as_new(run.state.next_event_id, transition.now_ms, attributes)
    close(transition, event, new_run_id)
    return event


def continued_request(
    run: Run, command: m.ContinueAsNewWorkflowExecutionCommandAttributes
) -> m.StartWorkflowExecutionRequest:
    """The start of the successor."""
    state = run.state
    request = m.StartWorkflowExecutionRequest(
        namespace=state.namespace,
        workflow_id=state.workflow_id,
        identity=state.identity,
        cron_schedule=command.cron_schedule or state.cron_schedule,
    )
    request.workflow_type.name = command.workflow_type.name or state.workflow_type
    request.task_queue.name = command.task_queue.name or state.task_queue
    set_duration_ms(request.workflow_execution_timeout, state.execution_timeout_ms)
    run_timeout_ms = duration_ms(command.workflow_run_timeout) or state.run_timeout_ms
    task_timeout_ms = duration_ms(command.workflow_task_timeout) or state.task_timeout_ms
    set_duration_ms(request.workflow_run_timeout, run_timeout_ms)
    set_duration_ms(request.workflow_task_timeout, task_timeout_ms)
    for name in ("input", "header", "retry_policy", "memo", "search_attributes"):
        if command.HasField(name):
            getattr(request, name).CopyFrom(getattr(command, name))
    if not command.HasField("memo") and state.memo:
        request.memo.MergeFromString(state.memo)
    if not command.HasField("search_attributes") and state.search_attributes:
        request.search_attributes.MergeFromString(state.search_attributes)
    if not command.HasField("retry_policy") and state.retry is not None:
        started = m.WorkflowExecutionStartedEventAttributes.FromString(state.started_attributes)
        request.retry_policy.CopyFrom(started.retry_policy)
    if state.priority:
        request.priority.MergeFromString(state.priority)
    _carry_over(run, request)
    return request
