"""When a run needs attention next.

A run's own instants (run and execution timeout, the timeout of a held workflow task, the end of a back-off) are plain
numbers. Those of timers and activities are many: a heap of (due_ms, kind, event_id) with one live entry an item,
the earliest instant at which something may be due for it. An entry is checked against the item when it comes up:
if the item is gone it is dropped, if its instant has moved (a heartbeat came) it is put back later. So nothing is
searched when an item goes, and stale entries are swept when they outnumber the items.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush, heapreplace
from typing import Final

from perdure.engine.history.state import ActivityItem, Item, NexusItem, Run, TimerItem

TIMER: Final = 0
ACTIVITY: Final = 1
"""Of Nexus operations, too."""

_STALE_TOLERATED: Final = 64


def push(run: Run, due_ms: int, kind: int, event_id: int) -> None:
    """Note that an item may be due at `due_ms`."""
    heap = run.live.deadlines
    heappush(heap, (due_ms, kind, event_id))
    if len(heap) > 2 * len(run.state.items) + _STALE_TOLERATED:
        rebuild(run)


def push_activity(run: Run, item: ActivityItem) -> None:
    """Note when an activity is due next, if ever."""
    due_ms = activity_due_ms(run, item)
    if due_ms:
        push(run, due_ms, ACTIVITY, item.event_id)


def rebuild(run: Run) -> None:
    """Compute the heap from the items."""
    entries: list[tuple[int, int, int]] = []
    for event_id, item in run.state.items.items():
        due_ms = _due_ms(run, item)
        if due_ms:
            entries.append((due_ms, TIMER if isinstance(item, TimerItem) else ACTIVITY, event_id))
    heapify(entries)
    run.live.deadlines = entries


def activity_due_ms(run: Run, item: ActivityItem) -> int:
    """The earliest timeout or retry of an activity; 0 = never."""
    due_ms = item.scheduled_at_ms + item.schedule_to_close_ms if item.schedule_to_close_ms else 0
    held = run.live.activities.get(item.event_id)
    if held is not None:
        started_at_ms = held.started_at_ms
        beat_at_ms = held.last_heartbeat_at_ms
    elif item.held:
        started_at_ms = item.last_started_at_ms
        beat_at_ms = item.last_heartbeat_at_ms
    else:
        if item.control is not None and item.control.paused_at_ms:
            return 0
        if item.next_attempt_at_ms:
            waiting_ms = item.next_attempt_at_ms
        elif item.schedule_to_start_ms:
            waiting_ms = item.attempt_scheduled_at_ms + item.schedule_to_start_ms
        else:
            return due_ms
        return waiting_ms if not due_ms or waiting_ms < due_ms else due_ms
    if item.start_to_close_ms:
        close_ms = started_at_ms + item.start_to_close_ms
        if not due_ms or close_ms < due_ms:
            due_ms = close_ms
    if item.heartbeat_ms:
        silent_ms = max(started_at_ms, beat_at_ms, item.silent_from_ms) + item.heartbeat_ms
        if not due_ms or silent_ms < due_ms:
            due_ms = silent_ms
    return due_ms


def push_nexus(run: Run, item: NexusItem) -> None:
    """Note when a Nexus operation is due next, if ever."""
    due_ms = nexus_due_ms(item)
    if due_ms:
        push(run, due_ms, ACTIVITY, item.event_id)


def nexus_due_ms(item: NexusItem) -> int:
    """The earliest timeout or retry of a Nexus operation; 0 = never."""
    found: list[int] = []
    if item.schedule_to_close_ms:
        found.append(item.scheduled_at_ms + item.schedule_to_close_ms)
    if item.started_at_ms:
        if item.start_to_close_ms:
            found.append(item.started_at_ms + item.start_to_close_ms)
    elif item.schedule_to_start_ms:
        found.append(item.scheduled_at_ms + item.schedule_to_start_ms)
    request = item.request
    if request is not None and (request.held_until_ms or request.next_attempt_at_ms):
        found.append(request.held_until_ms or request.next_attempt_at_ms)
    return min(found, default=0)


def _due_ms(run: Run, item: Item) -> int:
    if isinstance(item, TimerItem):
        return item.fire_at_ms
    if isinstance(item, ActivityItem):
        return activity_due_ms(run, item)
    if isinstance(item, NexusItem):
        return nexus_due_ms(item)
    return 0


def earliest_item(run: Run) -> tuple[int, int]:
    """(due_ms, event_id) of the item that is due first; (0, 0) if none ever is."""
    heap = run.live.deadlines
    items = run.state.items
    while heap:
        due_ms, kind, event_id = heap[0]
        item = items.get(event_id)
        actual_ms = _due_ms(run, item) if item is not None else 0
        if actual_ms == due_ms:
            return due_ms, event_id
        if actual_ms:
            heapreplace(heap, (actual_ms, kind, event_id))
        else:
            heappop(heap)
    return 0, 0


def run_deadline_ms(run: Run) -> int:
    """The earlier of run and execution timeout; 0 = none."""
    state = run.state
    if not state.execution_deadline_ms:
        return state.run_deadline_ms
    if not state.run_deadline_ms:
        return state.execution_deadline_ms
    return min(state.run_deadline_ms, state.execution_deadline_ms)


def next_deadline_ms(run: Run, *, after_loss: bool = False) -> int | None:
    """The earliest valid deadline of an open run; None if it waits only for the outside.

    Args:
        run: the run.
        after_loss: as seen by a process that holds no workflow task of it.
    """
    if not run.is_open:
        return None
    earliest = run_deadline_ms(run)
    task = None if after_loss else run.live.task
    other = task.deadline_ms if task is not None else run.state.task_not_before_ms
    if other and (not earliest or other < earliest):
        earliest = other
    if run.live.deadlines:
        other, _ = earliest_item(run)
        if other and (not earliest or other < earliest):
            earliest = other
    return earliest or None


def due_before(run: Run, at_ms: int) -> bool:
    """Whether an open run may have a deadline before `at_ms`; cheap, and sure when it says no."""
    heap = run.live.deadlines
    if heap and heap[0][0] < at_ms:
        return True
    task = run.live.task
    state = run.state
    if task is not None:
        return task.deadline_ms < at_ms
    return bool(state.task_not_before_ms or state.run_deadline_ms or state.execution_deadline_ms)


def hot(run: Run) -> bool:
    """Whether the run has something to hand out or deliver, as seen by a process that holds none of its tasks."""
    state = run.state
    if state.outbox:
        return True
    if state.status != 1 or state.pause is not None:
        return False
    if state.task_scheduled_event_id and not state.task_not_before_ms:
        return True
    if state.buffered and not state.task_scheduled_event_id:
        return True  # They came while a speculative task was handed out, which nobody remembers.
    items = state.items
    for event_id in run.live.activity_ids.values():
        item = items[event_id]
        if type(item) is ActivityItem and not item.next_attempt_at_ms and not item.held:
            if item.control is None or not item.control.paused_at_ms:
                return True
    nexus_ids = run.live.nexus_ids
    return bool(nexus_ids) and any(waits_for_worker(state.items[event_id]) for event_id in nexus_ids)


def waits_for_worker(item: Item) -> bool:
    """Whether a Nexus operation has a request that may be handed out."""
    request = item.request if isinstance(item, NexusItem) else None
    return request is not None and not request.held_until_ms and not request.next_attempt_at_ms


def wake_at_ms(run: Run) -> int | None:
    """For the store: 0 hot, else the earliest deadline, else None; of a closed run the end of its retention."""
    if hot(run):
        return 0
    if not run.is_open:
        return run.state.retain_until_ms
    return next_deadline_ms(run)
