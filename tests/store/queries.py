"""Generated runs and queries: few values of each kind, so that they meet."""

from __future__ import annotations

from hypothesis import strategies as st

from perdure.engine.store import AttributesRow, VisibilityRow
from perdure.engine.visibility.attributes import DATETIME, INT, KEYWORD, KEYWORD_LIST
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

NAMESPACES = ("default", "a\x00b")

numbers = st.integers(0, 4)
WORDS = ("", "a", "a\x00", "ab", "b", "ü", "\U0010ffff")
words = st.sampled_from(WORDS)
names = st.sampled_from(NAMESPACES)

TEXT_ATTRIBUTES = [
    Attribute(name, kind)
    for name, kind in (
        ("WorkflowId", KEYWORD),
        ("RunId", KEYWORD),
        ("WorkflowType", KEYWORD),
        ("TaskQueue", KEYWORD),
        ("ParentWorkflowId", KEYWORD),
        ("Colour", KEYWORD),
        ("Tags", KEYWORD_LIST),
        ("Absent", KEYWORD),
    )
]
NUMBER_ATTRIBUTES = [
    Attribute(name, kind)
    for name, kind in (
        ("ExecutionStatus", KEYWORD),
        ("StartTime", DATETIME),
        ("ExecutionTime", DATETIME),
        ("CloseTime", DATETIME),
        ("ExecutionDuration", INT),
        ("HistoryLength", INT),
        ("HistorySizeBytes", INT),
        ("StateTransitionCount", INT),
        ("Size", INT),
        ("Colour", INT),
    )
]


def _leaf(attribute: Attribute) -> st.SearchStrategy[Expression]:
    values = words if attribute in TEXT_ATTRIBUTES else numbers
    bounds = st.none() | values
    return st.one_of(
        st.builds(In, st.just(attribute), st.lists(values, min_size=1, max_size=3, unique=True).map(tuple)),
        st.builds(Range, st.just(attribute), bounds, bounds),
        st.builds(Missing, st.just(attribute)),
    )


def _joined(inner: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    several = st.lists(inner, max_size=4).map(tuple)
    return st.builds(Not, inner) | st.builds(And, several) | st.builds(Or, several)


conditions: st.SearchStrategy[Expression] = st.recursive(
    st.sampled_from(TEXT_ATTRIBUTES + NUMBER_ATTRIBUTES).flatmap(_leaf), _joined, max_leaves=6
)
orders = st.lists(
    st.builds(Order, st.sampled_from(TEXT_ATTRIBUTES + NUMBER_ATTRIBUTES), st.booleans()), max_size=2
).map(tuple)
queries = st.builds(VisibilityQuery, namespace=names, where=conditions, order=orders)


def run_of(run_key: int, rest: tuple[int, int, int | None]) -> VisibilityRow:
    """A run keeps its namespace, ids, type and start; all else may change."""
    status, execution_ms, close_ms = rest
    return VisibilityRow(
        run_key,
        NAMESPACES[run_key % 5 == 0],
        WORDS[run_key * 3 % len(WORDS)],
        f"r{run_key}",
        "TU"[run_key % 3 == 0],
        "q",
        status,
        run_key * 7 % 5,
        execution_ms,
        close_ms,
        0 if close_ms is None else close_ms + 1,
        0 if close_ms is None else run_key,
        b"",
        0 if close_ms is None else 2,
    )


keys = st.integers(1, 9)
runs = st.builds(
    run_of,
    keys,
    st.tuples(st.integers(1, 4), numbers, st.none() | numbers),
)
values = st.lists(
    st.one_of(
        st.tuples(st.just("Colour"), st.just(KEYWORD), words),
        st.tuples(st.just("Colour"), st.just(INT), numbers),
        st.tuples(st.just("Tags"), st.just(KEYWORD_LIST), words),
        st.tuples(st.just("Size"), st.just(INT), numbers),
        st.tuples(st.just("ParentWorkflowId"), st.just(KEYWORD), words),
    ),
    unique=True,
    max_size=5,
).map(tuple)


def attributes_of(run_key: int, given: tuple[tuple[str, int, int | str], ...]) -> AttributesRow:
    return AttributesRow(run_key, NAMESPACES[run_key % 5 == 0], given)


attributes = st.lists(st.builds(attributes_of, keys, values), unique_by=lambda row: row.run_key, max_size=6)
