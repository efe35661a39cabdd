"""Directs the demo: two processes, one kill between them, and the verdict.

The director never touches the work. It reads the ledger as it grows, ends the first process with SIGKILL (nothing
in that process gets a chance to tidy up), asks the database what it holds, and starts the second process with the
very same command.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perdure.api import messages as m
from perdure.cli.demo.proof import Proof, examine
from perdure.cli.errors import CliError
from perdure.client import Client

__all__ = ["Director", "Killed", "Progress", "Recorded", "Resumed"]

LOOK_EVERY_S = 0.005
LIFE_LIMIT_S = 900
"""A working process that lives longer is ended, and the demo fails."""
STEPS_OF_AN_ORDER = 5
LAST_STEPS = {"complete", "release"}


@dataclass(slots=True)
class Progress:
    """How far the work is, as the ledger shows it."""

    orders: int
    done: dict[str, set[str]] = field(default_factory=dict[str, set[str]])
    """Order → activities seen done."""

    def see(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take new rows into account."""
        for row in rows:
            if row["kind"] == "done":
                self.done.setdefault(row["order"], set()).add(row["activity"])

    @property
    def steps(self) -> int:
        """Steps done so far."""
        return sum(len(steps) for steps in self.done.values())

    @property
    def fraction(self) -> float:
        """0 to 1: an order counts for the part of its steps that is done; one that was refused at once is not seen."""
        parts = (1 if steps & LAST_STEPS else min(len(steps) / STEPS_OF_AN_ORDER, 0.9) for steps in self.done.values())
        return sum(parts) / self.orders


class LedgerReader:
    """Reads a ledger as it grows."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._offset = 0
        self.rows: list[dict[str, Any]] = []
        """All rows seen so far."""

    def read(self) -> list[dict[str, Any]]:
        """The rows added since the last look."""
        if not self._file.exists():
            return []
        with self._file.open("rb") as file:
            file.seek(self._offset)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        rows = [json.loads(line) for line in whole.splitlines()]
        self.rows += rows
        return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Killed:
    """The first process, at its end."""

    pid: int
    fraction: float
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What the database held between the two processes."""

    completed_steps: frozenset[tuple[str, str]]
    """(run id, activity id)"""
    open_runs: int
    closed_runs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """The second process, at its end."""

    pid: int
    first_step_s: float
    """From the start of the process to its first call of the outside world."""
    steps: int
    steps_per_s: float


class Director:
    """Runs the demo in a folder; call `first_act`, `look_inside`, `second_act`, `verdict`, in this order.

    Args:
        folder: where the database and the ledger are kept; must hold neither yet.
        csv: the orders' file.
        order_ids: the orders in it.
        kill_at: the fraction of the work after which the first process is killed.
        show: called with the progress, often.
    """

    def __init__(
        self, folder: Path, csv: Path, order_ids: list[str], kill_at: float, show: Callable[[Progress], None]
    ) -> None:
        self.db = folder / "orders.db"
        self.ledger = folder / "ledger.jsonl"
        self._log = folder / "cast.log"
        self._csv = csv
        self._order_ids = order_ids
        self._kill_at = kill_at
        self._show = show
        self._reader = LedgerReader(self.ledger)
        self._progress = Progress(len(order_ids))
        self._recorded = Recorded(completed_steps=frozenset(), open_runs=0, closed_runs=0)

    def first_act(self) -> Killed:
        """Start the work, and kill the process that does it.

        Raises:
            CliError: the process ended by itself.
        """
        process = self._start()
        try:
            self._follow(process, lambda: self._progress.fraction >= self._kill_at)
            if process.poll() is not None:
                self._say_how_it_ended(process)
                raise CliError(
                    "the work was done before the process could be killed", "Try more orders, or a lower --kill-at."
                )
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        self._progress.see(self._reader.read())
        return Killed(pid=process.pid, fraction=self._progress.fraction, steps=self._progress.steps)

    async def look_inside(self) -> Recorded:
        """What the database holds, now that nobody works on it."""
        client = await Client.connect(f"sqlite:{self.db}")
        async with client:
            steps: set[tuple[str, str]] = set()
            open_runs = closed_runs = 0
            async for run in client.list_workflows():
                if run.status is not None and run.status.name == "RUNNING":
                    open_runs += 1
                else:
                    closed_runs += 1
                handle = client.get_workflow_handle(run.id, run_id=run.run_id)
                events = [event async for event in handle.fetch_history_events()]
                steps |= {(run.run_id, activity_id) for activity_id in _completed_activities(events)}
        self._recorded = Recorded(completed_steps=frozenset(steps), open_runs=open_runs, closed_runs=closed_runs)
        return self._recorded

    def second_act(self) -> Resumed:
        """Start the same work again, and let it finish.

        Raises:
            CliError: the process failed.
        """
        begin = time.monotonic()
        rows, steps = len(self._reader.rows), self._progress.steps
        process = self._start()
        try:
            self._follow(process, lambda: len(self._reader.rows) > rows)
            first_step_s = time.monotonic() - begin
            self._follow(process, lambda: False)
            self._say_how_it_ended(process)
        finally:
            process.kill()
            process.wait()
        took_s = max(time.monotonic() - begin - first_step_s, 1e-3)
        steps = self._progress.steps - steps
        return Resumed(pid=process.pid, first_step_s=first_step_s, steps=steps, steps_per_s=steps / took_s)

    async def verdict(self) -> Proof:
        """Ask every workflow for its result, and the ledger whether it is true."""
        results: dict[str, str] = {}
        client = await Client.connect(f"sqlite:{self.db}")
        async with client:
            for order_id in self._order_ids:
                handle = client.get_workflow_handle(f"order-{order_id}")
                status = (await handle.describe()).status
                name = status.name.lower() if status else "unknown"
                results[order_id] = (await handle.result())["status"] if name == "completed" else name
        return examine(self._reader.rows, results, self._recorded.completed_steps)

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "perdure.cli.demo.cast", str(self.db), str(self._csv)]
        with self._log.open("ab") as log:
            return subprocess.Popen(
                command,
                env=os.environ | {"ORDERS_LEDGER": str(self.ledger)},
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    def _follow(self, process: subprocess.Popen[bytes], reached: Callable[[], bool]) -> None:
        """Show the progress until it is far enough, or the process has ended."""
        limit = time.monotonic() + LIFE_LIMIT_S
        while True:
            ended = process.poll() is not None
            self._progress.see(self._reader.read())
            self._show(self._progress)
            if ended or reached():
                return
            if time.monotonic() > limit:
                raise CliError(f"the work was not done after {LIFE_LIMIT_S} s", f"See {self._log}.", status=1)
            time.sleep(LOOK_EVERY_S)

    def _say_how_it_ended(self, process: subprocess.Popen[bytes]) -> None:
        if process.wait() != 0:
            last = self._log.read_text().strip().splitlines()[-1:] or ["no message"]
            raise CliError(f"the working process failed: {last[0]}", f"See {self._log}.", status=1)


def _completed_activities(events: Iterable[m.HistoryEvent]) -> set[str]:
    """Activity ids of the activities that a history says are completed."""
    ids: dict[int, str] = {}
    completed: set[str] = set()
    for event in events:
        if event.event_type == m.EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
            ids[event.event_id] = event.activity_task_scheduled_event_attributes.activity_id
        elif event.event_type == m.EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
            completed.add(ids[event.activity_task_completed_event_attributes.scheduled_event_id])
    return completed
