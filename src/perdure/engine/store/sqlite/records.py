"""Rows as the bytes that cross into SQLite, and the checksum that seals them.

A commit hands SQLite arrays of records, one record a row: fixed-width decimal numbers in front, then texts and bytes;
`sql/commit.sql` takes them apart. That costs a tenth of binding each value, and SQLite works through all of them
without the interpreter's lock. Widths are checked here, so that a number too long can't shift what follows it.

The bytes of runs, items and history are sealed: four bytes at their end hold the CRC-32 of the row's key and the bytes
before. SQLite would hand out a flipped bit without noticing; `unseal` notices, and names the run.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import NamedTuple
from zlib import crc32

from perdure.engine.store.port import (
    AttributesRow,
    Batch,
    CurrentRow,
    HistoryRow,
    ItemRow,
    RunRow,
    StoreCorruptError,
    VisibilityRow,
)
from perdure.engine.store.sqlite.driver import CArray, carray

__all__ = ["Packed", "history_row", "item_row", "pack", "run_row"]

SEAL_BYTES = 4
EVENT_KEY_BYTES = 22
RUN_KEY_BYTES = 33
CURRENT_KEY_BYTES = 18
VISIBILITY_KEY_BYTES = 132
ATTRIBUTE_KEY_BYTES = 47
BLOB_KEY_BYTES = 6
SCHEDULE_KEY_BYTES = 12
VISIBILITY_CHANGES = 3
"""Rows that writing one visibility row changes: itself, and two counters (see the migrations)."""
NONE_MS = -1
"""Stands for an absent instant in a record."""


class Packed(NamedTuple):
    """A batch, ready to be written."""

    arguments: tuple[CArray | int | None, ...]
    """Of the statement `batch_insert`."""
    upserts: int
    """How many rows it writes, deletes not counted."""


def pack(epoch: int, batch: Batch) -> Packed:
    """The arguments of one commit.

    Raises:
        ValueError: a number or text is larger than its place in a record; nothing should be written.
    """
    histories = _event_records(batch.histories)
    runs = _run_records(batch.runs)
    items = _event_records(batch.items)
    currents = [_current_record(row) for row in batch.currents]
    visibility = [_visibility_record(row) for row in batch.visibility]
    attributes = [record for row in batch.attributes for record in _attribute_records(row)]
    namespaces = [_blob_record(name, data) for name, data in batch.namespaces]
    metas = [_blob_record(name, data) for name, data in batch.metas]
    definitions = [
        _schedule_record(row.namespace, row.schedule_id, row.definition)
        for row in batch.schedules
        if row.definition is not None
    ]
    return Packed(
        (
            epoch,
            bool(batch.item_deletes or batch.run_deletes or batch.namespace_deletes),
            _array(histories),
            _array(runs),
            _array(items),
            _array([_event_head(run_key, event_id) for run_key, event_id in batch.item_deletes]),
            _array(currents),
            _array(visibility),
            _array(namespaces),
            _array(metas),
            carray(array("q", batch.run_deletes)) if batch.run_deletes else None,
            bool(batch.attributes),
            carray(array("q", [row.run_key for row in batch.attributes])) if batch.attributes else None,
            _array(attributes),
            _array([name.encode() for name in batch.namespace_deletes]),
            bool(batch.schedules or batch.schedule_deletes),
            _array(definitions),
            _array([_schedule_record(row.namespace, row.schedule_id, row.state) for row in batch.schedules]),
            _array([_schedule_record(*key, b"") for key in batch.schedule_deletes]),
        ),
        len(histories)
        + len(runs)
        + len(items)
        + len(currents)
        + VISIBILITY_CHANGES * len(visibility)
        + len(attributes)
        + len(namespaces)
        + len(metas)
        + len(definitions)
        + len(batch.schedules),
    )


def history_row(run_key: int, first_event_id: int, sealed: bytes) -> HistoryRow:
    """A history row as read; raises StoreCorruptError if it is not what was written."""
    what = "the history of run", f"events from {first_event_id}"
    return HistoryRow(run_key, first_event_id, _unseal(_event_head(run_key, first_event_id), sealed, run_key, *what))


def item_row(run_key: int, event_id: int, sealed: bytes) -> ItemRow:
    """An item as read; raises StoreCorruptError if it is not what was written."""
    what = "a pending item of run", f"event {event_id}"
    return ItemRow(run_key, event_id, _unseal(_event_head(run_key, event_id), sealed, run_key, *what))


def run_row(run_key: int, run_id: str, wake_at_ms: int | None, sealed: bytes) -> RunRow:
    """A run's row as read; raises StoreCorruptError if it is not what was written."""
    head = _run_head(run_key, run_id, wake_at_ms)
    return RunRow(run_key, run_id, wake_at_ms, _unseal(head, sealed, run_key, "the state of run", run_id))


def _array(records: list[bytes]) -> CArray | None:
    return carray(tuple(records)) if records else None


