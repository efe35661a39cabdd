"""The Store port: what the engine needs of a database, small and dumb.

A store keeps rows and knows nothing of workflows: what rows mean lives once, in ``engine.history`` and
``engine.shard``. It offers one fenced, atomic write (`Store.commit`), point and range reads, and a claim that
makes this process the owner. Reads see everything whose commit has been answered.

Rows:

- **runs**: one row a run: its encoded mutable state, and `wake_at_ms`, the one number that tells a restarted
  engine when the run needs it: 0 = now (it has tasks to hand out or messages to deliver), n = its earliest
  durable deadline, None = it waits for something outside. A closed run's wake is the end of its retention.
- **items**: pending items (activities, timers, children, …) of runs that have too many to rewrite with each
  commit; keyed by the event id that created them.
- **history**: append-only; a row is a batch of consecutive events as serialized ``History`` bytes (they
  concatenate), keyed by (run, first event id).
- **current**: the latest run of each (namespace, workflow id).
- **visibility**: one row a run, what list and count need.
- **attributes**: the search attributes of a run that has any, and whose child it is.
- **schedules**: what each was asked to be, written when that changes, and how far it is.
- **namespaces**, and **meta** (small named blobs, e.g. the token key).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from perdure.engine.visibility.expressions import Attribute, Position, Value, VisibilityQuery

__all__ = [
    "AttributesRow",
    "Batch",
    "CurrentRow",
    "HistoryRow",
    "ItemRow",
    "LoadedRun",
    "RunRow",
    "ScheduleRow",
    "Store",
    "StoreError",
    "StoreFencedError",
    "StoreForeignError",
    "StoreFullError",
    "StoreLockedError",
    "StoreMissingError",
    "StoreNewerError",
    "StoreCorruptError",
    "StoreWriteError",
    "VisibilityPage",
    "VisibilityRow",
]


class StoreError(Exception):
    """The store can't do what was asked. The message says what to do next."""


class StoreMissingError(StoreError):
    """The place the database should be in does not exist or can't be written."""


class StoreForeignError(StoreError):
    """The file is a database, or not even that, but not one of Perdure's."""


class StoreNewerError(StoreError):
    """The schema was written by a newer Perdure."""


class StoreLockedError(StoreError):
    """Another process owns the database. `pid` names it where known."""

    def __init__(self, message: str, pid: int | None = None) -> None:
        super().__init__(message)
        self.pid = pid


class StoreFullError(StoreError):
    """No space is left. Nothing of the batch was written; reads go on; retry when space has returned."""


class StoreWriteError(StoreError):
    """A write or fsync failed. Whether the batch is durable is unknown: stop, and recover by reopening."""


class StoreFencedError(StoreError):
    """Another owner has claimed the store since; nothing of the batch was written."""


class StoreCorruptError(StoreError):
    """A row can't be what was written (checksum or framing). Names the run; retrying does not help.

    `run_key` is that run's; None if the damage is to something else.
    """

    def __init__(self, message: str, run_key: int | None = None) -> None:
        super().__init__(message)
        self.run_key = run_key


class RunRow(NamedTuple):
    """A run's mutable state; replaces the row with the same run_key."""

    run_key: int
    run_id: str
    wake_at_ms: int | None
    state: bytes


class ItemRow(NamedTuple):
    """A pending item of a run with many of them."""

    run_key: int
    event_id: int
    data: bytes


class HistoryRow(NamedTuple):
    """A batch of consecutive events; `data` is serialized ``History`` bytes."""

    run_key: int
    first_event_id: int
    data: bytes


class CurrentRow(NamedTuple):
    """The latest run of a workflow id; replaces the row with the same (namespace, workflow_id)."""

    namespace: str
    workflow_id: str
    run_key: int


class VisibilityRow(NamedTuple):
    """What list and count know of a run; replaces the row with the same run_key.

    What a run began with never changes: namespace, ids, type, start. A store need not look at them again.
    """

    run_key: int
    namespace: str
    workflow_id: str
    run_id: str
    workflow_type: str
    task_queue: str
    status: int
    """A ``WorkflowExecutionStatus`` value."""
    start_ms: int
    execution_ms: int
    """When the first workflow task was due (start + start delay)."""
    close_ms: int | None
    history_length: int
    """0 until closed."""
    history_bytes: int
    info: bytes
    """A serialized ``WorkflowExecutionInfo`` holding the rest (memo, parent, search attributes…)."""
    state_transitions: int = 0
    """0 until closed."""


class AttributesRow(NamedTuple):
    """All search attributes of a run that are kept apart; replaces what there was."""

    run_key: int
    namespace: str
    values: tuple[tuple[str, int, Value], ...]
    """(name, type, value), none twice; an attribute with several values is there with each."""


