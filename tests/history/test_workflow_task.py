"""The workflow task: hand-out, completion, transient attempts, back-off, buffering."""

from __future__ import annotations

import pytest

from perdure.api import StatusCode
from perdure.api import messages as m
from perdure.engine import history as h
from perdure.engine.history import workflow_task
from tests.history.scenario import (
    LIMITS,
    START_MS,
    Scenario,
    finish,
    marker,
    name_of,
    payloads,
    schedule,
    timer,
)


def events_of(frames: list[bytes]) -> list[m.HistoryEvent]:
    return list(m.History.FromString(b"".join(frames)).events)


def test_a_start_schedules_a_task() -> None:
    scenario = Scenario()
    assert scenario.last.workflow_task and scenario.last.visibility
    assert scenario.names() == ["WorkflowStarted", "WorkflowTaskScheduled"]
    scheduled = scenario.event(2).workflow_task_scheduled_event_attributes
    assert (scheduled.task_queue.name, scheduled.attempt) == ("orders", 1)
    assert scheduled.start_to_close_timeout.ToSeconds() == 10


def test_hand_out_writes_nothing_until_completion() -> None:
    scenario = Scenario()
    scenario.start_task()
    assert scenario.names() == ["WorkflowStarted", "WorkflowTaskScheduled"]
    seen = events_of(h.task_frames(scenario.run, 1))
    assert [name_of(event) for event in seen] == ["WorkflowStarted", "WorkflowTaskScheduled", "WorkflowTaskStarted"]
    scenario.pass_time(50)
    scenario.complete(sticky="sticky-1")
    assert scenario.names(3) == ["WorkflowTaskStarted", "WorkflowTaskCompleted"]
    assert scenario.event(3) == seen[2]
    started = scenario.event(3).workflow_task_started_event_attributes
    assert (started.scheduled_event_id, started.identity, started.request_id) == (2, "worker", "poll-1")
    assert started.history_size_bytes == sum(map(len, scenario.frames[:2]))
    completed = scenario.event(4).workflow_task_completed_event_attributes
    assert (completed.scheduled_event_id, completed.started_event_id, completed.identity) == (2, 3, "worker")
    assert scenario.event(4).event_time.ToMilliseconds() == START_MS + 50
    assert scenario.state.last_task_started_event_id == 3
    assert scenario.state.sticky_queue == "sticky-1"
    assert scenario.state.sticky_timeout_ms == 10_000


def test_a_completion_keeps_what_the_sdk_says_about_itself() -> None:
    scenario = Scenario()
    metadata = m.WorkflowTaskCompletedMetadata(core_used_flags=[1, 2], sdk_name="perdure")
    stamp = m.WorkerVersionStamp(build_id="b1")
    options = m.RespondWorkflowTaskCompletedRequest().deployment_options
    options.deployment_name = "d"
    options.build_id = "b1"
    scenario.step(sdk_metadata=metadata, worker_version_stamp=stamp, deployment_options=options)
    completed = scenario.find("WorkflowTaskCompleted").workflow_task_completed_event_attributes
    assert completed.sdk_metadata == metadata
    assert completed.worker_version == stamp
    assert completed.deployment_version.build_id == "b1"


def test_only_frames_since_the_last_completion_stay_in_memory() -> None:
    scenario = Scenario()
    scenario.step(timer(), sticky="s")
    assert scenario.run.frames_first_event_id == 4
    scenario.wait_due()
    scenario.start_task(sticky=True)
    seen = events_of(h.task_frames(scenario.run, scenario.state.last_task_started_event_id + 1))
    assert [event.event_id for event in seen] == [4, 5, 6, 7, 8]
    with pytest.raises(LookupError):
        h.task_frames(scenario.run, 3)


def test_a_task_is_handed_out_once() -> None:
    scenario = Scenario()
    scenario.start_task()
    scenario.refuse(
        StatusCode.NOT_FOUND,
        h.start_workflow_task,
        scenario.run,
        identity="other",
        request_id="r",
        sticky=False,
        now_ms=scenario.now_ms,
    )


def test_stale_completion_and_failure_are_refused() -> None:
    scenario = Scenario()
    request = m.RespondWorkflowTaskCompletedRequest(commands=[finish()])
    arguments = {"limits": LIMITS, "now_ms": scenario.now_ms}
    scenario.refuse(
        StatusCode.NOT_FOUND,
        h.complete_workflow_task,
        scenario.run,
        request,
        new_id=scenario.new_id,
        **arguments,
    )
    failed = m.RespondWorkflowTaskFailedRequest()
    scenario.refuse(StatusCode.NOT_FOUND, h.fail_workflow_task, scenario.run, failed, **arguments)


def test_a_forced_task_follows_at_once() -> None:
    scenario = Scenario()
    transition = scenario.step(marker(), force_create_new_workflow_task=True, sticky="s")
    assert transition.workflow_task
    assert scenario.names(3) == [
        "WorkflowTaskStarted",
        "WorkflowTaskCompleted",
        "MarkerRecorded",
        "WorkflowTaskScheduled",
    ]
    queue = scenario.find("WorkflowTaskScheduled").workflow_task_scheduled_event_attributes.task_queue
    assert (queue.name, queue.normal_name) == ("s", "orders")
    assert queue.kind == m.TaskQueueKind.TASK_QUEUE_KIND_STICKY


