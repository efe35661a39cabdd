"""Activities without a workflow: an activity execution is a run of its own kind.

    event                      written when
    -------------------------  ------------------------------------------------------------------------------------
    WorkflowExecutionStarted   it is started; names its id (see `internal_id`), type, queue and search attributes
    ActivityTaskScheduled      at once, with what the worker is told; its time is when the start delay is over
    …CancelRequested           somebody asks for it
    …Started, and its end      as for every activity (see `activity`); the end holds the outcome
    WorkflowExecution…         at once, the same end for the run: Completed, Failed, Canceled, TimedOut
    WorkflowExecutionTerminated  it is terminated, which no worker hears of

So all that activities have is theirs: attempts, back-off, timeouts, heartbeats, hand-outs that a restart remembers,
pauses; and all that runs have: one current run of an id, visibility, retention, deletion. There is never a workflow
task: where an activity's end would call for one, it ends the run. Nobody sees this history; what is shown of a run is
made from its state and the two events that hold input and outcome.

Ids of activities and of workflows are apart. In the engine an activity's id has a prefix that no workflow id may have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.engine.history import (
    activity_control,
    callbacks,
    closing,
    deadlines,
    events,
    evolve,
    failures,
    frames,
    lifecycle,
    options,
    pending,
    terms,
)
from perdure.engine.history.recording import append, append_frame
from perdure.engine.history.state import ACTIVITY_PREFIX, ActivityControl, ActivityItem, Run, Standalone
from perdure.engine.history.transition import Limits, Transition

SCHEDULED_ID: Final = 2
"""Of the event that schedules the activity."""

_Status = m.WorkflowExecutionStatus
COMPLETED: Final = int(_Status.WORKFLOW_EXECUTION_STATUS_COMPLETED)
FAILED: Final = int(_Status.WORKFLOW_EXECUTION_STATUS_FAILED)
CANCELED: Final = int(_Status.WORKFLOW_EXECUTION_STATUS_CANCELED)
TIMED_OUT: Final = int(_Status.WORKFLOW_EXECUTION_STATUS_TIMED_OUT)

_DELAY: Final = frozenset(("start_delay", "startDelay"))
"""What an update mask calls the start delay."""
_ASKED: Final = (
    "header",
    "input",
    "schedule_to_close_timeout",
    "schedule_to_start_timeout",
    "start_to_close_timeout",
    "heartbeat_timeout",
    "retry_policy",
    "priority",
)
"""Messages that a start and a command of a workflow share."""
_NO_RETRY = m.RetryState.RETRY_STATE_UNSPECIFIED
_CLOSINGS: Final[dict[int, Callable[[int, int], m.HistoryEvent]]] = {
    COMPLETED: lambda event_id, now_ms: events.workflow_completed(event_id, now_ms, None, 0, ""),
    FAILED: lambda event_id, now_ms: events.workflow_failed(event_id, now_ms, m.Failure(), _NO_RETRY, 0, ""),
    CANCELED: lambda event_id, now_ms: events.workflow_canceled(event_id, now_ms, None, 0),
    TIMED_OUT: lambda event_id, now_ms: events.workflow_timed_out(event_id, now_ms, _NO_RETRY, ""),
}
"""How the run of an activity that has ended is closed."""


def internal_id(activity_id: str) -> str:
    """What an activity execution has in the place of a workflow id."""
    return ACTIVITY_PREFIX + activity_id


def start(
    *,
    run_key: int,
    run_id: str,
    request: m.StartActivityExecutionRequest,
    limits: Limits,
    retention_ms: int,
    now_ms: int,
) -> Transition:
    """Start an activity.

    Raises:
        RpcError: INVALID_ARGUMENT.
    """
    asked = _asked(request, limits)
    delay_ms = lifecycle.span_ms(request.start_delay, "StartDelay")
    state = evolve.blank()
    run = Run(run_key, state)
    transition = Transition(run, now_ms, visibility=True)
    attributes = _started(run_id, request)
    event = events.workflow_started(1, now_ms, attributes)
    if request.HasField("user_metadata"):
        event.user_metadata.CopyFrom(request.user_metadata)
        state.user_metadata = request.user_metadata.SerializeToString()
    event.links.extend(callbacks.own_links(request.links, request.completion_callbacks))
    append(transition, event)
    evolve.apply_workflow_started(state, now_ms, attributes)
    state.namespace = request.namespace
    state.start_request_id = request.request_id
    state.retention_ms = retention_ms
    state.standalone = Standalone(delay_ms, delay_ms)
    said = asked.event(1)
    append_frame(transition, frames.activity_scheduled(SCHEDULED_ID, now_ms + delay_ms, said))
    scheduled = m.ActivityTaskScheduledEventAttributes.FromString(said)
    item = evolve.activity_item(SCHEDULED_ID, now_ms + delay_ms, scheduled)
    # Whoever ends it goes the long way, where it is asked what has ended.
    item.control = ActivityControl()
    pending.add(run, item)
    run.live.activity_ids[item.activity_id] = SCHEDULED_ID
    run.live.scheduled[SCHEDULED_ID] = asked
    if delay_ms:
        item.next_attempt_at_ms = now_ms + delay_ms
    else:
        transition.activities.append(SCHEDULED_ID)
    deadlines.push_activity(run, item)
    return transition


def _asked(request: m.StartActivityExecutionRequest, limits: Limits) -> terms.Asked:
    """What is asked of its worker. Raises RpcError INVALID_ARGUMENT."""
    lifecycle.check_name(request.activity_id, "ActivityId", limits)
    lifecycle.check_name(request.activity_type.name, "ActivityType", limits)
    lifecycle.check_name(request.task_queue.name, "TaskQueue", limits)
    lifecycle.check_name(request.request_id, "RequestId", limits, required=False)
    lifecycle.check_name(request.identity, "Identity", limits, required=False)
    lifecycle.check_size(request.input.ByteSize(), limits.blob_bytes, "Input")
    lifecycle.check_size(request.header.ByteSize(), limits.blob_bytes, "Header")
    lifecycle.check_size(request.search_attributes.ByteSize(), limits.blob_bytes, "SearchAttributes")
    callbacks.check(None, request.completion_callbacks, limits)
    command = m.ScheduleActivityTaskCommandAttributes(activity_id=request.activity_id)
    command.activity_type.name = request.activity_type.name
    command.task_queue.name = request.task_queue.name
    for name in _ASKED:
        if request.HasField(name):
            getattr(command, name).CopyFrom(getattr(request, name))
    try:
        return terms.read(command.SerializeToString(), "", 0)
    except terms.BadTerms as error:
        raise lifecycle.invalid(str(error)) from None


def attach(run: Run, request: m.StartActivityExecutionRequest, *, limits: Limits, now_ms: int) -> Transition:
    """What a start that found this run leaves in it, as its ``on_conflict_options`` say. changed=False if nothing.

    Raises:
        RpcError: INVALID_ARGUMENT, FAILED_PRECONDITION, too many have been attached.
    """
    asked = m.StartWorkflowExecutionRequest(request_id=request.request_id, identity=request.identity)
    asked.completion_callbacks.extend(request.completion_callbacks)
    asked.links.extend(request.links)
    asked.on_conflict_options.attach_request_id = request.on_conflict_options.attach_request_id
    asked.on_conflict_options.attach_completion_callbacks = request.on_conflict_options.attach_completion_callbacks
    asked.on_conflict_options.attach_links = request.on_conflict_options.attach_links
    return options.attach(run, asked, limits=limits, now_ms=now_ms)


def _started(run_id: str, request: m.StartActivityExecutionRequest) -> m.WorkflowExecutionStartedEventAttributes:
    attributes = m.WorkflowExecutionStartedEventAttributes(
        workflow_id=internal_id(request.activity_id),
        original_execution_run_id=run_id,
        first_execution_run_id=run_id,
        attempt=1,
        identity=request.identity,
    )
    attributes.workflow_type.name = request.activity_type.name
    attributes.task_queue.name = request.task_queue.name
    if request.HasField("search_attributes"):
        attributes.search_attributes.CopyFrom(request.search_attributes)
    attributes.completion_callbacks.extend(request.completion_callbacks)
    return attributes


def facts_of(run: Run) -> Standalone:
    """What an activity execution is besides a run."""
    facts = run.state.standalone
    assert facts is not None, "it is an activity execution"
    return facts


def item_of(run: Run) -> ActivityItem:
    """The activity, as it is or as it was when it ended."""
    item = run.state.items.get(SCHEDULED_ID) or facts_of(run).closed
    assert isinstance(item, ActivityItem), "there is one, from its start on"
    return item


def is_held(run: Run) -> bool:
    """Whether a worker is at it."""
    return SCHEDULED_ID in run.live.activities or item_of(run).held


def close(transition: Transition, item: ActivityItem, status: int) -> None:
    """The activity has ended, with an event that is written: so does its run."""
    run = transition.run
    _keep(run, item, transition.now_ms)
    closing.close(transition, _CLOSINGS[status](run.state.next_event_id, transition.now_ms))


def _keep(run: Run, item: ActivityItem, now_ms: int) -> None:
    """Remember the activity as it is at its end."""
    held = run.live.activities.get(item.event_id)
    if held is not None:
        item.last_started_at_ms = held.started_at_ms
        item.last_worker_identity = held.identity
    if held is not None or item.held:
        item.last_ended_at_ms = now_ms
    item.held = False
    item.next_attempt_at_ms = 0
    facts_of(run).closed = item


def _over(run: Run) -> RpcError:
    name = _Status.Name(_Status.ValueType(run.state.status)).removeprefix("WORKFLOW_EXECUTION_STATUS_")
    return RpcError(StatusCode.FAILED_PRECONDITION, f"the activity execution has ended already: {name}")


def check_open(run: Run) -> None:
    """Raises RpcError FAILED_PRECONDITION, it has ended."""
    if not run.is_open:
        raise _over(run)


def request_cancel(
    run: Run, request: m.RequestCancelActivityExecutionRequest, *, limits: Limits, now_ms: int
) -> Transition:
    """Ask the activity to stop; one that nobody is at is cancelled at once. changed=False if it is a repeat.

    Raises:
        RpcError: FAILED_PRECONDITION, it has ended, or another request has asked; INVALID_ARGUMENT.
    """
    facts = facts_of(run)
    transition = Transition(run, now_ms)
    if request.request_id and request.request_id == facts.cancel_request_id:
        transition.changed = False
        return transition
    check_open(run)
    lifecycle.check_name(request.request_id, "RequestId", limits, required=False)
    lifecycle.check_name(request.identity, "Identity", limits, required=False)
    lifecycle.check_size(len(request.reason), limits.blob_bytes, "Reason")
    item = item_of(run)
    if item.cancel_requested_event_id:
        raise RpcError(
            StatusCode.FAILED_PRECONDITION, f"cancellation already requested with request ID {facts.cancel_request_id}"
        )
    facts.cancel_request_id = request.request_id
    facts.cancel_reason = request.reason
    event_id = item.cancel_requested_event_id = run.state.next_event_id
    append(transition, events.activity_cancel_requested(event_id, now_ms, SCHEDULED_ID, 1))
    if not is_held(run):
        details = failures.text_payloads(request.reason)
        next_id = run.state.next_event_id
        canceled = events.activity_canceled(next_id, now_ms, SCHEDULED_ID, 0, event_id, details, request.identity)
        append(transition, canceled)
        close(transition, item, CANCELED)
    return transition


def terminate(run: Run, request: m.TerminateActivityExecutionRequest, *, limits: Limits, now_ms: int) -> Transition:
    """End the activity now; its worker hears of it when it reports. changed=False if it is a repeat.

    Raises:
        RpcError: FAILED_PRECONDITION, it has ended; INVALID_ARGUMENT.
    """
    facts = facts_of(run)
    transition = Transition(run, now_ms)
    if request.request_id and request.request_id == facts.terminate_request_id:
        transition.changed = False
        return transition
    check_open(run)
    lifecycle.check_name(request.request_id, "RequestId", limits, required=False)
    lifecycle.check_name(request.identity, "Identity", limits, required=False)
    lifecycle.check_size(len(request.reason), limits.blob_bytes, "Reason")
    facts.terminate_request_id = request.request_id
    _keep(run, item_of(run), now_ms)
    closing.terminate(transition, request.reason, None, request.identity)
    return transition


def check_reset(run: Run) -> None:
    """Raises RpcError FAILED_PRECONDITION: it has been asked to stop, so that it can't begin anew."""
    if item_of(run).cancel_requested_event_id:
        raise RpcError(StatusCode.FAILED_PRECONDITION, "cannot reset an activity with a pending cancellation")


