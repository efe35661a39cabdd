"""What a client's calls raise, and how a refusal from the other side of the seam becomes one of these.

`ServiceError` and its subclasses wrap an `RpcError` (kept as ``cause``) and say what to do next. The workflow errors
say how a workflow ended, or why it could not be asked.
"""

from __future__ import annotations

from perdure.api import EngineStoppedError, RpcError, StatusCode
from perdure.api import messages as m
from perdure.exceptions import PerdureError, WorkflowAlreadyStartedError

__all__ = [
    "AsyncActivityCancelledError",
    "AsyncActivityNotFoundError",
    "InvalidRequestError",
    "NamespaceNotFoundError",
    "RPCError",
    "RPCTimeoutOrCancelledError",
    "ResourceExhaustedError",
    "ScheduleAlreadyRunningError",
    "ScheduleNotFoundError",
    "ServiceError",
    "ServiceUnavailableError",
    "WorkflowContinuedAsNewError",
    "WorkflowFailureError",
    "WorkflowNotFoundError",
    "WorkflowQueryFailedError",
    "WorkflowQueryRejectedError",
    "WorkflowUpdateFailedError",
    "WorkflowUpdateRPCTimeoutOrCancelledError",
    "translate",
]


class ServiceError(PerdureError):
    """A call was refused or failed.

    Attributes:
        status: the gRPC status code.
        message: what went wrong and what to do next.
    """

    def __init__(self, message: str, status: StatusCode) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


RPCError = ServiceError
"""The name `temporalio.service` gives it."""


class WorkflowNotFoundError(ServiceError):
    """No workflow with this id exists, or the call needs a running one and it has closed."""


class ScheduleNotFoundError(ServiceError):
    """No schedule with this id exists."""


class ScheduleAlreadyRunningError(PerdureError):
    """A schedule with this id exists. Choose another id, or update or delete the one there is."""

    def __init__(self, schedule_id: str) -> None:
        super().__init__(f"schedule {schedule_id!r} exists already: choose another id, or update or delete it")
        self.schedule_id = schedule_id


class NamespaceNotFoundError(ServiceError):
    """The namespace does not exist."""


class InvalidRequestError(ServiceError):
    """An argument of the call is out of bounds; repeating the call as it is cannot help."""


class ResourceExhaustedError(ServiceError):
    """The disk is full or a limit is reached. Nothing was changed; try again when there is room."""


class ServiceUnavailableError(ServiceError):
    """The engine has stopped or cannot write just now. Whether the call took effect is unknown.

    Calls carry request ids, so repeating one with the same workflow id is safe.
    """


class WorkflowFailureError(PerdureError):
    """The workflow did not complete. `cause` says how it ended: the error it failed with, or that it was cancelled,
    terminated, or timed out."""

    def __init__(self, *, cause: BaseException, workflow_id: str = "") -> None:
        named = f"workflow {workflow_id!r}" if workflow_id else "the workflow"
        super().__init__(f"{named} did not complete: {type(cause).__name__}: {cause}")
        self.__cause__ = cause
        self.workflow_id = workflow_id


class WorkflowContinuedAsNewError(PerdureError):
    """The run continued as a new one, and the call does not follow runs.

    Attributes:
        new_execution_run_id: the run it continued as.
    """

    def __init__(self, new_execution_run_id: str) -> None:
        super().__init__(f"the run continued as new run {new_execution_run_id}; use result(follow_runs=True)")
        self.new_execution_run_id = new_execution_run_id


class WorkflowQueryRejectedError(PerdureError):
    """The query's reject condition holds for the workflow's status (a `WorkflowExecutionStatus`, or None)."""

    def __init__(self, status: int | None) -> None:
        super().__init__(f"query rejected: the workflow's status is {status}")
        self.status = status


class WorkflowQueryFailedError(PerdureError):
    """The query handler raised, or there is none of that name; a cause, where known, is the handler's error."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class WorkflowUpdateFailedError(PerdureError):
    """The update did not succeed. `cause` says why: its validator's or handler's error, or that its workflow closed."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(f"the update did not succeed: {type(cause).__name__}: {cause}")
        self.__cause__ = cause


