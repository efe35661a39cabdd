"""Compares what workflow code asks for with what its history recorded.

A command becomes exactly one event, in the order of the commands. `EXPECTED` says for each such event which command
makes it, and which of the event's values identify it; durations, inputs and options may change between versions of
the code, identities may not. The first difference raises `NondeterminismError` with both sides and the user's line.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from perdure.api import messages as m
from perdure.exceptions import NondeterminismError
from perdure.replay.calls import Issued, command
from perdure.replay.commands import PATCH_MARKER, STEP_MARKER

__all__ = ["EXPECTED", "Expectation", "describe_event", "differs", "marker_identity", "missing", "unasked"]

_HOW_TO_GO_ON = (
    "The run is kept, and its workflow task will be tried again. Put the old behaviour back, or keep both with\n"
    "workflow.patched('a-name-for-this-change'): runs that began before the change then go on as they began."
)


@dataclass(frozen=True, slots=True)
class Expectation:
    """Which command an event comes from, and how the two are compared."""

    command: int
    of_event: Callable[[Any], dict[str, Any]]
    """Identity of the event."""
    of_call: Callable[[Any], dict[str, Any]]
    """Identity of the command's call."""


def marker_identity(attrs: m.MarkerRecordedEventAttributes) -> dict[str, Any]:
    """What identifies a marker: its name, and the id inside it for those Perdure writes."""
    name = attrs.marker_name
    if name == PATCH_MARKER:
        return {"marker": name, "patch": _marker_json(attrs, "patch-data").get("id")}
    if name == STEP_MARKER:
        data = _marker_json(attrs, "data")
        return {"marker": name, "step": data.get("id"), "name": data.get("name")}
    return {"marker": name}


def _marker_json(attrs: m.MarkerRecordedEventAttributes, key: str) -> dict[str, Any]:
    payloads = attrs.details[key].payloads if key in attrs.details else ()
    for payload in payloads:
        try:
            data: Any = json.loads(payload.data)
        except ValueError:
            break
        if isinstance(data, dict):
            return cast("dict[str, Any]", data)
    return {}


def is_deprecated_patch(attrs: m.MarkerRecordedEventAttributes) -> bool:
    """Whether a marker says that code need not ask for it any more."""
    return attrs.marker_name == PATCH_MARKER and bool(_marker_json(attrs, "patch-data").get("deprecated"))


def _nothing(_: Any) -> dict[str, Any]:
    return {}


def _as_it_is(values: dict[str, Any]) -> dict[str, Any]:
    return values


_E = m.EventType
EXPECTED: dict[int, Expectation] = {
    _E.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED: Expectation(
        command.SCHEDULE_ACTIVITY,
        lambda a: {"activity_id": a.activity_id, "activity_type": a.activity_type.name},
        lambda call: {"activity_id": call.activity_id, "activity_type": call.name},
    ),
    _E.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED: Expectation(
        command.CANCEL_ACTIVITY,
        lambda a: {"scheduled_event_id": a.scheduled_event_id},
        lambda call: {"scheduled_event_id": call.event_id},
    ),
    _E.EVENT_TYPE_TIMER_STARTED: Expectation(
        command.START_TIMER, lambda a: {"timer_id": a.timer_id}, lambda call: {"timer_id": call.timer_id}
    ),
    _E.EVENT_TYPE_TIMER_CANCELED: Expectation(
        command.CANCEL_TIMER, lambda a: {"timer_id": a.timer_id}, lambda call: {"timer_id": call.timer_id}
    ),
    _E.EVENT_TYPE_MARKER_RECORDED: Expectation(command.RECORD_MARKER, marker_identity, _as_it_is),
    _E.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED: Expectation(
        command.START_CHILD,
        lambda a: {"workflow_id": a.workflow_id, "workflow_type": a.workflow_type.name},
        lambda call: {"workflow_id": call.id, "workflow_type": call.name},
    ),
    _E.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED: Expectation(
        command.SIGNAL_EXTERNAL,
        lambda a: {"workflow_id": a.workflow_execution.workflow_id, "signal": a.signal_name},
        lambda call: {"workflow_id": call.workflow_id, "signal": call.name},
    ),
    _E.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED: Expectation(
        command.CANCEL_EXTERNAL,
        lambda a: {"workflow_id": a.workflow_execution.workflow_id},
        lambda call: {"workflow_id": call.workflow_id},
    ),
    _E.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES: Expectation(
        command.UPSERT_SEARCH_ATTRIBUTES,
        lambda a: {"keys": sorted(a.search_attributes.indexed_fields)},
        _as_it_is,
    ),
    _E.EVENT_TYPE_WORKFLOW_PROPERTIES_MODIFIED: Expectation(
        command.MODIFY_PROPERTIES, lambda a: {"memo_keys": sorted(a.upserted_memo.fields)}, _as_it_is
    ),
    _E.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED: Expectation(
        command.ACCEPT_UPDATE, lambda a: {"update_id": a.protocol_instance_id}, _as_it_is
    ),
    _E.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED: Expectation(
        command.COMPLETE_UPDATE, lambda a: {"update_id": a.meta.update_id}, _as_it_is
    ),
    _E.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED: Expectation(command.COMPLETE_WORKFLOW, _nothing, _as_it_is),
    _E.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED: Expectation(command.FAIL_WORKFLOW, _nothing, _as_it_is),
    _E.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED: Expectation(command.CANCEL_WORKFLOW, _nothing, _as_it_is),
    _E.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW: Expectation(
        command.CONTINUE_AS_NEW, lambda a: {"workflow_type": a.workflow_type.name}, _as_it_is
    ),
}
"""Event type → the command it records. Every other event comes from outside of the code."""

