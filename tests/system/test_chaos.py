"""Everything at once: all stories in one world, while processes die, commits fail and caches forget, by chance."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import pytest

from perdure import activity, workflow
from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.engine import EngineConfig
from perdure.engine.store.port import Batch, StoreError, StoreFullError, StoreWriteError
from perdure.exceptions import PerdureError
from tests.system import flows, test_families, twin_activities, twin_stories, twins
from tests.system.lives import NEVER_S, OUTSIDE, Life, Lives
from tests.system.twin_stories import start
from tests.torture import share_of

LETTERS = 60
FAN = 50
CONFIG = EngineConfig(poll_timeout_s=NEVER_S, erase_closed=False)
AGAIN = (StatusCode.UNAVAILABLE, StatusCode.RESOURCE_EXHAUSTED, StatusCode.DEADLINE_EXCEEDED)
"""What a client tries again: the last, when the worker that was asked a query has died."""
Told = Callable[[Life], Awaitable[object]]


@activity.defn(start_to_close_timeout=timedelta(minutes=1))
async def count(number: int) -> int:
    OUTSIDE.get().note(f"count {number}")
    await asyncio.sleep(number % 7)
    return number


@workflow.defn
async def fan_out(width: int) -> int:
    """More at once than fit a run's row: activities, timers and children."""
    activities = [count(number) for number in range(width)]
    timers = [workflow.sleep(number % 5 + 1) for number in range(width)]
    children = [workflow.execute_child_workflow(leaf, number, id=f"leaf {number}") for number in range(5)]
    found = await asyncio.gather(*activities, *timers, *children)
    return sum(number for number in found if number is not None)


@workflow.defn
async def leaf(number: int) -> int:
    await workflow.sleep(number + 1)
    return number


@workflow.defn
class Sorter:
    """Takes letters in, in their order, and continues as new again and again; not one may be lost or doubled."""

    def __init__(self) -> None:
        self.fresh: list[int] = []

    @workflow.signal
    def letter(self, number: int) -> None:
        self.fresh.append(number)

    @workflow.run
    async def run(self, expected: int, sorted_so_far: list[int]) -> list[int]:
        while True:
            await workflow.wait_condition(lambda: bool(self.fresh))
            sorted_so_far = sorted_so_far + self.fresh
            self.fresh = []
            if len(sorted_so_far) >= expected:
                return sorted_so_far
            if len(sorted_so_far) % 3 == 0:
                await workflow.sleep(0.5)
            if not self.fresh and len(sorted_so_far) % 2:
                workflow.continue_as_new(args=[expected, sorted_so_far])


async def slow_draw() -> int:
    """Longer than half a workflow task may take."""
    OUTSIDE.get().note("slow draw")
    await asyncio.sleep(7)
    return 5


@workflow.defn
async def steps() -> int:
    drawn = await workflow.step(slow_draw)
    await workflow.sleep(1)
    return drawn + await workflow.step(slow_draw)


@activity.defn(start_to_close_timeout=timedelta(days=1))
async def ask_outside(question: str) -> str:
    """Somebody else answers, whenever they like."""
    OUTSIDE.get().note(f"ask {question}")
    activity.raise_complete_async()


@workflow.defn
async def waits_for_others() -> list[str]:
    return list(await asyncio.gather(*(ask_outside(question) for question in ("who", "why"))))


@workflow.defn
class Counter:
    """Counts, and tells how far it is."""

    def __init__(self) -> None:
        self.count = 0

    @workflow.signal
    def add(self, number: int) -> None:
        self.count += number

    @workflow.query
    def total(self) -> int:
        return self.count

    @workflow.run
    async def run(self) -> int:
        await workflow.wait_condition(lambda: self.count >= 20)
        return self.count


async def answered(life: Life) -> object:
    handle = await start(life, "waits_for_others")
    for number, answer in enumerate(("I", "because"), 1):
        await life.at(30 * number)
        outside = life.client.get_async_activity_handle(workflow_id="waits_for_others", activity_id=str(number))
        try:
            await outside.complete(answer)
        except PerdureError as error:
            # Answered in an earlier life, or asked by a process that died before it could say that it had asked.
            if not isinstance(error.cause, RpcError) or error.cause.code is not StatusCode.NOT_FOUND:
                raise
    return await handle.result()


async def counted(life: Life) -> object:
    """Signal-with-start, each of them idempotent, and questions in between."""
    seen = 0
    for number in range(20):
        await life.at(number)
        request = m.SignalWithStartWorkflowExecutionRequest(
            namespace="default", workflow_id="counter", signal_name="add", request_id=f"add {number}"
        )
        request.workflow_type.name = "Counter"
        request.task_queue.name = "system"
        request.workflow_id_reuse_policy = m.WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE
        request.signal_input.CopyFrom(life.client.data_converter.to_payloads([1]))
        try:
            await life.raw.signal_with_start_workflow_execution(request)
        except RpcError as error:
            if error.code is not StatusCode.ALREADY_EXISTS:
                raise
        total = await life.client.get_workflow_handle("counter").query("total", result_type=int)
        assert max(seen, number + 1) <= total <= 20, (number, seen, total)
        seen = total
    return await life.client.get_workflow_handle("counter").result()


async def sorted_mail(life: Life) -> object:
    """A letter that had to be sent again, or whose worker died with it, may have been overtaken."""
    return sorted(cast("list[str]", await twin_stories.STORIES["mailbox"][0](life)))


async def sorted_reset(life: Life) -> object:
    """As `sorted_mail`."""
    return sorted(cast("list[str]", await twin_stories.STORIES["reset"][0](life)))


