"""The client: starts workflows and finds them again.

A client talks to one namespace of one `WorkflowService`. `Client.connect` opens the service for a target; a client made
by hand is given one. Every call either returns or raises an error of `perdure.client.errors` or `perdure.exceptions`.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, TypeVarTuple, Unpack, overload

from perdure import local
from perdure.api import StatusCode, WorkflowService
from perdure.api import messages as m
from perdure.client.administration import AdministrationCalls
from perdure.client.async_activity import AsyncActivityHandle, AsyncActivityIDReference
from perdure.client.batches import BatchCalls
from perdure.client.calls import call
from perdure.client.descriptions import (
    WorkflowExecution,
    WorkflowExecutionCount,
    WorkflowExecutionCountAggregationGroup,
)
from perdure.client.eager import find_taker
from perdure.client.errors import ServiceError, translate
from perdure.client.handle import WorkflowHandle
from perdure.client.options import (
    DEFAULT_TASK_QUEUE,
    StartOptions,
    Target,
    handler_target,
    signal_with_start_request,
    start_request,
    workflow_target,
)
from perdure.client.schedules import ScheduleCalls
from perdure.client.with_start import UpdateWithStartCalls
from perdure.converter import CodecService, DataConverter, default
from perdure.exceptions import PerdureError
from perdure.replay.checks import check_text
from perdure.transport import KeepAliveConfig, ServerOptions, TLSConfig

__all__ = ["Client"]

_KEEP_ALIVE = KeepAliveConfig()
ReturnT = TypeVar("ReturnT")
Ts = TypeVarTuple("Ts")


class Client(UpdateWithStartCalls, BatchCalls, ScheduleCalls, AdministrationCalls):
    """Starts, finds, signals, queries and stops workflows.

    Example::

        client = await Client.connect("orders.db")
        handle = await client.start_workflow(fulfil, order, id=f"order-{order.id}")
        receipt = await handle.result()
    """

    def __init__(
        self,
        service: WorkflowService,
        *,
        namespace: str = "default",
        data_converter: DataConverter | None = None,
        identity: str | None = None,
        task_queue: str = DEFAULT_TASK_QUEUE,
        lease: local.Lease | None = None,
    ) -> None:
        """Make a client of a service; `Client.connect` is the usual way.

        Args:
            service: where workflows live.
            namespace: which namespace of it.
            data_converter: converts values; the default reads and writes what Temporal's SDKs do.
            identity: who is calling, for histories; process id and host by default.
            task_queue: where workflows are started unless the call says otherwise.
            lease: released by `close`.
        """
        self.data_converter = data_converter or default()
        codec = self.data_converter.payload_codec
        self.raw_service = service
        self.service = CodecService.around(service, codec) if codec is not None else service
        self.namespace = namespace
        self.identity = identity or f"{os.getpid()}@{socket.gethostname()}"
        self.task_queue = task_queue
        self._lease = lease

    @classmethod
    async def connect(
        cls,
        target: str | os.PathLike[str],
        *,
        namespace: str = "default",
        data_converter: DataConverter | None = None,
        identity: str | None = None,
        task_queue: str = DEFAULT_TASK_QUEUE,
        limits: local.Limits | None = None,
        tls: bool | TLSConfig | None = None,
        api_key: str | None = None,
        rpc_metadata: Mapping[str, str | bytes] | None = None,
        keep_alive_config: KeepAliveConfig | None = _KEEP_ALIVE,
    ) -> Self:
        """Open a client for a target.

        Args:
            target: ``"sqlite:orders.db"`` or a path: a database file, created if missing; processes that open it share
                it. ``"memory:"``: kept nowhere. ``"host:7233"``, ``"http://…"`` or ``"https://…"``: a server, Perdure's
                or a Temporal one. One engine serves all clients of a file or memory in this process.
            namespace: which namespace.
            data_converter: as in the constructor.
            identity: as in the constructor.
            task_queue: as in the constructor.
            limits: bounds of the target's engine, such as ``Limits(pending_activities=10_000)``; the defaults, or what
                it has been opened with, when None. A server has its own.
            tls: of a server: whether, and how, to encrypt; by default as the address says, and with an API key.
            api_key: of a server: sent with every call.
            rpc_metadata: of a server: sent with every call.
            keep_alive_config: of a server: when an idle connection is tried; None = never.

        Raises:
            ValueError: the target has no such form, or is none that the options suit.
            DatabaseError: the database cannot be opened; the subclass and message say why and what to do.
            ServiceUnavailableError: the server cannot be reached.
        """
        lease = await local.open_service(
            target, limits=limits, server=_server_options(tls, api_key, rpc_metadata, keep_alive_config)
        )
        client = cls(
            lease.service,
            namespace=namespace,
            data_converter=data_converter,
            identity=identity,
            task_queue=task_queue,
            lease=lease,
        )
        if lease.is_remote:
            await client._introduce()
        return client

    async def _introduce(self) -> None:
        """See that the server is there and takes our calls. Closes the client if not."""
        try:
            await call(self.raw_service.get_system_info, m.GetSystemInfoRequest())
        except ServiceError as error:
            if error.status is not StatusCode.UNIMPLEMENTED:
                await self.close()
                raise
        except BaseException:
            await self.close()
            raise

    @property
    def is_last(self) -> bool:
        """Whether closing this client stops the engine of its target."""
        return self._lease is not None and self._lease.is_last

    @property
    def is_remote(self) -> bool:
        """Whether calls go to a server rather than to an engine of this process or machine."""
        return self._lease is not None and self._lease.is_remote

    async def wait_failed(self) -> PerdureError:
        """Wait until the target's engine has failed for good, e.g. because its disk has; answers why.

        Ends never for a client that was made of a service by hand.
        """
        if self._lease is None:
            return await asyncio.get_running_loop().create_future()
        refusal = await self._lease.wait_failed()
        error = translate(refusal)
        error.__cause__ = refusal
        return error

    async def close(self) -> None:
        """Let go of the target's engine; the last client to do so stops it. Harmless to repeat."""
        lease, self._lease = self._lease, None
        if lease is not None:
            await lease.release()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @overload
    async def start_workflow(
        self,
        workflow: Callable[[Unpack[Ts]], Awaitable[ReturnT]],
        *arguments: *Ts,
        **options: Unpack[StartOptions],
    ) -> WorkflowHandle[ReturnT]: ...

    @overload
    async def start_workflow(
        self,
        workflow: Callable[[Any, Unpack[Ts]], Awaitable[ReturnT]],
        *arguments: *Ts,
        **options: Unpack[StartOptions],
    ) -> WorkflowHandle[ReturnT]: ...

    @overload
    async def start_workflow(
        self,
        workflow: Callable[..., Awaitable[ReturnT]],
        *,
        args: Sequence[Any],
        **options: Unpack[StartOptions],
    ) -> WorkflowHandle[ReturnT]: ...

    @overload
    async def start_workflow(
        self,
        workflow: str | type[Any],
        *arguments: Any,
        args: Sequence[Any] = (),
        result_type: type[ReturnT],
        **options: Unpack[StartOptions],
    ) -> WorkflowHandle[ReturnT]: ...

    @overload
    async def start_workflow(
        self, workflow: str | type[Any], *arguments: Any, args: Sequence[Any] = (), **options: Unpack[StartOptions]
    ) -> WorkflowHandle[Any]: ...

    async def start_workflow(
        self,
        workflow: Any,
        *arguments: Any,
        args: Sequence[Any] = (),
        result_type: Any = None,
        **options: Unpack[StartOptions],
    ) -> WorkflowHandle[Any]:
        """Start a workflow; returns once that is durable.

        Args:
            workflow: its function, its class's run method, its class, or its type's name.
            arguments: what it takes; or as a sequence in `args`.
            args: see `arguments`.
            result_type: the result's type, where `workflow` is a name.
            options: see `StartOptions`.

        Raises:
            WorkflowAlreadyStartedError: the id policies forbid another workflow of this id.
            TypeError: wrong number of arguments, or an unknown option.
            InvalidNameError: the id is empty or not valid Unicode.
            ConversionError: an argument is not what the workflow's hint says.
        """
        target = workflow_target(workflow)
        return await self._start(target, arguments or tuple(args), result_type, options)

    async def _start(
        self, target: Target, args: Sequence[Any], result_type: Any, options: StartOptions
    ) -> WorkflowHandle[Any]:
        converter = self.data_converter
        options.setdefault("task_queue", self.task_queue)
        request = start_request(
            target, args, options, namespace=self.namespace, identity=self.identity, converter=converter
        )
        workflow_id = request.workflow_id
        signal = options.get("start_signal")
        if signal is not None:
            signal_name = handler_target(signal, "signal").name
            combined = signal_with_start_request(request, signal_name, options.get("start_signal_args", ()), converter)
            answer = await call(
                self.service.signal_with_start_workflow_execution,
                combined,
                workflow_id=workflow_id,
                workflow_type=target.name,
            )
            run_id = answer.run_id
        else:
            run_id = await self._start_plainly(request, eager=options.get("request_eager_start", False))
        return WorkflowHandle(
            self,
            workflow_id,
            result_run_id=run_id,
            first_execution_run_id=run_id,
            result_type=result_type if result_type is not None else target.return_type,
        )

    async def _start_plainly(self, request: m.StartWorkflowExecutionRequest, *, eager: bool) -> str:
        """Start a workflow, and give its first task to a worker of this process if it comes along; the run's id."""
        taker = find_taker(self.raw_service, request) if eager else None
        request.request_eager_execution = taker is not None
        workflow_id, workflow_type = request.workflow_id, request.workflow_type.name
        first: m.PollWorkflowTaskQueueResponse | None = None
        try:
            start = self.service.start_workflow_execution
            response = await call(start, request, workflow_id=workflow_id, workflow_type=workflow_type)
            first = response.eager_workflow_task if response.HasField("eager_workflow_task") else None
        finally:
            if taker is not None:
                taker.take(first)
        return response.run_id

    @overload
    async def execute_workflow(
        self,
        workflow: Callable[[Unpack[Ts]], Awaitable[ReturnT]],
        *arguments: *Ts,
        **options: Unpack[StartOptions],
    ) -> ReturnT: ...

    @overload
    async def execute_workflow(
        self,
        workflow: Callable[[Any, Unpack[Ts]], Awaitable[ReturnT]],
        *arguments: *Ts,
        **options: Unpack[StartOptions],
    ) -> ReturnT: ...

    @overload
    async def execute_workflow(
        self,
        workflow: Callable[..., Awaitable[ReturnT]],
        *,
        args: Sequence[Any],
        **options: Unpack[StartOptions],
    ) -> ReturnT: ...

    @overload
    async def execute_workflow(
        self,
        workflow: str | type[Any],
        *arguments: Any,
        args: Sequence[Any] = (),
        result_type: type[ReturnT],
        **options: Unpack[StartOptions],
    ) -> ReturnT: ...

    @overload
    async def execute_workflow(
        self, workflow: str | type[Any], *arguments: Any, args: Sequence[Any] = (), **options: Unpack[StartOptions]
    ) -> Any: ...

    async def execute_workflow(
        self,
        workflow: Any,
        *arguments: Any,
        args: Sequence[Any] = (),
        result_type: Any = None,
        **options: Unpack[StartOptions],
    ) -> Any:
        """Start a workflow and wait for its result; raises what `start_workflow` and `WorkflowHandle.result` do."""
        target = workflow_target(workflow)
        handle = await self._start(target, arguments or tuple(args), result_type, options)
        return await handle.result()

    @overload
    def get_workflow_handle(
        self,
        workflow_id: str,
        *,
        run_id: str | None = None,
        first_execution_run_id: str | None = None,
        result_type: type[ReturnT],
    ) -> WorkflowHandle[ReturnT]: ...

    @overload
    def get_workflow_handle(
        self,
        workflow_id: str,
        *,
        run_id: str | None = None,
        first_execution_run_id: str | None = None,
        result_type: None = None,
    ) -> WorkflowHandle[Any]: ...

    def get_workflow_handle(
        self,
        workflow_id: str,
        *,
        run_id: str | None = None,
        first_execution_run_id: str | None = None,
        result_type: type[Any] | None = None,
    ) -> WorkflowHandle[Any]:
        """A handle to a workflow by its id. Asks nobody: whether it exists shows when the handle is used.

        Raises:
            InvalidNameError, TypeError: the id cannot be one.
        """
        check_text(workflow_id, "the workflow id")
        return WorkflowHandle(
            self,
            workflow_id,
            run_id=run_id,
            result_run_id=run_id,
            first_execution_run_id=first_execution_run_id,
            result_type=result_type,
        )

    def get_workflow_handle_for(
        self,
        workflow: Callable[..., Awaitable[ReturnT]],
        workflow_id: str,
        *,
        run_id: str | None = None,
        first_execution_run_id: str | None = None,
    ) -> WorkflowHandle[ReturnT]:
        """A handle to a workflow by its id, typed by its function or run method; otherwise as `get_workflow_handle`."""
        check_text(workflow_id, "the workflow id")
        return WorkflowHandle(
            self,
            workflow_id,
            run_id=run_id,
            result_run_id=run_id,
            first_execution_run_id=first_execution_run_id,
            result_type=workflow_target(workflow).return_type,
        )

    def list_workflows(
        self, query: str | None = None, *, page_size: int = 1000, limit: int | None = None
    ) -> AsyncIterator[WorkflowExecution]:
        """Workflows that match a list filter: ``async for workflow in client.list_workflows(…)``.

        Those that run come first, the newest of them before others, then those that closed, the last of them first;
        ``ORDER BY`` in the filter orders them otherwise.

        Args:
            query: e.g. ``"WorkflowType = 'fulfil' AND ExecutionStatus = 'Running'"``; all when None.
            page_size: how many are fetched at once.
            limit: how many at most.

        Raises:
            InvalidRequestError: the filter cannot be read.
        """
        return _ExecutionIterator(self, query or "", page_size, limit)

    async def count_workflows(self, query: str | None = None) -> WorkflowExecutionCount:
        """How many workflows match a list filter.

        Raises:
            InvalidRequestError: the filter cannot be read.
        """
        request = m.CountWorkflowExecutionsRequest(namespace=self.namespace, query=query or "")
        response = await call(self.service.count_workflow_executions, request)
        groups = [
            WorkflowExecutionCountAggregationGroup(
                count=group.count, group_values=self.data_converter.from_payloads(group.group_values)
            )
            for group in response.groups
        ]
        return WorkflowExecutionCount(count=response.count, groups=groups)

    def get_async_activity_handle(
        self,
        *,
        task_token: bytes | None = None,
        workflow_id: str | None = None,
        run_id: str | None = None,
        activity_id: str | None = None,
    ) -> AsyncActivityHandle:
        """A handle to an activity that ended with `activity.raise_complete_async`, by its task token or its ids.

        Raises:
            ValueError: neither a token nor both ids.
        """
        if task_token is not None:
            return AsyncActivityHandle(self, task_token)
        if workflow_id is None or activity_id is None:
            raise ValueError("give task_token, or workflow_id and activity_id")
        reference = AsyncActivityIDReference(workflow_id=workflow_id, run_id=run_id, activity_id=activity_id)
        return AsyncActivityHandle(self, reference)


