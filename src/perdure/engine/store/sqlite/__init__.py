"""The Store on SQLite: one file, one writer, nothing acknowledged before it is on disk."""

from perdure.engine.store.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
