"""Workflows kept in memory between their tasks, bounded in bytes.

An entry is `busy` while a task or query uses it; others wait for their turn (`CachedRun.wait_free`). The least recently
used entries that are not busy are evicted when the bound is passed. Evicting is always safe: the next task replays. A
run whose steps are under way stays: they would be cancelled with it and begin again.

Runs that are asleep (they wait for timers alone, and replaying them costs next to nothing) may take only a part of the
room: there may be very many of them, and nothing happens to them soon.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from perdure.replay.run import WorkflowRun
from perdure.worker.steps import RunningSteps

__all__ = ["CachedRun", "RunCache"]

_SHARE_ASLEEP = 4
"""Runs that are asleep get one part in so many of the bound."""


class CachedRun:
    """One workflow in memory.

    Attributes:
        run: its replay.
        steps: its `workflow.step` functions that are under way; cancelled with the entry.
        size_bytes: what the cache counts for it.
        busy: somebody uses it.
        asleep: the cache counts it among those that are asleep.
    """

    __slots__ = ("_free", "asleep", "busy", "run", "run_id", "size_bytes", "steps")

    def __init__(self, run_id: str, run: WorkflowRun) -> None:
        self.run_id = run_id
        self.run = run
        self.steps = RunningSteps()
        self.size_bytes = 0
        self.busy = False
        self.asleep = False
        self._free: asyncio.Event | None = None

    async def wait_free(self) -> None:
        """Wait until nobody uses it."""
        while self.busy:
            if self._free is None:
                self._free = asyncio.Event()
            await self._free.wait()

    def release(self) -> None:
        """The user of it is done."""
        self.busy = False
        if self._free is not None:
            self._free.set()
            self._free = None

    def close(self) -> None:
        """Let go of everything. Harmless to repeat."""
        self.steps.cancel_all()
        self.run.close()


class RunCache:
    """Cached runs by run id.

    Args:
        max_bytes: bound on the sum of the runs' estimated sizes; 0 keeps nothing between tasks. One run that alone
            is larger is kept until another is used.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.total_bytes = 0
        self.evictions = 0
        self._entries: OrderedDict[str, CachedRun] = OrderedDict()
        self._asleep: OrderedDict[str, CachedRun] = OrderedDict()
        """Those of the entries that are asleep, the least recently used first."""
        self._asleep_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, run_id: str) -> CachedRun | None:
        """The entry of a run, now the most recently used."""
        entry = self._entries.get(run_id)
        if entry is not None:
            self._entries.move_to_end(run_id)
            if entry.asleep:
                self._wake(entry)
        return entry

    def __contains__(self, run: object) -> bool:
        """Whether a `WorkflowRun` is one of these. Any thread may ask, while the cache's own is inside a run."""
        return any(entry.run is run for entry in list(self._entries.values()))

    def put(self, entry: CachedRun) -> None:
        """Add a run."""
        self._entries[entry.run_id] = entry

    def measure(self, entry: CachedRun) -> None:
        """Count a run's size anew when its user is through with it, and evict runs if the bound is passed."""
        size_bytes = entry.run.estimated_bytes
        if self._entries.get(entry.run_id) is entry:
            self.total_bytes += size_bytes - entry.size_bytes
            entry.size_bytes = size_bytes
            if entry.run.asleep:
                self._lull(entry)
        if self.total_bytes > self.max_bytes:
            self._evict_some(entry)

    def _lull(self, entry: CachedRun) -> None:
        """Count it among those that are asleep, and let the oldest of them go if they are too many."""
        if not entry.asleep:
            entry.asleep = True
            self._asleep[entry.run_id] = entry
            self._asleep_bytes += entry.size_bytes
        while self._asleep_bytes * _SHARE_ASLEEP > self.max_bytes and len(self._asleep) > 1:
            self.evictions += 1
            self.drop(next(iter(self._asleep.values())))

    def _wake(self, entry: CachedRun) -> None:
        entry.asleep = False
        del self._asleep[entry.run_id]
        self._asleep_bytes -= entry.size_bytes

    def _evict_some(self, done: CachedRun) -> None:
        # One pass at most, and no copy of the entries: this runs after every task while the cache is full. An entry
        # whose steps still run stays, or they would begin again for ever. The one that has just been used is the last
        # to go, and goes only if nothing is to be kept: a run larger than the bound would else be replayed from its
        # beginning at every task.
        for _ in range(len(self._entries)):
            if self.total_bytes <= self.max_bytes:
                return
            entry = next(iter(self._entries.values()))
            if entry is done and self.max_bytes > 0:
                self._entries.move_to_end(entry.run_id)
                if len(self._entries) == 1:
                    return
            elif entry.steps or (entry.busy and entry is not done):
                self._entries.move_to_end(entry.run_id)
            else:
                self.evictions += 1
                self.drop(entry)

    def drop(self, entry: CachedRun) -> None:
        """Remove a run and close it. Harmless to repeat."""
        if self._entries.get(entry.run_id) is entry:
            if entry.asleep:
                self._wake(entry)
            del self._entries[entry.run_id]
            self.total_bytes -= entry.size_bytes
            entry.size_bytes = 0
        entry.close()

    def clear(self) -> None:
        """Remove every run."""
        for entry in tuple(self._entries.values()):
            self.drop(entry)
