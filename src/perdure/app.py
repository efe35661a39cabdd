"""The front door: engine, worker and client in one process.

`open` gives an `App`. Entering it opens the database (creating it if missing), starts a worker for every workflow and
activity decorated so far, and goes on with whatever an earlier process left unfinished. Leaving it stops the worker;
what is still running then goes on when the database is opened again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, TypedDict, TypeVar, Unpack, overload

from perdure.activity.definition import REGISTRY as ACTIVITIES
from perdure.activity.definition import Activity
from perdure.client import Client, WorkflowHandle
from perdure.client.options import DEFAULT_TASK_QUEUE
from perdure.common import SearchAttributeKey
from perdure.converter import DataConverter
from perdure.local import Limits
from perdure.replay.definition import REGISTRY as WORKFLOWS
from perdure.worker import Worker

__all__ = ["App", "WorkerOptions", "open"]

_T = TypeVar("_T")


class WorkerOptions(TypedDict, total=False):
    """Options of the app's worker; see `perdure.Worker`."""

    max_concurrent_activities: int
    max_concurrent_workflow_tasks: int
    max_cached_workflow_bytes: int
    max_process_activities: int
    graceful_shutdown_timeout: timedelta
    guard: bool
    deadlock_warning: timedelta


class App:
    """A running application; see `open`.

    Attributes:
        task_queue: where its worker listens, and its workflows are started.
    """

    def __init__(
        self,
        target: str | os.PathLike[str],
        *,
        workflows: Sequence[object] | None,
        activities: Sequence[Activity[..., Any] | Callable[..., Any]] | None,
        task_queue: str,
        namespace: str,
        data_converter: DataConverter | None,
        identity: str | None,
        limits: Limits | None,
        search_attributes: Sequence[SearchAttributeKey[Any]],
        options: WorkerOptions,
    ) -> None:
        self.task_queue = task_queue
        self._target = target
        self._workflows = workflows
        self._activities = activities
        self._namespace = namespace
        self._data_converter = data_converter
        self._identity = identity
        self._limits = limits
        self._search_attributes = search_attributes
        self._options = options
        self._is_entered = False
        self._client: Client | None = None
        self._worker: Worker | None = None

    @property
    def client(self) -> Client:
        """The client.

        Raises:
            RuntimeError: outside of the ``async with`` block.
        """
        if self._client is None:
            raise RuntimeError('the app is not open: use it inside "async with perdure.open(…) as app:"')
        return self._client

    @property
    def worker(self) -> Worker | None:
        """The worker; None if there is nothing for one to run."""
        return self._worker

    @property
    def start(self):
        """Start a workflow: ``handle = await app.start(fulfil, order, id="order-1")``; see `Client.start_workflow`."""
        return self.client.start_workflow

    @property
    def execute(self):
        """Start a workflow and wait for its result; see `Client.execute_workflow`."""
        return self.client.execute_workflow

    @overload
    def handle(self, workflow_id: str, *, run_id: str | None = None, result_type: type[_T]) -> WorkflowHandle[_T]: ...

    @overload
    def handle(
        self, workflow_id: str, *, run_id: str | None = None, result_type: None = None
    ) -> WorkflowHandle[Any]: ...

    def handle(
        self, workflow_id: str, *, run_id: str | None = None, result_type: type[Any] | None = None
    ) -> WorkflowHandle[Any]:
        """A handle to a workflow by its id; see `Client.get_workflow_handle`."""
        return self.client.get_workflow_handle(workflow_id, run_id=run_id, result_type=result_type)

    async def __aenter__(self) -> Self:
        if self._is_entered:
            raise RuntimeError("this app is open already: use it, or open another with perdure.open(…)")
        self._is_entered = True
        try:
            self._client = await self._enter()
        except BaseException:
            self._is_entered = False
            raise
        return self

    async def _enter(self) -> Client:
        client = await Client.connect(
            self._target,
            namespace=self._namespace,
            data_converter=self._data_converter,
            identity=self._identity,
            task_queue=self.task_queue,
            limits=self._limits,
        )
        try:
            if self._search_attributes:
                await client.add_search_attributes(*self._search_attributes)
            workflows, activities = self._workflows, self._activities
            if workflows is None:
                workflows = _latest([(known.name, known.target, known) for known in WORKFLOWS.workflows()])
            if activities is None:
                activities = _latest([(known.name, known.fn, known) for known in ACTIVITIES.activities()])
            if workflows or activities:
                self._worker = Worker(
                    client, task_queue=self.task_queue, workflows=workflows, activities=activities, **self._options
                )
                await self._worker.__aenter__()
        except BaseException:
            self._worker = None
            await client.close()
            raise
        return client

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        client, worker = self._client, self._worker
        self._client = self._worker = None
        self._is_entered = False
        try:
            if worker is not None:
                # With the engine gone too, unfinished activities are handed out again as the same attempt.
                await worker.leave(error, hand_back=client is not None and not client.is_last)
        finally:
            if client is not None:
                await client.close()


def _latest(known: Sequence[tuple[str | None, Callable[..., Any], _T]]) -> list[_T]:
    """What is served by default: of definitions local to a function, the latest of each name.

    Two of the same name at the top of modules are both kept, for the worker to refuse.
    """
    kept: dict[str | None, list[tuple[bool, _T]]] = {}
    for name, target, definition in known:
        is_local = "<locals>" in target.__qualname__
        others = kept.setdefault(name, [])
        if is_local or any(other_is_local for other_is_local, _ in others):
            others.clear()
        others.append((is_local, definition))
    return [definition for definitions in kept.values() for _, definition in definitions]


def open(
    target: str | os.PathLike[str],
    *,
    workflows: Sequence[object] | None = None,
    activities: Sequence[Activity[..., Any] | Callable[..., Any]] | None = None,
    task_queue: str = DEFAULT_TASK_QUEUE,
    namespace: str = "default",
    data_converter: DataConverter | None = None,
    identity: str | None = None,
    limits: Limits | None = None,
    search_attributes: Sequence[SearchAttributeKey[Any]] = (),
    **options: Unpack[WorkerOptions],
) -> App:
    """Open an application: engine, worker and client in this process.

    Example::

        async with perdure.open("orders.db") as app:
            receipt = await app.execute(fulfil, order, id=f"order-{order.id}")

    Args:
        target: ``"orders.db"`` or ``"sqlite:orders.db"``: a database file, created if missing.
            ``"memory:"`` keeps nothing.
        workflows: what the worker runs; every workflow decorated so far when None.
        activities: likewise.
        task_queue: where the worker listens and workflows are started.
        namespace: which namespace of the database.
        data_converter: converts values; see `perdure.converter`.
        identity: who is working, for histories.
        limits: bounds of the engine, such as ``Limits(pending_activities=10_000)``; the defaults when None.
        search_attributes: what workflows can be found by besides what is known of each; registered when the app opens.
        options: of the worker; see `perdure.Worker`.

    Raises, when entered:
        TargetError: the target has no known form.
        DatabaseError: the database cannot be opened; the subclass and message say why and what to do.
        DefinitionError: two workflows or activities have the same name.
    """
    return App(
        target,
        workflows=workflows,
        activities=activities,
        task_queue=task_queue,
        namespace=namespace,
        data_converter=data_converter,
        identity=identity,
        limits=limits,
        search_attributes=search_attributes,
        options=options,
    )
