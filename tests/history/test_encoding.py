"""Rows, folds, retry arithmetic, and the events that are encoded without a message."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.api import messages as m
from perdure.api.framing import frame
from perdure.engine import history as h
from perdure.engine.history import events, frames, reports, retrying, terms
from perdure.engine.history.encoding import INLINE_ITEMS_MAX
from tests.history.scenario import Scenario, app_failure, finish, payloads, retry, schedule, timer


def test_a_run_with_few_items_is_one_row() -> None:
    scenario = Scenario()
    scenario.step(*(timer(f"t{number}") for number in range(INLINE_ITEMS_MAX)))
    encoded = h.encode(scenario.run)
    assert not encoded.items and not encoded.item_deletes
    assert h.decode(7, encoded.state, []).state == scenario.state


def test_a_run_with_many_items_writes_only_those_that_change() -> None:
    scenario = Scenario()
    count = INLINE_ITEMS_MAX + 1
    scenario.step(*(schedule(f"a{number}") for number in range(count)))
    encoded = h.encode(scenario.run)
    assert len(encoded.items) == count
    rows = dict(encoded.items)
    scenario.start_activity("a3")
    scenario.fail_activity(activity_id="a3")
    encoded = h.encode(scenario.run)
    assert [event_id for event_id, _ in encoded.items] == [scenario.activity("a3").event_id]
    rows.update(encoded.items)
    for number in range(5, count):
        scenario.start_activity(f"a{number}")
        scenario.complete_activity(f"a{number}")
    encoded = h.encode(scenario.run)
    assert not encoded.items and len(encoded.item_deletes) == count - 5
    for event_id in encoded.item_deletes:
        del rows[event_id]
    assert h.decode(7, encoded.state, list(rows.items())).state == scenario.state
    assert h.encode(scenario.run)[1:] == ([], [])
    scenario.step(finish())
    assert sorted(h.encode(scenario.run).item_deletes) == sorted(rows)


def test_rows_of_another_layout_are_told_apart() -> None:
    scenario = Scenario()
    row = msgspec.msgpack.decode(h.encode(scenario.run).state)
    row[0] = 99
    with pytest.raises(h.StateVersionError):
        h.decode(7, msgspec.msgpack.encode(row), [])
    with pytest.raises(h.StateVersionError):
        h.decode(7, msgspec.msgpack.encode(["what", "is", "this"]), [])


def test_shorter_rows_of_an_older_release_load() -> None:
    scenario = Scenario()
    row = msgspec.msgpack.decode(h.encode(scenario.run).state)
    assert h.decode(7, msgspec.msgpack.encode(row[:-2]), []).state.run_id == "run-1"


def test_damaged_histories_are_refused() -> None:
    scenario = Scenario()
    with pytest.raises(ValueError, match="run 7"):
        h.fold(7, scenario.frames[1:])
    with pytest.raises(ValueError, match="run 7"):
        h.fold(7, [*scenario.frames, scenario.frames[-1]])
    unknown = frame(m.HistoryEvent(event_id=3, event_type=m.EventType.ValueType(999)))
    with pytest.raises(ValueError, match="unknown type"):
        h.fold(7, [*scenario.frames, unknown])
    with pytest.raises(ValueError, match="run 7"):
        h.fold(7, [b"\x0a\x05junk"])


IDS = st.one_of(st.integers(1, 300), st.sampled_from([2047, 2048, 16_383, 16_384, 2_097_151, 2_097_152, 10**9]))
EVENT_IDS = st.one_of(st.just(0), IDS)
REFERENCES = st.one_of(IDS, st.just(-1))
INSTANTS = st.one_of(st.integers(0, 4_000_000_000_000), st.just(1_700_000_000_000))
TEXTS = st.text(max_size=300)


def same(framed: bytes, event: m.HistoryEvent) -> None:
    assert framed == frame(event)
    assert frames.body_of(framed) == event.SerializeToString()


@given(st.tuples(EVENT_IDS, INSTANTS, TEXTS, TEXTS, st.integers(0, 10**9), st.integers(1, 500)))
def test_encoded_task_scheduled(arguments: Any) -> None:
    same(frames.task_scheduled(*arguments), events.task_scheduled(*arguments))


SUGGESTIONS = st.none() | st.lists(st.sampled_from([1, 2]), max_size=2)


@given(st.tuples(EVENT_IDS, INSTANTS, IDS, TEXTS, TEXTS, st.integers(0, 10**8), SUGGESTIONS))
def test_encoded_task_started(arguments: Any) -> None:
    same(frames.task_started(*arguments), events.task_started(*arguments))


@given(EVENT_IDS, INSTANTS, IDS, IDS, TEXTS, st.sampled_from(["", "sdk", "stamp", "deployment", "metering"]))
def test_encoded_task_completed(
    event_id: int, at_ms: int, scheduled: int, started: int, identity: str, extra: str
) -> None:
    request = m.RespondWorkflowTaskCompletedRequest(identity=identity)
    if extra == "sdk":
        request.sdk_metadata.lang_used_flags.append(3)
    elif extra == "stamp":
        request.worker_version_stamp.build_id = "b"
    elif extra == "deployment":
        request.deployment_options.deployment_name = "d"
    elif extra == "metering":
        request.metering_metadata.nonfirst_local_activity_execution_attempts = 1
    _, manner = reports.read(request)
    framed = frames.task_completed(event_id, at_ms, scheduled, started, manner.event)
    same(framed, events.task_completed(event_id, at_ms, scheduled, started, request))


@given(EVENT_IDS, INSTANTS, IDS, TEXTS, st.integers(1, 10**6), st.sampled_from(["", "short", "x" * 3000]))
def test_encoded_activity_started(
    event_id: int, at_ms: int, scheduled: int, identity: str, attempt: int, failed: str
) -> None:
    failure = m.Failure(message=failed).SerializeToString()
    arguments = (event_id, at_ms, scheduled, identity, attempt, failure)
    same(frames.activity_started(*arguments), events.activity_started(*arguments))


@given(EVENT_IDS, INSTANTS, IDS, REFERENCES, st.none() | st.binary(max_size=400), TEXTS)
def test_encoded_activity_completed(
    event_id: int, at_ms: int, scheduled: int, started: int, result: bytes | None, identity: str
) -> None:
    value = None if result is None else payloads(result)
    data = None if value is None else value.SerializeToString()
    same(
        frames.activity_completed(event_id, at_ms, scheduled, started, data, identity),
        events.activity_completed(event_id, at_ms, scheduled, started, value, identity),
    )


@pytest.mark.parametrize("with_policy", [False, True])
def test_encoded_activity_scheduled(with_policy: bool) -> None:
    command = schedule(request_eager_execution=with_policy).schedule_activity_task_command_attributes
    if with_policy:
        command.retry_policy.CopyFrom(retry(maximum_attempts=3))
    command.priority.priority_key = 4
    before = command.SerializeToString(deterministic=True)
    policy = retrying.policy_of(command.retry_policy)
    asked = terms.read(command.SerializeToString(), "", 0)
    framed = frames.activity_scheduled(9, 1000, asked.event(8))
    assert m.HistoryEvent.FromString(frames.body_of(framed)) == events.activity_scheduled(
        9, 1000, command, policy.message, 8
    )
    assert command.SerializeToString(deterministic=True) == before


def test_activity_command_and_event_share_their_field_numbers() -> None:
    """What encoding the one from the other's bytes rests on."""
    command = m.ScheduleActivityTaskCommandAttributes.DESCRIPTOR.fields_by_name
    event = m.ActivityTaskScheduledEventAttributes.DESCRIPTOR.fields_by_name
    shared = set(command) & set(event)
    assert set(command) - shared == {"request_eager_execution"}
    assert set(event) - shared == {"workflow_task_completed_event_id"}
    differing = {name for name in shared if command[name].number != event[name].number}
    assert differing == {"retry_policy"}
    assert command["retry_policy"].number == event["workflow_task_completed_event_id"].number
    assert command["request_eager_execution"].number == event["retry_policy"].number


