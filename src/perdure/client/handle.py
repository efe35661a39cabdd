"""A handle to one workflow: its result, and everything that can be asked or done to it.

Waiting for a result is a long poll for the run's close event. A run that continued as new, or was retried, names the
run that follows it; `result` goes on there until one is the last.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, TypeVarTuple, Unpack, cast, overload

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.client.calls import call, repeat
from perdure.client.descriptions import WorkflowExecutionDescription, WorkflowExecutionStatus
from perdure.client.errors import (
    WorkflowContinuedAsNewError,
    WorkflowFailureError,
    WorkflowQueryFailedError,
    WorkflowQueryRejectedError,
    translate,
)
from perdure.client.history import WorkflowHistory, WorkflowHistoryEventFilterType
from perdure.client.operations import OperatedHandle
from perdure.client.options import handler_target
from perdure.client.updates import UpdatingHandle
from perdure.common import QueryRejectCondition
from perdure.exceptions import CancelledError, TerminatedError, TimeoutError, TimeoutType

if TYPE_CHECKING:
    from perdure.client.client import Client

__all__ = ["WorkflowHandle"]

ReturnT = TypeVar("ReturnT")
ResultT = TypeVar("ResultT")
Ts = TypeVarTuple("Ts")

_ENDED = m.HistoryEventFilterType.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT


class WorkflowHandle(UpdatingHandle, OperatedHandle, Generic[ReturnT]):
    """One workflow.

    Attributes:
        id: the workflow's id.
        run_id: the run that calls address; None = the current one.
        result_run_id: the run `result` begins with; None = the current one.
        first_execution_run_id: if set, `cancel` and `terminate` refuse when the id has been used for another chain
            of runs since.
    """

    def __init__(
        self,
        client: Client,
        id: str,
        *,
        run_id: str | None = None,
        result_run_id: str | None = None,
        first_execution_run_id: str | None = None,
        result_type: Any = None,
    ) -> None:
        self._client = client
        self.id = id
        self.run_id = run_id
        self.result_run_id = result_run_id
        self.first_execution_run_id = first_execution_run_id
        self._result_type = result_type

    def __repr__(self) -> str:
        return f"<WorkflowHandle {self.id!r}{f' run {self.run_id}' if self.run_id else ''}>"

    def _execution(self, run_id: str | None) -> m.WorkflowExecution:
        return m.WorkflowExecution(workflow_id=self.id, run_id=run_id or "")

    async def result(self, *, follow_runs: bool = True) -> ReturnT:
        """Wait for the workflow's result.

        Args:
            follow_runs: go on with the run that a continue-as-new or a retry started.

        Raises:
            WorkflowFailureError: it failed, was cancelled or terminated, or timed out; see its ``cause``.
            WorkflowContinuedAsNewError: the run continued as new and `follow_runs` is False.
            WorkflowNotFoundError: there is no such workflow.
            ConversionError: the result is not of the expected type.
        """
        run_id = self.result_run_id
        while True:
            event = await self._wait_closed(run_id)
            followed_by, finish = _READERS[event.event_type]
            next_run_id = followed_by(event)
            if not next_run_id or not follow_runs:
                return cast("ReturnT", finish(self, event))
            run_id = next_run_id

    async def _wait_closed(self, run_id: str | None) -> m.HistoryEvent:
        request = m.GetWorkflowExecutionHistoryRequest(
            namespace=self._client.namespace,
            execution=self._execution(run_id),
            wait_new_event=True,
            history_event_filter_type=_ENDED,
        )
        get = self._client.service.get_workflow_execution_history
        while True:
            response = await call(get, request, workflow_id=self.id, patient=self._client.is_remote)
            if response.history.events:
                return response.history.events[-1]
            if not response.next_page_token:
                raise RuntimeError(f"the close event of workflow {self.id!r} is missing from its history")
            # A request handed over belongs to the service: each page asks with one of its own.
            following = m.GetWorkflowExecutionHistoryRequest()
            following.CopyFrom(request)
            following.next_page_token = response.next_page_token
            request = following

    @overload
    async def signal(self, signal: Callable[[Any, Unpack[Ts]], Any], *args: *Ts) -> None: ...

    @overload
    async def signal(self, signal: str | Callable[..., Any], *, args: Sequence[Any]) -> None: ...

    @overload
    async def signal(self, signal: str, *arguments: Any) -> None: ...

    async def signal(self, signal: Any, *arguments: Any, args: Sequence[Any] = ()) -> None:
        """Send a signal, named by its handler method or its name.

        Raises:
            WorkflowNotFoundError: the workflow does not exist or has closed.
            ConversionError: an argument is not what the handler's hint says.
        """
        target = handler_target(signal, "signal")
        given = arguments or tuple(args)
        request = m.SignalWorkflowExecutionRequest(
            namespace=self._client.namespace,
            workflow_execution=self._execution(self.run_id),
            signal_name=target.name,
            input=target.encode(self._client.data_converter, given) if given or target.definition else None,
            identity=self._client.identity,
            request_id=str(uuid.uuid4()),
        )
        await call(self._client.service.signal_workflow_execution, request, workflow_id=self.id)

    @overload
    async def query(
        self,
        query: Callable[[Any, Unpack[Ts]], Awaitable[ResultT]],
        *args: *Ts,
        reject_condition: QueryRejectCondition | None = None,
    ) -> ResultT: ...

    @overload
    async def query(
        self,
        query: Callable[[Any, Unpack[Ts]], ResultT],
        *args: *Ts,
        reject_condition: QueryRejectCondition | None = None,
    ) -> ResultT: ...

    @overload
    async def query(
        self,
        query: Callable[..., Awaitable[ResultT]],
        *,
        args: Sequence[Any],
        reject_condition: QueryRejectCondition | None = None,
    ) -> ResultT: ...

    @overload
    async def query(
        self,
        query: Callable[..., ResultT],
        *,
        args: Sequence[Any],
        reject_condition: QueryRejectCondition | None = None,
    ) -> ResultT: ...

    @overload
    async def query(
        self,
        query: str,
        *arguments: Any,
        args: Sequence[Any] = (),
        reject_condition: QueryRejectCondition | None = None,
        result_type: type[ResultT],
    ) -> ResultT: ...

    @overload
    async def query(
        self,
        query: str,
        *arguments: Any,
        args: Sequence[Any] = (),
        reject_condition: QueryRejectCondition | None = None,
    ) -> Any: ...

    async def query(
        self,
        query: Any,
        *arguments: Any,
        args: Sequence[Any] = (),
        reject_condition: QueryRejectCondition | None = None,
        result_type: Any = None,
    ) -> Any:
        """Ask the workflow, running or closed; the query is named by its handler method or its name.

        Raises:
            WorkflowQueryFailedError: the handler raised, or there is none of that name.
            WorkflowQueryRejectedError: the reject condition holds.
            WorkflowNotFoundError: there is no such workflow.
        """
        target = handler_target(query, "query")
        converter = self._client.data_converter
        request = m.QueryWorkflowRequest(namespace=self._client.namespace, execution=self._execution(self.run_id))
        request.query.query_type = target.name
        request.query.query_args.CopyFrom(target.encode(converter, arguments or tuple(args)))
        if reject_condition is not None:
            request.query_reject_condition = reject_condition.value  # pyright: ignore[reportAttributeAccessIssue] - an open enum is an int
        try:
            response = await repeat(self._client.service.query_workflow, request)
        except RpcError as error:
            raise self._query_error(error) from error
        if response.HasField("query_rejected"):
            raise WorkflowQueryRejectedError(WorkflowExecutionStatus(response.query_rejected.status))
        payloads = response.query_result.payloads
        if not payloads:
            return None
        return converter.from_payload(payloads[0], result_type if result_type is not None else target.return_type)

    def _query_error(self, error: RpcError) -> Exception:
        failed = next((detail for detail in error.details if isinstance(detail, m.QueryFailedFailure)), None)
        if failed is None and error.code is not StatusCode.INVALID_ARGUMENT:
            return translate(error, workflow_id=self.id)
        raised = WorkflowQueryFailedError(error.message)
        if failed is not None and failed.HasField("failure"):
            raised.__context__ = self._client.data_converter.from_failure(failed.failure)
        return raised

    async def cancel(self, *, reason: str = "") -> None:
        """Ask the workflow to stop: its code gets `asyncio.CancelledError` where it waits.

        Raises:
            WorkflowNotFoundError: the workflow does not exist or has closed.
        """
        request = m.RequestCancelWorkflowExecutionRequest(
            namespace=self._client.namespace,
            workflow_execution=self._execution(self.run_id),
            identity=self._client.identity,
            request_id=str(uuid.uuid4()),
            first_execution_run_id=self.first_execution_run_id or "",
            reason=reason,
        )
        await call(self._client.service.request_cancel_workflow_execution, request, workflow_id=self.id)

    async def terminate(self, *details: Any, reason: str | None = None) -> None:
        """End the workflow at once; its code is not asked.

        Raises:
            WorkflowNotFoundError: the workflow does not exist or has closed.
        """
        request = m.TerminateWorkflowExecutionRequest(
            namespace=self._client.namespace,
            workflow_execution=self._execution(self.run_id),
            reason=reason or "",
            identity=self._client.identity,
            first_execution_run_id=self.first_execution_run_id or "",
        )
        if details:
            request.details.CopyFrom(self._client.data_converter.to_payloads(details))
        await call(self._client.service.terminate_workflow_execution, request, workflow_id=self.id)

    async def describe(self) -> WorkflowExecutionDescription:
        """How the workflow stands and what it waits for.

        Raises:
            WorkflowNotFoundError: there is no such workflow.
        """
        request = m.DescribeWorkflowExecutionRequest(
            namespace=self._client.namespace, execution=self._execution(self.run_id)
        )
        response = await call(self._client.service.describe_workflow_execution, request, workflow_id=self.id)
        described = WorkflowExecutionDescription.of(
            response.workflow_execution_info, self._client.data_converter, raw_description=response
        )
        return cast("WorkflowExecutionDescription", described)

    async def fetch_history(
        self, *, event_filter_type: WorkflowHistoryEventFilterType = WorkflowHistoryEventFilterType.ALL_EVENT
    ) -> WorkflowHistory:
        """The whole history so far, in memory.

        Raises:
            WorkflowNotFoundError: there is no such workflow.
        """
        events = [event async for event in self.fetch_history_events(event_filter_type=event_filter_type)]
        return WorkflowHistory(self.id, events)

    def fetch_history_events(
        self,
        *,
        page_size: int = 0,
        wait_new_event: bool = False,
        event_filter_type: WorkflowHistoryEventFilterType = WorkflowHistoryEventFilterType.ALL_EVENT,
    ) -> AsyncIterator[m.HistoryEvent]:
        """The events one by one, fetched in pages; with `wait_new_event` until the run closes.

        Raises:
            WorkflowNotFoundError: there is no such workflow.
        """
        request = m.GetWorkflowExecutionHistoryRequest(
            namespace=self._client.namespace,
            execution=self._execution(self.run_id),
            maximum_page_size=page_size,
            wait_new_event=wait_new_event,
            history_event_filter_type=event_filter_type.value,  # pyright: ignore[reportArgumentType] - an open enum is an int
        )
        return _EventIterator(self._client, self.id, request)


class _EventIterator(AsyncIterator[m.HistoryEvent]):
    """Pages through a history."""

    def __init__(self, client: Client, workflow_id: str, request: m.GetWorkflowExecutionHistoryRequest) -> None:
        self._client = client
        self._workflow_id = workflow_id
        self._request: m.GetWorkflowExecutionHistoryRequest | None = request
        self._page: Sequence[m.HistoryEvent] = ()
        self._next = 0

    async def __anext__(self) -> m.HistoryEvent:
        while self._next >= len(self._page):
            if self._request is None:
                raise StopAsyncIteration
            get = self._client.service.get_workflow_execution_history
            response = await call(get, self._request, workflow_id=self._workflow_id)
            self._page, self._next = response.history.events, 0
            if response.next_page_token:
                following = m.GetWorkflowExecutionHistoryRequest()
                following.CopyFrom(self._request)
                following.next_page_token = response.next_page_token
                self._request = following
            else:
                self._request = None
        self._next += 1
        return self._page[self._next - 1]


def _no_next(event: m.HistoryEvent) -> str:
    return ""


def _next_after_completed(event: m.HistoryEvent) -> str:
    return event.workflow_execution_completed_event_attributes.new_execution_run_id


def _next_after_failed(event: m.HistoryEvent) -> str:
    return event.workflow_execution_failed_event_attributes.new_execution_run_id


def _next_after_timed_out(event: m.HistoryEvent) -> str:
    return event.workflow_execution_timed_out_event_attributes.new_execution_run_id


def _next_after_continued(event: m.HistoryEvent) -> str:
    return event.workflow_execution_continued_as_new_event_attributes.new_execution_run_id


def _completed(handle: WorkflowHandle[Any], event: m.HistoryEvent) -> Any:
    payloads = event.workflow_execution_completed_event_attributes.result.payloads
    if not payloads:
        return None
    return handle._client.data_converter.from_payload(payloads[0], handle._result_type)


def _failed(handle: WorkflowHandle[Any], event: m.HistoryEvent) -> Any:
    failure = event.workflow_execution_failed_event_attributes.failure
    raise WorkflowFailureError(cause=handle._client.data_converter.from_failure(failure), workflow_id=handle.id)


def _cancelled(handle: WorkflowHandle[Any], event: m.HistoryEvent) -> Any:
    details = event.workflow_execution_canceled_event_attributes.details.payloads
    values = handle._client.data_converter.from_payloads(details)
    raise WorkflowFailureError(cause=CancelledError("Workflow cancelled", *values), workflow_id=handle.id)


def _terminated(handle: WorkflowHandle[Any], event: m.HistoryEvent) -> Any:
    attributes = event.workflow_execution_terminated_event_attributes
    values = handle._client.data_converter.from_payloads(attributes.details.payloads)
    cause = TerminatedError(attributes.reason or "Workflow terminated", *values)
    raise WorkflowFailureError(cause=cause, workflow_id=handle.id)


def _timed_out(handle: WorkflowHandle[Any], event: m.HistoryEvent) -> Any:
    cause = TimeoutError("Workflow timed out", type=TimeoutType.START_TO_CLOSE)
    raise WorkflowFailureError(cause=cause, workflow_id=handle.id)


def _continued(handle: WorkflowHandle[Any], event: m.HistoryEvent) -> Any:
    raise WorkflowContinuedAsNewError(_next_after_continued(event))


_Readers = tuple[Callable[[m.HistoryEvent], str], Callable[[WorkflowHandle[Any], m.HistoryEvent], Any]]
_E = m.EventType
_READERS: dict[int, _Readers] = {
    _E.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED: (_next_after_completed, _completed),
    _E.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED: (_next_after_failed, _failed),
    _E.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED: (_no_next, _cancelled),
    _E.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED: (_no_next, _terminated),
    _E.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT: (_next_after_timed_out, _timed_out),
    _E.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW: (_next_after_continued, _continued),
}
"""For each close event: which run follows, and what this run's end means to the caller."""
