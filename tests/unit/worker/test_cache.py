"""The cache of runs: bounded in bytes, oldest out first."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from perdure.replay.run import WorkflowRun
from perdure.worker.cache import CachedRun, RunCache


def used(cache: RunCache, run_id: str, size_bytes: int) -> CachedRun:
    """A run of that size that has just been used."""
    run = cast("WorkflowRun", SimpleNamespace(estimated_bytes=size_bytes, close=lambda: None))
    entry = CachedRun(run_id, run)
    cache.put(entry)
    cache.measure(entry)
    return entry


def test_the_oldest_go_first() -> None:
    cache = RunCache(100)
    for name in ("a", "b", "c"):
        used(cache, name, 40)
    assert cache.get("a") is None
    assert cache.get("b") is not None
    assert cache.get("c") is not None
    assert cache.total_bytes == 80


def test_a_run_larger_than_the_bound_is_kept_until_another_is_used() -> None:
    cache = RunCache(100)
    used(cache, "small", 40)
    large = used(cache, "large", 400)
    assert cache.get("large") is large
    assert cache.get("small") is None
    used(cache, "other", 40)
    assert cache.get("large") is None
    assert cache.total_bytes == 40


def test_a_bound_of_zero_keeps_nothing() -> None:
    cache = RunCache(0)
    used(cache, "a", 40)
    assert len(cache) == 0
    assert cache.total_bytes == 0
