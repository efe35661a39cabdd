"""The whole engine in process, on a clock that jumps.

`WorkflowEnvironment.start_time_skipping` runs an engine on a memory store and a virtual clock. The clock stands still
while anything happens: a commit in flight, a workflow task or activity handed out, a call under way. When all is quiet
and somebody waits (for a workflow's result, or in `env.sleep`), it jumps to the next deadline. So fourteen days take
milliseconds, and nothing in between is skipped.

Waiting is noticed at the seam: the environment's client talks to the engine through `_WatchedService`, which counts the
long polls for results and updates, and remembers that something was called. It also notices workflow tasks that keep
failing: in virtual time they would be retried for ever while the test waits, so after a few attempts the wait itself
fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, cast

from perdure.activity.definition import Activity
from perdure.api import RpcError, StatusCode, WorkflowService
from perdure.api import messages as m
from perdure.api.direct import (
    ActivityTaker,
    ActivityTask,
    Direct,
    StandingPoll,
    WorkflowTaker,
    WorkflowTask,
    direct_of,
)
from perdure.api.durations import datetime_of_ms, ms_of_timedelta
from perdure.app import WorkerOptions
from perdure.client import Client
from perdure.client.options import DEFAULT_TASK_QUEUE
from perdure.common import SearchAttributeKey
from perdure.converter import DataConverter
from perdure.engine import Engine, EngineConfig
from perdure.engine.clock import SystemClock, VirtualClock
from perdure.engine.store.memory import MemoryStore
from perdure.worker import Worker

__all__ = ["Environment", "WorkflowEnvironment"]

_Response = TypeVar("_Response")

_MAX_FAILED_ATTEMPTS = 10
"""A workflow task that has failed this often in a row ends the waits for its workflow's result."""


_PATIENCE_S = 1.0
"""How long the clock stands still beside running activities. Without an end to it, timeouts would never come."""

_SETTLING_TURNS = 10
"""Turns of the event loop that must pass quietly before the clock jumps."""


class _Watch:
    """What the environment knows of the calls to its engine."""

    def __init__(self) -> None:
        self.waiting = 0
        self.skipping = True
        self.wanted = asyncio.Event()
        self.touched = asyncio.Event()
        self.hopeless: dict[str, list[asyncio.Future[str]]] = {}

    def update(self) -> None:
        """Somebody began or ceased to wait."""
        if self.skipping and self.waiting > 0:
            self.wanted.set()
        else:
            self.wanted.clear()

    @contextmanager
    def somebody_waits(self) -> Generator[None]:
        """While inside, the clock may jump."""
        self.waiting += 1
        self.update()
        try:
            yield
        finally:
            self.waiting -= 1
            self.update()


