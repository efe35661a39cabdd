"""One database file, several processes: one owns it and serves the others, and any of them may take over.

Whoever gets the file's lock runs the engine: it is the owner, and listens at the socket beside the file. Whoever finds
the lock taken connects there and is a member: its calls go to the owner as frames (`perdure.transport`). There is
nothing to configure and nobody who decides; the lock does.

    state      means                                          goes to
    NEW        not opened                                     OWNER, MEMBER
    OWNER      runs the engine, serves the socket             CLOSED
    MEMBER     connected to the owner                         SEEKING, CLOSED
    SEEKING    the connection ended; takes over or reconnects OWNER, MEMBER, FAILED, CLOSED
    FAILED     the file cannot be used any more               CLOSED
    CLOSED     given back

When the owner goes, in good order or by ``kill -9``, the kernel frees its lock and ends its connections. Every member
then tries for the lock: one becomes the owner and goes on from what is on disk, the others connect to it.

Nothing is lost in between. The owner answers what is durable and nothing else. A member's call that was in flight has
an unknown outcome, so it is made again: starts, signals and the like carry request ids, completions carry tokens, and
polls change nothing. Calls made while there is no owner wait for one. The member's worker keeps what it has cached,
and the activities it runs: their start is on disk, so the new owner neither hands them out again nor refuses their
results.

An owner never becomes a member, so its own calls go straight to its engine; sharing costs them nothing. A process that
was a member keeps one short hop in its calls when it becomes the owner.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from enum import Enum, auto
from functools import partial
from typing import Any, Final

from perdure.api import EngineStoppedError, RpcError, StatusCode, WorkflowService
from perdure.api import messages as m
from perdure.api.rpcs import Rpc
from perdure.engine import Engine, EngineConfig
from perdure.engine.store.memory import MemoryStore
from perdure.engine.store.port import (
    StoreCorruptError,
    StoreError,
    StoreForeignError,
    StoreLockedError,
    StoreMissingError,
    StoreNewerError,
)
from perdure.engine.store.sqlite import SqliteStore
from perdure.transport import Call, LineLostError, SocketChannel, SocketServer, service_of, socket_path
from perdure.transport.frames import FrameError

__all__ = ["PrivateMemory", "SharedDatabase"]

_logger = logging.getLogger("perdure.sharing")

PATIENCE_S: Final = 10.0
"""How long a lock may be held by a process that does not listen: it is starting, or about to end."""
_FIRST_WAIT_S: Final = 0.002
_LONGEST_WAIT_S: Final = 0.05
_LONGEST_REST_S: Final = 1.0
"""Between attempts to take over a file that could not be opened."""
_CALL_S: Final = 30.0
"""How long a call waits for an owner."""

_FINAL = (StoreNewerError, StoreForeignError, StoreCorruptError, StoreMissingError)
"""Refusals of the file that no repetition changes."""


class State(Enum):
    """See the module."""

    NEW = auto()
    OWNER = auto()
    MEMBER = auto()
    SEEKING = auto()
    FAILED = auto()
    CLOSED = auto()


_MOVES: Final = {
    State.NEW: {State.OWNER, State.MEMBER},
    State.OWNER: {State.CLOSED},
    State.MEMBER: {State.SEEKING, State.CLOSED},
    State.SEEKING: {State.OWNER, State.MEMBER, State.FAILED, State.CLOSED},
    State.FAILED: {State.CLOSED},
    State.CLOSED: set[State](),
}


class SharedDatabase:
    """This process's part in a database file.

    Args:
        path: of the file, real and absolute.
        config: of the engine, should this process run it.
        in_process: whether this process's callers live and die with it, as `Engine.service` says.

    Attributes:
        engine: while this process is the owner.
        state: see the module.
    """

    def __init__(self, path: str, *, config: EngineConfig | None = None, in_process: bool = True) -> None:
        self.path = path
        self.state = State.NEW
        self.engine: Engine | None = None
        self._config = config
        self._in_process = in_process
        self._store: SqliteStore | None = None
        self._service: WorkflowService | None = None
        self._following: _Following | None = None
        self._server: SocketServer | None = None
        self._channel: SocketChannel | None = None
        self._follower: asyncio.Task[None] | None = None
        loop = asyncio.get_running_loop()
        self._owned: asyncio.Future[Engine] = loop.create_future()
        self._failed: asyncio.Future[RpcError] = loop.create_future()

    @property
    def service(self) -> WorkflowService:
        """The database's calls, whoever serves them; the same object from `open` to `close`."""
        assert self._service is not None, "it has been opened"
        return self._service

    async def open(self) -> None:
        """Own the file or join its owner.

        Raises:
            StoreError: the file cannot be opened; StoreLockedError, its owner does not share it.
            RpcError: the engine cannot go on with what is in it.
        """
        assert self.state is State.NEW, "opened once"
        await self._settle(create=True)
        if self.engine is not None:
            self._service = self.engine.service(in_process=self._in_process)
        else:
            self._following = _Following()
            self._service = service_of(self._following.bind)
            self._point()
            self._follower = asyncio.get_running_loop().create_task(self._follow(), name="perdure-follow-owner")

    async def close(self) -> None:
        """Give the file back; a member takes over. Harmless to repeat, or before `open`."""
        if self.state is State.CLOSED:
            return
        follower, self._follower = self._follower, None
        if follower is not None:
            follower.cancel()
            await asyncio.gather(follower, return_exceptions=True)
        self.state = State.CLOSED
        if self._following is not None:
            self._following.end(EngineStoppedError)
        if self._channel is not None:
            self._channel.close()
        if self._server is not None:
            self._server.stop_listening()
        try:
            if self.engine is not None:
                await self.engine.stop()
        finally:
            if self._server is not None:
                # The lock is free: the end of a connection is the news of it.
                await self._server.close()

    async def abandon(self) -> None:
        """Free what was left behind on an event loop that has been closed; what was acknowledged is on disk."""
        self.state = State.CLOSED
        if self._server is not None:
            self._server.abandon()
        if self._channel is not None:
            self._channel.abandon()
        if self._store is not None:
            await self._store.close()

    def release_polls(self) -> None:
        """Answer those who wait, for a server that stops."""
        if self._following is not None:
            self._following.release()
        if self.engine is not None:
            self.engine.release_polls()

    async def wait_failed(self) -> RpcError:
        """Wait until the file cannot be used any more; the error every call gets from then on."""
        await asyncio.wait((self._owned, self._failed), return_when=asyncio.FIRST_COMPLETED)
        if self.engine is not None:
            return await self.engine.wait_failed()
        return self._failed.result()

    # -- owner or member -------------------------------------------------------------------------------------------

    def _become(self, state: State) -> None:
        assert state in _MOVES[self.state], f"{self.state.name} does not become {state.name}"
        self.state = state

    async def _settle(self, *, create: bool) -> None:
        """Become the owner or a member.

        Args:
            create: make the file if there is none.

        Raises:
            StoreError, RpcError: neither is possible.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + PATIENCE_S
        wait_s = _FIRST_WAIT_S
        while True:
            store = SqliteStore(self.path, create=create)
            engine = Engine(store, config=self._config)
            try:
                await engine.start()
            except StoreLockedError as error:
                reason = await self._join()
                if reason is None:
                    return
                if loop.time() >= until:
                    raise StoreLockedError(f"{error} ({reason})", error.pid) from error
            else:
                self._store = store
                await self._own(engine)
                return
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, _LONGEST_WAIT_S)

    async def _own(self, engine: Engine) -> None:
        self._become(State.OWNER)
        self.engine = engine
        self._owned.set_result(engine)
        server = SocketServer(socket_path(self.path), engine.service(in_process=False), {"pid": os.getpid()})
        try:
            await server.start()
        except OSError as error:
            _logger.warning("other processes cannot join %s: there can be no socket beside it (%s)", self.path, error)
        else:
            self._server = server

    async def _join(self) -> str | None:
        """Connect to the owner; None when that is done, else why it cannot be."""
        try:
            channel = await SocketChannel.connect(socket_path(self.path))
        except (FileNotFoundError, ConnectionError):
            return "it does not listen at its socket"
        except PermissionError:
            return "it is another user's"
        except TimeoutError:
            return "it does not answer at its socket"
        except (FrameError, OSError) as error:
            return str(error)
        self._become(State.MEMBER)
        self._channel = channel
        return None

    # -- a member's life -------------------------------------------------------------------------------------------

    def _point(self) -> None:
        """Let calls go where they are answered now."""
        assert self._following is not None, "only who was a member once follows"
        if self.engine is not None:
            self._following.point(self.engine.service(in_process=self._in_process))
        else:
            assert self._channel is not None, "no owner, so a member"
            self._following.point(service_of(self._channel.bind))

    async def _follow(self) -> None:
        """Stay with the file from owner to owner, until this process is the owner."""
        assert self._following is not None
        while self._channel is not None and self.engine is None:
            await self._channel.lost
            self._channel = None
            self._following.point(None)
            self._become(State.SEEKING)
            if not await self._seek():
                return
            self._point()

    async def _seek(self) -> bool:
        """Become the owner or a member again; False when the file cannot be used any more."""
        assert self._following is not None
        rest_s = _FIRST_WAIT_S
        while True:
            try:
                await self._settle(create=False)
                return True
            except _FINAL as error:
                self._become(State.FAILED)
                refuse = partial(RpcError, StatusCode.FAILED_PRECONDITION, f"its owner has gone, and {error}")
                self._following.end(refuse)
                self._failed.set_result(refuse())
                return False
            except (StoreError, RpcError) as error:
                _logger.warning("the owner of %s has gone, and this process cannot take over yet: %s", self.path, error)
                self._following.reason = str(error)
            await asyncio.sleep(rest_s)
            rest_s = min(rest_s * 2, _LONGEST_REST_S)


async def _was_terminated(target: WorkflowService, request: m.TerminateWorkflowExecutionRequest) -> bool:
    """Whether a run's end is the one that this request asked for."""
    ask = m.GetWorkflowExecutionHistoryRequest(namespace=request.namespace, execution=request.workflow_execution)
    ask.history_event_filter_type = m.HistoryEventFilterType.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT
    for event in (await target.get_workflow_execution_history(ask)).history.events:
        if event.HasField("workflow_execution_terminated_event_attributes"):
            ended = event.workflow_execution_terminated_event_attributes
            told = (ended.reason, ended.identity, ended.details)
            return told == (request.reason, request.identity, request.details)
    return False


