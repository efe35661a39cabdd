"""History as rows of a bounded length, since a page of it is read in whole rows."""

from __future__ import annotations

from perdure.engine.store.port import HistoryRow

__all__ = ["ROW_EVENTS", "history_rows"]

ROW_EVENTS = 1000
"""Most events in one row."""


def history_rows(run_key: int, first_event_id: int, frames: list[bytes]) -> list[HistoryRow]:
    """The rows of consecutive events."""
    starts = range(0, len(frames), ROW_EVENTS)
    return [HistoryRow(run_key, first_event_id + at, b"".join(frames[at : at + ROW_EVENTS])) for at in starts]
