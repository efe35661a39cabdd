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


@pytest.mark.parametrize("bytes_kept", [1 << 26, 0], ids=["worker keeps", "worker forgets"])
@pytest.mark.parametrize("name", STORIES)
def test_an_engine_that_keeps_nothing(name: str, bytes_kept: int) -> None:
    kept = lives().play(lambda life: tell(life, name))
    small = lives(
        forget=lambda: True,
        config=replace(CONFIG, cache_bytes=1),
        worker_options={"max_cached_workflow_bytes": bytes_kept},
    )
    forgotten = small.play(lambda life: tell(life, name))
    assert small.forgotten > 0
    assert forgotten[:2] == kept[:2]
