"""Rows about visibility: lists and counts over a million runs.

The runs are written through the store, as an engine would, but without histories: only what lists and counts look at.
One in ten is open, a few failed; there are twenty types; one in ten has search attributes, with values that are rare,
common, and all different.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from bench.probe import percentile
from perdure.api import messages as m
from perdure.engine import Engine
from perdure.engine.service import EngineService
from perdure.engine.store import AttributesRow, Batch, VisibilityRow
from perdure.engine.store.sqlite import SqliteStore

RUNS = 1_000_000
BATCH = 5_000
TYPES = 20
OPEN_EVERY = 10
FAILED_EVERY = 100
ATTRIBUTES_EVERY = 10
START_MS = 1_750_000_000_000
PAGE = 100
REPEATS = 30
LONGEST_MS = 5_000
PAGES_DEEP = 20

RUNNING, COMPLETED, FAILED = 1, 2, 3
KEYWORD, INT = 2, 3

LISTS = {
    "page_ms": ("", "ExecutionStatus = 'Failed'", "WorkflowType = 'type-7'", "ORDER BY StartTime"),
    "few_ms": ("WorkflowId = 'workflow-500000'", "WorkflowId STARTS_WITH 'workflow-77'", "Customer = 'customer-4711'"),
    "many_ms": (
        "Colour = 'blue'",
        "WorkflowType = 'type-7' AND ExecutionStatus = 'Running'",
        "StartTime > '2025-06-20T00:00:00Z' AND StartTime < '2025-06-20T01:00:00Z'",
    ),
}
"""Filters whose page comes from the order of an index; from few candidates; from many."""
COUNTS = {
    "counted_ms": ("", "ExecutionStatus = 'Running'", "WorkflowType = 'type-7'", "GROUP BY ExecutionStatus"),
    "found_ms": ("Customer = 'customer-4711'", "WorkflowId STARTS_WITH 'workflow-777'"),
    "scanned_ms": ("TaskQueue = 'orders' AND HistoryLength > 10",),
}
"""Filters whose count is kept; is that of few candidates; takes a look at every run."""


def visibility(folder: Path) -> dict[str, float]:
    """Milliseconds, medians, the slowest filter of each kind: a page of 100, and counts."""
    return asyncio.run(_visibility(folder / "million.db"))


def _row(key: int) -> VisibilityRow:
    is_open = key % OPEN_EVERY == 0
    start_ms = START_MS + key * 1_000
    status = RUNNING if is_open else FAILED if key % FAILED_EVERY == 1 else COMPLETED
    return VisibilityRow(
        key,
        "default",
        f"workflow-{key}",
        f"{key:08x}-0000-4000-8000-000000000000",
        f"type-{key % TYPES}",
        "orders",
        status,
        start_ms,
        start_ms,
        None if is_open else start_ms + key % 3_600_000,
        0 if is_open else 41,
        0 if is_open else 4_100,
        b"",
        0 if is_open else 12,
    )


def _attributes(key: int) -> AttributesRow:
    values = (
        ("Colour", KEYWORD, "blue" if key % (2 * ATTRIBUTES_EVERY) else "red"),
        ("Customer", KEYWORD, f"customer-{key % 10_007}"),
        ("Size", INT, key),
    )
    return AttributesRow(key, "default", values)


async def _fill(store: SqliteStore) -> float:
    """Write the runs; returns microseconds a run."""
    begin = time.perf_counter()
    for first in range(1, RUNS + 1, BATCH):
        keys = range(first, first + BATCH)
        attributes = [_attributes(key) for key in keys if key % ATTRIBUTES_EVERY == 5]
        await store.commit(Batch(visibility=[_row(key) for key in keys], attributes=attributes))
    return (time.perf_counter() - begin) / RUNS * 1e6


async def _visibility(path: Path) -> dict[str, float]:
    store = SqliteStore(path)
    engine = Engine(store)
    await engine.start()
    service = engine.service()
    types = {
        "Colour": m.IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
        "Customer": m.IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
        "Size": m.IndexedValueType.INDEXED_VALUE_TYPE_INT,
    }
    await service.add_search_attributes(m.AddSearchAttributesRequest(namespace="default", search_attributes=types))
    results = {"write_us": await _fill(store), "mib": path.stat().st_size / 2**20}
    for name, queries in LISTS.items():
        results[name] = max(
            [
                await _median_ms(service.list_workflow_executions, m.ListWorkflowExecutionsRequest, text)
                for text in queries
            ]
        )
    for name, queries in COUNTS.items():
        results[name] = max(
            [
                await _median_ms(service.count_workflow_executions, m.CountWorkflowExecutionsRequest, text)
                for text in queries
            ]
        )
    results["deep_ms"] = await _deep_ms(service)
    await engine.stop()
    return results


async def _median_ms(call: Callable[..., Awaitable[Any]], request: Callable[..., Any], query: str) -> float:
    times: list[float] = []
    while len(times) < REPEATS and sum(times) < LONGEST_MS:
        asked = request(namespace="default", query=query)
        if isinstance(asked, m.ListWorkflowExecutionsRequest):
            asked.page_size = PAGE
        begin = time.perf_counter()
        await call(asked)
        times.append((time.perf_counter() - begin) * 1e3)
    return percentile(times, 50)


async def _deep_ms(service: EngineService) -> float:
    """A page of a thousand far into a list."""
    request = m.ListWorkflowExecutionsRequest(
        namespace="default", query="ExecutionStatus = 'Completed'", page_size=1000
    )
    times: list[float] = []
    for _ in range(2 * PAGES_DEEP):
        begin = time.perf_counter()
        response = await service.list_workflow_executions(request)
        times.append((time.perf_counter() - begin) * 1e3)
        request.next_page_token = response.next_page_token
    return percentile(times[PAGES_DEEP:], 50)
