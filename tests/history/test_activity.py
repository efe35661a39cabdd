"""Activities: attempts, the four timeouts, heartbeats, cancellation."""

from __future__ import annotations

import pytest

from perdure.api import StatusCode
from perdure.api import messages as m
from perdure.engine import history as h
from perdure.engine.history.activity import HELD_KEY
from tests.history.scenario import (
    LIMITS,
    START_MS,
    Scenario,
    app_failure,
    cancel_activity,
    finish,
    payloads,
    retry,
    schedule,
)

IN_PROGRESS = m.RetryState.RETRY_STATE_IN_PROGRESS
ONCE = retry(maximum_attempts=1)


def scheduled(**fields: object) -> Scenario:
    scenario = Scenario()
    scenario.step(schedule(**fields))
    return scenario


def test_scheduled_event_says_what_will_hold() -> None:
    scenario = scheduled()
    assert scenario.last.activities == [5]
    event = scenario.event(5)
    task = m.PollActivityTaskQueueResponse.FromString(scenario.run.live.scheduled[5].task())
    told = h.asked_by(event.activity_task_scheduled_event_attributes)
    assert task == m.PollActivityTaskQueueResponse.FromString(told.task())
    assert told.payloads() == scenario.run.live.scheduled[5].payloads() == task.input.SerializeToString()
    attributes = event.activity_task_scheduled_event_attributes
    assert (attributes.activity_id, attributes.activity_type.name, attributes.task_queue.name) == (
        "a",
        "charge",
        "orders",
    )
    assert attributes.input == payloads(b"3")
    assert attributes.workflow_task_completed_event_id == 4
    assert attributes.start_to_close_timeout.ToSeconds() == 10
    policy = attributes.retry_policy
    assert (policy.initial_interval.ToSeconds(), policy.backoff_coefficient) == (1, 2.0)
    assert (policy.maximum_interval.ToSeconds(), policy.maximum_attempts) == (100, 0)


@pytest.mark.parametrize(
    ("given", "run_timeout", "expected"),
    [
        ({"start_to_close_timeout_s": 10}, 0, (0, 0, 10, 0)),
        ({"start_to_close_timeout_s": 10, "heartbeat_timeout_s": 30}, 0, (0, 0, 10, 10)),
        ({"schedule_to_close_timeout_s": 60}, 0, (60, 60, 60, 0)),
        ({"schedule_to_close_timeout_s": 60, "start_to_close_timeout_s": 90}, 0, (60, 60, 60, 0)),
        ({"schedule_to_close_timeout_s": 60, "schedule_to_start_timeout_s": 5}, 0, (60, 5, 60, 0)),
        ({"start_to_close_timeout_s": 10}, 40, (40, 40, 10, 0)),
        ({"start_to_close_timeout_s": 90, "heartbeat_timeout_s": 50}, 40, (40, 40, 40, 40)),
    ],
)
def test_timeouts_are_deduced_and_bounded(
    given: dict[str, int], run_timeout: int, expected: tuple[int, int, int, int]
) -> None:
    scenario = Scenario(workflow_run_timeout_s=run_timeout)
    scenario.step(schedule(**{"start_to_close_timeout_s": None, **given}))
    item = scenario.activity()
    found = (item.schedule_to_close_ms, item.schedule_to_start_ms, item.start_to_close_ms, item.heartbeat_ms)
    assert found == tuple(seconds * 1000 for seconds in expected)
    attributes = scenario.event(5).activity_task_scheduled_event_attributes
    assert attributes.start_to_close_timeout.ToMilliseconds() == item.start_to_close_ms
    assert attributes.schedule_to_close_timeout.ToMilliseconds() == item.schedule_to_close_ms


