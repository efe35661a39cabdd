"""Queries: direct and buffered, rejected, failed, unanswered."""

from __future__ import annotations

import asyncio

import pytest

from perdure.api import StatusCode
from perdure.api import messages as m
from tests.service.support import STICKY, Driver, complete_workflow, fail_workflow, payloads, refusal, text_of, turns

REJECT = m.QueryRejectCondition
ANSWERED = m.QueryResultType.QUERY_RESULT_TYPE_ANSWERED
FAILED = m.QueryResultType.QUERY_RESULT_TYPE_FAILED


async def answer(driver: Driver, task: m.PollWorkflowTaskQueueResponse, text: str) -> None:
    request = m.RespondQueryTaskCompletedRequest(
        namespace="default", task_token=task.task_token, completed_type=ANSWERED, query_result=payloads(text)
    )
    await driver.service.respond_query_task_completed(request)


async def test_an_idle_workflow_is_asked_directly(driver: Driver) -> None:
    await driver.start()
    await driver.step()
    call = asyncio.ensure_future(driver.query())
    task = await driver.poll()
    assert task.query.query_type == "state"
    assert not task.queries
    assert task.started_event_id == 0
    assert task.attempt == 1
    assert [event.event_id for event in task.history.events] == [1, 2, 3, 4]
    await answer(driver, task, "fine")
    assert text_of((await call).query_result) == "fine"
    await driver.settle()


async def test_a_sticky_worker_is_asked_without_history(driver: Driver) -> None:
    await driver.start()
    sticky = asyncio.ensure_future(driver.service.poll_workflow_task_queue(driver.poll_request(STICKY, sticky=True)))
    await turns()
    await driver.step(sticky=STICKY)
    call = asyncio.ensure_future(driver.query())
    task = await sticky
    assert task.query.query_type == "state"
    assert not task.history.events
    await answer(driver, task, "fine")
    assert text_of((await call).query_result) == "fine"


async def test_a_direct_query_leaves_a_sticky_queue_nobody_polls(driver: Driver) -> None:
    await driver.start()
    await driver.poll(STICKY, sticky=True)
    await driver.step(sticky=STICKY)
    call = asyncio.ensure_future(driver.query())
    await turns()
    assert driver.engine.advance()
    await driver.rest()
    task = await driver.poll()
    assert task.history.events
    await answer(driver, task, "fine")
    await call


async def test_a_closed_workflow_is_asked_directly(driver: Driver) -> None:
    await driver.start()
    await driver.step(complete_workflow())
    call = asyncio.ensure_future(driver.query())
    task = await driver.poll()
    assert task.query.query_type == "state"
    await answer(driver, task, "over")
    assert text_of((await call).query_result) == "over"


async def test_a_query_rides_on_a_pending_task(driver: Driver) -> None:
    await driver.start()
    call = asyncio.ensure_future(driver.query())
    await turns()
    task = await driver.poll()
    assert not task.HasField("query")
    ((number, query),) = task.queries.items()
    assert query.query_type == "state"
    result = m.WorkflowQueryResult(result_type=ANSWERED, answer=payloads("riding"))
    await driver.complete(task, answers={number: result})
    assert text_of((await call).query_result) == "riding"


async def test_a_query_during_a_task_follows_it_directly(driver: Driver) -> None:
    await driver.start()
    task = await driver.poll()
    call = asyncio.ensure_future(driver.query())
    await turns()
    assert not task.queries
    await driver.complete(task)
    direct = await driver.poll()
    assert direct.query.query_type == "state"
    await answer(driver, direct, "later")
    assert text_of((await call).query_result) == "later"


async def test_a_query_whose_task_failed_rides_on_the_next(driver: Driver) -> None:
    await driver.start()
    call = asyncio.ensure_future(driver.query())
    await turns()
    await driver.fail_task(await driver.poll())
    task = await driver.poll()
    (number,) = task.queries
    result = m.WorkflowQueryResult(result_type=ANSWERED, answer=payloads("second"))
    await driver.complete(task, answers={number: result})
    assert text_of((await call).query_result) == "second"


async def test_queries_fail_fast_while_the_task_keeps_failing(driver: Driver) -> None:
    await driver.start()
    call = asyncio.ensure_future(driver.query())
    await turns()
    for _ in range(2):
        await driver.fail_task(await driver.poll())
    assert (await refusal(call)).code is StatusCode.FAILED_PRECONDITION
    assert (await refusal(driver.query())).code is StatusCode.FAILED_PRECONDITION


async def test_a_failed_query_says_why(driver: Driver) -> None:
    await driver.start()
    await driver.step()
    call = asyncio.ensure_future(driver.query())
    task = await driver.poll()
    request = m.RespondQueryTaskCompletedRequest(
        namespace="default", task_token=task.task_token, completed_type=FAILED, error_message="no such query"
    )
    request.failure.message = "no such query"
    await driver.service.respond_query_task_completed(request)
    error = await refusal(call)
    assert error.code is StatusCode.INVALID_ARGUMENT
    assert error.message == "no such query"
    (detail,) = error.details
    assert isinstance(detail, m.QueryFailedFailure)
    assert detail.failure.message == "no such query"


@pytest.mark.parametrize(
    ("end", "reject", "rejected"),
    [
        (None, REJECT.QUERY_REJECT_CONDITION_NOT_OPEN, False),
        (complete_workflow, REJECT.QUERY_REJECT_CONDITION_NOT_OPEN, True),
        (complete_workflow, REJECT.QUERY_REJECT_CONDITION_NOT_COMPLETED_CLEANLY, False),
        (fail_workflow, REJECT.QUERY_REJECT_CONDITION_NOT_COMPLETED_CLEANLY, True),
    ],
)
async def test_queries_may_be_rejected_by_status(driver: Driver, end: object, reject: int, rejected: bool) -> None:
    await driver.start()
    await driver.step(*([end()] if callable(end) else []))
    call = asyncio.ensure_future(driver.query(reject=reject))
    if not rejected:
        await answer(driver, await driver.poll(), "yes")
    response = await call
    assert response.HasField("query_rejected") == rejected


async def test_an_unanswered_query_times_out_and_is_forgotten(driver: Driver) -> None:
    await driver.start()
    await driver.step()
    call = asyncio.ensure_future(driver.query())
    await turns()
    driver.clock.advance_by(20_000)
    error = await refusal(call)
    assert error.code is StatusCode.DEADLINE_EXCEEDED
    assert "'queue'" in error.message
    assert not (await driver.poll()).task_token


async def test_an_answer_nobody_waits_for_is_refused(driver: Driver) -> None:
    await driver.start()
    await driver.step()
    call = asyncio.ensure_future(driver.query())
    task = await driver.poll()
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    assert (await refusal(answer(driver, task, "late"))).code is StatusCode.NOT_FOUND


async def test_there_is_a_bound_on_waiting_queries(driver: Driver) -> None:
    await driver.start()
    calls = [asyncio.ensure_future(driver.query()) for _ in range(100)]
    await turns()
    assert (await refusal(driver.query())).code is StatusCode.RESOURCE_EXHAUSTED
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await driver.settle()
