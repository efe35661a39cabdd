"""List and count statements: which index answers a query, and how.

The planner's guesses decide nothing: each statement names its index. There are three ways:

*walk*      read an index in the order of the list, keep what fits, stop when the page is full. It is how lists without
            a condition, by status or by type are read, and lists that most runs fit, whatever they ask.
*pick*      let an index give a few candidates (at most FEW), keep what fits, sort. A search attribute's value, a
            workflow id, a span of time often leave few; a bounded count of the index says whether they do.
*scan*      neither: read all runs of the namespace and sort.

Counts that ask for status and type alone, or for nothing, come from counters that are kept as runs are written.
A condition on a search attribute that no run of the namespace has is decided before anything is read: a filter
says "in no namespace division" of every run, as a rule, and none is in one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import apsw

from perdure.engine.store.port import VisibilityPage, VisibilityRow
from perdure.engine.store.sqlite.compiler import (
    COLUMNS,
    SQL,
    Leaves,
    Parameters,
    beyond,
    candidates,
    condition,
    run_keys,
    sort_keys,
)
from perdure.engine.store.sqlite.driver import execute
from perdure.engine.visibility.expressions import (
    EVERYTHING,
    NOTHING,
    And,
    Attribute,
    Expression,
    In,
    Missing,
    Not,
    Or,
    Position,
    Range,
    Value,
    VisibilityQuery,
)

__all__ = ["Visibility"]

FEW: Final = 20_000
"""Candidates that are fetched and sorted rather than met on a walk."""

PROBES: Final = 8
"""Sets of candidates that are looked at."""

_COUNTED: Final = frozenset(("ExecutionStatus", "WorkflowType"))
_NARROWING: Final = {"ExecutionStatus": "visibility_by_status", "WorkflowType": "visibility_by_type"}
"""Indexes of the default order that begin with an attribute."""
T = TypeVar("T")
Groups = list[tuple[Value, int]]

_COLUMNS_OF_A_ROW: Final = len(VisibilityRow._fields)


class Visibility:
    """Reads visibility rows on a connection of its own; calls may take long and come one at a time."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def list(self, query: VisibilityQuery, after: Position | None, limit: int) -> VisibilityPage:
        """A page in the query's order."""
        rows = self._at_once(lambda: self._page(query, self._decided(query), after, limit + 1))
        found = [VisibilityRow._make(row[:_COLUMNS_OF_A_ROW]) for row in rows[:limit]]
        if len(rows) <= limit:
            return VisibilityPage(found, None)
        return VisibilityPage(found, (*rows[limit - 1][_COLUMNS_OF_A_ROW:], found[-1].run_key))

    def count(self, query: VisibilityQuery) -> int:
        """How many runs fit."""
        return self._at_once(lambda: self._count(query.namespace, self._decided(query)))

    def group(self, query: VisibilityQuery, by: Attribute, limit: int) -> list[tuple[Value, int]]:
        """How many of the runs that fit have each value."""
        return self._at_once(lambda: self._groups(query.namespace, self._decided(query), by, limit))

    def _at_once(self, read: Callable[[], T]) -> T:
        """Read in one transaction, so that all statements see the same runs."""
        execute(self._connection, "BEGIN")
        try:
            return read()
        finally:
            execute(self._connection, "ROLLBACK")

    # -- counting --------------------------------------------------------------------------------------------------

    def _count(self, namespace: str, where: Expression) -> int:
        values = Parameters()
        if where == EVERYTHING:
            sql = SQL["count_everything"].format(namespace=values.add(namespace))
        elif _is_counted(where):
            sql = SQL["count_by_counters"].format(source=_source("counters", namespace, where, values))
        else:
            sql = SQL["count_runs"].format(source=self._runs(namespace, where, values))
        rows = self._execute(sql, values)
        return (rows[0][0] or 0) if rows else 0

    def _groups(self, namespace: str, where: Expression, by: Attribute, limit: int) -> Groups:
        values = Parameters()
        column = COLUMNS.get(by.name)
        if column is None:
            sql = SQL["group_by_attribute"].format(
                namespace=values.add(namespace),
                name=values.add(by.name),
                type=values.add(by.type),
                condition=condition(where, values),
                limit=values.add(limit),
            )
        elif by.name in _COUNTED and _is_counted(where):
            source = _source("counters", namespace, where, values)
            sql = SQL["group_by_counters"].format(column=column, source=source, limit=values.add(limit))
        else:
            source = self._runs(namespace, where, values)
            sql = SQL["group_runs"].format(column=column, source=source, limit=values.add(limit))
        return self._execute(sql, values)

    def _runs(self, namespace: str, where: Expression, values: Parameters) -> str:
        """The runs that fit, from a few candidates or from all."""
        few = self._few(namespace, where)
        if few is None:
            return _source("all_runs", namespace, where, values, index=_scanned(where))
        return _source("few_runs", namespace, where, values, candidates=run_keys(few, namespace, values))

    # -- listing ---------------------------------------------------------------------------------------------------

    def _page(self, query: VisibilityQuery, where: Expression, after: Position | None, limit: int) -> list[Any]:
        """At most `limit` rows, each with its sort keys behind its columns."""
        if where == NOTHING:
            return []
        index = _walked(query, where)
        if index is not None and _is_whole(index, where):
            return self._walk(query, where, index, after, limit)
        values = Parameters()
        keys = sort_keys(query, values)
        few = self._few(query.namespace, where)
        if few is not None:
            candidates = run_keys(few, query.namespace, values)
            source = _source("few_runs", query.namespace, where, values, candidates=candidates)
        elif index is not None:
            return self._walk(query, where, index, after, limit)
        else:
            source = _source("all_runs", query.namespace, where, values, index=_scanned(where))
        sql = SQL["page"].format(
            keys=", ".join(key.sql for key in keys),
            source=source,
            place="" if after is None else f" AND ({' OR '.join(beyond(keys, query.descending, after, values))})",
            order=", ".join([*(key.order() for key in keys), _last(query)]),
            limit=values.add(limit),
        )
        return self._execute(sql, values)

    def _walk(
        self, query: VisibilityQuery, where: Expression, index: str, after: Position | None, limit: int
    ) -> list[Any]:
        """Rows in the order of an index: first those beside the place, then those beyond it."""
        rows: list[Any] = []
        for part in range(1 if after is None else 2):
            values = Parameters()
            (key,) = keys = sort_keys(query, values)
            # Those beside the place have its key; told to sort by it, SQLite would.
            beside = after is not None and part == 0
            sql = SQL["page"].format(
                keys=key.sql,
                source=_source("all_runs", query.namespace, where, values, index=index),
                place="" if after is None else f" AND {beyond(keys, query.descending, after, values)[part]}",
                order=_last(query) if beside else f"{key.order()}, {_last(query)}",
                limit=values.add(limit - len(rows)),
            )
            rows += self._execute(sql, values)
            if len(rows) >= limit:
                break
        return rows

    def _few(self, namespace: str, where: Expression) -> Leaves | None:
        """What leads to the fewest candidates, if they are few enough."""
        best: Leaves | None = None
        bound = FEW + 1
        for leaves in candidates(where)[:PROBES]:
            values = Parameters()
            keys = run_keys(leaves, namespace, values)
            sql = SQL["count_some"].format(candidates=keys, limit=values.add(bound))
            ((found,),) = self._execute(sql, values)
            if found < bound:
                best, bound = leaves, max(found, 1)
        return best

    # -- what is known beforehand ----------------------------------------------------------------------------------

    def _decided(self, query: VisibilityQuery) -> Expression:
        """The condition without what is decided because no run has an attribute."""
        return _simplified(query.where, {each for each in _attributes(query.where) if self._is_absent(query, each)})

    def _is_absent(self, query: VisibilityQuery, attribute: Attribute) -> bool:
        if attribute.name in COLUMNS:
            return False
        values = Parameters()
        sql = SQL["has_attribute"].format(
            namespace=values.add(query.namespace), name=values.add(attribute.name), type=values.add(attribute.type)
        )
        return not self._execute(sql, values)

    def _execute(self, sql: str, values: Parameters) -> list[Any]:
        return execute(self._connection, sql, values.values).fetchall()


