"""Commands that reach other workflows: start a child, signal or cancel another run."""

from __future__ import annotations

from perdure.api import messages as m
from perdure.engine.history import events_between, evolve, external, pending, priorities
from perdure.engine.history.planning import (
    BadCommand,
    Plan,
    at_limit,
    check_cron,
    check_length,
    check_name,
    check_namespace,
    check_policy,
    check_search_attributes,
    check_size,
    check_span,
    write,
)
from perdure.engine.history.recording import send
from perdure.engine.history.state import CancelItem, ChildItem, MessageKind, OutMessage, Run, SignalItem
from perdure.engine.history.transition import Transition

_C = m.WorkflowTaskFailedCause
_BAD_CHILD = _C.WORKFLOW_TASK_FAILED_CAUSE_BAD_START_CHILD_EXECUTION_ATTRIBUTES
_BAD_SIGNAL = _C.WORKFLOW_TASK_FAILED_CAUSE_BAD_SIGNAL_WORKFLOW_EXECUTION_ATTRIBUTES
_BAD_EXTERNAL_CANCEL = _C.WORKFLOW_TASK_FAILED_CAUSE_BAD_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_ATTRIBUTES


def check_start_child(plan: Plan, attributes: m.StartChildWorkflowExecutionCommandAttributes) -> None:
    check_namespace(plan, attributes.namespace, _BAD_CHILD)
    check_name(plan, attributes.workflow_id, "WorkflowId", _BAD_CHILD)
    check_name(plan, attributes.workflow_type.name, "WorkflowType", _BAD_CHILD)
    check_length(plan, attributes.task_queue.name, _BAD_CHILD)
    check_span(attributes.workflow_execution_timeout, "WorkflowExecutionTimeout", _BAD_CHILD)
    check_span(attributes.workflow_run_timeout, "WorkflowRunTimeout", _BAD_CHILD)
    check_span(attributes.workflow_task_timeout, "WorkflowTaskTimeout", _BAD_CHILD)
    check_cron(attributes.cron_schedule, _BAD_CHILD)
    refused = priorities.refusal(attributes.priority)
    if refused is not None:
        raise BadCommand(_BAD_CHILD, f"{refused}.")
    if attributes.HasField("retry_policy"):
        check_policy(attributes.retry_policy, _BAD_CHILD)
    check_search_attributes(plan, attributes)
    for name in ("input", "header", "memo"):
        check_size(plan, getattr(attributes, name), f"StartChildWorkflowExecutionCommandAttributes.{name}", _BAD_CHILD)
    plan.children += 1
    if len(plan.run.live.child_ids) + plan.children > plan.limits.pending_children:
        raise BadCommand(
            _C.WORKFLOW_TASK_FAILED_CAUSE_PENDING_CHILD_WORKFLOWS_LIMIT_EXCEEDED,
            at_limit("pending child workflows", plan.limits.pending_children, "pending_children"),
        )


def start_child(
    plan: Plan,
    transition: Transition,
    command: m.Command,
    attributes: m.StartChildWorkflowExecutionCommandAttributes,
    _: None,
) -> None:
    run = plan.run
    state = run.state
    event_id = state.next_event_id
    request = child_request(run, command, attributes, event_id)
    event = events_between.child_initiated(event_id, plan.now_ms, request, attributes, plan.completed_event_id)
    write(transition, command, event)
    item = ChildItem(
        event_id,
        request.namespace,
        request.workflow_id,
        request.workflow_type.name,
        event.start_child_workflow_execution_initiated_event_attributes.parent_close_policy,
    )
    pending.add_child(run, item)
    message = OutMessage(
        0, MessageKind.START_CHILD, item.namespace, item.workflow_id, "", request.SerializeToString(), event_id
    )
    send(transition, message)


