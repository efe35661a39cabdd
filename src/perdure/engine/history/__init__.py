"""The pure history machines: what a run's history may become.

Every function here is synchronous and free of I/O, clock and randomness. A decision checks everything first and
raises `RpcError` without having changed anything; otherwise it changes the `Run` in place and returns a
`Transition` that says what to write and what to do after the write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from perdure.api import messages as m
from perdure.engine.history.state import (
    ActivityItem,
    ActivityLive,
    CancelItem,
    ChildItem,
    Item,
    Live,
    MessageKind,
    OutMessage,
    Retry,
    Run,
    RunState,
    SignalItem,
    TimerItem,
    WorkflowTaskLive,
)
from perdure.engine.history.transition import Limits, Lineage, NextRun, Transition


class EncodedRun(NamedTuple):
    """A run as rows."""

    state: bytes
    items: list[tuple[int, bytes]]
    """(event_id, bytes) of items to upsert; empty unless spilled."""
    item_deletes: list[int]
    """Event ids of items whose rows must go."""


class VisibilityFields(NamedTuple):
    """The fields of a store's VisibilityRow, in its order."""

    run_key: int
    namespace: str
    workflow_id: str
    run_id: str
    workflow_type: str
    task_queue: str
    status: int
    start_ms: int
    execution_ms: int
    close_ms: int | None
    history_length: int
    history_bytes: int
    info: bytes


class StateVersionError(ValueError):
    """The row has another layout version: rebuild the state with `fold`."""


# -- lifecycle ---------------------------------------------------------------------------------------------------


def start_run(
    *,
    run_key: int,
    run_id: str,
    request: m.StartWorkflowExecutionRequest,
    lineage: Lineage = Lineage(),
    signal: m.SignalWorkflowExecutionRequest | None = None,
    limits: Limits,
    retention_ms: int,
    now_ms: int,
) -> Transition:
    """Start a run; `signal` is recorded before its first workflow task (signal-with-start)."""
    ...


def signal(
    run: Run,
    request: m.SignalWorkflowExecutionRequest,
    *,
    limits: Limits,
    external: tuple[str, str] | None = None,
    child_only: bool = False,
    now_ms: int,
) -> Transition:
    """Record a signal. `external` = (workflow_id, run_id) of a sending workflow; `child_only`: it must be the parent.

    Raises:
        RpcError: NOT_FOUND closed, or `child_only` and not a child of the sender; INVALID_ARGUMENT limits.
    """


def request_cancel(
    run: Run,
    request: m.RequestCancelWorkflowExecutionRequest,
    *,
    external: tuple[str, str] | None = None,
    external_initiated_event_id: int = 0,
    child_only: bool = False,
    now_ms: int,
) -> Transition: ...


def terminate(
    run: Run, *, reason: str, details: m.Payloads | None, identity: str, now_ms: int
) -> Transition: ...


def wake(run: Run, *, limits: Limits, new_id: Callable[[], str], now_ms: int) -> Transition:
    """Fire everything that is due. changed=False when nothing was."""


# -- workflow tasks ----------------------------------------------------------------------------------------------


def workflow_task_ready(run: Run, now_ms: int) -> bool:
    """A workflow task is pending, not handed out, and its back-off is over."""


def start_workflow_task(
    run: Run, *, identity: str, request_id: str, sticky: bool, limits: Limits = ..., now_ms: int
) -> None:
    """Hand out the pending workflow task (precondition: workflow_task_ready); sets run.live.task."""


def task_frames(run: Run, from_event_id: int) -> list[bytes]:
    """Frames from `from_event_id` up to the Started event of the task that is handed out (or to the end, if none is).

    Raises:
        LookupError: memory does not reach back that far; read the store up to run.frames_first_event_id - 1.
    """


def complete_workflow_task(
    run: Run,
    request: m.RespondWorkflowTaskCompletedRequest,
    *,
    limits: Limits,
    new_id: Callable[[], str],
    now_ms: int,
) -> Transition:
    """The token has been checked by the caller; here only that a task is handed out (else NOT_FOUND)."""


def fail_workflow_task(
    run: Run, request: m.RespondWorkflowTaskFailedRequest, *, limits: Limits = ..., now_ms: int
) -> Transition: ...


def expire_sticky(run: Run, *, now_ms: int) -> Transition: ...


