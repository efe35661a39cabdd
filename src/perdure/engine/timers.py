"""When runs must be woken: a heap of what is due soon, and one alarm.

The heap holds (due_ms, run_key) up to `horizon_ms`; beyond it deadlines lie in the store alone (each run's row says
when it must be woken), so a hundred thousand sleepers cost no memory. `far_ms` is a lower bound on the earliest
deadline beyond the horizon. One `call_at` is armed for the earlier of the two: nothing is polled, and an idle engine
does nothing at all.

When the far bound comes up, the horizon moves: rows that are due by the new horizon are read in pages and enter the
heap, as do loaded runs, whose hand-outs may have deadlines no row knows of; then the next far bound is looked up.

Entries are hints. Whoever is woken asks the run what is due, so a stale entry costs a look and nothing else, and a
clock that jumps fires each timer once. A run that is not in memory is woken only if `away` still names the instant:
its stale entries must not load it. Stale entries are swept when they outnumber the others.

Invariants: the deadline of a run in memory is no earlier than the one registered in its slot (`due_ms`), that of a
run that left memory no earlier than the one in `away`, if it has one; both are in the heap, or lie beyond the horizon
and not before `far_ms`. What a run's row does not tell (it is hot, so the row says "now") is kept in `away` whenever
it is due.
"""

from __future__ import annotations

import heapq
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from perdure.engine.slot import NEVER_MS, Slot

if TYPE_CHECKING:
    from perdure.engine.clock import Clock, Handle

__all__ = ["DueScan", "Timers"]

DueScan = Callable[[int, tuple[int, int] | None, int], Awaitable[list[tuple[int, int]]]]
"""`Store.due_runs`."""

_SWEEP_OVER = 1000
"""Stale entries that are tolerated in any case."""
_AFTER_ALL = NEVER_MS
"""A run key after every other."""


