"""The client, through the engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from perdure import RetryPolicy, workflow
from perdure.client import (
    Client,
    InvalidRequestError,
    NamespaceNotFoundError,
    WorkflowAlreadyStartedError,
    WorkflowContinuedAsNewError,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHistory,
    WorkflowHistoryEventFilterType,
    WorkflowNotFoundError,
    WorkflowQueryRejectedError,
)
from perdure.common import QueryRejectCondition, WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from perdure.exceptions import (
    ApplicationError,
    CancelledError,
    ConversionError,
    DefinitionError,
    TerminatedError,
    TimeoutError,
)
from perdure.testing import WorkflowEnvironment

HOUR = timedelta(hours=1)


@dataclass
class Order:
    id: str
    count: int


@workflow.defn
async def echo(order: Order, note: str = "") -> Order:
    return Order(order.id + note, order.count)


@workflow.defn
async def sleeps(hours: float) -> str:
    await asyncio.sleep(hours * 3600)
    return "awake"


@workflow.defn
async def counts_down(left: int) -> str:
    if left:
        workflow.continue_as_new(args=[left - 1])
    return "lift-off"


@workflow.defn
async def fails(kind: str) -> None:
    try:
        raise KeyError("inner")
    except KeyError as error:
        raise ApplicationError("outer", 42, type=kind, non_retryable=True) from error


@workflow.defn
class Inbox:
    def __init__(self) -> None:
        self.items: list[Order] = []

    @workflow.signal
    def put(self, order: Order) -> None:
        self.items.append(order)

    @workflow.query
    def content(self) -> list[Order]:
        return self.items

    @workflow.run
    async def run(self, wanted: int) -> int:
        await workflow.wait_condition(lambda: len(self.items) >= wanted)
        return sum(order.count for order in self.items)


ALL: list[Any] = [echo, sleeps, counts_down, fails, Inbox]


@pytest.fixture
async def env() -> AsyncIterator[WorkflowEnvironment]:
    async with await WorkflowEnvironment.start_time_skipping() as env, env.worker(workflows=ALL):
        yield env


@pytest.fixture
def client(env: WorkflowEnvironment) -> Client:
    return env.client


async def test_a_workflow_by_function_name_class_and_run_method(client: Client) -> None:
    order = Order("a", 1)
    assert await client.execute_workflow(echo, order, id="1") == order
    assert await client.execute_workflow(echo, order, "!", id="2") == Order("a!", 1)
    assert await client.execute_workflow(echo, args=[order, "!"], id="3") == Order("a!", 1)
    assert await client.execute_workflow("echo", order, result_type=Order) == order
    assert await client.execute_workflow("echo", order) == {"id": "a", "count": 1}
    assert await client.execute_workflow(Inbox.run, 0) == 0
    assert await client.execute_workflow(Inbox, 0) == 0
    assert await client.get_workflow_handle_for(echo, "2").result() == Order("a!", 1)
    assert await client.get_workflow_handle("2").result() == {"id": "a!", "count": 1}


async def test_arguments_are_checked_at_the_call(client: Client) -> None:
    with pytest.raises(ConversionError, match="argument 'order' of workflow echo: expected Order, got str"):
        await client.start_workflow(echo, "a", id="x")  # type: ignore[call-overload] - wrong on purpose
    with pytest.raises(ConversionError, match=r"at `\$.count`"):
        await client.start_workflow(echo, Order("a", "1"), id="x")  # type: ignore[arg-type] - wrong on purpose
    with pytest.raises(TypeError, match="workflow echo takes 1 to 2 arguments, 0 given"):
        await client.start_workflow(echo, args=[], id="x")
    with pytest.raises(ConversionError, match="range"):
        await client.start_workflow("echo", range(3), id="x")
    with pytest.raises(DefinitionError, match="is not a workflow"):
        await client.start_workflow(test_arguments_are_checked_at_the_call, client)
    handle = await client.start_workflow(Inbox.run, 1, id="inbox")
    with pytest.raises(ConversionError, match="argument 'order' of signal put"):
        await handle.signal(Inbox.put, 5)  # type: ignore[arg-type] - wrong on purpose
    with pytest.raises(DefinitionError, match="not a query handler"):
        await handle.query(Inbox.put, Order("a", 1))
    assert [found.id async for found in client.list_workflows()] == ["inbox"]


async def test_signals_and_queries(client: Client) -> None:
    handle = await client.start_workflow(Inbox.run, 3)
    await handle.signal(Inbox.put, Order("a", 1))
    await handle.signal("put", Order("b", 2))
    assert await handle.query(Inbox.content) == [Order("a", 1), Order("b", 2)]
    await handle.signal("put", args=[Order("c", 3)])
    assert await handle.result() == 6
    with pytest.raises(WorkflowNotFoundError, match="workflow 'inbox-none'"):
        await client.get_workflow_handle("inbox-none").signal("put", 1)
    with pytest.raises(WorkflowNotFoundError):
        await handle.signal("put", Order("d", 1))
    with pytest.raises(WorkflowQueryRejectedError, match=r"COMPLETED|2"):
        await handle.query(Inbox.content, reject_condition=QueryRejectCondition.NOT_OPEN)


async def test_signal_with_start(client: Client) -> None:
    for number in range(2):
        handle = await client.start_workflow(
            Inbox.run, 2, id="box", start_signal="put", start_signal_args=[Order("x", number + 1)]
        )
    assert await handle.result() == 3


async def test_a_failure_keeps_type_message_details_cause_and_stack(client: Client) -> None:
    with pytest.raises(WorkflowFailureError, match="'f' did not complete") as caught:
        await client.execute_workflow(fails, "OutOfStock", id="f")
    cause = caught.value.cause
    assert isinstance(cause, ApplicationError)
    assert (cause.type, cause.message, list(cause.details)) == ("OutOfStock", "outer", [42])
    assert isinstance(cause.cause, ApplicationError)
    assert cause.cause.type == "KeyError"
    assert cause.failure is not None
    assert "in fails" in cause.failure.stack_trace


async def test_cancel_terminate_and_timeouts(client: Client) -> None:
    cancelled = await client.start_workflow(sleeps, 1, id="c")
    await cancelled.cancel(reason="changed my mind")
    with pytest.raises(WorkflowFailureError) as caught:
        await cancelled.result()
    assert isinstance(caught.value.cause, CancelledError)
    terminated = await client.start_workflow(sleeps, 1, id="t")
    await terminated.terminate("detail", reason="enough")
    with pytest.raises(WorkflowFailureError) as caught:
        await terminated.result()
    assert isinstance(caught.value.cause, TerminatedError)
    assert caught.value.cause.message == "enough"
    assert list(caught.value.cause.details) == ["detail"]
    with pytest.raises(WorkflowFailureError) as caught:
        await client.execute_workflow(sleeps, 10, id="o", execution_timeout=HOUR)
    assert isinstance(caught.value.cause, TimeoutError)
    for handle in (cancelled, terminated):
        with pytest.raises(WorkflowNotFoundError):
            await handle.terminate()
    with pytest.raises(WorkflowNotFoundError):
        await client.get_workflow_handle("nobody").cancel()


async def test_results_follow_runs(client: Client) -> None:
    handle = await client.start_workflow(counts_down, 3)
    assert await handle.result() == "lift-off"
    with pytest.raises(WorkflowContinuedAsNewError) as caught:
        await handle.result(follow_runs=False)
    assert caught.value.new_execution_run_id != handle.result_run_id


async def test_retries_of_a_workflow_are_followed(env: WorkflowEnvironment) -> None:
    attempts: list[int] = []

    @workflow.defn
    async def flaky() -> int:
        attempt = workflow.info().attempt
        attempts.append(attempt)
        if attempt < 3:
            raise ApplicationError("again")
        return attempt

    async with env.worker(workflows=[flaky], task_queue="flaky"):
        result = await env.client.execute_workflow(
            flaky, task_queue="flaky", retry_policy=RetryPolicy(maximum_attempts=5)
        )
    assert result == 3


async def test_ids_are_used_once_unless_said_otherwise(client: Client) -> None:
    first = await client.start_workflow(sleeps, 1, id="one")
    with pytest.raises(WorkflowAlreadyStartedError, match="'one'") as caught:
        await client.start_workflow(sleeps, 1, id="one")
    assert caught.value.run_id == first.result_run_id
    used = await client.start_workflow(sleeps, 1, id="one", id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING)
    assert used.result_run_id == first.result_run_id
    same = await client.start_workflow(sleeps, 1, id="two", request_id="r")
    again = await client.start_workflow(sleeps, 1, id="two", request_id="r")
    assert same.result_run_id == again.result_run_id
    replaced = await client.start_workflow(
        sleeps, 1, id="one", id_conflict_policy=WorkflowIDConflictPolicy.TERMINATE_EXISTING
    )
    assert await replaced.result() == "awake"
    with pytest.raises(WorkflowFailureError):
        await first.result()
    with pytest.raises(WorkflowAlreadyStartedError):
        await client.start_workflow(sleeps, 1, id="one", id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE)


async def test_describe_and_memo(client: Client) -> None:
    handle = await client.start_workflow(sleeps, 1, id="d", memo={"order": Order("a", 1), "n": 5})
    described = await handle.describe()
    assert described.status is WorkflowExecutionStatus.RUNNING
    assert (described.id, described.workflow_type, described.close_time) == ("d", "sleeps", None)
    assert await described.memo() == {"order": {"id": "a", "count": 1}, "n": 5}
    assert await described.memo_value("order", type_hint=Order) == Order("a", 1)
    assert await described.memo_value("none", 7) == 7
    await handle.result()
    described = await handle.describe()
    assert described.status is WorkflowExecutionStatus.COMPLETED
    assert described.close_time is not None
    assert described.close_time - described.start_time >= HOUR
    with pytest.raises(WorkflowNotFoundError):
        await client.get_workflow_handle("nobody").describe()


async def test_start_delay(client: Client, env: WorkflowEnvironment) -> None:
    before = await env.get_current_time()
    await client.execute_workflow(sleeps, 0, start_delay=HOUR)
    assert await env.get_current_time() - before >= HOUR


async def test_list_and_count(client: Client) -> None:
    for number in range(7):
        await client.execute_workflow(sleeps, 0, id=f"s{number}")
    await client.start_workflow(Inbox.run, 1, id="inbox")
    everything = [found.id async for found in client.list_workflows(page_size=2)]
    assert sorted(everything) == ["inbox", *(f"s{number}" for number in range(7))]
    running = [found.id async for found in client.list_workflows("ExecutionStatus = 'Running'")]
    assert running == ["inbox"]
    assert len([found async for found in client.list_workflows(limit=3)]) == 3
    assert (await client.count_workflows()).count == 8
    assert (await client.count_workflows("WorkflowType = 'sleeps'")).count == 7
    with pytest.raises(InvalidRequestError):
        await client.count_workflows("this is no filter")


async def test_histories(client: Client) -> None:
    handle = await client.start_workflow(sleeps, 1, id="h")
    await handle.result()
    history = await handle.fetch_history()
    assert [event.event_id for event in history.events] == list(range(1, len(history.events) + 1))
    assert history.run_id == handle.result_run_id
    again = WorkflowHistory.from_json("h", history.to_json())
    assert list(again.events) == list(history.events)
    assert WorkflowHistory.from_json("h", history.to_json_dict()) == again
    paged = [event.event_id async for event in handle.fetch_history_events(page_size=2)]
    assert paged == [event.event_id for event in history.events]
    closing = await handle.fetch_history(event_filter_type=WorkflowHistoryEventFilterType.CLOSE_EVENT)
    assert len(closing.events) == 1
    for text in ("", "[]", "{", '{"events": 5}'):
        with pytest.raises(ValueError, match="not the JSON of a workflow history"):
            WorkflowHistory.from_json("h", text)
    with pytest.raises(ValueError, match="begins with"):
        _ = WorkflowHistory("h", []).run_id


async def test_following_events_as_they_come(client: Client) -> None:
    handle = await client.start_workflow(Inbox.run, 1, id="live")
    kinds: list[int] = []

    async def follow() -> None:
        async for event in handle.fetch_history_events(wait_new_event=True):
            kinds.append(event.event_type)

    following = asyncio.create_task(follow())
    await handle.signal(Inbox.put, Order("a", 1))
    assert await handle.result() == 1
    await following
    assert kinds == [event.event_type for event in (await handle.fetch_history()).events]


async def test_a_wrong_result_type_is_said(client: Client) -> None:
    await client.execute_workflow(sleeps, 0, id="r")
    with pytest.raises(ConversionError, match="expected `int`, got `str`"):
        await client.get_workflow_handle("r", result_type=int).result()


async def test_namespaces_and_bad_ids(client: Client) -> None:
    elsewhere = Client(client.raw_service, namespace="nowhere")
    with pytest.raises(NamespaceNotFoundError, match="nowhere"):
        await elsewhere.start_workflow("x")
    with pytest.raises(InvalidRequestError):
        await client.start_workflow(sleeps, 1, id="x" * 2000)
    with pytest.raises(ValueError, match="give task_token"):
        client.get_async_activity_handle(workflow_id="w")
