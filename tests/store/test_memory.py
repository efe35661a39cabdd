"""The memory store's own: hooks around commits, and states that outlive their store."""

from __future__ import annotations

from copy import deepcopy

import pytest

from perdure.engine.store import Batch, MemoryStore, StoreFencedError, StoreFullError
from tests.store.rows import nth, started


async def test_a_hook_before_a_commit_keeps_it_from_happening() -> None:
    def refuse_second(number: int, batch: Batch) -> None:
        if number == 2:
            raise StoreFullError("no space left")

    store = MemoryStore(before_commit=refuse_second)
    await store.open()
    await store.commit(started(1))
    with pytest.raises(StoreFullError):
        await store.commit(started(2))
    assert await store.load_run(2) is None
    await store.commit(started(2))
    assert await store.load_run(2) is not None
    assert store.commits == 3


async def test_a_hook_after_a_commit_only_hides_it() -> None:
    def lose_answer(number: int, batch: Batch) -> None:
        raise ConnectionError("the answer was lost")

    store = MemoryStore(after_commit=lose_answer)
    await store.open()
    with pytest.raises(ConnectionError):
        await store.commit(started(1))
    assert await store.load_run(1) is not None


async def test_a_state_is_opened_again_after_a_crash() -> None:
    crashed = MemoryStore()
    await crashed.open()
    await crashed.commit(started(1))
    reopened = MemoryStore(crashed.state)
    await reopened.open()
    assert await reopened.load_run(1) is not None
    with pytest.raises(StoreFencedError):
        await crashed.commit(started(2))
    await reopened.commit(started(2))
    assert await reopened.max_run_key() == 2


async def test_a_snapshot_shares_nothing_that_changes() -> None:
    store = MemoryStore()
    await store.open()
    await store.commit(nth(1))
    await store.commit(nth(2))
    snapshot = store.snapshot()
    assert snapshot == store.state
    expected = deepcopy(snapshot)
    for number in range(3, 30):
        await store.commit(nth(number))
    await store.commit(Batch(run_deletes=[1, 2]))
    assert snapshot == expected


async def test_a_snapshot_keeps_what_was_there() -> None:
    store = MemoryStore()
    await store.open()
    await store.commit(started(1))
    snapshot = store.snapshot()
    await store.commit(started(2))
    earlier = MemoryStore(snapshot)
    await earlier.open()
    assert await earlier.max_run_key() == 1
    await earlier.commit(started(3))
    assert await store.max_run_key() == 2