def _attributes(expression: Expression) -> set[Attribute]:
    """What a condition speaks of."""
    match expression:
        case And(operands) | Or(operands):
            return {attribute for operand in operands for attribute in _attributes(operand)}
        case Not(operand):
            return _attributes(operand)
        case In(attribute) | Range(attribute) | Missing(attribute):
            return {attribute}


def _simplified(expression: Expression, absent: set[Attribute]) -> Expression:
    """The same for runs that lack some attributes: without constants in it, unless it is one."""
    match expression:
        case And(operands):
            return _joined(And, EVERYTHING, NOTHING, [_simplified(operand, absent) for operand in operands])
        case Or(operands):
            return _joined(Or, NOTHING, EVERYTHING, [_simplified(operand, absent) for operand in operands])
        case Not(operand):
            inner = _simplified(operand, absent)
            return NOTHING if inner == EVERYTHING else EVERYTHING if inner == NOTHING else Not(inner)
        case Missing(attribute):
            return EVERYTHING if attribute in absent else expression
        case In(attribute) | Range(attribute):
            return NOTHING if attribute in absent else expression


def _joined(
    kind: type[And] | type[Or], neutral: Expression, decisive: Expression, operands: list[Expression]
) -> Expression:
    if decisive in operands:
        return decisive
    parts: list[Expression] = []
    for operand in operands:
        parts += operand.operands if isinstance(operand, kind) else (operand,)
    return parts[0] if len(parts) == 1 else kind(tuple(parts)) if parts else neutral


