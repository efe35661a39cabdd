"""What operators do to workflows of an unmodified worker: resets, batches, deletion, options, activities; and cron."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from temporalio import activity, workflow
from temporalio.api.activity.v1 import ActivityOptions
from temporalio.api.batch.v1 import BatchOperationReset, BatchOperationSignal, BatchOperationTermination
from temporalio.api.common.v1 import Priority, ResetOptions, WorkflowExecution
from temporalio.api.enums.v1 import BatchOperationState, PendingActivityState
from temporalio.api.enums.v1 import WorkflowExecutionStatus as RawStatus
from temporalio.api.workflow.v1 import PendingActivityInfo, WorkflowExecutionOptions
from temporalio.api.workflowservice.v1 import (
    DeleteWorkflowExecutionRequest,
    DescribeBatchOperationRequest,
    DescribeBatchOperationResponse,
    DescribeWorkflowExecutionRequest,
    ListBatchOperationsRequest,
    PauseActivityRequest,
    PauseWorkflowExecutionRequest,
    ResetActivityRequest,
    ResetWorkflowExecutionRequest,
    StartBatchOperationRequest,
    StopBatchOperationRequest,
    UnpauseActivityRequest,
    UnpauseWorkflowExecutionRequest,
    UpdateActivityOptionsRequest,
    UpdateWorkflowExecutionOptionsRequest,
)
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.common import RetryPolicy
from temporalio.exceptions import CancelledError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner, Worker

from tests.interop.conftest import Spawn

QUEUE = "operations"
LONG = timedelta(seconds=60)
SOON = timedelta(milliseconds=50)
NAMESPACE = "default"
TRIES_S = 60.0


class Ground:
    """What activities find outside."""

    def __init__(self) -> None:
        self.broken = True
        self.beats = 0
        self.paused = asyncio.Event()
        self.reset = asyncio.Event()
        self.gate = asyncio.Event()


GROUND = Ground()


@pytest.fixture(autouse=True)
def ground() -> Ground:
    GROUND.__init__()
    return GROUND


@activity.defn
async def build(part: str) -> str:
    return f"broken {part}" if GROUND.broken else f"good {part}"


@activity.defn
async def watch() -> str:
    """Beats until the gate opens; notes why it is told to stop."""
    try:
        while not GROUND.gate.is_set():
            activity.heartbeat(activity.info().attempt)
            with suppress(TimeoutError):
                await asyncio.wait_for(GROUND.gate.wait(), 0.05)
    except (asyncio.CancelledError, CancelledError):
        details = activity.cancellation_details()
        if details is not None and details.paused:
            GROUND.paused.set()
        if details is not None and details.reset:
            GROUND.reset.set()
        raise
    return f"seen in attempt {activity.info().attempt}"


@workflow.defn
class Assembly:
    """Builds a part, takes notes until it is told to end, draws a number at the beginning and one at the end."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.over = False

    @workflow.run
    async def run(self) -> list[str]:
        drawn = str(workflow.uuid4())
        part = await workflow.execute_activity(build, "wheel", start_to_close_timeout=LONG)
        await workflow.wait_condition(lambda: self.over and workflow.all_handlers_finished())
        return [drawn, part, str(workflow.uuid4()), *self.notes]

    @workflow.signal
    def note(self, text: str) -> None:
        self.notes.append(text)

    @workflow.update
    async def ask(self, text: str) -> str:
        self.notes.append(f"{text}?")
        return await workflow.execute_activity(build, text, start_to_close_timeout=LONG)

    @workflow.signal
    def end(self) -> None:
        self.over = True


@workflow.defn
class Watches:
    @workflow.run
    async def run(self) -> str:
        return await workflow.execute_activity(
            watch,
            start_to_close_timeout=LONG,
            heartbeat_timeout=timedelta(seconds=10),
            retry_policy=RetryPolicy(initial_interval=SOON),
        )


@workflow.defn
class Ticks:
    @workflow.run
    async def run(self) -> int:
        last = workflow.get_last_completion_result(int) if workflow.has_last_completion_result() else 0
        return (last or 0) + 1


@workflow.defn
class Mother:
    @workflow.run
    async def run(self) -> list[str]:
        child = await workflow.start_child_workflow(Assembly.run, id="child")
        await workflow.execute_activity(build, "nest", start_to_close_timeout=LONG)
        return await child


WORKFLOWS = [Assembly, Watches, Ticks, Mother]


