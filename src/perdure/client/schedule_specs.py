"""What a schedule says besides its action: when it acts, by which policy, and whether it is paused.

The classes are those of `temporalio.client`. They are plain values that may be changed, as an update does it; times are
aware datetimes, spans timedeltas.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from perdure.api import messages as m
from perdure.api.durations import (
    datetime_of_ms,
    duration_ms,
    ms_of_timedelta,
    set_duration_ms,
    set_timestamp_ms,
    timestamp_ms,
)

__all__ = [
    "ScheduleBackfill",
    "ScheduleCalendarSpec",
    "ScheduleIntervalSpec",
    "ScheduleOverlapPolicy",
    "SchedulePolicy",
    "ScheduleRange",
    "ScheduleSpec",
    "ScheduleState",
]

_EPOCH = datetime_of_ms(0)
_FIELDS = ("second", "minute", "hour", "day_of_month", "month", "year", "day_of_week")


class ScheduleOverlapPolicy(IntEnum):
    """What becomes of an action while a workflow of the schedule runs."""

    SKIP = 1
    """It is left out."""
    BUFFER_ONE = 2
    """It waits if no other does; else it is left out."""
    BUFFER_ALL = 3
    """It waits for its turn."""
    CANCEL_OTHER = 4
    """The workflow is asked to cancel, and the action waits until it has ended."""
    TERMINATE_OTHER = 5
    """The workflow is terminated."""
    ALLOW_ALL = 6
    """It starts beside it. Results and failures are not handed on then."""


@dataclass(frozen=True, slots=True)
class ScheduleRange:
    """Values of one field of a calendar, from `start` to `end`, both included, every `step`."""

    start: int
    end: int = 0
    """`start` when it is less."""
    step: int = 0
    """1 when it is 0."""

    def __post_init__(self) -> None:
        if self.end < self.start:
            object.__setattr__(self, "end", self.start)
        if self.step == 0:
            object.__setattr__(self, "step", 1)


@dataclass(slots=True)
class ScheduleCalendarSpec:
    """Instants by the clock on the wall: those at which each field has one of its values."""

    second: Sequence[ScheduleRange] = (ScheduleRange(0),)
    minute: Sequence[ScheduleRange] = (ScheduleRange(0),)
    hour: Sequence[ScheduleRange] = (ScheduleRange(0),)
    day_of_month: Sequence[ScheduleRange] = (ScheduleRange(1, 31),)
    month: Sequence[ScheduleRange] = (ScheduleRange(1, 12),)
    year: Sequence[ScheduleRange] = ()
    """Every year when empty."""
    day_of_week: Sequence[ScheduleRange] = (ScheduleRange(0, 6),)
    """0 is Sunday."""
    comment: str | None = None

    @classmethod
    def from_proto(cls, proto: m.StructuredCalendarSpec) -> ScheduleCalendarSpec:
        """Make it from the API's message."""
        ranges = {
            name: tuple(ScheduleRange(each.start, each.end, each.step) for each in getattr(proto, name))
            for name in _FIELDS
        }
        return cls(**ranges, comment=proto.comment or None)

    def to_proto(self) -> m.StructuredCalendarSpec:
        """The API's message."""
        proto = m.StructuredCalendarSpec(comment=self.comment or "")
        for name in _FIELDS:
            values: Iterable[ScheduleRange] = getattr(self, name)
            getattr(proto, name).extend(m.Range(start=each.start, end=each.end, step=each.step) for each in values)
        return proto


@dataclass(slots=True)
class ScheduleIntervalSpec:
    """Instants that lie `every` so often, counted from the epoch (1970, UTC), and `offset` later."""

    every: timedelta
    offset: timedelta | None = None

    @classmethod
    def from_proto(cls, proto: m.IntervalSpec) -> ScheduleIntervalSpec:
        """Make it from the API's message."""
        return cls(_span(proto.interval), _span(proto.phase) if proto.HasField("phase") else None)

    def to_proto(self) -> m.IntervalSpec:
        """The API's message. Raises TypeError: a span is no timedelta."""
        proto = m.IntervalSpec()
        _set_span(proto.interval, self.every)
        _set_span(proto.phase, self.offset)
        return proto


