"""Time, injected.

The engine asks a `Clock` for three things: the wall clock in epoch milliseconds (what histories record and durable
deadlines are compared with), a call at a wall-clock instant (durable deadlines), and a call after a span (how long a
poll or a query waits; these are monotonic and survive clock jumps). `SystemClock` is the real one. `VirtualClock`
stands still until someone advances it, so that fourteen days pass in milliseconds and a test decides when.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable
from typing import Protocol

__all__ = ["Clock", "Handle", "SystemClock", "VirtualClock"]

MAX_NAP_S = 30.0
"""A wall-clock timer looks at the wall clock at least this often, so that a clock set forward is noticed."""


class Handle(Protocol):
    """A call that has been asked for."""

    def cancel(self) -> None:
        """Forget it. Harmless after it has happened."""
        ...


class Clock(Protocol):
    """Where the engine's time comes from."""

    def now_ms(self) -> int:
        """The wall clock, epoch milliseconds. May jump either way."""
        ...

    def monotonic_s(self) -> float:
        """Seconds from an arbitrary origin; never goes back."""
        ...

    def call_at(self, at_ms: int, callback: Callable[[], None]) -> Handle:
        """Call on the event loop once `now_ms()` has reached `at_ms`."""
        ...

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Handle:
        """Call on the event loop when `delay_s` seconds have passed."""
        ...


class _WallTimer:
    """A call at a wall-clock instant, made of naps no longer than MAX_NAP_S."""

    __slots__ = ("_at_ms", "_callback", "_handle", "_loop")

    def __init__(self, at_ms: int, callback: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._at_ms = at_ms
        self._callback = callback
        self._handle = self._nap()

    def _nap(self) -> asyncio.TimerHandle:
        delay_s = self._at_ms / 1000 - time.time()
        return self._loop.call_later(min(max(delay_s, 0.0), MAX_NAP_S), self._wake)

    def _wake(self) -> None:
        if time.time_ns() // 1_000_000 >= self._at_ms:
            self._callback()
        else:
            self._handle = self._nap()

    def cancel(self) -> None:
        self._handle.cancel()


# The engine is none of workflow code, whose guard stands before this function once a worker runs.
_time_ns: Callable[[], int] = getattr(time.time_ns, "__wrapped__", time.time_ns)


class SystemClock:
    """The machine's clocks and the running event loop's timers."""

    def now_ms(self) -> int:
        return _time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        return time.monotonic()

    def call_at(self, at_ms: int, callback: Callable[[], None]) -> Handle:
        return _WallTimer(at_ms, callback)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Handle:
        return asyncio.get_running_loop().call_later(delay_s, callback)


class _VirtualHandle:
    __slots__ = ("callback", "deadline")

    def __init__(self, callback: Callable[[], None], deadline: bool) -> None:
        self.callback: Callable[[], None] | None = callback
        self.deadline = deadline

    def cancel(self) -> None:
        self.callback = None

    def ring(self) -> None:
        """Make the call, unless it was cancelled or made."""
        callback, self.callback = self.callback, None
        if callback is not None:
            callback()


class VirtualClock:
    """A clock that moves only when told to.

    Deadlines (`call_at`) are what `advance` jumps to; spans of waiting (`call_later`) that end on the way end in
    order, but never make the clock jump by themselves: an idle poll is nothing to wait for. What is asked for an
    instant that has come already is called on the next turn of the event loop.

    Args:
        start_ms: where the clock stands first, epoch milliseconds.
    """

    def __init__(self, start_ms: int = 1_767_225_600_000) -> None:
        self._now_ms = start_ms
        self._heap: list[tuple[int, int, _VirtualHandle]] = []
        self._seq = 0

    def now_ms(self) -> int:
        return self._now_ms

    def monotonic_s(self) -> float:
        return self._now_ms / 1000

    def call_at(self, at_ms: int, callback: Callable[[], None]) -> Handle:
        return self._push(at_ms, callback, deadline=True)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Handle:
        return self._push(self._now_ms + max(0, round(delay_s * 1000)), callback, deadline=False)

    def _push(self, at_ms: int, callback: Callable[[], None], *, deadline: bool) -> Handle:
        handle = _VirtualHandle(callback, deadline)
        if at_ms <= self._now_ms:
            asyncio.get_running_loop().call_soon(handle.ring)
            return handle
        self._seq += 1
        heapq.heappush(self._heap, (at_ms, self._seq, handle))
        return handle

    def next_deadline_ms(self) -> int | None:
        """The earliest instant some `call_at` waits for, or None."""
        while self._heap and self._heap[0][2].callback is None:
            heapq.heappop(self._heap)
        dues = [at_ms for at_ms, _, handle in self._heap if handle.deadline and handle.callback is not None]
        return min(dues, default=None)

    def advance(self) -> bool:
        """Jump to the next deadline. False when there is none."""
        at_ms = self.next_deadline_ms()
        if at_ms is None:
            return False
        self.advance_to(at_ms)
        return True

    def advance_by(self, span_ms: int) -> None:
        """Move forward by a span in milliseconds, making every call that is due on the way."""
        self.advance_to(self._now_ms + span_ms)

    def advance_to(self, at_ms: int) -> None:
        """Move forward to an instant, making every call that is due on the way, in order of time.

        A callback may ask for further calls; those due within the span are made too.
        """
        while self._heap and self._heap[0][0] <= at_ms:
            due_ms, _, handle = heapq.heappop(self._heap)
            if handle.callback is not None:
                self._now_ms = max(self._now_ms, due_ms)
                handle.ring()
        self._now_ms = max(self._now_ms, at_ms)

    def jump_to(self, at_ms: int) -> None:
        """Set the clock, forward or back, as an administrator might; calls due by then are made."""
        self._now_ms = at_ms
        self.advance_to(at_ms)
