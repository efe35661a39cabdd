"""Task queues: a task is in a backlog, with one poller, or in the hands of who took it; never nowhere, never twice."""

from __future__ import annotations

import asyncio
import random

import pytest

from perdure.engine.clock import VirtualClock
from perdure.engine.history.priorities import Rank
from perdure.engine.matching.queue import ActivityTask, Matching, QueryTask, Task, WorkflowTask


class Fixture:
    """A matching whose expired tasks are collected."""

    def __init__(self, max_queues: int = 1000) -> None:
        self.clock = VirtualClock(0)
        self.expired: list[WorkflowTask | QueryTask] = []
        self.matching = Matching(self.clock, self.expired.append, lambda: None, max_queues)
        self.queue = self.matching.workflow_queue("ns", "q")


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def task(number: int) -> ActivityTask:
    return ActivityTask(number, 1, 1)


async def test_the_longest_waiting_poll_is_served_first() -> None:
    fixture = Fixture()
    polls = [asyncio.ensure_future(fixture.queue.wait(60, "", "")) for _ in range(3)]
    await turns()
    for number in range(3):
        fixture.queue.offer(task(number))
    assert [await poll for poll in polls] == [task(0), task(1), task(2)]
    assert fixture.matching.in_transit == 0


@pytest.mark.parametrize("seed", range(20))
async def test_no_task_is_lost_or_doubled_whoever_gives_up(seed: int) -> None:
    chance = random.Random(seed)
    fixture = Fixture()
    got: list[Task] = []
    polls: set[asyncio.Future[Task | None]] = set()
    offered = 0
    for _ in range(300):
        match chance.randrange(5):
            case 0 | 1:
                fixture.queue.offer(task(offered))
                offered += 1
            case 2:
                polls.add(asyncio.ensure_future(fixture.queue.wait(chance.choice([1, 60]), "", "")))
            case 3:
                taken = fixture.queue.take()
                if taken is not None:
                    got.append(taken)
            case _ if polls and chance.random() < 0.7:
                chance.choice(sorted(polls, key=id)).cancel()
            case _:
                fixture.clock.advance_by(500)
        for _ in range(chance.randrange(3)):
            await asyncio.sleep(0)
    await turns()
    fixture.matching.close()
    outcomes = await asyncio.gather(*polls, return_exceptions=True)
    got += [outcome for outcome in outcomes if isinstance(outcome, ActivityTask)]
    got += fixture.queue.backlog
    assert sorted(each.run_key for each in got if isinstance(each, ActivityTask)) == list(range(offered))
    assert fixture.matching.in_transit == 0
    assert not fixture.queue.pollers


async def test_polls_of_different_patience_end_on_time() -> None:
    fixture = Fixture()
    ended: dict[int, int] = {}

    async def poll(seconds: int) -> None:
        assert await fixture.queue.wait(seconds, "", "") is None
        ended[seconds] = fixture.clock.now_ms()

    polls = [asyncio.ensure_future(poll(seconds)) for seconds in (60, 5, 30, 5)]
    await turns()
    for _ in range(60):
        fixture.clock.advance_by(1000)
        await turns()
    await asyncio.gather(*polls)
    assert ended == {5: 5000, 30: 30_000, 60: 60_000}


async def test_tasks_leave_a_sticky_queue_when_they_have_waited_too_long() -> None:
    fixture = Fixture()
    fixture.queue.offer_sticky(WorkflowTask(1, 5, 10_000))
    fixture.clock.advance_by(4000)
    fixture.queue.offer_sticky(WorkflowTask(2, 5, 14_000))
    fixture.clock.advance_by(6000)
    assert [each.run_key for each in fixture.expired if isinstance(each, WorkflowTask)] == [1]
    fixture.clock.advance_by(4000)
    assert len(fixture.expired) == 2
    assert fixture.clock.next_deadline_ms() is None, "an empty queue rings no more"


