"""The client's end of a database's socket: calls as frames over one connection.

Calls in flight are futures by number. What is written during one turn of the event loop leaves in one piece. When the
connection ends, every call in flight ends with `LineLostError`: what became of it is unknown.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from google.protobuf.message import DecodeError, Message

from perdure.api import RpcError, StatusCode
from perdure.api.rpcs import Rpc
from perdure.transport import sockets
from perdure.transport.frames import (
    MAX_CONTENT_BYTES,
    Frame,
    FrameError,
    FrameReader,
    Kind,
    call,
    frame,
    greeting,
    read_greeting,
)
from perdure.transport.statuses import error_of_status

__all__ = ["LineLostError", "SocketChannel"]

_logger = logging.getLogger("perdure.transport")

_GREETING_S: Final = 5.0
"""How long the owner may take to greet: it may be replaying or blocked, but a process that hangs is no owner."""
_SWEEP_S: Final = 1.0
_CALL_S: Final = 30.0
"""How long a call that is no long poll may take."""


class LineLostError(RpcError):
    """The owner of the file has gone, with this call in flight: whether it took effect is unknown."""

    def __init__(self) -> None:
        super().__init__(StatusCode.UNAVAILABLE, "the process that owns the database has gone; call again")


class SocketChannel(asyncio.Protocol):
    """A connection to the process that owns a database file.

    Attributes:
        lost: done when the connection has ended.
        about: what the owner said of itself.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reader = FrameReader()
        self._calls: dict[int, tuple[asyncio.Future[bytes], float]] = {}
        self._last_number = 0
        self._out: list[bytes] = []
        self._sweep: asyncio.TimerHandle | None = None
        self._greeted: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self.lost: asyncio.Future[None] = self._loop.create_future()
        self.about: dict[str, Any] = {}

    @classmethod
    async def connect(cls, path: str) -> SocketChannel:
        """Connect to the owner that listens at `path`.

        Raises:
            OSError: nobody listens there.
            FrameError: who listens there is no owner this version understands.
            TimeoutError: it does not greet.
        """
        connected = sockets.connect(path)
        channel = cls()
        await channel._loop.create_connection(lambda: channel, sock=connected)
        try:
            async with asyncio.timeout(_GREETING_S):
                channel.about = await channel._greeted
        except BaseException:
            channel.close()
            raise
        return channel

    def close(self) -> None:
        """End the connection. Harmless to repeat."""
        if self._transport is not None:
            self._transport.abort()

    def abandon(self) -> None:
        """As `close`, on an event loop that has been closed."""
        if self._transport is not None:
            sockets.hang_up(self._transport)

    # -- calls -----------------------------------------------------------------------------------------------------

    def bind(self, rpc: Rpc) -> Callable[..., Awaitable[Any]]:
        """The call of one RPC."""
        name = rpc.name.encode()
        response = rpc.response

        async def unary(request: Message) -> Message:
            return _parsed(response, await self._call(name, request, None, self._loop.time() + _CALL_S))

        async def poll(request: Message, *, timeout_s: float | None = None) -> Message:
            return _parsed(response, await self._call(name, request, timeout_s, float("inf")))

        return poll if rpc.is_long_poll else unary

    async def _call(self, method: bytes, request: Message, timeout_s: float | None, until: float) -> bytes:
        """Raises RpcError: the refusal; LineLostError."""
        if self._transport is None or self.lost.done():
            raise LineLostError
        data = request.SerializeToString()
        if len(data) > MAX_CONTENT_BYTES - 1024:
            raise RpcError(StatusCode.RESOURCE_EXHAUSTED, f"the request of {len(data)} bytes is too large to be sent")
        self._last_number = number = (self._last_number + 1) & 0xFFFF_FFFF
        answer: asyncio.Future[bytes] = self._loop.create_future()
        self._calls[number] = (answer, until)
        if self._sweep is None and until != float("inf"):
            self._sweep = self._loop.call_later(_SWEEP_S, self._end_late_calls)
        self._send(call(number, method, data, timeout_s))
        try:
            return await answer
        except asyncio.CancelledError:
            if self._calls.pop(number, None) is not None and not self.lost.done():
                self._send(frame(Kind.CANCEL, number))
            raise

    def _send(self, data: bytes) -> None:
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(data)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(out))

    def _end_late_calls(self) -> None:
        """Calls that have waited for too long; the timer rests when none is waiting."""
        self._sweep = None
        now = self._loop.time()
        waiting = False
        for number, (answer, until) in tuple(self._calls.items()):
            if until <= now:
                del self._calls[number]
                self._send(frame(Kind.CANCEL, number))
                if not answer.done():
                    answer.set_exception(
                        RpcError(StatusCode.DEADLINE_EXCEEDED, f"no answer within {_CALL_S:g} s: the owner is busy")
                    )
            else:
                waiting = waiting or until != float("inf")
        if waiting:
            self._sweep = self._loop.call_later(_SWEEP_S, self._end_late_calls)

    # -- the connection --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._transport.write(greeting(role="client"))

    def data_received(self, data: bytes) -> None:
        try:
            for received in self._reader.feed(data):
                self._take(received)
        except FrameError as error:
            if not self._greeted.done():
                self._greeted.set_exception(error)
            else:
                _logger.error("what the owner of the database says cannot be read: %s", error)
            self.close()

    def _take(self, received: Frame) -> None:
        if not self._greeted.done():
            self._greeted.set_result(read_greeting(received))
            return
        found = self._calls.pop(received.call, None)
        if found is None or found[0].done():
            return  # Its caller has gone.
        if received.kind == Kind.ANSWER:
            found[0].set_result(received.content)
        elif received.kind == Kind.REFUSAL:
            found[0].set_exception(error_of_status(received.content))
        elif received.kind == Kind.GONE:
            found[0].set_exception(LineLostError())
        else:
            raise FrameError(f"a frame of kind {received.kind}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._sweep is not None:
            self._sweep.cancel()
        calls, self._calls = self._calls, {}
        if not self.lost.done():
            self.lost.set_result(None)
        if not self._greeted.done():
            self._greeted.set_exception(ConnectionResetError("the owner of the database went away"))
        for answer, _ in calls.values():
            if not answer.done():
                answer.set_exception(LineLostError())


def _parsed(kind: type[Message], data: bytes) -> Message:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise RpcError(StatusCode.INTERNAL, f"the answer cannot be read as {kind.DESCRIPTOR.name}") from error
