"""Resetting workflows through the service."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure.api import StatusCode
from perdure.api import messages as m
from perdure.engine.store.memory import MemoryState, MemoryStore
from tests.service.support import (
    NAMESPACE,
    Driver,
    complete_workflow,
    continue_as_new,
    fail_workflow,
    payloads,
    refusal,
    schedule_activity,
    signal_external,
    start_child,
    start_timer,
)
from tests.service.updating import acceptance, begin, response, say


def reset_request(
    event_id: int, workflow_id: str = "wf", run_id: str = "", **fields: Any
) -> m.ResetWorkflowExecutionRequest:
    request = m.ResetWorkflowExecutionRequest(
        namespace=fields.pop("namespace", NAMESPACE),
        reason=fields.pop("reason", "try again"),
        workflow_task_finish_event_id=event_id,
        identity="operator",
        **fields,
    )
    request.workflow_execution.workflow_id = workflow_id
    request.workflow_execution.run_id = run_id
    return request


async def reset(driver: Driver, event_id: int, workflow_id: str = "wf", run_id: str = "", **fields: Any) -> str:
    response = await driver.service.reset_workflow_execution(reset_request(event_id, workflow_id, run_id, **fields))
    return response.run_id


async def current(driver: Driver, workflow_id: str = "wf") -> str:
    return (await driver.describe(workflow_id)).workflow_execution_info.execution.run_id


async def test_an_open_run_is_ended_and_its_workflow_goes_on(driver: Driver) -> None:
    first = await driver.start()
    await driver.step(schedule_activity("a"))
    await driver.activity()
    stale = await driver.poll()
    second = await reset(driver, 4)
    assert second not in ("", first)
    assert await current(driver) == second
    assert await driver.status(run_id=first) == "TERMINATED"
    ended = (await driver.history(run_id=first))[-1].workflow_execution_terminated_event_attributes
    assert (ended.reason, ended.identity) == ("try again", "operator")
    described = (await driver.describe(run_id=first)).workflow_extended_info
    assert described.reset_run_id == second
    assert (await refusal(driver.complete(stale, complete_workflow()))).code is StatusCode.NOT_FOUND
    assert await driver.event_names() == [
        "WorkflowExecutionStarted",
        "WorkflowTaskScheduled",
        "WorkflowTaskStarted",
        "WorkflowTaskFailed",
        "WorkflowTaskScheduled",
    ]
    task = await driver.poll()
    assert task.workflow_execution.run_id == second
    assert len(task.history.events) == 6
    assert task.previous_started_event_id == 0 and task.started_event_id == 6
    await driver.complete(task, complete_workflow())
    assert await driver.status() == "COMPLETED"
    await driver.settle()


async def test_describe_tells_when_it_was_reset(driver: Driver) -> None:
    run_id = await driver.start()
    started_ms = driver.clock.now_ms()
    await driver.step()
    driver.clock.advance_by(5000)
    await reset(driver, 4)
    described = await driver.describe()
    extended = described.workflow_extended_info
    assert extended.last_reset_time.ToMilliseconds() == driver.clock.now_ms()
    assert extended.original_start_time.ToMilliseconds() == started_ms
    assert described.workflow_execution_info.start_time.ToMilliseconds() == driver.clock.now_ms()
    assert described.workflow_execution_info.first_run_id == run_id
    base = (await driver.describe(run_id=run_id)).workflow_extended_info
    assert not base.HasField("last_reset_time")
    listed = await driver.service.list_workflow_executions(m.ListWorkflowExecutionsRequest(namespace=NAMESPACE))
    assert [info.execution.run_id for info in listed.executions] == [await current(driver), run_id]


@pytest.mark.parametrize("how", ["completed", "failed", "terminated"])
async def test_a_closed_run_is_taken_up(driver: Driver, how: str) -> None:
    first = await driver.start()
    if how == "terminated":
        await driver.step()
        await driver.terminate()
    else:
        await driver.step(complete_workflow() if how == "completed" else fail_workflow())
    before = await driver.event_names(run_id=first)
    await reset(driver, 4)
    assert await driver.event_names(run_id=first) == before
    assert await driver.status() == "RUNNING"
    await driver.step(complete_workflow("again"))
    assert await driver.status() == "COMPLETED"
    await driver.settle()


async def test_an_earlier_run_is_taken_up_and_the_open_one_ends(driver: Driver) -> None:
    first = await driver.start()
    await driver.step(complete_workflow())
    second = await driver.start()
    third = await reset(driver, 4, run_id=first)
    assert await driver.status(run_id=second) == "TERMINATED"
    assert (await driver.describe(run_id=second)).workflow_extended_info.reset_run_id == third
    assert await current(driver) == third
    assert (await driver.history())[3].workflow_task_failed_event_attributes.base_run_id == first
    await driver.settle()


async def test_a_run_whose_successor_has_been_deleted_is_taken_up(driver: Driver) -> None:
    first = await driver.start()
    await driver.step(continue_as_new())
    second = await current(driver)
    await driver.step(complete_workflow())
    third = await driver.start()
    execution = m.WorkflowExecution(workflow_id="wf", run_id=second)
    delete = m.DeleteWorkflowExecutionRequest(namespace=NAMESPACE, workflow_execution=execution)
    await driver.service.delete_workflow_execution(delete)
    await driver.rest()
    fourth = await reset(driver, 4, run_id=first)
    assert await current(driver) == fourth
    assert await driver.status(run_id=third) == "TERMINATED"
    await driver.step(complete_workflow())
    await driver.settle()


async def test_a_request_id_resets_once(driver: Driver) -> None:
    await driver.start()
    await driver.step()
    first = await reset(driver, 4, request_id="r")
    assert await reset(driver, 4, request_id="r") == first
    assert await reset(driver, 4, request_id="other") != first
    found = await asyncio.gather(*[reset(driver, 4, request_id="both") for _ in range(3)])
    assert len(set(found)) == 1


@pytest.mark.parametrize("event_id", [-1, 0, 1, 2, 5, 6, 1000])
async def test_points_that_cannot_be_reset_to(driver: Driver, event_id: int) -> None:
    run_id = await driver.start()
    await driver.step(start_timer("t", 60))
    error = await refusal(reset(driver, event_id))
    assert error.code is StatusCode.INVALID_ARGUMENT
    assert await current(driver) == run_id
    assert await driver.status() == "RUNNING"
    await driver.settle()


async def test_what_cannot_be_found(driver: Driver) -> None:
    await driver.start()
    await driver.step()
    assert (await refusal(reset(driver, 4, "nobody"))).code is StatusCode.NOT_FOUND
    assert (await refusal(reset(driver, 4, run_id="no-run"))).code is StatusCode.NOT_FOUND
    assert (await refusal(reset(driver, 4, ""))).code is StatusCode.INVALID_ARGUMENT
    assert (await refusal(reset(driver, 4, namespace="elsewhere"))).code is StatusCode.NOT_FOUND
    assert (await refusal(reset(driver, 4, reset_reapply_type=77))).code is StatusCode.INVALID_ARGUMENT


async def test_signals_of_all_runs_are_kept_even_buffered_ones(driver: Driver) -> None:
    first = await driver.start()
    await driver.step()
    await driver.signal(name="one")
    await driver.step(continue_as_new())
    await driver.signal(name="two")
    await driver.poll()
    await driver.signal(name="three")
    await reset(driver, 4, run_id=first)
    found = [
        event.workflow_execution_signaled_event_attributes.signal_name
        for event in await driver.history()
        if event.event_type == m.EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED
    ]
    assert found == ["one", "two", "three"]
    await driver.settle()


async def test_a_running_activity_is_handed_out_to_the_new_run(driver: Driver) -> None:
    await driver.start()
    await driver.step(schedule_activity("a"))
    await driver.signal()
    await driver.step()
    running = await driver.poll_activity()
    second = await reset(driver, 9)
    assert (await refusal(driver.complete_activity(running))).code is StatusCode.NOT_FOUND
    again = await driver.poll_activity()
    assert again.workflow_execution.run_id == second and again.attempt == 1
    await driver.complete_activity(again)
    await driver.step(complete_workflow())
    await driver.settle()


async def test_a_timer_that_is_past_fires(driver: Driver) -> None:
    await driver.start()
    await driver.step(start_timer("t", 60))
    await driver.signal()
    await driver.step()
    driver.clock.advance_by(120_000)
    await driver.rest()
    await driver.step(complete_workflow())
    assert await driver.status() == "COMPLETED"
    await reset(driver, 9)
    await driver.rest()
    assert "TimerFired" in await driver.event_names()
    await driver.settle()


# -- children


async def parent_with_child(driver: Driver) -> str:
    """A parent whose child runs; its second task ends with event 10."""
    await driver.start("parent")
    await driver.step(start_child("child", queue="nursery"))
    await driver.rest()
    await driver.step()
    return await current(driver, "child")


async def finish_child(driver: Driver) -> None:
    task = await driver.poll("nursery")
    assert task.task_token
    await driver.complete(task, complete_workflow("grown"))


async def test_a_child_goes_on_and_the_new_run_hears_of_its_end(driver: Driver) -> None:
    child = await parent_with_child(driver)
    await reset(driver, 9, "parent")
    await driver.rest()
    assert await driver.status("child") == "RUNNING"
    assert await current(driver, "child") == child
    pending = (await driver.describe("parent")).pending_children
    assert [each.run_id for each in pending] == [child]
    await finish_child(driver)
    await driver.rest()
    assert "ChildWorkflowExecutionCompleted" in await driver.event_names("parent")
    await driver.settle()


async def test_the_end_finds_its_way_through_several_resets(driver: Driver) -> None:
    await parent_with_child(driver)
    for _ in range(3):
        await reset(driver, 9, "parent")
    await driver.step()
    await reset(driver, 9, "parent")
    await finish_child(driver)
    await driver.rest()
    assert "ChildWorkflowExecutionCompleted" in await driver.event_names("parent")
    await driver.settle()


async def test_a_child_that_ended_after_its_parent_is_told_of(driver: Driver) -> None:
    await driver.start("parent")
    await driver.step(start_child("child", queue="nursery", policy=2))
    await driver.rest()
    await driver.step()
    await driver.terminate("parent")
    await finish_child(driver)
    await driver.settle()
    await reset(driver, 9, "parent")
    assert (await driver.event_names("parent")).count("ChildWorkflowExecutionCompleted") == 1
    await driver.settle()


async def test_a_child_that_was_erased_counts_as_terminated(driver: Driver) -> None:
    child = await parent_with_child(driver)
    parent = await current(driver, "parent")
    await driver.terminate("parent")
    await driver.settle()
    await driver.service.delete_workflow_execution(
        m.DeleteWorkflowExecutionRequest(
            namespace=NAMESPACE, workflow_execution=m.WorkflowExecution(workflow_id="child", run_id=child)
        )
    )
    await reset(driver, 9, "parent", parent)
    assert "ChildWorkflowExecutionTerminated" in await driver.event_names("parent")
    await driver.settle()


async def test_a_child_started_after_the_point_gives_way_when_it_is_started_again(driver: Driver) -> None:
    first = await parent_with_child(driver)
    second_parent = await reset(driver, 4, "parent")
    await driver.rest()
    assert await driver.status("child") == "RUNNING"
    await driver.step(start_child("child", queue="nursery"))
    await driver.rest()
    second = await current(driver, "child")
    assert second != first
    assert await driver.status("child", first) == "TERMINATED"
    names = await driver.event_names("parent")
    assert "ChildWorkflowExecutionTerminated" not in names
    assert names.count("ChildWorkflowExecutionStarted") == 1
    (pending,) = (await driver.describe("parent")).pending_children
    assert pending.run_id == second
    await driver.step()
    await finish_child(driver)
    await driver.rest()
    assert (await driver.event_names("parent", second_parent)).count("ChildWorkflowExecutionCompleted") == 1
    await driver.settle()


async def test_the_close_policy_of_a_reset_parent_reaches_its_child(driver: Driver) -> None:
    await parent_with_child(driver)
    await reset(driver, 9, "parent")
    await driver.terminate("parent")
    await driver.settle()
    assert await driver.status("child") == "TERMINATED"


async def test_a_reset_child_answers_to_its_parent(driver: Driver) -> None:
    await parent_with_child(driver)
    task = await driver.poll("nursery")
    await driver.complete(task)
    await reset(driver, 4, "child")
    await driver.rest()
    assert "ChildWorkflowExecutionTerminated" not in await driver.event_names("parent")
    await finish_child(driver)
    await driver.rest()
    assert "ChildWorkflowExecutionCompleted" in await driver.event_names("parent")
    await driver.settle()


async def test_a_signal_to_another_workflow_arrives_once(driver: Driver) -> None:
    await driver.start("other", task_queue=m.TaskQueue(name="elsewhere"))
    await driver.start()
    await driver.step(signal_external("other"))
    await driver.rest()
    await driver.step(complete_workflow())
    names = await driver.event_names()
    await reset(driver, names.index("WorkflowTaskCompleted", 5) + 1)
    await reset(driver, 9)
    await driver.rest()
    assert (await driver.event_names("other")).count("WorkflowExecutionSignaled") == 1
    await driver.settle()


# -- updates


async def test_an_update_that_waits_goes_on_with_the_new_run(driver: Driver) -> None:
    """Nobody has accepted it when its run ends: its caller is answered by the run that follows."""
    await driver.start()
    await driver.step()
    call = await begin(driver)
    second = await reset(driver, 4)
    await driver.rest()
    task = await driver.poll()
    assert [message.protocol_instance_id for message in task.messages] == ["u"]
    await say(driver, task, acceptance(), response())
    answered = await call
    assert answered.outcome.success == payloads("out")
    assert answered.update_ref.workflow_execution.run_id == second
    await driver.settle()


@pytest.mark.parametrize("completed", [True, False])
async def test_an_accepted_update_is_asked_for_again(driver: Driver, completed: bool) -> None:
    await driver.start()
    await driver.step()
    call = await begin(driver)
    await say(driver, await driver.poll(), acceptance(), *([response()] if completed else []))
    await driver.rest()
    await reset(driver, 4)
    first = await call
    assert first.outcome.HasField("success") == completed
    again = await begin(driver)
    await driver.rest()
    task = await driver.poll()
    assert not task.messages, "the request lies in the history"
    assert task.history.events[4].HasField("workflow_execution_update_admitted_event_attributes")
    await say(driver, task, acceptance(), response(text="anew"))
    assert (await again).outcome.success == payloads("anew")
    await driver.settle()


# -- durability


async def test_a_long_history_is_taken_up_in_rows(driver: Driver) -> None:
    await driver.start()
    await driver.step(*[start_timer(f"t{n}", 1000 + n) for n in range(2500)])
    await driver.signal()
    await driver.step()
    await reset(driver, 2508)
    assert len(await driver.history()) == 2509
    rows = await driver.store.read_history(2, 1, 1)
    assert len(rows) == 1 and rows[0].first_event_id == 1
    assert (await driver.store.read_history(2, 1500, 1))[0].first_event_id == 1001
    await driver.settle()


async def test_a_crash_around_the_commit_leaves_one_or_the_other() -> None:
    """Either nothing has happened, or the base has ended and the new run is there, with its child."""
    store = MemoryStore(MemoryState())
    kept: list[MemoryState] = []
    async with Driver(store) as driver:
        first = await driver.start()
        await driver.step(start_child("child", queue="nursery"))
        await driver.rest()
        await driver.step()
        await driver.settle()
        kept.append(store.snapshot())
        store.after_commit = lambda number, batch: kept.append(store.snapshot())
        await reset(driver, 9)
    for kept_commits in (0, 1):
        async with Driver(MemoryStore(kept[kept_commits]), seed=2) as driver:
            await driver.settle()
            run_id = await current(driver)
            assert (run_id == first) == (kept_commits == 0)
            if kept_commits == 0:
                assert await driver.status(run_id=first) == "RUNNING"
                run_id = await reset(driver, 9)
            assert await driver.status(run_id=first) == "TERMINATED"
            await finish_child(driver)
            await driver.rest()
            assert "ChildWorkflowExecutionCompleted" in await driver.event_names(run_id=run_id)
            await driver.settle()


async def test_a_busy_workflow_is_reset_while_signals_come(driver: Driver) -> None:
    await driver.start()
    await driver.step()

    async def send() -> None:
        for number in range(50):
            await driver.signal(request_id=f"s-{number}")

    await asyncio.gather(send(), reset(driver, 4), reset(driver, 4))
    signals = (await driver.event_names()).count("WorkflowExecutionSignaled")
    assert signals == 50
    await driver.settle()
