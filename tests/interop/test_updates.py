"""Updates, by Temporal's own client and worker."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from temporalio import activity, workflow
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.update.v1 import WaitPolicy
from temporalio.api.workflowservice.v1 import PollWorkflowExecutionUpdateRequest, ResetWorkflowExecutionRequest
from temporalio.client import (
    Client,
    WithStartWorkflowOperation,
    WorkflowExecutionStatus,
    WorkflowHandle,
    WorkflowUpdateFailedError,
    WorkflowUpdateHandle,
    WorkflowUpdateRPCTimeoutOrCancelledError,
    WorkflowUpdateStage,
)
from temporalio.common import RawValue, WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner, Worker

from tests.interop.conftest import Spawn
from tests.ports import free_port

QUEUE = "updates"


@activity.defn
async def label(item: str) -> str:
    return f"<{item}>"


@workflow.defn
class Basket:
    """Takes items until it is told to stop; each kind of handler adds one in its way."""

    @workflow.init
    def __init__(self, first: Sequence[str] = ()) -> None:
        self.items: list[str] = list(first)
        self.open_gate = False
        self.over = False
        self.again = False

    @workflow.run
    async def run(self, first: Sequence[str] = ()) -> list[str]:
        await workflow.wait_condition(lambda: self.over or self.again)
        if self.again:
            await workflow.wait_condition(workflow.all_handlers_finished)
            workflow.continue_as_new([*self.items, "again"])
        return self.items

    @workflow.update
    def add(self, item: str) -> int:
        self.items.append(item)
        return len(self.items)

    @add.validator
    def check(self, item: str) -> None:
        if not item:
            raise ApplicationError("an item has a name", type="Nameless")
        if item == "bad":
            raise ValueError("not that one")

    @workflow.update
    async def add_labelled(self, item: str) -> str:
        await workflow.sleep(timedelta(milliseconds=5))
        found = await workflow.execute_activity(label, item, start_to_close_timeout=timedelta(seconds=10))
        local = await workflow.execute_local_activity(label, found, start_to_close_timeout=timedelta(seconds=10))
        self.items.append(local)
        return local

    @workflow.update
    async def fail(self, message: str) -> None:
        await workflow.sleep(timedelta(milliseconds=1))
        raise ApplicationError(message, type="Refused")

    @workflow.update(unfinished_policy=workflow.HandlerUnfinishedPolicy.ABANDON)
    async def wait(self) -> str:
        await workflow.wait_condition(lambda: self.open_gate)
        return "waited"

    @workflow.update
    async def finish_with(self, item: str) -> int:
        self.items.append(item)
        self.over = True
        return len(self.items)

    @workflow.update(dynamic=True)
    async def anything(self, name: str, args: Sequence[RawValue]) -> str:
        return name

    @workflow.signal
    def gate(self) -> None:
        self.open_gate = True

    @workflow.signal
    def finish(self) -> None:
        self.over = True

    @workflow.signal
    def go_on(self) -> None:
        self.again = True

    @workflow.query
    def count(self) -> int:
        return len(self.items)


Handle = WorkflowHandle[Any, list[str]]


def worker(client: Client, **options: Any) -> Worker:
    return Worker(
        client,
        task_queue=QUEUE,
        workflows=[Basket],
        activities=[label],
        workflow_runner=UnsandboxedWorkflowRunner(),
        **options,
    )


async def begin(client: Client, workflow_id: str = "a", **options: Any) -> Handle:
    return await client.start_workflow(Basket.run, id=workflow_id, task_queue=QUEUE, **options)


async def names(handle: Handle) -> list[str]:
    history = await handle.fetch_history()
    found = [EventType.Name(event.event_type).removeprefix("EVENT_TYPE_") for event in history.events]
    return [name.removeprefix("WORKFLOW_EXECUTION_") for name in found]


async def replayed(handle: Handle) -> None:
    """The official replayer accepts the history."""
    await Replayer(workflows=[Basket], workflow_runner=UnsandboxedWorkflowRunner()).replay_workflow(
        await handle.fetch_history()
    )


async def started(handle: Handle, update: Any = Basket.wait, *args: Any, **options: Any) -> WorkflowUpdateHandle[Any]:
    return await handle.start_update(update, *args, wait_for_stage=WorkflowUpdateStage.ACCEPTED, **options)


@pytest.mark.parametrize("cached", [100, 0])
async def test_every_kind_of_handler(client: Client, cached: int) -> None:
    async with worker(client, max_cached_workflows=cached):
        handle = await begin(client)
        assert await handle.execute_update(Basket.add, "x") == 1
        assert await handle.execute_update(Basket.add_labelled, "y") == "<<y>>"
        with pytest.raises(WorkflowUpdateFailedError) as failed:
            await handle.execute_update(Basket.fail, "no")
        assert isinstance(failed.value.cause, ApplicationError) and failed.value.cause.type == "Refused"
        assert await handle.execute_update("whatever", "z", result_type=str) == "whatever"
        assert await handle.query(Basket.count) == 2
        assert await handle.execute_update(Basket.finish_with, "z") == 3
        assert await handle.result() == ["x", "<<y>>", "z"]
    await replayed(handle)


@pytest.mark.parametrize("cached", [100, 0])
async def test_rejections_leave_no_trace(client: Client, cached: int) -> None:
    async with worker(client, max_cached_workflows=cached):
        handle = await begin(client)
        await handle.execute_update(Basket.add, "x")
        before = await names(handle)
        for item, kind in (("", "Nameless"), ("bad", "ValueError")) * 3:
            with pytest.raises(WorkflowUpdateFailedError) as refused:
                await handle.execute_update(Basket.add, item)
            assert isinstance(refused.value.cause, ApplicationError) and refused.value.cause.type == kind
        assert await names(handle) == before
        assert await handle.query(Basket.count) == 1
        assert await handle.execute_update(Basket.add, "y") == 2
        await handle.signal(Basket.finish)
        assert await handle.result() == ["x", "y"]
    await replayed(handle)


async def test_rejections_and_acceptances_between_signals(client: Client) -> None:
    """Many updates and signals at once: the worker's cache stays right whatever tasks are forgotten."""
    async with worker(client):
        handle = await begin(client)

        async def add(number: int) -> int:
            try:
                return bool(await handle.execute_update(Basket.add, "" if number % 3 else f"{number}"))
            except WorkflowUpdateFailedError:
                return 0

        for _ in range(10):
            found = await asyncio.gather(*(add(number) for number in range(9)), handle.signal(Basket.gate))
            assert sum(each for each in found if each) == 3
        await handle.signal(Basket.finish)
        assert len(await handle.result()) == 30
    await replayed(handle)


