"""What starting a workflow takes, and the requests made of it."""

from __future__ import annotations

import difflib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from secrets import token_hex
from typing import Any, TypedDict

from google.protobuf.duration_pb2 import Duration

from perdure.api import messages as m
from perdure.api.durations import ms_of_timedelta, set_duration_ms
from perdure.common import Priority, RetryPolicy, WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from perdure.converter import DataConverter, encode_arguments
from perdure.converter.attributes import SearchAttributes, encode_search_attributes
from perdure.exceptions import DefinitionError
from perdure.replay.checks import check_text
from perdure.replay.definition import HandlerDefinition, WorkflowDefinition

__all__ = [
    "DEFAULT_TASK_QUEUE",
    "StartOptions",
    "Target",
    "handler_target",
    "start_request",
    "workflow_target",
]

DEFAULT_TASK_QUEUE = "default"


class StartOptions(TypedDict, total=False):
    """Options of `Client.start_workflow` and `Client.execute_workflow`.

    Keys:
        id: the workflow's id, unique among running workflows; a random one when left out. Give your own (an order's
            number) to make starting idempotent.
        task_queue: where its workers listen.
        execution_timeout: longest time in all, over retries and continue-as-new.
        run_timeout: longest time of one run.
        task_timeout: longest time of one workflow task.
        id_reuse_policy: what happens if a closed workflow has this id.
        id_conflict_policy: what happens if a running workflow has this id.
        retry_policy: retries of the whole workflow; none when left out.
        cron_schedule: run it again and again, by the calendar: ``"0 9 * * MON-FRI"``, ``"@every 90s"``.
        start_delay: wait before the first workflow task.
        memo: values shown by list and describe.
        search_attributes: values to find it by: `TypedSearchAttributes`, or lists of values by name.
        start_signal: name of a signal delivered together with the start; a running workflow of this id just gets it.
        start_signal_args: the signal's arguments.
        static_summary: one line for people.
        static_details: several lines for people.
        request_eager_start: let a worker of this process have the first workflow task at once, if one serves the task
            queue; saves a round trip to a server.
        request_id: makes two starts the same one; a random one when left out.
        priority: which of several waiting tasks goes first.
    """

    id: str
    task_queue: str
    execution_timeout: timedelta | None
    run_timeout: timedelta | None
    task_timeout: timedelta | None
    id_reuse_policy: WorkflowIDReusePolicy
    id_conflict_policy: WorkflowIDConflictPolicy
    retry_policy: RetryPolicy | None
    cron_schedule: str
    start_delay: timedelta | None
    memo: Mapping[str, Any] | None
    search_attributes: SearchAttributes | None
    start_signal: str | None
    start_signal_args: Sequence[Any]
    static_summary: str | None
    static_details: str | None
    request_eager_start: bool
    request_id: str | None
    priority: Priority | None


