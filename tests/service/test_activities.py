"""Activities: their three ends by token and by id, retries, heartbeats, timeouts, cancellation."""

from __future__ import annotations

import asyncio

import pytest

from perdure.api import StatusCode
from perdure.api import messages as m
from tests.service.support import (
    Driver,
    cancel_activity,
    complete_workflow,
    payloads,
    refusal,
    schedule_activity,
    text_of,
)


async def scheduled(driver: Driver, **options: object) -> m.PollActivityTaskQueueResponse:
    """A workflow with one activity, handed out."""
    await driver.start()
    await driver.step(schedule_activity("a", **options))  # type: ignore[arg-type]
    return await driver.poll_activity()


async def heartbeat(driver: Driver, task: m.PollActivityTaskQueueResponse, *texts: str) -> bool:
    request = m.RecordActivityTaskHeartbeatRequest(namespace="default", task_token=task.task_token)
    if texts:
        request.details.CopyFrom(payloads(*texts))
    return (await driver.service.record_activity_task_heartbeat(request)).cancel_requested


async def test_an_activity_starts_only_when_its_schedule_is_durable() -> None:
    from perdure.engine.store.memory import MemoryStore

    commits: list[int] = []
    async with Driver(MemoryStore(after_commit=lambda number, _batch: commits.append(number))) as driver:
        call = asyncio.ensure_future(driver.service.poll_activity_task_queue(_poll()))
        await driver.start()
        task = await driver.poll()
        before = len(commits)
        completion = asyncio.ensure_future(driver.complete(task, schedule_activity()))
        assert (await call).activity_id == "a"
        assert len(commits) > before
        await completion


def _poll() -> m.PollActivityTaskQueueRequest:
    request = m.PollActivityTaskQueueRequest(namespace="default", identity="worker")
    request.task_queue.name = "queue"
    return request


async def test_a_failing_activity_is_retried_with_its_last_failure(driver: Driver) -> None:
    task = await scheduled(driver, attempts=3)
    await heartbeat(driver, task, "half way")
    await driver.fail_activity(task, "first")
    assert not (await driver.poll_activity()).task_token, "it backs off"
    before_ms = driver.clock.now_ms()
    assert driver.engine.advance()
    assert driver.clock.now_ms() == before_ms + 1000
    await driver.rest()
    again = await driver.poll_activity()
    assert again.attempt == 2
    assert text_of(again.heartbeat_details) == "half way"
    assert text_of(again.input) == "in"
    await driver.complete_activity(again)
    events = await driver.history()
    started = next(event for event in events if event.HasField("activity_task_started_event_attributes"))
    assert started.activity_task_started_event_attributes.attempt == 2
    assert started.activity_task_started_event_attributes.last_failure.message == "first"


@pytest.mark.parametrize("how", ["attempts", "non_retryable"])
async def test_an_activity_finally_fails(driver: Driver, how: str) -> None:
    task = await scheduled(driver, attempts=1 if how == "attempts" else 5)
    await driver.fail_activity(task, "no", non_retryable=how == "non_retryable")
    assert (await driver.event_names()).count("ActivityTaskFailed") == 1
    assert (await driver.poll()).task_token


async def test_the_failure_may_say_when_to_try_again(driver: Driver) -> None:
    task = await scheduled(driver, attempts=3)
    request = m.RespondActivityTaskFailedRequest(namespace="default", task_token=task.task_token)
    request.failure.application_failure_info.next_retry_delay.seconds = 77
    await driver.service.respond_activity_task_failed(request)
    before_ms = driver.clock.now_ms()
    assert driver.engine.advance()
    assert driver.clock.now_ms() == before_ms + 77_000


async def test_start_to_close_is_watched(driver: Driver) -> None:
    task = await scheduled(driver, start_to_close_s=60)
    before_ms = driver.clock.now_ms()
    assert driver.engine.advance()
    assert driver.clock.now_ms() == before_ms + 60_000
    await driver.wait_idle()
    assert (await driver.event_names()).count("ActivityTaskTimedOut") == 1
    assert (await refusal(driver.complete_activity(task))).code is StatusCode.NOT_FOUND


async def test_heartbeats_keep_an_activity_alive(driver: Driver) -> None:
    task = await scheduled(driver, start_to_close_s=600, heartbeat_s=10)
    for _ in range(5):
        driver.clock.advance_by(9_000)
        assert not await heartbeat(driver, task)
    await driver.engine.shard.cache.get(1)
    assert (await driver.describe()).pending_activities
    driver.clock.advance_by(10_000)
    await driver.rest()
    assert (await driver.event_names()).count("ActivityTaskTimedOut") == 1
    assert (await refusal(heartbeat(driver, task))).code is StatusCode.NOT_FOUND


async def test_an_activity_learns_of_its_cancellation(driver: Driver) -> None:
    task = await scheduled(driver)
    request = m.RespondActivityTaskCanceledRequest(namespace="default", task_token=task.task_token)
    error = await refusal(driver.service.respond_activity_task_canceled(request))
    assert error.code is StatusCode.INVALID_ARGUMENT, "nobody asked for it"
    assert not await heartbeat(driver, task)
    await driver.signal()
    await driver.step(cancel_activity(5))
    assert await heartbeat(driver, task)
    request.details.CopyFrom(payloads("stopped"))
    await driver.service.respond_activity_task_canceled(request)
    assert (await driver.event_names()).count("ActivityTaskCanceled") == 1


