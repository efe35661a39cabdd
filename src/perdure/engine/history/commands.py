"""What a worker may ask for: command type → how it is checked and how it is carried out.

A completion is first checked as a whole (`plan_commands`): every command against the state, the limits and the
commands before it. Only when all of them hold are they carried out, in order; from then on nothing can
go wrong. One bad command makes the whole task fail: `BadCommand` carries the cause that the Failed event names.

Commands after the first one that closes the run are ignored: the run is over.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from perdure.api import messages as m
from perdure.engine.history import (
    commands_activity,
    commands_between,
    commands_closing,
    commands_local,
    commands_nexus,
    reports,
    update_protocol,
)
from perdure.engine.history.planning import BadCommand, Handler, Plan, Step

_C = m.WorkflowTaskFailedCause
_T = m.CommandType
_PLAIN = m.Command()
"""Stands for a command that needs no more looking at."""


def plan_commands(plan: Plan, commands: Iterable[bytes]) -> list[Step]:
    """Check serialized commands in order.

    Raises:
        BadCommand: one of them does not hold; nothing has changed.
    """
    steps: list[Step] = []
    for data in commands:
        asked = reports.scheduled_activity(data)
        if asked is not None:
            prepared = commands_activity.check_schedule(plan, asked)
            steps.append((commands_activity.schedule_activity, _PLAIN, None, prepared))
            continue
        command = m.Command.FromString(data)
        handler = HANDLERS.get(command.command_type)
        if handler is None:
            raise BadCommand(_C.WORKFLOW_TASK_FAILED_CAUSE_FEATURE_DISABLED, _unsupported(command))
        attributes = getattr(command, handler.attributes)
        prepared = handler.check(plan, attributes)
        steps.append((handler.apply, command, attributes, prepared))
        if plan.closes:
            break
    return steps


def _unsupported(command: m.Command) -> str:
    try:
        return f"{m.CommandType.Name(command.command_type)} is not supported by this server"
    except ValueError:
        return f"command type {command.command_type} is unknown"


HANDLERS: Final[dict[int, Handler]] = {
    _T.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK: Handler(
        "schedule_activity_task_command_attributes",
        commands_activity.check_schedule_activity,
        commands_activity.schedule_activity,
    ),
    _T.COMMAND_TYPE_REQUEST_CANCEL_ACTIVITY_TASK: Handler(
        "request_cancel_activity_task_command_attributes",
        commands_activity.check_cancel_activity,
        commands_activity.cancel_activity,
    ),
    _T.COMMAND_TYPE_START_TIMER: Handler(
        "start_timer_command_attributes", commands_local.check_start_timer, commands_local.start_timer
    ),
    _T.COMMAND_TYPE_CANCEL_TIMER: Handler(
        "cancel_timer_command_attributes", commands_local.check_cancel_timer, commands_local.cancel_timer
    ),
    _T.COMMAND_TYPE_RECORD_MARKER: Handler(
        "record_marker_command_attributes", commands_local.check_marker, commands_local.record_marker
    ),
    _T.COMMAND_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES: Handler(
        "upsert_workflow_search_attributes_command_attributes",
        commands_local.check_search_attributes,
        commands_local.upsert_search_attributes,
    ),
    _T.COMMAND_TYPE_MODIFY_WORKFLOW_PROPERTIES: Handler(
        "modify_workflow_properties_command_attributes",
        commands_local.check_properties,
        commands_local.modify_properties,
    ),
    _T.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION: Handler(
        "complete_workflow_execution_command_attributes", commands_closing.check_complete, commands_closing.complete
    ),
    _T.COMMAND_TYPE_FAIL_WORKFLOW_EXECUTION: Handler(
        "fail_workflow_execution_command_attributes", commands_closing.check_fail, commands_closing.fail
    ),
    _T.COMMAND_TYPE_CANCEL_WORKFLOW_EXECUTION: Handler(
        "cancel_workflow_execution_command_attributes", commands_closing.check_cancel, commands_closing.cancel
    ),
    _T.COMMAND_TYPE_CONTINUE_AS_NEW_WORKFLOW_EXECUTION: Handler(
        "continue_as_new_workflow_execution_command_attributes",
        commands_closing.check_continue,
        commands_closing.continue_as_new,
    ),
    _T.COMMAND_TYPE_START_CHILD_WORKFLOW_EXECUTION: Handler(
        "start_child_workflow_execution_command_attributes",
        commands_between.check_start_child,
        commands_between.start_child,
    ),
    _T.COMMAND_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION: Handler(
        "signal_external_workflow_execution_command_attributes",
        commands_between.check_signal,
        commands_between.signal_external,
    ),
    _T.COMMAND_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION: Handler(
        "request_cancel_external_workflow_execution_command_attributes",
        commands_between.check_external_cancel,
        commands_between.cancel_external,
    ),
    _T.COMMAND_TYPE_SCHEDULE_NEXUS_OPERATION: Handler(
        "schedule_nexus_operation_command_attributes", commands_nexus.check_schedule, commands_nexus.schedule
    ),
    _T.COMMAND_TYPE_REQUEST_CANCEL_NEXUS_OPERATION: Handler(
        "request_cancel_nexus_operation_command_attributes", commands_nexus.check_cancel, commands_nexus.cancel
    ),
    _T.COMMAND_TYPE_PROTOCOL_MESSAGE: Handler(
        "protocol_message_command_attributes", update_protocol.check_command, update_protocol.apply_command
    ),
}
