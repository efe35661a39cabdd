"""Cron schedules: what they mean, and what follows a run of a workflow that has one."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from perdure.api import messages as m
from perdure.engine import history as h
from perdure.engine.history import cron
from tests.history.scenario import (
    START_MS,
    Scenario,
    app_failure,
    command,
    continue_as_new,
    fail,
    finish,
    payloads,
    retry,
)

_BY = m.ContinueAsNewInitiator


def instant(text: str) -> int:
    """Epoch milliseconds."""
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("schedule", "now", "then"),
    [
        ("* * * * *", "2024-02-28T23:59:30.500", "2024-02-29T00:00"),
        ("* * * * *", "2024-02-28T23:59", "2024-02-29T00:00"),
        ("*/15 8-9 * * *", "2024-01-01T09:46", "2024-01-02T08:00"),
        ("5/20 * * * *", "2024-01-01T00:06", "2024-01-01T00:25"),
        ("10-30/10,59 * * * *", "2024-01-01T00:31", "2024-01-01T00:59"),
        ("0 0 29 2 *", "2025-01-01T00:00", "2028-02-29T00:00"),
        ("0 9 * * mon-FRI", "2024-01-05T09:00", "2024-01-08T09:00"),
        ("0 0 1 JAN,Jul ?", "2024-01-02T00:00", "2024-07-01T00:00"),
        ("0 0 13 * FRI", "2024-01-01T00:00", "2024-01-05T00:00"),
        ("0 0 */10 * 6", "2024-01-01T00:00", "2024-01-06T00:00"),
        ("@hourly", "2024-01-01T00:00:00.001", "2024-01-01T01:00"),
        ("@daily", "2024-01-01T12:00", "2024-01-02T00:00"),
        ("@midnight", "2024-01-01T12:00", "2024-01-02T00:00"),
        ("@weekly", "2024-01-01T12:00", "2024-01-07T00:00"),
        ("@monthly", "2024-01-01T12:00", "2024-02-01T00:00"),
        ("@yearly", "2024-01-01T12:00", "2025-01-01T00:00"),
        ("@annually", "2024-01-01T12:00", "2025-01-01T00:00"),
        ("@every 90s", "2024-01-01T12:00:00.250", "2024-01-01T12:01:30"),
        ("@every 1h1.5m", "2024-01-01T12:00", "2024-01-01T13:01:30"),
        ("@every 5ms", "2024-01-01T12:00", "2024-01-01T12:00:01"),
        ("CRON_TZ=America/New_York 0 9 * * *", "2024-07-01T12:00", "2024-07-01T13:00"),
        ("TZ=Asia/Tokyo 0 9 * * *", "2024-07-01T12:00", "2024-07-02T00:00"),
        ("TZ=UTC 0 9 * * *", "2024-07-01T08:00", "2024-07-01T09:00"),
        ("CRON_TZ=Europe/Berlin @daily", "2024-07-01T12:00", "2024-07-01T22:00"),
        # The hour from two to three does not exist that night.
        ("CRON_TZ=Europe/Berlin 30 2 * * *", "2024-03-30T12:00", "2024-03-31T01:00"),
    ],
)
def test_the_next_instant(schedule: str, now: str, then: str) -> None:
    cron.check(schedule)
    now_ms = instant(now)
    assert cron.backoff_ms(schedule, now_ms, now_ms) == instant(then) - now_ms


def test_instants_that_have_gone_by_are_left_out() -> None:
    scheduled_ms = instant("2024-01-01T12:00")
    assert cron.backoff_ms("*/5 * * * *", scheduled_ms, instant("2024-01-01T12:07")) == 180_000
    assert cron.backoff_ms("@every 5m", scheduled_ms, instant("2024-01-01T12:07")) == 180_000
    # An instant that is just now is not over.
    assert cron.backoff_ms("*/5 * * * *", scheduled_ms, instant("2024-01-01T12:05")) == 0
    assert cron.backoff_ms("@every 5m", scheduled_ms, instant("2024-01-01T12:10")) == 0
    assert cron.backoff_ms("@every 5m", scheduled_ms, scheduled_ms) == 300_000


def test_a_schedule_ends_with_the_calendar() -> None:
    late_ms = instant("9891-12-31T00:00")
    assert cron.backoff_ms("@every 100000h", late_ms, late_ms) is None


@pytest.mark.parametrize(
    "schedule",
    [
        "x",
        "* * * *",
        "* * * * * *",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * 32 * *",
        "* * * 13 *",
        "* * * * 7",
        "5-1 * * * *",
        "*/0 * * * *",
        "1/2/3 * * * *",
        "1-2-3 * * * *",
        "-1 * * * *",
        "1, * * * *",
        "a * * * *",
        "0 0 L * *",
        "0 0 * * 5L",
        "0 0 * * 5#2",
        "0 0 30 2 *",
        "0 0 31 4,6 *",
        "mon * * * *",
        "² * * * *",
        "@often",
        "@every",
        "@every ",
        "@every soon",
        "@every 5",
        "@every -5m",
        "@every 1e9h",
        "@every 99999999999999h",
        "CRON_TZ=Atlantis/Town * * * * *",
        "CRON_TZ=../../etc/passwd * * * * *",
        "CRON_TZ=America * * * * *",
        "CRON_TZ=UTC",
        "* * * * *" + " " * 2000,
    ],
)
def test_what_is_no_schedule(schedule: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        cron.check(schedule)


def started(request: m.StartWorkflowExecutionRequest, lineage: h.Lineage) -> m.WorkflowExecutionStartedEventAttributes:
    """The first event of the run that follows."""
    scenario = Scenario(request=request, lineage=lineage)
    return scenario.event(1).workflow_execution_started_event_attributes


def next_started(transition: h.Transition) -> m.WorkflowExecutionStartedEventAttributes:
    following = transition.next_run
    assert following is not None
    return started(following.request, following.lineage)


def test_the_first_run_waits_for_its_instant() -> None:
    scenario = Scenario(cron_schedule="@hourly")
    begun = scenario.event(1).workflow_execution_started_event_attributes
    assert (begun.cron_schedule, begun.initiator) == (
        "@hourly",
        _BY.CONTINUE_AS_NEW_INITIATOR_CRON_SCHEDULE,
    )
    assert scenario.names() == ["WorkflowStarted"]
    assert scenario.wait_due().workflow_task
    assert scenario.now_ms % 3_600_000 == 0
    assert scenario.now_ms == START_MS + begun.first_workflow_task_backoff.ToMilliseconds()


def test_a_result_goes_to_the_next_run() -> None:
    scenario = Scenario(cron_schedule="@hourly", memo=m.Memo(fields={"a": payloads(b"1").payloads[0]}))
    scenario.wait_due()
    transition = scenario.step(finish(payloads(b"7")))
    closing = scenario.find("WorkflowCompleted").workflow_execution_completed_event_attributes
    assert transition.next_run is not None
    assert closing.new_execution_run_id == transition.next_run.run_id == scenario.state.new_run_id
    following = next_started(transition)
    assert following.last_completion_result == payloads(b"7")
    assert not following.HasField("continued_failure")
    assert following.initiator == _BY.CONTINUE_AS_NEW_INITIATOR_CRON_SCHEDULE
    assert following.continued_execution_run_id == "run-1"
    assert following.first_execution_run_id == "run-1"
    assert (following.cron_schedule, following.attempt) == ("@hourly", 1)
    assert following.first_workflow_task_backoff.ToMilliseconds() == 3_600_000
    assert following.input == payloads(b"1") and following.memo.fields["a"].data == b"1"
    assert not following.HasField("retry_policy")


def test_a_failure_goes_to_the_next_run_with_the_last_result_there_was() -> None:
    scenario = Scenario(cron_schedule="@hourly", last_completion_result=payloads(b"6"))
    scenario.wait_due()
    transition = scenario.step(fail(app_failure("no")))
    closing = scenario.find("WorkflowFailed").workflow_execution_failed_event_attributes
    assert closing.retry_state == m.RetryState.RETRY_STATE_RETRY_POLICY_NOT_SET
    assert closing.new_execution_run_id
    following = next_started(transition)
    assert following.last_completion_result == payloads(b"6")
    assert following.continued_failure.message == "no"


def test_attempts_come_before_the_schedule() -> None:
    scenario = Scenario(cron_schedule="@hourly", retry_policy=retry(maximum_attempts=2, initial_interval_s=5))
    scenario.wait_due()
    transition = scenario.step(fail(app_failure("no")))
    again = next_started(transition)
    assert (again.attempt, again.initiator) == (2, _BY.CONTINUE_AS_NEW_INITIATOR_RETRY)
    assert (again.cron_schedule, again.first_workflow_task_backoff.seconds) == ("@hourly", 5)
    assert transition.next_run is not None
    second = Scenario(request=transition.next_run.request, lineage=transition.next_run.lineage)
    second.wait_due()
    last = second.step(fail(app_failure("again")))
    closing = second.find("WorkflowFailed").workflow_execution_failed_event_attributes
    assert closing.retry_state == m.RetryState.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED
    following = next_started(last)
    assert (following.attempt, following.initiator) == (1, _BY.CONTINUE_AS_NEW_INITIATOR_CRON_SCHEDULE)
    assert following.retry_policy.maximum_attempts == 2


def test_a_run_that_times_out_is_followed_by_the_next() -> None:
    scenario = Scenario(cron_schedule="@hourly", workflow_run_timeout_s=60)
    scenario.wait_due()
    scenario.pass_time(60_000)
    transition = scenario.wake()
    closing = scenario.find("WorkflowTimedOut").workflow_execution_timed_out_event_attributes
    assert closing.new_execution_run_id
    following = next_started(transition)
    assert following.continued_failure.HasField("timeout_failure_info")
    assert following.workflow_run_timeout.seconds == 60
    assert following.first_workflow_task_backoff.ToMilliseconds() == 3_540_000


def test_the_execution_timeout_ends_the_chain() -> None:
    scenario = Scenario(cron_schedule="@hourly", workflow_execution_timeout_s=5000)
    scenario.wait_due()
    transition = scenario.step(finish())
    following = next_started(transition)
    assert following.workflow_execution_expiration_time.ToMilliseconds() == START_MS + 5_000_000
    assert transition.next_run is not None
    second = Scenario(request=transition.next_run.request, lineage=transition.next_run.lineage)
    second.now_ms = START_MS + 5_000_000
    assert second.wake().next_run is None
    assert not second.run.is_open


@pytest.mark.parametrize("how", ["cancel", "terminate"])
def test_a_cancelled_or_terminated_run_is_the_last(how: str) -> None:
    scenario = Scenario(cron_schedule="@hourly")
    if how == "terminate":
        transition = scenario.terminate()
    else:
        scenario.cancel()
        transition = scenario.step(command("CANCEL_WORKFLOW_EXECUTION", "cancel_workflow_execution"))
    assert transition.closed and transition.next_run is None


def test_continue_as_new_keeps_the_schedule_and_starts_at_once() -> None:
    scenario = Scenario(cron_schedule="@hourly")
    scenario.wait_due()
    transition = scenario.step(continue_as_new())
    following = next_started(transition)
    assert following.cron_schedule == "@hourly"
    assert following.initiator == _BY.CONTINUE_AS_NEW_INITIATOR_WORKFLOW
    assert not following.first_workflow_task_backoff.ToMilliseconds()
    changed = Scenario(cron_schedule="@hourly")
    changed.wait_due()
    assert next_started(changed.step(continue_as_new(cron_schedule="@daily"))).cron_schedule == "@daily"


def test_a_child_hands_its_end_on_only_when_the_schedule_is_over() -> None:
    lineage = h.Lineage(
        parent_namespace="default", parent_workflow_id="p", parent_run_id="p-1", parent_initiated_event_id=5
    )
    scenario = Scenario(lineage=lineage, cron_schedule="@hourly")
    scenario.wait_due()
    transition = scenario.step(finish())
    assert transition.next_run is not None and not transition.messages
    second = Scenario(request=transition.next_run.request, lineage=transition.next_run.lineage)
    assert second.state.parent_run_id == "p-1"
    second.terminate()
    (message,) = second.last.messages
    assert message.kind == h.MessageKind.CHILD_CLOSED
