"""Caches that hold nothing change nothing: the same histories, event for event."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from perdure.engine import EngineConfig
from tests.system.flows import ACTIVITIES, STORIES, WORKFLOWS
from tests.system.lives import NEVER_S, Life, Lives
from tests.system.plain import plain

CONFIG = EngineConfig(poll_timeout_s=NEVER_S, erase_closed=False)


class Eviction:
    """A story told while the engine forgets every run that nobody holds, at each turn of the loop."""

    def __init__(self, name: str) -> None:
        self.story = STORIES[name]
        self.evictions = 0
        self.told: dict[str, list[Any]] = {}

    async def __call__(self, life: Life) -> object:
        shard = life.engine.shard
        settled = shard._on_settled

        def evict() -> None:
            self.evictions += shard.cache.evict_cold()
            settled()

        shard._on_settled = evict
        result = await self.story(life)
        await life.rest()
        self.told = {name: [plain(run.events) for run in runs] for name, runs in (await life.histories()).items()}
        return result


async def tell(life: Life, name: str) -> tuple[object, dict[str, list[Any]], Any]:
    result = await STORIES[name](life)
    await life.rest()
    assert life.worker is not None
    statistics = life.worker.statistics()
    histories = {key: [plain(run.events) for run in runs] for key, runs in (await life.histories()).items()}
    return result, histories, statistics


def lives(**options: Any) -> Lives:
    return Lives(workflows=WORKFLOWS, activities=ACTIVITIES, **{"config": CONFIG, **options})


@pytest.mark.parametrize("name", STORIES)
def test_a_worker_that_keeps_nothing(name: str) -> None:
    kept = lives().play(lambda life: tell(life, name))
    forgotten = lives(worker_options={"max_cached_workflow_bytes": 0}).play(lambda life: tell(life, name))
    assert forgotten[2].cached_workflows == 0
    assert forgotten[2].cache_evictions > 0
    assert kept[2].cache_evictions == 0
    assert forgotten[:2] == kept[:2]


@pytest.mark.parametrize("name", STORIES)
def test_an_engine_that_keeps_nothing(name: str) -> None:
    result, histories, _ = lives().play(lambda life: tell(life, name))
    eviction = Eviction(name)
    small = lives(config=replace(CONFIG, cache_bytes=1))
    assert small.play(eviction) == result
    assert eviction.evictions > 0
    assert eviction.told == histories


@pytest.mark.parametrize("name", STORIES)
def test_nothing_kept_anywhere(name: str) -> None:
    result, histories, _ = lives().play(lambda life: tell(life, name))
    eviction = Eviction(name)
    small = lives(config=replace(CONFIG, cache_bytes=1), worker_options={"max_cached_workflow_bytes": 0})
    assert small.play(eviction) == result
    assert eviction.told == histories
