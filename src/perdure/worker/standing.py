"""Pools for tasks that come by the short way (see `perdure.api.direct`).

A pool has standing polls instead of coroutines that poll. Tasks that are done in the call that brings them cost it
nothing; those that have to wait for something run in asyncio tasks of their own. When there are as many of these as
may be, the polls pause until one has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextvars import copy_context
from typing import Any

from perdure.api import RpcError
from perdure.api.direct import StandingPoll

__all__ = ["StandingPool"]


class StandingPool:
    """Standing polls and the tasks they have brought.

    Args:
        name: of the asyncio tasks.
        begin: begins the polls.
        max_tasks: most asyncio tasks before the polls pause; None if whoever takes the tasks sees to that.
        on_fatal: called with an error after which polling is pointless.
    """

    def __init__(
        self,
        name: str,
        *,
        begin: Callable[[], Sequence[StandingPoll]],
        max_tasks: int | None = None,
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        self._name = name
        self._begin = begin
        self._max_tasks = max_tasks
        self._on_fatal = on_fatal
        self._loop = asyncio.get_running_loop()
        # Tasks run in the context of whoever started the worker, not in that of an engine's turn.
        self._context = copy_context()
        self._polls: Sequence[StandingPoll] = ()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    @property
    def size(self) -> int:
        """How many polls there are, and asyncio tasks."""
        return len(self._polls) + len(self._tasks)

    def start(self) -> None:
        """Begin polling."""
        if not self._polls and not self._stopping:
            try:
                self._polls = self._begin()
            except RpcError as error:
                self._on_fatal(error)

    def run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do something about a task that cannot be done at once. It must not raise."""
        task = asyncio.Task(work, loop=self._loop, name=self._name, context=self._context.copy())
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        if self._max_tasks is not None and len(self._tasks) >= self._max_tasks:
            self.pause()
        return task

    def pause(self) -> None:
        """Take no tasks for now. Harmless to repeat."""
        for poll in self._polls:
            poll.pause()

    def resume(self) -> None:
        """Go on. Harmless to repeat."""
        for poll in self._polls:
            poll.resume()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        # The event loop has passed an interrupt on to whoever runs it. Nothing else is expected here.
        if error is not None and not isinstance(error, KeyboardInterrupt):
            self.stop_polling()
            self._on_fatal(error)
        elif self._max_tasks is not None:
            self.resume()

    def stop_polling(self) -> None:
        """Take no more tasks; those being handled go on. Harmless to repeat."""
        self._stopping = True
        polls, self._polls = self._polls, ()
        for poll in polls:
            poll.close()

    async def wait_polls(self, timeout_s: float) -> None:
        """Nothing is under way to a poll that has been closed."""

    def cancel_polls(self) -> None:
        """The same as `stop_polling`."""
        self.stop_polling()

    async def wait_stopped(self, timeout_s: float | None) -> bool:
        """Wait until every task taken has been handled; False if some were not within `timeout_s` seconds."""
        if not self._tasks:
            return True
        _, left = await asyncio.wait(tuple(self._tasks), timeout=timeout_s)
        return not left

    async def kill(self) -> None:
        """Cancel whatever still runs."""
        self.stop_polling()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
