"""Durations and timestamps of the API, to and from integer milliseconds.

Inside the engine every instant is an ``int`` of milliseconds since the Unix epoch (``…_at_ms``, ``now_ms``) and
every span an ``int`` of milliseconds (``…_ms``), 0 meaning "not set". Conversions round a positive
sub-millisecond span up, so that "set" never becomes "not set".
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

__all__ = [
    "LATEST_MS",
    "LONGEST_MS",
    "datetime_of_ms",
    "duration_ms",
    "duration_of_ms",
    "ms_of_timedelta",
    "set_duration_ms",
    "set_timestamp_ms",
    "timestamp_ms",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


LONGEST_MS = 100 * 365 * 24 * 3600 * 1000
"""A hundred years: a longer span counts as this one, so that sums of instants and spans can be kept."""
LATEST_MS = 253_402_300_799_999
"""The end of the year 9999: a later instant counts as this one."""


def duration_ms(duration: Duration) -> int:
    """Milliseconds of a Duration, rounded up; 0 when it is unset or zero."""
    ms = duration.seconds * 1000 + -(-duration.nanos // 1_000_000)
    if -LONGEST_MS < ms < LONGEST_MS:
        return ms
    return LONGEST_MS if ms > 0 else -LONGEST_MS


def duration_of_ms(ms: int) -> Duration:
    """A Duration of `ms` milliseconds."""
    return Duration(seconds=ms // 1000, nanos=ms % 1000 * 1_000_000)


def set_duration_ms(duration: Duration, ms: int) -> None:
    """Write `ms` milliseconds into an existing Duration field."""
    duration.seconds = ms // 1000
    duration.nanos = ms % 1000 * 1_000_000


def timestamp_ms(timestamp: Timestamp) -> int:
    """Milliseconds since the epoch of a Timestamp."""
    at_ms = timestamp.seconds * 1000 + timestamp.nanos // 1_000_000
    if -LATEST_MS < at_ms < LATEST_MS:
        return at_ms
    return LATEST_MS if at_ms > 0 else -LATEST_MS


def set_timestamp_ms(timestamp: Timestamp, at_ms: int) -> None:
    """Write an instant in epoch milliseconds into an existing Timestamp field."""
    timestamp.seconds = at_ms // 1000
    timestamp.nanos = at_ms % 1000 * 1_000_000


def ms_of_timedelta(delta: timedelta) -> int:
    """Milliseconds of a timedelta, rounded up.

    Raises:
        TypeError: it is something else, such as a number of seconds.
    """
    if not isinstance(delta, timedelta):
        advice = f": write timedelta(seconds={delta})" if isinstance(delta, int | float) else ""
        raise TypeError(f"a span of time is given as a timedelta, not {delta!r}{advice}")
    return delta.days * 86_400_000 + delta.seconds * 1000 + -(-delta.microseconds // 1000)


def datetime_of_ms(at_ms: int) -> datetime:
    """An aware UTC datetime of an instant in epoch milliseconds."""
    return _EPOCH + timedelta(milliseconds=at_ms)
