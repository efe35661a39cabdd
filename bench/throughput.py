"""Rows about speed: chains, latency, fan-out, signals."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import perdure
from bench.probe import cpu_s, in_flight, percentile
from bench.work import PACES, Listener, Pace, add, chain, chain_in_threads, fan_out, paced_chain
from perdure.engine import Engine, EngineConfig
from perdure.engine.history import Limits
from perdure.engine.store.sqlite import SqliteStore

STEPS = 10
IN_FLIGHT = 50
LONG_STEPS = 5_000
"""How long a history is when its steps count as late ones."""
FRESH_STEPS = 5
STRETCH = 50
"""Steps measured at a time."""
STRETCHES = 41


async def _chains(folder: Path, workflow: Any, count: int) -> dict[str, float]:
    async with perdure.open(folder / "bench.db") as app:
        await in_flight(200, IN_FLIGHT, lambda number: app.execute(workflow, STEPS, id=f"warm-{number}"))
        begin, cpu = time.perf_counter(), cpu_s()
        await in_flight(count, IN_FLIGHT, lambda number: app.execute(workflow, STEPS, id=f"chain-{number}"))
        took_s, used_s = time.perf_counter() - begin, cpu_s() - cpu
    steps = count * STEPS
    return {"steps_per_s": steps / took_s, "cpu_ms_per_step": used_s / steps * 1000}


def chains_async(folder: Path) -> dict[str, float]:
    return asyncio.run(_chains(folder, chain, 3_000))


def chains_in_threads(folder: Path) -> dict[str, float]:
    return asyncio.run(_chains(folder, chain_in_threads, 1_500))


def disk(folder: Path) -> dict[str, float]:
    """Bytes on disk of finished 10-step workflows; the fixed part of an empty database is counted too."""
    count = 2_000
    asyncio.run(_chains_only(folder, count))
    size = sum(os.path.getsize(file) for file in folder.glob("bench.db*"))
    return {"kib_per_workflow": size / count / 1024}


async def _chains_only(folder: Path, count: int) -> None:
    async with perdure.open(folder / "bench.db") as app:
        await in_flight(count, IN_FLIGHT, lambda number: app.execute(chain, STEPS, id=f"chain-{number}"))


async def _latency(folder: Path) -> dict[str, float]:
    times_ms: list[float] = []
    async with perdure.open(folder / "bench.db") as app:
        for number in range(2_200):
            begin = time.perf_counter()
            await app.execute(chain, 1, id=f"one-{number}")
            times_ms.append((time.perf_counter() - begin) * 1000)
    measured = times_ms[200:]
    return {"p50_ms": percentile(measured, 50), "p99_ms": percentile(measured, 99)}


def latency(folder: Path) -> dict[str, float]:
    return asyncio.run(_latency(folder))


async def _fan_out(folder: Path, width: int, rounds: int) -> dict[str, float]:
    """With an engine of our own, since a run may have only 2,000 activities pending by default."""
    engine = Engine(SqliteStore(folder / "bench.db"), config=EngineConfig(limits=Limits(pending_activities=10_000)))
    await engine.start()
    times_s: list[float] = []
    try:
        client = perdure.Client(engine.service(in_process=True))
        async with perdure.Worker(client, task_queue="default", workflows=[fan_out], activities=[add]):
            await client.execute_workflow(fan_out, 20, id="warm")
            for number in range(rounds):
                begin = time.perf_counter()
                await client.execute_workflow(fan_out, width, id=f"fan-{number}")
                times_s.append(time.perf_counter() - begin)
    finally:
        await engine.stop()
    return {"s": percentile(times_s, 50)}


def fan_out_500(folder: Path) -> dict[str, float]:
    return asyncio.run(_fan_out(folder, 500, 9))


def fan_out_10000(folder: Path) -> dict[str, float]:
    return asyncio.run(_fan_out(folder, 10_000, 3))


async def _signals(folder: Path) -> dict[str, float]:
    count = 8_000
    async with perdure.open(folder / "bench.db") as app:
        handle = await app.start(Listener.run, count, id="listener")
        begin = time.perf_counter()
        await in_flight(count, IN_FLIGHT, lambda number: handle.signal(Listener.hear, number))
        sent_s = time.perf_counter() - begin
        assert await handle.result() == count
    return {"signals_per_s": count / sent_s}


def signals(folder: Path) -> dict[str, float]:
    return asyncio.run(_signals(folder))


async def _history_length(folder: Path) -> dict[str, float]:
    """Stretches of a long chain and of fresh ones by turns, so that both see the same machine; the median of each.

    CPU, not time: a lone chain's steps wait for the disk one by one, and the disk has moods.
    """
    early_ms: list[float] = []
    late_ms: list[float] = []
    async with perdure.open(folder / "bench.db") as app:
        long = PACES["long"] = Pace()
        late = await app.start(paced_chain, "long", LONG_STEPS + STRETCHES * STRETCH, id="long")
        await long.walk(LONG_STEPS)
        for number in range(STRETCHES):
            late_ms.append(await _stretch_ms(long))
            name = f"fresh-{number}"
            fresh = PACES[name] = Pace()
            early = await app.start(paced_chain, name, FRESH_STEPS + STRETCH, id=name)
            await fresh.walk(FRESH_STEPS)
            early_ms.append(await _stretch_ms(fresh))
            await early.result()
        await late.result()
    early_step, late_step = percentile(early_ms, 50), percentile(late_ms, 50)
    return {"early_ms": early_step, "late_ms": late_step, "ratio": late_step / early_step}


async def _stretch_ms(pace: Pace) -> float:
    """CPU milliseconds of a step, over a stretch that begins when nothing is under way."""
    await asyncio.sleep(0.02)
    begin = cpu_s()
    await pace.walk(STRETCH)
    return (cpu_s() - begin) / STRETCH * 1000


def history_length(folder: Path) -> dict[str, float]:
    return asyncio.run(_history_length(folder))
