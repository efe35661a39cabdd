"""Cron schedules: when a workflow that runs by the calendar runs next.

    schedule   = [ ("CRON_TZ=" | "TZ=") zone " " ] ( fields | "@every " span | descriptor )
    fields     = minute hour day-of-month month day-of-week, each a list of * ? n a-b */s n/s a-b/s
    descriptor = @yearly @annually @monthly @weekly @daily @midnight @hourly

Months and days of the week may be named by three letters; days count from 0, Sunday. When both day fields are
restricted a day that matches either will do. Without a zone the schedule is in UTC. A field with a step counts as
restricted, `n/s` runs to the end of the range, and a span is written as in Go: ``1h30m``, ``90s``.

`cronsim` computes the instants of field schedules, also across daylight saving: what falls into a skipped hour runs
right after it. Here the text is checked and rewritten into the part of its language that means the same.
`now` is a parameter; the only thing read from outside are the machine's time zones.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

__all__ = ["backoff_ms", "check"]

_SCHEDULES_KEPT: Final = 256
_LENGTH_MAX: Final = 1000
_LAST_MS: Final = 250_000_000_000_000
"""No instant is looked for beyond the year 9892: calendars end soon after."""

_DESCRIPTORS: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_ZONE: Final = re.compile(r"(?:CRON_)?TZ=(\S*)\s+(.*)", re.DOTALL)
_SPAN: Final = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_UNIT_MS: Final = {"ns": 1e-6, "us": 1e-3, "µs": 1e-3, "μs": 1e-3, "ms": 1.0, "s": 1e3, "m": 60e3, "h": 3600e3}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)
_S: Final = 1000


class _Field(NamedTuple):
    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()


_FIELDS: Final = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of week", 0, 6, _DAYS),
)

_Next = Callable[[int, int], int | None]
"""(scheduled_ms, now_ms) → the first instant after the one and not before the other; None if there is none."""


def check(schedule: str) -> None:
    """Refuse what is no schedule.

    Raises:
        ValueError: the message says what is wrong with it.
    """
    _parse(schedule)


def backoff_ms(schedule: str, scheduled_ms: int, now_ms: int) -> int | None:
    """How long after `now_ms` the next run begins: the first instant of the schedule that is not over.

    Args:
        schedule: checked before.
        scheduled_ms: when the run before began to execute, epoch milliseconds; the next one is later than that.
        now_ms: the present instant.

    Returns:
        Milliseconds; None if the schedule has come to its end.
    """
    next_ms = _parse(schedule)(scheduled_ms, now_ms)
    return None if next_ms is None else next_ms - now_ms


@lru_cache(maxsize=_SCHEDULES_KEPT)
def _parse(schedule: str) -> _Next:
    if len(schedule) > _LENGTH_MAX:
        raise ValueError(f"it is longer than {_LENGTH_MAX} characters")
    text = schedule.strip()
    zone: tzinfo = UTC
    zoned = _ZONE.fullmatch(text)
    if zoned is not None:
        zone = _zone(zoned[1])
        text = zoned[2].strip()
    if text.startswith("@every "):
        return _every(_span_s(text.removeprefix("@every ").strip()))
    if text.startswith("@"):
        if text not in _DESCRIPTORS:
            raise ValueError(f"{text!r} is none of @every and {', '.join(_DESCRIPTORS)}")
        text = _DESCRIPTORS[text]
    following = _by_fields(_rewritten(text), zone)
    if following(0, 0) is None:
        raise ValueError("it names no day that ever comes")
    return following


def _zone(name: str) -> tzinfo:
    if not name or name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, LookupError):
        raise ValueError(f"the time zone {name!r} is unknown here") from None


def _span_s(text: str) -> int:
    """A Go duration in whole seconds, at least one."""
    at = 0
    total_ms = 0.0
    while at < len(text):
        found = _SPAN.match(text, at)
        if found is None:
            break
        total_ms += float(found[1]) * _UNIT_MS[found[2]]
        at = found.end()
    if not text or at != len(text) or total_ms > _LAST_MS:
        raise ValueError(f"{text!r} is no span such as 90s or 1h30m")
    return max(1, int(total_ms) // _S)


def _every(span_s: int) -> _Next:
    span_ms = span_s * _S

    def following(scheduled_ms: int, now_ms: int) -> int | None:
        next_ms = scheduled_ms // _S * _S + span_ms
        if next_ms < now_ms:
            next_ms += -(-(now_ms - next_ms) // span_ms) * span_ms
        return next_ms if next_ms <= _LAST_MS else None

    return following


def _by_fields(expression: str, zone: tzinfo) -> _Next:
    def following(scheduled_ms: int, now_ms: int) -> int | None:
        after_ms = min(max(scheduled_ms, now_ms - 1), _LAST_MS)
        try:
            found = next(CronSim(expression, datetime.fromtimestamp(after_ms // _S, zone)), None)
        except CronSimError as error:
            raise ValueError(str(error)) from None
        return None if found is None else (found - _EPOCH) // _MS

    return following


def _rewritten(text: str) -> str:
    """The five fields in cronsim's language: stars, or numbers one by one."""
    parts = text.lower().split()
    if len(parts) != len(_FIELDS):
        raise ValueError(f"it has {len(parts)} fields and not {len(_FIELDS)}: minute hour day month weekday")
    return " ".join(_numbers(field, part) for field, part in zip(_FIELDS, parts, strict=True))


def _numbers(field: _Field, part: str) -> str:
    numbers: set[int] = set()
    is_star = False
    for each in part.split(","):
        span, star = _range(field, each)
        numbers.update(span)
        is_star |= star
    return "*" if is_star else ",".join(map(str, sorted(numbers)))


def _range(field: _Field, text: str) -> tuple[range, bool]:
    """What one member of a list stands for, and whether it leaves its field free."""
    span, slash, step_text = text.partition("/")
    first, dash, last = span.partition("-")
    step = _number(field, step_text, ()) if slash else 1
    if not step:
        raise ValueError(f"the step of {text!r} is zero")
    if span in ("*", "?"):
        return range(field.low, field.high + 1, step), step == 1
    low = _number(field, first, field.names)
    high = _number(field, last, field.names) if dash else (field.high if slash else low)
    if low < field.low or high > field.high or low > high:
        raise ValueError(f"{text!r} does not fit the field {field.name}: {field.low} to {field.high}")
    return range(low, high + 1, step), False


def _number(field: _Field, text: str, names: tuple[str, ...]) -> int:
    if text in names:
        return names.index(text) + field.low
    if not text.isascii() or not text.isdecimal():
        raise ValueError(f"{text!r} is no number of the field {field.name}")
    return int(text)
