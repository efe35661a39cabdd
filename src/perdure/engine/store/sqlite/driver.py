"""The driver's calls, typed: its own stubs speak of `Buffer`, which Python 3.11 does not know."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import apsw

__all__ = ["CArray", "Values", "carray", "execute", "get_pragma", "set_pragma"]

CArray = object
"""An array bound as one value, read in SQL by the table-valued function ``carray``."""

Values = Sequence[object] | Mapping[str, object]

_any_apsw = cast(Any, apsw)

carray: Callable[[tuple[bytes, ...] | array[int]], CArray] = _any_apsw.carray


def execute(connection: apsw.Connection, sql: str, values: Values = ()) -> Any:
    """Run a statement; the rows come as an iterable cursor."""
    return cast(Any, connection).execute(sql, values)


def get_pragma(connection: apsw.Connection, name: str) -> Any:
    return cast(Any, connection).pragma(name)


def set_pragma(connection: apsw.Connection, name: str, value: int | str) -> Any:
    """Set a pragma; what it answers."""
    return cast(Any, connection).pragma(name, value)
