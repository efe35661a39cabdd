"""What a batch job does to one workflow.

One table, by the field of the request that says what to do: its type for describe, a check of what it says, and how it
is carried out. Carrying out may look things up first; from its change on there is no `await`, so that whoever called
notes the success in the same commit.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from google.protobuf.duration_pb2 import Duration

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.engine import history
from perdure.engine.resets import reset_workflow
from perdure.engine.slot import Slot

if TYPE_CHECKING:
    from perdure.engine.reading import HistoryReader
    from perdure.engine.shard import Shard

__all__ = ["Work", "check_operation", "operation_of", "type_of"]

_TYPE = m.BatchOperationType
_PAGE_EVENTS: Final = 200
_PAGE_BYTES: Final = 1024 * 1024
_JITTER_MAX_MS: Final = 30 * 24 * 3600 * 1000
_COMPLETED = m.EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED
_SCHEDULED = m.EventType.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED
_FIRST = m.ResetType.RESET_TYPE_FIRST_WORKFLOW_TASK
_LAST = m.ResetType.RESET_TYPE_LAST_WORKFLOW_TASK


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What carrying out an operation needs."""

    shard: Shard
    reader: HistoryReader
    request: m.StartBatchOperationRequest

    def request_id(self, slot: Slot) -> str:
        """The same each time this job comes to this run."""
        return f"{self.request.job_id}:{slot.run.state.run_id}"


Check = Callable[[m.StartBatchOperationRequest, Any, history.Limits], None]
Act = Callable[[Work, Slot, Any], Awaitable[None]]


class Operation(NamedTuple):
    """One kind of operation."""

    type: m.BatchOperationType.ValueType
    check: Check
    act: Act


def _invalid(message: str) -> RpcError:
    return RpcError(StatusCode.INVALID_ARGUMENT, message)


def operation_of(request: m.StartBatchOperationRequest) -> tuple[Operation, Any]:
    """What a request asks for, and its particulars.

    Raises:
        RpcError: INVALID_ARGUMENT, nothing; UNIMPLEMENTED.
    """
    name = request.WhichOneof("operation")
    if name is None:
        raise _invalid("the batch operation is not set: say what to do to the workflows")
    operation = OPERATIONS.get(name)
    if operation is None:
        raise RpcError(
            StatusCode.UNIMPLEMENTED, f"{name} is about activities without a workflow, which are not supported"
        )
    return operation, getattr(request, name)


def type_of(request: m.StartBatchOperationRequest) -> m.BatchOperationType.ValueType:
    """The type that describe tells."""
    return operation_of(request)[0].type


def check_operation(request: m.StartBatchOperationRequest, limits: history.Limits) -> None:
    """Everything that can be wrong with what is to be done.

    Raises:
        RpcError: INVALID_ARGUMENT, UNIMPLEMENTED.
    """
    operation, particulars = operation_of(request)
    operation.check(request, particulars, limits)


# Signal, cancel, terminate, delete


def _signal_request(
    request: m.StartBatchOperationRequest, asked: m.BatchOperationSignal, request_id: str
) -> m.SignalWorkflowExecutionRequest:
    return m.SignalWorkflowExecutionRequest(
        namespace=request.namespace,
        signal_name=asked.signal,
        input=asked.input if asked.HasField("input") else None,
        header=asked.header if asked.HasField("header") else None,
        identity=asked.identity,
        request_id=request_id,
    )


def _check_signal(request: m.StartBatchOperationRequest, asked: m.BatchOperationSignal, limits: history.Limits) -> None:
    history.check_signal(_signal_request(request, asked, ""), limits)


async def _signal(work: Work, slot: Slot, asked: m.BatchOperationSignal) -> None:
    shard = work.shard
    request = _signal_request(work.request, asked, work.request_id(slot))
    shard.apply(slot, history.signal(slot.run, request, limits=shard.limits, now_ms=shard.clock.now_ms()))


def _check_nothing(request: m.StartBatchOperationRequest, asked: Any, limits: history.Limits) -> None:
    """What it says can't be wrong."""


async def _cancel(work: Work, slot: Slot, asked: m.BatchOperationCancellation) -> None:
    shard = work.shard
    request = m.RequestCancelWorkflowExecutionRequest(
        namespace=work.request.namespace,
        identity=asked.identity,
        reason=work.request.reason,
        request_id=work.request_id(slot),
    )
    shard.apply(slot, history.request_cancel(slot.run, request, limits=shard.limits, now_ms=shard.clock.now_ms()))


