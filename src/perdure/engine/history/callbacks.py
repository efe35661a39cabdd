"""Completion callbacks: who is told how a workflow ends, or an update of it.

    state        event in
    -----------  ------------------------------------------------
    standby      the workflow's last run closes, or the update completes → scheduled
    scheduled    delivered → succeeded; refused → failed; no answer → backing off, or failed when the workflow's
                 retention would be over
    backing off  due → scheduled

Callbacks come with the request that starts a workflow, or are attached by one that finds it running; both are in its
history. A run that is followed by another hands its callbacks on. When the last run closes, each becomes a message in
its outbox, which stays there until it has been delivered or refused for good. What is told is the closing event.
Callbacks of updates come with their requests, and stay with the run: they are told of the event that completes the
update, or that the run closed without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from temporalio.api.callback import v1 as callback_info

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.api.durations import set_timestamp_ms
from perdure.engine.history import failures
from perdure.engine.history.nexus import Completion, backoff_ms
from perdure.engine.history.nexus_failures import handler_failure
from perdure.engine.history.recording import send
from perdure.engine.history.state import CallbackItem, MessageKind, OutMessage, Run, RunState
from perdure.engine.history.transition import Limits, Transition

_STATE = m.CallbackState
_STANDBY = int(_STATE.CALLBACK_STATE_STANDBY)
_SCHEDULED = int(_STATE.CALLBACK_STATE_SCHEDULED)
_BACKING_OFF = int(_STATE.CALLBACK_STATE_BACKING_OFF)
_FAILED = int(_STATE.CALLBACK_STATE_FAILED)
_SUCCEEDED = int(_STATE.CALLBACK_STATE_SUCCEEDED)
_T = m.EventType
_TERMINATED = int(m.WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_TERMINATED)

NOT_FOUND: Final = 1
"""Why a callback could not be delivered: nobody waits for it."""
REFUSED: Final = 2
"""The same: its receiver does not want it; the item says why."""


def check(state: RunState | None, callbacks: Sequence[m.Callback], limits: Limits) -> None:
    """Everything that can be wrong with callbacks whatever their URLs are.

    Args:
        state: of the run they are attached to; None if it is new.
        callbacks: the new ones.
        limits: bounds.

    Raises:
        RpcError: INVALID_ARGUMENT; FAILED_PRECONDITION, there are too many.
    """
    for callback in callbacks:
        if callback.WhichOneof("variant") != "nexus":
            raise RpcError(StatusCode.INVALID_ARGUMENT, "a completion callback is a Nexus callback; set its URL")
        header = callback.nexus.header
        if sum(len(name) + len(value) for name, value in header.items()) > limits.nexus_header_bytes:
            raise RpcError(
                StatusCode.INVALID_ARGUMENT,
                f"invalid nexus callback: the header exceeds {limits.nexus_header_bytes} bytes",
            )
        if len(callback.nexus.url) > limits.id_length:
            raise RpcError(
                StatusCode.INVALID_ARGUMENT, f"invalid nexus callback: the URL exceeds {limits.id_length} characters"
            )
    attached = len(state.callbacks or ()) if state is not None else 0
    if attached + len(callbacks) > limits.callbacks:
        raise RpcError(
            StatusCode.FAILED_PRECONDITION,
            f"cannot attach more than {limits.callbacks} callbacks to a workflow"
            f" ({attached} callbacks already attached)",
        )


def own_links(links: Iterable[m.Link], callbacks: Iterable[m.Callback]) -> list[m.Link]:
    """The links of a request, without those that its callbacks carry themselves."""
    carried = [link for callback in callbacks for link in callback.links]
    return [link for link in links if link not in carried]


def hand_on(state: RunState, request: m.StartWorkflowExecutionRequest) -> None:
    """Give a run's callbacks to the one that follows it; those of its updates stay."""
    for item in state.callbacks or ():
        if not item.update_id:
            request.completion_callbacks.add().MergeFromString(item.callback)


def trigger(transition: Transition, *, moves: bool) -> None:
    """The run has ended: tell all that wait for it, or for its updates.

    Args:
        transition: of the run.
        moves: another run follows, and has the callbacks of the workflow.
    """
    for number, item in enumerate(transition.run.state.callbacks or ()):
        if item.state == _STANDBY and (item.update_id or not moves):
            _send(transition, number, item)


def update_completed(transition: Transition, update_id: str, event_id: int) -> None:
    """An update has completed: tell all that wait for it."""
    for number, item in enumerate(transition.run.state.callbacks or ()):
        if item.state == _STANDBY and item.update_id == update_id:
            item.event_id = event_id
            _send(transition, number, item)


def _send(transition: Transition, number: int, item: CallbackItem) -> None:
    state = transition.run.state
    item.state = _SCHEDULED
    message = OutMessage(
        0, MessageKind.CALLBACK, state.namespace, state.workflow_id, state.run_id, b"", event_id=number
    )
    send(transition, message)


