"""Reading histories: pages, long polls, the close-event filter, reverse; and tokens that are not ours."""

from __future__ import annotations

import asyncio

import pytest

from perdure.api import StatusCode
from perdure.api import messages as m
from tests.service.support import Driver, complete_workflow, names, refusal, schedule_activity, start_timer, turns

CLOSE = m.HistoryEventFilterType.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT


async def pages(driver: Driver, **fields: object) -> list[list[int]]:
    request = driver.history_request(**fields)
    found: list[list[int]] = []
    while True:
        response = await driver.service.get_workflow_execution_history(request)
        found.append([event.event_id for event in response.history.events])
        if not response.next_page_token:
            return found
        request.next_page_token = response.next_page_token


async def finished(driver: Driver) -> None:
    await driver.start()
    await driver.step(schedule_activity())
    await driver.activity()
    await driver.step(complete_workflow())


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
async def test_pages_make_up_the_history(driver: Driver, size: int) -> None:
    await finished(driver)
    found = await pages(driver, maximum_page_size=size)
    assert [event_id for page in found for event_id in page] == list(range(1, 12))
    assert all(len(page) <= size for page in found)


@pytest.mark.parametrize("size", [1, 4, 100])
async def test_pages_come_from_the_store_when_memory_has_let_go(driver: Driver, size: int) -> None:
    await finished(driver)
    driver.engine.shard.cache.evict_cold()
    found = await pages(driver, maximum_page_size=size)
    assert [event_id for page in found for event_id in page] == list(range(1, 12))


@pytest.mark.parametrize("size", [1, 4, 100])
async def test_reverse_is_the_history_backwards(driver: Driver, size: int) -> None:
    await finished(driver)
    request = m.GetWorkflowExecutionHistoryReverseRequest(namespace="default", maximum_page_size=size)
    request.execution.workflow_id = "wf"
    found: list[int] = []
    while True:
        response = await driver.service.get_workflow_execution_history_reverse(request)
        found += [event.event_id for event in response.history.events]
        if not response.next_page_token:
            break
        request.next_page_token = response.next_page_token
    assert found == list(range(11, 0, -1))


async def test_a_result_is_waited_for(driver: Driver) -> None:
    await driver.start()
    request = driver.history_request(wait_new_event=True, history_event_filter_type=CLOSE)
    call = asyncio.ensure_future(driver.service.get_workflow_execution_history(request))
    await driver.step(start_timer("t", 5))
    await turns()
    assert not call.done()
    await driver.signal()
    await driver.step(complete_workflow())
    response = await call
    assert names(response.history.events) == ["WorkflowExecutionCompleted"]
    assert not response.next_page_token


async def test_a_long_poll_answers_empty_with_a_token(driver: Driver) -> None:
    await driver.start()
    request = driver.history_request(wait_new_event=True, history_event_filter_type=CLOSE)
    call = asyncio.ensure_future(driver.service.get_workflow_execution_history(request, timeout_s=20))
    await turns()
    driver.clock.advance_by(15_000)  # Over a wire, what is left of the 20 s is told by a clock of the machine's own.
    await turns()
    assert not call.done()
    driver.clock.advance_by(4_100)
    response = await call
    assert not response.history.events
    assert response.next_page_token
    request.next_page_token = response.next_page_token
    call = asyncio.ensure_future(driver.service.get_workflow_execution_history(request))
    await driver.step(complete_workflow())
    assert names((await call).history.events) == ["WorkflowExecutionCompleted"]


async def test_new_events_are_followed(driver: Driver) -> None:
    await driver.start()
    request = driver.history_request(wait_new_event=True)
    response = await driver.service.get_workflow_execution_history(request)
    assert names(response.history.events) == ["WorkflowExecutionStarted", "WorkflowTaskScheduled"]
    request.next_page_token = response.next_page_token
    call = asyncio.ensure_future(driver.service.get_workflow_execution_history(request))
    await turns()
    assert not call.done()
    await driver.signal()
    response = await call
    assert names(response.history.events) == ["WorkflowExecutionSignaled"]
    request.next_page_token = response.next_page_token
    await driver.step(complete_workflow())
    response = await driver.service.get_workflow_execution_history(request)
    assert names(response.history.events)[-1] == "WorkflowExecutionCompleted"
    assert not response.next_page_token


async def test_the_close_filter_without_waiting(driver: Driver) -> None:
    await driver.start()
    request = driver.history_request(history_event_filter_type=CLOSE)
    response = await driver.service.get_workflow_execution_history(request)
    assert not response.history.events
    assert not response.next_page_token


async def test_a_cancelled_follower_leaves_nothing_behind(driver: Driver) -> None:
    await driver.start()
    request = driver.history_request(wait_new_event=True, history_event_filter_type=CLOSE)
    calls = [asyncio.ensure_future(driver.service.get_workflow_execution_history(request)) for _ in range(5)]
    await turns()
    for call in calls[:4]:
        call.cancel()
    await turns()
    await driver.step(complete_workflow())
    assert names((await calls[4]).history.events) == ["WorkflowExecutionCompleted"]
    assert not driver.engine.shard.waiters.for_events and not driver.engine.shard.waiters.for_end


async def test_tokens_that_are_not_ours_are_refused(driver: Driver) -> None:
    await finished(driver)
    await driver.service.register_namespace(m.RegisterNamespaceRequest(namespace="other"))
    request = driver.history_request(maximum_page_size=2)
    token = (await driver.service.get_workflow_execution_history(request)).next_page_token
    forged = bytes([*token[:5], token[5] ^ 1, *token[6:]])
    for bad in (b"x", b"", forged, token + b"x", token[:-1]):
        if not bad:
            continue
        request.next_page_token = bad
        error = await refusal(driver.service.get_workflow_execution_history(request))
        assert error.code is StatusCode.INVALID_ARGUMENT
    request.next_page_token = token
    request.namespace = "other"
    error = await refusal(driver.service.get_workflow_execution_history(request))
    assert error.code is StatusCode.INVALID_ARGUMENT
    reverse = m.GetWorkflowExecutionHistoryReverseRequest(namespace="default", next_page_token=token)
    error = await refusal(driver.service.get_workflow_execution_history_reverse(reverse))
    assert error.code is StatusCode.INVALID_ARGUMENT
