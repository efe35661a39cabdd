"""Pausing whole workflows."""

from __future__ import annotations

import asyncio

import pytest

from perdure.api import StatusCode
from perdure.api import messages as m
from perdure.engine.store.memory import MemoryState, MemoryStore
from tests.service.support import (
    NAMESPACE,
    Driver,
    complete_workflow,
    payloads,
    refusal,
    schedule_activity,
    start_timer,
)
from tests.service.updating import COMPLETED, acceptance, begin, idle, response, say, update_request


async def pause(driver: Driver, *, request_id: str = "", workflow_id: str = "wf", run_id: str = "") -> None:
    request = m.PauseWorkflowExecutionRequest(
        namespace=NAMESPACE,
        workflow_id=workflow_id,
        run_id=run_id,
        identity="operator",
        reason="why",
        request_id=request_id,
    )
    await driver.service.pause_workflow_execution(request)


async def unpause(driver: Driver, workflow_id: str = "wf") -> None:
    request = m.UnpauseWorkflowExecutionRequest(
        namespace=NAMESPACE, workflow_id=workflow_id, identity="operator", reason="on"
    )
    await driver.service.unpause_workflow_execution(request)


async def test_a_paused_workflow_is_handed_nothing_and_goes_on_later(driver: Driver) -> None:
    await driver.start()
    await pause(driver)
    assert await driver.status() == "PAUSED"
    info = (await driver.describe()).workflow_extended_info.pause_info
    assert (info.identity, info.reason) == ("operator", "why")
    assert info.paused_time.ToMilliseconds() == driver.clock.now_ms()
    await driver.signal()
    assert not (await driver.poll()).task_token
    await driver.settle()
    await unpause(driver)
    assert await driver.status() == "RUNNING"
    await driver.step(complete_workflow())
    names = await driver.event_names()
    assert names.index("WorkflowExecutionPaused") < names.index("WorkflowExecutionUnpaused")
    assert [event.worker_may_ignore for event in await driver.history()].count(True) == 2
    await driver.settle()


async def test_activities_wait_and_hear_of_it(driver: Driver) -> None:
    await driver.start()
    await driver.step(schedule_activity("a", attempts=3), schedule_activity("b"))
    running = await driver.poll_activity()
    await pause(driver)
    beat = m.RecordActivityTaskHeartbeatRequest(namespace=NAMESPACE, task_token=running.task_token)
    assert (await driver.service.record_activity_task_heartbeat(beat)).activity_paused
    assert not (await driver.poll_activity()).task_token
    await driver.fail_activity(running)
    driver.clock.advance_by(5000)
    assert not (await driver.poll_activity()).task_token
    await unpause(driver)
    tasks = [await driver.poll_activity(), await driver.poll_activity()]
    assert {task.attempt for task in tasks} == {1, 2}
    for task in tasks:
        await driver.complete_activity(task)
    await driver.step(complete_workflow())
    await driver.settle()


@pytest.mark.parametrize("wants_next", [True, False])
async def test_what_a_worker_holds_may_be_completed(driver: Driver, wants_next: bool) -> None:
    await driver.start()
    task = await driver.poll()
    await pause(driver)
    fields = {"return_new_workflow_task": wants_next, "force_create_new_workflow_task": wants_next}
    response = await driver.complete(task, start_timer("t", 1), **fields)
    assert not response.workflow_task.task_token
    driver.engine.advance()
    await driver.rest()
    assert "TimerFired" in await driver.event_names()
    assert not (await driver.poll()).task_token
    await unpause(driver)
    await driver.step(complete_workflow())
    await driver.settle()


