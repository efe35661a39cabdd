"""`perdure show`: one run and its history, as a table or as JSON.

A history's events are messages with a few dozen possible attributes; the table shows those that tell a reader
something, in the order of `DETAILS`, and leaves the rest to ``--json``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console
from rich.table import Table

from perdure.api import messages as m
from perdure.api.durations import datetime_of_ms, duration_ms, timestamp_ms
from perdure.cli.plain import plain
from perdure.cli.runs import moment
from perdure.cli.targets import Target
from perdure.client import WorkflowExecutionDescription

__all__ = ["details_of", "event_name", "show_run"]

TEXT_LIMIT = 60
"""Characters of a value that the table shows."""


def _payloads(value: m.Payloads | m.Payload) -> str:
    payloads = [value] if isinstance(value, m.Payload) else value.payloads
    return ", ".join(map(_payload, payloads))


def _payload(payload: m.Payload) -> str:
    encoding = payload.metadata.get("encoding", b"").decode(errors="replace")
    if encoding == "binary/null":
        return "null"
    if encoding.startswith("json/"):
        return _cut(payload.data.decode(errors="replace"))
    return f"{len(payload.data)} bytes"


def _failure(failure: m.Failure) -> str:
    return _cut(_chain(failure))


def _chain(failure: m.Failure) -> str:
    texts: list[str] = []
    while True:
        kind = failure.application_failure_info.type
        texts.append(f"{kind}: {failure.message}" if kind and not failure.message.startswith(kind) else failure.message)
        if not failure.HasField("cause"):
            return " ← ".join(texts)
        failure = failure.cause


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_LIMIT else text[: TEXT_LIMIT - 1] + "…"


def _asked(request: m.Request) -> str:
    return f"{request.input.name} {_payloads(request.input.args)}"


def _outcome(outcome: m.Outcome) -> str:
    return _failure(outcome.failure) if outcome.HasField("failure") else _payloads(outcome.success)


def _span(duration: Any) -> str:
    ms = duration_ms(duration)
    return f"{ms} ms" if ms < 1000 else str(datetime_of_ms(ms) - datetime_of_ms(0))


DETAILS: tuple[tuple[str, Callable[[Any], str]], ...] = (
    ("workflow_type", lambda value: value.name),
    ("activity_type", lambda value: value.name),
    ("endpoint", str),
    ("service", str),
    ("operation", str),
    ("signal_name", str),
    ("marker_name", str),
    ("request", _asked),
    ("accepted_request", _asked),
    ("protocol_instance_id", lambda value: f"update {value}"),
    ("meta", lambda value: f"update {value.update_id}"),
    ("outcome", _outcome),
    ("timer_id", lambda value: f"timer {value}"),
    ("start_to_fire_timeout", _span),
    ("workflow_execution", lambda value: value.workflow_id),
    ("workflow_id", str),
    ("attempt", lambda value: f"attempt {value}" if value > 1 else ""),
    ("input", _payloads),
    ("result", _payloads),
    ("failure", _failure),
    ("cause", str),
    ("reason", _cut),
    ("new_execution_run_id", lambda value: f"continued as {value}"),
    ("scheduled_event_id", lambda value: f"of event {value}"),
    ("initiated_event_id", lambda value: f"of event {value}"),
    ("started_event_id", lambda value: f"of event {value}"),
)


def event_name(event: m.HistoryEvent) -> str:
    """``ActivityTaskScheduled``, as the API's documents call it."""
    words = m.EventType.Name(event.event_type).removeprefix("EVENT_TYPE_").split("_")
    return "".join(word.capitalize() for word in words)


def details_of(event: m.HistoryEvent) -> str:
    """What the table says of an event."""
    chosen = event.WhichOneof("attributes")
    if chosen is None:
        return ""
    attributes: Any = getattr(event, chosen)
    fields = attributes.DESCRIPTOR.fields_by_name
    texts: list[str] = []
    referred = False
    for name, show in DETAILS:
        if name not in fields or (referred and name.endswith("_event_id")):
            continue
        value = getattr(attributes, name)
        if (isinstance(value, Message) and not attributes.HasField(name)) or not value:
            continue
        if name == "cause":
            value = fields[name].enum_type.values_by_number[value].name
        referred = referred or name.endswith("_event_id")
        texts.append(show(value))
    return "  ".join(text for text in texts if text)


