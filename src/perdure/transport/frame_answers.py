"""Calls in flight on one connection that carries frames, as those who answer them see it.

Each call runs in a task of its own, at most `MAX_CALLS` of a connection at once; further ones are refused. A call whose
caller has gone, or whose connection has ended, is cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from perdure.api import EngineStoppedError, RpcError, StatusCode
from perdure.transport.frames import Call, Frame, FrameError, Kind, frame
from perdure.transport.statuses import status_of_error

__all__ = ["MAX_CALLS", "FrameAnswers"]

MAX_CALLS: Final = 10_000
"""Calls in flight of one connection."""


class FrameAnswers:
    """The calls of one connection.

    Args:
        answer: what answers a call with its response's bytes, or raises RpcError.
        send: sends a frame, now or with what else is sent in this turn of the event loop.
    """

    def __init__(self, answer: Callable[[Call], Awaitable[bytes]], send: Callable[[bytes], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._answer = answer
        self._send = send
        self._calls: dict[int, asyncio.Task[None]] = {}

    def take(self, received: Frame) -> None:
        """A frame has arrived. Raises FrameError: it makes no sense."""
        if received.kind == Kind.CALL:
            self._begin(received.call, Call.of(received.content))
        elif received.kind == Kind.CANCEL:
            answering = self._calls.get(received.call)
            if answering is not None:
                answering.cancel()
        else:
            raise FrameError(f"a frame of kind {received.kind}")

    def refuse(self, number: int, error: RpcError) -> None:
        """Answer a call with an error."""
        self._send(frame(Kind.REFUSAL, number, status_of_error(error)))

    def cancel(self) -> None:
        """The connection has ended."""
        for answering in tuple(self._calls.values()):
            answering.cancel()

    def _begin(self, number: int, call: Call) -> None:
        if number in self._calls:
            raise FrameError(f"call {number} is in flight already")
        if len(self._calls) >= MAX_CALLS:
            self.refuse(number, RpcError(StatusCode.RESOURCE_EXHAUSTED, f"{MAX_CALLS} calls are in flight; wait"))
            return
        # Named, and made directly: the loop's own way counts names and formats them.
        answering = asyncio.Task(self._run(number, call), loop=self._loop, name="perdure-call")
        self._calls[number] = answering
        answering.add_done_callback(partial(self._ended, number))

    def _ended(self, number: int, answering: asyncio.Task[None]) -> None:
        self._calls.pop(number, None)

    async def _run(self, number: int, call: Call) -> None:
        try:
            answer = await self._answer(call)
        except EngineStoppedError:
            self._send(frame(Kind.GONE, number))
        except RpcError as error:
            self.refuse(number, error)
        else:
            self._send(frame(Kind.ANSWER, number, answer))
