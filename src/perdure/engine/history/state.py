"""The mutable state of a run: what it is waiting for, and nothing else.

`RunState` is what a history folds to, plus the little that histories do not hold (activity attempts, heartbeat
details, workflow task attempts, buffered events, request ids, undelivered messages). It is durable: encoded to
MessagePack it is the run's row in the store, so that a run loads without reading its history. `Live` is what a
process knows only while it holds the run: which tasks are handed out and since when. Losing it is harmless: the
tasks are handed out again.

Pending items (activities, timers, children, external signals and cancels, Nexus operations) share one dict keyed by the
id of the event that created them. Instants are epoch milliseconds, spans milliseconds, 0 = not set; ids 0 = none.
New fields go at the end, with a default: rows are arrays, and older rows must still load.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final

from msgspec import Struct, field

if TYPE_CHECKING:
    from perdure.engine.history.terms import Asked

__all__ = [
    "ACTIVITY_PREFIX",
    "ActivityControl",
    "ActivityItem",
    "ActivityLive",
    "ActivityOriginal",
    "CallbackItem",
    "CancelItem",
    "ChildItem",
    "Item",
    "Live",
    "MessageKind",
    "News",
    "NexusItem",
    "NexusRequest",
    "OutMessage",
    "Pause",
    "Retry",
    "Run",
    "RunState",
    "SignalItem",
    "Standalone",
    "TimerItem",
    "UpdateBook",
    "UpdateLive",
    "WorkflowTaskLive",
]

ACTIVITY_PREFIX: Final = "\x1factivity/"
"""How the ids of activity executions begin, which are kept in the place of workflow ids (see `standalone`)."""


class Retry(Struct, array_like=True, frozen=True, gc=False):
    """A retry policy with its defaults filled in."""

    initial_ms: int = 1000
    coefficient: float = 2.0
    maximum_ms: int = 100_000
    max_attempts: int = 0
    """0 = unlimited."""
    non_retryable: tuple[str, ...] = ()


class ActivityOriginal(Struct, array_like=True, frozen=True):
    """What an activity's Scheduled event says, once something else holds."""

    task_queue: str
    scheduled_at_ms: int
    schedule_to_close_ms: int
    schedule_to_start_ms: int
    start_to_close_ms: int
    heartbeat_ms: int
    retry: Retry | None
    priority: bytes


class ActivityControl(Struct, array_like=True):
    """What operators have done to an activity (see `activity_control`)."""

    paused_at_ms: int = 0
    """0 = it is not paused."""
    pause_identity: str = ""
    pause_reason: str = ""
    reset: bool = False
    """The attempt under way is the last of its count."""
    reset_heartbeat: bool = False
    """The next attempt does not get the details that this one left."""
    attempts_forgotten: int = 0
    """Attempts that do not count any more."""
    original: ActivityOriginal | None = None


class ActivityItem(Struct, array_like=True, tag="a", gc=False):
    """An activity from its Scheduled event to its closing one."""

    event_id: int
    activity_id: str
    activity_type: str
    task_queue: str
    scheduled_at_ms: int
    schedule_to_close_ms: int = 0
    schedule_to_start_ms: int = 0
    start_to_close_ms: int = 0
    heartbeat_ms: int = 0
    retry: Retry | None = None
    attempt: int = 1
    next_attempt_at_ms: int = 0
    """When the next attempt may be handed out; 0 = at once. In the past = due."""
    attempt_scheduled_at_ms: int = 0
    """When the present attempt became dispatchable (schedule-to-start counts from here)."""
    cancel_requested_event_id: int = 0
    last_failure: bytes = b""
    """A serialized Failure, of the attempt before."""
    last_worker_identity: str = ""
    last_started_at_ms: int = 0
    heartbeat_details: bytes = b""
    """Serialized Payloads; survive retries."""
    last_heartbeat_at_ms: int = 0
    held: bool = False
    """A restart must not hand it out again; its deadlines run from last_started_at_ms (see `holding`)."""
    silent_from_ms: int = 0
    """A held attempt's heartbeat timeout counts from here at the earliest: before, nobody was there to hear one."""
    priority: bytes = b""
    """A serialized Priority: what it sets itself; the rest is the workflow's."""
    last_ended_at_ms: int = 0
    """When the attempt before ended."""
    control: ActivityControl | None = None
    """None unless an operator has intervened."""

    @property
    def shown_attempt(self) -> int:
        """The attempt that counts; `attempt` itself counts all there ever were, and is the fence."""
        return self.attempt if self.control is None else self.attempt - self.control.attempts_forgotten

    @property
    def paused(self) -> bool:
        return self.control is not None and self.control.paused_at_ms != 0


