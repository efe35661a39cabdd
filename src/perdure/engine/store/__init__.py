"""Where runs are kept: the Store port, and its implementations in memory and on SQLite.

The SQLite store is imported from `perdure.engine.store.sqlite` by whoever wants a file, so that tests in memory load no
database library.
"""

from perdure.engine.store.memory import CommitHook, MemoryState, MemoryStore
from perdure.engine.store.port import (
    AttributesRow,
    Batch,
    CurrentRow,
    HistoryRow,
    ItemRow,
    LoadedRun,
    RunRow,
    ScheduleRow,
    Store,
    StoreCorruptError,
    StoreError,
    StoreFencedError,
    StoreForeignError,
    StoreFullError,
    StoreLockedError,
    StoreMissingError,
    StoreNewerError,
    StoreWriteError,
    VisibilityPage,
    VisibilityRow,
)

__all__ = [
    "AttributesRow",
    "Batch",
    "CommitHook",
    "CurrentRow",
    "HistoryRow",
    "ItemRow",
    "LoadedRun",
    "MemoryState",
    "MemoryStore",
    "RunRow",
    "ScheduleRow",
    "Store",
    "StoreCorruptError",
    "StoreError",
    "StoreFencedError",
    "StoreForeignError",
    "StoreFullError",
    "StoreLockedError",
    "StoreMissingError",
    "StoreNewerError",
    "StoreWriteError",
    "VisibilityPage",
    "VisibilityRow",
]
