"""What activity code may ask while it runs: who it is, whether it should stop, and how to say it is alive.

Whoever runs an activity (the worker, a child process, the test environment) makes an `ActivityContext` subclass and
sets it in the context variable; the public functions of `perdure.activity` look it up there. The context is the
activity's own: coroutines and threads it starts with the current context see the same one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from logging import LoggerAdapter, getLogger
from typing import Any, NoReturn, Protocol

from perdure.api import messages as m
from perdure.common import Priority, RetryPolicy
from perdure.replay.ports import PayloadConverter

__all__ = [
    "CURRENT",
    "ActivityCancellationDetails",
    "ActivityContext",
    "CancelReason",
    "CompleteAsync",
    "Info",
    "cancellation_details",
    "heartbeat",
    "heartbeat_details",
    "in_activity",
    "info",
    "is_cancelled",
    "is_worker_shutdown",
    "logger",
    "payload_converter",
    "raise_complete_async",
    "shield_thread_cancel_exception",
    "wait_for_cancelled",
    "wait_for_cancelled_sync",
    "wait_for_worker_shutdown",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """The running activity.

    `attempt` counts from 1. `heartbeat_details` are those of the last heartbeat of an earlier attempt, as plain
    values; `activity.heartbeat_details(Type, …)` gives them typed.
    """

    activity_id: str
    activity_type: str
    attempt: int
    task_queue: str
    task_token: bytes
    workflow_id: str
    workflow_run_id: str
    workflow_type: str
    workflow_namespace: str
    scheduled_time: datetime
    current_attempt_scheduled_time: datetime
    started_time: datetime
    schedule_to_close_timeout: timedelta | None = None
    start_to_close_timeout: timedelta | None = None
    heartbeat_timeout: timedelta | None = None
    heartbeat_details: Sequence[Any] = ()
    retry_policy: RetryPolicy | None = None
    priority: Priority | None = None
    headers: Mapping[str, m.Payload] = field(default_factory=dict[str, m.Payload])
    is_local: bool = False

    @property
    def namespace(self) -> str:
        """The namespace of the workflow."""
        return self.workflow_namespace


class CancelReason(Enum):
    """Why a running activity should stop."""

    REQUESTED = "its workflow asked for it"
    GONE = "nobody waits for it any more: it was timed out, completed elsewhere, or its workflow closed"
    TIMED_OUT = "its start-to-close timeout passed"
    SHUTDOWN = "the worker shuts down"
    PAUSED = "somebody has paused it: it goes on with its next attempt when it is resumed"
    RESET = "somebody has reset it: it begins again with its first attempt"


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityCancellationDetails:
    """Why the activity should stop; one of these is true."""

    not_found: bool = False
    cancel_requested: bool = False
    paused: bool = False
    reset: bool = False
    timed_out: bool = False
    worker_shutdown: bool = False

    @staticmethod
    def of(reason: CancelReason | None) -> ActivityCancellationDetails | None:
        """Make it from the reason; None while there is none."""
        if reason is None:
            return None
        return ActivityCancellationDetails(
            not_found=reason is CancelReason.GONE,
            cancel_requested=reason is CancelReason.REQUESTED,
            paused=reason is CancelReason.PAUSED,
            reset=reason is CancelReason.RESET,
            timed_out=reason is CancelReason.TIMED_OUT,
            worker_shutdown=reason is CancelReason.SHUTDOWN,
        )


class ActivityContext(Protocol):
    """What the public functions need of whoever runs the activity."""

    @property
    def info(self) -> Info: ...

    @property
    def converter(self) -> PayloadConverter: ...

    @property
    def last_heartbeat(self) -> Sequence[m.Payload]:
        """The details of an earlier attempt's last heartbeat."""
        ...

    @property
    def cancellation_details(self) -> ActivityCancellationDetails | None:
        """Why it should stop; None while it need not."""
        ...

    def heartbeat(self, details: Sequence[Any]) -> None:
        """Record progress; in a plain function this is also where a cancellation is raised."""
        ...

    def is_cancelled(self) -> bool: ...

    async def wait_for_cancelled(self) -> None: ...

    def wait_for_cancelled_sync(self, timeout_s: float | None) -> None: ...

    def is_worker_shutdown(self) -> bool: ...

    async def wait_for_worker_shutdown(self) -> None: ...

    def shield(self) -> AbstractContextManager[None]:
        """While this is entered, a cancellation is not raised in the thread."""
        ...


