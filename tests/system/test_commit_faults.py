"""A commit goes wrong and the process lives on: at each one in turn, whoever is told repeats, and all ends well."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from perdure.api import RpcError, StatusCode
from perdure.engine.store.memory import CommitHook
from perdure.engine.store.port import Batch, StoreError, StoreFullError
from perdure.exceptions import PerdureError
from tests.system.flows import ACTIVITIES, STORIES, WORKFLOWS
from tests.system.lives import Life, Lives

FAULTS: dict[str, Callable[[], StoreError]] = {
    "refused": lambda: StoreError("injected: try again"),
    "full": lambda: StoreFullError("injected: no space left"),
}


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="perdure")


def failing_at(commits: range, make: Callable[[], StoreError]) -> CommitHook:
    """A hook that lets the commits of these numbers fail."""

    def hook(number: int, _batch: Batch) -> None:
        if number in commits:
            raise make()

    return hook


class Persistent:
    """A story whose teller begins again when told to try later."""

    def __init__(self, name: str) -> None:
        self.story = STORIES[name]
        self.told = 0

    async def __call__(self, life: Life) -> object:
        while True:
            self.told += 1
            try:
                return await self.story(life)
            except (RpcError, PerdureError) as error:
                cause = error if isinstance(error, RpcError) else error.cause
                assert isinstance(cause, RpcError), error
                assert cause.code in (StatusCode.UNAVAILABLE, StatusCode.RESOURCE_EXHAUSTED), error
                assert "injected" in cause.message
                await asyncio.sleep(1)


def lives(**hooks: Any) -> Lives:
    return Lives(workflows=WORKFLOWS, activities=ACTIVITIES, **hooks)


@pytest.mark.parametrize("name", STORIES)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("short_way", [True, False], ids=["short way", "messages"])
def test_one_commit_goes_wrong(name: str, fault: str, when: str, short_way: bool) -> None:
    """Before it, nothing of it has happened; after it, everything has, and only the answer got lost."""
    undisturbed = lives(short_way=short_way)
    expected = undisturbed.play(STORIES[name])
    # The first commit belongs to the engine's start, which fails with it.
    for commit in range(2, undisturbed.commits + 1):
        world = lives(short_way=short_way, **{when: failing_at(range(commit, commit + 1), FAULTS[fault])})
        assert world.play(Persistent(name)) == expected, commit
        assert world.ledger.repeated == [], commit
        assert len(world.ledger.ran) == len(set(world.ledger.ran)), f"an attempt ran twice: commit {commit}"


@pytest.mark.parametrize("name", STORIES)
def test_a_disk_that_is_full_for_a_while(name: str) -> None:
    expected = lives().play(STORIES[name])
    for first in range(2, 8):
        world = lives(before=failing_at(range(first, first + 6), FAULTS["full"]))
        assert world.play(Persistent(name)) == expected
        assert world.ledger.repeated == []