def test_started_is_written_with_the_completion() -> None:
    scenario = scheduled()
    scenario.pass_time(100)
    scenario.start_activity()
    scenario.pass_time(200)
    transition = scenario.complete_activity(result=payloads(b"ok"))
    assert transition.workflow_task
    assert scenario.names(6) == ["ActivityTaskStarted", "ActivityTaskCompleted", "WorkflowTaskScheduled"]
    assert scenario.event(6).event_time.ToMilliseconds() == START_MS + 100
    started = scenario.event(6).activity_task_started_event_attributes
    assert (started.scheduled_event_id, started.attempt, started.identity) == (5, 1, "actor")
    completed = scenario.event(7).activity_task_completed_event_attributes
    assert (completed.scheduled_event_id, completed.started_event_id, completed.identity) == (5, 6, "actor")
    assert completed.result == payloads(b"ok")


def test_an_attempt_is_handed_out_once_and_may_be_released() -> None:
    scenario = scheduled()
    assert h.dispatchable_activities(scenario.run, scenario.now_ms) == [5]
    scenario.start_activity()
    assert h.dispatchable_activities(scenario.run, scenario.now_ms) == []
    scenario.refuse(StatusCode.NOT_FOUND, h.start_activity, scenario.run, 5, identity="b", now_ms=scenario.now_ms)
    assert not scenario.take(h.release_activity(scenario.run, 5, 2, now_ms=scenario.now_ms)).changed
    assert h.dispatchable_activities(scenario.run, scenario.now_ms) == [], "that is another attempt"
    for _ in range(2):
        assert not scenario.take(h.release_activity(scenario.run, 5, 1, now_ms=scenario.now_ms)).changed
        assert h.dispatchable_activities(scenario.run, scenario.now_ms) == [5]


def test_a_hand_out_to_another_process_is_in_the_row_and_may_be_released() -> None:
    scenario = scheduled(heartbeat_timeout_s=3)
    scenario.start_activity()
    scenario.take(h.hold_activity(scenario.run, 5, now_ms=scenario.now_ms))
    copy = scenario.copy()
    assert h.dispatchable_activities(copy, scenario.now_ms) == []
    assert not h.hot(copy)
    assert h.next_deadline_ms(copy) == scenario.now_ms + 3_000
    assert scenario.take(h.release_activity(scenario.run, 5, 1, now_ms=scenario.now_ms)).changed
    assert h.dispatchable_activities(scenario.copy(), scenario.now_ms) == [5]


def test_late_duplicate_and_stale_reports_are_refused() -> None:
    scenario = scheduled()
    scenario.start_activity()
    run, now_ms = scenario.run, scenario.now_ms

    def refuse_all(event_id: int, attempt: int) -> None:
        arguments = {"identity": "actor", "now_ms": now_ms}
        scenario.refuse(StatusCode.NOT_FOUND, h.complete_activity, run, event_id, attempt, None, **arguments)
        failure = app_failure("x")
        scenario.refuse(StatusCode.NOT_FOUND, h.fail_activity, run, event_id, attempt, failure, **arguments)
        scenario.refuse(StatusCode.NOT_FOUND, h.cancel_activity, run, event_id, attempt, None, **arguments)
        scenario.refuse(StatusCode.NOT_FOUND, h.heartbeat_activity, run, event_id, attempt, None, **arguments)

    refuse_all(5, 2)
    refuse_all(4, 1)
    scenario.fail_activity()
    refuse_all(5, 1)
    refuse_all(5, 2)  # Backing off: nobody can hold the second attempt yet.
    scenario.wait_due()
    scenario.complete_activity()
    refuse_all(5, 2)
    scenario.refuse(StatusCode.NOT_FOUND, h.activity_by_id, run, "a")
    scenario.refuse(StatusCode.NOT_FOUND, h.start_activity, run, 5, identity="b", now_ms=now_ms)


