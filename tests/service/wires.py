"""The wires between a test and its engine, with both ends in the test's event loop.

What makes them testable without sleeping is `Traffic`: it counts the calls in flight at both ends. A wire is quiet when
the counts agree; only then does an idle engine mean that nothing will happen any more. A call that its caller cancels
is cancelled once it has arrived, and ends when the other end has been told: so what a test does next finds the state it
would find in process.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from perdure.api import messages as m
from perdure.api.rpcs import RPCS, Rpc
from perdure.engine.service import EngineService
from perdure.server import Server
from perdure.transport import GrpcChannel, ServerOptions, SocketChannel, SocketServer, service_of

__all__ = ["IN_PROCESS", "WIRES", "Traffic", "Wire"]

IN_PROCESS = "in_process"
WIRES = [IN_PROCESS, "grpc", "frames", "socket"]
"""A call each over gRPC, frames on one gRPC stream, frames over a Unix socket."""


class Traffic:
    """How many calls are in flight, as each end sees it."""

    def __init__(self) -> None:
        self.asked = 0
        """Sent, and not answered as far as the near end knows."""
        self.worked_on = 0
        """Arrived at the far end, and not answered or cancelled there."""
        self._cancelling = 0
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def is_quiet(self) -> bool:
        """Nothing is on its way: what is waited for at one end is worked on at the other."""
        return self.asked == self.worked_on and not self._cancelling

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

    def counting_arrivals(self, service: EngineService) -> _Overlaid:
        """The service as the far end calls it."""
        served = [rpc.method for rpc in RPCS.values() if hasattr(service, rpc.method)]
        return _Overlaid(service, {method: self._arrival(getattr(service, method)) for method in served})

    def _arrival(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        async def call(*args: Any, **kwargs: Any) -> Any:
            self.worked_on += 1
            self._changed()
            answering = asyncio.ensure_future(function(*args, **kwargs))
            try:
                return await asyncio.shield(answering)
            except asyncio.CancelledError:
                answering.cancel()
                raise
            finally:
                # A call that was cancelled counts from now on, however long it takes to end.
                self.worked_on -= 1
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
        self.asked += 1
        call = asyncio.ensure_future(function(request, **kwargs))
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            self._cancelling += 1
            try:
                call.add_done_callback(lambda _: self._changed())
                await self.wait(lambda: call.done() or self.asked == self.worked_on)
                if call.cancel():
                    await asyncio.gather(call, return_exceptions=True)
                    await self.wait(lambda: self.worked_on < self.asked)
            finally:
                self._cancelling -= 1
            raise
        finally:
            self.asked -= 1
            self._changed()


class _Overlaid:
    """An object, some of whose attributes are others."""

    def __init__(self, under: Any, over: dict[str, Any]) -> None:
        self._under = under
        self.__dict__.update(over)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._under, name)


class Wire:
    """Both ends of a wire to an engine's service.

    Args:
        kind: "grpc", "frames" or "socket".
        served: what answers at the far end.
    """

    def __init__(self, kind: str, served: EngineService) -> None:
        self.traffic = Traffic()
        self._kind = kind
        self._service = served
        self._served = self.traffic.counting_arrivals(served)
        self._folder = tempfile.TemporaryDirectory(prefix="perdure-")
        self._closers: list[Callable[[], Any]] = []

    async def open(self) -> EngineService:
        """The service at the near end, typed as what it stands for."""
        if self._kind != "socket":
            engine = _Overlaid(self._service.engine, {"service": self._served})
            server = Server(cast(Any, engine), address="127.0.0.1:0")
            await server.start()
            channel: Any = GrpcChannel(server.address, ServerOptions(), frames=self._kind == "frames")
            while channel.exchange is not None and channel.exchange.calls is None:
                await service_of(channel.bind).get_system_info(m.GetSystemInfoRequest())
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
