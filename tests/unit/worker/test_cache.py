"""The cache of runs: bounded in bytes, oldest out first."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from perdure.replay.run import WorkflowRun
from perdure.worker.cache import CachedRun, RunCache


def used(cache: RunCache, run_id: str, size_bytes: int, *, asleep: bool = False) -> CachedRun:
    """A run of that size that has just been used."""
    run = cast("WorkflowRun", SimpleNamespace(estimated_bytes=size_bytes, asleep=asleep, close=lambda: None))
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


def test_those_asleep_leave_room_for_the_others() -> None:
    cache = RunCache(400)
    used(cache, "awake", 40)
    for name in ("a", "b", "c", "d"):
        used(cache, name, 40, asleep=True)
    assert cache.total_bytes == 120, "a hundred bytes are theirs"
    assert [name for name in ("awake", "a", "b", "c", "d") if cache.get(name) is not None] == ["awake", "c", "d"]


def test_one_that_wakes_counts_with_the_others_again() -> None:
    cache = RunCache(400)
    first = used(cache, "first", 40, asleep=True)
    assert cache.get("first") is first
    for name in ("a", "b", "c"):
        used(cache, name, 40, asleep=True)
    assert cache.get("first") is first
    cache.drop(first)
    cache.clear()
    assert cache.total_bytes == 0
    used(cache, "alone", 4000, asleep=True)
    assert cache.get("alone") is not None, "one alone may be larger than the part"
