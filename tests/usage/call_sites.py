"""Calls as users write them, for the type checker: `make check` looks at this file, nothing runs it.

Right calls say with `assert_type` what they give. Wrong ones carry an ignore comment, and a comment without an error to
ignore is an error itself: so each of them has to be found.
"""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
# ruff: noqa: B018 - an attribute that is looked at is what the type checker has to refuse.

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, assert_type

import perdure
from perdure import Client, RetryPolicy, Worker, WorkflowHandle, activity, workflow
from perdure.client import (
    BatchReset,
    BatchSignal,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleSpec,
    WithStartWorkflowOperation,
    WorkflowUpdateHandle,
    WorkflowUpdateStage,
)
from perdure.common import (
    RawValue,
    SearchAttributeKey,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from perdure.testing import ActivityEnvironment, WorkflowEnvironment

SECONDS = timedelta(seconds=3)


@dataclass
class Order:
    id: str


@dataclass
class Receipt:
    id: str


ORDER = Order("o-1")


@activity.defn(start_to_close_timeout=SECONDS, retry_policy=RetryPolicy(maximum_attempts=3))
async def charge(order: Order) -> Receipt:
    activity.heartbeat(1)
    return Receipt(order.id)


@activity.defn
async def bare(order: Order) -> Receipt:
    return Receipt(order.id)


@activity.defn(start_to_close_timeout=SECONDS)
def on_a_thread(order: Order, count: int = 1) -> Receipt:
    return Receipt(order.id * count)


@activity.defn(executor="process", start_to_close_timeout=SECONDS)
def in_a_process(count: int) -> int:
    return count


@activity.defn
def nothing() -> None: ...


class Payments:
    @activity.defn(start_to_close_timeout=SECONDS)
    async def pay(self, order: Order) -> Receipt:
        return Receipt(order.id)

    @activity.defn(start_to_close_timeout=SECONDS)
    def pay_twice(self, order: Order, count: int) -> Receipt:
        return Receipt(order.id * count)


def size_of(path: str) -> int:
    return len(path)


async def fetch(path: str, count: int) -> bytes:
    return path.encode() * count


@workflow.defn
async def no_argument() -> int:
    return 1


@workflow.defn
async def one_argument(count: int) -> str:
    return str(count)


@workflow.defn
async def two_arguments(count: int, text: str) -> str:
    return text * count


@workflow.defn
async def an_optional_one(count: int, text: str = "") -> str:
    return text * count


@workflow.defn(name="other")
class Other:
    @workflow.run
    async def run(self, text: str) -> int:
        return len(text)

    @workflow.signal
    def take(self, count: int) -> None: ...

    @workflow.signal
    def stop(self) -> None: ...


@workflow.defn
class NoArgument:
    @workflow.run
    async def run(self) -> int:
        return 1


@workflow.defn
class Main:
    @workflow.init
    def __init__(self, order: Order) -> None:
        self.order = order
        self.done = False

    @workflow.run
    async def run(self, order: Order) -> Receipt:
        await activities(order)
        await children()
        await waits(lambda: self.done)
        if workflow.info().is_continue_as_new_suggested():
            workflow.continue_as_new(order)
        return Receipt(order.id)

    @workflow.signal
    def take(self, count: int) -> None: ...

    @workflow.signal
    async def take_two(self, count: int, text: str) -> None: ...

    @workflow.signal(name="end")
    def finish(self) -> None:
        self.done = True

    @workflow.query
    def count(self) -> int:
        return 1

    @workflow.query
    def names(self, prefix: str) -> list[str]:
        return [prefix]

    @workflow.update
    async def change(self, order: Order) -> Receipt:
        return Receipt(order.id)

    @change.validator
    def check_change(self, order: Order) -> None: ...

    @workflow.update(name="total", unfinished_policy=workflow.HandlerUnfinishedPolicy.ABANDON)
    def sum_of(self, count: int, text: str) -> int:
        return count + len(text)

    @workflow.update
    def reset(self) -> None:
        assert_type(self.sum_of(1, "x"), int)
        self.sum_of(1)  # pyright: ignore[reportCallIssue]

    @sum_of.validator  # pyright: ignore[reportArgumentType]
    def check_sum(self, count: str, text: str) -> None: ...

    @workflow.signal(dynamic=True)
    async def anything(self, name: str, args: Sequence[RawValue]) -> None: ...


async def activities(order: Order) -> None:
    assert_type(await charge(order), Receipt)
    assert_type(await on_a_thread(order), Receipt)
    assert_type(await on_a_thread(order, 4), Receipt)
    assert_type(await on_a_thread(order, count=4), Receipt)
    assert_type(await charge.options(start_to_close_timeout=SECONDS)(order), Receipt)
    assert_type(await in_a_process(3), int)
    await nothing()
    assert_type(await workflow.execute_activity(charge, order), Receipt)
    assert_type(await workflow.execute_activity(bare, order, start_to_close_timeout=SECONDS), Receipt)
    assert_type(await workflow.execute_activity(on_a_thread, order), Receipt)
    assert_type(await workflow.execute_activity(on_a_thread, args=[order, 3]), Receipt)
    assert_type(await workflow.execute_activity(nothing, start_to_close_timeout=SECONDS), None)
    assert_type(await workflow.execute_activity("charge", order, result_type=Receipt), Receipt)
    assert_type(await workflow.execute_activity_method(Payments.pay, order), Receipt)
    assert_type(await workflow.execute_activity_method(Payments.pay_twice, args=[order, 3]), Receipt)
    handle = workflow.start_activity(charge, order)
    assert_type(handle, workflow.ActivityHandle[Receipt])
    assert_type(await handle, Receipt)
    first, second = await asyncio.gather(charge(order), workflow.start_activity(on_a_thread, order))
    assert_type((first, second), tuple[Receipt, Receipt])
    async with asyncio.TaskGroup() as group:
        task = group.create_task(charge(order))
    assert_type(task.result(), Receipt)
    assert_type(await asyncio.create_task(charge(order)), Receipt)
    assert_type(await asyncio.wait_for(charge(order), 3), Receipt)
    assert_type(await workflow.step(size_of, "x"), int)
    assert_type(await workflow.step(fetch, "x", 3), bytes)
    assert_type(await workflow.step(lambda: 3), int)

    await charge("x")  # pyright: ignore[reportArgumentType]
    await charge()  # pyright: ignore[reportCallIssue]
    await charge(order, 3)  # pyright: ignore[reportCallIssue]
    await on_a_thread("x")  # pyright: ignore[reportArgumentType]
    (await charge(order)).price  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    await workflow.execute_activity(charge, 3)  # pyright: ignore[reportCallIssue, reportArgumentType]
    await workflow.execute_activity(charge)  # pyright: ignore[reportCallIssue, reportArgumentType]
    await workflow.execute_activity(nothing, 3)  # pyright: ignore[reportCallIssue, reportArgumentType]
    await workflow.execute_activity(charge, order, summary=3)  # pyright: ignore[reportCallIssue, reportArgumentType]
    await workflow.execute_activity(charge, order, start_to_close=SECONDS)  # pyright: ignore[reportCallIssue]
    await workflow.execute_activity_method(Payments.pay, 3)  # pyright: ignore[reportArgumentType]
    await workflow.step(size_of, 1)  # pyright: ignore[reportCallIssue, reportArgumentType]


async def children() -> None:
    assert_type(await workflow.execute_child_workflow(one_argument, 3), str)
    assert_type(await workflow.execute_child_workflow(no_argument), int)
    assert_type(await workflow.execute_child_workflow(NoArgument.run), int)
    assert_type(await workflow.execute_child_workflow(two_arguments, args=[1, "x"]), str)
    assert_type(await workflow.execute_child_workflow("other", "x", result_type=int), int)
    child = await workflow.start_child_workflow(
        Other.run, "x", id="c", parent_close_policy=workflow.ParentClosePolicy.ABANDON
    )
    assert_type(child, workflow.ChildWorkflowHandle[int])
    await child.signal(Other.take, 3)
    await child.signal(Other.stop)
    await child.signal("take", 3)
    await child.signal(Other.take, args=[3])
    child.cancel()
    assert_type(await child, int)
    external = workflow.get_external_workflow_handle_for(Other.run, "x")
    await external.signal(Other.take, 3)
    await external.signal("take", 3)
    await external.cancel()

    await workflow.execute_child_workflow(one_argument, "x")  # pyright: ignore[reportCallIssue, reportArgumentType]
    await workflow.execute_child_workflow(Other.run, 3)  # pyright: ignore[reportCallIssue, reportArgumentType]
    await child.signal(Other.take, "x")  # pyright: ignore[reportCallIssue, reportArgumentType]
    await child.signal(Other.take)  # pyright: ignore[reportCallIssue, reportArgumentType]
    await external.signal(Other.take, "x")  # pyright: ignore[reportCallIssue, reportArgumentType]


async def waits(done: Any) -> None:
    await workflow.wait_condition(done, timeout=3)
    await workflow.wait_condition(workflow.all_handlers_finished)
    await workflow.wait_condition(3)  # pyright: ignore[reportArgumentType]
    workflow.upsert_memo({"a": 1})
    workflow.upsert_search_attributes([SearchAttributeKey.for_keyword("customer").value_set("c-1")])


async def app() -> None:
    async with perdure.open("x.db") as app:
        assert_type(await app.execute(one_argument, 3, id="x"), str)
        assert_type(await app.execute(Main.run, ORDER, id="x"), Receipt)
        handle = await app.start(Main.run, ORDER, id="x")
        assert_type(handle, WorkflowHandle[Receipt])
        assert_type(app.handle("x", result_type=Receipt), WorkflowHandle[Receipt])
        assert_type(app.handle("x"), WorkflowHandle[Any])


async def handles(handle: WorkflowHandle[Receipt]) -> None:
    assert_type(await handle.result(), Receipt)
    assert_type(await handle.query(Main.count), int)
    assert_type(await handle.query(Main.names, "x"), list[str])
    assert_type(await handle.query(Main.names, args=["x"]), list[str])
    assert_type(await handle.query("count", result_type=int), int)
    await handle.signal(Main.take, 3)
    await handle.signal(Main.take_two, 3, "x")
    await handle.signal(Main.take_two, args=[3, "x"])
    await handle.signal(Main.finish)
    await handle.signal("take", 3)
    await handle.signal("take", args=[3])

    assert_type(await handle.execute_update(Main.change, ORDER), Receipt)
    assert_type(await handle.execute_update(Main.change, args=[ORDER], id="u"), Receipt)
    assert_type(await handle.execute_update(Main.sum_of, 3, "x"), int)
    assert_type(await handle.execute_update(Main.sum_of, args=[3, "x"]), int)
    assert_type(await handle.execute_update(Main.reset), None)
    assert_type(await handle.execute_update("total", 3, "x", result_type=int), int)
    assert_type(await handle.execute_update("total", 3, "x"), Any)
    update = await handle.start_update(Main.change, ORDER, wait_for_stage=WorkflowUpdateStage.ACCEPTED)
    assert_type(update, WorkflowUpdateHandle[Receipt])
    assert_type(await update.result(), Receipt)
    assert_type(handle.get_update_handle("u", result_type=int), WorkflowUpdateHandle[int])
    assert_type(handle.get_update_handle("u"), WorkflowUpdateHandle[Any])
    assert_type(handle.get_update_handle_for(Main.change, "u"), WorkflowUpdateHandle[Receipt])
    assert_type(handle.get_update_handle_for(Main.sum_of, "u"), WorkflowUpdateHandle[int])

    await handle.execute_update(Main.change, 3)  # pyright: ignore[reportCallIssue, reportArgumentType]
    await handle.execute_update(Main.change)  # pyright: ignore[reportCallIssue, reportArgumentType]
    await handle.execute_update(Main.sum_of, "x", 3)  # pyright: ignore[reportCallIssue, reportArgumentType]
    await handle.start_update(Main.change, ORDER)  # pyright: ignore[reportCallIssue]
    await handle.signal(Main.take, "x")  # pyright: ignore[reportCallIssue, reportArgumentType]
    await handle.signal(Main.take)  # pyright: ignore[reportCallIssue, reportArgumentType]
    await handle.signal(Main.take_two, 1)  # pyright: ignore[reportCallIssue, reportArgumentType]
    await handle.query(Main.count, 1)  # pyright: ignore[reportCallIssue, reportArgumentType]
    await handle.query(Main.names, 1)  # pyright: ignore[reportCallIssue, reportArgumentType]


async def schedules(client: Client) -> None:
    nightly = Schedule(ScheduleActionStartWorkflow(one_argument, 1, id="x"), ScheduleSpec(cron_expressions=["@daily"]))
    scheduled = await client.create_schedule("nightly", nightly)
    assert_type((await scheduled.describe()).info.num_actions, int)
    ScheduleActionStartWorkflow(Main.run, "x", id="x")  # pyright: ignore[reportCallIssue, reportArgumentType]
    ScheduleActionStartWorkflow(one_argument, 1)  # pyright: ignore[reportCallIssue]
    async for entry in client.list_schedules():
        assert_type(entry.paused, bool)


async def client() -> None:
    client = await Client.connect("sqlite:orders.db")
    assert_type(await client.execute_workflow(no_argument, id="x"), int)
    assert_type(await client.execute_workflow(NoArgument.run, id="x"), int)
    assert_type(await client.execute_workflow(one_argument, 3, id="x"), str)
    assert_type(await client.execute_workflow(two_arguments, 3, "x", id="x"), str)
    assert_type(await client.execute_workflow(two_arguments, args=[3, "x"], id="x"), str)
    assert_type(await client.execute_workflow(an_optional_one, 3, id="x"), str)
    assert_type(await client.execute_workflow(an_optional_one, 3, "x", id="x"), str)
    assert_type(await client.execute_workflow(Main.run, ORDER), Receipt)
    assert_type(await client.execute_workflow("other", "x", id="x", result_type=int), int)
    assert_type(client.get_workflow_handle_for(Main.run, "x"), WorkflowHandle[Receipt])
    assert_type(client.get_workflow_handle("x", result_type=Receipt), WorkflowHandle[Receipt])
    started = await client.start_workflow(
        one_argument,
        3,
        id="x",
        id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
        id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
        start_delay=SECONDS,
        retry_policy=RetryPolicy(),
        memo={"a": 1},
        search_attributes={"Customer": ["c-1"]},
        start_signal="take",
        start_signal_args=[1],
    )
    assert_type(started, WorkflowHandle[str])
    start = WithStartWorkflowOperation(
        Main.run, ORDER, id="x", id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING
    )
    assert_type(
        await client.execute_update_with_start_workflow(Main.change, ORDER, start_workflow_operation=start), Receipt
    )
    assert_type(await start.workflow_handle(), WorkflowHandle[Receipt])
    assert_type(
        await client.start_update_with_start_workflow(
            Main.sum_of,
            3,
            "x",
            start_workflow_operation=start,
            wait_for_stage=WorkflowUpdateStage.ACCEPTED,
        ),
        WorkflowUpdateHandle[int],
    )
    WithStartWorkflowOperation(Main.run, 3, id="x")  # pyright: ignore[reportCallIssue, reportArgumentType]
    async for found in client.list_workflows("WorkflowType = 'other'"):
        assert_type(found.id, str)
    assert_type((await client.count_workflows()).count, int)
    batch = await client.start_batch(BatchSignal(Main.take, [3]), query="WorkflowType = 'other'", reason="x")
    assert_type((await batch.result()).completed, int)
    await client.start_batch(BatchReset(), workflows=["x", started], reason="x")
    assert_type(await started.reset(), WorkflowHandle[Any])
    assert_type(await client.list_search_attributes(), list[SearchAttributeKey[Any]])
    await client.start_batch(BatchSignal(3), workflows=["x"], reason="x")  # pyright: ignore[reportArgumentType]
    await client.start_batch(BatchSignal, workflows=["x"], reason="x")  # pyright: ignore[reportArgumentType]
    await client.add_search_attributes("City")  # pyright: ignore[reportArgumentType]

    await client.execute_workflow(one_argument, "x")  # pyright: ignore[reportCallIssue, reportArgumentType]
    await client.execute_workflow(one_argument, 1, 2)  # pyright: ignore[reportCallIssue, reportArgumentType]
    await client.execute_workflow(one_argument, 1, id=3)  # pyright: ignore[reportCallIssue, reportArgumentType]
    await client.execute_workflow(one_argument, 1, idd="x")  # pyright: ignore[reportCallIssue]
    await client.execute_workflow(two_arguments, 1)  # pyright: ignore[reportCallIssue, reportArgumentType]
    await client.execute_workflow(two_arguments, "x", 1)  # pyright: ignore[reportCallIssue, reportArgumentType]
    await client.execute_workflow(no_argument, 1)  # pyright: ignore[reportCallIssue, reportArgumentType]
    await client.execute_workflow(an_optional_one, 1, 2)  # pyright: ignore[reportCallIssue, reportArgumentType]
    await client.execute_workflow(Main.run, 3)  # pyright: ignore[reportCallIssue, reportArgumentType]
    await client.execute_workflow(Main.run)  # pyright: ignore[reportCallIssue, reportArgumentType]


async def workers_and_tests(client: Client) -> None:
    async with Worker(client, task_queue="q", workflows=[one_argument, Main], activities=[charge, Payments().pay]):
        pass
    assert_type(await ActivityEnvironment().run(charge, ORDER), Receipt)
    assert_type(await ActivityEnvironment().run(on_a_thread, ORDER), Receipt)
    async with await WorkflowEnvironment.start_time_skipping() as env:
        async with env.worker(workflows=[one_argument], activities=[charge]):
            assert_type(await env.client.execute_workflow(one_argument, 3), str)
