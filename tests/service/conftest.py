"""Engines over each store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perdure.engine.store.memory import MemoryStore
from perdure.engine.store.sqlite import SqliteStore
from tests.service.support import Driver


@pytest.fixture(params=["memory", "sqlite"])
async def driver(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Driver]:
    """An engine on a virtual clock, started, over each store in turn."""
    store = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "test.db")
    async with Driver(store) as driver:
        yield driver
