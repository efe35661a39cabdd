"""Calls in flight on one connection that carries frames, as those who make them see it.

Calls are futures by number. The connection says what arrives (`take`) and when it has ended (`lose`); what becomes of
the calls in flight is unknown then, and each ends with the connection's own error. A call that waits for longer than it
may ends with DEADLINE_EXCEEDED, and the far end is told, as it is when a caller goes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from google.protobuf.message import DecodeError, Message

from perdure.api import RpcError, StatusCode
from perdure.transport.frames import Frame, FrameError, Kind, call, frame
from perdure.transport.statuses import error_of_status

__all__ = ["NO_DEADLINE", "FrameCalls", "parsed"]

NO_DEADLINE: Final = float("inf")
_SWEEP_S: Final = 1.0
"""Late calls are looked for so often, and when the next one is late."""


class FrameCalls:
    """The calls of one connection.

    Args:
        send: sends a frame, now or with what else is sent in this turn of the event loop.
        lost: the error of calls whose connection has ended.
        busy: what a caller is told whose call takes too long.
    """

    def __init__(self, send: Callable[[bytes], None], lost: Callable[[], RpcError], busy: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._send = send
        self._lost = lost
        self._busy = busy
        self._is_lost = False
        self._calls: dict[int, tuple[asyncio.Future[bytes], float]] = {}
        self._last_number = 0
        self._sweep: asyncio.TimerHandle | None = None

    @property
    def is_watching(self) -> bool:
        """Whether a call in flight may become late."""
        return self._sweep is not None

    async def call(self, method: bytes, data: bytes, timeout_s: float | None, patience_s: float) -> bytes:
        """Make a call.

        Args:
            method: the RPC's name.
            data: its request's bytes.
            timeout_s: how long the far end is told that the caller waits; None = as long as it takes.
            patience_s: how long he does.

        Raises:
            RpcError: the refusal; DEADLINE_EXCEEDED; the connection has ended.
        """
        if self._is_lost:
            raise self._lost()
        self._last_number = number = (self._last_number + 1) & 0xFFFF_FFFF
        answer: asyncio.Future[bytes] = self._loop.create_future()
        until = self._loop.time() + patience_s
        self._calls[number] = (answer, until)
        if until != NO_DEADLINE:
            self._watch(until)
        self._send(call(number, method, data, timeout_s))
        try:
            return await answer
        except asyncio.CancelledError:
            if self._calls.pop(number, None) is not None and not self._is_lost:
                self._send(frame(Kind.CANCEL, number))
            raise

    def take(self, received: Frame) -> None:
        """An answer has arrived. Raises FrameError: it is none."""
        found = self._calls.pop(received.call, None)
        if found is None or found[0].done():
            return  # Its caller has gone.
        if received.kind == Kind.ANSWER:
            found[0].set_result(received.content)
        elif received.kind == Kind.REFUSAL:
            found[0].set_exception(error_of_status(received.content))
        elif received.kind == Kind.GONE:
            found[0].set_exception(self._lost())
        else:
            found[0].set_exception(self._lost())
            raise FrameError(f"a frame of kind {received.kind}")

    def lose(self) -> None:
        """The connection has ended. Harmless to repeat."""
        self._is_lost = True
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        calls, self._calls = self._calls, {}
        for answer, _ in calls.values():
            if not answer.done():
                answer.set_exception(self._lost())

    def _watch(self, until: float) -> None:
        """See to it that a call that waits until then is found late."""
        if self._sweep is None:
            self._sweep = self._loop.call_at(min(until, self._loop.time() + _SWEEP_S), self._end_late_calls)
        elif until < self._sweep.when():
            self._sweep.cancel()
            self._sweep = self._loop.call_at(until, self._end_late_calls)

    def _end_late_calls(self) -> None:
        """Calls that have waited for too long; the timer rests when none is waiting."""
        self._sweep = None
        now = self._loop.time()
        earliest = NO_DEADLINE
        for number, (answer, until) in tuple(self._calls.items()):
            if until > now:
                earliest = min(earliest, until)
                continue
            del self._calls[number]
            self._send(frame(Kind.CANCEL, number))
            if not answer.done():
                answer.set_exception(RpcError(StatusCode.DEADLINE_EXCEEDED, self._busy))
        if earliest != NO_DEADLINE:
            self._watch(earliest)


def parsed(kind: type[Message], data: bytes) -> Message:
    """The response that an answer's bytes are. Raises RpcError INTERNAL."""
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise RpcError(StatusCode.INTERNAL, f"the answer cannot be read as {kind.DESCRIPTOR.name}") from error
