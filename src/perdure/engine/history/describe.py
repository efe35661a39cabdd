"""A run as clients see it: the describe response, and the row that lists are made of."""

from __future__ import annotations

from typing import Final, NamedTuple

from perdure.api import messages as m
from perdure.api.durations import set_duration_ms, set_timestamp_ms
from perdure.engine.history import callbacks, nexus, retrying, versions
from perdure.engine.history.state import (
    ACTIVITY_PREFIX,
    ActivityControl,
    ActivityItem,
    ChildItem,
    NexusItem,
    Run,
    RunState,
)
from perdure.engine.visibility.attributes import NAMESPACE_DIVISION
from perdure.engine.visibility.values import stored

ACTIVITIES: Final = "TemporalStandaloneActivity"
"""The namespace division of activity executions: lists of workflows don't show them."""
_IN_ACTIVITIES = m.Payload(metadata={"encoding": b"json/plain", "type": b"Keyword"}, data=b'"%s"' % ACTIVITIES.encode())
_STATE = m.PendingActivityState
_PAUSED = int(m.WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_PAUSED)
_TASK_STATE = m.PendingWorkflowTaskState


class VisibilityFields(NamedTuple):
    """The fields of a store's VisibilityRow, in its order."""

    run_key: int
    namespace: str
    workflow_id: str
    run_id: str
    workflow_type: str
    task_queue: str
    status: int
    start_ms: int
    execution_ms: int
    close_ms: int | None
    history_length: int
    history_bytes: int
    info: bytes
    state_transitions: int


def visibility_row(run: Run) -> VisibilityFields:
    """What list and count know of a run."""
    state = run.state
    return VisibilityFields(
        run.key,
        state.namespace,
        state.workflow_id if state.standalone is None else state.workflow_id.removeprefix(ACTIVITY_PREFIX),
        state.run_id,
        state.workflow_type,
        state.task_queue,
        state.status if state.pause is None else _PAUSED,
        state.start_ms,
        state.execution_ms if state.standalone is None else state.execution_ms + state.standalone.delay_ms,
        None if run.is_open else state.close_ms,
        0 if run.is_open else state.next_event_id - 1,
        0 if run.is_open else state.history_bytes,
        _further_info(run).SerializeToString() if _has_further_info(run) else b"",
        0 if run.is_open else state.state_transitions,
    )


def has_attributes(run: Run) -> bool:
    """Whether filters can ask for more of the run than its visibility row tells."""
    state = run.state
    return bool(
        state.search_attributes
        or state.parent_run_id
        or state.versioning
        or state.inherited
        or state.standalone is not None
        or (state.worker and versions.is_versioned(state.worker))
    )


def attribute_values(run: Run) -> tuple[tuple[str, int, int | str], ...]:
    """What filters can ask for besides: names, types and values."""
    state = run.state
    return stored(
        _search_attributes(state),
        m.WorkflowExecution(workflow_id=state.parent_workflow_id, run_id=state.parent_run_id),
        m.WorkflowExecution(workflow_id=state.root_workflow_id, run_id=state.root_run_id),
    )


def _search_attributes(state: RunState) -> m.SearchAttributes:
    """Its own, and those that tell its version."""
    attributes = m.SearchAttributes.FromString(state.search_attributes)
    if state.worker or state.versioning or state.inherited:
        attributes.MergeFrom(versions.search_attributes(state))
    if state.standalone is not None:
        attributes.indexed_fields[NAMESPACE_DIVISION].CopyFrom(_IN_ACTIVITIES)
    return attributes


def _has_further_info(run: Run) -> bool:
    state = run.state
    return bool(
        state.memo
        or state.search_attributes
        or state.worker
        or state.versioning
        or state.inherited
        or state.priority
        or state.parent_run_id
        or state.root_run_id
        or state.first_run_id != state.run_id
    )


def _further_info(run: Run) -> m.WorkflowExecutionInfo:
    """What the columns of a visibility row don't tell."""
    state = run.state
    info = m.WorkflowExecutionInfo()
    if state.first_run_id != state.run_id:
        info.first_run_id = state.first_run_id
    if state.memo:
        info.memo.MergeFromString(state.memo)
    attributes = _search_attributes(state)
    if attributes.indexed_fields:
        info.search_attributes.CopyFrom(attributes)
    if state.priority:
        info.priority.MergeFromString(state.priority)
    if state.parent_run_id:
        info.parent_namespace_id = state.parent_namespace
        info.parent_execution.workflow_id = state.parent_workflow_id
        info.parent_execution.run_id = state.parent_run_id
    if state.root_run_id:
        info.root_execution.workflow_id = state.root_workflow_id
        info.root_execution.run_id = state.root_run_id
    return info