def worker(client: Client, **options: Any) -> Worker:
    return Worker(
        client,
        task_queue=QUEUE,
        workflows=WORKFLOWS,
        activities=[build, watch],
        workflow_runner=UnsandboxedWorkflowRunner(),
        default_heartbeat_throttle_interval=SOON,
        max_heartbeat_throttle_interval=SOON,
        **options,
    )


async def until(condition: Any) -> Any:
    """What an async function returns, as soon as it is true."""
    clock = asyncio.get_running_loop()
    end_s = clock.time() + TRIES_S
    while clock.time() < end_s:
        found = await condition()
        if found:
            return found
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 0.02)
    raise AssertionError("it did not come about")


async def kinds(handle: WorkflowHandle[Any, Any]) -> list[str]:
    """Which attributes the events of a history carry, shortened."""
    history = await handle.fetch_history()
    return [str(event.WhichOneof("attributes")).removesuffix("_event_attributes") for event in history.events]


async def replays(handle: WorkflowHandle[Any, Any]) -> None:
    """Their replayer takes the history."""
    replayer = Replayer(workflows=WORKFLOWS, workflow_runner=UnsandboxedWorkflowRunner())
    await replayer.replay_workflow(await handle.fetch_history())


async def reset(client: Client, workflow_id: str, event_id: int, **fields: Any) -> WorkflowHandle[Any, Any]:
    request = ResetWorkflowExecutionRequest(
        namespace=NAMESPACE,
        workflow_execution=WorkflowExecution(workflow_id=workflow_id),
        reason="try again",
        workflow_task_finish_event_id=event_id,
        request_id=f"reset {workflow_id}",
        **fields,
    )
    response = await client.workflow_service.reset_workflow_execution(request)
    return client.get_workflow_handle(workflow_id, run_id=response.run_id)


# -- cron


async def test_cron_runs_follow_each_other(client: Client) -> None:
    async with worker(client):
        handle = await client.start_workflow(Ticks.run, id="cron", task_queue=QUEUE, cron_schedule="@every 1s")

        async def third() -> bool:
            found = [each async for each in client.list_workflows("WorkflowId = 'cron'")]
            return sum(each.status == WorkflowExecutionStatus.COMPLETED for each in found) >= 3

        await until(third)
        current = client.get_workflow_handle("cron")
        started = (await current.fetch_history()).events[0].workflow_execution_started_event_attributes
        assert started.cron_schedule == "@every 1s" and started.first_execution_run_id == handle.first_execution_run_id
        await current.terminate()
        with pytest.raises(WorkflowFailureError):
            await current.result()
    runs = sorted(
        [each async for each in client.list_workflows("WorkflowId = 'cron'")], key=lambda each: each.start_time
    )
    results = [
        await client.get_workflow_handle("cron", run_id=each.run_id, result_type=int).result(follow_runs=False)
        for each in runs
        if each.status == WorkflowExecutionStatus.COMPLETED
    ]
    assert results == list(range(1, len(results) + 1))


async def test_a_bad_cron_schedule_is_refused(client: Client) -> None:
    with pytest.raises(RPCError) as refused:
        await client.start_workflow(Ticks.run, id="cron", task_queue=QUEUE, cron_schedule="every now and then")
    assert refused.value.status is RPCStatusCode.INVALID_ARGUMENT


# -- resets


async def test_a_workflow_is_taken_up_at_its_first_task(client: Client) -> None:
    async with worker(client):
        handle = await client.start_workflow(Assembly.run, id="a", task_queue=QUEUE)
        await handle.signal(Assembly.note, "one")
        assert await handle.execute_update(Assembly.ask, "spoke") == "broken spoke"
        await handle.signal(Assembly.end)
        before = await handle.result()
        assert before[1] == "broken wheel"
        first = (await kinds(handle)).index("workflow_task_completed") + 1
        GROUND.broken = False
        again = await reset(client, "a", first)
        after = await again.result()
        assert after[0] != before[0] and after[1:2] == ["good wheel"] and after[2] != before[2]
        assert sorted(after[3:]) == sorted(before[3:])
        assert (
            await again.get_update_handle(  # It was asked for again.
                await update_id(handle), result_type=str
            ).result()
            == "good spoke"
        )
        names = await kinds(again)
        assert "workflow_execution_update_admitted" in names
        await replays(again)
        assert (await client.get_workflow_handle("a").describe()).run_id == again.run_id


