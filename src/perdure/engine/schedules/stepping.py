"""What a schedule does next: decisions about its state alone.

`collect` brings what is due into the buffer, `plan` takes out of the buffer what may start now, by the overlap policy
of each action:

    while a workflow of the schedule runs   the action
    --------------------------------------  ---------------------------------------------------------------
    SKIP                                    is left out
    BUFFER_ONE                              waits, if no other does; else it is left out
    BUFFER_ALL                              waits
    CANCEL_OTHER                            waits in place of all others, and what runs is asked to cancel
    TERMINATE_OTHER                         waits in place of all others, and what runs is terminated
    ALLOW_ALL                               starts

The first action of several that are due counts as running for those after it. Workflows started beside others do not
count. What a schedule may not do when its turn comes, being paused or having used up its actions, is left out.

Everything here changes a `State` in place, without I/O and without a clock.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from perdure.api import messages as m
from perdure.api.durations import timestamp_ms
from perdure.engine.schedules.spec import Times
from perdure.engine.schedules.state import (
    RECENT_KEPT,
    REQUEST_IDS_KEPT,
    Action,
    Backfill,
    Policies,
    Recent,
    Running,
    State,
)

__all__ = [
    "Stops",
    "add",
    "apply_patch",
    "collect",
    "ended",
    "may_act",
    "next_wake_ms",
    "plan",
    "remember",
    "started",
    "unpaused",
]

BUFFER_MAX: Final = 1000
"""Actions that wait; more are dropped."""
BESIDE_MAX: Final = 100
"""Workflows that run beside others and are watched; those that were started before them are forgotten."""
BACKFILLS_MAX: Final = 1000
"""Spans of the past that wait."""
_SLICE: Final = 500
"""Instants looked at in one go."""
_BACKFILL_SLICE: Final = 10
"""Instants of the past brought into the buffer in one go."""

_Overlap = m.ScheduleOverlapPolicy
_Status = m.WorkflowExecutionStatus
_BESIDE: Final = _Overlap.SCHEDULE_OVERLAP_POLICY_ALLOW_ALL
_FAILED: Final = {
    _Status.WORKFLOW_EXECUTION_STATUS_FAILED: "failure",
    _Status.WORKFLOW_EXECUTION_STATUS_TIMED_OUT: "timeout",
}


class Stops(Struct, frozen=True):
    """What a plan asks of the workflows that run."""

    cancel: bool = False
    terminate: bool = False


def may_act(state: State) -> bool:
    """Whether actions of the spec are taken."""
    return not state.paused and (not state.limited or state.remaining > 0)


def add(state: State, nominal_ms: int, scheduled_ms: int, overlap: int, *, manual: bool) -> None:
    """Put an action into the buffer."""
    if len(state.buffer) >= BUFFER_MAX:
        state.dropped += 1
        return
    state.buffer.append(Action(state.next_number, nominal_ms, scheduled_ms, overlap, manual))
    state.next_number += 1


def remember(state: State, request_id: str) -> bool:
    """Note a request. False if it has been served."""
    if not request_id:
        return True
    if request_id in state.request_ids:
        return False
    state.request_ids.append(request_id)
    del state.request_ids[:-REQUEST_IDS_KEPT]
    return True


def unpaused(state: State, times: Times, now_ms: int) -> None:
    """The schedule may act again: what came meanwhile is not made up for."""
    cursor_ms = max(state.cursor_ms, now_ms - times.jitter_ms - 1000)
    for count, moment in enumerate(times.after(cursor_ms)):
        if moment.actual_ms > now_ms or count == _SLICE:
            break
        cursor_ms = moment.nominal_ms
    state.cursor_ms = max(cursor_ms, state.cursor_ms)


def apply_patch(state: State, patch: m.SchedulePatch, backfills: list[Backfill], times: Times, now_ms: int) -> None:
    """Do what a patch asks for.

    Args:
        backfills: its spans, checked.
        times: of the schedule.
        now_ms: the present instant.
    """
    if patch.HasField("trigger_immediately"):
        trigger = patch.trigger_immediately
        nominal_ms = now_ms
        if trigger.HasField("scheduled_time"):
            nominal_ms = timestamp_ms(trigger.scheduled_time)
        add(state, nominal_ms, now_ms, trigger.overlap_policy, manual=True)
    state.backfills += backfills
    if patch.pause:
        state.paused = True
        state.notes = patch.pause
        state.version += 1
    if patch.unpause:
        if state.paused:
            unpaused(state, times, now_ms)
        state.paused = False
        state.notes = patch.unpause
        state.version += 1


def collect(state: State, times: Times, policies: Policies, now_ms: int) -> bool:
    """Bring what is due into the buffer. True if there is more to look at."""
    more = _collect_due(state, times, policies, now_ms)
    return _collect_backfill(state, times) or more


def _collect_due(state: State, times: Times, policies: Policies, now_ms: int) -> bool:
    if not may_act(state):
        return False
    for _ in range(_SLICE):
        found = times.next(state.cursor_ms)
        if found is None or found.actual_ms > now_ms:
            return False
        state.cursor_ms = found.nominal_ms
        if now_ms - found.actual_ms > policies.catchup_ms:
            state.missed += 1
        else:
            add(state, found.nominal_ms, found.actual_ms, 0, manual=False)
    return True


def _collect_backfill(state: State, times: Times) -> bool:
    """A slice of the first span of the past, as long as there is room for it."""
    if not state.backfills:
        return False
    span = state.backfills[0]
    for _ in range(_BACKFILL_SLICE):
        if len(state.buffer) >= BUFFER_MAX:
            return False  # It goes on when the buffer has emptied.
        found = times.next(span.at_ms)
        if found is None or found.actual_ms > span.end_ms:
            del state.backfills[0]
            break
        span.at_ms = found.nominal_ms
        add(state, found.nominal_ms, found.actual_ms, span.overlap, manual=True)
    return bool(state.backfills)


def plan(state: State, policies: Policies) -> Stops:
    """Take out of the buffer what may start now, and what is left out.

    Returns:
        What the workflows that run are asked.
    """
    waiting, state.buffer = state.buffer, []
    runs = any(not each.beside for each in state.running)
    runs = runs or any((each.overlap or policies.overlap) != _BESIDE for each in state.starting)
    chosen: list[Action] = []
    beside: list[Action] = []
    cancel = terminate = False
    for action in waiting:
        overlap = action.overlap or policies.overlap
        if overlap == _BESIDE:
            beside.append(action)
        elif not runs and not chosen:
            chosen.append(action)
        elif overlap == _Overlap.SCHEDULE_OVERLAP_POLICY_BUFFER_ALL or (
            overlap == _Overlap.SCHEDULE_OVERLAP_POLICY_BUFFER_ONE and not state.buffer
        ):
            state.buffer.append(action)
        elif overlap in (
            _Overlap.SCHEDULE_OVERLAP_POLICY_CANCEL_OTHER,
            _Overlap.SCHEDULE_OVERLAP_POLICY_TERMINATE_OTHER,
        ):
            replaced = state.buffer if runs else chosen
            state.skipped += len(replaced)
            replaced[:] = [action]
            if runs:
                cancel |= overlap == _Overlap.SCHEDULE_OVERLAP_POLICY_CANCEL_OTHER
                terminate |= overlap == _Overlap.SCHEDULE_OVERLAP_POLICY_TERMINATE_OTHER
        else:
            state.skipped += 1
    for action in (*beside, *chosen):
        if action.manual:
            state.starting.append(action)
        elif may_act(state):
            state.starting.append(action)
            if state.limited:
                state.remaining -= 1
                state.version += 1
    return Stops(cancel=cancel and not terminate, terminate=terminate)


def started(
    state: State, action: Action, policies: Policies, *, workflow_id: str, run_id: str, status: int, now_ms: int
) -> Running | None:
    """The workflow of an action has been started.

    Returns:
        A workflow that is watched no longer, as too many run beside each other.
    """
    state.starting.remove(action)
    state.taken += 1
    state.recent.append(Recent(action.scheduled_ms, now_ms, workflow_id, run_id, status))
    del state.recent[:-RECENT_KEPT]
    if status == _Status.WORKFLOW_EXECUTION_STATUS_RUNNING:
        beside = (action.overlap or policies.overlap) == _BESIDE
        state.running.append(Running(workflow_id, run_id, beside))
        if beside and sum(each.beside for each in state.running) > BESIDE_MAX:
            oldest = next(each for each in state.running if each.beside)
            state.running.remove(oldest)
            return oldest
    return None


def ended(
    state: State,
    running: Running,
    policies: Policies,
    *,
    status: int,
    result: bytes | None = None,
    failure: bytes | None = None,
    message: str = "",
) -> None:
    """A workflow that ran has ended.

    Args:
        status: how, a WorkflowExecutionStatus.
        result: serialized Payloads, if it completed.
        failure: serialized Failure, if it failed or timed out.
        message: the failure's.
    """
    state.running.remove(running)
    for each in state.recent:
        if each.workflow_id == running.workflow_id and each.run_id == running.run_id:
            each.status = status
    if not running.beside:
        if status == _Status.WORKFLOW_EXECUTION_STATUS_COMPLETED:
            state.last_result, state.failure = result, None
        elif failure is not None:
            state.failure = failure
    if policies.pause_on_failure and status in _FAILED and not state.paused:
        state.paused = True
        state.notes = f"paused due to workflow {_FAILED[_Status.ValueType(status)]}: {running.workflow_id}"
        if message:
            state.notes += f": {message}"
        state.version += 1


def next_wake_ms(state: State, times: Times) -> int | None:
    """When the spec's next action is due; None if none will be taken."""
    if not may_act(state):
        return None
    found = times.next(state.cursor_ms)
    return None if found is None else found.actual_ms
