"""Every test in process, over gRPC (a call each, and frames), and over the socket of a shared file; those that take a
`driver`, over each store.

A test that cannot be asked over a wire says why: ``@pytest.mark.in_process("…")``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from perdure.engine.store.memory import MemoryStore
from perdure.engine.store.sqlite import SqliteStore
from tests.service import support
from tests.service.support import Driver
from tests.service.wires import IN_PROCESS, WIRES

STORES_AND_WIRES = [("memory", IN_PROCESS), ("sqlite", IN_PROCESS), ("memory", "grpc"), ("memory", "frames")]
STORES_AND_WIRES += [("sqlite", "socket")]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each test gets its wire, and its store if it uses the fixture below."""
    if "wire" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker("in_process")
    assert marker is None or marker.args, f"{metafunc.definition.name} does not say why it is in process only"
    if "store_kind" in metafunc.fixturenames:
        chosen = [pair for pair in STORES_AND_WIRES if marker is None or pair[1] == IN_PROCESS]
        metafunc.parametrize(("store_kind", "wire"), chosen, indirect=["wire"])
    else:
        metafunc.parametrize("wire", [IN_PROCESS] if marker is not None else WIRES, indirect=True)


@pytest.fixture(autouse=True)
def wire(request: pytest.FixtureRequest) -> Iterator[str]:
    """Between the test and every `Driver` it makes."""
    support.WIRE.append(request.param)
    yield request.param
    support.WIRE.pop()


@pytest.fixture
async def driver(store_kind: str, tmp_path: Path) -> AsyncIterator[Driver]:
    """An engine on a virtual clock, started."""
    store = MemoryStore() if store_kind == "memory" else SqliteStore(tmp_path / "test.db")
    async with Driver(store) as driver:
        yield driver
