"""A process among several on one database file: ``python shared.py ROLE DB LEDGER SIGNALS``.

    worker   serves the workflows and activities below
    web      starts workflows and signals, one after the other, and waits for results

Both end in good order when their standard input ends. Ledger rows are JSON objects with the process's pid; after each a
byte goes to the descriptor SIGNALS. ``called`` and ``done`` come from activities; ``called`` carries the steps of its
run that were completed before (``needs``). ``ack`` rows are written when a start, a signal or a result has been
acknowledged. ``error`` rows are calls that failed, of which there should be none.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
from datetime import timedelta
from typing import Any

import perdure
from perdure import Client, activity, workflow
from perdure.common import WorkflowIDConflictPolicy

STEPS = 6
LANES = 4
SECONDS = timedelta(seconds=10)


class Book:
    """The ledger, and the pipe that tells the parent of each row."""

    def __init__(self, ledger: str, signals: int) -> None:
        self._file = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._signals = signals

    def write(self, kind: str, **row: Any) -> None:
        os.write(self._file, json.dumps({"kind": kind, "pid": os.getpid()} | row).encode() + b"\n")
        os.write(self._signals, b".")


BOOK: list[Book] = []


@activity.defn(name="shared.step", start_to_close_timeout=SECONDS)
async def step(name: str, needs: list[str], value: int) -> int:
    info = activity.info()
    row = {"run": info.workflow_run_id, "workflow": info.workflow_id, "step": name, "attempt": info.attempt}
    BOOK[0].write("called", needs=needs, **row)
    for _ in range(value * 7 % 20):
        await asyncio.sleep(0)
    BOOK[0].write("done", **row)
    return value + 1


@workflow.defn(name="shared.chain")
async def chain() -> int:
    """Steps one after the other; the result is their number."""
    value, before = 0, list[str]()
    for number in range(STEPS):
        value = await step(f"s{number}", before, value)
        before = [*before, f"s{number}"]
    return value


@workflow.defn(name="shared.collector")
class Collector:
    """Keeps what it is told, until it is told to stop."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.stopped = False

    @workflow.run
    async def run(self) -> list[str]:
        await workflow.wait_condition(lambda: self.stopped)
        return self.heard

    @workflow.signal
    def hear(self, what: str) -> None:
        self.heard.append(what)

    @workflow.signal
    def stop(self) -> None:
        self.stopped = True

    @workflow.query
    def count(self) -> int:
        return len(self.heard)


async def told_to_end() -> None:
    """Until standard input ends."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(0, ended.set)
    await ended.wait()
    loop.remove_reader(0)


async def work(db: str) -> None:
    async with perdure.open(db, workflows=[chain, Collector], activities=[step]):
        BOOK[0].write("open", role="worker")
        await told_to_end()


async def lane(client: Client, number: int, ending: asyncio.Event) -> None:
    """One workflow after the other."""
    collector = client.get_workflow_handle_for(Collector.run, "collector")
    for position in itertools.count():
        if ending.is_set():
            return
        workflow_id = f"chain-{os.getpid()}-{number}-{position}"
        handle = await client.start_workflow(chain, id=workflow_id)
        BOOK[0].write("ack", started=workflow_id)
        await collector.signal(Collector.hear, workflow_id)
        BOOK[0].write("ack", signalled=workflow_id)
        result = await handle.result()
        BOOK[0].write("ack", ended=workflow_id, result=result)


async def web(db: str) -> None:
    async with await Client.connect(db) as client:
        await client.start_workflow(
            Collector.run, id="collector", id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING
        )
        BOOK[0].write("open", role="web")
        ending = asyncio.Event()
        lanes = [asyncio.create_task(lane(client, number, ending)) for number in range(LANES)]
        ender = asyncio.create_task(told_to_end())
        await asyncio.wait([ender, *lanes], return_when=asyncio.FIRST_COMPLETED)
        ending.set()
        for outcome in await asyncio.gather(*lanes, return_exceptions=True):
            if outcome is not None:
                BOOK[0].write("error", what=repr(outcome))
        ender.cancel()


def main() -> None:
    role, db, ledger, signals = sys.argv[1:]
    BOOK.append(Book(ledger, int(signals)))
    asyncio.run(work(db) if role == "worker" else web(db))


if __name__ == "__main__":
    main()
