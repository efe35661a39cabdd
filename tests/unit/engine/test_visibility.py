"""The parts of visibility: values as they are stored, words, instants, spans, and filters that mean what they say."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.api import RpcError
from perdure.api import messages as m
from perdure.engine.visibility.attributes import DATETIME, DOUBLE, INT, KEYWORD, TEXT
from perdure.engine.visibility.expressions import Attribute, Missing, Value, matches
from perdure.engine.visibility.literals import span_ns
from perdure.engine.visibility.parsing import ListFilter, parse
from perdure.engine.visibility.values import (
    AttributeLimits,
    BadAttributeError,
    double_key,
    instant_ns,
    stored,
    typed,
    words,
)

NUMBER, SIZE, WORD, TIME = (
    Attribute(name, kind) for name, kind in (("Number", INT), ("Size", DOUBLE), ("Word", KEYWORD), ("Time", DATETIME))
)
CUSTOM = {attribute.name: attribute.type for attribute in (NUMBER, SIZE, WORD, TIME)}
DIVISION = Attribute("TemporalNamespaceDivision", KEYWORD)
floats = st.floats(allow_nan=False, allow_infinity=False)
numbers = st.integers(-(2**63), 2**63 - 1)


def read(text: str) -> ListFilter:
    return parse(text, CUSTOM, 1_700_000_000_000)


def holds(text: str, **values: Value) -> bool:
    """Whether a filter fits a run with these values."""
    return matches(read(text).where, lambda attribute: [values[attribute.name]] if attribute.name in values else [])


@given(floats, floats)
def test_keys_of_doubles_are_in_the_order_of_the_doubles(one: float, other: float) -> None:
    assert (double_key(one) < double_key(other)) == (one < other)
    assert (double_key(one) == double_key(other)) == (one == other)
    assert -(2**63) <= double_key(one) < 2**63 - 1


@given(st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-7, minutes=-30))])))
def test_instants_as_python_writes_them(instant: datetime) -> None:
    microseconds = (instant - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert instant_ns(instant.isoformat()) == microseconds * 1000


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("2024-01-31T09:30:00.123456789Z", 1_706_693_400_123_456_789),
        ("2024-01-31 09:30Z", 1_706_693_400_000_000_000),
        ("2024-01-31", 1_706_659_200_000_000_000),
        ("2024-01-31T10:30:00+0100", 1_706_693_400_000_000_000),
        ("2024-01-31T10:30:00+01", 1_706_693_400_000_000_000),
        ("1969-12-31T23:59:59.9Z", -100_000_000),
    ],
)
def test_instants_in_other_forms(text: str, same: int) -> None:
    assert instant_ns(text) == same


@pytest.mark.parametrize(
    "text", ["", "now", "2024-02-30", "2024-01-31T25:00:00Z", "2024-01-31T09:30:00+99:00", "20240131"]
)
def test_what_is_no_instant(text: str) -> None:
    with pytest.raises(ValueError):
        instant_ns(text)


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1h30m", 5400 * 10**9),
        ("-1.5s", -15 * 10**8),
        ("2d", 172_800 * 10**9),
        (".5us", 500),
        ("+1w1ms", 604_800_001_000_000),
    ],
)
def test_spans(text: str, ns: int) -> None:
    assert span_ns(text) == ns


@pytest.mark.parametrize("text", ["", "-", "1", "h", "1 h", "1h30", "one hour"])
def test_what_is_no_span(text: str) -> None:
    with pytest.raises(ValueError):
        span_ns(text)


def test_words_are_compared_without_case_and_accents() -> None:
    assert words("The Café's MENÜ, no_12!") == ["the", "cafe", "s", "menu", "no", "12"]
    assert words("Straße STRASSE") == ["strasse"]
    assert words("!? _") == []


@given(value=numbers, bound=st.one_of(numbers, st.fractions(max_denominator=1000)))
def test_comparisons_of_integers(value: int, bound: int | Fraction) -> None:
    text = f"{float(bound):.3f}" if isinstance(bound, Fraction) else str(bound)
    exact = Fraction(text)
    assert holds(f"Number < {text}", Number=value) == (value < exact)
    assert holds(f"Number <= {text}", Number=value) == (value <= exact)
    assert holds(f"Number > {text}", Number=value) == (value > exact)
    assert holds(f"Number >= {text}", Number=value) == (value >= exact)
    assert holds(f"Number = {text}", Number=value) == (value == exact)
    assert holds(f"Number != {text}", Number=value) == (value != exact)
    assert holds(f"Number BETWEEN {text} AND {text}", Number=value) == (value == exact)


@given(value=floats, bound=floats)
def test_comparisons_of_doubles(value: float, bound: float) -> None:
    key = double_key(value)
    assert holds(f"Size < {bound!r}", Size=key) == (value < bound)
    assert holds(f"Size <= {bound!r}", Size=key) == (value <= bound)
    assert holds(f"Size > {bound!r}", Size=key) == (value > bound)
    assert holds(f"Size = {bound!r}", Size=key) == (value == bound)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)


def quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


@given(value=texts, bound=texts)
def test_comparisons_of_texts(value: str, bound: str) -> None:
    assert holds(f"Word < {quoted(bound)}", Word=value) == (value < bound)
    assert holds(f"Word <= {quoted(bound)}", Word=value) == (value <= bound)
    assert holds(f"Word > {quoted(bound)}", Word=value) == (value > bound)
    assert holds(f"Word >= {quoted(bound)}", Word=value) == (value >= bound)
    assert holds(f"Word = {quoted(bound)}", Word=value) == (value == bound)
    assert holds(f"Word STARTS_WITH {quoted(bound)}", Word=value) == value.startswith(bound)
    assert holds(f"Word NOT STARTS_WITH {quoted(bound)}", Word=value) != value.startswith(bound)


def test_what_a_run_lacks_fits_nothing_but_its_absence() -> None:
    for text in ("Word = 'a'", "Word < 'z'", "Number BETWEEN 1 AND 2", "Word STARTS_WITH ''", "Word IS NOT NULL"):
        assert not holds(text)
        assert holds(f"NOT ({text})")
    assert holds("Word IS NULL AND Word != 'a' AND Word NOT IN ('a') AND Number NOT BETWEEN 1 AND 2")


def test_and_binds_more_tightly_than_or() -> None:
    assert holds("Number = 1 OR Number = 2 AND Number = 3", Number=1)
    assert not holds("(Number = 1 OR Number = 2) AND Number = 3", Number=1)
    assert holds("NOT Number = 1 OR Number = 1", Number=1)


def test_now_is_the_instant_of_the_call() -> None:
    now_us = 1_700_000_000_000_000
    assert holds("Time = NOW()", Time=now_us)
    assert holds("Time = now() - 1h30m", Time=now_us - 5_400_000_000)
    assert holds("Time BETWEEN NOW()-1s AND NOW() + 1s", Time=now_us + 1_000_000)
    with pytest.raises(RpcError, match="position 14: it is no span of time"):
        read("Time > NOW() -1year")


def test_runs_in_a_division_are_left_out_unless_it_is_spoken_of() -> None:
    assert not holds("Number = 1", Number=1, TemporalNamespaceDivision="x")
    assert holds("Number = 1 AND TemporalNamespaceDivision = 'x'", Number=1, TemporalNamespaceDivision="x")
    assert read("").where.operands[-1] == Missing(DIVISION)  # type: ignore[union-attr]


def test_names_may_lack_the_prefix_or_have_it_too_much() -> None:
    for name in ("TemporalChangeVersion", "ChangeVersion", "BuildIds", "TemporalBuildIds", "`SchedulePaused`"):
        assert read(f"{name} IS NULL")


def test_a_namespaces_own_attribute_comes_first() -> None:
    custom = {"ChangeVersion": INT}
    assert parse("ChangeVersion = 5", custom, 0)
    with pytest.raises(RpcError):
        parse("TemporalChangeVersion = 5", custom, 0)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        read(text)
    except RpcError as error:
        assert error.message.startswith("invalid list filter")


FRAGMENTS = [
    "Number",
    "`x`",
    "=",
    "!=",
    "IN",
    "NOT",
    "(",
    ")",
    ",",
    "'a'",
    '"',
    "5",
    "-",
    "1e9",
    "AND",
    "OR",
    "NULL",
    "IS",
    "NOW",
    "BETWEEN",
    "ORDER",
    "BY",
    "GROUP",
    "TRUE",
    "STARTS_WITH",
    "\\",
    "'",
]


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=20))
def test_any_words_are_read_or_refused(fragments: list[str]) -> None:
    try:
        read(" ".join(fragments))
    except RpcError as error:
        assert error.message.startswith("invalid list filter")


def test_limits_are_those_at_n_and_beyond() -> None:
    limits = AttributeLimits(attributes=2, value_bytes=10, total_bytes=100)
    given_attributes = m.SearchAttributes()
    for name in ("A", "B"):
        given_attributes.indexed_fields[name].data = b'"12345678"'
    custom = {"A": KEYWORD, "B": TEXT, "C": KEYWORD}
    checked = typed(given_attributes, "n", custom, limits)
    assert [name for name, _, _ in stored(checked, m.WorkflowExecution(), m.WorkflowExecution())] == ["A", "B", "B"]
    for change in (limits._replace(attributes=1), limits._replace(value_bytes=9), limits._replace(total_bytes=20)):
        with pytest.raises(BadAttributeError):
            typed(given_attributes, "n", custom, change)


def test_what_is_damaged_is_not_stored() -> None:
    attributes = m.SearchAttributes()
    for name, kind, data in (("A", b"Int", b"x"), ("B", b"Colour", b"1"), ("C", b"", b"1"), ("D", b"Int", b"1")):
        attributes.indexed_fields[name].data = data
        attributes.indexed_fields[name].metadata["type"] = kind
    assert stored(attributes, m.WorkflowExecution(), m.WorkflowExecution()) == (("D", INT, 1),)
    assert math.isfinite(double_key(5e-324))