def fill_info(info: m.WorkflowExecutionInfo, row: VisibilityFields) -> None:
    """The summary of a run as its visibility row tells it."""
    info.MergeFromString(row.info)
    # There also when there are none: some clients look inside without asking.
    info.memo.SetInParent()
    info.search_attributes.SetInParent()
    info.execution.workflow_id = row.workflow_id
    info.execution.run_id = row.run_id
    info.type.name = row.workflow_type
    info.task_queue = row.task_queue
    info.status = m.WorkflowExecutionStatus.ValueType(row.status)
    info.first_run_id = info.first_run_id or row.run_id
    if not info.HasField("root_execution"):
        info.root_execution.CopyFrom(info.execution)
    set_timestamp_ms(info.start_time, row.start_ms)
    set_timestamp_ms(info.execution_time, row.execution_ms)
    if row.close_ms is not None:
        set_timestamp_ms(info.close_time, row.close_ms)
        set_duration_ms(info.execution_duration, max(0, row.close_ms - row.execution_ms))
        info.history_length = row.history_length
        info.history_size_bytes = row.history_bytes
        info.state_transition_count = row.state_transitions


def workflow_info(run: Run) -> m.WorkflowExecutionInfo:
    """The summary of a run as it is now."""
    info = m.WorkflowExecutionInfo()
    fill_info(info, visibility_row(run))
    info.history_length = run.state.next_event_id - 1
    info.history_size_bytes = run.state.history_bytes
    if run.state.worker:
        info.MergeFromString(run.state.worker)
    if run.state.versioning:
        info.versioning_info.versioning_override.MergeFromString(run.state.versioning)
    info.state_transition_count = run.state.state_transitions
    return info


def describe(run: Run, now_ms: int) -> m.DescribeWorkflowExecutionResponse:
    """Everything there is to know of a run now."""
    state = run.state
    response = m.DescribeWorkflowExecutionResponse(workflow_execution_info=workflow_info(run))
    config = response.execution_config
    config.task_queue.name = state.task_queue
    config.task_queue.kind = m.TaskQueueKind.TASK_QUEUE_KIND_NORMAL
    set_duration_ms(config.workflow_execution_timeout, state.execution_timeout_ms)
    set_duration_ms(config.workflow_run_timeout, state.run_timeout_ms)
    set_duration_ms(config.default_workflow_task_timeout, state.task_timeout_ms)
    if state.user_metadata:
        config.user_metadata.MergeFromString(state.user_metadata)
    extended = response.workflow_extended_info
    extended.cancel_requested = state.cancel_requested
    set_timestamp_ms(extended.original_start_time, state.original_start_ms or state.start_ms)
    if state.bases:
        set_timestamp_ms(extended.last_reset_time, state.start_ms)
    extended.reset_run_id = state.reset_run_id
    if state.pause is not None:
        extended.pause_info.identity = state.pause.identity
        extended.pause_info.reason = state.pause.reason
        set_timestamp_ms(extended.pause_info.paused_time, state.pause.at_ms)
    if state.execution_deadline_ms:
        set_timestamp_ms(extended.execution_expiration_time, state.execution_deadline_ms)
    if state.run_deadline_ms:
        set_timestamp_ms(extended.run_expiration_time, state.run_deadline_ms)
    if state.start_request_id:
        request = extended.request_id_infos[state.start_request_id]
        request.event_type = m.EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED
        request.event_id = 1
    for request_id, event_id in (state.attached or {}).items():
        request = extended.request_id_infos[request_id]
        request.event_type = m.EventType.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED
        request.event_id = event_id
        request.buffered = not event_id
    for item in state.items.values():
        if isinstance(item, ActivityItem):
            _describe_activity(response.pending_activities.add(), run, item, now_ms)
        elif isinstance(item, ChildItem):
            child = response.pending_children.add()
            child.workflow_id = item.workflow_id
            child.run_id = item.run_id
            child.workflow_type_name = item.workflow_type
            child.initiated_id = item.event_id
            child.parent_close_policy = m.ParentClosePolicy.ValueType(item.parent_close_policy)
        elif isinstance(item, NexusItem):
            nexus.describe(response.pending_nexus_operations.add(), item)
    for callback in state.callbacks or ():
        callbacks.describe(response.callbacks.add(), callback)
    _describe_task(response, run)
    return response


