"""Pools of pollers grow with the work and shrink without it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.worker import service_calls
from perdure.worker.pollers import PollerPool
from perdure.worker.service_calls import Outage, respond
from perdure.worker.slots import Slots


@dataclass
class Work:
    task_token: bytes


class Queue:
    """A queue whose polls wait until something is put in."""

    def __init__(self) -> None:
        self.items: asyncio.Queue[Work | Exception] = asyncio.Queue()
        self.handled: list[Work] = []
        self.taken = asyncio.Event()
        self.hold = asyncio.Event()
        self.hold.set()
        self.fatal: list[BaseException] = []

    async def poll(self) -> Work:
        item = await self.items.get()
        if isinstance(item, Exception):
            raise item
        return item

    async def handle(self, work: Work) -> None:
        self.handled.append(work)
        self.taken.set()
        await self.hold.wait()

    def pool(self, max_pollers: int = 10, ahead: int = 1, slots: Slots | None = None) -> PollerPool[Work]:
        return PollerPool[Work](
            "test",
            poll=self.poll,
            handle=self.handle,
            max_pollers=max_pollers,
            on_fatal=self.fatal.append,
            outage=Outage("test"),
            ahead=ahead,
            slots=slots,
        )


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_it_grows_while_there_is_work_up_to_its_bound() -> None:
    queue = Queue()
    queue.hold.clear()
    pool = queue.pool(max_pollers=3)
    pool.start()
    pool.start()
    await settle()
    assert pool.size == 1
    for number in range(5):
        queue.items.put_nowait(Work(b"%d" % number))
    await settle()
    assert pool.size == 3
    assert len(queue.handled) == 3
    queue.hold.set()
    await settle()
    assert len(queue.handled) == 5
    await pool.kill()
    assert pool.size == 0


async def test_empty_polls_shrink_it_to_one() -> None:
    queue = Queue()
    pool = queue.pool()
    pool.start()
    queue.hold.clear()
    for number in range(5):
        queue.items.put_nowait(Work(b"%d" % number))
    await settle()
    queue.hold.set()
    await settle()
    assert pool.size == 6
    for _ in range(5):
        queue.items.put_nowait(Work(b""))
    await settle()
    assert pool.size == 1
    queue.items.put_nowait(Work(b""))
    await settle()
    assert pool.size == 1
    await pool.kill()


async def test_stopping_waits_for_what_was_taken() -> None:
    queue = Queue()
    queue.hold.clear()
    pool = queue.pool()
    pool.start()
    queue.items.put_nowait(Work(b"1"))
    await settle()
    pool.stop_polling()
    pool.cancel_polls()
    assert not await pool.wait_stopped(0)
    queue.hold.set()
    assert await pool.wait_stopped(5)
    assert pool.size == 0


async def test_a_busy_pool_keeps_several_polls_under_way() -> None:
    queue = Queue()
    pool = queue.pool(ahead=4)
    pool.start()
    await settle()
    assert pool.size == 1
    for number in range(3):
        queue.items.put_nowait(Work(b"%d" % number))
        await settle()
    assert 4 <= pool.size <= 5
    for _ in range(4):
        queue.items.put_nowait(Work(b""))
    await settle()
    assert pool.size == 1
    await pool.kill()


async def test_no_poll_without_room() -> None:
    queue = Queue()
    slots = Slots(2)
    pool = queue.pool(max_pollers=5, ahead=5, slots=slots)
    pool.start()
    for number in range(3):
        queue.items.put_nowait(Work(b"%d" % number))
    await settle()
    assert len(queue.handled) == 2, "each holds its slot until it has been done"
    slots.release()
    await settle()
    assert len(queue.handled) == 3
    slots.release()
    queue.items.put_nowait(Work(b""))
    await settle()
    pool.stop_polling()
    pool.cancel_polls()
    assert await pool.wait_stopped(5)
    slots.release()
    assert slots.free == 2, "what found no task gave its slot back"


async def test_polls_under_way_are_answered_before_the_end() -> None:
    queue = Queue()
    pool = queue.pool()
    pool.start()
    await settle()
    pool.stop_polling()
    waiting = asyncio.create_task(pool.wait_polls(5))
    queue.items.put_nowait(Work(b"late"))
    await waiting
    assert queue.handled == [Work(b"late")]
    assert await pool.wait_stopped(5)
    assert queue.items.empty()


async def test_an_outage_is_told_once_and_so_is_its_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_calls, "_FIRST_WAIT_S", 0.0)
    queue = Queue()
    pool = queue.pool()
    pool.start()
    for _ in range(4):
        queue.items.put_nowait(RpcError(StatusCode.UNAVAILABLE, "gone"))
    queue.items.put_nowait(Work(b"1"))
    await queue.taken.wait()
    said = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == 2
    assert "does not answer" in said[0] and "gone" in said[0]
    assert "answers again" in said[1]
    await pool.kill()


async def test_whoever_waits_for_the_next_try_is_stopped_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_calls, "_FIRST_WAIT_S", 1e6)
    monkeypatch.setattr(service_calls, "_LONGEST_WAIT_S", 1e6)
    queue = Queue()
    pool = queue.pool()
    pool.start()
    queue.items.put_nowait(RpcError(StatusCode.UNAVAILABLE, "gone"))
    await settle()
    pool.stop_polling()
    assert await pool.wait_stopped(5)


async def test_a_failed_poll_is_repeated_a_fatal_one_reported() -> None:
    queue = Queue()
    pool = queue.pool()
    pool.start()
    queue.items.put_nowait(RpcError(StatusCode.UNAVAILABLE, "soon"))
    queue.items.put_nowait(Work(b"1"))
    await queue.taken.wait()
    queue.items.put_nowait(RpcError(StatusCode.NOT_FOUND, "no such namespace"))
    await pool.wait_stopped(5)
    assert [str(error) for error in queue.fatal] == ["NOT_FOUND: no such namespace"]


async def test_a_bug_is_fatal_too() -> None:
    queue = Queue()
    pool = queue.pool()
    pool.start()
    queue.items.put_nowait(KeyError("bug"))
    await pool.wait_stopped(5)
    assert [type(error) for error in queue.fatal] == [KeyError]


def answering(*outcomes: RpcError | None) -> tuple[Callable[[m.WorkflowType], Awaitable[m.WorkflowType]], list[int]]:
    left = list(outcomes)
    calls: list[int] = []

    async def method(request: m.WorkflowType) -> m.WorkflowType:
        calls.append(1)
        outcome = left.pop(0) if left else None
        if outcome is not None:
            raise outcome
        return request

    return method, calls


async def test_responses_are_repeated_while_that_may_help() -> None:
    method, calls = answering(RpcError(StatusCode.UNAVAILABLE, "x"), RpcError(StatusCode.RESOURCE_EXHAUSTED, "full"))
    assert await respond(method, m.WorkflowType(name="a"), "test") == m.WorkflowType(name="a")
    assert len(calls) == 3


async def test_a_task_nobody_wants_any_more_is_dropped() -> None:
    method, calls = answering(RpcError(StatusCode.NOT_FOUND, "stale"))
    assert await respond(method, m.WorkflowType(), "test") is None
    assert len(calls) == 1


async def test_a_refusal_of_the_outcome_itself_is_raised() -> None:
    method, _ = answering(RpcError(StatusCode.INVALID_ARGUMENT, "too large"))
    with pytest.raises(RpcError, match="too large"):
        await respond(method, m.WorkflowType(), "test")
