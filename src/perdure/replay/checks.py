"""What workflow code may not ask for: told by an error at the call, which the code can handle.

The engine would refuse the command, and with it the workflow task, again and again. The checks stand where the code
calls, so that a replay meets them again at the same place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from perdure.api.durations import ms_of_timedelta
from perdure.exceptions import InvalidNameError

__all__ = ["LONGEST_TIMER_S", "MAX_NAME_CHARS", "check_name", "check_options", "check_text", "timer_seconds"]

MAX_NAME_CHARS = 1000
"""Characters of an id or name."""

LONGEST_TIMER_S = 100 * 365 * 86_400.0
"""The engine's own bound: longer ones end then."""


def check_text(value: object, what: str) -> None:
    """Refuse what cannot be an id or a name.

    Raises:
        TypeError: it is not text.
        InvalidNameError: it is empty, or not valid Unicode.
    """
    if not isinstance(value, str):
        raise TypeError(f"{what} has to be text, not {value!r}")
    if not value:
        raise InvalidNameError(f"{what} is empty")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidNameError(f"{what} is not valid Unicode: {value!r} ({error.reason})") from None


def check_name(value: object, what: str) -> None:
    """As `check_text`, with what the engine refuses besides.

    Raises:
        TypeError: it is not text.
        InvalidNameError: it is empty, too long, holds a NUL character, or is not valid Unicode.
    """
    check_text(value, what)
    assert isinstance(value, str), "checked above"
    if len(value) > MAX_NAME_CHARS:
        raise InvalidNameError(f"{what} is too long: {len(value)} characters, at most {MAX_NAME_CHARS}")
    if "\0" in value:
        raise InvalidNameError(f"{what} holds a NUL character")


def check_options(options: Mapping[str, Any]) -> None:
    """Names and spans of time among the options of a call, by their keys.

    Raises:
        TypeError: one is of the wrong type.
        InvalidNameError: a name cannot be one.
        ValueError: a span is negative.
    """
    for key, value in options.items():
        if value is None:
            continue
        if key in ("id", "task_queue"):
            check_name(value, f"the option {key!r}")
        elif key.endswith(("_timeout", "_interval")) and ms_of_timedelta(value) < 0:
            raise ValueError(f"{key} may not be negative: {value}")


def timer_seconds(delay_s: float) -> float:
    """A delay that a timer can have.

    Raises:
        ValueError: it is not a number.
    """
    if math.isnan(delay_s):
        raise ValueError("a timer's delay may not be NaN")
    return min(delay_s, LONGEST_TIMER_S)