def ended(transition: Transition, message: OutMessage, failure_cause: int) -> None:
    """A message has been delivered, or refused for good."""
    item = _item(transition.run, message)
    item.next_attempt_at_ms = 0
    if failure_cause == REFUSED:
        item.state = _FAILED
        return
    item.attempt += 1
    item.last_ended_at_ms = transition.now_ms
    item.state = _SUCCEEDED
    if failure_cause == NOT_FOUND:
        item.state = _FAILED
        failure = handler_failure("NOT_FOUND", "nobody waits for the callback", retryable=False)
        item.last_failure = failure.SerializeToString()


def attempt_failed(run: Run, message: OutMessage, failure: m.Failure, *, limits: Limits, now_ms: int) -> Transition:
    """A message could not be delivered; it is tried again at `next_attempt_at_ms`, unless it is `ended`."""
    item = _item(run, message)
    item.attempt += 1
    item.last_ended_at_ms = now_ms
    item.last_failure = failure.SerializeToString()
    item.state = _BACKING_OFF
    item.next_attempt_at_ms = now_ms + backoff_ms(item.attempt, limits)
    return Transition(run, now_ms)


def callback_of(run: Run, message: OutMessage) -> m.Callback:
    """Whom a message is for."""
    return m.Callback.FromString(_item(run, message).callback)


def next_attempt_at_ms(run: Run, message: OutMessage) -> int:
    """When a message that could not be delivered is tried again; 0 = the workflow will not be kept for that long."""
    due_ms = _item(run, message).next_attempt_at_ms
    return due_ms if due_ms <= run.state.retain_until_ms or run.is_open else 0


def _item(run: Run, message: OutMessage) -> CallbackItem:
    callbacks = run.state.callbacks
    assert callbacks is not None and message.event_id < len(callbacks), "callbacks are never taken away"
    return callbacks[message.event_id]


def event_id_of(run: Run, message: OutMessage) -> int:
    """The event that says what a message tells."""
    state = run.state
    if state.standalone is not None and state.status != _TERMINATED:
        return state.close_event_id - 1  # The end of the activity, just before the end of its run.
    return _item(run, message).event_id or state.close_event_id


def completion_of(run: Run, message: OutMessage, event: m.HistoryEvent) -> Completion:
    """What the event of a message tells the caller of an operation."""
    item = _item(run, message)
    if item.event_id:
        outcome = event.workflow_execution_update_completed_event_attributes.outcome
        if outcome.HasField("failure"):
            return Completion(failure=outcome.failure)
        payloads = outcome.success.payloads
        return Completion(result=payloads[0] if payloads else None)
    if item.update_id:
        return Completion(failure=failures.abandoned_update())
    return _end(event)


def _end(event: m.HistoryEvent) -> Completion:
    """The end of a workflow, or of an activity without one."""
    match event.event_type:
        case _T.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
            payloads = event.activity_task_completed_event_attributes.result.payloads
            return Completion(result=payloads[0] if payloads else None)
        case _T.EVENT_TYPE_ACTIVITY_TASK_FAILED:
            return Completion(failure=event.activity_task_failed_event_attributes.failure)
        case _T.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT:
            return Completion(failure=event.activity_task_timed_out_event_attributes.failure)
        case _T.EVENT_TYPE_ACTIVITY_TASK_CANCELED:
            failure = m.Failure(message="operation canceled")
            details = event.activity_task_canceled_event_attributes.details
            failure.canceled_failure_info.details.CopyFrom(details)
        case _T.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED:
            payloads = event.workflow_execution_completed_event_attributes.result.payloads
            return Completion(result=payloads[0] if payloads else None)
        case _T.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED:
            return Completion(failure=event.workflow_execution_failed_event_attributes.failure)
        case _T.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED:
            failure = m.Failure(message="operation canceled")
            details = event.workflow_execution_canceled_event_attributes.details
            failure.canceled_failure_info.details.CopyFrom(details)
        case _T.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED:
            failure = m.Failure(message="operation terminated")
            failure.terminated_failure_info.SetInParent()
        case _:
            failure = m.Failure(message="operation exceeded internal timeout")
            failure.timeout_failure_info.timeout_type = m.TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE
    return Completion(failure=failure)


def describe(info: m.CallbackInfo, item: CallbackItem) -> None:
    """A callback of a workflow as clients see it."""
    if item.update_id:
        info.trigger.update_workflow_execution_completed.update_id = item.update_id
    else:
        info.trigger.workflow_closed.SetInParent()
    fill(info, item)


def fill(info: m.CallbackInfo | callback_info.CallbackInfo, item: CallbackItem) -> None:
    """What there is to know of every callback."""
    info.callback.MergeFromString(item.callback)
    set_timestamp_ms(info.registration_time, item.registered_at_ms)
    info.state = _STATE.ValueType(item.state)
    info.attempt = item.attempt
    if item.last_ended_at_ms:
        set_timestamp_ms(info.last_attempt_complete_time, item.last_ended_at_ms)
    if item.last_failure:
        info.last_attempt_failure.MergeFromString(item.last_failure)
    if item.next_attempt_at_ms:
        set_timestamp_ms(info.next_attempt_schedule_time, item.next_attempt_at_ms)
