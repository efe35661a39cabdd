"""Random programs: whatever a workflow is made of, it comes to what plain evaluation says, through any chaos.

A program is a tree of waits, activities, steps, children and combinators whose value does not depend on timing, so that
it can be told without running it (`value`). A workflow interprets it (`interpret`) while processes die, commits fail,
caches forget and workers come and go, as in `test_chaos`.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from perdure import activity, workflow
from perdure.common import RetryPolicy
from perdure.exceptions import ActivityError, ApplicationError, ChildWorkflowError
from perdure.exceptions import TimeoutError as ActivityTimeout
from tests.system.lives import Life, Lives
from tests.system.test_chaos import CONFIG, Chance, doom, persistently
from tests.system.twin_stories import start
from tests.torture import share_of

Program = list[Any]
CANCELLATIONS = {kind.name: kind for kind in workflow.ActivityCancellationType}
SPAN = timedelta(minutes=2)
DEPTH = 3
PROGRAMS = 4


@activity.defn(start_to_close_timeout=SPAN, retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1)))
async def do(number: int) -> int:
    if activity.info().attempt <= number % 3:
        raise RuntimeError("not yet")
    await asyncio.sleep(number % 5)
    return number


@activity.defn(start_to_close_timeout=SPAN)
async def break_down(number: int) -> None:
    raise ApplicationError(f"broken {number}", non_retryable=True)


@activity.defn(start_to_close_timeout=timedelta(hours=1), heartbeat_timeout=timedelta(seconds=20))
async def hold_on() -> None:
    while True:
        activity.heartbeat()
        await asyncio.sleep(5)


async def jot(number: int) -> int:
    await asyncio.sleep(number % 3)
    return number


async def _act(number: int) -> Any:
    return await do(number)


async def _break(number: int) -> Any:
    try:
        await break_down(number)
    except ActivityError as error:
        return str(error.cause)


async def _sleep(seconds: int) -> Any:
    await workflow.sleep(seconds)
    return seconds


async def _step(number: int) -> Any:
    return await workflow.step(jot, number)


async def _sequence(*programs: Program) -> Any:
    return [await interpret(program) for program in programs]


async def _all(*programs: Program) -> Any:
    return list(await asyncio.gather(*map(interpret, programs)))


async def _group(*programs: Program) -> Any:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(interpret(program)) for program in programs]
    return [task.result() for task in tasks]


async def _queue(*programs: Program) -> Any:
    """One task makes, another takes, through a queue of one place."""
    queue: asyncio.Queue[Any] = asyncio.Queue(maxsize=1)

    async def make() -> None:
        for program in programs:
            await queue.put(await interpret(program))

    maker = asyncio.create_task(make())
    taken = [await queue.get() for _ in programs]
    await maker
    return taken


async def _child(program: Program) -> Any:
    return await workflow.execute_child_workflow(run_program, program)


async def _bad_child(program: Program) -> Any:
    try:
        await workflow.execute_child_workflow(run_and_fail, program)
    except ChildWorkflowError as error:
        return str(error.cause)


@workflow.defn
class Box:
    """Waits for so many letters."""

    def __init__(self) -> None:
        self.letters: list[int] = []

    @workflow.signal
    async def put(self, number: int) -> None:
        if number % 2:
            await workflow.sleep(number % 4)
        self.letters.append(number)

    @workflow.run
    async def run(self, count: int) -> list[int]:
        await workflow.wait_condition(lambda: len(self.letters) == count)
        return sorted(self.letters)


async def _mail(*numbers: int) -> Any:
    box = await workflow.start_child_workflow(Box, len(numbers))
    stranger = workflow.get_external_workflow_handle(box.id)
    await asyncio.gather(*((box if number % 3 else stranger).signal("put", number) for number in numbers))
    return await box


async def _never(kind: str) -> None:
    """What ends by cancellation only."""
    if kind in CANCELLATIONS:
        try:
            await workflow.execute_activity(
                hold_on, start_to_close_timeout=timedelta(hours=1), cancellation_type=CANCELLATIONS[kind]
            )
        except ActivityError as error:  # Its worker has died with the request in its hands.
            assert isinstance(error.cause, ActivityTimeout)
            raise asyncio.CancelledError from error
    elif kind == "child":
        await workflow.execute_child_workflow(run_program, ["sleep", 10**9])
    elif kind == "condition":
        await workflow.wait_condition(lambda: False)
    else:
        await workflow.sleep(10**9)


async def _timeout(kind: str) -> Any:
    try:
        async with asyncio.timeout(3):
            await _never(kind)
    except TimeoutError:
        return "timed out"


async def _first(kind: str, program: Program) -> Any:
    """The program races something endless, which is cancelled."""
    endless, racer = asyncio.create_task(_never(kind)), asyncio.create_task(interpret(program))
    done, _ = await asyncio.wait([endless, racer], return_when=asyncio.FIRST_COMPLETED)
    assert done == {racer}
    endless.cancel()
    await asyncio.gather(endless, return_exceptions=True)
    return await racer


async def _finally(program: Program) -> Any:
    """Cancelled code still cleans up."""
    cleaned: list[Any] = []

    async def tidy_up() -> None:
        try:
            await _never("timer")
        finally:
            cleaned.append(await interpret(program))

    task = asyncio.create_task(tidy_up())
    await workflow.sleep(1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return cleaned


MEANINGS: dict[str, Callable[..., Any]] = {
    "act": _act,
    "break": _break,
    "sleep": _sleep,
    "step": _step,
    "sequence": _sequence,
    "all": _all,
    "group": _group,
    "queue": _queue,
    "child": _child,
    "bad child": _bad_child,
    "timeout": _timeout,
    "first": _first,
    "finally": _finally,
    "mail": _mail,
}


async def interpret(program: Program) -> Any:
    kind, *rest = program
    return await MEANINGS[kind](*rest)


@workflow.defn
async def run_program(program: list[Any]) -> Any:
    return await interpret(program)


@workflow.defn
async def run_and_fail(program: list[Any]) -> None:
    found = await interpret(program)
    raise ApplicationError(f"failed with {found}")


@workflow.defn
async def run_on(programs: list[Any], so_far: list[Any]) -> list[Any]:
    """One program a run."""
    so_far = [*so_far, await interpret(programs[0])]
    if len(programs) > 1:
        workflow.continue_as_new(args=[programs[1:], so_far])
    return so_far


def value(program: Program) -> Any:
    """What a program comes to."""
    kind, *rest = program
    match kind:
        case "act" | "sleep" | "step":
            return rest[0]
        case "break":
            return f"broken {rest[0]}"
        case "sequence" | "all" | "group" | "queue":
            return [value(each) for each in rest]
        case "child":
            return value(rest[0])
        case "bad child":
            return f"failed with {value(rest[0])}"
        case "mail":
            return sorted(rest)
        case "timeout":
            return "timed out"
        case "first":
            return value(rest[1])
        case _:
            return [value(rest[0])]


ENDLESS = [*CANCELLATIONS, "child", "condition", "timer"]


def make(chance: random.Random, depth: int) -> Program:
    """A program at most so deep."""
    number = chance.randrange(100)
    if depth == 0:
        kind = chance.choice(["act", "act", "break", "sleep", "step", "timeout", "mail"])
        if kind == "mail":
            return [kind, *chance.sample(range(100), chance.randrange(1, 6))]
        return [kind, chance.choice(ENDLESS)] if kind == "timeout" else [kind, number]
    kind = chance.choice(["sequence", "all", "group", "queue", "child", "bad child", "first", "finally"])
    if kind == "first":
        return [kind, chance.choice(ENDLESS), make(chance, depth - 1)]
    if kind in ("child", "bad child", "finally"):
        return [kind, make(chance, depth - 1)]
    return [kind, *(make(chance, chance.randrange(depth)) for _ in range(chance.randrange(1, 4)))]


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="perdure")


WORKFLOWS = [run_program, run_and_fail, run_on, Box]
ACTIVITIES = [do, break_down, hold_on]


def run_programs(seed: int) -> Lives:
    chance = Chance(seed)
    random.seed(seed)
    programs = [make(chance.chance, DEPTH) for _ in range(PROGRAMS)]
    lives = Lives(
        workflows=WORKFLOWS,
        activities=ACTIVITIES,
        before=chance.strike,
        after=chance.strike,
        forget=chance.forget,
        delay_s=chance.delay_s,
        config=replace(CONFIG, cache_bytes=chance.chance.choice([1, 1 << 26])),
        worker_options={"max_cached_workflow_bytes": chance.chance.choice([0, 20_000, 1 << 26])},
        in_process=chance.chance.random() < 0.7,
        short_way=chance.chance.random() < 0.6,
    )

    async def each(life: Life, number: int) -> Any:
        handle = await start(life, "run_program", programs[number], id=f"program {number}")
        return await handle.result()

    async def all_in_turn(life: Life) -> Any:
        return await (await start(life, "run_on", programs, [])).result()

    async def story(life: Life) -> list[Any]:
        doomed = asyncio.ensure_future(doom(life, chance.chance)) if seed % 2 else None
        results = await asyncio.gather(
            persistently(life, all_in_turn),
            *(persistently(life, lambda life, number=number: each(life, number)) for number in range(PROGRAMS)),
        )
        if doomed is not None:
            doomed.cancel()
        return results

    expected = [value(program) for program in programs]
    together, *singly = lives.play(story)
    for program, want, one, other in zip(programs, expected, singly, together, strict=True):
        assert one == want, program
        assert other == want, program
    assert lives.ledger.repeated == []
    return lives


@pytest.mark.parametrize("seed", range(10))
def test_a_program_comes_to_its_value(seed: int) -> None:
    run_programs(seed)


@pytest.mark.torture
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("hundred", range(4))
def test_many_programs(hundred: int) -> None:
    for seed in share_of(range(100 * hundred + 100, 100 * hundred + 200)):
        run_programs(seed)
