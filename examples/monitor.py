"""A polling monitor: look every minute until the build is done, for days if need be.

Each hundred looks it continues as new, so that its history stays short however long it waits.

Run it: ``python examples/monitor.py`` (on the virtual clock).
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from perdure import activity, workflow
from perdure.testing import WorkflowEnvironment
from perdure.worker import Worker

INTERVAL = timedelta(minutes=1)
LOOKS_PER_RUN = 100
DONE_AFTER = 250
"""The stand-in build is done at this look."""


@activity.defn(start_to_close_timeout=timedelta(seconds=10))
async def look(build: str, number: int) -> str:
    """Ask the build server."""
    return "done" if number >= DONE_AFTER else "running"


@workflow.defn
async def monitor(build: str, looks: int = 0) -> int:
    """Wait for a build; the result is the number of looks it took."""
    for _ in range(LOOKS_PER_RUN):
        looks += 1
        if await look(build, looks) == "done":
            return looks
        await asyncio.sleep(INTERVAL.total_seconds())
    workflow.continue_as_new(args=[build, looks])


async def main() -> None:
    """Wait for one build, some four hours, in a moment."""
    async with await WorkflowEnvironment.start_time_skipping() as env:
        async with Worker(env.client, task_queue="builds", workflows=[monitor], activities=[look]):
            looks = await env.client.execute_workflow(monitor, "build-7", id="monitor-7", task_queue="builds")
            print(f"done after {looks} looks")


if __name__ == "__main__":
    asyncio.run(main())
