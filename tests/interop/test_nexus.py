"""Nexus: unmodified workflows call operations that unmodified workers handle."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import nexusrpc
import pytest
from nexusrpc.handler import (
    CancelOperationContext,
    OperationHandler,
    StartOperationContext,
    StartOperationResultAsync,
    operation_handler,
    service_handler,
    sync_operation,
)
from temporalio import activity, nexus, workflow
from temporalio.api.enums.v1 import EventType
from temporalio.api.nexus.v1 import EndpointSpec
from temporalio.api.operatorservice.v1 import CreateNexusEndpointRequest, ListNexusEndpointsRequest
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle, WorkflowUpdateStage
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import (
    ApplicationError,
    CancelledError,
    FailureError,
    NexusOperationError,
    TerminatedError,
    TimeoutError,
    TimeoutType,
)
from temporalio.service import RPCError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from tests.interop.conftest import Spawn

QUEUE = "nexus"
ENDPOINT = "desk"
WAIT_S = 100


@nexusrpc.service
class Desk:
    greet: nexusrpc.Operation[str, str]
    refuse: nexusrpc.Operation[str, str]
    flaky: nexusrpc.Operation[str, str]
    long: nexusrpc.Operation[str, str]
    shared: nexusrpc.Operation[str, str]
    never: nexusrpc.Operation[str, str]
    slow: nexusrpc.Operation[str, str]
    ask: nexusrpc.Operation[str, str]
    work: nexusrpc.Operation[str, str]


@workflow.defn
class Handled:
    """What the long operation starts: it ends as it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    @workflow.run
    async def run(self, how: str) -> str:
        if how == "continue":
            workflow.continue_as_new("again")
        if how == "fail":
            raise ApplicationError("it broke", type="Broken")
        if how in ("wait", "shared"):
            await workflow.wait_condition(lambda: bool(self.told))
            return f"told {self.told[0]}"
        return f"done {how}"

    @workflow.signal
    def tell(self, what: str) -> None:
        self.told.append(what)

    @workflow.update
    async def ask(self, what: str) -> str:
        await workflow.wait_condition(lambda: what in self.told)
        return f"answer to {what}"


@activity.defn
async def worked(what: str) -> str:
    return f"worked on {what}"


class NeverHandler(OperationHandler[str, str]):
    """Starts, and is never heard of again."""

    async def start(self, ctx: StartOperationContext, input: str) -> StartOperationResultAsync:
        return StartOperationResultAsync(token="never")

    async def cancel(self, ctx: CancelOperationContext, token: str) -> None:
        pass


