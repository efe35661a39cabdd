"""Rows for the tests of stores."""

from __future__ import annotations

from perdure.engine.store import (
    Batch,
    CurrentRow,
    HistoryRow,
    ItemRow,
    RunRow,
    Store,
    VisibilityRow,
)
from perdure.engine.visibility.attributes import DATETIME, INT, KEYWORD
from perdure.engine.visibility.expressions import Attribute, Position, Value, VisibilityQuery

EVERYTHING = VisibilityQuery(namespace="default")
STATUS = Attribute("ExecutionStatus", KEYWORD)
WORKFLOW_ID = Attribute("WorkflowId", KEYWORD)
RUN_ID = Attribute("RunId", KEYWORD)
WORKFLOW_TYPE = Attribute("WorkflowType", KEYWORD)
TASK_QUEUE = Attribute("TaskQueue", KEYWORD)
START_TIME = Attribute("StartTime", DATETIME)
CLOSE_TIME = Attribute("CloseTime", DATETIME)
DURATION = Attribute("ExecutionDuration", INT)
RUNNING, COMPLETED, FAILED = 1, 2, 3
UNBOUNDED = 1 << 40


def run_row(run_key: int, wake_at_ms: int | None = None, state: bytes = b"state") -> RunRow:
    return RunRow(run_key, f"run-{run_key}", wake_at_ms, state)


def visibility_row(
    run_key: int,
    *,
    namespace: str = "default",
    workflow_id: str | None = None,
    workflow_type: str = "Order",
    status: int = RUNNING,
    start_ms: int = 1_000,
    close_ms: int | None = None,
) -> VisibilityRow:
    return VisibilityRow(
        run_key=run_key,
        namespace=namespace,
        workflow_id=workflow_id if workflow_id is not None else f"workflow-{run_key}",
        run_id=f"run-{run_key}",
        workflow_type=workflow_type,
        task_queue="orders",
        status=status,
        start_ms=start_ms,
        execution_ms=start_ms,
        close_ms=close_ms,
        history_length=0 if close_ms is None else 17,
        history_bytes=2_345,
        info=b"info %d" % run_key,
    )


def started(run_key: int, *, start_ms: int = 1_000, wake_at_ms: int | None = 0) -> Batch:
    """The batch of a run's start."""
    return Batch(
        histories=[HistoryRow(run_key, 1, b"started %d" % run_key)],
        runs=[run_row(run_key, wake_at_ms)],
        currents=[CurrentRow("default", f"workflow-{run_key}", run_key)],
        visibility=[visibility_row(run_key, start_ms=start_ms)],
    )


def nth(number: int) -> Batch:
    """The batch of commit `number` of a long row of them: a new run, and the next events of an old one."""
    batch = started(number)
    if number > 1:
        old = 1 + number * 7 % (number - 1)
        batch.histories.append(HistoryRow(old, 1 + number, b"%d " % number * (number % 40)))
        batch.runs.append(run_row(old, number, b"changed by %d" % number))
        batch.items.append(ItemRow(old, number, b"item"))
    return batch


async def read_all(store: Store, run_key: int) -> list[HistoryRow]:
    return await store.read_history(run_key, 1, UNBOUNDED)


async def listed(store: Store, query: VisibilityQuery, limit: int = 100) -> list[VisibilityRow]:
    """All that fit, page by page."""
    rows: list[VisibilityRow] = []
    after: Position | None = None
    while True:
        page = await store.list_visibility(query, after, limit)
        assert len(page.rows) <= limit
        rows += page.rows
        after = page.next
        if after is None:
            return rows


async def list_keys(store: Store, query: VisibilityQuery, limit: int = 100) -> list[int]:
    return [row.run_key for row in await listed(store, query, limit)]


async def by_status(store: Store, query: VisibilityQuery = EVERYTHING) -> dict[Value, int]:
    return dict(await store.group_visibility(query, STATUS, 100))
