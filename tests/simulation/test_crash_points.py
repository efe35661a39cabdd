"""A crash at every commit boundary, enumerated: nothing acknowledged is lost, nothing is done twice."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from perdure.engine.store.port import Batch, StoreWriteError
from tests.simulation.world import World

Hook = Callable[[int, Batch], None]


def crash_at(commit: int) -> tuple[Hook, list[int]]:
    """A hook that kills the engine once, at the nth commit of its life and of all before."""
    seen = [0]

    def hook(_number: int, _batch: Batch) -> None:
        seen[0] += 1
        if seen[0] == commit:
            raise StoreWriteError("the process dies here")

    return hook, seen


async def commits_of(workflow_type: str) -> int:
    """How many commits the workflow takes when nothing goes wrong."""
    world = World()
    await world.play(workflow_type)
    return world.commits


@pytest.mark.parametrize("workflow_type", ["chain", "family", "relay"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_crash_at_every_commit_boundary(workflow_type: str, when: str) -> None:
    commits = await commits_of(workflow_type)
    assert commits > 5
    for commit in range(1, commits + 1):
        hook, seen = crash_at(commit)
        world = World(before=hook) if when == "before" else World(after=hook)
        try:
            await world.play(workflow_type)
        except AssertionError as error:
            error.add_note(f"crashed {when} commit {commit} of {commits}")
            raise
        assert seen[0] >= commit
        assert world.engines == 2, f"commit {commit} should have killed the engine"
        assert world.ledger.repeated == [], f"crashed {when} commit {commit}"
