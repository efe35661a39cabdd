"""Where a target's workflows are served: the one bridge between the SDK and the engine.

A target names a place: ``sqlite:orders.db`` or a plain path is a database file, ``memory:`` (or ``memory:name``) lives
as long as somebody holds it, ``host:port`` is a server, ours or a Temporal one. `open_service` answers a lease on the
service of that place. For files and memories there is one in each event loop, counted by its leases: the first opens
it, the last one released closes it. Each lease on a server has a connection of its own.

A file that another process serves already, or another event loop of this one, is shared: see `perdure.sharing`.

What is open belongs to the event loop it was opened on. If that loop has been closed without releasing it, it is freed
when the place is opened again; what was acknowledged is on disk.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from perdure.api import RpcError, WorkflowService
from perdure.engine import Engine, EngineConfig
from perdure.engine.history import Limits
from perdure.engine.store.port import (
    StoreCorruptError,
    StoreError,
    StoreForeignError,
    StoreFullError,
    StoreLockedError,
    StoreMissingError,
    StoreNewerError,
)
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
from perdure.sharing import PrivateMemory, SharedDatabase
from perdure.transport import GrpcChannel, ServerOptions, service_of

__all__ = ["DEFAULT_PORT", "Lease", "Limits", "Place", "open_service", "place_of"]

_HOST_AND_PORT = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^/\\:]+):\d+")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(.*)", re.DOTALL)
DEFAULT_PORT = 7233
"""Where servers listen unless they are told otherwise."""
_SECURE = {"http": False, "https": True, "grpc": False, "grpcs": True}
"""Schemes of servers' addresses: whether the connection is encrypted."""
_AUTHORITY = re.compile(r"//(\[[0-9a-fA-F:.]+\]|[^/\\:@?#]+)(?::(\d+))?/?")

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
        kind: "sqlite", "memory" or "server".
        name: the file's real path, the memory's name, or the server's ``host:port``.
        secure: whether the server's address asks for an encrypted connection; None if it says nothing of it.
    """

    kind: str
    name: str
    secure: bool | None = None


def place_of(target: str | os.PathLike[str]) -> Place:
    """The place a target names.

    Raises:
        TargetError: it names none; the message says which forms there are.
    """
    text = os.fsdecode(target)
    forms = 'give a database file ("orders.db" or "sqlite:orders.db"), "memory:", or a server ("host:7233")'
    if not text:
        raise TargetError(f"the target is empty: {forms}")
    if _HOST_AND_PORT.fullmatch(text):
        return Place(kind="server", name=text)
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
    if scheme in _SECURE:
        found = _AUTHORITY.fullmatch(rest)
        if found is None:
            raise TargetError(f"{text!r} is no server's address: write {scheme}://host:{DEFAULT_PORT}; {forms}")
        return Place(kind="server", name=f"{found[1]}:{found[2] or DEFAULT_PORT}", secure=_SECURE[scheme])
    if scheme.startswith("postgres"):
        raise TargetError(f"{text!r} needs a PostgreSQL store, which this version does not have yet; {forms}")
    raise TargetError(f"{text!r} names no kind of place this version knows; {forms}")


class _Source(Protocol):
    """Something that serves a place's calls."""

    @property
    def engine(self) -> Engine | None:
        """The engine, if it runs in this event loop."""
        ...

    @property
    def service(self) -> WorkflowService:
        """The calls; the same object from `open` to `close`."""
        ...

    async def open(self) -> None:
        """Raises StoreError, RpcError."""
        ...

    async def close(self) -> None:
        """Harmless to repeat, or before `open`."""
        ...

    async def abandon(self) -> None:
        """Free what an event loop that has been closed left behind."""
        ...

    async def wait_failed(self) -> RpcError:
        """Wait until it has failed for good."""
        ...


class _Server:
    """A connection to a server, which may go and come back: it never fails for good."""

    engine = None

    def __init__(self, place: Place, options: ServerOptions) -> None:
        try:
            self._channel = GrpcChannel(place.name, options, secure=place.secure)
        except ValueError as error:
            raise TargetError(str(error)) from error
        self.service = service_of(self._channel.bind)

    async def open(self) -> None:
        """It is connected to when it is called."""

    async def close(self) -> None:
        await self._channel.close()

    async def abandon(self) -> None:
        """The connection ended with its event loop."""

    async def wait_failed(self) -> RpcError:
        return await asyncio.get_running_loop().create_future()


