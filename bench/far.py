"""The other processes of the rows about the wire: ``python -m bench.far KIND ADDRESS COUNT``.

    ours      our own worker and client, against the server at ADDRESS
    official  Temporal's Python SDK, the same work; without its sandbox, which would only make it slower

Either runs COUNT chains of 10 steps, 50 in flight, after a warm-up, and prints what it measured as JSON. The warm-up is
ended by a line on standard output, and the measurement begins when a line comes on standard input: so the server's CPU
can be read in between.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from temporalio import activity as official_activity
from temporalio import workflow as official_workflow
from temporalio.client import Client as OfficialClient
from temporalio.worker import UnsandboxedWorkflowRunner
from temporalio.worker import Worker as OfficialWorker

import perdure
from bench.probe import cpu_s, in_flight, percentile
from bench.work import add, chain

STEPS = 10
IN_FLIGHT = 50
WARM_UP = 100
SINGLES = 200


@official_activity.defn(name="bench.add")
async def official_add(number: int) -> int:
    return number + 1


@official_workflow.defn(name="bench.chain")
class OfficialChain:
    @official_workflow.run
    async def run(self, steps: int) -> int:
        number = 0
        for _ in range(steps):
            number = await official_workflow.execute_activity(
                official_add, number, start_to_close_timeout=timedelta(minutes=1)
            )
        return number


async def measure(run: Callable[[str, int], Awaitable[Any]], count: int) -> None:
    """Run chains, and one-activity workflows one by one; `run` takes an id and a number of steps."""
    await in_flight(WARM_UP, IN_FLIGHT, lambda number: run(f"warm-{number}", STEPS))
    print("warm", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    begin, cpu = time.perf_counter(), cpu_s()
    await in_flight(count, IN_FLIGHT, lambda number: run(f"chain-{number}", STEPS))
    took_s, used_s = time.perf_counter() - begin, cpu_s() - cpu
    print("done", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    times_ms: list[float] = []
    for number in range(SINGLES):
        begin = time.perf_counter()
        await run(f"one-{number}", 1)
        times_ms.append((time.perf_counter() - begin) * 1000)
    activities = count * STEPS
    found = {
        "activities_per_s": activities / took_s,
        "worker_cpu_ms": used_s / activities * 1000,
        "p50_ms": percentile(times_ms, 50),
    }
    print(json.dumps(found), flush=True)


async def ours(address: str, count: int) -> None:
    async with await perdure.Client.connect(address, task_queue="bench") as client:
        async with perdure.Worker(client, task_queue="bench", workflows=[chain], activities=[add]):
            await measure(lambda name, steps: client.execute_workflow(chain, steps, id=name), count)


async def official(address: str, count: int) -> None:
    client = await OfficialClient.connect(address)
    worker = OfficialWorker(
        client,
        task_queue="bench",
        workflows=[OfficialChain],
        activities=[official_add],
        workflow_runner=UnsandboxedWorkflowRunner(),
        max_concurrent_activities=200,
        max_concurrent_workflow_tasks=200,
    )
    async with worker:
        await measure(
            lambda name, steps: client.execute_workflow(OfficialChain.run, steps, id=name, task_queue="bench"), count
        )


if __name__ == "__main__":
    kind, address, count = sys.argv[1:]
    asyncio.run((ours if kind == "ours" else official)(address, int(count)))