_OPTIONS = frozenset(StartOptions.__annotations__)
_NAMES = {name: f"the option {name!r}" for name in ("id", "task_queue", "request_id")}
_ELSEWHERE = frozenset(("id", "task_queue", "request_id", "start_signal", "start_signal_args", "request_eager_start"))
"""Options that are no fields of a request, or that every request has."""
_REUSE_DEFAULT = m.WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A workflow, signal, query or update as a call names it."""

    name: str
    what: str
    definition: WorkflowDefinition | HandlerDefinition | None = None

    @property
    def return_type(self) -> Any:
        """The hint of its result; None when nothing is known."""
        return self.definition.signature.return_type if self.definition is not None else None

    def encode(self, converter: DataConverter, args: Sequence[Any]) -> m.Payloads:
        """The arguments as payloads, checked against the hints where they are known.

        Raises:
            TypeError: too few or too many.
            ConversionError: one cannot be encoded or is not what its hint says.
        """
        if self.definition is None:
            return converter.to_payloads(args)
        return encode_arguments(converter, args, self.definition.signature, self.what)


def workflow_target(workflow: object) -> Target:
    """The workflow a call names: by its type's name, its class, its run method, or its function.

    Raises:
        DefinitionError: it is not a workflow, or a dynamic one, which has no name.
    """
    if isinstance(workflow, str):
        return Target(name=workflow, what=f"workflow {workflow}")
    definition = WorkflowDefinition.must_be(workflow)
    if definition.name is None:
        raise DefinitionError(f"{definition.location} is a dynamic workflow: start it by a name of your choice")
    return Target(name=definition.name, what=f"workflow {definition.name}", definition=definition)


def handler_target(handler: object, kind: str) -> Target:
    """The signal, query or update a call names: by its name or its handler method.

    Raises:
        DefinitionError: it is not a handler of that kind.
    """
    if isinstance(handler, str):
        return Target(name=handler, what=f"{kind} {handler}")
    definition = HandlerDefinition.of(handler)
    if definition is None or definition.kind != kind:
        a_kind = f"{'an' if kind == 'update' else 'a'} {kind}"
        raise DefinitionError(f"{handler!r} is not {a_kind} handler: decorate it with @workflow.{kind}, or give a name")
    if definition.name is None:
        raise DefinitionError(f"{handler!r} is a dynamic {kind} handler: give the {kind}'s name instead")
    return Target(name=definition.name, what=f"{kind} {definition.name}", definition=definition)


def _check_options(options: StartOptions) -> None:
    unknown = options.keys() - _OPTIONS
    if unknown:
        name = min(unknown)
        near = difflib.get_close_matches(name, _OPTIONS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(_OPTIONS))}"
        raise TypeError(f"starting a workflow has no option {name!r}; {hint}")
    for name in _NAMES:
        value = options.get(name)
        if value is not None:
            check_text(value, _NAMES[name])


def start_request(
    target: Target,
    args: Sequence[Any],
    options: StartOptions,
    *,
    namespace: str,
    identity: str,
    converter: DataConverter,
) -> m.StartWorkflowExecutionRequest:
    """The request that starts a workflow.

    Raises:
        TypeError: wrong number of arguments, an unknown option, or one of the wrong type.
        InvalidNameError: an id is empty or not valid Unicode.
        ConversionError: an argument or memo value does not convert.
    """
    _check_options(options)
    request = m.StartWorkflowExecutionRequest(
        namespace=namespace,
        workflow_id=options.get("id") or f"{target.name}-{uuid.uuid4()}",
        workflow_type=m.WorkflowType(name=target.name),
        task_queue=m.TaskQueue(name=options.get("task_queue", DEFAULT_TASK_QUEUE)),
        identity=identity,
        request_id=options.get("request_id") or token_hex(16),
        workflow_id_reuse_policy=_REUSE_DEFAULT,
    )
    if args:
        request.input.CopyFrom(target.encode(converter, args))
    else:
        target.encode(converter, args)
    if not options.keys() <= _ELSEWHERE:
        _apply_options(request, options, converter)
    return request


def _apply_options(request: m.StartWorkflowExecutionRequest, options: StartOptions, converter: DataConverter) -> None:
    """Write the options that most requests do not have."""
    reuse = options.get("id_reuse_policy")
    if reuse is not None:
        request.workflow_id_reuse_policy = reuse.value  # pyright: ignore[reportAttributeAccessIssue] - an int, too
    conflict = options.get("id_conflict_policy")
    if conflict is not None:
        request.workflow_id_conflict_policy = conflict.value  # pyright: ignore[reportAttributeAccessIssue] - likewise
    request.cron_schedule = options.get("cron_schedule") or ""
    _set_span(request.workflow_execution_timeout, options.get("execution_timeout"))
    _set_span(request.workflow_run_timeout, options.get("run_timeout"))
    _set_span(request.workflow_task_timeout, options.get("task_timeout"))
    _set_span(request.workflow_start_delay, options.get("start_delay"))
    policy = options.get("retry_policy")
    if policy is not None:
        policy.apply_to_proto(request.retry_policy)
    priority = options.get("priority")
    if priority is not None:
        priority.apply_to_proto(request.priority)
    for name, value in (options.get("memo") or {}).items():
        request.memo.fields[name].CopyFrom(converter.to_payload(value))
    attributes = options.get("search_attributes")
    if attributes is not None:
        for name, payload in encode_search_attributes(converter, attributes).items():
            request.search_attributes.indexed_fields[name].CopyFrom(payload)
    summary, details = options.get("static_summary"), options.get("static_details")
    if summary is not None:
        request.user_metadata.summary.CopyFrom(converter.to_payload(summary))
    if details is not None:
        request.user_metadata.details.CopyFrom(converter.to_payload(details))


def signal_with_start_request(
    start: m.StartWorkflowExecutionRequest, signal: str, args: Sequence[Any], converter: DataConverter
) -> m.SignalWithStartWorkflowExecutionRequest:
    """The request that signals a workflow, starting it first if need be."""
    request = m.SignalWithStartWorkflowExecutionRequest()
    shared = {field.name for field in request.DESCRIPTOR.fields}
    for field, value in start.ListFields():
        if field.name not in shared:
            raise TypeError(f"{field.name} cannot be combined with start_signal")
        if field.message_type is not None:
            getattr(request, field.name).CopyFrom(value)
        else:
            setattr(request, field.name, value)
    request.signal_name = signal
    if args:
        request.signal_input.CopyFrom(converter.to_payloads(args))
    return request


def _set_span(field: Duration, span: timedelta | None) -> None:
    if span is not None:
        set_duration_ms(field, ms_of_timedelta(span))
