"""What activity code may ask while it runs, in the test environment."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any

import pytest

from perdure import activity
from perdure.exceptions import CancelledError
from perdure.testing import ActivityEnvironment


@activity.defn
async def looks_around(x: int) -> tuple[int, str, int, list[int]]:
    assert activity.in_activity()
    activity.heartbeat("page", x)
    return x, activity.info().activity_type, activity.info().attempt, activity.heartbeat_details(int)


@activity.defn
def plain(x: int) -> str:
    activity.heartbeat(x)
    return activity.info().workflow_id


async def test_info_and_heartbeats() -> None:
    env = ActivityEnvironment()
    seen: list[Any] = []
    env.on_heartbeat = lambda *details: seen.append(details)
    env.info = replace(env.info, attempt=2)
    env.heartbeat_details = [7]
    assert await env.run(looks_around, 3) == (3, "looks_around", 2, [7])
    assert await env.run(plain, 4) == "test"
    assert seen == [("page", 3), (4,)]
    assert not activity.in_activity()


async def test_an_async_activity_is_cancelled_by_asyncio() -> None:
    started = asyncio.Event()

    @activity.defn
    async def waits() -> str:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            assert activity.is_cancelled()
            return "cleaned up"
        return "never"

    env = ActivityEnvironment()
    running = asyncio.create_task(env.run(waits))
    await started.wait()
    env.cancel()
    assert await running == "cleaned up"


async def test_a_plain_activity_is_cancelled_at_its_heartbeat() -> None:
    loop = asyncio.get_running_loop()
    started = asyncio.Event()

    @activity.defn
    def waits() -> str:
        loop.call_soon_threadsafe(started.set)
        activity.wait_for_cancelled_sync()
        with activity.shield_thread_cancel_exception():
            activity.heartbeat()
        activity.heartbeat()
        return "never"

    env = ActivityEnvironment()
    running = asyncio.create_task(env.run(waits))
    await started.wait()
    env.cancel()
    with pytest.raises(CancelledError):
        await running


async def test_shutdown_is_told() -> None:
    @activity.defn
    async def waits() -> bool:
        await activity.wait_for_worker_shutdown()
        return activity.is_worker_shutdown()

    env = ActivityEnvironment()
    running = asyncio.create_task(env.run(waits))
    await asyncio.sleep(0)
    env.worker_shutdown()
    assert await running


async def test_the_logger_says_who_speaks(caplog: pytest.LogCaptureFixture) -> None:
    @activity.defn
    async def speaks() -> None:
        activity.logger.warning("hello %s", "you")

    with caplog.at_level(logging.WARNING):
        await ActivityEnvironment().run(speaks)
        activity.logger.warning("outside")
    assert caplog.records[0].getMessage() == "hello you [speaks of test, attempt 1]"
    assert caplog.records[0].__dict__["perdure_activity"]["workflow_id"] == "test"
    assert caplog.records[1].getMessage() == "outside"
