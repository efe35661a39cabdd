"""A first life: an unmodified client and worker run a workflow on our server."""

from __future__ import annotations

from datetime import timedelta

import pytest
from temporalio import activity, workflow
from temporalio.client import Client, WorkflowFailureError
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from tests.interop.conftest import Spawn

QUEUE = "smoke"


@activity.defn
async def greet(name: str) -> str:
    return f"hello {name}"


@workflow.defn
class Greeting:
    def __init__(self) -> None:
        self.names: list[str] = []

    @workflow.run
    async def run(self, count: int) -> list[str]:
        await workflow.wait_condition(lambda: len(self.names) >= count)
        return [
            await workflow.execute_activity(greet, name, start_to_close_timeout=timedelta(seconds=10))
            for name in self.names
        ]

    @workflow.signal
    def name(self, name: str) -> None:
        self.names.append(name)

    @workflow.query
    def count(self) -> int:
        return len(self.names)


def worker(client: Client) -> Worker:
    return Worker(
        client,
        task_queue=QUEUE,
        workflows=[Greeting],
        activities=[greet],
        workflow_runner=UnsandboxedWorkflowRunner(),
    )


async def greeted(client: Client, workflow_id: str) -> list[str]:
    handle = await client.start_workflow(Greeting.run, 2, id=workflow_id, task_queue=QUEUE)
    await handle.signal(Greeting.name, "Ada")
    assert await handle.query(Greeting.count) == 1
    await handle.signal(Greeting.name, "Grace")
    return await handle.result()


async def test_a_workflow_with_activity_signal_and_query(client: Client) -> None:
    async with worker(client):
        assert await greeted(client, "a") == ["hello Ada", "hello Grace"]
        described = await client.get_workflow_handle("a").describe()
        assert described.status is not None and described.status.name == "COMPLETED"


async def test_refusals_keep_their_details(client: Client) -> None:
    await client.start_workflow(Greeting.run, 1, id="a", task_queue=QUEUE)
    with pytest.raises(WorkflowAlreadyStartedError):
        await client.start_workflow(
            Greeting.run, 1, id="a", task_queue=QUEUE, id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE
        )
    with pytest.raises(RPCError) as refused:
        await client.get_workflow_handle("b").describe()
    assert refused.value.status is RPCStatusCode.NOT_FOUND
    await client.get_workflow_handle("a").terminate()
    with pytest.raises(WorkflowFailureError):
        await client.get_workflow_handle("a").result()


async def test_a_process_that_is_killed_goes_on(spawn_server: Spawn) -> None:
    serving = await spawn_server("start", "--db", "smoke.db", "--address", "127.0.0.1:0")
    client = await Client.connect(serving.address)
    handle = await client.start_workflow(Greeting.run, 1, id="a", task_queue=QUEUE)
    await serving.kill()
    serving = await spawn_server("start", "--db", "smoke.db", "--address", "127.0.0.1:0")
    client = await Client.connect(serving.address)
    handle = client.get_workflow_handle_for(Greeting.run, "a", run_id=handle.result_run_id)
    async with worker(client):
        await handle.signal(Greeting.name, "Ada")
        assert await handle.result() == ["hello Ada"]
    assert await serving.terminate() == 0