class TimerItem(Struct, array_like=True, tag="t", gc=False):
    """A timer from its Started event to Fired or Canceled."""

    event_id: int
    timer_id: str
    fire_at_ms: int


class ChildItem(Struct, array_like=True, tag="c"):
    """A child workflow from its Initiated event to its closing one."""

    event_id: int
    namespace: str
    workflow_id: str
    workflow_type: str
    parent_close_policy: int
    run_id: str = ""
    """Set when the child has started."""
    started_event_id: int = 0


class SignalItem(Struct, array_like=True, tag="s"):
    """A signal to another workflow, from its Initiated event until delivered or failed."""

    event_id: int
    namespace: str
    workflow_id: str
    run_id: str
    control: str = ""


class CancelItem(Struct, array_like=True, tag="x"):
    """A cancel request to another workflow, from its Initiated event until delivered or failed."""

    event_id: int
    namespace: str
    workflow_id: str
    run_id: str
    control: str = ""


class NexusRequest(Struct, array_like=True):
    """A request of a Nexus operation, to start it or to cancel it, until it is answered for good."""

    attempt: int = 1
    next_attempt_at_ms: int = 0
    """When the present attempt may be handed out; 0 = at once."""
    held_until_ms: int = 0
    """The present attempt is with a worker, which has this long to answer; 0 = it is not."""
    last_failure: bytes = b""
    """A serialized Failure, of the attempt before."""
    last_ended_at_ms: int = 0


class NexusItem(Struct, array_like=True, tag="n"):
    """A Nexus operation from its Scheduled event to its closing one (see `nexus`)."""

    event_id: int
    endpoint: str
    endpoint_id: str
    service: str
    operation: str
    request_id: str
    scheduled_at_ms: int
    schedule_to_close_ms: int = 0
    schedule_to_start_ms: int = 0
    start_to_close_ms: int = 0
    start: NexusRequest = field(default_factory=NexusRequest)
    token: str = ""
    """What its handler calls it, once it has started asynchronously."""
    started_at_ms: int = 0
    """0 = it has not."""
    cancel_requested_event_id: int = 0
    cancel_requested_at_ms: int = 0
    cancel_task_completed_event_id: int = 0
    """Of the workflow task that asked for the cancel."""
    cancel: NexusRequest = field(default_factory=NexusRequest)
    cancel_state: int = 0
    """A NexusOperationCancellationState once the cancel request has been answered for good."""

    @property
    def request(self) -> NexusRequest | None:
        """What is to be delivered now; None if nothing is."""
        if not self.started_at_ms:
            return self.start
        return self.cancel if self.cancel_requested_event_id and not self.cancel_state else None


Item = ActivityItem | TimerItem | ChildItem | SignalItem | CancelItem | NexusItem


class CallbackItem(Struct, array_like=True):
    """Whom to tell how the workflow, or an update of it, ends (see `callbacks`)."""

    callback: bytes
    """A serialized Callback."""
    registered_at_ms: int
    state: int = 1
    """A CallbackState; 1 = the workflow has not ended."""
    attempt: int = 0
    last_failure: bytes = b""
    """A serialized Failure."""
    last_ended_at_ms: int = 0
    next_attempt_at_ms: int = 0
    update_id: str = ""
    """Of the update it waits for; "" = for the workflow."""
    event_id: int = 0
    """Of the event that completed the update; 0 = none."""


class MessageKind(IntEnum):
    """What one run may ask of another; `data` of the OutMessage is the message named here."""

    START_CHILD = 1
    """StartWorkflowExecutionRequest"""
    SIGNAL = 2
    """SignalWorkflowExecutionRequest"""
    CANCEL = 3
    """RequestCancelWorkflowExecutionRequest"""
    TERMINATE = 4
    """TerminateWorkflowExecutionRequest (parent close policy)"""
    CHILD_CLOSED = 5
    """HistoryEvent: the child's closing event, for the parent"""
    CALLBACK = 6
    """Nothing: the sender's callback number `event_id` is to be told what it waits for"""


class OutMessage(Struct, array_like=True):
    """A message to another run: durable until its outcome is recorded here, delivered at least once.

    The receiver applies it once: by the request id in `data`, or because the item it speaks of is gone.
    """

    seq: int
    kind: int
    namespace: str
    workflow_id: str
    run_id: str
    """"" = the current run."""
    data: bytes
    event_id: int = 0
    """The Initiated event it belongs to: the sender's, or for CHILD_CLOSED the parent's."""
    child_only: bool = False


