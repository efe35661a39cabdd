"""What a schedule was asked to be: its checked, canonical definition, and the starts that follow from it.

A definition is made of a request to create or update, checked as a whole (`define`), or read back from its row. What
it takes to ask it for times is worked out when somebody asks: most schedules of an engine that starts sleep.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Final

from google.protobuf.message import DecodeError

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.api.durations import datetime_of_ms, duration_of_ms, timestamp_ms
from perdure.engine.history.lifecycle import check_name, check_start
from perdure.engine.history.transition import Limits
from perdure.engine.schedules.spec import Times, canonical
from perdure.engine.schedules.state import Action, Backfill, Policies, State, policies_of, seal, unseal
from perdure.engine.schedules.stepping import BACKFILLS_MAX
from perdure.engine.visibility.values import BadAttributeError, typed

__all__ = ["Definition", "Typed", "backfills_of", "define", "set_state", "start_request", "typer"]

NOTES_MAX: Final = 100_000
"""Characters."""
_STARTING: Final = frozenset(field.name for field in m.StartWorkflowExecutionRequest.DESCRIPTOR.fields)
_CARRIED: Final = tuple(
    field.name
    for field in m.NewWorkflowExecutionInfo.DESCRIPTOR.fields
    if field.name in _STARTING and field.name != "workflow_id"
)
"""Fields of an action that its start has as well."""
_OVERLAPS: Final = frozenset(m.ScheduleOverlapPolicy.values())

Typed = Callable[[m.SearchAttributes], m.SearchAttributes]
"""Search attributes with the types of their namespace. Raises RpcError INVALID_ARGUMENT."""


class Definition:
    """A schedule's definition.

    Args:
        row: as it is kept.
        message: what the row holds, if it is known; it must not be changed any more.
    """

    def __init__(self, row: bytes, message: m.CreateScheduleRequest | None = None) -> None:
        self.row = row
        if message is not None:
            self.message = message

    @cached_property
    def message(self) -> m.CreateScheduleRequest:
        """The canonical request. Raises RpcError DATA_LOSS, the row is damaged."""
        try:
            return m.CreateScheduleRequest.FromString(unseal(self.row))
        except (ValueError, DecodeError) as error:
            raise RpcError(StatusCode.DATA_LOSS, str(error)) from error

    @cached_property
    def times(self) -> Times:
        """When it acts. Raises RpcError DATA_LOSS; FAILED_PRECONDITION, its time zone is not known here any more."""
        message = self.message
        try:
            return Times(message.schedule.spec, f"{message.namespace}/{message.schedule_id}".encode()[-64:])
        except ValueError as error:
            raise RpcError(StatusCode.FAILED_PRECONDITION, f"the spec can't be used: {error}") from None

    @cached_property
    def policies(self) -> Policies:
        """How it acts. Raises RpcError DATA_LOSS."""
        return policies_of(self.message.schedule.policies)


def _invalid(message: str) -> RpcError:
    return RpcError(StatusCode.INVALID_ARGUMENT, message)


def define(request: m.CreateScheduleRequest, limits: Limits, types: Typed) -> Definition:
    """The definition that a request asks for.

    Args:
        request: to create a schedule, or one made of a request to update.
        limits: what is refused.
        types: of search attributes, those of the schedule and those of its runs.

    Raises:
        RpcError: INVALID_ARGUMENT.
    """
    check_name(request.schedule_id, "ScheduleId", limits)
    check_name(request.request_id, "RequestId", limits, required=False)
    check_name(request.identity, "Identity", limits, required=False)
    if not request.schedule.action.HasField("start_workflow"):
        raise _invalid("the schedule has no action: say which workflow it starts")
    kept = m.CreateScheduleRequest(namespace=request.namespace, schedule_id=request.schedule_id)
    kept.schedule.CopyFrom(request.schedule)
    kept.schedule.ClearField("state")
    if request.HasField("memo"):
        kept.memo.CopyFrom(request.memo)
    if request.HasField("search_attributes"):
        kept.search_attributes.CopyFrom(types(request.search_attributes))
    try:
        kept.schedule.spec.CopyFrom(canonical(request.schedule.spec))
    except ValueError as error:
        raise _invalid(f"invalid schedule spec: {error}") from None
    _define_policies(kept.schedule.policies)
    action = kept.schedule.action.start_workflow
    if action.workflow_id_reuse_policy:
        raise _invalid("a schedule's action can't have a workflow id reuse policy: each run has an id of its own")
    if action.cron_schedule:
        raise _invalid("a schedule's action can't have a cron schedule: the schedule says when it runs")
    if action.HasField("search_attributes"):
        action.search_attributes.CopyFrom(types(action.search_attributes))
    check_start(_plain_start(kept), limits)
    if kept.memo.ByteSize() > limits.memo_bytes:
        raise _invalid(f"Memo exceeds the size limit: {kept.memo.ByteSize()} bytes, at most {limits.memo_bytes}")
    if kept.ByteSize() > limits.blob_bytes:
        raise _invalid(f"the schedule exceeds the size limit: {kept.ByteSize()} bytes, at most {limits.blob_bytes}")
    return Definition(seal(kept.SerializeToString()), kept)


def _define_policies(policies: m.SchedulePolicies) -> None:
    """Fill in the defaults. Raises RpcError INVALID_ARGUMENT."""
    if policies.overlap_policy not in _OVERLAPS:
        raise _invalid(f"unknown overlap policy: {policies.overlap_policy}")
    if policies.catchup_window.seconds < 0 or policies.catchup_window.nanos < 0:
        raise _invalid("the catchup window is negative")
    filled = policies_of(policies)
    policies.overlap_policy = m.ScheduleOverlapPolicy.ValueType(filled.overlap)
    policies.catchup_window.CopyFrom(duration_of_ms(filled.catchup_ms))


def set_state(state: State, given: m.ScheduleState) -> None:
    """Take over the part of a schedule's state that callers set. Raises RpcError INVALID_ARGUMENT."""
    if given.remaining_actions < 0:
        raise _invalid(f"the number of remaining actions is negative: {given.remaining_actions}")
    if len(given.notes) > NOTES_MAX:
        raise _invalid(f"a note has more than {NOTES_MAX} characters")
    state.paused = given.paused
    state.notes = given.notes
    state.limited = given.limited_actions
    state.remaining = given.remaining_actions


