"""Batches: one operation on many workflows, through the engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from perdure import workflow
from perdure.client import (
    BatchCancel,
    BatchDelete,
    BatchReset,
    BatchSignal,
    BatchState,
    BatchTerminate,
    Client,
    InvalidRequestError,
    ResetReapplyExcludeType,
    ResetType,
    ServiceError,
    WorkflowExecutionStatus,
    WorkflowHandle,
)
from perdure.exceptions import ConversionError
from perdure.testing import WorkflowEnvironment

S = WorkflowExecutionStatus


@workflow.defn
class Waiter:
    def __init__(self) -> None:
        self.word = ""

    @workflow.run
    async def run(self) -> str:
        await workflow.wait_condition(lambda: bool(self.word))
        return self.word

    @workflow.signal
    def say(self, word: str) -> None:
        self.word = word


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with await WorkflowEnvironment.start_time_skipping() as env:
        async with env.worker(workflows=[Waiter]):
            yield env.client


async def waiters(client: Client, count: int) -> list[WorkflowHandle[Any]]:
    handles = [await client.start_workflow(Waiter.run, id=f"w{number}") for number in range(count)]
    for handle in handles:
        # A batch that resets needs a workflow task that has been completed.
        while (await handle.describe()).pending_workflow_task is not None:
            await asyncio.sleep(0)
    return handles


async def statuses(handles: list[WorkflowHandle[Any]]) -> set[WorkflowExecutionStatus | None]:
    return {(await handle.describe()).status for handle in handles}


async def test_a_signal_to_all_that_a_filter_finds(client: Client) -> None:
    handles = await waiters(client, 5)
    batch = await client.start_batch(
        BatchSignal(Waiter.say, ["hello"]), query="WorkflowType = 'Waiter'", reason="time to go"
    )
    done = await batch.result()
    assert (done.state, done.total, done.completed, done.failed) == (BatchState.COMPLETED, 5, 5, 0)
    assert (done.reason, done.identity) == ("time to go", client.identity)
    assert done.close_time is not None
    assert [await handle.result() for handle in handles] == ["hello"] * 5


async def test_some_are_cancelled_some_terminated(client: Client) -> None:
    handles = await waiters(client, 4)
    cancel = await client.start_batch(BatchCancel(), workflows=["w0", handles[1]], reason="x")
    terminate = await client.start_batch(BatchTerminate(["enough"]), workflows=handles[2:], reason="x")
    assert (await cancel.result()).completed == (await terminate.result()).completed == 2
    for handle in handles:
        with pytest.raises(Exception, match="did not complete"):
            await handle.result()
    assert await statuses(handles[:2]) == {S.CANCELED}
    assert await statuses(handles[2:]) == {S.TERMINATED}


async def test_back_to_the_beginning_and_away(client: Client) -> None:
    handles = await waiters(client, 3)
    await asyncio.gather(*(handle.signal(Waiter.say, "once") for handle in handles))
    await asyncio.gather(*(handle.result() for handle in handles))
    reset = await client.start_batch(
        BatchReset(ResetType.FIRST_WORKFLOW_TASK, exclude=[ResetReapplyExcludeType.SIGNAL]),
        workflows=handles,
        reason="x",
    )
    assert (await reset.result()).completed == 3
    again = [client.get_workflow_handle(handle.id) for handle in handles]
    assert await statuses(again) == {S.RUNNING}
    delete = await client.start_batch(BatchDelete(), workflows=again, reason="x")
    assert (await delete.result()).completed == 3


async def test_batches_are_listed_found_and_stopped(client: Client) -> None:
    await waiters(client, 2)
    batch = await client.start_batch(
        BatchSignal("say", ["x"]), query="WorkflowType = 'Waiter'", id="b1", reason="x", max_operations_per_second=0.001
    )
    assert batch.id == "b1"
    found = client.get_batch_handle("b1")
    await found.stop("changed my mind")
    assert (await found.result()).state is not BatchState.RUNNING
    assert [one.id async for one in client.list_batches()] == ["b1"]
    with pytest.raises(ServiceError):
        await client.get_batch_handle("none").describe()


async def test_what_cannot_be_asked_is_refused_at_once(client: Client) -> None:
    with pytest.raises(ValueError, match="either query or workflows"):
        await client.start_batch(BatchCancel(), reason="x")
    with pytest.raises(ValueError, match="either query or workflows"):
        await client.start_batch(BatchCancel(), query="x", workflows=["w"], reason="x")
    with pytest.raises(ConversionError):
        await client.start_batch(BatchSignal(Waiter.say, [3]), workflows=["w"], reason="x")
    with pytest.raises(InvalidRequestError):
        await client.start_batch(BatchCancel(), query="this is no filter", reason="x")
