"""A server as a process: opens the database, listens, says that it is ready, and leaves in good order when told to.

    SIGTERM, SIGINT   take no more calls, answer long polls empty, finish commits, close the database
    the second one    quit at once
    SIGHUP            read the file of API keys again

The process ends with an error when the engine has failed for good (its disk, say): a supervisor may start it again,
and what was acknowledged is there.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from perdure.api import RpcError, StatusCode, WorkflowService
from perdure.api import messages as m
from perdure.engine import EngineConfig
from perdure.engine.namespaces import DEFAULT_NAMESPACE
from perdure.server.dynamic import configure
from perdure.server.keys import ApiKeys, KeyFileError
from perdure.server.listening import Tls
from perdure.server.reflection import reflection_handlers
from perdure.server.server import Server
from perdure.sharing import PrivateMemory, SharedDatabase

__all__ = ["ServerSettings", "SettingsError", "serve"]

logger = logging.getLogger("perdure.server")

CACHE_BYTES = 128 * 1024 * 1024
"""Runs kept in memory that nobody works on; a server has more to spare than a guest in somebody's application."""
COMMIT_DISTANCE_S = 0.001
"""Between two commits; see `perdure.engine.commit`."""
_QUIT_STATUS = 130


class SettingsError(Exception):
    """The server can't do what its settings ask for. The message says what to change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """What a server process is told."""

    address: str = "127.0.0.1:7233"
    db: str = ""
    """The database file; empty to keep everything in memory."""
    namespaces: tuple[str, ...] = ()
    """Registered at the start if they are not there yet."""
    search_attributes: tuple[str, ...] = ()
    """``Name=Type``, added to every namespace named and to the default one."""
    dynamic_config: tuple[str, ...] = ()
    """``key=value``, see `perdure.server.dynamic`."""
    tls_cert: str = ""
    tls_key: str = ""
    tls_ca: str = ""
    """PEM files; the authority's makes callers show a certificate."""
    api_key_file: str = ""
    allow_unauthenticated: bool = False
    """Listen at an address that strangers can reach, although nobody is asked who he is."""
    ignored: tuple[str, ...] = ()
    """Flags that mean nothing here."""


def _log(message: str, **fields: object) -> None:
    logger.info(message, extra={"fields": fields})


async def serve(settings: ServerSettings, announce: Callable[[str], None]) -> None:
    """Serve until a signal or a failure.

    Args:
        settings: where and what.
        announce: called once with the line that says that calls are answered.

    Raises:
        InsecureAddressError: strangers could reach the address.
        KeyFileError: the API keys can't be read.
        OSError: the address can't be bound.
        RpcError: the engine failed for good while it served.
        SettingError: a value of the dynamic configuration that its key can't have.
        SettingsError: a namespace or search attribute can't be made.
        StoreError: the database can't be opened.
        TlsError: the certificate can't be used.
        ValueError: the address has no known form.
    """
    begun = EngineConfig(cache_bytes=CACHE_BYTES, commit_distance_s=COMMIT_DISTANCE_S)
    configured = configure(settings.dynamic_config, begun)
    for key in configured.ignored:
        _log("a dynamic configuration key means nothing here and is ignored", key=key)
    for flag in settings.ignored:
        _log("a flag means nothing here and is ignored", flag=flag)
    tls = _tls(settings)
    keys = _keys(settings)
    database = _database(settings, configured.config)
    server = Server(
        database,
        address=settings.address,
        tls=tls,
        keys=keys,
        others=reflection_handlers(),
        allow_unauthenticated=settings.allow_unauthenticated,
    )
    signals = _Signals(lambda: _read_keys_again(server, settings))
    try:
        await database.open()
        await _furnish(database.service, settings)
        await server.start()
        if keys is not None and tls is None and not settings.address.startswith("unix:"):
            logger.warning("API keys travel in plain text: give --tls-cert and --tls-key, or put TLS in front")
        announce(f"perdure {version('perdure')} serves {settings.db or 'memory'} at {server.address}")
        _log("serving", address=server.address, db=settings.db or "memory", pid=os.getpid())
        failure = await _first(signals, database)
        _log("stopping", pid=os.getpid())
        await server.stop()
    finally:
        await database.close()
        signals.close()
    if failure is not None:
        raise failure
    _log("stopped", pid=os.getpid())


def _database(settings: ServerSettings, config: EngineConfig) -> SharedDatabase | PrivateMemory:
    """Where workflows are kept. A file may be another process's for now: its calls then go there."""
    if not settings.db:
        return PrivateMemory(config, in_process=False)
    return SharedDatabase(os.path.realpath(settings.db), config=config, in_process=False)


def _tls(settings: ServerSettings) -> Tls | None:
    if not (settings.tls_cert or settings.tls_key or settings.tls_ca):
        return None
    return Tls.read(settings.tls_cert, settings.tls_key, settings.tls_ca)


def _keys(settings: ServerSettings) -> ApiKeys | None:
    if not settings.api_key_file:
        return None
    try:
        text = Path(settings.api_key_file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise KeyFileError(f"{settings.api_key_file} can't be read: {error}") from error
    return ApiKeys.parse(text, settings.api_key_file)


def _read_keys_again(server: Server, settings: ServerSettings) -> None:
    try:
        keys = _keys(settings)
    except KeyFileError as error:
        logger.error("the API keys stay as they were: %s", error)
        return
    if keys is not None:
        server.change_keys(keys)
        _log("API keys read again", keys=len(keys))


async def _furnish(service: WorkflowService, settings: ServerSettings) -> None:
    """Make the namespaces and search attributes that the settings name."""
    for name in settings.namespaces:
        await _done(service.register_namespace(m.RegisterNamespaceRequest(namespace=name)))
    if settings.search_attributes:
        wanted = dict(_search_attribute(text) for text in settings.search_attributes)
        for name in dict.fromkeys((DEFAULT_NAMESPACE, *settings.namespaces)):
            request = m.AddSearchAttributesRequest(namespace=name, search_attributes=wanted)
            await _done(service.add_search_attributes(request))


async def _done(call: Awaitable[object]) -> None:
    try:
        await call
    except RpcError as error:
        if error.code != StatusCode.ALREADY_EXISTS:
            raise SettingsError(error.message) from error


def _search_attribute(text: str) -> tuple[str, m.IndexedValueType.ValueType]:
    name, equals, kind = text.partition("=")
    types = {_short(each): value for each, value in m.IndexedValueType.items() if value}
    if not name or not equals or kind.lower() not in types:
        raise SettingsError(f"--search-attribute {text!r} is not NAME=TYPE with one of {', '.join(types)}")
    return name, types[kind.lower()]


def _short(name: str) -> str:
    return name.removeprefix("INDEXED_VALUE_TYPE_").replace("_", "").lower()


async def _first(signals: _Signals, database: SharedDatabase | PrivateMemory) -> RpcError | None:
    """Wait for a signal, or for the database's end: its error."""
    failed = asyncio.ensure_future(database.wait_failed())
    told = asyncio.ensure_future(signals.told.wait())
    await asyncio.wait((failed, told), return_when=asyncio.FIRST_COMPLETED)
    for each in (failed, told):
        each.cancel()
    return failed.result() if failed.done() and not failed.cancelled() else None


class _Signals:
    """What the operating system tells the process."""

    def __init__(self, on_reload: Callable[[], None]) -> None:
        self.told = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._tell)
        self._loop.add_signal_handler(signal.SIGHUP, on_reload)

    def _tell(self) -> None:
        if self.told.is_set():
            os._exit(_QUIT_STATUS)
        self.told.set()

    def close(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._loop.remove_signal_handler(number)