def _conjuncts(where: Expression) -> tuple[Expression, ...]:
    return where.operands if isinstance(where, And) else (where,)


def _equal(where: Expression, name: str) -> bool:
    """Whether all that fit have one value of an attribute."""
    return any(
        isinstance(each, In) and each.attribute.name == name and len(each.values) == 1 for each in _conjuncts(where)
    )


def _walked(query: VisibilityQuery, where: Expression) -> str | None:
    """The index that has the query's order, the narrowest one; None if none has."""
    if len(query.order) > 1:
        return None
    name = query.order[0].attribute.name if query.order else "CloseTime"
    if name == "StartTime":
        return "visibility_by_start"
    return _narrowest(where) if name == "CloseTime" else None


def _narrowest(where: Expression) -> str:
    """An index by closing time, of one status or one type only where the condition allows it."""
    for name, index in _NARROWING.items():
        if _equal(where, name):
            return index
    return "visibility_by_close"


def _is_whole(index: str, where: Expression) -> bool:
    """Whether everything on the way through an index fits."""
    narrowed = [name for name, other in _NARROWING.items() if other == index]
    return all(isinstance(each, In) and each.attribute.name in narrowed for each in _conjuncts(where))


def _is_counted(where: Expression) -> bool:
    """Whether the counters tell how many runs fit."""
    return {attribute.name for attribute in _attributes(where)} <= _COUNTED


def _source(name: str, namespace: str, where: Expression, values: Parameters, **parts: str) -> str:
    """A table with an index and a condition, as the block of a name has it."""
    return SQL[name].format(namespace=values.add(namespace), condition=condition(where, values), **parts)


def _scanned(where: Expression) -> str:
    """The index to read many runs by."""
    narrowest = _narrowest(where)
    if narrowest == "visibility_by_close" and not any(
        isinstance(each, Range) and each.attribute.name == "CloseTime" for each in _conjuncts(where)
    ):
        return "visibility_by_start"
    return narrowest


def _last(query: VisibilityQuery) -> str:
    return f"run_key {'DESC' if query.descending else 'ASC'}"
