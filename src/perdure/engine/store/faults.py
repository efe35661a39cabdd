"""A disk that fails on purpose: a SQLite VFS for tests.

`FaultDisk` passes every call on to the operating system's VFS, remembers what has been synchronised, and can

- run out of space (`full`), or fail to synchronise (`broken`);
- say what a power cut at this moment would leave behind (`power_cut`). What was written since a file's last fsync may
  be missing, torn or in another order than it was written; a file created or deleted may be there or not, unless the
  directory was synchronised. What was synchronised is there.

A disk knows the files under one directory. Shared memory is not a file to it: a power cut leaves none.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, cast

import apsw

__all__ = ["Chance", "FaultDisk"]

SECTOR_BYTES = 512
"""What a disk writes whole."""
SHARED_MEMORY = "-shm"


class Chance(Protocol):
    """Where a power cut's choices come from: a ``random.Random`` will do."""

    def random(self) -> float: ...
    def shuffle(self, x: list[Any], /) -> None: ...


class Write(NamedTuple):
    """A write or, without data, a truncation that has not been synchronised."""

    offset: int
    data: bytes | None


@dataclass(slots=True)
class FileRecord:
    """What the disk holds of a file for certain, and what it may hold."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[Write] = field(default_factory=list[Write])
    is_entered: bool = False
    """Its name is in the directory for certain."""
    is_deleted: bool = False
    """Deleted, but its name may still be in the directory."""

    def sync(self) -> None:
        for write in self.pending:
            _apply(self.durable, write)
        self.pending.clear()
        self.is_entered = True


class FaultFile(apsw.VFSFile):
    """A file on the disk."""

    def __init__(self, disk: FaultDisk, name: Any, flags: list[int]) -> None:
        # Temporary files have no name and outlive no power cut.
        self._disk = disk
        self._path = None if name is None else str(name if isinstance(name, str) else name.filename())
        super().__init__("", name, flags)
        if self._path is not None:
            disk.opened(self._path)

    def xWrite(self, data: Any, offset: int) -> None:
        if self._path is not None:
            self._disk.writing(self._path, Write(offset, bytes(data)))
        cast(Any, super()).xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:
        if self._path is not None:
            self._disk.writing(self._path, Write(newsize, None))
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:
        if self._path is not None:
            self._disk.syncing(self._path)
        super().xSync(flags)


class FaultDisk(apsw.VFS):
    """A VFS by the name given, which faults can be turned on in.

    Args:
        name: to hand to `SqliteStore(vfs=…)`; unique in the process.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name, "")
        self.name = name
        self.full = False
        """No write succeeds that would have to be made now."""
        self.broken: str | None = None
        """Files whose name ends with this can't be synchronised; "" = none can, None = all can."""
        self.on_operation: Callable[[int], None] | None = None
        """Called before each operation that changes the disk, with its number, counted from 1."""
        self.operations = 0
        self._files: dict[str, FileRecord] = {}
        self._guard = threading.RLock()

    def xOpen(self, name: Any, flags: list[int]) -> FaultFile:
        return FaultFile(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        with self._guard:
            self._operate()
            record = self._files.get(filename)
            if record is not None and (syncdir or not record.is_entered):
                del self._files[filename]
            elif record is not None:
                record.is_deleted = True
        super().xDelete(filename, syncdir)

    def opened(self, path: str) -> None:
        with self._guard:
            record = self._files.get(path)
            if record is None:
                self._files[path] = FileRecord(bytearray(_read(path)), is_entered=os.path.getsize(path) > 0)
            elif record.is_deleted:
                # A new file of the old name; should the cut come before its first fsync, the old one may be back.
                record.pending.append(Write(0, None))
                record.is_deleted = False

    def writing(self, path: str, write: Write) -> None:
        with self._guard:
            self._operate()
            if self.full:
                raise apsw.FullError("injected: no space left")
            self._files[path].pending.append(write)

    def syncing(self, path: str) -> None:
        with self._guard:
            self._operate()
            if self.broken is not None and path.endswith(self.broken):
                raise apsw.IOError("injected: fsync failed")
            self._files[path].sync()

    def power_cut(self, chance: Chance) -> dict[str, bytes]:
        """What a power cut now would leave, by path. The disk itself goes on."""
        with self._guard:
            return {path: left for path, record in self._files.items() if (left := _left(record, chance)) is not None}

    def _operate(self) -> None:
        self.operations += 1
        if self.on_operation is not None:
            self.on_operation(self.operations)


def _left(record: FileRecord, chance: Chance) -> bytes | None:
    """What is left of a file, None if nothing is."""
    if (record.is_deleted or not record.is_entered) and chance.random() < 0.5:
        return None
    content = bytearray(record.durable)
    if record.is_deleted:
        return bytes(content)
    writes = [part for write in record.pending for part in _torn(write, chance)]
    if chance.random() < 0.5:
        chance.shuffle(writes)
    keep = chance.random()
    for write in writes:
        if chance.random() < keep:
            _apply(content, write)
    return bytes(content)


def _torn(write: Write, chance: Chance) -> list[Write]:
    """A write as one, or as the sectors it consists of."""
    if write.data is None or chance.random() < 0.5:
        return [write]
    parts: list[Write] = []
    at = 0
    while at < len(write.data):
        size = SECTOR_BYTES - (write.offset + at) % SECTOR_BYTES
        parts.append(Write(write.offset + at, write.data[at : at + size]))
        at += size
    return parts


def _apply(content: bytearray, write: Write) -> None:
    if write.data is None:
        del content[write.offset :]
        return
    end = write.offset + len(write.data)
    if len(content) < end:
        content.extend(bytes(end - len(content)))
    content[write.offset : end] = write.data


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