async def update_id(handle: WorkflowHandle[Any, Any]) -> str:
    """Of the first update in a history."""
    for event in (await handle.fetch_history()).events:
        if event.HasField("workflow_execution_update_accepted_event_attributes"):
            return event.workflow_execution_update_accepted_event_attributes.accepted_request.meta.update_id
    raise LookupError


async def test_what_was_done_before_the_point_stays_done(client: Client) -> None:
    async with worker(client, max_cached_workflows=0):
        handle = await client.start_workflow(Assembly.run, id="a", task_queue=QUEUE)
        await handle.signal(Assembly.end)
        before = await handle.result()
        tasks = [at + 1 for at, name in enumerate(await kinds(handle)) if name == "workflow_task_completed"]
        again = await reset(client, "a", tasks[-1])
        after = await again.result()
        assert after[:2] == before[:2] and after[2] != before[2]
        await replays(again)


async def test_a_child_outlives_the_reset_of_its_parent(client: Client) -> None:
    async with worker(client):
        handle = await client.start_workflow(Mother.run, id="mother", task_queue=QUEUE)
        built = "activity_task_completed"

        async def has_built() -> bool:
            names = await kinds(handle)
            return built in names and "workflow_task_completed" in names[names.index(built) :]

        await until(has_built)
        names = await kinds(handle)
        point = names.index("workflow_task_completed", names.index(built)) + 1
        again = await reset(client, "mother", point)
        child = client.get_workflow_handle("child")
        assert (await child.describe()).status == WorkflowExecutionStatus.RUNNING
        await child.signal(Assembly.end)
        assert (await again.result())[1] == "broken wheel"
        await replays(again)


async def test_a_point_that_is_none_is_refused(client: Client) -> None:
    await client.start_workflow(Assembly.run, id="a", task_queue=QUEUE)
    for event_id in (0, 1, 2, 3, 99):
        with pytest.raises(RPCError) as refused:
            await reset(client, "a", event_id)
        assert refused.value.status is RPCStatusCode.INVALID_ARGUMENT


# -- batches


async def batch(client: Client, job_id: str, **fields: Any) -> DescribeBatchOperationResponse:
    """Start a job and wait for its end."""
    await client.workflow_service.start_batch_operation(
        StartBatchOperationRequest(namespace=NAMESPACE, job_id=job_id, reason="in bulk", **fields)
    )

    async def ended() -> DescribeBatchOperationResponse | None:
        found = await client.workflow_service.describe_batch_operation(
            DescribeBatchOperationRequest(namespace=NAMESPACE, job_id=job_id)
        )
        return found if found.state != BatchOperationState.BATCH_OPERATION_STATE_RUNNING else None

    return await until(ended)


async def test_batches_signal_reset_and_terminate(client: Client) -> None:
    ids = [f"a-{number}" for number in range(5)]
    async with worker(client):
        handles = [await client.start_workflow(Assembly.run, id=each, task_queue=QUEUE) for each in ids]
        executions = [WorkflowExecution(workflow_id=each) for each in ids]
        found = await batch(client, "end", executions=executions, signal_operation=BatchOperationSignal(signal="end"))
        assert (found.total_operation_count, found.complete_operation_count, found.failure_operation_count) == (5, 5, 0)
        for handle in handles:
            assert (await handle.result())[1] == "broken wheel"
        GROUND.broken = False
        operation = BatchOperationReset(options=ResetOptions(first_workflow_task={}))  # type: ignore[arg-type]
        found = await batch(client, "back", visibility_query="WorkflowType = 'Assembly'", reset_operation=operation)
        assert found.complete_operation_count == 5
        for each in ids:
            assert (await client.get_workflow_handle(each).result())[1] == "good wheel"
    await client.start_workflow(Assembly.run, id="left", task_queue=QUEUE)
    query = "ExecutionStatus = 'Running'"
    found = await batch(client, "off", visibility_query=query, termination_operation=BatchOperationTermination())
    assert found.complete_operation_count == 1
    left = client.get_workflow_handle("left")
    assert (await left.describe()).status == WorkflowExecutionStatus.TERMINATED
    jobs = await client.workflow_service.list_batch_operations(ListBatchOperationsRequest(namespace=NAMESPACE))
    assert [info.job_id for info in jobs.operation_info] == ["off", "back", "end"]
    with pytest.raises(RPCError) as refused:
        await batch(client, "off", visibility_query=query, termination_operation=BatchOperationTermination())
    assert refused.value.status is RPCStatusCode.ALREADY_EXISTS


