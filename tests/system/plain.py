"""Histories without what differs from one telling to the next: times, ids of runs, who did it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from google.protobuf import json_format

from perdure.api import messages as m

__all__ = ["asked_for", "names", "plain"]

T = m.EventType

_ASKED: dict[int, tuple[str, ...]] = {
    T.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED: ("activity_id", "activity_type.name", "input"),
    T.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED: (),
    T.EVENT_TYPE_TIMER_STARTED: ("timer_id", "start_to_fire_timeout"),
    T.EVENT_TYPE_TIMER_CANCELED: ("timer_id",),
    T.EVENT_TYPE_MARKER_RECORDED: ("marker_name", "details"),
    T.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED: ("workflow_id", "workflow_type.name", "input"),
    T.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED: ("workflow_execution.workflow_id", "signal_name"),
    T.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED: ("result",),
    T.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW: ("workflow_type.name", "input"),
}
"""Events that commands made, and what identifies them whatever else happened in between."""

_DIFFERING = frozenset(
    (
        "eventTime",
        "taskId",
        "identity",
        "requestId",
        "historySizeBytes",
        "runId",
        "originalExecutionRunId",
        "firstExecutionRunId",
        "continuedExecutionRunId",
        "newExecutionRunId",
        "stackTrace",
    )
)


def _value(attributes: Any, path: str) -> Any:
    for name in path.split("."):
        attributes = getattr(attributes, name)
    return json_format.MessageToDict(attributes) if hasattr(attributes, "DESCRIPTOR") else attributes


def asked_for(events: Iterable[m.HistoryEvent]) -> list[tuple[Any, ...]]:
    """What the code asked for, in order."""
    found: list[tuple[Any, ...]] = []
    for event in events:
        paths = _ASKED.get(event.event_type)
        if paths is not None:
            field = event.WhichOneof("attributes")
            assert field is not None
            attributes = getattr(event, field)
            found.append((names([event])[0], *(_value(attributes, path) for path in paths)))
    return found


def names(events: Iterable[m.HistoryEvent]) -> list[str]:
    """Event types as people write them."""
    return [T.Name(event.event_type).removeprefix("EVENT_TYPE_").title().replace("_", "") for event in events]


def plain(events: Iterable[m.HistoryEvent]) -> list[Any]:
    """Whole events without what differs from run to run; the queue of a workflow task may be a sticky one."""
    return [_without(json_format.MessageToDict(event)) for event in events]


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: _without(each) for key, each in value.items() if key not in _DIFFERING}
        if "startToCloseTimeout" in kept and "attempt" in kept:
            kept.pop("taskQueue", None)
        return kept
    return [_without(each) for each in value] if isinstance(value, list) else value
