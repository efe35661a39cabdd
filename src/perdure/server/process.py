"""A server as a process: opens the database, listens, says that it is ready, and leaves in good order when told to.

The first SIGTERM or SIGINT lets what is in flight end; a second one quits at once.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

from perdure.api import messages as m
from perdure.engine import Engine
from perdure.engine.store.memory import MemoryStore
from perdure.engine.store.sqlite import SqliteStore
from perdure.server.server import Server

__all__ = ["ServerSettings", "serve"]

_SECOND_SIGNAL = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """What a server process is told."""

    address: str = "127.0.0.1:7233"
    db: str = ""
    """The database file; empty to keep everything in memory."""
    namespaces: tuple[str, ...] = ()
    """Registered at the start if they are not there yet."""


async def serve(settings: ServerSettings, announce: Callable[[str], None]) -> None:
    """Serve until a signal or a failure.

    Args:
        settings: where and what.
        announce: called once with the line that says that calls are answered.

    Raises:
        StoreError: the database can't be opened.
        OSError: the address can't be bound.
        RpcError: the engine failed for good while it served.
    """
    loop = asyncio.get_running_loop()
    told = asyncio.Event()

    def tell() -> None:
        if told.is_set():
            os._exit(_SECOND_SIGNAL)
        told.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, tell)
    engine = Engine(SqliteStore(settings.db) if settings.db else MemoryStore())
    try:
        await engine.start()
        for name in settings.namespaces:
            if name not in engine.shard.namespaces.by_name:
                await engine.register_namespace(m.RegisterNamespaceRequest(namespace=name))
        async with Server(engine, address=settings.address) as server:
            announce(f"perdure {version('perdure')} serves {settings.db or 'memory'} at {server.address}")
            failed = asyncio.ensure_future(engine.wait_failed())
            stopped = asyncio.ensure_future(told.wait())
            await asyncio.wait((failed, stopped), return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
        if failed.done():
            raise failed.result()
        failed.cancel()
    finally:
        await engine.stop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
