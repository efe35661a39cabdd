"""Seeded faults: commits that fail, that succeed and say otherwise, disks that fill up, engines that die."""

from __future__ import annotations

import random

import pytest

from perdure.engine import EngineConfig
from perdure.engine.store.port import Batch, StoreError, StoreFullError, StoreWriteError
from tests.simulation.world import World


class Faults:
    """Which commits fail, and how."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self.injected = 0

    def before(self, _number: int, _batch: Batch) -> None:
        draw = self._chance.random()
        if draw < 0.05:
            self.injected += 1
            raise StoreFullError("injected: no space left")
        if draw < 0.10:
            self.injected += 1
            raise StoreError("injected: try again")
        if draw < 0.13:
            self.injected += 1
            raise StoreWriteError("the process dies here")

    def after(self, _number: int, _batch: Batch) -> None:
        draw = self._chance.random()
        if draw < 0.08:
            self.injected += 1
            raise StoreError("injected: the answer got lost")
        if draw < 0.11:
            self.injected += 1
            raise StoreWriteError("the process dies here")


@pytest.mark.parametrize("seed", range(40))
async def test_everything_ends_whatever_fails(seed: int) -> None:
    faults = Faults(seed)
    world = World(before=faults.before, after=faults.after)
    await world.play("chain", "family", "relay")
    assert world.ledger.repeated == []


@pytest.mark.parametrize("seed", range(10))
async def test_everything_ends_with_no_room_in_memory(seed: int) -> None:
    faults = Faults(seed)
    world = World(before=faults.before, after=faults.after)
    await world.play("chain", "family", "relay", config=EngineConfig(cache_bytes=1))
    assert world.ledger.repeated == []
