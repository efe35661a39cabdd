"""Schedules as text: calendar strings and cron strings, turned into structured calendars and intervals.

    field    = member {"," member}
    member   = ("*" | value ["-" value]) ["/" step]      `n/s` runs to the end of the field
    value    = a number | a month or day of the week, in full or by three letters

    cron     = [("CRON_TZ=" | "TZ=") zone " "] (fields | descriptor | "@every " span ["/" phase]) ["#" comment]
    fields   = minute hour day-of-month month day-of-week              5
             | minute hour day-of-month month day-of-week year         6
             | second minute hour day-of-month month day-of-week year  7

A calendar matches when all fields do, also when both the day of the month and the day of the week are restricted. 7 is
Sunday as well as 0. This is not the grammar of a workflow's ``cron_schedule`` (``history.cron``), which has cron's own
rule for the two.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from perdure.api import messages as m
from perdure.engine.schedules.calendars import FIELDS, Field

__all__ = ["Cron", "calendar_of", "cron_of"]

_LENGTH_MAX: Final = 1000
_SPAN_MAX_S: Final = 100 * 365 * 86_400
_DEFAULTS: Final = {"second": "0", "minute": "0", "hour": "0"}
"""Of calendar strings; other fields are free."""
_FIELDS: Final = {field.name: field for field in FIELDS}
_FIVE: Final = ("minute", "hour", "day_of_month", "month", "day_of_week")
_COLUMNS: Final = {5: _FIVE, 6: (*_FIVE, "year"), 7: ("second", *_FIVE, "year")}
_DESCRIPTORS: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_ZONE: Final = re.compile(r"(?:CRON_)?TZ=(\S*)\s+(.*)", re.DOTALL)
_SPAN: Final = re.compile(r"(?:\d+[smhd])+", re.ASCII)
_PART: Final = re.compile(r"(\d+)([smhd])", re.ASCII)
_UNIT_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SUNDAY: Final = 7


class Cron(NamedTuple):
    """What a cron string says."""

    zone: str
    """Name of its time zone; empty if it has none."""
    calendar: m.StructuredCalendarSpec | None
    interval: m.IntervalSpec | None
    """One of the two."""


def calendar_of(spec: m.CalendarSpec) -> m.StructuredCalendarSpec:
    """A calendar string in structured form. Raises ValueError: it is none, and why."""
    return _calendar({name: getattr(spec, name) for name in _FIELDS}, spec.comment)


def cron_of(text: str) -> Cron:
    """What a cron string says. Raises ValueError: it is none, and why."""
    if len(text) > _LENGTH_MAX:
        raise ValueError(f"a cron string is longer than {_LENGTH_MAX} characters")
    rest, _, comment = text.partition("#")
    rest, comment = rest.strip(), comment.strip()
    zone = ""
    zoned = _ZONE.fullmatch(rest)
    if zoned is not None:
        zone, rest = zoned[1], zoned[2].strip()
    if rest.startswith("@every "):
        return Cron(zone, None, _every(rest.removeprefix("@every ").strip()))
    if rest.startswith("@"):
        if rest not in _DESCRIPTORS:
            raise ValueError(f"{rest!r} is none of @every and {', '.join(_DESCRIPTORS)}")
        rest = _DESCRIPTORS[rest]
    parts = rest.split()
    columns = _COLUMNS.get(len(parts))
    if columns is None:
        raise ValueError(f"the cron string {text!r} has {len(parts)} fields, and not 5, 6 or 7")
    return Cron(zone, _calendar(dict(zip(columns, parts, strict=True)), comment), None)


def _calendar(texts: dict[str, str], comment: str) -> m.StructuredCalendarSpec:
    calendar = m.StructuredCalendarSpec(comment=comment)
    for name, field in _FIELDS.items():
        text = texts.get(name, "").strip() or _DEFAULTS.get(name, "*")
        if name == "year" and text == "*":
            continue  # None named: all of them.
        if len(text) > _LENGTH_MAX:
            raise ValueError(f"{name} is longer than {_LENGTH_MAX} characters")
        ranges = getattr(calendar, name)
        for member in text.split(","):
            ranges.extend(_ranges(field, member.strip()))
    return calendar


def _ranges(field: Field, text: str) -> list[m.Range]:
    """The ranges of one member of a list."""
    span, slash, step_text = text.partition("/")
    step = _number(field, step_text) if slash else 1
    if step < 1:
        raise ValueError(f"the step of {text!r} in {field.name} is not positive")
    if span == "*":
        return [m.Range(start=field.low, end=field.high, step=step)]
    first, dash, last = span.partition("-")
    start = _value(field, first)
    end = _value(field, last) if dash else (field.high if slash else start)
    high = _SUNDAY if field.name == "day_of_week" else field.high
    if not field.low <= start <= end <= high:
        raise ValueError(f"{text!r} does not fit {field.name}, which is from {field.low} to {field.high}")
    if end <= field.high:
        return [m.Range(start=start, end=end, step=step)]
    sunday = m.Range(start=0, end=0, step=1)
    if start == _SUNDAY:
        return [sunday]
    rest = m.Range(start=start, end=field.high, step=step)
    return [sunday, rest] if (_SUNDAY - start) % step == 0 else [rest]


def _value(field: Field, text: str) -> int:
    lowered = text.strip().lower()
    for at, name in enumerate(field.names):
        if lowered in (name, name[:3]):
            return field.low + at
    return _number(field, text)


def _number(field: Field, text: str) -> int:
    text = text.strip()
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise ValueError(f"{text!r} is no value of {field.name}")
    return int(text)


def _every(text: str) -> m.IntervalSpec:
    span, slash, phase = text.partition("/")
    interval = m.IntervalSpec()
    interval.interval.seconds = _span_s(span)
    if slash:
        interval.phase.seconds = _span_s(phase)
    return interval


def _span_s(text: str) -> int:
    text = text.strip()
    if _SPAN.fullmatch(text) is None:
        raise ValueError(f"{text!r} is no span such as 90s, 5m, 12h or 1d")
    total_s = sum(int(number[:12]) * _UNIT_S[unit] for number, unit in _PART.findall(text))
    if total_s > _SPAN_MAX_S:
        raise ValueError(f"the span {text!r} is longer than a hundred years")
    return total_s
