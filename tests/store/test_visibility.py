"""Lists and counts: what a query means, that both stores agree on it, and by which index SQLite answers it."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterable
from pathlib import Path
from unittest.mock import patch

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.engine.store import AttributesRow, Batch, MemoryStore, Store, VisibilityRow
from perdure.engine.store.sqlite import SqliteStore
from perdure.engine.store.sqlite import visibility as sqlite_visibility
from perdure.engine.visibility.attributes import INT, KEYWORD
from perdure.engine.visibility.expressions import (
    And,
    Attribute,
    Expression,
    In,
    Missing,
    Not,
    Or,
    Order,
    Range,
    VisibilityQuery,
)
from tests.store import queries
from tests.store.rows import (
    CLOSE_TIME,
    COMPLETED,
    DURATION,
    EVERYTHING,
    FAILED,
    RUNNING,
    START_TIME,
    STATUS,
    TASK_QUEUE,
    WORKFLOW_ID,
    WORKFLOW_TYPE,
    by_status,
    list_keys,
    listed,
    visibility_row,
)

COLOUR = Attribute("Colour", KEYWORD)
SIZE = Attribute("Size", INT)


@given(
    runs=st.lists(queries.runs, min_size=1, max_size=12),
    attributes=queries.attributes,
    asked=st.lists(queries.queries, min_size=1, max_size=4),
    limit=st.integers(1, 5),
    few=st.sampled_from([0, 2, 100]),
)
def test_stores_answer_queries_alike(
    runs: list[VisibilityRow],
    attributes: list[AttributesRow],
    asked: list[VisibilityQuery],
    limit: int,
    few: int,
) -> None:
    async def answers(store: Store, query: VisibilityQuery) -> list[object]:
        found: list[object] = [
            await listed(store, query, limit),
            await listed(store, query, 100),
            await store.count_visibility(query),
            await by_status(store, query),
        ]
        for attribute in (WORKFLOW_TYPE, TASK_QUEUE, COLOUR, SIZE):
            found.append(await store.group_visibility(query, attribute, limit))
        return found

    async def compare(path: Path) -> None:
        memory, sqlite = MemoryStore(), SqliteStore(path)
        for store in (memory, sqlite):
            await store.open()
            await store.commit(Batch(visibility=runs, attributes=attributes))
        try:
            for query in asked:
                assert await answers(sqlite, query) == await answers(memory, query)
        finally:
            await sqlite.close()

    with tempfile.TemporaryDirectory() as directory, patch.object(sqlite_visibility, "FEW", few):
        asyncio.run(compare(Path(directory) / "perdure.db"))


async def some_runs(store: Store) -> None:
    """Four runs: 1 open and red, 2 completed and blue with size 2, 3 failed with size 3, 4 open without anything."""
    rows = [
        visibility_row(1, workflow_id="a-1", start_ms=1_000),
        visibility_row(2, workflow_id="a-2", start_ms=2_000, status=COMPLETED, close_ms=5_000),
        visibility_row(3, workflow_id="b-3", start_ms=3_000, status=FAILED, close_ms=4_000),
        visibility_row(4, workflow_id="c", start_ms=4_000),
    ]
    attributes = [
        AttributesRow(1, "default", (("Colour", KEYWORD, "red"),)),
        AttributesRow(2, "default", (("Colour", KEYWORD, "blue"), ("Size", INT, 2))),
        AttributesRow(3, "default", (("Size", INT, 3),)),
    ]
    await store.commit(Batch(visibility=rows, attributes=attributes))


def asking(where: Expression, *order: Order) -> VisibilityQuery:
    return VisibilityQuery(namespace="default", where=where, order=order)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (In(WORKFLOW_ID, ("a-1", "c")), [4, 1]),
        (Range(WORKFLOW_ID, "a", "b"), [1, 2]),
        (In(COLOUR, ("red",)), [1]),
        (Not(In(COLOUR, ("red",))), [4, 2, 3]),
        (Missing(COLOUR), [4, 3]),
        (Not(Missing(SIZE)), [2, 3]),
        (Range(SIZE, 3, None), [3]),
        (Range(SIZE, None, 3), [2]),
        (Or((In(COLOUR, ("blue",)), Range(SIZE, 3, None))), [2, 3]),
        (And((Not(In(COLOUR, ("blue",))), Not(Missing(SIZE)))), [3]),
        (Range(CLOSE_TIME, 4_000, None), [2, 3]),
        (Not(Range(CLOSE_TIME, 4_001, None)), [4, 1, 3]),
        (Missing(CLOSE_TIME), [4, 1]),
        (Range(DURATION, 3_000, None), [2]),
        (And(()), [4, 1, 2, 3]),
        (Or(()), []),
        (Not(Or(())), [4, 1, 2, 3]),
        (In(Attribute("Colour", INT), (1,)), []),
    ],
    ids=str,
)
async def test_what_conditions_mean(store: Store, where: Expression, expected: list[int]) -> None:
    await some_runs(store)
    assert await list_keys(store, asking(where)) == expected
    assert await store.count_visibility(asking(where)) == len(expected)


@pytest.mark.parametrize("limit", [1, 2, 9])
@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ([Order(START_TIME)], [1, 2, 3, 4]),
        ([Order(START_TIME, descending=True)], [4, 3, 2, 1]),
        ([Order(CLOSE_TIME)], [3, 2, 1, 4]),
        ([Order(CLOSE_TIME, descending=True)], [4, 1, 2, 3]),
        ([Order(COLOUR)], [2, 1, 3, 4]),
        ([Order(COLOUR, descending=True)], [1, 2, 4, 3]),
        ([Order(STATUS), Order(WORKFLOW_ID, descending=True)], [2, 3, 4, 1]),
        ([Order(DURATION)], [3, 2, 1, 4]),
        ([Order(WORKFLOW_TYPE), Order(SIZE, descending=True)], [3, 2, 4, 1]),
    ],
    ids=lambda value: str(value) if isinstance(value, list) else None,
)
async def test_orders(store: Store, order: list[Order], expected: list[int], limit: int) -> None:
    await some_runs(store)
    assert await list_keys(store, asking(And(()), *order), limit) == expected


# -- how SQLite does it ------------------------------------------------------------------------------------------------


async def plans(store: SqliteStore, calls: Iterable[VisibilityQuery]) -> list[str]:
    """How SQLite reads the pages of some lists: a first one, and one in the middle."""
    assert store._visibility is not None
    scanner = store._visibility._connection
    seen: list[str] = []

    def explain(cursor: apsw.Cursor, statement: str, bindings: list[object]) -> bool:
        if statement.startswith("SELECT"):
            plan = apsw.Connection(str(store.path)).execute(f"EXPLAIN QUERY PLAN {statement}", bindings)
            seen.extend(row[3] for row in plan)
        return True

    for query in calls:
        after = (await store.list_visibility(query, None, 1)).next
        scanner.exec_trace = explain
        for place in (None, after):
            await store.list_visibility(query, place, 10)
        scanner.exec_trace = None
    return seen


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (EVERYTHING, "visibility_by_close"),
        (asking(In(STATUS, (RUNNING,))), "visibility_by_status"),
        (asking(In(STATUS, (COMPLETED,))), "visibility_by_status"),
        (asking(In(WORKFLOW_TYPE, ("Order",))), "visibility_by_type"),
        (asking(And(()), Order(START_TIME)), "visibility_by_start"),
        (asking(And(()), Order(START_TIME, descending=True)), "visibility_by_start"),
        (asking(Missing(Attribute("TemporalNamespaceDivision", KEYWORD))), "visibility_by_close"),
    ],
    ids=["all", "running", "completed", "type", "start", "start-desc", "division"],
)
async def test_lists_are_read_in_page_order_from_an_index(path: Path, query: VisibilityQuery, index: str) -> None:
    """No sorting: a page costs what a page has, however many runs there are."""
    store = SqliteStore(path)
    await store.open()
    await store.commit(
        Batch(
            visibility=[
                visibility_row(key, status=1 + key % 3, start_ms=key, close_ms=99 - key if key % 3 else None)
                for key in range(1, 30)
            ]
        )
    )
    seen = [line for line in await plans(store, [query]) if "search_attributes" not in line]
    await store.close()
    assert len(seen) == 3, "one statement for the first page, two for those in the middle"
    assert all(f"USING INDEX {index}" in line for line in seen), seen


@pytest.mark.parametrize(
    ("where", "index"),
    [
        (In(COLOUR, ("red",)), "search_attributes_by_value"),
        (And((In(STATUS, (RUNNING,)), In(WORKFLOW_ID, ("a-1",)))), "visibility_by_workflow"),
        (Range(START_TIME, 1_500, 2_500), "visibility_by_start"),
        (Range(CLOSE_TIME, 1_500, None), "visibility_by_close"),
        (Or((In(COLOUR, ("red",)), In(WORKFLOW_ID, ("a-2",)))), "search_attributes_by_value"),
        (Not(Missing(SIZE)), "search_attributes_by_value"),
    ],
    ids=["attribute", "workflow", "start", "close", "either", "present"],
)
async def test_a_few_candidates_are_looked_up(path: Path, where: Expression, index: str) -> None:
    store = SqliteStore(path)
    await store.open()
    await some_runs(store)
    seen = await plans(store, [asking(where)])
    await store.close()
    assert any(f"USING COVERING INDEX {index}" in line or f"USING INDEX {index}" in line for line in seen), seen
    assert any("USING INTEGER PRIMARY KEY" in line for line in seen), seen


async def test_counts_without_a_condition_or_by_status_and_type_read_no_runs(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    await some_runs(store)
    assert store._visibility is not None
    statements: list[str] = []

    def trace(cursor: apsw.Cursor, statement: str, bindings: object) -> bool:
        statements.append(statement)
        return True

    store._visibility._connection.exec_trace = trace
    orders = In(WORKFLOW_TYPE, ("Order",))
    for where in (And(()), In(STATUS, (1, 2)), And((orders, Not(In(STATUS, (1,)))))):
        await store.count_visibility(asking(where))
    await by_status(store, asking(orders))
    store._visibility._connection.exec_trace = None
    await store.close()
    assert not [statement for statement in statements if "FROM visibility " in statement]
