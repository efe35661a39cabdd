"""What the outside does to a run: start it, signal it, ask it to stop, end it.

Requests are checked as a whole before anything changes. They are idempotent by their request id: a repeat of a signal
or a cancel that was already taken in, by this run or one before it, answers changed=False.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from google.protobuf.duration_pb2 import Duration

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.api.durations import duration_ms, set_duration_ms, set_timestamp_ms
from perdure.engine.history import (
    beginning,
    callbacks,
    closing,
    cron,
    events,
    evolve,
    frames,
    options,
    priorities,
    retrying,
    versions,
    workflow_task,
)
from perdure.engine.history.recording import append, append_frame, arrival_id, arrive
from perdure.engine.history.state import Run
from perdure.engine.history.transition import DEFAULT_LIMITS, NO_LINEAGE, Limits, Lineage, Transition

_SPAN_MAX_MS: Final = 100 * 365 * 24 * 3600 * 1000
"""Longer spans are cut to a hundred years, so that no instant leaves the calendar."""


def invalid(message: str) -> RpcError:
    return RpcError(StatusCode.INVALID_ARGUMENT, message)


def closed() -> RpcError:
    return RpcError(StatusCode.NOT_FOUND, "workflow execution already completed")


def check_name(name: str, what: str, limits: Limits, *, required: bool = True) -> None:
    """Refuse an id or name that is missing, overlong, or not fit for every store (NUL)."""
    if not name and required:
        raise invalid(f"{what} is not set")
    if len(name) > limits.id_length:
        raise invalid(f"{what} is too long: {len(name)} characters, at most {limits.id_length}")
    if "\0" in name:
        raise invalid(f"{what} holds a NUL character")


def span_ms(duration: Duration, what: str) -> int:
    """A span in milliseconds, capped; negative ones are refused."""
    if duration.seconds < 0 or duration.nanos < 0:
        raise invalid(f"{what} is negative")
    return min(duration_ms(duration), _SPAN_MAX_MS)


def check_size(size: int, most: int, what: str) -> None:
    if size > most:
        raise invalid(f"{what} exceeds the size limit: {size} bytes, at most {most}")


def check_start(request: m.StartWorkflowExecutionRequest, limits: Limits) -> None:
    """Everything that can be wrong with a start.

    Raises:
        RpcError: INVALID_ARGUMENT.
    """
    check_name(request.workflow_id, "WorkflowId", limits)
    check_name(request.workflow_type.name, "WorkflowType", limits)
    check_name(request.task_queue.name, "TaskQueue", limits)
    check_name(request.request_id, "RequestId", limits, required=False)
    check_name(request.identity, "Identity", limits, required=False)
    span_ms(request.workflow_execution_timeout, "WorkflowExecutionTimeout")
    span_ms(request.workflow_run_timeout, "WorkflowRunTimeout")
    span_ms(request.workflow_task_timeout, "WorkflowTaskTimeout")
    span_ms(request.workflow_start_delay, "WorkflowStartDelay")
    if request.cron_schedule:
        _check_cron(request)
    if request.HasField("retry_policy"):
        try:
            retrying.policy_of(request.retry_policy)
        except ValueError as error:
            raise invalid(str(error)) from None
    if request.HasField("versioning_override"):
        options.check_override(request.versioning_override)
    if request.completion_callbacks:
        callbacks.check(None, request.completion_callbacks, limits)
    refused = priorities.refusal(request.priority)
    if refused is not None:
        raise invalid(refused)
    check_size(request.input.ByteSize(), limits.blob_bytes, "Input")
    check_size(request.memo.ByteSize(), limits.memo_bytes, "Memo")
    check_size(request.header.ByteSize(), limits.blob_bytes, "Header")
    check_size(request.search_attributes.ByteSize(), limits.blob_bytes, "SearchAttributes")


def _check_cron(request: m.StartWorkflowExecutionRequest) -> None:
    if request.HasField("workflow_start_delay"):
        raise invalid("CronSchedule and WorkflowStartDelay may not be used together: the schedule says when to start")
    try:
        cron.check(request.cron_schedule)
    except ValueError as error:
        raise invalid(f"invalid CronSchedule {request.cron_schedule[:100]!r}: {error}") from None


def start_run(
    *,
    run_key: int,
    run_id: str,
    request: m.StartWorkflowExecutionRequest,
    lineage: Lineage = NO_LINEAGE,
    signal: m.SignalWorkflowExecutionRequest | None = None,
    limits: Limits,
    retention_ms: int,
    now_ms: int,
) -> Transition:
    """Start a run; `signal` is recorded before its first workflow task (signal-with-start), which it does not hasten.

    Raises:
        RpcError: INVALID_ARGUMENT.
    """
    if signal is not None:
        check_signal(signal, limits)
    if lineage is NO_LINEAGE:
        ordinary = beginning.read(request, limits, _ordinary_attributes)
        if ordinary is not None:
            transition = _begin(run_key, run_id, ordinary, limits, now_ms)
            transition.run.state.retention_ms = retention_ms
            if signal is not None:
                record_signal(transition, signal, None, limits)
            workflow_task.schedule(transition)
            return transition
    check_start(request, limits)
    attributes = _started_attributes(run_id, request, lineage, limits, now_ms)
    state = evolve.blank()
    run = Run(run_key, state)
    transition = Transition(run, now_ms, visibility=True)
    event = events.workflow_started(1, now_ms, attributes)
    if request.HasField("user_metadata"):
        event.user_metadata.CopyFrom(request.user_metadata)
        state.user_metadata = request.user_metadata.SerializeToString()
    if request.links:
        event.links.extend(callbacks.own_links(request.links, request.completion_callbacks))
    append(transition, event)
    evolve.apply_workflow_started(state, now_ms, attributes)
    state.namespace = request.namespace
    state.run_id = run_id
    state.start_request_id = request.request_id
    state.retention_ms = retention_ms
    state.signal_request_ids = list(lineage.signal_request_ids)
    state.cancel_request_ids = list(lineage.cancel_request_ids)
    if signal is not None:
        record_signal(transition, signal, None, limits)
    if not state.task_not_before_ms:
        workflow_task.schedule(transition)
    return transition


def _begin(run_key: int, run_id: str, ordinary: beginning.Beginning, limits: Limits, now_ms: int) -> Transition:
    """Start an ordinary run, but for its first workflow task."""
    check_name(ordinary.workflow_id, "WorkflowId", limits)
    check_name(ordinary.request_id, "RequestId", limits, required=False)
    check_size(ordinary.input_bytes, limits.blob_bytes, "Input")
    run = Run(run_key, ordinary.state(run_id, now_ms))
    transition = Transition(run, now_ms, visibility=True)
    append_frame(transition, frames.workflow_started(1, now_ms, ordinary.event(run_id)))
    return transition


def _ordinary_attributes(
    request: m.StartWorkflowExecutionRequest, limits: Limits
) -> m.WorkflowExecutionStartedEventAttributes:
    """What the Started events of ordinary runs have in common."""
    check_start(request, limits)
    return _started_attributes("", request, NO_LINEAGE, limits, 0)


def _started_attributes(
    run_id: str, request: m.StartWorkflowExecutionRequest, lineage: Lineage, limits: Limits, now_ms: int
) -> m.WorkflowExecutionStartedEventAttributes:
    execution_ms = span_ms(request.workflow_execution_timeout, "WorkflowExecutionTimeout")
    run_ms = span_ms(request.workflow_run_timeout, "WorkflowRunTimeout")
    if execution_ms and (not run_ms or run_ms > execution_ms):
        run_ms = execution_ms
    task_ms = span_ms(request.workflow_task_timeout, "WorkflowTaskTimeout") or limits.default_task_timeout_ms
    if run_ms:
        task_ms = min(task_ms, run_ms)
    attributes = m.WorkflowExecutionStartedEventAttributes(
        workflow_id=request.workflow_id,
        original_execution_run_id=lineage.original_run_id or run_id,
        first_execution_run_id=lineage.first_run_id or run_id,
        continued_execution_run_id=lineage.continued_from_run_id,
        initiator=m.ContinueAsNewInitiator.ValueType(lineage.initiator),
        cron_schedule=request.cron_schedule,
        attempt=lineage.attempt,
        identity=request.identity,
    )
    attributes.workflow_type.CopyFrom(request.workflow_type)
    attributes.task_queue.name = request.task_queue.name
    attributes.task_queue.kind = m.TaskQueueKind.TASK_QUEUE_KIND_NORMAL
    set_duration_ms(attributes.workflow_execution_timeout, execution_ms)
    set_duration_ms(attributes.workflow_run_timeout, run_ms)
    set_duration_ms(attributes.workflow_task_timeout, task_ms)
    backoff_ms = lineage.first_task_backoff_ms or span_ms(request.workflow_start_delay, "WorkflowStartDelay")
    if request.cron_schedule and not lineage.continued_from_run_id:
        attributes.initiator = m.ContinueAsNewInitiator.CONTINUE_AS_NEW_INITIATOR_CRON_SCHEDULE
        backoff_ms = cron.backoff_ms(request.cron_schedule, now_ms, now_ms) or 0
    set_duration_ms(attributes.first_workflow_task_backoff, backoff_ms)
    deadline_ms = lineage.execution_deadline_ms or (now_ms + execution_ms if execution_ms else 0)
    if deadline_ms:
        set_timestamp_ms(attributes.workflow_execution_expiration_time, deadline_ms)
    for name in ("input", "header", "memo", "search_attributes", "priority", "versioning_override"):
        if request.HasField(name):
            getattr(attributes, name).CopyFrom(getattr(request, name))
    attributes.completion_callbacks.extend(request.completion_callbacks)
    if request.request_eager_execution and not backoff_ms:
        attributes.eager_execution_accepted = True
    if request.HasField("retry_policy"):
        attributes.retry_policy.CopyFrom(retrying.policy_of(request.retry_policy).message)
    _add_lineage(attributes, request, lineage)
    return attributes


def _add_lineage(
    attributes: m.WorkflowExecutionStartedEventAttributes,
    request: m.StartWorkflowExecutionRequest,
    lineage: Lineage,
) -> None:
    failure = lineage.continued_failure
    if failure is None and request.HasField("continued_failure"):
        failure = request.continued_failure
    if failure is not None:
        attributes.continued_failure.CopyFrom(failure)
    result = lineage.last_completion_result
    if result is None and request.HasField("last_completion_result"):
        result = request.last_completion_result
    if result is not None:
        attributes.last_completion_result.CopyFrom(result)
    if lineage.inherited_version:
        attributes.inherited_pinned_version.CopyFrom(versions.message_of(lineage.inherited_version))
    if lineage.parent_run_id:
        attributes.parent_workflow_namespace = lineage.parent_namespace
        attributes.parent_workflow_execution.workflow_id = lineage.parent_workflow_id
        attributes.parent_workflow_execution.run_id = lineage.parent_run_id
        attributes.parent_initiated_event_id = lineage.parent_initiated_event_id
        attributes.root_workflow_execution.workflow_id = lineage.root_workflow_id or lineage.parent_workflow_id
        attributes.root_workflow_execution.run_id = lineage.root_run_id or lineage.parent_run_id


def is_delayed(run: Run) -> bool:
    """The back-off before the first workflow task (start delay, cron, retry) is not over."""
    return bool(not run.state.task_scheduled_event_id and run.state.task_not_before_ms)


def _check_sender(run: Run, external: tuple[str, str] | None, *, child_only: bool) -> None:
    if child_only and (external is None or external != (run.state.parent_workflow_id, run.state.parent_run_id)):
        raise RpcError(StatusCode.NOT_FOUND, "the workflow is not a child of the sender")


def check_signal(request: m.SignalWorkflowExecutionRequest, limits: Limits) -> None:
    check_name(request.signal_name, "SignalName", limits)
    check_name(request.request_id, "RequestId", limits, required=False)
    check_name(request.identity, "Identity", limits, required=False)
    check_size(request.input.ByteSize(), limits.blob_bytes, "Input")
    check_size(request.header.ByteSize(), limits.blob_bytes, "Header")


def signal(
    run: Run,
    request: m.SignalWorkflowExecutionRequest,
    *,
    limits: Limits,
    external: tuple[str, str] | None = None,
    child_only: bool = False,
    with_start: bool = False,
    now_ms: int,
) -> Transition:
    """Record a signal. A back-off before the first workflow task goes on, unless the signal came with a start.

    Args:
        run: that receives it.
        request: the signal.
        limits: bounds.
        external: (workflow_id, run_id) of a sending workflow.
        child_only: the sender must be the parent.
        with_start: its caller wanted to start the workflow (signal-with-start), and finds it started.
        now_ms: the present instant.

    Raises:
        RpcError: NOT_FOUND, closed, or `child_only` and not a child of the sender; INVALID_ARGUMENT, a limit.
    """
    state = run.state
    if not run.is_open:
        raise closed()
    _check_sender(run, external, child_only=child_only)
    if request.request_id and request.request_id in state.signal_request_ids:
        return Transition(run, now_ms, changed=False)
    check_signal(request, limits)
    if state.signal_count >= limits.signals_per_run:
        raise invalid(f"the run has had {state.signal_count} signals, the most it may: let it continue as new")
    transition = Transition(run, now_ms)
    record_signal(transition, request, external, limits)
    if with_start or not is_delayed(run):
        workflow_task.call(transition, limits)
    return transition


def record_signal(
    transition: Transition,
    request: m.SignalWorkflowExecutionRequest,
    external: tuple[str, str] | None,
    limits: Limits,
) -> None:
    state = transition.run.state
    arrive(transition, events.workflow_signaled(arrival_id(transition.run), transition.now_ms, request, external))
    state.signal_count += 1
    if request.request_id:
        remember(state.signal_request_ids, request.request_id, limits.request_ids_kept)


def remember(request_ids: list[str], request_id: str, kept: int) -> None:
    """Keep a request id, within the bound."""
    request_ids.append(request_id)
    if len(request_ids) > kept:
        del request_ids[0]


def request_cancel(
    run: Run,
    request: m.RequestCancelWorkflowExecutionRequest,
    *,
    limits: Limits = DEFAULT_LIMITS,
    external: tuple[str, str] | None = None,
    external_initiated_event_id: int = 0,
    child_only: bool = False,
    now_ms: int,
) -> Transition:
    """Ask the workflow to stop; a back-off before its first workflow task ends.

    changed=False if it has been asked already, or has closed: then what the caller wants has come about.

    Raises:
        RpcError: NOT_FOUND, `child_only` and not a child of the sender; INVALID_ARGUMENT, a limit.
    """
    state = run.state
    if not run.is_open:
        return Transition(run, now_ms, changed=False)
    _check_sender(run, external, child_only=child_only)
    check_name(request.request_id, "RequestId", limits, required=False)
    check_name(request.identity, "Identity", limits, required=False)
    check_size(len(request.reason), limits.blob_bytes, "Reason")
    transition = Transition(run, now_ms)
    if state.cancel_requested or (request.request_id and request.request_id in state.cancel_request_ids):
        transition.changed = False
        return transition
    event = events.workflow_cancel_requested(arrival_id(run), now_ms, request, external, external_initiated_event_id)
    arrive(transition, event)
    state.cancel_requested = True
    if request.request_id:
        remember(state.cancel_request_ids, request.request_id, limits.request_ids_kept)
    workflow_task.call(transition, limits)
    return transition


def terminate(
    run: Run,
    *,
    reason: str,
    details: m.Payloads | None,
    identity: str,
    links: Sequence[m.Link] = (),
    limits: Limits = DEFAULT_LIMITS,
    now_ms: int,
) -> Transition:
    """End the run now; the workflow does not see it.

    Raises:
        RpcError: NOT_FOUND, closed; INVALID_ARGUMENT, a limit.
    """
    if not run.is_open:
        raise closed()
    check_name(identity, "Identity", limits, required=False)
    check_size(len(reason), limits.blob_bytes, "Reason")
    if details is not None:
        check_size(details.ByteSize(), limits.blob_bytes, "Details")
    transition = Transition(run, now_ms)
    closing.terminate(transition, reason, details, identity, links)
    return transition
