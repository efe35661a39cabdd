"""Activities without a workflow: runs that are one activity."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure.api import StatusCode
from perdure.api import messages as m
from perdure.engine.store.memory import MemoryStore
from tests.service.support import NAMESPACE, QUEUE, Driver, payloads, refusal, schedule_activity, text_of, turns

Status = m.ActivityExecutionStatus
State = m.PendingActivityState
HOUR_MS = 3_600_000


def start_request(driver: Driver, activity_id: str = "act", **fields: Any) -> m.StartActivityExecutionRequest:
    """A start, with a fresh request id."""
    driver._requests += 1
    fields.setdefault("request_id", f"start-{driver._requests}")
    request = m.StartActivityExecutionRequest(
        namespace=NAMESPACE, activity_id=activity_id, identity="client", input=payloads("in"), **fields
    )
    request.activity_type.name = "work"
    request.task_queue.name = QUEUE
    if not request.HasField("start_to_close_timeout") and not request.HasField("schedule_to_close_timeout"):
        request.start_to_close_timeout.seconds = 60
    return request


async def start(driver: Driver, activity_id: str = "act", **fields: Any) -> str:
    response = await driver.service.start_activity_execution(start_request(driver, activity_id, **fields))
    return response.run_id


async def describe(driver: Driver, activity_id: str = "act", run_id: str = "") -> m.DescribeActivityExecutionResponse:
    request = m.DescribeActivityExecutionRequest(
        namespace=NAMESPACE,
        activity_id=activity_id,
        run_id=run_id,
        include_input=True,
        include_outcome=True,
        include_heartbeat_details=True,
        include_last_failure=True,
    )
    return await driver.service.describe_activity_execution(request)


async def status(driver: Driver, activity_id: str = "act", run_id: str = "") -> str:
    info = (await describe(driver, activity_id, run_id)).info
    return Status.Name(info.status).removeprefix("ACTIVITY_EXECUTION_STATUS_")


async def poll_outcome(driver: Driver, activity_id: str = "act") -> m.ActivityExecutionOutcome:
    request = m.PollActivityExecutionRequest(namespace=NAMESPACE, activity_id=activity_id)
    return (await driver.service.poll_activity_execution(request)).outcome


async def cancel(driver: Driver, activity_id: str = "act", **fields: Any) -> None:
    request = m.RequestCancelActivityExecutionRequest(
        namespace=NAMESPACE, activity_id=activity_id, identity="client", **fields
    )
    await driver.service.request_cancel_activity_execution(request)


async def terminate(driver: Driver, activity_id: str = "act", **fields: Any) -> None:
    request = m.TerminateActivityExecutionRequest(
        namespace=NAMESPACE, activity_id=activity_id, identity="client", **fields
    )
    await driver.service.terminate_activity_execution(request)


async def heartbeat(
    driver: Driver, task: m.PollActivityTaskQueueResponse, text: str
) -> m.RecordActivityTaskHeartbeatResponse:
    request = m.RecordActivityTaskHeartbeatRequest(
        namespace=NAMESPACE, task_token=task.task_token, details=payloads(text), identity="worker"
    )
    return await driver.service.record_activity_task_heartbeat(request)


async def listed(driver: Driver, query: str = "") -> list[str]:
    request = m.ListActivityExecutionsRequest(namespace=NAMESPACE, query=query)
    return [each.activity_id for each in (await driver.service.list_activity_executions(request)).executions]


async def test_from_its_start_to_its_result(driver: Driver) -> None:
    run_id = await start(driver)
    assert await status(driver) == "RUNNING"
    waiting = asyncio.ensure_future(poll_outcome(driver))
    task = await driver.activity("out")
    assert text_of((await waiting).result) == "out"
    assert (task.activity_id, task.activity_run_id, task.attempt) == ("act", run_id, 1)
    assert not task.HasField("workflow_execution")
    assert task.workflow_namespace == NAMESPACE
    assert text_of(task.input) == "in"
    told = await describe(driver)
    assert await status(driver) == "COMPLETED"
    assert text_of(told.input) == "in"
    assert text_of(told.outcome.result) == "out"
    assert told.info.last_worker_identity == "worker"
    assert told.info.HasField("close_time")
    assert not told.long_poll_token
    await driver.settle()


async def test_what_can_not_be_started(driver: Driver) -> None:
    for name, value in (("activity_id", ""), ("activity_id", "x" * 1001), ("activity_id", "a\0b")):
        request = start_request(driver)
        setattr(request, name, value)
        assert (await refusal(driver.service.start_activity_execution(request))).code is StatusCode.INVALID_ARGUMENT
    for name in ("activity_type", "task_queue", "start_to_close_timeout"):
        request = start_request(driver)
        request.ClearField(name)
        assert (await refusal(driver.service.start_activity_execution(request))).code is StatusCode.INVALID_ARGUMENT
    request = start_request(driver, id_reuse_policy=9)
    assert (await refusal(driver.service.start_activity_execution(request))).code is StatusCode.INVALID_ARGUMENT
    request = start_request(driver)
    request.completion_callbacks.add()
    assert (await refusal(driver.service.start_activity_execution(request))).code is StatusCode.INVALID_ARGUMENT
    assert await listed(driver) == []


async def test_ids_belong_to_activities_alone(driver: Driver) -> None:
    run_id = await start(driver, "same")
    await driver.start("same")
    assert (await refusal(driver.describe("same", run_id))).code is StatusCode.NOT_FOUND
    assert (await refusal(driver.describe("\x1factivity/same"))).code is StatusCode.NOT_FOUND
    assert (await refusal(driver.start("\x1factivity/same"))).code is StatusCode.INVALID_ARGUMENT
    await terminate(driver, "same")
    assert await driver.status("same") == "RUNNING"
    assert (await refusal(describe(driver, "other"))).code is StatusCode.NOT_FOUND
    assert (await refusal(describe(driver, "same", "other"))).code is StatusCode.NOT_FOUND
    listing = await driver.service.list_workflow_executions(m.ListWorkflowExecutionsRequest(namespace=NAMESPACE))
    assert len(listing.executions) == 1
    counted = await driver.service.count_workflow_executions(m.CountWorkflowExecutionsRequest(namespace=NAMESPACE))
    assert counted.count == 1


async def test_a_repeated_start_finds_the_first(driver: Driver) -> None:
    request = start_request(driver)
    first = await driver.service.start_activity_execution(request)
    again = await driver.service.start_activity_execution(request)
    assert (again.run_id, again.started) == (first.run_id, True)
    assert first.link.activity.run_id == first.run_id
    error = await refusal(start(driver))
    assert error.code is StatusCode.ALREADY_EXISTS
    known = error.details[0]
    assert isinstance(known, m.ActivityExecutionAlreadyStartedFailure)
    assert (known.run_id, known.start_request_id) == (first.run_id, request.request_id)
    use = m.ActivityIdConflictPolicy.ACTIVITY_ID_CONFLICT_POLICY_USE_EXISTING
    found = await driver.service.start_activity_execution(start_request(driver, id_conflict_policy=use))
    assert (found.run_id, found.started) == (first.run_id, False)


async def test_reuse_after_an_end(driver: Driver) -> None:
    reuse = m.ActivityIdReusePolicy
    first = await start(driver)
    await terminate(driver)
    failed_only = reuse.ACTIVITY_ID_REUSE_POLICY_ALLOW_DUPLICATE_FAILED_ONLY
    second = await start(driver, id_reuse_policy=failed_only)
    assert second != first
    task = await driver.poll_activity()
    assert task.activity_run_id == second, "the terminated one is not handed out any more"
    await driver.complete_activity(task)
    for policy in (failed_only, reuse.ACTIVITY_ID_REUSE_POLICY_REJECT_DUPLICATE):
        assert (await refusal(start(driver, id_reuse_policy=policy))).code is StatusCode.ALREADY_EXISTS
    third = await start(driver)
    assert (await describe(driver)).run_id == third
    assert await status(driver, run_id=first) == "TERMINATED"
    assert await status(driver, run_id=second) == "COMPLETED"
    await driver.settle()


async def test_failures_are_retried_until_they_are_not(driver: Driver) -> None:
    await start(driver, retry_policy=m.RetryPolicy(maximum_attempts=2))
    await driver.fail_activity(await driver.poll_activity(), "first")
    told = (await describe(driver)).info
    assert told.run_state == State.PENDING_ACTIVITY_STATE_SCHEDULED
    assert (told.attempt, told.last_failure.message) == (2, "first")
    assert told.current_retry_interval.ToMilliseconds() == 1000
    driver.clock.advance_by(1000)
    await driver.rest()
    await driver.fail_activity(await driver.poll_activity(), "second")
    outcome = await poll_outcome(driver)
    assert outcome.failure.message == "second"
    assert outcome.retry_state == m.RetryState.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED
    assert await status(driver) == "FAILED"
    await driver.settle()


async def test_its_time_may_be_up(driver: Driver) -> None:
    once = m.RetryPolicy(maximum_attempts=1)
    await start(driver, "started", retry_policy=once)
    task = await driver.poll_activity()
    request = start_request(driver, "waits")
    request.schedule_to_start_timeout.seconds = 10
    await driver.service.start_activity_execution(request)
    driver.clock.advance_by(10_000)
    await driver.rest()
    kind = (await poll_outcome(driver, "waits")).failure.timeout_failure_info.timeout_type
    assert kind == m.TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_START
    driver.clock.advance_by(50_000)
    await driver.rest()
    kind = (await poll_outcome(driver, "started")).failure.timeout_failure_info.timeout_type
    assert kind == m.TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE
    assert await status(driver, "started") == "TIMED_OUT"
    assert (await refusal(driver.complete_activity(task))).code is StatusCode.NOT_FOUND
    await driver.settle()


async def test_a_start_delay_and_the_timeouts_after_it(driver: Driver) -> None:
    request = start_request(driver)
    request.start_delay.seconds = 3600
    request.schedule_to_close_timeout.seconds = 60
    await driver.service.start_activity_execution(request)
    assert not (await driver.poll_activity()).task_token
    told = (await describe(driver)).info
    assert told.execution_time.ToMilliseconds() - told.schedule_time.ToMilliseconds() == HOUR_MS
    assert told.expiration_time.ToMilliseconds() - told.schedule_time.ToMilliseconds() == HOUR_MS + 60_000
    driver.clock.advance_by(HOUR_MS)
    await driver.rest()
    await driver.activity()
    assert await status(driver) == "COMPLETED"
    await driver.settle()


async def test_cancelled_before_anybody_begins(driver: Driver) -> None:
    await start(driver)
    await cancel(driver, request_id="c", reason="no need")
    outcome = await poll_outcome(driver)
    assert outcome.failure.HasField("canceled_failure_info")
    assert text_of(outcome.failure.canceled_failure_info.details) == '"no need"'
    await cancel(driver, request_id="c", reason="no need")
    assert (await refusal(cancel(driver, request_id="d"))).code is StatusCode.FAILED_PRECONDITION
    assert not (await driver.poll_activity()).task_token
    assert (await describe(driver)).info.canceled_reason == "no need"
    await driver.settle()


async def test_a_worker_hears_of_a_cancel_and_gives_in(driver: Driver) -> None:
    await start(driver)
    task = await driver.poll_activity()
    assert not (await heartbeat(driver, task, "one")).cancel_requested
    await cancel(driver, request_id="c")
    assert (await refusal(cancel(driver, request_id="d"))).code is StatusCode.FAILED_PRECONDITION
    assert (await describe(driver)).info.run_state == State.PENDING_ACTIVITY_STATE_CANCEL_REQUESTED
    assert (await heartbeat(driver, task, "two")).cancel_requested
    told = (await describe(driver)).info
    assert (told.total_heartbeat_count, text_of(told.heartbeat_details)) == (2, "two")
    request = m.RespondActivityTaskCanceledRequest(
        namespace=NAMESPACE, task_token=task.task_token, details=payloads("bye")
    )
    await driver.service.respond_activity_task_canceled(request)
    assert text_of((await poll_outcome(driver)).failure.canceled_failure_info.details) == "bye"
    assert await status(driver) == "CANCELED"
    await driver.settle()


async def test_an_attempt_that_fails_after_a_cancel_is_the_last(driver: Driver) -> None:
    await start(driver)
    task = await driver.poll_activity()
    await cancel(driver)
    await driver.fail_activity(task)
    assert await status(driver) == "FAILED"
    assert (await poll_outcome(driver)).retry_state == m.RetryState.RETRY_STATE_CANCEL_REQUESTED


async def test_termination_is_at_once(driver: Driver) -> None:
    await start(driver)
    task = await driver.poll_activity()
    waiting = asyncio.ensure_future(poll_outcome(driver))
    await turns()
    await terminate(driver, reason="enough", request_id="t")
    outcome = await waiting
    assert outcome.failure.message == "enough"
    assert outcome.failure.HasField("terminated_failure_info")
    assert (await refusal(heartbeat(driver, task, "still"))).code is StatusCode.NOT_FOUND
    await terminate(driver, reason="enough", request_id="t")
    assert (await refusal(terminate(driver, request_id="u"))).code is StatusCode.FAILED_PRECONDITION
    await driver.settle()


async def test_ended_by_id(driver: Driver) -> None:
    for activity_id in ("completed", "failed", "cancelled"):
        await start(driver, activity_id, retry_policy=m.RetryPolicy(maximum_attempts=1))
        await driver.poll_activity()
    service = driver.service
    beat = m.RecordActivityTaskHeartbeatByIdRequest(namespace=NAMESPACE, activity_id="cancelled")
    assert not (await service.record_activity_task_heartbeat_by_id(beat)).cancel_requested
    completed = m.RespondActivityTaskCompletedByIdRequest(
        namespace=NAMESPACE, activity_id="completed", result=payloads("out")
    )
    await service.respond_activity_task_completed_by_id(completed)
    failed = m.RespondActivityTaskFailedByIdRequest(namespace=NAMESPACE, activity_id="failed")
    failed.failure.message = "no"
    await service.respond_activity_task_failed_by_id(failed)
    await cancel(driver, "cancelled")
    cancelled = m.RespondActivityTaskCanceledByIdRequest(namespace=NAMESPACE, activity_id="cancelled")
    await service.respond_activity_task_canceled_by_id(cancelled)
    assert [await status(driver, each) for each in ("completed", "failed", "cancelled")] == [
        "COMPLETED",
        "FAILED",
        "CANCELED",
    ]
    assert (await refusal(service.respond_activity_task_failed_by_id(failed))).code is StatusCode.NOT_FOUND


async def test_changes_can_be_followed(driver: Driver) -> None:
    run_id = await start(driver)
    request = m.DescribeActivityExecutionRequest(namespace=NAMESPACE, activity_id="act", run_id=run_id)
    request.long_poll_token = (await driver.service.describe_activity_execution(request)).long_poll_token
    waiting = asyncio.ensure_future(driver.service.describe_activity_execution(request))
    await turns()
    assert not waiting.done()
    task = await driver.poll_activity()
    await heartbeat(driver, task, "one")
    told = await waiting
    assert told.info.status == Status.ACTIVITY_EXECUTION_STATUS_RUNNING
    assert told.long_poll_token != request.long_poll_token
    request.long_poll_token = told.long_poll_token
    await driver.complete_activity(task)
    while told.long_poll_token:
        told = await driver.service.describe_activity_execution(request)
        request.long_poll_token = told.long_poll_token
    assert told.info.status == Status.ACTIVITY_EXECUTION_STATUS_COMPLETED
    request.long_poll_token = b"x"
    request.ClearField("run_id")
    assert (await refusal(driver.service.describe_activity_execution(request))).code is StatusCode.INVALID_ARGUMENT


@pytest.mark.in_process("the clock of a wire is the real one")
async def test_waits_have_an_end(driver: Driver) -> None:
    await start(driver)
    request = m.PollActivityExecutionRequest(namespace=NAMESPACE, activity_id="act")
    waiting = asyncio.ensure_future(driver.service.poll_activity_execution(request, timeout_s=20))
    await turns()
    driver.clock.advance_by(20_000)
    assert await waiting == m.PollActivityExecutionResponse()
    waiting = asyncio.ensure_future(driver.service.poll_activity_execution(request))
    await turns()
    await delete(driver)
    assert (await refusal(waiting)).code is StatusCode.NOT_FOUND


async def delete(driver: Driver, activity_id: str = "act", run_id: str = "") -> None:
    request = m.DeleteActivityExecutionRequest(namespace=NAMESPACE, activity_id=activity_id, run_id=run_id)
    await driver.service.delete_activity_execution(request)


async def test_deleted_ones_are_gone(driver: Driver) -> None:
    first = await start(driver)
    await driver.activity()
    await start(driver)
    await delete(driver, run_id=first)
    await driver.rest()
    assert (await refusal(describe(driver, run_id=first))).code is StatusCode.NOT_FOUND
    assert await status(driver) == "RUNNING"
    await delete(driver)
    await driver.rest()
    assert (await refusal(describe(driver))).code is StatusCode.NOT_FOUND
    assert await listed(driver) == []
    assert not (await driver.poll_activity()).task_token
    await driver.settle()


async def test_ended_ones_stay_as_long_as_the_namespace_says(driver: Driver) -> None:
    await start(driver)
    await driver.activity()
    driver.clock.advance_by(4 * 24 * HOUR_MS)
    await driver.rest()
    assert (await refusal(describe(driver))).code is StatusCode.NOT_FOUND


async def test_paused_ones_wait(driver: Driver) -> None:
    await start(driver)
    await pause(driver, request_id="p")
    await pause(driver, request_id="p")
    assert (await refusal(pause(driver, request_id="q"))).code is StatusCode.FAILED_PRECONDITION
    assert await status(driver) == "PAUSED"
    await driver.settle()
    assert not (await driver.poll_activity()).task_token
    unpause = m.UnpauseActivityExecutionRequest(namespace=NAMESPACE, activity_id="act")
    await driver.service.unpause_activity_execution(unpause)
    await driver.service.unpause_activity_execution(unpause)
    task = await driver.poll_activity()
    await pause(driver)
    assert (await describe(driver)).info.run_state == State.PENDING_ACTIVITY_STATE_PAUSE_REQUESTED
    assert (await heartbeat(driver, task, "x")).activity_paused
    await driver.service.unpause_activity_execution(unpause)
    await cancel(driver)
    assert (await refusal(pause(driver))).code is StatusCode.FAILED_PRECONDITION
    reset = m.ResetActivityExecutionRequest(namespace=NAMESPACE, activity_id="act")
    assert (await refusal(driver.service.reset_activity_execution(reset))).code is StatusCode.FAILED_PRECONDITION
    await driver.complete_activity(task)
    for call in (
        pause(driver),
        driver.service.unpause_activity_execution(unpause),
        driver.service.reset_activity_execution(reset),
    ):
        assert (await refusal(call)).code is StatusCode.FAILED_PRECONDITION


async def pause(driver: Driver, **fields: Any) -> None:
    request = m.PauseActivityExecutionRequest(namespace=NAMESPACE, activity_id="act", identity="boss", **fields)
    await driver.service.pause_activity_execution(request)


async def test_it_may_begin_anew(driver: Driver) -> None:
    await start(driver)
    for _ in range(2):
        driver.clock.advance_by(10_000)
        await driver.rest()
        await driver.fail_activity(await driver.poll_activity())
    assert (await describe(driver)).info.attempt == 3
    reset = m.ResetActivityExecutionRequest(namespace=NAMESPACE, activity_id="act")
    await driver.service.reset_activity_execution(reset)
    assert (await driver.activity()).attempt == 1
    assert await status(driver) == "COMPLETED"
    await driver.settle()


async def test_options_change(driver: Driver) -> None:
    request = start_request(driver)
    request.start_delay.seconds = 3600
    await driver.service.start_activity_execution(request)
    update = m.UpdateActivityExecutionOptionsRequest(namespace=NAMESPACE, activity_id="act")
    update.activity_options.task_queue.name = "other"
    update.activity_options.start_delay.seconds = 60
    update.update_mask.paths.extend(["task_queue.name", "start_delay"])
    answer = await driver.service.update_activity_execution_options(update)
    assert answer.activity_options.task_queue.name == "other"
    assert answer.activity_options.start_delay.seconds == 60
    driver.clock.advance_by(30_000)
    await driver.rest()
    assert not (await driver.poll_activity("other")).task_token
    restore = m.UpdateActivityExecutionOptionsRequest(namespace=NAMESPACE, activity_id="act", restore_original=True)
    assert (
        await driver.service.update_activity_execution_options(restore)
    ).activity_options.start_delay.seconds == 3600
    update.activity_options.start_delay.seconds = 10
    await driver.service.update_activity_execution_options(update)
    for path, code in (("colour", StatusCode.INVALID_ARGUMENT), ("start_delay", StatusCode.FAILED_PRECONDITION)):
        wrong = m.UpdateActivityExecutionOptionsRequest(namespace=NAMESPACE, activity_id="act")
        wrong.update_mask.paths.append(path)
        assert (await refusal(driver.service.update_activity_execution_options(wrong))).code is code
        if path == "colour":
            assert (await driver.activity(queue="other")).activity_id == "act"
    await driver.settle()


async def test_activities_of_workflows_are_operated_by_the_same_calls(driver: Driver) -> None:
    await driver.start()
    await driver.step(schedule_activity("a"))
    pause = m.PauseActivityExecutionRequest(namespace=NAMESPACE, workflow_id="wf", activity_id="a")
    await driver.service.pause_activity_execution(pause)
    assert (await driver.describe()).pending_activities[0].paused
    update = m.UpdateActivityExecutionOptionsRequest(namespace=NAMESPACE, workflow_id="wf", activity_id="a")
    update.activity_options.heartbeat_timeout.seconds = 7
    update.update_mask.paths.append("heartbeat_timeout")
    answer = await driver.service.update_activity_execution_options(update)
    assert answer.activity_options.heartbeat_timeout.seconds == 7
    reset = m.ResetActivityExecutionRequest(
        namespace=NAMESPACE, workflow_id="wf", activity_id="a", keep_paused=True, restore_original_options=True
    )
    await driver.service.reset_activity_execution(reset)
    unpause = m.UnpauseActivityExecutionRequest(namespace=NAMESPACE, workflow_id="wf", activity_id="a")
    await driver.service.unpause_activity_execution(unpause)
    assert (await driver.poll_activity()).heartbeat_timeout.seconds == 0


async def test_lists_have_pages_filters_and_groups(driver: Driver) -> None:
    for number in range(5):
        await start(driver, f"act{number}")
    for _ in range(2):
        await driver.activity()
    request = m.ListActivityExecutionsRequest(namespace=NAMESPACE, page_size=2)
    seen: list[str] = []
    while True:
        page = await driver.service.list_activity_executions(request)
        seen += [each.activity_id for each in page.executions]
        request.next_page_token = page.next_page_token
        if not page.next_page_token:
            break
    assert sorted(seen) == [f"act{number}" for number in range(5)]
    assert await listed(driver, 'ActivityId = "act3"') == ["act3"]
    assert len(await listed(driver, 'ActivityType = "work" AND ExecutionStatus = "Completed"')) == 2
    assert await listed(driver, 'TemporalNamespaceDivision = "other"') == []
    counting = m.CountActivityExecutionsRequest(namespace=NAMESPACE, query="GROUP BY ExecutionStatus")
    counted = await driver.service.count_activity_executions(counting)
    assert counted.count == 5
    assert {(group.group_values[0].data, group.count) for group in counted.groups} == {
        (b'"Running"', 3),
        (b'"Completed"', 2),
    }
    wrong = m.ListActivityExecutionsRequest(namespace=NAMESPACE, query="Nonsense = 1")
    assert (await refusal(driver.service.list_activity_executions(wrong))).code is StatusCode.INVALID_ARGUMENT


async def test_they_outlive_the_engine() -> None:
    async with Driver(MemoryStore(), in_process=False) as driver:
        for activity_id in ("waits", "held", "ended", "delayed"):
            request = start_request(driver, activity_id)
            request.start_delay.seconds = 3600 if activity_id == "delayed" else 0
            await driver.service.start_activity_execution(request)
        tasks = {}
        for _ in range(3):
            task = await driver.poll_activity()
            tasks[task.activity_id] = task
        await driver.complete_activity(tasks["ended"])
        await driver.fail_activity(tasks["waits"])
        assert isinstance(driver.store, MemoryStore)
        store = MemoryStore(driver.store.snapshot())
    async with Driver(store, clock=driver.clock, seed=2, in_process=False) as after:
        assert await after.engine.check_invariants() == []
        assert text_of((await poll_outcome(after, "ended")).result) == "out"
        after.clock.advance_by(1000)
        await after.rest()
        assert (await after.poll_activity()).activity_id == "waits"
        assert not (await after.poll_activity()).task_token, "one is held, one is not due"
        await after.complete_activity(tasks["held"])
        assert await status(after, "held") == "COMPLETED"
        after.clock.advance_by(HOUR_MS)
        await after.rest()
        found = [await after.poll_activity(), await after.poll_activity()]
        assert "delayed" in {task.activity_id for task in found}
        await after.rest()
        assert await after.engine.check_invariants() == []
