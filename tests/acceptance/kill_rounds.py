"""A program that is killed many times: ``python kill_rounds.py DB LEDGER ROUNDS SEED``.

The parent imports everything once and forks a child per round, so that a round costs what its work costs. A child
opens the database, which resumes what earlier children left, starts one workflow after the other, signals one that
collects, and goes on until it is killed with SIGKILL after a random number of ledger rows. The last child is left
alone until everything has finished.

Ledger rows are JSON objects. ``called``, ``failed`` and ``done`` come from activities; ``called`` carries the
steps of its run that were completed before it (``needs``). ``ack`` rows are written after a start or a signal has been
acknowledged: from then on it may not be lost.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import perdure.app  # All of it: a child must not import it again.
from perdure import RetryPolicy, activity, workflow
from perdure.common import WorkflowIDConflictPolicy
from perdure.exceptions import ApplicationError

ROWS_BEFORE_KILL = 120
LANES = 4
STEPS = 6
WIDTH = 5
SECOND = timedelta(seconds=30)
QUICK = RetryPolicy(initial_interval=timedelta(milliseconds=10), maximum_interval=timedelta(milliseconds=50))


class Book:
    """The ledger, and the pipe that tells the parent of each row."""

    def __init__(self, ledger: str, signals: int) -> None:
        self._file = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._signals = signals

    def write(self, kind: str, **row: Any) -> None:
        os.write(self._file, json.dumps({"kind": kind, "pid": os.getpid()} | row).encode() + b"\n")
        os.write(self._signals, b".")


BOOK: list[Book] = []


@activity.defn(name="kill.step", start_to_close_timeout=SECOND, retry_policy=QUICK)
async def step(name: str, needs: list[str], value: int) -> int:
    """One step; about one in ten fails at first."""
    info = activity.info()
    row = {"run": info.workflow_run_id, "workflow": info.workflow_id, "step": name, "attempt": info.attempt}
    BOOK[0].write("called", needs=needs, **row)
    if (len(info.workflow_id) * 7 + value) % 10 == 0 and info.attempt == 1:
        BOOK[0].write("failed", **row)
        raise ApplicationError("not the first time")
    for _ in range(value * 10 % 30):
        await asyncio.sleep(0)
    BOOK[0].write("done", **row)
    return value + 1


@activity.defn(name="kill.step_in_thread", start_to_close_timeout=SECOND, retry_policy=QUICK)
def step_in_thread(name: str, needs: list[str], value: int) -> int:
    info = activity.info()
    row = {"run": info.workflow_run_id, "workflow": info.workflow_id, "step": name, "attempt": info.attempt}
    BOOK[0].write("called", needs=needs, **row)
    BOOK[0].write("done", **row)
    return value + 1


@workflow.defn(name="kill.chain")
async def chain() -> int:
    """Steps one after the other; the result is their number."""
    value, before = 0, list[str]()
    for number in range(STEPS):
        act = step_in_thread if number % 3 == 2 else step
        value = await act(f"s{number}", before, value)
        before = [*before, f"s{number}"]
    return value


@workflow.defn(name="kill.fan")
async def fan() -> int:
    """Steps at once, a timer, and a step that needs them all."""
    names = [f"f{number}" for number in range(WIDTH)]
    values = await asyncio.gather(*(step(name, [], number) for number, name in enumerate(names)))
    await asyncio.sleep(0.02)
    return await step("join", names, sum(values))


@workflow.defn(name="kill.parent")
async def parent() -> int:
    """A child, then a step."""
    value = await workflow.execute_child_workflow(chain, id=f"{workflow.info().workflow_id}-child")
    return await step("after", [], value)


@workflow.defn(name="kill.collector")
class Collector:
    """Keeps what it is told, until it is told to stop."""

    def __init__(self) -> None:
        self.heard: list[int] = []
        self.stopped = False

    @workflow.run
    async def run(self) -> list[int]:
        await workflow.wait_condition(lambda: self.stopped)
        return self.heard

    @workflow.signal
    def hear(self, number: int) -> None:
        self.heard.append(number)

    @workflow.signal
    def stop(self) -> None:
        self.stopped = True


KINDS: Sequence[Callable[..., Any]] = (chain, fan, parent)
RESULTS = {"chain": STEPS, "fan": sum(range(WIDTH)) + WIDTH + 1, "parent": STEPS + 1}


async def life(db: str, number: int, last: bool) -> None:
    """One child's work."""
    book = BOOK[0]
    book.write("opening", round=number)
    async with perdure.open(db) as app:
        book.write("open", round=number)
        collector = await app.start(
            Collector.run, id="collector", id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING
        )
        if last:
            await finish(app)
        else:
            await asyncio.gather(*(start_and_wait(app, collector, number, lane) for lane in range(LANES)))


async def start_and_wait(app: perdure.App, collector: Any, number: int, lane: int) -> None:
    """One workflow after the other, until the process is killed."""
    for position in itertools.count(lane, LANES):
        kind = KINDS[(number + position) % len(KINDS)]
        workflow_id = f"{kind.__name__}-{number}-{position}"
        handle = await app.start(kind, id=workflow_id)
        BOOK[0].write("ack", started=workflow_id)
        signalled = number * 10_000 + position
        await collector.signal(Collector.hear, signalled)
        BOOK[0].write("ack", signalled=signalled)
        await handle.result()


async def finish(app: perdure.App) -> None:
    """Wait for everything, and write down how it ended."""
    collector = app.client.get_workflow_handle_for(Collector.run, "collector")
    await collector.signal(Collector.stop)
    ended = {"collector": await collector.result()}
    async for run in app.client.list_workflows():
        if run.id != "collector":
            ended[run.id] = await app.client.get_workflow_handle(run.id).result()
    BOOK[0].write("ended", results=ended)


def child(db: str, ledger: str, signals: int, number: int, last: bool) -> None:
    """In the forked process; never returns."""
    status = 1
    try:
        BOOK.append(Book(ledger, signals))
        asyncio.run(life(db, number, last))
        status = 0
    except BaseException as error:
        sys.stderr.write(f"round {number}: {error!r}\n")
        raise
    finally:
        sys.stderr.flush()
        os._exit(status)


def one_round(db: str, ledger: str, number: int, rows: int | None) -> None:
    """Fork a child; kill it after so many rows, or wait for its end."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        child(db, ledger, writing, number, last=rows is None)
    os.close(writing)
    seen = 0
    while rows is None or seen < rows:
        told = os.read(reading, 4096 if rows is None else 1)
        if not told:
            break
        seen += len(told)
    if rows is not None:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    os.close(reading)
    ended_well = os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    if not (ended_well if rows is None else killed):
        sys.exit(f"round {number} ended by itself with status {status}")


def main() -> None:
    db, ledger, rounds, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    chance = random.Random(seed)
    for number in range(rounds):
        one_round(db, ledger, number, chance.randrange(1, ROWS_BEFORE_KILL))
    one_round(db, ledger, rounds, None)


if __name__ == "__main__":
    main()
