"""Batch operations: what they do to workflows, how they are looked at, and that nothing stops them half-way."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.engine.store.memory import MemoryState, MemoryStore
from perdure.engine.store.port import Batch, StoreFullError
from tests.service.support import (
    NAMESPACE,
    Driver,
    complete_workflow,
    payloads,
    refusal,
    schedule_activity,
)

STATE = m.BatchOperationState
TYPE = m.BatchOperationType
SIGNAL = {"signal_operation": m.BatchOperationSignal(signal="go", identity="operator", input=payloads("x"))}
TERMINATE = {"termination_operation": m.BatchOperationTermination(identity="operator")}
CANCEL = {"cancellation_operation": m.BatchOperationCancellation(identity="operator")}
DELETE = {"deletion_operation": m.BatchOperationDeletion(identity="operator")}
RUNNING = "ExecutionStatus = 'Running'"


def about(*workflow_ids: str, **fields: Any) -> m.StartBatchOperationRequest:
    """A job for some workflows, or with `visibility_query` for those that match."""
    request = m.StartBatchOperationRequest(**{"namespace": NAMESPACE, "job_id": "job", "reason": "why", **fields})
    for workflow_id in workflow_ids:
        request.executions.add(workflow_id=workflow_id)
    return request


async def describe(driver: Driver, job_id: str = "job") -> m.DescribeBatchOperationResponse:
    request = m.DescribeBatchOperationRequest(namespace=NAMESPACE, job_id=job_id)
    return await driver.service.describe_batch_operation(request)


async def counts(driver: Driver, job_id: str = "job") -> tuple[str, int, int, int]:
    found = await describe(driver, job_id)
    return (
        STATE.Name(found.state).removeprefix("BATCH_OPERATION_STATE_"),
        found.total_operation_count,
        found.complete_operation_count,
        found.failure_operation_count,
    )


async def finish(driver: Driver, job_id: str = "job") -> tuple[str, int, int, int]:
    """Wait for a job's end, letting time pass where it waits for that."""
    while True:
        await driver.rest()
        found = await counts(driver, job_id)
        if found[0] != "RUNNING":
            return found
        driver.engine.advance()


async def run(driver: Driver, request: m.StartBatchOperationRequest) -> tuple[str, int, int, int]:
    """Start a job and wait for its end."""
    await driver.service.start_batch_operation(request)
    return await finish(driver, request.job_id)


async def start_some(driver: Driver, count: int = 3) -> list[str]:
    ids = [f"wf-{number}" for number in range(count)]
    for workflow_id in ids:
        await driver.start(workflow_id)
    return ids


# -- what they do


async def test_signals(driver: Driver) -> None:
    ids = await start_some(driver)
    assert await run(driver, about(*ids, **SIGNAL)) == ("COMPLETED", 3, 3, 0)
    for workflow_id in ids:
        (*_, event) = await driver.history(workflow_id)
        signaled = event.workflow_execution_signaled_event_attributes
        assert (signaled.signal_name, signaled.identity, signaled.input) == ("go", "operator", payloads("x"))
    await driver.settle()


async def test_cancels(driver: Driver) -> None:
    ids = await start_some(driver)
    assert await run(driver, about(visibility_query=RUNNING, **CANCEL)) == ("COMPLETED", 3, 3, 0)
    for workflow_id in ids:
        (*_, event) = await driver.history(workflow_id)
        assert event.workflow_execution_cancel_requested_event_attributes.cause == "why"


async def test_terminates_whatever_matches(driver: Driver) -> None:
    await start_some(driver, 250)
    kept = driver.start_request("kept")
    kept.workflow_type.name = "other"
    await driver.service.start_workflow_execution(kept)
    query = f"{RUNNING} AND WorkflowType = 'flow'"
    assert await run(driver, about(visibility_query=query, **TERMINATE)) == ("COMPLETED", 250, 250, 0)
    assert await driver.status("wf-0") == await driver.status("wf-249") == "TERMINATED"
    assert await driver.status("kept") == "RUNNING"
    (*_, event) = await driver.history("wf-7")
    ended = event.workflow_execution_terminated_event_attributes
    assert (ended.reason, ended.identity) == ("why", "operator")
    await driver.settle()


async def test_deletes(driver: Driver) -> None:
    ids = await start_some(driver)
    await driver.step(complete_workflow())
    assert await run(driver, about(*ids, **DELETE)) == ("COMPLETED", 3, 3, 0)
    await driver.settle()
    for workflow_id in ids:
        assert (await refusal(driver.describe(workflow_id))).code is StatusCode.NOT_FOUND


