"""Asyncio's combinators, alone and in random programs: the same commands at every replay, from every cached state."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure import activity, workflow
from perdure.exceptions import ActivityError, ApplicationError
from tests.replay.support import MAX_TASKS, E, Scenario

LETTERS = "abcdefgh"


@activity.defn(start_to_close_timeout=timedelta(seconds=10))
async def work(name: str) -> str:
    return name


def drive(scenario: Scenario, chance: random.Random) -> None:
    """Run a workflow to its end: whatever it waits for happens in an order left to chance, caches come and go."""
    for _ in range(MAX_TASKS):
        scenario.task(cached=chance.random() < 0.7)
        if scenario.run.closed:
            break
        waiting = open_calls(scenario)
        assert waiting, "the workflow waits for nothing that can happen"
        for _ in range(chance.randint(1, min(4, len(waiting)))):
            happen(scenario, waiting.pop(chance.randrange(len(waiting))), chance)
    else:
        pytest.fail("the workflow did not end")
    scenario.check_laws()


def open_calls(scenario: Scenario) -> list[tuple[str, str]]:
    """What may still happen: activities and timers that have begun and not ended."""
    began: dict[tuple[str, str], int] = {}
    for event in scenario.events:
        kind = event.event_type
        if kind == E.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
            began["activity", event.activity_task_scheduled_event_attributes.activity_id] = event.event_id
        elif kind == E.EVENT_TYPE_TIMER_STARTED:
            began["timer", event.timer_started_event_attributes.timer_id] = event.event_id
    ended = {
        getattr(event, str(event.WhichOneof("attributes"))).scheduled_event_id
        for event in scenario.events
        if event.event_type
        in (
            E.EVENT_TYPE_ACTIVITY_TASK_COMPLETED,
            E.EVENT_TYPE_ACTIVITY_TASK_FAILED,
            E.EVENT_TYPE_ACTIVITY_TASK_CANCELED,
        )
    } | {
        getattr(event, str(event.WhichOneof("attributes"))).started_event_id
        for event in scenario.events
        if event.event_type in (E.EVENT_TYPE_TIMER_FIRED, E.EVENT_TYPE_TIMER_CANCELED)
    }
    return [key for key, event_id in began.items() if event_id not in ended]


def happen(scenario: Scenario, call: tuple[str, str], chance: random.Random) -> None:
    kind, identity = call
    if kind == "timer":
        scenario.fire(identity)
        return
    scheduled = scenario.scheduled(identity)
    asked = any(
        event.activity_task_cancel_requested_event_attributes.scheduled_event_id == scheduled
        for event in scenario.events
        if event.event_type == E.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED
    )
    if asked and chance.random() < 0.5:
        scenario.cancel_activity(identity)
    elif chance.random() < 0.2:
        scenario.fail(identity, ApplicationError("by chance", type="Chance"))
    else:
        scenario.complete(identity, f"r{identity}")


async def quietly(awaitable: Awaitable[Any]) -> str:
    try:
        return str(await awaitable)
    except ActivityError:
        return "failed"


@workflow.defn
async def gathers() -> list[str]:
    results = await asyncio.gather(*(work(letter) for letter in LETTERS), return_exceptions=True)
    return [type(one).__name__ for one in results]


@workflow.defn
async def waits() -> list[str]:
    seen: list[str] = []
    pending = {asyncio.create_task(quietly(work(letter)), name=letter) for letter in LETTERS}
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            seen.append(task.get_name())
            await workflow.sleep(1)
    return seen


@workflow.defn
async def as_completed_of_coroutines() -> list[str]:
    seen: list[str] = []
    for next_one in asyncio.as_completed([quietly(work(letter)) for letter in LETTERS], timeout=1000):
        try:
            seen.append(await next_one)
        except TimeoutError:
            seen.append("late")
        await quietly(work("between"))
    return seen


@workflow.defn
async def sets_of_gatherings() -> list[int]:
    groups = [asyncio.gather(*(quietly(work(one)) for one in LETTERS[:count])) for count in range(1, 6)]
    seen: list[int] = []
    pending: set[Any] = set(groups)
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for group in done:
            seen.append(len(await group))
            await quietly(work(f"after {seen[-1]}"))
    return seen


@workflow.defn
async def timeouts() -> list[str]:
    seen: list[str] = []
    for seconds in (1, 5, 2):
        try:
            async with asyncio.timeout(seconds):
                seen.append(await quietly(work("guarded")))
        except TimeoutError:
            seen.append("late")
        try:
            seen.append(await asyncio.wait_for(quietly(work("waited for")), seconds))
        except TimeoutError:
            seen.append("late")
    return seen


@workflow.defn
async def groups() -> str:
    failed = 0
    try:
        async with asyncio.TaskGroup() as group:
            for letter in LETTERS:
                group.create_task(wait_and_work(letter))
    except* ActivityError as errors:
        await quietly(work("compensation"))
        failed = len(errors.exceptions)
    return f"{failed} failed"


async def wait_and_work(letter: str) -> str:
    await asyncio.sleep(ord(letter) - 90)
    return await work(letter)


@workflow.defn
async def queues() -> list[str]:
    queue: asyncio.Queue[str] = asyncio.Queue(maxsize=2)
    seen: list[str] = []

    async def producer(name: str) -> None:
        for number in range(3):
            await quietly(work(f"produce {name}{number}"))
            await queue.put(f"{name}{number}")

    async def consumer() -> None:
        while True:
            item = await queue.get()
            seen.append(item)
            await quietly(work(f"consume {item}"))
            queue.task_done()

    consumers = [asyncio.create_task(consumer()) for _ in range(2)]
    await asyncio.gather(*(producer(name) for name in "xyz"))
    await queue.join()
    for one in consumers:
        one.cancel()
    await asyncio.gather(*consumers, return_exceptions=True)
    return seen


@workflow.defn
async def locks() -> list[str]:
    lock, limit, event, condition = asyncio.Lock(), asyncio.Semaphore(2), asyncio.Event(), asyncio.Condition()
    barrier = asyncio.Barrier(3)
    seen: list[str] = []

    async def one(name: str) -> None:
        async with limit:
            await quietly(work(f"limited {name}"))
        await barrier.wait()
        async with lock:
            seen.append(await quietly(work(f"alone {name}")))
        event.set()
        async with condition:
            condition.notify_all()

    async def watcher() -> None:
        await event.wait()
        async with condition:
            await condition.wait_for(lambda: len(seen) >= 3)
        seen.append("watched")

    await asyncio.gather(watcher(), *(one(name) for name in "abc"))
    return seen


@workflow.defn
async def shields() -> list[str]:
    seen: list[str] = []
    inner = asyncio.ensure_future(quietly(work("inner")))
    try:
        await asyncio.wait_for(asyncio.shield(inner), 1)
    except TimeoutError:
        seen.append("late")
    seen.append(await inner)
    race = {workflow.start_activity(work, letter) for letter in LETTERS[:4]}
    done, pending = await asyncio.wait(race, return_when=asyncio.FIRST_COMPLETED)
    for one in pending:
        one.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    seen.append(str(len(done)))
    return seen


ALL = [
    gathers,
    waits,
    as_completed_of_coroutines,
    sets_of_gatherings,
    timeouts,
    groups,
    queues,
    locks,
    shields,
]


@pytest.mark.parametrize("code", ALL, ids=lambda code: code.__name__)
@pytest.mark.parametrize("seed", range(6))
def test_a_combinator_is_deterministic(code: Any, seed: int) -> None:
    # What decides an object's address differs from run to run; allocate at random to make sure of it.
    chance = random.Random(seed)
    litter = [object() for _ in range(chance.randrange(5000))]
    drive(Scenario(code), chance)
    del litter


# Random programs.

Program = Any


def programs() -> st.SearchStrategy[Program]:
    leaf = st.one_of(
        st.tuples(st.just("work"), st.sampled_from(LETTERS)),
        st.tuples(st.just("sleep"), st.integers(1, 9)),
        st.tuples(st.just("pass"), st.just(0)),
    )

    def combine(inner: st.SearchStrategy[Program]) -> st.SearchStrategy[Program]:
        several = st.lists(inner, min_size=1, max_size=4)
        return st.one_of(
            st.tuples(
                st.sampled_from(["seq", "gather", "first", "completed", "group", "queue", "race", "sem"]), several
            ),
            st.tuples(st.sampled_from(["timeout", "wait_for", "shield", "cancel", "finally"]), inner),
        )

    return st.recursive(leaf, combine, max_leaves=12)


async def interpret(program: Program, trace: list[str]) -> None:
    kind, rest = program
    await _FORMS[kind](rest, trace)


async def _work(name: str, trace: list[str]) -> None:
    trace.append(await quietly(work(name)))


async def _sleep(seconds: int, trace: list[str]) -> None:
    await asyncio.sleep(seconds)


async def _pass(_: int, trace: list[str]) -> None:
    await asyncio.sleep(0)


async def _seq(parts: list[Program], trace: list[str]) -> None:
    for part in parts:
        await interpret(part, trace)


async def _gather(parts: list[Program], trace: list[str]) -> None:
    await asyncio.gather(*(interpret(part, trace) for part in parts), return_exceptions=True)


async def _first(parts: list[Program], trace: list[str]) -> None:
    tasks = {asyncio.create_task(interpret(part, trace)) for part in parts}
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED, timeout=3)
    trace.append(f"{len(done)} of {len(tasks)}")
    for task in pending:
        task.cancel()
        await work("dismissed")
    await asyncio.gather(*pending, return_exceptions=True)


async def _completed(parts: list[Program], trace: list[str]) -> None:
    for one in asyncio.as_completed([interpret(part, trace) for part in parts]):
        await one
        trace.append("next")
        await quietly(work("next"))


async def _group(parts: list[Program], trace: list[str]) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            for part in parts:
                group.create_task(interpret(part, trace))
            group.create_task(_must_work())
    except* ActivityError:
        trace.append("group failed")


async def _must_work() -> None:
    await work("must")


async def _queue(parts: list[Program], trace: list[str]) -> None:
    queue: asyncio.Queue[Program] = asyncio.Queue()
    for part in parts:
        queue.put_nowait(part)

    async def worker() -> None:
        while not queue.empty():
            await interpret(queue.get_nowait(), trace)

    await asyncio.gather(worker(), worker())


async def _race(parts: list[Program], trace: list[str]) -> None:
    event = asyncio.Event()

    async def run(part: Program) -> None:
        await interpret(part, trace)
        event.set()

    tasks = [asyncio.create_task(run(part)) for part in parts]
    await event.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _sem(parts: list[Program], trace: list[str]) -> None:
    limit = asyncio.Semaphore(2)

    async def run(part: Program) -> None:
        async with limit:
            await interpret(part, trace)

    await asyncio.gather(*(run(part) for part in parts))


async def _timeout(part: Program, trace: list[str]) -> None:
    try:
        async with asyncio.timeout(2):
            await interpret(part, trace)
    except TimeoutError:
        trace.append("timeout")


async def _wait_for(part: Program, trace: list[str]) -> None:
    try:
        await asyncio.wait_for(interpret(part, trace), 2)
    except TimeoutError:
        trace.append("wait_for")


async def _shield(part: Program, trace: list[str]) -> None:
    await asyncio.shield(asyncio.ensure_future(interpret(part, trace)))


async def _cancel(part: Program, trace: list[str]) -> None:
    task = asyncio.create_task(interpret(part, trace))
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _finally(part: Program, trace: list[str]) -> None:
    try:
        await interpret(part, trace)
    finally:
        trace.append(await quietly(work("finally")))


_FORMS: dict[str, Callable[[Any, list[str]], Awaitable[None]]] = {
    "work": _work,
    "sleep": _sleep,
    "pass": _pass,
    "seq": _seq,
    "gather": _gather,
    "first": _first,
    "completed": _completed,
    "group": _group,
    "queue": _queue,
    "race": _race,
    "sem": _sem,
    "timeout": _timeout,
    "wait_for": _wait_for,
    "shield": _shield,
    "cancel": _cancel,
    "finally": _finally,
}


@workflow.defn
async def interpreter(program: Any) -> list[str]:
    trace: list[str] = []
    try:
        await interpret(program, trace)
    except ActivityError:
        trace.append("activity failed")
    except BaseExceptionGroup:
        trace.append("group")
    await workflow.sleep(1)
    return trace


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(program=programs(), seed=st.integers(0, 1 << 30))
def test_random_programs_are_deterministic(program: Program, seed: int) -> None:
    drive(Scenario(interpreter, program), random.Random(seed))
