"""Engines in this process: the one bridge between the SDK and the engine.

A target names a place: ``sqlite:orders.db`` or a plain path is a database file, ``memory:`` (or ``memory:name``) lives
as long as somebody holds it. `open_service` answers a lease on the engine of that place. There is one engine for each
place in the process, counted by its leases: the first starts it, the last one released stops it.

An engine belongs to the event loop it was started on. One left behind by a loop that has been closed without releasing
it is closed when the place is opened again; what it had acknowledged is on disk.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from dataclasses import dataclass

from perdure.api import RpcError, WorkflowService
from perdure.engine import Engine, EngineConfig
from perdure.engine.history import Limits
from perdure.engine.store.memory import MemoryStore
from perdure.engine.store.port import (
    Store,
    StoreCorruptError,
    StoreError,
    StoreForeignError,
    StoreFullError,
    StoreLockedError,
    StoreMissingError,
    StoreNewerError,
)
from perdure.engine.store.sqlite import SqliteStore
from perdure.exceptions import (
    DatabaseDamagedError,
    DatabaseError,
    DatabaseForeignError,
    DatabaseFullError,
    DatabaseLockedError,
    DatabaseMissingError,
    DatabaseNewerError,
    TargetError,
)

__all__ = ["Lease", "Limits", "Place", "open_service", "place_of"]

_HOST_AND_PORT = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^/\\:]+):\d+")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(.*)", re.DOTALL)
_SERVER_SCHEMES = frozenset({"http", "https", "grpc", "tcp", "temporal"})

_ERRORS: tuple[tuple[type[StoreError], Callable[[str], DatabaseError]], ...] = (
    (StoreMissingError, DatabaseMissingError),
    (StoreForeignError, DatabaseForeignError),
    (StoreNewerError, DatabaseNewerError),
    (StoreFullError, DatabaseFullError),
    (StoreCorruptError, DatabaseDamagedError),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a target's workflows are kept.

    Attributes:
        kind: "sqlite" or "memory".
        name: the file's real path, or the memory's name.
    """

    kind: str
    name: str

    def make_store(self) -> Store:
        """A store for it, not opened yet."""
        return SqliteStore(self.name) if self.kind == "sqlite" else MemoryStore()


def place_of(target: str | os.PathLike[str]) -> Place:
    """The place a target names.

    Raises:
        TargetError: it names none; the message says which forms there are.
    """
    text = os.fsdecode(target)
    forms = 'give a database file ("orders.db" or "sqlite:orders.db") or "memory:"'
    if not text:
        raise TargetError(f"the target is empty: {forms}")
    if _HOST_AND_PORT.fullmatch(text):
        raise TargetError(
            f"{text!r} is the address of a server, which this version cannot connect to yet: it runs the engine in "
            f"this process; {forms}"
        )
    found = _SCHEME.fullmatch(text)
    scheme, rest = (found[1].lower(), found[2]) if found else ("sqlite", text)
    if rest == ":memory:" or (scheme == "sqlite" and rest.startswith("//")):
        other = (
            '"memory:" is what keeps nothing' if rest.endswith(":memory:") else "a file's path follows the first colon"
        )
        raise TargetError(f"{text!r} is how other libraries say it: {other}; {forms}")
    if scheme == "memory":
        return Place(kind="memory", name=rest)
    if scheme == "sqlite":
        if not rest:
            raise TargetError(f"{text!r} names no file: {forms}")
        return Place(kind="sqlite", name=os.path.realpath(rest))
    if scheme in _SERVER_SCHEMES or scheme.startswith("postgres"):
        raise TargetError(f"{text!r} needs a server, which this version does not have yet; {forms}")
    raise TargetError(f"{text!r} names no kind of place this version knows; {forms}")


class Lease:
    """A claim on a running engine.

    Attributes:
        service: the engine's calls.
        engine: the engine itself, for statistics and tests.
    """

    def __init__(self, running: _Running) -> None:
        self._running: _Running | None = running
        self.engine = running.engine
        assert running.service is not None, "a lease is made once the engine runs"
        self.service: WorkflowService = running.service

    @property
    def is_last(self) -> bool:
        """Whether releasing it stops the engine."""
        return self._running is not None and self._running.leases == 1

    async def wait_failed(self) -> RpcError:
        """Wait until the engine has failed for good; the error every call gets from then on."""
        return await self.engine.wait_failed()

    async def release(self) -> None:
        """Give it back; the last one stops the engine. Harmless to repeat."""
        running, self._running = self._running, None
        if running is not None:
            await running.release()


class _Running:
    """An engine that is shared by leases."""

    def __init__(self, place: Place, limits: Limits | None) -> None:
        self.place = place
        self.limits = limits or Limits()
        self.loop = asyncio.get_running_loop()
        self.store = place.make_store()
        self.engine = Engine(self.store, config=EngineConfig(limits=self.limits))
        self.service: WorkflowService | None = None
        self.leases = 0
        self._turn = asyncio.Lock()

    async def lease(self) -> Lease:
        """Start the engine if need be."""
        self.leases += 1
        try:
            async with self._turn:
                if self.service is None:
                    await self.engine.start()
                    self.service = self.engine.service(in_process=True)
            self.engine.check_not_failed()
        except BaseException:
            self.leases -= 1
            if not self.leases:
                _forget(self)
            raise
        return Lease(self)

    async def release(self) -> None:
        """Stop the engine when nobody needs it."""
        self.leases -= 1
        if self.leases:
            return
        _forget(self)
        async with self._turn:
            await self.engine.stop()


_running: dict[Place, _Running] = {}


def _forget(running: _Running) -> None:
    if _running.get(running.place) is running:
        del _running[running.place]


async def open_service(target: str | os.PathLike[str], *, limits: Limits | None = None) -> Lease:
    """A lease on the engine of a target.

    Args:
        target: where its database is.
        limits: the engine's bounds; the defaults, or those it has been opened with, when None.

    Raises:
        TargetError: the target has no known form, or is open with other limits.
        DatabaseError: the database cannot be opened; the subclass and message say why and what to do.
    """
    place = place_of(target)
    running = _running.get(place)
    try:
        if running is not None and running.loop is not asyncio.get_running_loop():
            if not running.loop.is_closed():
                raise DatabaseLockedError(
                    f"{place.name or target} is open in another event loop of this process; use that one's client, "
                    "or close it first",
                    os.getpid(),
                )
            _forget(running)
            await running.store.close()
            running = None
        if running is None:
            running = _running[place] = _Running(place, limits)
        elif limits is not None and limits != running.limits:
            raise TargetError(f"{place.name or target} is open in this process with other limits; close it first")
        return await running.lease()
    except StoreError as error:
        raise _database_error(error) from error
    except RpcError as error:
        raise DatabaseError(f"{place.name or target}: {error.message}") from error


def _database_error(error: StoreError) -> DatabaseError:
    if isinstance(error, StoreLockedError):
        return DatabaseLockedError(str(error), error.pid)
    for kind, make in _ERRORS:
        if isinstance(error, kind):
            return make(str(error))
    return DatabaseError(str(error))
