"""A failing disk under a whole process: worker, engine and a database file."""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import random
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import apsw
import pytest

from perdure import activity, sharing, workflow
from perdure.api import RpcError, StatusCode
from perdure.client import Client, WorkflowHandle, calls
from perdure.common import RetryPolicy
from perdure.engine.store.faults import FaultDisk
from perdure.engine.store.sqlite import SqliteStore
from perdure.exceptions import PerdureError
from perdure.worker import Worker, service_calls
from tests.system.lives import Ledger, Witness

RUNS = 8
STEPS = 4
_numbers = itertools.count()


class Gate:
    """Lets steps through, or holds them; counts who came through."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.began: list[str] = []
        self.waiting = 0
        self.arrived = asyncio.Event()

    async def pass_through(self, name: str) -> None:
        self.began.append(name)
        self.waiting += 1
        self.arrived.set()
        await self.open.wait()
        self.waiting -= 1


GATE: list[Gate] = []


@activity.defn(start_to_close_timeout=timedelta(minutes=1), retry_policy=RetryPolicy(maximum_attempts=1))
async def step(name: str) -> str:
    await GATE[-1].pass_through(name)
    return name


@workflow.defn
async def walk(name: str, steps: int) -> list[str]:
    return [await step(f"{name}.{number}") for number in range(steps)]


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL + 1, logger="perdure")


@pytest.fixture
def disk() -> Iterator[FaultDisk]:
    disk = FaultDisk(f"perdure-system-disk-{next(_numbers)}")
    yield disk
    disk.unregister()


@pytest.fixture
async def gate() -> Gate:
    GATE.append(Gate())
    return GATE[-1]


class House:
    """A client of a database file, its engine, and a worker."""

    def __init__(self, path: Path, disk: FaultDisk | None = None, ledger: Ledger | None = None) -> None:
        self._path = path
        self._disk = disk
        self._ledger = ledger or Ledger()
        self._patch = pytest.MonkeyPatch()

    async def __aenter__(self) -> House:
        vfs = self._disk.name if self._disk is not None else None
        self._patch.setattr(sharing, "SqliteStore", functools.partial(SqliteStore, vfs=vfs))
        self.client = await Client.connect(self._path)
        assert self.client._lease is not None
        self.engine = self.client._lease.engine
        self.client.service = Witness(self.client.service, self._ledger, short_way=True)  # type: ignore[assignment]
        self.worker = Worker(self.client, workflows=[walk], activities=[step])
        await self.worker.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.worker.stop(hand_back=False)
        await self.client.close()
        self._patch.undo()

    async def start(self, name: str) -> WorkflowHandle[list[str]]:
        return await self.client.start_workflow(walk, name, STEPS, id=name, request_id=f"start {name}")

    async def results(self, names: list[str]) -> list[list[str]]:
        handles = [self.client.get_workflow_handle_for(walk, name) for name in names]
        return await asyncio.gather(*(handle.result() for handle in handles))


def expected(names: list[str]) -> list[list[str]]:
    return [[f"{name}.{number}" for number in range(STEPS)] for name in names]


NAMES = [f"walk-{number}" for number in range(RUNS)]


async def test_a_full_disk_refuses_reads_go_on_and_all_ends_well(disk: FaultDisk, tmp_path: Path, gate: Gate) -> None:
    async with House(tmp_path / "full.db", disk) as house:
        gate.open.clear()
        for name in NAMES:
            await house.start(name)
        while gate.waiting < RUNS:
            gate.arrived.clear()
            await gate.arrived.wait()
        disk.full = True
        gate.open.set()
        with pytest.raises(PerdureError) as caught:
            await house.start("one too many")
        assert isinstance(caught.value.cause, RpcError)
        assert caught.value.cause.code is StatusCode.RESOURCE_EXHAUSTED
        for name in NAMES:
            handle = house.client.get_workflow_handle(name)
            history = await handle.fetch_history()
            assert [event.event_id for event in history.events] == list(range(1, len(history.events) + 1))
            assert (await handle.describe()).status == 1
        listed = [each.id async for each in house.client.list_workflows()]
        assert sorted(listed) == NAMES
        disk.full = False
        assert await house.results(NAMES) == expected(NAMES)
        assert sorted(gate.began) == sorted(itertools.chain(*expected(NAMES))), "no step ran twice"
        await house.engine.wait_idle()
        assert await house.engine.check_invariants() == []


async def test_a_failed_fsync_stops_everything_and_nothing_acknowledged_is_lost(
    disk: FaultDisk, tmp_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "_LONGEST_WAIT_S", 0.01)
    monkeypatch.setattr(service_calls, "_LONGEST_WAIT_S", 0.01)
    path = tmp_path / "broken.db"
    async with House(path, disk) as house:
        gate.open.clear()
        for name in NAMES:
            await house.start(name)
        while gate.waiting < RUNS:
            gate.arrived.clear()
            await gate.arrived.wait()
        waiting = asyncio.ensure_future(house.results(NAMES))
        disk.broken = ""
        with pytest.raises(PerdureError, match="fsync"):
            await house.start("one too many")
        failure = await house.engine.wait_failed()
        assert failure.code is StatusCode.UNAVAILABLE
        for call in (house.start("another"), house.client.get_workflow_handle("walk-1").describe(), waiting):
            with pytest.raises(PerdureError, match="fsync"):
                await call
        with pytest.raises(PerdureError, match="fsync"):
            await house.worker.wait_ended()
    disk.broken = None
    gate.open.set()
    async with House(path, disk) as house:
        assert await house.results(NAMES) == expected(NAMES)
        await house.engine.wait_idle()
        assert await house.engine.check_invariants() == []
    # What ran when the disk failed runs again; nothing else does.
    again = [name for name in set(gate.began) if gate.began.count(name) > 1]
    assert set(again) <= {f"{name}.0" for name in NAMES}


def flip_bit(path: Path, run_key: int) -> None:
    """Change one bit in the middle of a run's first history row."""
    connection = apsw.Connection(str(path))
    with connection:
        ((row, data),) = connection.execute(
            "SELECT rowid, data FROM history WHERE run_key = ? ORDER BY first_event_id LIMIT 1", (run_key,)
        )
        flipped = bytearray(data)
        flipped[len(flipped) // 2] ^= 4
        connection.execute("UPDATE history SET data = ? WHERE rowid = ?", (bytes(flipped), row))
    connection.close()


async def test_a_flipped_bit_in_a_history_stops_its_run_alone(tmp_path: Path, gate: Gate) -> None:
    path = tmp_path / "flipped.db"
    async with House(path) as house:
        gate.open.clear()
        for name in NAMES:
            await house.start(name)
        while gate.waiting < RUNS:
            gate.arrived.clear()
            await gate.arrived.wait()
        keys = {slot.run.state.workflow_id: key for key, slot in house.engine.shard.cache.loaded.items()}
    flip_bit(path, keys["walk-3"])
    gate.open.set()
    healthy = [name for name in NAMES if name != "walk-3"]
    async with House(path) as house:
        assert await house.results(healthy) == expected(healthy)
        handle = house.client.get_workflow_handle("walk-3")
        with pytest.raises(PerdureError, match="quarantined") as caught:
            await handle.fetch_history()
        assert isinstance(caught.value.cause, RpcError)
        assert caught.value.cause.code is StatusCode.DATA_LOSS
        with pytest.raises(PerdureError, match="quarantined"):
            await handle.describe()
        with pytest.raises(PerdureError, match="quarantined"):
            await handle.result()
        assert house.engine.statistics().quarantined_runs == 1
        assert house.worker.is_running
        assert await house.client.execute_workflow(walk, "new", STEPS, id="new") == expected(["new"])[0]


CUTS = 12


async def test_whatever_a_power_cut_leaves_goes_on(disk: FaultDisk, tmp_path: Path, gate: Gate) -> None:
    """Nothing acknowledged is lost, no acknowledged step runs again, and every workflow comes to its end."""
    chance = random.Random(7)
    directory = tmp_path / "disk"
    directory.mkdir()
    ledger = Ledger()
    cuts: list[tuple[dict[str, bytes], set[tuple[str, str]]]] = []
    moments = set(chance.sample(range(60, 300), CUTS))

    def maybe_cut(operation: int) -> None:
        if operation in moments:
            # First what the outside knows, then what is on the disk: nothing may be known that is not there.
            acknowledged = set(ledger.acknowledged)
            cuts.append((disk.power_cut(chance), acknowledged))

    disk.on_operation = maybe_cut
    async with House(directory / "walks.db", disk, ledger) as house:
        for name in NAMES:
            await house.start(name)
        assert await house.results(NAMES) == expected(NAMES)
    disk.on_operation = None
    assert len(cuts) > CUTS // 2, f"there were {disk.operations} operations only"
    assert any(acknowledged for _, acknowledged in cuts)
    for number, (files, acknowledged) in enumerate(cuts):
        place = tmp_path / f"cut-{number}"
        place.mkdir()
        for file, content in files.items():
            (place / Path(file).name).write_bytes(content)
        after = Ledger(acknowledged=acknowledged)
        async with House(place / "walks.db", None, after) as house:
            for name in NAMES:
                await house.start(name)
            assert await house.results(NAMES) == expected(NAMES)
            await house.engine.wait_idle()
            assert await house.engine.check_invariants() == []
        assert after.repeated == []