@service_handler(service=Desk)
class DeskHandler:
    def __init__(self) -> None:
        self.attempts: list[str] = []
        self.headers: dict[str, str] = {}
        self.entered = asyncio.Event()
        self.go_on = asyncio.Event()

    @sync_operation
    async def greet(self, ctx: StartOperationContext, name: str) -> str:
        self.headers = dict(ctx.headers)
        return f"hello {name}"

    @sync_operation
    async def refuse(self, ctx: StartOperationContext, how: str) -> str:
        if how == "canceled":
            raise nexusrpc.OperationError("given up", state=nexusrpc.OperationErrorState.CANCELED)
        if how == "bad request":
            raise nexusrpc.HandlerError("no", type=nexusrpc.HandlerErrorType.BAD_REQUEST)
        raise nexusrpc.OperationError("refused", state=nexusrpc.OperationErrorState.FAILED)

    @sync_operation
    async def flaky(self, ctx: StartOperationContext, name: str) -> str:
        self.attempts.append(ctx.request_id)
        if len(self.attempts) < 2:
            raise nexusrpc.HandlerError("not now", type=nexusrpc.HandlerErrorType.UNAVAILABLE)
        return f"at last {name}"

    @nexus.workflow_run_operation
    async def long(self, ctx: nexus.WorkflowRunOperationContext, how: str) -> nexus.WorkflowHandle[str]:
        return await ctx.start_workflow(Handled.run, how, id=f"handled-{ctx.request_id}")

    @nexus.workflow_run_operation
    async def shared(self, ctx: nexus.WorkflowRunOperationContext, how: str) -> nexus.WorkflowHandle[str]:
        return await ctx.start_workflow(
            Handled.run, "shared", id="handled-shared", id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING
        )

    @sync_operation
    async def slow(self, ctx: StartOperationContext, name: str) -> str:
        self.attempts.append(ctx.request_id)
        self.entered.set()
        await self.go_on.wait()
        return f"slowly {name}"

    @nexus.temporal_operation
    async def ask(
        self, ctx: nexus.TemporalStartOperationContext, client: nexus.TemporalNexusClient, what: str
    ) -> nexus.TemporalOperationResult[str]:
        return await client.start_workflow_update(
            "asked", Handled.ask, what, wait_for_stage=WorkflowUpdateStage.ACCEPTED
        )

    @nexus.temporal_operation
    async def work(
        self, ctx: nexus.TemporalStartOperationContext, client: nexus.TemporalNexusClient, what: str
    ) -> nexus.TemporalOperationResult[str]:
        return await client.start_activity(
            worked, what, id=f"work-{what}", task_queue=QUEUE, schedule_to_close_timeout=timedelta(seconds=WAIT_S)
        )

    @operation_handler
    def never(self) -> OperationHandler[str, str]:
        return NeverHandler()


@workflow.defn
class Caller:
    @workflow.run
    async def run(self, operation: str, argument: str, close_s: float) -> str:
        desk = workflow.create_nexus_client(service=Desk, endpoint=ENDPOINT)
        return await desk.execute_operation(
            operation,
            argument,
            output_type=str,
            schedule_to_close_timeout=timedelta(seconds=close_s),
            headers={"Who": "caller"},
        )


@workflow.defn
class Canceller:
    """Cancels what it has started when it is cancelled itself."""

    @workflow.run
    async def run(self, argument: str) -> str:
        desk = workflow.create_nexus_client(service=Desk, endpoint=ENDPOINT)
        handle = await desk.start_operation(Desk.long, argument)
        return await handle


async def endpoint(client: Client, name: str = ENDPOINT) -> None:
    spec = EndpointSpec(name=name)
    spec.target.worker.namespace = client.namespace
    spec.target.worker.task_queue = QUEUE
    await client.operator_service.create_nexus_endpoint(CreateNexusEndpointRequest(spec=spec))


def worker(client: Client, handler: DeskHandler | None = None) -> Worker:
    return Worker(
        client,
        task_queue=QUEUE,
        workflows=[Caller, Canceller, Handled],
        activities=[worked],
        nexus_service_handlers=[handler or DeskHandler()],
        workflow_runner=UnsandboxedWorkflowRunner(),
    )


async def call(client: Client, operation: str, argument: str = "Ada", close_s: float = 60) -> str:
    return await client.execute_workflow(
        Caller.run, args=[operation, argument, close_s], id=f"caller-{operation}-{argument}", task_queue=QUEUE
    )


async def refusal(client: Client, operation: str, argument: str = "Ada", close_s: float = 60) -> FailureError:
    """What the operation failed with."""
    with pytest.raises(WorkflowFailureError) as failed:
        await call(client, operation, argument, close_s)
    error = failed.value.cause
    assert isinstance(error, NexusOperationError)
    assert (error.endpoint, error.service, error.operation) == (ENDPOINT, "Desk", operation)
    assert isinstance(error.cause, FailureError | nexusrpc.HandlerError)
    return error.cause  # type: ignore[return-value]


async def types(handle: WorkflowHandle[object, object]) -> list[str]:
    """The types of a history's events about operations."""
    names = [EventType.Name(event.event_type) for event in (await handle.fetch_history()).events]
    prefix = "EVENT_TYPE_NEXUS_OPERATION_"
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]


