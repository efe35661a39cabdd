"""One cached execution of a workflow (signatures first; the machinery follows)."""

from __future__ import annotations

from collections.abc import Sequence

from perdure.api import messages as m
from perdure.replay.definition import WorkflowDefinition
from perdure.replay.outcome import Outcome, TaskCompleted
from perdure.replay.ports import NO_GUARD, Converter, Guard

__all__ = ["WorkflowRun"]


class WorkflowRun:
    """One cached execution.

    Args:
        definition: the code to run.
        namespace: where the run lives.
        converter: values and failures to payloads and back.
        guard: made active while workflow code runs.

    Attributes:
        next_event_id: id of the next event `feed` expects; 1 at first. A task whose history begins later than this
            needs its earlier events fetched; events before it are skipped.
        estimated_bytes: rough memory held, for the cache's bound.
        closed: the run has issued a closing command.
    """

    next_event_id: int
    estimated_bytes: int
    closed: bool

    def __init__(
        self, definition: WorkflowDefinition, *, namespace: str, converter: Converter, guard: Guard = NO_GUARD
    ) -> None: ...

    def begin(self, task: m.PollWorkflowTaskQueueResponse) -> None:
        """Take the metadata and the buffered queries of a workflow task; its history comes through `feed`."""

    def feed(self, events: Sequence[m.HistoryEvent], *, last: bool) -> None:
        """Take the next events, in order; `last` with the page that ends with the task's Started event."""

    def outcome(self) -> Outcome:
        """What the task came to, after the last page."""
        ...

    def resolve_step(
        self, step_id: str, *, result: m.Payload | None = None, failure: m.Failure | None = None
    ) -> Outcome:
        """A step has finished; the same workflow task goes on. A step nobody waits for any more is ignored."""
        ...

    def suspend_steps(self) -> TaskCompleted:
        """Complete the task while steps still run; they may be resolved in the next task."""
        ...

    def query(self, query: m.WorkflowQuery) -> m.WorkflowQueryResult:
        """Answer a direct query (after `begin` and, for a fresh run, `feed`)."""
        ...

    def close(self) -> None:
        """Evict: end every coroutine without letting it act. Harmless to repeat."""
