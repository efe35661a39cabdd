"""What a failing disk may do, and what it may not."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import apsw
import pytest

from perdure.engine.store import (
    Batch,
    HistoryRow,
    ItemRow,
    MemoryStore,
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreWriteError,
)
from perdure.engine.store.faults import FaultDisk
from perdure.engine.store.sqlite import SqliteStore, writer
from tests.store.rows import EVERYTHING, nth, read_all, run_row, started, visibility_row

CUTS = 200
COMMITS = 150


@pytest.fixture
def disk() -> Iterator[FaultDisk]:
    disk = FaultDisk("perdure-fault-disk")
    yield disk
    disk.unregister()


async def opened(path: Path) -> SqliteStore:
    store = SqliteStore(path)
    await store.open()
    return store


class Cut(NamedTuple):
    """What a power cut left, and what had been acknowledged when it came."""

    files: dict[str, bytes]
    acknowledged: int


async def test_no_acknowledged_row_is_lost_in_a_power_cut(
    disk: FaultDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "CHECKPOINT_PAGES", 100)
    chance = random.Random(20_260_101)
    path = tmp_path / "disk" / "perdure.db"
    path.parent.mkdir()
    acknowledged = 0
    cuts: list[Cut] = []
    operations = await count_operations(disk, tmp_path)
    moments = {1, operations - 1, *chance.sample(range(1, operations), CUTS - 2)}

    def maybe_cut(operation: int) -> None:
        if operation - before in moments:
            cuts.append(Cut(disk.power_cut(chance), acknowledged))

    before = disk.operations
    disk.on_operation = maybe_cut
    store = SqliteStore(path, vfs=disk.name)
    await store.open()
    for number in range(1, COMMITS + 1):
        await store.commit(nth(number))
        acknowledged = number
    await store.close()
    assert len(cuts) >= CUTS * 9 // 10
    assert {0, COMMITS} <= {cut.acknowledged for cut in cuts}
    for at, cut in enumerate(cuts):
        await survive(cut, path, tmp_path / f"cut-{at}")


async def count_operations(disk: FaultDisk, tmp_path: Path) -> int:
    """How many operations the run has, about: found by running it once."""
    directory = tmp_path / "rehearsal"
    directory.mkdir()
    store = SqliteStore(directory / "perdure.db", vfs=disk.name)
    await store.open()
    for number in range(1, COMMITS + 1):
        await store.commit(nth(number))
    await store.close()
    return disk.operations


async def survive(cut: Cut, path: Path, directory: Path) -> None:
    """Open what is left and check it: a whole number of commits, none acknowledged missing."""
    directory.mkdir()
    for name, content in cut.files.items():
        if Path(name).parent == path.parent:
            (directory / Path(name).name).write_bytes(content)
    checked = await opened(directory / path.name)
    newest = await checked.max_run_key()
    assert cut.acknowledged <= newest <= cut.acknowledged + 1
    expected = await model(newest)
    for run_key in range(1, newest + 1):
        assert await checked.load_run(run_key) == await expected.load_run(run_key)
        assert await read_all(checked, run_key) == await read_all(expected, run_key)
    assert await checked.count_visibility(EVERYTHING) == newest
    assert checked._connections[0].pragma("integrity_check") == "ok"
    await checked.commit(nth(newest + 1))
    await checked.close()


MODELS: dict[int, MemoryStore] = {}


async def model(commits: int) -> MemoryStore:
    """A store in memory after so many commits."""
    if commits not in MODELS:
        store = MemoryStore()
        await store.open()
        for number in range(1, commits + 1):
            await store.commit(nth(number))
        MODELS[commits] = store
    return MODELS[commits]


async def test_a_failed_fsync_stops_the_store(disk: FaultDisk, path: Path) -> None:
    store = SqliteStore(path, vfs=disk.name)
    await store.open()
    await store.commit(started(1))
    disk.broken = ""
    with pytest.raises(StoreWriteError, match="fsync failed"):
        await store.commit(started(2))
    # The disk says it is well again; whether it has what it was given before is unknown all the same.
    disk.broken = None
    with pytest.raises(StoreWriteError):
        await store.commit(started(3))
    assert await store.load_run(1) is not None
    await store.close()
    store = await opened(path)
    assert await store.load_run(1) is not None
    assert await store.load_run(3) is None
    await store.commit(started(4))
    await store.close()


async def test_a_checkpoint_that_fails_stops_the_store(
    disk: FaultDisk, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "CHECKPOINT_PAGES", 1)
    store = SqliteStore(path, vfs=disk.name)
    await store.open()
    disk.broken = path.name
    # Durable in the WAL, whose fsync succeeds. The checkpoint after it fails.
    await store.commit(started(1))
    with pytest.raises(StoreWriteError):
        await store.commit(started(2))
    await store.close()
    disk.broken = None
    store = await opened(path)
    assert await store.max_run_key() == 1
    await store.close()


async def test_a_full_disk_refuses_and_recovers(disk: FaultDisk, path: Path) -> None:
    store = SqliteStore(path, vfs=disk.name)
    await store.open()
    await store.commit(started(1))
    disk.full = True
    for _ in range(3):
        with pytest.raises(StoreFullError, match="nothing was written"):
            await store.commit(started(2))
        assert await store.load_run(1) is not None
        assert await store.load_run(2) is None
        assert await store.count_visibility(EVERYTHING) == 1
    disk.full = False
    await store.commit(started(2))
    await store.close()
    store = await opened(path)
    assert await store.max_run_key() == 2
    await store.close()


async def test_a_checkpoint_without_space_is_made_up_for(
    disk: FaultDisk, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "CHECKPOINT_PAGES", 20)
    store = SqliteStore(path, vfs=disk.name)
    await store.open()
    run_key = 0
    refused = 0

    def fill(operation: int) -> None:
        disk.full = operation % 120 < 60

    disk.on_operation = fill
    for _ in range(300):
        try:
            await store.commit(started(run_key + 1))
        except StoreFullError:
            refused += 1
        else:
            run_key += 1
    disk.full, disk.on_operation = False, None
    assert refused and run_key
    await store.commit(started(run_key + 1))
    await store.close()
    store = await opened(path)
    assert await store.max_run_key() == run_key + 1
    assert await store.count_visibility(EVERYTHING) == run_key + 1
    await store.close()


def flip(path: Path, marker: bytes) -> None:
    """Flip one bit within the one place that holds `marker`."""
    content = bytearray(path.read_bytes())
    assert content.count(marker) == 1
    content[content.index(marker) + len(marker) // 2] ^= 0x04
    path.write_bytes(content)


async def damaged(path: Path, marker: bytes) -> SqliteStore:
    """A store with three runs, one bit of run 2 flipped where its data holds `marker`."""
    store = await opened(path)
    for run_key in (1, 2, 3):
        batch = started(run_key)
        batch.histories.append(HistoryRow(run_key, 4, b"more events of run %d" % run_key))
        batch.runs[0] = run_row(run_key, 0, b"the state of run %d" % run_key)
        batch.items.append(ItemRow(run_key, 4, b"an item of run %d" % run_key))
        await store.commit(batch)
    await store.close()
    flip(path, marker)
    return await opened(path)


async def test_a_flipped_bit_in_a_history_is_named(path: Path) -> None:
    store = await damaged(path, b"more events of run 2")
    for read in (store.read_history(2, 1, 1 << 20), store.read_history_reverse(2, 9, 1 << 20)):
        with pytest.raises(StoreCorruptError, match=r"run with key 2 \(events from 4\)") as refusal:
            await read
        assert refusal.value.run_key == 2
    assert await store.read_history(2, 1, 1) == [HistoryRow(2, 1, b"started 2")]
    await neighbours_progress(store)


async def test_a_flipped_bit_in_a_state_is_named(path: Path) -> None:
    store = await damaged(path, b"the state of run 2")
    with pytest.raises(StoreCorruptError, match=r"state of run with key 2 \(run-2\)") as refusal:
        await store.load_run(2)
    assert refusal.value.run_key == 2
    await neighbours_progress(store)


async def test_a_flipped_bit_in_an_item_is_named(path: Path) -> None:
    store = await damaged(path, b"an item of run 2")
    with pytest.raises(StoreCorruptError, match="item of run with key 2"):
        await store.load_run(2)
    await neighbours_progress(store)


async def neighbours_progress(store: SqliteStore) -> None:
    for run_key in (1, 3):
        await store.commit(Batch(histories=[HistoryRow(run_key, 9, b"later")], runs=[run_row(run_key, None, b"new")]))
        assert len(await read_all(store, run_key)) == 3
        loaded = await store.load_run(run_key)
        assert loaded is not None and loaded.row.state == b"new"
    await store.close()


async def test_a_text_that_is_none_any_more_is_named(path: Path) -> None:
    store = await opened(path)
    await store.commit(Batch(runs=[run_row(1)._replace(run_id="ÄÄÄÄÄÄÄÄ")], visibility=[visibility_row(1)]))
    await store.close()
    content = path.read_bytes()
    path.write_bytes(content.replace("ÄÄÄÄÄÄÄÄ".encode(), b"\xc3" * 16))
    store = await opened(path)
    with pytest.raises(StoreCorruptError) as refusal:
        await store.load_run(1)
    assert refusal.value.run_key == 1
    await store.close()


async def test_a_damaged_page_is_a_corrupt_store(path: Path) -> None:
    store = await opened(path)
    for run_key in range(1, 300):
        await store.commit(started(run_key))
    await store.close()
    other = apsw.Connection(str(path))
    (root,) = other.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'history_by_run'").fetchall()[0]
    other.close()
    content = bytearray(path.read_bytes())
    content[(root - 1) * 4096 : root * 4096] = b"\xff" * 4096
    path.write_bytes(content)
    store = await opened(path)
    with pytest.raises(StoreCorruptError):
        await store.read_history(1, 1, 100)
    with pytest.raises(StoreCorruptError, match="nothing was written"):
        await store.commit(Batch(histories=[HistoryRow(1, 50, b"more")]))
    assert await store.load_run(1) is not None
    await store.commit(Batch(runs=[run_row(1, None, b"new")]))
    await store.close()


async def test_a_commit_that_wrote_less_is_not_acknowledged(path: Path) -> None:
    store = await opened(path)
    store._connections[0].execute("DROP TRIGGER batch_write")
    store._connections[0].execute("CREATE TEMP TRIGGER idle INSTEAD OF INSERT ON batch BEGIN SELECT 1; END")
    for _ in range(2):
        with pytest.raises(StoreWriteError, match="fewer rows"):
            await store.commit(started(1))
    await store.close()


async def test_another_programs_write_lock_is_waited_for_and_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.engine.store.sqlite.connection.BUSY_TIMEOUT_MS", 10)
    store = await opened(path)
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="another program; nothing was written"):
        await store.commit(started(1))
    other.execute("ROLLBACK")
    other.close()
    await store.commit(started(1))
    assert await store.load_run(1) is not None
    await store.close()


async def test_whatever_goes_wrong_in_the_writer_reaches_the_caller(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("injected")

    store = await opened(path)
    monkeypatch.setattr(writer, "execute", fail)
    with pytest.raises(StoreWriteError, match="injected"):
        await store.commit(started(1))
    monkeypatch.undo()
    with pytest.raises(StoreWriteError, match="injected"):
        await store.commit(started(1))
    await store.close()