async def _was_deleted(_target: WorkflowService, _request: m.DeleteWorkflowExecutionRequest) -> bool:
    return True


_DONE_BEFORE: Final[dict[str, Callable[[WorkflowService, Any], Awaitable[bool]]]] = {
    "delete_workflow_execution": _was_deleted,
    "terminate_workflow_execution": _was_terminated,
}
"""Calls that carry nothing to know them by. One that is made again, and whose workflow is not there to be ended any
more, may be the one that ended it."""
_QUEUE_POLLS: Final = frozenset({"poll_activity_task_queue", "poll_nexus_task_queue", "poll_workflow_task_queue"})


class PrivateMemory:
    """What a `SharedDatabase` is for a file, for an engine that keeps nothing and is shared with nobody."""

    def __init__(self, config: EngineConfig | None = None, *, in_process: bool = True) -> None:
        self.engine = Engine(MemoryStore(), config=config)
        self._in_process = in_process
        self._service: WorkflowService | None = None

    @property
    def service(self) -> WorkflowService:
        """Its calls."""
        assert self._service is not None, "it has been opened"
        return self._service

    async def open(self) -> None:
        """Start the engine."""
        await self.engine.start()
        self._service = self.engine.service(in_process=self._in_process)

    async def close(self) -> None:
        """Stop the engine. Harmless to repeat, or before `open`."""
        await self.engine.stop()

    async def abandon(self) -> None:
        """Nothing outlives its event loop."""

    def release_polls(self) -> None:
        """Answer those who wait, for a server that stops."""
        self.engine.release_polls()

    async def wait_failed(self) -> RpcError:
        """Wait until the engine has failed for good; the error every call gets from then on."""
        return await self.engine.wait_failed()


