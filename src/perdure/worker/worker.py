"""The worker: runs workflows and activities of one task queue.

`Worker` puts the parts together and gives them one life: `start` begins to poll, `stop` ends in good order, `run` does
both and waits between. Stopping first ends the polls, then lets running tasks finish: activities for as long as
`graceful_shutdown_timeout`, after which they are cancelled and handed back.

A refusal that no repetition can change stops the worker: `run` raises it, and so does leaving an ``async with`` block.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Any, Self
from weakref import WeakKeyDictionary

from perdure.activity.definition import Activity
from perdure.api import RpcError, WorkflowService
from perdure.api import messages as m
from perdure.api.direct import direct_of
from perdure.client import Client
from perdure.client.calls import call
from perdure.client.errors import translate
from perdure.client.options import DEFAULT_TASK_QUEUE
from perdure.converter import DEFAULT_MAX_PAYLOAD_BYTES, DataConverter, limited
from perdure.replay import guard as determinism
from perdure.replay.lint import require_clean
from perdure.replay.ports import NO_GUARD, Guard
from perdure.worker.activity_tasks import ActivityTaskWorker
from perdure.worker.direct_activity_tasks import DirectActivityTaskWorker
from perdure.worker.direct_workflow_tasks import DirectWorkflowTaskWorker
from perdure.worker.eager import EagerActivities
from perdure.worker.pollers import PollSettings
from perdure.worker.processes import ProcessPool, check_process_activity
from perdure.worker.registry import activities_by_name, workflows_by_name
from perdure.worker.running import RunningActivities
from perdure.worker.service_calls import Outage
from perdure.worker.threads import BorrowedThreads, OwnThreads, Threads
from perdure.worker.workflow_tasks import WorkflowTaskWorker

__all__ = ["Worker", "WorkerStatistics"]

_logger = logging.getLogger("perdure.worker")

_LAST_WORKFLOW_TASKS_S = 5.0
"""How long workflow tasks that were taken may take to be answered when the worker stops."""

_LAST_POLLS_S = 5.0
"""How long polls may take to be answered once the service knows that the worker leaves."""
_GOODBYE_S = 2.0
_POLLS_AHEAD = 5
"""Polls of each queue that a busy worker keeps under way where each is a round trip."""

_running_by_service: WeakKeyDictionary[WorkflowService, RunningActivities] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatistics:
    """What a worker holds now."""

    cached_workflows: int
    cached_bytes: int
    cache_evictions: int
    workflow_pollers: int
    running_activities: int


class Worker:
    """Runs workflows and activities of one task queue.

    Example::

        async with Worker(client, task_queue="orders", workflows=[fulfil], activities=[charge, ship]):
            await client.execute_workflow(fulfil, order, id="order-1", task_queue="orders")

    Args:
        client: where tasks come from.
        task_queue: whose tasks.
        workflows: classes and functions decorated with ``@workflow.defn``.
        activities: functions decorated with ``@activity.defn``; methods through their instance.
        identity: who is working, for histories; the client's by default.
        max_concurrent_activities: most activities at once.
        max_concurrent_workflow_tasks: most workflow tasks at once.
        max_cached_workflow_bytes: bound of the workflows kept in memory between tasks, estimated; 0 keeps none.
            The default holds some 2,500 small ones; a workflow that has left is replayed for its next task.
        max_process_activities: most activities with ``executor="process"`` at once, each in a process.
        activity_executor: runs plain activity functions; a pool of threads by default.
        graceful_shutdown_timeout: how long running activities may go on after `stop` was called.
        sticky_queue_schedule_to_start_timeout: how long a task of a cached workflow waits for this worker before
            any worker may take it.
        default_heartbeat_throttle_interval: least time between heartbeats of activities that have no
            heartbeat timeout.
        max_heartbeat_throttle_interval: most time between heartbeats that were asked for.
        guard: whether workflow code is kept from calls whose outcome differs from run to run (clock, chance, I/O).
        deadlock_warning: how long workflow code may run without awaiting before a warning says where it is; zero,
            the default, for never. For looking into such code, not for production: see `perdure.worker.watchdog`.
    """

    def __init__(
        self,
        client: Client,
        *,
        task_queue: str = DEFAULT_TASK_QUEUE,
        workflows: Sequence[object] = (),
        activities: Sequence[Activity[..., Any] | Callable[..., Any]] = (),
        identity: str | None = None,
        max_concurrent_activities: int = 200,
        max_concurrent_workflow_tasks: int = 200,
        max_cached_workflow_bytes: int = 16 * 1024 * 1024,
        max_process_activities: int = 2,
        activity_executor: Executor | None = None,
        graceful_shutdown_timeout: timedelta = timedelta(),
        sticky_queue_schedule_to_start_timeout: timedelta = timedelta(seconds=10),
        default_heartbeat_throttle_interval: timedelta = timedelta(seconds=30),
        max_heartbeat_throttle_interval: timedelta = timedelta(seconds=60),
        guard: bool = True,
        deadlock_warning: timedelta = timedelta(),
    ) -> None:
        """Make a worker; it does nothing until started.

        Raises:
            DefinitionError: something listed is not a workflow or activity, or two have the same name.
            ValueError: nothing to run, or a bound is below 1.
        """
        if max_concurrent_activities < 1 or max_concurrent_workflow_tasks < 1 or max_process_activities < 1:
            raise ValueError(
                "max_concurrent_activities, max_concurrent_workflow_tasks, max_process_activities begin at 1"
            )
        definitions = workflows_by_name(workflows)
        by_name = activities_by_name(activities)
        if not definitions and not by_name:
            raise ValueError("a worker needs workflows=[…] or activities=[…]: there is nothing to run")
        for activity in by_name.values():
            if activity.executor == "process":
                check_process_activity(activity, client.data_converter)
        self.client = client
        self.task_queue = task_queue
        self.identity = identity or client.identity
        # Short, since every workflow task's events name it: twelve digits tell the workers of one identity apart.
        self._worker_key = uuid.uuid4().hex
        self.sticky_queue = f"{self.identity}-{self._worker_key[:12]}"
        self._polls_are_answered = False
        """Whether the service answers this worker's polls when it is told that the worker leaves."""
        self._graceful_s = graceful_shutdown_timeout.total_seconds()
        self._definitions = definitions
        self._activities = by_name
        self._limits = (max_concurrent_workflow_tasks, max_cached_workflow_bytes, max_concurrent_activities)
        self._throttles = (default_heartbeat_throttle_interval, max_heartbeat_throttle_interval)
        self._sticky_timeout = sticky_queue_schedule_to_start_timeout
        self._guard: Guard = determinism if guard else NO_GUARD
        self._deadlock_warning_s = deadlock_warning.total_seconds()
        self._threads: Threads = (
            BorrowedThreads(activity_executor)
            if activity_executor is not None
            else OwnThreads(max_concurrent_activities, "perdure-activity")
        )
        self._max_processes = max_process_activities
        self._processes: ProcessPool | None = None
        self._workflow_tasks: WorkflowTaskWorker | None = None
        self._activity_tasks: ActivityTaskWorker | None = None
        self._failure: BaseException | None = None
        self._ending: asyncio.Event | None = None
        self._stop_task: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._block_task: asyncio.Task[Any] | None = None
        self._block_cancelled = False

    def _parts(self, converter: DataConverter) -> None:
        """Make what polls; needs the running event loop."""
        client = self.client
        max_workflow_tasks, max_cached_bytes, max_activities = self._limits
        running = _running_by_service.setdefault(client.raw_service, RunningActivities())
        polls = PollSettings(
            worker_key=self._worker_key,
            outage=Outage(f"worker on task queue {self.task_queue}"),
            ahead=_POLLS_AHEAD if client.is_remote else 1,
        )
        short_way = direct_of(client.service)
        if self._definitions:
            make = WorkflowTaskWorker if short_way is None else partial(DirectWorkflowTaskWorker, short_way)
            self._workflow_tasks = make(
                service=client.service,
                raw_service=client.raw_service,
                namespace=client.namespace,
                task_queue=self.task_queue,
                sticky_queue=self.sticky_queue,
                sticky_timeout=self._sticky_timeout,
                identity=self.identity,
                definitions=self._definitions,
                converter=converter,
                guard=self._guard,
                threads=self._threads,
                max_concurrent=max_workflow_tasks,
                max_cached_bytes=max_cached_bytes,
                polls=polls,
                on_fatal=self._fail,
                poke_activities=running.poke,
                deadlock_warning_s=self._deadlock_warning_s,
            )
        if self._activities:
            self._processes = ProcessPool(self._max_processes)
            default_throttle, max_throttle = self._throttles
            make = ActivityTaskWorker if short_way is None else partial(DirectActivityTaskWorker, short_way)
            self._activity_tasks = make(
                service=client.service,
                namespace=client.namespace,
                task_queue=self.task_queue,
                identity=self.identity,
                activities=self._activities,
                converter=converter,
                threads=self._threads,
                processes=self._processes,
                running=running,
                max_concurrent=max_activities,
                default_throttle_s=default_throttle.total_seconds(),
                max_throttle_s=max_throttle.total_seconds(),
                polls=polls,
                on_fatal=self._fail,
            )
        if client.is_remote and self._workflow_tasks is not None and self._activity_tasks is not None:
            self._workflow_tasks.eager = EagerActivities(self._activity_tasks, self.task_queue)

    async def start(self) -> None:
        """Begin to poll. Harmless to repeat.

        Raises:
            ForbiddenCodeError: the source of a workflow contains forbidden calls; all of them are listed.
            NamespaceNotFoundError: the client's namespace does not exist.
            RuntimeError: the worker has been stopped; make a new one.
        """
        if self._ending is not None:
            if self._ending.is_set():
                raise RuntimeError("this worker has been stopped; make a new one")
            return
        if self._guard is not NO_GUARD:
            determinism.install()
            require_clean(self._definitions.values())
        self._ending = asyncio.Event()
        request = m.DescribeNamespaceRequest(namespace=self.client.namespace)
        try:
            described = await call(self.client.service.describe_namespace, request)
        except BaseException:
            self._ending = None
            raise
        self._polls_are_answered = described.namespace_info.capabilities.worker_poll_complete_on_shutdown
        max_bytes = described.namespace_info.limits.blob_size_limit_error or DEFAULT_MAX_PAYLOAD_BYTES
        self._parts(limited(self.client.data_converter, max_bytes))
        self._watch = asyncio.get_running_loop().create_task(self._watch_engine(), name="perdure-worker-watch")
        if self._workflow_tasks is not None:
            self._workflow_tasks.start()
        if self._activity_tasks is not None:
            self._activity_tasks.start()

    async def _watch_engine(self) -> None:
        """An engine that has stopped for good would be polled for ever."""
        self._fail(await self.client.wait_failed())

    def _fail(self, error: BaseException) -> None:
        """Polling is pointless from now on."""
        if self._failure is None:
            failure: BaseException = error
            if isinstance(error, RpcError):
                failure = translate(error)
                failure.__cause__ = error
            self._failure = failure
            _logger.critical("worker on task queue %s stops: %s", self.task_queue, error, exc_info=error)
            if self._ending is not None:
                self._ending.set()
            if self._block_task is not None and not self._block_cancelled:
                self._block_cancelled = True
                self._block_task.cancel()

    async def wait_ended(self) -> None:
        """Wait until the worker is told to stop, or fails.

        Raises:
            PerdureError: it failed, and why.
        """
        if self._ending is not None:
            await self._ending.wait()
        if self._failure is not None:
            raise self._failure

    async def stop(self, *, hand_back: bool = True) -> None:
        """Stop polling, let running tasks finish, then cancel what still runs. Harmless to repeat, or before start.

        Args:
            hand_back: tell the service of activities that were cancelled, so that it retries them at once. False when
                the engine stops too: it then hands them out again when it is back, as the same attempt.
        """
        if self._ending is None:
            return
        self._ending.set()
        if self._stop_task is None:
            self._stop_task = asyncio.get_running_loop().create_task(self._stop(hand_back), name="perdure-worker-stop")
        await asyncio.shield(self._stop_task)

    shutdown = stop

    async def _stop(self, hand_back: bool) -> None:
        if self._watch is not None:
            self._watch.cancel()
        parts = [part for part in (self._workflow_tasks, self._activity_tasks) if part is not None]
        for part in parts:
            part.stop_polling()
        # A poll that is given up may have been answered with a task, which would wait for its timeout.
        if self._polls_are_answered and await self._say_goodbye():
            await asyncio.gather(*(part.wait_polls(_LAST_POLLS_S) for part in parts))
        if self._activity_tasks is not None:
            await self._activity_tasks.stop(self._graceful_s, hand_back=hand_back)
        if self._workflow_tasks is not None:
            await self._workflow_tasks.stop(_LAST_WORKFLOW_TASKS_S)
        if self._processes is not None:
            self._processes.stop()
        self._threads.stop()
        if not self._polls_are_answered:
            await self._say_goodbye()

    async def _say_goodbye(self) -> bool:
        """Let the service send this worker's cached runs to others, and answer its polls; whether it has heard."""
        request = m.ShutdownWorkerRequest(
            namespace=self.client.namespace,
            sticky_task_queue=self.sticky_queue,
            identity=self.identity,
            reason="graceful shutdown",
            worker_instance_key=self._worker_key,
            task_queue=self.task_queue,
        )
        try:
            async with asyncio.timeout(_GOODBYE_S):
                await self.client.service.shutdown_worker(request)
        except (RpcError, TimeoutError) as error:
            _logger.debug("the service did not take the worker's leave: %s", error)
            return False
        return True

    async def run(self) -> None:
        """Run until `stop` is called or the worker fails; cancelling this call stops it too.

        Raises:
            PerdureError: the worker failed, and why.
        """
        await self.start()
        try:
            await self.wait_ended()
        finally:
            await self.stop()

    @property
    def is_running(self) -> bool:
        """Whether it has been started and not told to stop."""
        return self._ending is not None and not self._ending.is_set()

    @property
    def failure(self) -> BaseException | None:
        """The error that stopped it, if one did."""
        return self._failure

    def statistics(self) -> WorkerStatistics:
        """What it holds now."""
        tasks, activities = self._workflow_tasks, self._activity_tasks
        return WorkerStatistics(
            cached_workflows=len(tasks.cache) if tasks is not None else 0,
            cached_bytes=tasks.cache.total_bytes if tasks is not None else 0,
            cache_evictions=tasks.cache.evictions if tasks is not None else 0,
            workflow_pollers=tasks.poller_count if tasks is not None else 0,
            running_activities=activities.running_count if activities is not None else 0,
        )

    async def __aenter__(self) -> Self:
        await self.start()
        # If the worker fails, what waits for it inside the block would wait for ever: the block is cancelled.
        self._block_task = asyncio.current_task()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.leave(error, hand_back=True)

    async def leave(self, error: BaseException | None, *, hand_back: bool) -> None:
        """Leave an ``async with`` block: stop, and raise the worker's own failure if it has one.

        Args:
            error: what ended the block.
            hand_back: as for `stop`.

        Raises:
            PerdureError: the worker failed, and why.
        """
        block, self._block_task = self._block_task, None
        if self._block_cancelled and block is not None:
            self._block_cancelled = False
            block.uncancel()
        await self.stop(hand_back=hand_back)
        if self._failure is not None and (error is None or isinstance(error, asyncio.CancelledError)):
            raise self._failure
