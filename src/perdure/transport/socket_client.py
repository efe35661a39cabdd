"""The client's end of a database's socket: calls as frames over one connection.

What is written during one turn of the event loop leaves in one piece. When the connection ends, every call in flight
(`perdure.transport.frame_calls`) ends with `LineLostError`: what became of it is unknown.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from google.protobuf.message import Message

from perdure.api import RpcError, StatusCode
from perdure.api.rpcs import Rpc
from perdure.transport import sockets
from perdure.transport.frame_calls import NO_DEADLINE, FrameCalls, parsed
from perdure.transport.frames import MAX_CONTENT_BYTES, Frame, FrameError, FrameReader, greeting, read_greeting

__all__ = ["LineLostError", "SocketChannel"]

_logger = logging.getLogger("perdure.transport")

_GREETING_S: Final = 5.0
"""How long the owner may take to greet: it may be replaying or blocked, but a process that hangs is no owner."""
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
        self._calls = FrameCalls(self._send, LineLostError, f"no answer within {_CALL_S:g} s: the owner is busy")
        self._out: list[bytes] = []
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
            return parsed(response, await self._calls.call(name, _serialized(request), None, _CALL_S))

        async def poll(request: Message, *, timeout_s: float | None = None) -> Message:
            return parsed(response, await self._calls.call(name, _serialized(request), timeout_s, NO_DEADLINE))

        return poll if rpc.is_long_poll else unary

    def _send(self, data: bytes) -> None:
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(data)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(out))

    # -- the connection --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # It writes, though uvloop's is of no class of asyncio's.
        self._transport = transport = cast(asyncio.Transport, transport)
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
        self._calls.take(received)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if not self.lost.done():
            self.lost.set_result(None)
        if not self._greeted.done():
            self._greeted.set_exception(ConnectionResetError("the owner of the database went away"))
        self._calls.lose()


def _serialized(request: Message) -> bytes:
    data = request.SerializeToString()
    if len(data) > MAX_CONTENT_BYTES - 1024:
        raise RpcError(StatusCode.RESOURCE_EXHAUSTED, f"the request of {len(data)} bytes is too large to be sent")
    return data
