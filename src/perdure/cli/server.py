"""`perdure server`: a database served to SDKs over gRPC, and the API keys of its callers.

`start` serves a file; `start-dev` takes the flags of Temporal's development server, so that what starts that one starts
this one, and passes over those that mean nothing here with a line in the log.
"""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from perdure.cli.errors import CliError
from perdure.engine.ids import RandomIds
from perdure.server.dynamic import SettingError
from perdure.server.keys import ALL_NAMESPACES, ApiKeys, KeyFileError, Role, make_key
from perdure.server.listening import InsecureAddressError, TlsError
from perdure.server.logs import LOG_FORMATS, LOG_LEVELS, set_up_logs
from perdure.server.process import ServerSettings, SettingsError, serve

__all__ = ["app"]

app = typer.Typer(name="server", help="Serve workflows to SDKs over gRPC.", no_args_is_help=True)

GC_THRESHOLDS = (10_000, 20, 20)
"""Containers made before the young ones are looked at; such rounds before the older, and before all."""

Namespaces = Annotated[list[str] | None, typer.Option("--namespace", "-n", help="Register it; once for each.")]
Attributes = Annotated[list[str] | None, typer.Option("--search-attribute", help="NAME=TYPE; once for each.")]
Dynamic = Annotated[list[str] | None, typer.Option("--dynamic-config-value", help="KEY=VALUE; once for each.")]
Format = Annotated[str, typer.Option("--log-format", help="text, json or pretty (as text).")]
Level = Annotated[str, typer.Option("--log-level", help="debug, info, warn, error or never.")]
Certificate = Annotated[str, typer.Option("--tls-cert", help="PEM file: the server's certificate.")]
PrivateKey = Annotated[str, typer.Option("--tls-key", help="PEM file: the certificate's key.")]
Authority = Annotated[str, typer.Option("--tls-ca", help="PEM file: callers show certificates of this authority.")]
Keys = Annotated[str, typer.Option("--api-key-file", help="Callers show one of these API keys.")]
Anyone = Annotated[
    bool, typer.Option("--allow-unauthenticated", help="Listen at an address that strangers can reach, all the same.")
]

IGNORED = {
    "--color": True,
    "--client-connect-timeout": True,
    "--command-timeout": True,
    "--config-file": True,
    "--disable-config-env": False,
    "--disable-config-file": False,
    "--env": True,
    "--env-file": True,
    "--headless": False,
    "--http-port": True,
    "--log-config": False,
    "--metrics-port": True,
    "--no-json-shorthand-payloads": False,
    "--output": True,
    "--profile": True,
    "--sqlite-pragma": True,
    "--time-format": True,
    "--ui-asset-path": True,
    "--ui-codec-endpoint": True,
    "--ui-ip": True,
    "--ui-port": True,
    "--ui-public-path": True,
    "-o": True,
}
"""Flags of Temporal's development server that mean nothing here, and whether a value follows."""

SILENT = frozenset({"--headless"})
"""They ask for what is so anyway."""


@app.command()
def start(
    db: Annotated[Path, typer.Option(help="The database file.")] = Path("perdure.db"),
    address: Annotated[str, typer.Option(help="HOST:PORT to listen at.")] = "127.0.0.1:7233",
    namespace: Namespaces = None,
    search_attribute: Attributes = None,
    dynamic_config_value: Dynamic = None,
    log_format: Format = "text",
    log_level: Level = "info",
    tls_cert: Certificate = "",
    tls_key: PrivateKey = "",
    tls_ca: Authority = "",
    api_key_file: Keys = "",
    allow_unauthenticated: Anyone = False,
) -> None:
    """Serve a database file."""
    settings = ServerSettings(
        address=address,
        db=str(db),
        namespaces=tuple(namespace or ()),
        search_attributes=tuple(search_attribute or ()),
        dynamic_config=tuple(dynamic_config_value or ()),
        tls_cert=tls_cert,
        tls_key=tls_key,
        tls_ca=tls_ca,
        api_key_file=api_key_file,
        allow_unauthenticated=allow_unauthenticated,
    )
    _serve(settings, log_format, log_level)


