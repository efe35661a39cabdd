"""Made-up requests find no defect: see `fuzzing`. `make fuzz` looks for ten minutes."""

from __future__ import annotations

import os
import time

import pytest

from perdure.api import messages as m
from perdure.engine import Engine, EngineConfig
from perdure.engine.history import Limits
from perdure.engine.store.memory import MemoryStore
from tests.unit.server.fuzzing import Fuzzer

CONFIG = EngineConfig(query_timeout_s=0.01, limits=Limits(history_events_max=2000))
ROUNDS = 30


async def fuzzed(seed: int, rounds: int) -> Fuzzer:
    engine = Engine(MemoryStore(), config=CONFIG)
    await engine.start()
    await engine.register_namespace(m.RegisterNamespaceRequest(namespace="other"))
    try:
        fuzzer = Fuzzer(engine, seed)
        await fuzzer.run(rounds)
        await engine.wait_idle(but_held=True)
        assert await engine.check_invariants() == []
    finally:
        await engine.stop()
    return fuzzer


@pytest.mark.parametrize("seed", range(10))
async def test_made_up_requests_find_no_defect(seed: int) -> None:
    fuzzer = await fuzzed(seed, ROUNDS)
    assert fuzzer.answered


@pytest.mark.torture
@pytest.mark.timeout(3600)
async def test_for_minutes() -> None:
    until = time.monotonic() + float(os.environ.get("PERDURE_FUZZ_S", "600"))
    seed = int(os.environ.get("PERDURE_FUZZ_SEED", str(time.time_ns() // 1000)))
    while time.monotonic() < until:
        await fuzzed(seed, 400)
        seed += 1
