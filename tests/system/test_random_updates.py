"""Random updates: each is carried out once and answered with what plain evaluation says, through any chaos.

A workflow carries out programs (`test_programs`) that updates bring; some its validator refuses. Clients ask for many
at once, and ask again under the same ids when processes die, commits fail, caches forget and workers come and go.
"""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import replace
from typing import Any

import pytest

from perdure import workflow
from perdure.client import WorkflowNotFoundError, WorkflowUpdateFailedError, WorkflowUpdateStage
from perdure.exceptions import ApplicationError
from tests.system import test_programs
from tests.system.lives import Life, Lives
from tests.system.test_chaos import CONFIG, Chance, doom, persistently
from tests.system.test_programs import Program, interpret, make, value
from tests.system.twin_stories import start
from tests.torture import share_of

UPDATES = 8
DEPTH = 2


@workflow.defn
class Desk:
    """Carries out what it is brought, and remembers in which order it began and ended."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.closed = False

    @workflow.run
    async def run(self) -> list[list[str]]:
        await workflow.wait_condition(lambda: self.closed)
        await workflow.wait_condition(workflow.all_handlers_finished)
        return [self.begun, self.ended]

    @workflow.update
    async def work(self, program: list[Any], fails: bool) -> Any:
        info = workflow.current_update_info()
        assert info is not None
        self.begun.append(info.id)
        found = await interpret(program)
        self.ended.append(info.id)
        if fails:
            raise ApplicationError(f"failed with {found}")
        return found

    @work.validator
    def check(self, program: list[Any], fails: bool) -> None:
        if program[0] == "break":
            raise ValueError("not this")

    @workflow.update
    def close(self) -> None:
        self.closed = True


class Asked:
    """What is asked for, and what has come of it."""

    def __init__(self, chance: random.Random) -> None:
        self.programs: list[Program] = [make(chance, chance.randrange(DEPTH + 1)) for _ in range(UPDATES)]
        self.fails = [chance.random() < 0.2 for _ in self.programs]
        self.starts_s = [chance.choice([0, 0, 1, 5, 60]) for _ in self.programs]
        self.waits_to_be_told = [chance.random() < 0.5 for _ in self.programs]
        self.outcomes: dict[int, Any] = {}

    def expected(self, number: int) -> Any:
        program = self.programs[number]
        if program[0] == "break":
            return "not this"
        return f"failed with {value(program)}" if self.fails[number] else value(program)

    async def ask(self, life: Life, number: int) -> None:
        """Ask for one update, by its id; harmless to repeat."""
        if number in self.outcomes:
            return
        await life.at(self.starts_s[number])
        handle = life.client.get_workflow_handle("Desk")
        stage = WorkflowUpdateStage.COMPLETED if self.waits_to_be_told[number] else WorkflowUpdateStage.ACCEPTED
        args = [self.programs[number], self.fails[number]]
        update = await handle.start_update("work", args=args, id=f"u{number}", wait_for_stage=stage)
        try:
            self.outcomes[number] = await update.result()
        except WorkflowUpdateFailedError as error:
            assert isinstance(error.cause, ApplicationError)
            self.outcomes[number] = error.cause.message


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="perdure")


def run_updates(seed: int) -> Lives:
    chance = Chance(seed)
    random.seed(seed)
    asked = Asked(chance.chance)
    lives = Lives(
        workflows=[*test_programs.WORKFLOWS, Desk],
        activities=test_programs.ACTIVITIES,
        before=chance.strike,
        after=chance.strike,
        forget=chance.forget,
        delay_s=chance.delay_s,
        config=replace(CONFIG, cache_bytes=chance.chance.choice([1, 1 << 26])),
        worker_options={"max_cached_workflow_bytes": chance.chance.choice([0, 20_000, 1 << 26])},
        in_process=chance.chance.random() < 0.7,
    )

    async def close(life: Life) -> Any:
        handle = await start(life, "Desk")
        try:
            await handle.execute_update("close", id="close")
        except WorkflowNotFoundError:
            assert life.is_reborn  # An earlier life has closed it.
        return await handle.result()

    async def story(life: Life) -> Any:
        doomed = asyncio.ensure_future(doom(life, chance.chance)) if seed % 2 else None
        await persistently(life, lambda life: start(life, "Desk"))
        await asyncio.gather(
            *(persistently(life, lambda life, number=number: asked.ask(life, number)) for number in range(UPDATES))
        )
        result = await persistently(life, close)
        if doomed is not None:
            doomed.cancel()
        return result

    begun, ended = lives.play(story)
    for number, program in enumerate(asked.programs):
        assert asked.outcomes[number] == asked.expected(number), program
    accepted = [f"u{number}" for number, program in enumerate(asked.programs) if program[0] != "break"]
    assert sorted(begun) == sorted(ended) == accepted
    assert lives.ledger.repeated == []
    return lives


@pytest.mark.parametrize("seed", range(12))
def test_every_update_comes_to_its_value(seed: int) -> None:
    run_updates(seed)


@pytest.mark.torture
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("hundred", range(4))
def test_many_updates(hundred: int) -> None:
    for seed in share_of(range(100 * hundred + 100, 100 * hundred + 200)):
        run_updates(seed)