class UpdateBook(Struct, array_like=True):
    """The updates of a run that are in its history, by update id."""

    admitted: dict[str, int] = {}
    """Id of the Admitted event, while not accepted; negative once rejected (which is not in history)."""
    accepted: dict[str, int] = {}
    """Id of the Accepted event, while not completed. In a closed run: those that never were."""
    completed: dict[str, int] = {}
    """Id of the Completed event, in that order."""
    paged: int = 0
    """How many of `completed`, the first ones, are in rows of their own (see `encoding`)."""


class Pause(Struct, array_like=True, frozen=True):
    """That a workflow is paused, and by whom."""

    at_ms: int
    identity: str
    reason: str
    request_id: str


class Standalone(Struct, array_like=True, gc=False):
    """What an activity execution is besides a run (see `standalone`)."""

    delay_ms: int = 0
    """Between its start and its first attempt."""
    original_delay_ms: int = 0
    cancel_request_id: str = ""
    cancel_reason: str = ""
    terminate_request_id: str = ""
    pause_request_id: str = ""
    heartbeats: int = 0
    """Of all attempts."""
    closed: ActivityItem | None = None
    """The activity as it was when it ended."""


class RunState(Struct, array_like=True, gc=False):
    """The durable state of one run."""

    version: int
    """Of this layout. A row of another version is rebuilt from history."""
    namespace: str
    workflow_id: str
    run_id: str
    workflow_type: str
    task_queue: str
    # -- identity and lineage
    first_run_id: str = ""
    original_run_id: str = ""
    continued_from_run_id: str = ""
    new_run_id: str = ""
    """The run that follows this one (continue-as-new, retry)."""
    parent_namespace: str = ""
    parent_workflow_id: str = ""
    parent_run_id: str = ""
    parent_initiated_event_id: int = 0
    root_workflow_id: str = ""
    root_run_id: str = ""
    start_request_id: str = ""
    attempt: int = 1
    retry: Retry | None = None
    # -- life
    status: int = 1
    """A WorkflowExecutionStatus value; 1 = running."""
    start_ms: int = 0
    execution_ms: int = 0
    """When the first workflow task is due: start, start delay or retry back-off included."""
    close_ms: int = 0
    retain_until_ms: int = 0
    """When a closed run is erased; 0 while running."""
    close_event_id: int = 0
    execution_timeout_ms: int = 0
    run_timeout_ms: int = 0
    task_timeout_ms: int = 10_000
    execution_deadline_ms: int = 0
    """Absolute; shared by all runs of the chain."""
    run_deadline_ms: int = 0
    # -- history
    next_event_id: int = 1
    history_bytes: int = 0
    # -- workflow task
    task_scheduled_event_id: int = 0
    """Of the pending workflow task; 0 = none pending. For a transient task: the id its Scheduled event will get."""
    task_scheduled_at_ms: int = 0
    task_attempt: int = 1
    """Of the pending workflow task; > 1 = transient."""
    task_not_before_ms: int = 0
    """Back-off of a failing task, or start delay: not handed out before."""
    last_task_started_event_id: int = 0
    """Started id of the last completed task: previous_started_event_id."""
    last_task_completed_event_id: int = 0
    sticky_queue: str = ""
    sticky_timeout_ms: int = 0
    task_last_failure: bytes = b""
    """Serialized Failure of the failing workflow task, for describe."""
    task_failure_cause: int = 0
    # -- inbound
    cancel_requested: bool = False
    cancel_request_ids: list[str] = []
    signal_request_ids: list[str] = []
    """Bounded by Limits.request_ids_kept, oldest dropped first."""
    signal_count: int = 0
    buffered: list[bytes] = []
    """Serialized HistoryEvents (without id) that arrived while a task was started."""
    # -- outbound
    next_message_seq: int = 1
    outbox: list[OutMessage] = []
    items: dict[int, Item] = {}
    """Pending items by event id. Encoded separately when there are many (see `encode`)."""
    spilled: bool = False
    """True once items are kept in rows of their own."""
    # -- for visibility and describe
    memo: bytes = b""
    search_attributes: bytes = b""
    cron_schedule: str = ""
    user_metadata: bytes = b""
    priority: bytes = b""
    versioning: bytes = b""
    identity: str = ""
    # -- for what comes after
    retention_ms: int = 0
    """How long the run is kept once closed."""
    started_attributes: bytes = b""
    """Serialized WorkflowExecutionStartedEventAttributes, kept only where a retry policy or a cron schedule may need
    them again."""
    deleted: bool = False
    """Closed, and to be erased as soon as nothing of it is under way."""
    updates: UpdateBook | None = None
    """None until the first update is accepted."""
    reset_run_id: str = ""
    """The run that took up this one's history when it was reset; the latest, if it was reset more than once."""
    bases: list[tuple[int, str]] = []
    """Of a run that began by a reset: the runs before it, oldest first: (the first event id that is no longer theirs,
    run id). Some of them left it no event."""
    original_start_ms: int = 0
    """Of such a run: when the history began; `start_ms` is when the reset was made."""
    attached: dict[str, int] | None = None
    """Request ids of starts that found this run and left theirs, and the event that says so; 0 = it is buffered."""
    worker: bytes = b""
    """What the worker that completed the last workflow task said of its version: a serialized WorkflowExecutionInfo."""
    inherited: str = ""
    """The version of workers it is pinned to until its first workflow task is completed (see `versions`)."""
    state_transitions: int = 0
    """How often the run was written."""
    pause: Pause | None = None
    """Set while nothing of the run may be handed out."""
    callbacks: list[CallbackItem] | None = None
    """Whom to tell how the workflow ends, in the last of its runs, or how an update does."""
    standalone: Standalone | None = None
    """Set if it is an activity execution; then it never has a workflow task."""


