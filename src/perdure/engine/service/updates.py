"""Updates: requests to a run that are validated by its worker, recorded and answered."""

from __future__ import annotations

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.engine.service.base import ServiceTopic

__all__ = ["UpdateTopic"]


class UpdateTopic(ServiceTopic):
    """UpdateWorkflowExecution, PollWorkflowExecutionUpdate and ExecuteMultiOperation."""

    async def update_workflow_execution(
        self, request: m.UpdateWorkflowExecutionRequest, *, timeout_s: float | None = None
    ) -> m.UpdateWorkflowExecutionResponse:
        """Raises RpcError UNIMPLEMENTED."""
        self.check(request.namespace)
        raise _unsupported()

    async def poll_workflow_execution_update(
        self, request: m.PollWorkflowExecutionUpdateRequest, *, timeout_s: float | None = None
    ) -> m.PollWorkflowExecutionUpdateResponse:
        """Raises RpcError UNIMPLEMENTED."""
        self.check(request.namespace)
        raise _unsupported()

    async def execute_multi_operation(
        self, request: m.ExecuteMultiOperationRequest, *, timeout_s: float | None = None
    ) -> m.ExecuteMultiOperationResponse:
        """Raises RpcError UNIMPLEMENTED."""
        self.check(request.namespace)
        raise _unsupported()


def _unsupported() -> RpcError:
    return RpcError(StatusCode.UNIMPLEMENTED, "updates are not supported by this engine; send a signal instead")
