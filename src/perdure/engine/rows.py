"""What a run adds to a batch: its new events, in rows of a bounded length since a page is read in whole rows; and what
lists are to know of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.engine import history
from perdure.engine.store.port import AttributesRow, Batch, HistoryRow, VisibilityRow

if TYPE_CHECKING:
    from perdure.engine.slot import Slot

__all__ = ["ROW_EVENTS", "add_history", "add_visibility", "history_rows"]

ROW_EVENTS = 1000
"""Most events in one row."""


def history_rows(run_key: int, first_event_id: int, frames: list[bytes]) -> list[HistoryRow]:
    """The rows of consecutive events."""
    starts = range(0, len(frames), ROW_EVENTS)
    return [HistoryRow(run_key, first_event_id + at, b"".join(frames[at : at + ROW_EVENTS])) for at in starts]


def add_history(batch: Batch, slot: Slot) -> None:
    """The events that have accumulated are on their way."""
    frames = slot.pending
    first_id = slot.row_event_id
    assert first_id + len(frames) == slot.run.state.next_event_id, "history must be contiguous"
    if len(frames) <= ROW_EVENTS:
        batch.histories.append(HistoryRow(slot.key, first_id, b"".join(frames)))
    else:
        batch.histories += history_rows(slot.key, first_id, frames)
    slot.row_event_id = first_id + len(frames)
    slot.writing = frames
    slot.pending = []


def add_visibility(batch: Batch, slot: Slot) -> None:
    """What lists and counts show of the run has changed."""
    run = slot.run
    slot.visibility = False
    batch.visibility.append(VisibilityRow(*history.visibility_row(run)))
    if slot.attributes:
        slot.attributes = False
        batch.attributes.append(AttributesRow(slot.key, run.state.namespace, history.attribute_values(run)))
