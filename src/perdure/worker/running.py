"""Running activities: what `perdure.activity`'s functions find in the context variable.

Three kinds, by where the function runs: on the event loop, on a thread, in a process. All are cancelled from the event
loop's thread with a reason, at most once, and not after they have finished.

An activity on a thread is interrupted by raising `CancelledError` in it, as Python offers: between two steps of Python
code, never inside a call into C. The lock and the thread id under it see to it that this cannot hit the thread's next
user.
"""

from __future__ import annotations

import asyncio
import ctypes
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, Self

from msgspec import Struct

from perdure.activity.context import ActivityCancellationDetails, CancelReason, Info
from perdure.activity.definition import Activity
from perdure.api import messages as m
from perdure.api.durations import datetime_of_ms, duration_ms, timestamp_ms
from perdure.common import Priority, RetryPolicy
from perdure.converter import DataConverter
from perdure.exceptions import CancelledError
from perdure.worker.heartbeats import HeartbeatSender

__all__ = [
    "COMPLETES_ASYNC_KEY",
    "AsyncRun",
    "Given",
    "GivenByMessage",
    "RunningActivities",
    "RunningActivity",
    "ShutdownNotice",
    "Surroundings",
    "ThreadRun",
    "heartbeat_payloads",
    "info_of",
]

COMPLETES_ASYNC_KEY = "perdure-completes-async"
"""Metadata of a heartbeat's last detail, a mark that says: somebody will complete this activity later."""

_LOCK_TIMEOUT_S = 1.0
"""Longest wait of the event loop for a thread to leave a few bytecodes; it is given up rather than hang."""


def info_of(task: m.PollActivityTaskQueueResponse, converter: DataConverter, task_queue: str) -> Info:
    """What an activity's task says about it."""
    return Info(
        activity_id=task.activity_id,
        activity_type=task.activity_type.name,
        attempt=task.attempt,
        task_queue=task_queue,
        task_token=task.task_token,
        workflow_id=task.workflow_execution.workflow_id,
        workflow_run_id=task.workflow_execution.run_id,
        workflow_type=task.workflow_type.name,
        workflow_namespace=task.workflow_namespace,
        scheduled_time=datetime_of_ms(timestamp_ms(task.scheduled_time)),
        current_attempt_scheduled_time=datetime_of_ms(timestamp_ms(task.current_attempt_scheduled_time)),
        started_time=datetime_of_ms(timestamp_ms(task.started_time)),
        schedule_to_close_timeout=_span(duration_ms(task.schedule_to_close_timeout)),
        start_to_close_timeout=_span(duration_ms(task.start_to_close_timeout)),
        heartbeat_timeout=_span(duration_ms(task.heartbeat_timeout)),
        heartbeat_details=converter.from_payloads(heartbeat_payloads(task)),
        retry_policy=RetryPolicy.from_proto(task.retry_policy) if task.HasField("retry_policy") else None,
        priority=Priority.from_proto(task.priority) if task.HasField("priority") else None,
        headers=dict(task.header.fields),
    )


def heartbeat_payloads(task: m.PollActivityTaskQueueResponse) -> Sequence[m.Payload]:
    """The details an earlier attempt left, without the mark of one that was left to others."""
    payloads = task.heartbeat_details.payloads
    if any(COMPLETES_ASYNC_KEY in payload.metadata for payload in payloads):
        return [payload for payload in payloads if COMPLETES_ASYNC_KEY not in payload.metadata]
    return payloads


def _span(ms: int) -> timedelta | None:
    return timedelta(milliseconds=ms) if ms else None


