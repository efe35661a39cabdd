"""Whose call is next: a flood from one client does not make the others wait behind it.

The event loop takes in about one call a turn, so calls are let in at that pace. As long as nobody waits, a call goes
straight in and costs a comparison; what is left of a share is good for later turns. Those that find the share used up
wait, each client's in a queue of its own, and the queues take turns: a client with one call waits for one call of each
other client, not for the thousand that a busy one has sent. What waits is bounded in number and in bytes, for each
client and in all; beyond that a call is refused with RESOURCE_EXHAUSTED, which SDKs take as a request to slow down.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m

__all__ = ["Admission"]

CALLS_A_TURN = 2
"""Let in during one turn of the event loop."""
CLIENT_CALLS = 2_000
CLIENT_BYTES = 64 * 1024 * 1024
"""Of one client, waiting."""
ALL_CALLS = 20_000
ALL_BYTES = 256 * 1024 * 1024
"""Of all clients, waiting."""

_Waiting = tuple[asyncio.Future[None], int]
"""A call, and the bytes of its request."""


class _Queue:
    """One client's calls that wait, in order."""

    __slots__ = ("bytes", "calls")

    def __init__(self) -> None:
        self.calls: deque[_Waiting] = deque()
        self.bytes = 0


class Admission:
    """Lets calls in, turn by turn of the event loop."""

    def __init__(self) -> None:
        self._left = CALLS_A_TURN
        self._queues: OrderedDict[str, _Queue] = OrderedDict()
        """Of clients with calls that wait; the first one's turn is next."""
        self._calls = 0
        self._bytes = 0
        self._is_armed = False

    def enter_nowait(self) -> bool:
        """Let a call in, if it need not wait."""
        if not self._left or self._queues:
            return False
        self._left -= 1
        if not self._left and not self._is_armed:
            self._arm()
        return True

    async def wait(self, client: str, size: int) -> None:
        """Wait until a call's turn has come.

        Args:
            client: who calls.
            size: of the request, in bytes.

        Raises:
            RpcError: RESOURCE_EXHAUSTED, too much waits already.
        """
        if self._calls >= ALL_CALLS or self._bytes + size > ALL_BYTES:
            raise _busy("the server has as many calls waiting as it keeps; try again later")
        queue = self._queues.get(client)
        if queue is None:
            queue = self._queues[client] = _Queue()
        elif len(queue.calls) >= CLIENT_CALLS or queue.bytes + size > CLIENT_BYTES:
            raise _busy("this client has as many calls waiting as the server keeps for one; try again later")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.calls.append((turn, size))
        queue.bytes += size
        self._calls += 1
        self._bytes += size
        if not self._is_armed:
            self._arm()
        await turn

    def _arm(self) -> None:
        self._is_armed = True
        asyncio.get_running_loop().call_soon(self._begin_turn)

    def _begin_turn(self) -> None:
        """A turn of the event loop begins: let the first call of each of the next clients in."""
        self._is_armed = False
        self._left = CALLS_A_TURN
        while self._left and self._queues:
            client, queue = self._queues.popitem(last=False)
            turn, size = queue.calls.popleft()
            queue.bytes -= size
            self._calls -= 1
            self._bytes -= size
            if queue.calls:
                self._queues[client] = queue
            if not turn.done():  # Its caller has gone meanwhile.
                turn.set_result(None)
                self._left -= 1
        if not self._left:
            self._arm()


def _busy(message: str) -> RpcError:
    failure = m.ResourceExhaustedFailure(
        cause=m.ResourceExhaustedCause.RESOURCE_EXHAUSTED_CAUSE_CONCURRENT_LIMIT,
        scope=m.ResourceExhaustedScope.RESOURCE_EXHAUSTED_SCOPE_SYSTEM,
    )
    return RpcError(StatusCode.RESOURCE_EXHAUSTED, message, failure)
