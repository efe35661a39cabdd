"""Workflow tasks: sticky queues, attempts, polls that wait, polls that are cancelled, workers that leave."""

from __future__ import annotations

import asyncio

import pytest

from perdure.api import StatusCode
from perdure.api import messages as m
from perdure.engine import EngineConfig
from perdure.engine.store.memory import MemoryStore
from tests.service.support import (
    QUEUE,
    STICKY,
    Driver,
    complete_workflow,
    names,
    payloads,
    refusal,
    schedule_activity,
    start_timer,
    turns,
)


async def test_an_empty_poll_answers_a_little_before_its_caller_gives_up(driver: Driver) -> None:
    call = asyncio.ensure_future(driver.service.poll_workflow_task_queue(driver.poll_request(), timeout_s=11))
    await turns()
    driver.clock.advance_by(9_800)
    await turns()
    assert not call.done()
    driver.clock.advance_by(300)  # A deadline that crosses a wire is rounded there.
    assert (await call) == m.PollWorkflowTaskQueueResponse()


async def test_a_poll_that_waits_gets_the_task(driver: Driver) -> None:
    call = asyncio.ensure_future(driver.service.poll_workflow_task_queue(driver.poll_request()))
    await turns()
    await driver.start()
    assert (await call).task_token


@pytest.mark.in_process("it cancels in the very turn of the event loop in which the task is on its way")
async def test_a_cancelled_poll_never_loses_a_task(driver: Driver) -> None:
    calls = [asyncio.ensure_future(driver.service.poll_workflow_task_queue(driver.poll_request())) for _ in range(3)]
    await turns()
    start = asyncio.ensure_future(driver.start())
    for _ in range(10):
        await asyncio.sleep(0)
        if driver.engine.shard.matching.in_transit:
            break
    assert driver.engine.shard.matching.in_transit == 1
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await start
    assert driver.engine.shard.matching.in_transit == 0
    assert (await driver.poll()).task_token


async def test_tasks_are_handed_out_in_order_of_arrival(driver: Driver) -> None:
    for number in range(5):
        await driver.start(f"wf{number}")
    order = [(await driver.poll()).workflow_execution.workflow_id for _ in range(5)]
    assert order == [f"wf{number}" for number in range(5)]


async def test_a_sticky_task_carries_only_what_is_new(driver: Driver) -> None:
    await driver.start()
    sticky = asyncio.ensure_future(driver.service.poll_workflow_task_queue(driver.poll_request(STICKY, sticky=True)))
    await turns()
    await driver.step(start_timer("t", 100), sticky=STICKY)
    await driver.signal()
    task = await sticky
    assert task.previous_started_event_id == 3
    assert names(task.history.events) == [
        "WorkflowTaskCompleted",
        "TimerStarted",
        "WorkflowExecutionSignaled",
        "WorkflowTaskScheduled",
        "WorkflowTaskStarted",
    ]
    assert task.history.events[-1].event_id == task.started_event_id
    assert task.workflow_execution_task_queue.name == "queue"
    await driver.complete(task, complete_workflow(), sticky=STICKY)
    await driver.settle()


async def test_a_sticky_task_whose_run_left_memory_still_carries_what_is_new(driver: Driver) -> None:
    await driver.start(input=payloads("long" * 5000))
    sticky = asyncio.ensure_future(driver.service.poll_workflow_task_queue(driver.poll_request(STICKY, sticky=True)))
    await turns()
    await driver.step(start_timer("t", 100), sticky=STICKY)
    assert driver.engine.shard.cache.evict_cold() == 1
    await driver.signal()
    task = await sticky
    assert [event.event_id for event in task.history.events] == [4, 5, 6, 7, 8]


async def test_a_short_history_of_a_run_that_left_memory_is_told_whole(driver: Driver) -> None:
    await driver.start()
    polls = [
        asyncio.ensure_future(driver.service.poll_workflow_task_queue(driver.poll_request(STICKY, sticky=True))),
        asyncio.ensure_future(driver.service.poll_workflow_task_queue(driver.poll_request())),
    ]
    await turns()
    await driver.complete(await polls[1], start_timer("t", 100), sticky=STICKY)
    assert driver.engine.shard.cache.evict_cold() == 1
    polls[1] = asyncio.ensure_future(driver.service.poll_workflow_task_queue(driver.poll_request()))
    await turns()
    await driver.signal()
    task = await polls[1]
    assert [event.event_id for event in task.history.events] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert not polls[0].done()
    polls[0].cancel()


async def test_a_sticky_queue_nobody_polls_is_not_used(driver: Driver) -> None:
    await driver.start()
    await driver.step(sticky=STICKY)
    await driver.signal()
    task = await driver.poll()
    assert task.history.events[0].event_id == 1


async def test_a_sticky_task_moves_to_the_normal_queue_when_its_worker_is_silent(driver: Driver) -> None:
    await driver.start()
    poll = driver.service.poll_workflow_task_queue(driver.poll_request(STICKY, sticky=True), timeout_s=0.5)
    assert not (await _timed(driver, poll, 500)).task_token
    await driver.step(sticky=STICKY)
    await driver.signal()
    assert not (await driver.poll()).task_token
    assert driver.engine.advance()
    await driver.rest()
    task = await driver.poll()
    assert task.task_token
    assert task.history.events[0].event_id == 1
    late = await driver.poll(STICKY, sticky=True)
    assert not late.task_token


