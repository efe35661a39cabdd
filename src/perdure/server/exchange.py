"""Calls as frames on one stream, from Perdure's own clients: the server's end of `perdure.transport.exchange`.

The stream is a way to bring calls, and nothing else about them differs: each is let in by `perdure.server.admission`,
answered by the function that answers a call of its own, for the key that the stream was opened with. The key is looked
up again when the server's keys have changed.

Frames are taken off the stream one after the other, and the next one when the last has been let in. So one client's
frames wait in its connection and not in memory, and take turns with the others' calls. A client that does not take its
answers is not read from until it does. Requests of more than `FRAMED_BYTES` have no place here; clients send them as
calls of their own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from perdure.api import RpcError, StatusCode
from perdure.transport.exchange import END, FRAMED_BYTES
from perdure.transport.frame_answers import FrameAnswers
from perdure.transport.frames import Call, FrameError, FrameReader, Kind, greeting, read_greeting
from perdure.transport.outflow import Outflow

if TYPE_CHECKING:
    from perdure.server.handlers import Answering, Context, Handlers
    from perdure.server.keys import ApiKeys

__all__ = ["Exchange"]

logger = logging.getLogger(__name__)

FRAME_BYTES: Final = FRAMED_BYTES + 1024
"""Longest content of a frame: a request and its head."""
LAST_ANSWERS_S: Final = 0.3
"""What has been answered when the server stops may take so long to leave."""


class Exchange:
    """One stream.

    Args:
        handlers: what answers.
        authorization: the header it was opened with.
    """

    def __init__(self, handlers: Handlers, authorization: str) -> None:
        self._handlers = handlers
        self._authorization = authorization
        self._keys: ApiKeys | None = None
        self._calls: Mapping[str, Answering] = {}
        self._client = ""
        self._out = Outflow()
        self._writing: asyncio.Future[None] | None = None

    async def answer(self, _messages: object, context: Context) -> None:
        """Serve the stream until either side ends it."""
        self._client = context.peer()
        self._out.put(greeting(server=version("perdure")))
        self._writing = asyncio.ensure_future(self._out.run(context.write))
        answers = FrameAnswers(self._answered, self._out.put)
        reading = asyncio.ensure_future(self._read(context, answers))
        self._handlers.exchanges.add(self)
        try:
            await asyncio.wait((reading, self._writing), return_when=asyncio.FIRST_COMPLETED)
            # gRPC cannot end a stream on which a message is just being sent.
            await self.end()
        finally:
            self._handlers.exchanges.discard(self)
            answers.cancel()
            reading.cancel()
            self._writing.cancel()
            await asyncio.gather(reading, self._writing, return_exceptions=True)
            self._writing = None

    async def end(self) -> None:
        """Let what has been answered leave, and the stream end. Harmless to repeat."""
        self._out.end()
        if self._writing is not None:
            await asyncio.wait((self._writing,), timeout=LAST_ANSWERS_S)

    async def _read(self, context: Context, answers: FrameAnswers) -> None:
        """Take frames until the client has none any more."""
        receive: Callable[[], Awaitable[Any]] = context.read
        reader = FrameReader(FRAME_BYTES)
        greeted = False
        try:
            while (data := await receive()) is not END:
                for received in reader.feed(data):
                    if not greeted:
                        read_greeting(received)
                        greeted = True
                        continue
                    try:
                        if received.kind == Kind.CALL:
                            await self._let_in(len(received.content))
                        answers.take(received)
                    except RpcError as error:
                        answers.refuse(received.call, error)
        except FrameError as error:
            logger.warning("the stream of %s was ended: %s", self._client, error)

    async def _let_in(self, size: int) -> None:
        """Wait for a call's turn. Raises RpcError: too many wait already, of all clients."""
        if self._out.is_full:
            await self._out.wait_room()
        if not self._handlers.admission.enter_nowait():
            await self._handlers.admission.wait(self._client, size)

    async def _answered(self, call: Call) -> bytes:
        """Raises RpcError."""
        handlers = self._handlers
        handlers.begin()
        try:
            if self._keys is not handlers.keys or not self._calls:
                self._client, self._calls = self._known()
                self._keys = handlers.keys
            method = self._calls.get(call.method)
            if method is None:
                raise RpcError(StatusCode.UNIMPLEMENTED, f"there is no method {call.method!r}")
            return await method.answered(call.request, call.timeout_s)
        finally:
            handlers.in_flight -= 1

    def _known(self) -> tuple[str, Mapping[str, Answering]]:
        client, calls = self._handlers.calls_of(self._authorization)
        return client or self._client, calls
