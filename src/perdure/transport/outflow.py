"""What leaves on a stream of messages: frames said in one turn of the event loop leave together, in order.

Messages have at most `MESSAGE_BYTES`, wherever that cuts the frames; the far end's reader puts them together. While one
is on its way the next gathers, so a slow reader makes messages larger and not more. How much may gather is up to who
says it, by `is_full`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

__all__ = ["MESSAGE_BYTES", "Outflow"]

MESSAGE_BYTES: Final = 1024 * 1024
FULL_BYTES: Final = 8 * 1024 * 1024
"""So much may wait to leave; whoever can should say no more then."""


class Outflow:
    """The frames that wait to leave."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._bytes = 0
        self._wake: asyncio.Future[None] | None = None
        self._emptied: asyncio.Future[None] | None = None
        self._is_ending = False

    @property
    def is_full(self) -> bool:
        """So much waits that no more should be said."""
        return self._bytes > FULL_BYTES

    def put(self, data: bytes) -> None:
        """Say something."""
        self._parts.append(data)
        self._bytes += len(data)
        self._rouse()

    def end(self) -> None:
        """Let `run` return when everything has left."""
        self._is_ending = True
        self._rouse()

    def _rouse(self) -> None:
        wake, self._wake = self._wake, None
        if wake is not None and not wake.done():  # Whoever waited may have been cancelled.
            wake.set_result(None)

    async def wait_room(self) -> None:
        """Wait until it is not full."""
        while self.is_full:
            if self._emptied is None:
                self._emptied = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._emptied)

    async def run(self, write: Callable[[bytes], Awaitable[object]]) -> None:
        """Write what is said until the end.

        Args:
            write: sends a message; what it raises ends this.
        """
        while True:
            if self._parts:
                parts, self._parts = self._parts, []
                self._bytes = 0
                data = b"".join(parts) if len(parts) > 1 else parts[0]
                for at in range(0, len(data), MESSAGE_BYTES):
                    await write(data[at : at + MESSAGE_BYTES] if len(data) > MESSAGE_BYTES else data)
                if self._emptied is not None:
                    self._emptied.set_result(None)
                    self._emptied = None
            elif self._is_ending:
                return
            else:
                self._wake = asyncio.get_running_loop().create_future()
                await self._wake
