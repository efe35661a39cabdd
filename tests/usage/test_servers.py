"""The SDK against a server: what it does in process it does over the wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from perdure import Client, Worker, activity, workflow
from perdure.client import (
    WithStartWorkflowOperation,
    WorkflowExecutionStatus,
    WorkflowNotFoundError,
    WorkflowUpdateFailedError,
    WorkflowUpdateStage,
)
from perdure.common import Priority, SearchAttributeKey, WorkflowIDConflictPolicy
from perdure.engine import Engine
from perdure.engine.store.memory import MemoryStore
from perdure.server import Server
from perdure.testing import Replayer

SPAN = timedelta(seconds=30)
CITY = SearchAttributeKey.for_keyword("HomeTown")


@activity.defn(start_to_close_timeout=SPAN)
async def price(item: str) -> int:
    return len(item)


@workflow.defn
class Cart:
    def __init__(self) -> None:
        self.total = 0
        self.ordered = False

    @workflow.run
    async def run(self) -> int:
        workflow.upsert_search_attributes([CITY.value_set("Oslo")])
        await workflow.wait_condition(lambda: self.ordered)
        await workflow.wait_condition(workflow.all_handlers_finished)
        return self.total

    @workflow.update
    async def add(self, item: str) -> int:
        cost = await price(item)
        self.total += cost
        return self.total

    @add.validator
    def check_item(self, item: str) -> None:
        if not item:
            raise ValueError("an item needs a name")

    @workflow.signal
    def order(self) -> None:
        self.ordered = True

    @workflow.query
    def sum_of(self) -> int:
        return self.total


@workflow.defn
async def many(count: int) -> int:
    return sum(await asyncio.gather(*(price("x") for _ in range(count))))


@pytest.fixture
async def address() -> AsyncIterator[str]:
    engine = Engine(MemoryStore())
    await engine.start()
    async with Server(engine, address="127.0.0.1:0") as server:
        yield server.address
    await engine.stop()


@pytest.fixture(params=[16 * 1024 * 1024, 0], ids=["cached", "replayed each time"])
async def client(address: str, request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    async with await Client.connect(address) as client:
        await client.add_search_attributes(CITY)
        async with Worker(client, workflows=[Cart, many], activities=[price], max_cached_workflow_bytes=request.param):
            yield client


async def test_updates_signals_queries_and_what_is_found(client: Client) -> None:
    start = WithStartWorkflowOperation(Cart.run, id="cart", id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING)
    assert await client.execute_update_with_start_workflow(Cart.add, "pen", start_workflow_operation=start) == 3
    handle = await start.workflow_handle()
    events = (await handle.describe()).history_length
    with pytest.raises(WorkflowUpdateFailedError, match="needs a name"):
        await handle.execute_update(Cart.add, "")
    assert (await handle.describe()).history_length == events
    update = await handle.start_update(Cart.add, "paper", wait_for_stage=WorkflowUpdateStage.ACCEPTED)
    assert await update.result() == 8
    assert await handle.query(Cart.sum_of) == 8
    assert (await handle.describe()).typed_search_attributes[CITY] == "Oslo"
    await handle.signal(Cart.order)
    assert await handle.result() == 8
    with pytest.raises(WorkflowNotFoundError):
        await handle.execute_update(Cart.add, "pen")
    await Replayer(workflows=[Cart]).replay_workflow(await handle.fetch_history())


async def test_many_activities_at_once(client: Client) -> None:
    assert await client.execute_workflow(many, 300, priority=Priority(priority_key=1)) == 300


async def test_a_run_is_taken_back_and_removed(client: Client) -> None:
    handle = await client.start_workflow(many, 3, id="m")
    assert await handle.result() == 3
    again = await handle.reset(reason="once more")
    assert await again.result() == 3
    assert (await again.describe()).status is WorkflowExecutionStatus.COMPLETED
    await again.delete()
    with pytest.raises(WorkflowNotFoundError):
        await again.describe()
