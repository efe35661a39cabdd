"""The commit pipeline: one group at a time, waiters released or refused together."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure.api import RpcError, StatusCode
from perdure.engine.clock import VirtualClock
from perdure.engine.commit import Committer, Group
from perdure.engine.store.memory import MemoryStore
from perdure.engine.store.port import Batch, StoreError, StoreFullError, StoreWriteError


class Host:
    """Writes each group's metas and notes what is done with it."""

    def __init__(self) -> None:
        self.released: list[Group] = []
        self.lost: list[list[Group]] = []
        self.failed: list[RpcError] = []
        self.broken = False

    def encode_group(self, group: Group) -> Batch:
        if self.broken:
            raise ZeroDivisionError("a defect")
        return Batch(metas=list(group.metas))

    def release_group(self, group: Group) -> None:
        self.released.append(group)

    def lose_groups(self, groups: list[Group], error: RpcError) -> None:
        self.lost.append(groups)

    def fail(self, error: RpcError) -> None:
        self.failed.append(error)


class Fixture:
    def __init__(self, *, distance_s: float = 0.0, clock: VirtualClock | None = None, **hooks: Any) -> None:
        self.store = MemoryStore(**hooks)
        self.host = Host()
        self.committer = Committer(self.store, self.host, 4, distance_s, clock)

    async def __aenter__(self) -> Fixture:
        await self.store.open()
        self.committer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.committer.stop()

    def write(self, name: str) -> asyncio.Future[None]:
        group = self.committer.group
        group.metas.append((name, b"1"))
        self.committer.touch()
        return group.durable()


async def test_what_comes_at_once_commits_at_once() -> None:
    async with Fixture() as fixture:
        await asyncio.gather(*(fixture.write(str(number)) for number in range(100)))
        assert fixture.committer.commits == 1
        assert not fixture.committer.busy
        await fixture.write("later")
        assert fixture.committer.commits == 2


async def test_what_comes_within_the_distance_commits_together() -> None:
    clock = VirtualClock()
    async with Fixture(distance_s=0.001, clock=clock) as fixture:
        await fixture.write("first")
        early = fixture.write("early")
        for _ in range(20):
            await asyncio.sleep(0)
        late = fixture.write("late")
        assert not early.done()
        clock.advance_by(1)
        await asyncio.gather(early, late)
        assert fixture.committer.commits == 2
        clock.advance_by(1)
        await fixture.write("long after")
        clock.advance_by(1)


async def test_who_asks_late_learns_the_outcome() -> None:
    async with Fixture() as fixture:
        group = fixture.committer.group
        await fixture.write("x")
        await group.durable()


@pytest.mark.parametrize(
    ("error", "code"),
    [(StoreFullError("full"), StatusCode.RESOURCE_EXHAUSTED), (StoreError("busy"), StatusCode.UNAVAILABLE)],
)
async def test_a_group_that_fails_is_lost_and_the_next_one_commits(error: StoreError, code: StatusCode) -> None:
    def fail(number: int, _batch: Batch) -> None:
        if number == 1:
            raise error

    async with Fixture(before_commit=fail) as fixture:
        with pytest.raises(RpcError) as caught:
            await fixture.write("x")
        assert caught.value.code is code
        assert len(fixture.host.lost) == 1
        await fixture.write("y")
        assert fixture.host.failed == []
        assert set(fixture.store.state.metas) == {"y"}


@pytest.mark.parametrize("defect", [False, True])
async def test_a_failure_for_good_is_told_to_everyone(defect: bool) -> None:
    def fail(_number: int, _batch: Batch) -> None:
        raise StoreWriteError("fsync failed")

    async with Fixture(before_commit=fail) as fixture:
        fixture.host.broken = defect
        with pytest.raises(RpcError):
            await fixture.write("x")
        assert len(fixture.host.failed) == 1
        with pytest.raises(RpcError) as caught:
            await fixture.write("y")
        assert caught.value.message == fixture.host.failed[0].message
        assert isinstance(caught.value.__cause__, ZeroDivisionError) == defect


async def test_stop_commits_what_has_accumulated() -> None:
    fixture = Fixture()
    async with fixture:
        durable = fixture.write("x")
    await durable
    assert "x" in fixture.store.state.metas
    with pytest.raises(RpcError) as caught:
        await fixture.write("y")
    assert caught.value.code is StatusCode.UNAVAILABLE
    await fixture.committer.stop()


async def test_a_cancelled_waiter_leaves_the_others_alone() -> None:
    async with Fixture() as fixture:
        group = fixture.committer.group

        async def wait() -> None:
            await group.durable()

        waiters = [asyncio.ensure_future(wait()) for _ in range(3)]
        await asyncio.sleep(0)
        waiters[1].cancel()
        group.metas.append(("x", b""))
        fixture.committer.touch()
        outcomes = await asyncio.gather(*waiters, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [type(None), asyncio.CancelledError, type(None)]
