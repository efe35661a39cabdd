"""A server in this process, and bare calls to it over a real connection."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest

from perdure.api.rpcs import RPCS
from perdure.engine import Engine
from perdure.engine.store.memory import MemoryStore
from perdure.server import Server
from perdure.server.reflection import reflection_handlers


class Wire:
    """Calls over a channel."""

    def __init__(self, address: str, credentials: grpc.ChannelCredentials | None = None) -> None:
        if credentials is None:
            self.channel = grpc.aio.insecure_channel(address)
        else:
            self.channel = grpc.aio.secure_channel(address, credentials)

    async def raw(self, path: str, data: bytes, **options: Any) -> bytes:
        """Send these bytes; the answer's."""
        return await self.channel.unary_unary(path)(data, **options)

    async def call(self, method: str, request: Any = None, *, key: str = "", **options: Any) -> Any:
        """Call a method of the API by its Python name."""
        rpc = RPCS[method]
        if key:
            options["metadata"] = (("authorization", f"Bearer {key}"),)
        message = request if request is not None else rpc.request()
        return rpc.response.FromString(await self.raw(rpc.path, message.SerializeToString(), **options))

    async def refusal(self, method: str, request: Any = None, **options: Any) -> grpc.aio.AioRpcError:
        """The error a call ends with."""
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await self.call(method, request, **options)
        return refused.value

    async def raw_refusal(self, path: str, data: bytes, **options: Any) -> grpc.aio.AioRpcError:
        """The error that bytes are answered with."""
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await self.raw(path, data, **options)
        return refused.value


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    """A started engine in memory."""
    engine = Engine(MemoryStore())
    await engine.start()
    yield engine
    await engine.stop()


@pytest.fixture
async def server(engine: Engine) -> AsyncIterator[Server]:
    """A started server that asks nobody who he is."""
    async with Server(engine, address="127.0.0.1:0", others=reflection_handlers()) as server:
        yield server


@pytest.fixture
async def wire(server: Server) -> AsyncIterator[Wire]:
    """A connection to `server`."""
    wire = Wire(server.address)
    yield wire
    await wire.channel.close()