async def test_an_update_is_followed_by_its_id(client: Client) -> None:
    async with worker(client):
        handle = await begin(client)
        update = await started(handle, id="mine")
        assert update.workflow_run_id == handle.result_run_id
        again = await started(handle, id="mine")
        other = handle.get_update_handle("mine", result_type=str)
        await handle.signal(Basket.gate)
        assert await asyncio.gather(update.result(), again.result(), other.result()) == ["waited"] * 3
        assert await handle.execute_update(Basket.wait, id="mine") == "waited"
        assert (await names(handle)).count("UPDATE_ACCEPTED") == 1
        await handle.signal(Basket.finish)
        await handle.result()
        assert await client.get_workflow_handle("a").get_update_handle("mine", result_type=str).result() == "waited"
        with pytest.raises(RPCError) as unknown:
            await handle.get_update_handle("other").result()
        assert unknown.value.status is RPCStatusCode.NOT_FOUND
        with pytest.raises(RPCError) as closed:
            await handle.execute_update(Basket.add, "late")
        assert closed.value.status is RPCStatusCode.NOT_FOUND
        assert "workflow execution already completed" in str(closed.value)


async def test_a_worker_that_is_restarted_midway(client: Client) -> None:
    async with worker(client):
        handle = await begin(client)
        update = await started(handle)
        assert await handle.execute_update(Basket.add, "x") == 1
    await handle.signal(Basket.gate)
    late = asyncio.ensure_future(handle.execute_update(Basket.add, "y"))
    async with worker(client):
        assert await update.result() == "waited"
        assert await late == 2
        await handle.signal(Basket.finish)
        assert await handle.result() == ["x", "y"]
    await replayed(handle)


async def is_known(client: Client, update_id: str) -> bool:
    """Whether the server has the update."""
    request = PollWorkflowExecutionUpdateRequest(namespace=client.namespace, wait_policy=WaitPolicy())
    request.update_ref.workflow_execution.workflow_id = "a"
    request.update_ref.update_id = update_id
    try:
        await client.workflow_service.poll_workflow_execution_update(request)
    except RPCError as error:
        assert error.status is RPCStatusCode.NOT_FOUND
        return False
    return True