def backfills_of(patch: m.SchedulePatch) -> list[Backfill]:
    """The spans of the past that a patch asks for, checked with the rest of it. Raises RpcError INVALID_ARGUMENT."""
    overlaps = [each.overlap_policy for each in patch.backfill_request]
    overlaps.append(patch.trigger_immediately.overlap_policy)
    if not _OVERLAPS.issuperset(overlaps):
        raise _invalid("unknown overlap policy")
    if max(len(patch.pause), len(patch.unpause)) > NOTES_MAX:
        raise _invalid(f"a note has more than {NOTES_MAX} characters")
    if patch.trigger_immediately.scheduled_time.seconds < 0:
        raise _invalid("the scheduled time lies before 1970")
    if len(patch.backfill_request) > BACKFILLS_MAX:
        raise _invalid(f"more than {BACKFILLS_MAX} backfills")
    found: list[Backfill] = []
    for each in patch.backfill_request:
        if not each.HasField("start_time") or not each.HasField("end_time"):
            raise _invalid("a backfill needs its start time and its end time")
        start_ms, end_ms = timestamp_ms(each.start_time), timestamp_ms(each.end_time)
        if start_ms > end_ms:
            raise _invalid("a backfill's start time is later than its end time")
        found.append(Backfill(start_ms - 1, end_ms, each.overlap_policy))
    return found


def typer(namespace: str, custom: Mapping[str, int], limits: Limits) -> Typed:
    """Types search attributes for a namespace."""

    def types(given: m.SearchAttributes) -> m.SearchAttributes:
        try:
            return typed(given, namespace, custom, limits.of_attributes)
        except BadAttributeError as bad:
            raise _invalid(str(bad)) from None

    return types


def _plain_start(definition: m.CreateScheduleRequest) -> m.StartWorkflowExecutionRequest:
    """The start of every run, without what differs."""
    action = definition.schedule.action.start_workflow
    request = m.StartWorkflowExecutionRequest(
        namespace=definition.namespace,
        workflow_id=action.workflow_id,
        identity=f"temporal-scheduler-{definition.namespace}-{definition.schedule_id}"[:1000],
    )
    for name in _CARRIED:
        if action.DESCRIPTOR.fields_by_name[name].message_type is None:
            setattr(request, name, getattr(action, name))
        elif action.HasField(name):  # type: ignore[arg-type]  # Each is a field.
            getattr(request, name).CopyFrom(getattr(action, name))
    return request


def start_request(definition: Definition, state: State, action: Action) -> m.StartWorkflowExecutionRequest:
    """The start of an action's workflow. Raises RpcError DATA_LOSS.

    Its request id follows from the schedule, the action's number and its nominal instant, so that a start that is
    repeated after a crash finds the run that it made.
    """
    request = _plain_start(definition.message)
    nominal = datetime_of_ms(action.nominal_ms // 1000 * 1000).strftime("%Y-%m-%dT%H:%M:%SZ")
    policies = definition.policies
    if not policies.keeps_workflow_id:
        request.workflow_id += f"-{nominal}"
    request.request_id = f"{state.uid}-{action.number}-{action.nominal_ms}"
    request.workflow_id_reuse_policy = m.WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE
    if action.manual or policies.keeps_workflow_id:
        request.workflow_id_reuse_policy = m.WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE
    fields = request.search_attributes.indexed_fields
    for name, value, kind in (
        ("TemporalScheduledById", definition.message.schedule_id, b"Keyword"),
        ("TemporalScheduledStartTime", nominal, b"Datetime"),
    ):
        fields[name].CopyFrom(_text(value, kind))
    overlap = action.overlap or policies.overlap
    if overlap != m.ScheduleOverlapPolicy.SCHEDULE_OVERLAP_POLICY_ALLOW_ALL:
        if state.last_result is not None:
            request.last_completion_result.ParseFromString(state.last_result)
        if state.failure is not None:
            request.continued_failure.ParseFromString(state.failure)
    return request


def _text(value: str, kind: bytes) -> m.Payload:
    return m.Payload(metadata={"encoding": b"json/plain", "type": kind}, data=json.dumps(value).encode())
