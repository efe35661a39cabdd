"""The outside world of the order example: a warehouse, a payment provider, a carrier and a mail server in one.

It answers slowly, sometimes not at all, and keeps its own book: the ledger, a file of JSON lines, each written
and fsynced before the call that caused it goes on. The ledger knows nothing of Perdure but the key of each call
(workflow, run, activity, attempt), so it can bear witness about what Perdure did.

Effects carry an idempotency key, as real providers offer: the same key twice is one effect. That is the one thing
an activity must bring along, because a process can die after an effect and before its result is recorded.

Rows: ``called`` when an activity begins, ``effect`` for what it changed, then ``done`` or ``failed``.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

from perdure import activity

LEDGER = "ORDERS_LEDGER"
"""Environment variable: the ledger's file; ``orders-ledger.jsonl`` in the working directory if unset."""
LATENCY_MS = "ORDERS_LATENCY_MS"
"""Environment variable: how long each call takes, in milliseconds; 40 if unset."""

FLAKY_PERCENT = 12
"""Of all (order, activity) pairs this many fail at first: most once, some three times."""


class World:
    """The other side of every activity."""

    def __init__(self, ledger: Path, latency_s: float) -> None:
        self._latency_s = latency_s
        self._effects: set[str] = set()
        if ledger.exists():
            rows = [json.loads(line) for line in ledger.read_text().splitlines()]
            self._effects = {row["key"] for row in rows if row["kind"] == "effect"}
        self._file = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, row: dict[str, object]) -> None:
        """Append a row; it is on disk when this returns."""
        line = json.dumps({"at": round(time.time(), 4), "pid": os.getpid()} | row)
        os.write(self._file, line.encode() + b"\n")
        os.fsync(self._file)

    def close(self) -> None:
        """Close the ledger."""
        os.close(self._file)

    @asynccontextmanager
    async def call(self, order_id: str) -> AsyncIterator[Call]:
        """One call of the outside world by the activity that is running."""
        info = activity.info()
        call = Call(self, order_id, info)
        call.write("called")
        try:
            await asyncio.sleep(self._latency_s)
            _maybe_fail(order_id, info.activity_type, info.attempt)
            yield call
        except Exception as error:
            call.write("failed", error=str(error))
            raise
        call.write("done")

    def effect(self, key: str, row: dict[str, object]) -> None:
        """Change the world once for each key."""
        if key not in self._effects:
            self._effects.add(key)
            self.write(row | {"kind": "effect", "key": key})


class Call:
    """What a running activity may do outside."""

    def __init__(self, world: World, order_id: str, info: activity.Info) -> None:
        self._world = world
        self._row: dict[str, object] = {
            "order": order_id,
            "workflow": info.workflow_id,
            "run": info.workflow_run_id,
            "activity": info.activity_type,
            "activity_id": info.activity_id,
            "attempt": info.attempt,
        }
        self._key = f"{order_id}:{info.activity_type}"

    def write(self, kind: str, **more: object) -> None:
        self._world.write(self._row | {"kind": kind} | more)

    def effect_once(self, what: str, **more: object) -> None:
        """Change the world; the second time it is the same change."""
        self._world.effect(self._key, self._row | {"what": what} | more)


def _maybe_fail(order_id: str, activity_type: str, attempt: int) -> None:
    """The same calls are flaky in every run, so that a demo can be repeated."""
    chance = zlib.crc32(f"{order_id}:{activity_type}".encode()) % 100
    if chance < FLAKY_PERCENT and attempt <= (3 if chance < FLAKY_PERCENT // 4 else 1):
        raise ConnectionError("the line went dead")


@cache
def world() -> World:
    """The one world of this process."""
    ledger = Path(os.environ.get(LEDGER, "orders-ledger.jsonl"))
    return World(ledger, float(os.environ.get(LATENCY_MS, "40")) / 1000)
