"""Pools of pollers grow with the work and shrink without it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.worker.pollers import PollerPool
from perdure.worker.service_calls import respond


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

    def pool(self, max_pollers: int = 10) -> PollerPool[Work]:
        return PollerPool[Work](
            "test", poll=self.poll, handle=self.handle, max_pollers=max_pollers, on_fatal=self.fatal.append
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
    assert not await pool.wait_stopped(0)
    queue.hold.set()
    assert await pool.wait_stopped(5)
    assert pool.size == 0


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