def test_retries_back_off_and_the_last_attempt_is_recorded() -> None:
    scenario = scheduled(retry_policy=retry(maximum_attempts=4, maximum_interval_s=3))
    waits: list[int] = []
    for number in range(3):
        scenario.start_activity()
        assert not scenario.fail_activity(app_failure(f"broken {number}")).frames
        item = scenario.activity()
        waits.append(item.next_attempt_at_ms - scenario.now_ms)
        assert not h.hot(scenario.run)
        assert h.wake_at_ms(scenario.run) == item.next_attempt_at_ms
        assert h.dispatchable_activities(scenario.run, scenario.now_ms) == []
        assert scenario.wait_due().activities == [5]
        assert h.hot(scenario.run)
    assert waits == [1000, 2000, 3000]
    scenario.start_activity()
    scenario.fail_activity(app_failure("broken for good"))
    started = scenario.find("ActivityTaskStarted").activity_task_started_event_attributes
    assert (started.attempt, started.last_failure.message) == (4, "broken 2")
    failed = scenario.find("ActivityTaskFailed").activity_task_failed_event_attributes
    assert failed.retry_state == m.RetryState.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED
    assert failed.failure.message == "broken for good"


def test_a_retry_survives_a_restart() -> None:
    scenario = scheduled()
    scenario.start_activity()
    scenario.fail_activity()
    scenario.reload()
    scenario.wait_due()
    assert scenario.activity().attempt == 2
    scenario.start_activity()
    scenario.reload()
    assert h.dispatchable_activities(scenario.run, scenario.now_ms) == [5]
    scenario.complete_activity()


@pytest.mark.parametrize(
    ("failure", "policy", "state"),
    [
        (app_failure("x", non_retryable=True), retry(), "NON_RETRYABLE_FAILURE"),
        (app_failure("x", "Fatal"), retry(non_retryable=["Fatal"]), "NON_RETRYABLE_FAILURE"),
        (app_failure("x"), ONCE, "MAXIMUM_ATTEMPTS_REACHED"),
        (m.Failure(canceled_failure_info=m.CanceledFailureInfo()), retry(), "NON_RETRYABLE_FAILURE"),
        (m.Failure(server_failure_info=m.ServerFailureInfo(non_retryable=True)), retry(), "NON_RETRYABLE_FAILURE"),
    ],
)
def test_failures_that_are_not_retried(failure: m.Failure, policy: m.RetryPolicy, state: str) -> None:
    scenario = scheduled(retry_policy=policy)
    scenario.start_activity()
    assert scenario.fail_activity(failure).workflow_task
    failed = scenario.find("ActivityTaskFailed").activity_task_failed_event_attributes
    assert m.RetryState.Name(failed.retry_state) == f"RETRY_STATE_{state}"
    assert (failed.scheduled_event_id, failed.started_event_id) == (5, 6)


def test_the_failure_may_name_the_delay() -> None:
    scenario = scheduled()
    scenario.start_activity()
    scenario.fail_activity(app_failure("x", next_retry_delay_s=77))
    assert scenario.activity().next_attempt_at_ms == START_MS + 77_000
    scenario.wait_due()
    scenario.start_activity()
    transition = scenario.fail_activity(app_failure("x", next_retry_delay_s=0))
    assert transition.activities == [5]
    assert scenario.activity().attempt == 3


def test_schedule_to_close_bounds_retries() -> None:
    scenario = scheduled(schedule_to_close_timeout_s=5, retry_policy=retry(initial_interval_s=3))
    scenario.start_activity()
    scenario.fail_activity()
    scenario.wait_due()
    scenario.start_activity()
    scenario.fail_activity(app_failure("last"))
    failed = scenario.find("ActivityTaskFailed").activity_task_failed_event_attributes
    assert failed.retry_state == m.RetryState.RETRY_STATE_TIMEOUT
    assert failed.failure.message == "last"


def timed_out(scenario: Scenario) -> m.ActivityTaskTimedOutEventAttributes:
    return scenario.find("ActivityTaskTimedOut").activity_task_timed_out_event_attributes


