"""The writer: one thread, one connection, one statement a commit.

The event loop packs a batch and hands it over (`write_nowait`); the thread runs the one statement that writes it, and
calls the loop back. In between the thread needs the interpreter's lock twice for a moment, to start the statement and
to report, however large the batch is.

The WAL is checkpointed here, after a commit has been answered and only when it has grown by CHECKPOINT_PAGES: the next
commit may wait for that some milliseconds, none is answered late because of it, and reads go on. Readers hold no
transaction open between calls, so a checkpoint always reaches the end and the WAL starts over.

Errors absorb: after a write whose outcome is unknown, or once fenced, every commit gets the same refusal, unwritten.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from queue import SimpleQueue
from typing import NamedTuple

import apsw

from perdure.engine.store.port import StoreError, StoreFencedError, StoreWriteError
from perdure.engine.store.sqlite.driver import execute
from perdure.engine.store.sqlite.errors import write_error
from perdure.engine.store.sqlite.records import Packed

__all__ = ["Writer"]

CHECKPOINT_PAGES = 2_048
"""Pages written to the WAL between checkpoints: 8 MiB."""


class Job(NamedTuple):
    """One commit on its way to the thread and back."""

    packed: Packed
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[None]


class Writer:
    """Runs commits in order. Owns the connection from `start` until `stop` has returned."""

    def __init__(self, connection: apsw.Connection, statement: str, path: str) -> None:
        self._connection = connection
        self._statement = statement
        self._path = path
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="perdure-writer", daemon=True)
        self._failure: StoreError | None = None
        self._checkpointed_pages = 0
        """Pages the connection had written when it last checkpointed."""

    @property
    def failure(self) -> StoreError | None:
        """Why nothing can be written any more; None while all is well."""
        return self._failure

    def start(self) -> None:
        self._checkpointed_pages = self._written_pages()
        self._thread.start()

    def stop(self) -> None:
        """Finish what was handed over and end the thread. Blocks; harmless twice."""
        self._jobs.put(None)
        self._thread.join()

    def write_nowait(self, packed: Packed) -> asyncio.Future[None]:
        """Hand a batch over; the future ends when it is durable, or with a StoreError."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._jobs.put(Job(packed, loop, done))
        return done

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            error = self._write(job.packed)
            # The loop may be gone if the process is on its way out; nobody waits for the answer then.
            with suppress(RuntimeError):
                job.loop.call_soon_threadsafe(_settle, job.done, error)
            del job
            self._checkpoint_if_grown()

    def _write(self, packed: Packed) -> StoreError | None:
        if self._failure is not None:
            return _again(self._failure)
        changed = self._connection.total_changes()
        try:
            execute(self._connection, self._statement, packed.arguments)
        except Exception as error:
            # Whatever it is goes to the caller: a thread that died of it would leave every caller waiting.
            failure = write_error(self._path, error)
            if isinstance(failure, StoreWriteError | StoreFencedError) or self._connection.in_transaction:
                self._failure = failure
            return failure
        if self._connection.total_changes() - changed < packed.upserts or self._connection.in_transaction:
            self._failure = StoreWriteError(f"{self._path}: SQLite wrote fewer rows than it was given; report this")
        return self._failure

    def _checkpoint_if_grown(self) -> None:
        if self._failure is not None:
            return
        try:
            written = self._written_pages()
            if written - self._checkpointed_pages < CHECKPOINT_PAGES:
                return
            self._checkpointed_pages = written
            self._connection.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_PASSIVE)
        except (apsw.FullError, apsw.BusyError):
            # The WAL keeps what could not be moved; the next time will do.
            return
        except Exception as error:
            self._failure = write_error(self._path, error)

    def _written_pages(self) -> int:
        return self._connection.status(apsw.SQLITE_DBSTATUS_CACHE_WRITE)[0]


def _again(failure: StoreError) -> StoreError:
    """The same refusal as a new exception: one object raised many times would gather their tracebacks."""
    return type(failure)(str(failure))


def _settle(done: asyncio.Future[None], error: StoreError | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
