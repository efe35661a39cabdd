"""Targets, and engines shared by their leases."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from perdure.client import Client
from perdure.exceptions import (
    DatabaseForeignError,
    DatabaseLockedError,
    DatabaseMissingError,
    TargetError,
)
from perdure.local import Place, open_service, place_of


def test_targets(tmp_path: Path) -> None:
    here = os.path.realpath("orders.db")
    assert place_of("orders.db") == Place(kind="sqlite", name=here)
    assert place_of("sqlite:orders.db") == Place(kind="sqlite", name=here)
    assert place_of(Path("orders.db")) == Place(kind="sqlite", name=here)
    assert place_of("./a:b/orders.db").kind == "sqlite"
    assert place_of("memory:") == Place(kind="memory", name="")
    assert place_of("memory:other") == Place(kind="memory", name="other")


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("localhost:7233", "address of a server"),
        ("[::1]:7233", "address of a server"),
        ("http://x", "needs a server"),
        ("postgresql://x", "needs a server"),
        ("sqlite:", "names no file"),
        ("", "empty"),
        ("redis:x", "no kind of place"),
    ],
)
async def test_other_targets_are_refused_with_advice(target: str, said: str) -> None:
    with pytest.raises(TargetError, match=said):
        await Client.connect(target)


async def test_one_engine_for_each_place(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    one = await open_service(path)
    two = await open_service(f"sqlite:{path}")
    assert one.engine is two.engine
    assert not one.is_last
    await one.release()
    await one.release()
    assert two.is_last
    await two.release()
    three = await open_service(path)
    assert three.engine is not one.engine
    await three.release()


async def test_several_at_once_share_the_engine_too(tmp_path: Path) -> None:
    leases = await asyncio.gather(*(open_service(tmp_path / "a.db") for _ in range(5)))
    assert len({id(lease.engine) for lease in leases}) == 1
    await asyncio.gather(*(lease.release() for lease in leases))


async def test_refusals_are_typed(tmp_path: Path) -> None:
    with pytest.raises(DatabaseMissingError, match="no/such"):
        await Client.connect(str(tmp_path / "no/such/dir.db"))
    foreign = tmp_path / "letter.txt"
    foreign.write_text("Dear Sir or Madam, " * 1000)
    with pytest.raises(DatabaseForeignError, match="choose another"):
        await Client.connect(str(foreign))
    # A refusal leaves nothing behind.
    client = await Client.connect(tmp_path / "fine.db")
    await client.close()


def test_an_engine_of_another_loop(tmp_path: Path) -> None:
    path = str(tmp_path / "a.db")

    async def leave_open() -> None:
        await Client.connect(path)

    async def open_again() -> None:
        async with await Client.connect(path):
            assert True

    async def in_both() -> None:
        async with await Client.connect(path):
            with pytest.raises(DatabaseLockedError, match="another event loop"):
                await asyncio.to_thread(asyncio.run, open_again())

    asyncio.run(leave_open())
    asyncio.run(open_again())
    asyncio.run(in_both())