async def test_a_batch_is_stopped(client: Client) -> None:
    for number in range(3):
        await client.start_workflow(Assembly.run, id=f"a-{number}", task_queue=QUEUE)
    await client.workflow_service.start_batch_operation(
        StartBatchOperationRequest(
            namespace=NAMESPACE,
            job_id="slow",
            reason="in bulk",
            visibility_query="WorkflowType = 'Assembly'",
            max_operations_per_second=0.01,
            termination_operation=BatchOperationTermination(),
        )
    )
    await client.workflow_service.stop_batch_operation(
        StopBatchOperationRequest(namespace=NAMESPACE, job_id="slow", reason="enough", identity="me")
    )
    found = await client.workflow_service.describe_batch_operation(
        DescribeBatchOperationRequest(namespace=NAMESPACE, job_id="slow")
    )
    assert found.state == BatchOperationState.BATCH_OPERATION_STATE_FAILED and found.reason == "enough"
    assert found.complete_operation_count <= 1


async def test_a_batch_outlives_a_kill(spawn_server: Spawn) -> None:
    """Killed half-way and started again, it goes on; no workflow is served twice."""
    count = 30
    server = await spawn_server("start", "--db", "batch.db", "--address", "127.0.0.1:0")
    client = await Client.connect(server.address)
    ids = [f"a-{number}" for number in range(count)]
    for each in ids:
        await client.start_workflow(Assembly.run, id=each, task_queue=QUEUE)
    await client.workflow_service.start_batch_operation(
        StartBatchOperationRequest(
            namespace=NAMESPACE,
            job_id="notes",
            reason="in bulk",
            visibility_query="ExecutionStatus = 'Running'",
            max_operations_per_second=10,
            signal_operation=BatchOperationSignal(signal="note"),
        )
    )
    described = DescribeBatchOperationRequest(namespace=NAMESPACE, job_id="notes")

    async def served() -> int:
        found = await client.workflow_service.describe_batch_operation(described)
        return found.complete_operation_count

    assert await until(served) < count, "it takes three seconds"
    await server.kill()
    server = await spawn_server("start", "--db", "batch.db", "--address", "127.0.0.1:0")
    client = await Client.connect(server.address)

    async def ended() -> DescribeBatchOperationResponse | None:
        found = await client.workflow_service.describe_batch_operation(described)
        return found if found.state == BatchOperationState.BATCH_OPERATION_STATE_COMPLETED else None

    assert (await until(ended)).complete_operation_count == count
    for each in ids:
        names = await kinds(client.get_workflow_handle(each))
        assert names.count("workflow_execution_signaled") == 1


# -- deletion and options


async def test_workflows_are_deleted(client: Client) -> None:
    handle = await client.start_workflow(Assembly.run, id="a", task_queue=QUEUE)
    request = DeleteWorkflowExecutionRequest(
        namespace=NAMESPACE, workflow_execution=WorkflowExecution(workflow_id="a", run_id=handle.result_run_id or "")
    )
    await client.workflow_service.delete_workflow_execution(request)

    async def gone() -> bool:
        try:
            await handle.describe()
        except RPCError as error:
            return error.status is RPCStatusCode.NOT_FOUND
        return False

    await until(gone)
    assert [each async for each in client.list_workflows()] == []


async def test_options_change(client: Client) -> None:
    handle = await client.start_workflow(Assembly.run, id="a", task_queue=QUEUE)
    response = await client.workflow_service.update_workflow_execution_options(
        UpdateWorkflowExecutionOptionsRequest(
            namespace=NAMESPACE,
            workflow_execution=WorkflowExecution(workflow_id="a"),
            workflow_execution_options=WorkflowExecutionOptions(priority=Priority(priority_key=1)),
            update_mask=FieldMask(paths=["priority"]),
        )
    )
    assert response.workflow_execution_options.priority.priority_key == 1
    async with worker(client):
        await handle.signal(Assembly.end)
        await handle.result()
        await replays(handle)


