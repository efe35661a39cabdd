"""What a run says about itself to queries that every workflow answers.

``__stack_trace`` tells where its tasks wait; ``__temporal_workflow_metadata`` lists its handlers, and the details its
code has set for people, as Temporal's tools ask for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from perdure.api import messages as m
from perdure.replay.definition import HandlerDefinition
from perdure.replay.frames import stack_trace

if TYPE_CHECKING:
    from perdure.replay.runtime import WorkflowRuntime

__all__ = ["BUILT_IN_QUERIES", "CURRENT_DETAILS"]

CURRENT_DETAILS = "current_details"
"""Key of a runtime's scratch under which the details are kept."""


def _stack_trace(runtime: WorkflowRuntime) -> str:
    return stack_trace(runtime.loop.pending_tasks())


def _metadata(runtime: WorkflowRuntime) -> m.WorkflowMetadata:
    definition, handlers, updates = runtime.definition, runtime.handlers, runtime.need_updates()
    return m.WorkflowMetadata(
        current_details=runtime.scratch.get(CURRENT_DETAILS, ""),
        definition=m.WorkflowDefinition(
            type=runtime.started_attributes().workflow_type.name,
            signal_definitions=_interactions(handlers.signal_names(), definition.signals),
            query_definitions=[
                *_interactions(handlers.query_names(), definition.queries),
                *(m.WorkflowInteractionDefinition(name=name, description=what) for name, what in _BUILT_IN.items()),
            ],
            update_definitions=_interactions(updates.names(), definition.updates),
        ),
    )


def _interactions(
    names: Iterable[str | None], declared: Mapping[str | None, HandlerDefinition]
) -> list[m.WorkflowInteractionDefinition]:
    found: list[m.WorkflowInteractionDefinition] = []
    for name in sorted(names, key=lambda name: name or ""):
        handler = declared.get(name)
        description = handler.description if handler is not None else ""
        found.append(m.WorkflowInteractionDefinition(name=name or "", description=description))
    return found


BUILT_IN_QUERIES: dict[str, tuple[Callable[[WorkflowRuntime], Any], Any]] = {
    "__stack_trace": (_stack_trace, str),
    "__temporal_workflow_metadata": (_metadata, m.WorkflowMetadata),
}
"""What answers them, and the type of the answer."""

_BUILT_IN = {
    "__stack_trace": "where the workflow's tasks wait",
    "__temporal_workflow_metadata": "this list, and the details the workflow has set",
}
