"""Rows about the server: its CPU under workers of two SDKs, what polls that wait cost it, and how soon it answers.

The server runs as a process of its own on a file, as anybody would start it; so do the workers (`bench.far`). CPU and
memory of the server are read from outside. This needs ``/proc``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc.aio

from bench.far import STEPS
from bench.probe import percentile
from perdure import Client
from perdure.api import messages as m
from perdure.api.rpcs import RPCS

CHAINS = 300
POLLS = 2_000
POLLS_OF_A_CLIENT = 200
IDLE_S = 10.0
STARTS = 5
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20


class _Served:
    """A running server."""

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self.process = process
        self.address = address

    def cpu_s(self) -> float:
        """CPU seconds so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def resident_mib(self) -> float:
        """Resident memory."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * _PAGE_MIB


@contextlib.contextmanager
def _server(folder: Path) -> Iterator[_Served]:
    command = [sys.executable, "-m", "perdure.cli", "server", "start", "--db", str(folder / "served.db")]
    command += ["--address", "127.0.0.1:0", "--log-level", "error"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split(" at ")[-1].strip()
        try:
            yield _Served(process, address)
        finally:
            process.terminate()


def _measured(folder: Path, kind: str) -> dict[str, float]:
    """What a worker of one kind measures, and the server's CPU meanwhile."""
    command = [sys.executable, "-m", "bench.far", kind]
    with _server(folder) as server:
        command += [server.address, str(CHAINS)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as far:
            assert far.stdin is not None and far.stdout is not None
            far.stdout.readline()
            before = server.cpu_s()
            print(file=far.stdin, flush=True)
            far.stdout.readline()
            used_s = server.cpu_s() - before
            print(file=far.stdin, flush=True)
            found: dict[str, float] = json.loads(far.stdout.readline())
    return found | {"server_cpu_ms": used_s / (CHAINS * STEPS) * 1000}


def served(folder: Path) -> dict[str, float]:
    """Both SDKs' workers, one after the other, each with a server of its own."""
    found: dict[str, float] = {}
    for kind in ("official", "ours"):
        own = folder / kind
        own.mkdir()
        found |= {f"{kind}_{metric}": value for metric, value in _measured(own, kind).items()}
    return found | {"ratio": found["ours_activities_per_s"] / found["official_activities_per_s"]}


async def _wait_in_vain(server: _Served) -> dict[str, float]:
    begin = time.monotonic()
    before = server.resident_mib()
    clients = [await Client.connect(server.address) for _ in range(POLLS // POLLS_OF_A_CLIENT)]
    polls: list[asyncio.Future[object]] = []
    for number, client in enumerate(clients):
        request = m.PollActivityTaskQueueRequest(namespace="default", identity="bench")
        request.task_queue.name = f"idle-{number}"
        polls += [
            asyncio.ensure_future(client.service.poll_activity_task_queue(request)) for _ in range(POLLS_OF_A_CLIENT)
        ]
    used_s = server.cpu_s()
    while True:  # Until they have all arrived, and the server rests.
        await asyncio.sleep(1)
        if server.cpu_s() - used_s < 0.02 or time.monotonic() - begin > IDLE_S * 3:
            break
        used_s = server.cpu_s()
    used_s = server.cpu_s()
    await asyncio.sleep(IDLE_S)
    found = {
        "cpu_percent": (server.cpu_s() - used_s) / IDLE_S * 100,
        "kib_per_poll": (server.resident_mib() - before) / POLLS * 1024,
    }
    for poll in polls:
        poll.cancel()
    await asyncio.gather(*polls, return_exceptions=True)
    for client in clients:
        await client.close()
    return found


def idle_polls(folder: Path) -> dict[str, float]:
    """Two thousand long polls that nothing comes for."""
    with _server(folder) as server:
        return asyncio.run(_wait_in_vain(server))


async def _say_what_you_are(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        await channel.unary_unary(RPCS["get_system_info"].path)(b"", wait_for_ready=True)


def server_start(folder: Path) -> dict[str, float]:
    """From the start of the development server's process to its first answer; the middle one of several starts."""
    command = [sys.executable, "-m", "perdure.cli", "server", "start-dev", "--port", "0"]
    took_s: list[float] = []
    used_s: list[float] = []
    for _ in range(STARTS):
        begin = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                address = process.stdout.readline().split(" at ")[-1].strip()
                asyncio.run(_say_what_you_are(address))
                took_s.append(time.perf_counter() - begin)
                used_s.append(_Served(process, address).cpu_s())
            finally:
                process.terminate()
    return {"s": percentile(took_s, 50), "cpu_s": percentile(used_s, 50)}
