"""`perdure server`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from perdure.cli.errors import CliError
from perdure.server.process import ServerSettings, serve

__all__ = ["app"]

app = typer.Typer(name="server", help="Serve workflows to SDKs over gRPC.", no_args_is_help=True)

Namespaces = Annotated[list[str] | None, typer.Option(help="Register this namespace; once for each.")]


@app.command()
def start(
    db: Annotated[Path, typer.Option(help="The database file.")] = Path("perdure.db"),
    address: Annotated[str, typer.Option(help="HOST:PORT to listen at.")] = "127.0.0.1:7233",
    namespace: Namespaces = None,
) -> None:
    """Serve a database file."""
    _serve(ServerSettings(address=address, db=str(db), namespaces=tuple(namespace or ())))


@app.command(name="start-dev")
def start_dev(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at; 0 for any free one.")] = 7233,
    ip: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    db_filename: Annotated[str, typer.Option(help="Keep everything in this file instead of in memory.")] = "",
    namespace: Namespaces = None,
) -> None:
    """Serve from memory, for development."""
    _serve(ServerSettings(address=f"{ip}:{port}", db=db_filename, namespaces=tuple(namespace or ())))


def _serve(settings: ServerSettings) -> None:
    try:
        asyncio.run(serve(settings, lambda line: print(line, flush=True)))
    except OSError as error:
        raise CliError(str(error), "Give another --address or --port.") from error
