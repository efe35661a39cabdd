"""What operators do to one workflow: delete it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.api import messages as m
from perdure.client.calls import call

if TYPE_CHECKING:
    from perdure.client.client import Client

__all__ = ["OperatedHandle"]


class OperatedHandle:
    """The part of `WorkflowHandle` for operators."""

    _client: Client
    id: str
    run_id: str | None

    async def delete(self) -> None:
        """Remove the run with its history: the one the handle names, or the current one. A running one is terminated.

        Raises:
            WorkflowNotFoundError: there is no such workflow.
        """
        request = m.DeleteWorkflowExecutionRequest(
            namespace=self._client.namespace,
            workflow_execution=m.WorkflowExecution(workflow_id=self.id, run_id=self.run_id or ""),
        )
        await call(self._client.service.delete_workflow_execution, request, workflow_id=self.id)
