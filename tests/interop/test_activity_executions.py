"""Activities without a workflow, by an unmodified client and worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import nexusrpc
import pytest
from nexusrpc.handler import service_handler
from temporalio import activity, nexus, workflow
from temporalio.api.enums.v1 import EventType, IndexedValueType
from temporalio.api.nexus.v1 import EndpointSpec
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, CreateNexusEndpointRequest
from temporalio.client import (
    ActivityExecutionStatus,
    ActivityFailureError,
    Client,
    PendingActivityState,
    WorkflowFailureError,
)
from temporalio.common import (
    ActivityIDConflictPolicy,
    ActivityIDReusePolicy,
    RetryPolicy,
    SearchAttributeKey,
    SearchAttributePair,
    TypedSearchAttributes,
)
from temporalio.exceptions import (
    ActivityAlreadyStartedError,
    ApplicationError,
    CancelledError,
    NexusOperationError,
    TerminatedError,
)
from temporalio.exceptions import TimeoutError as ActivityTimeoutError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

QUEUE = "without"
SOON = timedelta(seconds=20)
ONCE = RetryPolicy(maximum_attempts=1)
COLOUR = SearchAttributeKey.for_keyword("Colour")


@activity.defn
async def greet(name: str) -> str:
    info = activity.info()
    assert not info.in_workflow
    assert info.workflow_id is None
    assert info.activity_run_id
    return f"hello {name} from {info.activity_id}"


@activity.defn
async def nothing() -> None:
    return None


@activity.defn
async def fail_twice() -> int:
    if activity.info().attempt < 3:
        raise ApplicationError("not yet")
    return activity.info().attempt


@activity.defn
async def fail_for_good() -> None:
    raise ApplicationError("broken", "detail", type="Broken", non_retryable=True)


@activity.defn
async def beat() -> str:
    while True:
        activity.heartbeat("alive")
        with suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await asyncio.Event().wait()


@activity.defn
async def hang() -> None:
    await asyncio.Event().wait()


@activity.defn
async def later() -> str:
    activity.raise_complete_async()


@asynccontextmanager
async def worker(client: Client) -> AsyncIterator[Worker]:
    async with Worker(
        client,
        task_queue=QUEUE,
        activities=[greet, nothing, fail_twice, fail_for_good, beat, hang, later],
        graceful_shutdown_timeout=timedelta(0),
        max_heartbeat_throttle_interval=timedelta(milliseconds=50),
        default_heartbeat_throttle_interval=timedelta(milliseconds=50),
    ) as running:
        yield running


async def test_an_activity_is_started_and_answers(client: Client) -> None:
    async with worker(client):
        handle = await client.start_activity(
            greet,
            "Bob",
            id="greeting",
            task_queue=QUEUE,
            start_to_close_timeout=SOON,
            summary="a greeting",
        )
        assert await handle.result() == "hello Bob from greeting"
        told = await handle.describe(include_input=True, include_outcome=True)
        assert told.status == ActivityExecutionStatus.COMPLETED
        assert told.activity_type == "greet"
        assert told.task_queue == QUEUE
        assert told.attempt == 1
        assert told.close_time is not None
        assert told.execution_duration is not None
        assert told.start_to_close_timeout == SOON
        assert told.raw_input is not None
        assert told.raw_outcome is not None
        again = client.get_activity_handle("greeting", result_type=str)
        assert await again.result() == "hello Bob from greeting"
        assert (
            await client.execute_activity(nothing, id="nothing", task_queue=QUEUE, start_to_close_timeout=SOON) is None
        )


async def test_attempts_and_failures(client: Client) -> None:
    async with worker(client):
        attempts = await client.execute_activity(
            fail_twice,
            id="retried",
            task_queue=QUEUE,
            start_to_close_timeout=SOON,
            retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=1)),
        )
        assert attempts == 3
        with pytest.raises(ActivityFailureError) as failed:
            await client.execute_activity(fail_for_good, id="broken", task_queue=QUEUE, schedule_to_close_timeout=SOON)
        cause = failed.value.cause
        assert isinstance(cause, ApplicationError)
        assert (cause.message, cause.type, list(cause.details)) == ("broken", "Broken", ["detail"])
        with pytest.raises(ActivityFailureError) as late:
            await client.execute_activity(
                hang,
                id="late",
                task_queue=QUEUE,
                start_to_close_timeout=timedelta(milliseconds=100),
                retry_policy=ONCE,
            )
        assert isinstance(late.value.cause, ActivityTimeoutError)
        told = await client.get_activity_handle("late").describe()
        assert told.status == ActivityExecutionStatus.TIMED_OUT


async def test_cancelled_and_terminated(client: Client) -> None:
    handle = await client.start_activity(hang, id="nobody", task_queue=QUEUE, start_to_close_timeout=SOON)
    await handle.cancel(reason="no need")
    with pytest.raises(ActivityFailureError) as cancelled:
        await handle.result()
    assert isinstance(cancelled.value.cause, CancelledError)
    async with worker(client):
        handle = await client.start_activity(
            beat, id="beats", task_queue=QUEUE, start_to_close_timeout=SOON, heartbeat_timeout=SOON
        )
        while not (await handle.describe()).total_heartbeat_count:
            pass
        assert (await handle.describe()).run_state == PendingActivityState.STARTED
        await handle.cancel(reason="enough")
        with pytest.raises(ActivityFailureError) as cancelled:
            await handle.result()
        assert isinstance(cancelled.value.cause, CancelledError)
        told = await handle.describe(include_heartbeat_details=True)
        assert (told.status, told.canceled_reason) == (ActivityExecutionStatus.CANCELED, "enough")
        handle = await client.start_activity(
            beat, id="beats", task_queue=QUEUE, start_to_close_timeout=SOON, heartbeat_timeout=SOON
        )
        await handle.terminate(reason="stop")
        with pytest.raises(ActivityFailureError) as terminated:
            await handle.result()
        assert isinstance(terminated.value.cause, TerminatedError)
        assert str(terminated.value.cause) == "stop"
        with pytest.raises(RPCError) as refused:
            await handle.cancel()
        assert refused.value.status == RPCStatusCode.FAILED_PRECONDITION


async def test_ids_are_used_once_or_again(client: Client) -> None:
    options = {"id": "one", "task_queue": QUEUE, "start_to_close_timeout": SOON}
    first = await client.start_activity(greet, "Ann", **options)  # type: ignore[call-overload]
    with pytest.raises(ActivityAlreadyStartedError) as known:
        await client.start_activity(greet, "Ann", **options)  # type: ignore[call-overload]
    assert known.value.run_id == first.run_id
    same = await client.start_activity(  # type: ignore[call-overload]
        greet, "Ann", **options, id_conflict_policy=ActivityIDConflictPolicy.USE_EXISTING
    )
    assert same.run_id == first.run_id
    async with worker(client):
        await first.result()
        for policy in (ActivityIDReusePolicy.REJECT_DUPLICATE, ActivityIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY):
            with pytest.raises(ActivityAlreadyStartedError):
                await client.start_activity(greet, "Ann", **options, id_reuse_policy=policy)  # type: ignore[call-overload]
        second = await client.start_activity(greet, "Ann", **options)  # type: ignore[call-overload]
        assert second.run_id != first.run_id
    with pytest.raises(RPCError) as unknown:
        await client.get_activity_handle("other").describe()
    assert unknown.value.status == RPCStatusCode.NOT_FOUND


async def test_lists_and_counts(client: Client) -> None:
    async with worker(client):
        for number in range(3):
            await client.execute_activity(
                greet, "Bob", id=f"greet-{number}", task_queue=QUEUE, start_to_close_timeout=SOON
            )
        with pytest.raises(ActivityFailureError):
            await client.execute_activity(fail_for_good, id="broken", task_queue=QUEUE, start_to_close_timeout=SOON)
    found = [each async for each in client.list_activities('ActivityType = "greet"', page_size=2)]
    assert {each.activity_id for each in found} == {"greet-0", "greet-1", "greet-2"}
    assert {each.status for each in found} == {ActivityExecutionStatus.COMPLETED}
    assert [each.activity_id async for each in client.list_activities('ActivityId = "broken"')] == ["broken"]
    assert (await client.count_activities()).count == 4
    assert (await client.count_activities('ExecutionStatus = "Failed"')).count == 1
    groups = (await client.count_activities("GROUP BY ExecutionStatus")).groups
    assert {(group.group_values[0], group.count) for group in groups} == {("Completed", 3), ("Failed", 1)}
    assert (await client.count_workflows()).count == 0
    assert [each async for each in client.list_workflows()] == []


async def test_search_attributes_and_start_delay(client: Client) -> None:
    await client.operator_service.add_search_attributes(_add_colour())
    handle = await client.start_activity(
        nothing,
        id="red",
        task_queue=QUEUE,
        schedule_to_close_timeout=SOON,
        start_delay=timedelta(hours=1),
        search_attributes=TypedSearchAttributes([SearchAttributePair(COLOUR, "red")]),
    )
    assert [each.activity_id async for each in client.list_activities('Colour = "red"')] == ["red"]
    told = await handle.describe()
    assert told.typed_search_attributes[COLOUR] == "red"
    assert told.start_delay == timedelta(hours=1)
    assert told.execution_time == told.schedule_time + timedelta(hours=1)
    assert told.expiration_time == told.schedule_time + timedelta(hours=1) + SOON


async def test_completed_from_outside(client: Client) -> None:
    async with worker(client):
        handle = await client.start_activity(later, id="outside", task_queue=QUEUE, start_to_close_timeout=SOON)
        while (await handle.describe()).run_state != PendingActivityState.STARTED:
            pass
        outside = client.get_async_activity_handle(activity_id="outside", run_id=handle.run_id)
        await outside.heartbeat("on it")
        await outside.complete("done")
        assert await handle.result() == "done"


async def test_paused_and_changed(client: Client) -> None:
    handle = await client.start_activity(nothing, id="paused", task_queue=QUEUE, start_to_close_timeout=SOON)
    await handle.pause(reason="wait")
    assert (await handle.describe()).run_state == PendingActivityState.PAUSED
    async with worker(client):
        await handle.unpause()
        assert await handle.result() is None


def _add_colour() -> AddSearchAttributesRequest:
    return AddSearchAttributesRequest(
        namespace="default", search_attributes={"Colour": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD}
    )


@activity.defn
async def answer(how: str) -> str:
    if how == "fail":
        raise ApplicationError("it broke", type="Broken", non_retryable=True)
    if how == "wait":
        while True:
            activity.heartbeat()
            with suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await asyncio.Event().wait()
    return f"answered {how}"


@nexusrpc.service
class Counter:
    ask: nexusrpc.Operation[str, str]


@service_handler(service=Counter)
class CounterHandler:
    @nexus.temporal_operation
    async def ask(
        self, ctx: nexus.TemporalStartOperationContext, client: nexus.TemporalNexusClient, how: str
    ) -> nexus.TemporalOperationResult[str]:
        return await client.start_activity(
            answer, how, id=f"asked-{how}", start_to_close_timeout=SOON, heartbeat_timeout=SOON, retry_policy=ONCE
        )


@workflow.defn
class Asker:
    @workflow.run
    async def run(self, how: str) -> str:
        counter = workflow.create_nexus_client(service=Counter, endpoint="counter")
        return await counter.execute_operation(Counter.ask, how)


async def test_an_activity_behind_a_nexus_operation(client: Client) -> None:
    spec = EndpointSpec(name="counter")
    spec.target.worker.namespace = client.namespace
    spec.target.worker.task_queue = QUEUE
    await client.operator_service.create_nexus_endpoint(CreateNexusEndpointRequest(spec=spec))
    async with Worker(
        client,
        task_queue=QUEUE,
        workflows=[Asker],
        activities=[answer],
        nexus_service_handlers=[CounterHandler()],
        workflow_runner=UnsandboxedWorkflowRunner(),
        default_heartbeat_throttle_interval=timedelta(milliseconds=50),
        max_heartbeat_throttle_interval=timedelta(milliseconds=50),
    ):
        assert await client.execute_workflow(Asker.run, "well", id="well", task_queue=QUEUE) == "answered well"
        told = await client.get_activity_handle("asked-well").describe()
        assert [each.trigger.WhichOneof("variant") for each in told.raw_callbacks] == ["activity_closed"]
        with pytest.raises(WorkflowFailureError) as failed:
            await client.execute_workflow(Asker.run, "fail", id="fail", task_queue=QUEUE)
        error = failed.value.cause
        assert isinstance(error, NexusOperationError)
        assert isinstance(error.cause, ApplicationError)
        assert error.cause.type == "Broken"
        waiting = await client.start_workflow(Asker.run, "wait", id="wait", task_queue=QUEUE)
        asked = client.get_activity_handle("asked-wait")
        started = EventType.EVENT_TYPE_NEXUS_OPERATION_STARTED
        while started not in [event.event_type for event in (await waiting.fetch_history()).events]:
            pass
        await waiting.cancel()
        with pytest.raises(WorkflowFailureError) as cancelled:
            await waiting.result()
        assert isinstance(cancelled.value.cause, CancelledError | NexusOperationError)
        assert (await asked.describe()).status == ActivityExecutionStatus.CANCELED