async def progressed(driver: Driver, workflow_id: str, tasks: int) -> None:
    """A workflow that has completed some workflow tasks; they end with events 4, 8, …"""
    await driver.start(workflow_id)
    for number in range(tasks):
        if number:
            await driver.signal(workflow_id)
        await driver.step()


@pytest.mark.parametrize(
    ("operation", "ends_at"),
    [
        (m.BatchOperationReset(options=m.ResetOptions(first_workflow_task={})), 4),
        (m.BatchOperationReset(options=m.ResetOptions(last_workflow_task={})), 12),
        (m.BatchOperationReset(options=m.ResetOptions(workflow_task_id=8)), 8),
        (m.BatchOperationReset(reset_type=m.ResetType.RESET_TYPE_FIRST_WORKFLOW_TASK), 4),
        (m.BatchOperationReset(reset_type=m.ResetType.RESET_TYPE_LAST_WORKFLOW_TASK), 12),
    ],
)
async def test_resets(driver: Driver, operation: m.BatchOperationReset, ends_at: int) -> None:
    await progressed(driver, "wf", 3)
    assert await run(driver, about("wf", reset_operation=operation)) == ("COMPLETED", 1, 1, 0)
    events = await driver.history("wf")
    assert events[ends_at - 1].workflow_task_failed_event_attributes.failure.message == "why"
    signals = (await driver.event_names("wf")).count("WorkflowExecutionSignaled")
    assert signals == 2
    await driver.settle()


async def test_resets_leave_behind_what_they_are_told_to(driver: Driver) -> None:
    await progressed(driver, "wf", 3)
    options = m.ResetOptions(
        first_workflow_task={},  # type: ignore[arg-type]
        reset_reapply_exclude_types=[m.ResetReapplyExcludeType.RESET_REAPPLY_EXCLUDE_TYPE_SIGNAL],
    )
    await run(driver, about("wf", reset_operation=m.BatchOperationReset(options=options)))
    assert "WorkflowExecutionSignaled" not in await driver.event_names("wf")


