"""Batches: one operation on every workflow that a list filter finds, done by the service, durably, in the background.

`Client.start_batch` says what and to which; the handle tells how far it has come. The service works through the
workflows at a bounded rate, and counts what it did and what it could not do.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Protocol, cast

from perdure.api import messages as m
from perdure.api.durations import datetime_of_ms, timestamp_ms
from perdure.client.calls import call
from perdure.client.operations import ResetReapplyExcludeType, ResetType
from perdure.client.options import handler_target

if TYPE_CHECKING:
    from perdure.client.client import Client
    from perdure.client.handle import WorkflowHandle

__all__ = [
    "BatchCalls",
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
]

_FIRST_WAIT_S = 0.05
_LONGEST_WAIT_S = 2.0


class BatchOperation(Protocol):
    """What a batch does to each workflow."""

    def apply(self, request: m.StartBatchOperationRequest, client: Client) -> None:
        """Write it into the request that starts the batch."""
        ...


@dataclass(frozen=True, slots=True)
class BatchSignal:
    """Send a signal, named by its handler method or its name."""

    signal: str | Callable[..., Any]
    args: Sequence[Any] = ()

    def apply(self, request: m.StartBatchOperationRequest, client: Client) -> None:
        """Write it into the request.

        Raises:
            TypeError: wrong number of arguments.
            ConversionError: an argument is not what the handler's hint says.
        """
        target = handler_target(self.signal, "signal")
        operation = request.signal_operation
        operation.signal = target.name
        operation.identity = client.identity
        if self.args or target.definition is not None:
            operation.input.CopyFrom(target.encode(client.data_converter, self.args))


@dataclass(frozen=True, slots=True)
class BatchCancel:
    """Ask to stop."""

    def apply(self, request: m.StartBatchOperationRequest, client: Client) -> None:
        """Write it into the request."""
        request.cancellation_operation.identity = client.identity


@dataclass(frozen=True, slots=True)
class BatchTerminate:
    """End at once, without asking the code."""

    details: Sequence[Any] = ()

    def apply(self, request: m.StartBatchOperationRequest, client: Client) -> None:
        """Write it into the request."""
        request.termination_operation.identity = client.identity
        if self.details:
            request.termination_operation.details.CopyFrom(client.data_converter.to_payloads(self.details))


@dataclass(frozen=True, slots=True)
class BatchDelete:
    """Remove the run with its history."""

    def apply(self, request: m.StartBatchOperationRequest, client: Client) -> None:
        """Write it into the request."""
        request.deletion_operation.identity = client.identity


@dataclass(frozen=True, slots=True)
class BatchReset:
    """Take back to an earlier point; see `WorkflowHandle.reset`."""

    to: ResetType = ResetType.LAST_WORKFLOW_TASK
    exclude: Sequence[ResetReapplyExcludeType] = ()

    def apply(self, request: m.StartBatchOperationRequest, client: Client) -> None:
        """Write it into the request."""
        operation = request.reset_operation
        operation.identity = client.identity
        if self.to is ResetType.FIRST_WORKFLOW_TASK:
            operation.options.first_workflow_task.SetInParent()
        else:
            operation.options.last_workflow_task.SetInParent()
        operation.options.reset_reapply_exclude_types.extend(kind.value for kind in self.exclude)  # pyright: ignore[reportArgumentType] - an open enum is an int


class BatchState(IntEnum):
    """How a batch stands."""

    RUNNING = 1
    COMPLETED = 2
    FAILED = 3
    """It was stopped, or could not be carried out."""


def _moment(message: Any, field: str) -> datetime | None:
    return datetime_of_ms(timestamp_ms(getattr(message, field))) if message.HasField(field) else None


def _state(number: int) -> BatchState | None:
    return BatchState(number) if number in BatchState._value2member_map_ else None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSummary:
    """A batch in short."""

    id: str
    state: BatchState | None
    start_time: datetime | None
    close_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchDescription(BatchSummary):
    """A batch in detail.

    Attributes:
        total: how many workflows it has to do with.
        completed: how many are done.
        failed: how many could not be done.
        identity: who started it.
        reason: why.
        raw: the message it was made from.
    """

    total: int
    completed: int
    failed: int
    identity: str
    reason: str
    raw: m.DescribeBatchOperationResponse


class BatchHandle:
    """One batch.

    Attributes:
        id: its id.
    """

    def __init__(self, client: Client, id: str) -> None:
        self._client = client
        self.id = id

    def __repr__(self) -> str:
        return f"<BatchHandle {self.id!r}>"

    async def describe(self) -> BatchDescription:
        """How it stands.

        Raises:
            ServiceError: there is no such batch.
        """
        client = self._client
        request = m.DescribeBatchOperationRequest(namespace=client.namespace, job_id=self.id)
        response = await call(client.service.describe_batch_operation, request)
        return BatchDescription(
            id=response.job_id,
            state=_state(response.state),
            start_time=_moment(response, "start_time"),
            close_time=_moment(response, "close_time"),
            total=response.total_operation_count,
            completed=response.complete_operation_count,
            failed=response.failure_operation_count,
            identity=response.identity,
            reason=response.reason,
            raw=response,
        )

    async def result(self) -> BatchDescription:
        """Wait until it is over, however it ended; it is asked again and again, ever more rarely."""
        wait_s = _FIRST_WAIT_S
        while (described := await self.describe()).state is BatchState.RUNNING:
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, _LONGEST_WAIT_S)
        return described

    async def stop(self, reason: str) -> None:
        """Stop it; what it has done stays done.

        Raises:
            ServiceError: there is no such batch.
        """
        client = self._client
        request = m.StopBatchOperationRequest(
            namespace=client.namespace, job_id=self.id, reason=reason, identity=client.identity
        )
        await call(client.service.stop_batch_operation, request)


class BatchCalls:
    """The part of `Client` that starts batches and finds them again."""

    async def start_batch(
        self,
        operation: BatchOperation,
        *,
        query: str | None = None,
        workflows: Sequence[str | WorkflowHandle[Any]] = (),
        reason: str,
        id: str | None = None,
        max_operations_per_second: float | None = None,
    ) -> BatchHandle:
        """Do one thing to many workflows; returns once the batch is durable.

            batch = await client.start_batch(BatchCancel(), query="WorkflowType = 'import'", reason="bad data")
            print((await batch.result()).completed)

        Args:
            operation: `BatchSignal`, `BatchCancel`, `BatchTerminate`, `BatchDelete` or `BatchReset`.
            query: a list filter that finds them; the running ones where that is all an operation can be done to.
            workflows: or the workflows themselves, as ids or handles.
            reason: why, for whoever looks at the batch or at one of the workflows.
            id: makes starting idempotent; a random one when None.
            max_operations_per_second: how fast; the service's own bound when None.

        Raises:
            ValueError: not exactly one of `query` and `workflows` is given.
            InvalidRequestError: the filter cannot be read.
        """
        if bool(query) == bool(workflows):
            raise ValueError("give either query or workflows, to say which workflows are meant")
        client = cast("Client", self)
        request = m.StartBatchOperationRequest(
            namespace=client.namespace,
            visibility_query=query or "",
            job_id=id or str(uuid.uuid4()),
            reason=reason,
            max_operations_per_second=max_operations_per_second or 0.0,
        )
        for one in workflows:
            if isinstance(one, str):
                request.executions.add(workflow_id=one)
            else:
                request.executions.add(workflow_id=one.id, run_id=one.run_id or "")
        operation.apply(request, client)
        await call(client.service.start_batch_operation, request)
        return BatchHandle(client, request.job_id)

    def get_batch_handle(self, id: str) -> BatchHandle:
        """A handle to a batch by its id. Asks nobody."""
        return BatchHandle(cast("Client", self), id)

    async def list_batches(self, *, page_size: int = 100) -> AsyncIterator[BatchSummary]:
        """Batches of the namespace, newest first: ``async for batch in client.list_batches()``."""
        client = cast("Client", self)
        token: bytes | None = b""
        while token is not None:
            request = m.ListBatchOperationsRequest(
                namespace=client.namespace, page_size=page_size, next_page_token=token
            )
            response = await call(client.service.list_batch_operations, request)
            for info in response.operation_info:
                yield BatchSummary(
                    id=info.job_id,
                    state=_state(info.state),
                    start_time=_moment(info, "start_time"),
                    close_time=_moment(info, "close_time"),
                )
            token = response.next_page_token or None
