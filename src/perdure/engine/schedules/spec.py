"""When a schedule acts: the union of its calendars and intervals, without what is excluded, within its bounds.

`canonical` brings a spec into the form it is kept in and described with: structured calendars, intervals, and the name
of a time zone. `Times` is such a spec ready to be asked.

The *nominal* instant is what the spec names. Jitter moves an action behind it, by a part of the jitter that follows
from the schedule's identity and the instant alone, and never past the next nominal one. So each nominal instant has one
actual instant, the order of the two is the same, and asking again gives the same answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, tzinfo
from functools import lru_cache
from hashlib import blake2b
from io import BytesIO
from itertools import islice
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from google.protobuf.duration_pb2 import Duration

from perdure.api import messages as m
from perdure.api.durations import duration_ms, timestamp_ms
from perdure.engine.schedules.calendars import Calendar, Clock
from perdure.engine.schedules.notations import calendar_of, cron_of

__all__ = ["Moment", "Times", "canonical"]

PARTS_MAX: Final = 1000
"""Calendars, cron strings and intervals that one spec may have."""
_EXCLUDED_MAX: Final = 10_000
"""Excluded instants in a row, those of one excluded minute, hour or day counted once; after them a schedule ends."""
_END_S: Final = 4_133_980_800
"""No action later than the year 2100."""
_EARLIEST_MS: Final = -1000
_ZONE_BYTES_MAX: Final = 64 * 1024
_FRACTIONS: Final = 1 << 64


class Moment(NamedTuple):
    """An action's time."""

    nominal_ms: int
    """What the spec names, whole seconds since the epoch in milliseconds."""
    actual_ms: int
    """With jitter."""


def canonical(spec: m.ScheduleSpec) -> m.ScheduleSpec:
    """A spec in the form it is kept in.

    Raises:
        ValueError: it can't be understood, and why.
    """
    parts = (spec.calendar, spec.cron_string, spec.structured_calendar, spec.interval)
    excluded = (spec.exclude_calendar, spec.exclude_structured_calendar)
    if sum(map(len, (*parts, *excluded))) > PARTS_MAX:
        raise ValueError(f"it has more than {PARTS_MAX} calendars and intervals")
    kept = m.ScheduleSpec()
    kept.CopyFrom(spec)
    for name in ("calendar", "cron_string", "exclude_calendar"):
        kept.ClearField(name)  # type: ignore[arg-type]  # Each is a field.
    kept.structured_calendar.extend(map(calendar_of, spec.calendar))
    kept.exclude_structured_calendar.extend(map(calendar_of, spec.exclude_calendar))
    for text in spec.cron_string:
        cron = cron_of(text)
        if cron.zone:
            if kept.timezone_name not in ("", cron.zone):
                raise ValueError(f"it names two time zones: {kept.timezone_name!r} and {cron.zone!r}")
            kept.timezone_name = cron.zone
        if cron.calendar is not None:
            kept.structured_calendar.append(cron.calendar)
        if cron.interval is not None:
            kept.interval.append(cron.interval)
    Times(kept, b"")
    return kept


