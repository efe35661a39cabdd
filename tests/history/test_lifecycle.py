"""Starting, signalling, cancelling, terminating, timing out and retrying a run."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.engine import history as h
from tests.history.scenario import (
    LIMITS,
    START_MS,
    Scenario,
    app_failure,
    fail,
    finish,
    payloads,
    retry,
    schedule,
    signal_request,
    timer,
)


def test_started_carries_what_sdks_need() -> None:
    metadata = m.StartWorkflowExecutionRequest().user_metadata
    metadata.summary.data = b'"sum"'
    header = m.Header(fields={"trace": payloads(b"t").payloads[0]})
    scenario = Scenario(header=header, user_metadata=metadata, priority=m.Priority(priority_key=2))
    event = scenario.event(1)
    started = event.workflow_execution_started_event_attributes
    assert (started.workflow_id, started.workflow_type.name, started.task_queue.name) == ("order-1", "order", "orders")
    assert started.original_execution_run_id == started.first_execution_run_id == "run-1"
    assert (started.attempt, started.identity, started.input) == (1, "client", payloads(b"1"))
    assert started.workflow_task_timeout.ToSeconds() == 10
    assert started.HasField("first_workflow_task_backoff")
    assert started.header == header and started.priority.priority_key == 2
    assert not started.HasField("retry_policy") and not started.HasField("root_workflow_execution")
    assert event.user_metadata.summary.data == b'"sum"'
    assert event.event_time.ToMilliseconds() == START_MS
    shown = h.describe(scenario.run, scenario.now_ms)
    assert shown.execution_config.user_metadata.summary.data == b'"sum"'
    assert shown.workflow_extended_info.request_id_infos["start-1"].event_id == 1
    assert shown.pending_workflow_task.attempt == 1


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"workflow_id": ""}, "WorkflowId"),
        ({"workflow_id": "x" * 1001}, "WorkflowId"),
        ({"workflow_type": m.WorkflowType()}, "WorkflowType"),
        ({"task_queue": m.TaskQueue()}, "TaskQueue"),
        ({"task_queue": m.TaskQueue(name="q" * 1001)}, "TaskQueue"),
        ({"request_id": "r" * 1001}, "RequestId"),
        ({"workflow_run_timeout_s": -1}, "WorkflowRunTimeout"),
        ({"workflow_start_delay_s": -1}, "WorkflowStartDelay"),
        ({"cron_schedule": "* * * *"}, "CronSchedule"),
        ({"cron_schedule": "* * * * *", "workflow_start_delay_s": 1}, "CronSchedule"),
        ({"retry_policy": retry(backoff_coefficient=0.1)}, "BackoffCoefficient"),
        ({"retry_policy": retry(initial_interval_s=9, maximum_interval_s=3)}, "MaximumInterval"),
        ({"input": payloads(b"x" * (2 * 1024 * 1024 + 1))}, "Input"),
    ],
)
def test_bad_starts_are_refused(fields: dict[str, Any], what: str) -> None:
    with pytest.raises(RpcError) as caught:
        Scenario(**fields)
    assert caught.value.code == StatusCode.INVALID_ARGUMENT
    assert what in caught.value.message


def test_names_at_the_limit_are_taken() -> None:
    assert Scenario(workflow_id="x" * 1000).run.is_open


def test_run_timeout_is_bounded_by_execution_timeout() -> None:
    scenario = Scenario(workflow_execution_timeout_s=60, workflow_run_timeout_s=100, workflow_task_timeout_s=90)
    state = scenario.state
    assert (state.run_timeout_ms, state.execution_timeout_ms, state.task_timeout_ms) == (60_000, 60_000, 60_000)
    assert state.run_deadline_ms == state.execution_deadline_ms == START_MS + 60_000


def test_start_delay() -> None:
    scenario = Scenario(workflow_start_delay_s=30, workflow_run_timeout_s=100)
    assert scenario.names() == ["WorkflowStarted"]
    assert not scenario.last.workflow_task and not h.hot(scenario.run)
    assert h.wake_at_ms(scenario.run) == scenario.state.execution_ms == START_MS + 30_000
    assert scenario.state.run_deadline_ms == START_MS + 130_000
    scenario.reload()
    assert scenario.wait_due().workflow_task
    scenario.step(finish())


@pytest.mark.parametrize("kind", [{"workflow_start_delay_s": 30}, {"cron_schedule": "@every 30s"}])
def test_a_delay_outlasts_signals_and_ends_with_a_signal_with_start_or_a_cancel(kind: dict[str, Any]) -> None:
    scenario = Scenario(**kind)
    assert not scenario.signal().workflow_task
    assert scenario.names() == ["WorkflowStarted", "WorkflowSignaled"]
    scenario.reload()
    assert scenario.signal(with_start=True).workflow_task
    assert scenario.names()[-1] == "WorkflowTaskScheduled"
    assert h.next_deadline_ms(scenario.run) is None
    cancelled = Scenario(**kind)
    assert cancelled.cancel().workflow_task


def test_signal_with_start() -> None:
    scenario = Scenario(signal=signal_request("hello", "s-1"))
    assert scenario.names() == ["WorkflowStarted", "WorkflowSignaled", "WorkflowTaskScheduled"]
    assert not scenario.signal("hello", "s-1").changed
    delayed = Scenario(signal=signal_request("hello"), workflow_start_delay_s=30)
    assert delayed.names() == ["WorkflowStarted", "WorkflowSignaled"]
    assert delayed.wait_due().workflow_task


def test_signals_are_recorded_once() -> None:
    scenario = Scenario()
    scenario.step(sticky="s")
    transition = scenario.signal("go", "s-1", external=("parent", "p-run"))
    assert transition.workflow_task
    signaled = scenario.event(5).workflow_execution_signaled_event_attributes
    assert (signaled.signal_name, signaled.identity, signaled.input) == ("go", "client", payloads(b"2"))
    assert signaled.external_workflow_execution.workflow_id == "parent"
    assert not scenario.signal("go", "s-1").changed
    assert scenario.signal("go", "s-2").changed
    assert scenario.state.signal_count == 2
    assert scenario.names(5) == ["WorkflowSignaled", "WorkflowTaskScheduled", "WorkflowSignaled"]


def test_request_ids_are_kept_within_a_bound() -> None:
    scenario = Scenario(limits=h.Limits(request_ids_kept=2))
    for number in range(4):
        scenario.signal("go", f"s-{number}")
    assert scenario.state.signal_request_ids == ["s-2", "s-3"]


def test_links_travel_with_requests() -> None:
    link = m.Link()
    link.workflow_event.workflow_id = "caller"
    request = m.StartWorkflowExecutionRequest(links=[link])
    scenario = Scenario(links=request.links)
    assert scenario.event(1).links[0] == link
    signal = signal_request()
    signal.links.append(link)
    scenario.take(h.signal(scenario.run, signal, limits=LIMITS, now_ms=scenario.now_ms))
    cancel = m.RequestCancelWorkflowExecutionRequest(links=[link])
    scenario.take(h.request_cancel(scenario.run, cancel, now_ms=scenario.now_ms))
    assert [list(scenario.event(number).links) for number in (3, 4)] == [[link], [link]]


def test_continued_failure_and_result_of_the_request() -> None:
    scenario = Scenario(continued_failure=app_failure("before"), last_completion_result=payloads(b"last"))
    started = scenario.event(1).workflow_execution_started_event_attributes
    assert started.continued_failure.message == "before"
    assert started.last_completion_result == payloads(b"last")


def test_bad_signals_are_refused() -> None:
    scenario = Scenario(limits=h.Limits(signals_per_run=2))

    def refuse(code: StatusCode, request: m.SignalWorkflowExecutionRequest, **kwargs: Any) -> None:
        scenario.refuse(code, h.signal, scenario.run, request, limits=scenario.limits, now_ms=scenario.now_ms, **kwargs)

    refuse(StatusCode.INVALID_ARGUMENT, signal_request(""))
    refuse(StatusCode.INVALID_ARGUMENT, signal_request("x" * 1001))
    refuse(StatusCode.INVALID_ARGUMENT, signal_request(input=payloads(b"x" * (LIMITS.blob_bytes + 1))))
    refuse(StatusCode.NOT_FOUND, signal_request(), child_only=True)
    refuse(StatusCode.NOT_FOUND, signal_request(), child_only=True, external=("other", "run"))
    scenario.signal()
    scenario.signal()
    refuse(StatusCode.INVALID_ARGUMENT, signal_request())


def test_nothing_reaches_a_closed_run() -> None:
    scenario = Scenario()
    scenario.step(finish())
    run, now_ms = scenario.run, scenario.now_ms
    cancel = m.RequestCancelWorkflowExecutionRequest()
    scenario.refuse(StatusCode.NOT_FOUND, h.signal, run, signal_request(), limits=LIMITS, now_ms=now_ms)
    assert not scenario.take(h.request_cancel(run, cancel, now_ms=now_ms)).changed
    scenario.refuse(StatusCode.NOT_FOUND, h.terminate, run, reason="", details=None, identity="", now_ms=now_ms)
    assert not scenario.wake().changed
    assert not scenario.take(h.child_closed(run, 5, m.HistoryEvent(), "", now_ms=now_ms)).changed


def test_cancel_is_recorded_once() -> None:
    scenario = Scenario()
    scenario.step()
    assert scenario.cancel(external=("p", "p-run"), external_initiated_event_id=9).workflow_task
    requested = scenario.event(5).workflow_execution_cancel_requested_event_attributes
    assert (requested.cause, requested.identity, requested.external_initiated_event_id) == ("why", "client", 9)
    assert requested.external_workflow_execution.run_id == "p-run"
    assert not scenario.cancel().changed
    assert h.describe(scenario.run, scenario.now_ms).workflow_extended_info.cancel_requested


def test_terminate() -> None:
    scenario = Scenario()
    scenario.step(schedule(), timer())
    scenario.start_activity()
    transition = scenario.terminate()
    assert transition.closed and transition.visibility
    terminated = scenario.event(7).workflow_execution_terminated_event_attributes
    assert (terminated.reason, terminated.identity, terminated.details) == ("enough", "admin", payloads(b"9"))
    assert scenario.state.status == m.WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_TERMINATED


def test_terminating_takes_a_held_task_back() -> None:
    scenario = Scenario()
    scenario.start_task()
    scenario.signal()
    scenario.terminate()
    assert scenario.names(3) == [
        "WorkflowTaskStarted",
        "WorkflowTaskFailed",
        "WorkflowSignaled",
        "WorkflowTerminated",
    ]
    failed = scenario.event(4).workflow_task_failed_event_attributes
    assert failed.cause == m.WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_FORCE_CLOSE_COMMAND


def test_run_timeout() -> None:
    scenario = Scenario(workflow_run_timeout_s=60)
    scenario.step(timer("t", 100))
    transition = scenario.wait_due()
    assert scenario.now_ms == START_MS + 60_000
    assert transition.closed
    timed_out = scenario.event(6).workflow_execution_timed_out_event_attributes
    assert timed_out.retry_state == m.RetryState.RETRY_STATE_RETRY_POLICY_NOT_SET
    assert scenario.state.status == m.WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_TIMED_OUT


def test_a_run_that_times_out_is_retried_but_not_beyond_the_execution() -> None:
    scenario = Scenario(workflow_run_timeout_s=60, workflow_execution_timeout_s=100, retry_policy=retry())
    following = scenario.wait_due().next_run
    assert following is not None
    assert following.lineage.attempt == 2
    scenario = Scenario(request=following.request, lineage=following.lineage)
    scenario.now_ms = START_MS + 100_000
    assert scenario.wake().next_run is None
    timed_out = scenario.find("WorkflowTimedOut").workflow_execution_timed_out_event_attributes
    assert timed_out.retry_state == m.RetryState.RETRY_STATE_TIMEOUT


def test_workflow_retry() -> None:
    policy = retry(initial_interval_s=2, maximum_attempts=3)
    memo = m.Memo(fields={"k": payloads(b"1").payloads[0]})
    scenario = Scenario(retry_policy=policy, memo=memo)
    for attempt in (1, 2):
        assert scenario.state.attempt == attempt
        transition = scenario.step(fail(app_failure(f"attempt {attempt}")))
        failed = scenario.find("WorkflowFailed").workflow_execution_failed_event_attributes
        following = transition.next_run
        assert following is not None
        assert failed.retry_state == m.RetryState.RETRY_STATE_IN_PROGRESS
        assert failed.new_execution_run_id == following.run_id == scenario.state.new_run_id
        assert following.request.input == payloads(b"1")
        scenario = Scenario(request=following.request, lineage=following.lineage)
        started = scenario.event(1).workflow_execution_started_event_attributes
        assert (started.attempt, started.initiator) == (
            attempt + 1,
            m.ContinueAsNewInitiator.CONTINUE_AS_NEW_INITIATOR_RETRY,
        )
        assert started.continued_failure.message == f"attempt {attempt}"
        assert (started.memo, started.first_execution_run_id) == (memo, "run-1")
        assert started.first_workflow_task_backoff.ToSeconds() == 2**attempt
        scenario.signal()
        assert scenario.names() == ["WorkflowStarted", "WorkflowSignaled"]
        scenario.wait_due()
        assert scenario.now_ms == START_MS + 2000 * 2 ** (attempt - 1)
    transition = scenario.step(fail())
    failed = scenario.find("WorkflowFailed").workflow_execution_failed_event_attributes
    assert failed.retry_state == m.RetryState.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED
    assert transition.next_run is None and failed.new_execution_run_id == ""


def test_a_failure_that_may_not_be_retried() -> None:
    scenario = Scenario(retry_policy=retry(non_retryable=["Fatal"]))
    scenario.step(fail(app_failure("x", "Fatal")))
    failed = scenario.find("WorkflowFailed").workflow_execution_failed_event_attributes
    assert failed.retry_state == m.RetryState.RETRY_STATE_NON_RETRYABLE_FAILURE


def test_visibility_row_follows_the_run() -> None:
    scenario = Scenario()
    row = h.visibility_row(scenario.run)
    assert (row.run_key, row.namespace, row.workflow_id, row.run_id) == (7, "default", "order-1", "run-1")
    assert (row.status, row.start_ms, row.close_ms, row.history_length) == (1, START_MS, None, 0)
    scenario.pass_time(5)
    scenario.step(finish())
    row = h.visibility_row(scenario.run)
    assert (row.status, row.close_ms, row.history_length) == (2, START_MS + 5, 5)
    assert row.history_bytes == sum(map(len, scenario.frames))
    info = m.WorkflowExecutionInfo()
    h.fill_info(info, row)
    assert (info.type.name, info.first_run_id, info.root_execution.workflow_id) == ("order", "run-1", "order-1")
    assert info.close_time.ToMilliseconds() == START_MS + 5
