"""How each event changes the state of a run, and the fold that rebuilds a state from its history.

`APPLIERS` maps an event type to the attributes it carries and the function that applies them. Decisions change the
state through the same effects as they write events, with the values at hand instead of parsing them back; the law
`folded_view(state) == folded_view(fold(history))`, checked after every transition of every test, keeps the two ways
equal. What histories do not hold (attempts, heartbeats, stickiness, buffered events, messages) is left out of the
view; it lives in the run's row alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping
from typing import Any, Final, NamedTuple

from perdure.api import messages as m
from perdure.api.durations import duration_ms, timestamp_ms
from perdure.engine.history import evolve_nexus, retrying, versions
from perdure.engine.history.state import (
    ACTIVITY_PREFIX,
    ActivityItem,
    CancelItem,
    ChildItem,
    Pause,
    RunState,
    SignalItem,
    Standalone,
    TimerItem,
    UpdateBook,
)

STATE_VERSION: Final = 1

_T = m.EventType
_S = m.WorkflowExecutionStatus

RESET_CAUSE: Final = m.WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW
STATUS_RUNNING: Final = int(_S.WORKFLOW_EXECUTION_STATUS_RUNNING)
STATUS_OF_CLOSING: Final[dict[int, int]] = {
    _T.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED: _S.WORKFLOW_EXECUTION_STATUS_COMPLETED,
    _T.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED: _S.WORKFLOW_EXECUTION_STATUS_FAILED,
    _T.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED: _S.WORKFLOW_EXECUTION_STATUS_CANCELED,
    _T.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED: _S.WORKFLOW_EXECUTION_STATUS_TERMINATED,
    _T.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW: _S.WORKFLOW_EXECUTION_STATUS_CONTINUED_AS_NEW,
    _T.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT: _S.WORKFLOW_EXECUTION_STATUS_TIMED_OUT,
}


def blank(run_id: str = "") -> RunState:
    """The state of a run before its first event."""
    return RunState(version=STATE_VERSION, namespace="", workflow_id="", run_id=run_id, workflow_type="", task_queue="")


# Effects: shared by the appliers below and by the decisions.


def apply_workflow_started(state: RunState, at_ms: int, attributes: m.WorkflowExecutionStartedEventAttributes) -> None:
    state.workflow_id = attributes.workflow_id
    state.run_id = attributes.original_execution_run_id
    state.workflow_type = attributes.workflow_type.name
    state.task_queue = attributes.task_queue.name
    state.first_run_id = attributes.first_execution_run_id
    state.original_run_id = attributes.original_execution_run_id
    state.continued_from_run_id = attributes.continued_execution_run_id
    state.attempt = attributes.attempt
    state.identity = attributes.identity
    state.cron_schedule = attributes.cron_schedule
    state.start_ms = at_ms
    backoff_ms = duration_ms(attributes.first_workflow_task_backoff)
    state.execution_ms = at_ms + backoff_ms
    state.task_not_before_ms = at_ms + backoff_ms if backoff_ms else 0
    state.execution_timeout_ms = duration_ms(attributes.workflow_execution_timeout)
    state.run_timeout_ms = duration_ms(attributes.workflow_run_timeout)
    state.task_timeout_ms = duration_ms(attributes.workflow_task_timeout)
    state.execution_deadline_ms = timestamp_ms(attributes.workflow_execution_expiration_time)
    state.run_deadline_ms = state.execution_ms + state.run_timeout_ms if state.run_timeout_ms else 0
    if attributes.HasField("retry_policy"):
        state.retry = retrying.policy_of(attributes.retry_policy).retry
        state.started_attributes = attributes.SerializeToString()
    elif attributes.cron_schedule:
        state.started_attributes = attributes.SerializeToString()
    if attributes.HasField("memo"):
        state.memo = attributes.memo.SerializeToString(deterministic=True)
    if attributes.HasField("search_attributes"):
        state.search_attributes = attributes.search_attributes.SerializeToString(deterministic=True)
    if attributes.HasField("priority"):
        state.priority = attributes.priority.SerializeToString()
    if attributes.HasField("versioning_override"):
        state.versioning = attributes.versioning_override.SerializeToString()
    if attributes.HasField("inherited_pinned_version"):
        version = attributes.inherited_pinned_version
        state.inherited = versions.key_of(version.deployment_name, version.build_id)
    evolve_nexus.apply_callbacks(state, attributes.completion_callbacks, at_ms)
    if attributes.HasField("parent_workflow_execution"):
        state.parent_namespace = attributes.parent_workflow_namespace
        state.parent_workflow_id = attributes.parent_workflow_execution.workflow_id
        state.parent_run_id = attributes.parent_workflow_execution.run_id
        state.parent_initiated_event_id = attributes.parent_initiated_event_id
    if attributes.workflow_id.startswith(ACTIVITY_PREFIX):
        state.standalone = Standalone()
    if attributes.HasField("root_workflow_execution"):
        state.root_workflow_id = attributes.root_workflow_execution.workflow_id
        state.root_run_id = attributes.root_workflow_execution.run_id


def apply_task_scheduled(state: RunState, event_id: int, at_ms: int, attempt: int) -> None:
    state.task_scheduled_event_id = event_id
    state.task_scheduled_at_ms = at_ms
    state.task_attempt = attempt
    state.task_not_before_ms = 0


def apply_task_completed(state: RunState, event_id: int, started_event_id: int) -> None:
    state.last_task_completed_event_id = event_id
    state.last_task_started_event_id = started_event_id
    state.task_scheduled_event_id = 0
    state.task_scheduled_at_ms = 0
    state.task_attempt = 1
    state.task_not_before_ms = 0
    if state.task_failure_cause or state.task_last_failure:
        state.task_failure_cause = 0
        state.task_last_failure = b""


def apply_task_unsuccessful(state: RunState, event_id: int) -> None:
    """A task failed or timed out: the next attempt is transient, its Scheduled event would be the next event."""
    state.task_scheduled_event_id = event_id + 1
    state.task_attempt = 2


def apply_reset(state: RunState, event_id: int, at_ms: int, base_run_id: str, new_run_id: str) -> None:
    """The events so far were taken up from another run, and end with a task that failed. All spans begin anew."""
    state.bases = [*state.bases, (event_id, base_run_id)]
    state.run_id = new_run_id
    state.original_start_ms = state.original_start_ms or state.start_ms
    state.pause = None
    state.start_ms = at_ms
    state.execution_ms = at_ms
    state.task_scheduled_event_id = 0
    state.task_scheduled_at_ms = 0
    state.task_attempt = 1
    state.task_not_before_ms = 0
    state.execution_deadline_ms = at_ms + state.execution_timeout_ms if state.execution_timeout_ms else 0
    state.run_deadline_ms = at_ms + state.run_timeout_ms if state.run_timeout_ms else 0
    for item in state.items.values():
        if isinstance(item, ActivityItem):
            item.scheduled_at_ms = item.attempt_scheduled_at_ms = at_ms


def owner_of(state: RunState, event_id: int) -> str:
    """The id of the run that wrote an event first: this one, or one whose history it took up."""
    for first_event_id, base_run_id in state.bases:
        if event_id < first_event_id:
            return base_run_id
    return state.run_id


def apply_memo_modified(state: RunState, upserted: m.Memo) -> None:
    memo = m.Memo.FromString(state.memo)
    merge_payloads(memo.fields, upserted.fields)
    state.memo = memo.SerializeToString(deterministic=True)


def apply_search_attributes(state: RunState, upserted: m.SearchAttributes) -> None:
    attributes = m.SearchAttributes.FromString(state.search_attributes)
    merge_payloads(attributes.indexed_fields, upserted.indexed_fields)
    state.search_attributes = attributes.SerializeToString(deterministic=True)


def apply_options_updated(state: RunState, attributes: m.WorkflowExecutionOptionsUpdatedEventAttributes) -> None:
    if attributes.unset_versioning_override:
        state.versioning = b""
    elif attributes.HasField("versioning_override"):
        state.versioning = attributes.versioning_override.SerializeToString()
    if attributes.HasField("priority"):
        state.priority = attributes.priority.SerializeToString()


def apply_attached(state: RunState, request_id: str, event_id: int) -> None:
    if request_id:
        state.attached = {**(state.attached or {}), request_id: event_id}


def worker_info(attributes: m.WorkflowTaskCompletedEventAttributes) -> bytes:
    """What a Completed event says of its worker, as describe shows it: fields of ``WorkflowExecutionInfo``."""
    info = m.WorkflowExecutionInfo()
    if attributes.HasField("worker_version"):
        info.most_recent_worker_version_stamp.CopyFrom(attributes.worker_version)
    if attributes.versioning_behavior:
        versioning = info.versioning_info
        versioning.behavior = attributes.versioning_behavior
        if attributes.HasField("deployment_version"):
            deployment = attributes.deployment_version
            versioning.deployment_version.CopyFrom(deployment)
            versioning.version = f"{deployment.deployment_name}.{deployment.build_id}"
        info.worker_deployment_name = attributes.worker_deployment_name
    return info.SerializeToString()


def apply_paused(state: RunState, at_ms: int, attributes: m.WorkflowExecutionPausedEventAttributes) -> None:
    state.pause = Pause(at_ms, attributes.identity, attributes.reason, attributes.request_id)


def merge_payloads(target: MutableMapping[str, m.Payload], upserted: MutableMapping[str, m.Payload]) -> None:
    """Merge maps of payloads; an empty payload removes its key."""
    for key in upserted:
        payload = upserted[key]
        if payload.data in (b"", b"null", b"[]"):
            target.pop(key, None)
        else:
            target[key].CopyFrom(payload)


def _update_book(state: RunState) -> UpdateBook:
    state.updates = state.updates or UpdateBook()
    return state.updates


def apply_update_admitted(state: RunState, update_id: str, event_id: int) -> None:
    _update_book(state).admitted[update_id] = event_id


def apply_update_accepted(state: RunState, update_id: str, event_id: int) -> None:
    book = _update_book(state)
    book.admitted.pop(update_id, None)
    book.accepted[update_id] = event_id


def apply_update_completed(state: RunState, update_id: str, event_id: int) -> None:
    book = _update_book(state)
    book.accepted.pop(update_id, None)
    book.completed[update_id] = event_id


def apply_closed(state: RunState, event_id: int, at_ms: int, status: int) -> None:
    """Nothing is pending in a closed run."""
    state.status = status
    state.close_event_id = event_id
    state.close_ms = at_ms
    state.pause = None
    state.items = {}
    state.task_scheduled_event_id = 0
    state.task_scheduled_at_ms = 0
    state.task_attempt = 1
    state.task_not_before_ms = 0


def activity_item(event_id: int, at_ms: int, attributes: m.ActivityTaskScheduledEventAttributes) -> ActivityItem:
    """An activity as its Scheduled event describes it."""
    return ActivityItem(
        event_id=event_id,
        activity_id=attributes.activity_id,
        activity_type=attributes.activity_type.name,
        task_queue=attributes.task_queue.name,
        scheduled_at_ms=at_ms,
        schedule_to_close_ms=duration_ms(attributes.schedule_to_close_timeout),
        schedule_to_start_ms=duration_ms(attributes.schedule_to_start_timeout),
        start_to_close_ms=duration_ms(attributes.start_to_close_timeout),
        heartbeat_ms=duration_ms(attributes.heartbeat_timeout),
        retry=retrying.policy_of(attributes.retry_policy).retry,
        attempt_scheduled_at_ms=at_ms,
        priority=attributes.priority.SerializeToString(),
    )


# Appliers: event → effect.


def _workflow_started(state: RunState, event_id: int, at_ms: int, attributes: Any) -> None:
    apply_workflow_started(state, at_ms, attributes)


def _task_scheduled(state: RunState, event_id: int, at_ms: int, attributes: Any) -> None:
    apply_task_scheduled(state, event_id, at_ms, attributes.attempt)


def _task_completed(state: RunState, event_id: int, at_ms: int, attributes: Any) -> None:
    apply_task_completed(state, event_id, attributes.started_event_id)
    state.worker = worker_info(attributes)


def _task_failed(state: RunState, event_id: int, at_ms: int, attributes: Any) -> None:
    if attributes.cause == RESET_CAUSE and attributes.new_run_id:  # A worker may name the cause as well.
        apply_reset(state, event_id, at_ms, attributes.base_run_id, attributes.new_run_id)
    else:
        apply_task_unsuccessful(state, event_id)


def _task_unsuccessful(state: RunState, event_id: int, at_ms: int, attributes: Any) -> None:
    apply_task_unsuccessful(state, event_id)


def _signaled(state: RunState, event_id: int, at_ms: int, attributes: Any) -> None:
    state.signal_count += 1


def _cancel_requested(state: RunState, event_id: int, at_ms: int, attributes: Any) -> None:
    state.cancel_requested = True


def _activity_scheduled(state: RunState, event_id: int, at_ms: int, attributes: Any) -> None:
    state.items[event_id] = activity_item(event_id, at_ms, attributes)


def _activity_cancel_requested(state: RunState, event_id: int, at_ms: int, attributes: Any) -> None:
    item = state.items.get(attributes.scheduled_event_id)
    if isinstance(item, ActivityItem):
        item.cancel_requested_event_id = event_id


def _scheduled_closed(state: RunState, event_id: int, at_ms: int, attributes: Any) -> None:
    state.items.pop(attributes.scheduled_event_id, None)


def _started_closed(state: RunState, event_id: int, at_ms: int, attributes: Any) -> None:
    state.items.pop(attributes.started_event_id, None)


def _initiated_closed(state: RunState, event_id: int, at_ms: int, attributes: Any) -> None:
    state.items.pop(attributes.initiated_event_id, None)


def _timer_started(state: RunState, event_id: int, at_ms: int, attributes: Any) -> None:
    fire_at_ms = at_ms + duration_ms(attributes.start_to_fire_timeout)
    state.items[event_id] = TimerItem(event_id, attributes.timer_id, fire_at_ms)


def _child_initiated(state: RunState, event_id: int, at_ms: int, attributes: Any) -> None:
    state.items[event_id] = ChildItem(
        event_id,
        attributes.namespace,
        attributes.workflow_id,
        attributes.workflow_type.name,
        attributes.parent_close_policy,
    )


def _child_started(state: RunState, event_id: int, at_ms: int, attributes: Any) -> None:
    item = state.items.get(attributes.initiated_event_id)
    if isinstance(item, ChildItem):
        item.run_id = attributes.workflow_execution.run_id
        item.started_event_id = event_id


def _signal_initiated(state: RunState, event_id: int, at_ms: int, attributes: Any) -> None:
    execution = attributes.workflow_execution
    state.items[event_id] = SignalItem(
        event_id, attributes.namespace, execution.workflow_id, execution.run_id, attributes.control
    )


def _cancel_initiated(state: RunState, event_id: int, at_ms: int, attributes: Any) -> None:
    execution = attributes.workflow_execution
    state.items[event_id] = CancelItem(
        event_id, attributes.namespace, execution.workflow_id, execution.run_id, attributes.control
    )


def _paused(state: RunState, event_id: int, at_ms: int, attributes: Any) -> None:
    apply_paused(state, at_ms, attributes)


def _unpaused(state: RunState, event_id: int, at_ms: int, attributes: Any) -> None:
    state.pause = None


def _options_updated(state: RunState, event_id: int, at_ms: int, attributes: Any) -> None:
    apply_options_updated(state, attributes)
    apply_attached(state, attributes.attached_request_id, event_id)
    evolve_nexus.apply_options(state, attributes, at_ms)


def _memo_modified(state: RunState, event_id: int, at_ms: int, attributes: Any) -> None:
    apply_memo_modified(state, attributes.upserted_memo)


def _search_attributes(state: RunState, event_id: int, at_ms: int, attributes: Any) -> None:
    apply_search_attributes(state, attributes.search_attributes)


def _update_admitted(state: RunState, event_id: int, at_ms: int, attributes: Any) -> None:
    apply_update_admitted(state, attributes.request.meta.update_id, event_id)
    evolve_nexus.apply_update(state, attributes.request, at_ms)


def _update_accepted(state: RunState, event_id: int, at_ms: int, attributes: Any) -> None:
    apply_update_accepted(state, attributes.protocol_instance_id, event_id)
    evolve_nexus.apply_update(state, attributes.accepted_request, at_ms)


def _update_completed(state: RunState, event_id: int, at_ms: int, attributes: Any) -> None:
    apply_update_completed(state, attributes.meta.update_id, event_id)


def _no_effect(state: RunState, event_id: int, at_ms: int, attributes: Any) -> None:
    """Started events are explained by the event that follows them; a marker is for the worker."""


def _closed(status: int) -> _Effect:
    def apply(state: RunState, event_id: int, at_ms: int, attributes: Any) -> None:
        apply_closed(state, event_id, at_ms, status)

    return apply


def _closed_with_successor(status: int) -> _Effect:
    def apply(state: RunState, event_id: int, at_ms: int, attributes: Any) -> None:
        apply_closed(state, event_id, at_ms, status)
        state.new_run_id = attributes.new_execution_run_id

    return apply


_Effect = Callable[[RunState, int, int, Any], None]


class Applier(NamedTuple):
    """Where an event of a type keeps its attributes, and what they change."""

    attributes: str
    apply: _Effect


def _applier(event_type: m.EventType.ValueType, apply: _Effect) -> tuple[int, Applier]:
    name = m.EventType.Name(event_type).removeprefix("EVENT_TYPE_").lower() + "_event_attributes"
    return event_type, Applier(name, apply)


APPLIERS: Final[dict[int, Applier]] = dict(
    (
        _applier(_T.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED, _workflow_started),
        _applier(
            _T.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED,
            _closed_with_successor(_S.WORKFLOW_EXECUTION_STATUS_COMPLETED),
        ),
        _applier(_T.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED, _closed_with_successor(_S.WORKFLOW_EXECUTION_STATUS_FAILED)),
        _applier(
            _T.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT,
            _closed_with_successor(_S.WORKFLOW_EXECUTION_STATUS_TIMED_OUT),
        ),
        _applier(
            _T.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW,
            _closed_with_successor(_S.WORKFLOW_EXECUTION_STATUS_CONTINUED_AS_NEW),
        ),
        _applier(_T.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED, _closed(_S.WORKFLOW_EXECUTION_STATUS_CANCELED)),
        _applier(_T.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED, _closed(_S.WORKFLOW_EXECUTION_STATUS_TERMINATED)),
        _applier(_T.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED, _signaled),
        _applier(_T.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED, _cancel_requested),
        _applier(_T.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED, _task_scheduled),
        _applier(_T.EVENT_TYPE_WORKFLOW_TASK_STARTED, _no_effect),
        _applier(_T.EVENT_TYPE_WORKFLOW_TASK_COMPLETED, _task_completed),
        _applier(_T.EVENT_TYPE_WORKFLOW_TASK_FAILED, _task_failed),
        _applier(_T.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT, _task_unsuccessful),
        _applier(_T.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED, _activity_scheduled),
        _applier(_T.EVENT_TYPE_ACTIVITY_TASK_STARTED, _no_effect),
        _applier(_T.EVENT_TYPE_ACTIVITY_TASK_COMPLETED, _scheduled_closed),
        _applier(_T.EVENT_TYPE_ACTIVITY_TASK_FAILED, _scheduled_closed),
        _applier(_T.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT, _scheduled_closed),
        _applier(_T.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED, _activity_cancel_requested),
        _applier(_T.EVENT_TYPE_ACTIVITY_TASK_CANCELED, _scheduled_closed),
        _applier(_T.EVENT_TYPE_TIMER_STARTED, _timer_started),
        _applier(_T.EVENT_TYPE_TIMER_FIRED, _started_closed),
        _applier(_T.EVENT_TYPE_TIMER_CANCELED, _started_closed),
        _applier(_T.EVENT_TYPE_MARKER_RECORDED, _no_effect),
        _applier(_T.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES, _search_attributes),
        _applier(_T.EVENT_TYPE_WORKFLOW_PROPERTIES_MODIFIED, _memo_modified),
        _applier(_T.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED, _options_updated),
        _applier(_T.EVENT_TYPE_WORKFLOW_EXECUTION_PAUSED, _paused),
        _applier(_T.EVENT_TYPE_WORKFLOW_EXECUTION_UNPAUSED, _unpaused),
        _applier(_T.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED, _child_initiated),
        _applier(_T.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_FAILED, _initiated_closed),
        _applier(_T.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED, _child_started),
        _applier(_T.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED, _initiated_closed),
        _applier(_T.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_FAILED, _initiated_closed),
        _applier(_T.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_CANCELED, _initiated_closed),
        _applier(_T.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TIMED_OUT, _initiated_closed),
        _applier(_T.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TERMINATED, _initiated_closed),
        _applier(_T.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED, _signal_initiated),
        _applier(_T.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED, _initiated_closed),
        _applier(_T.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_SIGNALED, _initiated_closed),
        _applier(_T.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED, _cancel_initiated),
        _applier(_T.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED, _update_admitted),
        _applier(_T.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED, _update_accepted),
        _applier(_T.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_REJECTED, _no_effect),
        _applier(_T.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED, _update_completed),
        _applier(_T.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED, _initiated_closed),
        _applier(_T.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_CANCEL_REQUESTED, _initiated_closed),
        *(_applier(event_type, effect) for event_type, effect in evolve_nexus.EFFECTS),
    )
)


def evolve(state: RunState, event: m.HistoryEvent) -> None:
    """Apply one event.

    Raises:
        ValueError: its id is not the next one, or its type can't be applied.
    """
    if event.event_id != state.next_event_id:
        raise ValueError(f"history is damaged: event {event.event_id} where {state.next_event_id} is due")
    applier = APPLIERS.get(event.event_type)
    if applier is None:
        raise ValueError(f"history holds an event of unknown type {event.event_type} at {event.event_id}")
    applier.apply(state, event.event_id, timestamp_ms(event.event_time), getattr(event, applier.attributes))
    state.next_event_id += 1


def fold(run_key: int, frames: Iterable[bytes]) -> RunState:
    """The state that a whole history implies.

    Raises:
        ValueError: the frames are not a history; the message names the run.
    """
    state = blank()
    for data in frames:
        try:
            (event,) = m.History.FromString(data).events
            evolve(state, event)
        except Exception as error:
            raise ValueError(f"history of run {run_key}: {error}") from error
        state.history_bytes += len(data)
    return state