async def test_an_operation_that_answers_at_once(client: Client) -> None:
    await endpoint(client)
    listed = await client.operator_service.list_nexus_endpoints(ListNexusEndpointsRequest(name=ENDPOINT))
    assert [each.spec.name for each in listed.endpoints] == [ENDPOINT]
    handler = DeskHandler()
    async with worker(client, handler):
        assert await call(client, "greet") == "hello Ada"
    assert handler.headers["who"] == "caller"
    assert handler.headers["request-timeout"].endswith("ms") and "operation-timeout" in handler.headers
    assert await types(client.get_workflow_handle("caller-greet-Ada")) == ["SCHEDULED", "COMPLETED"]


async def test_an_operation_that_is_a_workflow(client: Client) -> None:
    await endpoint(client)
    async with worker(client):
        assert await call(client, "long", "soon") == "done soon"
        assert await call(client, "long", "continue") == "done again"
    caller = client.get_workflow_handle("caller-long-soon")
    assert await types(caller) == ["SCHEDULED", "STARTED", "COMPLETED"]
    (scheduled, started, _) = [
        event for event in (await caller.fetch_history()).events if "NEXUS" in EventType.Name(event.event_type)
    ]
    request_id = scheduled.nexus_operation_scheduled_event_attributes.request_id
    to_handled = started.links[0].workflow_event
    assert to_handled.workflow_id == f"handled-{request_id}" and to_handled.event_ref.event_id == 1
    first = (await client.get_workflow_handle(to_handled.workflow_id).fetch_history()).events[0]
    attributes = first.workflow_execution_started_event_attributes
    links = [*first.links, *(link for callback in attributes.completion_callbacks for link in callback.links)]
    (to_caller,) = [link.workflow_event for link in links]
    assert to_caller.workflow_id == caller.id and to_caller.event_ref.event_id == scheduled.event_id


@pytest.mark.parametrize(
    ("operation", "argument", "kind"),
    [
        ("refuse", "failed", ApplicationError),
        ("refuse", "canceled", CancelledError),
        ("refuse", "bad request", nexusrpc.HandlerError),
        ("long", "fail", ApplicationError),
    ],
)
async def test_an_operation_that_fails(client: Client, operation: str, argument: str, kind: type) -> None:
    await endpoint(client)
    async with worker(client):
        assert isinstance(await refusal(client, operation, argument), kind)


async def test_a_handler_that_fails_is_asked_again_with_the_same_request_id(client: Client) -> None:
    await endpoint(client)
    handler = DeskHandler()
    async with worker(client, handler):
        assert await call(client, "flaky") == "at last Ada"
    assert len(handler.attempts) == 2 and len(set(handler.attempts)) == 1


async def test_an_operation_that_takes_too_long(client: Client) -> None:
    await endpoint(client)
    async with worker(client):
        error = await refusal(client, "never", close_s=1)
    assert isinstance(error, TimeoutError) and error.type is TimeoutType.SCHEDULE_TO_CLOSE


async def until(condition: object) -> None:
    async with asyncio.timeout(WAIT_S):
        while not await condition():  # type: ignore[operator]
            pass


async def test_an_operation_is_cancelled(client: Client) -> None:
    await endpoint(client)
    async with worker(client):
        handle = await client.start_workflow(Canceller.run, "wait", id="canceller", task_queue=QUEUE)

        async def started() -> bool:
            return "STARTED" in await types(handle)

        await until(started)
        pending = (await handle.describe()).raw_description.pending_nexus_operations
        assert [each.operation for each in pending] == ["long"] and pending[0].operation_token
        await handle.cancel()
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
        assert isinstance(failed.value.cause, CancelledError)
        found = await types(handle)
        assert found[:3] == ["SCHEDULED", "STARTED", "CANCEL_REQUESTED"] and found[-1] == "CANCELED"


