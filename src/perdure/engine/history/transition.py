"""What a decision brings about: the value that carries it from the pure machines to the shard.

A decision changes the `Run` in place and says in a `Transition` what must be written and what must happen after
the write. The shard appends the frames, marks the run dirty, and acts on the rest; nothing here does I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from msgspec import Struct

from perdure.api import RpcError
from perdure.api import messages as m
from perdure.engine.history.state import OutMessage, Run
from perdure.engine.visibility.values import AttributeLimits

__all__ = ["DEFAULT_LIMITS", "NO_LINEAGE", "Limits", "Lineage", "NextRun", "Transition", "UpdateChange", "UpdateFate"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Limits:
    """Bounds, with Temporal's defaults. Sizes in bytes."""

    blob_bytes: int = 2 * 1024 * 1024
    memo_bytes: int = 2 * 1024 * 1024
    id_length: int = 1000
    pending_activities: int = 2000
    pending_children: int = 2000
    pending_signals: int = 2000
    pending_cancels: int = 2000
    pending_nexus_operations: int = 30
    nexus_header_bytes: int = 8 * 1024
    """Names and values of the headers of an operation, or of a callback."""
    nexus_request_timeout_ms: int = 10_000
    """How long a handler has to answer a Nexus request."""
    nexus_backoff_initial_ms: int = 1000
    """Doubles with each further attempt of a Nexus request or a callback."""
    nexus_backoff_max_ms: int = 3600 * 1000
    callbacks: int = 2000
    """Of one workflow."""
    signals_per_run: int = 10_000
    request_ids_kept: int = 1000
    history_events_suggest: int = 4096
    history_bytes_suggest: int = 4 * 1024 * 1024
    history_events_max: int = 51_200
    history_bytes_max: int = 50 * 1024 * 1024
    task_attempts_before_backoff: int = 3
    task_backoff_initial_ms: int = 5000
    """Doubles with each further attempt of a failing workflow task."""
    task_backoff_max_ms: int = 60_000
    updates_in_flight: int = 10
    """Updates of a run that are admitted or accepted, and not completed."""
    updates_per_run: int = 2000
    updates_suggest: float = 0.9
    """From this part of `updates_per_run` on, workers are told to continue as new."""
    buffered_events: int = 10_000
    """Events that may wait for a handed-out workflow task; at one more the task is failed."""
    default_task_timeout_ms: int = 10_000
    default_retention_ms: int = 3 * 24 * 3600 * 1000
    search_attributes_per_type: int = 100
    """Custom search attributes of one type that a namespace may register."""
    search_attributes: int = 100
    """That one request may set."""
    search_attribute_bytes: int = 2 * 1024
    """Of one value."""
    search_attributes_bytes: int = 40 * 1024
    """Of all that one request sets."""

    @property
    def of_attributes(self) -> AttributeLimits:
        """Those of the search attributes that one request sets."""
        return AttributeLimits(self.search_attributes, self.search_attribute_bytes, self.search_attributes_bytes)


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """Where a new run comes from; empty for a client's start."""

    first_run_id: str = ""
    original_run_id: str = ""
    continued_from_run_id: str = ""
    initiator: int = 0
    """ContinueAsNewInitiator"""
    attempt: int = 1
    execution_deadline_ms: int = 0
    first_task_backoff_ms: int = 0
    continued_failure: m.Failure | None = None
    last_completion_result: m.Payloads | None = None
    parent_namespace: str = ""
    parent_workflow_id: str = ""
    parent_run_id: str = ""
    parent_initiated_event_id: int = 0
    root_workflow_id: str = ""
    root_run_id: str = ""
    signal_request_ids: tuple[str, ...] = ()
    """Of signals that runs before this one have taken in."""
    cancel_request_ids: tuple[str, ...] = ()
    inherited_version: str = ""
    """The version of workers that the run before it, or its parent, is pinned to (see `versions`)."""
    prefers_ramping: bool = False
    """It is to go to the version that gets a share of the traffic, if there is one."""


NO_LINEAGE = Lineage()
"""Of a run that a client starts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NextRun:
    """The run that must start in the same commit as its predecessor closes."""

    run_id: str
    request: m.StartWorkflowExecutionRequest
    lineage: Lineage


class UpdateFate(IntEnum):
    """What has become of an update."""

    ACCEPTED = 1
    COMPLETED = 2
    REJECTED = 3
    CLOSED = 4
    """The run is over, and it was not accepted."""
    MOVED = 5
    """The same, and another run follows: ask that one."""


class UpdateChange(Struct, frozen=True):
    """News for those who wait for an update, once the transition is durable."""

    update_id: str
    fate: UpdateFate
    outcome: m.Outcome | None = None
    """Of a completed or rejected one."""
    accepted_event_id: int = 0


class Transition(Struct):
    """The outcome of one decision about one run. (A Struct: one is made for each decision.)"""

    run: Run
    now_ms: int
    frames: list[bytes] = []
    """New events, framed, in order; the last one's id is run.state.next_event_id - 1."""
    workflow_task: bool = False
    """A workflow task has become dispatchable (now, not before state.task_not_before_ms): offer it."""
    activities: list[int] = []
    """Scheduled event ids of activities and Nexus operations that have become dispatchable: offer them after the
    commit."""
    eager: list[int] | None = None
    """Those among them that the worker asked to have in the answer to its completion."""
    messages: list[OutMessage] = []
    """New outbox messages: deliver them after the commit."""
    next_run: NextRun | None = None
    changed: bool = True
    """False = nothing changed, nothing to write (an idempotent repeat)."""
    visibility: bool = False
    """The visibility row must be written (started, closed, or its attributes changed)."""
    closed: bool = False
    error: RpcError | None = None
    """Answer the caller with this, after the commit of what the transition wrote (e.g. UnhandledCommand)."""
    updates: list[UpdateChange] | None = None
    """What has become of updates; told after the commit."""
    reset_event_id: int = 0
    """The completed task is forgotten: its worker goes back to this Started event."""
    attributes: bool = False
    """With the visibility row, the search attributes must be written."""
    handed_on: bool = False
    """The run has ended because another takes up its workflow: the workflow goes on."""