async def _timed(driver: Driver, call: object, ms: int) -> m.PollWorkflowTaskQueueResponse:
    task = asyncio.ensure_future(call)  # type: ignore[arg-type]
    await turns()
    driver.clock.advance_by(ms)
    return await task


async def test_a_sticky_poller_is_refused_once_the_run_is_back_on_its_normal_queue(driver: Driver) -> None:
    await driver.start()
    await driver.poll(STICKY, sticky=True)
    await driver.step(sticky=STICKY)
    await driver.signal()
    request = m.ResetStickyTaskQueueRequest(namespace="default")
    request.execution.workflow_id = "wf"
    await driver.service.reset_sticky_task_queue(request)
    assert not (await driver.poll(STICKY, sticky=True)).task_token
    assert (await driver.poll()).history.events[0].event_id == 1


async def test_a_failing_task_is_tried_again_without_filling_the_history(driver: Driver) -> None:
    await driver.start()
    for attempt in range(1, 4):
        task = await driver.poll()
        assert task.attempt == attempt
        assert task.history.events[-1].event_id == task.started_event_id
        await driver.fail_task(task)
    assert (await driver.event_names()) == [
        "WorkflowExecutionStarted",
        "WorkflowTaskScheduled",
        "WorkflowTaskStarted",
        "WorkflowTaskFailed",
    ]
    assert not (await driver.poll()).task_token, "back-off begins after the third attempt"
    assert driver.engine.advance()
    task = await driver.poll()
    assert task.attempt == 4
    await driver.complete(task, complete_workflow())
    assert (await driver.event_names())[4:] == [
        "WorkflowTaskScheduled",
        "WorkflowTaskStarted",
        "WorkflowTaskCompleted",
        "WorkflowExecutionCompleted",
    ]


async def test_a_worker_may_call_a_failure_what_it_likes(driver: Driver) -> None:
    await driver.start()
    task = await driver.poll()
    request = m.RespondWorkflowTaskFailedRequest(namespace="default", task_token=task.task_token)
    request.cause = m.WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW
    await driver.service.respond_workflow_task_failed(request)
    await driver.settle()
    await driver.step(complete_workflow())
    await driver.settle()


async def test_a_silent_worker_times_out(driver: Driver) -> None:
    await driver.start()
    task = await driver.poll()
    assert driver.engine.advance()
    again = await driver.poll()
    assert again.attempt == 2
    assert (await refusal(driver.complete(task))).code is StatusCode.NOT_FOUND
    assert (await refusal(driver.fail_task(task))).code is StatusCode.NOT_FOUND
    await driver.complete(again, complete_workflow())


async def test_the_next_task_comes_with_the_completion(driver: Driver) -> None:
    await driver.start()
    task = await driver.poll()
    await driver.signal()
    response = await driver.complete(task, sticky=STICKY, return_new_workflow_task=True)
    following = response.workflow_task
    assert names(following.history.events) == [
        "WorkflowTaskCompleted",
        "WorkflowExecutionSignaled",
        "WorkflowTaskScheduled",
        "WorkflowTaskStarted",
    ]
    assert following.previous_started_event_id == task.started_event_id
    await driver.complete(following, complete_workflow())
    assert await driver.status() == "COMPLETED"


async def test_a_task_can_be_forced(driver: Driver) -> None:
    await driver.start()
    task = await driver.poll()
    response = await driver.complete(task, force_create_new_workflow_task=True, return_new_workflow_task=True)
    assert response.workflow_task.task_token
    other = await driver.poll()
    assert not other.task_token, "a task that came with the completion is not offered besides"


async def test_bad_commands_fail_the_task(driver: Driver) -> None:
    await driver.start()
    task = await driver.poll()
    error = await refusal(driver.complete(task, schedule_activity(""), complete_workflow()))
    assert error.code is StatusCode.INVALID_ARGUMENT
    assert (await driver.event_names())[-1] == "WorkflowTaskFailed"
    assert (await driver.poll()).attempt == 2


async def test_long_histories_are_paged_to_workers() -> None:
    config = EngineConfig(history_page_events=10)
    async with Driver(MemoryStore(), config=config) as driver:
        await driver.start()
        for number in range(30):
            await driver.signal(name=f"s{number}")
        task = await driver.poll()
        events = list(task.history.events)
        token = task.next_page_token
        request = driver.history_request()
        while token:
            request.next_page_token = token
            page = await driver.service.get_workflow_execution_history(request)
            events += page.history.events
            token = page.next_page_token
        assert [event.event_id for event in events] == list(range(1, task.started_event_id + 1))
        assert names(events)[-1] == "WorkflowTaskStarted"


