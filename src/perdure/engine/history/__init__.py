"""The pure history machines: what a run's history may become.

Every function here is synchronous and free of I/O, clock and randomness. A decision checks everything first and
raises `RpcError` without having changed anything; otherwise it changes the `Run` in place and returns a
`Transition` that says what to write and what to do after the write.

One file a machine: `lifecycle` (start, signal, cancel, terminate), `closing` (ends and successors), `workflow_task`,
`completion` with `commands*` (what workers ask for), `activity`, `timer`, `child`, `external`, `waking` (time).
`events*` build the events, `evolve` folds them, `recording` appends or buffers them, `pending` and `deadlines` keep
what a run waits for, `encoding` and `describe` show it to the store and to clients.
"""

from perdure.engine.history.activity import (
    activity_by_id,
    cancel_activity,
    complete_activity,
    dispatchable_activities,
    fail_activity,
    heartbeat_activity,
    start_activity,
)
from perdure.engine.history.activity_control import options_of as activity_options_of
from perdure.engine.history.activity_control import pause as pause_activities
from perdure.engine.history.activity_control import reset as reset_activities
from perdure.engine.history.activity_control import restore_options as restore_activity_options
from perdure.engine.history.activity_control import select as select_activities
from perdure.engine.history.activity_control import told as told_of_activity
from perdure.engine.history.activity_control import unpause as unpause_activities
from perdure.engine.history.activity_control import update_options as update_activity_options
from perdure.engine.history.callbacks import NOT_FOUND as CALLBACK_NOT_FOUND
from perdure.engine.history.callbacks import REFUSED as CALLBACK_REFUSED
from perdure.engine.history.callbacks import attempt_failed as callback_failed
from perdure.engine.history.callbacks import callback_of, completion_of
from perdure.engine.history.callbacks import event_id_of as callback_event_id
from perdure.engine.history.callbacks import fill as fill_callback
from perdure.engine.history.callbacks import next_attempt_at_ms as callback_due_ms
from perdure.engine.history.child import CLOSINGS as CHILD_CLOSINGS
from perdure.engine.history.child import child_closed, child_lineage, is_child_of
from perdure.engine.history.closing import delete_run, terminate_for_reset
from perdure.engine.history.completion import carry_out, complete_workflow_task
from perdure.engine.history.deadlines import due_before, hot, next_deadline_ms, wake_at_ms
from perdure.engine.history.describe import (
    ACTIVITIES,
    VisibilityFields,
    attribute_values,
    describe,
    fill_info,
    has_attributes,
    visibility_row,
)
from perdure.engine.history.encoding import EncodedRun, StateVersionError, decode, encode
from perdure.engine.history.evolve import fold, owner_of
from perdure.engine.history.external import message_delivered
from perdure.engine.history.failures import workflow_timeout
from perdure.engine.history.folded import folded_view
from perdure.engine.history.holding import activity_left, hold_activity, release_activity
from perdure.engine.history.lifecycle import check_signal, request_cancel, signal, start_run, terminate
from perdure.engine.history.nexus import Completion
from perdure.engine.history.nexus import cancel_delivered as nexus_cancel_delivered
from perdure.engine.history.nexus import complete as complete_nexus
from perdure.engine.history.nexus import fail_attempt as fail_nexus_attempt
from perdure.engine.history.nexus import find as find_nexus
from perdure.engine.history.nexus import finish as finish_nexus
from perdure.engine.history.nexus import hold as hold_nexus
from perdure.engine.history.nexus import release as release_nexus
from perdure.engine.history.nexus import start as start_nexus
from perdure.engine.history.options import attach, check_options, options_of, update_options
from perdure.engine.history.pausing import pause_run, unpause_run
from perdure.engine.history.pausing import refusal as paused_error
from perdure.engine.history.priorities import rank_of
from perdure.engine.history.reports import Manner, manner_of
from perdure.engine.history.resetting import (
    ChildEnd,
    Takeover,
    check_reset,
    erased_child,
    mark_reset,
    no_such_point,
    reset_run,
)
from perdure.engine.history.standalone import SCHEDULED_ID, internal_id, outcome_event_id
from perdure.engine.history.standalone import attach as attach_to_activity
from perdure.engine.history.standalone import check_open as check_activity_open
from perdure.engine.history.standalone import check_reset as check_activity_reset
from perdure.engine.history.standalone import delay_left_ms as activity_delay_left_ms
from perdure.engine.history.standalone import facts_of as activity_facts_of
from perdure.engine.history.standalone import is_held as is_activity_held
from perdure.engine.history.standalone import item_of as activity_item_of
from perdure.engine.history.standalone import outcome as activity_outcome
from perdure.engine.history.standalone import pause as pause_activity
from perdure.engine.history.standalone import request_cancel as request_cancel_activity
from perdure.engine.history.standalone import start as start_activity_execution
from perdure.engine.history.standalone import terminate as terminate_activity
from perdure.engine.history.standalone import update_options as update_standalone_options
from perdure.engine.history.state import (
    ACTIVITY_PREFIX,
    ActivityItem,
    ActivityLive,
    CallbackItem,
    CancelItem,
    ChildItem,
    Item,
    Live,
    MessageKind,
    News,
    NexusItem,
    NexusRequest,
    OutMessage,
    Retry,
    Run,
    RunState,
    SignalItem,
    Standalone,
    TimerItem,
    UpdateBook,
    UpdateLive,
    WorkflowTaskLive,
)
from perdure.engine.history.terms import Asked, asked_by
from perdure.engine.history.transition import (
    DEFAULT_LIMITS,
    NO_LINEAGE,
    Limits,
    Lineage,
    NextRun,
    Transition,
    UpdateChange,
    UpdateFate,
)
from perdure.engine.history.update import UpdateStage
from perdure.engine.history.update import abandoned as abandoned_outcome
from perdure.engine.history.update import has_unsent as has_unsent_updates
from perdure.engine.history.update import messages as update_messages
from perdure.engine.history.update import stage as update_stage
from perdure.engine.history.update_admission import admit as admit_update
from perdure.engine.history.update_admission import attach as attach_to_update
from perdure.engine.history.update_admission import check as check_update
from perdure.engine.history.update_admission import reapply as reapply_update
from perdure.engine.history.waking import wake
from perdure.engine.history.workflow_task import (
    expire_sticky,
    flush_buffered,
    is_failing,
    task_frames,
    tell_target_changed,
)
from perdure.engine.history.workflow_task import fail as fail_workflow_task
from perdure.engine.history.workflow_task import pending_id as pending_task_id
from perdure.engine.history.workflow_task import ready as workflow_task_ready
from perdure.engine.history.workflow_task import release as release_workflow_task
from perdure.engine.history.workflow_task import start as start_workflow_task

