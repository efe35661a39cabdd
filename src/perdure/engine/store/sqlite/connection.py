"""Opening a database file: whose it is, that it is durable, and that its schema is current.

A file is recognised before SQLite may touch it: by the first bytes, SQLite's magic and our application_id. The first
migration runs before the file enters WAL mode, so that the application_id is in the file itself from the first commit
on, and not only in a WAL that a crash could leave behind.
"""

from __future__ import annotations

import os

import apsw

from perdure.engine.store.port import StoreError, StoreForeignError, StoreMissingError, StoreNewerError
from perdure.engine.store.sqlite.driver import execute, get_pragma, set_pragma
from perdure.engine.store.sqlite.filling import FILL
from perdure.engine.store.sqlite.statements import load_migrations, load_statements

__all__ = ["APPLICATION_ID", "connect", "prepare_schema", "recognise", "require_durable"]

APPLICATION_ID = 0x50524455
"""``PRDU``: tells our files from other databases (https://sqlite.org/pragma.html#pragma_application_id)."""
SQLITE_MAGIC = b"SQLite format 3\x00"
APPLICATION_ID_AT = 68
HEADER_BYTES = 100
PAGE_BYTES = 4096
BUSY_TIMEOUT_MS = 5_000
"""How long a statement waits for another program that looks into the file."""
SYNCHRONOUS_FULL = 2
JOURNAL_SIZE_LIMIT_BYTES = 64 << 20
"""A WAL that grew beyond this behind a long reader is cut back when it starts over."""


def recognise(path: str, *, create: bool) -> None:
    """Refuse what can't be our database, without changing anything.

    Raises:
        StoreMissingError: there is no such directory, or no such file and none may be created.
        StoreForeignError: there is a file, and it is something else.
    """
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        raise StoreMissingError(f"the directory {directory} does not exist; create it, or choose another path")
    if os.path.isdir(path):
        raise StoreForeignError(f"{path} is a directory; name a file in it")
    try:
        with open(path, "rb") as file:
            header = file.read(HEADER_BYTES)
    except FileNotFoundError as error:
        if create:
            return
        raise StoreMissingError(f"there is no database at {path}; check the path") from error
    except OSError as error:
        raise StoreMissingError(f"{path} can't be read: {error.strerror}") from error
    if not header:
        return
    if not header.startswith(SQLITE_MAGIC):
        raise StoreForeignError(f"{path} is not a database; choose another path")
    # 0: nobody's. It may be a database of ours whose creation was interrupted; `prepare_schema` looks inside.
    if int.from_bytes(header[APPLICATION_ID_AT : APPLICATION_ID_AT + 4], "big") not in (0, APPLICATION_ID):
        raise StoreForeignError(f"{path} is a database of another program; choose another path")


def connect(path: str, *, vfs: str | None, cache_kib: int) -> apsw.Connection:
    """A connection to a database, its settings not yet checked (see `require_durable`)."""
    connection = apsw.Connection(path, apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE, vfs)
    connection.set_busy_timeout(BUSY_TIMEOUT_MS)
    for name, value in (
        ("page_size", PAGE_BYTES),
        # Until the WAL takes over: the deletion of a rollback journal, which is its commit, must be durable too. If a
        # power cut brought it back, it would undo the creation of tables that the WAL has rows for.
        ("synchronous", "EXTRA"),
        ("cache_size", -cache_kib),
        ("cell_size_check", "ON"),
        ("temp_store", "MEMORY"),
        # The writer checkpoints when a commit has been answered, and learns of errors; see writer.py.
        ("wal_autocheckpoint", 0),
        ("journal_size_limit", JOURNAL_SIZE_LIMIT_BYTES),
    ):
        set_pragma(connection, name, value)
    return connection


def require_durable(connection: apsw.Connection, path: str) -> None:
    """Enter WAL mode; refuse a connection whose commits might not be on disk when they are answered."""
    if set_pragma(connection, "journal_mode", "WAL") != "wal":
        raise StoreError(f"{path} can't keep a write-ahead log there; choose a directory on a local disk")
    set_pragma(connection, "synchronous", "FULL")
    if get_pragma(connection, "synchronous") != SYNCHRONOUS_FULL:
        raise StoreError(f"{path}: this SQLite does not synchronise fully; nothing would be safe with it")


def prepare_schema(connection: apsw.Connection, path: str) -> None:
    """Create or migrate the tables, one transaction a step.

    Raises:
        StoreForeignError: the database has tables, and they are not ours.
        StoreNewerError: a newer Perdure has changed them.
    """
    if connection.readonly("main"):
        raise StoreMissingError(f"{path} can't be written; check its permissions")
    migrations = load_migrations()
    newest = migrations[-1][0]
    application_id = get_pragma(connection, "application_id")
    version = get_pragma(connection, "user_version")
    if application_id != APPLICATION_ID:
        if version != 0 or execute(connection, load_statements("queries.sql")["count_tables"]).fetchall() != [(0,)]:
            raise StoreForeignError(f"{path} is a database of another program; choose another path")
    if version > newest:
        raise StoreNewerError(
            f"{path} was written by a newer Perdure (schema {version}, this one knows {newest}); "
            "upgrade Perdure, or restore a backup made before the upgrade"
        )
    for number, script in migrations[version:]:
        execute(connection, "BEGIN IMMEDIATE")
        try:
            execute(connection, script)
            if number in FILL:
                FILL[number](connection)
            set_pragma(connection, "application_id", APPLICATION_ID)
            set_pragma(connection, "user_version", number)
            execute(connection, "COMMIT")
        except BaseException:
            if connection.in_transaction:
                execute(connection, "ROLLBACK")
            raise
