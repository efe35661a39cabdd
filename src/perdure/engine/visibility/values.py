"""Search attributes' values: from payloads to what is stored and compared.

A value that is set is JSON with the name of its type in the payload's metadata (``type``); the service writes the type
it is registered with. `null` and `[]` take the attribute away. An attribute may be given a list whatever its type:
then it has several values. What comes out are the integers and texts that `expressions` describes.
"""

from __future__ import annotations

import json
import math
import re
import struct
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple, cast

from perdure.api import messages as m
from perdure.engine.visibility.attributes import (
    BOOL,
    DATETIME,
    DOUBLE,
    INT,
    KEYWORD,
    KEYWORD_LIST,
    SYSTEM,
    TEXT,
    TYPE_NAMES,
    TYPES,
    ValueType,
    type_of,
)
from perdure.engine.visibility.expressions import Value

__all__ = [
    "INT_MAX",
    "INT_MIN",
    "AttributeLimits",
    "BadAttributeError",
    "double_key",
    "instant_ns",
    "is_removal",
    "stored",
    "typed",
    "words",
]

INT_MAX: Final = (1 << 63) - 1
INT_MIN: Final = -(1 << 63)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND: Final = timedelta(seconds=1)
_INSTANT: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[Tt ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d+))?)?\s*(Z|z|[+-]\d\d(?::?\d\d)?)?)?"
)
_WORD: Final = re.compile(r"[^\W_]+")
_REMOVALS: Final = frozenset((b"", b"null", b"[]"))


class BadAttributeError(ValueError):
    """A search attribute that can't be set. The message names it."""


class AttributeLimits(NamedTuple):
    """How many there may be and how large, in bytes."""

    attributes: int
    value_bytes: int
    total_bytes: int


# -- values ------------------------------------------------------------------------------------------------------------


def double_key(number: float) -> int:
    """An integer for a finite floating-point number, in the same order."""
    (bits,) = struct.unpack(">q", struct.pack(">d", number + 0.0))
    return bits if bits >= 0 else INT_MIN - bits - 1


def instant_ns(text: str) -> int:
    """Nanoseconds since the epoch of an RFC 3339 instant; a date alone is its midnight, without an offset it is UTC.

    Raises:
        ValueError: it is none.
    """
    found = _INSTANT.fullmatch(text)
    if found is None:
        raise ValueError("it is not like 2024-01-31T09:30:00Z")
    year, month, day, hour, minute, second, fraction, offset = found.groups()
    instant = datetime(int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0), tzinfo=UTC)
    ns = (instant - _EPOCH) // _SECOND * 1_000_000_000 + int((fraction or "")[:9].ljust(9, "0"))
    if offset and offset not in "Zz":
        minutes = int(offset[1:3]) * 60 + int(offset[3:].removeprefix(":") or 0)
        if int(offset[3:].removeprefix(":") or 0) > 59 or minutes >= 24 * 60:
            raise ValueError("its offset is more than a day")
        ns -= minutes * 60_000_000_000 * (-1 if offset[0] == "-" else 1)
    return ns


def words(text: str) -> list[str]:
    """The words of a text, without regard to case and accents: runs of letters and digits."""
    plain = unicodedata.normalize("NFKD", text).casefold()
    plain = "".join(sign for sign in plain if not unicodedata.combining(sign))
    return list(dict.fromkeys(_WORD.findall(plain)))


def _bool(value: Any) -> Iterator[Value]:
    if not isinstance(value, bool):
        raise TypeError
    yield int(value)


def _int(value: Any) -> Iterator[Value]:
    if not isinstance(value, int) or isinstance(value, bool) or not INT_MIN <= value <= INT_MAX:
        raise TypeError
    yield value


def _double(value: Any) -> Iterator[Value]:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise TypeError
    yield double_key(float(value))


def _datetime(value: Any) -> Iterator[Value]:
    yield instant_ns(_text(value)) // 1000


def _keyword(value: Any) -> Iterator[Value]:
    yield _text(value)


def _words(value: Any) -> Iterator[Value]:
    yield ""
    yield from words(_text(value))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    value.encode()  # Raises UnicodeEncodeError, a ValueError, for half a surrogate pair.
    return value