class RPCTimeoutOrCancelledError(PerdureError):
    """A call was given up before its answer came."""


class WorkflowUpdateRPCTimeoutOrCancelledError(RPCTimeoutOrCancelledError):
    """Waiting for an update was given up, by the call's own timeout or by the service. The update itself goes on.

    A caller who is cancelled gets asyncio's own CancelledError.
    """

    def __init__(self) -> None:
        super().__init__("the wait for the update was given up; the update itself is not touched by that")


class AsyncActivityCancelledError(PerdureError):
    """The activity should stop; report it with `AsyncActivityHandle.report_cancellation`."""

    def __init__(self) -> None:
        super().__init__("the activity's cancellation was requested; answer with report_cancellation()")


class AsyncActivityNotFoundError(ServiceError):
    """The activity is not running any more (completed, timed out, or its workflow closed), or never was."""


_CLOSED = "workflow execution already completed"
"""What the engine says where a running workflow is needed and the one there has closed."""

_SHOWN_CHARS = 100

_NEXT_STEP = {
    StatusCode.NOT_FOUND: "check the workflow id and the database or namespace",
    StatusCode.RESOURCE_EXHAUSTED: "nothing was changed; make room or lower the load, and call again",
    StatusCode.UNAVAILABLE: "call again; request ids make that safe",
}

_CLASSES: dict[StatusCode, type[ServiceError]] = {
    StatusCode.NOT_FOUND: WorkflowNotFoundError,
    StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    StatusCode.ALREADY_EXISTS: InvalidRequestError,
    StatusCode.RESOURCE_EXHAUSTED: ResourceExhaustedError,
    StatusCode.UNAVAILABLE: ServiceUnavailableError,
}


def translate(error: RpcError, *, workflow_id: str = "", workflow_type: str = "") -> PerdureError:
    """The client's error for a refusal; raise it from `error`."""
    for detail in error.details:
        if isinstance(detail, m.WorkflowExecutionAlreadyStartedFailure):
            return WorkflowAlreadyStartedError(
                workflow_id,
                workflow_type,
                run_id=detail.run_id or None,
                first_run_id=detail.first_execution_run_id or None,
            )
        if isinstance(detail, m.MultiOperationExecutionFailure):
            told = _told_by(detail)
            if told is not None:
                return translate(told, workflow_id=workflow_id, workflow_type=workflow_type)
        if isinstance(detail, m.NamespaceNotFoundFailure):
            return NamespaceNotFoundError(f"{error.message}; register it or connect to another", error.code)
    if error.code is StatusCode.ALREADY_EXISTS and workflow_id:
        return WorkflowAlreadyStartedError(workflow_id, workflow_type)
    named = not workflow_id or repr(workflow_id) in error.message
    message = error.message if named else f"workflow {_shown(workflow_id)}: {error.message}"
    told = error.message == _CLOSED or isinstance(error, EngineStoppedError)
    step = None if told else _NEXT_STEP.get(error.code)
    return _CLASSES.get(error.code, ServiceError)(f"{message} ({step})" if step else message, error.code)


def _told_by(failure: m.MultiOperationExecutionFailure) -> RpcError | None:
    """Why the first operation failed that was not merely given up because of another."""
    aborted = m.MultiOperationExecutionAborted.DESCRIPTOR
    for status in failure.statuses:
        if status.code == StatusCode.OK or any(packed.Is(aborted) for packed in status.details):
            continue
        details: list[m.WorkflowExecutionAlreadyStartedFailure] = []
        started = m.WorkflowExecutionAlreadyStartedFailure()
        for packed in status.details:
            if packed.Unpack(started):
                details.append(started)
        return RpcError(StatusCode(status.code), status.message, *details)
    return None


def _shown(workflow_id: str) -> str:
    """An id for a message, which an overlong one must not flood."""
    return repr(workflow_id if len(workflow_id) <= _SHOWN_CHARS else f"{workflow_id[:_SHOWN_CHARS]}…")