class Lease:
    """A claim on the service of a place.

    Attributes:
        service: its calls.
        is_remote: another process serves it, or did when it was opened: each call is a round trip.
    """

    def __init__(self, running: _Running) -> None:
        self._running: _Running | None = running
        self._source = running.source
        self.service: WorkflowService = running.source.service
        self.is_remote = running.source.engine is None

    @property
    def engine(self) -> Engine | None:
        """The engine, if it runs in this event loop; for statistics and tests."""
        return self._source.engine

    @property
    def is_last(self) -> bool:
        """Whether releasing it stops the engine."""
        return self._running is not None and self._running.leases == 1 and self._source.engine is not None

    async def wait_failed(self) -> RpcError:
        """Wait until the place has failed for good; the error every call gets from then on."""
        return await self._source.wait_failed()

    async def release(self) -> None:
        """Give it back; the last one closes the place. Harmless to repeat."""
        running, self._running = self._running, None
        if running is not None:
            await running.release()


class _Running:
    """An open place, shared by leases."""

    def __init__(self, place: Place, limits: Limits | None, source: _Source) -> None:
        self.place = place
        self.limits = limits or Limits()
        self.source = source
        self.loop = asyncio.get_running_loop()
        self.leases = 0
        self._opened = False
        self._turn = asyncio.Lock()

    async def lease(self) -> Lease:
        """Open the place if need be."""
        self.leases += 1
        try:
            async with self._turn:
                if not self._opened:
                    await self.source.open()
                    self._opened = True
            if self.source.engine is not None:
                self.source.engine.check_not_failed()
        except BaseException:
            self.leases -= 1
            if not self.leases:
                _forget(self)
            raise
        return Lease(self)

    async def release(self) -> None:
        """Close the place when nobody needs it."""
        self.leases -= 1
        if self.leases:
            return
        _forget(self)
        async with self._turn:
            await self.source.close()


_running: dict[tuple[Place, asyncio.AbstractEventLoop], _Running] = {}


def _forget(running: _Running) -> None:
    key = (running.place, running.loop)
    if _running.get(key) is running:
        del _running[key]


async def open_service(
    target: str | os.PathLike[str], *, limits: Limits | None = None, server: ServerOptions | None = None
) -> Lease:
    """A lease on the service of a target.

    Args:
        target: where its workflows are.
        limits: the engine's bounds, if it runs here; the defaults, or those it has been opened with, when None.
        server: how to reach a server; only for targets that are one.

    Raises:
        TargetError: the target has no known form, is open with other limits, or the options do not suit it.
        DatabaseError: the database cannot be opened; the subclass and message say why and what to do.
    """
    place = place_of(target)
    if place.kind == "server":
        if limits is not None:
            raise TargetError(f"{place.name} has limits of its own: set them where that server is started")
        return await _Running(place, None, _Server(place, server or ServerOptions())).lease()
    if server is not None:
        raise TargetError(f"TLS, API keys and metadata are for servers, which {os.fsdecode(target)!r} is not")
    try:
        running = await _open_here(place, target)
        if running is None:
            config = EngineConfig(limits=limits or Limits())
            source = SharedDatabase(place.name, config=config) if place.kind == "sqlite" else PrivateMemory(config)
            running = _running[place, asyncio.get_running_loop()] = _Running(place, limits, source)
        elif limits is not None and limits != running.limits:
            raise TargetError(f"{place.name or target} is open in this process with other limits; close it first")
        return await running.lease()
    except StoreError as error:
        raise _database_error(error) from error
    except RpcError as error:
        raise DatabaseError(f"{place.name or target}: {error.message}") from error


async def _open_here(place: Place, target: str | os.PathLike[str]) -> _Running | None:
    """What this event loop has open at a place, after freeing what closed ones left behind.

    Raises:
        DatabaseLockedError: another event loop has it, and it cannot be shared.
    """
    loop = asyncio.get_running_loop()
    for other in [running for (at, _), running in _running.items() if at == place and running.loop is not loop]:
        if other.loop.is_closed():
            _forget(other)
            await other.source.abandon()
        elif place.kind == "memory" or (other.source.engine is not None and not other.loop.is_running()):
            raise DatabaseLockedError(
                f"{place.name or target} is open in another event loop of this process; use that one's client, "
                "or close it first",
                os.getpid(),
            )
    return _running.get((place, loop))


def _database_error(error: StoreError) -> DatabaseError:
    if isinstance(error, StoreLockedError):
        return DatabaseLockedError(str(error), error.pid)
    for kind, make in _ERRORS:
        if isinstance(error, kind):
            return make(str(error))
    return DatabaseError(str(error))