async def test_a_workflow_without_a_task_cannot_be_reset(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    await driver.start("new")
    request = driver.start_request("delayed")
    request.workflow_start_delay.seconds = 600
    await driver.service.start_workflow_execution(request)
    operation = m.BatchOperationReset(options=m.ResetOptions(last_workflow_task={}))  # type: ignore[arg-type]
    assert await run(driver, about("new", "delayed", reset_operation=operation)) == ("COMPLETED", 2, 0, 2)
    failures = driver.engine.batches.get(NAMESPACE, "job").failures
    assert [(each.workflow_id, each.code) for each in failures] == [
        ("new", StatusCode.INVALID_ARGUMENT),
        ("delayed", StatusCode.FAILED_PRECONDITION),
    ]
    told = [record.getMessage() for record in caplog.records if record.name == "perdure.batches"]
    assert [
        ("'job'" in line, repr(each.workflow_id) in line, each.run_id in line)
        for line, each in zip(told, failures, strict=True)
    ] == [(True, True, True)] * 2
    assert "INVALID_ARGUMENT" in told[0] and "FAILED_PRECONDITION" in told[1]


async def test_options_change(driver: Driver) -> None:
    ids = await start_some(driver)
    operation = m.BatchOperationUpdateWorkflowExecutionOptions(identity="operator")
    operation.workflow_execution_options.priority.priority_key = 1
    operation.update_mask.paths.append("priority.priority_key")
    request = about(*ids, update_workflow_options_operation=operation)
    assert await run(driver, request) == ("COMPLETED", 3, 3, 0)
    assert (await driver.describe("wf-1")).workflow_execution_info.priority.priority_key == 1


async def test_activities_are_paused_no_more_reset_and_changed(driver: Driver) -> None:
    ids = await start_some(driver, 2)
    for _ in ids:
        await driver.step(schedule_activity("a", attempts=5))
    for workflow_id in ids:
        pause = m.PauseActivityRequest(namespace=NAMESPACE, type="work")
        pause.execution.workflow_id = workflow_id
        await driver.service.pause_activity(pause)
    change = m.BatchOperationUpdateActivityOptions(match_all=True)
    change.activity_options.start_to_close_timeout.seconds = 5
    change.update_mask.paths.append("start_to_close_timeout")
    operations: list[dict[str, Any]] = [
        {"update_activity_options_operation": change},
        {"reset_activities_operation": m.BatchOperationResetActivities(type="work", keep_paused=True)},
        {"unpause_activities_operation": m.BatchOperationUnpauseActivities(match_all=True)},
    ]
    for number, operation in enumerate(operations):
        assert await run(driver, about(*ids, job_id=f"job-{number}", **operation)) == ("COMPLETED", 2, 2, 0)
    for _ in ids:
        task = await driver.activity()
        assert task.start_to_close_timeout.seconds == 5
    await driver.settle()


async def test_workflows_that_are_gone_count_as_served(driver: Driver) -> None:
    await driver.start("open")
    await driver.start("closed")
    await driver.terminate("closed")
    assert await run(driver, about("open", "closed", "nobody", **TERMINATE)) == ("COMPLETED", 3, 3, 0)


async def test_one_refusal_stops_nothing(driver: Driver) -> None:
    ids = await start_some(driver)
    await driver.signal("wf-0")
    await driver.signal("wf-2")
    operation = m.BatchOperationReset(options=m.ResetOptions(workflow_task_id=3))
    assert await run(driver, about(*ids, reset_operation=operation)) == ("COMPLETED", 3, 2, 1)
    (failure,) = driver.engine.batches.get(NAMESPACE, "job").failures
    assert failure.workflow_id == "wf-1" and failure.code == StatusCode.INVALID_ARGUMENT
    await driver.settle()


# -- looking at them


async def test_describe_tells_all(driver: Driver) -> None:
    ids = await start_some(driver, 2)
    begun_ms = driver.clock.now_ms()
    request = about(*ids, job_id="one", **SIGNAL)
    await run(driver, request)
    found = await describe(driver, "one")
    assert found.operation_type == TYPE.BATCH_OPERATION_TYPE_SIGNAL_WORKFLOW
    assert (found.job_id, found.identity, found.reason, found.query) == ("one", "operator", "why", "")
    assert [each.business_id for each in found.executions] == ids
    assert found.start_time.ToMilliseconds() == begun_ms
    assert found.close_time.ToMilliseconds() >= begun_ms
    await run(driver, about(job_id="two", visibility_query=RUNNING, **CANCEL))
    found = await describe(driver, "two")
    assert found.query == RUNNING and not found.executions


async def test_lists_are_paged_newest_first(driver: Driver) -> None:
    await driver.start("wf")
    for number in range(5):
        await run(driver, about("wf", job_id=f"job-{number}", **SIGNAL))
        driver.clock.advance_by(10)
    request = m.ListBatchOperationsRequest(namespace=NAMESPACE, page_size=2)
    found: list[str] = []
    while True:
        response = await driver.service.list_batch_operations(request)
        assert len(response.operation_info) <= 2
        found += [info.job_id for info in response.operation_info]
        if not response.next_page_token:
            break
        request.next_page_token = response.next_page_token
    assert found == [f"job-{number}" for number in reversed(range(5))]
    (info, *_) = (
        await driver.service.list_batch_operations(m.ListBatchOperationsRequest(namespace=NAMESPACE))
    ).operation_info
    assert info.state == STATE.BATCH_OPERATION_STATE_COMPLETED and info.HasField("close_time")
    request.next_page_token = b"forged"
    assert (await refusal(driver.service.list_batch_operations(request))).code is StatusCode.INVALID_ARGUMENT


async def test_a_job_keeps_its_pace_and_can_be_stopped(driver: Driver) -> None:
    ids = await start_some(driver, 10)
    await driver.service.start_batch_operation(about(*ids, max_operations_per_second=0.5, **TERMINATE))
    await driver.rest()
    assert await counts(driver) == ("RUNNING", 10, 1, 0)
    begun_ms = driver.clock.now_ms()
    for _ in range(3):
        assert driver.engine.advance()
        await driver.rest()
    assert driver.clock.now_ms() - begun_ms == pytest.approx(6000, abs=200)
    assert await counts(driver) == ("RUNNING", 10, 4, 0)
    stop = m.StopBatchOperationRequest(namespace=NAMESPACE, job_id="job", reason="enough", identity="other")
    await driver.service.stop_batch_operation(stop)
    found = await describe(driver)
    assert (found.reason, found.identity) == ("enough", "other")
    assert await counts(driver) == ("FAILED", 10, 4, 0)
    driver.clock.advance_by(60_000)
    await driver.settle()
    assert [await driver.status(workflow_id) for workflow_id in ids].count("RUNNING") == 6
    assert (await refusal(driver.service.stop_batch_operation(stop))).code is StatusCode.NOT_FOUND


async def test_a_job_id_is_used_once(driver: Driver) -> None:
    await driver.start("wf")
    await run(driver, about("wf", **SIGNAL))
    error = await refusal(driver.service.start_batch_operation(about("wf", **SIGNAL)))
    assert error.code is StatusCode.ALREADY_EXISTS
    assert (await driver.event_names("wf")).count("WorkflowExecutionSignaled") == 1


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (about("wf", job_id="", **SIGNAL), StatusCode.INVALID_ARGUMENT),
        (about("wf", job_id="x" * 1001, **SIGNAL), StatusCode.INVALID_ARGUMENT),
        (about("wf", reason="", **SIGNAL), StatusCode.INVALID_ARGUMENT),
        (about("wf", namespace="elsewhere", **SIGNAL), StatusCode.NOT_FOUND),
        (about(**SIGNAL), StatusCode.INVALID_ARGUMENT),
        (about("wf", visibility_query=RUNNING, **SIGNAL), StatusCode.INVALID_ARGUMENT),
        (about("", **SIGNAL), StatusCode.INVALID_ARGUMENT),
        (about(*[f"wf-{number}" for number in range(1001)], **SIGNAL), StatusCode.INVALID_ARGUMENT),
        (about(visibility_query="nonsense =", **SIGNAL), StatusCode.INVALID_ARGUMENT),
        (about("wf"), StatusCode.INVALID_ARGUMENT),
        (about("wf", signal_operation=m.BatchOperationSignal()), StatusCode.INVALID_ARGUMENT),
        (about("wf", reset_operation=m.BatchOperationReset()), StatusCode.INVALID_ARGUMENT),
        (
            about("wf", reset_operation=m.BatchOperationReset(options=m.ResetOptions())),
            StatusCode.INVALID_ARGUMENT,
        ),
        (
            about("wf", reset_operation=m.BatchOperationReset(options=m.ResetOptions(build_id="b"))),
            StatusCode.UNIMPLEMENTED,
        ),
        (
            about(
                "wf",
                update_workflow_options_operation=m.BatchOperationUpdateWorkflowExecutionOptions(
                    update_mask={"paths": ["no"]}  # type: ignore[arg-type]
                ),
            ),
            StatusCode.INVALID_ARGUMENT,
        ),
        (
            about("wf", unpause_activities_operation=m.BatchOperationUnpauseActivities()),
            StatusCode.INVALID_ARGUMENT,
        ),
        (
            about("wf", update_activity_options_operation=m.BatchOperationUpdateActivityOptions(match_all=True)),
            StatusCode.INVALID_ARGUMENT,
        ),
        (
            about("wf", terminate_activities_operation=m.BatchOperationTerminateActivities()),
            StatusCode.UNIMPLEMENTED,
        ),
        (
            about(
                target_executions=[m.Execution(type=m.ExecutionType.EXECUTION_TYPE_ACTIVITY, business_id="a")],
                **SIGNAL,
            ),
            StatusCode.UNIMPLEMENTED,
        ),
    ],
)
async def test_what_cannot_be_asked_for(
    driver: Driver, request_: m.StartBatchOperationRequest, code: StatusCode
) -> None:
    assert (await refusal(driver.service.start_batch_operation(request_))).code is code
    listed = await driver.service.list_batch_operations(m.ListBatchOperationsRequest(namespace=NAMESPACE))
    assert not listed.operation_info