async def test_a_handlers_workflow_is_terminated(client: Client) -> None:
    await endpoint(client)
    async with worker(client):
        calling = asyncio.ensure_future(refusal(client, "shared"))
        handled = client.get_workflow_handle("handled-shared")

        async def runs() -> bool:
            return "STARTED" in await types(client.get_workflow_handle("caller-shared-Ada"))

        await until_found(runs)
        await handled.terminate()
        assert isinstance(await calling, TerminatedError)


async def until_found(condition: object) -> None:
    async def found() -> bool:
        try:
            return await condition()  # type: ignore[operator]
        except RPCError:
            return False

    await until(found)


async def test_two_callers_share_a_workflow(client: Client) -> None:
    await endpoint(client)
    async with worker(client):
        calls = [asyncio.ensure_future(call(client, "shared", name)) for name in ("a", "b")]
        handled = client.get_workflow_handle("handled-shared")

        async def both() -> bool:
            described = (await handled.describe()).raw_description
            return len(described.callbacks) == 2 and len(described.workflow_extended_info.request_id_infos) == 2

        await until_found(both)
        await handled.signal(Handled.tell, "all")
        assert await asyncio.gather(*calls) == ["told all", "told all"]
        states = [callback.state for callback in (await handled.describe()).raw_description.callbacks]
        assert len(set(states)) == 1
    assert "EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED" in [
        EventType.Name(event.event_type) for event in (await handled.fetch_history()).events
    ]


async def test_an_operation_that_is_an_update(client: Client) -> None:
    await endpoint(client)
    async with worker(client):
        asked = await client.start_workflow(Handled.run, "wait", id="asked", task_queue=QUEUE)
        calling = asyncio.ensure_future(call(client, "ask", "why"))

        async def started() -> bool:
            return "STARTED" in await types(client.get_workflow_handle("caller-ask-why"))

        await until_found(started)
        await asked.signal(Handled.tell, "why")
        assert await calling == "answer to why"


async def test_an_operation_that_is_an_activity(client: Client) -> None:
    await endpoint(client)
    async with worker(client):
        assert await call(client, "work", "it") == "worked on it"


async def test_a_handler_outlives_the_server(spawn_server: Spawn) -> None:
    arguments = ("start", "--db", "nexus.db", "--address")
    serving = await spawn_server(*arguments, "127.0.0.1:0")
    client = await Client.connect(serving.address)
    await endpoint(client)
    handler = DeskHandler()
    async with worker(client, handler):
        calling = asyncio.ensure_future(call(client, "slow"))
        await asyncio.wait_for(handler.entered.wait(), WAIT_S)
        await serving.kill()
        await spawn_server(*arguments, serving.address)
        handler.go_on.set()
        assert await calling == "slowly Ada"
        assert len(handler.attempts) == 1


async def test_operations_outlive_the_server(spawn_server: Spawn) -> None:
    arguments = ("start", "--db", "nexus.db", "--address")
    serving = await spawn_server(*arguments, "127.0.0.1:0")
    client = await Client.connect(serving.address)
    await endpoint(client)
    handle = await client.start_workflow(Caller.run, args=["long", "wait", 60], id="caller", task_queue=QUEUE)
    async with worker(client):

        async def started() -> bool:
            return "STARTED" in await types(handle)

        await until(started)
    await serving.kill()
    serving = await spawn_server(*arguments, serving.address)
    client = await Client.connect(serving.address)
    handle = client.get_workflow_handle("caller")
    (pending,) = (await handle.describe()).raw_description.pending_nexus_operations
    async with worker(client):
        (started_event,) = [
            event
            for event in (await handle.fetch_history()).events
            if event.event_type == EventType.EVENT_TYPE_NEXUS_OPERATION_STARTED
        ]
        handled = client.get_workflow_handle(started_event.links[0].workflow_event.workflow_id)
        await handled.signal(Handled.tell, "again")
        assert await handle.result() == "told again"
    assert pending.operation_token
    assert await types(handle) == ["SCHEDULED", "STARTED", "COMPLETED"]
