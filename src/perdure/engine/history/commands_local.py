"""Commands that concern the run alone: timers, markers, search attributes, memo."""

from __future__ import annotations

from perdure.api import messages as m
from perdure.api.durations import duration_ms, set_duration_ms
from perdure.engine.history import deadlines, events, evolve, pending, planning, timer
from perdure.engine.history.planning import (
    BadCommand,
    Plan,
    check_name,
    check_size,
    check_span,
    write,
)
from perdure.engine.history.state import TimerItem
from perdure.engine.history.transition import Transition

_C = m.WorkflowTaskFailedCause
_BAD_TIMER = _C.WORKFLOW_TASK_FAILED_CAUSE_BAD_START_TIMER_ATTRIBUTES
_BAD_TIMER_CANCEL = _C.WORKFLOW_TASK_FAILED_CAUSE_BAD_CANCEL_TIMER_ATTRIBUTES


def check_start_timer(plan: Plan, attributes: m.StartTimerCommandAttributes) -> int:
    timer_id = attributes.timer_id
    check_name(plan, timer_id, "TimerId", _BAD_TIMER)
    span_ms = check_span(attributes.start_to_fire_timeout, "StartToFireTimeout", _BAD_TIMER)
    if not span_ms:
        raise BadCommand(_BAD_TIMER, "A valid StartToFireTimeout is not set on command.")
    if plan.timers.get(timer_id, timer_id in plan.run.live.timer_ids):
        raise BadCommand(
            _C.WORKFLOW_TASK_FAILED_CAUSE_START_TIMER_DUPLICATE_ID, f"timer {timer_id!r} is running already."
        )
    plan.timers[timer_id] = True
    return span_ms


def start_timer(
    plan: Plan, transition: Transition, command: m.Command, attributes: m.StartTimerCommandAttributes, span_ms: int
) -> None:
    run = plan.run
    event_id = run.state.next_event_id
    event = events.timer_started(event_id, plan.now_ms, attributes, plan.completed_event_id)
    if duration_ms(attributes.start_to_fire_timeout) != span_ms:
        set_duration_ms(event.timer_started_event_attributes.start_to_fire_timeout, span_ms)
    write(transition, command, event)
    item = TimerItem(event_id, attributes.timer_id, plan.now_ms + span_ms)
    pending.add_timer(run, item)
    deadlines.push(run, item.fire_at_ms, deadlines.TIMER, event_id)


def check_cancel_timer(plan: Plan, attributes: m.CancelTimerCommandAttributes) -> None:
    timer_id = attributes.timer_id
    check_name(plan, timer_id, "TimerId", _BAD_TIMER_CANCEL)
    running = plan.timers.get(timer_id)
    if running is None:
        running = timer_id in plan.run.live.timer_ids
        if not running and timer.find_buffered_firing(plan.run, timer_id)[0] >= 0:
            running = True
            plan.buffered -= 1
    if not running:
        raise BadCommand(_BAD_TIMER_CANCEL, f"no timer {timer_id!r} is running.")
    plan.timers[timer_id] = False


def cancel_timer(
    plan: Plan, transition: Transition, command: m.Command, attributes: m.CancelTimerCommandAttributes, _: None
) -> None:
    timer.cancel(transition, attributes.timer_id, plan.completed_event_id, plan.identity)


_BAD_MARKER = _C.WORKFLOW_TASK_FAILED_CAUSE_BAD_RECORD_MARKER_ATTRIBUTES
_BAD_SEARCH = _C.WORKFLOW_TASK_FAILED_CAUSE_BAD_SEARCH_ATTRIBUTES
_BAD_PROPERTIES = _C.WORKFLOW_TASK_FAILED_CAUSE_BAD_MODIFY_WORKFLOW_PROPERTIES_ATTRIBUTES


def check_marker(plan: Plan, attributes: m.RecordMarkerCommandAttributes) -> None:
    check_name(plan, attributes.marker_name, "MarkerName", _BAD_MARKER)
    check_size(plan, attributes, "RecordMarkerCommandAttributes.Details", _BAD_MARKER)


def record_marker(
    plan: Plan, transition: Transition, command: m.Command, attributes: m.RecordMarkerCommandAttributes, _: None
) -> None:
    event_id = plan.run.state.next_event_id
    event = events.marker_recorded(event_id, plan.now_ms, attributes, plan.completed_event_id)
    write(transition, command, event)


def check_search_attributes(plan: Plan, attributes: m.UpsertWorkflowSearchAttributesCommandAttributes) -> None:
    if not attributes.search_attributes.indexed_fields:
        raise BadCommand(_BAD_SEARCH, "IndexedFields is not set on command.")
    planning.check_search_attributes(plan, attributes, keep_removals=True)


def upsert_search_attributes(
    plan: Plan,
    transition: Transition,
    command: m.Command,
    attributes: m.UpsertWorkflowSearchAttributesCommandAttributes,
    _: None,
) -> None:
    state = plan.run.state
    event = events.search_attributes_upserted(
        state.next_event_id, plan.now_ms, attributes.search_attributes, plan.completed_event_id
    )
    write(transition, command, event)
    evolve.apply_search_attributes(state, attributes.search_attributes)
    transition.visibility = True
    transition.attributes = True


def check_properties(plan: Plan, attributes: m.ModifyWorkflowPropertiesCommandAttributes) -> None:
    if not attributes.upserted_memo.fields:
        raise BadCommand(_BAD_PROPERTIES, "UpsertedMemo is not set on command.")
    plan.memo_bytes += attributes.upserted_memo.ByteSize()
    if len(plan.run.state.memo) + plan.memo_bytes > plan.limits.memo_bytes:
        raise BadCommand(_BAD_PROPERTIES, f"Memo exceeds size limit of {plan.limits.memo_bytes} bytes.")


def modify_properties(
    plan: Plan,
    transition: Transition,
    command: m.Command,
    attributes: m.ModifyWorkflowPropertiesCommandAttributes,
    _: None,
) -> None:
    state = plan.run.state
    event = events.properties_modified(
        state.next_event_id, plan.now_ms, attributes.upserted_memo, plan.completed_event_id
    )
    write(transition, command, event)
    evolve.apply_memo_modified(state, attributes.upserted_memo)
    transition.visibility = True
