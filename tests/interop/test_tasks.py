"""How tasks reach an unmodified worker: eagerly, again after a failure, and not at all when it leaves."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowHistory
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from perdure.server import Server

QUEUE = "tasks"


@activity.defn
async def greet(name: str) -> str:
    return f"hello {name}"


@workflow.defn
class Greetings:
    @workflow.run
    async def run(self, names: list[str]) -> list[str]:
        calls = [workflow.execute_activity(greet, name, start_to_close_timeout=timedelta(seconds=30)) for name in names]
        return list(await asyncio.gather(*calls))


def worker(client: Client, **options: object) -> Worker:
    settings = {
        "task_queue": QUEUE,
        "workflows": [Greetings],
        "activities": [greet],
        "workflow_runner": UnsandboxedWorkflowRunner(),
        **options,
    }
    return Worker(client, **settings)  # type: ignore[arg-type]


def count(history: WorkflowHistory, kind: EventType.ValueType) -> int:
    return sum(event.event_type == kind for event in history.events)


async def test_a_workflow_starts_eagerly(client: Client, server: Server) -> None:
    async with worker(client):
        handle = await client.start_workflow(Greetings.run, ["Ada"], id="a", task_queue=QUEUE, request_eager_start=True)
        assert await handle.result() == ["hello Ada"]
        started = (await handle.fetch_history()).events[0].workflow_execution_started_event_attributes
        assert started.eager_execution_accepted


async def test_activities_start_eagerly(client: Client) -> None:
    """No activity poller is needed for those that come with the completion."""
    async with worker(client, disable_eager_activity_execution=False, max_concurrent_activities=10):
        names = [str(number) for number in range(25)]
        result = await client.execute_workflow(Greetings.run, names, id="a", task_queue=QUEUE)
        assert result == [f"hello {name}" for name in names]
    async with worker(client, disable_eager_activity_execution=True):
        assert len(await client.execute_workflow(Greetings.run, names, id="b", task_queue=QUEUE)) == 25