async def test_an_unknown_job_is_not_found(driver: Driver) -> None:
    assert (await refusal(describe(driver, "nobody"))).code is StatusCode.NOT_FOUND
    stop = m.StopBatchOperationRequest(namespace=NAMESPACE, job_id="nobody", reason="why")
    assert (await refusal(driver.service.stop_batch_operation(stop))).code is StatusCode.NOT_FOUND


async def test_executions_may_be_named_in_the_new_way(driver: Driver) -> None:
    run_id = await driver.start("wf")
    await driver.terminate("wf")
    await driver.start("wf")
    named = m.Execution(type=m.ExecutionType.EXECUTION_TYPE_WORKFLOW, business_id="wf", run_id=run_id)
    await run(driver, about(target_executions=[named], **DELETE))
    assert (await refusal(driver.describe("wf", run_id))).code is StatusCode.NOT_FOUND
    assert await driver.status("wf") == "RUNNING"


# -- durability


@pytest.mark.parametrize("by_query", [True, False])
async def test_a_crash_at_every_commit_serves_each_workflow_once(by_query: bool) -> None:
    """Killed after any commit, the job goes on; every workflow has exactly one signal in the end."""
    store = MemoryStore(MemoryState())
    kept: list[MemoryState] = []
    async with Driver(store) as driver:
        ids = await start_some(driver, 6)
        await driver.settle()
        store.after_commit = lambda number, batch: kept.append(store.snapshot())
        fields: dict[str, Any] = {"visibility_query": RUNNING} if by_query else {}
        # Slowly, so that each workflow has a commit of its own.
        await run(driver, about(*([] if by_query else ids), max_operations_per_second=1, **fields, **SIGNAL))
    assert len(kept) >= 7
    for state in kept:
        async with Driver(MemoryStore(state), seed=2) as driver:
            assert await finish(driver) == ("COMPLETED", 6, 6, 0)
            for workflow_id in ids:
                assert (await driver.event_names(workflow_id)).count("WorkflowExecutionSignaled") == 1
            await driver.settle()


