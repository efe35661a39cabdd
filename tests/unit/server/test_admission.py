"""Fairness: who comes in when, and when nobody more is kept waiting."""

from __future__ import annotations

import asyncio
import sys
from statistics import median

import pytest

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.engine import Engine
from perdure.engine.service import EngineService
from perdure.server import Server, admission
from perdure.server.admission import CALLS_A_TURN, Admission
from tests.unit.server.conftest import Wire


async def let_in(gate: Admission, order: list[str], client: str, size: int = 0) -> None:
    if not gate.enter_nowait():
        await gate.wait(client, size)
    order.append(client)


async def test_a_lone_call_goes_straight_in() -> None:
    gate = Admission()
    for _ in range(5):
        assert gate.enter_nowait()
        await asyncio.sleep(0)


async def test_a_turn_lets_so_many_in() -> None:
    gate = Admission()
    order: list[str] = []
    calls = [asyncio.ensure_future(let_in(gate, order, "a")) for _ in range(20)]
    seen: list[int] = []
    while len(order) < 20:
        await asyncio.sleep(0)
        seen.append(len(order))
    assert max(later - before for before, later in zip([0, *seen], seen, strict=False)) <= CALLS_A_TURN
    await asyncio.gather(*calls)


async def test_clients_take_turns() -> None:
    gate = Admission()
    order: list[str] = []
    calls = [asyncio.ensure_future(let_in(gate, order, "a")) for _ in range(1000)]
    await asyncio.sleep(0)
    before = len(order)
    calls += [asyncio.ensure_future(let_in(gate, order, client)) for client in "bcb"]
    await asyncio.gather(*calls)
    assert order.index("b") - before <= 2 + CALLS_A_TURN
    assert order.index("c") - before <= 3 + CALLS_A_TURN
    assert len(order) == 1003


async def test_a_call_whose_caller_has_gone_takes_no_turn() -> None:
    gate = Admission()
    order: list[str] = []
    calls = [asyncio.ensure_future(let_in(gate, order, "a", 10)) for _ in range(100)]
    await asyncio.sleep(0)
    waiting = [call for call in calls if not call.done()]
    for call in waiting[:-1]:
        call.cancel()
    await waiting[-1]
    assert len(order) <= 3 * CALLS_A_TURN
    assert gate.enter_nowait()
    assert (gate._calls, gate._bytes, len(gate._queues)) == (0, 0, 0)


async def refused(gate: Admission, client: str, size: int = 0) -> bool:
    """Whether a further call is refused; else it waits from now on."""
    call = asyncio.ensure_future(gate.wait(client, size))
    await asyncio.sleep(0)
    if not call.done():
        return False
    error = call.exception()
    assert isinstance(error, RpcError) and error.code is StatusCode.RESOURCE_EXHAUSTED
    assert isinstance(error.details[0], m.ResourceExhaustedFailure)
    return True


def fill(gate: Admission, client: str, count: int, size: int = 0) -> list[asyncio.Future[None]]:
    """So many calls of a client that wait."""
    return [asyncio.ensure_future(gate.wait(client, size)) for _ in range(count)]


@pytest.mark.parametrize(("limit", "waiting", "size"), [("CLIENT_CALLS", 10, 0), ("CLIENT_BYTES", 5, 2)])
async def test_one_client_may_keep_so_many_waiting(
    limit: str, waiting: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, limit, 10)
    monkeypatch.setattr(admission, "CALLS_A_TURN", 0)
    gate = Admission()
    calls = fill(gate, "a", waiting - 1, size)
    await asyncio.sleep(0)
    assert not await refused(gate, "a", size)
    assert await refused(gate, "a", size) and not await refused(gate, "b", size)
    monkeypatch.setattr(admission, "CALLS_A_TURN", 1000)
    gate._begin_turn()
    await asyncio.gather(*calls)


@pytest.mark.parametrize(("limit", "waiting", "size"), [("ALL_CALLS", 10, 0), ("ALL_BYTES", 5, 2)])
async def test_all_clients_may_keep_so_many_waiting(
    limit: str, waiting: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, limit, 10)
    monkeypatch.setattr(admission, "CALLS_A_TURN", 0)
    gate = Admission()
    calls = [call for number in range(waiting - 1) for call in fill(gate, str(number), 1, size)]
    await asyncio.sleep(0)
    assert not await refused(gate, "a", size)
    assert await refused(gate, "b", size)
    monkeypatch.setattr(admission, "CALLS_A_TURN", 1000)
    gate._begin_turn()
    await asyncio.gather(*calls)


FLOOD = """
import asyncio, sys, grpc.aio
from perdure.api import messages as m
from perdure.api.rpcs import RPCS

async def flood():
    channel = grpc.aio.insecure_channel(sys.argv[1])
    call = channel.unary_unary(RPCS["count_workflow_executions"].path)
    data = m.CountWorkflowExecutionsRequest(namespace="default").SerializeToString()

    async def again():
        while True:
            await call(data)

    await asyncio.gather(*(again() for _ in range(1000)))

asyncio.run(flood())
"""
"""A client that always has a thousand calls under way, on one connection."""


async def test_a_flood_does_not_go_before_the_others(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not timed: how many calls of the flood are served between another's call and its answer."""
    served = 0
    answer = EngineService.count_workflow_executions

    async def counted(
        self: EngineService, request: m.CountWorkflowExecutionsRequest
    ) -> m.CountWorkflowExecutionsResponse:
        nonlocal served
        served += 1
        return await answer(self, request)

    monkeypatch.setattr(EngineService, "count_workflow_executions", counted)
    async with Server(engine, address="127.0.0.1:0") as server:
        others = [Wire(server.address) for _ in range(9)]
        for other in others:
            await other.call("get_system_info")
        flood = await asyncio.create_subprocess_exec(sys.executable, "-c", FLOOD, server.address)
        passed: list[int] = []
        try:
            while served < 2000:
                await others[0].call("get_system_info")
            for other in others:
                before = served
                await other.call("get_system_info")
                passed.append(served - before)
        finally:
            flood.kill()
            await flood.wait()
        for other in others:
            await other.channel.close()
    # Most connections have a lane of their own; without lanes and turns a thousand calls would go before each.
    assert median(passed) < 50
