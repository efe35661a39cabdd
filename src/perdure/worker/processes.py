"""Activities in processes of their own, for work that holds the interpreter.

Only bytes and names cross: the child gets the activity's module and qualified name (as this worker's own code
registered it), the task's message, and answers with a payload or a failure. Heartbeats come back through a queue,
cancellation is a flag in shared memory that the child looks at. Children are started afresh (spawn), so they import the
module anew; scripts therefore need the usual ``if __name__ == "__main__":``.
"""

from __future__ import annotations

import asyncio
import importlib
import multiprocessing
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import reduce
from typing import Any

from perdure.activity.context import CURRENT, ActivityCancellationDetails, CancelReason, CompleteAsync, Info
from perdure.activity.definition import Activity
from perdure.api import messages as m
from perdure.converter import DataConverter, decode_arguments, default
from perdure.exceptions import ApplicationError, CancelledError, DefinitionError
from perdure.replay.definition import describe_callable
from perdure.worker.running import RunningActivity, heartbeat_payloads, info_of

__all__ = ["ProcessPool", "ProcessRun", "check_process_activity"]


_RESULT, _FAILURE, _CANCELLED, _COMPLETE_ASYNC = range(4)
_CANCEL_POLL_S = 0.05


def check_process_activity(activity: Activity[Any, Any], converter: DataConverter) -> None:
    """Refuse what a child process could not run.

    Raises:
        DefinitionError: the function cannot be imported by name, or the converter is not the default one.
    """
    where = describe_callable(activity.fn)
    if "<locals>" in activity.fn.__qualname__ or "." in activity.fn.__qualname__:
        raise DefinitionError(f"{where} runs in a process, so it must be a function at the top level of its module")
    if converter is not default():
        raise DefinitionError(f"{where} runs in a process, which knows the default data converter only")


_REASONS = (None, *CancelReason)
"""By the flag that stands for each."""


def _flag_of(reason: CancelReason | None) -> int:
    return _REASONS.index(reason)


class ProcessRun(RunningActivity):
    """Runs in a process."""

    slot = -1
    pool: ProcessPool | None = None

    def _interrupt(self) -> None:
        if self.pool is not None:
            self.pool.flags[self.slot] = _flag_of(self.cancel_reason)