def pause(run: Run, request: m.PauseActivityExecutionRequest, *, limits: Limits, now_ms: int) -> Transition:
    """Hand the activity out no more. changed=False if it is a repeat.

    Raises:
        RpcError: FAILED_PRECONDITION, it is paused by another request, or asked to stop; INVALID_ARGUMENT.
    """
    facts = facts_of(run)
    item = item_of(run)
    if item.cancel_requested_event_id:
        raise RpcError(StatusCode.FAILED_PRECONDITION, "cannot pause an activity with a pending cancellation")
    if item.paused and (not request.request_id or request.request_id != facts.pause_request_id):
        raise RpcError(StatusCode.FAILED_PRECONDITION, "activity is already paused")
    lifecycle.check_name(request.request_id, "RequestId", limits, required=False)
    transition = activity_control.pause(
        run, [SCHEDULED_ID], identity=request.identity, reason=request.reason, limits=limits, now_ms=now_ms
    )
    facts.pause_request_id = request.request_id
    return transition


def update_options(
    run: Run, request: m.UpdateActivityExecutionOptionsRequest, *, limits: Limits, now_ms: int
) -> Transition:
    """Change the options that the request's mask names, or restore those the activity began with.

    Raises:
        RpcError: INVALID_ARGUMENT, what can't be set; nothing has changed.
    """
    if request.restore_original:
        transition = activity_control.restore_options(run, [SCHEDULED_ID], now_ms=now_ms)
        _change_delay(transition, facts_of(run).original_delay_ms)
        return transition
    mask = list(request.update_mask.paths)
    rest = [path for path in mask if path not in _DELAY]
    delay_ms = lifecycle.span_ms(request.activity_options.start_delay, "StartDelay")
    if rest or not mask:
        transition = activity_control.update_options(
            run, [SCHEDULED_ID], request.activity_options, rest, limits=limits, now_ms=now_ms
        )
    else:
        transition = Transition(run, now_ms)
    if len(rest) < len(mask):
        _change_delay(transition, delay_ms)
    return transition


