"""Threads for plain functions, with as little between the event loop and the function as there can be.

A call goes through one queue to a thread; its outcome goes back through one list, and the event loop is woken once for
all outcomes that have come in since it last looked. Threads are started when a call finds none idle, up to the bound,
and kept. They are daemons: one that is stuck in a user's function does not keep the process from ending.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

__all__ = ["BorrowedThreads", "OwnThreads", "Threads"]

_T = TypeVar("_T")

_Call = tuple["asyncio.Future[Any]", Callable[[], Any]]
_Outcome = tuple["asyncio.Future[Any]", Any, BaseException | None]


class Threads(Protocol):
    """Runs calls on threads."""

    def submit(self, call: Callable[[], _T]) -> asyncio.Future[_T]:
        """Run a call on a thread; to be called on the event loop. Cancelling the answer does not stop the call."""
        ...

    def stop(self) -> None:
        """Begin no more calls. Harmless to repeat."""
        ...


class BorrowedThreads:
    """An executor of the user's."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def submit(self, call: Callable[[], _T]) -> asyncio.Future[_T]:
        """See `Threads.submit`."""
        return asyncio.get_running_loop().run_in_executor(self._executor, call)

    def stop(self) -> None:
        """The user stops it."""


class OwnThreads:
    """A pool of threads.

    Args:
        max_threads: most threads at once; further calls wait.
        name: begins the threads' names.
    """

    def __init__(self, max_threads: int, name: str) -> None:
        self._max_threads = max_threads
        self._name = name
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._outcomes: deque[_Outcome] = deque()
        self._threads = 0
        self._busy = 0
        self._woken = False
        self._stopped = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def submit(self, call: Callable[[], _T]) -> asyncio.Future[_T]:
        """See `Threads.submit`.

        Raises:
            RuntimeError: it has been stopped.
        """
        if self._stopped:
            raise RuntimeError("the worker has been stopped")
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()
        self._busy += 1
        if self._busy > self._threads < self._max_threads:
            self._threads += 1
            threading.Thread(target=self._run, name=f"{self._name}-{self._threads}", daemon=True).start()
        self._calls.put((future, call))
        return future

    def _run(self) -> None:
        """A thread's life."""
        calls, outcomes = self._calls, self._outcomes
        while True:
            item = calls.get()
            if item is None:
                return
            future, call = item
            try:
                outcomes.append((future, call(), None))
            except StopIteration as error:
                # A future refuses to carry it.
                outcomes.append((future, None, RuntimeError(f"the function raised {error!r}")))
            except BaseException as error:
                outcomes.append((future, None, error))
            # Nothing may be held on to while waiting for the next call.
            del item, future, call
            if not self._woken:
                self._woken = True
                try:
                    assert self._loop is not None, "it is set before the first call"
                    self._loop.call_soon_threadsafe(self._deliver)
                except RuntimeError:
                    return  # The event loop has been closed: nobody wants the outcome.

    def _deliver(self) -> None:
        """Hand over every outcome; on the event loop."""
        # Lowered first: an outcome that comes in from now on wakes the loop again.
        self._woken = False
        outcomes = self._outcomes
        while outcomes:
            future, result, error = outcomes.popleft()
            self._busy -= 1
            if future.done():
                continue
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

    def stop(self) -> None:
        """Begin no more calls; idle threads end. Harmless to repeat."""
        if self._stopped:
            return
        self._stopped = True
        for _ in range(self._threads):
            self._calls.put(None)
