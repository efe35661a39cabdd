"""A gRPC server over an engine.

`start` listens and answers, `stop` lets what is in flight end. The engine belongs to the caller: it is started before
the server and stopped after it. Long polls end when the server stops: they are cancelled, and a cancelled poll never
takes a task with it.
"""

from __future__ import annotations

import grpc.aio

from perdure.engine import Engine
from perdure.server.handlers import Handlers

__all__ = ["Server"]

RECEIVED_BYTES = 32 * 1024 * 1024
"""Messages beyond this are refused by gRPC before they have arrived; those beyond the API's limit, by a handler."""
GRACE_S = 5.0
"""What is in flight when the server stops may take so long."""

_OPTIONS = (
    # Two servers at one address would share its connections without knowing of each other.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", RECEIVED_BYTES),
    ("grpc.max_send_message_length", -1),
    # Clients ping idle connections as often as they like.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.max_ping_strikes", 0),
)


class Server:
    """An engine's RPCs at an address.

    Args:
        engine: started by the caller, and stopped by him after the server.
        address: ``host:port`` (port 0 = any free one) or ``unix:path``.

    Attributes:
        address: where it listens, once started, with the port it got.
        port: that port; 0 for a Unix socket.
    """

    def __init__(self, engine: Engine, *, address: str = "127.0.0.1:7233") -> None:
        self.engine = engine
        self.address = address
        self.port = 0
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Listen. Harmless twice.

        Raises:
            OSError: the address is in use or can't be bound.
            RpcError: UNAVAILABLE, the engine does not run.
        """
        if self._server is not None:
            return
        server = grpc.aio.server(options=_OPTIONS)
        server.add_generic_rpc_handlers((Handlers(self.engine.service(in_process=False)),))
        try:
            port = server.add_insecure_port(self.address)
        except RuntimeError as error:
            raise OSError(f"can't listen at {self.address}: is another server there? ({error})") from error
        await server.start()
        self._server = server
        if not self.address.startswith("unix:"):
            self.port = port
            self.address = f"{self.address.rpartition(':')[0]}:{port}"

    async def stop(self, grace_s: float = GRACE_S) -> None:
        """Take no more calls, and let those in flight end. Harmless twice, or before start.

        Args:
            grace_s: seconds after which the calls still in flight are cancelled.
        """
        server, self._server = self._server, None
        if server is not None:
            await server.stop(grace_s)

    async def __aenter__(self) -> Server:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