async def test_a_workflow_is_paused_and_goes_on(client: Client) -> None:
    """What a worker holds is finished, what comes is kept, and nothing is handed out until it goes on."""
    async with worker(client):
        handle = await client.start_workflow(Assembly.run, id="a", task_queue=QUEUE)

        async def rests() -> bool:
            names = await kinds(handle)
            return "activity_task_completed" in names and names[-1] == "workflow_task_completed"

        await until(rests)
        await client.workflow_service.pause_workflow_execution(
            PauseWorkflowExecutionRequest(
                namespace=NAMESPACE, workflow_id="a", identity="me", reason="why", request_id="pause"
            )
        )
        # Its own class of descriptions does not know this status.
        described = await client.workflow_service.describe_workflow_execution(
            DescribeWorkflowExecutionRequest(namespace=NAMESPACE, execution=WorkflowExecution(workflow_id="a"))
        )
        assert described.workflow_execution_info.status == RawStatus.WORKFLOW_EXECUTION_STATUS_PAUSED
        assert described.workflow_extended_info.pause_info.reason == "why"
        with pytest.raises(RPCError) as refused:
            await handle.execute_update(Assembly.ask, "spoke")
        assert refused.value.status is RPCStatusCode.FAILED_PRECONDITION
        before = (await kinds(handle)).count("workflow_task_started")
        await handle.signal(Assembly.note, "while paused")
        await handle.signal(Assembly.end)
        # Another workflow gets through the same queue: the one that is paused had its chance.
        other = await client.start_workflow(Assembly.run, id="b", task_queue=QUEUE)
        await other.signal(Assembly.end)
        await other.result()
        assert (await kinds(handle)).count("workflow_task_started") == before
        await client.workflow_service.unpause_workflow_execution(
            UnpauseWorkflowExecutionRequest(namespace=NAMESPACE, workflow_id="a", identity="me", request_id="on")
        )
        assert (await handle.result())[3:] == ["while paused"]
        await replays(handle)


# -- activities


async def pending(handle: WorkflowHandle[Any, Any]) -> PendingActivityInfo | None:
    found = (await handle.describe()).raw_description.pending_activities
    return found[0] if found else None


async def beats(handle: WorkflowHandle[Any, Any]) -> bool:
    info = await pending(handle)
    return info is not None and info.HasField("last_heartbeat_time")


async def test_an_activity_is_paused_and_goes_on(client: Client) -> None:
    async with worker(client):
        handle = await client.start_workflow(Watches.run, id="w", task_queue=QUEUE)
        await until(lambda: beats(handle))
        execution = WorkflowExecution(workflow_id="w")
        await client.workflow_service.pause_activity(
            PauseActivityRequest(namespace=NAMESPACE, execution=execution, type="watch", reason="why", identity="me")
        )
        await asyncio.wait_for(GROUND.paused.wait(), TRIES_S)

        async def is_paused() -> bool:
            info = await pending(handle)
            return info is not None and info.state == PendingActivityState.PENDING_ACTIVITY_STATE_PAUSED

        await until(is_paused)
        info = await pending(handle)
        assert info is not None and info.paused and info.pause_info.manual.reason == "why"
        GROUND.gate.set()
        await client.workflow_service.unpause_activity(
            UnpauseActivityRequest(namespace=NAMESPACE, execution=execution, id=info.activity_id, reset_attempts=True)
        )
        assert await handle.result() == "seen in attempt 1"
        await replays(handle)


async def test_an_activity_is_reset(client: Client) -> None:
    async with worker(client):
        handle = await client.start_workflow(Watches.run, id="w", task_queue=QUEUE)
        await until(lambda: beats(handle))
        await client.workflow_service.reset_activity(
            ResetActivityRequest(namespace=NAMESPACE, execution=WorkflowExecution(workflow_id="w"), type="watch")
        )
        await asyncio.wait_for(GROUND.reset.wait(), TRIES_S)
        GROUND.gate.set()
        assert await handle.result() == "seen in attempt 1"


async def test_an_activity_gets_other_options(client: Client) -> None:
    handle = await client.start_workflow(Watches.run, id="w", task_queue=QUEUE)
    async with worker(client, no_remote_activities=True):
        await until(lambda: pending(handle))
    response = await client.workflow_service.update_activity_options(
        UpdateActivityOptionsRequest(
            namespace=NAMESPACE,
            execution=WorkflowExecution(workflow_id="w"),
            type="watch",
            activity_options=ActivityOptions(start_to_close_timeout=Duration(seconds=33)),
            update_mask=FieldMask(paths=["start_to_close_timeout"]),
        )
    )
    assert response.activity_options.start_to_close_timeout.seconds == 33
    GROUND.gate.set()
    async with worker(client):
        assert await handle.result() == "seen in attempt 1"
