"""A gRPC server over an engine.

`start` listens and answers; `stop` takes no more calls, answers long polls empty and lets the rest end, which takes as
long as a commit. The engine belongs to the caller: it is started before the server and stopped after it.

gRPC takes the calls of a listener in one after the other, whoever they are from, so that a thousand calls on one
connection would go before the first one of another. A server therefore has several listeners at its address
(`LANES`), among which the kernel spreads connections, and each lane's next call is taken in each turn of the event
loop; what has been taken in is let in fairly by `perdure.server.admission`.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import grpc
import grpc.aio

from perdure.api import WorkflowService
from perdure.engine import Engine
from perdure.server.handlers import Handler, Handlers
from perdure.server.health import Health
from perdure.server.keys import ApiKeys
from perdure.server.listening import Tls, can_share, check_free, check_reachable

__all__ = ["Backend", "Server"]

RECEIVED_BYTES = 32 * 1024 * 1024
"""Messages beyond this are refused by gRPC before they have arrived; those beyond the API's limit, by a handler."""
GRACE_S = 5.0
"""What is in flight when the server stops may take so long."""
QUIET_S = 0.02
"""So long without a new call, and none waits inside gRPC."""
LAST_WORDS_S = 0.5
"""The last answers are on their way so long; streams that are open are cut then."""

LANES = 32
"""Listeners at one address. Two connections share one with a chance of one in so many."""

PENDING_CALLS = 20_000
"""Calls that may wait inside gRPC, for each lane. Those beyond are cancelled, and clients do not repeat such calls."""

_OPTIONS = (
    ("grpc.server.max_pending_requests", PENDING_CALLS),
    ("grpc.server.max_pending_requests_hard_limit", 2 * PENDING_CALLS),
    ("grpc.max_receive_message_length", RECEIVED_BYTES),
    ("grpc.max_send_message_length", -1),
    # Clients ping idle connections as often as they like.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.max_ping_strikes", 0),
)


class Backend(Protocol):
    """What a server serves, an engine aside: one that may be in another process."""

    @property
    def service(self) -> WorkflowService:
        """Its calls; nothing reaches their callers before it is durable."""
        ...

    def release_polls(self) -> None:
        """Answer those who wait: the server stops."""
        ...


class Server:
    """An engine's RPCs at an address.

    Args:
        engine: started by the caller, and stopped by him after the server; or what stands for one.
        address: ``host:port`` (port 0 = any free one) or ``unix:path``.
        tls: certificate and key; None for plain text.
        keys: who may call; None for anyone who reaches the address.
        others: handlers of further services, by path; with keys, they need one.
        allow_unauthenticated: listen at an address that strangers can reach, although nobody is asked who he is.

    Attributes:
        address: where it listens, once started, with the port it got.
        port: that port; 0 for a Unix socket.
    """

    def __init__(
        self,
        engine: Engine | Backend,
        *,
        address: str = "127.0.0.1:7233",
        tls: Tls | None = None,
        keys: ApiKeys | None = None,
        others: dict[str, Handler] | None = None,
        allow_unauthenticated: bool = False,
    ) -> None:
        self.engine = engine
        self.address = address
        self.port = 0
        self._tls = tls
        self._keys = keys
        self._others = others or {}
        self._allow_unauthenticated = allow_unauthenticated
        self._lanes: list[grpc.aio.Server] = []
        self._handlers: Handlers | None = None
        self._health: Health | None = None

    async def start(self) -> None:
        """Listen. Harmless twice.

        Raises:
            InsecureAddressError: strangers could reach the address, and nobody is asked who he is.
            OSError: the address is in use or can't be bound.
            RpcError: UNAVAILABLE, the engine does not run.
            ValueError: the address has no known form.
        """
        if self._lanes:
            return
        has_mtls = self._tls is not None and self._tls.client_authority is not None
        authenticated = self._keys is not None or has_mtls or self._allow_unauthenticated
        check_reachable(self.address, authenticated=authenticated)
        health = Health()
        probes = health.handlers()
        handlers = Handlers(
            self.engine.service(in_process=False) if isinstance(self.engine, Engine) else self.engine.service,
            others=self._others | probes,
            public=frozenset(probes),
            keys=self._keys,
        )
        lanes, port = self._listen(handlers)
        for lane in lanes:
            await lane.start()
        self._lanes, self._handlers, self._health = lanes, handlers, health
        if not self.address.startswith("unix:"):
            self.port = port
            self.address = f"{self.address.rpartition(':')[0]}:{port}"

    def _listen(self, handlers: Handlers) -> tuple[list[grpc.aio.Server], int]:
        """Listeners that are not started yet, and their port."""
        is_shared = can_share(self.address)
        if is_shared:
            # Listeners that share an address share it with another server, too, if nobody looks.
            check_free(self.address)
        address = self.address
        port = 0
        lanes: list[grpc.aio.Server] = []
        credentials = self._tls.credentials() if self._tls is not None else None
        for _ in range(LANES if is_shared else 1):
            lane = grpc.aio.server(options=(*_OPTIONS, ("grpc.so_reuseport", int(is_shared))))
            lane.add_generic_rpc_handlers((handlers,))
            try:
                port = lane.add_secure_port(address, credentials) if credentials else lane.add_insecure_port(address)
            except RuntimeError as error:
                raise OSError(f"can't listen at {self.address}: another server may be there already") from error
            if is_shared:
                address = f"{address.rpartition(':')[0]}:{port}"
            lanes.append(lane)
        return lanes, port

    def change_keys(self, keys: ApiKeys) -> None:
        """Accept these API keys from now on; calls in flight go on. Only for a server that began with keys."""
        self._keys = keys
        if self._handlers is not None:
            self._handlers.change_keys(keys)

    async def stop(self, grace_s: float = GRACE_S) -> None:
        """Take no more calls, answer long polls empty, and let the others end. Harmless twice, or before start.

        Args:
            grace_s: seconds after which the calls still in flight are cancelled.
        """
        lanes, self._lanes = self._lanes, []
        if not lanes:
            return
        assert self._handlers is not None and self._health is not None, "a started server has both"
        self._handlers.stopping = True
        self._health.stop()
        self.engine.release_polls()
        await _wait_quiet(self._handlers, grace_s)
        await self._handlers.end_exchanges()
        await asyncio.gather(*(lane.stop(LAST_WORDS_S) for lane in lanes))

    async def __aenter__(self) -> Server:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


async def _wait_quiet(handlers: Handlers, grace_s: float) -> None:
    """Until every call has been answered and no other came for a while, or the time is up.

    Calls that wait inside gRPC when it stops are cancelled there, which clients take for the end of the matter; one
    that comes to a handler is told to ask again.
    """
    loop = asyncio.get_running_loop()
    until_s = loop.time() + grace_s
    taken = -1
    while (handlers.in_flight or handlers.taken != taken) and loop.time() < until_s:
        taken = handlers.taken
        await asyncio.sleep(QUIET_S)