def _unseal(head: bytes, sealed: bytes, run_key: int, what: str, detail: str) -> bytes:
    data = sealed[:-SEAL_BYTES]
    if crc32(data, crc32(head)).to_bytes(SEAL_BYTES, "little") != sealed[-SEAL_BYTES:]:
        raise StoreCorruptError(
            f"{what} with key {run_key} ({detail}) is damaged: its checksum does not match. "
            "The disk or memory changed it after it was written; restore the database from a backup",
            run_key,
        )
    return data


def _event_head(run_key: int, event_id: int) -> bytes:
    head = b"%12d%10d" % (run_key, event_id)
    if len(head) != EVENT_KEY_BYTES:
        raise ValueError(f"run key {run_key} or event id {event_id} has too many digits")
    return head


def _event_records(rows: Iterable[tuple[int, int, bytes]]) -> list[bytes]:
    """Records of history rows and items; every commit's inner loop, so it calls nothing it need not."""
    records: list[bytes] = []
    for run_key, event_id, data in rows:
        head = b"%12d%10d" % (run_key, event_id)
        if len(head) != EVENT_KEY_BYTES:
            raise ValueError(f"run key {run_key} or event id {event_id} has too many digits")
        records.append(head + data + crc32(data, crc32(head)).to_bytes(SEAL_BYTES, "little"))
    return records


def _run_head(run_key: int, run_id: str, wake_at_ms: int | None) -> bytes:
    name = run_id.encode()
    return b"%12d%15d%6d%b" % (run_key, NONE_MS if wake_at_ms is None else wake_at_ms, len(name), name)


def _unfit_run(run_key: int, wake_at_ms: int | None) -> ValueError:
    if wake_at_ms is not None and wake_at_ms < 0:
        return ValueError(f"wake_at_ms {wake_at_ms} is negative")
    return ValueError(f"run key {run_key}, wake_at_ms {wake_at_ms} or a run id is too long")


def _run_records(rows: Iterable[RunRow]) -> list[bytes]:
    """Records of runs; every commit's other inner loop."""
    records: list[bytes] = []
    for run_key, run_id, wake_at_ms, state in rows:
        name = run_id.encode()
        size = len(name)
        head = b"%12d%15d%6d%b" % (run_key, NONE_MS if wake_at_ms is None else wake_at_ms, size, name)
        if len(head) != RUN_KEY_BYTES + size or (wake_at_ms is not None and wake_at_ms < 0):
            raise _unfit_run(run_key, wake_at_ms)
        records.append(head + state + crc32(state, crc32(head)).to_bytes(SEAL_BYTES, "little"))
    return records


def _current_record(row: CurrentRow) -> bytes:
    namespace, workflow_id, run_key = row
    name = namespace.encode()
    head = b"%12d%6d" % (run_key, len(name))
    if len(head) != CURRENT_KEY_BYTES:
        raise ValueError(f"run key {run_key} or a namespace is too long")
    return b"%b%b%b" % (head, name, workflow_id.encode())


def _visibility_record(row: VisibilityRow) -> bytes:
    close_ms = NONE_MS if row.close_ms is None else row.close_ms
    if row.close_ms is not None and row.close_ms < 0:
        raise ValueError(f"close_ms {close_ms} is negative")
    namespace, workflow_id, run_id = row.namespace.encode(), row.workflow_id.encode(), row.run_id.encode()
    workflow_type, task_queue = row.workflow_type.encode(), row.task_queue.encode()
    head = b"%12d%6d%15d%15d%15d%12d%15d%12d%6d%6d%6d%6d%6d" % (
        row.run_key,
        row.status,
        row.start_ms,
        row.execution_ms,
        close_ms,
        row.history_length,
        row.history_bytes,
        row.state_transitions,
        len(namespace),
        len(workflow_id),
        len(run_id),
        len(workflow_type),
        len(task_queue),
    )
    if len(head) != VISIBILITY_KEY_BYTES:
        raise ValueError(f"a number or text of the visibility row of run {row.run_key} is too long")
    return b"".join((head, namespace, workflow_id, run_id, workflow_type, task_queue, row.info))


def _attribute_records(row: AttributesRow) -> Iterable[bytes]:
    """A record for each value."""
    namespace = row.namespace.encode()
    for name, value_type, value in row.values:
        encoded = name.encode()
        number = b" " * 21 if isinstance(value, str) else b"%21d" % value
        head = b"%12d%2d%b%6d%6d" % (row.run_key, value_type, number, len(namespace), len(encoded))
        if len(head) != ATTRIBUTE_KEY_BYTES:
            raise ValueError(f"a number or name of a search attribute of run {row.run_key} is too long")
        yield b"".join((head, namespace, encoded, value.encode() if isinstance(value, str) else b""))


def _blob_record(name: str, data: bytes) -> bytes:
    encoded = name.encode()
    head = b"%6d" % len(encoded)
    if len(head) != BLOB_KEY_BYTES:
        raise ValueError("a name is too long")
    return b"%b%b%b" % (head, encoded, data)


def _schedule_record(namespace: str, schedule_id: str, data: bytes) -> bytes:
    names = namespace.encode(), schedule_id.encode()
    head = b"%6d%6d" % (len(names[0]), len(names[1]))
    if len(head) != SCHEDULE_KEY_BYTES:
        raise ValueError("the name of a namespace or a schedule is too long")
    return b"".join((head, *names, data))
