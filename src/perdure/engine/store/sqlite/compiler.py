"""Conditions of a list filter as SQL: the one place where SQL is put together.

The text is made of the constants below and of numbered parameters; every value of a filter is bound. A name of a filter
never becomes part of the text: system attributes are looked up in `COLUMNS`, all others are values of
``search_attributes``.

SQL knows three truth values and a filter two: what is NULL does not hold. AND and OR keep that, and NOT becomes
IS NOT TRUE.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from perdure.engine.store.evaluation import OPEN_CLOSE_MS, STATUS_RANKS
from perdure.engine.store.sqlite.statements import load_statements
from perdure.engine.visibility.expressions import (
    And,
    Attribute,
    Expression,
    In,
    Missing,
    Not,
    Or,
    Order,
    Position,
    Range,
    Value,
    VisibilityQuery,
)

__all__ = [
    "CLOSE_KEY",
    "COLUMNS",
    "Parameters",
    "SortKey",
    "beyond",
    "candidates",
    "condition",
    "run_keys",
    "sort_keys",
]

SQL: Final = load_statements("visibility.sql")
"""What statements are made of, by name."""

CLOSE_KEY: Final = f"coalesce(close_ms, {OPEN_CLOSE_MS})"
"""As the indexes have it."""

COLUMNS: Final[Mapping[str, str]] = {
    "WorkflowId": "workflow_id",
    "RunId": "run_id",
    "WorkflowType": "workflow_type",
    "TaskQueue": "task_queue",
    "ExecutionStatus": "status",
    "StartTime": "start_ms",
    "ExecutionTime": "execution_ms",
    "CloseTime": "close_ms",
    "ExecutionDuration": "max(0, close_ms - execution_ms)",
    "HistoryLength": "iif(close_ms IS NULL, NULL, history_length)",
    "HistorySizeBytes": "iif(close_ms IS NULL, NULL, history_bytes)",
    "StateTransitionCount": "iif(close_ms IS NULL, NULL, state_transitions)",
}
"""System attributes by name, as expressions over a row of ``visibility``."""

_SORTED: Final[Mapping[str, str]] = {
    "CloseTime": CLOSE_KEY,
    "ExecutionStatus": "CASE status "
    + " ".join(f"WHEN {status} THEN {rank}" for status, rank in STATUS_RANKS.items())
    + " END",
}
"""Those that sort by something else than their value."""
_NOT_NULL: Final = frozenset(
    ("WorkflowId", "RunId", "WorkflowType", "TaskQueue", "ExecutionStatus", "StartTime", "ExecutionTime", "CloseTime")
)
"""Attributes whose sort key every run has."""
_DEFAULT: Final = Order(Attribute("CloseTime", 6), descending=True)


class Parameters:
    """The values of one statement."""

    def __init__(self) -> None:
        self.values: list[Value | None] = []

    def add(self, value: Value | None) -> str:
        """Bind a value; the parameter to write for it."""
        self.values.append(value)
        return f"?{len(self.values)}"


# -- conditions --------------------------------------------------------------------------------------------------------


def condition(expression: Expression, values: Parameters) -> str:
    """A condition over a row of ``visibility``."""
    match expression:
        case And(operands):
            return _joined("AND", [condition(operand, values) for operand in operands]) or "1"
        case Or(operands):
            return _joined("OR", [condition(operand, values) for operand in operands]) or "0"
        case Not(operand):
            return f"(({condition(operand, values)}) IS NOT TRUE)"
        case Missing(attribute):
            column = COLUMNS.get(attribute.name)
            return f"{column} IS NULL" if column is not None else f"NOT {_has(attribute, '', values)}"
        case In(attribute) | Range(attribute):
            column = COLUMNS.get(attribute.name)
            if column is not None:
                return _fits(expression, column, values)
            return _has(attribute, f" AND {_fits(expression, 'a.value', values)}", values)


def _joined(word: str, parts: Sequence[str]) -> str:
    """Parts joined as a balanced tree: SQLite bounds how deep an expression may be."""
    if len(parts) <= 2:
        return f"({f' {word} '.join(parts)})" if len(parts) == 2 else "".join(parts)
    middle = len(parts) // 2
    return f"({_joined(word, parts[:middle])} {word} {_joined(word, parts[middle:])})"


def _fits(leaf: In | Range, column: str, values: Parameters) -> str:
    """Whether a column's value is one of the leaf's."""
    if isinstance(leaf, In):
        if len(leaf.values) == 1:
            return f"{column} = {values.add(leaf.values[0])}"
        return f"{column} IN ({', '.join(map(values.add, leaf.values))})"
    bounds: list[str] = []
    if leaf.low is not None:
        bounds.append(f"{column} >= {values.add(leaf.low)}")
    if leaf.high is not None:
        bounds.append(f"{column} < {values.add(leaf.high)}")
    return " AND ".join(bounds) or f"{column} IS NOT NULL"


def _has(attribute: Attribute, fits: str, values: Parameters) -> str:
    """Whether the run has such a value."""
    return SQL["has_value"].format(name=values.add(attribute.name), type=values.add(attribute.type), fits=fits)


# -- candidates --------------------------------------------------------------------------------------------------------

_BY_INDEX: Final[Mapping[str, tuple[str, str]]] = {
    "WorkflowId": ("visibility_by_workflow", "workflow_id"),
    "WorkflowType": ("visibility_by_type", "workflow_type"),
    "ExecutionStatus": ("visibility_by_status", "status"),
    "StartTime": ("visibility_by_start", "start_ms"),
    "CloseTime": ("visibility_by_close", CLOSE_KEY),
}
"""Attributes that an index leads to, and the column it goes by."""


Leaves = tuple[In | Range, ...]


def candidates(expression: Expression) -> list[Leaves]:
    """Leaves that an index answers, one of which holds for every run that fits: each entry by itself."""
    match expression:
        case And(operands):
            return [found for operand in operands for found in candidates(operand)]
        case Or(operands) if operands:
            each = [candidates(operand)[:1] for operand in operands]
            return [tuple(leaf for found in each for leaf in found[0])] if all(each) else []
        case In(attribute) | Range(attribute):
            return [(expression,)] if attribute.name in _BY_INDEX or attribute.name not in COLUMNS else []
        case Not(Missing(attribute)) if attribute.name not in COLUMNS:
            return [(Range(attribute, None, None),)]
        case _:
            return []


def run_keys(leaves: Leaves, namespace: str, values: Parameters) -> str:
    """A query for the keys of the runs for which one of the leaves holds; some may come twice."""
    return " UNION ALL ".join(_run_keys(leaf, namespace, values) for leaf in leaves)


def _run_keys(leaf: In | Range, namespace: str, values: Parameters) -> str:
    attribute = leaf.attribute
    asked = {"namespace": values.add(namespace)}
    by_index = _BY_INDEX.get(attribute.name)
    if by_index is None:
        asked |= {"name": values.add(attribute.name), "type": values.add(attribute.type)}
        return SQL["runs_by_attribute"].format(fits=_fits(leaf, "value", values), **asked)
    index, column = by_index
    fits = _fits(leaf, column, values)
    if attribute.name == "CloseTime" and isinstance(leaf, Range) and leaf.high is None:
        fits += f" AND {CLOSE_KEY} < {OPEN_CLOSE_MS}"
    return SQL["runs_by_column"].format(index=index, fits=fits, **asked)


# -- order -------------------------------------------------------------------------------------------------------------


class SortKey:
    """What a list is sorted by, before the key of the run."""

    def __init__(self, order: Order, values: Parameters) -> None:
        attribute = order.attribute
        self.descending = order.descending
        self.nullable = attribute.name not in _NOT_NULL
        self.sql = _SORTED.get(attribute.name) or COLUMNS.get(attribute.name) or _attribute_key(order, values)

    def order(self) -> str:
        """As a term of ORDER BY."""
        return f"{self.sql} {'DESC' if self.descending else 'ASC'}{' NULLS LAST' if self.nullable else ''}"

    def after(self, bound: Value | None, values: Parameters) -> str | None:
        """A condition for what sorts after a value; None if nothing does."""
        if bound is None:
            return None
        sign = "<" if self.descending else ">"
        later = f"{self.sql} {sign} {values.add(bound)}"
        return f"({later} OR {self.sql} IS NULL)" if self.nullable else later


def _attribute_key(order: Order, values: Parameters) -> str:
    return SQL["sort_value"].format(
        pick="max" if order.descending else "min",
        name=values.add(order.attribute.name),
        type=values.add(order.attribute.type),
    )


def sort_keys(query: VisibilityQuery, values: Parameters) -> list[SortKey]:
    """The keys of a query's order."""
    return [SortKey(order, values) for order in query.order or (_DEFAULT,)]


def beyond(keys: Sequence[SortKey], descending: bool, after: Position, values: Parameters) -> list[str]:
    """Conditions for the rows after a place, none of which fits two of them, in the order of the rows.

    The first is for those that differ from the place only in the run, the last for those that do in the first key.
    """
    parts: list[str] = []
    equal: list[str] = []
    for key, bound in zip(keys, after, strict=False):
        later = key.after(bound, values)
        if later is not None:
            parts.append(" AND ".join([*equal, later]))
        equal.append(f"{key.sql} IS {values.add(bound)}" if key.nullable else f"{key.sql} = {values.add(bound)}")
    sign = "<" if descending else ">"
    parts.append(" AND ".join([*equal, f"run_key {sign} {values.add(after[-1])}"]))
    parts.reverse()
    return parts
