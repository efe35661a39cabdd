"""A database file: whose it is, who holds it, how it is copied, what it costs."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from perdure.engine.store import (
    Batch,
    HistoryRow,
    StoreError,
    StoreFencedError,
    StoreForeignError,
    StoreLockedError,
    StoreMissingError,
    StoreNewerError,
)
from perdure.engine.store.sqlite import SqliteStore, connection, statements, writer
from tests.store.rows import EVERYTHING, read_all, run_row, started, visibility_row

HOLDER = """
import asyncio, sys
from perdure.engine.store import Batch
from perdure.engine.store.sqlite import SqliteStore

async def hold():
    store = SqliteStore(sys.argv[1])
    await store.open()
    await store.commit(Batch(metas=[("held", b"yes")]))
    print("held", flush=True)
    sys.stdin.read()

asyncio.run(hold())
"""


async def opened(path: Path) -> SqliteStore:
    store = SqliteStore(path)
    await store.open()
    return store


@pytest.fixture
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the database open and has committed to it."""
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


async def test_what_was_committed_is_there_after_reopening(path: Path) -> None:
    store = await opened(path)
    await store.commit(started(1))
    await store.close()
    store = await opened(path)
    assert await read_all(store, 1) == [HistoryRow(1, 1, b"started 1")]
    await store.close()


async def test_every_connection_is_durable(path: Path) -> None:
    store = await opened(path)
    settings = [(one.pragma("synchronous"), one.pragma("journal_mode")) for one in store._connections]
    await store.close()
    assert settings == [(2, "wal")] * 3


async def test_a_connection_that_is_not_durable_is_refused(path: Path) -> None:
    memory = apsw.Connection(":memory:")
    with pytest.raises(StoreError, match="write-ahead log"):
        connection.require_durable(memory, "somewhere")


async def test_a_file_of_ours_says_so(path: Path) -> None:
    await (await opened(path)).close()
    other = apsw.Connection(str(path))
    assert other.pragma("application_id") == connection.APPLICATION_ID
    assert other.pragma("user_version") == statements.load_migrations()[-1][0]
    assert other.pragma("integrity_check") == "ok"
    other.close()


async def test_a_directory_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreMissingError, match="absent"):
        await opened(tmp_path / "absent" / "perdure.db")


async def test_a_file_that_must_be_there_is_not_created(path: Path) -> None:
    with pytest.raises(StoreMissingError, match="no database"):
        await SqliteStore(path, create=False).open()
    assert list(path.parent.iterdir()) == []
    await (await opened(path)).close()
    store = SqliteStore(path, create=False)
    await store.open()
    await store.close()


async def test_a_file_that_is_no_database_is_refused_and_untouched(path: Path) -> None:
    path.write_text("name,price\nchair,12\n" * 100)
    with pytest.raises(StoreForeignError, match="not a database"):
        await opened(path)
    assert path.read_text().startswith("name,price")
    assert os.listdir(path.parent) == [path.name]


async def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreForeignError, match="directory"):
        await opened(tmp_path)


@pytest.mark.parametrize("application_id", [0, 99])
async def test_another_programs_database_is_refused_and_untouched(path: Path, application_id: int) -> None:
    other = sqlite3.connect(path)
    other.executescript(f"PRAGMA application_id = {application_id}; CREATE TABLE recipes (name); PRAGMA user_version=4")
    other.close()
    before = path.read_bytes()
    with pytest.raises(StoreForeignError, match="another program"):
        await opened(path)
    assert path.read_bytes() == before


async def test_an_empty_file_and_an_empty_database_become_ours(path: Path) -> None:
    path.touch()
    await (await opened(path)).close()
    path.unlink()
    other = sqlite3.connect(path)
    other.executescript("CREATE TABLE t (x); DROP TABLE t")
    other.close()
    await (await opened(path)).close()
    await (await opened(path)).close()