def test_a_normal_start_clears_stickiness() -> None:
    scenario = Scenario()
    scenario.step(force_create_new_workflow_task=True, sticky="s")
    scenario.start_task(sticky=False)
    assert scenario.state.sticky_queue == ""


def test_expired_stickiness_offers_the_task_again() -> None:
    scenario = Scenario()
    scenario.step(force_create_new_workflow_task=True, sticky="s")
    transition = scenario.take(h.expire_sticky(scenario.run, now_ms=scenario.now_ms))
    assert transition.workflow_task and not transition.frames
    assert not scenario.take(h.expire_sticky(scenario.run, now_ms=scenario.now_ms)).changed


def test_first_failure_is_written_later_ones_are_not() -> None:
    scenario = Scenario()
    scenario.start_task()
    assert scenario.fail_task().workflow_task
    assert scenario.names(3) == ["WorkflowTaskStarted", "WorkflowTaskFailed"]
    failed = scenario.event(4).workflow_task_failed_event_attributes
    assert (failed.scheduled_event_id, failed.started_event_id, failed.identity) == (2, 3, "worker")
    assert failed.failure.message == "boom"
    scenario.start_task()
    seen = events_of(h.task_frames(scenario.run, 1))[4:]
    assert [(event.event_id, name_of(event)) for event in seen] == [
        (5, "WorkflowTaskScheduled"),
        (6, "WorkflowTaskStarted"),
    ]
    assert seen[0].workflow_task_scheduled_event_attributes.attempt == 2
    assert not scenario.fail_task().frames
    assert scenario.state.task_attempt == 3


def test_a_transient_attempt_is_written_when_it_completes() -> None:
    scenario = Scenario()
    for _ in range(3):
        scenario.start_task()
        scenario.fail_task()
        if scenario.state.task_not_before_ms:
            scenario.wait_due()
    scenario.step(finish())
    assert scenario.names(5) == [
        "WorkflowTaskScheduled",
        "WorkflowTaskStarted",
        "WorkflowTaskCompleted",
        "WorkflowCompleted",
    ]
    assert scenario.event(5).workflow_task_scheduled_event_attributes.attempt == 4
    completed = scenario.event(7).workflow_task_completed_event_attributes
    assert (completed.scheduled_event_id, completed.started_event_id) == (5, 6)


def test_back_off_begins_after_the_third_attempt() -> None:
    scenario = Scenario()
    waits: list[int] = []
    for _ in range(9):
        assert h.workflow_task_ready(scenario.run, scenario.now_ms)
        scenario.start_task()
        scenario.fail_task()
        waits.append(max(0, scenario.state.task_not_before_ms - scenario.now_ms))
        if waits[-1]:
            assert not h.workflow_task_ready(scenario.run, scenario.now_ms)
            assert h.wake_at_ms(scenario.run) == scenario.state.task_not_before_ms
            scenario.refuse(
                StatusCode.NOT_FOUND,
                h.start_workflow_task,
                scenario.run,
                identity="w",
                request_id="r",
                sticky=False,
                now_ms=scenario.now_ms,
            )
            assert scenario.wait_due().workflow_task
    assert waits == [0, 0, 5000, 10_000, 20_000, 40_000, 60_000, 60_000, 60_000]


def test_a_task_times_out() -> None:
    scenario = Scenario()
    scenario.start_task()
    assert h.next_deadline_ms(scenario.run) == START_MS + 10_000
    scenario.pass_time(9_999)
    assert not scenario.wake().changed
    scenario.pass_time(1)
    assert scenario.wake().workflow_task
    assert scenario.names(3) == ["WorkflowTaskStarted", "WorkflowTaskTimedOut"]
    timed_out = scenario.event(4).workflow_task_timed_out_event_attributes
    assert timed_out.timeout_type == m.TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE
    assert (timed_out.scheduled_event_id, timed_out.started_event_id) == (2, 3)
    scenario.start_task()
    assert not scenario.wait_due().frames


def test_new_events_make_the_next_attempt_a_first_one() -> None:
    scenario = Scenario()
    scenario.start_task()
    scenario.fail_task()
    scenario.signal()
    scenario.start_task()
    task = scenario.run.live.task
    assert task is not None
    assert (task.attempt, task.scheduled_event_id, task.started_event_id) == (1, 6, 7)
    scenario.fail_task()
    assert scenario.names(5) == [
        "WorkflowSignaled",
        "WorkflowTaskScheduled",
        "WorkflowTaskStarted",
        "WorkflowTaskFailed",
    ]