def test_schedule_to_start() -> None:
    scenario = scheduled(schedule_to_start_timeout_s=3)
    scenario.pass_time(2999)
    assert not scenario.wake().changed
    scenario.pass_time(1)
    assert scenario.wake().workflow_task
    assert scenario.names(6) == ["ActivityTaskTimedOut", "WorkflowTaskScheduled"]
    attributes = timed_out(scenario)
    info = attributes.failure.timeout_failure_info
    assert info.timeout_type == m.TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_START
    assert attributes.failure.message == "activity ScheduleToStart timeout"
    assert (attributes.scheduled_event_id, attributes.started_event_id) == (5, 0)
    assert attributes.retry_state == m.RetryState.RETRY_STATE_NON_RETRYABLE_FAILURE


def test_schedule_to_start_is_over_once_started_and_begins_anew_after_recovery() -> None:
    scenario = scheduled(schedule_to_start_timeout_s=3)
    scenario.start_activity()
    scenario.pass_time(5000)
    assert not scenario.wake().changed
    state, items = h.encode(scenario.run)[:2]
    scenario.run = h.decode(7, state, items, recovered_at_ms=scenario.now_ms)
    scenario.check_indexes()
    assert h.next_deadline_ms(scenario.run) == scenario.now_ms + 3000


def test_start_to_close_is_retried_then_final() -> None:
    scenario = scheduled(retry_policy=retry(maximum_attempts=2))
    scenario.start_activity()
    assert not scenario.wait_due().frames
    assert scenario.now_ms == START_MS + 10_000
    assert scenario.wait_due().activities == [5]
    scenario.start_activity()
    scenario.pass_time(10_000)
    scenario.wake()
    attributes = timed_out(scenario)
    assert attributes.failure.timeout_failure_info.timeout_type == m.TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE
    assert attributes.failure.cause.message == "activity StartToClose timeout"
    assert attributes.retry_state == m.RetryState.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED
    started = scenario.find("ActivityTaskStarted").activity_task_started_event_attributes
    assert (started.attempt, attributes.started_event_id) == (2, scenario.find("ActivityTaskStarted").event_id)


def test_schedule_to_close_while_backing_off() -> None:
    scenario = scheduled(schedule_to_close_timeout_s=20, retry_policy=retry(initial_interval_s=10))
    scenario.start_activity()
    scenario.fail_activity(app_failure("first"))
    scenario.pass_time(20_000)
    scenario.wake()
    attributes = timed_out(scenario)
    assert attributes.failure.timeout_failure_info.timeout_type == m.TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE
    assert attributes.failure.cause.message == "first"
    assert attributes.started_event_id == 0


def test_no_time_left_for_another_attempt() -> None:
    scenario = scheduled(
        schedule_to_close_timeout_s=12, start_to_close_timeout_s=10, retry_policy=retry(initial_interval_s=5)
    )
    scenario.start_activity()
    scenario.wait_due()
    attributes = timed_out(scenario)
    assert attributes.retry_state == m.RetryState.RETRY_STATE_TIMEOUT
    assert attributes.failure.message.startswith("Not enough time to schedule next retry")


def test_heartbeats_keep_it_alive_and_details_survive_retries() -> None:
    scenario = scheduled(heartbeat_timeout_s=2)
    scenario.start_activity()
    for number in range(3):
        scenario.pass_time(1500)
        assert scenario.heartbeat(payloads(b"%d" % number)).changed
    assert not scenario.heartbeat().changed
    scenario.pass_time(1999)
    assert not scenario.wake().changed
    scenario.pass_time(1)
    assert scenario.wake().changed
    item = scenario.activity()
    assert item.attempt == 2
    assert m.Payloads.FromString(item.heartbeat_details) == payloads(b"2")
    failure = m.Failure.FromString(item.last_failure)
    assert failure.timeout_failure_info.timeout_type == m.TimeoutType.TIMEOUT_TYPE_HEARTBEAT
    assert failure.timeout_failure_info.last_heartbeat_details == payloads(b"2")
    scenario.wait_due()
    scenario.start_activity()
    scenario.fail_activity(last_heartbeat_details=payloads(b"last"))
    assert m.Payloads.FromString(scenario.activity().heartbeat_details) == payloads(b"last")