@dataclass(slots=True)
class ScheduleSpec:
    """When a schedule acts: at all instants of its parts, but those to skip."""

    calendars: Sequence[ScheduleCalendarSpec] = ()
    intervals: Sequence[ScheduleIntervalSpec] = ()
    cron_expressions: Sequence[str] = ()
    """Of five fields, six (with a year) or seven (with a second), or ``@daily``, ``@every 90m``; ``CRON_TZ=zone`` may
    come first. Described schedules have calendars instead."""
    skip: Sequence[ScheduleCalendarSpec] = ()
    start_at: datetime | None = None
    end_at: datetime | None = None
    jitter: timedelta | None = None
    """Each action comes late by a part of this, never after the next one."""
    time_zone_name: str | None = None
    """For calendars and cron; UTC when None."""

    @classmethod
    def from_proto(cls, proto: m.ScheduleSpec) -> ScheduleSpec:
        """Make it from the API's message."""
        return cls(
            calendars=[ScheduleCalendarSpec.from_proto(each) for each in proto.structured_calendar],
            intervals=[ScheduleIntervalSpec.from_proto(each) for each in proto.interval],
            cron_expressions=list(proto.cron_string),
            skip=[ScheduleCalendarSpec.from_proto(each) for each in proto.exclude_structured_calendar],
            start_at=moment(proto, "start_time"),
            end_at=moment(proto, "end_time"),
            jitter=_span(proto.jitter) if proto.HasField("jitter") else None,
            time_zone_name=proto.timezone_name or None,
        )

    def to_proto(self) -> m.ScheduleSpec:
        """The API's message. Raises TypeError: a span or an instant is none; ValueError: a datetime has no zone."""
        proto = m.ScheduleSpec(
            structured_calendar=[each.to_proto() for each in self.calendars],
            interval=[each.to_proto() for each in self.intervals],
            cron_string=self.cron_expressions,
            exclude_structured_calendar=[each.to_proto() for each in self.skip],
            timezone_name=self.time_zone_name or "",
        )
        if self.start_at is not None:
            set_moment(proto.start_time, self.start_at)
        if self.end_at is not None:
            set_moment(proto.end_time, self.end_at)
        _set_span(proto.jitter, self.jitter)
        return proto


@dataclass(slots=True)
class ScheduleBackfill:
    """A span of the past, both ends included, whose actions are taken now."""

    start_at: datetime
    end_at: datetime
    overlap: ScheduleOverlapPolicy | None = None
    """The schedule's own when None."""

    def to_proto(self) -> m.BackfillRequest:
        """The API's message. Raises TypeError, ValueError: a datetime has no zone."""
        proto = m.BackfillRequest(overlap_policy=policy_number(self.overlap))
        set_moment(proto.start_time, self.start_at)
        set_moment(proto.end_time, self.end_at)
        return proto


@dataclass(slots=True)
class SchedulePolicy:
    """How a schedule acts."""

    overlap: ScheduleOverlapPolicy = ScheduleOverlapPolicy.SKIP
    catchup_window: timedelta = timedelta(days=365)
    """An action that could not be taken in time is taken later, up to this much; at least ten seconds."""
    pause_on_failure: bool = False
    """Pause when a workflow fails or times out, with all its retries."""
    keep_original_workflow_id: bool = False
    """Workflows have the action's id as it is, without the time of the action."""

    @classmethod
    def from_proto(cls, proto: m.SchedulePolicies) -> SchedulePolicy:
        """Make it from the API's message."""
        return cls(
            overlap=ScheduleOverlapPolicy(proto.overlap_policy or ScheduleOverlapPolicy.SKIP),
            catchup_window=_span(proto.catchup_window),
            pause_on_failure=proto.pause_on_failure,
            keep_original_workflow_id=proto.keep_original_workflow_id,
        )

    def to_proto(self) -> m.SchedulePolicies:
        """The API's message. Raises TypeError: the window is no timedelta."""
        proto = m.SchedulePolicies(
            overlap_policy=policy_number(self.overlap),
            pause_on_failure=self.pause_on_failure,
            keep_original_workflow_id=self.keep_original_workflow_id,
        )
        _set_span(proto.catchup_window, self.catchup_window)
        return proto


@dataclass(slots=True)
class ScheduleState:
    """Whether a schedule acts."""

    note: str | None = None
    paused: bool = False
    limited_actions: bool = False
    """Stop after so many actions."""
    remaining_actions: int = 0

    @classmethod
    def from_proto(cls, proto: m.ScheduleState) -> ScheduleState:
        """Make it from the API's message."""
        return cls(proto.notes or None, proto.paused, proto.limited_actions, proto.remaining_actions)

    def to_proto(self) -> m.ScheduleState:
        """The API's message."""
        return m.ScheduleState(
            notes=self.note or "",
            paused=self.paused,
            limited_actions=self.limited_actions,
            remaining_actions=self.remaining_actions,
        )


def policy_number(policy: ScheduleOverlapPolicy | None) -> Any:
    """An overlap policy in a message."""
    return 0 if policy is None else policy.value


def moment(message: Message, name: str) -> datetime | None:
    """An instant of a message; None if it is not set."""
    return datetime_of_ms(timestamp_ms(getattr(message, name))) if message.HasField(name) else None


def set_moment(target: Timestamp, at: datetime) -> None:
    """Write an instant. Raises TypeError: it is none; ValueError: it has no time zone."""
    if not isinstance(at, datetime):
        raise TypeError(f"an instant is given as a datetime, not {at!r}")
    if at.tzinfo is None:
        raise ValueError(f"{at!r} has no time zone: write datetime(…, tzinfo=UTC)")
    set_timestamp_ms(target, (at - _EPOCH) // timedelta(milliseconds=1))


def _span(duration: Duration) -> timedelta:
    return timedelta(milliseconds=duration_ms(duration))


def _set_span(target: Duration, span: timedelta | None) -> None:
    if span is not None:
        set_duration_ms(target, ms_of_timedelta(span))
