"""Updates as a client sees them: asked for through a workflow's handle, answered through their own.

An update is durable once the workflow has accepted it, so asking returns at that stage at the earliest. Until then the
request is repeated whenever a wait has come to its end: its id makes the repetition the same update. A rejected update
counts as completed, with the validator's error as its outcome.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Generic, TypeVar, TypeVarTuple, Unpack, overload

from perdure.api import StatusCode
from perdure.api import messages as m
from perdure.client.calls import call
from perdure.client.errors import ServiceError, WorkflowUpdateFailedError, WorkflowUpdateRPCTimeoutOrCancelledError
from perdure.client.options import Target, handler_target
from perdure.replay.checks import check_text

if TYPE_CHECKING:
    from perdure.client.client import Client

__all__ = ["UpdatingHandle", "WorkflowUpdateHandle", "WorkflowUpdateStage", "update_request", "within"]

ResultT = TypeVar("ResultT")
Ts = TypeVarTuple("Ts")

_GIVEN_UP = frozenset({StatusCode.DEADLINE_EXCEEDED, StatusCode.CANCELLED})


class WorkflowUpdateStage(IntEnum):
    """How far an update has come."""

    ADMITTED = 1
    """It has been received, and would not survive a crash."""
    ACCEPTED = 2
    """The workflow has accepted it: it is in the history."""
    COMPLETED = 3
    """It has an outcome."""


class WorkflowUpdateHandle(Generic[ResultT]):
    """One update.

    Attributes:
        id: the update's id.
        workflow_id: whose update it is.
        workflow_run_id: of which run; None = the current one.
    """

    def __init__(
        self,
        client: Client,
        id: str,
        workflow_id: str,
        *,
        workflow_run_id: str | None = None,
        result_type: Any = None,
        known_outcome: m.Outcome | None = None,
    ) -> None:
        self._client = client
        self.id = id
        self.workflow_id = workflow_id
        self.workflow_run_id = workflow_run_id
        self._result_type = result_type
        self._outcome = known_outcome

    def __repr__(self) -> str:
        return f"<WorkflowUpdateHandle {self.id!r} of {self.workflow_id!r}>"

    async def result(self, *, rpc_timeout: timedelta | None = None) -> ResultT:
        """Wait for the update's outcome.

        Args:
            rpc_timeout: how long to wait; None = until there is one.

        Raises:
            WorkflowUpdateFailedError: it was rejected or failed, or its workflow closed first; see its ``cause``.
            WorkflowUpdateRPCTimeoutOrCancelledError: the time has passed. The update goes on.
            WorkflowNotFoundError: there is no such update.
            ConversionError: the result is not of the expected type.
        """
        async with within(rpc_timeout):
            outcome = await self.wait_outcome()
        converter = self._client.data_converter
        if outcome.HasField("failure"):
            raise WorkflowUpdateFailedError(converter.from_failure(outcome.failure))
        payloads = outcome.success.payloads
        value: Any = converter.from_payload(payloads[0], self._result_type) if payloads else None
        return value

    async def wait_outcome(self) -> m.Outcome:
        """Wait for the outcome as it travelled; raises what `result` does about the call itself."""
        if self._outcome is None:
            execution = m.WorkflowExecution(workflow_id=self.workflow_id, run_id=self.workflow_run_id or "")
            request = m.PollWorkflowExecutionUpdateRequest(
                namespace=self._client.namespace,
                update_ref=m.UpdateRef(workflow_execution=execution, update_id=self.id),
                identity=self._client.identity,
                wait_policy=_wait_for(WorkflowUpdateStage.COMPLETED),
            )
            poll = self._client.service.poll_workflow_execution_update
            while self._outcome is None:
                response = await call(poll, request, workflow_id=self.workflow_id)
                if response.HasField("outcome"):
                    self._outcome = response.outcome
        return self._outcome


@asynccontextmanager
async def within(rpc_timeout: timedelta | None) -> AsyncGenerator[None]:
    """Bound the time that calls about an update take.

    Raises:
        WorkflowUpdateRPCTimeoutOrCancelledError: it has passed, or the service gave the call up.
    """
    limit = asyncio.timeout(rpc_timeout.total_seconds() if rpc_timeout is not None else None)
    try:
        async with limit:
            yield
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise WorkflowUpdateRPCTimeoutOrCancelledError from error
    except ServiceError as error:
        if error.status not in _GIVEN_UP:
            raise
        raise WorkflowUpdateRPCTimeoutOrCancelledError from error


def _wait_for(stage: WorkflowUpdateStage) -> m.WaitPolicy:
    return m.WaitPolicy(lifecycle_stage=stage.value)  # pyright: ignore[reportArgumentType] - an open enum is an int


def update_request(
    client: Client,
    target: Target,
    args: Sequence[Any],
    execution: m.WorkflowExecution,
    *,
    id: str | None,
    stage: WorkflowUpdateStage,
    first_execution_run_id: str | None = None,
) -> m.UpdateWorkflowExecutionRequest:
    """The request that asks for an update.

    Raises:
        ValueError: it would return before the update is durable.
        TypeError: wrong number of arguments.
        InvalidNameError: the id is empty or not valid Unicode.
        ConversionError: an argument is not what the handler's hint says.
    """
    if stage < WorkflowUpdateStage.ACCEPTED:
        raise ValueError("an update that is only admitted may be lost: wait for ACCEPTED or COMPLETED")
    if id is not None:
        check_text(id, "the update's id")
    request = m.UpdateWorkflowExecutionRequest(
        namespace=client.namespace,
        workflow_execution=execution,
        first_execution_run_id=first_execution_run_id or "",
        wait_policy=_wait_for(stage),
    )
    request.request.meta.update_id = id or str(uuid.uuid4())
    request.request.meta.identity = client.identity
    request.request.input.name = target.name
    if args or target.definition is not None:
        request.request.input.args.CopyFrom(target.encode(client.data_converter, args))
    return request


class UpdatingHandle:
    """The part of `WorkflowHandle` that asks for updates."""

    _client: Client
    id: str
    run_id: str | None
    first_execution_run_id: str | None

    @overload
    async def execute_update(
        self,
        update: Callable[[Any, Unpack[Ts]], Awaitable[ResultT]],
        *args: *Ts,
        id: str | None = None,
        rpc_timeout: timedelta | None = None,
    ) -> ResultT: ...

    @overload
    async def execute_update(
        self,
        update: Callable[[Any, Unpack[Ts]], ResultT],
        *args: *Ts,
        id: str | None = None,
        rpc_timeout: timedelta | None = None,
    ) -> ResultT: ...

    @overload
    async def execute_update(
        self,
        update: Callable[..., Awaitable[ResultT]],
        *,
        args: Sequence[Any],
        id: str | None = None,
        rpc_timeout: timedelta | None = None,
    ) -> ResultT: ...

    @overload
    async def execute_update(
        self,
        update: Callable[..., ResultT],
        *,
        args: Sequence[Any],
        id: str | None = None,
        rpc_timeout: timedelta | None = None,
    ) -> ResultT: ...

    @overload
    async def execute_update(
        self,
        update: str,
        *arguments: Any,
        args: Sequence[Any] = (),
        id: str | None = None,
        result_type: type[ResultT],
        rpc_timeout: timedelta | None = None,
    ) -> ResultT: ...

    @overload
    async def execute_update(
        self,
        update: str,
        *arguments: Any,
        args: Sequence[Any] = (),
        id: str | None = None,
        rpc_timeout: timedelta | None = None,
    ) -> Any: ...

    async def execute_update(
        self,
        update: Any,
        *arguments: Any,
        args: Sequence[Any] = (),
        id: str | None = None,
        result_type: Any = None,
        rpc_timeout: timedelta | None = None,
    ) -> Any:
        """Ask for an update, named by its handler method or its name, and wait for its result.

        Raises:
            WorkflowUpdateFailedError: it was rejected or failed; see its ``cause``.
            WorkflowUpdateRPCTimeoutOrCancelledError: the time has passed; whether the workflow accepts it is unknown.
            WorkflowNotFoundError: the workflow does not exist or has closed.
            ConversionError: an argument is not what the handler's hint says.
        """
        async with within(rpc_timeout):
            handle = await self._start_update(
                update, arguments or tuple(args), id, result_type, WorkflowUpdateStage.COMPLETED
            )
            return await handle.result()

    @overload
    async def start_update(
        self,
        update: Callable[[Any, Unpack[Ts]], Awaitable[ResultT]],
        *args: *Ts,
        wait_for_stage: WorkflowUpdateStage,
        id: str | None = None,
        rpc_timeout: timedelta | None = None,
    ) -> WorkflowUpdateHandle[ResultT]: ...

    @overload
    async def start_update(
        self,
        update: Callable[[Any, Unpack[Ts]], ResultT],
        *args: *Ts,
        wait_for_stage: WorkflowUpdateStage,
        id: str | None = None,
        rpc_timeout: timedelta | None = None,
    ) -> WorkflowUpdateHandle[ResultT]: ...

    @overload
    async def start_update(
        self,
        update: Callable[..., Awaitable[ResultT]],
        *,
        args: Sequence[Any],
        wait_for_stage: WorkflowUpdateStage,
        id: str | None = None,
        rpc_timeout: timedelta | None = None,
    ) -> WorkflowUpdateHandle[ResultT]: ...

    @overload
    async def start_update(
        self,
        update: Callable[..., ResultT],
        *,
        args: Sequence[Any],
        wait_for_stage: WorkflowUpdateStage,
        id: str | None = None,
        rpc_timeout: timedelta | None = None,
    ) -> WorkflowUpdateHandle[ResultT]: ...

    @overload
    async def start_update(
        self,
        update: str,
        *arguments: Any,
        args: Sequence[Any] = (),
        wait_for_stage: WorkflowUpdateStage,
        id: str | None = None,
        result_type: type[ResultT],
        rpc_timeout: timedelta | None = None,
    ) -> WorkflowUpdateHandle[ResultT]: ...

    @overload
    async def start_update(
        self,
        update: str,
        *arguments: Any,
        args: Sequence[Any] = (),
        wait_for_stage: WorkflowUpdateStage,
        id: str | None = None,
        rpc_timeout: timedelta | None = None,
    ) -> WorkflowUpdateHandle[Any]: ...

    async def start_update(
        self,
        update: Any,
        *arguments: Any,
        args: Sequence[Any] = (),
        wait_for_stage: WorkflowUpdateStage,
        id: str | None = None,
        result_type: Any = None,
        rpc_timeout: timedelta | None = None,
    ) -> WorkflowUpdateHandle[Any]:
        """Ask for an update, and return once it has come as far as `wait_for_stage`.

        A rejected update is COMPLETED: the handle's `result` raises why.

        Args:
            update: its handler method, or its name.
            arguments: what it takes; or as a sequence in `args`.
            args: see `arguments`.
            wait_for_stage: ACCEPTED or COMPLETED.
            id: the update's id, which makes a repetition of the call the same update; a random one when None.
            result_type: the result's type, where `update` is a name.
            rpc_timeout: how long to wait; None = as long as it takes.

        Raises:
            WorkflowUpdateRPCTimeoutOrCancelledError: the time has passed; whether the workflow accepts it is unknown.
            WorkflowNotFoundError: the workflow does not exist or has closed.
            ConversionError: an argument is not what the handler's hint says.
        """
        async with within(rpc_timeout):
            return await self._start_update(update, arguments or tuple(args), id, result_type, wait_for_stage)

    async def _start_update(
        self, update: Any, args: Sequence[Any], id: str | None, result_type: Any, stage: WorkflowUpdateStage
    ) -> WorkflowUpdateHandle[Any]:
        target = handler_target(update, "update")
        request = update_request(
            self._client,
            target,
            args,
            m.WorkflowExecution(workflow_id=self.id, run_id=self.run_id or ""),
            id=id,
            stage=stage,
            first_execution_run_id=self.first_execution_run_id,
        )
        method = self._client.service.update_workflow_execution
        response = await call(method, request, workflow_id=self.id)
        while response.stage < WorkflowUpdateStage.ACCEPTED:
            response = await call(method, request, workflow_id=self.id)
        handle = WorkflowUpdateHandle[Any](
            self._client,
            request.request.meta.update_id,
            self.id,
            workflow_run_id=response.update_ref.workflow_execution.run_id or self.run_id,
            result_type=result_type if result_type is not None else target.return_type,
            known_outcome=response.outcome if response.HasField("outcome") else None,
        )
        if stage == WorkflowUpdateStage.COMPLETED:
            await handle.wait_outcome()
        return handle

    @overload
    def get_update_handle(
        self, id: str, *, workflow_run_id: str | None = None, result_type: type[ResultT]
    ) -> WorkflowUpdateHandle[ResultT]: ...

    @overload
    def get_update_handle(
        self, id: str, *, workflow_run_id: str | None = None, result_type: None = None
    ) -> WorkflowUpdateHandle[Any]: ...

    def get_update_handle(
        self, id: str, *, workflow_run_id: str | None = None, result_type: Any = None
    ) -> WorkflowUpdateHandle[Any]:
        """A handle to an update by its id. Asks nobody: whether it exists shows when the handle is used.

        Raises:
            InvalidNameError, TypeError: the id cannot be one.
        """
        check_text(id, "the update's id")
        return WorkflowUpdateHandle(
            self._client, id, self.id, workflow_run_id=workflow_run_id or self.run_id, result_type=result_type
        )

    @overload
    def get_update_handle_for(
        self, update: Callable[..., Awaitable[ResultT]], id: str, *, workflow_run_id: str | None = None
    ) -> WorkflowUpdateHandle[ResultT]: ...

    @overload
    def get_update_handle_for(
        self, update: Callable[..., ResultT], id: str, *, workflow_run_id: str | None = None
    ) -> WorkflowUpdateHandle[ResultT]: ...

    def get_update_handle_for(
        self, update: Any, id: str, *, workflow_run_id: str | None = None
    ) -> WorkflowUpdateHandle[Any]:
        """As `get_update_handle`, typed by the update's handler."""
        result_type = handler_target(update, "update").return_type
        return self.get_update_handle(id, workflow_run_id=workflow_run_id, result_type=result_type)
