"""SqliteStore: the Store port on one SQLite file.

Four connections share the work. The writer's belongs to a thread of its own (writer.py). Short reads run on the
reader's, in the event loop itself: they take ten microseconds, a hop to a thread would take sixty. Lists and counts,
which may scan, run on a third one in a scan thread. A backup opens its own.

Ownership has two guards: a lock that dies with the process (lock.py), and a fence: each claim of the file takes a
greater epoch, and a commit with an older one is refused by the statement that writes it.

A database may be copied at any time with `backup`, or with SQLite's own ``.backup`` or ``VACUUM INTO``. A plain copy of
the file is consistent if no engine has it open; while one has, the newest commits are in the file's ``-wal``.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from operator import itemgetter
from typing import Any, TypeVar

import apsw

from perdure.engine.store.port import (
    Batch,
    HistoryRow,
    LoadedRun,
    ScheduleRow,
    StoreError,
    VisibilityPage,
)
from perdure.engine.store.sqlite.connection import connect, prepare_schema, recognise, require_durable
from perdure.engine.store.sqlite.driver import execute
from perdure.engine.store.sqlite.errors import open_error, read_error
from perdure.engine.store.sqlite.lock import FileLock
from perdure.engine.store.sqlite.records import history_row, item_row, pack, run_row
from perdure.engine.store.sqlite.statements import load_statements
from perdure.engine.store.sqlite.visibility import Visibility
from perdure.engine.store.sqlite.writer import Writer
from perdure.engine.visibility.expressions import Attribute, Position, Value, VisibilityQuery

__all__ = ["SqliteStore"]

WRITER_CACHE_KIB = 8_192
READER_CACHE_KIB = 2_048
SCAN_CACHE_KIB = 2_048

T = TypeVar("T")


class SqliteStore:
    """A store in a file; a new file is created and initialised on `open`.

    Args:
        path: of the database file. Beside it stand ``-wal`` and ``-shm`` while it is open, and ``-lock``.
        create: False = refuse a path where there is no file yet.
        vfs: the name of a registered SQLite VFS; None for the operating system's. For fault injection.
    """

    def __init__(self, path: str | os.PathLike[str], *, create: bool = True, vfs: str | None = None) -> None:
        self.path = os.path.realpath(path)
        self._create = create
        self._vfs = vfs
        self._lock = FileLock(self.path)
        self._statements: dict[str, str] = {}
        self._connections: list[apsw.Connection] = []
        self._reader: apsw.Connection | None = None
        self._writer: Writer | None = None
        self._visibility: Visibility | None = None
        self._scans: ThreadPoolExecutor | None = None
        self._epoch = 0

    async def open(self) -> None:
        if self._writer is not None:
            raise StoreError(f"{self.path} is open already")
        opening = asyncio.get_running_loop().run_in_executor(None, self._open)
        try:
            await asyncio.shield(opening)
        except asyncio.CancelledError:
            # The thread can't be stopped half-way; what it opens must not stay open behind a caller who has gone.
            with suppress(StoreError):
                await opening
            await self.close()
            raise

    async def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            await asyncio.to_thread(self._close, writer)

    async def commit(self, batch: Batch) -> None:
        writer = self._writer
        if writer is None:
            raise self._closed()
        try:
            packed = pack(self._epoch, batch)
        except ValueError as error:
            raise StoreError(f"a row can't be stored: {error}; nothing was written") from error
        await writer.write_nowait(packed)

    async def backup(self, path: str | os.PathLike[str]) -> None:
        """Write a consistent copy of everything acknowledged so far; commits and reads go on meanwhile.

        Args:
            path: of the copy, which may be opened like the original. A file that is there already is refused.

        Raises:
            StoreError: there is a file already, or the copy could not be written; none is left behind.
        """
        if self._writer is None:
            raise self._closed()
        await asyncio.to_thread(self._backup, os.path.realpath(path))

    async def max_run_key(self) -> int:
        return self._read("max_run_key")[0][0] or 0

    async def load_run(self, run_key: int) -> LoadedRun | None:
        rows = self._read("load_run", (run_key,), run_key)
        # In order already as SQLite happens to run it; asking it to sort would make it three times slower.
        rows.sort(key=itemgetter(0))
        if not rows or rows[0][0] != 0:
            return None
        _, sealed, run_id, wake_at_ms = rows[0]
        row = run_row(run_key, run_id, wake_at_ms, sealed)
        return LoadedRun(row, [item_row(run_key, event_id, data) for event_id, data, _, _ in rows[1:]])

    async def current_run(self, namespace: str, workflow_id: str) -> int | None:
        rows = self._read("current_run", (namespace, workflow_id))
        return rows[0][0] if rows else None

    async def find_run(self, namespace: str, workflow_id: str, run_id: str) -> int | None:
        rows = self._read("find_run", (namespace, workflow_id, run_id))
        return rows[0][0] if rows else None

    async def read_history(self, run_key: int, first_event_id: int, max_bytes: int) -> list[HistoryRow]:
        return self._read_history("read_history", run_key, first_event_id, max_bytes)

    async def read_history_reverse(self, run_key: int, last_event_id: int, max_bytes: int) -> list[HistoryRow]:
        return self._read_history("read_history_reverse", run_key, last_event_id, max_bytes)

    async def due_runs(self, until_ms: int, after: tuple[int, int] | None, limit: int) -> list[tuple[int, int]]:
        after_ms, after_run_key = after if after is not None else (-1, 0)
        return self._read("due_runs", (until_ms, after_ms, after_run_key, limit))

    async def list_visibility(self, query: VisibilityQuery, after: Position | None, limit: int) -> VisibilityPage:
        return await self._scan(lambda visibility: visibility.list(query, after, limit))

    async def count_visibility(self, query: VisibilityQuery) -> int:
        return await self._scan(lambda visibility: visibility.count(query))

    async def group_visibility(self, query: VisibilityQuery, by: Attribute, limit: int) -> list[tuple[Value, int]]:
        return await self._scan(lambda visibility: visibility.group(query, by, limit))

    async def load_schedules(self, after: tuple[str, str], limit: int) -> list[ScheduleRow]:
        return [ScheduleRow(*row) for row in self._read("load_schedules", (*after, limit))]

    async def load_namespaces(self) -> list[tuple[str, bytes]]:
        return self._read("load_namespaces")

    async def load_meta(self, name: str) -> bytes | None:
        rows = self._read("load_meta", (name,))
        return rows[0][0] if rows else None

    def _open(self) -> None:
        recognise(self.path, create=self._create)
        self._lock.acquire()
        try:
            self._statements = load_statements("queries.sql", "commit.sql")
            connection = self._connect(WRITER_CACHE_KIB)
            prepare_schema(connection, self.path)
            require_durable(connection, self.path)
            self._epoch = execute(connection, self._statements["claim"]).fetchall()[0][0]
            execute(connection, self._statements["batch_view"])
            execute(connection, self._statements["batch_deletes"])
            execute(connection, self._statements["batch_attributes"])
            execute(connection, self._statements["batch_schedules"])
            execute(connection, self._statements["batch_upserts"])
            self._reader = self._connect(READER_CACHE_KIB)
            require_durable(self._reader, self.path)
            scanner = self._connect(SCAN_CACHE_KIB)
            require_durable(scanner, self.path)
        except BaseException as error:
            self._release()
            if isinstance(error, apsw.Error):
                raise open_error(self.path, error) from error
            raise
        self._visibility = Visibility(scanner)
        self._scans = ThreadPoolExecutor(1, "perdure-scan")
        writer = Writer(connection, self._statements["batch_insert"], self.path)
        writer.start()
        self._writer = writer

    def _close(self, writer: Writer) -> None:
        writer.stop()
        if self._scans is not None:
            self._scans.shutdown()
        if writer.failure is not None:
            # What the disk holds is unknown, or another's: leave it to whoever opens the file next.
            for connection in self._connections:
                connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        self._release()

    def _release(self) -> None:
        self._reader = None
        self._visibility = None
        self._scans = None
        for connection in reversed(self._connections):
            connection.close(True)
        self._connections.clear()
        self._lock.release()

    def _connect(self, cache_kib: int) -> apsw.Connection:
        connection = connect(self.path, vfs=self._vfs, cache_kib=cache_kib)
        self._connections.append(connection)
        return connection

    def _backup(self, path: str) -> None:
        if os.path.exists(path):
            raise StoreError(f"{path} is there already; choose another path for the backup")
        partial = path + "-partial"
        try:
            source = connect(self.path, vfs=self._vfs, cache_kib=SCAN_CACHE_KIB)
            try:
                copy = apsw.Connection(partial)
                try:
                    # In one go, which is one read transaction: a snapshot that no commit makes start over.
                    with copy.backup("main", source, "main") as backup:
                        backup.step()
                finally:
                    copy.close()
            finally:
                source.close()
            os.rename(partial, path)
            _sync_directory(os.path.dirname(path))
        except (apsw.Error, OSError) as error:
            if os.path.exists(partial):
                os.unlink(partial)
            raise StoreError(f"the backup to {path} failed: {error}") from error

    def _read(self, name: str, values: tuple[int | str, ...] = (), run_key: int | None = None) -> list[Any]:
        """All rows of a short query; it has ended, and holds no checkpoint up, when this returns."""
        if self._reader is None:
            raise self._closed()
        try:
            return execute(self._reader, self._statements[name], values).fetchall()
        except (apsw.Error, UnicodeError) as error:
            raise read_error(self.path, error, run_key) from error

    def _read_history(self, name: str, run_key: int, event_id: int, max_bytes: int) -> list[HistoryRow]:
        if self._reader is None:
            raise self._closed()
        rows: list[HistoryRow] = []
        size = 0
        try:
            # Closed even if rows are left: an open cursor is an open transaction, which holds checkpoints up.
            with closing(execute(self._reader, self._statements[name], (run_key, event_id))) as cursor:
                for first_event_id, sealed in cursor:
                    row = history_row(run_key, first_event_id, sealed)
                    rows.append(row)
                    size += len(row.data)
                    if size >= max_bytes:
                        break
        except apsw.Error as error:
            raise read_error(self.path, error, run_key) from error
        return rows

    async def _scan(self, read: Callable[[Visibility], T]) -> T:
        if self._scans is None or self._visibility is None:
            raise self._closed()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._scans, read, self._visibility)
        except (apsw.Error, UnicodeError) as error:
            raise read_error(self.path, error) from error

    def _closed(self) -> StoreError:
        return StoreError(f"{self.path} is closed; open it first")


def _sync_directory(path: str) -> None:
    """Make a rename in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