def test_a_back_off_ends_with_the_attempt_it_delayed() -> None:
    scenario = Scenario()
    for _ in range(3):
        scenario.start_task()
        scenario.fail_task()
    scenario.signal()
    scenario.pass_time(5000)
    scenario.start_task()
    scenario.fail_task()
    assert (scenario.state.task_attempt, scenario.state.task_not_before_ms) == (2, 0)
    assert h.hot(scenario.run)


def test_a_run_nobody_works_on_does_not_fill_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflow_task, "LIVE_FRAMES_MAX", 5)
    scenario = Scenario()
    scenario.step(timer())
    for _ in range(4):
        scenario.signal()
    scenario.step()
    assert len(scenario.run.live.frames) == 1
    for _ in range(6):
        scenario.signal()
        assert len(scenario.run.live.frames) <= 6


def test_events_are_buffered_while_a_task_is_held() -> None:
    scenario = Scenario()
    scenario.step(schedule("a"), schedule("b"), timer("t", 5))
    scenario.start_activity("a")
    scenario.start_activity("b")
    scenario.signal("first")
    scenario.start_task()
    scenario.complete_activity("a", payloads(b"a"))
    scenario.signal("second")
    scenario.pass_time(5000)
    scenario.wake()
    assert len(scenario.state.buffered) == 4
    assert scenario.names(8) == ["WorkflowSignaled", "WorkflowTaskScheduled"]
    transition = scenario.complete(marker())
    assert transition.workflow_task
    assert scenario.names(10) == [
        "WorkflowTaskStarted",
        "WorkflowTaskCompleted",
        "MarkerRecorded",
        "ActivityTaskStarted",
        "WorkflowSignaled",
        "TimerFired",
        "ActivityTaskCompleted",
        "WorkflowTaskScheduled",
    ]
    completed = scenario.event(16).activity_task_completed_event_attributes
    assert (completed.scheduled_event_id, completed.started_event_id) == (5, 13)


def test_buffered_events_of_a_failing_task_make_a_new_first_task() -> None:
    scenario = Scenario()
    scenario.start_task()
    scenario.fail_task()
    scenario.start_task()
    scenario.signal()
    transition = scenario.fail_task()
    assert transition.workflow_task
    assert scenario.names(5) == ["WorkflowSignaled", "WorkflowTaskScheduled"]
    assert scenario.state.task_attempt == 1


def test_closing_with_buffered_events_is_an_unhandled_command() -> None:
    scenario = Scenario()
    scenario.start_task()
    scenario.signal()
    message, cause = scenario.refuse_commands(timer(), finish())
    assert (message, cause) == ("UnhandledCommand", "UNHANDLED_COMMAND")
    assert scenario.names(3) == [
        "WorkflowTaskStarted",
        "WorkflowTaskFailed",
        "WorkflowSignaled",
        "WorkflowTaskScheduled",
    ]
    scenario.step(finish())
    assert not scenario.run.is_open


def test_a_reload_flushes_what_was_buffered() -> None:
    scenario = Scenario()
    scenario.start_task()
    scenario.signal("x")
    scenario.reload()
    assert scenario.run.live.task is None
    assert scenario.names() == ["WorkflowStarted", "WorkflowTaskScheduled", "WorkflowSignaled"]
    assert h.hot(scenario.run)
    scenario.step(finish())
    started = scenario.find("WorkflowTaskStarted")
    assert started.event_id == 4
    assert started.workflow_task_started_event_attributes.scheduled_event_id == 2


def test_too_many_buffered_events_take_the_task_back() -> None:
    scenario = Scenario(limits=h.Limits(buffered_events=3))
    scenario.start_task()
    for _ in range(4):
        scenario.signal()
    assert scenario.run.live.task is None
    failed = scenario.find("WorkflowTaskFailed").workflow_task_failed_event_attributes
    assert failed.cause == m.WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_FORCE_CLOSE_COMMAND
    assert scenario.names(5) == ["WorkflowSignaled"] * 4 + ["WorkflowTaskScheduled"]


def test_continue_as_new_is_suggested_for_long_histories() -> None:
    scenario = Scenario(limits=h.Limits(history_events_suggest=6))
    scenario.start_task()
    assert not events_of(h.task_frames(scenario.run, 1))[
        -1
    ].workflow_task_started_event_attributes.suggest_continue_as_new
    scenario.complete(force_create_new_workflow_task=True)
    scenario.start_task()
    frames = h.task_frames(scenario.run, 4)
    started = events_of(frames)[-1].workflow_task_started_event_attributes
    assert started.suggest_continue_as_new
    assert list(started.suggest_continue_as_new_reasons) == [
        m.SuggestContinueAsNewReason.SUGGEST_CONTINUE_AS_NEW_REASON_TOO_MANY_HISTORY_EVENTS
    ]


@pytest.mark.parametrize("limits", [h.Limits(history_events_max=6), h.Limits(history_bytes_max=300)])
def test_a_history_that_grows_too_long_is_terminated(limits: h.Limits) -> None:
    scenario = Scenario(limits=limits)
    scenario.step(timer("1"), timer("2"), timer("3"))
    assert scenario.names()[-1] == "WorkflowTerminated"
    assert scenario.last.closed and scenario.last.visibility
