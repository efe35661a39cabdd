"""The saga: what was done is undone in reverse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.orders import workflow as saga
from examples.orders.world import LATENCY_MS, LEDGER, world
from tests.examples.conftest import Stage

ACTIVITIES = [saga.reserve, saga.release, saga.charge, saga.refund, saga.label, saga.send_mail, saga.complete]
GOOD: dict[str, Any] = {
    "order_id": "A1",
    "customer": "Ada",
    "email": "ada@example.com",
    "sku": "MUG-12",
    "quantity": 1,
    "amount_cents": 1250,
    "card": "4242-4242-4242-4242",
    "country": "DE",
}


@pytest.fixture(autouse=True)
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A world of its own for each test."""
    file = tmp_path / "ledger.jsonl"
    monkeypatch.setenv(LEDGER, str(file))
    monkeypatch.setenv(LATENCY_MS, "0")
    world.cache_clear()
    yield file
    world().close()
    world.cache_clear()


def effects(ledger: Path) -> list[str]:
    rows = [json.loads(line) for line in ledger.read_text().splitlines()]
    return [row["what"] for row in rows if row["kind"] == "effect"]


@pytest.mark.parametrize(
    ("change", "status", "seen"),
    [
        ({}, "fulfilled", ["reserved", "charged", "labelled", "mailed", "completed"]),
        ({"sku": "SOFA-00"}, "cancelled", []),
        ({"card": "4000-0000-0000-0002"}, "cancelled", ["reserved", "released"]),
        ({"country": "AQ"}, "cancelled", ["reserved", "charged", "refunded", "released"]),
    ],
)
async def test_an_order(stage: Stage, ledger: Path, change: dict[str, Any], status: str, seen: list[str]) -> None:
    async with stage([saga.fulfil], ACTIVITIES) as env:
        outcome = await env.client.execute_workflow(saga.fulfil, saga.Order(**GOOD | change), id="o")
    assert outcome.status == status
    assert effects(ledger) == seen


async def test_flaky_steps_are_retried(stage: Stage, ledger: Path) -> None:
    async with stage([saga.fulfil], ACTIVITIES) as env:
        for number in range(20):
            order = saga.Order(**GOOD | {"order_id": f"F{number}"})
            assert (await env.client.execute_workflow(saga.fulfil, order, id=f"o{number}")).status == "fulfilled"
    rows = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert any(row["kind"] == "failed" for row in rows)
    assert any(row["attempt"] > 1 and row["kind"] == "done" for row in rows)
    assert effects(ledger).count("charged") == 20
