"""Long polls that follow a run: who waits for its events, who for its end, and until when.

A caller waits in one future that is resolved once, by what it waits for or by the passing of time. Those who wait for
the end of a run are not woken by its other events. Thousands may wait, for a minute each, and most of them get what
they want long before: so the instants at which waits end are rounded down to a grain, and all that end together share
one alarm, which is left to ring for nobody rather than cancelled.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perdure.engine.clock import Clock, Handle

__all__ = ["Waiters"]

_Waiter = asyncio.Future[bool]
_Places = dict[int, list[_Waiter]]

_GRAINS_A_WAIT = 64
"""A wait may end this fraction of its length early."""


class Waiters:
    """Who waits for what becomes of runs, by run key."""

    def __init__(self, clock: Clock) -> None:
        self.for_events: _Places = {}
        """Wait for any new durable event."""
        self.for_end: _Places = {}
        """Wait for the closing event, durable."""
        self._clock = clock
        self._ending: dict[float, tuple[set[_Waiter], Handle]] = {}
        """Who waits until an instant, and its alarm."""

    async def wait(self, run_key: int, wait_s: float, *, for_end: bool) -> bool:
        """Wait for new events of a run, or for its end. False when `wait_s` seconds have passed, or nearly so."""
        places = self.for_end if for_end else self.for_events
        waiter: _Waiter = asyncio.get_running_loop().create_future()
        ending = self._ending_in(wait_s)
        ending.add(waiter)
        waiting = places.get(run_key)
        if waiting is None:
            places[run_key] = [waiter]
        else:
            waiting.append(waiter)
        try:
            return await waiter
        finally:
            ending.discard(waiter)
            waiting = places.get(run_key)
            if waiting is not None and waiter in waiting:
                waiting.remove(waiter)
                if not waiting:
                    del places[run_key]

    def _ending_in(self, wait_s: float) -> set[_Waiter]:
        """Who waits until about then."""
        clock = self._clock
        now_s = clock.monotonic_s()
        grain_s = _grain_s(wait_s)
        end_s = (now_s + wait_s) // grain_s * grain_s
        found = self._ending.get(end_s)
        if found is None:
            alarm = clock.call_later(max(0.0, end_s - now_s), partial(self._end, end_s))
            found = self._ending[end_s] = set(), alarm
        return found[0]

    def _end(self, end_s: float) -> None:
        ending, _ = self._ending.pop(end_s)
        for waiter in ending:
            if not waiter.done():
                waiter.set_result(False)

    def notify(self, run_key: int, *, ended: bool) -> None:
        """A run has new durable events, or it must be looked at again."""
        for places in (self.for_events, self.for_end) if ended else (self.for_events,):
            for waiter in places.pop(run_key, ()):
                if not waiter.done():
                    waiter.set_result(True)

    def release(self) -> None:
        """End every wait as if its time were up."""
        for end_s in list(self._ending):
            self._ending[end_s][1].cancel()
            self._end(end_s)

    def close(self) -> None:
        """Nothing will come any more: wake everyone."""
        for run_key in [*self.for_events, *self.for_end]:
            self.notify(run_key, ended=True)
        for _, alarm in self._ending.values():
            alarm.cancel()
        self._ending.clear()


def _grain_s(wait_s: float) -> float:
    """A power of two of seconds, so that waits of similar lengths end together."""
    grain_s = 1.0
    while grain_s > wait_s / _GRAINS_A_WAIT and grain_s > 0.001:
        grain_s /= 2
    return grain_s
