"""What people do to workflows from a shell: signal, query, update, cancel, terminate, reset and delete them.

A query or update needs a process that runs the workflow's code; the wait for one is bounded. Answers go to stdout as
JSON, what was done to stderr.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Annotated, Any

import typer
from rich.console import Console

from perdure.cli.errors import CliError
from perdure.cli.plain import plain
from perdure.cli.runs import read_inputs
from perdure.cli.targets import ADDRESS, DATABASE, NAMESPACE, Address, Database, Namespace, Target
from perdure.client import (
    ResetType,
    WorkflowHandle,
    WorkflowUpdateRPCTimeoutOrCancelledError,
    WorkflowUpdateStage,
)
from perdure.converter import default

__all__ = ["app"]

app = typer.Typer()
notes = Console(stderr=True)

Id = Annotated[str, typer.Argument(help="The workflow's id.")]
RunId = Annotated[str | None, typer.Option(help="A run of it; the current one if not given.")]
Inputs = Annotated[list[str] | None, typer.Option("--input", help="An argument as JSON, or @FILE; once for each.")]
Reason = Annotated[str, typer.Option(help="Why, for the history.")]
Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds to wait for an answer.")]

ANSWER_TIMEOUT_S = 10.0
_NOBODY = "Is a process running that has the workflow's code?"
_RESET_POINTS = {"first": ResetType.FIRST_WORKFLOW_TASK, "last": ResetType.LAST_WORKFLOW_TASK}


def _run(
    target: Target, workflow_id: str, run_id: str | None, act: Callable[[WorkflowHandle[Any]], Awaitable[str]]
) -> None:
    """Do something to a workflow, and say on stderr what was done."""

    async def go() -> str:
        async with await target.connect() as client:
            return await act(client.get_workflow_handle(workflow_id, run_id=run_id))

    done = asyncio.run(go())
    if done:
        notes.print(plain(done), style="dim", highlight=False)


def _print_json(value: Any) -> None:
    print(default().to_payload(value).data.decode() or "null")


@app.command()
def count(
    query: Annotated[str | None, typer.Option(help="Filter; with GROUP BY ExecutionStatus, a line for each.")] = None,
    db: Database = DATABASE,
    address: Address = ADDRESS,
    namespace: Namespace = NAMESPACE,
) -> None:
    """Count the workflows that match a filter."""

    async def go() -> None:
        async with await Target(db, address, namespace).connect() as client:
            found = await client.count_workflows(query)
        for group in found.groups:
            print(group.count, *group.group_values, sep="\t")
        if not found.groups:
            print(found.count)

    asyncio.run(go())


@app.command()
def signal(
    id: Id,
    name: Annotated[str, typer.Argument(help="The signal's name.")],
    input: Inputs = None,
    run_id: RunId = None,
    db: Database = DATABASE,
    address: Address = ADDRESS,
    namespace: Namespace = NAMESPACE,
) -> None:
    """Send a signal to a running workflow."""
    arguments = read_inputs(input or [])

    async def act(handle: WorkflowHandle[Any]) -> str:
        await handle.signal(name, args=arguments)
        return f"{id} has the signal {name}"

    _run(Target(db, address, namespace), id, run_id, act)


@app.command()
def query(
    id: Id,
    name: Annotated[str, typer.Argument(help="The query's name.")],
    input: Inputs = None,
    run_id: RunId = None,
    timeout: Timeout = ANSWER_TIMEOUT_S,
    db: Database = DATABASE,
    address: Address = ADDRESS,
    namespace: Namespace = NAMESPACE,
) -> None:
    """Ask a workflow a question, running or closed."""
    arguments = read_inputs(input or [])

    async def act(handle: WorkflowHandle[Any]) -> str:
        _print_json(await _answered(handle.query(name, args=arguments), timeout))
        return ""

    _run(Target(db, address, namespace), id, run_id, act)


@app.command()
def update(
    id: Id,
    name: Annotated[str, typer.Argument(help="The update's name.")],
    input: Inputs = None,
    update_id: Annotated[str | None, typer.Option(help="The same id again is the same update.")] = None,
    accepted: Annotated[bool, typer.Option("--accepted", help="Return as soon as it has been accepted.")] = False,
    run_id: RunId = None,
    timeout: Timeout = ANSWER_TIMEOUT_S,
    db: Database = DATABASE,
    address: Address = ADDRESS,
    namespace: Namespace = NAMESPACE,
) -> None:
    """Ask a running workflow for an update, and print its result."""
    arguments = read_inputs(input or [])
    stage = WorkflowUpdateStage.ACCEPTED if accepted else WorkflowUpdateStage.COMPLETED

    async def act(handle: WorkflowHandle[Any]) -> str:
        started = await _answered(
            handle.start_update(
                name, args=arguments, id=update_id, wait_for_stage=stage, rpc_timeout=timedelta(seconds=timeout)
            ),
            timeout + 1,
        )
        if accepted:
            return f"{id} has accepted update {started.id}"
        _print_json(await started.result())
        return ""

    _run(Target(db, address, namespace), id, run_id, act)


async def _answered(answer: Awaitable[Any], timeout_s: float) -> Any:
    try:
        async with asyncio.timeout(timeout_s):
            return await answer
    except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError) as error:
        raise CliError(f"no answer within {timeout_s:g} s", _NOBODY, status=1) from error


@app.command()
def cancel(
    id: Id,
    reason: Reason = "",
    run_id: RunId = None,
    db: Database = DATABASE,
    address: Address = ADDRESS,
    namespace: Namespace = NAMESPACE,
) -> None:
    """Ask a workflow to stop; its code may clean up first."""

    async def act(handle: WorkflowHandle[Any]) -> str:
        await handle.cancel(reason=reason)
        return f"{id} has been asked to stop"

    _run(Target(db, address, namespace), id, run_id, act)


@app.command()
def terminate(
    id: Id,
    reason: Reason = "",
    run_id: RunId = None,
    db: Database = DATABASE,
    address: Address = ADDRESS,
    namespace: Namespace = NAMESPACE,
) -> None:
    """End a workflow at once, without asking its code."""

    async def act(handle: WorkflowHandle[Any]) -> str:
        await handle.terminate(reason=reason)
        return f"{id} has been terminated"

    _run(Target(db, address, namespace), id, run_id, act)


@app.command()
def reset(
    id: Id,
    to: Annotated[
        str, typer.Option(help="first, last, or the id of a WorkflowTaskCompleted event: what follows is done again.")
    ] = "last",
    reason: Reason = "",
    run_id: RunId = None,
    db: Database = DATABASE,
    address: Address = ADDRESS,
    namespace: Namespace = NAMESPACE,
) -> None:
    """Take a workflow back to an earlier point of its history, in a new run."""
    point: ResetType | int | None = int(to) if to.isdecimal() else _RESET_POINTS.get(to)
    if point is None:
        raise CliError(f"--to {to} is no point of a history", "Give first, last, or an event's id from `perdure show`.")

    async def act(handle: WorkflowHandle[Any]) -> str:
        new = await handle.reset(point, reason=reason)
        return f"{id} goes on as run {new.run_id}"

    _run(Target(db, address, namespace), id, run_id, act)


@app.command()
def delete(
    id: Id,
    run_id: RunId = None,
    db: Database = DATABASE,
    address: Address = ADDRESS,
    namespace: Namespace = NAMESPACE,
) -> None:
    """Remove a workflow's run with its history; a running one is terminated."""

    async def act(handle: WorkflowHandle[Any]) -> str:
        await handle.delete()
        return f"{id} has been deleted"

    _run(Target(db, address, namespace), id, run_id, act)