@app.command(name="start-dev", context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def start_dev(
    context: typer.Context,
    port: Annotated[
        int, typer.Option("--port", "-p", min=0, max=65535, help="Port to listen at; 0 for any free one.")
    ] = 7233,
    ip: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    db_filename: Annotated[
        str, typer.Option("--db-filename", "-f", help="Keep everything in this file, not in memory.")
    ] = "",
    namespace: Namespaces = None,
    search_attribute: Attributes = None,
    dynamic_config_value: Dynamic = None,
    log_format: Format = "text",
    log_level: Level = "warn",
    tls_cert: Certificate = "",
    tls_key: PrivateKey = "",
    tls_ca: Authority = "",
    api_key_file: Keys = "",
    allow_unauthenticated: Anyone = False,
) -> None:
    """Serve from memory, for development. Takes the flags of Temporal's development server."""
    settings = ServerSettings(
        address=f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}",
        db=db_filename,
        namespaces=tuple(namespace or ()),
        search_attributes=tuple(search_attribute or ()),
        dynamic_config=tuple(dynamic_config_value or ()),
        tls_cert=tls_cert,
        tls_key=tls_key,
        tls_ca=tls_ca,
        api_key_file=api_key_file,
        allow_unauthenticated=allow_unauthenticated,
        ignored=tuple(_ignored(context.args)),
    )
    _serve(settings, log_format, log_level)


def _ignored(arguments: list[str]) -> list[str]:
    """The flags among these that mean nothing here. Raises CliError for one that nobody knows."""
    found: list[str] = []
    left = iter(arguments)
    for argument in left:
        flag, equals, _ = argument.partition("=")
        if flag not in IGNORED:
            raise CliError(f"no such option: {argument}", "See `perdure server start-dev --help`.")
        if IGNORED[flag] and not equals:
            next(left, None)
        if flag not in SILENT:
            found.append(flag)
    return found


def _serve(settings: ServerSettings, log_format: str, log_level: str) -> None:
    if log_format not in LOG_FORMATS or log_level not in LOG_LEVELS:
        raise CliError(
            f"no such log: {log_format}, {log_level}",
            f"--log-format is one of {', '.join(LOG_FORMATS)}; --log-level one of {', '.join(LOG_LEVELS)}.",
        )
    set_up_logs(log_format, log_level)
    try:
        with _rarely_collecting(), asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(serve(settings, lambda line: print(line, flush=True)))
    except InsecureAddressError as error:
        raise CliError(str(error), "--allow-unauthenticated listens there all the same.") from error
    except (KeyFileError, SettingError, SettingsError, TlsError, ValueError) as error:
        raise CliError(str(error)) from error
    except OSError as error:
        raise CliError(str(error), "Give another address or port.") from error


@contextmanager
def _rarely_collecting() -> Generator[None]:
    """What has been imported stays, so it need not be searched for garbage; calls make a lot that soon is."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's event loop, which takes less CPU for each call; asyncio's own where there is no uvloop."""
    return import_module("uvloop").new_event_loop if find_spec("uvloop") is not None else None


@app.command(name="api-key")
def api_key(
    file: Annotated[Path, typer.Option(help="The server's --api-key-file; made if it is not there.")],
    name: Annotated[str, typer.Option(help="Whose key it is, for people.")] = "",
    role: Annotated[str, typer.Option(help="reader, writer (clients and workers) or admin.")] = "writer",
    namespace: Annotated[
        list[str] | None, typer.Option("--namespace", "-n", help="Only for this namespace; once for each.")
    ] = None,
) -> None:
    """Make an API key: it is shown once, and the file keeps its hash.

    A server that runs takes it after a SIGHUP. To revoke a key, remove its line.
    """
    if role.upper() not in Role.__members__:
        raise CliError(f"no such role: {role}", f"It is one of {', '.join(each.name.lower() for each in Role)}.")
    namespaces = namespace or [ALL_NAMESPACES]
    if any(not each or "," in each or any(character.isspace() for character in each) for each in namespaces):
        raise CliError("a namespace's name has neither spaces nor commas", "Give --namespace once for each.")
    if any(not character.isprintable() for character in name):
        raise CliError("the name has characters that can't be printed", "Give one line of text.")
    key, known = make_key(RandomIds(), role=Role[role.upper()], namespaces=namespaces, name=name)
    try:
        content = file.read_text(encoding="utf-8") if file.exists() else ""
        if content.strip():
            ApiKeys.parse(content, str(file))
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with open(descriptor, "a", encoding="utf-8") as keys:
            keys.write("\n" if content and not content.endswith("\n") else "")
            keys.write(f"{known.line()}\n")
    except KeyFileError as error:
        raise CliError(str(error), "No key was added.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"{file} can't be written: {error}", "Give another --file.") from error
    print(key)
