"""Each command three ways: suspended, completed, still waiting; and always the same at replay."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta

import pytest
from perdure import activity, workflow
from perdure.exceptions import ActivityError, ApplicationError
from tests.replay.support import Scenario, names


@dataclass
class Order:
    id: str
    cents: int


@activity.defn(start_to_close_timeout=timedelta(seconds=10))
async def charge(order: Order) -> str:
    return order.id


@activity.defn(start_to_close_timeout=timedelta(seconds=10))
async def ship(order_id: str) -> int:
    return 1


@workflow.defn
async def buy(order: Order) -> int:
    receipt = await charge(order)
    return await ship(receipt)


def test_activities_in_sequence() -> None:
    scenario = Scenario(buy, Order("o-1", 500))
    assert scenario.task() == ["activity 1 charge"]
    assert scenario.task() == []
    scenario.complete("1", "receipt-1")
    assert scenario.task() == ["activity 2 ship"]
    scenario.complete("2", 7)
    assert scenario.task() == ["complete 7"]
    scenario.check_laws()
