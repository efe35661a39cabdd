"""When schedules act: compared with looking at every minute, and by laws."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import TZPATH, ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.api import messages as m
from perdure.api.durations import datetime_of_ms
from perdure.engine.schedules.calendars import FIELDS, Calendar
from perdure.engine.schedules.notations import calendar_of, cron_of
from perdure.engine.schedules.spec import Times, canonical

FULL = [field for field in FIELDS if field.name not in ("second", "year")]
ZONES = ["UTC", "America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Apia"]
DAY_S = 86_400


def at_ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000


def times_of(spec: m.ScheduleSpec, seed: bytes = b"seed") -> Times:
    return Times(canonical(spec), seed)


def texts(spec: m.ScheduleSpec, after: str, count: int) -> list[str]:
    """The next instants, in UTC."""
    found = times_of(spec).after(at_ms(after))
    return [datetime_of_ms(next(found).nominal_ms).strftime("%m-%d %H:%M:%S") for _ in range(count)]


@st.composite
def ranges(draw: st.DrawFn, low: int, high: int) -> list[m.Range]:
    found: list[m.Range] = []
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(low, high))
        end = draw(st.integers(low, high))
        found.append(m.Range(start=start, end=end, step=draw(st.integers(0, 7))))
    return found


@st.composite
def calendars(draw: st.DrawFn) -> m.StructuredCalendarSpec:
    calendar = m.StructuredCalendarSpec(second=[m.Range(start=0)])
    for field in FULL:
        free = field.name in ("day_of_month", "month", "day_of_week") and draw(st.booleans())
        chosen = [m.Range(start=field.low, end=field.high)] if free else draw(ranges(field.low, field.high))
        getattr(calendar, field.name).extend(chosen)
    return calendar


def holds(ranges: list[m.Range], value: int) -> bool:
    return any(
        each.start <= value <= max(each.end, each.start) and (value - each.start) % (each.step or 1) == 0
        for each in ranges
    )


def on_the_wall(calendar: m.StructuredCalendarSpec, wall: datetime) -> bool:
    """Whether a calendar matches, read off its definition."""
    shown = {
        "second": wall.second,
        "minute": wall.minute,
        "hour": wall.hour,
        "day_of_month": wall.day,
        "month": wall.month,
        "day_of_week": wall.isoweekday() % 7,
    }
    return all(holds(list(getattr(calendar, name)), value) for name, value in shown.items())


# Instants around changes of the clock in one zone or another, and anywhere.
STARTS = st.one_of(
    st.sampled_from(
        [
            at_ms(text) // 1000
            for text in ("2024-03-10", "2024-11-03", "2024-03-31", "2024-10-27", "2024-04-06", "2011-12-29")
        ]
    ).flatmap(lambda at_s: st.integers(at_s - DAY_S, at_s + DAY_S)),
    st.integers(946_684_800, 2_500_000_000),
)


@settings(max_examples=60, deadline=None)
@given(calendars(), st.sampled_from(ZONES), STARTS)
def test_the_next_instant_is_the_first_that_a_look_at_every_minute_finds(
    spec: m.StructuredCalendarSpec, zone: str, after_s: int
) -> None:
    tz = UTC if zone == "UTC" else ZoneInfo(zone)
    found = Calendar(spec, tz).next(after_s)
    first_s = after_s // 60 * 60 + 60
    minutes = range(first_s, first_s + 3 * DAY_S, 60)
    brute = next((at_s for at_s in minutes if on_the_wall(spec, datetime.fromtimestamp(at_s, tz))), None)
    if brute is None:
        assert found is None or found >= minutes.stop
    else:
        assert found == brute


@settings(max_examples=200, deadline=None)
@given(calendars(), st.sampled_from(ZONES), STARTS)
def test_what_is_found_matches_and_is_later(spec: m.StructuredCalendarSpec, zone: str, after_s: int) -> None:
    tz = UTC if zone == "UTC" else ZoneInfo(zone)
    calendar = Calendar(spec, tz)
    found = calendar.next(after_s)
    if found is None:
        return
    assert found > after_s
    assert on_the_wall(spec, datetime.fromtimestamp(found, tz)) and calendar.matches(found)
    # Nothing lies between: from any instant before it on, it is the next one.
    assert calendar.next((after_s + found) // 2) == found
    assert calendar.next(found - 1) == found


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 10_000_000), st.integers(0, 10_000_000), st.integers(0, 2_500_000_000))
def test_intervals_count_from_the_epoch(interval_s: int, phase_s: int, after_s: int) -> None:
    spec = m.ScheduleSpec()
    spec.interval.add().interval.seconds = interval_s
    spec.interval[0].phase.seconds = phase_s % interval_s
    found = times_of(spec).next(after_s * 1000)
    assert found is not None
    nominal_s = found.nominal_ms // 1000
    assert (nominal_s - phase_s % interval_s) % interval_s == 0
    assert after_s < nominal_s <= after_s + interval_s


@settings(max_examples=60, deadline=None)
@given(st.lists(calendars(), min_size=1, max_size=3), calendars(), st.integers(60, 100_000), STARTS)
def test_a_spec_is_the_union_without_what_is_excluded(
    included: list[m.StructuredCalendarSpec], excluded: m.StructuredCalendarSpec, interval_s: int, after_s: int
) -> None:
    spec = m.ScheduleSpec(structured_calendar=included, exclude_structured_calendar=[excluded])
    spec.interval.add().interval.seconds = interval_s // 60 * 60
    spec.timezone_name = "America/New_York"
    zone = ZoneInfo("America/New_York")
    found = times_of(spec).next(after_s * 1000)
    first_s = after_s // 60 * 60 + 60

    def named(at_s: int) -> bool:
        wall = datetime.fromtimestamp(at_s, zone)
        wanted = at_s % (interval_s // 60 * 60) == 0 or any(on_the_wall(each, wall) for each in included)
        return wanted and not on_the_wall(excluded, wall)

    minutes = range(first_s, first_s + 2 * DAY_S, 60)
    brute = next((at_s for at_s in minutes if named(at_s)), None)
    if brute is None:
        assert found is None or found.nominal_ms >= minutes.stop * 1000
    else:
        assert found is not None and found.nominal_ms == brute * 1000


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 200_000), st.integers(1, 500_000), st.integers(0, 2_000_000_000), st.binary(min_size=1, max_size=64)
)
def test_jitter_moves_no_action_past_the_next(interval_s: int, jitter_ms: int, after_s: int, seed: bytes) -> None:
    spec = m.ScheduleSpec()
    spec.interval.add().interval.seconds = interval_s
    spec.jitter.FromMilliseconds(jitter_ms)
    times = times_of(spec, seed)
    first = times.next(after_s * 1000)
    assert first is not None
    second = times.next(first.nominal_ms)
    assert second is not None
    assert first.nominal_ms <= first.actual_ms <= first.nominal_ms + jitter_ms
    assert first.actual_ms < second.nominal_ms
    assert times.next(after_s * 1000) == first, "asking again gives the same answer"
    assert first in times.acting_after(first.actual_ms - 1, 1)


def test_a_wall_time_that_is_skipped_does_not_come() -> None:
    spec = m.ScheduleSpec(cron_string=["TZ=America/New_York 30 2 * * *"])
    assert texts(spec, "2024-03-09T00:00:00", 3) == ["03-09 07:30:00", "03-11 06:30:00", "03-12 06:30:00"]


def test_a_wall_time_that_is_shown_twice_comes_twice() -> None:
    spec = m.ScheduleSpec(cron_string=["TZ=America/New_York 30 1 * * *"])
    assert texts(spec, "2024-11-02T12:00:00", 3) == ["11-03 05:30:00", "11-03 06:30:00", "11-04 06:30:00"]


def test_bounds_are_inclusive() -> None:
    spec = m.ScheduleSpec(cron_string=["@hourly"])
    spec.start_time.FromJsonString("2024-01-01T10:00:00Z")
    spec.end_time.FromJsonString("2024-01-01T11:00:00Z")
    found = list(times_of(spec).after(0))
    assert [each.nominal_ms for each in found] == [at_ms("2024-01-01T10:00:00"), at_ms("2024-01-01T11:00:00")]


@pytest.mark.parametrize(
    ("cron", "first"),
    [
        ("15 10 * * *", ["01-01 10:15:00", "01-02 10:15:00"]),
        ("0 0 13 * FRI", ["09-13 00:00:00", "12-13 00:00:00"]),
        ("*/20 9-10 * * 1-5", ["01-01 09:00:00", "01-01 09:20:00"]),
        ("0 0 1 jan,Jul * 2025", ["01-01 00:00:00", "07-01 00:00:00"]),
        ("30 0 12 * * sunday 2024-2030", ["01-07 12:00:30", "01-14 12:00:30"]),
        ("0 12 * * 5-7", ["01-05 12:00:00", "01-06 12:00:00"]),
        ("0 12 * * 7", ["01-07 12:00:00", "01-14 12:00:00"]),
        ("@daily", ["01-02 00:00:00", "01-03 00:00:00"]),
        ("@every 90m", ["01-01 01:30:00", "01-01 03:00:00"]),
        ("@every 1h/10m", ["01-01 00:10:00", "01-01 01:10:00"]),
        ("CRON_TZ=Europe/Berlin 0 0 * * * # midnight", ["01-01 23:00:00", "01-02 23:00:00"]),
        ("5/25 * * * *", ["01-01 00:05:00", "01-01 00:30:00"]),
    ],
)
def test_cron_strings(cron: str, first: list[str]) -> None:
    assert texts(m.ScheduleSpec(cron_string=[cron]), "2024-01-01T00:00:00", 2) == first


def test_the_canonical_form_has_calendars_in_structure() -> None:
    spec = m.ScheduleSpec(
        cron_string=["TZ=Europe/Berlin 0 12 * * MON # lunch", "@every 1h/5m"],
        calendar=[m.CalendarSpec(hour="8", day_of_week="2-4")],
        exclude_calendar=[m.CalendarSpec(month="7", comment="holidays")],
    )
    kept = canonical(spec)
    assert not (kept.cron_string or kept.calendar or kept.exclude_calendar)
    assert kept.timezone_name == "Europe/Berlin"
    assert [each.comment for each in kept.structured_calendar] == ["", "lunch"]
    assert kept.structured_calendar[0].day_of_week[0] == m.Range(start=2, end=4, step=1)
    assert not kept.structured_calendar[0].year
    assert kept.exclude_structured_calendar[0].comment == "holidays"
    assert (kept.interval[0].interval.seconds, kept.interval[0].phase.seconds) == (3600, 300)
    assert canonical(kept) == kept


@pytest.mark.parametrize(
    ("cron", "said"),
    [
        ("* * * *", "4 fields"),
        ("60 * * * *", "minute, which is from 0 to 59"),
        ("* * * * funday", "no value of day_of_week"),
        ("*/0 * * * *", "not positive"),
        ("@fortnightly", "@yearly"),
        ("@every soon", "no span"),
        ("@every 0s", "shorter than a second"),
        ("@every 1h/2h", "not shorter than its interval"),
        ("TZ=Mars/Olympus 0 0 * * *", "unknown"),
        ("0 0 * * * " + "#" * 2000, "longer"),
        ("9-8 * * * *", "does not fit"),
    ],
)
def test_bad_cron_strings_are_refused_with_the_reason(cron: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        canonical(m.ScheduleSpec(cron_string=[cron]))


def test_two_time_zones_are_refused() -> None:
    with pytest.raises(ValueError, match="two time zones"):
        canonical(m.ScheduleSpec(cron_string=["TZ=Europe/Berlin 0 0 * * *"], timezone_name="Asia/Tokyo"))


def test_a_calendar_without_a_field_matches_nothing() -> None:
    spec = m.ScheduleSpec(structured_calendar=[m.StructuredCalendarSpec(hour=[m.Range(start=1)])])
    assert times_of(spec).next(0) is None


def test_a_day_that_never_comes_ends_the_search() -> None:
    assert times_of(m.ScheduleSpec(cron_string=["0 0 30 2 *"])).next(at_ms("2024-01-01")) is None


def test_excluding_everything_ends_the_search() -> None:
    spec = m.ScheduleSpec(exclude_calendar=[m.CalendarSpec(second="*", minute="*", hour="*")])
    spec.interval.add().interval.seconds = 1
    assert times_of(spec).next(at_ms("2024-01-01")) is None


def test_a_long_exclusion_is_skipped_and_not_counted_through() -> None:
    spec = m.ScheduleSpec(exclude_calendar=[m.CalendarSpec(second="*", minute="*", hour="*", day_of_week="6,7")])
    spec.interval.add().interval.seconds = 1
    assert texts(spec, "2024-01-05T23:59:58", 2) == ["01-05 23:59:59", "01-08 00:00:00"]


def test_instants_that_an_exclusion_covers_are_skipped_day_by_day() -> None:
    spec = m.ScheduleSpec(
        cron_string=["TZ=Europe/Berlin * * * * *"], exclude_calendar=[m.CalendarSpec(minute="*", hour="*", month="3-7")]
    )
    assert texts(spec, "2024-02-29T22:58:30", 2) == ["02-29 22:59:00", "07-31 22:00:00"]


def test_a_zone_may_be_given_as_data() -> None:
    path = next(Path(folder) / "Asia/Tokyo" for folder in TZPATH if (Path(folder) / "Asia/Tokyo").exists())
    spec = m.ScheduleSpec(cron_string=["0 9 * * *"], timezone_data=path.read_bytes())
    assert texts(spec, "2024-01-01T00:00:00", 1) == ["01-02 00:00:00"]
    with pytest.raises(ValueError, match="no TZif file"):
        canonical(m.ScheduleSpec(timezone_data=b"nonsense"))


def test_values_outside_a_field_are_refused() -> None:
    with pytest.raises(ValueError, match="hour is from 0 to 23"):
        Calendar(m.StructuredCalendarSpec(hour=[m.Range(start=24)]))
    with pytest.raises(ValueError, match="negative"):
        Calendar(m.StructuredCalendarSpec(hour=[m.Range(start=1, end=2, step=-1)]))


def test_cron_and_calendar_strings_agree() -> None:
    cron = cron_of("5 4 3 2 1").calendar
    assert cron == calendar_of(m.CalendarSpec(minute="5", hour="4", day_of_month="3", month="2", day_of_week="1"))
