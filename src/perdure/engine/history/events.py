"""The only builder of history events (those between runs are in `events_between`).

One function an event type: it takes the event's id, its instant and its values, and returns the message. An id of 0
is left unset: such an event waits in the buffer and gets its id when it is flushed. Values that are messages are
copied. This is on every hot path, so fields are set directly: the upb runtime makes a bare event in under a
microsecond, while keyword arguments and nested constructors take several.

`DEFERRED` stands for the id of an event that is itself still in the buffer; flushing replaces it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from perdure.api import messages as m

DEFERRED: Final = -1

_T = m.EventType
_WORKFLOW_STARTED = _T.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED
_WORKFLOW_COMPLETED = _T.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED
_WORKFLOW_FAILED = _T.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED
_WORKFLOW_TIMED_OUT = _T.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT
_WORKFLOW_SIGNALED = _T.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED
_WORKFLOW_CANCEL_REQUESTED = _T.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED
_WORKFLOW_CANCELED = _T.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED
_WORKFLOW_TERMINATED = _T.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED
_WORKFLOW_CONTINUED = _T.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW
_TASK_SCHEDULED = _T.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED
_TASK_STARTED = _T.EVENT_TYPE_WORKFLOW_TASK_STARTED
_TASK_COMPLETED = _T.EVENT_TYPE_WORKFLOW_TASK_COMPLETED
_TASK_FAILED = _T.EVENT_TYPE_WORKFLOW_TASK_FAILED
_TASK_TIMED_OUT = _T.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT
_ACTIVITY_SCHEDULED = _T.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED
_ACTIVITY_STARTED = _T.EVENT_TYPE_ACTIVITY_TASK_STARTED
_ACTIVITY_COMPLETED = _T.EVENT_TYPE_ACTIVITY_TASK_COMPLETED
_ACTIVITY_FAILED = _T.EVENT_TYPE_ACTIVITY_TASK_FAILED
_ACTIVITY_TIMED_OUT = _T.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT
_ACTIVITY_CANCEL_REQUESTED = _T.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED
_ACTIVITY_CANCELED = _T.EVENT_TYPE_ACTIVITY_TASK_CANCELED
_TIMER_STARTED = _T.EVENT_TYPE_TIMER_STARTED
_TIMER_FIRED = _T.EVENT_TYPE_TIMER_FIRED
_TIMER_CANCELED = _T.EVENT_TYPE_TIMER_CANCELED
_MARKER_RECORDED = _T.EVENT_TYPE_MARKER_RECORDED
_SEARCH_ATTRIBUTES = _T.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES
_PROPERTIES = _T.EVENT_TYPE_WORKFLOW_PROPERTIES_MODIFIED
_PAUSED = _T.EVENT_TYPE_WORKFLOW_EXECUTION_PAUSED
_UNPAUSED = _T.EVENT_TYPE_WORKFLOW_EXECUTION_UNPAUSED
_OPTIONS = _T.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED

_NORMAL = m.TaskQueueKind.TASK_QUEUE_KIND_NORMAL
_STICKY = m.TaskQueueKind.TASK_QUEUE_KIND_STICKY


def new_event(event_id: int, at_ms: int, event_type: m.EventType.ValueType) -> m.HistoryEvent:
    """What all events have in common; for this module and `events_between`."""
    event = m.HistoryEvent()
    event.event_id = event_id
    event.task_id = event_id
    event.event_type = event_type
    time = event.event_time
    time.seconds = at_ms // 1000
    time.nanos = at_ms % 1000 * 1_000_000
    return event


def renumber(event: m.HistoryEvent, event_id: int) -> None:
    """Give a buffered event its id."""
    event.event_id = event_id
    event.task_id = event_id


def again(event: m.HistoryEvent, event_id: int, at_ms: int) -> m.HistoryEvent:
    """The same event once more, at another place and instant."""
    copy = new_event(event_id, at_ms, event.event_type)
    time = copy.event_time.ToNanoseconds()
    copy.MergeFrom(event)
    renumber(copy, event_id)
    copy.event_time.FromNanoseconds(time)
    return copy


def carry_command_metadata(event: m.HistoryEvent, command: m.Command) -> None:
    """Carry what a command says about itself over to its event."""
    if command.HasField("user_metadata"):
        event.user_metadata.CopyFrom(command.user_metadata)
    if command.event_group_markers:
        event.event_group_markers.MergeFrom(command.event_group_markers)


# The run


def workflow_started(
    event_id: int, at_ms: int, attributes: m.WorkflowExecutionStartedEventAttributes
) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _WORKFLOW_STARTED)
    event.workflow_execution_started_event_attributes.CopyFrom(attributes)
    return event


def workflow_signaled(
    event_id: int, at_ms: int, request: m.SignalWorkflowExecutionRequest, external: tuple[str, str] | None
) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _WORKFLOW_SIGNALED)
    attributes = event.workflow_execution_signaled_event_attributes
    attributes.signal_name = request.signal_name
    attributes.identity = request.identity
    attributes.request_id = request.request_id
    if request.HasField("input"):
        attributes.input.CopyFrom(request.input)
    if request.HasField("header"):
        attributes.header.CopyFrom(request.header)
    if external is not None:
        attributes.external_workflow_execution.workflow_id = external[0]
        attributes.external_workflow_execution.run_id = external[1]
    if request.links:
        event.links.MergeFrom(request.links)
    return event


def workflow_cancel_requested(
    event_id: int,
    at_ms: int,
    request: m.RequestCancelWorkflowExecutionRequest,
    external: tuple[str, str] | None,
    external_initiated_event_id: int,
) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _WORKFLOW_CANCEL_REQUESTED)
    attributes = event.workflow_execution_cancel_requested_event_attributes
    attributes.cause = request.reason
    attributes.identity = request.identity
    attributes.external_initiated_event_id = external_initiated_event_id
    if external is not None:
        attributes.external_workflow_execution.workflow_id = external[0]
        attributes.external_workflow_execution.run_id = external[1]
    if request.links:
        event.links.MergeFrom(request.links)
    return event


def workflow_completed(
    event_id: int, at_ms: int, result: m.Payloads | None, completed_event_id: int, new_run_id: str
) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _WORKFLOW_COMPLETED)
    attributes = event.workflow_execution_completed_event_attributes
    attributes.workflow_task_completed_event_id = completed_event_id
    attributes.new_execution_run_id = new_run_id
    if result is not None:
        attributes.result.CopyFrom(result)
    return event


def workflow_failed(
    event_id: int,
    at_ms: int,
    failure: m.Failure,
    retry_state: m.RetryState.ValueType,
    completed_event_id: int,
    new_run_id: str,
) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _WORKFLOW_FAILED)
    attributes = event.workflow_execution_failed_event_attributes
    attributes.failure.CopyFrom(failure)
    attributes.retry_state = retry_state
    attributes.workflow_task_completed_event_id = completed_event_id
    attributes.new_execution_run_id = new_run_id
    return event


def workflow_timed_out(
    event_id: int, at_ms: int, retry_state: m.RetryState.ValueType, new_run_id: str
) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _WORKFLOW_TIMED_OUT)
    attributes = event.workflow_execution_timed_out_event_attributes
    attributes.retry_state = retry_state
    attributes.new_execution_run_id = new_run_id
    return event


def workflow_canceled(event_id: int, at_ms: int, details: m.Payloads | None, completed_event_id: int) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _WORKFLOW_CANCELED)
    attributes = event.workflow_execution_canceled_event_attributes
    attributes.workflow_task_completed_event_id = completed_event_id
    if details is not None:
        attributes.details.CopyFrom(details)
    return event


def workflow_terminated(
    event_id: int, at_ms: int, reason: str, details: m.Payloads | None, identity: str
) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _WORKFLOW_TERMINATED)
    attributes = event.workflow_execution_terminated_event_attributes
    attributes.reason = reason
    attributes.identity = identity
    if details is not None:
        attributes.details.CopyFrom(details)
    return event


def workflow_continued_as_new(
    event_id: int, at_ms: int, attributes: m.WorkflowExecutionContinuedAsNewEventAttributes
) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _WORKFLOW_CONTINUED)
    event.workflow_execution_continued_as_new_event_attributes.CopyFrom(attributes)
    return event


# Workflow tasks


def task_scheduled(
    event_id: int, at_ms: int, task_queue: str, sticky_queue: str, timeout_ms: int, attempt: int
) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _TASK_SCHEDULED)
    attributes = event.workflow_task_scheduled_event_attributes
    queue = attributes.task_queue
    if sticky_queue:
        queue.name = sticky_queue
        queue.kind = _STICKY
        queue.normal_name = task_queue
    else:
        queue.name = task_queue
        queue.kind = _NORMAL
    timeout = attributes.start_to_close_timeout
    timeout.seconds = timeout_ms // 1000
    timeout.nanos = timeout_ms % 1000 * 1_000_000
    attributes.attempt = attempt
    return event


def task_started(
    event_id: int,
    at_ms: int,
    scheduled_event_id: int,
    identity: str,
    request_id: str,
    history_bytes: int,
    suggest_reasons: list[m.SuggestContinueAsNewReason.ValueType] | None,
) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _TASK_STARTED)
    attributes = event.workflow_task_started_event_attributes
    attributes.scheduled_event_id = scheduled_event_id
    attributes.identity = identity
    attributes.request_id = request_id
    attributes.history_size_bytes = history_bytes
    if suggest_reasons:
        attributes.suggest_continue_as_new = True
        attributes.suggest_continue_as_new_reasons.extend(suggest_reasons)
    return event


def task_completed(
    event_id: int,
    at_ms: int,
    scheduled_event_id: int,
    started_event_id: int,
    request: m.RespondWorkflowTaskCompletedRequest,
) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _TASK_COMPLETED)
    attributes = event.workflow_task_completed_event_attributes
    attributes.scheduled_event_id = scheduled_event_id
    attributes.started_event_id = started_event_id
    attributes.identity = request.identity
    if request.HasField("sdk_metadata"):
        attributes.sdk_metadata.CopyFrom(request.sdk_metadata)
    attributes.binary_checksum = request.binary_checksum
    if request.HasField("worker_version_stamp"):
        attributes.worker_version.CopyFrom(request.worker_version_stamp)
    if request.HasField("metering_metadata"):
        attributes.metering_metadata.CopyFrom(request.metering_metadata)
    if request.HasField("deployment_options"):
        options = request.deployment_options
        attributes.versioning_behavior = request.versioning_behavior
        attributes.worker_deployment_name = options.deployment_name
        attributes.deployment_version.deployment_name = options.deployment_name
        attributes.deployment_version.build_id = options.build_id
    return event


def task_failed(
    event_id: int,
    at_ms: int,
    scheduled_event_id: int,
    started_event_id: int,
    cause: m.WorkflowTaskFailedCause.ValueType,
    failure: m.Failure | None,
    identity: str,
) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _TASK_FAILED)
    attributes = event.workflow_task_failed_event_attributes
    attributes.scheduled_event_id = scheduled_event_id
    attributes.started_event_id = started_event_id
    attributes.cause = cause
    attributes.identity = identity
    if failure is not None:
        attributes.failure.CopyFrom(failure)
    return event


def task_reset(
    event_id: int,
    at_ms: int,
    scheduled_event_id: int,
    started_event_id: int,
    reason: str,
    base_run_id: str,
    new_run_id: str,
) -> m.HistoryEvent:
    """The failure that a reset ends the last task of the history with that it takes up."""
    failure = m.Failure(message=reason, source="Server")
    failure.reset_workflow_failure_info.SetInParent()
    cause = m.WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW
    event = task_failed(event_id, at_ms, scheduled_event_id, started_event_id, cause, failure, "history-service")
    event.workflow_task_failed_event_attributes.base_run_id = base_run_id
    event.workflow_task_failed_event_attributes.new_run_id = new_run_id
    return event


def task_timed_out(event_id: int, at_ms: int, scheduled_event_id: int, started_event_id: int) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _TASK_TIMED_OUT)
    attributes = event.workflow_task_timed_out_event_attributes
    attributes.scheduled_event_id = scheduled_event_id
    attributes.started_event_id = started_event_id
    attributes.timeout_type = m.TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE
    return event


# Activities


def activity_scheduled(
    event_id: int,
    at_ms: int,
    command: m.ScheduleActivityTaskCommandAttributes,
    retry_policy: m.RetryPolicy,
    completed_event_id: int,
) -> m.HistoryEvent:
    """The command's attributes, with the retry policy that holds.

    The fields that command and event share have the same numbers and types, so the bytes of one parse as the other;
    those that differ (11: policy, 12: eager execution) have another wire type there, arrive as unknown fields and
    are dropped. It takes two thirds of the time of copying field by field.
    """
    event = new_event(event_id, at_ms, _ACTIVITY_SCHEDULED)
    attributes = event.activity_task_scheduled_event_attributes
    attributes.MergeFromString(command.SerializeToString())
    attributes.DiscardUnknownFields()
    attributes.retry_policy.CopyFrom(retry_policy)
    attributes.workflow_task_completed_event_id = completed_event_id
    return event


def activity_started(
    event_id: int, at_ms: int, scheduled_event_id: int, identity: str, attempt: int, last_failure: bytes
) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _ACTIVITY_STARTED)
    attributes = event.activity_task_started_event_attributes
    attributes.scheduled_event_id = scheduled_event_id
    attributes.identity = identity
    attributes.attempt = attempt
    if last_failure:
        attributes.last_failure.MergeFromString(last_failure)
    return event


def activity_completed(
    event_id: int, at_ms: int, scheduled_event_id: int, started_event_id: int, result: m.Payloads | None, identity: str
) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _ACTIVITY_COMPLETED)
    attributes = event.activity_task_completed_event_attributes
    attributes.scheduled_event_id = scheduled_event_id
    attributes.started_event_id = started_event_id
    attributes.identity = identity
    if result is not None:
        attributes.result.CopyFrom(result)
    return event


def activity_failed(
    event_id: int,
    at_ms: int,
    scheduled_event_id: int,
    started_event_id: int,
    failure: m.Failure,
    retry_state: m.RetryState.ValueType,
    identity: str,
) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _ACTIVITY_FAILED)
    attributes = event.activity_task_failed_event_attributes
    attributes.scheduled_event_id = scheduled_event_id
    attributes.started_event_id = started_event_id
    attributes.identity = identity
    attributes.retry_state = retry_state
    attributes.failure.CopyFrom(failure)
    return event


def activity_timed_out(
    event_id: int,
    at_ms: int,
    scheduled_event_id: int,
    started_event_id: int,
    failure: m.Failure,
    retry_state: m.RetryState.ValueType,
) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _ACTIVITY_TIMED_OUT)
    attributes = event.activity_task_timed_out_event_attributes
    attributes.scheduled_event_id = scheduled_event_id
    attributes.started_event_id = started_event_id
    attributes.retry_state = retry_state
    attributes.failure.CopyFrom(failure)
    return event


def activity_cancel_requested(
    event_id: int, at_ms: int, scheduled_event_id: int, completed_event_id: int
) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _ACTIVITY_CANCEL_REQUESTED)
    attributes = event.activity_task_cancel_requested_event_attributes
    attributes.scheduled_event_id = scheduled_event_id
    attributes.workflow_task_completed_event_id = completed_event_id
    return event


def activity_canceled(
    event_id: int,
    at_ms: int,
    scheduled_event_id: int,
    started_event_id: int,
    cancel_requested_event_id: int,
    details: m.Payloads | None,
    identity: str,
) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _ACTIVITY_CANCELED)
    attributes = event.activity_task_canceled_event_attributes
    attributes.scheduled_event_id = scheduled_event_id
    attributes.started_event_id = started_event_id
    attributes.latest_cancel_requested_event_id = cancel_requested_event_id
    attributes.identity = identity
    if details is not None:
        attributes.details.CopyFrom(details)
    return event


# Timers, markers, attributes


def timer_started(
    event_id: int, at_ms: int, command: m.StartTimerCommandAttributes, completed_event_id: int
) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _TIMER_STARTED)
    attributes = event.timer_started_event_attributes
    attributes.timer_id = command.timer_id
    attributes.start_to_fire_timeout.CopyFrom(command.start_to_fire_timeout)
    attributes.workflow_task_completed_event_id = completed_event_id
    return event


def timer_fired(event_id: int, at_ms: int, timer_id: str, started_event_id: int) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _TIMER_FIRED)
    attributes = event.timer_fired_event_attributes
    attributes.timer_id = timer_id
    attributes.started_event_id = started_event_id
    return event


def timer_canceled(
    event_id: int, at_ms: int, timer_id: str, started_event_id: int, completed_event_id: int, identity: str
) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _TIMER_CANCELED)
    attributes = event.timer_canceled_event_attributes
    attributes.timer_id = timer_id
    attributes.started_event_id = started_event_id
    attributes.workflow_task_completed_event_id = completed_event_id
    attributes.identity = identity
    return event


def marker_recorded(
    event_id: int, at_ms: int, command: m.RecordMarkerCommandAttributes, completed_event_id: int
) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _MARKER_RECORDED)
    attributes = event.marker_recorded_event_attributes
    attributes.marker_name = command.marker_name
    _copy_payloads_map(command.details, attributes.details)
    if command.HasField("header"):
        attributes.header.CopyFrom(command.header)
    if command.HasField("failure"):
        attributes.failure.CopyFrom(command.failure)
    attributes.workflow_task_completed_event_id = completed_event_id
    return event


def _copy_payloads_map(source: Mapping[str, m.Payloads], target: Mapping[str, m.Payloads]) -> None:
    for key in source:
        target[key].CopyFrom(source[key])


def search_attributes_upserted(
    event_id: int, at_ms: int, search_attributes: m.SearchAttributes, completed_event_id: int
) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _SEARCH_ATTRIBUTES)
    attributes = event.upsert_workflow_search_attributes_event_attributes
    attributes.workflow_task_completed_event_id = completed_event_id
    attributes.search_attributes.CopyFrom(search_attributes)
    return event


def properties_modified(event_id: int, at_ms: int, memo: m.Memo | None, completed_event_id: int) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _PROPERTIES)
    attributes = event.workflow_properties_modified_event_attributes
    attributes.workflow_task_completed_event_id = completed_event_id
    if memo is not None:
        attributes.upserted_memo.CopyFrom(memo)
    return event


def options_updated(
    event_id: int, at_ms: int, attributes: m.WorkflowExecutionOptionsUpdatedEventAttributes
) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _OPTIONS)
    event.workflow_execution_options_updated_event_attributes.CopyFrom(attributes)
    event.worker_may_ignore = True
    return event


def workflow_paused(event_id: int, at_ms: int, request: m.PauseWorkflowExecutionRequest) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _PAUSED)
    attributes = event.workflow_execution_paused_event_attributes
    attributes.identity = request.identity
    attributes.reason = request.reason
    attributes.request_id = request.request_id
    event.worker_may_ignore = True
    return event


def workflow_unpaused(event_id: int, at_ms: int, request: m.UnpauseWorkflowExecutionRequest) -> m.HistoryEvent:
    event = new_event(event_id, at_ms, _UNPAUSED)
    attributes = event.workflow_execution_unpaused_event_attributes
    attributes.identity = request.identity
    attributes.reason = request.reason
    attributes.request_id = request.request_id
    event.worker_may_ignore = True
    return event
