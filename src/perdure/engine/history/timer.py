"""Timers: Started by a command, then Fired when due or Canceled by a command.

A timer whose Fired event is still buffered can be cancelled as well: the worker that asks for it has not seen it
fire. The Fired event is then taken out of the buffer, and Canceled is written.
"""

from __future__ import annotations

from perdure.api import messages as m
from perdure.engine.history import events, pending, workflow_task
from perdure.engine.history.recording import append, arrival_id, arrive
from perdure.engine.history.state import Run, TimerItem
from perdure.engine.history.transition import Transition

_FIRED = m.EventType.EVENT_TYPE_TIMER_FIRED


def fire_due(transition: Transition, item: TimerItem) -> None:
    run = transition.run
    arrive(transition, events.timer_fired(arrival_id(run), transition.now_ms, item.timer_id, item.event_id))
    pending.remove_timer(run, item)
    workflow_task.call(transition)


def cancel(transition: Transition, timer_id: str, completed_event_id: int, identity: str) -> None:
    """Cancel a running timer, or one whose firing is buffered (precondition: it is one of the two)."""
    run = transition.run
    event_id = run.live.timer_ids.get(timer_id)
    if event_id is not None:
        item = run.state.items[event_id]
        if isinstance(item, TimerItem):
            pending.remove_timer(run, item)
        started_id = event_id
    else:
        index, started_id = find_buffered_firing(run, timer_id)
        del run.state.buffered[index]
    event = events.timer_canceled(
        run.state.next_event_id, transition.now_ms, timer_id, started_id, completed_event_id, identity
    )
    append(transition, event)


def find_buffered_firing(run: Run, timer_id: str) -> tuple[int, int]:
    """(index in state.buffered, started event id) of a timer's buffered Fired event; (-1, 0) if there is none."""
    for index, data in enumerate(run.state.buffered):
        event = m.HistoryEvent.FromString(data)
        if event.event_type == _FIRED and event.timer_fired_event_attributes.timer_id == timer_id:
            return index, event.timer_fired_event_attributes.started_event_id
    return -1, 0
