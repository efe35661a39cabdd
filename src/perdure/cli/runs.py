"""`perdure run` and `perdure list`."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import perdure
from perdure.cli.errors import CliError
from perdure.cli.plain import plain
from perdure.cli.targets import Target
from perdure.client import Client, WorkflowExecution, WorkflowNotFoundError
from perdure.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from perdure.converter import decode_arguments, default
from perdure.exceptions import ConversionError, WorkflowAlreadyStartedError
from perdure.replay.definition import WorkflowDefinition

__all__ = ["list_runs", "parse_inputs", "read_inputs", "run_workflow"]


def read_inputs(inputs: Sequence[str]) -> list[Any]:
    """The JSON values of ``--input``, each given directly or as ``@file``.

    Raises:
        CliError: a file can't be read, or is not JSON.
    """
    values: list[Any] = []
    for text in inputs:
        where = "--input"
        if text.startswith("@"):
            where = text[1:]
            try:
                text = Path(where).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise CliError(
                    f"{where} can't be read: {error}", "Give JSON, or @ and the path of a JSON file."
                ) from error
        try:
            values.append(json.loads(text))
        except (json.JSONDecodeError, RecursionError) as error:
            raise CliError(
                f"{where} is not JSON: {error}", "Text needs quotes of its own: --input '\"Ada\"'."
            ) from error
    return values


def parse_inputs(definition: WorkflowDefinition, values: Sequence[Any]) -> list[Any]:
    """JSON values as the types that the workflow's parameters are annotated with.

    Raises:
        CliError: too few, too many, or of the wrong type.
    """
    try:
        definition.signature.check(values, f"workflow {definition.name}")
    except TypeError as error:
        raise CliError(str(error), "Give --input once for each argument.") from error
    converter = default()
    payloads = [converter.to_payload(value) for value in values]
    try:
        return decode_arguments(converter, payloads, definition.signature, f"workflow {definition.name}")
    except ConversionError as error:
        raise CliError(str(error), "Give --input of that type.") from error


async def run_workflow(
    definition: WorkflowDefinition, arguments: Sequence[Any], workflow_id: str | None, db: Path, console: Console
) -> str:
    """Run a workflow to its end, or go on with it if it is there already; returns its result as JSON."""
    given_id = workflow_id
    workflow_id = given_id or f"{definition.name}-{uuid.uuid4().hex[:8]}"
    async with await Client.connect(db) as client, perdure.open(db, task_queue=await _queue(client, given_id)) as app:
        try:
            handle: Any = await app.start(
                definition.target,
                args=arguments,
                id=workflow_id,
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            )
            console.print(f"{plain(workflow_id)} (run {handle.first_execution_run_id})", style="dim", highlight=False)
        except WorkflowAlreadyStartedError:
            console.print(f"{plain(workflow_id)} has already ended; this is its result", style="dim", highlight=False)
            handle = app.client.get_workflow_handle(workflow_id)
        result = await handle.result()
    return default().to_payload(result).data.decode()


async def _queue(client: Client, workflow_id: str | None) -> str:
    """Where the workflow's tasks are, or shall be.

    A queue that an application of another process serves is left to it: it need not know what is run here, nor this
    process what it runs.
    """
    if workflow_id is not None:
        try:
            described = await client.get_workflow_handle(workflow_id).describe()
        except WorkflowNotFoundError:
            pass
        else:
            return described.task_queue
    served = (await client.describe_task_queue(client.task_queue)).pollers
    return f"run-{uuid.uuid4().hex[:12]}" if served else client.task_queue


async def list_runs(target: Target, query: str | None, limit: int, as_json: bool, console: Console) -> None:
    """Show the newest runs, as a table or as JSON lines."""
    runs: list[WorkflowExecution] = []
    async with await target.connect() as client:
        async for run in client.list_workflows(query, limit=limit):
            runs.append(run)
    if as_json:
        for run in runs:
            print(json.dumps(_fields(run)))
        return
    table = Table(box=None)
    for column in ("id", "workflow", "status", "started", "ended", "run"):
        table.add_column(column, overflow="fold", no_wrap=column in ("status", "started", "ended"))
    for run in runs:
        status = _fields(run)["status"]
        style = {"completed": "green", "running": "cyan"}.get(str(status), "red")
        table.add_row(
            plain(run.id),
            plain(run.workflow_type),
            f"[{style}]{status}[/]",
            moment(run.start_time),
            moment(run.close_time),
            run.run_id,
        )
    console.print(table)


def _fields(run: WorkflowExecution) -> dict[str, str | None]:
    return {
        "id": run.id,
        "run_id": run.run_id,
        "workflow": run.workflow_type,
        "status": run.status.name.lower() if run.status else "unknown",
        "started": run.start_time.isoformat(),
        "ended": run.close_time.isoformat() if run.close_time else None,
    }


def moment(at: datetime | None) -> str:
    """A time for people, in their own zone."""
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S") if at else ""
