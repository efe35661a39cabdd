"""Builds the API's commands from what workflow code asked for.

Only live workflow tasks build them; a replayed task compares what was asked with what is recorded and sends nothing.
An activity's command is put together as bytes: all but its id and input repeat from call to call and are serialized
once for each (name, task queue), as long as the options are the same object. Its fields are in the order of their
numbers, as protobuf writes them: readers may rest on that.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration

from perdure.api import messages as m
from perdure.api.direct import ActivityCommand
from perdure.api.durations import ms_of_timedelta, set_duration_ms
from perdure.api.wire import sized, sized_tag, varint
from perdure.common import Priority, RetryPolicy
from perdure.replay.calls import (
    ActivityHandle,
    ChildHandle,
    ExternalCancel,
    ExternalSignal,
    Timer,
    command,
)
from perdure.replay.ports import ActivityOptions

__all__ = [
    "PATCH_MARKER",
    "STEP_MARKER",
    "activity_template",
    "cancel_activity",
    "cancel_external",
    "cancel_timer",
    "cancel_workflow",
    "complete_workflow",
    "fail_workflow",
    "marker",
    "metadata",
    "modify_properties",
    "protocol_message",
    "schedule_activity",
    "set_timeout",
    "signal_external",
    "start_timer",
    "upsert_search_attributes",
]

PROTOCOL_MESSAGE = 14

PATCH_MARKER = "core_patch"
STEP_MARKER = "perdure.step"

MAX_TEMPLATES = 4096

_Command = m.Command
Template = tuple[bytes, int]
"""Fields of an activity's command without its id and input, and how many bytes of them go before the input."""
_templates: dict[tuple[str, str], tuple[ActivityOptions, Template]] = {}

_ACTIVITY_ID = sized_tag(m.ScheduleActivityTaskCommandAttributes, "activity_id")
_ACTIVITY_INPUT = sized_tag(m.ScheduleActivityTaskCommandAttributes, "input")
_COMPLETION_RESULT = sized_tag(m.CompleteWorkflowExecutionCommandAttributes, "result")
_COMPLETE_WORKFLOW = _Command(command_type=command.COMPLETE_WORKFLOW).SerializeToString() + sized_tag(  # type: ignore[arg-type] # an int is what the wire has
    _Command, "complete_workflow_execution_command_attributes"
)


def set_timeout(field: Duration, timeout: timedelta | None) -> None:
    """Write an optional timeout into a Duration field."""
    if timeout is not None:
        set_duration_ms(field, ms_of_timedelta(timeout))


def activity_template(name: str, task_queue: str, options: ActivityOptions) -> Template:
    """The attributes of an activity's command without its id and input, serialized.

    Raises:
        ValueError: the options lack a timeout.
    """
    key = (name, task_queue)
    entry = _templates.get(key)
    if entry is not None and entry[0] is options:
        return entry[1]
    if options.start_to_close_timeout is None and options.schedule_to_close_timeout is None:
        raise ValueError(
            f"activity {name!r} needs start_to_close_timeout (how long one attempt may take) or "
            "schedule_to_close_timeout (how long all attempts may take together)"
        )
    attrs = m.ScheduleActivityTaskCommandAttributes()
    attrs.activity_type.name = name
    attrs.task_queue.name = options.task_queue or task_queue
    head = attrs.SerializeToString()
    attrs.Clear()
    set_timeout(attrs.schedule_to_close_timeout, options.schedule_to_close_timeout)
    set_timeout(attrs.schedule_to_start_timeout, options.schedule_to_start_timeout)
    set_timeout(attrs.start_to_close_timeout, options.start_to_close_timeout)
    set_timeout(attrs.heartbeat_timeout, options.heartbeat_timeout)
    if options.retry_policy is not None:
        options.retry_policy.apply_to_proto(attrs.retry_policy)
    if options.priority is not None:
        options.priority.apply_to_proto(attrs.priority)
    template = head + attrs.SerializeToString(), len(head)
    if len(_templates) >= MAX_TEMPLATES:
        _templates.clear()
    _templates[key] = (options, template)
    return template


def schedule_activity(template: Template, activity_id: str, payloads: bytes) -> ActivityCommand:
    """The command of one activity; its input is serialized."""
    name = activity_id.encode()
    return ActivityCommand(
        activity_id,
        _ACTIVITY_ID + varint(len(name)) + name,
        _ACTIVITY_INPUT + varint(len(payloads)) + payloads,
        template[0],
        template[1],
    )


def metadata(summary: m.Payload) -> bytes:
    """What a serialized command is followed by for people to read."""
    return _Command(user_metadata=m.UserMetadata(summary=summary)).SerializeToString()


def cancel_activity(handle: ActivityHandle[Any]) -> m.Command:
    """Ask a scheduled activity to stop."""
    result = _new(command.CANCEL_ACTIVITY)
    result.request_cancel_activity_task_command_attributes.scheduled_event_id = handle.event_id
    return result


def start_timer(timer: Timer, delay_ms: int) -> m.Command:
    """Start a timer."""
    result = _new(command.START_TIMER)
    attrs = result.start_timer_command_attributes
    attrs.timer_id = timer.timer_id
    set_duration_ms(attrs.start_to_fire_timeout, delay_ms)
    return result


def cancel_timer(timer: Timer) -> m.Command:
    """Cancel a started timer."""
    result = _new(command.CANCEL_TIMER)
    result.cancel_timer_command_attributes.timer_id = timer.timer_id
    return result


def cancel_external(call: ExternalCancel) -> m.Command:
    """Ask another workflow, or a child, to cancel."""
    result = _new(command.CANCEL_EXTERNAL)
    attrs = result.request_cancel_external_workflow_execution_command_attributes
    attrs.workflow_id = call.workflow_id
    attrs.run_id = call.run_id
    attrs.child_workflow_only = call.child is not None
    return result


