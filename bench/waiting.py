"""Rows about waiting: sleepers, and an engine with nothing to do."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import perdure
from bench.probe import cpu_s, in_flight, percentile, resident_mib
from bench.work import LATE, chain, sleeper

HOUR_S = 3600.0
STARTS_IN_FLIGHT = 200
STALLED_S = 40.0
"""Longer than any sleep of `sleepers_10k`."""


async def _start_sleepers(app: perdure.App, count: int, first_s: float, window_s: float) -> float:
    """Start sleepers whose sleeps end evenly over a window; returns how long the starts took in seconds."""
    begin = time.perf_counter()
    await in_flight(
        count,
        STARTS_IN_FLIGHT,
        lambda number: app.start(sleeper, first_s + window_s * number / count, id=f"sleeper-{number}"),
    )
    return time.perf_counter() - begin


async def _sleepers_10k(folder: Path) -> dict[str, float]:
    count = 10_000
    async with perdure.open(folder / "bench.db") as app:
        await app.execute(chain, 10, id="warm")
        before = resident_mib()
        start_s = await _start_sleepers(app, count, first_s=8.0, window_s=8.0)
        await asyncio.sleep(0.5)
        memory = resident_mib() - before
        await _all_awake(count)
    return {"start_s": start_s, "mib_per_1000": memory / (count / 1000), "late_p99_s": percentile(LATE, 99)}


async def _all_awake(count: int) -> None:
    """A sleeper that is lost is told from a machine that is slow: others go on waking meanwhile."""
    woken, since = 0, time.monotonic()
    while len(LATE) < count:
        await asyncio.sleep(0.1)
        if len(LATE) > woken:
            woken, since = len(LATE), time.monotonic()
        elif time.monotonic() - since > STALLED_S:
            raise RuntimeError(f"nobody woke for {STALLED_S:.0f} s; {woken:,} of {count:,} have")


def sleepers_10k(folder: Path) -> dict[str, float]:
    return asyncio.run(_sleepers_10k(folder))


async def _sleepers_100k(folder: Path) -> dict[str, float]:
    async with perdure.open(folder / "bench.db") as app:
        start_s = await _start_sleepers(app, 100_000, first_s=HOUR_S, window_s=HOUR_S)
        memory = resident_mib()
    return {"start_s": start_s, "mib": memory}


def sleepers_100k(folder: Path) -> dict[str, float]:
    result = asyncio.run(_sleepers_100k(folder))
    command = [sys.executable, "-m", "bench.waiting", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    open_s, work_s, memory = (float(word) for word in done.stdout.split())
    return result | {"open_s": open_s, "restart_s": work_s, "restarted_mib": memory}


async def _restart(folder: Path) -> tuple[float, float, float]:
    begin = time.perf_counter()
    async with perdure.open(folder / "bench.db") as app:
        open_s = time.perf_counter() - begin
        await app.execute(chain, 1, id="after-the-restart")
        return open_s, time.perf_counter() - begin, resident_mib()


async def _idle(folder: Path) -> dict[str, float]:
    seconds = 10.0
    async with perdure.open(folder / "bench.db") as app:
        await _start_sleepers(app, 1_000, first_s=HOUR_S, window_s=HOUR_S)
        # What was just handed out is remembered for ten seconds (sticky queues); after that nothing is due.
        await asyncio.sleep(12)
        before = cpu_s()
        await asyncio.sleep(seconds)
        return {"cpu_percent": (cpu_s() - before) / seconds * 100}


def idle(folder: Path) -> dict[str, float]:
    return asyncio.run(_idle(folder))


if __name__ == "__main__":
    print(*asyncio.run(_restart(Path(sys.argv[1]))))