def delay_left_ms(run: Run, now_ms: int) -> int:
    """What is left of the start delay of an activity that nobody has begun; 0 of one that belongs to a workflow."""
    facts = run.state.standalone
    if facts is None or not run.is_open or item_of(run).last_started_at_ms:
        return 0
    return max(0, run.state.start_ms + facts.delay_ms - now_ms)


def _change_delay(transition: Transition, delay_ms: int) -> None:
    """Give an activity that nobody has begun another start delay, which counts from its start."""
    run = transition.run
    item = item_of(run)
    facts = facts_of(run)
    if item.last_started_at_ms or is_held(run) or facts.delay_ms == delay_ms:
        return
    facts.delay_ms = delay_ms
    at_ms = run.state.start_ms + delay_ms
    activity_control.keep_original(item)
    item.scheduled_at_ms = item.attempt_scheduled_at_ms = at_ms
    was_due = not item.next_attempt_at_ms
    item.next_attempt_at_ms = at_ms if at_ms > transition.now_ms else 0
    if not item.next_attempt_at_ms and not was_due and not item.paused:
        transition.activities.append(SCHEDULED_ID)
    deadlines.push_activity(run, item)


# What is told of it


def outcome(event: m.HistoryEvent) -> m.ActivityExecutionOutcome:
    """How an activity has ended, by the event that ended it."""
    found = m.ActivityExecutionOutcome()
    _OUTCOMES[event.event_type](event, found)
    return found


