"""Calendars: which instants a structured calendar names.

A calendar matches the clock on the wall: sets of seconds, minutes, hours, days of the month, months, days of the week
and, if it names some, years; all must match. The wall belongs to a time zone. A time the wall skips in spring never
comes; one it shows twice in autumn comes twice.

The next match is looked for where the wall runs evenly: between two changes of its offset from UTC, wall time and
instants differ by a constant, so the next matching wall time is the next instant if it lies before the change. A day at
a time is looked at so; what lies further ahead is jumped to, but for two days, which is more than any wall was ever
set back.

Instants are seconds since the epoch; wall times are seconds since the epoch as if the wall showed UTC.
"""

from __future__ import annotations

from bisect import bisect_left
from calendar import monthrange
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Final, NamedTuple

from perdure.api import messages as m

__all__ = ["FIELDS", "LAST_YEAR", "Calendar", "Clock", "Field"]

LAST_YEAR: Final = 2100
"""No match is looked for in later years."""
_FIRST_YEAR: Final = 1970
_DAY_S: Final = 86_400
_EPOCH_DAY: Final = date(_FIRST_YEAR, 1, 1).toordinal()
_END_S: Final = (date(LAST_YEAR + 1, 1, 1).toordinal() - _EPOCH_DAY) * _DAY_S
RANGES_MAX: Final = 200
"""Ranges that one field of a calendar may have."""


class Field(NamedTuple):
    """A part of a wall time."""

    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()
    """Of the values, in order, beginning with `low`."""


_MONTHS: Final = (
    *("january", "february", "march", "april", "may", "june", "july"),
    *("august", "september", "october", "november", "december"),
)
_WEEKDAYS: Final = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")

FIELDS: Final = (
    Field("second", 0, 59),
    Field("minute", 0, 59),
    Field("hour", 0, 23),
    Field("day_of_month", 1, 31),
    Field("month", 1, 12, _MONTHS),
    Field("year", 2000, LAST_YEAR),
    Field("day_of_week", 0, 6, _WEEKDAYS),
)


class Clock(NamedTuple):
    """Parts of wall times within a day."""

    seconds: frozenset[int]
    minutes: frozenset[int]
    hours: frozenset[int]


class _Piece(NamedTuple):
    """A span in which the wall runs evenly."""

    start_s: int
    end_s: int
    offset_s: int