class _WatchedService:
    """Passes every call on, and tells the watch."""

    def __init__(self, service: WorkflowService, watch: _Watch) -> None:
        self._service = service
        self._watch = watch
        self._failing: dict[bytes, str] = {}

    @property
    def direct(self) -> Direct | None:
        """The engine's short way, watched too."""
        short_way = direct_of(self._service)
        return None if short_way is None else _WatchedDirect(short_way, self._watch, self._note)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._service, name)

        async def call(request: Any, **options: Any) -> Any:
            self._watch.touched.set()
            return await method(request, **options)

        self.__dict__[name] = call
        return call

    async def get_workflow_execution_history(
        self, request: m.GetWorkflowExecutionHistoryRequest, *, timeout_s: float | None = None
    ) -> m.GetWorkflowExecutionHistoryResponse:
        if not request.wait_new_event:
            self._watch.touched.set()
            return await self._service.get_workflow_execution_history(request, timeout_s=timeout_s)
        return await self._wait(request.execution.workflow_id, self._poll_history(request))

    async def update_workflow_execution(
        self, request: m.UpdateWorkflowExecutionRequest, *, timeout_s: float | None = None
    ) -> m.UpdateWorkflowExecutionResponse:
        update = self._service.update_workflow_execution(request, timeout_s=timeout_s)
        return await self._wait(request.workflow_execution.workflow_id, update)

    async def poll_workflow_execution_update(
        self, request: m.PollWorkflowExecutionUpdateRequest, *, timeout_s: float | None = None
    ) -> m.PollWorkflowExecutionUpdateResponse:
        poll = self._service.poll_workflow_execution_update(request, timeout_s=timeout_s)
        return await self._wait(request.update_ref.workflow_execution.workflow_id, poll)

    async def execute_multi_operation(
        self, request: m.ExecuteMultiOperationRequest, *, timeout_s: float | None = None
    ) -> m.ExecuteMultiOperationResponse:
        workflow_id = request.operations[0].start_workflow.workflow_id if request.operations else ""
        return await self._wait(workflow_id, self._service.execute_multi_operation(request, timeout_s=timeout_s))

    async def _wait(self, workflow_id: str, call: Coroutine[Any, Any, _Response]) -> _Response:
        """Wait for a workflow: the clock may jump meanwhile. The wait fails when nothing can come of it."""
        self._watch.touched.set()
        hopeless: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        waits = self._watch.hopeless.setdefault(workflow_id, [])
        waits.append(hopeless)
        poll = asyncio.ensure_future(call)
        try:
            with self._watch.somebody_waits():
                await asyncio.wait((poll, hopeless), return_when=asyncio.FIRST_COMPLETED)
            if poll.done():
                return poll.result()
        finally:
            waits.remove(hopeless)
            poll.cancel()
            await asyncio.gather(poll, return_exceptions=True)
        raise RpcError(
            StatusCode.FAILED_PRECONDITION,
            f"the workflow task of {workflow_id!r} has failed {_MAX_FAILED_ATTEMPTS} times in a row and would be "
            f"retried for ever: {hopeless.result()}",
        )

    async def _poll_history(
        self, request: m.GetWorkflowExecutionHistoryRequest
    ) -> m.GetWorkflowExecutionHistoryResponse:
        """A long poll that goes on when it comes back empty, as it does at every jump of the clock."""
        while True:
            response = await self._service.get_workflow_execution_history(request)
            if response.history.events or not response.next_page_token:
                return response
            following = m.GetWorkflowExecutionHistoryRequest()
            following.CopyFrom(request)
            following.next_page_token = response.next_page_token
            request = following

    async def poll_workflow_task_queue(
        self, request: m.PollWorkflowTaskQueueRequest, *, timeout_s: float | None = None
    ) -> m.PollWorkflowTaskQueueResponse:
        task = await self._service.poll_workflow_task_queue(request, timeout_s=timeout_s)
        self._note(task)
        return task

    def _note(self, task: m.PollWorkflowTaskQueueResponse) -> None:
        """A workflow task is handed out."""
        if task.attempt >= _MAX_FAILED_ATTEMPTS:
            self._failing[task.task_token] = task.workflow_execution.workflow_id

    async def respond_workflow_task_failed(
        self, request: m.RespondWorkflowTaskFailedRequest
    ) -> m.RespondWorkflowTaskFailedResponse:
        known = self._failing.pop(request.task_token, None)
        for wait in self._watch.hopeless.get(known, ()) if known is not None else ():
            if not wait.done():
                wait.set_result(request.failure.message)
        return await self._service.respond_workflow_task_failed(request)

    async def respond_workflow_task_completed(
        self, request: m.RespondWorkflowTaskCompletedRequest
    ) -> m.RespondWorkflowTaskCompletedResponse:
        self._failing.pop(request.task_token, None)
        return await self._service.respond_workflow_task_completed(request)


class _WatchedDirect:
    """The short way: every task on it is told to the watch."""

    def __init__(
        self, short_way: Direct, watch: _Watch, note: Callable[[m.PollWorkflowTaskQueueResponse], None]
    ) -> None:
        self._short_way = short_way
        self._watch = watch
        self._note = note

    def poll_activities(self, request: m.PollActivityTaskQueueRequest, taker: ActivityTaker) -> StandingPoll:
        return self._short_way.poll_activities(request, _WatchedActivities(taker, self._watch))

    def poll_workflow_tasks(
        self,
        request: m.PollWorkflowTaskQueueRequest,
        completion: m.RespondWorkflowTaskCompletedRequest,
        taker: WorkflowTaker,
    ) -> StandingPoll:
        return self._short_way.poll_workflow_tasks(
            request, completion, _WatchedWorkflowTasks(taker, self._watch, self._note)
        )


