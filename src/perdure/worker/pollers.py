"""Pools of poller coroutines that grow while there is work and shrink when there is none.

A poller polls, handles what it got, and polls again. Whenever one takes a task and too few are left polling, more are
started, up to the bound; a poller whose poll came back empty while others are polling ends. So an idle pool is one
coroutine waiting in one poll, and a busy one costs no task creation for each piece of work. One poll under way is
enough where the service is in this process. Where each takes a round trip, a busy pool keeps several under way.

A poll that fails is repeated after a wait; a fatal refusal is reported once and ends the pool.

Pollers stop in two steps. `stop_polling` begins no more polls; a service that has been told that the worker leaves
answers those under way, with their tasks if it had any for them. `cancel_polls` then gives up what is left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from perdure.api import RpcError
from perdure.client.calls import Backoff
from perdure.worker.service_calls import Outage, is_fatal, poll_backoff
from perdure.worker.slots import Slots

__all__ = ["PollSettings", "PollerPool", "Pool"]

_MAX_GROWTH = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class PollSettings:
    """How a worker polls.

    Attributes:
        worker_key: in every poll, so that the service knows whose polls to answer when the worker leaves.
        outage: told of polls that fail.
        ahead: polls that a busy pool keeps under way.
    """

    worker_key: str
    outage: Outage
    ahead: int = 1


class _Task(Protocol):
    @property
    def task_token(self) -> bytes: ...


TaskT = TypeVar("TaskT", bound=_Task)


class Pool(Protocol):
    """Whatever brings tasks to a worker; each method as `PollerPool` says."""

    @property
    def size(self) -> int: ...

    def start(self) -> None: ...

    def stop_polling(self) -> None: ...

    async def wait_polls(self, timeout_s: float) -> None: ...

    def cancel_polls(self) -> None: ...

    async def wait_stopped(self, timeout_s: float | None) -> bool: ...

    async def kill(self) -> None: ...


class PollerPool(Generic[TaskT]):
    """Polls one queue.

    Args:
        name: for logs.
        poll: asks for a task; an empty one (no token) means that there was none in time.
        handle: does everything about one task; it returns when the poller may poll again. Must not raise.
        max_pollers: most coroutines at once.
        on_fatal: called with an error after which polling is pointless.
        outage: told of polls that fail and of polls that succeed.
        ahead: polls kept under way while there is work.
        slots: taken before each poll, and kept for the task that comes; None = no room is needed.
    """

    def __init__(
        self,
        name: str,
        *,
        poll: Callable[[], Awaitable[TaskT]],
        handle: Callable[[TaskT], Awaitable[None]],
        max_pollers: int,
        on_fatal: Callable[[BaseException], None],
        outage: Outage,
        ahead: int = 1,
        slots: Slots | None = None,
    ) -> None:
        self._name = name
        self._poll = poll
        self._handle = handle
        self._max_pollers = max_pollers
        self._on_fatal = on_fatal
        self._outage = outage
        self._ahead = ahead
        self._slots = slots
        self._pollers: set[asyncio.Task[None]] = set()
        self._polling: set[asyncio.Task[None]] = set()
        self._resting: set[asyncio.Task[None]] = set()
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
        slots = self._slots
        backoff: Backoff | None = None
        while not self._stopping:
            if slots is not None and not slots.take_nowait():
                await self._rest(me, slots.take())
            polling.add(me)
            try:
                task = await self._poll()
            except BaseException as error:
                polling.discard(me)
                if slots is not None:
                    slots.release()
                if not isinstance(error, RpcError):
                    raise
                if self._stopping:
                    return
                if is_fatal(error):
                    self._end(error)
                    return
                self._outage.begins(error)
                backoff = backoff or poll_backoff()
                await self._rest(me, backoff.wait())
                continue
            polling.discard(me)
            if backoff is not None:
                backoff = None
                self._outage.ends()
            if not task.task_token:
                if slots is not None:
                    slots.release()
                if polling:
                    return
                continue
            if len(polling) < self._ahead and not self._stopping:
                self._grow()
            await self._handle(task)

    async def _rest(self, me: asyncio.Task[None], what: Awaitable[None]) -> None:
        """Wait for room, or for the next try; whoever stops the pool need not wait for that."""
        self._resting.add(me)
        try:
            await what
        finally:
            self._resting.discard(me)

    def _grow(self) -> None:
        """More pollers, a few at a time: work that goes on soon has as many as it needs."""
        missing = self._ahead - len(self._polling) - len(self._resting)
        for _ in range(min(missing, self._max_pollers - len(self._pollers), _MAX_GROWTH)):
            self._spawn()

    def _end(self, error: BaseException) -> None:
        """Polling is pointless from now on."""
        if not self._stopping:
            self.cancel_polls()
            self._on_fatal(error)

    def stop_polling(self) -> None:
        """Begin no more polls; those under way, and tasks being handled, go on."""
        self._stopping = True
        for poller in tuple(self._resting):
            poller.cancel()

    async def wait_polls(self, timeout_s: float) -> None:
        """Wait, at most for `timeout_s` seconds, until the polls under way have been answered and handled."""
        if self._polling:
            await asyncio.wait(tuple(self._polling), timeout=timeout_s)

    def cancel_polls(self) -> None:
        """Give up the polls under way."""
        self.stop_polling()
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
        self.cancel_polls()
        pollers = tuple(self._pollers)
        for poller in pollers:
            poller.cancel()
        await asyncio.gather(*pollers, return_exceptions=True)
