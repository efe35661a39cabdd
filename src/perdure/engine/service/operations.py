"""What operators do to single workflows: reset, delete and pause them, change their options."""

from __future__ import annotations

from perdure.api import messages as m
from perdure.api.durations import set_timestamp_ms
from perdure.engine import history
from perdure.engine.resets import reset_workflow
from perdure.engine.service.base import ServiceTopic, invalid
from perdure.engine.slot import Slot

__all__ = ["OperationTopic"]


class OperationTopic(ServiceTopic):
    """Reset, delete, pause and unpause workflows, and update their options."""

    async def reset_workflow_execution(
        self, request: m.ResetWorkflowExecutionRequest
    ) -> m.ResetWorkflowExecutionResponse:
        """Take up a workflow at an earlier point of its history, in a new run.

        Raises:
            RpcError: NOT_FOUND, INVALID_ARGUMENT, UNIMPLEMENTED (a post-reset option), DATA_LOSS.
        """
        self.check(request.namespace)
        base = await self.find_run(request.namespace, request.workflow_execution)
        slot = await reset_workflow(self.shard, self.reader, base, request)
        run_id = slot.run.state.run_id
        await self.wait_durable(slot)
        return m.ResetWorkflowExecutionResponse(run_id=run_id)

    async def delete_workflow_execution(
        self, request: m.DeleteWorkflowExecutionRequest
    ) -> m.DeleteWorkflowExecutionResponse:
        """Delete a run, the current one if none is named; an open one is terminated first.

        Raises:
            RpcError: NOT_FOUND.
        """
        self.check(request.namespace)
        slot = await self.find_run(request.namespace, request.workflow_execution)
        await self.shard.erasing.delete(slot, "history-service")
        return m.DeleteWorkflowExecutionResponse()

    async def update_workflow_execution_options(
        self, request: m.UpdateWorkflowExecutionOptionsRequest
    ) -> m.UpdateWorkflowExecutionOptionsResponse:
        """Change what the update mask names. Raises RpcError NOT_FOUND, INVALID_ARGUMENT, UNIMPLEMENTED."""
        self.check(request.namespace)
        slot = await self.find_run(request.namespace, request.workflow_execution)
        await self.transact(
            slot,
            history.update_options,
            request.workflow_execution_options,
            list(request.update_mask.paths),
            identity=request.identity,
        )
        slot.activity_head = b""  # It says the priority that held.
        response = m.UpdateWorkflowExecutionOptionsResponse()
        response.workflow_execution_options.CopyFrom(history.options_of(slot.run.state))
        set_timestamp_ms(response.update_time, self.clock.now_ms())
        return response

    async def pause_workflow_execution(
        self, request: m.PauseWorkflowExecutionRequest
    ) -> m.PauseWorkflowExecutionResponse:
        """Hand nothing of a workflow out any more. Raises RpcError NOT_FOUND, FAILED_PRECONDITION (it is paused)."""
        self.check(request.namespace)
        execution = m.WorkflowExecution(workflow_id=request.workflow_id, run_id=request.run_id)
        slot = await self.find_run(request.namespace, execution)
        await self.transact(slot, history.pause_run, request, limits=self.limits)
        return m.PauseWorkflowExecutionResponse()

    async def unpause_workflow_execution(
        self, request: m.UnpauseWorkflowExecutionRequest
    ) -> m.UnpauseWorkflowExecutionResponse:
        """Let a workflow go on. Raises RpcError NOT_FOUND, FAILED_PRECONDITION (it is not paused)."""
        self.check(request.namespace)
        execution = m.WorkflowExecution(workflow_id=request.workflow_id, run_id=request.run_id)
        slot = await self.find_run(request.namespace, execution)
        await self.transact(slot, history.unpause_run, request, limits=self.limits)
        return m.UnpauseWorkflowExecutionResponse()

    async def find_run(self, namespace: str, execution: m.WorkflowExecution) -> Slot:
        """The run a caller speaks of."""
        if not execution.workflow_id:
            raise invalid("the workflow id is missing")
        return await self.cache.find(namespace, execution.workflow_id, execution.run_id)
