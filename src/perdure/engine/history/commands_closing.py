"""Commands that close the run: complete, fail, cancel, continue as new."""

from __future__ import annotations

from perdure.api import messages as m
from perdure.engine.history import closing, events, failures
from perdure.engine.history.planning import (
    BadCommand,
    Plan,
    check_cron,
    check_length,
    check_policy,
    check_search_attributes,
    check_size,
    check_span,
)
from perdure.engine.history.transition import Transition

_C = m.WorkflowTaskFailedCause
_BAD_COMPLETE = _C.WORKFLOW_TASK_FAILED_CAUSE_BAD_COMPLETE_WORKFLOW_EXECUTION_ATTRIBUTES
_BAD_FAIL = _C.WORKFLOW_TASK_FAILED_CAUSE_BAD_FAIL_WORKFLOW_EXECUTION_ATTRIBUTES
_BAD_CANCEL = _C.WORKFLOW_TASK_FAILED_CAUSE_BAD_CANCEL_WORKFLOW_EXECUTION_ATTRIBUTES
_BAD_CONTINUE = _C.WORKFLOW_TASK_FAILED_CAUSE_BAD_CONTINUE_AS_NEW_ATTRIBUTES


def _closes(plan: Plan) -> None:
    """The run may only close on a history that the worker has seen whole."""
    if plan.buffered:
        raise BadCommand(_C.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND, "")
    if plan.unsent_updates:
        raise BadCommand(_C.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_UPDATE, "")
    plan.closes = True


def check_complete(plan: Plan, attributes: m.CompleteWorkflowExecutionCommandAttributes) -> None:
    check_size(plan, attributes.result, "CompleteWorkflowExecutionCommandAttributes.Result", _BAD_COMPLETE)
    _closes(plan)


def complete(
    plan: Plan,
    transition: Transition,
    command: m.Command,
    attributes: m.CompleteWorkflowExecutionCommandAttributes,
    _: None,
) -> None:
    result = attributes.result if attributes.HasField("result") else None
    closing.complete(transition, result, command, plan.completed_event_id, plan.new_id)


def check_fail(plan: Plan, attributes: m.FailWorkflowExecutionCommandAttributes) -> None:
    if not attributes.HasField("failure"):
        raise BadCommand(_BAD_FAIL, "Failure is not set on command.")
    _closes(plan)


def fail(
    plan: Plan,
    transition: Transition,
    command: m.Command,
    attributes: m.FailWorkflowExecutionCommandAttributes,
    _: None,
) -> None:
    failure = failures.bounded(attributes.failure, plan.limits.blob_bytes)
    closing.fail(transition, failure, plan.completed_event_id, plan.new_id)


def check_cancel(plan: Plan, attributes: m.CancelWorkflowExecutionCommandAttributes) -> None:
    check_size(plan, attributes.details, "CancelWorkflowExecutionCommandAttributes.Details", _BAD_CANCEL)
    _closes(plan)


def cancel(
    plan: Plan,
    transition: Transition,
    command: m.Command,
    attributes: m.CancelWorkflowExecutionCommandAttributes,
    _: None,
) -> None:
    details = attributes.details if attributes.HasField("details") else None
    event_id = plan.run.state.next_event_id
    event = events.workflow_canceled(event_id, plan.now_ms, details, plan.completed_event_id)
    events.carry_command_metadata(event, command)
    closing.close(transition, event)


def check_continue(plan: Plan, attributes: m.ContinueAsNewWorkflowExecutionCommandAttributes) -> None:
    if len(attributes.workflow_type.name) > plan.limits.id_length:
        raise BadCommand(_BAD_CONTINUE, "WorkflowType exceeds the length limit.")
    check_length(plan, attributes.task_queue.name, _BAD_CONTINUE)
    check_span(attributes.workflow_run_timeout, "WorkflowRunTimeout", _BAD_CONTINUE)
    check_span(attributes.workflow_task_timeout, "WorkflowTaskTimeout", _BAD_CONTINUE)
    check_span(attributes.backoff_start_interval, "BackoffStartInterval", _BAD_CONTINUE)
    check_cron(attributes.cron_schedule, _BAD_CONTINUE)
    check_policy(attributes.retry_policy, _BAD_CONTINUE)
    check_search_attributes(plan, attributes)
    for name in ("input", "header", "memo"):
        check_size(
            plan, getattr(attributes, name), f"ContinueAsNewWorkflowExecutionCommandAttributes.{name}", _BAD_CONTINUE
        )
    _closes(plan)


def continue_as_new(
    plan: Plan,
    transition: Transition,
    command: m.Command,
    attributes: m.ContinueAsNewWorkflowExecutionCommandAttributes,
    _: None,
) -> None:
    closing.continue_as_new(transition, attributes, plan.completed_event_id, plan.new_id)
