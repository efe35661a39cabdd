"""The guides' code runs as it is written: definitions as a module, fragments where they belong."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import perdure
from examples.subscription import Subscription, bill, send_mail
from perdure import activity
from perdure.client import WorkflowFailureError, WorkflowHistory
from perdure.exceptions import CancelledError
from perdure.testing import Replayer, WorkflowEnvironment

FENCE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)

PRELUDE = """
import asyncio
import secrets
from dataclasses import dataclass
from datetime import timedelta

import perdure
from perdure import RetryPolicy, activity, workflow
from perdure.common import WorkflowIDConflictPolicy
from perdure.exceptions import ApplicationError


@dataclass
class Order:
    id: str


@dataclass
class Receipt:
    id: str


@workflow.defn
async def fulfil(order: Order) -> Receipt:
    return Receipt(order.id)


@workflow.defn
async def nightly() -> None: ...


@activity.defn(start_to_close_timeout=timedelta(seconds=30))
async def book_seat(trip: str) -> str:
    return f"seat to {trip}"


@activity.defn(start_to_close_timeout=timedelta(seconds=30))
async def release_seat(seat: str) -> None:
    RELEASED.append(seat)


RELEASED: list[str] = []
"""


def fences(root: Path, name: str) -> list[str]:
    return FENCE.findall((root / name).read_text())


def is_fragment(code: str) -> bool:
    """Whether it is a part of a function: statements rather than definitions."""
    return not all(
        isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom)
        for node in ast.parse(code).body
    )


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import code as a module of its own."""

    def import_it(code: str) -> ModuleType:
        file = tmp_path / "guide.py"
        file.write_text(code)
        spec = importlib.util.spec_from_file_location("guide", file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "guide", module)
        spec.loader.exec_module(module)
        return module

    return import_it


def definitions(root: Path, name: str) -> Iterator[str]:
    return (code for code in fences(root, name) if not is_fragment(code))


async def test_writing_workflows(root: Path, load: Callable[[str], ModuleType]) -> None:
    fragments = [code for code in fences(root, "docs/workflows.md") if is_fragment(code)]
    inside = [code for code in fragments if "app." not in code]
    outside = [code for code in fragments if "app." in code]
    assert inside and outside
    parts = [PRELUDE, *definitions(root, "docs/workflows.md")]
    parts += [
        f"@workflow.defn\nasync def inside_{n}():\n{textwrap.indent(code, '    ')}" for n, code in enumerate(inside)
    ]
    parts += [f"async def outside_{n}(app, order):\n{textwrap.indent(code, '    ')}" for n, code in enumerate(outside)]
    guide = load("\n\n".join(parts))
    activities = [guide.charge, guide.book_seat, guide.release_seat]
    workflows = [guide.fulfil, guide.Approval, guide.Delivery, guide.nightly, guide.booking, guide.trip]
    workflows += [getattr(guide, f"inside_{n}") for n in range(len(inside))]
    async with await WorkflowEnvironment.start_time_skipping() as env:
        async with env.worker(workflows=workflows, activities=activities):
            await walk(env.client, guide)
            for number in range(len(inside)):
                await env.client.execute_workflow(getattr(guide, f"inside_{number}"))
    async with perdure.open("memory:", workflows=workflows, activities=activities) as app:
        for number in range(len(outside)):
            await getattr(guide, f"outside_{number}")(app, guide.Order("o-1"))


async def walk(client: Any, guide: Any) -> None:
    """What the guide says of its definitions."""
    approval = await client.start_workflow(guide.Approval.run, "a request")
    assert await approval.query(guide.Approval.is_approved) is False
    await approval.signal(guide.Approval.approve)
    await approval.result()
    assert await approval.query(guide.Approval.is_approved) is True
    delivery = await client.start_workflow(guide.Delivery.run)
    assert await delivery.execute_update(guide.Delivery.set_address, "Oslo") == "seat to Oslo"
    await delivery.signal(guide.Delivery.ship)
    assert await delivery.result() == "Oslo"
    assert await client.execute_workflow(guide.trip, ["Rome", "Bern"]) == ["seat to Rome", "seat to Bern"]
    booked = await client.start_workflow(guide.booking, "Oslo", id="booking-Oslo")
    while not any(event.HasField("timer_started_event_attributes") for event in (await booked.fetch_history()).events):
        await asyncio.sleep(0)
    await booked.cancel()
    with pytest.raises(WorkflowFailureError) as raised:
        await booked.result()
    assert isinstance(raised.value.cause, CancelledError)
    assert guide.RELEASED == ["seat to Oslo"]


async def test_testing(root: Path, load: Callable[[str], ModuleType]) -> None:
    imports = "from datetime import timedelta\nfrom examples.subscription import Subscription, bill, send_mail\n"
    (code,) = fences(root, "docs/testing.md")
    guide = load(f"{imports}\n{code}")
    await guide.test_the_trial_ends()


async def test_what_the_guide_on_testing_says_of_stand_ins_and_histories(tmp_path: Path) -> None:
    billed: list[int] = []

    @activity.defn(name="bill")
    async def fake_bill(customer: str, number: int) -> None:
        billed.append(number)

    async with await WorkflowEnvironment.start_time_skipping() as env:
        async with env.worker(workflows=[Subscription], activities=[fake_bill, send_mail]):
            handle = await env.client.start_workflow(Subscription.run, "Ada")
            await env.sleep(timedelta(days=50))
            await handle.signal(Subscription.cancel)
            assert await handle.result() == 2
        history = (await handle.fetch_history()).to_json()
    assert billed == [1, 2]
    assert bill.name == "bill"
    await Replayer(workflows=[Subscription]).replay_workflow(WorkflowHistory.from_json(handle.id, history))
