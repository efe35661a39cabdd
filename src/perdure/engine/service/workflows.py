"""Starting workflows and acting on them from outside: start, signal, cancel, terminate, describe."""

from __future__ import annotations

import asyncio

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.engine import history
from perdure.engine.history.versions import version_of_worker
from perdure.engine.service.base import ServiceTopic, invalid
from perdure.engine.slot import Slot
from perdure.engine.starts import Started, start_workflow

__all__ = ["WorkflowTopic", "check_chain"]

_RUNNING = m.WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_RUNNING

_STARTING = frozenset(field.name for field in m.StartWorkflowExecutionRequest.DESCRIPTOR.fields)
_SHARED = tuple(
    field.name for field in m.SignalWithStartWorkflowExecutionRequest.DESCRIPTOR.fields if field.name in _STARTING
)
"""Fields of signal-with-start that say how to start."""


class WorkflowTopic(ServiceTopic):
    """Calls of clients that change a workflow."""

    async def start_workflow_execution(
        self, request: m.StartWorkflowExecutionRequest
    ) -> m.StartWorkflowExecutionResponse:
        """Raises RpcError NOT_FOUND (namespace), ALREADY_EXISTS, INVALID_ARGUMENT."""
        self.check(request.namespace)
        wants_task = request.request_eager_execution and self.shard.offering.starts_at(
            request, version_of_worker(request.eager_worker_deployment_options)
        )
        started = await start_workflow(
            self.shard, self.namespaces.to_start_in(request.namespace), request, offer=not wants_task
        )
        first_task = self.eager.first_task(started, request.identity) if wants_task else None
        try:
            await self._wait_started(started)
        except asyncio.CancelledError:
            self.eager.take_back(started.slot, first_task.task_token if first_task is not None else b"")
            raise
        return self.start_response(request, started, first_task)

    def start_response(
        self,
        request: m.StartWorkflowExecutionRequest,
        started: Started,
        first_task: m.PollWorkflowTaskQueueResponse | None = None,
    ) -> m.StartWorkflowExecutionResponse:
        """What the caller of a start is told."""
        state = started.slot.run.state
        response = m.StartWorkflowExecutionResponse(
            run_id=state.run_id,
            first_execution_run_id=state.first_run_id or state.run_id,
            started=started.is_new or state.start_request_id == request.request_id,
            status=_RUNNING if started.is_new else m.WorkflowExecutionStatus.ValueType(state.status),
            eager_workflow_task=first_task,
        )
        if not self.in_process:
            _link(response.link, state, request.request_id)
        return response

    async def _wait_started(self, started: Started) -> None:
        if started.group is not None:
            await started.group.durable()

    async def signal_with_start_workflow_execution(
        self, request: m.SignalWithStartWorkflowExecutionRequest
    ) -> m.SignalWithStartWorkflowExecutionResponse:
        """Raises RpcError NOT_FOUND (namespace), ALREADY_EXISTS, INVALID_ARGUMENT."""
        self.check(request.namespace)
        if not request.signal_name:
            raise invalid("the signal has no name")
        signal = m.SignalWorkflowExecutionRequest(
            namespace=request.namespace,
            signal_name=request.signal_name,
            identity=request.identity,
            request_id=request.request_id,
            control=request.control,
        )
        signal.workflow_execution.workflow_id = request.workflow_id
        if request.HasField("signal_input"):
            signal.input.CopyFrom(request.signal_input)
        if request.HasField("header"):
            signal.header.CopyFrom(request.header)
        signal.links.extend(request.links)
        start = _start_request(request)
        started = await start_workflow(self.shard, self.namespaces.to_start_in(request.namespace), start, signal=signal)
        await self._wait_started(started)
        state = started.slot.run.state
        return m.SignalWithStartWorkflowExecutionResponse(run_id=state.run_id, started=started.is_new)

    async def signal_workflow_execution(
        self, request: m.SignalWorkflowExecutionRequest
    ) -> m.SignalWorkflowExecutionResponse:
        """Raises RpcError NOT_FOUND, INVALID_ARGUMENT."""
        self.check(request.namespace)
        if not request.signal_name:
            raise invalid("the signal has no name")
        slot = await self.find(request.namespace, request.workflow_execution)
        await self.transact(slot, history.signal, request, limits=self.limits)
        return m.SignalWorkflowExecutionResponse()

    async def request_cancel_workflow_execution(
        self, request: m.RequestCancelWorkflowExecutionRequest
    ) -> m.RequestCancelWorkflowExecutionResponse:
        """Raises RpcError NOT_FOUND."""
        self.check(request.namespace)
        slot = await self.find(request.namespace, request.workflow_execution)
        check_chain(slot, request.first_execution_run_id)
        await self.transact(slot, history.request_cancel, request)
        return m.RequestCancelWorkflowExecutionResponse()

    async def terminate_workflow_execution(
        self, request: m.TerminateWorkflowExecutionRequest
    ) -> m.TerminateWorkflowExecutionResponse:
        """Raises RpcError NOT_FOUND."""
        self.check(request.namespace)
        slot = await self.find(request.namespace, request.workflow_execution)
        check_chain(slot, request.first_execution_run_id)
        await self.transact(
            slot,
            history.terminate,
            reason=request.reason,
            details=request.details if request.HasField("details") else None,
            identity=request.identity,
            links=request.links,
        )
        return m.TerminateWorkflowExecutionResponse()

    async def describe_workflow_execution(
        self, request: m.DescribeWorkflowExecutionRequest
    ) -> m.DescribeWorkflowExecutionResponse:
        """Raises RpcError NOT_FOUND."""
        self.check(request.namespace)
        slot = await self.find(request.namespace, request.execution)
        described = history.describe(slot.run, self.clock.now_ms())
        self.show_attributes(request.namespace, described.workflow_execution_info)
        await self.wait_durable(slot)
        return described

    async def find(self, namespace: str, execution: m.WorkflowExecution) -> Slot:
        """The run a caller speaks of."""
        if not execution.workflow_id:
            raise invalid("the workflow id is missing")
        return await self.cache.find(namespace, execution.workflow_id, execution.run_id)


def _link(link: m.Link, state: history.RunState, request_id: str) -> None:
    """The link to the event that a start has left: the first one, or the one that says it found the run."""
    event = link.workflow_event
    event.namespace = state.namespace
    event.workflow_id = state.workflow_id
    event.run_id = state.run_id
    if state.attached and request_id in state.attached:
        event.request_id_ref.request_id = request_id
        event.request_id_ref.event_type = m.EventType.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED
    else:
        event.event_ref.event_id = 1
        event.event_ref.event_type = m.EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED


def check_chain(slot: Slot, first_run_id: str) -> None:
    """A caller may insist on the chain it started."""
    state = slot.run.state
    if first_run_id and first_run_id != (state.first_run_id or state.run_id):
        raise RpcError(
            StatusCode.NOT_FOUND,
            f"workflow {state.workflow_id!r} has no open run that began with run {first_run_id!r}",
        )


def _start_request(request: m.SignalWithStartWorkflowExecutionRequest) -> m.StartWorkflowExecutionRequest:
    """The start half of a signal-with-start."""
    start = m.StartWorkflowExecutionRequest()
    for field, value in request.ListFields():
        if field.name not in _SHARED:
            continue
        if field.message_type is None:
            setattr(start, field.name, value)
        elif field.is_repeated:
            getattr(start, field.name).extend(value)
        else:
            getattr(start, field.name).CopyFrom(value)
    return start
