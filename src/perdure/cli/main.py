"""Declares the commands, and turns every known error into one line and an exit status.

Exit status: 0 done; 1 the workflow, query or update failed, or the demo proved nothing; 2 bad input; 130 interrupted.
A traceback is shown for errors nobody foresaw, and for known ones with ``PERDURE_TRACEBACK=1``.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from perdure.api import RpcError
from perdure.cli.demo.stage import perform
from perdure.cli.errors import CliError
from perdure.cli.loading import load_workflow
from perdure.cli.operate import app as operate_app
from perdure.cli.plain import printable
from perdure.cli.runs import list_runs, parse_inputs, read_inputs, run_workflow
from perdure.cli.server import app as server_app
from perdure.cli.show import show_run
from perdure.cli.targets import ADDRESS, DATABASE, NAMESPACE, Address, Database, Namespace, Target
from perdure.client import WorkflowFailureError, WorkflowQueryFailedError, WorkflowUpdateFailedError
from perdure.engine.store.port import StoreError
from perdure.exceptions import FailureError, PerdureError

__all__ = ["app", "run"]

app = typer.Typer(
    name="perdure",
    help="Durable execution for Python: ordinary async functions that run to completion, through anything.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(server_app)
app.add_typer(operate_app)
out = Console()
notes = Console(stderr=True)


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


@app.command()
def demo(
    orders: Annotated[Path | None, typer.Option(help="A CSV of your own orders.")] = None,
    kill_at: Annotated[int, typer.Option(min=1, max=95, help="Kill the process at this percentage.")] = 40,
    keep: Annotated[Path | None, typer.Option(help="Keep the database and the ledger in this new folder.")] = None,
) -> None:
    """Fulfil 200 orders, be killed in the middle, finish, and prove what happened."""
    with _interruptible("The demo starts from nothing each time."):
        status = perform(orders, kill_at / 100, keep, out)
    raise typer.Exit(status)


@app.command(name="run")
def run_command(
    workflow: Annotated[str, typer.Argument(help="FILE.py:workflow")],
    input: Annotated[list[str] | None, typer.Option(help="An argument as JSON, or @FILE; once for each.")] = None,
    id: Annotated[str | None, typer.Option(help="The workflow's id: the same id again resumes the same work.")] = None,
    db: Database = DATABASE,
) -> None:
    """Run a workflow to its end, or go on with it where an earlier process left off."""
    values = read_inputs(input or [])
    definition = load_workflow(workflow)
    arguments = parse_inputs(definition, values)
    with _interruptible("Nothing is lost: the same id and database go on from here."):
        print(asyncio.run(run_workflow(definition, arguments, id, db, notes)))


@app.command(name="list")
def list_command(
    db: Database = DATABASE,
    address: Address = ADDRESS,
    namespace: Namespace = NAMESPACE,
    query: Annotated[
        str | None, typer.Option(help="Filter, for example: WorkflowType='fulfil' AND ExecutionStatus='Running'")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Show so many of the newest.")] = 50,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """List the workflows of a database, newest first."""
    asyncio.run(list_runs(Target(db, address, namespace), query, limit, json, out))


@app.command()
def show(
    id: Annotated[str, typer.Argument(help="The workflow's id.")],
    db: Database = DATABASE,
    address: Address = ADDRESS,
    namespace: Namespace = NAMESPACE,
    run_id: Annotated[str | None, typer.Option(help="A run of it; the latest if not given.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
) -> None:
    """Show a workflow and its history."""
    asyncio.run(show_run(Target(db, address, namespace), id, run_id, json, out))


@contextmanager
def _interruptible(advice: str) -> Generator[None]:
    try:
        yield
    except KeyboardInterrupt as error:
        raise CliError("interrupted", advice, status=130) from error


def run() -> None:
    """The entry point of the `perdure` command."""
    try:
        app()
    except CliError as error:
        _fail(error, error.message, error.hint, error.status)
    except (WorkflowFailureError, WorkflowQueryFailedError, WorkflowUpdateFailedError) as error:
        _fail(error, _chain(error), _stack(error), 1)
    except RpcError as error:
        _fail(error, error.message, "", 2)
    except (StoreError, PerdureError) as error:
        _fail(error, str(error), "", 2)


def _chain(error: BaseException) -> str:
    """An error and its causes, in one line."""
    texts: list[str] = []
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, RpcError):
        # An error that tells its cause needs no repetition of it.
        if not (texts and str(cause) in texts[-1]):
            texts.append(str(cause))
        cause = cause.__cause__
    return ": ".join(texts)


def _stack(error: BaseException) -> str:
    """Where the first cause of a workflow's failure was raised, in the workflow or an activity."""
    stack = ""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, FailureError) and cause.failure is not None and cause.failure.stack_trace:
            stack = cause.failure.stack_trace
        cause = cause.__cause__
    return stack.rstrip()


def _fail(error: BaseException, message: str, hint: str, status: int) -> None:
    if os.environ.get("PERDURE_TRACEBACK") == "1":
        raise error
    notes.print("[bold red]error:[/] ", end="")
    notes.print(printable(message), markup=False, highlight=False, soft_wrap=True)
    if hint:
        notes.print(printable(hint), markup=False, highlight=False, soft_wrap=True)
    sys.exit(status)


if __name__ == "__main__":
    run()
