"""`perdure schedule …`: making schedules, looking at them, and keeping them going or still.

What was done is said on stderr; `list` and `describe` print tables, or JSON with ``--json``. A schedule acts while an
engine runs: a server, or a process that has the database file open.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.table import Table

from perdure.cli.errors import CliError
from perdure.cli.plain import plain
from perdure.cli.runs import moment, read_inputs
from perdure.cli.targets import ADDRESS, DATABASE, NAMESPACE, Address, Database, Namespace, Target
from perdure.client import (
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleBackfill,
    ScheduleDescription,
    ScheduleHandle,
    ScheduleListDescription,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleState,
)

__all__ = ["app"]

app = typer.Typer(name="schedule", help="Workflows started by the calendar.", no_args_is_help=True)
out = Console()
notes = Console(stderr=True)

Id = Annotated[str, typer.Argument(help="The schedule's id.")]
Note = Annotated[str | None, typer.Option(help="Why, for whoever looks at it.")]
Overlap = Annotated[
    str | None,
    typer.Option(
        help="While a workflow of it runs: skip, buffer-one, buffer-all, cancel-other, terminate-other or allow-all."
    ),
]
_OVERLAPS = {policy.name.lower().replace("_", "-"): policy for policy in ScheduleOverlapPolicy}


def _overlap(text: str | None) -> ScheduleOverlapPolicy | None:
    if text is None:
        return None
    policy = _OVERLAPS.get(text)
    if policy is None:
        raise CliError(f"--overlap {text} is no policy", f"Give one of {', '.join(_OVERLAPS)}.")
    return policy


def _instant(text: str, option: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise CliError(
            f"{option} {text} is no time", "Write it as 2026-01-31T09:00:00, in UTC or with a zone."
        ) from None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def _act(target: Target, schedule_id: str, act: Callable[[ScheduleHandle], Awaitable[None]], done: str) -> None:
    """Do something to a schedule, and say on stderr what was done."""

    async def go() -> None:
        async with await target.connect() as client:
            await act(client.get_schedule_handle(schedule_id))

    asyncio.run(go())
    notes.print(plain(done), style="dim", highlight=False)


@app.command()
def create(
    id: Id,
    workflow: Annotated[str, typer.Option(help="The name of the workflow's type.")],
    task_queue: Annotated[str, typer.Option(help="Where its workers listen.")] = "default",
    cron: Annotated[
        list[str] | None, typer.Option(help="When: '0 3 * * MON-FRI', '@every 90m'; once for each.")
    ] = None,
    timezone: Annotated[
        str | None, typer.Option(help="Of --cron, for example Europe/Berlin; UTC if not given.")
    ] = None,
    input: Annotated[
        list[str] | None, typer.Option("--input", help="An argument as JSON, or @FILE; once for each.")
    ] = None,
    workflow_id: Annotated[str | None, typer.Option(help="Of the workflows; the schedule's own if not given.")] = None,
    overlap: Overlap = None,
    note: Note = None,
    paused: Annotated[bool, typer.Option("--paused", help="Do not begin yet.")] = False,
    db: Database = DATABASE,
    address: Address = ADDRESS,
    namespace: Namespace = NAMESPACE,
) -> None:
    """Make a schedule."""
    action = ScheduleActionStartWorkflow(
        workflow, args=read_inputs(input or []), id=workflow_id or id, task_queue=task_queue
    )
    schedule = Schedule(
        action,
        ScheduleSpec(cron_expressions=cron or [], time_zone_name=timezone),
        SchedulePolicy(overlap=_overlap(overlap) or ScheduleOverlapPolicy.SKIP),
        ScheduleState(note=note, paused=paused),
    )

    async def go() -> Sequence[datetime]:
        async with await Target(db, address, namespace).connect() as client:
            handle = await client.create_schedule(id, schedule)
            return (await handle.describe()).info.next_action_times

    times = asyncio.run(go())
    following = f"; next at {moment(times[0])}" if times else "; it never acts by itself"
    notes.print(plain(f"{id} has been made{following}"), style="dim", highlight=False)


@app.command(name="list")
def list_command(
    query: Annotated[str | None, typer.Option(help="Filter, for example: TemporalSchedulePaused = true")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    db: Database = DATABASE,
    address: Address = ADDRESS,
    namespace: Namespace = NAMESPACE,
) -> None:
    """List schedules, newest first."""

    async def go() -> list[ScheduleListDescription]:
        async with await Target(db, address, namespace).connect() as client:
            return [each async for each in client.list_schedules(query)]

    found = asyncio.run(go())
    if as_json:
        for each in found:
            print(json.dumps(_fields(each)))
        return
    table = Table(box=None)
    for column in ("id", "workflow", "state", "last", "next", "note"):
        table.add_column(column, overflow="fold", no_wrap=column in ("state", "last", "next"))
    for each in found:
        table.add_row(
            plain(each.id),
            plain(each.workflow),
            "[yellow]paused[/]" if each.paused else "[green]active[/]",
            moment(each.recent_actions[-1].started_at if each.recent_actions else None),
            moment(each.next_action_times[0] if each.next_action_times and not each.paused else None),
            plain(each.note or ""),
        )
    out.print(table)


def _fields(each: ScheduleListDescription) -> dict[str, Any]:
    return {
        "id": each.id,
        "workflow": each.workflow,
        "paused": each.paused,
        "note": each.note,
        "last": each.recent_actions[-1].started_at.isoformat() if each.recent_actions else None,
        "next": [at.isoformat() for at in each.next_action_times],
    }


@app.command()
def describe(
    id: Id,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
    db: Database = DATABASE,
    address: Address = ADDRESS,
    namespace: Namespace = NAMESPACE,
) -> None:
    """Show what a schedule does, has done and will do."""

    async def go() -> ScheduleDescription:
        async with await Target(db, address, namespace).connect() as client:
            return await client.get_schedule_handle(id).describe()

    found = asyncio.run(go())
    if as_json:
        print(json.dumps(MessageToDict(found.raw_description), indent=2))
        return
    schedule, info = found.schedule, found.info
    table = Table(box=None, show_header=False)
    for name, value in (
        ("workflow", f"{schedule.action.workflow}, ids begin with {schedule.action.id}"),
        ("task queue", schedule.action.task_queue),
        ("state", "paused" if schedule.state.paused else "active"),
        ("note", schedule.state.note),
        ("overlap", schedule.policy.overlap.name.lower().replace("_", "-")),
        ("actions", f"{info.num_actions} taken, {info.num_actions_skipped_overlap} skipped"),
        ("missed", str(info.num_actions_missed_catchup_window) if info.num_actions_missed_catchup_window else ""),
        ("waiting", str(info.num_actions_buffered) if info.num_actions_buffered else ""),
        ("running", ", ".join(each.workflow_id for each in info.running_actions)),
        ("next", ", ".join(moment(at) for at in info.next_action_times[:3])),
    ):
        if value:
            table.add_row(name, plain(value))
    out.print(table)
    recent = Table("at", "workflow", "status", box=None)
    for each in reversed(info.recent_actions):
        status = each.status.name.lower() if each.status else "unknown"
        recent.add_row(moment(each.started_at), plain(each.action.workflow_id), status)
    out.print(recent)


@app.command()
def pause(
    id: Id, note: Note = None, db: Database = DATABASE, address: Address = ADDRESS, namespace: Namespace = NAMESPACE
) -> None:
    """Take no more actions until `unpause`."""
    _act(Target(db, address, namespace), id, lambda handle: handle.pause(note=note), f"{id} is paused")


@app.command()
def unpause(
    id: Id, note: Note = None, db: Database = DATABASE, address: Address = ADDRESS, namespace: Namespace = NAMESPACE
) -> None:
    """Go on; what came meanwhile is not made up for."""
    _act(Target(db, address, namespace), id, lambda handle: handle.unpause(note=note), f"{id} goes on")


@app.command()
def trigger(
    id: Id,
    overlap: Overlap = None,
    db: Database = DATABASE,
    address: Address = ADDRESS,
    namespace: Namespace = NAMESPACE,
) -> None:
    """Take an action now, also while the schedule is paused."""
    policy = _overlap(overlap)
    _act(Target(db, address, namespace), id, lambda handle: handle.trigger(overlap=policy), f"{id} has been triggered")


@app.command()
def backfill(
    id: Id,
    start: Annotated[str, typer.Option(help="The first time of the span, in UTC if it has no zone.")],
    end: Annotated[str, typer.Option(help="The last.")],
    overlap: Overlap = None,
    db: Database = DATABASE,
    address: Address = ADDRESS,
    namespace: Namespace = NAMESPACE,
) -> None:
    """Take the actions of a span of the past now."""
    span = ScheduleBackfill(_instant(start, "--start"), _instant(end, "--end"), _overlap(overlap))
    _act(Target(db, address, namespace), id, lambda handle: handle.backfill(span), f"{id} makes up for the span")


@app.command()
def delete(id: Id, db: Database = DATABASE, address: Address = ADDRESS, namespace: Namespace = NAMESPACE) -> None:
    """Forget a schedule; workflows it has started go on."""
    _act(Target(db, address, namespace), id, lambda handle: handle.delete(), f"{id} has been deleted")
