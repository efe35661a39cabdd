"""Slots, deadlines, threads and heartbeats, each by itself."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest

from perdure.api import RpcError, StatusCode, WorkflowService
from perdure.api import messages as m
from perdure.converter import default
from perdure.worker.deadlines import Deadlines
from perdure.worker.heartbeats import CancelReason, HeartbeatSender
from perdure.worker.slots import Slots
from perdure.worker.threads import BorrowedThreads, OwnThreads


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_slots_are_taken_in_turn() -> None:
    slots = Slots(1)
    assert slots.take_nowait()
    assert not slots.take_nowait()
    order: list[int] = []

    async def take(number: int) -> None:
        await slots.take()
        order.append(number)

    waiting = [asyncio.create_task(take(number)) for number in range(4)]
    await settle()
    waiting[1].cancel()
    for _ in range(3):
        slots.release()
        await settle()
    assert order == [0, 2, 3]
    slots.release()
    assert slots.free == 1


async def test_a_slot_handed_to_somebody_who_has_just_left_is_not_lost() -> None:
    slots = Slots(1)
    await slots.take()
    first, second = (asyncio.create_task(slots.take()) for _ in range(2))
    await settle()
    slots.release()
    first.cancel()
    await second
    slots.release()
    assert slots.free == 1


async def test_deadlines() -> None:
    due: list[str] = []
    near = asyncio.Event()

    def on_due(name: str) -> None:
        due.append(name)
        near.set()

    deadlines = Deadlines[str](on_due)
    places = {name: deadlines.add(name, delay_s) for name, delay_s in (("near", 0.01), ("gone", 0.01), ("far", 3600))}
    same = deadlines.add("far too", 3600)  # At once: buckets change with the time.
    assert same is places["far"]
    deadlines.remove("gone", places["gone"])
    await near.wait()
    assert due == ["near"]
    deadlines.remove("far", places["far"])
    (number,) = deadlines._buckets
    deadlines._sweep(number)
    assert due == ["near", "far too"]
    deadlines.remove("far too", same)


@pytest.fixture
def own() -> Any:
    threads = OwnThreads(2, "test")
    yield threads
    threads.stop()
    threads.stop()


async def test_calls_run_on_few_threads(own: OwnThreads) -> None:
    names: set[str] = set()

    def call(number: int) -> int:
        names.add(threading.current_thread().name)
        return number

    assert await asyncio.gather(*(own.submit(lambda n=number: call(n)) for number in range(50))) == list(range(50))
    assert names <= {"test-1", "test-2"}


async def test_threads_are_used_again(own: OwnThreads) -> None:
    for _ in range(3):
        assert await own.submit(lambda: threading.current_thread().name) == "test-1"


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(3)])
async def test_errors_come_back(own: OwnThreads, error: BaseException) -> None:
    def fails() -> None:
        raise error

    future = own.submit(fails)
    while not future.done():
        await asyncio.wait([future])
    assert future.exception() is error


async def test_stop_iteration_comes_back_as_something_else(own: OwnThreads) -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        await own.submit(lambda: next(iter(())))


async def test_a_cancelled_call_does_not_disturb_the_others(own: OwnThreads) -> None:
    go_on = threading.Event()
    abandoned = own.submit(lambda: go_on.wait(10))
    abandoned.cancel()
    go_on.set()
    assert await own.submit(lambda: 5) == 5


async def test_after_stopping_nothing_begins(own: OwnThreads) -> None:
    assert await own.submit(lambda: 1) == 1
    own.stop()
    with pytest.raises(RuntimeError, match="stopped"):
        own.submit(lambda: 1)


async def test_an_executor_of_the_users() -> None:
    with ThreadPoolExecutor(1) as executor:
        threads = BorrowedThreads(executor)
        assert await threads.submit(lambda: 7) == 7
        threads.stop()
        assert await threads.submit(lambda: 8) == 8


class Beats:
    """A service that takes heartbeats."""

    def __init__(self) -> None:
        self.details: list[Any] = []
        self.answer: m.RecordActivityTaskHeartbeatResponse | RpcError = m.RecordActivityTaskHeartbeatResponse()
        self.came = asyncio.Event()
        self.hold = asyncio.Event()
        self.hold.set()

    async def record_activity_task_heartbeat(
        self, request: m.RecordActivityTaskHeartbeatRequest
    ) -> m.RecordActivityTaskHeartbeatResponse:
        self.details.append(default().from_payloads(request.details.payloads))
        self.came.set()
        await self.hold.wait()
        if isinstance(self.answer, RpcError):
            raise self.answer
        return self.answer

    def sender(self, interval_s: float, reasons: list[CancelReason]) -> HeartbeatSender:
        template = m.RecordActivityTaskHeartbeatRequest(task_token=b"t")
        return HeartbeatSender(cast("WorkflowService", self), template, beat("old"), interval_s, reasons.append)


def beat(*details: Any) -> m.Payloads:
    return default().to_payloads(details)


async def test_the_first_is_sent_at_once_the_latest_when_the_interval_is_over() -> None:
    service, reasons = Beats(), list[CancelReason]()
    sender = service.sender(0.02, reasons)
    for number in range(3):
        sender.beat(beat(number))
    await settle()
    sender.beat(beat(3))
    sender.beat(beat(4))
    assert sender.unsent
    assert service.details == [[2]]
    service.came.clear()
    await service.came.wait()
    await settle()
    assert service.details == [[2], [4]]
    assert not sender.unsent
    assert reasons == []
    sender.stop()


async def test_a_poke_asks_at_once_with_what_is_known() -> None:
    service, reasons = Beats(), list[CancelReason]()
    sender = service.sender(3600, reasons)
    service.answer = m.RecordActivityTaskHeartbeatResponse(cancel_requested=True)
    service.hold.clear()
    sender.poke()
    await settle()
    sender.poke()
    service.hold.set()
    await settle()
    assert service.details == [["old"], ["old"]]
    assert reasons == [CancelReason.REQUESTED] * 2
    sender.stop()


async def test_errors_of_heartbeats() -> None:
    service, reasons = Beats(), list[CancelReason]()
    sender = service.sender(0.01, reasons)
    service.answer = RpcError(StatusCode.UNAVAILABLE, "soon")
    sender.beat(beat(1))
    await settle()
    assert sender.unsent
    service.answer = RpcError(StatusCode.NOT_FOUND, "gone")
    service.came.clear()
    await service.came.wait()
    await settle()
    assert reasons == [CancelReason.GONE]
    sender.beat(beat(2))
    sender.poke()
    await settle()
    assert service.details == [[1], [1]]


async def test_stopping_keeps_what_has_not_arrived() -> None:
    service, reasons = Beats(), list[CancelReason]()
    sender = service.sender(3600, reasons)
    service.hold.clear()
    sender.beat(beat(1))
    await settle()
    assert not sender.unsent
    sender.stop()
    sender.stop()
    assert sender.unsent
    await settle()
