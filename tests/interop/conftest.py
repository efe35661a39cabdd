"""Servers for an unmodified `temporalio` to talk to, in this process and in one of their own.

`server` is in this process, on the event loop of the test, over each store in turn; `client` is connected to it.
`spawn_server` starts the real process.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path

import pytest
from temporalio.client import Client

from perdure.engine import Engine
from perdure.engine.store.memory import MemoryStore
from perdure.engine.store.sqlite import SqliteStore
from perdure.server import Server

START_S = 60


@pytest.fixture(params=["memory", "sqlite"])
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Server]:
    """A started server at a free port; `server.engine` is its engine."""
    engine = Engine(MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "server.db"))
    await engine.start()
    async with Server(engine, address="127.0.0.1:0") as server:
        yield server
    await engine.stop()


@pytest.fixture
async def client(server: Server) -> Client:
    """Temporal's client, connected to `server`."""
    return await Client.connect(server.address)


class ServerProcess:
    """`perdure server …` as a process."""

    def __init__(self, process: Process, ready_line: str) -> None:
        self.process = process
        self.ready_line = ready_line
        self.address = ready_line.rsplit(" ", 1)[-1]

    async def terminate(self) -> int:
        """SIGTERM; its exit status."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        return await self._end()

    async def kill(self) -> int:
        """SIGKILL; its exit status."""
        if self.process.returncode is None:
            self.process.kill()
        return await self._end()

    async def _end(self) -> int:
        await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode


Spawn = Callable[..., Coroutine[object, object, ServerProcess]]


@pytest.fixture
async def spawn_server(tmp_path: Path) -> AsyncIterator[Spawn]:
    """Starts ``perdure server ARGUMENTS…`` in the test's folder and waits until it is ready; killed after the test."""
    spawned: list[ServerProcess] = []

    async def spawn(*arguments: str) -> ServerProcess:
        command = [sys.executable, "-m", "perdure.cli", "server", *arguments]
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        process = await asyncio.create_subprocess_exec(*command, cwd=tmp_path, env=environment, stdout=PIPE)
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), START_S)
        assert line, f"{command} ended with {await process.wait()}"
        spawned.append(ServerProcess(process, line.decode().strip()))
        return spawned[-1]

    yield spawn
    for each in spawned:
        await each.kill()
