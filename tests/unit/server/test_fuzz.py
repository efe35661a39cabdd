"""Made-up requests find no defect: see `fuzzing`. `make fuzz` looks for ten minutes.

Time is virtual and ids are drawn from the seed, so that what a seed has found it finds again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time

import pytest

from perdure.api import messages as m
from perdure.engine import Engine, EngineConfig
from perdure.engine.history import Limits
from perdure.engine.ids import SeededIds
from perdure.engine.store.memory import MemoryStore
from tests.system.lives import LoopClock, VirtualLoop
from tests.unit.server.fuzzing import Fuzzer

CONFIG = EngineConfig(query_timeout_s=0.01, limits=Limits(history_events_max=2000))
ROUNDS = 30
TURNS_A_ROUND = 1000
"""Of the event loop; some tens are needed."""


async def fuzz(seed: int, rounds: int) -> Fuzzer:
    engine = Engine(MemoryStore(), clock=LoopClock(), ids=SeededIds(seed), config=CONFIG)
    await engine.start()
    await engine.register_namespace(m.RegisterNamespaceRequest(namespace="other"))
    try:
        fuzzer = Fuzzer(engine, seed)
        await fuzzer.run(rounds)
        await engine.wait_idle(but_held=True)
        findings = await engine.check_invariants()
        assert findings == [], findings
    finally:
        await engine.stop()
    return fuzzer


def fuzzed(seed: int, rounds: int) -> Fuzzer:
    loop = VirtualLoop(max_turns=TURNS_A_ROUND * rounds)
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(fuzz(seed, rounds))


@pytest.mark.parametrize("seed", range(10))
def test_made_up_requests_find_no_defect(seed: int) -> None:
    assert fuzzed(seed, ROUNDS).answered


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_for_minutes(caplog: pytest.LogCaptureFixture) -> None:
    """PERDURE_FUZZ_S is for how long, PERDURE_FUZZ_SEED where to begin: what is found names its seed."""
    caplog.set_level(logging.CRITICAL, logger="perdure")
    until = time.monotonic() + float(os.environ.get("PERDURE_FUZZ_S", "600"))
    seed = int(os.environ.get("PERDURE_FUZZ_SEED", str(time.time_ns() // 1000)))
    while time.monotonic() < until:
        try:
            fuzzed(seed, 400)
        except BaseException as error:
            error.add_note(f"again: PERDURE_FUZZ_SEED={seed} make fuzz")
            raise
        seed += 1