async def test_updates_wait_for_a_worker(client: Client) -> None:
    handle = await begin(client)
    waiting = [asyncio.ensure_future(handle.execute_update(Basket.add, f"{number}")) for number in range(5)]
    patience = timedelta(milliseconds=100)
    while not await is_known(client, "late"):  # It may not have come to the server in time.
        with pytest.raises(WorkflowUpdateRPCTimeoutOrCancelledError):
            await handle.execute_update(Basket.add, "late", id="late", rpc_timeout=patience)
        patience *= 2
    cancelled = asyncio.ensure_future(handle.execute_update(Basket.add, "gone", id="gone"))
    await asyncio.wait((cancelled,), timeout=0.05)
    cancelled.cancel()
    with pytest.raises(WorkflowUpdateRPCTimeoutOrCancelledError):
        await cancelled
    async with worker(client):
        late = handle.get_update_handle("late", result_type=int)
        numbers = await asyncio.gather(*waiting, late.result())
        gone = await handle.execute_update(Basket.add, "gone", id="gone")
        assert sorted([*numbers, gone]) == [1, 2, 3, 4, 5, 6, 7]
        await handle.signal(Basket.finish)
        assert len(await handle.result()) == 7


async def test_an_unfinished_handler_fails_with_its_workflow(client: Client) -> None:
    async with worker(client):
        handle = await begin(client)
        update = await started(handle)
        await handle.signal(Basket.finish)
        await handle.result()
        with pytest.raises(WorkflowUpdateFailedError) as failed:
            await update.result()
        assert isinstance(failed.value.cause, ApplicationError)
        assert failed.value.cause.type == "AcceptedUpdateCompletedWorkflow"


async def test_updates_go_on_with_the_next_run(client: Client) -> None:
    """A run that waits for its handlers, then continues as new, while further updates come in."""
    async with worker(client):
        handle = await begin(client)
        first = handle.result_run_id
        waiting = await started(handle)
        await handle.signal(Basket.go_on)
        await handle.signal(Basket.gate)
        chain = client.get_workflow_handle_for(Basket.run, "a")
        results = await asyncio.gather(*(chain.execute_update(Basket.add, f"{number}") for number in range(5)))
        assert len(results) == 5
        assert await waiting.result() == "waited"
        described = await chain.describe()
        assert described.run_id != first and described.status is WorkflowExecutionStatus.RUNNING
        await chain.signal(Basket.finish)
        assert sorted(await chain.result()) == ["0", "1", "2", "3", "4", "again"]


def with_start(
    workflow_id: str = "a", policy: WorkflowIDConflictPolicy = WorkflowIDConflictPolicy.FAIL, **options: Any
) -> WithStartWorkflowOperation[Any, Any]:
    return WithStartWorkflowOperation(
        Basket.run, id=workflow_id, task_queue=QUEUE, id_conflict_policy=policy, **options
    )


async def test_update_with_start(client: Client) -> None:
    async with worker(client):
        start = with_start()
        assert await client.execute_update_with_start_workflow(Basket.add, "x", start_workflow_operation=start) == 1
        handle = await start.workflow_handle()
        using = with_start(policy=WorkflowIDConflictPolicy.USE_EXISTING)
        update = await client.start_update_with_start_workflow(
            Basket.add_labelled,
            "y",
            wait_for_stage=WorkflowUpdateStage.ACCEPTED,
            start_workflow_operation=using,
        )
        assert await update.result() == "<<y>>"
        assert (await using.workflow_handle()).result_run_id == handle.result_run_id
        with pytest.raises(WorkflowAlreadyStartedError):
            failing = with_start()
            await client.execute_update_with_start_workflow(Basket.add, "z", start_workflow_operation=failing)
        with pytest.raises(WorkflowAlreadyStartedError):
            await failing.workflow_handle()
        with pytest.raises(WorkflowUpdateFailedError):
            rejected = with_start(policy=WorkflowIDConflictPolicy.USE_EXISTING)
            await client.execute_update_with_start_workflow(Basket.add, "", start_workflow_operation=rejected)
        replacing = with_start(policy=WorkflowIDConflictPolicy.TERMINATE_EXISTING)
        assert await client.execute_update_with_start_workflow(Basket.add, "n", start_workflow_operation=replacing) == 1
        new = await replacing.workflow_handle()
        assert new.result_run_id != handle.result_run_id
        old = client.get_workflow_handle("a", run_id=handle.result_run_id)
        assert (await old.describe()).status is WorkflowExecutionStatus.TERMINATED
        await new.signal(Basket.finish)
        assert await new.result() == ["n"]
        with pytest.raises(WorkflowAlreadyStartedError):
            unique = with_start(id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE)
            await client.execute_update_with_start_workflow(Basket.add, "z", start_workflow_operation=unique)


