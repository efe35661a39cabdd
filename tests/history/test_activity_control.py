"""Activities that operators pause, resume, reset and change: the fold of the history stays what it was."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.api import StatusCode
from perdure.api import messages as m
from perdure.engine import history as h
from perdure.engine.history import activity_control as control
from tests.history.scenario import LIMITS, Scenario, app_failure, payloads, retry, schedule

POLICY = retry(initial_interval_s=10, backoff_coefficient=2.0)


def scheduled(**fields: Any) -> Scenario:
    scenario = Scenario()
    scenario.step(schedule("a", retry_policy=POLICY, **fields))
    return scenario


def pause(scenario: Scenario) -> h.Transition:
    return scenario.take(
        control.pause(scenario.run, [5], identity="me", reason="why", limits=LIMITS, now_ms=scenario.now_ms)
    )


def unpause(scenario: Scenario, **options: Any) -> h.Transition:
    return scenario.take(control.unpause(scenario.run, [5], now_ms=scenario.now_ms, **options))


def reset(scenario: Scenario, **options: Any) -> h.Transition:
    return scenario.take(control.reset(scenario.run, [5], now_ms=scenario.now_ms, **options))


def update(scenario: Scenario, *mask: str, **fields: Any) -> h.Transition:
    asked = m.ActivityOptions(**fields)
    return scenario.take(control.update_options(scenario.run, [5], asked, mask, limits=LIMITS, now_ms=scenario.now_ms))


def state_of(scenario: Scenario) -> m.PendingActivityInfo:
    (info,) = h.describe(scenario.run, scenario.now_ms).pending_activities
    return info


def name_of(info: m.PendingActivityInfo) -> str:
    return m.PendingActivityState.Name(info.state).removeprefix("PENDING_ACTIVITY_STATE_")


# -- pause


def test_a_paused_activity_waits_without_end() -> None:
    scenario = scheduled(schedule_to_start_timeout_s=30, schedule_to_close_timeout_s=100)
    scenario.pass_time(10_000)
    assert pause(scenario).changed
    assert not pause(scenario).changed
    assert not h.hot(scenario.run) and h.next_deadline_ms(scenario.run) is None
    assert h.dispatchable_activities(scenario.run, scenario.now_ms) == []
    info = state_of(scenario)
    assert info.paused and name_of(info) == "PAUSED"
    assert (info.pause_info.manual.identity, info.pause_info.manual.reason) == ("me", "why")
    assert info.pause_info.pause_time.ToMilliseconds() == scenario.now_ms
    scenario.refuse(StatusCode.NOT_FOUND, scenario.start_activity)
    scenario.reload()
    scenario.pass_time(1_000_000)
    assert unpause(scenario).activities == [5]
    assert not unpause(scenario).changed
    assert h.next_deadline_ms(scenario.run) == scenario.now_ms + 30_000
    scenario.start_activity()
    assert scenario.activity().scheduled_at_ms + 100_000 == scenario.now_ms + 90_000
    scenario.complete_activity(result=payloads(b"1"))


def test_a_started_activity_may_complete_while_it_is_paused() -> None:
    scenario = scheduled()
    scenario.start_activity()
    pause(scenario)
    assert name_of(state_of(scenario)) == "PAUSE_REQUESTED"
    scenario.complete_activity()
    assert scenario.names()[-2:] == ["ActivityTaskCompleted", "WorkflowTaskScheduled"]


def test_a_started_activity_that_fails_is_paused_then() -> None:
    scenario = scheduled(heartbeat_timeout_s=5)
    scenario.start_activity()
    pause(scenario)
    scenario.pass_time(1000)
    transition = scenario.fail_activity()
    assert transition.activities == [] and h.next_deadline_ms(scenario.run) is None
    assert name_of(state_of(scenario)) == "PAUSED" and state_of(scenario).attempt == 2
    scenario.pass_time(60_000)
    assert unpause(scenario).activities == [5]
    assert scenario.activity().attempt == 2


def test_timeouts_of_a_started_activity_go_on_in_a_pause() -> None:
    scenario = scheduled(heartbeat_timeout_s=5)
    scenario.start_activity()
    pause(scenario)
    transition = scenario.wait_due()
    assert transition.changed and transition.activities == []
    assert name_of(state_of(scenario)) == "PAUSED"


def test_a_pause_in_a_back_off_ends_it() -> None:
    scenario = scheduled()
    scenario.start_activity()
    scenario.fail_activity()
    pause(scenario)
    assert h.next_deadline_ms(scenario.run) is None
    assert unpause(scenario, delay_ms=700).activities == []
    assert h.next_deadline_ms(scenario.run) == scenario.now_ms + 700
    assert scenario.wait_due().activities == [5]


def test_what_fails_for_good_closes_all_the_same() -> None:
    scenario = scheduled()
    scenario.start_activity()
    pause(scenario)
    scenario.fail_activity(app_failure("no", non_retryable=True))
    assert "ActivityTaskFailed" in scenario.names()


def test_attempts_and_heartbeats_may_be_forgotten_on_the_way() -> None:
    scenario = scheduled()
    for _ in range(3):
        scenario.start_activity()
        scenario.heartbeat(payloads(b"5"))
        scenario.fail_activity()
        scenario.wait_due()
    pause(scenario)
    unpause(scenario, reset_attempts=True, reset_heartbeat=True)
    item = scenario.activity()
    assert (item.attempt, item.shown_attempt, item.heartbeat_details) == (4, 1, b"")
    assert state_of(scenario).attempt == 1
    scenario.start_activity()
    scenario.complete_activity()
    started = scenario.find("ActivityTaskStarted").activity_task_started_event_attributes
    assert started.attempt == 1


def test_forgotten_attempts_count_no_more() -> None:
    scenario = Scenario()
    scenario.step(schedule("a", retry_policy=retry(maximum_attempts=2, initial_interval_s=10)))
    scenario.start_activity()
    scenario.fail_activity()
    reset(scenario)
    scenario.start_activity()
    scenario.fail_activity()
    assert scenario.activity().shown_attempt == 2
    assert scenario.activity().next_attempt_at_ms == scenario.now_ms + 10_000
    scenario.wait_due()
    scenario.start_activity()
    scenario.fail_activity()
    assert "ActivityTaskFailed" in scenario.names()


# -- reset


def test_a_reset_begins_anew() -> None:
    scenario = scheduled(schedule_to_close_timeout_s=100)
    scenario.start_activity()
    scenario.fail_activity()
    scenario.pass_time(5000)
    transition = reset(scenario)
    assert transition.activities == [5]
    item = scenario.activity()
    assert (item.shown_attempt, item.next_attempt_at_ms, item.scheduled_at_ms) == (1, 0, scenario.now_ms)
    assert h.next_deadline_ms(scenario.run) == scenario.now_ms + 100_000
    assert not reset(scenario).activities, "it lies in its queue already"


def test_a_reset_ends_a_pause_unless_it_is_kept() -> None:
    scenario = scheduled()
    pause(scenario)
    assert reset(scenario, keep_paused=True).activities == []
    assert scenario.activity().paused
    assert reset(scenario, delay_ms=50).activities == []
    assert not scenario.activity().paused
    assert scenario.wait_due().activities == [5]


def test_a_started_activity_is_reset_after_its_attempt() -> None:
    scenario = scheduled()
    scenario.start_activity()
    scenario.fail_activity()
    scenario.wait_due()
    scenario.start_activity()
    scenario.heartbeat(payloads(b"5"))
    assert reset(scenario, reset_heartbeat=True).activities == []
    item = scenario.activity()
    assert item.control is not None and item.control.reset
    assert (item.shown_attempt, bool(item.heartbeat_details)) == (2, True)
    stale = item.attempt
    scenario.fail_activity()
    item = scenario.activity()
    assert (item.attempt, item.shown_attempt, item.heartbeat_details) == (3, 1, b"")
    assert not item.control.reset if item.control else False
    scenario.refuse(
        StatusCode.NOT_FOUND,
        h.complete_activity,
        scenario.run,
        5,
        stale,
        None,
        identity="",
        now_ms=scenario.now_ms,
    )


# -- options


def test_options_change_as_the_mask_says() -> None:
    scenario = scheduled(schedule_to_close_timeout_s=100, priority=m.Priority(priority_key=2, fairness_key="f"))
    asked: dict[str, Any] = {
        "start_to_close_timeout": {"seconds": 40},
        "heartbeat_timeout": {"seconds": 7},
        "retry_policy": {"maximum_attempts": 3, "backoff_coefficient": 9.0},
        "priority": {"priority_key": 4},
    }
    update(scenario, "start_to_close_timeout", "retryPolicy.maximumAttempts", "priority.priority_key", **asked)
    item = scenario.activity()
    assert (item.start_to_close_ms, item.heartbeat_ms, item.schedule_to_close_ms) == (40_000, 0, 100_000)
    assert item.retry is not None
    assert (item.retry.max_attempts, item.retry.coefficient, item.retry.initial_ms) == (3, 2.0, 10_000)
    options = control.options_of(item)
    assert options.priority == m.Priority(priority_key=4, fairness_key="f")
    assert options.start_to_close_timeout.seconds == 40
    scenario.take(control.restore_options(scenario.run, [5], now_ms=scenario.now_ms))
    item = scenario.activity()
    assert (item.start_to_close_ms, item.retry.max_attempts if item.retry else -1) == (10_000, 0)
    assert control.options_of(item).priority.priority_key == 2
    scenario.reload()


def test_the_worker_is_told_what_holds() -> None:
    scenario = scheduled(schedule_to_close_timeout_s=100)
    said = scenario.run.live.scheduled[5].task()
    assert control.told(scenario.activity(), said) is said
    update(
        scenario,
        "start_to_close_timeout",
        "retry_policy",
        start_to_close_timeout={"seconds": 3},
        retry_policy={"maximum_attempts": 7},
    )
    task = m.PollActivityTaskQueueResponse.FromString(control.told(scenario.activity(), said))
    assert (task.start_to_close_timeout.seconds, task.retry_policy.maximum_attempts) == (3, 7)
    assert task.input == payloads(b"3") and task.schedule_to_close_timeout.seconds == 100


def test_a_waiting_activity_moves_to_its_new_queue() -> None:
    scenario = scheduled()
    transition = update(scenario, "task_queue.name", task_queue={"name": "other"})
    assert transition.activities == [5]
    item = scenario.activity()
    assert (item.task_queue, item.attempt, item.shown_attempt) == ("other", 2, 1)


def test_a_back_off_is_computed_again() -> None:
    scenario = scheduled()
    scenario.start_activity()
    scenario.fail_activity()
    ended_ms = scenario.now_ms
    scenario.pass_time(1000)
    update(scenario, "retry_policy.initial_interval", retry_policy={"initial_interval": {"seconds": 4}})
    assert scenario.activity().next_attempt_at_ms == ended_ms + 4000
    update(scenario, "retry_policy.initial_interval", retry_policy={"initial_interval": {"nanos": 1_000_000}})
    assert scenario.activity().next_attempt_at_ms == scenario.now_ms


@pytest.mark.parametrize(
    ("mask", "fields"),
    [
        ([], {}),
        (["nonsense"], {}),
        (["retry_policy.colour"], {}),
        (["heartbeat_timeout.seconds"], {}),
        (["start_to_close_timeout"], {}),
        (["start_to_close_timeout"], {"start_to_close_timeout": {"seconds": -1}}),
        (["task_queue"], {}),
        (["task_queue"], {"task_queue": {"name": "x" * 1001}}),
        (["retry_policy"], {"retry_policy": {"backoff_coefficient": 0.5}}),
        (["priority"], {"priority": {"priority_key": -1}}),
    ],
)
def test_options_that_cannot_be_set(mask: list[str], fields: dict[str, Any]) -> None:
    scenario = scheduled()
    asked = m.ActivityOptions(**fields)
    scenario.refuse(
        StatusCode.INVALID_ARGUMENT,
        control.update_options,
        scenario.run,
        [5],
        asked,
        mask,
        limits=LIMITS,
        now_ms=scenario.now_ms,
    )


def test_which_activities_are_meant() -> None:
    scenario = Scenario()
    kinds = [m.ActivityType(name=name) for name in ("one", "two", "one")]
    scenario.step(*[schedule(f"a{at}", activity_type=kind) for at, kind in enumerate(kinds)])
    run = scenario.run
    assert control.select(run, activity_id="a1") == [6]
    assert control.select(run, activity_type="one") == [5, 7]
    assert control.select(run, every=True) == [5, 6, 7]
    scenario.refuse(StatusCode.NOT_FOUND, control.select, run, activity_id="a9")
    scenario.refuse(StatusCode.NOT_FOUND, control.select, run, activity_type="three")
    scenario.refuse(StatusCode.INVALID_ARGUMENT, control.select, run)
    scenario.terminate()
    scenario.refuse(StatusCode.NOT_FOUND, control.select, run, every=True)