async def fanned(life: Life) -> object:
    return await (await start(life, "fan_out", FAN)).result()


async def letters(life: Life) -> object:
    handle = await start(life, "Sorter", LETTERS, [])
    for number in range(LETTERS):
        await life.at(number * 0.25)
        await life.signal("Sorter", "letter", number, request_id=f"letter {number}")
    return sorted(await handle.result())


async def stepped(life: Life) -> object:
    return await (await start(life, "steps")).result()


STORIES: dict[str, Told] = {
    **flows.STORIES,
    # What an activity makes of its cancellation differs when its process dies in between.
    **{name: told for name, (told, _) in twin_stories.STORIES.items() if name != "cancelled_activities"},
    **{name: test_families.STORIES[name][0] for name in ("completes", "retried", "hoping", "delayed", "mothered")},
    "mailbox": sorted_mail,
    "reset": sorted_reset,
    "fanned": fanned,
    "letters": letters,
    "stepped": stepped,
    "answered": answered,
    "counted": counted,
}
WORKFLOWS = [
    *flows.WORKFLOWS,
    *twins.WORKFLOWS,
    *test_families.WORKFLOWS,
    fan_out,
    leaf,
    Sorter,
    steps,
    waits_for_others,
    Counter,
]
ACTIVITIES = [*flows.ACTIVITIES, *twin_activities.ACTIVITIES, test_families.tidy, count, ask_outside]


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="perdure")


class Chance:
    """Which commits fail, and how; when caches forget."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.deadliness = self.chance.choice([0, 0.01, 0.04])
        self.trouble = self.chance.choice([0, 0.02, 0.1])
        self.forgetting = self.chance.choice([0, 0, 0.3, 1])
        self.delays_s = self.chance.choice([[-1], [-1, 0], [-1, 0, 0.001], [0, 0.001, 0.02]])

    def strike(self, _number: int, _batch: Batch) -> None:
        draw = self.chance.random()
        if draw < self.deadliness:
            raise StoreWriteError("injected: the process dies here")
        if draw < self.deadliness + self.trouble:
            raise self.chance.choice([StoreError, StoreFullError])("injected: try again")

    def delay_s(self) -> float:
        return self.chance.choice(self.delays_s)

    def forget(self) -> bool:
        return self.chance.random() < self.forgetting


async def doom(life: Life, chance: random.Random) -> None:
    """Workers come, take what they get, and die with it in their hands."""
    for _ in range(chance.randrange(1, 6)):
        _, service = await life.start_doomed_worker()
        await asyncio.sleep(chance.choice([0.001, 1, 20, 300]))
        service.cut()
        await asyncio.sleep(chance.choice([0.001, 5]))


async def persistently(life: Life, story: Told) -> object:
    """Begin again when told to try later."""
    while True:
        try:
            return await story(life)
        except (RpcError, PerdureError) as error:
            cause = error if isinstance(error, RpcError) else error.cause
            if not isinstance(cause, RpcError) or cause.code not in AGAIN:
                raise
            expected = any(words in cause.message for words in ("injected", "too busy to be reset"))
            assert expected or cause.code is StatusCode.DEADLINE_EXCEEDED, error
            life.is_reborn = True
            await asyncio.sleep(0.2)


async def all_of_them(life: Life, but: tuple[str, ...] = ()) -> dict[str, object]:
    told = {name: story for name, story in STORIES.items() if name not in but}
    results = await asyncio.gather(*(persistently(life, story) for story in told.values()))
    return dict(zip(told, results, strict=True))


def undisturbed() -> dict[str, object]:
    return Lives(workflows=WORKFLOWS, activities=ACTIVITIES, config=CONFIG).play(all_of_them)


EXPECTED: list[dict[str, object]] = []


PUNCTUAL = ("hoping", "mailbox")
"""Stories that come out differently when something takes longer."""


def chaos(seed: int, *, workers_die: bool = False) -> Lives:
    if not EXPECTED:
        EXPECTED.append(undisturbed())
    chance = Chance(seed)
    random.seed(seed)  # Of the jitter in clients' and workers' retries.
    options: dict[str, Any] = {}
    if chance.chance.random() < 0.4:
        options["max_cached_workflow_bytes"] = chance.chance.choice([0, 30_000])
    config = replace(CONFIG, cache_bytes=chance.chance.choice([1, 20_000, 1 << 26]))
    lives = Lives(
        workflows=WORKFLOWS,
        activities=ACTIVITIES,
        before=chance.strike,
        after=chance.strike,
        forget=chance.forget,
        delay_s=chance.delay_s,
        config=config,
        worker_options=options,
        in_process=chance.chance.random() < 0.7,
        short_way=chance.chance.random() < 0.6,
    )

    async def story(life: Life) -> dict[str, object]:
        if not workers_die:
            return await all_of_them(life)
        doomed = asyncio.ensure_future(doom(life, chance.chance))
        results = await all_of_them(life, PUNCTUAL)
        doomed.cancel()
        return results

    results = lives.play(story)
    assert lives.ledger.repeated == []
    for name, result in results.items():
        assert result == EXPECTED[0][name], name
    return lives


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4, 7, 8])
def test_everything_at_once(seed: int) -> None:
    chaos(seed)


@pytest.mark.parametrize("seed", [1000, 1001, 1003])
def test_workers_die_as_well(seed: int) -> None:
    chaos(seed, workers_die=True)


@pytest.mark.torture
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("hundred", range(4))
def test_everything_at_once_many_times(hundred: int) -> None:
    for seed in share_of(range(100 * hundred + 100, 100 * hundred + 200)):
        chaos(seed, workers_die=seed % 2 == 0)
