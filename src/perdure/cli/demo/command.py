"""`perdure demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from perdure.cli.demo.stage import perform
from perdure.cli.interruption import interruptible

__all__ = ["app"]

app = typer.Typer()


@app.command()
def demo(
    orders: Annotated[Path | None, typer.Option(help="A CSV of your own orders.")] = None,
    kill_at: Annotated[int, typer.Option(min=1, max=95, help="Kill the process at this percentage.")] = 40,
    keep: Annotated[Path | None, typer.Option(help="Keep the database and the ledger in this new folder.")] = None,
) -> None:
    """Fulfil 200 orders, be killed in the middle, finish, and prove what happened."""
    with interruptible("The demo starts from nothing each time."):
        status = perform(orders, kill_at / 100, keep, Console())
    raise typer.Exit(status)
