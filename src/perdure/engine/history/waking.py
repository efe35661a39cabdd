"""Time passes: everything of a run that is due happens at once, in the order it fell due."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop

from perdure.engine.history import activity, closing, deadlines, nexus, timer, workflow_task
from perdure.engine.history.state import ActivityItem, NexusItem, Run, TimerItem
from perdure.engine.history.transition import Limits, Transition


def wake(run: Run, *, limits: Limits, new_id: Callable[[], str], now_ms: int) -> Transition:
    """Fire timers, activity timeouts and retries, the workflow task's timeout and back-off, run and execution timeout.

    changed=False when nothing was due.
    """
    transition = Transition(run, now_ms, changed=False)
    if not run.is_open:
        return transition
    deadline_ms = deadlines.run_deadline_ms(run)
    if deadline_ms and deadline_ms <= now_ms:
        transition.changed = True
        closing.time_out(transition, new_id)
        return transition
    _fire_items(transition, limits)
    _wake_task(transition, limits)
    return transition


def _fire_items(transition: Transition, limits: Limits) -> None:
    run = transition.run
    while True:
        due_ms, event_id = deadlines.earliest_item(run)
        if not due_ms or due_ms > transition.now_ms:
            return
        heappop(run.live.deadlines)
        transition.changed = True
        item = run.state.items[event_id]
        if isinstance(item, TimerItem):
            timer.fire_due(transition, item)
        elif isinstance(item, ActivityItem):
            activity.fire_due(transition, item)
        elif isinstance(item, NexusItem):
            nexus.fire_due(transition, item, limits)


def _wake_task(transition: Transition, limits: Limits) -> None:
    run = transition.run
    state = run.state
    task = run.live.task
    if task is not None:
        if task.deadline_ms <= transition.now_ms:
            transition.changed = True
            workflow_task.end_timed_out(transition, limits)
        return
    if not state.task_not_before_ms or state.task_not_before_ms > transition.now_ms:
        return
    transition.changed = True
    state.task_not_before_ms = 0
    if state.task_scheduled_event_id:
        transition.workflow_task = True
    else:
        workflow_task.schedule(transition)
