"""Polls that are cancelled while something else happens to their queue."""

from __future__ import annotations

import asyncio

import pytest

from perdure.engine.store.memory import MemoryStore
from tests.service import support as do
from tests.service.support import Driver


async def _parked(driver: Driver) -> asyncio.Task[object]:
    poll = asyncio.ensure_future(driver.service.poll_workflow_task_queue(driver.poll_request()))
    await do.turns(3)
    return poll


async def test_a_task_offered_to_a_poll_that_has_just_been_cancelled() -> None:
    async with Driver(MemoryStore()) as driver:
        poll = await _parked(driver)
        start = asyncio.ensure_future(driver.start())
        poll.cancel()
        with pytest.raises(asyncio.CancelledError):
            await poll
        await start
        assert (await driver.poll()).task_token


async def test_a_queue_released_when_its_poll_has_just_been_cancelled() -> None:
    async with Driver(MemoryStore()) as driver:
        poll = await _parked(driver)
        poll.cancel()
        driver.engine.shard.matching.close()
        with pytest.raises(asyncio.CancelledError):
            await poll
