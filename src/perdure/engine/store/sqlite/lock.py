"""One owner a database: an advisory lock beside the file.

The lock is a POSIX record lock on ``<database>-lock``. The kernel frees it when its process dies, however it dies, and
a forked child does not inherit it, so an orphaned worker process can't keep a dead engine's database. It is not on the
database file itself: closing any descriptor of that file would free it, and SQLite's own locks with it. The side file
holds the owner's pid for whoever is refused, and stays: removing it would let two processes lock two files of one name.

Record locks don't exclude their own process, so a table of the files locked by this process does.
"""

from __future__ import annotations

import fcntl
import os
import threading
from contextlib import suppress

from perdure.engine.store.port import StoreLockedError, StoreMissingError

__all__ = ["FileLock"]

_guard = threading.Lock()
_held: dict[tuple[int, int], int] = {}
"""(device, inode) of the side files locked → pid of the process that did it; a forked child inherits the table only."""


class FileLock:
    """The lock of one database; `acquire` never waits."""

    def __init__(self, database_path: str) -> None:
        self._database_path = database_path
        self._path = database_path + "-lock"
        self._descriptor: int | None = None
        self._identity = (0, 0)

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            StoreLockedError: another process has it, or this one does already.
            StoreMissingError: the side file can't be written.
        """
        assert self._descriptor is None
        with _guard:
            self._refuse_if_held_here()
            try:
                descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            except OSError as error:
                raise StoreMissingError(
                    f"can't write {self._path}: {error.strerror}. The directory must be writable, "
                    "and so must be a database opened before"
                ) from error
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                pid = _read_pid(descriptor)
                os.close(descriptor)
                raise StoreLockedError(self._refusal(pid), pid) from error
            status = os.fstat(descriptor)
            self._identity = (status.st_dev, status.st_ino)
            self._descriptor = descriptor
            _held[self._identity] = os.getpid()
            # The lock holds without its pid: a full disk is no reason not to open.
            with suppress(OSError):
                os.truncate(descriptor, 0)
                os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)

    def release(self) -> None:
        """Give the lock up; harmless if it is not held."""
        with _guard:
            if self._descriptor is None:
                return
            os.close(self._descriptor)
            self._descriptor = None
            _held.pop(self._identity, None)

    def _refuse_if_held_here(self) -> None:
        """Before the side file is opened: closing another descriptor of it would free the lock we have."""
        try:
            status = os.stat(self._path)
        except OSError:
            return
        if _held.get((status.st_dev, status.st_ino)) == os.getpid():
            raise StoreLockedError(self._refusal(os.getpid()), os.getpid())

    def _refusal(self, pid: int | None) -> str:
        if pid == os.getpid():
            return f"{self._database_path} is already open in this process (pid {pid}); close that engine first"
        holder = f"process {pid}" if pid else "another process"
        return f"{self._database_path} is in use by {holder}, which does not share it: stop that one first"


def _read_pid(descriptor: int) -> int | None:
    text = os.pread(descriptor, 32, 0).strip()
    return int(text) if text.isdigit() else None