CURRENT: ContextVar[ActivityContext | None] = ContextVar("perdure_activity", default=None)


class CompleteAsync(BaseException):
    """Ends an activity function without a result: somebody completes the activity later, through a client."""


def in_activity() -> bool:
    """Whether this code runs in an activity."""
    return CURRENT.get() is not None


def _current() -> ActivityContext:
    running = CURRENT.get()
    if running is None:
        raise RuntimeError("this may only be called from an activity, while a worker runs it")
    return running


def info() -> Info:
    """The running activity.

    Raises:
        RuntimeError: not called from an activity. (So do all the functions below.)
    """
    return _current().info


def payload_converter() -> PayloadConverter:
    """The converter of the worker that runs this activity."""
    return _current().converter


def heartbeat(*details: Any) -> None:
    """Say that the activity is alive, and how far it has come.

    Call it as often as you like: at most one in 80 % of the heartbeat timeout is sent. The details of the last one
    are there for the next attempt (`heartbeat_details`). A plain function that has been cancelled gets
    `perdure.exceptions.CancelledError` raised here; an async one gets `asyncio.CancelledError` at its next await.
    """
    _current().heartbeat(details)


def heartbeat_details(*hints: Any) -> list[Any]:
    """What an earlier attempt gave to its last `heartbeat`, typed by the hints; empty on a first attempt.

    Example::

        page = activity.heartbeat_details(int)[0] if activity.info().attempt > 1 else 0

    Raises:
        ConversionError: a detail is not of the hinted type.
    """
    running = _current()
    return running.converter.from_payloads(running.last_heartbeat, hints)


def is_cancelled() -> bool:
    """Whether the activity should stop: cancelled by its workflow, timed out, or its worker shuts down."""
    return _current().is_cancelled()


def cancellation_details() -> ActivityCancellationDetails | None:
    """Why the activity should stop; None while it need not. The first reason stays."""
    return _current().cancellation_details


async def wait_for_cancelled() -> None:
    """Wait until the activity should stop."""
    await _current().wait_for_cancelled()


def wait_for_cancelled_sync(timeout: timedelta | float | None = None) -> None:
    """Wait in a plain function until the activity should stop, at most `timeout` (seconds or a timedelta)."""
    timeout_s = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    _current().wait_for_cancelled_sync(timeout_s)


def is_worker_shutdown() -> bool:
    """Whether the worker is shutting down: the activity has the graceful timeout left to finish."""
    return _current().is_worker_shutdown()


async def wait_for_worker_shutdown() -> None:
    """Wait until the worker begins to shut down."""
    await _current().wait_for_worker_shutdown()


def raise_complete_async() -> NoReturn:
    """End the function without completing the activity.

    Complete it later, from any process, with the task token of `info()` or its ids:
    ``client.get_async_activity_handle(task_token=…).complete(result)``. The activity's timeouts keep running.
    """
    raise CompleteAsync


@contextmanager
def shield_thread_cancel_exception() -> Generator[None]:
    """Hold off the exception a cancellation raises in a plain function's thread; it is raised on leaving the block."""
    running = CURRENT.get()
    with running.shield() if running is not None else nullcontext():
        yield


class _ActivityLogger(LoggerAdapter[Any]):
    """Adds who is speaking: the activity, its attempt and its workflow, as ``extra["perdure_activity"]``."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        running = CURRENT.get()
        if running is None:
            return msg, kwargs
        told = running.info
        extra: dict[str, Any] = {
            "activity_id": told.activity_id,
            "activity_type": told.activity_type,
            "attempt": told.attempt,
            "task_queue": told.task_queue,
            "workflow_id": told.workflow_id,
            "workflow_run_id": told.workflow_run_id,
            "workflow_type": told.workflow_type,
        }
        kwargs["extra"] = {**(kwargs.get("extra") or {}), "perdure_activity": extra}
        return f"{msg} [{told.activity_type} of {told.workflow_id}, attempt {told.attempt}]", kwargs


logger = _ActivityLogger(getLogger("perdure.activity"), {})
"""A logger whose records say which activity they come from."""


def wait_blocking(wait: Callable[[float | None], None], timeout_s: float | None) -> None:
    """Run a blocking wait, unless that would stop an event loop.

    Raises:
        RuntimeError: called on an event loop.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        wait(timeout_s)
        return
    raise RuntimeError("this waits in a thread; in an async activity await wait_for_cancelled() instead")
