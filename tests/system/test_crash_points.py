"""Three whole workflows, and a process that dies at each commit boundary: before the commit, and after it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest

from perdure.api import messages as m
from perdure.client import WorkflowHistory
from perdure.engine.store.port import Batch, StoreWriteError
from tests.system import twin_activities, twin_stories, twins
from tests.system.flows import ACTIVITIES, STORIES, WORKFLOWS
from tests.system.lives import Life, Lives, Story, killed_at
from tests.system.plain import asked_for

MOST_AT_ONCE = {"reset_conversation": 6}
"""Activities that run at once in a story; three in the others."""
# An activity that runs when its process dies may be cancelled before it runs again, so what it makes of that differs.
NAMES = [*STORIES, *(name for name in twin_stories.STORIES if name != "cancelled_activities")]


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="perdure")


class Telling:
    """A story, and what its histories were when it was over."""

    def __init__(self, story: Story[object]) -> None:
        self.story = story
        self.histories: dict[str, list[WorkflowHistory]] = {}

    async def __call__(self, life: Life) -> object:
        result = await self.story(life)
        await life.rest()
        self.histories = await life.histories()
        return result

    def asked_for(self) -> dict[str, list[list[Any]]]:
        return {name: [asked_for(run.events) for run in runs] for name, runs in self.histories.items()}


def play(name: str, **hooks: Any) -> tuple[Lives, object, Telling]:
    if name in STORIES:
        lives = Lives(workflows=WORKFLOWS, activities=ACTIVITIES, **hooks)
        telling = Telling(STORIES[name])
    else:
        lives = Lives(workflows=twins.WORKFLOWS, activities=twin_activities.ACTIVITIES, **hooks)
        telling = Telling(twin_stories.STORIES[name][0])
    return lives, lives.play(telling), telling


def closings(histories: dict[str, list[WorkflowHistory]]) -> dict[str, list[str]]:
    return {name: [m.EventType.Name(run.events[-1].event_type) for run in runs] for name, runs in histories.items()}


def in_flight(ran: Sequence[tuple[str, str, int]]) -> int:
    """How many attempts have been handed out twice."""
    return len(ran) - len(set(ran))


@pytest.mark.parametrize("short_way", [True, False], ids=["short way", "messages"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", NAMES)
def test_a_crash_at_every_commit_boundary(name: str, when: str, short_way: bool) -> None:
    undisturbed, expected, told = play(name, short_way=short_way)
    assert undisturbed.commits > 2
    for commit in range(1, undisturbed.commits + 1):
        hook, seen = killed_at(commit)
        lives, result, telling = play(name, short_way=short_way, **{when: hook})
        place = f"{when} commit {commit} of {undisturbed.commits}"
        assert seen() >= commit, place
        assert lives.lives == 2, place
        assert result == expected, place
        assert lives.ledger.repeated == [], place
        # Only what was running when the process died may run again, and as the same attempt.
        assert in_flight(lives.ledger.ran) <= MOST_AT_ONCE.get(name, 3), place
        assert telling.asked_for() == told.asked_for(), place
        assert closings(telling.histories) == closings(told.histories), place


@pytest.mark.parametrize("commits", [2, 3, 5])
@pytest.mark.parametrize("name", STORIES)
def test_processes_that_die_young(name: str, commits: int) -> None:
    """Every process dies with the nth commit of its life; the story ends all the same."""

    def hook(number: int, _batch: Batch) -> None:
        if number == commits:
            raise StoreWriteError("the process dies young")

    _, expected, _ = play(name)
    lives, result, _ = play(name, after=hook)
    assert lives.lives > 2
    assert result == expected
    assert lives.ledger.repeated == []
