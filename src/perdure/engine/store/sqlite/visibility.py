"""List and count statements, compiled from a filter.

Each filter is answered through one index, named in the statement, so that a plan never depends on the planner's
guesses. A list reads in page order from that index wherever it can: with several statuses it runs once for each and
merges. Values are always bound, never part of the text.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import merge
from itertools import islice

import apsw

from perdure.engine.store.port import VisibilityFilter, VisibilityRow
from perdure.engine.store.sqlite.driver import execute

__all__ = ["Visibility"]

RANGES = (
    ("start_ms >= :start_from_ms", "start_from_ms"),
    ("start_ms <= :start_to_ms", "start_to_ms"),
    ("close_ms >= :close_from_ms", "close_from_ms"),
    ("close_ms <= :close_to_ms", "close_to_ms"),
)
EQUALITIES = (
    ("workflow_id = :workflow_id", "workflow_id"),
    ("run_id = :run_id", "run_id"),
    ("workflow_type = :workflow_type", "workflow_type"),
)
TIES = "start_ms = :after_start_ms AND run_key < :after_run_key"
LATER = "start_ms < :after_start_ms"

Values = dict[str, str | int]


class Visibility:
    """Reads visibility rows on a connection of its own; calls may take long and come one at a time."""

    def __init__(self, connection: apsw.Connection, statements: dict[str, str]) -> None:
        self._connection = connection
        self._statements = statements

    def list(self, where: VisibilityFilter, after: tuple[int, int] | None, limit: int) -> list[VisibilityRow]:
        """A page in the port's order."""
        statuses = (None,) if where.statuses is None else tuple(dict.fromkeys(where.statuses))
        pages: list[list[VisibilityRow]] = []
        # One transaction, so that a run which changes its status meanwhile is seen once.
        with self._connection:
            pages.extend(self._page(where, status, after, limit) for status in statuses)
        return list(islice(merge(*pages, key=_newest_first), limit))

    def count(self, where: VisibilityFilter) -> int:
        clauses, values = _conditions(where)
        sql = f"{self._statements['count']} {_source(where, 'visibility_by_start', clauses)}"
        return execute(self._connection, sql, values).fetchall()[0][0]

    def count_by_status(self, where: VisibilityFilter) -> dict[int, int]:
        clauses, values = _conditions(where)
        source = _source(where, "visibility_by_status", clauses)
        sql = f"{self._statements['count_by_status']} {source} {self._statements['group_order']}"
        return dict(execute(self._connection, sql, values).fetchall())

    def _page(
        self, where: VisibilityFilter, status: int | None, after: tuple[int, int] | None, limit: int
    ) -> list[VisibilityRow]:
        """A page of one status, or of all: first the rest of the instant a page ended in, then earlier ones."""
        rows: list[VisibilityRow] = []
        for position in (None,) if after is None else (TIES, LATER):
            clauses, values = _conditions(where, status)
            if position is not None and after is not None:
                clauses.append(position)
                values["after_start_ms"], values["after_run_key"] = after
            values["limit"] = limit - len(rows)
            source = _source(where, "visibility_by_start", clauses)
            sql = f"{self._statements['list']} {source} {self._statements['page_order']}"
            rows.extend(map(VisibilityRow._make, execute(self._connection, sql, values)))
        return rows


def _newest_first(row: VisibilityRow) -> tuple[int, int]:
    return -row.start_ms, -row.run_key


def _conditions(where: VisibilityFilter, status: int | None = None) -> tuple[list[str], Values]:
    """The filter as clauses and their values; `status` takes the place of its set of statuses."""
    clauses = ["namespace = :namespace"]
    values: Values = {"namespace": where.namespace}
    for clause, name in _present(where):
        clauses.append(clause)
        values[name] = getattr(where, name)
    if status is not None:
        clauses.append("status = :status")
        values["status"] = status
    elif where.statuses is not None:
        places = [f":status_{at}" for at in range(len(where.statuses))]
        clauses.append(f"status IN ({', '.join(places)})")
        values.update(zip((place[1:] for place in places), where.statuses, strict=True))
    return clauses, values


def _present(where: VisibilityFilter) -> Iterator[tuple[str, str]]:
    for clause, name in (*EQUALITIES, *RANGES):
        if getattr(where, name) is not None:
            yield clause, name


def _source(where: VisibilityFilter, otherwise: str, clauses: list[str]) -> str:
    """The index that leaves the fewest rows, as a rule, and the conditions."""
    if where.workflow_id is not None:
        index = "visibility_by_workflow"
    elif where.statuses is not None:
        index = "visibility_by_status"
    elif where.workflow_type is not None:
        index = "visibility_by_type"
    elif where.close_from_ms is not None or where.close_to_ms is not None:
        index = "visibility_by_close"
    else:
        index = otherwise
    return f"INDEXED BY {index} WHERE {' AND '.join(clauses)}"