class Times:
    """The times of a canonical spec.

    Args:
        spec: as `canonical` gives it.
        seed: of the jitter; the schedule's identity.

    Raises:
        ValueError: a part of it is not possible, and why.
    """

    def __init__(self, spec: m.ScheduleSpec, seed: bytes) -> None:
        zone = _zone(spec)
        self._calendars = [Calendar(each, zone) for each in spec.structured_calendar]
        self._intervals = [_interval_s(each) for each in spec.interval]
        clocks = [each.clock for each in self._calendars] + [_clock(*each) for each in self._intervals]
        excluded = [Calendar(each, zone) for each in spec.exclude_structured_calendar]
        self._excluded = [(each, each.row_s(clocks) if clocks else 1) for each in excluded]
        self._start_ms = timestamp_ms(spec.start_time) if spec.HasField("start_time") else None
        self._end_ms = timestamp_ms(spec.end_time) if spec.HasField("end_time") else None
        self.jitter_ms = _span_ms(spec.jitter, "the jitter")
        self._seed = seed
        self._asked_s: int | None = None
        """The latest question, which is often asked again, and its answer."""
        self._answer: Moment | None = None

    def next(self, after_ms: int) -> Moment | None:
        """The first action whose nominal instant is later than this one, epoch milliseconds; None after the last."""
        after_s = max(after_ms, _EARLIEST_MS) // 1000
        if after_s != self._asked_s:
            self._answer = self._next(after_s)
            self._asked_s = after_s
        return self._answer

    def _next(self, after_s: int) -> Moment | None:
        if self._start_ms is not None:
            after_s = max(after_s, -(-self._start_ms // 1000) - 1)
        nominal_s = self._next_kept(after_s)
        if nominal_s is None:
            return None
        nominal_ms = nominal_s * 1000
        if self._end_ms is not None and nominal_ms > self._end_ms:
            return None
        return Moment(nominal_ms, nominal_ms + self._delay_ms(nominal_s))

    def after(self, after_ms: int) -> Iterator[Moment]:
        """All actions whose nominal instant is later than this one, in order."""
        found = self.next(after_ms)
        while found is not None:
            yield found
            found = self.next(found.nominal_ms)

    def acting_after(self, after_ms: int, count: int) -> list[Moment]:
        """The first actions whose actual instant is later than this one."""
        moments = self.after(after_ms - self.jitter_ms - 1000)
        return list(islice((each for each in moments if each.actual_ms > after_ms), count))

    def _next_kept(self, after_s: int) -> int | None:
        for _ in range(_EXCLUDED_MAX):
            found_s = self._next_named(after_s)
            if found_s is None or found_s >= _END_S:
                return None
            if self._end_ms is not None and found_s * 1000 > self._end_ms:
                return found_s
            rows = [each.last_in_a_row(found_s, row_s) for each, row_s in self._excluded if each.matches(found_s)]
            if not rows:
                return found_s
            after_s = max(rows)
        return None

    def _next_named(self, after_s: int) -> int | None:
        found = [at_s for each in self._calendars if (at_s := each.next(after_s)) is not None]
        found += [
            (after_s - phase_s) // interval_s * interval_s + interval_s + phase_s
            for interval_s, phase_s in self._intervals
        ]
        return min(found, default=None)

    def _delay_ms(self, nominal_s: int) -> int:
        if not self.jitter_ms:
            return 0
        following_s = self._next_named(nominal_s)
        most_ms = self.jitter_ms if following_s is None else min(self.jitter_ms, (following_s - nominal_s) * 1000)
        digest = blake2b(b"%d" % nominal_s, key=self._seed[:64], digest_size=8).digest()
        return most_ms * int.from_bytes(digest, "big") // _FRACTIONS


def _clock(interval_s: int, phase_s: int) -> Clock:
    """Where the instants of an interval may be on the wall."""
    seconds = frozenset(range(60)) if interval_s % 60 else frozenset((phase_s % 60,))
    return Clock(seconds, frozenset(range(60)), frozenset(range(24)))


def _interval_s(spec: m.IntervalSpec) -> tuple[int, int]:
    """Interval and phase, seconds."""
    interval_s = _span_ms(spec.interval, "an interval") // 1000
    phase_s = _span_ms(spec.phase, "a phase") // 1000
    if interval_s < 1:
        raise ValueError("an interval is shorter than a second")
    if phase_s >= interval_s:
        raise ValueError(f"a phase of {phase_s} s is not shorter than its interval, {interval_s} s")
    return interval_s, phase_s


def _span_ms(span: Duration, what: str) -> int:
    if span.seconds < 0 or span.nanos < 0:
        raise ValueError(f"{what} is negative")
    return duration_ms(span)


def _zone(spec: m.ScheduleSpec) -> tzinfo:
    if spec.timezone_data:
        if len(spec.timezone_data) > _ZONE_BYTES_MAX:
            raise ValueError(f"the time zone's data has more than {_ZONE_BYTES_MAX} bytes")
        return _zone_of(spec.timezone_data)
    if spec.timezone_name in ("", "UTC"):
        return UTC
    try:
        return ZoneInfo(spec.timezone_name)
    except (ValueError, OSError, LookupError):
        raise ValueError(f"the time zone {spec.timezone_name!r} is unknown here") from None


@lru_cache(maxsize=256)
def _zone_of(data: bytes) -> tzinfo:
    try:
        return ZoneInfo.from_file(BytesIO(data))
    except Exception:  # The reader of such data raises whatever it stumbles over.
        raise ValueError("the time zone's data is no TZif file") from None
