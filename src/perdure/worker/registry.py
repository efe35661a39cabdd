"""Which workflows and activities a worker runs, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from perdure.activity.definition import Activity
from perdure.exceptions import DefinitionError
from perdure.replay.definition import WorkflowDefinition, describe_callable

__all__ = ["activities_by_name", "unknown_activity_message", "unknown_workflow_message", "workflows_by_name"]


def workflows_by_name(workflows: Iterable[object]) -> dict[str | None, WorkflowDefinition]:
    """Definitions by workflow type; the key None is the dynamic one.

    Raises:
        DefinitionError: something is not a workflow, or two have the same name.
    """
    found: dict[str | None, WorkflowDefinition] = {}
    for target in workflows:
        definition = target if isinstance(target, WorkflowDefinition) else WorkflowDefinition.must_be(target)
        other = found.get(definition.name)
        if other is not None and other is not definition:
            raise DefinitionError(
                f"two workflows are named {definition.name!r}: {other.location} and {definition.location}. "
                "Name one of them differently, or pass workflows=[…] with the one you mean"
            )
        found[definition.name] = definition
    return found


def activities_by_name(
    activities: Iterable[Activity[Any, Any] | Callable[..., Any]],
) -> dict[str | None, Activity[Any, Any]]:
    """Activities by type; the key None is the dynamic one.

    Raises:
        DefinitionError: something is not an activity, or two have the same name.
    """
    found: dict[str | None, Activity[Any, Any]] = {}
    for activity in activities:
        if not isinstance(activity, Activity):
            raise DefinitionError(f"{describe_callable(activity)} is not an activity: decorate it with @activity.defn")
        if activity.is_method:
            raise DefinitionError(
                f"activity {activity.__name__!r} ({describe_callable(activity.fn)}) is a method: pass it through an "
                "instance, as in activities=[payments.charge]"
            )
        other = found.get(activity.name)
        if other is not None and other is not activity:
            raise DefinitionError(
                f"two activities are named {activity.name!r}: {describe_callable(other.fn)} and "
                f"{describe_callable(activity.fn)}. Name one of them differently, or pass activities=[…] with the "
                "one you mean"
            )
        found[activity.name] = activity
    return found


def unknown_workflow_message(name: str, task_queue: str, known: Iterable[str | None]) -> str:
    """What a run of an unknown type is told; it waits until a worker knows it."""
    return (
        f"workflow type {name!r} is not registered with the worker on task queue {task_queue!r} "
        f"(it knows {_names(known)}); the run waits: start a worker that has it"
    )


def unknown_activity_message(name: str, task_queue: str, known: Iterable[str | None]) -> str:
    """What an activity of an unknown type fails with; it is retried."""
    return (
        f"activity {name!r} is not registered with the worker on task queue {task_queue!r} "
        f"(it knows {_names(known)}); it is retried: start a worker that has it"
    )


def _names(known: Iterable[str | None]) -> str:
    return ", ".join(sorted(name for name in known if name is not None)) or "none"