def signal_external(call: ExternalSignal, run_id: str, payloads: m.Payloads, *, child: bool) -> m.Command:
    """Signal another workflow, or a child."""
    result = _new(command.SIGNAL_EXTERNAL)
    attrs = result.signal_external_workflow_execution_command_attributes
    attrs.execution.workflow_id = call.workflow_id
    attrs.execution.run_id = run_id
    attrs.signal_name = call.name
    attrs.input.CopyFrom(payloads)
    attrs.child_workflow_only = child
    return result


def start_child(
    child: ChildHandle[Any],
    payloads: m.Payloads,
    *,
    task_queue: str,
    parent_close_policy: int,
    execution_timeout: timedelta | None,
    run_timeout: timedelta | None,
    task_timeout: timedelta | None,
    id_reuse_policy: int,
    retry_policy: RetryPolicy | None,
    cron_schedule: str,
    priority: Priority | None,
    summary: m.Payload | None,
    details: m.Payload | None,
    memo: Mapping[str, m.Payload],
    search_attributes: Mapping[str, m.Payload],
) -> m.Command:
    """Start a child workflow."""
    result = _new(command.START_CHILD)
    attrs = result.start_child_workflow_execution_command_attributes
    attrs.namespace = child.namespace
    attrs.workflow_id = child.id
    attrs.workflow_type.name = child.name
    attrs.task_queue.name = task_queue
    attrs.input.CopyFrom(payloads)
    attrs.parent_close_policy = parent_close_policy  # type: ignore[assignment] # an int is what the wire has
    attrs.workflow_id_reuse_policy = id_reuse_policy  # type: ignore[assignment] # likewise
    attrs.cron_schedule = cron_schedule
    set_timeout(attrs.workflow_execution_timeout, execution_timeout)
    set_timeout(attrs.workflow_run_timeout, run_timeout)
    set_timeout(attrs.workflow_task_timeout, task_timeout)
    if retry_policy is not None:
        retry_policy.apply_to_proto(attrs.retry_policy)
    if priority is not None:
        priority.apply_to_proto(attrs.priority)
    if summary is not None:
        result.user_metadata.summary.CopyFrom(summary)
    if details is not None:
        result.user_metadata.details.CopyFrom(details)
    _fill(attrs.memo.fields, memo)
    _fill(attrs.search_attributes.indexed_fields, search_attributes)
    return result


def continue_as_new(
    payloads: m.Payloads,
    *,
    workflow_type: str,
    task_queue: str,
    run_timeout: timedelta | None,
    task_timeout: timedelta | None,
    backoff_start_interval: timedelta | None,
    retry_policy: RetryPolicy | None,
    memo: Mapping[str, m.Payload],
    search_attributes: Mapping[str, m.Payload],
) -> m.Command:
    """Close this run and start the next one."""
    result = _new(command.CONTINUE_AS_NEW)
    attrs = result.continue_as_new_workflow_execution_command_attributes
    attrs.workflow_type.name = workflow_type
    attrs.task_queue.name = task_queue
    attrs.input.CopyFrom(payloads)
    set_timeout(attrs.workflow_run_timeout, run_timeout)
    set_timeout(attrs.workflow_task_timeout, task_timeout)
    set_timeout(attrs.backoff_start_interval, backoff_start_interval)
    if retry_policy is not None:
        retry_policy.apply_to_proto(attrs.retry_policy)
    _fill(attrs.memo.fields, memo)
    _fill(attrs.search_attributes.indexed_fields, search_attributes)
    return result


def complete_workflow(payloads: bytes) -> bytes:
    """Close the run with a result; that and the command serialized."""
    return _COMPLETE_WORKFLOW + sized(_COMPLETION_RESULT + sized(payloads))


def fail_workflow(failure: m.Failure) -> m.Command:
    """Close the run with a failure."""
    result = _new(command.FAIL_WORKFLOW)
    result.fail_workflow_execution_command_attributes.failure.CopyFrom(failure)
    return result


def cancel_workflow() -> m.Command:
    """Close the run as cancelled."""
    result = _new(command.CANCEL_WORKFLOW)
    result.cancel_workflow_execution_command_attributes.SetInParent()
    return result


def marker(name: str, details: Mapping[str, m.Payload], failure: m.Failure | None = None) -> m.Command:
    """Record a marker."""
    result = _new(command.RECORD_MARKER)
    attrs = result.record_marker_command_attributes
    attrs.marker_name = name
    for key, payload in details.items():
        attrs.details[key].payloads.append(payload)
    if failure is not None:
        attrs.failure.CopyFrom(failure)
    return result


def upsert_search_attributes(fields: Mapping[str, m.Payload]) -> m.Command:
    """Change search attributes."""
    result = _new(command.UPSERT_SEARCH_ATTRIBUTES)
    _fill(result.upsert_workflow_search_attributes_command_attributes.search_attributes.indexed_fields, fields)
    return result


def modify_properties(memo: Mapping[str, m.Payload]) -> m.Command:
    """Change the memo."""
    result = _new(command.MODIFY_PROPERTIES)
    _fill(result.modify_workflow_properties_command_attributes.upserted_memo.fields, memo)
    return result


def protocol_message(message_id: str) -> m.Command:
    """Mark the place of a message among the commands."""
    result = _new(PROTOCOL_MESSAGE)
    result.protocol_message_command_attributes.message_id = message_id
    return result


def _new(kind: int) -> m.Command:
    result = _Command()
    result.command_type = kind  # type: ignore[assignment] # an int is what the wire has
    return result


def _fill(target: Any, fields: Mapping[str, m.Payload]) -> None:
    for key, payload in fields.items():
        target[key].CopyFrom(payload)
