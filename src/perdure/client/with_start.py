"""An update to a workflow that is started first if need be, both in one call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar, TypeVarTuple, Unpack, cast, overload

from perdure.api import messages as m
from perdure.client.calls import call
from perdure.client.handle import WorkflowHandle
from perdure.client.options import StartOptions, handler_target, start_request, workflow_target
from perdure.client.updates import WorkflowUpdateHandle, WorkflowUpdateStage, update_request, within
from perdure.common import WorkflowIDConflictPolicy

if TYPE_CHECKING:
    from perdure.client.client import Client

__all__ = ["UpdateWithStartCalls", "WithStartWorkflowOperation"]

ReturnT = TypeVar("ReturnT")
ResultT = TypeVar("ResultT")
Ts = TypeVarTuple("Ts")


class WithStartWorkflowOperation(Generic[ReturnT]):
    """The start of a workflow that `Client.execute_update_with_start_workflow` combines with an update; used once.

    Example::

        start = WithStartWorkflowOperation(
            Cart.run, id="cart-7", id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING
        )
        total = await client.execute_update_with_start_workflow(Cart.add, item, start_workflow_operation=start)
        cart = await start.workflow_handle()
    """

    @overload
    def __init__(
        self,
        workflow: Callable[[Unpack[Ts]], Awaitable[ReturnT]],
        *arguments: *Ts,
        **options: Unpack[StartOptions],
    ) -> None: ...

    @overload
    def __init__(
        self,
        workflow: Callable[[Any, Unpack[Ts]], Awaitable[ReturnT]],
        *arguments: *Ts,
        **options: Unpack[StartOptions],
    ) -> None: ...

    @overload
    def __init__(
        self,
        workflow: Callable[..., Awaitable[ReturnT]],
        *,
        args: Sequence[Any],
        **options: Unpack[StartOptions],
    ) -> None: ...

    @overload
    def __init__(
        self,
        workflow: str | type[Any],
        *arguments: Any,
        args: Sequence[Any] = (),
        result_type: type[ReturnT] | None = None,
        **options: Unpack[StartOptions],
    ) -> None: ...

    def __init__(
        self,
        workflow: Any,
        *arguments: Any,
        args: Sequence[Any] = (),
        result_type: Any = None,
        **options: Unpack[StartOptions],
    ) -> None:
        """Say what to start; arguments and options are those of `Client.start_workflow`.

        Raises:
            ValueError: no id, or no `id_conflict_policy` to say what happens if it runs already.
            TypeError: `start_signal` is given: the update takes its place.
        """
        if not options.get("id"):
            raise ValueError("give an id: it says which workflow gets the update if it runs already")
        if options.get("id_conflict_policy", WorkflowIDConflictPolicy.UNSPECIFIED) is (
            WorkflowIDConflictPolicy.UNSPECIFIED
        ):
            raise ValueError("give id_conflict_policy: it says what happens if a workflow of this id runs already")
        if options.get("start_signal") is not None:
            raise TypeError("an update with a start takes no start_signal")
        self._target = workflow_target(workflow)
        self._args = arguments or tuple(args)
        self._options = options
        self._result_type = result_type if result_type is not None else self._target.return_type
        self._started: asyncio.Future[WorkflowHandle[ReturnT]] | None = None
        self._used = False

    @property
    def id(self) -> str:
        """The workflow's id."""
        return self._options.get("id", "")

    async def workflow_handle(self) -> WorkflowHandle[ReturnT]:
        """Wait until the workflow runs, and answer its handle; raises what the call with the update raised if not."""
        return await asyncio.shield(self._outcome())

    def _outcome(self) -> asyncio.Future[WorkflowHandle[ReturnT]]:
        if self._started is None:
            self._started = asyncio.get_running_loop().create_future()
        return self._started

    def take_request(self, client: Client) -> m.StartWorkflowExecutionRequest:
        """The request that starts the workflow.

        Raises:
            RuntimeError: the operation has been used.
            TypeError, ConversionError, InvalidNameError: as for `Client.start_workflow`.
        """
        if self._used:
            raise RuntimeError("a WithStartWorkflowOperation is used once: make a new one")
        self._used = True
        self._options.setdefault("task_queue", client.task_queue)
        return start_request(
            self._target,
            self._args,
            self._options,
            namespace=client.namespace,
            identity=client.identity,
            converter=client.data_converter,
        )

    def succeed(self, client: Client, run_id: str) -> None:
        """The workflow runs."""
        outcome = self._outcome()
        if not outcome.done():
            handle = WorkflowHandle[ReturnT](
                client,
                self.id,
                result_run_id=run_id,
                first_execution_run_id=run_id,
                result_type=self._result_type,
            )
            outcome.set_result(handle)

    def fail(self, error: BaseException) -> None:
        """The call has failed."""
        outcome = self._outcome()
        if not outcome.done():
            if isinstance(error, asyncio.CancelledError):
                outcome.cancel()
            else:
                outcome.set_exception(error)
                outcome.exception()  # Whoever made the call has it already.