def test_a_heartbeat_of_an_attempt_that_outlived_the_engine_adopts_it() -> None:
    scenario = scheduled(heartbeat_timeout_s=2)
    scenario.start_activity()
    scenario.reload()
    scenario.heartbeat(payloads(b"1"))
    assert h.dispatchable_activities(scenario.run, scenario.now_ms) == []


def test_asynchronous_completion_survives_a_restart() -> None:
    scenario = scheduled()
    scenario.start_activity()
    details = payloads(b"kept")
    held = details.payloads.add()
    held.metadata[HELD_KEY] = b"1"
    scenario.pass_time(10)
    scenario.heartbeat(details)
    assert m.Payloads.FromString(scenario.activity().heartbeat_details) == payloads(b"kept")
    scenario.reload()
    assert h.dispatchable_activities(scenario.run, scenario.now_ms) == []
    assert not h.hot(scenario.run)
    assert h.wake_at_ms(scenario.run) == START_MS + 10_000
    assert scenario.heartbeat().changed
    scenario.reload()
    scenario.refuse(StatusCode.NOT_FOUND, h.start_activity, scenario.run, 5, identity="b", now_ms=scenario.now_ms)
    scenario.pass_time(100)
    scenario.complete_activity()
    assert scenario.find("ActivityTaskStarted").event_time.ToMilliseconds() == START_MS


def test_a_held_attempt_that_times_out_is_handed_out_again() -> None:
    scenario = scheduled()
    scenario.start_activity()
    details = m.Payloads()
    details.payloads.add().metadata[HELD_KEY] = b"1"
    scenario.heartbeat(details)
    scenario.reload()
    scenario.wait_due()
    scenario.wait_due()
    assert scenario.activity().attempt == 2
    assert h.dispatchable_activities(scenario.run, scenario.now_ms) == [5]


def test_cancel_before_a_start_closes_at_once() -> None:
    scenario = scheduled()
    scenario.signal()
    transition = scenario.step(cancel_activity(5))
    assert transition.workflow_task and not transition.activities
    assert scenario.names(10) == ["ActivityTaskCancelRequested", "ActivityTaskCanceled", "WorkflowTaskScheduled"]
    canceled = scenario.event(11).activity_task_canceled_event_attributes
    assert (canceled.scheduled_event_id, canceled.started_event_id) == (5, 0)
    assert canceled.latest_cancel_requested_event_id == 10
    assert canceled.details == payloads(b'"ACTIVITY_ID_NOT_STARTED"')


def test_cancel_of_a_running_attempt_waits_for_it() -> None:
    scenario = scheduled()
    scenario.start_activity()
    scenario.refuse(
        StatusCode.INVALID_ARGUMENT,
        h.cancel_activity,
        scenario.run,
        5,
        1,
        None,
        identity="actor",
        now_ms=scenario.now_ms,
    )
    scenario.signal()
    assert not scenario.step(cancel_activity(5)).workflow_task
    assert scenario.activity().cancel_requested_event_id == 10
    scenario.heartbeat()
    scenario.take(h.cancel_activity(scenario.run, 5, 1, payloads(b"undone"), identity="actor", now_ms=scenario.now_ms))
    assert scenario.names(11) == ["ActivityTaskStarted", "ActivityTaskCanceled", "WorkflowTaskScheduled"]
    canceled = scenario.event(12).activity_task_canceled_event_attributes
    assert (canceled.started_event_id, canceled.latest_cancel_requested_event_id) == (11, 10)
    assert canceled.details == payloads(b"undone")


