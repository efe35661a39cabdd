"""Deadlines of many short-lived things, nearly all of which end long before.

A timer of the event loop for each would cost more than the rest of its bookkeeping. So deadlines fall into buckets of a
fixed width, one timer a bucket, and are met up to that width late; ones nearer than a few widths get a timer of their
own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Deadlines"]

_WIDTH_S = 0.25
_NEAR_S = 4 * _WIDTH_S

_T = TypeVar("_T")


class Deadlines(Generic[_T]):
    """Calls back for whatever has not been taken away by its deadline.

    Args:
        on_due: called with the thing, on the event loop.
    """

    def __init__(self, on_due: Callable[[_T], None]) -> None:
        self._on_due = on_due
        self._loop = asyncio.get_running_loop()
        self._buckets: dict[int, set[_T]] = {}

    def add(self, thing: _T, delay_s: float) -> set[_T] | asyncio.TimerHandle:
        """Watch a thing; hand the answer to `remove`."""
        if delay_s < _NEAR_S:
            return self._loop.call_later(delay_s, self._on_due, thing)
        number = int((self._loop.time() + delay_s) / _WIDTH_S) + 1
        bucket = self._buckets.get(number)
        if bucket is None:
            bucket = self._buckets[number] = set()
            self._loop.call_at(number * _WIDTH_S, self._sweep, number)
        bucket.add(thing)
        return bucket

    def remove(self, thing: _T, place: set[_T] | asyncio.TimerHandle) -> None:
        """Watch it no longer. Harmless after its deadline."""
        if isinstance(place, set):
            place.discard(thing)
        else:
            place.cancel()

    def _sweep(self, number: int) -> None:
        for thing in tuple(self._buckets.pop(number)):
            self._on_due(thing)
