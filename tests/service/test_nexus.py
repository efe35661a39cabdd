"""Nexus through the service: endpoints, requests to handlers, completions to callers, and what a restart keeps."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.nexus import v1 as nx

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.engine.store.memory import MemoryState, MemoryStore
from perdure.engine.store.sqlite import SqliteStore
from tests.service.support import (
    Driver,
    complete_workflow,
    continue_as_new,
    fail_workflow,
    names,
    payloads,
    refusal,
    turns,
)

HANDLERS = "handlers"
COMPLETED = "workflow_task_completed_event_attributes"
USE_EXISTING = m.WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING


def spec(name: str = "desk", queue: str = HANDLERS, namespace: str = "default") -> nx.EndpointSpec:
    made = nx.EndpointSpec(name=name)
    made.target.worker.namespace = namespace
    made.target.worker.task_queue = queue
    return made


async def create(driver: Driver, of: nx.EndpointSpec | None = None) -> nx.Endpoint:
    request = m.CreateNexusEndpointRequest(spec=of or spec())
    return (await driver.service.create_nexus_endpoint(request)).endpoint


def call(endpoint: str = "desk", **fields: Any) -> m.Command:
    command = m.Command(command_type=m.CommandType.COMMAND_TYPE_SCHEDULE_NEXUS_OPERATION)
    about = command.schedule_nexus_operation_command_attributes
    about.endpoint = endpoint
    about.service = "service"
    about.operation = "operation"
    about.input.CopyFrom(payloads("in").payloads[0])
    for name, seconds in fields.items():
        getattr(about, name).FromSeconds(seconds)
    return command


def cancel(scheduled_event_id: int) -> m.Command:
    command = m.Command(command_type=m.CommandType.COMMAND_TYPE_REQUEST_CANCEL_NEXUS_OPERATION)
    command.request_cancel_nexus_operation_command_attributes.scheduled_event_id = scheduled_event_id
    return command


def poll_request(queue: str = HANDLERS, namespace: str = "default", **fields: Any) -> m.PollNexusTaskQueueRequest:
    request = m.PollNexusTaskQueueRequest(namespace=namespace, identity="handler", **fields)
    request.task_queue.name = queue
    return request


async def poll(driver: Driver, queue: str = HANDLERS, namespace: str = "default") -> m.PollNexusTaskQueueResponse:
    async with asyncio.timeout(20):
        return await driver.service.poll_nexus_task_queue(poll_request(queue, namespace))


async def answer(driver: Driver, task: m.PollNexusTaskQueueResponse, namespace: str = "default", **how: Any) -> None:
    response = nx.Response(start_operation=nx.StartOperationResponse(**how)) if how else nx.Response()
    if not how:
        response.cancel_operation.SetInParent()
    await driver.service.respond_nexus_task_completed(
        m.RespondNexusTaskCompletedRequest(namespace=namespace, task_token=task.task_token, response=response)
    )


def at_once(text: str = "out") -> dict[str, Any]:
    return {"sync_success": nx.StartOperationResponse.Sync(payload=payloads(text).payloads[0])}


def later(token: str = "token") -> dict[str, Any]:
    return {"async_success": nx.StartOperationResponse.Async(operation_token=token)}


async def fail(driver: Driver, task: m.PollNexusTaskQueueResponse, kind: str) -> None:
    failure = m.Failure(message="no")
    failure.nexus_handler_failure_info.type = kind
    await driver.service.respond_nexus_task_failed(
        m.RespondNexusTaskFailedRequest(namespace="default", task_token=task.task_token, failure=failure)
    )


def callback_of(task: m.PollNexusTaskQueueResponse, token: str = "token") -> m.Callback:
    """What a handler gives to the workflow it starts."""
    start = task.request.start_operation
    callback = m.Callback()
    callback.nexus.url = start.callback
    callback.nexus.header.update(start.callback_header)
    callback.nexus.header["Nexus-Operation-Token"] = token
    return callback


async def handle(
    driver: Driver, task: m.PollNexusTaskQueueResponse, workflow_id: str = "handled", **fields: Any
) -> None:
    """Start a workflow that is the operation."""
    await driver.start(
        workflow_id,
        request_id=task.request.start_operation.request_id,
        completion_callbacks=[callback_of(task)],
        task_queue=m.TaskQueue(name="handled"),
        **fields,
    )


async def operations(driver: Driver, workflow_id: str = "wf") -> list[str]:
    found = names(await driver.history(workflow_id))
    return [name.removeprefix("NexusOperation") for name in found if name.startswith("NexusOperation")]


async def called(driver: Driver, **fields: Any) -> m.PollNexusTaskQueueResponse:
    """A workflow calls an operation; the request as its handler gets it."""
    await create(driver)
    await driver.start()
    await driver.step(call(**fields))
    return await poll(driver)


# Endpoints.


async def test_endpoints_are_created_changed_and_deleted(driver: Driver) -> None:
    made = await create(driver)
    assert made.version == 1 and made.spec == spec() and made.id in made.url_prefix
    service = driver.service
    assert (await service.get_nexus_endpoint(m.GetNexusEndpointRequest(id=made.id))).endpoint == made
    other = await create(driver, spec("other"))
    listed = await service.list_nexus_endpoints(m.ListNexusEndpointsRequest(page_size=1))
    rest = await service.list_nexus_endpoints(m.ListNexusEndpointsRequest(next_page_token=listed.next_page_token))
    assert {each.id for each in [*listed.endpoints, *rest.endpoints]} == {made.id, other.id}
    assert not rest.next_page_token
    named = await service.list_nexus_endpoints(m.ListNexusEndpointsRequest(name="other"))
    assert list(named.endpoints) == [other]
    assert not (await service.list_nexus_endpoints(m.ListNexusEndpointsRequest(name="none"))).endpoints
    update = m.UpdateNexusEndpointRequest(id=made.id, version=1, spec=spec("renamed"))
    changed = (await service.update_nexus_endpoint(update)).endpoint
    assert changed.version == 2 and changed.spec.name == "renamed" and changed.HasField("last_modified_time")
    assert (await refusal(service.update_nexus_endpoint(update))).code is StatusCode.FAILED_PRECONDITION
    taken = m.UpdateNexusEndpointRequest(id=made.id, version=2, spec=spec("other"))
    assert (await refusal(service.update_nexus_endpoint(taken))).code is StatusCode.ALREADY_EXISTS
    wrong = m.DeleteNexusEndpointRequest(id=made.id, version=7)
    assert (await refusal(service.delete_nexus_endpoint(wrong))).code is StatusCode.FAILED_PRECONDITION
    delete = m.DeleteNexusEndpointRequest(id=made.id, version=2)
    await service.delete_nexus_endpoint(delete)
    assert (await refusal(service.delete_nexus_endpoint(delete))).code is StatusCode.NOT_FOUND
    gone = m.GetNexusEndpointRequest(id=made.id)
    assert (await refusal(service.get_nexus_endpoint(gone))).code is StatusCode.NOT_FOUND
    assert (await refusal(service.get_nexus_endpoint(m.GetNexusEndpointRequest()))).code is StatusCode.INVALID_ARGUMENT


EXTERNAL = nx.EndpointSpec(name="out")
EXTERNAL.target.external.url = "https://example.com"


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (spec(""), StatusCode.INVALID_ARGUMENT),
        (spec("1x"), StatusCode.INVALID_ARGUMENT),
        (spec("with space"), StatusCode.INVALID_ARGUMENT),
        (spec("x" * 201), StatusCode.INVALID_ARGUMENT),
        (spec(queue=""), StatusCode.INVALID_ARGUMENT),
        (spec(namespace=""), StatusCode.INVALID_ARGUMENT),
        (spec(namespace="missing"), StatusCode.FAILED_PRECONDITION),
        (nx.EndpointSpec(name="nowhere"), StatusCode.INVALID_ARGUMENT),
        (EXTERNAL, StatusCode.UNIMPLEMENTED),
        (spec("taken"), StatusCode.ALREADY_EXISTS),
    ],
)
async def test_endpoints_that_make_no_sense(driver: Driver, bad: nx.EndpointSpec, code: StatusCode) -> None:
    await create(driver, spec("taken"))
    request = m.CreateNexusEndpointRequest(spec=bad)
    assert (await refusal(driver.service.create_nexus_endpoint(request))).code is code
    assert len((await driver.service.list_nexus_endpoints(m.ListNexusEndpointsRequest())).endpoints) == 1


async def test_endpoints_outlive_the_engine(tmp_path: Path) -> None:
    async with Driver(SqliteStore(tmp_path / "a.db")) as driver:
        made = await create(driver)
    async with Driver(SqliteStore(tmp_path / "a.db")) as driver:
        assert (await driver.service.get_nexus_endpoint(m.GetNexusEndpointRequest(id=made.id))).endpoint == made


async def test_requests_go_where_their_endpoint_leads_now(driver: Driver) -> None:
    made = await create(driver)
    await driver.start()
    await driver.step(call())
    update = m.UpdateNexusEndpointRequest(id=made.id, version=1, spec=spec("renamed", queue="moved"))
    await driver.service.update_nexus_endpoint(update)
    task = await poll(driver, "moved")
    await answer(driver, task, **at_once())
    assert await operations(driver) == ["Scheduled", "Completed"]
    await driver.settle()


async def test_without_its_endpoint_an_operation_fails(driver: Driver) -> None:
    made = await create(driver)
    await driver.start()
    await driver.step(call())
    await driver.service.delete_nexus_endpoint(m.DeleteNexusEndpointRequest(id=made.id, version=1))
    await driver.wait_idle()
    assert await operations(driver) == ["Scheduled", "Failed"]


# Requests.


async def test_what_a_handler_gets(driver: Driver) -> None:
    task = await called(driver, schedule_to_close_timeout=60)
    request = task.request
    assert request.endpoint == "desk" and request.capabilities.temporal_failure_responses
    assert request.header["request-timeout"] == "10000ms" and request.header["operation-timeout"] == "60000ms"
    start = request.start_operation
    assert (start.service, start.operation, start.callback) == ("service", "operation", "temporal://system")
    assert start.payload == payloads("in").payloads[0] and start.callback_header
    (link,) = start.links
    assert "/workflows/wf/" in link.url and "eventType=NexusOperationScheduled" in link.url
    await answer(driver, task, **at_once())
    (completed,) = [
        event for event in await driver.history() if event.HasField("nexus_operation_completed_event_attributes")
    ]
    assert completed.nexus_operation_completed_event_attributes.result == payloads("out").payloads[0]
    assert completed.nexus_operation_completed_event_attributes.request_id == start.request_id
    await driver.step(complete_workflow())
    await driver.settle()


async def test_an_answer_comes_once_and_is_of_its_kind(driver: Driver) -> None:
    task = await called(driver)
    service = driver.service
    cancelled = m.RespondNexusTaskCompletedRequest(namespace="default", task_token=task.task_token)
    cancelled.response.cancel_operation.SetInParent()
    assert (await refusal(service.respond_nexus_task_completed(cancelled))).code is StatusCode.INVALID_ARGUMENT
    empty = nx.StartOperationResponse()
    for bad in (
        {"failure": m.Failure(message="of no kind")},
        {"async_success": nx.StartOperationResponse.Async()},
    ):
        assert (await refusal(answer(driver, task, **bad))).code is StatusCode.INVALID_ARGUMENT
    nothing = m.RespondNexusTaskCompletedRequest(namespace="default", task_token=task.task_token)
    nothing.response.start_operation.CopyFrom(empty)
    assert (await refusal(service.respond_nexus_task_completed(nothing))).code is StatusCode.INVALID_ARGUMENT
    failed = m.RespondNexusTaskFailedRequest(namespace="default", task_token=task.task_token)
    assert (await refusal(service.respond_nexus_task_failed(failed))).code is StatusCode.INVALID_ARGUMENT
    failed.failure.message = "of no kind"
    assert (await refusal(service.respond_nexus_task_failed(failed))).code is StatusCode.INVALID_ARGUMENT
    forged = m.RespondNexusTaskFailedRequest(namespace="default", task_token=task.task_token[:-1] + b"?")
    forged.error.error_type = "INTERNAL"
    assert (await refusal(service.respond_nexus_task_failed(forged))).code is StatusCode.INVALID_ARGUMENT
    await answer(driver, task, **at_once())
    assert (await refusal(answer(driver, task, **at_once()))).code is StatusCode.NOT_FOUND
    assert await operations(driver) == ["Scheduled", "Completed"]


async def test_workers_that_know_no_other_failures(driver: Driver) -> None:
    task = await called(driver)
    old = m.RespondNexusTaskFailedRequest(namespace="default", task_token=task.task_token)
    old.error.error_type = "INTERNAL"
    old.error.failure.message = "try again"
    await driver.service.respond_nexus_task_failed(old)
    (pending,) = (await driver.describe()).pending_nexus_operations
    assert pending.last_attempt_failure.nexus_handler_failure_info.type == "INTERNAL"
    assert driver.engine.advance()
    again = await poll(driver)
    assert again.request.start_operation.request_id == task.request.start_operation.request_id
    error = nx.UnsuccessfulOperationError(operation_state="canceled", failure=nx.Failure(message="stop"))
    await answer(driver, again, operation_error=error)
    assert await operations(driver) == ["Scheduled", "Canceled"]


@pytest.mark.in_process("it cancels the call itself")
async def test_a_poll_that_goes_loses_nothing(driver: Driver) -> None:
    await create(driver)
    polling = asyncio.ensure_future(poll(driver))
    await turns()
    await driver.start()
    await driver.step(call())
    polling.cancel()
    await asyncio.gather(polling, return_exceptions=True)
    task = await poll(driver)
    await answer(driver, task, **at_once())
    assert await operations(driver) == ["Scheduled", "Completed"]


async def test_polls_of_a_worker_that_leaves_are_answered(driver: Driver) -> None:
    polling = asyncio.ensure_future(driver.service.poll_nexus_task_queue(poll_request(worker_instance_key="w")))
    await driver.rest()
    described = m.DescribeTaskQueueRequest(
        namespace="default",
        task_queue=m.TaskQueue(name=HANDLERS),
        task_queue_type=m.TaskQueueType.TASK_QUEUE_TYPE_NEXUS,
    )
    pollers = (await driver.service.describe_task_queue(described)).pollers
    assert [poller.identity for poller in pollers] == ["handler"]
    await driver.service.shutdown_worker(m.ShutdownWorkerRequest(namespace="default", worker_instance_key="w"))
    assert await polling == m.PollNexusTaskQueueResponse()
    no_name = m.PollNexusTaskQueueRequest(namespace="default")
    assert (await refusal(driver.service.poll_nexus_task_queue(no_name))).code is StatusCode.INVALID_ARGUMENT


async def test_a_handler_in_another_namespace(driver: Driver) -> None:
    await driver.service.register_namespace(
        m.RegisterNamespaceRequest(namespace="theirs", workflow_execution_retention_period={"seconds": 86400})  # type: ignore[arg-type]
    )
    await create(driver, spec(namespace="theirs"))
    await driver.start()
    await driver.step(call())
    task = await poll(driver, namespace="theirs")
    assert (await refusal(answer(driver, task, **at_once()))).code is StatusCode.INVALID_ARGUMENT
    await answer(driver, task, namespace="theirs", **at_once())
    assert await operations(driver) == ["Scheduled", "Completed"]


# Completions.


@pytest.mark.parametrize(
    ("command", "name"),
    [(complete_workflow("out"), "Completed"), (fail_workflow("no"), "Failed")],
)
async def test_a_workflow_completes_the_operation_it_is(driver: Driver, command: m.Command, name: str) -> None:
    task = await called(driver)
    await handle(driver, task)
    await answer(driver, task, **later())
    again = continue_as_new()
    again.continue_as_new_workflow_execution_command_attributes.task_queue.name = "handled"
    await driver.complete(await driver.poll("handled"), again)
    await driver.complete(await driver.poll("handled"), command)
    await driver.wait_idle(but_held=True)
    assert await operations(driver) == ["Scheduled", "Started", name]
    (told,) = (await driver.describe("handled")).callbacks
    assert told.state == m.CallbackState.CALLBACK_STATE_SUCCEEDED


async def test_a_completion_overtakes_the_answer(driver: Driver) -> None:
    task = await called(driver)
    await handle(driver, task)
    await driver.complete(await driver.poll("handled"), complete_workflow("out"))
    await driver.wait_idle(but_held=True)
    assert await operations(driver) == ["Scheduled", "Started", "Completed"]
    (started,) = [event for event in await driver.history() if event.links]
    assert started.nexus_operation_started_event_attributes.operation_token == "token"
    assert started.links[0].workflow_event.workflow_id == "handled"
    assert (await refusal(answer(driver, task, **later()))).code is StatusCode.NOT_FOUND


async def test_nobody_waits_for_a_completion_any_more(driver: Driver) -> None:
    task = await called(driver)
    await handle(driver, task)
    await driver.terminate()
    await driver.complete(await driver.poll("handled"), complete_workflow("out"))
    await driver.wait_idle(but_held=True)
    (told,) = (await driver.describe("handled")).callbacks
    assert told.state == m.CallbackState.CALLBACK_STATE_FAILED and told.last_attempt_failure.message


async def test_a_caller_that_was_reset_is_told(driver: Driver) -> None:
    task = await called(driver)
    await handle(driver, task)
    await answer(driver, task, **later())
    await driver.step()
    finish_id = next(event.event_id for event in reversed(await driver.history()) if event.event_type == 7)
    reset = m.ResetWorkflowExecutionRequest(
        namespace="default", workflow_task_finish_event_id=finish_id, request_id="r"
    )
    reset.workflow_execution.workflow_id = "wf"
    await driver.service.reset_workflow_execution(reset)
    await driver.complete(await driver.poll("handled"), complete_workflow("out"))
    await driver.wait_idle(but_held=True)
    assert await operations(driver) == ["Scheduled", "Started", "Completed"]


@pytest.mark.parametrize(
    ("excluded", "expected"),
    [((), ["Scheduled", "Started", "Completed"]), ((3,), ["Scheduled"])],
)
async def test_a_reset_to_before_the_end(driver: Driver, excluded: tuple[int, ...], expected: list[str]) -> None:
    task = await called(driver)
    await driver.signal()
    await driver.step()
    await answer(driver, task, **later())
    await handle(driver, task)
    await driver.complete(await driver.poll("handled"), complete_workflow("out"))
    await driver.wait_idle(but_held=True)
    second = [event.event_id for event in await driver.history() if event.HasField(COMPLETED)][1]
    reset = m.ResetWorkflowExecutionRequest(namespace="default", workflow_task_finish_event_id=second)
    reset.reset_reapply_exclude_types.extend(map(m.ResetReapplyExcludeType.ValueType, excluded))
    reset.workflow_execution.workflow_id = "wf"
    await driver.service.reset_workflow_execution(reset)
    await driver.wait_idle(but_held=True)
    assert await operations(driver) == expected
    if excluded:
        again = await poll(driver)
        assert again.request.start_operation.request_id == task.request.start_operation.request_id
        await driver.terminate()


async def test_two_operations_share_a_workflow(driver: Driver) -> None:
    await create(driver)
    await driver.start()
    await driver.step(call(), call())
    for request_id in ("first", "second"):
        task = await poll(driver)
        options = m.OnConflictOptions(attach_request_id=True, attach_completion_callbacks=True, attach_links=True)
        request = driver.start_request(
            "handled",
            request_id=request_id,
            completion_callbacks=[callback_of(task)],
            workflow_id_conflict_policy=USE_EXISTING,
            on_conflict_options=options,
        )
        started = await driver.service.start_workflow_execution(request)
        assert started.started == (request_id == "first")
        await answer(driver, task, **later())
    described = await driver.describe("handled")
    assert len(described.callbacks) == 2
    assert set(described.workflow_extended_info.request_id_infos) == {"first", "second"}
    await driver.terminate("handled")
    await driver.wait_idle(but_held=True)
    assert sorted(await operations(driver)) == ["Failed", "Failed", "Scheduled", "Scheduled", "Started", "Started"]


async def test_a_cancel_reaches_the_handler(driver: Driver) -> None:
    task = await called(driver)
    await answer(driver, task, **later("theirs"))
    scheduled = next(event.event_id for event in await driver.history() if "nexus_operation_scheduled" in str(event))
    await driver.step(cancel(scheduled))
    asked = await poll(driver)
    assert asked.request.cancel_operation.operation_token == "theirs"
    await fail(driver, asked, "UNAVAILABLE")
    assert driver.engine.advance()
    await answer(driver, await poll(driver))
    assert await operations(driver) == ["Scheduled", "Started", "CancelRequested", "CancelRequestCompleted"]
    (pending,) = (await driver.describe()).pending_nexus_operations
    assert pending.cancellation_info.attempt == 2
    await driver.terminate()


# Restarts.


@pytest.mark.in_process("it crashes the engine")
async def test_a_request_with_a_handler_outlives_the_engine() -> None:
    store = MemoryStore()
    async with Driver(store) as driver:
        task = await called(driver)
        crashed = MemoryStore(store.state.copy())
    async with Driver(crashed, clock=driver.clock, seed=2) as driver:
        await driver.settle()
        await answer(driver, task, **at_once())
        assert await operations(driver) == ["Scheduled", "Completed"]


@pytest.mark.in_process("it crashes the engine")
async def test_a_handler_that_died_with_the_engine_is_replaced() -> None:
    store = MemoryStore()
    async with Driver(store) as driver:
        task = await called(driver)
        crashed = MemoryStore(store.state.copy())
    async with Driver(crashed, clock=driver.clock, seed=2) as driver:
        polling = asyncio.ensure_future(poll(driver))
        await driver.wait_idle()
        while not polling.done() and driver.engine.advance():
            await driver.wait_idle()
        again = await polling
        assert again.request.start_operation.request_id == task.request.start_operation.request_id
        assert (await refusal(answer(driver, task, **at_once()))).code is StatusCode.NOT_FOUND
        await answer(driver, again, **at_once())
        assert await operations(driver) == ["Scheduled", "Completed"]


@pytest.mark.in_process("it crashes the engine")
async def test_a_crash_at_every_commit() -> None:
    """Wherever the engine dies: repeating what was not answered leads to the same end, and nothing happens twice."""
    states: list[MemoryState] = []
    store = MemoryStore(after_commit=lambda _number, _batch: states.append(store.snapshot()))
    async with Driver(store) as driver:
        assert await play(driver) == END
        clock = driver.clock
    assert len(states) >= 10
    for state in states:
        async with Driver(MemoryStore(state.copy()), clock=clock, seed=3) as after:
            assert await play(after) == END
            await after.settle()


END = ["Scheduled", "Started", "Completed"]


async def play(driver: Driver) -> list[str]:
    """A call from its beginning to its end, each step only if it has not been taken yet."""
    service = driver.service
    if not (await service.list_nexus_endpoints(m.ListNexusEndpointsRequest())).endpoints:
        await create(driver)
    if not await known(driver, "wf"):
        await driver.start()
    if not await operations(driver):
        await driver.step(call())
    if len(await operations(driver)) == 1:
        polling = asyncio.ensure_future(poll(driver))
        await driver.wait_idle(but_held=True)
        while not polling.done():
            assert driver.engine.advance()
            await driver.wait_idle(but_held=True)
        task = await polling
        if not await known(driver, "handled"):
            await handle(driver, task)
        await answer(driver, task, **later())
    if await driver.status("handled") == "RUNNING":
        await driver.complete(await driver.poll("handled"), complete_workflow("out"))
    await driver.wait_idle(but_held=True)
    found = await operations(driver)
    if await driver.status() == "RUNNING":
        await driver.step(complete_workflow())
    return found


async def known(driver: Driver, workflow_id: str) -> bool:
    try:
        await driver.describe(workflow_id)
    except RpcError as error:
        assert error.code is StatusCode.NOT_FOUND
        return False
    return True


async def test_a_paused_workflow_calls_nobody(driver: Driver) -> None:
    await create(driver)
    await driver.start()
    await driver.step(call())
    pause = m.PauseWorkflowExecutionRequest(namespace="default", workflow_id="wf")
    await driver.service.pause_workflow_execution(pause)
    polling = asyncio.ensure_future(poll(driver))
    await driver.rest()
    assert not polling.done()
    unpause = m.UnpauseWorkflowExecutionRequest(namespace="default", workflow_id="wf")
    await driver.service.unpause_workflow_execution(unpause)
    await answer(driver, await polling, **at_once())
    assert await operations(driver) == ["Scheduled", "Completed"]