def _server_options(
    tls: bool | TLSConfig | None,
    api_key: str | None,
    rpc_metadata: Mapping[str, str | bytes] | None,
    keep_alive: KeepAliveConfig | None,
) -> ServerOptions | None:
    """What was said about a server; None if nothing was."""
    if tls is None and api_key is None and rpc_metadata is None and keep_alive is _KEEP_ALIVE:
        return None
    return ServerOptions(tls=tls, api_key=api_key, rpc_metadata=dict(rpc_metadata or {}), keep_alive=keep_alive)


class _ExecutionIterator(AsyncIterator[WorkflowExecution]):
    """Pages through a list of workflows."""

    def __init__(self, client: Client, query: str, page_size: int, limit: int | None) -> None:
        self._client = client
        self._query = query
        self._page_size = page_size
        self._left = limit
        self._page: Sequence[m.WorkflowExecutionInfo] = ()
        self._next = 0
        self._token: bytes | None = b""

    async def __anext__(self) -> WorkflowExecution:
        if self._left is not None and self._left <= 0:
            raise StopAsyncIteration
        while self._next >= len(self._page):
            if self._token is None:
                raise StopAsyncIteration
            request = m.ListWorkflowExecutionsRequest(
                namespace=self._client.namespace,
                page_size=self._page_size,
                next_page_token=self._token,
                query=self._query,
            )
            response = await call(self._client.service.list_workflow_executions, request)
            self._page, self._next = response.executions, 0
            self._token = response.next_page_token or None
        self._next += 1
        if self._left is not None:
            self._left -= 1
        return WorkflowExecution.of(self._page[self._next - 1], self._client.data_converter)
