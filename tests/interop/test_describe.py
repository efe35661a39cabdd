"""What an unmodified client is told of workflows, task queues and workers."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.api.enums.v1 import EventType, PendingActivityState, TaskQueueType, WorkerStatus
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    DescribeTaskQueueRequest,
    DescribeTaskQueueResponse,
    DescribeWorkerRequest,
    ListWorkersRequest,
)
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.common import Priority, RetryPolicy, WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError
from temporalio.runtime import Runtime, TelemetryConfig
from temporalio.worker import PollerBehaviorAutoscaling, UnsandboxedWorkflowRunner, Worker

from perdure.server import Server

QUEUE = "describe"
LONG = timedelta(minutes=1)


class Gate:
    """Activities that fail once, then wait to be let through."""

    def __init__(self) -> None:
        self.failed = asyncio.Event()
        self.waiting = asyncio.Event()
        self.open = asyncio.Event()

    @activity.defn
    async def pass_gate(self) -> int:
        if activity.info().attempt == 1:
            self.failed.set()
            raise ApplicationError("shut", type="Shut")
        activity.heartbeat("here")
        self.waiting.set()
        await self.open.wait()
        return activity.info().priority.priority_key or 0


@activity.defn
async def work(number: int) -> int:
    return number


@workflow.defn
class Through:
    @workflow.run
    async def run(self) -> int:
        workflow.set_current_details("at the gate")
        return await workflow.execute_activity(
            "pass_gate",
            start_to_close_timeout=LONG,
            heartbeat_timeout=LONG,
            retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=10), maximum_attempts=5),
            summary="the gate",
        )


@workflow.defn
class Many:
    @workflow.run
    async def run(self, count: int) -> int:
        calls = [workflow.execute_activity(work, number, start_to_close_timeout=LONG) for number in range(count)]
        return sum(await asyncio.gather(*calls))


def worker(client: Client, gate: Gate | None = None, **options: object) -> Worker:
    settings = {
        "task_queue": QUEUE,
        "workflows": [Through, Many],
        "activities": [work, *([gate.pass_gate] if gate is not None else [])],
        "workflow_runner": UnsandboxedWorkflowRunner(),
        **options,
    }
    return Worker(client, **settings)  # type: ignore[arg-type]


async def queue(client: Client, kind: TaskQueueType.ValueType, **fields: object) -> DescribeTaskQueueResponse:
    request = DescribeTaskQueueRequest(
        namespace="default",
        task_queue=TaskQueue(name=QUEUE),
        task_queue_type=kind,
        report_stats=True,
        **fields,  # type: ignore[arg-type]
    )
    return await client.workflow_service.describe_task_queue(request)


async def test_a_workflow_in_the_middle_of_things(client: Client) -> None:
    gate = Gate()
    async with worker(client, gate):
        handle = await client.start_workflow(
            Through.run,
            id="t",
            task_queue=QUEUE,
            execution_timeout=timedelta(hours=1),
            static_summary="a summary",
            static_details="details",
            memo={"colour": "red"},
            priority=Priority(priority_key=2, fairness_key="tenant"),
        )
        await gate.waiting.wait()
        described = await handle.describe()
        assert described.status is WorkflowExecutionStatus.RUNNING
        assert await described.static_summary() == "a summary"
        assert await described.static_details() == "details"
        assert await described.memo() == {"colour": "red"}
        raw = described.raw_description
        assert raw.workflow_execution_info.priority.fairness_key == "tenant"
        assert raw.workflow_extended_info.HasField("execution_expiration_time")
        (pending,) = raw.pending_activities
        assert pending.state == PendingActivityState.PENDING_ACTIVITY_STATE_STARTED
        assert (pending.attempt, pending.maximum_attempts) == (2, 5)
        assert pending.last_failure.application_failure_info.type == "Shut"
        assert pending.priority.priority_key == 2
        gate.open.set()
        assert await handle.result() == 2
        events = (await handle.fetch_history()).events
        (scheduled,) = [e for e in events if e.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED]
        assert scheduled.user_metadata.HasField("summary")


async def test_a_start_that_uses_an_existing_run(client: Client) -> None:
    first = await client.start_workflow(Many.run, 1, id="m", task_queue=QUEUE)
    second = await client.start_workflow(
        Many.run, 1, id="m", task_queue=QUEUE, id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING
    )
    assert first.first_execution_run_id == second.first_execution_run_id


async def test_a_task_queue(client: Client) -> None:
    for number in range(3):
        await client.start_workflow(Many.run, 2, id=f"w{number}", task_queue=QUEUE)
    described = await queue(client, TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW)
    assert described.stats.approximate_backlog_count == 3
    assert not described.pollers
    async with worker(client, identity="known"):
        for number in range(3):
            assert await client.get_workflow_handle(f"w{number}").result() == 1
        described = await queue(client, TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW)
        assert described.stats.approximate_backlog_count == 0
        assert [poller.identity for poller in described.pollers] == ["known"]
        described = await queue(client, TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY)
        while not described.pollers:  # Activities may have come with workflow tasks before anybody asked for them.
            described = await queue(client, TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY)
        assert [poller.identity for poller in described.pollers] == ["known"]


async def test_a_worker_that_scales_its_polls(client: Client) -> None:
    behaviour = PollerBehaviorAutoscaling(minimum=1, maximum=20, initial=2)
    async with worker(
        client,
        workflow_task_poller_behavior=behaviour,
        activity_task_poller_behavior=behaviour,
        disable_eager_activity_execution=True,
    ):
        runs = [client.execute_workflow(Many.run, 20, id=f"s{number}", task_queue=QUEUE) for number in range(10)]
        assert await asyncio.gather(*runs) == [190] * 10


async def test_a_queue_lets_activities_go_at_its_workers_rate(client: Client) -> None:
    async with worker(client, max_task_queue_activities_per_second=5.0, disable_eager_activity_execution=True):
        began = asyncio.get_running_loop().time()
        assert await client.execute_workflow(Many.run, 10, id="r", task_queue=QUEUE) == 45
        assert asyncio.get_running_loop().time() - began >= 0.9
        described = await queue(client, TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY)
        assert described.pollers[0].rate_per_second == 5.0


async def test_workers_report_of_themselves(server: Server) -> None:
    runtime = Runtime(telemetry=TelemetryConfig(), worker_heartbeat_interval=timedelta(seconds=1))
    client = await Client.connect(server.address, runtime=runtime)
    request = ListWorkersRequest(namespace="default", query=f"TaskQueue = '{QUEUE}'")
    async with worker(client, identity="reporter"):
        assert await client.execute_workflow(Many.run, 2, id="w", task_queue=QUEUE) == 1
        found = await client.workflow_service.list_workers(request)
        while not found.workers:
            found = await client.workflow_service.list_workers(request)
        (line,) = found.workers
        assert (line.worker_identity, line.sdk_name) == ("reporter", "temporal-python")
        about = DescribeWorkerRequest(namespace="default", worker_instance_key=line.worker_instance_key)
        described = await client.workflow_service.describe_worker(about)
        assert described.worker_info.worker_heartbeat.task_queue == QUEUE
    described = await client.workflow_service.describe_worker(about)
    assert described.worker_info.worker_heartbeat.status == WorkerStatus.WORKER_STATUS_SHUTTING_DOWN