async def test_a_commit_that_fails_is_made_up_for() -> None:
    store = MemoryStore(MemoryState())
    async with Driver(store) as driver:
        ids = await start_some(driver, 5)
        await driver.settle()
        failing = {2, 3, 5}
        seen = 0

        def fail(number: int, batch: Batch) -> None:
            nonlocal seen
            seen += 1
            if seen in failing:
                raise StoreFullError("the disk is full")

        store.before_commit = fail
        found = await run(driver, about(*ids, max_operations_per_second=1, **SIGNAL))
        assert found == ("COMPLETED", 5, 5, 0)
        for workflow_id in ids:
            assert (await driver.event_names(workflow_id)).count("WorkflowExecutionSignaled") == 1
        await driver.settle()


async def test_a_start_that_fails_leaves_nothing() -> None:
    store = MemoryStore(MemoryState())
    async with Driver(store) as driver:
        await driver.start("wf")
        await driver.settle()

        def fail(number: int, batch: Batch) -> None:
            raise StoreFullError("the disk is full")

        store.before_commit = fail
        with pytest.raises(RpcError):
            await driver.service.start_batch_operation(about("wf", **SIGNAL))
        store.before_commit = None
        assert (await refusal(describe(driver))).code is StatusCode.NOT_FOUND
        assert await run(driver, about("wf", **SIGNAL)) == ("COMPLETED", 1, 1, 0)


async def test_jobs_are_found_again_and_old_ones_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.engine.batches.runner.JOBS_KEPT", 3)
    state = MemoryState()
    async with Driver(MemoryStore(state)) as driver:
        await driver.start("wf")
        for number in range(5):
            await run(driver, about("wf", job_id=f"job-{number}", **SIGNAL))
            driver.clock.advance_by(10)
    async with Driver(MemoryStore(state), seed=2) as driver:
        assert (await refusal(describe(driver, "job-1"))).code is StatusCode.NOT_FOUND
        assert await counts(driver, "job-4") == ("COMPLETED", 1, 1, 0)
        assert (await describe(driver, "job-2")).reason == "why"
        slow = {"max_operations_per_second": 0.01}
        await driver.start("other")
        for number in range(3):
            await driver.service.start_batch_operation(about("wf", "other", job_id=f"slow-{number}", **slow, **SIGNAL))
        error = await refusal(driver.service.start_batch_operation(about("wf", job_id="more", **SIGNAL)))
        assert error.code is StatusCode.RESOURCE_EXHAUSTED


async def test_a_damaged_job_has_failed_and_the_engine_goes_on() -> None:
    state = MemoryState()
    async with Driver(MemoryStore(state)) as driver:
        await driver.start("wf")
        await run(driver, about("wf", **SIGNAL))
    state.metas["batch/0/progress"] = b"\xc1"
    async with Driver(MemoryStore(state), seed=2) as driver:
        found = await describe(driver)
        assert found.state == STATE.BATCH_OPERATION_STATE_FAILED and "damaged" in found.reason
        assert await run(driver, about("wf", job_id="next", **SIGNAL)) == ("COMPLETED", 1, 1, 0)