async def test_a_newer_schema_is_refused_and_kept(path: Path) -> None:
    store = await opened(path)
    await store.commit(started(1))
    await store.close()
    other = sqlite3.connect(path)
    version = other.execute("PRAGMA user_version").fetchone()[0]
    other.execute(f"PRAGMA user_version = {version + 1}")
    other.close()
    with pytest.raises(StoreNewerError, match="upgrade Perdure"):
        await opened(path)
    other = sqlite3.connect(path)
    other.execute(f"PRAGMA user_version = {version}")
    other.close()
    store = await opened(path)
    assert await store.load_run(1) is not None
    await store.close()


async def test_a_failed_migration_leaves_the_schema_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    migrations = statements.load_migrations()
    broken = [*migrations, (len(migrations) + 1, "CREATE TABLE later (x); INSERT INTO absent VALUES (1);")]
    monkeypatch.setattr(connection, "load_migrations", lambda: broken)
    with pytest.raises(StoreError):
        await opened(path)
    monkeypatch.undo()
    store = await opened(path)
    await store.commit(started(1))
    await store.close()


async def test_migrations_run_in_order_on_what_is_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await opened(path)
    await store.commit(started(1))
    await store.close()
    migrations = statements.load_migrations()
    longer = [*migrations, (len(migrations) + 1, "CREATE TABLE later (x INTEGER) STRICT;")]
    monkeypatch.setattr(connection, "load_migrations", lambda: longer)
    store = await opened(path)
    assert await store.load_run(1) is not None
    await store.close()