class _WatchedActivities:
    def __init__(self, taker: ActivityTaker, watch: _Watch) -> None:
        self._taker = taker
        self._watch = watch

    def take_activity(self, task: ActivityTask) -> None:
        self._watch.touched.set()
        self._taker.take_activity(task)


class _WatchedWorkflowTasks:
    def __init__(
        self, taker: WorkflowTaker, watch: _Watch, note: Callable[[m.PollWorkflowTaskQueueResponse], None]
    ) -> None:
        self._taker = taker
        self._watch = watch
        self._note = note

    def take_workflow_task(self, task: WorkflowTask) -> None:
        self._watch.touched.set()
        self._taker.take_workflow_task(task)

    def take_message(self, task: m.PollWorkflowTaskQueueResponse) -> None:
        self._watch.touched.set()
        self._note(task)
        self._taker.take_message(task)

    def lose(self, run_id: str) -> None:
        self._taker.lose(run_id)


class WorkflowEnvironment:
    """An engine for tests, and a client of it.

    Example::

        async with await WorkflowEnvironment.start_time_skipping() as env:
            async with env.worker(workflows=[subscription], activities=[fake_charge]):
                assert await env.client.execute_workflow(subscription, "Ada") == 12

    Attributes:
        client: talks to the engine.
        engine: the engine itself, for statistics and invariants.
    """

    def __init__(
        self,
        *,
        time_skipping: bool = True,
        start_time: datetime | None = None,
        namespace: str = "default",
        data_converter: DataConverter | None = None,
        task_queue: str = DEFAULT_TASK_QUEUE,
        search_attributes: Sequence[SearchAttributeKey[Any]] = (),
    ) -> None:
        """Make an environment; entering it starts it.

        Args:
            time_skipping: a clock that jumps; the system's clock otherwise.
            start_time: where the virtual clock stands first.
            namespace: of the client.
            data_converter: of the client.
            task_queue: where the client starts workflows and `worker` listens.
            search_attributes: registered with the namespace when it starts.
        """
        start_ms = None if start_time is None else ms_of_timedelta(start_time - datetime(1970, 1, 1, tzinfo=UTC))
        self._virtual: VirtualClock | None = None
        if time_skipping:
            self._virtual = VirtualClock() if start_ms is None else VirtualClock(start_ms)
        self._clock = self._virtual or SystemClock()
        # What a test has closed it may ask about, however far the clock has jumped.
        self.engine = Engine(MemoryStore(), clock=self._clock, config=EngineConfig(erase_closed=False))
        self._watch = _Watch()
        self._namespace = namespace
        self._data_converter = data_converter
        self._task_queue = task_queue
        self._search_attributes = search_attributes
        self._client: Client | None = None
        self._driver: asyncio.Task[None] | None = None

    @classmethod
    async def start_time_skipping(
        cls,
        *,
        data_converter: DataConverter | None = None,
        start_time: datetime | None = None,
        search_attributes: Sequence[SearchAttributeKey[Any]] = (),
    ) -> Self:
        """An environment on a clock that jumps, started."""
        env = cls(data_converter=data_converter, start_time=start_time, search_attributes=search_attributes)
        await env.start()
        return env

    @classmethod
    async def start_local(
        cls,
        *,
        data_converter: DataConverter | None = None,
        search_attributes: Sequence[SearchAttributeKey[Any]] = (),
    ) -> Self:
        """An environment on the system's clock, started."""
        env = cls(time_skipping=False, data_converter=data_converter, search_attributes=search_attributes)
        await env.start()
        return env

    async def start(self) -> None:
        """Start the engine. Harmless to repeat."""
        if self._client is not None:
            return
        await self.engine.start()
        service: WorkflowService = self.engine.service(in_process=True)
        if self._virtual is not None:
            service = cast("WorkflowService", _WatchedService(service, self._watch))
            self._driver = asyncio.get_running_loop().create_task(self._drive(), name="perdure-time")
        self._client = Client(
            service, namespace=self._namespace, data_converter=self._data_converter, task_queue=self._task_queue
        )
        if self._search_attributes:
            await self._client.add_search_attributes(*self._search_attributes)

    async def shutdown(self) -> None:
        """Stop the engine; nothing is kept. Harmless to repeat."""
        if self._driver is not None:
            self._driver.cancel()
            await asyncio.gather(self._driver, return_exceptions=True)
            self._driver = None
        await self.engine.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.shutdown()

    @property
    def client(self) -> Client:
        """The client.

        Raises:
            RuntimeError: the environment has not been started.
        """
        if self._client is None:
            raise RuntimeError("the environment has not been started: use it with async with, or await start()")
        return self._client

    @property
    def supports_time_skipping(self) -> bool:
        """Whether the clock jumps."""
        return self._virtual is not None

    def worker(
        self,
        *,
        workflows: Sequence[object] = (),
        activities: Sequence[Activity[..., Any] | Callable[..., Any]] = (),
        task_queue: str | None = None,
        **options: Unpack[WorkerOptions],
    ) -> Worker:
        """A worker for this environment: ``async with env.worker(workflows=[…], activities=[…]):``.

        An activity is replaced by passing another function of the same name: ``@activity.defn(name="charge")``.
        """
        queue = self._task_queue if task_queue is None else task_queue
        return Worker(self.client, task_queue=queue, workflows=workflows, activities=activities, **options)

    async def get_current_time(self) -> datetime:
        """What the engine's clock says, aware, in UTC."""
        return datetime_of_ms(self._clock.now_ms())

    async def sleep(self, duration: timedelta | float) -> None:
        """Wait until the engine's clock has gone forward by `duration` (a timedelta, or seconds), and all that
        was due by then has happened."""
        span = duration if isinstance(duration, timedelta) else timedelta(seconds=duration)
        if self._virtual is None:
            await asyncio.sleep(span.total_seconds())
            return
        reached = asyncio.Event()
        handle = self._virtual.call_at(self._virtual.now_ms() + ms_of_timedelta(span), reached.set)
        try:
            with self._watch.somebody_waits():
                self._watch.touched.set()
                await reached.wait()
        finally:
            handle.cancel()
        await self.engine.wait_idle()

    @contextmanager
    def auto_time_skipping_disabled(self) -> Generator[None]:
        """While inside, waiting for a result does not make the clock jump (`sleep` does not either)."""
        before, self._watch.skipping = self._watch.skipping, False
        self._watch.update()
        try:
            yield
        finally:
            self._watch.skipping = before
            self._watch.update()

    async def _drive(self) -> None:
        """Jump whenever all is quiet and somebody waits."""
        watch = self._watch
        while True:
            await watch.wanted.wait()
            watch.touched.clear()
            await self._wait_idle()
            # What has just been answered may be on its way through a few coroutines to whoever acts on it.
            for _ in range(_SETTLING_TURNS):
                await asyncio.sleep(0)
            if watch.touched.is_set() or not watch.wanted.is_set() or not self.engine.is_idle():
                continue
            if not self.engine.advance():
                # Nothing is due ever: only a call from outside can change that.
                await watch.touched.wait()

    async def _wait_idle(self) -> None:
        """Wait until the engine is idle. Beside an activity that takes long the clock goes on at its usual pace."""
        assert self._virtual is not None, "only a virtual clock is driven"
        idle = asyncio.get_running_loop().create_task(self.engine.wait_idle())
        try:
            while not (await asyncio.wait((idle,), timeout=_PATIENCE_S))[0]:
                self._virtual.advance_by(round(_PATIENCE_S * 1000))
        finally:
            idle.cancel()


Environment = WorkflowEnvironment
"""The same, for short."""
