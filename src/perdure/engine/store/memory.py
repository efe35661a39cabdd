"""A store in memory, for tests and simulation: the semantics of the port and nothing of a disk.

`MemoryState` is what would be on disk; `MemoryStore` is a process's access to it. A test that lets an engine "crash"
drops the store and opens another on the same state, or on a `snapshot` taken earlier; opening claims the state, so that
what the crashed engine may still try to write is fenced off.

A commit takes effect at once and never suspends. Two hooks see each commit, by its number: what `before_commit` raises
keeps it from happening, what `after_commit` raises hides that it has.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable
from dataclasses import dataclass, field

from perdure.engine.store.evaluation import fitting, groups, page
from perdure.engine.store.port import (
    AttributesRow,
    Batch,
    CurrentRow,
    HistoryRow,
    ItemRow,
    LoadedRun,
    RunRow,
    ScheduleRow,
    StoreError,
    StoreFencedError,
    VisibilityPage,
    VisibilityRow,
)
from perdure.engine.visibility.expressions import Attribute, Position, Value, VisibilityQuery

__all__ = ["CommitHook", "MemoryState", "MemoryStore"]

CommitHook = Callable[[int, Batch], None]
"""Called with the number of the commit, counted from 1 by its store, and the batch."""


@dataclass(slots=True)
class StoredHistory:
    """The batches of one run in the order of their first event ids."""

    first_event_ids: list[int] = field(default_factory=list[int])
    batches: list[bytes] = field(default_factory=list[bytes])


@dataclass(slots=True)
class MemoryState:
    """Everything that survives the process, and the orders it is read in."""

    epoch: int = 0
    runs: dict[int, RunRow] = field(default_factory=dict[int, RunRow])
    wakes: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """(wake_at_ms, run_key), sorted."""
    items: dict[int, dict[int, ItemRow]] = field(default_factory=dict[int, dict[int, ItemRow]])
    """By run_key, then event id."""
    histories: dict[int, StoredHistory] = field(default_factory=dict[int, StoredHistory])
    currents: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    current_names: dict[int, set[tuple[str, str]]] = field(default_factory=dict[int, set[tuple[str, str]]])
    """The names whose current run a run_key is."""
    visibility: dict[int, VisibilityRow] = field(default_factory=dict[int, VisibilityRow])
    attributes: dict[int, AttributesRow] = field(default_factory=dict[int, AttributesRow])
    run_keys: dict[tuple[str, str, str], int] = field(default_factory=dict[tuple[str, str, str], int])
    """By (namespace, workflow_id, run_id)."""
    namespaces: dict[str, bytes] = field(default_factory=dict[str, bytes])
    metas: dict[str, bytes] = field(default_factory=dict[str, bytes])
    schedules: dict[tuple[str, str], ScheduleRow] = field(default_factory=dict[tuple[str, str], ScheduleRow])

    def apply(self, batch: Batch) -> None:
        """Write a batch: upserts first, then deletes.

        Raises:
            StoreError: a history row is there already; nothing was written.
        """
        self._refuse_repeated_history(batch.histories)
        for row in batch.histories:
            history = self.histories.setdefault(row.run_key, StoredHistory())
            at = bisect_left(history.first_event_ids, row.first_event_id)
            history.first_event_ids.insert(at, row.first_event_id)
            history.batches.insert(at, row.data)
        for row in batch.runs:
            self._put_run(row)
        for row in batch.items:
            self.items.setdefault(row.run_key, {})[row.event_id] = row
        for row in batch.currents:
            self._put_current(row)
        for row in batch.visibility:
            self._put_visibility(row)
        self.attributes.update((row.run_key, row) for row in batch.attributes)
        self.namespaces.update(batch.namespaces)
        self.metas.update(batch.metas)
        for run_key, event_id in batch.item_deletes:
            self.items.get(run_key, {}).pop(event_id, None)
        for run_key in batch.run_deletes:
            self._erase(run_key)
        for name in batch.namespace_deletes:
            self.namespaces.pop(name, None)
        for row in batch.schedules:
            key = row.namespace, row.schedule_id
            definition = self.schedules[key].definition if row.definition is None else row.definition
            self.schedules[key] = row._replace(definition=definition)
        for key in batch.schedule_deletes:
            self.schedules.pop(key, None)

    def copy(self) -> MemoryState:
        """The same state, to be changed by itself. Rows are never changed, so they are shared."""
        return MemoryState(
            epoch=self.epoch,
            runs=dict(self.runs),
            wakes=list(self.wakes),
            items={run_key: dict(items) for run_key, items in self.items.items()},
            histories={
                run_key: StoredHistory(list(history.first_event_ids), list(history.batches))
                for run_key, history in self.histories.items()
            },
            currents=dict(self.currents),
            current_names={run_key: set(names) for run_key, names in self.current_names.items()},
            visibility=dict(self.visibility),
            attributes=dict(self.attributes),
            run_keys=dict(self.run_keys),
            namespaces=dict(self.namespaces),
            metas=dict(self.metas),
            schedules=dict(self.schedules),
        )

    def _refuse_repeated_history(self, rows: list[HistoryRow]) -> None:
        seen: set[tuple[int, int]] = set()
        for run_key, first_event_id, _ in rows:
            history = self.histories.get(run_key)
            if (run_key, first_event_id) in seen or (history and first_event_id in history.first_event_ids):
                raise StoreError(f"run {run_key} already has events from {first_event_id}; nothing was written")
            seen.add((run_key, first_event_id))

    def _put_run(self, row: RunRow) -> None:
        self._drop_wake(row.run_key)
        self.runs[row.run_key] = row
        if row.wake_at_ms is not None:
            insort(self.wakes, (row.wake_at_ms, row.run_key))

    def _drop_wake(self, run_key: int) -> None:
        old = self.runs.get(run_key)
        if old is not None and old.wake_at_ms is not None:
            del self.wakes[bisect_left(self.wakes, (old.wake_at_ms, run_key))]

    def _put_current(self, row: CurrentRow) -> None:
        name = row.namespace, row.workflow_id
        old = self.currents.get(name)
        if old is not None:
            self.current_names[old].discard(name)
        self.currents[name] = row.run_key
        self.current_names.setdefault(row.run_key, set()).add(name)

    def _put_visibility(self, row: VisibilityRow) -> None:
        self._drop_visibility(row.run_key)
        self.visibility[row.run_key] = row
        self.run_keys[row.namespace, row.workflow_id, row.run_id] = row.run_key

    def _drop_visibility(self, run_key: int) -> None:
        old = self.visibility.pop(run_key, None)
        if old is not None:
            del self.run_keys[old.namespace, old.workflow_id, old.run_id]

    def _erase(self, run_key: int) -> None:
        self._drop_wake(run_key)
        self.runs.pop(run_key, None)
        self.items.pop(run_key, None)
        self.histories.pop(run_key, None)
        self.attributes.pop(run_key, None)
        self._drop_visibility(run_key)
        for name in self.current_names.pop(run_key, ()):
            del self.currents[name]


class MemoryStore:
    """A `Store` on a `MemoryState`, its own or one that outlives it.

    Args:
        state: what an earlier store left behind; None for an empty one.
        before_commit: may raise instead of the commit.
        after_commit: may raise after the commit took effect.
    """

    def __init__(
        self,
        state: MemoryState | None = None,
        *,
        before_commit: CommitHook | None = None,
        after_commit: CommitHook | None = None,
    ) -> None:
        self.state = state or MemoryState()
        self.before_commit = before_commit
        self.after_commit = after_commit
        self.commits = 0
        """Commits tried so far, the refused ones included."""
        self._epoch = 0
        self._is_open = False

    def snapshot(self) -> MemoryState:
        """A copy of the durable state as it is now."""
        return self.state.copy()

    async def open(self) -> None:
        """Claim the state: stores opened on it before are fenced."""
        assert not self._is_open, "the store is open"
        self.state.epoch += 1
        self._epoch = self.state.epoch
        self._is_open = True

    async def close(self) -> None:
        self._is_open = False

    async def commit(self, batch: Batch) -> None:
        if not self._is_open:
            raise StoreError("the store is closed; open it first")
        self.commits += 1
        number = self.commits
        if self.before_commit is not None:
            self.before_commit(number, batch)
        if self.state.epoch != self._epoch:
            raise StoreFencedError("another owner has claimed the store; nothing was written")
        self.state.apply(batch)
        if self.after_commit is not None:
            self.after_commit(number, batch)

    async def max_run_key(self) -> int:
        return max(self.state.runs, default=0)

    async def load_run(self, run_key: int) -> LoadedRun | None:
        row = self.state.runs.get(run_key)
        if row is None:
            return None
        items = self.state.items.get(run_key, {})
        return LoadedRun(row, [items[event_id] for event_id in sorted(items)])

    async def current_run(self, namespace: str, workflow_id: str) -> int | None:
        return self.state.currents.get((namespace, workflow_id))

    async def find_run(self, namespace: str, workflow_id: str, run_id: str) -> int | None:
        return self.state.run_keys.get((namespace, workflow_id, run_id))

    async def read_history(self, run_key: int, first_event_id: int, max_bytes: int) -> list[HistoryRow]:
        history = self.state.histories.get(run_key, StoredHistory())
        start = max(bisect_right(history.first_event_ids, first_event_id) - 1, 0)
        return _take(run_key, history, range(start, len(history.batches)), max_bytes)

    async def read_history_reverse(self, run_key: int, last_event_id: int, max_bytes: int) -> list[HistoryRow]:
        history = self.state.histories.get(run_key, StoredHistory())
        start = bisect_right(history.first_event_ids, last_event_id) - 1
        return _take(run_key, history, range(start, -1, -1), max_bytes)

    async def due_runs(self, until_ms: int, after: tuple[int, int] | None, limit: int) -> list[tuple[int, int]]:
        wakes = self.state.wakes
        start = bisect_right(wakes, after) if after is not None else 0
        end = bisect_left(wakes, (until_ms + 1, 0))
        return wakes[start : min(end, start + limit)]

    async def list_visibility(self, query: VisibilityQuery, after: Position | None, limit: int) -> VisibilityPage:
        return page(self.state.visibility.values(), self.state.attributes, query, after, limit)

    async def count_visibility(self, query: VisibilityQuery) -> int:
        return sum(1 for _ in fitting(self.state.visibility.values(), self.state.attributes, query))

    async def group_visibility(self, query: VisibilityQuery, by: Attribute, limit: int) -> list[tuple[Value, int]]:
        return groups(self.state.visibility.values(), self.state.attributes, query, by, limit)

    async def load_schedules(self, after: tuple[str, str], limit: int) -> list[ScheduleRow]:
        return [row for key, row in sorted(self.state.schedules.items()) if key > after][:limit]

    async def load_namespaces(self) -> list[tuple[str, bytes]]:
        return sorted(self.state.namespaces.items())

    async def load_meta(self, name: str) -> bytes | None:
        return self.state.metas.get(name)


def _take(run_key: int, history: StoredHistory, order: range, max_bytes: int) -> list[HistoryRow]:
    """Batches in an order, up to and with the one that reaches `max_bytes`."""
    rows: list[HistoryRow] = []
    size = 0
    for at in order:
        rows.append(HistoryRow(run_key, history.first_event_ids[at], history.batches[at]))
        size += len(history.batches[at])
        if size >= max_bytes:
            break
    return rows
