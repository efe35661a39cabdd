"""The row about kill -9: 500 runs in flight, the process killed, and how soon a new one takes the next step.

As a program (``python -m bench.crash DB LEDGER``) this module is the process that gets killed. Its activities write
a line each to a ledger, which outlives the process.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

import perdure.app  # All of it now: loading it on the way would count as the opening.
from perdure import activity, workflow
from perdure.common import WorkflowIDConflictPolicy

RUNS = 500
STEPS = 1_000
LINES_BEFORE_KILL = 20_000


@activity.defn(name="bench.line", start_to_close_timeout=timedelta(minutes=1))
async def line(step: int) -> None:
    info = activity.info()
    _write(f"{os.getpid()} {info.workflow_id} {step}")


@workflow.defn(name="bench.lines")
async def lines(steps: int) -> None:
    """A chain that leaves a trace."""
    for step in range(steps):
        await line(step)


def _write(text: str) -> None:
    os.write(LEDGER, text.encode() + b"\n")


async def _work(db: Path) -> None:
    _write(f"{os.getpid()} opening -")
    async with perdure.open(db) as app:
        handles = [
            await app.start(
                lines, STEPS, id=f"lines-{number}", id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING
            )
            for number in range(RUNS)
        ]
        await asyncio.gather(*(handle.result() for handle in handles))


def _rows(ledger: Path) -> list[list[str]]:
    return [row.split() for row in ledger.read_text().splitlines()] if ledger.exists() else []


def kill(folder: Path) -> dict[str, float]:
    ledger = folder / "ledger.txt"
    command = [sys.executable, "-m", "bench.crash", str(folder / "bench.db"), str(ledger)]
    first = subprocess.Popen(command)
    while ledger.stat().st_size < LINES_BEFORE_KILL * 20 if ledger.exists() else True:
        time.sleep(0.01)
        assert first.poll() is None, "the process ended by itself"
    first.send_signal(signal.SIGKILL)
    first.wait()
    size = ledger.stat().st_size
    begin = time.perf_counter()
    second = subprocess.Popen(command)
    opened = 0.0
    try:
        while True:
            text = ledger.read_bytes()[size:]
            if not opened and b"opening" in text:
                opened = time.perf_counter()
            if opened and text.count(b"\n") > 1:
                stepped = time.perf_counter()
                break
            assert second.poll() is None, "the process ended by itself"
            time.sleep(0.0005)
        # Long enough for every step that was running at the kill to be run again.
        while ledger.stat().st_size < size + 40 * RUNS * 20:
            time.sleep(0.01)
    finally:
        second.kill()
        second.wait()
    return {"open_to_step_s": stepped - opened, "spawn_to_step_s": stepped - begin} | _repeats(ledger, second.pid)


def _repeats(ledger: Path, second_pid: int) -> dict[str, float]:
    """How many steps ran twice, and how many of them had been followed by a later one: those were completed."""
    last: dict[str, int] = {}
    counts: Counter[tuple[str, str]] = Counter()
    wrong = 0
    for pid, run, step in _rows(ledger):
        if run == "opening":
            continue
        counts[run, step] += 1
        if int(pid) == second_pid and int(step) < last.get(run, -1):
            wrong += 1
        last[run] = max(last.get(run, -1), int(step))
    return {"repeated": sum(count > 1 for count in counts.values()), "completed_repeated": wrong}


if __name__ == "__main__":
    LEDGER = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    asyncio.run(_work(Path(sys.argv[1])))
