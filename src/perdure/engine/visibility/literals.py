"""The values a filter may write: texts, numbers, instants, spans of time, statuses.

Each reader takes a `Literal` as it stands in the filter and returns a value in the form it is compared in: a text, an
integer, or for numbers between two integers a `Fraction`. What it can't be is a ValueError that says what it should
look like.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Final

from msgspec import Struct

from perdure.api import messages as m
from perdure.engine.visibility.attributes import BOOL, DATETIME, DOUBLE, INT, KEYWORD, KEYWORD_LIST, TEXT
from perdure.engine.visibility.expressions import Attribute
from perdure.engine.visibility.values import double_key, instant_ns

__all__ = ["STATUS_NAMES", "Literal", "Point", "point_of", "span_ns"]

Point = int | Fraction | str
"""A value to compare with."""

STATUS_NAMES: Final[Mapping[int, str]] = {
    number: name.removeprefix("WORKFLOW_EXECUTION_STATUS_").title().replace("_", "")
    for name, number in m.WorkflowExecutionStatus.items()
    if number
}
_STATUSES: Final[Mapping[str, int]] = {name: number for number, name in STATUS_NAMES.items()} | {
    name: number for name, number in m.WorkflowExecutionStatus.items() if number
}

_NS_PER_MS: Final = 1_000_000
_NS_PER_US: Final = 1_000
_UNIT_NS: Final[Mapping[str, int]] = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
    "d": 86_400_000_000_000,
    "w": 604_800_000_000_000,
}
_PART: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h|d|w)")
_CLOCK: Final = re.compile(r"(\d+):([0-5]?\d):([0-5]?\d)")
_DIGITS: Final = re.compile(r"[+-]?\d{1,19}")


class Literal(Struct, frozen=True):
    """A value as a filter writes it."""

    value: str | int | Fraction | bool
    at: int
    """Where it stands, counted from 1."""
    is_ns: bool = False
    """An instant in nanoseconds, as NOW() gives it."""


def span_ns(text: str) -> Fraction:
    """Nanoseconds of a span like 1h30m, -1.5h or 2d.

    Raises:
        ValueError: it is none.
    """
    sign = -1 if text.startswith("-") else 1
    rest = text[1:] if text[:1] in "+-" else text
    total = Fraction(0)
    at = 0
    while at < len(rest):
        part = _PART.match(rest, at)
        if part is None:
            raise ValueError("it is no span of time")
        total += Fraction(part[1]) * _UNIT_NS[part[2]]
        at = part.end()
    if not rest:
        raise ValueError("it is no span of time")
    return sign * total


def _status(literal: Literal) -> Point:
    value = literal.value
    if isinstance(value, str) and value in _STATUSES:
        return _STATUSES[value]
    if isinstance(value, int) and not isinstance(value, bool) and value in STATUS_NAMES:
        return value
    raise ValueError(f"a status is one of {', '.join(map(repr, STATUS_NAMES.values()))}, or its number")


def _duration_ms(literal: Literal) -> Point:
    value = literal.value
    if isinstance(value, int) and not isinstance(value, bool):
        return Fraction(value, _NS_PER_MS)
    if isinstance(value, str):
        if _DIGITS.fullmatch(value):
            return Fraction(int(value), _NS_PER_MS)
        clock = _CLOCK.fullmatch(value)
        if clock is not None:
            return (int(clock[1]) * 3600 + int(clock[2]) * 60 + int(clock[3])) * 1000
        try:
            return span_ns(value) / _NS_PER_MS
        except ValueError:
            pass
    raise ValueError("a duration is like '1h30m', '01:30:00' or a number of nanoseconds")


def _instant(literal: Literal) -> int:
    """Nanoseconds since the epoch."""
    value = literal.value
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str):
        try:
            return instant_ns(value)
        except ValueError as error:
            raise ValueError(f"an instant is like '2024-01-31T09:30:00Z' or nanoseconds since 1970: {error}") from error
    raise ValueError("an instant is like '2024-01-31T09:30:00Z' or nanoseconds since 1970")


def _instant_ms(literal: Literal) -> Point:
    return Fraction(_instant(literal), _NS_PER_MS)


def _instant_us(literal: Literal) -> Point:
    return _instant(literal) // _NS_PER_US


def _number(literal: Literal) -> Point:
    if isinstance(literal.value, int | Fraction) and not isinstance(literal.value, bool):
        return literal.value
    raise ValueError("a number is written without quotes")


def _double(literal: Literal) -> Point:
    try:
        return double_key(float(_number(literal)))  # A text is refused by `_number`.
    except OverflowError:
        raise ValueError("it is larger than a double can be") from None


def _bool(literal: Literal) -> Point:
    if isinstance(literal.value, bool):
        return int(literal.value)
    raise ValueError("it is true or false, without quotes")


def _text(literal: Literal) -> Point:
    if isinstance(literal.value, str):
        return literal.value
    raise ValueError("a text stands in quotes")


_SPECIAL: Final[Mapping[str, Callable[[Literal], Point]]] = {
    "ExecutionStatus": _status,
    "ExecutionDuration": _duration_ms,
    "StartTime": _instant_ms,
    "ExecutionTime": _instant_ms,
    "CloseTime": _instant_ms,
}
_BY_TYPE: Final[Mapping[int, Callable[[Literal], Point]]] = {
    BOOL: _bool,
    DATETIME: _instant_us,
    DOUBLE: _double,
    INT: _number,
    KEYWORD: _text,
    KEYWORD_LIST: _text,
    TEXT: _text,
}


def point_of(attribute: Attribute, literal: Literal) -> Point:
    """What a literal means for an attribute.

    Raises:
        ValueError: nothing; the message says what it should be.
    """
    if literal.is_ns and attribute.type != DATETIME:
        raise ValueError("NOW() is an instant, and the attribute is none")
    return _SPECIAL.get(attribute.name, _BY_TYPE[attribute.type])(literal)
