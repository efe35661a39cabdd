"""The stream of frames that a Perdure server offers beside the calls of the API: the client's end.

A gRPC call costs each end some hundred microseconds, a frame a few. So a server of ours has one method more,
`FRAMES_PATH`: a stream each way, whose messages are pieces of what `perdure.transport.frames` describes, a greeting
first. `GrpcChannel` makes its calls there while the stream is open, and as calls of their own otherwise: before the
server has greeted, when the stream has ended, and for good once the server has answered that it has no such method,
as Temporal's do.

    state      means                                      goes to
    IDLE       no stream; the next call opens one, when   OPENING
               the wait after the last one is over
    OPENING    asked for, the server has not greeted yet  OPEN, IDLE, REFUSED
    OPEN       calls travel as frames                     IDLE, REFUSED
    REFUSED    the server has no frames that are          (nothing)
               understood here

Calls in flight when the stream ends have an unknown outcome and end with UNAVAILABLE, as they would if they had been
calls of their own on a connection that ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Any, Final, cast

import grpc
import grpc.aio

from perdure.api import RpcError
from perdure.transport.frame_calls import FrameCalls
from perdure.transport.frames import FrameError, FrameReader, greeting, read_greeting
from perdure.transport.outflow import Outflow

__all__ = ["END", "FRAMED_BYTES", "FRAMES_PATH", "Exchange"]

_logger = logging.getLogger("perdure.transport")

FRAMES_PATH: Final = "/perdure.v1.Exchange/Frames"
END: Final[object] = cast(Any, grpc.aio).EOF
"""What gRPC reads when the other side has ended its stream."""
FRAMED_BYTES: Final = 256 * 1024
"""Longest request that travels in a frame. A longer one would hold up the others, and goes as a call of its own."""
_FIRST_WAIT_S: Final = 0.1
_LONGEST_WAIT_S: Final = 5.0


class State(Enum):
    """See the module."""

    IDLE = auto()
    OPENING = auto()
    OPEN = auto()
    REFUSED = auto()


class Exchange:
    """The stream of a channel.

    Args:
        channel: gRPC's.
        metadata: what the stream carries, the API key above all.
        lost: the error of calls in flight when it ends.
    """

    def __init__(
        self, channel: grpc.aio.Channel, metadata: Sequence[tuple[str, str | bytes]], lost: Callable[[], RpcError]
    ) -> None:
        self.state = State.IDLE
        self.calls: FrameCalls | None = None
        """Set while the stream is open."""
        self._stream = cast(Any, channel.stream_stream(FRAMES_PATH))
        self._metadata = tuple(metadata)
        self._running: asyncio.Task[None] | None = None
        self._wait_s = _FIRST_WAIT_S
        self._not_before = 0.0
        self._lost = lost

    def open_nowait(self) -> None:
        """Begin to open the stream, if it is time to."""
        if self.state is State.IDLE and asyncio.get_running_loop().time() >= self._not_before:
            self.state = State.OPENING
            self._running = asyncio.ensure_future(self._run())

    async def close(self) -> None:
        """End the stream and open no other. Harmless to repeat, or before it was opened."""
        self.state = State.REFUSED
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def _run(self) -> None:
        """One stream, from its opening to its end."""
        after = State.IDLE
        stream = self._stream(metadata=self._metadata)
        try:
            await self._exchange(stream)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                after = State.REFUSED
            _logger.debug("the stream of frames ended: %s", error.code().name)
        except FrameError as error:
            after = State.REFUSED
            _logger.debug("there are no frames to exchange: %s", error)
        except (grpc.aio.UsageError, asyncio.InvalidStateError):
            after = State.REFUSED  # The channel has been closed.
        finally:
            stream.cancel()
            if self.state is State.OPEN:
                self._wait_s = _FIRST_WAIT_S
            self._not_before = asyncio.get_running_loop().time() + self._wait_s
            self._wait_s = min(self._wait_s * 2, _LONGEST_WAIT_S)
            if self.state is not State.REFUSED:
                self.state = after

    async def _exchange(self, stream: Any) -> None:
        """Greet, and carry calls until the stream ends.

        Raises:
            AioRpcError: how it ended, unless the server just left.
            FrameError: the server does not speak this language.
        """
        reader = FrameReader()
        outflow = Outflow()
        outflow.put(greeting(role="client"))
        calls = FrameCalls(outflow.put, self._lost, "the server did not answer in time")
        writing = asyncio.ensure_future(outflow.run(stream.write))
        try:
            while (data := await stream.read()) is not END:
                for received in reader.feed(data):
                    if self.calls is None:
                        read_greeting(received)
                        self.calls, self.state = calls, State.OPEN
                    else:
                        calls.take(received)
            if self.calls is None:
                raise FrameError("the server ended the stream without a word")
        finally:
            self.calls = None
            calls.lose()
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