_BY_COMMAND = {expectation.command: expectation for expectation in EXPECTED.values()}

_COMMAND_NAMES = {
    command.SCHEDULE_ACTIVITY: "schedule an activity",
    command.CANCEL_ACTIVITY: "cancel an activity",
    command.START_TIMER: "start a timer",
    command.COMPLETE_WORKFLOW: "complete the workflow",
    command.FAIL_WORKFLOW: "fail the workflow",
    command.CANCEL_TIMER: "cancel a timer",
    command.CANCEL_WORKFLOW: "end as cancelled",
    command.CANCEL_EXTERNAL: "cancel another workflow",
    command.RECORD_MARKER: "record a marker",
    command.CONTINUE_AS_NEW: "continue as new",
    command.START_CHILD: "start a child workflow",
    command.SIGNAL_EXTERNAL: "signal another workflow",
    command.UPSERT_SEARCH_ATTRIBUTES: "upsert search attributes",
    command.MODIFY_PROPERTIES: "change the memo",
    command.ACCEPT_UPDATE: "accept an update",
    command.COMPLETE_UPDATE: "complete an update",
}


def event_name(event: m.HistoryEvent) -> str:
    """An event type as people write it: ActivityTaskScheduled."""
    return _E.Name(event.event_type).removeprefix("EVENT_TYPE_").title().replace("_", "")


def attributes_of(event: m.HistoryEvent) -> Any:
    """The attributes message of an event."""
    field = event.WhichOneof("attributes")
    return getattr(event, field) if field is not None else None


def describe_event(event: m.HistoryEvent) -> str:
    """An event with the values that matter."""
    expectation = EXPECTED.get(event.event_type)
    values = expectation.of_event(attributes_of(event)) if expectation is not None else {}
    return _line(f"event {event.event_id}: {event_name(event)}", values)


def describe_issued(issued: Issued) -> str:
    """A command with the values that matter."""
    return _line(_COMMAND_NAMES[issued.kind], _BY_COMMAND[issued.kind].of_call(issued.call))


def differs(event: m.HistoryEvent, issued: Issued, run: str) -> NondeterminismError:
    """The code asked for something else than the history holds."""
    changed = ""
    expectation = EXPECTED[event.event_type]
    if expectation.command == issued.kind:
        recorded = expectation.of_event(attributes_of(event))
        asked = expectation.of_call(issued.call)
        keys = [key for key in recorded if recorded[key] != asked.get(key)]
        changed = "".join(f"\n  differs        {key}: {recorded[key]!r} → {asked.get(key)!r}" for key in keys)
    return _error(run, f"  history holds  {describe_event(event)}\n  code asked to  {_asked(issued)}{changed}")


def unasked(event: m.HistoryEvent, run: str, waiting: str) -> NondeterminismError:
    """The history holds something the code did not ask for."""
    return _error(run, f"  history holds  {describe_event(event)}\n  code asked for nothing at this point{waiting}")


def missing(issued: Issued, before: m.HistoryEvent | None, run: str) -> NondeterminismError:
    """The code asked for something the history does not hold."""
    held = "nothing at this point"
    if before is not None:
        held += f"; next comes {describe_event(before)}"
    return _error(run, f"  history holds  {held}\n  code asked to  {_asked(issued)}")


def _asked(issued: Issued) -> str:
    text = describe_issued(issued)
    return f"{text}\n                 at {issued.site}" if issued.site is not None else text


def _line(head: str, values: dict[str, Any]) -> str:
    return " ".join([head, *(f"{key}={value!r}" for key, value in values.items())])


def _error(run: str, difference: str) -> NondeterminismError:
    return NondeterminismError(
        f"workflow code does not do what its history recorded ({run})\n{difference}\n{_HOW_TO_GO_ON}"
    )
