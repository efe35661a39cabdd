"""The stores under test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perdure.engine.store import MemoryStore, Store
from perdure.engine.store.sqlite import SqliteStore

STORES = ("memory", "sqlite")


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """An empty, open store of each kind."""
    store: Store = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "perdure.db")
    await store.open()
    yield store
    await store.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a database may be made."""
    return tmp_path / "perdure.db"
