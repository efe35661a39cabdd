"""Updates as their users rely on them: through client, engine and worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

import perdure
from perdure import Client, Worker, activity, workflow
from perdure.api import messages as m
from perdure.client import (
    WithStartWorkflowOperation,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowNotFoundError,
    WorkflowUpdateFailedError,
    WorkflowUpdateHandle,
    WorkflowUpdateRPCTimeoutOrCancelledError,
    WorkflowUpdateStage,
)
from perdure.common import WorkflowIDConflictPolicy
from perdure.converter import DataConverter
from perdure.exceptions import ApplicationError
from perdure.testing import Replayer, WorkflowEnvironment

E = m.EventType
ACCEPTED = WorkflowUpdateStage.ACCEPTED
USE_EXISTING = WorkflowIDConflictPolicy.USE_EXISTING


@activity.defn(start_to_close_timeout=timedelta(seconds=30))
async def price(item: str) -> int:
    return len(item)


@workflow.defn
class Cart:
    def __init__(self) -> None:
        self.items: list[str] = []
        self.total = 0
        self.ordered = False

    @workflow.run
    async def run(self, rounds: int = 0) -> int:
        await workflow.wait_condition(lambda: self.ordered)
        await workflow.wait_condition(workflow.all_handlers_finished)
        if rounds:
            workflow.continue_as_new(rounds - 1)
        return self.total

    @workflow.update
    async def add(self, item: str) -> int:
        self.items.append(item)
        cost = await price(item)
        self.total += cost
        return self.total

    @add.validator
    def check_item(self, item: str) -> None:
        if not item:
            raise ValueError("an item needs a name")

    @workflow.update
    async def wait_hours(self, hours: int) -> str:
        await workflow.sleep(timedelta(hours=hours))
        return f"{hours} hours"

    @workflow.update
    def order(self) -> int:
        self.ordered = True
        return self.total

    @workflow.update
    def fails(self) -> None:
        raise KeyError("no such thing")


@pytest.fixture
async def env() -> AsyncIterator[WorkflowEnvironment]:
    async with await WorkflowEnvironment.start_time_skipping() as env:
        yield env


@pytest.fixture(params=[16 * 1024 * 1024, 0], ids=["cached", "replayed each time"])
async def client(env: WorkflowEnvironment, request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    async with env.worker(workflows=[Cart, basket], activities=[price], max_cached_workflow_bytes=request.param):
        yield env.client


@workflow.defn
async def basket(limit: int) -> list[str]:
    items: list[str] = []

    @workflow.update
    async def put(item: str) -> int:
        items.append(item)
        await price(item)
        return len(items)

    @put.validator
    def check(item: str) -> None:
        if len(items) >= limit:
            raise ValueError("it is full")

    await workflow.wait_condition(lambda: len(items) == limit and workflow.all_handlers_finished())
    return items


async def kinds_of(handle: WorkflowHandle[int]) -> list[int]:
    return [event.event_type for event in (await handle.fetch_history()).events]


async def cart(client: Client) -> WorkflowHandle[int]:
    return await client.start_workflow(Cart.run, id="cart")


async def test_an_update_answers_and_the_workflow_goes_on(client: Client) -> None:
    handle = await cart(client)
    assert await handle.execute_update(Cart.add, "pen") == 3
    assert await handle.execute_update(Cart.add, "paper") == 8
    assert await handle.execute_update(Cart.order) == 8
    assert await handle.result() == 8
    await Replayer(workflows=[Cart]).replay_workflow(await handle.fetch_history())


async def test_a_rejected_update_leaves_no_event(client: Client) -> None:
    handle = await cart(client)
    await handle.execute_update(Cart.add, "pen")
    before = await kinds_of(handle)
    for _ in range(3):
        with pytest.raises(WorkflowUpdateFailedError, match="needs a name") as caught:
            await handle.execute_update(Cart.add, "")
        assert isinstance(caught.value.cause, ApplicationError)
        assert caught.value.cause.type == "ValueError"
    with pytest.raises(WorkflowUpdateFailedError, match="no update 'fly'"):
        await handle.execute_update("fly")
    assert await kinds_of(handle) == before
    assert await handle.execute_update(Cart.add, "pen") == 6
    await handle.execute_update(Cart.order)
    assert await handle.result() == 6


async def test_a_validator_that_changes_something_stops_the_task_until_the_code_is_mended(
    env: WorkflowEnvironment,
) -> None:
    def waiter(check: Callable[[], object]) -> type:
        @workflow.defn(name="waiter")
        class Waiter:
            @workflow.run
            async def run(self) -> None:
                await workflow.wait_condition(lambda: False)

            @workflow.update
            def take(self) -> str:
                return "taken"

            @take.validator
            def check_it(self) -> None:
                check()

        return Waiter

    handle = await env.client.start_workflow("waiter", id="w")
    async with env.worker(workflows=[waiter(lambda: workflow.uuid4())]):
        update = asyncio.ensure_future(handle.execute_update("take", id="u"))
        async for event in handle.fetch_history_events(wait_new_event=True):
            if event.HasField("workflow_task_failed_event_attributes"):
                break
        assert "an update's validator may not" in event.workflow_task_failed_event_attributes.failure.message
    async with env.worker(workflows=[waiter(lambda: None)]):
        assert await update == "taken"


async def test_a_failed_handler_fails_the_update_alone(client: Client) -> None:
    handle = await cart(client)
    with pytest.raises(WorkflowUpdateFailedError, match="no such thing"):
        await handle.execute_update(Cart.fails)
    assert await handle.execute_update(Cart.order) == 0


async def test_an_update_is_found_again_by_its_id(client: Client) -> None:
    handle = await cart(client)
    first = await handle.start_update(Cart.wait_hours, 5, wait_for_stage=ACCEPTED, id="u")
    again = await handle.start_update(Cart.wait_hours, 5, wait_for_stage=ACCEPTED, id="u")
    by_id = client.get_workflow_handle("cart").get_update_handle_for(Cart.wait_hours, "u")
    outcomes = await asyncio.gather(first.result(), again.result(), by_id.result())
    assert outcomes == ["5 hours"] * 3
    assert (await kinds_of(handle)).count(E.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED) == 1


async def test_many_updates_at_once_are_all_answered(client: Client) -> None:
    handle = await cart(client)
    totals = await asyncio.gather(*(handle.execute_update(Cart.add, "x") for _ in range(8)))
    assert sorted(totals)[-1] == 8
    assert await handle.execute_update(Cart.order) == 8
    await Replayer(workflows=[Cart]).replay_workflow(await handle.fetch_history())


async def test_a_closed_workflow_takes_no_updates_and_unfinished_ones_fail(env: WorkflowEnvironment) -> None:
    async with env.worker(workflows=[Cart], activities=[price]):
        handle = await cart(env.client)
        waiting = await handle.start_update(Cart.wait_hours, 5, wait_for_stage=ACCEPTED)
        await handle.terminate()
        with pytest.raises(WorkflowUpdateFailedError):
            await waiting.result()
        with pytest.raises(WorkflowNotFoundError):
            await handle.execute_update(Cart.order)
        with pytest.raises(WorkflowFailureError):
            await handle.result()


async def test_an_update_without_a_worker_is_waited_for_as_long_as_was_said(env: WorkflowEnvironment) -> None:
    handle = await cart(env.client)
    with pytest.raises(WorkflowUpdateRPCTimeoutOrCancelledError):
        await handle.execute_update(Cart.fails, rpc_timeout=timedelta(milliseconds=20))
    pending = asyncio.create_task(handle.execute_update(Cart.order, id="order"))
    async with env.worker(workflows=[Cart], activities=[price]):
        assert await pending == 0
        assert await handle.result() == 0


async def test_the_next_run_takes_updates_under_the_same_id(client: Client) -> None:
    handle = await client.start_workflow(Cart.run, 1, id="cart")
    assert await handle.execute_update(Cart.add, "pen") == 3
    assert await handle.execute_update(Cart.order) == 3
    later = client.get_workflow_handle("cart")
    assert await later.execute_update(Cart.add, "paper") == 5
    await later.execute_update(Cart.order)
    assert await handle.result() == 5


# With a start; and a function that sets its handlers while it runs.


def start_of_basket(limit: int) -> WithStartWorkflowOperation[list[str]]:
    return WithStartWorkflowOperation(basket, limit, id="basket", id_conflict_policy=USE_EXISTING)


async def test_an_update_starts_the_workflow_or_joins_it(client: Client) -> None:
    first = start_of_basket(2)
    put = client.execute_update_with_start_workflow
    assert await put("put", "pen", start_workflow_operation=first, result_type=int) == 1
    second = start_of_basket(7)
    assert await put("put", "paper", start_workflow_operation=second, result_type=int) == 2
    handle = await first.workflow_handle()
    assert (await second.workflow_handle()).first_execution_run_id == handle.first_execution_run_id
    assert await handle.result() == ["pen", "paper"]
    await Replayer(workflows=[basket]).replay_workflow(await handle.fetch_history())


async def test_a_rejected_update_leaves_the_workflow_it_started(client: Client) -> None:
    operation = start_of_basket(1)
    put = client.start_update_with_start_workflow
    rejected = await put("fly", start_workflow_operation=operation, wait_for_stage=ACCEPTED)
    with pytest.raises(WorkflowUpdateFailedError, match="it has: put"):
        await rejected.result()
    handle = await operation.workflow_handle()
    assert await handle.execute_update("put", "pen") == 1
    assert await handle.result() == ["pen"]


# Across processes and with encoded payloads.


async def test_an_update_under_way_outlives_the_engine(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    @activity.defn(start_to_close_timeout=timedelta(seconds=30))
    async def waits() -> str:
        await go_on.wait()
        return "done"

    @workflow.defn
    class Slow:
        @workflow.run
        async def run(self) -> None:
            await workflow.wait_condition(lambda: False)

        @workflow.update
        async def work(self) -> str:
            return await waits()

    async with perdure.open(tmp_path / "u.db", workflows=[Slow], activities=[waits]) as app:
        handle = await app.start(Slow.run, id="slow")
        await handle.start_update(Slow.work, wait_for_stage=ACCEPTED, id="u")
    go_on.set()
    async with perdure.open(tmp_path / "u.db", workflows=[Slow], activities=[waits]) as app:
        update: WorkflowUpdateHandle[str] = app.handle("slow").get_update_handle_for(Slow.work, "u")
        assert await update.result() == "done"


class Mask:
    """Flips every bit."""

    async def encode(self, payloads: Sequence[m.Payload]) -> list[m.Payload]:
        return [
            m.Payload(metadata={"encoding": b"masked"}, data=bytes(255 - byte for byte in payload.SerializeToString()))
            for payload in payloads
        ]

    async def decode(self, payloads: Sequence[m.Payload]) -> list[m.Payload]:
        return [
            m.Payload.FromString(bytes(255 - byte for byte in payload.data))
            if payload.metadata.get("encoding") == b"masked"
            else payload
            for payload in payloads
        ]


async def test_a_codec_keeps_updates_from_the_engine() -> None:
    async with await Client.connect("memory:", data_converter=DataConverter(payload_codec=Mask())) as client:
        async with Worker(client, workflows=[Cart], activities=[price], max_cached_workflow_bytes=0):
            handle = await cart(client)
            assert await handle.execute_update(Cart.add, "canary") == 6
            with pytest.raises(WorkflowUpdateFailedError):
                await handle.execute_update(Cart.add, "")
            assert await handle.execute_update(Cart.order) == 6
            assert await handle.result() == 6
            request = m.GetWorkflowExecutionHistoryRequest(namespace="default")
            request.execution.workflow_id = "cart"
            raw = await client.raw_service.get_workflow_execution_history(request)
            assert b"canary" not in raw.SerializeToString()
