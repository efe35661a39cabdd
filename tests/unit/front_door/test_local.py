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
from perdure.local import Limits, Place, open_service, place_of
from perdure.transport.options import TLSConfig


def test_targets(tmp_path: Path) -> None:
    here = os.path.realpath("orders.db")
    assert place_of("orders.db") == Place(kind="sqlite", name=here)
    assert place_of("sqlite:orders.db") == Place(kind="sqlite", name=here)
    assert place_of(Path("orders.db")) == Place(kind="sqlite", name=here)
    assert place_of("./a:b/orders.db").kind == "sqlite"
    assert place_of("memory:") == Place(kind="memory", name="")
    assert place_of("memory:other") == Place(kind="memory", name="other")
    assert place_of("localhost:7233") == Place(kind="server", name="localhost:7233")
    assert place_of("[::1]:7233") == Place(kind="server", name="[::1]:7233")
    assert place_of("http://x/") == Place(kind="server", name="x:7233", secure=False)
    assert place_of("https://x.example:443") == Place(kind="server", name="x.example:443", secure=True)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("http://user@x", "no server's address"),
        ("https:x", "no server's address"),
        ("postgresql://x", "needs a PostgreSQL store"),
        ("sqlite:", "names no file"),
        ("", "empty"),
        ("redis:x", "no kind of place"),
    ],
)
async def test_other_targets_are_refused_with_advice(target: str, said: str) -> None:
    with pytest.raises(TargetError, match=said):
        await Client.connect(target)


async def test_options_of_a_server_are_refused_elsewhere() -> None:
    with pytest.raises(TargetError, match="are for servers"):
        await Client.connect("memory:", api_key="key")
    with pytest.raises(TargetError, match="limits of its own"):
        await Client.connect("localhost:7233", limits=Limits())
    with pytest.raises(TargetError, match="tls= says otherwise"):
        await Client.connect("http://localhost", tls=True)
    with pytest.raises(ValueError, match="give both or neither"):
        TLSConfig(client_cert=b"x")


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
            await asyncio.to_thread(asyncio.run, open_again())

    asyncio.run(leave_open())
    asyncio.run(open_again())
    asyncio.run(in_both())


def test_an_engine_of_a_loop_that_does_not_run(tmp_path: Path) -> None:
    path = str(tmp_path / "a.db")
    loop = asyncio.new_event_loop()
    client = loop.run_until_complete(Client.connect(path))
    with pytest.raises(DatabaseLockedError, match="another event loop"):
        asyncio.run(Client.connect(path))
    loop.run_until_complete(client.close())
    loop.close()
