"""The owner's end of a database's socket: calls of other processes, answered by a `WorkflowService`.

`perdure.transport.frame_answers` keeps the calls in flight. A client that does not take its answers is not read from
until it does. Calls that end because the engine is being stopped are told so: their connection ends soon, and whoever
asked then asks the next owner.

`stop_listening` belongs before the database's lock is given back, `close` after: a client takes the end of its
connection for the news that the database is free.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple, cast

from google.protobuf.message import DecodeError, Message

from perdure.api import RpcError, StatusCode, WorkflowService
from perdure.api.rpcs import RPCS, Rpc
from perdure.transport import sockets
from perdure.transport.frame_answers import FrameAnswers
from perdure.transport.frames import Call, FrameError, FrameReader, greeting, read_greeting

__all__ = ["SocketServer"]

_logger = logging.getLogger("perdure.transport")

_LAST_TURNS: Final = 3
"""Turns of the event loop from an engine's answer to its frame."""


class _Method(NamedTuple):
    rpc: Rpc
    parse: Callable[[bytes], Message]
    function: Callable[..., Awaitable[Message]]


class SocketServer:
    """Serves a database's socket.

    Args:
        path: of the socket.
        service: what answers. Nothing reaches its callers before it is durable.
        about: what its greeting says besides the version.
    """

    def __init__(self, path: str, service: WorkflowService, about: dict[str, Any]) -> None:
        self.path = path
        self.greeting = greeting(**about)
        self._methods: dict[str, _Method] = {}
        for rpc in RPCS.values():
            function = getattr(service, rpc.method, None)
            if function is not None:
                self._methods[rpc.name] = _Method(rpc, rpc.request.FromString, function)
        self.connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None
        self._listening: socket.socket | None = None

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: there can be no socket at the path.
        """
        self._listening = sockets.listen(self.path)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: _Connection(self), sock=self._listening)

    async def answer(self, call: Call) -> bytes:
        """A call's response. Raises RpcError."""
        method = self._methods.get(call.method)
        if method is None:
            raise RpcError(StatusCode.UNIMPLEMENTED, f"{call.method} is not served here")
        try:
            request = method.parse(call.request)
            if method.rpc.is_long_poll:
                response = await method.function(request, timeout_s=call.timeout_s)
            else:
                response = await method.function(request)
        except RpcError:
            raise
        except DecodeError as error:
            name = method.rpc.request.DESCRIPTOR.name
            raise RpcError(StatusCode.INVALID_ARGUMENT, f"the bytes are no {name}: {error}") from error
        except Exception as error:
            name = method.rpc.name
            _logger.exception("%s failed", name)
            raise RpcError(StatusCode.INTERNAL, f"{name} failed; the owner's log says why") from error
        return response.SerializeToString()

    def stop_listening(self) -> None:
        """Take no more connections; those there are stay. Harmless to repeat, or before start."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            sockets.forget(self.path)

    async def close(self) -> None:
        """Write the answers there are, and end every connection. Harmless to repeat."""
        self.stop_listening()
        for _ in range(_LAST_TURNS):
            await asyncio.sleep(0)
        for connection in tuple(self.connections):
            connection.close()

    def abandon(self) -> None:
        """Let the clients know that nobody answers them any more; the event loop has been closed."""
        self._server = None
        if self._listening is not None:
            self._listening.close()
            sockets.forget(self.path)
        for connection in self.connections:
            connection.abandon()


class _Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, server: SocketServer) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reader = FrameReader()
        self._greeted = False
        self._ended_for_children: Callable[[], None] | None = None
        self._answers = FrameAnswers(server.answer, self._send)
        self._out: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # It writes, though uvloop's is of no class of asyncio's.
        self._transport = transport = cast(asyncio.Transport, transport)
        self._server.connections.add(self)
        self._ended_for_children = sockets.keep_from_children(transport)
        transport.write(self._server.greeting)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._server.connections.discard(self)
        if self._ended_for_children is not None:
            self._ended_for_children()
        self._answers.cancel()

    def close(self) -> None:
        """Write what there is to write, and end."""
        if self._transport is not None:
            self._flush()
            self._transport.close()

    def abandon(self) -> None:
        """As `close`, on an event loop that has been closed."""
        if self._transport is not None:
            sockets.hang_up(self._transport)

    def pause_writing(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        try:
            for received in self._reader.feed(data):
                if self._greeted:
                    self._answers.take(received)
                else:
                    read_greeting(received)
                    self._greeted = True
        except FrameError as error:
            _logger.warning("a process at %s was sent away: %s", self._server.path, error)
            if self._transport is not None:
                self._transport.abort()

    def _send(self, data: bytes) -> None:
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(data)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if out and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(out))