async def test_an_activity_ends_by_id(driver: Driver) -> None:
    await scheduled(driver)
    beat = m.RecordActivityTaskHeartbeatByIdRequest(namespace="default", workflow_id="wf", activity_id="a")
    assert not (await driver.service.record_activity_task_heartbeat_by_id(beat)).cancel_requested
    request = m.RespondActivityTaskCompletedByIdRequest(
        namespace="default", workflow_id="wf", activity_id="a", result=payloads("by id")
    )
    await driver.service.respond_activity_task_completed_by_id(request)
    error = await refusal(driver.service.respond_activity_task_completed_by_id(request))
    assert error.code is StatusCode.NOT_FOUND
    assert (await driver.event_names()).count("ActivityTaskCompleted") == 1


async def test_an_activity_fails_and_is_cancelled_by_id(driver: Driver) -> None:
    await scheduled(driver, attempts=2)
    failed = m.RespondActivityTaskFailedByIdRequest(namespace="default", workflow_id="wf", activity_id="a")
    failed.failure.message = "no"
    failed.failure.application_failure_info.type = "No"
    await driver.service.respond_activity_task_failed_by_id(failed)
    assert driver.engine.advance()
    await driver.rest()
    assert (await driver.poll_activity()).attempt == 2
    await driver.signal()
    await driver.step(cancel_activity(5))
    request = m.RespondActivityTaskCanceledByIdRequest(namespace="default", workflow_id="wf", activity_id="a")
    await driver.service.respond_activity_task_canceled_by_id(request)
    assert (await driver.event_names()).count("ActivityTaskCanceled") == 1


@pytest.mark.parametrize(
    ("field", "code"), [("workflow_id", StatusCode.NOT_FOUND), ("activity_id", StatusCode.INVALID_ARGUMENT)]
)
async def test_by_id_needs_both_ids(driver: Driver, field: str, code: StatusCode) -> None:
    """Without a workflow id, it is an activity without a workflow, and there is none."""
    await scheduled(driver)
    request = m.RespondActivityTaskCompletedByIdRequest(namespace="default", workflow_id="wf", activity_id="a")
    request.ClearField(field)  # type: ignore[arg-type]
    error = await refusal(driver.service.respond_activity_task_completed_by_id(request))
    assert error.code is code


async def test_a_stale_attempt_is_refused(driver: Driver) -> None:
    task = await scheduled(driver, attempts=2)
    await driver.fail_activity(task)
    assert (await refusal(driver.fail_activity(task))).code is StatusCode.NOT_FOUND
    assert (await refusal(driver.complete_activity(task))).code is StatusCode.NOT_FOUND
    assert (await refusal(heartbeat(driver, task))).code is StatusCode.NOT_FOUND


async def test_a_completion_outlives_a_restart(driver: Driver) -> None:
    """An attempt handed out by an engine that is gone may still be reported to its successor."""
    from perdure.engine.store.memory import MemoryStore

    if not isinstance(driver.store, MemoryStore):
        pytest.skip("the store can't be reopened beside the running engine")
    task = await scheduled(driver)
    state = driver.store.snapshot()
    async with Driver(MemoryStore(state), clock=driver.clock, seed=2) as successor:
        await successor.complete_activity(task, "late")
        await successor.step(complete_workflow())
        await successor.settle()
        assert (await successor.event_names()).count("ActivityTaskCompleted") == 1


async def test_tokens_of_a_held_attempt_that_are_not_ours_are_refused(driver: Driver) -> None:
    task = await scheduled(driver)
    await driver.service.register_namespace(m.RegisterNamespaceRequest(namespace="other"))
    token = task.task_token
    forged = [token[:-1], token + b"x", bytes([*token[:-1], token[-1] ^ 1]), token[:17], b""]
    for namespace, bad in [("other", token), *(("default", each) for each in forged)]:
        request = m.RespondActivityTaskCompletedRequest(namespace=namespace, task_token=bad)
        error = await refusal(driver.service.respond_activity_task_completed(request))
        assert error.code is StatusCode.INVALID_ARGUMENT
        beat = m.RecordActivityTaskHeartbeatRequest(namespace=namespace, task_token=bad)
        assert (await refusal(driver.service.record_activity_task_heartbeat(beat))).code is StatusCode.INVALID_ARGUMENT
    await driver.complete_activity(task)


async def test_a_timeout_sooner_than_all_others_is_noted_at_hand_out(driver: Driver) -> None:
    await scheduled(driver, start_to_close_s=2)
    driver.clock.advance_by(2000)
    await driver.rest()
    assert (await driver.event_names()).count("ActivityTaskTimedOut") == 1


async def test_many_activities_at_once(driver: Driver) -> None:
    await driver.start()
    await driver.step(*(schedule_activity(f"a{number}") for number in range(100)))
    tasks = [await driver.poll_activity() for _ in range(100)]
    assert [task.activity_id for task in tasks] == [f"a{number}" for number in range(100)]
    for task in tasks:
        await driver.complete_activity(task)
    await driver.step(complete_workflow())
    await driver.settle()
