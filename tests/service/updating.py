"""Short forms of updates: the calls of a client, and the messages of a worker."""

from __future__ import annotations

import asyncio
from typing import Any

from perdure.api import messages as m
from tests.service.support import NAMESPACE, Driver, payloads, turns

STAGE = m.UpdateWorkflowExecutionLifecycleStage
ADMITTED = STAGE.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_ADMITTED
ACCEPTED = STAGE.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_ACCEPTED
COMPLETED = STAGE.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_COMPLETED


def update_request(
    workflow_id: str = "wf", update_id: str = "u", *, stage: int = COMPLETED, run_id: str = "", text: str = "in"
) -> m.UpdateWorkflowExecutionRequest:
    """An update."""
    request = m.UpdateWorkflowExecutionRequest(namespace=NAMESPACE)
    request.workflow_execution.workflow_id = workflow_id
    request.workflow_execution.run_id = run_id
    request.wait_policy.lifecycle_stage = STAGE.ValueType(stage)
    request.request.meta.update_id = update_id
    request.request.meta.identity = "client"
    request.request.input.name = "set"
    request.request.input.args.CopyFrom(payloads(text))
    return request


async def begin(
    driver: Driver, *arguments: Any, timeout_s: float | None = None, **fields: Any
) -> asyncio.Task[m.UpdateWorkflowExecutionResponse]:
    """An update under way."""
    request = update_request(*arguments, **fields)
    task = asyncio.ensure_future(driver.service.update_workflow_execution(request, timeout_s=timeout_s))
    await turns()
    return task


def poll_request(
    workflow_id: str = "wf", update_id: str = "u", *, stage: int = COMPLETED, run_id: str = ""
) -> m.PollWorkflowExecutionUpdateRequest:
    """A poll of an update."""
    request = m.PollWorkflowExecutionUpdateRequest(namespace=NAMESPACE, identity="client")
    request.update_ref.workflow_execution.workflow_id = workflow_id
    request.update_ref.workflow_execution.run_id = run_id
    request.update_ref.update_id = update_id
    request.wait_policy.lifecycle_stage = STAGE.ValueType(stage)
    return request


def both(
    driver: Driver, workflow_id: str = "wf", update_id: str = "u", *, stage: int = COMPLETED, **fields: Any
) -> m.ExecuteMultiOperationRequest:
    """An update-with-start; `fields` are the start's."""
    request = m.ExecuteMultiOperationRequest(namespace=NAMESPACE)
    request.operations.add().start_workflow.CopyFrom(driver.start_request(workflow_id, **fields))
    request.operations.add().update_workflow.CopyFrom(update_request(workflow_id, update_id, stage=stage))
    return request


def _message(kind: str, update_id: str, body: Any) -> m.Message:
    found = m.Message(id=f"{update_id}/request/{kind}", protocol_instance_id=update_id)
    found.body.Pack(body)
    return found


def acceptance(update_id: str = "u") -> m.Message:
    return _message("accept", update_id, m.Acceptance(accepted_request_message_id=f"{update_id}/request"))


def rejection(update_id: str = "u", text: str = "no") -> m.Message:
    return _message("reject", update_id, m.Rejection(failure=m.Failure(message=text)))


def response(update_id: str = "u", text: str = "out") -> m.Message:
    body = m.Response(outcome=m.Outcome(success=payloads(text)))
    body.meta.update_id = update_id
    return _message("complete", update_id, body)


def place(said: m.Message) -> m.Command:
    """The command that marks the place of a message."""
    command = m.Command(command_type=m.CommandType.COMMAND_TYPE_PROTOCOL_MESSAGE)
    command.protocol_message_command_attributes.message_id = said.id
    return command


async def say(
    driver: Driver,
    task: m.PollWorkflowTaskQueueResponse,
    *said: m.Message,
    also: tuple[m.Command, ...] = (),
    **fields: Any,
) -> m.RespondWorkflowTaskCompletedResponse:
    """Complete a task with these messages in their places, and then these commands."""
    places = [place(each) for each in said if not each.body.Is(m.Rejection.DESCRIPTOR)]
    return await driver.complete(task, *places, *also, messages=said, **fields)


async def idle(driver: Driver, **fields: Any) -> str:
    """A run whose first workflow task is done; its run id."""
    run_id = await driver.start(**fields)
    await driver.step()
    return run_id
