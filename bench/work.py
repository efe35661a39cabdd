"""What the rows run: the same small workflows and activities everywhere."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

from perdure import activity, workflow

MINUTE = timedelta(minutes=1)


@activity.defn(name="bench.add", start_to_close_timeout=MINUTE)
async def add(number: int) -> int:
    return number + 1


@activity.defn(name="bench.add_in_thread", start_to_close_timeout=MINUTE)
def add_in_thread(number: int) -> int:
    return number + 1


@workflow.defn(name="bench.chain")
async def chain(steps: int) -> int:
    """Steps one after the other, each waiting for the one before."""
    number = 0
    for _ in range(steps):
        number = await add(number)
    return number


@workflow.defn(name="bench.chain_in_threads")
async def chain_in_threads(steps: int) -> int:
    """The same with activities that are plain functions."""
    number = 0
    for _ in range(steps):
        number = await add_in_thread(number)
    return number


@workflow.defn(name="bench.fan_out")
async def fan_out(width: int) -> int:
    """All at once."""
    return sum(await asyncio.gather(*(add(number) for number in range(width))))


@workflow.defn(name="bench.listener")
class Listener:
    """Counts signals up to a number."""

    def __init__(self) -> None:
        self.seen = 0

    @workflow.run
    async def run(self, wanted: int) -> int:
        await workflow.wait_condition(lambda: self.seen >= wanted)
        return self.seen

    @workflow.signal
    def hear(self, number: int) -> None:
        self.seen += 1


@activity.defn(name="bench.wake", start_to_close_timeout=MINUTE)
async def wake(due_s: float) -> None:
    LATE.append(time.time() - due_s)


LATE: list[float] = []
"""How late sleepers were, in seconds, from due to the activity after the sleep."""


@workflow.defn(name="bench.sleeper")
async def sleeper(sleep_s: float) -> None:
    """One long timer, then one activity."""
    due_s = workflow.time() + sleep_s
    await asyncio.sleep(sleep_s)
    await wake(due_s)


class Pace:
    """Lets a chain go some steps at a time."""

    def __init__(self) -> None:
        self._permits = asyncio.Semaphore(0)
        self._left = 0
        self._there: asyncio.Future[None] | None = None

    async def walk(self, steps: int) -> None:
        """Let the chain go so many steps; returns when it is about to end the last of them."""
        self._left = steps
        self._there = asyncio.get_running_loop().create_future()
        for _ in range(steps):
            self._permits.release()
        await self._there

    async def step(self) -> None:
        """The chain's side: wait until it may go on."""
        await self._permits.acquire()
        self._left -= 1
        if not self._left and self._there is not None:
            self._there.set_result(None)


PACES: dict[str, Pace] = {}


@workflow.defn(name="bench.paced_chain")
async def paced_chain(name: str, steps: int) -> None:
    """A chain whose steps wait for its pace."""
    for _ in range(steps):
        await paced(name)


@activity.defn(name="bench.paced", start_to_close_timeout=MINUTE)
async def paced(name: str) -> None:
    await PACES[name].step()