class ScheduleRow(NamedTuple):
    """A schedule; replaces the row with the same namespace and id."""

    namespace: str
    schedule_id: str
    definition: bytes | None
    """What it was asked to be; None, in a batch only, = as it is (then the row is there)."""
    state: bytes
    """How far it is."""


@dataclass(slots=True)
class Batch:
    """Everything one commit writes, atomically, in this order: upserts first, then deletes."""

    histories: list[HistoryRow] = field(default_factory=list[HistoryRow])
    runs: list[RunRow] = field(default_factory=list[RunRow])
    items: list[ItemRow] = field(default_factory=list[ItemRow])
    item_deletes: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """(run_key, event_id) of items that are gone; deleting an absent one is harmless."""
    currents: list[CurrentRow] = field(default_factory=list[CurrentRow])
    visibility: list[VisibilityRow] = field(default_factory=list[VisibilityRow])
    attributes: list[AttributesRow] = field(default_factory=list[AttributesRow])
    """One a run at most."""
    namespaces: list[tuple[str, bytes]] = field(default_factory=list[tuple[str, bytes]])
    metas: list[tuple[str, bytes]] = field(default_factory=list[tuple[str, bytes]])
    namespace_deletes: list[str] = field(default_factory=list[str])
    """Namespaces to forget; they have no runs any more."""
    run_deletes: list[int] = field(default_factory=list[int])
    """Runs to erase: their run, items, history, visibility, attributes rows, and the current row if it names them."""
    schedules: list[ScheduleRow] = field(default_factory=list[ScheduleRow])
    """One a schedule at most."""
    schedule_deletes: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """(namespace, schedule_id); none that is also in `schedules`."""


class LoadedRun(NamedTuple):
    """A run as read back."""

    row: RunRow
    items: list[ItemRow]


class VisibilityPage(NamedTuple):
    """Part of a list."""

    rows: list[VisibilityRow]
    next: Position | None
    """The place of the last row, to go on after; None if it ends the list."""


class Store(Protocol):
    """A database, as the engine sees it. Every method but `open` and `close` may raise `StoreError`."""

    async def open(self) -> None:
        """Claim ownership, migrate the schema, make ready.

        Raises:
            StoreLockedError: another process owns it; retry when that process is gone.
            StoreForeignError, StoreNewerError, StoreMissingError: retrying does not help.
        """
        ...

    async def close(self) -> None:
        """Finish the write in flight and release ownership. Harmless twice, or before open."""
        ...

    async def commit(self, batch: Batch) -> None:
        """Write the batch atomically and durably. One call at a time.

        Raises:
            StoreFullError: nothing was written; may be retried.
            StoreWriteError: the outcome is unknown; the store refuses every later commit.
            StoreFencedError: ownership was lost; the store refuses every later commit.
        """
        ...

    async def max_run_key(self) -> int:
        """The largest run_key ever written that is still there, 0 if none."""
        ...

    async def load_run(self, run_key: int) -> LoadedRun | None: ...

    async def current_run(self, namespace: str, workflow_id: str) -> int | None:
        """The run_key of the latest run of a workflow id."""
        ...

    async def find_run(self, namespace: str, workflow_id: str, run_id: str) -> int | None:
        """The run_key of one run; None unless all three match."""
        ...

    async def read_history(self, run_key: int, first_event_id: int, max_bytes: int) -> list[HistoryRow]:
        """Batches in order, starting with the one that contains `first_event_id`.

        At least one batch if there is any; stops after the batch that reaches `max_bytes`.
        """
        ...

    async def read_history_reverse(self, run_key: int, last_event_id: int, max_bytes: int) -> list[HistoryRow]:
        """Batches in reverse order, starting with the one that contains `last_event_id`."""
        ...

    async def due_runs(self, until_ms: int, after: tuple[int, int] | None, limit: int) -> list[tuple[int, int]]:
        """(wake_at_ms, run_key) of runs whose wake is ≤ `until_ms`, in that order, after the pair `after`."""
        ...

    async def list_visibility(self, query: VisibilityQuery, after: Position | None, limit: int) -> VisibilityPage:
        """The runs that fit, in the query's order, after the place `after`."""
        ...

    async def count_visibility(self, query: VisibilityQuery) -> int:
        """How many runs fit. Without a condition, or by status and type alone, it takes no longer for more runs."""
        ...

    async def group_visibility(self, query: VisibilityQuery, by: Attribute, limit: int) -> list[tuple[Value, int]]:
        """How many of the runs that fit have each value of an attribute, in order of the values.

        Runs without it are left out. At most `limit` groups.
        """
        ...

    async def load_schedules(self, after: tuple[str, str], limit: int) -> list[ScheduleRow]:
        """Schedules whose (namespace, schedule_id) is greater than `after`, in that order."""
        ...

    async def load_namespaces(self) -> list[tuple[str, bytes]]: ...

    async def load_meta(self, name: str) -> bytes | None: ...
