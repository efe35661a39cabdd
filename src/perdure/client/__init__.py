"""Starting workflows and finding them again; see `Client`."""

from perdure.client.administration import (
    TaskQueueDescription,
    TaskQueuePoller,
    TaskQueueStats,
    TaskQueueType,
)
from perdure.client.async_activity import AsyncActivityHandle, AsyncActivityIDReference
from perdure.client.batches import (
    BatchCancel,
    BatchDelete,
    BatchDescription,
    BatchHandle,
    BatchOperation,
    BatchReset,
    BatchSignal,
    BatchState,
    BatchSummary,
    BatchTerminate,
)
from perdure.client.client import Client
from perdure.client.descriptions import (
    WorkflowExecution,
    WorkflowExecutionCount,
    WorkflowExecutionCountAggregationGroup,
    WorkflowExecutionDescription,
    WorkflowExecutionStatus,
)
from perdure.client.errors import (
    AsyncActivityCancelledError,
    AsyncActivityNotFoundError,
    InvalidRequestError,
    NamespaceNotFoundError,
    ResourceExhaustedError,
    RPCError,
    RPCTimeoutOrCancelledError,
    ServiceError,
    ServiceUnavailableError,
    WorkflowContinuedAsNewError,
    WorkflowFailureError,
    WorkflowNotFoundError,
    WorkflowQueryFailedError,
    WorkflowQueryRejectedError,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from perdure.client.handle import WorkflowHandle
from perdure.client.history import WorkflowHistory, WorkflowHistoryEventFilterType
from perdure.client.operations import ResetReapplyExcludeType, ResetType
from perdure.client.options import StartOptions
from perdure.client.updates import WorkflowUpdateHandle, WorkflowUpdateStage
from perdure.client.with_start import WithStartWorkflowOperation
from perdure.exceptions import WorkflowAlreadyStartedError
from perdure.transport import KeepAliveConfig, TLSConfig

__all__ = [
    "AsyncActivityCancelledError",
    "AsyncActivityHandle",
    "AsyncActivityIDReference",
    "AsyncActivityNotFoundError",
    "BatchCancel",
    "BatchDelete",
    "BatchDescription",
    "BatchHandle",
    "BatchOperation",
    "BatchReset",
    "BatchSignal",
    "BatchState",
    "BatchSummary",
    "BatchTerminate",
    "Client",
    "InvalidRequestError",
    "KeepAliveConfig",
    "NamespaceNotFoundError",
    "RPCError",
    "RPCTimeoutOrCancelledError",
    "ResetReapplyExcludeType",
    "ResetType",
    "ResourceExhaustedError",
    "ServiceError",
    "ServiceUnavailableError",
    "StartOptions",
    "TLSConfig",
    "TaskQueueDescription",
    "TaskQueuePoller",
    "TaskQueueStats",
    "TaskQueueType",
    "WithStartWorkflowOperation",
    "WorkflowAlreadyStartedError",
    "WorkflowContinuedAsNewError",
    "WorkflowExecution",
    "WorkflowExecutionCount",
    "WorkflowExecutionCountAggregationGroup",
    "WorkflowExecutionDescription",
    "WorkflowExecutionStatus",
    "WorkflowFailureError",
    "WorkflowHandle",
    "WorkflowHistory",
    "WorkflowHistoryEventFilterType",
    "WorkflowNotFoundError",
    "WorkflowQueryFailedError",
    "WorkflowQueryRejectedError",
    "WorkflowUpdateFailedError",
    "WorkflowUpdateHandle",
    "WorkflowUpdateRPCTimeoutOrCancelledError",
    "WorkflowUpdateStage",
]