@pytest.mark.parametrize(
    ("attempt", "delay_ms"), [(1, 1000), (2, 2000), (3, 4000), (7, 64_000), (8, 100_000), (5000, 100_000)]
)
def test_back_off_grows_to_its_maximum(attempt: int, delay_ms: int) -> None:
    assert retrying.backoff_ms(retrying.DEFAULT.retry, attempt) == delay_ms


@given(st.floats(1, 100), st.integers(1, 10**6), st.integers(1, 10**7), st.integers(1, 10**6))
def test_back_off_is_never_beyond_its_maximum(
    coefficient: float, initial_ms: int, maximum_ms: int, attempt: int
) -> None:
    policy = h.Retry(initial_ms=min(initial_ms, maximum_ms), coefficient=coefficient, maximum_ms=maximum_ms)
    assert policy.initial_ms <= retrying.backoff_ms(policy, attempt) <= maximum_ms


def test_time_outs_may_be_named_non_retryable() -> None:
    failure = m.Failure()
    failure.timeout_failure_info.timeout_type = m.TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE
    assert retrying.is_retryable(failure, ())
    assert not retrying.is_retryable(failure, ("TemporalTimeout:StartToClose",))
    assert retrying.is_retryable(m.Failure(message="anything"), ())


def test_no_policy_no_retry() -> None:
    outcome = retrying.next_attempt(None, 1, app_failure("x"), expires_at_ms=0, now_ms=0)
    assert outcome.retry_state == m.RetryState.RETRY_STATE_RETRY_POLICY_NOT_SET


def test_not_a_number_is_no_coefficient() -> None:
    with pytest.raises(ValueError, match="BackoffCoefficient"):
        retrying.policy_of(retry(backoff_coefficient=float("nan")))
