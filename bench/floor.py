"""The physical floor: what the disk and SQLite alone can do here, so that the other figures can be read."""

from __future__ import annotations

import os
import time
from pathlib import Path

import apsw

SYNCS = 2_000
SINGLE_COMMITS = 3_000
BATCHES = 500
BATCH_ROWS = 100
ROW_BYTES = 600


def measure(folder: Path) -> dict[str, float]:
    """fdatasync calls, single-row commits and rows in batches, each per second."""
    return {
        "fdatasync_per_s": _syncs_per_s(folder / "floor.bin"),
        "commits_per_s": _rows_per_s(folder / "floor-1.db", SINGLE_COMMITS, 1),
        "rows_per_s_in_batches_of_100": _rows_per_s(folder / "floor-100.db", BATCHES, BATCH_ROWS),
        "rows_per_s_in_one_transaction": _rows_per_s(folder / "floor-all.db", 1, 200_000),
    }


def _syncs_per_s(file: Path) -> float:
    handle = os.open(file, os.O_WRONLY | os.O_CREAT)
    try:
        block = b"x" * 4096
        begin = time.perf_counter()
        for number in range(SYNCS):
            os.pwrite(handle, block, number * 4096)
            os.fdatasync(handle)
        return SYNCS / (time.perf_counter() - begin)
    finally:
        os.close(handle)


def _rows_per_s(file: Path, commits: int, rows: int) -> float:
    connection = apsw.Connection(str(file))
    connection.pragma("journal_mode", "wal")
    connection.pragma("synchronous", "full")
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, data BLOB)")
    data = b"x" * ROW_BYTES
    begin = time.perf_counter()
    for _ in range(commits):
        with connection:
            connection.executemany("INSERT INTO t (data) VALUES (?)", [(data,)] * rows)
    took_s = time.perf_counter() - begin
    connection.close()
    return commits * rows / took_s
