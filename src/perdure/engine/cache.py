"""The runs in memory: loaded when asked for, dropped when there are too many.

Loading is single-flight: several who ask for one run share one read. Runs nobody holds (`Slot.held`) are *cold*;
they are kept in order of use and leave memory, oldest first, when their estimated bytes exceed the bound; those that
rest before those whose tasks wait for a worker, who would have to load them again at once. Those that wait for nothing
but timers may take only a part of the room: nothing will happen to them soon, and there may be very many. A run
whose rows are damaged is *quarantined*: everything asked of it is refused with DATA_LOSS, and its neighbours go on.

The index of current runs holds loaded runs only; a miss is looked up in the store. A read that was begun before a
newer run of the same id was made, committed and dropped again would answer with the older one, so ids that leave the
index while reads are under way are noted, and such a read is repeated.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

from google.protobuf.message import DecodeError
from msgspec import MsgspecError

from perdure.api import RpcError, StatusCode
from perdure.api.framing import frames_of
from perdure.engine import history
from perdure.engine.reads import read
from perdure.engine.slot import Slot
from perdure.engine.store.port import LoadedRun, Store, StoreCorruptError

__all__ = ["SHORT_BYTES", "RunCache"]

SHORT_BYTES = 16 * 1024
"""A history up to this size is told whole to a worker that may have forgotten the run, rather than asked for."""

_REBUILD_PAGE_BYTES = 4 * 1024 * 1024
_SHARE_ASLEEP = 4
"""Runs that wait for timers alone get one part in so many of the bound."""

_FEW = 8
"""A run with more items than this is looked at no further: it counts as one that waits for other things, too."""


class RunCache:
    """Loaded runs by key, by run id, and the current ones by workflow id.

    Args:
        store: where runs are read.
        limit_bytes: of cold runs, estimated.
        quarantine_kept: how many damaged runs are remembered.
        recovered_at_ms: when this engine took over; what was handed out before may have been running since.
        on_loaded: called with each run read from the store, before anybody sees it.
        on_evicted: called with each run that leaves to save memory.
        on_settled: called when a read has come to an end.
    """

    def __init__(
        self,
        store: Store,
        *,
        limit_bytes: int,
        quarantine_kept: int,
        recovered_at_ms: int,
        on_loaded: Callable[[Slot], None],
        on_evicted: Callable[[Slot], None],
        on_settled: Callable[[], None],
    ) -> None:
        self.loaded: dict[int, Slot] = {}
        self.current: dict[tuple[str, str], int] = {}
        self.quarantined: OrderedDict[int, RpcError] = OrderedDict()
        self.erasing: set[int] = set()
        """Runs whose erasure is not durable yet: they must not be loaded again."""
        self.loads = 0
        self.evictions = 0
        self._store = store
        self._limit_bytes = limit_bytes
        self._quarantine_kept = quarantine_kept
        self._recovered_at_ms = recovered_at_ms
        self._on_loaded = on_loaded
        self._on_evicted = on_evicted
        self._on_settled = on_settled
        self._run_ids: dict[str, int] = {}
        self._cold: OrderedDict[int, int] = OrderedDict()
        """Cold runs that rest, and the bytes they were counted with, least recently used first."""
        self._waiting: OrderedDict[int, int] = OrderedDict()
        """Cold runs whose tasks wait for a worker, likewise; they leave after those that rest."""
        self._asleep: OrderedDict[int, int] = OrderedDict()
        """Cold runs that wait for timers alone, likewise; they leave first."""
        self._asleep_bytes = 0
        self._asleep_limit_bytes = limit_bytes // _SHARE_ASLEEP
        self.cold_bytes = 0
        """Of all three."""
        self._loading: dict[int, asyncio.Future[None]] = {}
        self._reads = 0
        self._drops: dict[tuple[str, str], int] = {}
        """How often an id has left the index since the reads under way began."""

    @property
    def busy(self) -> bool:
        """Something is being read."""
        return bool(self._loading) or self._reads > 0

    def add(self, slot: Slot) -> None:
        """Enter a run."""
        self.loaded[slot.key] = slot
        self._run_ids[slot.run.state.run_id] = slot.key

    def add_new(self, slot: Slot) -> None:
        """Enter a run that has just been started: it is the current one of its workflow id."""
        self.add(slot)
        state = slot.run.state
        self.current[state.namespace, state.workflow_id] = slot.key

    def drop(self, slot: Slot) -> None:
        """Forget a run."""
        slot.gone = True
        if self.loaded.get(slot.key) is not slot:
            return
        del self.loaded[slot.key]
        state = slot.run.state
        self._run_ids.pop(state.run_id, None)
        ident = (state.namespace, state.workflow_id)
        if self.current.get(ident) == slot.key:
            del self.current[ident]
            if self._reads:
                self._drops[ident] = self._drops.get(ident, 0) + 1
        self._forget_cold(slot.key)

    def cool(self, slot: Slot) -> None:
        """A run has been used; if nobody holds it, it may be dropped when others need the room."""
        if slot.gone or slot.held:
            return
        self._forget_cold(slot.key)
        if slot.hot:
            self._waiting[slot.key] = slot.size
        elif _is_asleep(slot.run):
            self._asleep[slot.key] = slot.size
            self._asleep_bytes += slot.size
            while self._asleep_bytes > self._asleep_limit_bytes and len(self._asleep) > 1:
                self._leave(self._asleep)
        else:
            self._cold[slot.key] = slot.size
        self.cold_bytes += slot.size
        if self.cold_bytes > self._limit_bytes:
            self._make_room(slot.key)

    def _make_room(self, used_key: int) -> None:
        """Let the longest unused leave; the run that has just been used goes last."""
        for cold in (self._asleep, self._cold, self._waiting):
            while self.cold_bytes > self._limit_bytes and cold and next(iter(cold)) != used_key:
                self._leave(cold)

    def _leave(self, cold: OrderedDict[int, int]) -> None:
        """The longest unused of these leaves memory."""
        key = next(iter(cold))
        self._forget_cold(key)
        victim = self.loaded.get(key)
        if victim is not None and not victim.held:
            self.evictions += 1
            self._on_evicted(victim)
            self.drop(victim)

    def _forget_cold(self, run_key: int) -> None:
        size = self._asleep.pop(run_key, 0)
        if size:
            self._asleep_bytes -= size
        else:  # It is in one of them at most.
            size = self._cold.pop(run_key, 0) or self._waiting.pop(run_key, 0)
        self.cold_bytes -= size

    def evict_cold(self) -> int:
        """Drop every run that nobody holds. Returns how many."""
        victims = [slot for slot in self.loaded.values() if not slot.held]
        for slot in victims:
            self._on_evicted(slot)
            self.drop(slot)
        return len(victims)

    async def get(self, run_key: int) -> Slot:
        """The run, loaded if need be.

        Raises:
            RpcError: NOT_FOUND, no such run; DATA_LOSS, its rows are damaged.
        """
        while True:
            error = self.quarantined.get(run_key)
            if error is not None:
                raise RpcError(error.code, error.message)
            slot = self.loaded.get(run_key)
            if slot is not None:
                return slot
            reading = self._loading.get(run_key)
            if reading is None:
                await self._load_for_all(run_key)
            else:
                await asyncio.shield(reading)

    async def _load_for_all(self, run_key: int) -> None:
        """Load a run; others who want it wait. If this caller gives up or fails, the next of them tries."""
        reading: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._loading[run_key] = reading
        try:
            await self._load(run_key)
        finally:
            del self._loading[run_key]
            reading.set_result(None)
            self._on_settled()

    async def _load(self, run_key: int) -> None:
        try:
            loaded = await read(self._store.load_run(run_key))
            if loaded is None or run_key in self.erasing:
                raise RpcError(StatusCode.NOT_FOUND, "the workflow run does not exist, or its retention is over")
            run = await self._decode(loaded)
        except (StoreCorruptError, MsgspecError, DecodeError, ValueError, LookupError) as error:
            raise self.quarantine(run_key, f"its state is damaged: {error}") from error
        if run.is_open and not run.state.task_scheduled_event_id and run.state.history_bytes <= SHORT_BYTES:
            # It was at rest for so long that it left memory here, and so it will have at its worker.
            run.state.sticky_queue = ""
        if run_key in self.loaded:
            return
        self.loads += 1
        slot = Slot(run, False)
        slot.measure(len(loaded.row.state))
        self.add(slot)
        self._on_loaded(slot)
        self.cool(slot)

    async def _decode(self, loaded: LoadedRun) -> history.Run:
        key = loaded.row.run_key
        try:
            items = [(item.event_id, item.data) for item in loaded.items]
            return history.decode(key, loaded.row.state, items, recovered_at_ms=self._recovered_at_ms)
        except history.StateVersionError:
            return await self._rebuild(key)

    async def _rebuild(self, run_key: int) -> history.Run:
        """The state of a run whose row has another layout, from its history."""
        frames: list[bytes] = []
        while True:
            rows = await read(self._store.read_history(run_key, len(frames) + 1, _REBUILD_PAGE_BYTES))
            fresh = [row for row in rows if row.first_event_id > len(frames)]
            if not fresh:
                break
            for row in fresh:
                frames.extend(frames_of(row.data))
        rebuilt = history.encode(history.Run(run_key, history.fold(run_key, frames)))
        return history.decode(run_key, rebuilt.state, rebuilt.items, recovered_at_ms=self._recovered_at_ms)

    def quarantine(self, run_key: int, why: str) -> RpcError:
        """Refuse everything about a run from now on. Returns the error to raise."""
        error = RpcError(
            StatusCode.DATA_LOSS, f"workflow run {run_key} is quarantined: {why}; restore it from a backup"
        )
        self.quarantined[run_key] = error
        while len(self.quarantined) > self._quarantine_kept:
            self.quarantined.popitem(last=False)
        slot = self.loaded.get(run_key)
        if slot is not None and not slot.held:
            self.drop(slot)
        return error

    async def find(self, namespace: str, workflow_id: str, run_id: str) -> Slot:
        """The run with this run id, or the current run of the workflow id when `run_id` is empty.

        Raises:
            RpcError: NOT_FOUND, DATA_LOSS.
        """
        if workflow_id.startswith(history.ACTIVITY_PREFIX):
            raise RpcError(StatusCode.NOT_FOUND, f"workflow {workflow_id!r} not found in namespace {namespace!r}")
        if not run_id:
            slot = await self.find_current(namespace, workflow_id)
            if slot is None:
                raise RpcError(StatusCode.NOT_FOUND, f"workflow {workflow_id!r} not found in namespace {namespace!r}")
            return slot
        key = self._run_ids.get(run_id)
        if key is None:
            key = await read(self._store.find_run(namespace, workflow_id, run_id))
        slot = None if key is None else await self.get(key)
        if slot is not None:
            state = slot.run.state
            if state.run_id == run_id and state.workflow_id == workflow_id and state.namespace == namespace:
                return slot
        raise RpcError(
            StatusCode.NOT_FOUND, f"run {run_id!r} of workflow {workflow_id!r} not found in namespace {namespace!r}"
        )

    async def find_activity(self, namespace: str, activity_id: str, run_id: str) -> Slot:
        """The activity execution with this run id, or the current one of the activity id when `run_id` is empty.

        Raises:
            RpcError: NOT_FOUND, DATA_LOSS.
        """
        internal_id = history.internal_id(activity_id)
        if run_id:
            key = self._run_ids.get(run_id)
            if key is None:
                key = await read(self._store.find_run(namespace, activity_id, run_id))
            slot = None if key is None else await self._get_or_none(key)
        else:
            slot = await self.find_current(namespace, internal_id)
        if slot is not None:
            state = slot.run.state
            if run_id in ("", state.run_id) and state.workflow_id == internal_id and state.namespace == namespace:
                return slot
        of_run = f" with run id {run_id!r}" if run_id else ""
        raise RpcError(
            StatusCode.NOT_FOUND, f"activity execution {activity_id!r}{of_run} not found in namespace {namespace!r}"
        )

    async def find_current(self, namespace: str, workflow_id: str) -> Slot | None:
        """The latest run of the workflow id, or None; nothing is waited for after it was decided which one it is.

        Raises:
            RpcError: DATA_LOSS.
        """
        ident = (namespace, workflow_id)
        while True:
            key = self.current.get(ident)
            if key is not None:
                return await self.get(key)
            drops = self._drops.get(ident, 0)
            self._reads += 1
            try:
                key = await read(self._store.current_run(namespace, workflow_id))
                slot = None if key is None else await self._get_or_none(key)
                stale = self._drops.get(ident, 0) != drops
            finally:
                self._reads -= 1
                if not self._reads:
                    self._drops.clear()
                    self._on_settled()
            if stale or ident in self.current or (slot is not None and slot.gone):
                continue
            if slot is not None:
                self.current[ident] = slot.key
            return slot

    async def _get_or_none(self, run_key: int) -> Slot | None:
        try:
            return await self.get(run_key)
        except RpcError as error:
            if error.code is StatusCode.NOT_FOUND:
                return None
            raise


def _is_asleep(run: history.Run) -> bool:
    """It waits for timers and nothing else, as far as is known here."""
    items = run.state.items
    return 0 < len(items) <= _FEW and all(type(item) is history.TimerItem for item in items.values())