@pytest.mark.parametrize("shut", [True, False])
async def test_a_sticky_queue_by_the_name_of_a_normal_one_takes_nothing_of_its_tasks(shut: bool) -> None:
    fixture = Fixture()
    fixture.queue.offer(WorkflowTask(1, 5))
    fixture.queue.offer_sticky(WorkflowTask(2, 5, 10_000))
    fixture.queue.offer(WorkflowTask(3, 5))
    fixture.queue.offer_sticky(WorkflowTask(4, 5, 14_000))
    if shut:
        fixture.matching.shut_worker("ns", "", "q", "", "")
    else:
        fixture.clock.advance_by(10_000)
        assert [each.run_key for each in fixture.expired if isinstance(each, WorkflowTask)] == [2]
        fixture.clock.advance_by(4_000)
        assert fixture.clock.next_deadline_ms() is None
    assert [each.run_key for each in fixture.expired if isinstance(each, WorkflowTask)] == [2, 4]
    assert [fixture.queue.take(), fixture.queue.take()] == [WorkflowTask(1, 5), WorkflowTask(3, 5)]


def test_a_sticky_queue_is_alive_while_it_is_polled() -> None:
    fixture = Fixture()
    assert not fixture.queue.is_alive(0, 10_000)
    fixture.queue.last_poll_ms = 0
    assert fixture.queue.is_alive(9_999, 10_000)
    assert not fixture.queue.is_alive(10_000, 10_000)


def test_idle_queues_are_dropped_when_there_are_too_many() -> None:
    fixture = Fixture(max_queues=10)
    fixture.queue.offer(task(1))
    for number in range(100):
        fixture.matching.workflow_queue("ns", f"q{number}")
    assert len(fixture.matching.workflow) <= 11
    assert fixture.matching.workflow_queue("ns", "q") is fixture.queue, "one with tasks stays"


async def test_polls_of_a_worker_that_leaves_are_found_by_its_names() -> None:
    fixture = Fixture()
    by_key = asyncio.ensure_future(fixture.queue.wait(60, "me", "key"))
    by_identity = asyncio.ensure_future(fixture.queue.wait(60, "me", ""))
    other = asyncio.ensure_future(fixture.queue.wait(60, "you", ""))
    await turns()
    fixture.matching.shut_worker("ns", "key", "", "me", "q")
    await turns()
    assert by_key.done()
    assert not by_identity.done()
    fixture.matching.shut_worker("elsewhere", "", "", "me", "q")
    await turns()
    assert not by_identity.done()
    fixture.matching.shut_worker("ns", "", "", "me", "q")
    await turns()
    assert by_identity.done()
    assert not other.done()
    fixture.matching.close()
    assert await other is None


async def test_a_throttled_queue_lets_tasks_go_at_its_rate() -> None:
    fixture = Fixture()
    queue = fixture.queue
    queue.set_rate(1.0)
    for number in range(3):
        queue.offer(task(number))
    assert queue.take() == task(0)
    assert queue.take() is None
    polls = [asyncio.ensure_future(queue.wait(60, "", "")) for _ in range(2)]
    await turns()
    assert not any(poll.done() for poll in polls)
    fixture.clock.advance_by(1000)
    assert await polls[0] == task(1)
    queue.put_back(task(1))
    await turns()
    assert await polls[1] == task(1), "what is put back gives its place in time back"
    fixture.clock.advance_by(1000)
    assert queue.take() == task(2)
    queue.set_rate(1000.0)
    assert queue.throttle is not None and queue.throttle.rate == 1000.0


async def test_a_throttled_queue_knows_ranks_and_polls_that_gave_up() -> None:
    fixture = Fixture()
    queue = fixture.queue
    queue.set_rate(1.0)
    gone = asyncio.ensure_future(queue.wait(60, "", ""))
    await turns()
    gone.cancel()
    queue.offer_ranked(task(1), Rank(5, "", 1.0))
    queue.offer_ranked(task(2), Rank(1, "", 1.0))
    await turns()
    assert queue.take() == task(2)
    fixture.clock.advance_by(1000)
    assert queue.take() == task(1)
    waiting = asyncio.ensure_future(queue.wait(60, "", ""))
    await turns()
    assert type(queue.backlog).__name__ == "deque", "nothing waits that has a rank"
    queue.offer(task(3))
    queue.close()
    assert await waiting is None