def outcome_event_id(run: Run) -> int:
    """The id of the event that ended the activity (precondition: it has ended)."""
    terminated = run.state.status == _Status.WORKFLOW_EXECUTION_STATUS_TERMINATED
    return run.state.close_event_id if terminated else run.state.close_event_id - 1


def _completed(event: m.HistoryEvent, found: m.ActivityExecutionOutcome) -> None:
    found.result.CopyFrom(event.activity_task_completed_event_attributes.result)


def _failed(event: m.HistoryEvent, found: m.ActivityExecutionOutcome) -> None:
    attributes = event.activity_task_failed_event_attributes
    found.failure.CopyFrom(attributes.failure)
    found.retry_state = attributes.retry_state


def _timed_out(event: m.HistoryEvent, found: m.ActivityExecutionOutcome) -> None:
    attributes = event.activity_task_timed_out_event_attributes
    found.failure.CopyFrom(attributes.failure)
    found.retry_state = attributes.retry_state


def _canceled(event: m.HistoryEvent, found: m.ActivityExecutionOutcome) -> None:
    attributes = event.activity_task_canceled_event_attributes
    found.failure.message = "Activity canceled"
    found.failure.source = "Server"
    found.failure.canceled_failure_info.SetInParent()
    if attributes.HasField("details"):
        found.failure.canceled_failure_info.details.CopyFrom(attributes.details)


def _terminated(event: m.HistoryEvent, found: m.ActivityExecutionOutcome) -> None:
    found.failure.message = event.workflow_execution_terminated_event_attributes.reason
    found.failure.source = "Server"
    found.failure.terminated_failure_info.SetInParent()


_T = m.EventType
_OUTCOMES: Final[dict[int, Callable[[m.HistoryEvent, m.ActivityExecutionOutcome], None]]] = {
    _T.EVENT_TYPE_ACTIVITY_TASK_COMPLETED: _completed,
    _T.EVENT_TYPE_ACTIVITY_TASK_FAILED: _failed,
    _T.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT: _timed_out,
    _T.EVENT_TYPE_ACTIVITY_TASK_CANCELED: _canceled,
    _T.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED: _terminated,
}
"""Type of the event that ended an activity → what it says of the outcome."""