class ProcessPool:
    """Child processes, and the slots through which their activities are told to stop."""

    def __init__(self, max_processes: int) -> None:
        self._max_processes = max_processes
        self._context = multiprocessing.get_context("spawn")
        self.flags: Any = self._context.RawArray("b", max_processes)
        self._free = list(range(max_processes))
        self._slots = asyncio.Semaphore(max_processes)
        self._running: dict[int, ProcessRun] = {}
        self._executor: ProcessPoolExecutor | None = None
        self._beats: Any = None
        self._reader: threading.Thread | None = None

    def _start(self) -> ProcessPoolExecutor:
        if self._beats is None:
            self._beats = self._context.SimpleQueue()
            loop = asyncio.get_running_loop()
            self._reader = threading.Thread(
                target=self._read_beats, args=(loop,), name="perdure-process-heartbeats", daemon=True
            )
            self._reader.start()
        self._executor = ProcessPoolExecutor(
            self._max_processes, mp_context=self._context, initializer=_begin, initargs=(self.flags, self._beats)
        )
        return self._executor

    def _read_beats(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            beat: tuple[int, bytes | None] | None = self._beats.get()
            if beat is None:
                return
            loop.call_soon_threadsafe(self._on_beat, *beat)

    def _on_beat(self, slot: int, details: bytes | None) -> None:
        running = self._running.get(slot)
        if running is not None and not running.finished:
            running.heartbeats.beat(m.Payloads.FromString(details) if details is not None else None)

    async def call(self, running: ProcessRun, task_queue: str) -> bytes:
        """Run an activity in a child; its result as a serialized payload.

        Raises:
            BaseException: what the activity raised, as it came over.
        """
        async with self._slots:
            slot = self._free.pop()
            running.slot, running.pool = slot, self
            self.flags[slot] = _flag_of(running.cancel_reason)
            self._running[slot] = running
            try:
                kind, data = await self._submit(running, slot, task_queue)
            finally:
                del self._running[slot]
                running.pool = None
                self._free.append(slot)
        if kind == _RESULT:
            return data
        if kind == _CANCELLED:
            raise CancelledError("activity cancelled")
        if kind == _COMPLETE_ASYNC:
            raise CompleteAsync
        raise running.converter.from_failure(m.Failure.FromString(data))

    async def _submit(self, running: ProcessRun, slot: int, task_queue: str) -> tuple[int, bytes]:
        executor = self._executor or self._start()
        fn = running.activity.fn
        try:
            future = executor.submit(
                _run, slot, fn.__module__, fn.__qualname__, running.task.SerializeToString(), task_queue
            )
            return await asyncio.shield(asyncio.wrap_future(future))
        except BrokenProcessPool as error:
            if self._executor is executor:
                self._executor = None
                executor.shutdown(wait=False)
            raise ApplicationError("the process running the activity died", type="ProcessDied") from error

    def stop(self) -> None:
        """End the children. Harmless to repeat."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._executor = None
        if self._beats is not None:
            self._beats.put(None)
            if self._reader is not None:
                self._reader.join()
            self._beats = None


class _Child:
    """What a child process was given when it began."""

    flags: Any = None
    beats: Any = None


def _begin(flags: Any, beats: Any) -> None:
    _Child.flags = flags
    _Child.beats = beats


class _ChildContext:
    """The activity context inside a child."""

    def __init__(self, slot: int, task: m.PollActivityTaskQueueResponse, task_queue: str) -> None:
        self._slot = slot
        self._task = task
        self._shields = 0
        self.converter = default()
        self.info: Info = info_of(task, self.converter, task_queue)
        self.last_heartbeat: Sequence[m.Payload] = heartbeat_payloads(task)

    def heartbeat(self, details: Sequence[Any]) -> None:
        if self.is_cancelled() and not self._shields:
            raise CancelledError("activity cancelled")
        encoded = self.converter.to_payloads(details).SerializeToString() if details else None
        _Child.beats.put((self._slot, encoded))

    @property
    def cancellation_details(self) -> ActivityCancellationDetails | None:
        flag: int = _Child.flags[self._slot]
        return ActivityCancellationDetails.of(_REASONS[flag])

    def is_cancelled(self) -> bool:
        return bool(_Child.flags[self._slot])

    async def wait_for_cancelled(self) -> None:
        self.wait_for_cancelled_sync(None)

    def wait_for_cancelled_sync(self, timeout_s: float | None) -> None:
        never = threading.Event()
        left_s = timeout_s
        while not self.is_cancelled() and (left_s is None or left_s > 0):
            never.wait(_CANCEL_POLL_S)
            left_s = left_s - _CANCEL_POLL_S if left_s is not None else None

    def is_worker_shutdown(self) -> bool:
        return self.is_cancelled()

    async def wait_for_worker_shutdown(self) -> None:
        self.wait_for_cancelled_sync(None)

    @contextmanager
    def shield(self) -> Generator[None]:
        self._shields += 1
        try:
            yield
        finally:
            self._shields -= 1


def _run(slot: int, module: str, qualname: str, task_bytes: bytes, task_queue: str) -> tuple[int, bytes]:
    """Run one activity; the child's side of `ProcessPool.call`."""
    converter = default()
    task = m.PollActivityTaskQueueResponse.FromString(task_bytes)
    try:
        found = reduce(getattr, qualname.split("."), importlib.import_module(module))
        if not isinstance(found, Activity):
            raise DefinitionError(f"{module}.{qualname} is not an activity in the child process")
        args = decode_arguments(converter, task.input.payloads, found.signature, f"activity {found.name}")
        token = CURRENT.set(_ChildContext(slot, task, task_queue))
        try:
            result = found.fn(*args)
        finally:
            CURRENT.reset(token)
        return _RESULT, converter.to_payload_bytes(result, found.signature.return_type)
    except CompleteAsync:
        return _COMPLETE_ASYNC, b""
    except CancelledError:
        return _CANCELLED, b""
    except Exception as error:
        return _FAILURE, converter.to_failure(error).SerializeToString()