class ShutdownNotice:
    """Tells activities that the worker has begun to shut down."""

    def __init__(self) -> None:
        self.given = False
        self._event: asyncio.Event | None = None

    def give(self) -> None:
        """Shutdown begins."""
        self.given = True
        if self._event is not None:
            self._event.set()

    async def wait(self) -> None:
        """Wait for it."""
        if self._event is None:
            self._event = asyncio.Event()
            if self.given:
                self._event.set()
        await self._event.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all activities of a worker share.

    Attributes:
        task_queue: where they come from.
        converter: values and failures.
        notice: of the worker's shutdown.
        make_heartbeats: makes a sender when an activity's first heartbeat or poke needs one.
    """

    task_queue: str
    converter: DataConverter
    notice: ShutdownNotice
    make_heartbeats: Callable[[RunningActivity], HeartbeatSender]


class Given(Protocol):
    """What a worker has been given to do: the part of `perdure.api.direct.ActivityTask` that is the same for all."""

    @property
    def run_id(self) -> str: ...

    @property
    def activity_type(self) -> str: ...

    @property
    def input(self) -> bytes: ...

    @property
    def start_to_close_ms(self) -> int: ...

    def message(self) -> m.PollActivityTaskQueueResponse: ...


class GivenByMessage(Struct, frozen=True):
    """What a poll has brought."""

    run_id: str
    activity_type: str
    input: bytes
    start_to_close_ms: int
    task: m.PollActivityTaskQueueResponse

    def message(self) -> m.PollActivityTaskQueueResponse:
        """The message it came as."""
        return self.task

    @classmethod
    def of(cls, task: m.PollActivityTaskQueueResponse) -> Self:
        """Read what every execution needs."""
        return cls(
            task.workflow_execution.run_id,
            task.activity_type.name,
            task.input.SerializeToString(),
            duration_ms(task.start_to_close_timeout),
            task,
        )


class RunningActivity:
    """One execution of an activity by this worker.

    Args:
        activity: what runs.
        given: what the service said about it.
        surroundings: shared by all of the worker's.

    Attributes:
        cancel_reason: why it should stop; None while it need not.
        finished: the function has ended.
        runner: the asyncio task it runs in.
    """

    def __init__(self, activity: Activity[Any, Any], given: Given, surroundings: Surroundings) -> None:
        self.activity = activity
        self.given = given
        self.converter = surroundings.converter
        self.cancel_reason: CancelReason | None = None
        self.finished = False
        self.runner: asyncio.Task[None] | None = None
        self._surroundings = surroundings
        self._heartbeats: HeartbeatSender | None = None
        self._task: m.PollActivityTaskQueueResponse | None = None
        self._info: Info | None = None
        self._cancelled: asyncio.Event | None = None

    @property
    def task(self) -> m.PollActivityTaskQueueResponse:
        """What was given, as a message; made when first asked for."""
        if self._task is None:
            self._task = self.given.message()
        return self._task

    @property
    def info(self) -> Info:
        """What `activity.info` answers; made when first asked for."""
        if self._info is None:
            self._info = info_of(self.task, self.converter, self._surroundings.task_queue)
        return self._info

    @property
    def last_heartbeat(self) -> Sequence[m.Payload]:
        """Details an earlier attempt left."""
        return heartbeat_payloads(self.task)

    @property
    def heartbeats(self) -> HeartbeatSender:
        """The sender; to be used on the event loop's thread."""
        if self._heartbeats is None:
            self._heartbeats = self._surroundings.make_heartbeats(self)
        return self._heartbeats

    @property
    def unsent_details(self) -> m.Payloads | None:
        """Details of a heartbeat the throttle still held back."""
        sender = self._heartbeats
        return sender.details if sender is not None and sender.unsent else None

    @property
    def latest_details(self) -> m.Payloads | None:
        """Details of the last heartbeat, of this attempt or an earlier one."""
        if self._heartbeats is not None:
            return self._heartbeats.details
        return self.task.heartbeat_details if self.task.HasField("heartbeat_details") else None

    def heartbeat(self, details: Sequence[Any]) -> None:
        """Record progress."""
        self.heartbeats.beat(self.encode(details))

    def encode(self, details: Sequence[Any]) -> m.Payloads | None:
        """Heartbeat details as payloads."""
        return self.converter.to_payloads(details) if details else None

    @property
    def cancellation_details(self) -> ActivityCancellationDetails | None:
        """Why it should stop; None while it need not."""
        return ActivityCancellationDetails.of(self.cancel_reason)

    def is_cancelled(self) -> bool:
        """Whether it should stop."""
        return self.cancel_reason is not None

    async def wait_for_cancelled(self) -> None:
        """Wait until it should stop."""
        if self._cancelled is None:
            self._cancelled = asyncio.Event()
            if self.cancel_reason is not None:
                self._cancelled.set()
        await self._cancelled.wait()

    def wait_for_cancelled_sync(self, timeout_s: float | None) -> None:
        """Only threads and processes can wait like this."""
        raise RuntimeError("this blocks a thread; in an async activity await wait_for_cancelled()")

    def is_worker_shutdown(self) -> bool:
        """Whether the worker has begun to shut down."""
        return self._surroundings.notice.given

    async def wait_for_worker_shutdown(self) -> None:
        """Wait until the worker begins to shut down."""
        await self._surroundings.notice.wait()

    @contextmanager
    def shield(self) -> Generator[None]:
        """Only threads need it."""
        yield

    def cancel(self, reason: CancelReason) -> None:
        """Tell it to stop; only the first reason counts. On the event loop's thread."""
        if self.finished or self.cancel_reason is not None:
            return
        self.cancel_reason = reason
        if self._cancelled is not None:
            self._cancelled.set()
        self._interrupt()

    def _interrupt(self) -> None:
        """Make the function notice."""

    def finish(self) -> None:
        """The function has ended: nothing reaches it any more. Harmless to repeat."""
        self.finished = True
        if self._heartbeats is not None:
            self._heartbeats.stop()


