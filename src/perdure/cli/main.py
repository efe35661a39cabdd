"""Finds the command, and turns every known error into one line and an exit status.

A command's module is loaded when it is asked for: serving loads no SDK, and running a workflow loads no server.

Exit status: 0 done; 1 the workflow, query or update failed, or the demo proved nothing; 2 bad input; 130 interrupted.
A traceback is shown for errors nobody foresaw, and for known ones with ``PERDURE_TRACEBACK=1``.
"""

from __future__ import annotations

import gc
from importlib import import_module
from importlib.metadata import version
from types import ModuleType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_group

__all__ = ["COMMANDS", "app", "run"]

COMMANDS = {
    "demo": "perdure.cli.demo.command",
    "run": "perdure.cli.workflows",
    "list": "perdure.cli.workflows",
    "show": "perdure.cli.workflows",
    "count": "perdure.cli.operate",
    "signal": "perdure.cli.operate",
    "query": "perdure.cli.operate",
    "update": "perdure.cli.operate",
    "cancel": "perdure.cli.operate",
    "terminate": "perdure.cli.operate",
    "reset": "perdure.cli.operate",
    "delete": "perdure.cli.operate",
    "schedule": "perdure.cli.schedules",
    "server": "perdure.cli.server",
}
"""Where each command is: the module's `app` holds it, or is it."""


class _Commands(TyperGroup):
    """The commands of `COMMANDS`, each loaded when it is needed."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        module = COMMANDS.get(cmd_name)
        if module is None:
            return None
        group = get_group(_loaded(module).app)
        return group.commands.get(cmd_name, group)


def _loaded(name: str) -> ModuleType:
    """A module; what importing makes is there to stay, and nobody looks for garbage among it meanwhile."""
    gc.disable()
    try:
        return import_module(name)
    finally:
        gc.enable()


app = typer.Typer(
    name="perdure",
    cls=_Commands,
    help="Durable execution for Python: ordinary async functions that run to completion, through anything.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"perdure {version('perdure')}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def run() -> None:
    """The entry point of the `perdure` command."""
    try:
        app()
    except Exception as error:
        import_module("perdure.cli.failing").fail(error)


if __name__ == "__main__":
    run()