async def _terminate(work: Work, slot: Slot, asked: m.BatchOperationTermination) -> None:
    shard = work.shard
    transition = history.terminate(
        slot.run,
        reason=work.request.reason,
        details=asked.details if asked.HasField("details") else None,
        identity=asked.identity,
        limits=shard.limits,
        now_ms=shard.clock.now_ms(),
    )
    shard.apply(slot, transition)


async def _delete(work: Work, slot: Slot, asked: m.BatchOperationDeletion) -> None:
    work.shard.erasing.delete_nowait(slot, asked.identity)


# Reset


def _reset_request(
    request: m.StartBatchOperationRequest, asked: m.BatchOperationReset, request_id: str, event_id: int
) -> m.ResetWorkflowExecutionRequest:
    options = asked.options
    reset = m.ResetWorkflowExecutionRequest(
        namespace=request.namespace,
        reason=request.reason,
        request_id=request_id,
        identity=asked.identity,
        workflow_task_finish_event_id=event_id,
        reset_reapply_type=options.reset_reapply_type if asked.HasField("options") else asked.reset_reapply_type,
        reset_reapply_exclude_types=options.reset_reapply_exclude_types,
    )
    reset.post_reset_operations.extend(asked.post_reset_operations)
    return reset


def _check_reset(request: m.StartBatchOperationRequest, asked: m.BatchOperationReset, limits: history.Limits) -> None:
    if asked.HasField("options"):
        target = asked.options.WhichOneof("target")
        if target == "build_id":
            raise RpcError(
                StatusCode.UNIMPLEMENTED,
                "resetting to a build id is not supported; reset to the first or last workflow task, or to an event",
            )
        if target is None:
            raise _invalid("the reset has no target: the first or last workflow task, or an event")
    elif asked.reset_type not in (_FIRST, _LAST):
        raise _invalid("the reset type is not set: the first or last workflow task")
    history.check_reset(_reset_request(request, asked, "", 0), limits)


async def _reset(work: Work, slot: Slot, asked: m.BatchOperationReset) -> None:
    options = asked.options
    target = options.WhichOneof("target")
    if target == "workflow_task_id":
        event_id = options.workflow_task_id
    elif target == "first_workflow_task" or (target is None and asked.reset_type == _FIRST):
        event_id = await _first_task(work, slot)
    else:
        event_id = await _last_task(work, slot)
    request = _reset_request(work.request, asked, work.request_id(slot), event_id)
    await reset_workflow(work.shard, work.reader, slot, request)


def _finish_id(events: Sequence[m.HistoryEvent], scheduled_id: int) -> tuple[int, int]:
    """(id of the first WorkflowTaskCompleted event, id after a WorkflowTaskScheduled event); 0 = none."""
    for event in events:
        if event.event_type == _COMPLETED:
            return event.event_id, scheduled_id
        if event.event_type == _SCHEDULED and not scheduled_id:
            scheduled_id = event.event_id + 1
    return 0, scheduled_id


def _no_task() -> RpcError:
    return RpcError(StatusCode.FAILED_PRECONDITION, "the workflow has had no workflow task to reset to")


async def _first_task(work: Work, slot: Slot) -> int:
    """The event that ends the first completed workflow task; else what follows the first one that was scheduled."""
    next_id = 1
    scheduled_id = 0
    while True:
        page = await work.reader.page(
            slot.key, next_id, max_events=_PAGE_EVENTS, max_bytes=_PAGE_BYTES, durable_only=False
        )
        found, scheduled_id = _finish_id(m.History.FromString(b"".join(page.frames)).events, scheduled_id)
        if found or not page.frames:
            break
        next_id = page.next_event_id
    if not found and not scheduled_id:
        raise _no_task()
    return found or scheduled_id


async def _last_task(work: Work, slot: Slot) -> int:
    """The same for the last one."""
    if slot.group is not None:
        await slot.group.durable()
    last_id = slot.durable_event_id
    scheduled_id = 0
    while last_id >= 1:
        frames = await work.reader.page_reverse(slot.key, last_id, max_events=_PAGE_EVENTS, max_bytes=_PAGE_BYTES)
        found, scheduled_id = _finish_id(m.History.FromString(b"".join(frames)).events, scheduled_id)
        if found or not frames:
            break
        last_id -= len(frames)
    else:
        found = 0
    if not found and not scheduled_id:
        raise _no_task()
    return found or scheduled_id


# Options


def _check_options(
    request: m.StartBatchOperationRequest,
    asked: m.BatchOperationUpdateWorkflowExecutionOptions,
    limits: history.Limits,
) -> None:
    history.check_options(asked.workflow_execution_options, asked.update_mask.paths)


