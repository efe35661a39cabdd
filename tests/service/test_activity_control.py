"""Operators' calls about activities, through the service."""

from __future__ import annotations

from typing import Any

from perdure.api import StatusCode
from perdure.api import messages as m
from perdure.engine.store.memory import MemoryState, MemoryStore
from tests.service.support import NAMESPACE, Driver, complete_workflow, payloads, refusal, schedule_activity


def about(kind: Any, workflow_id: str = "wf", **fields: Any) -> Any:
    request = kind(namespace=NAMESPACE, identity="operator", **fields)
    request.execution.workflow_id = workflow_id
    return request


async def pause(driver: Driver, **fields: Any) -> None:
    await driver.service.pause_activity(about(m.PauseActivityRequest, reason="why", **fields))


async def unpause(driver: Driver, **fields: Any) -> None:
    await driver.service.unpause_activity(about(m.UnpauseActivityRequest, **fields))


async def reset(driver: Driver, **fields: Any) -> None:
    await driver.service.reset_activity(about(m.ResetActivityRequest, **fields))


async def update(driver: Driver, *mask: str, **fields: Any) -> m.ActivityOptions:
    request = about(m.UpdateActivityOptionsRequest, **fields)
    request.update_mask.paths.extend(mask)
    return (await driver.service.update_activity_options(request)).activity_options


async def beat(driver: Driver, task: m.PollActivityTaskQueueResponse) -> m.RecordActivityTaskHeartbeatResponse:
    request = m.RecordActivityTaskHeartbeatRequest(
        namespace=NAMESPACE, task_token=task.task_token, details=payloads("x")
    )
    return await driver.service.record_activity_task_heartbeat(request)


async def pending(driver: Driver) -> m.PendingActivityInfo:
    (info,) = (await driver.describe()).pending_activities
    return info


async def test_a_paused_activity_is_not_handed_out_until_it_goes_on(driver: Driver) -> None:
    await driver.start()
    await driver.step(schedule_activity("a"))
    await pause(driver, id="a")
    assert (await pending(driver)).paused
    assert not (await driver.poll_activity()).task_token
    await driver.settle()
    await unpause(driver, id="a")
    await driver.activity()
    await driver.step(complete_workflow())
    await driver.settle()


async def test_a_worker_hears_of_pause_and_reset(driver: Driver) -> None:
    await driver.start()
    await driver.step(schedule_activity("a", attempts=5))
    task = await driver.poll_activity()
    assert not (await beat(driver, task)).activity_paused
    await pause(driver, type="work")
    assert (await beat(driver, task)).activity_paused
    await unpause(driver, unpause_all=True)
    assert not (await beat(driver, task)).activity_paused
    await reset(driver, match_all=True)
    response = await beat(driver, task)
    assert response.activity_reset and not response.cancel_requested
    await driver.fail_activity(task)
    assert (await pending(driver)).attempt == 1
    driver.engine.advance()
    again = await driver.poll_activity()
    assert again.attempt == 1
    assert (await refusal(driver.complete_activity(task))).code is StatusCode.NOT_FOUND
    await driver.complete_activity(again)
    await driver.settle()


async def test_a_jitter_spreads_what_goes_on(driver: Driver) -> None:
    await driver.start()
    await driver.step(schedule_activity("a"))
    await pause(driver, id="a")
    request = about(m.UnpauseActivityRequest, id="a")
    request.jitter.seconds = 3600
    await driver.service.unpause_activity(request)
    assert not (await driver.poll_activity()).task_token
    before_ms = driver.clock.now_ms()
    driver.engine.advance()
    assert before_ms < driver.clock.now_ms() <= before_ms + 3_600_000
    assert (await driver.poll_activity()).task_token
    request.jitter.seconds = -1
    assert (await refusal(driver.service.unpause_activity(request))).code is StatusCode.INVALID_ARGUMENT


async def test_new_options_hold_for_what_is_handed_out_next(driver: Driver) -> None:
    await driver.start()
    await driver.step(schedule_activity("a"))
    options = m.ActivityOptions()
    options.start_to_close_timeout.seconds = 77
    options.task_queue.name = "elsewhere"
    found = await update(driver, "start_to_close_timeout", "task_queue.name", id="a", activity_options=options)
    assert (found.start_to_close_timeout.seconds, found.task_queue.name) == (77, "elsewhere")
    assert not (await driver.poll_activity()).task_token
    task = await driver.poll_activity("elsewhere")
    assert task.start_to_close_timeout.seconds == 77 and task.attempt == 1
    restored = await update(driver, type="work", restore_original=True)
    assert restored.task_queue.name == "queue"
    await driver.complete_activity(task)
    await driver.step(complete_workflow())
    await driver.settle()


async def test_what_cannot_be_found_or_asked_for(driver: Driver) -> None:
    await driver.start()
    await driver.step(schedule_activity("a"))
    for call in (pause, unpause, reset):
        assert (await refusal(call(driver, id="b"))).code is StatusCode.NOT_FOUND
        assert (await refusal(call(driver))).code is StatusCode.INVALID_ARGUMENT
        assert (await refusal(call(driver, id="a", workflow_id="nobody"))).code is StatusCode.NOT_FOUND
        assert (await refusal(call(driver, id="a", workflow_id=""))).code is StatusCode.INVALID_ARGUMENT
    assert (await refusal(update(driver, id="a"))).code is StatusCode.INVALID_ARGUMENT
    both = update(driver, "priority", id="a", restore_original=True)
    assert (await refusal(both)).code is StatusCode.INVALID_ARGUMENT
    await driver.terminate()
    assert (await refusal(pause(driver, id="a"))).code is StatusCode.NOT_FOUND


async def test_a_pause_outlives_the_engine() -> None:
    state = MemoryState()
    async with Driver(MemoryStore(state)) as driver:
        await driver.start()
        await driver.step(schedule_activity("a"))
        await pause(driver, id="a")
        await driver.settle()
    async with Driver(MemoryStore(state), seed=2) as driver:
        await driver.settle()
        assert not (await driver.poll_activity()).task_token
        await unpause(driver, id="a")
        await driver.activity()
        await driver.settle()