__all__ = [
    "CALLBACK_NOT_FOUND",
    "CALLBACK_REFUSED",
    "CHILD_CLOSINGS",
    "DEFAULT_LIMITS",
    "NO_LINEAGE",
    "ActivityItem",
    "ActivityLive",
    "Asked",
    "CallbackItem",
    "CancelItem",
    "ChildEnd",
    "ChildItem",
    "Completion",
    "EncodedRun",
    "Item",
    "Limits",
    "Lineage",
    "Live",
    "Manner",
    "MessageKind",
    "News",
    "NexusItem",
    "NexusRequest",
    "NextRun",
    "OutMessage",
    "Retry",
    "Run",
    "RunState",
    "SignalItem",
    "StateVersionError",
    "Takeover",
    "TimerItem",
    "Transition",
    "UpdateBook",
    "UpdateChange",
    "UpdateFate",
    "UpdateLive",
    "UpdateStage",
    "VisibilityFields",
    "WorkflowTaskLive",
    "abandoned_outcome",
    "activity_by_id",
    "activity_left",
    "activity_options_of",
    "admit_update",
    "asked_by",
    "attach",
    "attach_to_activity",
    "attach_to_update",
    "attribute_values",
    "callback_due_ms",
    "callback_event_id",
    "callback_failed",
    "callback_of",
    "cancel_activity",
    "carry_out",
    "check_options",
    "check_reset",
    "check_signal",
    "check_update",
    "child_closed",
    "child_lineage",
    "complete_activity",
    "complete_nexus",
    "complete_workflow_task",
    "completion_of",
    "decode",
    "delete_run",
    "describe",
    "dispatchable_activities",
    "due_before",
    "encode",
    "erased_child",
    "expire_sticky",
    "fail_activity",
    "fail_nexus_attempt",
    "fail_workflow_task",
    "fill_callback",
    "fill_info",
    "find_nexus",
    "finish_nexus",
    "flush_buffered",
    "fold",
    "folded_view",
    "has_attributes",
    "has_unsent_updates",
    "heartbeat_activity",
    "hold_activity",
    "hold_nexus",
    "hot",
    "is_child_of",
    "is_failing",
    "manner_of",
    "mark_reset",
    "message_delivered",
    "next_deadline_ms",
    "nexus_cancel_delivered",
    "no_such_point",
    "options_of",
    "owner_of",
    "pause_activities",
    "pause_run",
    "paused_error",
    "pending_task_id",
    "rank_of",
    "reapply_update",
    "release_activity",
    "release_nexus",
    "release_workflow_task",
    "request_cancel",
    "reset_activities",
    "reset_run",
    "restore_activity_options",
    "select_activities",
    "signal",
    "start_activity",
    "start_nexus",
    "start_run",
    "start_workflow_task",
    "task_frames",
    "terminate",
    "terminate_for_reset",
    "tell_target_changed",
    "told_of_activity",
    "unpause_activities",
    "unpause_run",
    "update_activity_options",
    "update_messages",
    "update_options",
    "update_stage",
    "visibility_row",
    "wake",
    "wake_at_ms",
    "workflow_task_ready",
    "workflow_timeout",
    "ACTIVITIES",
    "ACTIVITY_PREFIX",
    "SCHEDULED_ID",
    "Standalone",
    "internal_id",
    "outcome_event_id",
    "check_activity_open",
    "check_activity_reset",
    "activity_delay_left_ms",
    "activity_facts_of",
    "is_activity_held",
    "activity_item_of",
    "activity_outcome",
    "pause_activity",
    "request_cancel_activity",
    "start_activity_execution",
    "terminate_activity",
    "update_standalone_options",
]