class AsyncRun(RunningActivity):
    """Runs on the event loop, in its runner."""

    def _interrupt(self) -> None:
        if self.runner is not None:
            self.runner.cancel()


class ThreadRun(RunningActivity):
    """Runs on a thread."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Made on the event loop, heartbeats come back to it from the thread.
        self._loop = asyncio.get_running_loop()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread_id: int | None = None
        self._shields = 0
        self._raised = False

    def call(self, args: Sequence[Any]) -> Any:
        """Run the function; called on the thread."""
        with self._lock:
            if self._stop.is_set():
                raise self._error()
            self._thread_id = threading.get_ident()
        try:
            return self.activity.fn(*args)
        finally:
            with self._lock:
                self._thread_id = None
                if self._raised:
                    # Perhaps not delivered yet, and now too late: the thread must not carry it to its next work.
                    _set_async_exception(threading.get_ident(), None)

    def _error(self) -> CancelledError:
        reason = self.cancel_reason
        return CancelledError(f"activity cancelled: {reason.value}" if reason is not None else "activity cancelled")

    def heartbeat(self, details: Sequence[Any]) -> None:
        """Record progress, and stop here if cancelled."""
        if self._stop.is_set() and not self._shields:
            raise self._error()
        payloads = self.encode(details)
        self._loop.call_soon_threadsafe(self._beat, payloads)

    def _beat(self, payloads: m.Payloads | None) -> None:
        if not self.finished:
            self.heartbeats.beat(payloads)

    def wait_for_cancelled_sync(self, timeout_s: float | None) -> None:
        """Wait on the thread until it should stop."""
        with self.shield():
            self._stop.wait(timeout_s)

    @contextmanager
    def shield(self) -> Generator[None]:
        """Hold the exception back while inside."""
        with self._lock:
            self._shields += 1
        try:
            yield
        finally:
            with self._lock:
                self._shields -= 1
                due = self._stop.is_set() and not self._shields and not self._raised
                if due:
                    self._raised = True
        if due and self.activity.cancel_by_exception:
            raise self._error()

    def _interrupt(self) -> None:
        self._stop.set()
        if not self.activity.cancel_by_exception or not self._lock.acquire(timeout=_LOCK_TIMEOUT_S):
            return
        try:
            if self._thread_id is not None and not self._shields and not self._raised:
                self._raised = True
                _set_async_exception(self._thread_id, CancelledError)
        finally:
            self._lock.release()


def _set_async_exception(thread_id: int, kind: type[BaseException] | None) -> None:
    """Raise `kind` in another thread, or take back one that has not been raised yet."""
    raised = ctypes.py_object(kind) if kind is not None else None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_id), raised)


class _Pokeable(Protocol):
    @property
    def heartbeats(self) -> HeartbeatSender: ...

    @property
    def finished(self) -> bool: ...


class RunningActivities:
    """Activities that run in this process, by run id, so that a workflow's cancellation reaches them promptly."""

    def __init__(self) -> None:
        self._by_run: dict[str, set[_Pokeable]] = {}

    def add(self, run_id: str, activity: _Pokeable) -> None:
        """An activity of a run begins."""
        self._by_run.setdefault(run_id, set()).add(activity)

    def remove(self, run_id: str, activity: _Pokeable) -> None:
        """It has ended."""
        activities = self._by_run.get(run_id)
        if activities is not None:
            activities.discard(activity)
            if not activities:
                del self._by_run[run_id]

    def poke(self, run_id: str) -> None:
        """Let every activity of a run ask whether it should stop."""
        for activity in tuple(self._by_run.get(run_id, ())):
            if not activity.finished:
                activity.heartbeats.poke()