class _Following:
    """Calls that go to whoever serves the file now; while nobody does, they wait."""

    def __init__(self) -> None:
        self.reason = ""
        """Why there is no owner."""
        self._target: WorkflowService | None = None
        self._ended: Callable[[], RpcError] | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self._released: asyncio.Future[None] | None = None
        """Who waits for something to happen waits for this, too."""

    def point(self, target: WorkflowService | None) -> None:
        """Let calls go there; None = let them wait."""
        self._target = target
        if target is not None:
            self.reason = ""
            self._wake()

    def end(self, refuse: Callable[[], RpcError]) -> None:
        """Refuse every call from now on."""
        self._target = None
        self._ended = refuse
        self._wake()

    def release(self) -> None:
        """Answer the calls that wait for something to happen: polls of queues empty, others with UNAVAILABLE."""
        released, self._released = self._released, None
        if released is not None:
            released.set_result(None)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def bind(self, rpc: Rpc) -> Call:
        """The call of one RPC."""
        method = rpc.method
        done_before = _DONE_BEFORE.get(method)

        async def call(request: Any, **options: Any) -> Any:
            is_repeated = False
            while True:
                target = self._target or await self._next_target()
                try:
                    return await getattr(target, method)(request, **options)
                except LineLostError:
                    is_repeated = True
                    if self._target is target:
                        self._target = None
                except RpcError as error:
                    if not is_repeated or done_before is None or error.code is not StatusCode.NOT_FOUND:
                        raise
                    if not await done_before(target, request):
                        raise
                    return rpc.response()

        return self._releasable(rpc, call) if rpc.is_long_poll or method == "query_workflow" else call

    def _releasable(self, rpc: Rpc, call: Call) -> Call:
        """A call that `release` answers."""

        async def released_call(request: Any, **options: Any) -> Any:
            if self._released is None:
                self._released = asyncio.get_running_loop().create_future()
            calling = asyncio.ensure_future(call(request, **options))
            try:
                await asyncio.wait((calling, self._released), return_when=asyncio.FIRST_COMPLETED)
                await asyncio.sleep(0)  # An answer that has arrived is not thrown away.
            finally:
                calling.cancel()
            await asyncio.wait((calling,))
            if not calling.cancelled():
                return calling.result()
            if rpc.method in _QUEUE_POLLS:
                return rpc.response()
            raise RpcError(StatusCode.UNAVAILABLE, "the server is stopping; ask again")

        return released_call

    async def _next_target(self) -> WorkflowService:
        """Raises RpcError: UNAVAILABLE, nobody serves the file; or it has been closed."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _CALL_S
        while self._target is None:
            if self._ended is not None:
                raise self._ended()
            waiter: asyncio.Future[None] = loop.create_future()
            self._waiters.append(waiter)
            try:
                async with asyncio.timeout_at(until):
                    await waiter
            except TimeoutError:
                why = f": {self.reason}" if self.reason else ""
                raise RpcError(
                    StatusCode.UNAVAILABLE, f"the process that owned the database has gone, and nobody took over{why}"
                ) from None
        return self._target