class Timers:
    """The deadlines of a shard.

    Args:
        clock: tells the time and rings the alarm.
        on_alarm: called when something is due (`pop_due`) or the horizon must move (`horizon_passed`).
        near_horizon_ms: how far ahead the heap reaches.
    """

    def __init__(self, clock: Clock, on_alarm: Callable[[], None], near_horizon_ms: int) -> None:
        self.horizon_ms = -1
        self.far_ms = NEVER_MS
        self._clock = clock
        self._on_alarm = on_alarm
        self._near_horizon_ms = near_horizon_ms
        self.away: dict[int, int] = {}
        """Deadlines in the heap of runs that are not in memory, by run key."""
        self._heap: list[tuple[int, int]] = []
        self._alarm: Handle | None = None
        self._alarm_ms = NEVER_MS

    def __len__(self) -> int:
        return len(self._heap)

    def register(self, slot: Slot, due_ms: int | None) -> None:
        """Note a loaded run's earliest deadline; cheap when it is not earlier than what is known."""
        if due_ms is not None and due_ms < slot.due_ms:
            slot.due_ms = due_ms
            if due_ms <= self.horizon_ms:
                heapq.heappush(self._heap, (due_ms, slot.key))
            elif due_ms < self.far_ms:
                self.far_ms = due_ms
            if due_ms < self._alarm_ms:
                self.arm()

    def leave(self, slot: Slot, due_ms: int | None, *, row_tells: bool) -> None:
        """A run leaves memory; `due_ms` is its deadline now, `row_tells` whether its row in the store says so."""
        if due_ms is None:
            return
        if due_ms > self.horizon_ms and row_tells:
            self.far_ms = min(self.far_ms, due_ms)
        else:
            self.away[slot.key] = due_ms
            if due_ms != slot.due_ms or due_ms > self.horizon_ms:
                heapq.heappush(self._heap, (due_ms, slot.key))
        if due_ms < self._alarm_ms:
            self.arm()

    def come(self, run_key: int) -> None:
        """A run has been loaded; its slot is registered from here on."""
        self.away.pop(run_key, None)

    def sweep(self, loaded: dict[int, Slot]) -> None:
        """Drop stale entries once they outnumber the others."""
        if len(self._heap) > 2 * (len(loaded) + len(self.away)) + _SWEEP_OVER:
            heap = [(due_ms, key) for key, due_ms in self.away.items()]
            heap += [(slot.due_ms, slot.key) for slot in loaded.values() if slot.due_ms <= self.horizon_ms]
            heapq.heapify(heap)
            self._heap = heap

    def next_ms(self) -> int:
        """When the alarm must ring; NEVER_MS if not at all."""
        heap = self._heap
        return min(heap[0][0], self.far_ms) if heap else self.far_ms

    def settle_first(self, loaded: dict[int, Slot], register: Callable[[Slot], None]) -> int | None:
        """Drop stale entries from the front, `register`ing anew the runs in question; when the alarm must ring then."""
        heap = self._heap
        while heap:
            due_ms, key = heap[0]
            slot = loaded.get(key)
            if slot is None:
                if self.away.get(key) == due_ms:
                    break
            elif slot.due_ms <= due_ms:
                slot.due_ms = NEVER_MS
                register(slot)
                if slot.due_ms <= due_ms:
                    break
            heapq.heappop(heap)
        self.arm()
        next_ms = self.next_ms()
        return None if next_ms == NEVER_MS else next_ms

    def arm(self) -> None:
        """Set the alarm for what comes next."""
        next_ms = self.next_ms()
        if next_ms == self._alarm_ms:
            return
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._alarm_ms = next_ms
        if next_ms != NEVER_MS:
            self._alarm = self._clock.call_at(next_ms, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._alarm_ms = NEVER_MS
        self._on_alarm()

    def pop_due(self, now_ms: int, limit: int, loaded: dict[int, Slot]) -> tuple[list[Slot], list[int]]:
        """Runs whose entries are due, earliest first: those in memory, and the keys of those to be loaded.

        Whoever is given a run wakes it and registers its next deadline; until then it has none.
        """
        heap = self._heap
        here: list[Slot] = []
        away: list[int] = []
        while heap and heap[0][0] <= now_ms and len(here) + len(away) < limit:
            _, key = heapq.heappop(heap)
            slot = loaded.get(key)
            if slot is not None:
                if slot.due_ms <= now_ms:
                    slot.due_ms = NEVER_MS
                    here.append(slot)
            elif self.away.get(key, NEVER_MS) <= now_ms:
                del self.away[key]
                away.append(key)
        return here, away

    def has_due(self, now_ms: int) -> bool:
        """Some entry of the heap is due."""
        return bool(self._heap) and self._heap[0][0] <= now_ms

    def horizon_passed(self, now_ms: int) -> bool:
        """The horizon must move."""
        return self.far_ms <= now_ms

    def move_horizon(self, now_ms: int, loaded: list[Slot]) -> tuple[int, int]:
        """Open the horizon and enter the loaded runs. Returns the old and the new one; `scan` does the rest."""
        old_ms, new_ms = self.horizon_ms, now_ms + self._near_horizon_ms
        self.horizon_ms = max(old_ms, new_ms)
        self.far_ms = NEVER_MS
        for slot in loaded:
            if old_ms < slot.due_ms <= self.horizon_ms:
                heapq.heappush(self._heap, (slot.due_ms, slot.key))
            elif slot.due_ms > self.horizon_ms:
                self.far_ms = min(self.far_ms, slot.due_ms)
        return old_ms, self.horizon_ms

    async def scan(self, due_runs: DueScan, old_ms: int, new_ms: int, page: int, loaded: dict[int, Slot]) -> None:
        """Read the rows due between the old and the new horizon, and find the next one beyond."""
        after: tuple[int, int] | None = (old_ms, _AFTER_ALL)
        while after is not None:
            rows = await due_runs(new_ms, after, page)
            for due_ms, key in rows:
                if key not in loaded:
                    self.away[key] = min(due_ms, self.away.get(key, NEVER_MS))
                    heapq.heappush(self._heap, (due_ms, key))
            after = rows[-1] if len(rows) == page else None
            self.arm()
        beyond = await due_runs(_AFTER_ALL, (new_ms, _AFTER_ALL), 1)
        if beyond:
            self.far_ms = min(self.far_ms, beyond[0][0])
        self.arm()

    def close(self) -> None:
        """Ring no more."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
