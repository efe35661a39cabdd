"""Lists and counts by looking at every run: the meaning of a `VisibilityQuery`, and how the store in memory reads.

System attributes come from a run's visibility row, all others from its attributes row. What a database does with
indexes must come out the same; a test compares them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final

from perdure.engine.store.port import AttributesRow, VisibilityPage, VisibilityRow
from perdure.engine.visibility.expressions import Attribute, Order, Position, Value, VisibilityQuery, matches
from perdure.engine.visibility.literals import STATUS_NAMES

__all__ = ["OPEN_CLOSE_MS", "STATUS_RANKS", "fitting", "groups", "page"]

OPEN_CLOSE_MS: Final = 1 << 62
"""Where open runs stand in the order of CloseTime."""
STATUS_RANKS: Final[Mapping[int, int]] = {
    status: rank for rank, status in enumerate(sorted(STATUS_NAMES, key=lambda status: STATUS_NAMES[status]))
}
"""The order of statuses is that of their names."""

_COLUMNS: Final[Mapping[str, Callable[[VisibilityRow], Value | None]]] = {
    "WorkflowId": lambda row: row.workflow_id,
    "RunId": lambda row: row.run_id,
    "WorkflowType": lambda row: row.workflow_type,
    "TaskQueue": lambda row: row.task_queue,
    "ExecutionStatus": lambda row: row.status,
    "StartTime": lambda row: row.start_ms,
    "ExecutionTime": lambda row: row.execution_ms,
    "CloseTime": lambda row: row.close_ms,
    "ExecutionDuration": lambda row: None if row.close_ms is None else max(0, row.close_ms - row.execution_ms),
    "HistoryLength": lambda row: None if row.close_ms is None else row.history_length,
    "HistorySizeBytes": lambda row: None if row.close_ms is None else row.history_bytes,
    "StateTransitionCount": lambda row: None if row.close_ms is None else row.state_transitions,
}

Attributes = Mapping[int, AttributesRow]


def _values(row: VisibilityRow, attributes: Attributes, attribute: Attribute) -> Sequence[Value]:
    column = _COLUMNS.get(attribute.name)
    if column is not None:
        value = column(row)
        return () if value is None else (value,)
    kept = attributes.get(row.run_key)
    if kept is None:
        return ()
    return [value for name, kind, value in kept.values if name == attribute.name and kind == attribute.type]


def fitting(rows: Iterable[VisibilityRow], attributes: Attributes, query: VisibilityQuery) -> Iterator[VisibilityRow]:
    """The runs that fit, in any order."""
    for row in rows:
        if row.namespace == query.namespace and matches(query.where, partial(_values, row, attributes)):
            yield row


def page(
    rows: Iterable[VisibilityRow], attributes: Attributes, query: VisibilityQuery, after: Position | None, limit: int
) -> VisibilityPage:
    """Part of the list of runs that fit."""
    found = [(_position(row, attributes, query), row) for row in fitting(rows, attributes, query)]
    if after is not None:
        found = [(place, row) for place, row in found if _is_after(place, after, query)]
    found.sort(key=lambda pair: pair[1].run_key, reverse=query.descending)
    for at, order in reversed(list(enumerate(query.order or (_DEFAULT,)))):
        found.sort(key=lambda pair, at=at, order=order: _key(pair[0][at], order), reverse=order.descending)
    place = found[limit - 1][0] if len(found) > limit else None
    return VisibilityPage([row for _, row in found[:limit]], place)


_DEFAULT = Order(Attribute("CloseTime", 6), descending=True)


def _position(row: VisibilityRow, attributes: Attributes, query: VisibilityQuery) -> Position:
    return *(_place(row, attributes, order) for order in query.order or (_DEFAULT,)), row.run_key


def _place(row: VisibilityRow, attributes: Attributes, order: Order) -> Value | None:
    name = order.attribute.name
    if name == "CloseTime":
        return OPEN_CLOSE_MS if row.close_ms is None else row.close_ms
    if name == "ExecutionStatus":
        return STATUS_RANKS[row.status]
    values = _values(row, attributes, order.attribute)
    least_or_greatest = max if order.descending else min
    return least_or_greatest(values, default=None)  # type: ignore[type-var]  # Of one type.


def _key(value: Value | None, order: Order) -> tuple[bool, Value]:
    """Sorts what is missing to the end, also of what is reversed afterwards."""
    return (value is None) is not order.descending, 0 if value is None else value


def _is_after(place: Position, after: Position, query: VisibilityQuery) -> bool:
    for order, value, bound in zip(query.order or (_DEFAULT,), place, after, strict=False):
        if value != bound:
            return (_key(value, order) > _key(bound, order)) is not order.descending
    run_key, last_key = place[-1], after[-1]
    return run_key != last_key and (run_key > last_key) is not query.descending  # type: ignore[operator]  # Both are keys.


def groups(
    rows: Iterable[VisibilityRow], attributes: Attributes, query: VisibilityQuery, by: Attribute, limit: int
) -> list[tuple[Value, int]]:
    """How many of the runs that fit have each value of an attribute."""
    counts: dict[Value, int] = {}
    for row in fitting(rows, attributes, query):
        for value in _values(row, attributes, by):
            counts[value] = counts.get(value, 0) + 1
    return sorted(counts.items(), key=lambda entry: entry[0])[:limit]  # type: ignore[return-value]  # Of one type.
