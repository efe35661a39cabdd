"""The server is killed and started again while unmodified workers work: they go on, and nothing is lost or repeated."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from tests.interop.conftest import ServerProcess, Spawn
from tests.ports import free_port

QUEUE = "restart"
STEPS = 4
RUNS = 30


class Ledger:
    """What activities did."""

    def __init__(self) -> None:
        self.begun: Counter[str] = Counter()
        self.progress = asyncio.Condition()
        self.waiting = asyncio.Event()
        self.go_on = asyncio.Event()

    @activity.defn
    async def step(self, name: str) -> str:
        async with self.progress:
            self.begun[name] += 1
            self.progress.notify_all()
        return name

    async def wait_begun(self, count: int) -> None:
        """Until so many steps have begun."""
        async with self.progress:
            await self.progress.wait_for(lambda: self.begun.total() >= count)

    @activity.defn
    async def wait(self) -> str:
        self.begun["wait"] += 1
        self.waiting.set()
        while not self.go_on.is_set():
            activity.heartbeat("alive")
            await asyncio.wait((asyncio.ensure_future(self.go_on.wait()),), timeout=0.1)
        return "waited"


@workflow.defn
class Waits:
    @workflow.run
    async def run(self) -> str:
        return await workflow.execute_activity(
            "wait", start_to_close_timeout=timedelta(minutes=10), heartbeat_timeout=timedelta(seconds=20)
        )


@workflow.defn
class Chain:
    @workflow.run
    async def run(self, name: str) -> list[str]:
        done: list[str] = []
        for step in range(STEPS):
            done.append(
                await workflow.execute_activity(
                    "step",
                    f"{name}/{step}",
                    start_to_close_timeout=timedelta(seconds=5),
                    retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=100)),
                )
            )
        return done


async def start(spawn_server: Spawn, address: str = "") -> ServerProcess:
    return await spawn_server("start", "--db", "restart.db", "--address", address or f"127.0.0.1:{free_port()}")


def worker(client: Client, ledger: Ledger, **options: Any) -> Worker:
    return Worker(
        client,
        task_queue=QUEUE,
        workflows=[Waits, Chain],
        activities=[ledger.step, ledger.wait],
        workflow_runner=UnsandboxedWorkflowRunner(),
        max_heartbeat_throttle_interval=timedelta(milliseconds=200),
        **options,
    )


async def test_an_activity_in_flight_outlives_the_server(spawn_server: Spawn) -> None:
    serving = await start(spawn_server)
    client = await Client.connect(serving.address)
    ledger = Ledger()
    async with worker(client, ledger):
        handle = await client.start_workflow(Waits.run, id="w", task_queue=QUEUE)
        await ledger.waiting.wait()
        await serving.kill()
        serving = await start(spawn_server, serving.address)
        (pending,) = (await handle.describe()).raw_description.pending_activities
        assert pending.HasField("last_started_time"), "it is known to run"
        ledger.go_on.set()
        assert await handle.result() == "waited"
        assert ledger.begun == {"wait": 1}, "it was not handed out again"
    await serving.terminate()


async def test_nothing_is_lost_under_load(spawn_server: Spawn) -> None:
    serving = await start(spawn_server)
    client = await Client.connect(serving.address)
    ledger = Ledger()
    async with worker(client, ledger):
        handles = [await client.start_workflow(Chain.run, str(n), id=f"c{n}", task_queue=QUEUE) for n in range(RUNS)]
        for kill in range(3):
            await ledger.wait_begun((kill + 1) * RUNS * STEPS // 5)
            await serving.kill()
            serving = await start(spawn_server, serving.address)
        for number, handle in enumerate(handles):
            assert await handle.result() == [f"{number}/{step}" for step in range(STEPS)]
        for handle in handles:
            ids = [event.event_id for event in (await handle.fetch_history()).events]
            assert ids == list(range(1, len(ids) + 1))
    await serving.terminate()


async def test_a_worker_that_leaves_is_replaced(client: Client) -> None:
    """Its polls end at once, and its workflows go on elsewhere: nothing waits for the hour their tasks are its own."""
    for number in range(5):
        ledger = Ledger()
        handle = await client.start_workflow(
            Chain.run, "x", id=f"x{number}", task_queue=QUEUE, task_timeout=timedelta(seconds=1)
        )
        async with worker(client, ledger, sticky_queue_schedule_to_start_timeout=timedelta(hours=1)):
            await ledger.wait_begun(1)
        async with worker(client, ledger):
            assert await handle.result() == [f"x/{step}" for step in range(STEPS)]
