"""Driving the service with raw API messages: an engine, short forms of the calls, and a worker told what to do.

`Driver` wraps one engine; its methods build the requests that tests are not about. Times are virtual unless a test
says otherwise, so nothing here waits for a clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Sequence
from typing import Any, TypeVar

from perdure.api import RpcError
from perdure.api import messages as m
from perdure.engine import Engine, EngineConfig
from perdure.engine.clock import VirtualClock
from perdure.engine.ids import SeededIds
from perdure.engine.service import EngineService
from perdure.engine.store.port import Store
from tests.service.wires import IN_PROCESS, Wire

__all__ = ["NAMESPACE", "QUEUE", "Driver", "payloads", "refusal", "text_of", "turns"]

NAMESPACE = "default"
QUEUE = "queue"
STICKY = "sticky"
START_MS = 1_767_225_600_000

_T = TypeVar("_T")
CommandType = m.CommandType

WIRE: list[str] = [IN_PROCESS]
"""The last one stands between a test and the drivers it makes."""
_open_wires: list[Wire] = []


async def turns(count: int = 10) -> None:
    """Let the event loop turn, and what is on its way arrive."""
    for _ in range(count):
        await asyncio.sleep(0)
    for wire in tuple(_open_wires):
        while True:
            await wire.traffic.wait_quiet()
            for _ in range(count):
                await asyncio.sleep(0)
            if wire.traffic.is_quiet:
                break


def payloads(*texts: str) -> m.Payloads:
    """Payloads holding these texts."""
    return m.Payloads(payloads=[m.Payload(metadata={"encoding": b"json/plain"}, data=text.encode()) for text in texts])


def text_of(found: m.Payloads) -> str:
    """The text of the only payload."""
    (payload,) = found.payloads
    return payload.data.decode()


async def refusal(call: Awaitable[Any]) -> RpcError:
    """The RpcError a call ends with."""
    try:
        await call
    except RpcError as error:
        return error
    raise AssertionError("the call was not refused")


def schedule_activity(
    activity_id: str = "a",
    *,
    activity_type: str = "work",
    queue: str = QUEUE,
    start_to_close_s: int = 60,
    heartbeat_s: int = 0,
    attempts: int = 1,
    text: str = "in",
) -> m.Command:
    """Schedule an activity."""
    command = m.Command(command_type=CommandType.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK)
    about = command.schedule_activity_task_command_attributes
    about.activity_id = activity_id
    about.activity_type.name = activity_type
    about.task_queue.name = queue
    about.input.CopyFrom(payloads(text))
    about.start_to_close_timeout.seconds = start_to_close_s
    about.heartbeat_timeout.seconds = heartbeat_s
    about.retry_policy.maximum_attempts = attempts
    about.retry_policy.initial_interval.seconds = 1
    return command


def cancel_activity(scheduled_event_id: int) -> m.Command:
    """Ask an activity to stop."""
    command = m.Command(command_type=CommandType.COMMAND_TYPE_REQUEST_CANCEL_ACTIVITY_TASK)
    command.request_cancel_activity_task_command_attributes.scheduled_event_id = scheduled_event_id
    return command


def start_timer(timer_id: str, seconds: int) -> m.Command:
    """Start a timer."""
    command = m.Command(command_type=CommandType.COMMAND_TYPE_START_TIMER)
    command.start_timer_command_attributes.timer_id = timer_id
    command.start_timer_command_attributes.start_to_fire_timeout.seconds = seconds
    return command


def complete_workflow(text: str = "done") -> m.Command:
    """Complete the workflow."""
    command = m.Command(command_type=CommandType.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION)
    command.complete_workflow_execution_command_attributes.result.CopyFrom(payloads(text))
    return command


def fail_workflow(message: str = "broken") -> m.Command:
    """Fail the workflow."""
    command = m.Command(command_type=CommandType.COMMAND_TYPE_FAIL_WORKFLOW_EXECUTION)
    failure = command.fail_workflow_execution_command_attributes.failure
    failure.message = message
    failure.application_failure_info.type = "Broken"
    return command


def continue_as_new(text: str = "again") -> m.Command:
    """Continue as new."""
    command = m.Command(command_type=CommandType.COMMAND_TYPE_CONTINUE_AS_NEW_WORKFLOW_EXECUTION)
    about = command.continue_as_new_workflow_execution_command_attributes
    about.workflow_type.name = "flow"
    about.task_queue.name = QUEUE
    about.input.CopyFrom(payloads(text))
    return command


def start_child(workflow_id: str, *, namespace: str = NAMESPACE, policy: int = 1, queue: str = QUEUE) -> m.Command:
    """Start a child; `policy` is a ParentClosePolicy."""
    command = m.Command(command_type=CommandType.COMMAND_TYPE_START_CHILD_WORKFLOW_EXECUTION)
    about = command.start_child_workflow_execution_command_attributes
    about.namespace = namespace
    about.workflow_id = workflow_id
    about.workflow_type.name = "child"
    about.task_queue.name = queue
    about.parent_close_policy = m.ParentClosePolicy.ValueType(policy)
    return command


def signal_external(workflow_id: str, name: str = "hello", *, namespace: str = NAMESPACE) -> m.Command:
    """Signal another workflow."""
    command = m.Command(command_type=CommandType.COMMAND_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION)
    about = command.signal_external_workflow_execution_command_attributes
    about.namespace = namespace
    about.execution.workflow_id = workflow_id
    about.signal_name = name
    return command


def cancel_external(workflow_id: str, *, namespace: str = NAMESPACE) -> m.Command:
    """Ask another workflow to stop."""
    command = m.Command(command_type=CommandType.COMMAND_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION)
    about = command.request_cancel_external_workflow_execution_command_attributes
    about.namespace = namespace
    about.workflow_id = workflow_id
    return command


class Driver:
    """An engine on a virtual clock, and its service with short calls."""

    def __init__(
        self,
        store: Store,
        *,
        clock: VirtualClock | None = None,
        config: EngineConfig | None = None,
        seed: int = 1,
        in_process: bool = True,
    ) -> None:
        self.store = store
        self.clock = clock or VirtualClock(START_MS)
        self.engine = Engine(store, clock=self.clock, ids=SeededIds(seed), config=config)
        self.in_process = in_process and WIRE[-1] == IN_PROCESS
        self._wire: Wire | None = None
        self._service: EngineService | None = None
        self._requests = 0

    async def __aenter__(self) -> Driver:
        await self.engine.start()
        service = self.engine.service(in_process=self.in_process)
        if WIRE[-1] != IN_PROCESS:
            self._wire = Wire(WIRE[-1], service)
            service = await self._wire.open()
            _open_wires.append(self._wire)
        self._service = service
        return self

    async def __aexit__(self, *_: object) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            _open_wires.remove(wire)
            await wire.close()
        await self.engine.stop()

    @property
    def service(self) -> EngineService:
        assert self._service is not None
        return self._service

    async def wait_idle(self, *, but_held: bool = False) -> None:
        """Until the engine is idle and nothing is on its way to or from it."""
        while True:
            await self.engine.wait_idle(but_held=but_held)
            if self._wire is None or self._wire.traffic.is_quiet:
                return
            await self._wire.traffic.wait_quiet()

    async def settle(self) -> None:
        """Until the engine is idle, and see that nothing is wrong."""
        await self.wait_idle()
        assert await self.engine.check_invariants() == []

    # -- clients ---------------------------------------------------------------------------------------------------

    def start_request(self, workflow_id: str = "wf", **fields: Any) -> m.StartWorkflowExecutionRequest:
        """A start, with a fresh request id."""
        self._requests += 1
        request = m.StartWorkflowExecutionRequest(
            namespace=fields.pop("namespace", NAMESPACE),
            workflow_id=workflow_id,
            request_id=fields.pop("request_id", f"start-{self._requests}"),
            identity="client",
            **fields,
        )
        request.workflow_type.name = request.workflow_type.name or "flow"
        request.task_queue.name = request.task_queue.name or QUEUE
        return request

    async def start(self, workflow_id: str = "wf", **fields: Any) -> str:
        """Start a workflow; its run id."""
        response = await self.service.start_workflow_execution(self.start_request(workflow_id, **fields))
        return response.run_id

    async def signal(
        self, workflow_id: str = "wf", name: str = "go", *, request_id: str = "", run_id: str = ""
    ) -> None:
        request = m.SignalWorkflowExecutionRequest(namespace=NAMESPACE, signal_name=name, request_id=request_id)
        request.workflow_execution.workflow_id = workflow_id
        request.workflow_execution.run_id = run_id
        await self.service.signal_workflow_execution(request)

    async def cancel(self, workflow_id: str = "wf", **fields: Any) -> None:
        request = m.RequestCancelWorkflowExecutionRequest(namespace=NAMESPACE, **fields)
        request.workflow_execution.workflow_id = workflow_id
        await self.service.request_cancel_workflow_execution(request)

    async def terminate(self, workflow_id: str = "wf", *, run_id: str = "", **fields: Any) -> None:
        request = m.TerminateWorkflowExecutionRequest(namespace=NAMESPACE, reason="enough", **fields)
        request.workflow_execution.workflow_id = workflow_id
        request.workflow_execution.run_id = run_id
        await self.service.terminate_workflow_execution(request)

    async def describe(self, workflow_id: str = "wf", run_id: str = "") -> m.DescribeWorkflowExecutionResponse:
        request = m.DescribeWorkflowExecutionRequest(namespace=NAMESPACE)
        request.execution.workflow_id = workflow_id
        request.execution.run_id = run_id
        return await self.service.describe_workflow_execution(request)

    async def status(self, workflow_id: str = "wf", run_id: str = "") -> str:
        """The run's status, as a short name."""
        described = await self.describe(workflow_id, run_id)
        name = m.WorkflowExecutionStatus.Name(described.workflow_execution_info.status)
        return name.removeprefix("WORKFLOW_EXECUTION_STATUS_")

    def history_request(self, workflow_id: str = "wf", run_id: str = "", **fields: Any) -> Any:
        request = m.GetWorkflowExecutionHistoryRequest(namespace=NAMESPACE, **fields)
        request.execution.workflow_id = workflow_id
        request.execution.run_id = run_id
        return request

    async def history(self, workflow_id: str = "wf", run_id: str = "") -> list[m.HistoryEvent]:
        """The whole history."""
        events: list[m.HistoryEvent] = []
        request = self.history_request(workflow_id, run_id)
        while True:
            response = await self.service.get_workflow_execution_history(request)
            events.extend(response.history.events)
            if not response.next_page_token:
                return events
            request.next_page_token = response.next_page_token

    async def event_names(self, workflow_id: str = "wf", run_id: str = "") -> list[str]:
        """The history as short event names."""
        return names(await self.history(workflow_id, run_id))

    async def query(
        self, workflow_id: str = "wf", query_type: str = "state", reject: int = 0
    ) -> m.QueryWorkflowResponse:
        request = m.QueryWorkflowRequest(
            namespace=NAMESPACE, query_reject_condition=m.QueryRejectCondition.ValueType(reject)
        )
        request.execution.workflow_id = workflow_id
        request.query.query_type = query_type
        return await self.service.query_workflow(request)

    # -- workers ---------------------------------------------------------------------------------------------------

    def poll_request(self, queue: str = QUEUE, *, sticky: bool = False, worker_key: str = "") -> Any:
        request = m.PollWorkflowTaskQueueRequest(namespace=NAMESPACE, identity="worker", worker_instance_key=worker_key)
        request.task_queue.name = queue
        request.task_queue.kind = (
            m.TaskQueueKind.TASK_QUEUE_KIND_STICKY if sticky else m.TaskQueueKind.TASK_QUEUE_KIND_NORMAL
        )
        if sticky:
            request.task_queue.normal_name = QUEUE
        return request

    async def poll(self, queue: str = QUEUE, *, sticky: bool = False) -> m.PollWorkflowTaskQueueResponse:
        """A workflow task that is there or comes without time passing; empty if none does."""
        call = self.service.poll_workflow_task_queue(self.poll_request(queue, sticky=sticky))
        return await self._soon(call, m.PollWorkflowTaskQueueResponse())

    async def poll_activity(self, queue: str = QUEUE) -> m.PollActivityTaskQueueResponse:
        """An activity task that is there or comes without time passing; empty if none does."""
        request = m.PollActivityTaskQueueRequest(namespace=NAMESPACE, identity="worker")
        request.task_queue.name = queue
        return await self._soon(self.service.poll_activity_task_queue(request), m.PollActivityTaskQueueResponse())

    async def _soon(self, call: Coroutine[Any, Any, _T], empty: _T) -> _T:
        """The call's answer, or `empty` if the engine comes to rest without one."""
        task = asyncio.ensure_future(call)
        rest = asyncio.ensure_future(self.rest())
        await asyncio.wait((task, rest), return_when=asyncio.FIRST_COMPLETED)
        for each in (task, rest):
            if not each.done():
                each.cancel()
        await asyncio.gather(task, rest, return_exceptions=True)
        return empty if task.cancelled() else task.result()

    async def rest(self) -> None:
        """Until the engine has nothing to do, whatever workers hold."""
        await turns(3)
        await self.wait_idle(but_held=True)

    async def complete(
        self,
        task: m.PollWorkflowTaskQueueResponse,
        *commands: m.Command,
        sticky: str = "",
        answers: dict[str, m.WorkflowQueryResult] | None = None,
        **fields: Any,
    ) -> m.RespondWorkflowTaskCompletedResponse:
        """Complete a workflow task."""
        request = m.RespondWorkflowTaskCompletedRequest(
            namespace=NAMESPACE, identity="worker", task_token=task.task_token, commands=commands, **fields
        )
        if sticky:
            request.sticky_attributes.worker_task_queue.name = sticky
            request.sticky_attributes.schedule_to_start_timeout.seconds = 10
        for number, answer in (answers or {}).items():
            request.query_results[number].CopyFrom(answer)
        return await self.service.respond_workflow_task_completed(request)

    async def fail_task(self, task: m.PollWorkflowTaskQueueResponse) -> None:
        """Fail a workflow task."""
        request = m.RespondWorkflowTaskFailedRequest(namespace=NAMESPACE, task_token=task.task_token)
        request.cause = m.WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_WORKFLOW_WORKER_UNHANDLED_FAILURE
        request.failure.message = "cannot"
        await self.service.respond_workflow_task_failed(request)

    async def step(self, *commands: m.Command, sticky: str = "") -> m.PollWorkflowTaskQueueResponse:
        """Poll a workflow task and complete it with these commands."""
        task = await self.poll()
        assert task.task_token, "a workflow task should have been waiting"
        await self.complete(task, *commands, sticky=sticky)
        return task

    async def activity(self, text: str = "out", queue: str = QUEUE) -> m.PollActivityTaskQueueResponse:
        """Poll an activity task and complete it."""
        task = await self.poll_activity(queue)
        assert task.task_token, "an activity task should have been waiting"
        await self.complete_activity(task, text)
        return task

    async def complete_activity(self, task: m.PollActivityTaskQueueResponse, text: str = "out") -> None:
        request = m.RespondActivityTaskCompletedRequest(
            namespace=NAMESPACE, identity="worker", task_token=task.task_token, result=payloads(text)
        )
        await self.service.respond_activity_task_completed(request)

    async def fail_activity(self, task: m.PollActivityTaskQueueResponse, message: str = "no", **info: Any) -> None:
        request = m.RespondActivityTaskFailedRequest(namespace=NAMESPACE, task_token=task.task_token)
        request.failure.message = message
        request.failure.application_failure_info.CopyFrom(m.ApplicationFailureInfo(type="No", **info))
        await self.service.respond_activity_task_failed(request)


def names(events: Sequence[m.HistoryEvent]) -> list[str]:
    """Short names of events, and a check that their ids are contiguous."""
    if events:
        ids = [event.event_id for event in events]
        assert ids == list(range(ids[0], ids[0] + len(ids)))
    found = [m.EventType.Name(event.event_type).removeprefix("EVENT_TYPE_") for event in events]
    return ["".join(part.capitalize() for part in name.split("_")) for name in found]
