"""`perdure run`, `perdure list` and `perdure show`."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from rich.console import Console

from perdure.cli.interruption import interruptible
from perdure.cli.loading import load_workflow
from perdure.cli.runs import list_runs, parse_inputs, read_inputs, run_workflow
from perdure.cli.show import show_run
from perdure.cli.targets import ADDRESS, DATABASE, NAMESPACE, Address, Database, Namespace, Target

__all__ = ["app"]

app = typer.Typer()
out = Console()
notes = Console(stderr=True)


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
    with interruptible("Nothing is lost: the same id and database go on from here."):
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