class Calendar:
    """A structured calendar in a time zone.

    Args:
        spec: the calendar.
        zone: of the wall.

    Raises:
        ValueError: a field holds what it can't; the message names it.
    """

    def __init__(self, spec: m.StructuredCalendarSpec, zone: tzinfo = UTC) -> None:
        values = {field.name: _values(field, getattr(spec, field.name)) for field in FIELDS}
        self._seconds = values["second"]
        self._minutes = values["minute"]
        self._hours = values["hour"]
        self._days = frozenset(values["day_of_month"])
        self._months = frozenset(values["month"])
        self._years = frozenset(values["year"])
        self._weekdays = frozenset(values["day_of_week"])
        self._zone = zone
        self._matches_nothing = not all(values[field.name] for field in FIELDS if field.name != "year")

    # -- matching ------------------------------------------------------------------------------------------------

    def matches(self, at_s: int) -> bool:
        """Whether an instant is one of the calendar's."""
        wall_s = at_s + self._offset_s(at_s)
        return self._next_wall(wall_s) == wall_s

    def next(self, after_s: int) -> int | None:
        """The first matching instant later than this one; None if there is none."""
        if self._matches_nothing:
            return None
        if self._zone is UTC:
            return self._next_wall(after_s + 1)
        at_s = max(after_s + 1, 0)
        while at_s < _END_S:
            for piece in self._pieces(at_s, at_s + _DAY_S):
                wall_s = self._next_wall(piece.start_s + piece.offset_s)
                if wall_s is not None and wall_s < piece.end_s + piece.offset_s:
                    return wall_s - piece.offset_s
            at_s += _DAY_S
            offset_s = self._offset_s(at_s)
            wall_s = self._next_wall(at_s + offset_s - _DAY_S)
            if wall_s is None:
                return None
            at_s = max(at_s, wall_s - offset_s - 2 * _DAY_S)
        return None

    @property
    def clock(self) -> Clock:
        """The wall times it matches, whatever the day."""
        return Clock(frozenset(self._seconds), frozenset(self._minutes), frozenset(self._hours))

    def row_s(self, others: Iterable[Clock]) -> int:
        """A second, minute, hour or day: where it matches one of `others`' instants within, it matches all of them."""
        span_s = 1
        for own, count, values in zip(self.clock, (60, 60, 24), zip(*others, strict=True), strict=True):
            if not all(each <= own for each in values):
                break
            span_s *= count
        return span_s

    def last_in_a_row(self, at_s: int, row_s: int) -> int:
        """The end of the minute, hour or day around an instant (`row_s`); itself where the wall is changed."""
        offset_s = self._offset_s(at_s)
        wall_s = at_s + offset_s
        last_s = wall_s - wall_s % row_s + row_s - 1 - offset_s
        return last_s if self._offset_s(last_s) == offset_s else at_s

    # -- the wall --------------------------------------------------------------------------------------------------

    def _offset_s(self, at_s: int) -> int:
        if self._zone is UTC:
            return 0
        offset = datetime.fromtimestamp(min(at_s, _END_S), self._zone).utcoffset()
        assert offset is not None, "a time zone knows its offset"
        return offset // timedelta(seconds=1)

    def _pieces(self, start_s: int, end_s: int) -> Iterator[_Piece]:
        """The span in pieces in which the wall runs evenly; it changes once a day at most."""
        first_s, last_s = self._offset_s(start_s), self._offset_s(end_s)
        if first_s == last_s:
            yield _Piece(start_s, end_s, first_s)
            return
        change_s = start_s + bisect_left(range(start_s, end_s), True, key=lambda at_s: self._offset_s(at_s) != first_s)
        yield _Piece(start_s, change_s, first_s)
        yield _Piece(change_s, end_s, last_s)

    def _next_wall(self, wall_s: int) -> int | None:
        """The first matching wall time not before this one."""
        day, second = divmod(max(wall_s, 0), _DAY_S)
        if self._is_day(_date(day)):
            found = self._next_in_day(second)
            if found is not None:
                return day * _DAY_S + found
        following = self._next_day(day + 1)
        if following is None:
            return None
        first = self._next_in_day(0)
        return None if first is None else following * _DAY_S + first

    def _next_in_day(self, second: int) -> int | None:
        hour, rest = divmod(second, 3600)
        minute, second = divmod(rest, 60)
        at = bisect_left(self._hours, hour)
        if at < len(self._hours) and self._hours[at] == hour:
            found = self._next_in_hour(minute, second)
            if found is not None:
                return hour * 3600 + found
            at += 1
        if at == len(self._hours) or not (self._minutes and self._seconds):
            return None
        return self._hours[at] * 3600 + self._minutes[0] * 60 + self._seconds[0]

    def _next_in_hour(self, minute: int, second: int) -> int | None:
        at = bisect_left(self._minutes, minute)
        if at < len(self._minutes) and self._minutes[at] == minute:
            within = bisect_left(self._seconds, second)
            if within < len(self._seconds):
                return minute * 60 + self._seconds[within]
            at += 1
        if at == len(self._minutes) or not self._seconds:
            return None
        return self._minutes[at] * 60 + self._seconds[0]

    def _is_day(self, day: date) -> bool:
        return (
            (not self._years or day.year in self._years)
            and day.month in self._months
            and day.day in self._days
            and day.isoweekday() % 7 in self._weekdays
        )

    def _next_day(self, day: int) -> int | None:
        """The first matching day not before this one, days since the epoch."""
        first = _date(day)
        year, month, start = first.year, first.month, first.day
        while year <= LAST_YEAR:
            if self._years and year not in self._years:
                year, month, start = year + 1, 1, 1
                continue
            if month in self._months:
                for number in range(start, monthrange(year, month)[1] + 1):
                    if number in self._days and self._is_day(date(year, month, number)):
                        return date(year, month, number).toordinal() - _EPOCH_DAY
            start = 1
            year, month = (year, month + 1) if month < 12 else (year + 1, 1)
        return None


def _date(day: int) -> date:
    return date.fromordinal(day + _EPOCH_DAY)


def _values(field: Field, ranges: Iterable[m.Range]) -> tuple[int, ...]:
    """The values of a field's ranges, sorted."""
    found: set[int] = set()
    for count, each in enumerate(ranges):
        if count == RANGES_MAX:
            raise ValueError(f"{field.name} has more than {RANGES_MAX} ranges")
        end = max(each.end, each.start)
        if each.step < 0:
            raise ValueError(f"the step of a range of {field.name} is negative: {each.step}")
        if each.start < field.low or end > field.high:
            raise ValueError(f"{field.name} is from {field.low} to {field.high}: {each.start} to {end} is not")
        found.update(range(each.start, end + 1, each.step or 1))
    return tuple(sorted(found))
