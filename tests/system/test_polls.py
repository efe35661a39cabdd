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


async def test_a_sticky_task_whose_poll_is_cancelled_on_the_way_moves_on_in_time() -> None:
    """Its worker has died with the task in its hands: nobody polls the sticky queue again."""
    async with Driver(MemoryStore()) as driver:
        await driver.start()
        await driver.step(do.start_timer("t", 3600), sticky="sticky")
        request = driver.poll_request("sticky", sticky=True)
        poll = asyncio.ensure_future(driver.service.poll_workflow_task_queue(request))
        await do.turns(3)
        signal = asyncio.ensure_future(driver.signal())
        while not driver.engine.shard.matching.has_match():
            await asyncio.sleep(0)
        poll.cancel()
        with pytest.raises(asyncio.CancelledError):
            await poll
        await signal
        assert not (await driver.poll()).task_token
        driver.clock.advance_by(10_000)
        task = await driver.poll()
        assert task.task_token
        assert task.started_event_id == len(task.history.events), "the whole history, for a worker that knows nothing"
