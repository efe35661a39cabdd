"""Pools of poller coroutines that grow while there is work and shrink when there is none.

A poller polls, handles what it got, and polls again. Whenever one takes a task and nobody is left polling, another is
started, up to the bound; a poller whose poll came back empty while others are polling ends. So an idle pool is one
coroutine waiting in one poll, and a busy one costs no task creation for each piece of work.

A poll that fails is repeated after a wait; a fatal refusal is reported once and ends the pool.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from perdure.api import RpcError
from perdure.worker.service_calls import Backoff, is_fatal

__all__ = ["PollerPool"]

_logger = logging.getLogger("perdure.worker")


class _Task(Protocol):
    @property
    def task_token(self) -> bytes: ...


TaskT = TypeVar("TaskT", bound=_Task)


class PollerPool(Generic[TaskT]):
    """Polls one queue.

    Args:
        name: for logs.
        poll: asks for a task; an empty one (no token) means that there was none in time.
        handle: does everything about one task; it returns when the poller may poll again. Must not raise.
        max_pollers: most coroutines at once.
        on_fatal: called with an error after which polling is pointless.
    """

    def __init__(
        self,
        name: str,
        *,
        poll: Callable[[], Awaitable[TaskT]],
        handle: Callable[[TaskT], Awaitable[None]],
        max_pollers: int,
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        self._name = name
        self._poll = poll
        self._handle = handle
        self._max_pollers = max_pollers
        self._on_fatal = on_fatal
        self._pollers: set[asyncio.Task[None]] = set()
        self._polling: set[asyncio.Task[None]] = set()
        self._stopping = False

    @property
    def size(self) -> int:
        """How many pollers there are."""
        return len(self._pollers)

    def start(self) -> None:
        """Begin polling."""
        if not self._pollers and not self._stopping:
            self._spawn()

    def _spawn(self) -> None:
        poller = asyncio.get_running_loop().create_task(self._run(), name=f"perdure-{self._name}")
        self._pollers.add(poller)
        poller.add_done_callback(self._ended)

    def _ended(self, poller: asyncio.Task[None]) -> None:
        self._pollers.discard(poller)
        error = None if poller.cancelled() else poller.exception()
        # The event loop has passed an interrupt on to whoever runs it. Nothing else is expected here.
        if error is not None and not isinstance(error, KeyboardInterrupt):
            self._end(error)

    async def _run(self) -> None:
        me = asyncio.current_task()
        assert me is not None
        polling = self._polling
        backoff: Backoff | None = None
        while not self._stopping:
            polling.add(me)
            try:
                task = await self._poll()
            except RpcError as error:
                if self._stopping:
                    return
                if is_fatal(error):
                    polling.discard(me)
                    self._end(error)
                    return
                _logger.info("%s: a poll failed and is repeated: %s", self._name, error)
                backoff = backoff or Backoff()
                await backoff.wait()
                continue
            except Exception as error:
                polling.discard(me)
                self._end(error)
                return
            finally:
                polling.discard(me)
            backoff = None
            if not task.task_token:
                if polling:
                    return
                continue
            if not polling and len(self._pollers) < self._max_pollers and not self._stopping:
                self._spawn()
            await self._handle(task)

    def _end(self, error: BaseException) -> None:
        """Polling is pointless from now on."""
        if not self._stopping:
            self.stop_polling()
            self._on_fatal(error)

    def stop_polling(self) -> None:
        """Stop asking for tasks; those being handled go on."""
        self._stopping = True
        for poller in tuple(self._polling):
            poller.cancel()

    async def wait_stopped(self, timeout_s: float | None) -> bool:
        """Wait until every task taken has been handled; False if some were not within `timeout_s` seconds."""
        if not self._pollers:
            return True
        _, left = await asyncio.wait(tuple(self._pollers), timeout=timeout_s)
        return not left

    async def kill(self) -> None:
        """Cancel whatever still runs."""
        self.stop_polling()
        pollers = tuple(self._pollers)
        for poller in pollers:
            poller.cancel()
        await asyncio.gather(*pollers, return_exceptions=True)
