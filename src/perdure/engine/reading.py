"""Reading histories: pages of frames from memory or the store, whichever has them.

A run's history is, in order: rows in the store (durable), then the frames of the commit in flight, then those of the
accumulating group. The newest frames are also in ``run.live.frames``, so that the usual reads touch no store. What
leaves the process shows durable events only; a workflow task for this process may show all.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from google.protobuf.message import DecodeError

from perdure.api import messages as m
from perdure.api.framing import frames_of
from perdure.engine.reads import read
from perdure.engine.slot import Slot
from perdure.engine.store.port import Store, StoreCorruptError

if TYPE_CHECKING:
    from perdure.engine.cache import RunCache

__all__ = ["HistoryReader", "Page", "cut"]

_ROWS_KEPT = 8
"""Recently read rows, split into frames: a row may hold the Scheduled events of many activities."""
_READ_BYTES = 1024 * 1024


class Page(NamedTuple):
    """Consecutive frames of a history."""

    frames: list[bytes]
    next_event_id: int
    """The first event after them."""


def cut(frames: list[bytes], max_events: int, max_bytes: int) -> list[bytes]:
    """As many leading frames as fit a page; at least one."""
    if len(frames) <= max_events and sum(map(len, frames)) <= max_bytes:
        return frames
    size = 0
    for count, frame in enumerate(frames[:max_events]):
        size += len(frame)
        if size > max_bytes and count:
            return frames[:count]
    return frames[:max_events]


class HistoryReader:
    """Reads the histories of a shard's runs."""

    def __init__(self, store: Store, cache: RunCache) -> None:
        self._store = store
        self._cache = cache
        self._rows: OrderedDict[tuple[int, int], list[bytes]] = OrderedDict()

    def in_memory(self, slot: Slot, first_event_id: int, last_event_id: int) -> list[bytes] | None:
        """Frames `first…last` of a loaded run, or None when memory does not reach back that far."""
        start_id = slot.run.frames_first_event_id
        if first_event_id < start_id:
            return None
        return slot.run.live.frames[first_event_id - start_id : last_event_id + 1 - start_id]

    async def page(
        self, run_key: int, first_event_id: int, *, max_events: int, max_bytes: int, durable_only: bool
    ) -> Page:
        """Frames from `first_event_id` on, as many as fit.

        Raises:
            RpcError: DATA_LOSS, the history is damaged.
        """
        next_id = first_event_id
        frames: list[bytes] = []
        size = 0
        while len(frames) < max_events and (size < max_bytes or not frames):
            before = self._durable_event_id(run_key)
            read = await self._durable(run_key, next_id, max_bytes - size)
            if not read:
                if self._durable_event_id(run_key) > max(before, next_id - 1):
                    continue  # The commit that wrote them has been answered since.
                break
            frames += read
            next_id += len(read)
            size += sum(map(len, read))
            slot = self._cache.loaded.get(run_key)
            if slot is not None and next_id > slot.durable_event_id:
                break
        frames = cut(frames, max_events, max_bytes)
        next_id = first_event_id + len(frames)
        slot = self._cache.loaded.get(run_key)
        if not durable_only and slot is not None and len(frames) < max_events and size < max_bytes:
            tail = slot.uncommitted()[max(0, next_id - slot.durable_event_id - 1) :]
            if next_id > slot.durable_event_id:
                frames = cut(frames + tail, max_events, max_bytes)
                next_id = first_event_id + len(frames)
        return Page(frames, next_id)

    def _durable_event_id(self, run_key: int) -> int:
        """The last event known to be durable; 0 for a run that is not in memory."""
        slot = self._cache.loaded.get(run_key)
        return 0 if slot is None else slot.durable_event_id

    async def _durable(self, run_key: int, first_event_id: int, max_bytes: int) -> list[bytes]:
        frames: list[bytes] = []
        next_id = first_event_id
        try:
            call = self._store.read_history(run_key, first_event_id, max(1, min(max_bytes, _READ_BYTES)))
            for row in await read(call):
                of_row = frames_of(row.data)
                if row.first_event_id > next_id:
                    raise ValueError(f"events {next_id} to {row.first_event_id - 1} are missing")
                fresh = of_row[next_id - row.first_event_id :]
                frames += fresh
                next_id += len(fresh)
        except (StoreCorruptError, ValueError) as error:
            raise self._cache.quarantine(run_key, f"its history is damaged: {error}") from error
        return frames

    async def page_reverse(self, run_key: int, last_event_id: int, *, max_events: int, max_bytes: int) -> list[bytes]:
        """Durable frames from `last_event_id` down, as many as fit.

        Raises:
            RpcError: DATA_LOSS, the history is damaged.
        """
        frames: list[bytes] = []
        expected = last_event_id
        size = 0
        while expected >= 1 and len(frames) < max_events and (size < max_bytes or not frames):
            try:
                rows = await read(self._store.read_history_reverse(run_key, expected, max(1, max_bytes - size)))
                for row in rows:
                    of_row = frames_of(row.data)
                    kept = of_row[: expected - row.first_event_id + 1]
                    if row.first_event_id + len(kept) - 1 != expected:
                        raise ValueError(f"event {expected} is missing")
                    frames += reversed(kept)
                    size += sum(map(len, kept))
                    expected = row.first_event_id - 1
            except (StoreCorruptError, ValueError) as error:
                raise self._cache.quarantine(run_key, f"its history is damaged: {error}") from error
            if not rows:
                break
        return cut(frames, max_events, max_bytes)

    async def event(self, run_key: int, event_id: int) -> m.HistoryEvent:
        """One durable event.

        Raises:
            RpcError: DATA_LOSS, it can't be read.
        """
        for (key, first_id), frames in self._rows.items():
            if key == run_key and first_id <= event_id < first_id + len(frames):
                return _event(frames[event_id - first_id])
        try:
            rows = await read(self._store.read_history(run_key, event_id, 1))
            if not rows or not event_id - rows[0].first_event_id >= 0:
                raise ValueError(f"event {event_id} is missing")
            frames = frames_of(rows[0].data)
            event = _event(frames[event_id - rows[0].first_event_id])
        except (StoreCorruptError, ValueError, IndexError, DecodeError) as error:
            raise self._cache.quarantine(run_key, f"its history is damaged: {error}") from error
        self._rows[run_key, rows[0].first_event_id] = frames
        while len(self._rows) > _ROWS_KEPT:
            self._rows.popitem(last=False)
        return event


def _event(frame: bytes) -> m.HistoryEvent:
    return m.History.FromString(frame).events[0]
