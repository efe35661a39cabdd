"""Running an activity function by itself, with made-up surroundings."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, ParamSpec, TypeVar, overload

from perdure.activity.context import CURRENT, ActivityCancellationDetails, Info
from perdure.activity.definition import Activity
from perdure.api import messages as m
from perdure.converter import DataConverter, default
from perdure.exceptions import CancelledError

__all__ = ["ActivityEnvironment"]

P = ParamSpec("P")
R = TypeVar("R")

_THEN = datetime(2026, 1, 1, tzinfo=UTC)


def _default_info() -> Info:
    return Info(
        activity_id="test",
        activity_type="unknown",
        attempt=1,
        task_queue="test",
        task_token=b"test",
        workflow_id="test",
        workflow_run_id="test-run",
        workflow_type="test",
        workflow_namespace="default",
        scheduled_time=_THEN,
        current_attempt_scheduled_time=_THEN,
        started_time=_THEN,
        start_to_close_timeout=timedelta(seconds=1),
    )


_REQUESTED = ActivityCancellationDetails(cancel_requested=True)


class ActivityEnvironment:
    """Runs activities without a workflow.

    Example::

        env = ActivityEnvironment()
        env.on_heartbeat = lambda *details: seen.append(details)
        assert await env.run(import_rows, "a.csv") == 3

    Attributes:
        info: what `activity.info` answers; change it with `dataclasses.replace`.
        on_heartbeat: called with the details of each heartbeat.
        heartbeat_details: what `activity.heartbeat_details` answers: those of an earlier attempt.
    """

    def __init__(self, *, data_converter: DataConverter | None = None) -> None:
        self.info = _default_info()
        self.on_heartbeat: Callable[..., None] = lambda *details: None
        self.heartbeat_details: Sequence[Any] = ()
        self._converter = data_converter or default()
        self._running: list[_Running] = []
        self._shutdown = False

    @overload
    async def run(self, fn: Callable[P, Awaitable[R]], *args: P.args, **kwargs: P.kwargs) -> R: ...

    @overload
    async def run(self, fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R: ...

    async def run(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run an activity, decorated or not; a plain function runs on a thread."""
        target: Callable[..., Any] = fn.fn if isinstance(fn, Activity) else fn
        info = self.info
        if isinstance(fn, Activity) and info.activity_type == "unknown":
            info = replace(info, activity_type=fn.__name__)
        running = _Running(self, info, self._converter, asyncio.current_task())
        self._running.append(running)
        token = CURRENT.set(running)
        try:
            if inspect.iscoroutinefunction(target):
                return await target(*args, **kwargs)
            running.runner = None
            context = contextvars.copy_context()
            result = await asyncio.to_thread(partial(context.run, target, *args, **kwargs))
            return await result if inspect.isawaitable(result) else result
        finally:
            CURRENT.reset(token)
            self._running.remove(running)

    def cancel(self, cancellation_details: ActivityCancellationDetails = _REQUESTED) -> None:
        """Cancel every running activity, for the reason the details give; on the event loop's thread."""
        for running in tuple(self._running):
            running.cancel(cancellation_details)

    def worker_shutdown(self) -> None:
        """Let the activities believe that their worker shuts down."""
        self._shutdown = True
        for running in tuple(self._running):
            running.shutdown.set()

    @property
    def is_shutdown(self) -> bool:
        """Whether `worker_shutdown` was called."""
        return self._shutdown


class _Running:
    """The activity context."""

    def __init__(
        self, env: ActivityEnvironment, info: Info, converter: DataConverter, runner: asyncio.Task[Any] | None
    ) -> None:
        self._env = env
        self.converter = converter
        details = list(env.heartbeat_details)
        self.info = replace(info, heartbeat_details=details) if details else info
        self.last_heartbeat: Sequence[m.Payload] = list(converter.to_payloads(details).payloads)
        self.runner = runner
        self.shutdown = asyncio.Event()
        if env.is_shutdown:
            self.shutdown.set()
        self.cancellation_details: ActivityCancellationDetails | None = None
        self._cancelled = asyncio.Event()
        self._cancelled_sync = threading.Event()
        self._shields = 0

    def heartbeat(self, details: Sequence[Any]) -> None:
        if self.runner is None and self.is_cancelled() and not self._shields:
            raise CancelledError("activity cancelled")
        self.converter.to_payloads(details)
        self._env.on_heartbeat(*details)

    def cancel(self, details: ActivityCancellationDetails) -> None:
        if not self._cancelled_sync.is_set():
            self.cancellation_details = details
            self._cancelled_sync.set()
            self._cancelled.set()
            if self.runner is not None:
                self.runner.cancel()

    def is_cancelled(self) -> bool:
        return self._cancelled_sync.is_set()

    async def wait_for_cancelled(self) -> None:
        await self._cancelled.wait()

    def wait_for_cancelled_sync(self, timeout_s: float | None) -> None:
        self._cancelled_sync.wait(timeout_s)

    def is_worker_shutdown(self) -> bool:
        return self._env.is_shutdown

    async def wait_for_worker_shutdown(self) -> None:
        await self.shutdown.wait()

    @contextmanager
    def shield(self) -> Generator[None]:
        self._shields += 1
        try:
            yield
        finally:
            self._shields -= 1
