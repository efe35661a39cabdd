"""Hand-outs that a restart remembers: attempts of activities that workers of other processes hold.

A worker of this process dies with the engine, so who holds an attempt is known in memory alone. A worker of another
process lives on: its attempt is marked `held` in the item, with its start and its worker, and the mark is committed
before the worker gets the task. No event is written. After a restart a held attempt is not handed out again; its
timeouts run on from the start that was written, and what its worker reports is taken in.

    start_activity → hold (then the commit, then the poll's answer) → a report, or a timeout
    start_activity → hold → release, when the poll has gone before it was answered: the task waits again
"""

from __future__ import annotations

from perdure.engine.history import deadlines, pending
from perdure.engine.history.state import ActivityItem, Run
from perdure.engine.history.transition import Transition


def hold_activity(run: Run, scheduled_event_id: int, *, now_ms: int) -> Transition:
    """Make the hand-out of an attempt that has just been started durable."""
    item = run.state.items[scheduled_event_id]
    live = run.live.activities[scheduled_event_id]
    assert isinstance(item, ActivityItem), "only activities are handed out as such"
    item.held = live.leaving = True
    item.last_started_at_ms = live.started_at_ms
    item.last_worker_identity = live.identity
    pending.touch(run, scheduled_event_id)
    return Transition(run, now_ms)


def activity_left(run: Run, scheduled_event_id: int) -> None:
    """The hand-out is durable: its worker gets the task."""
    live = run.live.activities.get(scheduled_event_id)
    if live is not None:
        live.leaving = False


def release_activity(run: Run, scheduled_event_id: int, attempt: int, *, now_ms: int) -> Transition:
    """Undo a hand-out: nobody was there to take the task. changed=False unless it had been made durable."""
    transition = Transition(run, now_ms, changed=False)
    item = run.state.items.get(scheduled_event_id)
    if not isinstance(item, ActivityItem) or item.attempt != attempt:
        return transition
    if run.live.activities.pop(scheduled_event_id, None) is None:
        return transition
    if item.held:
        item.held = False
        pending.touch(run, scheduled_event_id)
        transition.changed = True
    deadlines.push_activity(run, item)
    return transition


def restart_held(item: ActivityItem, recovered_at_ms: int) -> None:
    """Heartbeats may have been sent while nobody was there to hear them: the next one is waited for afresh."""
    item.silent_from_ms = max(item.silent_from_ms, recovered_at_ms)