class UpdateWithStartCalls:
    """The part of `Client` that starts workflows with an update."""

    @overload
    async def execute_update_with_start_workflow(
        self,
        update: Callable[[Any, Unpack[Ts]], Awaitable[ResultT]],
        *args: *Ts,
        start_workflow_operation: WithStartWorkflowOperation[Any],
        id: str | None = None,
        rpc_timeout: timedelta | None = None,
    ) -> ResultT: ...

    @overload
    async def execute_update_with_start_workflow(
        self,
        update: Callable[[Any, Unpack[Ts]], ResultT],
        *args: *Ts,
        start_workflow_operation: WithStartWorkflowOperation[Any],
        id: str | None = None,
        rpc_timeout: timedelta | None = None,
    ) -> ResultT: ...

    @overload
    async def execute_update_with_start_workflow(
        self,
        update: str | Callable[..., Any],
        *arguments: Any,
        args: Sequence[Any] = (),
        start_workflow_operation: WithStartWorkflowOperation[Any],
        id: str | None = None,
        result_type: type[ResultT],
        rpc_timeout: timedelta | None = None,
    ) -> ResultT: ...

    @overload
    async def execute_update_with_start_workflow(
        self,
        update: str,
        *arguments: Any,
        args: Sequence[Any] = (),
        start_workflow_operation: WithStartWorkflowOperation[Any],
        id: str | None = None,
        rpc_timeout: timedelta | None = None,
    ) -> Any: ...

    async def execute_update_with_start_workflow(
        self,
        update: Any,
        *arguments: Any,
        args: Sequence[Any] = (),
        start_workflow_operation: WithStartWorkflowOperation[Any],
        id: str | None = None,
        result_type: Any = None,
        rpc_timeout: timedelta | None = None,
    ) -> Any:
        """Send an update to a workflow, starting it first if need be, and wait for the update's result.

        Raises:
            WorkflowUpdateFailedError: the update was rejected or failed; see its ``cause``.
            WorkflowAlreadyStartedError: the operation's id policies forbid it.
            WorkflowUpdateRPCTimeoutOrCancelledError: the time has passed.
            RuntimeError: the operation has been used.
        """
        async with within(rpc_timeout):
            handle = await self._update_with_start(
                update,
                arguments or tuple(args),
                start_workflow_operation,
                id,
                result_type,
                WorkflowUpdateStage.COMPLETED,
            )
            return await handle.result()

    @overload
    async def start_update_with_start_workflow(
        self,
        update: Callable[[Any, Unpack[Ts]], Awaitable[ResultT]],
        *args: *Ts,
        start_workflow_operation: WithStartWorkflowOperation[Any],
        wait_for_stage: WorkflowUpdateStage,
        id: str | None = None,
        rpc_timeout: timedelta | None = None,
    ) -> WorkflowUpdateHandle[ResultT]: ...

    @overload
    async def start_update_with_start_workflow(
        self,
        update: Callable[[Any, Unpack[Ts]], ResultT],
        *args: *Ts,
        start_workflow_operation: WithStartWorkflowOperation[Any],
        wait_for_stage: WorkflowUpdateStage,
        id: str | None = None,
        rpc_timeout: timedelta | None = None,
    ) -> WorkflowUpdateHandle[ResultT]: ...

    @overload
    async def start_update_with_start_workflow(
        self,
        update: str | Callable[..., Any],
        *arguments: Any,
        args: Sequence[Any] = (),
        start_workflow_operation: WithStartWorkflowOperation[Any],
        wait_for_stage: WorkflowUpdateStage,
        id: str | None = None,
        result_type: type[ResultT],
        rpc_timeout: timedelta | None = None,
    ) -> WorkflowUpdateHandle[ResultT]: ...

    @overload
    async def start_update_with_start_workflow(
        self,
        update: str,
        *arguments: Any,
        args: Sequence[Any] = (),
        start_workflow_operation: WithStartWorkflowOperation[Any],
        wait_for_stage: WorkflowUpdateStage,
        id: str | None = None,
        rpc_timeout: timedelta | None = None,
    ) -> WorkflowUpdateHandle[Any]: ...

    async def start_update_with_start_workflow(
        self,
        update: Any,
        *arguments: Any,
        args: Sequence[Any] = (),
        start_workflow_operation: WithStartWorkflowOperation[Any],
        wait_for_stage: WorkflowUpdateStage,
        id: str | None = None,
        result_type: Any = None,
        rpc_timeout: timedelta | None = None,
    ) -> WorkflowUpdateHandle[Any]:
        """As `execute_update_with_start_workflow`, returning once the update has come as far as `wait_for_stage`."""
        async with within(rpc_timeout):
            return await self._update_with_start(
                update, arguments or tuple(args), start_workflow_operation, id, result_type, wait_for_stage
            )

    async def _update_with_start(
        self,
        update: Any,
        args: Sequence[Any],
        operation: WithStartWorkflowOperation[Any],
        id: str | None,
        result_type: Any,
        stage: WorkflowUpdateStage,
    ) -> WorkflowUpdateHandle[Any]:
        client = cast("Client", self)
        target = handler_target(update, "update")
        execution = m.WorkflowExecution(workflow_id=operation.id)
        asked = update_request(client, target, args, execution, id=id, stage=stage)
        request = m.ExecuteMultiOperationRequest(namespace=client.namespace)
        request.operations.add().start_workflow.CopyFrom(operation.take_request(client))
        request.operations.add().update_workflow.CopyFrom(asked)
        try:
            updated = await self._execute_both(client, operation, request)
        except BaseException as error:
            operation.fail(error)
            raise
        handle = WorkflowUpdateHandle[Any](
            client,
            asked.request.meta.update_id,
            operation.id,
            workflow_run_id=updated.update_ref.workflow_execution.run_id or None,
            result_type=result_type if result_type is not None else target.return_type,
            known_outcome=updated.outcome if updated.HasField("outcome") else None,
        )
        if stage == WorkflowUpdateStage.COMPLETED:
            await handle.wait_outcome()
        return handle

    async def _execute_both(
        self, client: Client, operation: WithStartWorkflowOperation[Any], request: m.ExecuteMultiOperationRequest
    ) -> m.UpdateWorkflowExecutionResponse:
        start = request.operations[0].start_workflow
        while True:
            response = await call(
                client.service.execute_multi_operation,
                request,
                workflow_id=start.workflow_id,
                workflow_type=start.workflow_type.name,
            )
            operation.succeed(client, response.responses[0].start_workflow.run_id)
            updated = response.responses[1].update_workflow
            if updated.stage >= WorkflowUpdateStage.ACCEPTED:
                return updated