def child_request(
    run: Run,
    command: m.Command,
    attributes: m.StartChildWorkflowExecutionCommandAttributes,
    initiated_event_id: int,
) -> m.StartWorkflowExecutionRequest:
    """What starts the child. Its request id is the Initiated event, so that starting it twice starts it once."""
    state = run.state
    request = m.StartWorkflowExecutionRequest(
        namespace=state.namespace,
        workflow_id=attributes.workflow_id,
        identity=state.identity,
        request_id=f"{evolve.owner_of(state, initiated_event_id)}:{initiated_event_id}",
        cron_schedule=attributes.cron_schedule,
        workflow_id_reuse_policy=attributes.workflow_id_reuse_policy
        or m.WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
    )
    request.workflow_type.CopyFrom(attributes.workflow_type)
    request.task_queue.name = attributes.task_queue.name or state.task_queue
    request.task_queue.kind = m.TaskQueueKind.TASK_QUEUE_KIND_NORMAL
    request.workflow_execution_timeout.CopyFrom(attributes.workflow_execution_timeout)
    request.workflow_run_timeout.CopyFrom(attributes.workflow_run_timeout)
    request.workflow_task_timeout.CopyFrom(attributes.workflow_task_timeout)
    for name in ("input", "retry_policy", "header", "memo", "search_attributes", "priority", "versioning_override"):
        if attributes.HasField(name):
            getattr(request, name).CopyFrom(getattr(attributes, name))
    if state.priority:
        request.priority.ParseFromString(state.priority + request.priority.SerializeToString())
    if command.HasField("user_metadata"):
        request.user_metadata.CopyFrom(command.user_metadata)
    return request


def _pending(run: Run, kind: type[SignalItem] | type[CancelItem]) -> int:
    return sum(1 for item in run.state.items.values() if isinstance(item, kind))


def check_signal(plan: Plan, attributes: m.SignalExternalWorkflowExecutionCommandAttributes) -> None:
    check_namespace(plan, attributes.namespace, _BAD_SIGNAL)
    check_name(plan, attributes.execution.workflow_id, "Execution.WorkflowId", _BAD_SIGNAL)
    check_length(plan, attributes.execution.run_id, _BAD_SIGNAL)
    check_name(plan, attributes.signal_name, "SignalName", _BAD_SIGNAL)
    if attributes.input.ByteSize() > plan.limits.blob_bytes:
        raise BadCommand(
            _C.WORKFLOW_TASK_FAILED_CAUSE_BAD_SIGNAL_INPUT_SIZE,
            f"SignalExternalWorkflowExecutionCommandAttributes.Input exceeds {plan.limits.blob_bytes} bytes.",
        )
    plan.signals += 1
    if _pending(plan.run, SignalItem) + plan.signals > plan.limits.pending_signals:
        raise BadCommand(
            _C.WORKFLOW_TASK_FAILED_CAUSE_PENDING_SIGNALS_LIMIT_EXCEEDED,
            at_limit("signals on their way", plan.limits.pending_signals, "pending_signals"),
        )


def signal_external(
    plan: Plan,
    transition: Transition,
    command: m.Command,
    attributes: m.SignalExternalWorkflowExecutionCommandAttributes,
    _: None,
) -> None:
    run = plan.run
    event_id = run.state.next_event_id
    namespace = run.state.namespace
    event = events_between.external_signal_initiated(
        event_id, plan.now_ms, namespace, attributes, plan.completed_event_id
    )
    write(transition, command, event)
    execution = attributes.execution
    item = SignalItem(event_id, namespace, execution.workflow_id, execution.run_id, attributes.control)
    pending.add(run, item)
    external.send_signal(transition, item, attributes)


def check_external_cancel(plan: Plan, attributes: m.RequestCancelExternalWorkflowExecutionCommandAttributes) -> None:
    check_namespace(plan, attributes.namespace, _BAD_EXTERNAL_CANCEL)
    check_name(plan, attributes.workflow_id, "WorkflowId", _BAD_EXTERNAL_CANCEL)
    check_length(plan, attributes.run_id, _BAD_EXTERNAL_CANCEL)
    plan.cancels += 1
    if _pending(plan.run, CancelItem) + plan.cancels > plan.limits.pending_cancels:
        raise BadCommand(
            _C.WORKFLOW_TASK_FAILED_CAUSE_PENDING_REQUEST_CANCEL_LIMIT_EXCEEDED,
            at_limit("cancel requests on their way", plan.limits.pending_cancels, "pending_cancels"),
        )


def cancel_external(
    plan: Plan,
    transition: Transition,
    command: m.Command,
    attributes: m.RequestCancelExternalWorkflowExecutionCommandAttributes,
    _: None,
) -> None:
    run = plan.run
    event_id = run.state.next_event_id
    namespace = run.state.namespace
    event = events_between.external_cancel_initiated(
        event_id, plan.now_ms, namespace, attributes, plan.completed_event_id
    )
    write(transition, command, event)
    item = CancelItem(event_id, namespace, attributes.workflow_id, attributes.run_id, attributes.control)
    pending.add(run, item)
    external.send_cancel(transition, item, attributes)
