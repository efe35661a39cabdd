"""SQLite's errors in the port's words.

What matters is what may have happened to a write. A full disk is told before anything is durable, so nothing was
written. After any other failure of a write or fsync it is unknown what the disk holds, and a second fsync may succeed
although data was lost (https://wiki.postgresql.org/wiki/Fsync_Errors), so the store stops.
"""

from __future__ import annotations

import apsw

from perdure.engine.store.port import (
    StoreCorruptError,
    StoreError,
    StoreFencedError,
    StoreForeignError,
    StoreFullError,
    StoreMissingError,
    StoreWriteError,
)

__all__ = ["open_error", "read_error", "write_error"]


def open_error(path: str, error: apsw.Error) -> StoreError:
    """What kept a database from being opened."""
    match error:
        case apsw.NotADBError():
            return StoreForeignError(f"{path} is not a database; choose another path")
        case apsw.CantOpenError() | apsw.PermissionsError() | apsw.ReadOnlyError():
            return StoreMissingError(
                f"{path} can't be opened for writing: {error}. Check the directory and permissions"
            )
        case apsw.CorruptError():
            return StoreCorruptError(f"{path} is damaged ({error}); restore it from a backup")
        case apsw.FullError():
            return StoreFullError(f"no space left for {path}; make room and open it again")
        case apsw.BusyError():
            return StoreError(f"{path} is being written by another program ({error}); close it there and try again")
        case apsw.IOError():
            return StoreWriteError(f"{path}: reading or writing failed ({error}); check the disk and open it again")
        case _:
            return StoreError(f"{path} can't be opened: {error}")


def read_error(path: str, error: apsw.Error | UnicodeError, run_key: int | None = None) -> StoreError:
    """What kept rows from being read; `run_key` is the run asked for, if it was one."""
    match error:
        case apsw.CorruptError() | apsw.NotADBError() | UnicodeError():
            of_run = f", reading run {run_key}" if run_key is not None else ""
            return StoreCorruptError(f"{path} is damaged{of_run} ({error}); restore it from a backup", run_key)
        case _:
            return StoreError(f"{path} can't be read: {error}")


def write_error(path: str, error: Exception) -> StoreError:
    """What became of a commit."""
    match error:
        case apsw.FullError():
            return StoreFullError(f"no space left to write {path}; nothing was written: make room and try again")
        case apsw.ConstraintError() if "perdure: fenced" in str(error):
            return StoreFencedError(f"{path} has been claimed by another engine; nothing was written")
        case apsw.ConstraintError():
            return StoreError(f"{path}: a row was to be written twice ({error}); nothing was written")
        case apsw.BusyError():
            return StoreError(f"{path} is being written by another program; nothing was written: close it there")
        case apsw.CorruptError() | apsw.NotADBError():
            return StoreCorruptError(f"{path} is damaged ({error}); nothing was written: restore it from a backup")
        case apsw.NoMemError() | apsw.TooBigError():
            return StoreError(f"{path}: the commit was too large ({error}); nothing was written")
        case _:
            return StoreWriteError(
                f"writing {path} failed ({error}), and whether the last commit is on disk is unknown. "
                "Check the disk, then start again: what was acknowledged before is safe"
            )