def test_a_failure_after_a_cancel_request_is_not_retried() -> None:
    scenario = scheduled()
    scenario.start_activity()
    scenario.signal()
    scenario.step(cancel_activity(5))
    scenario.fail_activity()
    failed = scenario.find("ActivityTaskFailed").activity_task_failed_event_attributes
    assert failed.retry_state == m.RetryState.RETRY_STATE_CANCEL_REQUESTED


def test_cancel_of_an_activity_whose_completion_is_buffered() -> None:
    scenario = scheduled()
    scenario.start_activity()
    scenario.signal()
    scenario.start_task()
    scenario.complete_activity()
    scenario.complete(cancel_activity(5))
    assert scenario.names(10) == [
        "ActivityTaskCancelRequested",
        "ActivityTaskStarted",
        "ActivityTaskCompleted",
        "WorkflowTaskScheduled",
    ]


def test_a_run_may_close_right_after_cancelling_an_activity() -> None:
    scenario = scheduled()
    scenario.signal()
    scenario.step(cancel_activity(5), finish())
    assert scenario.names(10) == ["ActivityTaskCancelRequested", "WorkflowCompleted"]
    assert not scenario.state.buffered


def test_oversized_details_of_a_cancelled_activity() -> None:
    scenario = scheduled()
    scenario.start_activity()
    scenario.signal()
    scenario.step(cancel_activity(5))
    big = payloads(b"x" * (LIMITS.blob_bytes + 1))
    scenario.refuse(
        StatusCode.INVALID_ARGUMENT,
        h.cancel_activity,
        scenario.run,
        5,
        1,
        big,
        identity="actor",
        now_ms=scenario.now_ms,
    )


def test_oversized_results_fail_the_activity() -> None:
    scenario = scheduled()
    scenario.start_activity()
    big = payloads(b"x" * (LIMITS.blob_bytes + 1))
    scenario.complete_activity(result=big)
    failed = scenario.find("ActivityTaskFailed").activity_task_failed_event_attributes
    assert failed.failure.message == "Complete result exceeds size limit."


def test_oversized_failures_are_cut_and_details_refused() -> None:
    scenario = scheduled(retry_policy=ONCE)
    scenario.start_activity()
    big = payloads(b"x" * (LIMITS.blob_bytes + 1))
    scenario.refuse(
        StatusCode.INVALID_ARGUMENT,
        h.heartbeat_activity,
        scenario.run,
        5,
        1,
        big,
        identity="actor",
        now_ms=scenario.now_ms,
    )
    scenario.fail_activity(app_failure("y" * (LIMITS.blob_bytes + 1)))
    failure = scenario.find("ActivityTaskFailed").activity_task_failed_event_attributes.failure
    assert failure.message == "Failure exceeds size limit."
    assert failure.cause.message.startswith("yyy") and len(failure.cause.message) == 4000
    assert failure.cause.application_failure_info.type == "ValueError"


def test_describe_shows_attempts() -> None:
    scenario = scheduled(heartbeat_timeout_s=5, schedule_to_close_timeout_s=100)
    (shown,) = h.describe(scenario.run, scenario.now_ms).pending_activities
    assert shown.state == m.PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED
    scenario.start_activity()
    scenario.heartbeat(payloads(b"h"))
    (shown,) = h.describe(scenario.run, scenario.now_ms).pending_activities
    assert shown.state == m.PendingActivityState.PENDING_ACTIVITY_STATE_STARTED
    assert (shown.activity_id, shown.attempt, shown.last_worker_identity) == ("a", 1, "actor")
    assert shown.heartbeat_details == payloads(b"h")
    scenario.fail_activity(app_failure("no"))
    (shown,) = h.describe(scenario.run, scenario.now_ms).pending_activities
    assert (shown.attempt, shown.last_failure.message) == (2, "no")
    assert shown.next_attempt_schedule_time.ToMilliseconds() == START_MS + 1000