async def _update_options(work: Work, slot: Slot, asked: m.BatchOperationUpdateWorkflowExecutionOptions) -> None:
    shard = work.shard
    transition = history.update_options(
        slot.run,
        asked.workflow_execution_options,
        asked.update_mask.paths,
        identity=asked.identity,
        now_ms=shard.clock.now_ms(),
    )
    shard.apply(slot, transition)
    slot.activity_head = b""


# Activities


def _delay_ms(work: Work, jitter: Duration) -> int:
    """A delay of up to a jitter."""
    return int.from_bytes(work.shard.ids.new_bytes(8), "big") % (jitter.ToMilliseconds() + 1)


def _check_activities(request: m.StartBatchOperationRequest, asked: Any, limits: history.Limits) -> None:
    if asked.WhichOneof("activity") is None:
        raise _invalid("name the activities by their type, or match all")
    jitter = getattr(asked, "jitter", None)
    if jitter is not None and not 0 <= jitter.ToMilliseconds() <= _JITTER_MAX_MS:
        raise _invalid("the jitter is negative, or longer than thirty days")


def _check_activity_options(
    request: m.StartBatchOperationRequest, asked: m.BatchOperationUpdateActivityOptions, limits: history.Limits
) -> None:
    _check_activities(request, asked, limits)
    if asked.restore_original == bool(asked.update_mask.paths):
        raise _invalid("either restore the original options or name those to change in the update mask")


async def _unpause(work: Work, slot: Slot, asked: m.BatchOperationUnpauseActivities) -> None:
    shard = work.shard
    transition = history.unpause_activities(
        slot.run,
        history.select_activities(slot.run, activity_type=asked.type, every=asked.match_all),
        reset_attempts=asked.reset_attempts,
        reset_heartbeat=asked.reset_heartbeat,
        delay_ms=_delay_ms(work, asked.jitter),
        now_ms=shard.clock.now_ms(),
    )
    shard.apply(slot, transition)


async def _reset_activities(work: Work, slot: Slot, asked: m.BatchOperationResetActivities) -> None:
    shard = work.shard
    transition = history.reset_activities(
        slot.run,
        history.select_activities(slot.run, activity_type=asked.type, every=asked.match_all),
        reset_heartbeat=asked.reset_heartbeat,
        keep_paused=asked.keep_paused,
        restore_original=asked.restore_original_options,
        delay_ms=_delay_ms(work, asked.jitter),
        now_ms=shard.clock.now_ms(),
    )
    shard.apply(slot, transition)


async def _update_activities(work: Work, slot: Slot, asked: m.BatchOperationUpdateActivityOptions) -> None:
    shard = work.shard
    now_ms = shard.clock.now_ms()
    found = history.select_activities(slot.run, activity_type=asked.type, every=asked.match_all)
    if asked.restore_original:
        transition = history.restore_activity_options(slot.run, found, now_ms=now_ms)
    else:
        transition = history.update_activity_options(
            slot.run, found, asked.activity_options, asked.update_mask.paths, limits=shard.limits, now_ms=now_ms
        )
    shard.apply(slot, transition)


OPERATIONS: Final[dict[str, Operation]] = {
    "termination_operation": Operation(_TYPE.BATCH_OPERATION_TYPE_TERMINATE_WORKFLOW, _check_nothing, _terminate),
    "signal_operation": Operation(_TYPE.BATCH_OPERATION_TYPE_SIGNAL_WORKFLOW, _check_signal, _signal),
    "cancellation_operation": Operation(_TYPE.BATCH_OPERATION_TYPE_CANCEL_WORKFLOW, _check_nothing, _cancel),
    "deletion_operation": Operation(_TYPE.BATCH_OPERATION_TYPE_DELETE_WORKFLOW, _check_nothing, _delete),
    "reset_operation": Operation(_TYPE.BATCH_OPERATION_TYPE_RESET_WORKFLOW, _check_reset, _reset),
    "update_workflow_options_operation": Operation(
        _TYPE.BATCH_OPERATION_TYPE_UPDATE_WORKFLOW_EXECUTION_OPTIONS, _check_options, _update_options
    ),
    "unpause_activities_operation": Operation(_TYPE.BATCH_OPERATION_TYPE_UNPAUSE_ACTIVITY, _check_activities, _unpause),
    "reset_activities_operation": Operation(
        _TYPE.BATCH_OPERATION_TYPE_RESET_ACTIVITY, _check_activities, _reset_activities
    ),
    "update_activity_options_operation": Operation(
        _TYPE.BATCH_OPERATION_TYPE_UPDATE_ACTIVITY_OPTIONS, _check_activity_options, _update_activities
    ),
}
