"""The front door."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

import perdure
from perdure import activity, workflow
from perdure.api import RpcError, StatusCode
from perdure.client import InvalidRequestError, ServiceUnavailableError
from perdure.exceptions import DefinitionError
from perdure.local import open_service

LATCH: dict[str, asyncio.Event] = {}


@activity.defn(start_to_close_timeout=timedelta(seconds=30))
async def greet(name: str) -> str:
    return f"hello {name}"


@activity.defn(start_to_close_timeout=timedelta(seconds=30))
async def blocks(name: str) -> int:
    LATCH["started"].set()
    await LATCH["open"].wait()
    return activity.info().attempt


@workflow.defn
async def greeting(name: str) -> str:
    return await greet(name)


@workflow.defn
async def blocked(name: str) -> int:
    return await blocks(name)


async def test_engine_worker_and_client_in_one(tmp_path: Path) -> None:
    async with perdure.open(tmp_path / "a.db", workflows=[greeting], activities=[greet]) as app:
        assert await app.execute(greeting, "Ada", id="g") == "hello Ada"
        handle = await app.start(greeting, "Grace")
        assert handle.id.startswith("greeting-")
        assert await app.handle(handle.id).result() == "hello Grace"
        assert app.worker is not None
        assert app.client.namespace == "default"
    with pytest.raises(RuntimeError, match="not open"):
        _ = app.client


SCRIPT = """
import asyncio
import subprocess
import sys
from datetime import timedelta
import perdure
from perdure import activity, workflow

@activity.defn(start_to_close_timeout=timedelta(seconds=30))
async def greet(name: str) -> str:
    return f"hello {name}"

@workflow.defn
async def greeting(name: str) -> str:
    return await greet(name)

async def main() -> None:
    for word in ("good morning", "good evening"):

        @activity.defn(name="local", start_to_close_timeout=timedelta(seconds=30))
        async def local(name: str) -> str:
            return f"{word} {name}"

        @workflow.defn
        async def inner(name: str) -> str:
            return await local(name)

        async with perdure.open("memory:") as app:
            print(await app.execute(greeting, "Ada"), await app.execute(inner, "Grace"))

asyncio.run(main())
"""


def test_everything_decorated_is_served_by_default(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["hello Ada good morning Grace", "hello Ada good evening Grace"], done.stderr


async def test_without_anything_to_run_there_is_no_worker() -> None:
    async with perdure.open("memory:", workflows=[], activities=[]) as app:
        assert app.worker is None
        assert [workflow async for workflow in app.client.list_workflows()] == []


async def test_what_was_unfinished_goes_on_as_the_same_attempt(tmp_path: Path) -> None:
    LATCH.update(started=asyncio.Event(), open=asyncio.Event())
    async with perdure.open(tmp_path / "a.db", workflows=[blocked], activities=[blocks]) as app:
        await app.start(blocked, "x", id="b")
        await LATCH["started"].wait()
    LATCH["open"].set()
    async with perdure.open(tmp_path / "a.db", workflows=[blocked], activities=[blocks]) as app:
        assert await app.handle("b").result() == 1


async def test_ambiguous_names_are_refused() -> None:
    @activity.defn(name="greet")
    async def other(name: str) -> str:
        return name

    with pytest.raises(DefinitionError, match="two activities are named 'greet'"):
        async with perdure.open("memory:", workflows=[greeting], activities=[greet, other]):
            raise AssertionError("not reached")


async def test_a_worker_that_fails_ends_the_block() -> None:
    with pytest.raises(InvalidRequestError, match="broken for good"):
        async with perdure.open("memory:", workflows=[greeting], activities=[greet]) as app:
            assert app.worker is not None
            app.worker._fail(RpcError(StatusCode.INVALID_ARGUMENT, "broken for good"))
            await asyncio.Event().wait()


async def test_an_engine_that_fails_ends_the_block(tmp_path: Path) -> None:
    lease = await open_service(tmp_path / "a.db")
    with pytest.raises(ServiceUnavailableError, match="check the disk"):
        async with perdure.open(tmp_path / "a.db", workflows=[greeting], activities=[greet]):
            lease.engine._fail(RpcError(StatusCode.UNAVAILABLE, "check the disk"))
            await asyncio.Event().wait()
    await lease.release()


async def test_an_error_in_the_block_is_the_callers() -> None:
    with pytest.raises(ZeroDivisionError):
        async with perdure.open("memory:", workflows=[greeting], activities=[greet]):
            _ = 1 / 0