def _describe_activity(info: m.PendingActivityInfo, run: Run, item: ActivityItem, now_ms: int) -> None:
    info.activity_id = item.activity_id
    info.activity_type.name = item.activity_type
    info.attempt = item.shown_attempt
    info.maximum_attempts = item.retry.max_attempts if item.retry is not None else 1
    held = run.live.activities.get(item.event_id)
    started = held is not None or item.held
    if item.cancel_requested_event_id:
        info.state = _STATE.PENDING_ACTIVITY_STATE_CANCEL_REQUESTED
    elif started:
        info.state = _STATE.PENDING_ACTIVITY_STATE_STARTED
    else:
        info.state = _STATE.PENDING_ACTIVITY_STATE_SCHEDULED
    if item.heartbeat_details:
        info.heartbeat_details.MergeFromString(item.heartbeat_details)
    if item.last_heartbeat_at_ms:
        set_timestamp_ms(info.last_heartbeat_time, item.last_heartbeat_at_ms)
    started_at_ms = held.started_at_ms if held is not None else item.last_started_at_ms
    if started_at_ms:
        set_timestamp_ms(info.last_started_time, started_at_ms)
    info.last_worker_identity = held.identity if held is not None else item.last_worker_identity
    set_timestamp_ms(info.scheduled_time, item.attempt_scheduled_at_ms)
    if item.schedule_to_close_ms:
        set_timestamp_ms(info.expiration_time, item.scheduled_at_ms + item.schedule_to_close_ms)
    if item.last_failure:
        info.last_failure.MergeFromString(item.last_failure)
    if item.last_ended_at_ms:
        set_timestamp_ms(info.last_attempt_complete_time, item.last_ended_at_ms)
    if item.next_attempt_at_ms > now_ms:
        set_timestamp_ms(info.next_attempt_schedule_time, item.next_attempt_at_ms)
        set_duration_ms(info.current_retry_interval, item.next_attempt_at_ms - (item.last_ended_at_ms or now_ms))
    if item.control is not None and item.paused:
        _describe_pause(info, item.control, started)
    _describe_options(info, run, item)


def _describe_pause(info: m.PendingActivityInfo, control: ActivityControl, started: bool) -> None:
    info.paused = True
    if info.state != _STATE.PENDING_ACTIVITY_STATE_CANCEL_REQUESTED:
        info.state = _STATE.PENDING_ACTIVITY_STATE_PAUSE_REQUESTED if started else _STATE.PENDING_ACTIVITY_STATE_PAUSED
    set_timestamp_ms(info.pause_info.pause_time, control.paused_at_ms)
    info.pause_info.manual.identity = control.pause_identity
    info.pause_info.manual.reason = control.pause_reason
    info.ClearField("next_attempt_schedule_time")
    info.ClearField("current_retry_interval")


def _describe_options(info: m.PendingActivityInfo, run: Run, item: ActivityItem) -> None:
    options = info.activity_options
    options.task_queue.name = item.task_queue
    set_duration_ms(options.schedule_to_close_timeout, item.schedule_to_close_ms)
    set_duration_ms(options.schedule_to_start_timeout, item.schedule_to_start_ms)
    set_duration_ms(options.start_to_close_timeout, item.start_to_close_ms)
    set_duration_ms(options.heartbeat_timeout, item.heartbeat_ms)
    if item.retry is not None:
        retrying.fill_policy(options.retry_policy, item.retry)
    if run.state.priority or item.priority:
        info.priority.ParseFromString(run.state.priority + item.priority)
        options.priority.CopyFrom(info.priority)


def _describe_task(response: m.DescribeWorkflowExecutionResponse, run: Run) -> None:
    state = run.state
    task = run.live.task
    scheduled_at_ms = state.task_scheduled_at_ms
    if not state.task_scheduled_event_id:
        if not run.live.speculative and task is None:
            return
        scheduled_at_ms = run.live.speculative_at_ms
    info = response.pending_workflow_task
    info.attempt = task.attempt if task is not None else state.task_attempt
    set_timestamp_ms(info.scheduled_time, scheduled_at_ms)
    set_timestamp_ms(info.original_scheduled_time, scheduled_at_ms)
    if task is not None:
        info.state = _TASK_STATE.PENDING_WORKFLOW_TASK_STATE_STARTED
        set_timestamp_ms(info.started_time, task.started_at_ms)
    else:
        info.state = _TASK_STATE.PENDING_WORKFLOW_TASK_STATE_SCHEDULED
