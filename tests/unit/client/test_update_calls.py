"""Calls about updates, against a service that answers what it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, cast

import pytest
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.message import Message

from perdure import workflow
from perdure.api import RpcError, StatusCode, WorkflowService
from perdure.api import messages as m
from perdure.client import (
    Client,
    InvalidRequestError,
    WithStartWorkflowOperation,
    WorkflowAlreadyStartedError,
    WorkflowNotFoundError,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
    WorkflowUpdateStage,
)
from perdure.common import WorkflowIDConflictPolicy
from perdure.converter import default
from perdure.exceptions import ApplicationError, ConversionError, InvalidNameError

SECOND = timedelta(seconds=1)


@workflow.defn
class Counter:
    @workflow.run
    async def run(self, start: int) -> int:
        return start

    @workflow.update
    async def add(self, count: int) -> int:
        return count

    @workflow.signal
    def stop(self) -> None: ...


class Scripted:
    """Answers each call with what comes next in the script: a message, or an error to raise."""

    def __init__(self, *script: Message | Exception | None) -> None:
        self.script = list(script)
        self.requests: list[Any] = []

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Message]]:
        async def call(request: Message) -> Message:
            self.requests.append(request)
            answer = self.script.pop(0)
            if answer is None:
                await asyncio.get_running_loop().create_future()
            if isinstance(answer, Exception):
                raise answer
            assert answer is not None
            return answer

        return call


def client_of(*script: Message | Exception | None) -> tuple[Client, Scripted]:
    service = Scripted(*script)
    return Client(cast("WorkflowService", service)), service


def outcome(value: Any = None, error: BaseException | None = None) -> m.Outcome:
    if error is not None:
        return m.Outcome(failure=default().to_failure(error))
    return m.Outcome(success=default().to_payloads([value]))


def updated(stage: WorkflowUpdateStage, result: m.Outcome | None = None) -> m.UpdateWorkflowExecutionResponse:
    response = m.UpdateWorkflowExecutionResponse(stage=stage.value, outcome=result)  # type: ignore[arg-type]
    response.update_ref.workflow_execution.run_id = "run-1"
    return response


def polled(result: m.Outcome | None = None) -> m.PollWorkflowExecutionUpdateResponse:
    return m.PollWorkflowExecutionUpdateResponse(outcome=result)


ADMITTED = WorkflowUpdateStage.ADMITTED
ACCEPTED = WorkflowUpdateStage.ACCEPTED
COMPLETED = WorkflowUpdateStage.COMPLETED


async def test_a_request_says_all_and_a_known_outcome_needs_no_further_call() -> None:
    client, service = client_of(updated(COMPLETED, outcome(5)))
    handle = client.get_workflow_handle("w", first_execution_run_id="first")
    assert await handle.execute_update(Counter.add, 3, id="u") == 5
    (request,) = service.requests
    assert request.workflow_execution.workflow_id == "w"
    assert request.first_execution_run_id == "first"
    assert request.request.meta.update_id == "u"
    assert request.request.meta.identity == client.identity
    assert request.request.input.name == "add"
    assert default().from_payloads(request.request.input.args.payloads) == [3]
    assert request.wait_policy.lifecycle_stage == COMPLETED


async def test_an_update_only_admitted_is_asked_for_again_under_its_id() -> None:
    client, service = client_of(updated(ADMITTED), updated(ADMITTED), updated(ACCEPTED))
    handle = await client.get_workflow_handle("w").start_update(Counter.add, 3, wait_for_stage=ACCEPTED)
    assert len({request.request.meta.update_id for request in service.requests}) == 1
    assert handle.id
    assert (handle.workflow_id, handle.workflow_run_id) == ("w", "run-1")


async def test_an_outcome_is_polled_for_until_it_is_there_and_then_known() -> None:
    client, service = client_of(updated(ACCEPTED), polled(), polled(outcome(7)))
    handle = await client.get_workflow_handle("w").start_update("add", 3, wait_for_stage=ACCEPTED, id="u")
    assert await handle.result() == 7
    assert await handle.result() == 7
    assert len(service.requests) == 3
    reference = service.requests[-1].update_ref
    assert (reference.update_id, reference.workflow_execution.run_id) == ("u", "run-1")


async def test_a_rejection_is_an_outcome_and_its_cause_the_validators_error() -> None:
    client, _ = client_of(updated(COMPLETED, outcome(error=ValueError("too much"))))
    handle = await client.get_workflow_handle("w").start_update(Counter.add, 3, wait_for_stage=ACCEPTED)
    with pytest.raises(WorkflowUpdateFailedError, match="too much") as caught:
        await handle.result()
    assert isinstance(caught.value.cause, ApplicationError)


async def test_a_handle_by_id_polls() -> None:
    client, service = client_of(polled(outcome(1)), polled(outcome("text")))
    workflow_handle = client.get_workflow_handle("w", run_id="run-9")
    assert await workflow_handle.get_update_handle_for(Counter.add, "u").result() == 1
    assert service.requests[0].update_ref.workflow_execution.run_id == "run-9"
    with pytest.raises(ConversionError):
        await workflow_handle.get_update_handle("u", result_type=int).result()


async def test_a_wait_ends_when_its_time_is_over() -> None:
    client, _ = client_of(None, None, updated(ACCEPTED), None)
    handle = client.get_workflow_handle("w")
    moment = timedelta(milliseconds=5)
    with pytest.raises(WorkflowUpdateRPCTimeoutOrCancelledError):
        await handle.execute_update(Counter.add, 3, rpc_timeout=moment)
    with pytest.raises(WorkflowUpdateRPCTimeoutOrCancelledError):
        await handle.start_update(Counter.add, 3, wait_for_stage=ACCEPTED, rpc_timeout=moment)
    update = await handle.start_update(Counter.add, 3, wait_for_stage=ACCEPTED)
    with pytest.raises(WorkflowUpdateRPCTimeoutOrCancelledError):
        await update.result(rpc_timeout=moment)


async def test_a_cancelled_caller_is_cancelled() -> None:
    client, _ = client_of(None)
    waiting = asyncio.create_task(client.get_workflow_handle("w").execute_update(Counter.add, 3))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


@pytest.mark.parametrize("code", [StatusCode.DEADLINE_EXCEEDED, StatusCode.CANCELLED])
async def test_a_call_the_service_gave_up_is_told_as_such(code: StatusCode) -> None:
    client, _ = client_of(RpcError(code, "gone"))
    with pytest.raises(WorkflowUpdateRPCTimeoutOrCancelledError):
        await client.get_workflow_handle("w").execute_update(Counter.add, 3)


async def test_refusals_are_the_clients_errors() -> None:
    client, _ = client_of(RpcError(StatusCode.NOT_FOUND, "no such workflow"))
    with pytest.raises(WorkflowNotFoundError):
        await client.get_workflow_handle("w").execute_update(Counter.add, 3)


async def test_what_cannot_be_asked_is_refused_at_once() -> None:
    client, service = client_of()
    handle = client.get_workflow_handle("w")
    with pytest.raises(ValueError, match="may be lost"):
        await handle.start_update(Counter.add, 3, wait_for_stage=ADMITTED)
    with pytest.raises(TypeError, match="takes 1 argument"):
        await handle.execute_update(Counter.add)  # type: ignore[call-overload]
    with pytest.raises(ConversionError):
        await handle.execute_update(Counter.add, "x")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not an update handler"):
        await handle.execute_update(Counter.stop)
    with pytest.raises(InvalidNameError):
        await handle.execute_update(Counter.add, 3, id="")
    with pytest.raises(InvalidNameError):
        handle.get_update_handle("")
    assert not service.requests


# With a start.


def starting(**options: Any) -> WithStartWorkflowOperation[int]:
    options = {"id": "w", "id_conflict_policy": WorkflowIDConflictPolicy.USE_EXISTING, **options}
    return WithStartWorkflowOperation(Counter.run, 1, **options)


def both(stage: WorkflowUpdateStage, result: m.Outcome | None = None) -> m.ExecuteMultiOperationResponse:
    response = m.ExecuteMultiOperationResponse()
    response.responses.add().start_workflow.run_id = "run-1"
    response.responses.add().update_workflow.CopyFrom(updated(stage, result))
    return response


async def test_an_update_with_a_start_is_one_call() -> None:
    client, service = client_of(both(ADMITTED), both(COMPLETED, outcome(4)))
    operation = starting(task_queue="counters")
    called = client.execute_update_with_start_workflow(Counter.add, 3, start_workflow_operation=operation, id="u")
    assert await called == 4
    handle = await operation.workflow_handle()
    assert (handle.id, handle.first_execution_run_id) == ("w", "run-1")
    start, update = service.requests[0].operations
    assert start.start_workflow.workflow_id == update.update_workflow.workflow_execution.workflow_id == "w"
    assert start.start_workflow.task_queue.name == "counters"
    assert update.update_workflow.request.meta.update_id == "u"
    with pytest.raises(RuntimeError, match="used once"):
        await client.execute_update_with_start_workflow(Counter.add, 3, start_workflow_operation=operation)


async def test_the_handle_of_a_started_update_is_of_its_run() -> None:
    client, _ = client_of(both(ACCEPTED), polled(outcome(4)))
    handle = await client.start_update_with_start_workflow(
        Counter.add, 3, start_workflow_operation=starting(), wait_for_stage=ACCEPTED
    )
    assert handle.workflow_run_id == "run-1"
    assert await handle.result() == 4


def refusal(*statuses: tuple[StatusCode, str, Message | None]) -> RpcError:
    failure = m.MultiOperationExecutionFailure()
    for code, message, detail in statuses:
        status = failure.statuses.add(code=code, message=message)
        if detail is not None:
            packed = Packed()
            packed.Pack(detail)
            status.details.append(packed)
    return RpcError(StatusCode.INVALID_ARGUMENT, "the operation failed", failure)


async def test_the_operation_that_failed_says_why_for_both() -> None:
    aborted = (StatusCode.ABORTED, "given up", m.MultiOperationExecutionAborted())
    taken = m.WorkflowExecutionAlreadyStartedFailure(run_id="run-0")
    client, _ = client_of(
        refusal((StatusCode.ALREADY_EXISTS, "there is one", taken), aborted),
        refusal(aborted, (StatusCode.INVALID_ARGUMENT, "no such thing", None)),
    )
    first = starting(id_conflict_policy=WorkflowIDConflictPolicy.FAIL)
    with pytest.raises(WorkflowAlreadyStartedError) as caught:
        await client.execute_update_with_start_workflow(Counter.add, 3, start_workflow_operation=first)
    assert caught.value.run_id == "run-0"
    with pytest.raises(WorkflowAlreadyStartedError):
        await first.workflow_handle()
    with pytest.raises(InvalidRequestError, match="no such thing"):
        await client.execute_update_with_start_workflow(Counter.add, 3, start_workflow_operation=starting())


async def test_a_start_without_id_or_conflict_policy_is_refused() -> None:
    policy = WorkflowIDConflictPolicy.USE_EXISTING
    with pytest.raises(ValueError, match="give an id"):
        WithStartWorkflowOperation(Counter.run, 1, id_conflict_policy=policy)
    with pytest.raises(ValueError, match="give id_conflict_policy"):
        WithStartWorkflowOperation(Counter.run, 1, id="w")
    with pytest.raises(TypeError, match="no start_signal"):
        WithStartWorkflowOperation(Counter.run, 1, id="w", id_conflict_policy=policy, start_signal="s")