async def test_ten_updates_are_in_flight_at_most(client: Client) -> None:
    async with worker(client):
        handle = await begin(client)
        updates = await asyncio.gather(*(started(handle) for _ in range(10)))
        eleventh = asyncio.ensure_future(handle.execute_update(Basket.add, "x"))
        await asyncio.wait((eleventh,), timeout=0.1)
        assert not eleventh.done()
        await handle.signal(Basket.gate)
        assert await asyncio.gather(*(update.result() for update in updates)) == ["waited"] * 10
        assert await eleventh == 1
        await handle.signal(Basket.finish)


async def test_a_server_that_is_killed_midway(spawn_server: Spawn) -> None:
    arguments = ("start", "--db", "updates.db", "--address")
    serving = await spawn_server(*arguments, f"127.0.0.1:{free_port()}")
    client = await Client.connect(serving.address)
    async with worker(client):
        handle = await begin(client)
        assert await handle.execute_update(Basket.add, "x") == 1
        update = await started(handle)
        with pytest.raises(WorkflowUpdateFailedError):
            await handle.execute_update(Basket.add, "")
        await serving.kill()
        await spawn_server(*arguments, serving.address)
        await handle.signal(Basket.gate)
        assert await update.result() == "waited"
        assert await handle.execute_update(Basket.add, "y") == 2
        await handle.signal(Basket.finish)
        assert await handle.result() == ["x", "y"]
    await replayed(handle)
    assert (await names(handle)).count("UPDATE_ACCEPTED") == 3


async def test_runs_that_the_worker_has_forgotten(client: Client) -> None:
    """A cache of one run: most tasks find it gone, also those that are forgotten in the end."""
    async with worker(client, max_cached_workflows=1, max_concurrent_workflow_tasks=2):
        handles = [await begin(client, f"w{number}") for number in range(4)]

        async def update(handle: Handle, item: str) -> int:
            try:
                return await handle.execute_update(Basket.add, item)
            except WorkflowUpdateFailedError:
                return 0

        for lap in range(1, 6):
            found = await asyncio.gather(
                *(update(handle, item) for handle in handles for item in ("", f"{lap}", "bad"))
            )
            assert found == [0, lap, 0] * 4
        for handle in handles:
            await handle.signal(Basket.finish)
            assert await handle.result() == ["1", "2", "3", "4", "5"]
            await replayed(handle)


async def test_a_reset_takes_updates_over(client: Client) -> None:
    async with worker(client):
        handle = await begin(client)
        assert await handle.execute_update(Basket.add, "x", id="x") == 1
        assert await handle.execute_update(Basket.add_labelled, "y", id="y") == "<<y>>"
        response = await client.workflow_service.reset_workflow_execution(
            ResetWorkflowExecutionRequest(
                namespace=client.namespace,
                workflow_execution=WorkflowExecution(workflow_id="a", run_id=handle.result_run_id or ""),
                workflow_task_finish_event_id=3,
                reason="again",
                request_id="again",
            )
        )
        again = client.get_workflow_handle_for(Basket.run, "a", run_id=response.run_id)
        assert await again.get_update_handle("y", result_type=str).result() == "<<y>>"
        assert await again.execute_update(Basket.add, "z") == 3
        await again.signal(Basket.finish)
        assert await again.result() == ["x", "<<y>>", "z"]
        found = await names(again)
        assert (found.count("UPDATE_ADMITTED"), found.count("UPDATE_COMPLETED")) == (2, 3)
    await replayed(again)


async def test_updates_while_the_workflow_ends(client: Client) -> None:
    """Each is answered, or refused as too late; none is left hanging, and the workflow ends."""
    async with worker(client):
        for lap in range(10):
            handle = await begin(client, f"w{lap}")

            async def update(handle: Handle, number: int) -> str:
                try:
                    await handle.execute_update(Basket.add, f"{number}")
                except RPCError as error:
                    assert error.status is RPCStatusCode.NOT_FOUND, error
                    return ""
                return f"{number}"

            early = [asyncio.ensure_future(update(handle, number)) for number in range(5)]
            ending = asyncio.ensure_future(handle.signal(Basket.finish))
            late = [asyncio.ensure_future(update(handle, number)) for number in range(5, 10)]
            found = await asyncio.gather(*early, *late)
            await ending
            assert sorted(each for each in found if each) == sorted(await handle.result())
            await replayed(handle)