async def test_another_process_is_refused_and_the_owner_named(path: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(StoreLockedError, match=f"in use by process {holder.pid}") as refusal:
        await opened(path)
    assert refusal.value.pid == holder.pid


async def test_a_killed_owner_holds_nothing(path: Path, holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    store = await opened(path)
    assert await store.load_meta("held") == b"yes"
    await store.close()


async def test_the_same_process_is_refused_too(path: Path, tmp_path: Path) -> None:
    store = await opened(path)
    (tmp_path / "alias.db").symlink_to(path)
    for name in (path, tmp_path / "alias.db"):
        with pytest.raises(StoreLockedError, match="in this process") as refusal:
            await opened(name)
        assert refusal.value.pid == os.getpid()
    # The refused attempts have not freed the lock for other processes.
    command = [sys.executable, "-c", HOLDER, str(path)]
    probe = await asyncio.create_subprocess_exec(*command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    _, complaint = await probe.communicate()
    assert b"StoreLockedError" in complaint
    with pytest.raises(StoreError, match="open already"):
        await store.open()
    await store.close()
    await (await opened(path)).close()


async def test_an_open_that_failed_holds_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise apsw.CantOpenError("injected")

    monkeypatch.setattr("perdure.engine.store.sqlite.store.prepare_schema", fail)
    with pytest.raises(StoreMissingError, match="injected"):
        await opened(path)
    monkeypatch.undo()
    await (await opened(path)).close()


async def test_a_claimed_store_refuses_its_former_owner(path: Path) -> None:
    """As if the lock had failed, on a file system without locks."""
    former = await opened(path)
    await former.commit(started(1))
    thief = apsw.Connection(str(path))
    thief.execute("UPDATE fence SET epoch = epoch + 1")
    thief.close()
    for _ in range(2):
        with pytest.raises(StoreFencedError, match="nothing was written"):
            await former.commit(started(2))
    assert await former.load_run(2) is None
    await former.close()


async def test_a_copy_without_its_wal_is_consistent(path: Path, tmp_path: Path) -> None:
    store = await opened(path)
    for run_key in range(1, 200):
        await store.commit(started(run_key))
    copies = [tmp_path / "early.db", tmp_path / "late.db"]
    shutil.copy(path, copies[0])
    other = apsw.Connection(str(path))
    # A connection learns that there is a WAL when it first reads.
    assert other.pragma("user_version")
    assert other.wal_checkpoint()[1] > 0
    other.close()
    await store.commit(started(200))
    shutil.copy(path, copies[1])
    await store.close()
    for copy, at_least in zip(copies, (0, 199), strict=True):
        store = await opened(copy)
        newest = await store.max_run_key()
        assert newest >= at_least
        assert await store.count_visibility(EVERYTHING) == newest
        for run_key in range(1, newest + 1):
            assert len(await read_all(store, run_key)) == 1
        await store.commit(started(newest + 1))
        await store.close()


async def test_a_backup_holds_everything_acknowledged(path: Path, tmp_path: Path) -> None:
    store = await opened(path)
    for run_key in range(1, 50):
        await store.commit(started(run_key))
    copy = tmp_path / "backup.db"
    backup = asyncio.create_task(store.backup(copy))
    for run_key in range(50, 100):
        await store.commit(started(run_key))
    await backup
    with pytest.raises(StoreError, match="there already"):
        await store.backup(copy)
    with pytest.raises(StoreError, match="failed"):
        await store.backup(tmp_path / "absent" / "backup.db")
    await store.close()
    restored = await opened(copy)
    newest = await restored.max_run_key()
    assert newest >= 49
    assert await restored.count_visibility(EVERYTHING) == newest
    await restored.commit(started(newest + 1))
    await restored.close()
    assert not list(tmp_path.glob("*-partial"))


async def test_the_wal_stays_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "CHECKPOINT_PAGES", 50)
    store = await opened(path)
    for number in range(300):
        await store.commit(
            Batch(runs=[run_row(1, number, bytes(20_000))], histories=[HistoryRow(1, number, bytes(2_000))])
        )
        await read_all(store, 1)
        await store.list_visibility(EVERYTHING, None, 10)
    size = os.path.getsize(f"{path}-wal")
    await store.close()
    assert size < 100 * 4_400


async def test_ten_steps_take_no_more_disk_than_budgeted(path: Path) -> None:
    """Eleven batches with four kilobytes of events, a state of six hundred bytes, and all the rest of a run."""
    store = await opened(path)
    runs = 500
    for step in range(11):
        await store.commit(
            Batch(
                histories=[HistoryRow(run_key, 1 + step * 6, bytes(365)) for run_key in range(1, runs + 1)],
                runs=[
                    run_row(run_key, 1_790_000_000_000, bytes(600))._replace(run_id="0" * 36)
                    for run_key in range(1, runs + 1)
                ],
                currents=started(1).currents if step == 0 else [],
                visibility=[
                    visibility_row(run_key, workflow_type="OrderFulfilment", start_ms=1_790_000_000_000 + run_key)
                    for run_key in range(1, runs + 1)
                ]
                if step in (0, 10)
                else [],
            )
        )
    await store.close()
    assert os.path.getsize(path) / runs <= 6 * 1024


async def test_an_answer_nobody_waits_for_is_harmless(path: Path) -> None:
    store = await opened(path)
    commit = asyncio.create_task(store.commit(started(1)))
    await asyncio.sleep(0)
    commit.cancel()
    with pytest.raises(asyncio.CancelledError):
        await commit
    await store.commit(started(2))
    assert await store.load_run(1) is not None
    await store.close()


async def test_rows_too_wide_for_their_place_are_refused(path: Path) -> None:
    store = await opened(path)
    wide = [
        Batch(histories=[HistoryRow(10**12, 1, b"")]),
        Batch(histories=[HistoryRow(1, 10**10, b"")]),
        Batch(item_deletes=[(10**12, 1)]),
        Batch(runs=[run_row(10**12)]),
        Batch(runs=[run_row(1, 10**15)]),
        Batch(runs=[run_row(1, -5)]),
        Batch(runs=[run_row(1)._replace(run_id="\ud800")]),
        Batch(visibility=[visibility_row(1, start_ms=10**15)]),
        Batch(visibility=[visibility_row(1, close_ms=-1)]),
        Batch(visibility=[visibility_row(1, workflow_id="x" * 1_000_000)]),
        Batch(metas=[("x" * 1_000_000, b"")]),
    ]
    for batch in wide:
        with pytest.raises(StoreError, match="nothing was written"):
            await store.commit(batch)
    await store.commit(started(1))
    assert await store.max_run_key() == 1
    await store.close()


async def test_an_open_given_up_holds_nothing(path: Path) -> None:
    store = SqliteStore(path)
    opening = asyncio.create_task(store.open())
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await (await opened(path)).close()
