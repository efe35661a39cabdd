"""The pending items of a run, with the indexes and dirty marks that go with them.

Items live in `state.items`; `live` knows their names. A run with more than a few items keeps each in a row of its own
(`state.spilled`), and only the rows of items that were touched are written again.
"""

from __future__ import annotations

from perdure.engine.history.state import ActivityItem, ChildItem, Item, NexusItem, Run, TimerItem


def touch(run: Run, event_id: int) -> None:
    """An item was added, changed or removed."""
    if run.state.spilled:
        run.live.dirty_items.add(event_id)


def add(run: Run, item: Item) -> None:
    run.state.items[item.event_id] = item
    if run.state.spilled:
        run.live.dirty_items.add(item.event_id)


def remove_activity(run: Run, item: ActivityItem) -> None:
    event_id = item.event_id
    live = run.live
    del run.state.items[event_id]
    del live.activity_ids[item.activity_id]
    live.activities.pop(event_id, None)
    live.scheduled.pop(event_id, None)
    touch(run, event_id)


def add_timer(run: Run, item: TimerItem) -> None:
    add(run, item)
    run.live.timer_ids[item.timer_id] = item.event_id


def remove_timer(run: Run, item: TimerItem) -> None:
    del run.state.items[item.event_id]
    del run.live.timer_ids[item.timer_id]
    touch(run, item.event_id)


def add_child(run: Run, item: ChildItem) -> None:
    add(run, item)
    run.live.child_ids[item.workflow_id] = item.event_id


def remove_child(run: Run, item: ChildItem) -> None:
    del run.state.items[item.event_id]
    if run.live.child_ids.get(item.workflow_id) == item.event_id:
        del run.live.child_ids[item.workflow_id]
    touch(run, item.event_id)


def remove_external(run: Run, event_id: int) -> None:
    """A signal or cancel to another run has its outcome."""
    del run.state.items[event_id]
    touch(run, event_id)


def add_nexus(run: Run, item: NexusItem) -> None:
    add(run, item)
    run.live.nexus_ids.add(item.event_id)


def remove_nexus(run: Run, event_id: int) -> None:
    del run.state.items[event_id]
    run.live.nexus_ids.discard(event_id)
    touch(run, event_id)


def forget_all(run: Run) -> None:
    """The run closes: nothing is pending any more (state.items is emptied by the closing event's effect)."""
    live = run.live
    if run.state.spilled:
        live.dirty_items.update(run.state.items)
    live.activities.clear()
    live.scheduled.clear()
    live.activity_ids.clear()
    live.timer_ids.clear()
    live.child_ids.clear()
    live.nexus_ids.clear()
    live.deadlines.clear()


def index_all(run: Run) -> None:
    """Rebuild the indexes of a run that was just loaded."""
    live = run.live
    for event_id, item in run.state.items.items():
        match item:
            case ActivityItem():
                live.activity_ids[item.activity_id] = event_id
            case TimerItem():
                live.timer_ids[item.timer_id] = event_id
            case ChildItem():
                live.child_ids[item.workflow_id] = event_id
            case NexusItem():
                live.nexus_ids.add(event_id)
            case _:
                pass
