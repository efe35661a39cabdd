"""Nexus operations, seen from the workflow that calls them.

    state        kept as                                event in
    -----------  -------------------------------------  ---------------------------------------------------------
    scheduled    item                                   handed out → with a handler; schedule-to-start → closed
    with a       item.start.held_until_ms               result → closed; token → started; handler failed, or did not
    handler                                             answer in time → backing off | closed
    backing off  item.start.next_attempt_at_ms          due → scheduled
    started      item.started_at_ms, token              completion from outside → closed; start-to-close → closed
    any          item                                   schedule-to-close → closed

An operation is closed by a handler that answers at once, or by a *completion*, which comes later and from elsewhere and
may overtake the answer to the request: then Started is written with it. A cancel that the workflow asks for is a
request of its own, with attempts of its own, delivered once the operation has started.

A request is with a handler only after a commit has said so (`hold`), and for a limited time. So a restart neither hands
it out again before that time is over nor forgets the one who has it. A request that is sent again has the same request
id: its receiver knows it. `attempt` is the fence: an answer to another attempt than the present one is refused.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.api.durations import set_duration_ms, set_timestamp_ms
from perdure.engine.history import deadlines, events_nexus, failures, nexus_failures, pending, workflow_task
from perdure.engine.history.recording import arrival_id, arrive
from perdure.engine.history.state import NexusItem, NexusRequest, Run
from perdure.engine.history.transition import Limits, Transition

_TYPE = m.TimeoutType
_STATE = m.PendingNexusOperationState
_CANCEL_STATE = m.NexusOperationCancellationState
CANCEL_SUCCEEDED = int(_CANCEL_STATE.NEXUS_OPERATION_CANCELLATION_STATE_SUCCEEDED)
CANCEL_FAILED = int(_CANCEL_STATE.NEXUS_OPERATION_CANCELLATION_STATE_FAILED)
_EXPONENT_MAX = 30
_GONE = "Nexus task not found: it has timed out or was completed"


class Completion(Struct, frozen=True):
    """How an operation ended: with a result, or a failure."""

    result: m.Payload | None = None
    failure: m.Failure | None = None
    """With ``CanceledFailureInfo`` if it was cancelled."""


def dispatchable(run: Run) -> list[int]:
    """Scheduled event ids of operations with a request that may be handed out now."""
    items = run.state.items
    return [event_id for event_id in sorted(run.live.nexus_ids) if deadlines.waits_for_worker(items[event_id])]


def find(run: Run, event_id: int, attempt: int, *, cancels: bool) -> tuple[NexusItem, NexusRequest]:
    """The operation whose present request and attempt are these.

    Raises:
        RpcError: NOT_FOUND, it is closed, or at another request or attempt.
    """
    item = run.state.items.get(event_id)
    if isinstance(item, NexusItem) and bool(item.started_at_ms) == cancels:
        request = item.request
        if request is not None and request.attempt == attempt:
            return item, request
    raise RpcError(StatusCode.NOT_FOUND, _GONE)


def _find_held(run: Run, event_id: int, attempt: int, *, cancels: bool) -> tuple[NexusItem, NexusRequest]:
    item, request = find(run, event_id, attempt, cancels=cancels)
    if not request.held_until_ms:
        raise RpcError(StatusCode.NOT_FOUND, _GONE)
    return item, request


# Requests.


def hold(run: Run, event_id: int, attempt: int, *, cancels: bool, limits: Limits, now_ms: int) -> Transition:
    """Hand out a request; its handler gets it once that is durable.

    Raises:
        RpcError: NOT_FOUND, it does not wait for a handler, or the workflow is paused.
    """
    item, request = find(run, event_id, attempt, cancels=cancels)
    if not deadlines.waits_for_worker(item) or run.state.pause is not None:
        raise RpcError(StatusCode.NOT_FOUND, _GONE)
    request.held_until_ms = now_ms + limits.nexus_request_timeout_ms
    pending.touch(run, event_id)
    deadlines.push_nexus(run, item)
    return Transition(run, now_ms)


def release(run: Run, event_id: int, attempt: int, *, cancels: bool, now_ms: int) -> Transition:
    """Nobody was there to take the request: it waits again. changed=False if it is not held any more."""
    transition = Transition(run, now_ms, changed=False)
    try:
        item, request = _find_held(run, event_id, attempt, cancels=cancels)
    except RpcError:
        return transition
    request.held_until_ms = 0
    pending.touch(run, event_id)
    deadlines.push_nexus(run, item)
    transition.changed = True
    return transition


def start(
    run: Run, event_id: int, attempt: int, token: str, links: Sequence[m.Link], *, limits: Limits, now_ms: int
) -> Transition:
    """The handler has started the operation, which will complete later.

    Raises:
        RpcError: NOT_FOUND; INVALID_ARGUMENT, the token.
    """
    item, _ = _find_held(run, event_id, attempt, cancels=False)
    if not token or len(token) > limits.blob_bytes:
        raise RpcError(StatusCode.INVALID_ARGUMENT, "an operation that completes later needs a token, and a short one")
    transition = Transition(run, now_ms)
    _write_started(transition, item, token, links)
    workflow_task.call(transition)
    return transition


def _write_started(transition: Transition, item: NexusItem, token: str, links: Sequence[m.Link]) -> None:
    run = transition.run
    arrive(transition, events_nexus.operation_started(arrival_id(run), transition.now_ms, item, token, links))
    item.token = token
    item.started_at_ms = transition.now_ms
    item.start = NexusRequest(attempt=item.start.attempt)
    pending.touch(run, item.event_id)
    deadlines.push_nexus(run, item)
    if item.cancel_requested_event_id:
        transition.activities.append(item.event_id)


def finish(
    run: Run,
    event_id: int,
    attempt: int,
    completion: Completion,
    links: Sequence[m.Link],
    *,
    limits: Limits,
    now_ms: int,
) -> Transition:
    """The handler has answered with the end of the operation. Raises RpcError NOT_FOUND."""
    item, _ = _find_held(run, event_id, attempt, cancels=False)
    transition = Transition(run, now_ms)
    _close(transition, item, completion, links, limits)
    return transition


def fail_attempt(
    run: Run, event_id: int, attempt: int, failure: m.Failure, *, cancels: bool, limits: Limits, now_ms: int
) -> Transition:
    """A handler could not serve a request, or there is none: try again, or give up. Raises RpcError NOT_FOUND."""
    item, request = find(run, event_id, attempt, cancels=cancels)
    transition = Transition(run, now_ms)
    _fail_attempt(transition, item, request, failures.bounded(failure, limits.blob_bytes), limits)
    return transition


def _fail_attempt(
    transition: Transition, item: NexusItem, request: NexusRequest, failure: m.Failure, limits: Limits
) -> None:
    run = transition.run
    now_ms = transition.now_ms
    if nexus_failures.is_retryable(failure):
        request.next_attempt_at_ms = now_ms + backoff_ms(request.attempt, limits)
        request.attempt += 1
        request.held_until_ms = 0
        request.last_failure = failure.SerializeToString()
        request.last_ended_at_ms = now_ms
        pending.touch(run, item.event_id)
        deadlines.push_nexus(run, item)
    elif item.started_at_ms:
        arrive(transition, events_nexus.cancel_request_failed(arrival_id(run), now_ms, item, failure))
        request.last_failure = failure.SerializeToString()
        _end_cancel(transition, item, CANCEL_FAILED)
    else:
        arrive(transition, events_nexus.operation_failed(arrival_id(run), now_ms, item, failure))
        _gone(transition, item)


def backoff_ms(attempt: int, limits: Limits) -> int:
    """The delay after attempt number `attempt`."""
    delay_ms = limits.nexus_backoff_initial_ms << min(attempt - 1, _EXPONENT_MAX)
    return min(delay_ms, limits.nexus_backoff_max_ms)


# The end.


def complete(
    run: Run,
    event_id: int,
    request_id: str,
    completion: Completion,
    *,
    token: str = "",
    links: Sequence[m.Link] = (),
    limits: Limits,
    now_ms: int,
) -> Transition:
    """An operation's completion has come from elsewhere.

    Args:
        run: that waits for it.
        event_id: of its Scheduled event.
        request_id: of the request that started it.
        completion: how it ended.
        token: what its handler calls it, in case the answer to the request has not come yet.
        links: to what was started.
        limits: bounds.
        now_ms: the present instant.

    Raises:
        RpcError: NOT_FOUND, it is not, or no longer, pending.
    """
    item = run.state.items.get(event_id)
    if not isinstance(item, NexusItem) or item.request_id != request_id:
        raise RpcError(StatusCode.NOT_FOUND, "operation not found: it is not pending")
    transition = Transition(run, now_ms)
    if not item.started_at_ms:
        _write_started(transition, item, token, links)
    _close(transition, item, completion, (), limits)
    return transition


def _close(
    transition: Transition, item: NexusItem, completion: Completion, links: Sequence[m.Link], limits: Limits
) -> None:
    run = transition.run
    now_ms = transition.now_ms
    failure = completion.failure
    result = completion.result
    if failure is None and result is not None and result.ByteSize() > limits.blob_bytes:
        failure = failures.server_failure("operation result exceeds size limit", non_retryable=True)
    if failure is None:
        event = events_nexus.operation_completed(arrival_id(run), now_ms, item, result, links)
    elif nexus_failures.is_canceled(failure):
        failure = failures.bounded(failure, limits.blob_bytes)
        event = events_nexus.operation_canceled(arrival_id(run), now_ms, item, failure, links)
    else:
        failure = failures.bounded(failure, limits.blob_bytes)
        event = events_nexus.operation_failed(arrival_id(run), now_ms, item, failure, links)
    arrive(transition, event)
    _gone(transition, item)


def _gone(transition: Transition, item: NexusItem) -> None:
    if item.event_id in transition.activities:
        transition.activities.remove(item.event_id)
    pending.remove_nexus(transition.run, item.event_id)
    workflow_task.call(transition)


def cancel_delivered(run: Run, event_id: int, attempt: int, *, now_ms: int) -> Transition:
    """The handler has taken in the request to cancel. Raises RpcError NOT_FOUND."""
    item, _ = _find_held(run, event_id, attempt, cancels=True)
    transition = Transition(run, now_ms)
    arrive(transition, events_nexus.cancel_request_completed(arrival_id(run), now_ms, item))
    _end_cancel(transition, item, CANCEL_SUCCEEDED)
    return transition


def _end_cancel(transition: Transition, item: NexusItem, state: int) -> None:
    request = item.cancel
    request.held_until_ms = 0
    request.last_ended_at_ms = transition.now_ms
    item.cancel_state = state
    pending.touch(transition.run, item.event_id)
    deadlines.push_nexus(transition.run, item)
    workflow_task.call(transition)


# Time.


def fire_due(transition: Transition, item: NexusItem, limits: Limits) -> None:
    """Something is due: the end of a back-off, of the time a handler has, or one of three timeouts."""
    run = transition.run
    now_ms = transition.now_ms
    timeout = _due_timeout(item, now_ms)
    if timeout is not None:
        failure = nexus_failures.timeout(timeout)
        arrive(transition, events_nexus.operation_timed_out(arrival_id(run), now_ms, item, failure))
        _gone(transition, item)
        return
    request = item.request
    if request is not None and request.held_until_ms:
        if request.held_until_ms <= now_ms:
            failure = nexus_failures.handler_failure("UPSTREAM_TIMEOUT", "the handler has not answered in time")
            _fail_attempt(transition, item, request, failure, limits)
    elif request is not None and request.next_attempt_at_ms and request.next_attempt_at_ms <= now_ms:
        request.next_attempt_at_ms = 0
        pending.touch(run, item.event_id)
        transition.activities.append(item.event_id)
        deadlines.push_nexus(run, item)


def _due_timeout(item: NexusItem, now_ms: int) -> m.TimeoutType.ValueType | None:
    if item.schedule_to_close_ms and item.scheduled_at_ms + item.schedule_to_close_ms <= now_ms:
        return _TYPE.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE
    if item.started_at_ms:
        late = item.start_to_close_ms and item.started_at_ms + item.start_to_close_ms <= now_ms
        return _TYPE.TIMEOUT_TYPE_START_TO_CLOSE if late else None
    late = item.schedule_to_start_ms and item.scheduled_at_ms + item.schedule_to_start_ms <= now_ms
    return _TYPE.TIMEOUT_TYPE_SCHEDULE_TO_START if late else None


# Looking.


def describe(info: m.PendingNexusOperationInfo, item: NexusItem) -> None:
    """A pending operation as clients see it."""
    info.endpoint = item.endpoint
    info.service = item.service
    info.operation = item.operation
    info.operation_id = info.operation_token = item.token
    info.scheduled_event_id = item.event_id
    set_timestamp_ms(info.scheduled_time, item.scheduled_at_ms)
    for target, span_ms in (
        (info.schedule_to_close_timeout, item.schedule_to_close_ms),
        (info.schedule_to_start_timeout, item.schedule_to_start_ms),
        (info.start_to_close_timeout, item.start_to_close_ms),
    ):
        if span_ms:
            set_duration_ms(target, span_ms)
    if item.started_at_ms:
        info.state = _STATE.PENDING_NEXUS_OPERATION_STATE_STARTED
    elif item.start.next_attempt_at_ms:
        info.state = _STATE.PENDING_NEXUS_OPERATION_STATE_BACKING_OFF
    else:
        info.state = _STATE.PENDING_NEXUS_OPERATION_STATE_SCHEDULED
    _describe_request(info, item.start)
    if item.cancel_requested_event_id:
        cancel = info.cancellation_info
        set_timestamp_ms(cancel.requested_time, item.cancel_requested_at_ms)
        if item.cancel_state:
            cancel.state = _CANCEL_STATE.ValueType(item.cancel_state)
        elif item.cancel.next_attempt_at_ms:
            cancel.state = _CANCEL_STATE.NEXUS_OPERATION_CANCELLATION_STATE_BACKING_OFF
        elif item.started_at_ms:
            cancel.state = _CANCEL_STATE.NEXUS_OPERATION_CANCELLATION_STATE_SCHEDULED
        _describe_request(cancel, item.cancel)


def _describe_request(
    info: m.PendingNexusOperationInfo | m.NexusOperationCancellationInfo, request: NexusRequest
) -> None:
    info.attempt = request.attempt
    if request.last_ended_at_ms:
        set_timestamp_ms(info.last_attempt_complete_time, request.last_ended_at_ms)
    if request.last_failure:
        info.last_attempt_failure.MergeFromString(request.last_failure)
    if request.next_attempt_at_ms:
        info.attempt -= 1
        set_timestamp_ms(info.next_attempt_schedule_time, request.next_attempt_at_ms)
