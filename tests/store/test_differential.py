"""Memory and SQLite answer alike, whatever is written: a law, tried with generated batches."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from perdure.engine.store import (
    Batch,
    CurrentRow,
    HistoryRow,
    ItemRow,
    MemoryStore,
    RunRow,
    ScheduleRow,
    Store,
    StoreError,
)
from perdure.engine.store.sqlite import SqliteStore
from perdure.engine.visibility.expressions import VisibilityQuery
from tests.store import queries
from tests.store.rows import by_status, listed

# Few of each, so that rows meet.
keys = st.integers(1, 6)
event_ids = st.integers(1, 8)
instants = st.integers(0, 4)
optional_instants = st.none() | instants
names = st.sampled_from(["default", "other", "", "a\x00b"])
texts = st.sampled_from(["w", "v", "ü\x00", ""])
data = st.binary(max_size=20)


batches = st.builds(
    Batch,
    histories=st.lists(st.builds(HistoryRow, keys, event_ids, data), max_size=4),
    runs=st.lists(st.builds(RunRow, keys, texts, optional_instants, data), max_size=4),
    items=st.lists(st.builds(ItemRow, keys, event_ids, data), max_size=4),
    item_deletes=st.lists(st.tuples(keys, event_ids), max_size=4),
    currents=st.lists(st.builds(CurrentRow, names, texts, keys), max_size=4),
    visibility=st.lists(queries.runs, max_size=4),
    attributes=queries.attributes,
    namespaces=st.lists(st.tuples(names, data), max_size=2),
    metas=st.lists(st.tuples(names, data), max_size=2),
    run_deletes=st.lists(keys, max_size=2),
    schedules=st.lists(st.builds(ScheduleRow, names, texts, data, data), max_size=3, unique_by=lambda row: row[:2]),
    schedule_deletes=st.lists(st.tuples(names, texts), max_size=2),
)
REOPEN = "reopen"
pairs = st.none() | st.tuples(instants, keys)


async def answers(store: Store) -> Iterator[object]:
    """What a store says to everything that can be asked by key."""
    found: list[object] = [await store.max_run_key(), await store.load_namespaces()]
    for run_key in range(1, 7):
        found.append(await store.load_run(run_key))
        for event_id in (0, 1, 4, 9):
            found.append(await store.read_history(run_key, event_id, 15))
            found.append(await store.read_history_reverse(run_key, event_id, 15))
    for namespace in ("default", "other", "", "a\x00b"):
        found.append(await store.load_meta(namespace))
        for workflow_id in ("w", "v", "ü\x00", ""):
            found.append(await store.current_run(namespace, workflow_id))
            found.extend([await store.find_run(namespace, workflow_id, f"r{run_key}") for run_key in range(1, 7)])
    found.extend([await store.load_schedules(("default", "v"), 3), await store.load_schedules(("", ""), 50)])
    return iter(found)


async def selections(
    store: Store, query: VisibilityQuery, after: tuple[int, int] | None, until_ms: int, limit: int
) -> list[object]:
    """What a store says to everything that can be asked by range."""
    return [
        await store.due_runs(until_ms, after, limit),
        await listed(store, query, limit),
        await store.count_visibility(query),
        await by_status(store, query),
    ]


async def outcome(store: Store, batch: Batch) -> bool:
    """Whether a batch was written."""
    try:
        await store.commit(batch)
    except StoreError:
        return False
    return True


@given(
    steps=st.lists(batches | st.just(REOPEN), min_size=1, max_size=8),
    asked=st.lists(queries.queries, min_size=1, max_size=4),
    after=pairs,
    until_ms=instants,
    limit=st.integers(1, 4),
)
def test_stores_answer_alike(
    steps: list[Batch | str],
    asked: list[VisibilityQuery],
    after: tuple[int, int] | None,
    until_ms: int,
    limit: int,
) -> None:
    async def compare(path: Path) -> None:
        memory, sqlite = MemoryStore(), SqliteStore(path)
        await memory.open()
        await sqlite.open()
        for step in steps:
            if isinstance(step, Batch):
                assert await outcome(memory, step) == await outcome(sqlite, step)
            else:
                await sqlite.close()
                memory, sqlite = MemoryStore(memory.state), SqliteStore(path)
                await memory.open()
                await sqlite.open()
        assert list(await answers(memory)) == list(await answers(sqlite))
        for query in asked:
            expected = await selections(memory, query, after, until_ms, limit)
            assert await selections(sqlite, query, after, until_ms, limit) == expected
        await sqlite.close()

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(compare(Path(directory) / "perdure.db"))