async def show_run(target: Target, workflow_id: str, run_id: str | None, as_json: bool, console: Console) -> None:
    """Show a run: what it is, what it waits for, and its history."""
    async with await target.connect() as client:
        handle = client.get_workflow_handle(workflow_id, run_id=run_id)
        described = await handle.describe()
        handle = client.get_workflow_handle(workflow_id, run_id=described.run_id)
        events = [event async for event in handle.fetch_history_events()]
    if as_json:
        document = {
            "id": described.id,
            "runId": described.run_id,
            "workflow": described.workflow_type,
            "status": described.status.name.lower() if described.status else "unknown",
            "events": [MessageToDict(event) for event in events],
        }
        print(json.dumps(document, indent=2))
        return
    _print_head(described, events, console)
    console.print(_table(events))


def _print_head(described: WorkflowExecutionDescription, events: Sequence[m.HistoryEvent], console: Console) -> None:
    status = described.status.name.lower() if described.status else "unknown"
    ended = f", ended {moment(described.close_time)}" if described.close_time else ""
    console.print(f"[bold]{plain(described.id)}[/]  {plain(described.workflow_type)}  [bold]{status}[/]")
    console.print(
        f"run {described.run_id}, started {moment(described.start_time)}{ended}", style="dim", highlight=False
    )
    raw = described.raw_description
    for activity in raw.pending_activities:
        failure = f", last failure: {_failure(activity.last_failure)}" if activity.HasField("last_failure") else ""
        console.print(
            f"waits for activity {plain(activity.activity_type.name)}, attempt {activity.attempt}{plain(failure)}"
        )
    for child in raw.pending_children:
        console.print(f"waits for child {plain(child.workflow_id)} ({plain(child.workflow_type_name)})")
    for operation in raw.pending_nexus_operations:
        console.print(f"waits for operation {plain(_operation(operation))}")
    task = raw.pending_workflow_task
    if raw.HasField("pending_workflow_task") and task.attempt > 1:
        why = _task_failure(events) or "a worker's log says why"
        console.print(f"[red]its workflow task fails[/], attempt {task.attempt}: {plain(why)}", highlight=False)
    elif raw.HasField("pending_workflow_task"):
        console.print(f"waits for a worker of task queue {plain(described.task_queue)} that runs this workflow")
    console.print()


def _operation(pending: m.PendingNexusOperationInfo) -> str:
    failed = pending.HasField("last_attempt_failure")
    failure = f", last failure: {_failure(pending.last_attempt_failure)}" if failed else ""
    started = ", which has started" if pending.operation_token else f", attempt {pending.attempt}"
    return f"{pending.operation} of {pending.service} at endpoint {pending.endpoint}{started}{failure}"


def _task_failure(events: Sequence[m.HistoryEvent]) -> str:
    """Why the workflow task fails that has to be done next; only its first attempt is in the history."""
    for event in reversed(events):
        if event.event_type == m.EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED:
            return _chain(event.workflow_task_failed_event_attributes.failure)
        if event.event_type == m.EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED:
            break
    return ""


def _table(events: Sequence[m.HistoryEvent]) -> Table:
    table = Table(box=None)
    table.add_column("event", justify="right")
    table.add_column("time", no_wrap=True)
    table.add_column("what", no_wrap=True)
    table.add_column("details", overflow="fold")
    first: datetime | None = None
    for event in events:
        at = datetime_of_ms(timestamp_ms(event.event_time))
        first = first or at
        name = event_name(event)
        style = (
            "red" if name.endswith(("Failed", "TimedOut", "Terminated")) else "dim" if "WorkflowTask" in name else ""
        )
        table.add_row(str(event.event_id), f"+{at - first}"[:13], name, plain(details_of(event)), style=style)
    return table
