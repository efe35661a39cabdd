"""The wires between a test and its engine, with both ends in the test's event loop.

What makes them testable without sleeping is `Traffic`: it counts each call as it is sent, arrives, is answered, and is
received. A wire is quiet when everything sent has arrived and everything answered has been received; only then does an
idle engine mean that nothing will happen any more. A call that its caller cancels is cancelled once it has arrived, and
is received when the other end has been told: so what a test does next finds the state it would find in process.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from perdure.api.rpcs import RPCS, Rpc
from perdure.engine.service import EngineService
from perdure.server import Server
from perdure.transport import GrpcChannel, ServerOptions, SocketChannel, SocketServer, service_of

__all__ = ["IN_PROCESS", "WIRES", "Traffic", "Wire"]

IN_PROCESS = "in_process"
WIRES = [IN_PROCESS, "grpc", "socket"]


class Traffic:
    """How many calls there have been at each point of their way."""

    def __init__(self) -> None:
        self.sent = self.arrived = self.answered = self.received = 0
        self._cancelling = 0
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def is_quiet(self) -> bool:
        """Nothing is on its way."""
        return self.sent == self.arrived and self.answered == self.received and not self._cancelling

    async def wait(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition on the counts holds."""
        while not condition():
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    async def wait_quiet(self) -> None:
        """Wait until nothing is on its way."""
        await self.wait(lambda: self.is_quiet)

    def _changed(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def counting_arrivals(self, service: EngineService) -> Any:
        """The service as the far end calls it."""
        return SimpleNamespace(
            **{
                rpc.method: self._arrival(getattr(service, rpc.method))
                for rpc in RPCS.values()
                if hasattr(service, rpc.method)
            }
        )

    def _arrival(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        async def call(*args: Any, **kwargs: Any) -> Any:
            self.arrived += 1
            self._changed()
            answering = asyncio.ensure_future(function(*args, **kwargs))
            try:
                return await asyncio.shield(answering)
            except asyncio.CancelledError:
                answering.cancel()
                raise
            finally:
                # A call that was cancelled counts from now on, however long it takes to end.
                self.answered += 1
                self._changed()

        assert inspect.signature(call) == inspect.signature(function)
        return call

    def counting_departures(self, bind: Callable[[Rpc], Callable[..., Any]], served: Any) -> Callable[[Rpc], Any]:
        """Calls as the near end makes them."""

        def bound(rpc: Rpc) -> Callable[..., Any]:
            function = bind(rpc)
            return functools.partial(self._depart, function) if hasattr(served, rpc.method) else function

        return bound

    async def _depart(self, function: Callable[..., Any], request: Any, **kwargs: Any) -> Any:
        self.sent += 1
        call = asyncio.ensure_future(function(request, **kwargs))
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            self._cancelling += 1
            try:
                await self.wait(lambda: self.arrived == self.sent)
                call.cancel()
                await asyncio.gather(call, return_exceptions=True)
                left = self.sent - self.received - 1
                await self.wait(lambda: self.arrived - self.answered <= left)
            finally:
                self._cancelling -= 1
            raise
        finally:
            self.received += 1
            self._changed()


class Wire:
    """Both ends of a wire to an engine's service.

    Args:
        kind: "grpc" or "socket".
        served: what answers at the far end.
    """

    def __init__(self, kind: str, served: EngineService) -> None:
        self.traffic = Traffic()
        self._kind = kind
        self._served = self.traffic.counting_arrivals(served)
        self._folder = tempfile.TemporaryDirectory(prefix="perdure-")
        self._closers: list[Callable[[], Any]] = []

    async def open(self) -> EngineService:
        """The service at the near end, typed as what it stands for."""
        if self._kind == "grpc":
            front = SimpleNamespace(service=lambda *, in_process: self._served)
            server = Server(cast(Any, front), address="127.0.0.1:0")
            await server.start()
            channel: Any = GrpcChannel(server.address, ServerOptions())
            self._closers = [channel.close, functools.partial(server.stop, 0)]
        else:
            path = str(Path(self._folder.name) / "sock")
            socket_server = SocketServer(path, self._served, {})
            await socket_server.start()
            channel = await SocketChannel.connect(path)
            self._closers = [channel.close, socket_server.close]
        return cast(EngineService, service_of(self.traffic.counting_departures(channel.bind, self._served)))

    async def close(self) -> None:
        """Harmless before `open`."""
        for close in self._closers:
            closing = close()
            if closing is not None:
                await closing
        self._folder.cleanup()