def flush_buffered(run: Run, *, now_ms: int) -> Transition:
    """After `decode`: nobody holds the task any more, so buffered events enter the history. changed=False if none."""


# -- activities --------------------------------------------------------------------------------------------------


def activity_by_id(run: Run, activity_id: str) -> ActivityItem:
    """Raises RpcError NOT_FOUND."""


def start_activity(run: Run, scheduled_event_id: int, *, identity: str, now_ms: int) -> ActivityItem:
    """Hand out an attempt (live only). Raises RpcError NOT_FOUND if it is gone, handed out or not due."""


def release_activity(run: Run, scheduled_event_id: int) -> None:
    """Undo `start_activity`: the poller that should have got it is gone."""


def complete_activity(
    run: Run, scheduled_event_id: int, attempt: int, result: m.Payloads | None, *, identity: str, now_ms: int
) -> Transition: ...


def fail_activity(
    run: Run,
    scheduled_event_id: int,
    attempt: int,
    failure: m.Failure,
    *,
    identity: str,
    last_heartbeat_details: m.Payloads | None = None,
    now_ms: int,
) -> Transition: ...


def cancel_activity(
    run: Run, scheduled_event_id: int, attempt: int, details: m.Payloads | None, *, identity: str, now_ms: int
) -> Transition: ...


def heartbeat_activity(
    run: Run, scheduled_event_id: int, attempt: int, details: m.Payloads | None, *, identity: str, now_ms: int
) -> Transition:
    """changed only when `details` are given. Whether a cancel is wanted: item.cancel_requested_event_id."""


def dispatchable_activities(run: Run, now_ms: int) -> list[int]:
    """Scheduled event ids of activities that may be handed out now and are not."""


# -- other runs --------------------------------------------------------------------------------------------------


def message_delivered(
    run: Run, seq: int, *, run_id: str = "", failure_cause: int = 0, now_ms: int
) -> Transition:
    """The outcome of an OutMessage. Unknown seq: changed=False. `failure_cause`: the enum that goes with its kind."""


def child_closed(
    run: Run, initiated_event_id: int, close_event: m.HistoryEvent, child_run_id: str, *, now_ms: int
) -> Transition: ...


# -- when, and as what -------------------------------------------------------------------------------------------


def hot(run: Run) -> bool:
    """It has something to hand out or deliver now (on restart it must be loaded)."""


def next_deadline_ms(run: Run) -> int | None:
    """The earliest valid deadline of an open run."""


def wake_at_ms(run: Run) -> int | None:
    """For the store row: 0 hot, else the earliest durable deadline, else None; closed: retain_until_ms."""


def encode(run: Run) -> EncodedRun: ...


def decode(run_key: int, state: bytes, items: Sequence[tuple[int, bytes]]) -> Run:
    """Raises StateVersionError."""


def fold(run_key: int, frames: Iterable[bytes]) -> RunState: ...


def folded_view(state: RunState) -> object: ...


def describe(run: Run, now_ms: int) -> m.DescribeWorkflowExecutionResponse: ...


def visibility_row(run: Run) -> VisibilityFields: ...


__all__ = [
    "ActivityItem",
    "ActivityLive",
    "CancelItem",
    "ChildItem",
    "EncodedRun",
    "Item",
    "Limits",
    "Lineage",
    "Live",
    "MessageKind",
    "NextRun",
    "OutMessage",
    "Retry",
    "Run",
    "RunState",
    "SignalItem",
    "StateVersionError",
    "TimerItem",
    "Transition",
    "VisibilityFields",
    "WorkflowTaskLive",
    "activity_by_id",
    "cancel_activity",
    "child_closed",
    "complete_activity",
    "complete_workflow_task",
    "decode",
    "describe",
    "dispatchable_activities",
    "encode",
    "expire_sticky",
    "fail_activity",
    "fail_workflow_task",
    "flush_buffered",
    "fold",
    "folded_view",
    "heartbeat_activity",
    "hot",
    "message_delivered",
    "next_deadline_ms",
    "release_activity",
    "request_cancel",
    "signal",
    "start_activity",
    "start_run",
    "start_workflow_task",
    "task_frames",
    "terminate",
    "visibility_row",
    "wake",
    "wake_at_ms",
    "workflow_task_ready",
]
