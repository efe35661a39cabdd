"""Queries that wait for an answer.

A query is answered by a worker, in one of two ways, never both for one task. *Direct*: a task of its own, only when
some workflow task has completed and none is pending or handed out, or when the run is closed. *Buffered*: it rides
on the next workflow task and its answer comes with that task's completion.

    state      event                                       next
    buffered   its task is handed out                      attached
    buffered   no task is pending and one has completed    direct
    attached   its task completes with an answer           (answered)
    attached   its task ends otherwise, or without answer  buffered
    direct     the worker answers                          (answered)
    any        time out, caller gone, run failing or lost  (failed)

Queries leave no trace in history; they live in memory only, and a lost run fails them.
"""

from __future__ import annotations

import asyncio
from enum import IntEnum
from typing import TYPE_CHECKING

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.engine.history import Run, is_failing, paused_error, pending_task_id

if TYPE_CHECKING:
    from perdure.engine.commit import Group

__all__ = ["PendingQuery", "QueryState", "RunQueries", "failing_error", "is_direct"]


class QueryState(IntEnum):
    """Where a query is."""

    BUFFERED = 1
    ATTACHED = 2
    DIRECT = 3


class PendingQuery:
    """One query and the future of its answer."""

    __slots__ = ("future", "group", "handout", "number", "query", "run_key", "state")

    def __init__(self, run_key: int, number: int, query: m.WorkflowQuery) -> None:
        self.run_key = run_key
        self.number = number
        self.query = query
        self.state = QueryState.BUFFERED
        self.handout = 0
        """Of the workflow task it is attached to."""
        self.group: Group | None = None
        """What the answer rests on and is not durable yet."""
        self.future: asyncio.Future[m.Payloads] = asyncio.get_running_loop().create_future()

    @property
    def done(self) -> bool:
        """Nobody waits for it any more."""
        return self.future.done()

    def answer(self, kind: int, result: m.Payloads, message: str, failure: m.Failure | None) -> None:
        """Settle it with what the worker says."""
        if self.future.done():
            return
        if kind == m.QueryResultType.QUERY_RESULT_TYPE_ANSWERED:
            self.future.set_result(result)
            return
        details = (m.QueryFailedFailure(failure=failure),) if failure is not None else ()
        self.fail(RpcError(StatusCode.INVALID_ARGUMENT, message or "the query failed", *details))

    def fail(self, error: RpcError) -> None:
        """Settle it with an error."""
        if not self.future.done():
            self.future.set_exception(error)
            self.future.exception()  # Seen: the caller may have gone.


class RunQueries:
    """The queries of one run, by number, in order of arrival. False when there are none."""

    __slots__ = ("by_number",)

    def __init__(self) -> None:
        self.by_number: dict[int, PendingQuery] = {}

    def __bool__(self) -> bool:
        return bool(self.by_number)

    def attach(self, handout: int) -> list[PendingQuery]:
        """The queries that ride on the workflow task being handed out."""
        riders = [query for query in self.by_number.values() if query.state is QueryState.BUFFERED and not query.done]
        for query in riders:
            query.state = QueryState.ATTACHED
            query.handout = handout
        return riders

    def attached(self, handout: int) -> list[PendingQuery]:
        """The queries that ride on this workflow task."""
        return [
            query
            for query in self.by_number.values()
            if query.state is QueryState.ATTACHED and query.handout == handout
        ]

    def settle(self, run: Run, handout: int) -> list[PendingQuery]:
        """Bring the queries in line with the run after a transition; returns those to send directly now."""
        task = run.live.task
        for query in self.by_number.values():
            if query.state is QueryState.ATTACHED and (task is None or query.handout != handout):
                query.state = QueryState.BUFFERED
        buffered = [query for query in self.by_number.values() if query.state is QueryState.BUFFERED]
        if not buffered:
            return []
        error = failing_error(run)
        if error is not None:
            for query in buffered:
                query.fail(error)
            return []
        if not is_direct(run):
            return []
        for query in buffered:
            query.state = QueryState.DIRECT
        return buffered

    def fail_all(self, error: RpcError) -> None:
        """The run is lost."""
        for query in self.by_number.values():
            query.fail(error)
        self.by_number.clear()


def is_direct(run: Run) -> bool:
    """Whether a query of this run gets a task of its own."""
    state = run.state
    if not run.is_open:
        return True
    return bool(state.last_task_completed_event_id) and not pending_task_id(run) and run.live.task is None


def failing_error(run: Run) -> RpcError | None:
    """The error of queries while the run is paused, or its workflow task keeps failing."""
    state = run.state
    if state.pause is not None:
        return paused_error(run)
    if is_failing(run):
        return RpcError(
            StatusCode.FAILED_PRECONDITION,
            "cannot query the workflow: its workflow task is failing"
            f" (attempt {state.task_attempt}); see describe for the failure",
        )
    return None