async def test_queries_and_updates_are_refused(driver: Driver) -> None:
    await driver.start()
    await driver.step()
    await pause(driver)
    assert (await refusal(driver.query())).code is StatusCode.FAILED_PRECONDITION
    update = driver.service.update_workflow_execution(update_request())
    assert (await refusal(update)).code is StatusCode.FAILED_PRECONDITION
    await unpause(driver)
    call = asyncio.ensure_future(driver.query())
    task = await driver.poll()
    answer = m.RespondQueryTaskCompletedRequest(
        namespace=NAMESPACE,
        task_token=task.task_token,
        completed_type=m.QueryResultType.QUERY_RESULT_TYPE_ANSWERED,
        query_result=payloads("ok"),
    )
    await driver.service.respond_query_task_completed(answer)
    assert (await call).query_result == payloads("ok")


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_pause_while_the_task_of_an_update_is_held(restarted: bool) -> None:
    """What comes then waits for that task, of which a restarted engine knows nothing."""
    state = MemoryState()
    async with Driver(MemoryStore(state)) as driver:
        await idle(driver)
        call = await begin(driver)
        task = await driver.poll()
        await pause(driver)
        await driver.signal()
        await driver.rest()
        assert await driver.engine.check_invariants() == []
        if restarted:
            call.cancel()
        else:
            await say(driver, task, acceptance(), response())
            assert (await call).stage == COMPLETED
            await driver.settle()
    async with Driver(MemoryStore(state), seed=2) as driver:
        assert not (await driver.poll()).task_token
        await unpause(driver)
        await driver.step(complete_workflow())
        names = await driver.event_names()
        assert names.index("WorkflowExecutionPaused") < names.index("WorkflowExecutionSignaled")
        assert ("WorkflowExecutionUpdateCompleted" in names) is not restarted
        await driver.settle()


async def test_what_cannot_be_paused(driver: Driver) -> None:
    run_id = await driver.start()
    assert (await refusal(unpause(driver))).code is StatusCode.FAILED_PRECONDITION
    await pause(driver, request_id="r", run_id=run_id)
    await pause(driver, request_id="r")
    assert (await refusal(pause(driver, request_id="s"))).code is StatusCode.FAILED_PRECONDITION
    assert (await refusal(pause(driver))).code is StatusCode.FAILED_PRECONDITION
    assert (await refusal(pause(driver, workflow_id=""))).code is StatusCode.INVALID_ARGUMENT
    assert (await refusal(pause(driver, workflow_id="nobody"))).code is StatusCode.NOT_FOUND
    await driver.terminate()
    assert await driver.status() == "TERMINATED"
    for call in (pause, unpause):
        assert (await refusal(call(driver))).code is StatusCode.NOT_FOUND
    await driver.settle()


async def test_lists_tell_paused_ones_apart(driver: Driver) -> None:
    await driver.start("one")
    await driver.start("two")
    await pause(driver, workflow_id="two")

    async def listed(query: str) -> list[str]:
        request = m.ListWorkflowExecutionsRequest(namespace=NAMESPACE, query=query)
        response = await driver.service.list_workflow_executions(request)
        return sorted(info.execution.workflow_id for info in response.executions)

    assert await listed("ExecutionStatus = 'Paused'") == ["two"]
    assert await listed("ExecutionStatus = 'Running'") == ["one"]
    opened = await driver.service.list_open_workflow_executions(
        m.ListOpenWorkflowExecutionsRequest(namespace=NAMESPACE)
    )
    assert len(opened.executions) == 2
    closed = await driver.service.list_closed_workflow_executions(
        m.ListClosedWorkflowExecutionsRequest(namespace=NAMESPACE)
    )
    assert not closed.executions


async def test_a_reset_ends_a_pause(driver: Driver) -> None:
    await driver.start()
    await driver.step()
    await pause(driver)
    request = m.ResetWorkflowExecutionRequest(namespace=NAMESPACE, workflow_task_finish_event_id=4, reason="back")
    request.workflow_execution.workflow_id = "wf"
    await driver.service.reset_workflow_execution(request)
    assert await driver.status() == "RUNNING"
    await driver.step(complete_workflow())
    await driver.settle()


async def test_a_pause_outlives_the_engine() -> None:
    state = MemoryState()
    async with Driver(MemoryStore(state)) as driver:
        await driver.start()
        await driver.step(schedule_activity("a"))
        await pause(driver)
        await driver.signal()
        await driver.settle()
    async with Driver(MemoryStore(state), seed=2) as driver:
        await driver.settle()
        assert not (await driver.poll()).task_token and not (await driver.poll_activity()).task_token
        await unpause(driver)
        await driver.activity()
        await driver.step(complete_workflow())
        await driver.settle()