@pytest.mark.parametrize("attempt", [1, 2])
async def test_pages_end_with_the_events_that_are_not_written_yet(attempt: int) -> None:
    async with Driver(MemoryStore(), config=EngineConfig(history_page_events=2)) as driver:
        await driver.start()
        if attempt == 2:
            await driver.fail_task(await driver.poll())
        driver.engine.shard.cache.evict_cold()
        task = await driver.poll()
        assert task.attempt == attempt
        events = list(task.history.events)
        request = driver.history_request()
        request.next_page_token = task.next_page_token
        while request.next_page_token:
            page = await driver.service.get_workflow_execution_history(request)
            events += page.history.events
            request.next_page_token = page.next_page_token
        assert [event.event_id for event in events] == list(range(1, task.started_event_id + 1))


async def test_a_worker_that_shuts_down_has_its_polls_answered(driver: Driver) -> None:
    mine = [
        asyncio.ensure_future(driver.service.poll_workflow_task_queue(driver.poll_request(worker_key="w1"))),
        asyncio.ensure_future(
            driver.service.poll_workflow_task_queue(driver.poll_request(STICKY, sticky=True, worker_key="w1"))
        ),
    ]
    others = asyncio.ensure_future(driver.service.poll_workflow_task_queue(driver.poll_request(worker_key="w2")))
    await turns()
    request = m.ShutdownWorkerRequest(namespace="default", sticky_task_queue=STICKY, worker_instance_key="w1")
    await driver.service.shutdown_worker(request)
    for call in mine:
        assert (await call) == m.PollWorkflowTaskQueueResponse()
    late = await driver.service.poll_workflow_task_queue(driver.poll_request(worker_key="w1"))
    assert late == m.PollWorkflowTaskQueueResponse()
    await driver.start()
    assert (await others).task_token


async def test_sticky_tasks_of_a_worker_that_leaves_go_to_the_normal_queue(driver: Driver) -> None:
    await driver.start()
    await driver.poll(STICKY, sticky=True)
    await driver.step(sticky=STICKY)
    await driver.signal()
    assert not (await driver.poll()).task_token
    await driver.service.shutdown_worker(m.ShutdownWorkerRequest(namespace="default", sticky_task_queue=STICKY))
    assert (await driver.poll()).task_token


async def test_a_worker_that_calls_its_sticky_queue_as_another_calls_its_own_takes_nothing_with_it(
    driver: Driver,
) -> None:
    await driver.start()
    await driver.service.shutdown_worker(m.ShutdownWorkerRequest(namespace="default", sticky_task_queue=QUEUE))
    await driver.settle()
    assert (await driver.poll()).task_token


async def test_a_worker_elsewhere_sees_durable_events_only() -> None:
    seen: list[int] = []
    store = MemoryStore(before_commit=lambda number, _batch: seen.append(number))
    async with Driver(store, in_process=False) as driver:
        call = asyncio.ensure_future(driver.service.poll_workflow_task_queue(driver.poll_request()))
        await turns()
        before = len(seen)
        start = asyncio.ensure_future(driver.start())
        task = await call
        assert len(seen) > before, "the start was committed before its task left"
        assert [event.event_id for event in task.history.events] == [1, 2, 3]
        await start


async def test_foreign_tokens_are_refused(driver: Driver) -> None:
    await driver.start()
    task = await driver.poll()
    await driver.service.register_namespace(m.RegisterNamespaceRequest(namespace="other"))
    request = m.RespondWorkflowTaskCompletedRequest(namespace="other", task_token=task.task_token)
    error = await refusal(driver.service.respond_workflow_task_completed(request))
    assert error.code is StatusCode.INVALID_ARGUMENT
    for token in (b"", b"junk", task.task_token[:-1]):
        request = m.RespondWorkflowTaskCompletedRequest(namespace="default", task_token=token)
        error = await refusal(driver.service.respond_workflow_task_completed(request))
        assert error.code is StatusCode.INVALID_ARGUMENT
    activity = m.RespondActivityTaskCompletedRequest(namespace="default", task_token=task.task_token)
    error = await refusal(driver.service.respond_activity_task_completed(activity))
    assert error.code is StatusCode.INVALID_ARGUMENT
    await driver.complete(task, complete_workflow())


async def test_a_worker_that_has_left_gets_nothing_more_into_its_sticky_queue(driver: Driver) -> None:
    """Not even when it completes a task on the way out, and says once more that it keeps the run."""
    await driver.start()
    task = await driver.poll()
    request = driver.poll_request(STICKY, sticky=True, worker_key="w")
    waiting = asyncio.ensure_future(driver.service.poll_workflow_task_queue(request))
    await turns()
    leaving = m.ShutdownWorkerRequest(namespace="default", sticky_task_queue=STICKY, worker_instance_key="w")
    await driver.service.shutdown_worker(leaving)
    assert not (await waiting).task_token
    await driver.complete(task, start_timer("t", 60), sticky=STICKY)
    await driver.signal()
    assert (await driver.poll()).task_token, "another worker gets the next task at once"


async def test_a_poll_that_takes_the_normal_queue_for_a_sticky_one_gets_the_task_whole(driver: Driver) -> None:
    await driver.start()
    task = await driver.poll(sticky=True)
    assert [event.event_id for event in task.history.events] == [1, 2, 3]
    await driver.complete(task, complete_workflow())