_READERS: Final[Mapping[ValueType, Callable[[Any], Iterator[Value]]]] = {
    BOOL: _bool,
    INT: _int,
    DOUBLE: _double,
    DATETIME: _datetime,
    KEYWORD: _keyword,
    KEYWORD_LIST: _keyword,
    TEXT: _words,
}


def _read(payload: m.Payload, value_type: ValueType) -> tuple[Value, ...]:
    """The values of a payload, each once.

    Raises:
        ValueError, TypeError, OverflowError, RecursionError: it holds no value of the type.
    """
    given: Any = json.loads(payload.data)
    values = cast("list[Any]", given) if isinstance(given, list) else [given]
    read = _READERS[value_type]
    return tuple(dict.fromkeys(value for each in values for value in read(each)))


def is_removal(payload: m.Payload) -> bool:
    """Whether a payload takes its attribute away."""
    return payload.data.strip() in _REMOVALS


# -- attributes of a run -----------------------------------------------------------------------------------------------


def typed(
    given: m.SearchAttributes,
    namespace: str,
    custom: Mapping[str, ValueType],
    limits: AttributeLimits,
    *,
    keep_removals: bool = False,
) -> m.SearchAttributes:
    """The same attributes with the types they are registered with.

    Args:
        given: what a caller asks to be set.
        namespace: the namespace's name, for the message of a refusal.
        custom: its own attributes' types by name.
        limits: what is refused.
        keep_removals: False to leave out those that would be taken away.

    Raises:
        BadAttributeError: an attribute is unknown, can't be set, or its value is not of its type or too large.
    """
    if len(given.indexed_fields) > limits.attributes:
        raise BadAttributeError(
            f"number of search attributes {len(given.indexed_fields)} exceeds limit {limits.attributes}"
        )
    checked = m.SearchAttributes()
    for name in sorted(given.indexed_fields):
        payload = given.indexed_fields[name]
        value_type = type_of(name, custom)
        if value_type is None:
            if name in SYSTEM:
                raise BadAttributeError(f"{name} attribute can't be set in SearchAttributes")
            raise BadAttributeError(f"Namespace {namespace} has no mapping defined for search attribute {name}")
        if len(payload.data) > limits.value_bytes:
            raise BadAttributeError(
                f"search attribute {name} value size {len(payload.data)} exceeds size limit {limits.value_bytes}"
            )
        if not is_removal(payload):
            _check(name, payload, value_type)
        elif not keep_removals:
            continue
        target = checked.indexed_fields[name]
        target.CopyFrom(payload)
        target.metadata["type"] = TYPE_NAMES[value_type].encode()
    if checked.ByteSize() > limits.total_bytes:
        raise BadAttributeError(
            f"total size of search attributes {checked.ByteSize()} exceeds size limit {limits.total_bytes}"
        )
    return checked


def _check(name: str, payload: m.Payload, value_type: ValueType) -> None:
    try:
        _read(payload, value_type)
    except (ValueError, TypeError, OverflowError, RecursionError):
        shown = payload.data[:100].decode(errors="replace")
        raise BadAttributeError(
            f"invalid value for search attribute {name} of type {TYPE_NAMES[value_type]}: {shown}"
        ) from None


def stored(
    attributes: m.SearchAttributes, parent: m.WorkflowExecution, root: m.WorkflowExecution
) -> tuple[tuple[str, ValueType, Value], ...]:
    """What is stored of a run besides the columns it is listed with: names, types and values.

    Args:
        attributes: its own; what has no known type in it is left out.
        parent: of the run, empty if it has none.
        root: of the run, empty if it is its own.
    """
    found: list[tuple[str, ValueType, Value]] = []
    for name in sorted(attributes.indexed_fields):
        payload = attributes.indexed_fields[name]
        value_type = TYPES.get(payload.metadata.get("type", b"").decode(errors="replace"))
        if value_type is None or is_removal(payload):
            continue
        with suppress(ValueError, TypeError, OverflowError, RecursionError):
            found += [(name, value_type, value) for value in _read(payload, value_type)]
    for name, value in (
        ("ParentWorkflowId", parent.workflow_id),
        ("ParentRunId", parent.run_id),
        ("RootWorkflowId", root.workflow_id),
        ("RootRunId", root.run_id),
    ):
        if value:
            found.append((name, KEYWORD, value))
    return tuple(found)
