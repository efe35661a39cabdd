"""Both SDKs at one server: each one's client with the other's worker, and runs that change hands between workers.

The workflows are `twins`: the same source for both SDKs, so that either worker may go on where the other left off.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
import temporalio.activity
import temporalio.client
import temporalio.worker

import perdure
from perdure import activity
from perdure.client import WithStartWorkflowOperation, WorkflowUpdateFailedError, WorkflowUpdateStage
from perdure.common import WorkflowIDConflictPolicy
from perdure.server import Server
from perdure.testing import Replayer
from tests.system import twins
from tests.system.test_official_replayer import THEIRS, failures

QUEUE = "mixed"
OURS = twins.WORKFLOWS
WorkerOf = Callable[[], AbstractAsyncContextManager[None]]


@activity.defn(name="echo")
async def our_echo(text: str) -> str:
    return text


@temporalio.activity.defn(name="echo")
async def their_echo(text: str) -> str:
    return text


@pytest.fixture
async def ours(server: Server) -> AsyncIterator[perdure.Client]:
    async with await perdure.Client.connect(server.address, task_queue=QUEUE) as client:
        yield client


@pytest.fixture
def workers(ours: perdure.Client, client: temporalio.client.Client) -> dict[str, WorkerOf]:
    """``async with workers["ours"]():``, or ``"theirs"``: one is there."""

    @asynccontextmanager
    async def our_worker() -> AsyncIterator[None]:
        async with perdure.Worker(ours, task_queue=QUEUE, workflows=OURS, activities=[our_echo]):
            yield

    @asynccontextmanager
    async def their_worker() -> AsyncIterator[None]:
        async with temporalio.worker.Worker(
            client,
            task_queue=QUEUE,
            workflows=THEIRS,
            activities=[their_echo],
            workflow_runner=temporalio.worker.UnsandboxedWorkflowRunner(),
        ):
            yield

    return {"ours": our_worker, "theirs": their_worker}


async def test_their_client_and_our_worker(client: temporalio.client.Client, workers: dict[str, WorkerOf]) -> None:
    async with workers["ours"]():
        start = temporalio.client.WithStartWorkflowOperation(
            "conversation",
            id="talk",
            task_queue=QUEUE,
            id_conflict_policy=temporalio.common.WorkflowIDConflictPolicy.USE_EXISTING,
        )
        said = await client.execute_update_with_start_workflow("say", "hello", start_workflow_operation=start)
        assert said == "hello?"
        handle: temporalio.client.WorkflowHandle[Any, Any] = await start.workflow_handle()
        with pytest.raises(temporalio.client.WorkflowUpdateFailedError) as rejected:
            await handle.execute_update("say", "nonsense")
        assert "nonsense is not taken" in str(rejected.value.cause)
        with pytest.raises(temporalio.client.WorkflowUpdateFailedError) as failed:
            await handle.execute_update("refuse")
        assert failed.value.cause.type == "No"  # type: ignore[attr-defined]
        await handle.signal("interrupt", "stop")
        assert await handle.execute_update("leave") in {2, 3}, "three, where the echo of the signal was faster"
        assert await handle.result() == ["hello", "hello?", "stop"]
        history = await handle.fetch_history()
    await Replayer(workflows=OURS).replay_workflow(perdure.client.WorkflowHistory("talk", list(history.events)))


async def test_our_client_and_their_worker(ours: perdure.Client, workers: dict[str, WorkerOf]) -> None:
    async with workers["theirs"]():
        start = WithStartWorkflowOperation(
            "conversation", id="talk", id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING
        )
        said = await ours.execute_update_with_start_workflow(
            "say", "hello", start_workflow_operation=start, result_type=str
        )
        assert said == "hello?"
        handle = await start.workflow_handle()
        with pytest.raises(WorkflowUpdateFailedError, match="nonsense is not taken"):
            await handle.execute_update("say", "nonsense")
        with pytest.raises(WorkflowUpdateFailedError, match="no, refuse"):
            await handle.execute_update("refuse")
        update = await handle.start_update("say", "well", wait_for_stage=WorkflowUpdateStage.ACCEPTED)
        assert await update.result() == "well?"
        await handle.signal("interrupt", "stop")
        await handle.execute_update("leave")
        assert await handle.result() == ["hello", "hello?", "stop", "well", "well?"]
        history = await handle.fetch_history()
    assert await failures([history]) == {}
    await Replayer(workflows=OURS).replay_workflow(history)


async def settled(handle: perdure.WorkflowHandle[Any]) -> None:
    """Until no worker has anything of the run in its hands, which it would take with it."""
    described = await handle.describe()
    while described.pending_activities or described.pending_workflow_task is not None:
        described = await handle.describe()


@pytest.mark.parametrize("first", ["ours", "theirs"])
async def test_a_run_changes_hands(ours: perdure.Client, workers: dict[str, WorkerOf], first: str) -> None:
    second = "theirs" if first == "ours" else "ours"
    handle = await ours.start_workflow("conversation", id="talk")
    expected: list[str] = []
    for number, whose in enumerate([first, second, first]):
        async with workers[whose]():
            assert await handle.execute_update("say", f"text {number}") == f"text {number}?"
            with pytest.raises(WorkflowUpdateFailedError):
                await handle.execute_update("say", "nonsense")
            await handle.signal("interrupt", f"mail {number}")
            expected += [f"text {number}", f"text {number}?", f"mail {number}"]
            await settled(handle)
    async with workers[second]():
        await handle.execute_update("leave")
        assert await handle.result() == sorted(expected)
    history = await handle.fetch_history()
    assert await failures([history]) == {}
    await Replayer(workflows=OURS).replay_workflow(history)


async def test_both_serve_one_queue(ours: perdure.Client, workers: dict[str, WorkerOf]) -> None:
    async with workers["ours"](), workers["theirs"]():
        handles = [await ours.start_workflow("conversation", id=f"talk {number}") for number in range(10)]
        said = await asyncio.gather(*(handle.execute_update("say", "hello") for handle in handles))
        assert said == ["hello?"] * 10
        await asyncio.gather(*(handle.execute_update("leave") for handle in handles))
        assert [await handle.result() for handle in handles] == [["hello", "hello?"]] * 10
