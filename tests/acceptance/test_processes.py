"""Several processes on one database file, whose owner is killed, or leaves, again and again."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from perdure.client import Client
from perdure.sharing import PATIENCE_S
from tests.acceptance.shared import STEPS, Collector, chain

PROGRAM = Path(__file__).with_name("shared.py")
WAIT_S = 100.0


class Household:
    """Processes on one file, and the ledger they write."""

    def __init__(self, folder: Path) -> None:
        self.db = folder / "shared.db"
        self.ledger = folder / "ledger.jsonl"
        self.ledger.touch()
        self.rows: list[dict[str, Any]] = []
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self.roles: dict[int, str] = {}
        self.gone: set[int] = set()
        self._reading, self._writing = os.pipe()
        self._at = 0

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.communicate()
        os.close(self._reading)
        os.close(self._writing)

    def spawn(self, role: str) -> int:
        """Start a process, and wait until it has opened the database."""
        command = [sys.executable, str(PROGRAM), role, str(self.db), str(self.ledger), str(self._writing)]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, pass_fds=[self._writing], cwd=PROGRAM.parents[2], stderr=subprocess.PIPE
        )
        self.processes[process.pid] = process
        self.roles[process.pid] = role
        self.wait(lambda row: row["kind"] == "open" and row["pid"] == process.pid)
        return process.pid

    def serve(self) -> tuple[int, str]:
        """Start a server; its process id and address."""
        command = [sys.executable, "-m", "perdure.cli", "server", "start", "--db", str(self.db)]
        server = subprocess.Popen(
            [*command, "--address", "127.0.0.1:0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.processes[server.pid] = server
        assert server.stdout is not None
        ready = server.stdout.readline().decode()
        assert " at " in ready, server.communicate(timeout=WAIT_S)[1].decode()
        return server.pid, ready.split(" at ")[1].strip()

    def terminate(self, pid: int) -> None:
        """As a supervisor does."""
        process = self.processes.pop(pid)
        process.terminate()
        _, complaints = process.communicate(timeout=WAIT_S)
        assert process.returncode == 0, complaints.decode()

    def wait(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait for a ledger row that nobody has read yet."""
        until = monotonic() + WAIT_S
        while True:
            for row in self._new_rows():
                if condition(row):
                    return row
            ready, _, _ = select.select([self._reading], [], [], until - monotonic())
            if not ready:
                raise AssertionError(f"waited for {WAIT_S} s; the last rows: {self.rows[-5:]}; {self._complaints()}")
            os.read(self._reading, 4096)

    def _new_rows(self) -> Iterator[dict[str, Any]]:
        with self.ledger.open("rb") as ledger:
            ledger.seek(self._at)
            for line in ledger:
                if not line.endswith(b"\n"):
                    return
                self._at += len(line)
                row = json.loads(line)
                self.rows.append(row)
                yield row

    def _complaints(self) -> str:
        ended = [process for process in self.processes.values() if process.poll() is not None]
        return "; ".join((process.stderr.read() if process.stderr else b"").decode()[-2000:] for process in ended)

    @property
    def owner(self) -> int:
        """The process that owns the file; its lock says so."""
        return int(Path(f"{self.db}-lock").read_text())

    def kill(self, pid: int) -> None:
        """As ``kill -9`` does."""
        os.kill(pid, signal.SIGKILL)
        self.gone.add(pid)
        self.processes.pop(pid).communicate()

    def dismiss(self, pid: int) -> None:
        """Let a process end in good order."""
        self.gone.add(pid)
        process = self.processes.pop(pid)
        _, complaints = process.communicate(timeout=WAIT_S)
        assert process.returncode == 0, complaints.decode()[-4000:]


@pytest.fixture
def household(tmp_path: Path) -> Iterator[Household]:
    household = Household(tmp_path)
    yield household
    household.close()


async def check(household: Household) -> None:
    """Everything acknowledged has happened, and nothing has happened twice."""
    list(household._new_rows())
    rows = household.rows
    assert not [row for row in rows if row["kind"] == "error"]
    async with await Client.connect(household.db) as client:
        for row in rows:
            if "started" in row:
                assert await client.get_workflow_handle(row["started"]).result() == STEPS
            elif "ended" in row:
                assert row["result"] == STEPS
        collector = client.get_workflow_handle_for(Collector.run, "collector")
        await collector.signal(Collector.stop)
        heard = Counter(await collector.result())
    assert not [what for what, times in heard.items() if times > 1], "signals applied twice"
    assert {row["signalled"] for row in rows if "signalled" in row} <= set(heard), "signals acknowledged and lost"
    list(household._new_rows())
    completed: dict[str, set[str]] = {}
    callers: dict[tuple[str, str], int] = {}
    for row in rows:
        if row["kind"] != "called":
            continue
        key = (row["run"], row["step"])
        assert row["step"] not in completed.get(row["run"], set()), f"completed, and run again: {row}"
        assert key not in callers or callers[key] in household.gone, f"run again, though its process lived on: {row}"
        callers[key] = row["pid"]
        completed.setdefault(row["run"], set()).update(row["needs"])


def progress_after(household: Household, begun: float) -> float:
    """Seconds until a workflow that was started since has ended."""
    started = household.wait(lambda row: "started" in row)["started"]
    household.wait(lambda row: row.get("ended") == started)
    return monotonic() - begun


@pytest.mark.parametrize("how", [Household.kill, Household.dismiss])
async def test_the_owner_goes_again_and_again(household: Household, how: Callable[[Household, int], None]) -> None:
    for role in ("worker", "web", "worker", "web"):
        household.spawn(role)
    times: list[float] = []
    for _ in range(4):
        household.wait(lambda row: "ended" in row)
        owner = household.owner
        list(household._new_rows())
        begun = monotonic()
        how(household, owner)
        times.append(progress_after(household, begun))
        assert household.owner != owner
        household.spawn(household.roles[owner])
    for pid in [pid for pid in household.processes if household.roles[pid] == "web"]:
        household.dismiss(pid)
    await check(household)
    for pid in tuple(household.processes):
        household.dismiss(pid)
    # Usually a tenth of a second; a busy machine may have been elsewhere, and who waits in vain takes much longer.
    assert min(times) < PATIENCE_S / 2, times


async def test_members_come_and_go(household: Household) -> None:
    worker = household.spawn("worker")
    for _ in range(3):
        web = household.spawn("web")
        household.wait(lambda row, web=web: "ended" in row and row["pid"] == web)
        household.kill(web)
        assert household.owner == worker
    await check(household)
    household.dismiss(worker)


async def test_a_server_is_one_of_them(household: Household) -> None:
    """It serves the file over gRPC, whoever owns it."""
    worker = household.spawn("worker")
    server, address = household.serve()
    assert household.owner == worker
    async with await Client.connect(address) as client:
        assert await client.execute_workflow(chain, id="before") == STEPS
        waiting = await client.start_workflow(Collector.run, id="collector")
        household.kill(worker)
        await waiting.signal(Collector.hear, "x")
        assert household.owner == server
        household.spawn("worker")
        await waiting.signal(Collector.stop)
        assert await waiting.result() == ["x"]
        assert await client.execute_workflow(chain, id="after") == STEPS
    async with await Client.connect(household.db) as client:
        assert (await client.count_workflows()).count == 3
    household.terminate(server)
