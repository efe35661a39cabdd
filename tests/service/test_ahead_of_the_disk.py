"""A worker in the engine's process is ahead of the disk: what it completes counts before it is durable."""

from __future__ import annotations

import asyncio

import pytest

from perdure import workflow
from perdure.client import Client
from perdure.engine import Engine
from perdure.worker import Worker
from tests.service.support import turns
from tests.service.test_barrier import HeldStore


@workflow.defn
class Counter:
    def __init__(self) -> None:
        self.total = 0

    @workflow.run
    async def run(self) -> None:
        await workflow.wait_condition(lambda: False)

    @workflow.signal
    def add(self) -> None:
        self.total += 1

    @workflow.query
    def count(self) -> int:
        return self.total


@pytest.mark.in_process("the engine's own worker is ahead of the disk")
async def test_a_query_of_a_run_that_its_worker_has_forgotten_waits_for_the_disk() -> None:
    store = HeldStore()
    engine = Engine(store)
    await engine.start()
    client = Client(engine.service())
    async with Worker(client, workflows=[Counter]) as worker:
        handle = await client.start_workflow(Counter.run, id="c")
        await handle.signal(Counter.add)
        assert await handle.query(Counter.count) == 1
        await engine.wait_idle()
        (slot,) = engine.shard.cache.loaded.values()
        done = slot.run.state.last_task_completed_event_id
        store.commits_open.clear()
        signal = asyncio.ensure_future(handle.signal(Counter.add))
        while slot.run.state.last_task_completed_event_id == done:
            await turns()
        assert worker._workflow_tasks is not None
        worker._workflow_tasks.cache.clear()
        query = asyncio.ensure_future(handle.query(Counter.count))
        await turns()
        assert not query.done()
        store.commits_open.set()
        assert await query == 2
        await signal
    await engine.stop()