class WorkflowTaskLive(Struct, gc=False):
    """A workflow task that a worker holds now."""

    scheduled_event_id: int
    started_event_id: int
    attempt: int
    started_at_ms: int
    deadline_ms: int
    identity: str
    request_id: str
    scheduled_frame: bytes
    """Empty unless transient or speculative: then the Scheduled event exists only here until the task completes."""
    started_frame: bytes
    sticky: bool
    speculative: bool = False
    suggests: bool = False
    """The workflow should continue as new."""


class ActivityLive(Struct, gc=False):
    """An attempt of an activity that a worker holds now."""

    started_at_ms: int
    identity: str
    last_heartbeat_at_ms: int
    token: bytes = b""
    """What its worker shows when it reports."""
    leaving: bool = False
    """It goes to another process, once that is durable; if it never is, nobody holds it."""


class UpdateLive(Struct):
    """An update that is admitted and not accepted."""

    request: bytes
    """Serialized Request."""
    sent: bool = False
    """The worker that holds the run has it."""


class News(Struct, gc=False):
    """What has come of the activities that the last workflow task scheduled, as long as nothing else has happened.

    Whether that is so is told by counting: from that task's Completed event to the Scheduled event of the next one
    there are two, and one more for each activity scheduled, and two more for each that has completed.
    """

    scheduled: list[int]
    """Ids of the events that followed the task's Completed event: all it asked for."""
    completed: list[tuple[int, bytes]]
    """(scheduled event id, result as serialized ``Payloads``), in order of arrival."""


class Live(Struct, gc=False):
    """What is known of a run only while this process holds it."""

    task: WorkflowTaskLive | None = None
    activities: dict[int, ActivityLive] = {}
    """By scheduled event id."""
    scheduled: dict[int, Asked] = {}
    """What the Scheduled events of activities tell their workers, so that no read is needed."""
    deadlines: list[tuple[int, int, int]] = []
    """Heap of (due_ms, kind, event_id); entries may be stale and are checked against the state when they come up."""
    activity_ids: dict[str, int] = {}
    timer_ids: dict[str, int] = {}
    child_ids: dict[str, int] = {}
    frames: list[bytes] = []
    """Frames of the newest events, contiguous up to next_event_id - 1; older ones are dropped when a task completes."""
    dirty_items: set[int] = set()
    """Items changed or removed since the last encode (only kept when spilled)."""
    updates: dict[str, UpdateLive] | None = None
    """Updates that are admitted and not accepted, by id, in order of arrival."""
    speculative: int = 0
    """A workflow task is pending that exists here alone: the id its Scheduled event was to get; 0 = none."""
    speculative_at_ms: int = 0
    news: News | None = None
    """None if there is something to tell that it has no word for."""
    nexus_ids: set[int] = set()
    """Scheduled event ids of the Nexus operations that are pending."""


class Run(Struct, eq=False, gc=False):
    """A loaded run: its durable state and what this process knows besides."""

    key: int
    state: RunState
    live: Live = field(default_factory=Live)

    @property
    def frames_first_event_id(self) -> int:
        """The id of the first event in live.frames."""
        return self.state.next_event_id - len(self.live.frames)

    @property
    def is_open(self) -> bool:
        return self.state.status == 1
