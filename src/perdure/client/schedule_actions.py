"""What a schedule does, and a schedule as a whole, as values.

A `Schedule` is what is asked for, and what a description gives back. A described action holds its arguments as they
travel (`RawValue`), so that an update can send them back unread.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Required, TypedDict, TypeVarTuple, Unpack, overload

from perdure.api import messages as m
from perdure.api.durations import duration_ms
from perdure.client.options import StartOptions, Target, start_request, workflow_target
from perdure.client.schedule_specs import SchedulePolicy, ScheduleSpec, ScheduleState
from perdure.common import Priority, RawValue, RetryPolicy, TypedSearchAttributes
from perdure.converter.attributes import decode_search_attributes
from perdure.replay.checks import check_text

if TYPE_CHECKING:
    from perdure.client.client import Client
    from perdure.converter import DataConverter

__all__ = ["Schedule", "ScheduleActionStartWorkflow"]

Ts = TypeVarTuple("Ts")
_STARTING = frozenset(descriptor.name for descriptor in m.StartWorkflowExecutionRequest.DESCRIPTOR.fields)
_CARRIED = tuple(
    descriptor.name for descriptor in m.NewWorkflowExecutionInfo.DESCRIPTOR.fields if descriptor.name in _STARTING
)


class ActionOptions(TypedDict, total=False):
    """Options of `ScheduleActionStartWorkflow`; those of `Client.start_workflow` of the same names.

    Keys:
        id: of the workflows; each has the time of its action behind it. Required.
        task_queue: the client's own when left out.
    """

    id: Required[str]
    task_queue: str
    execution_timeout: timedelta | None
    run_timeout: timedelta | None
    task_timeout: timedelta | None
    retry_policy: RetryPolicy | None
    memo: Mapping[str, Any] | None
    typed_search_attributes: TypedSearchAttributes
    static_summary: str | None
    static_details: str | None
    priority: Priority | None


class ScheduleActionStartWorkflow:
    """Start a workflow: what a schedule does.

    Attributes are those of `Client.start_workflow`'s options; each may be changed in an update.
    """

    @overload
    def __init__(
        self, workflow: Callable[[Unpack[Ts]], Awaitable[Any]], *arguments: *Ts, **options: Unpack[ActionOptions]
    ) -> None: ...

    @overload
    def __init__(
        self, workflow: Callable[[Any, Unpack[Ts]], Awaitable[Any]], *arguments: *Ts, **options: Unpack[ActionOptions]
    ) -> None: ...

    @overload
    def __init__(
        self, workflow: Callable[..., Awaitable[Any]], *, args: Sequence[Any], **options: Unpack[ActionOptions]
    ) -> None: ...

    @overload
    def __init__(
        self, workflow: str | type[Any], *arguments: Any, args: Sequence[Any] = (), **options: Unpack[ActionOptions]
    ) -> None: ...

    def __init__(
        self,
        workflow: Any,
        *arguments: Any,
        args: Sequence[Any] = (),
        id: str,
        task_queue: str | None = None,
        execution_timeout: timedelta | None = None,
        run_timeout: timedelta | None = None,
        task_timeout: timedelta | None = None,
        retry_policy: RetryPolicy | None = None,
        memo: Mapping[str, Any] | None = None,
        typed_search_attributes: TypedSearchAttributes | None = None,
        static_summary: str | None = None,
        static_details: str | None = None,
        priority: Priority | None = None,
    ) -> None:
        """Say which workflow.

        Args:
            workflow: its function, its class's run method, its class, or its type's name.
            arguments: what it takes; or as a sequence in `args`.
            args: see `arguments`.
            id: of the workflows; each has the time of its action behind it.
            task_queue: where its workers listen; the client's own when None.
            execution_timeout: longest time in all, over retries and continue-as-new.
            run_timeout: longest time of one run.
            task_timeout: longest time of one workflow task.
            retry_policy: retries of the whole workflow; none when None.
            memo: values shown by list and describe.
            typed_search_attributes: values to find the workflows by.
            static_summary: one line for people.
            static_details: several lines for people.
            priority: which of several waiting tasks goes first.

        Raises:
            DefinitionError: `workflow` is none.
            InvalidNameError, TypeError: the id cannot be one.
        """
        check_text(id, "the workflow id")
        self._target: Target = workflow_target(workflow)
        self.workflow = self._target.name
        self.args: Sequence[Any] = arguments or tuple(args)
        self.id = id
        self.task_queue = task_queue
        self.execution_timeout = execution_timeout
        self.run_timeout = run_timeout
        self.task_timeout = task_timeout
        self.retry_policy = retry_policy
        self.memo = memo
        self.typed_search_attributes = typed_search_attributes
        self.static_summary = static_summary
        self.static_details = static_details
        self.priority = priority
        self.headers: Mapping[str, m.Payload] = {}

    @classmethod
    def from_proto(cls, proto: m.NewWorkflowExecutionInfo, converter: DataConverter) -> ScheduleActionStartWorkflow:
        """Make it from the API's message. Raises ConversionError: a search attribute or text can't be read."""
        found = cls(
            proto.workflow_type.name,
            args=[RawValue(payload) for payload in proto.input.payloads],
            id=proto.workflow_id,
            task_queue=proto.task_queue.name,
            execution_timeout=_span(proto, "workflow_execution_timeout"),
            run_timeout=_span(proto, "workflow_run_timeout"),
            task_timeout=_span(proto, "workflow_task_timeout"),
            retry_policy=RetryPolicy.from_proto(proto.retry_policy) if proto.HasField("retry_policy") else None,
            memo={name: RawValue(payload) for name, payload in proto.memo.fields.items()} or None,
            typed_search_attributes=decode_search_attributes(converter, proto.search_attributes.indexed_fields),
            priority=Priority.from_proto(proto.priority) if proto.HasField("priority") else None,
        )
        if proto.user_metadata.HasField("summary"):
            found.static_summary = converter.from_payload(proto.user_metadata.summary, str)
        if proto.user_metadata.HasField("details"):
            found.static_details = converter.from_payload(proto.user_metadata.details, str)
        found.headers = dict(proto.header.fields)
        return found

    def to_proto(self, client: Client) -> m.NewWorkflowExecutionInfo:
        """The API's message, as a client sends it.

        Raises:
            TypeError: wrong number of arguments, or an option of the wrong type.
            ConversionError: an argument or memo value does not convert.
        """
        options = StartOptions(
            id=self.id,
            task_queue=self.task_queue or client.task_queue,
            execution_timeout=self.execution_timeout,
            run_timeout=self.run_timeout,
            task_timeout=self.task_timeout,
            retry_policy=self.retry_policy,
            memo=self.memo,
            search_attributes=self.typed_search_attributes or None,
            static_summary=self.static_summary,
            static_details=self.static_details,
            priority=self.priority,
        )
        target = self._target if self.workflow == self._target.name else workflow_target(self.workflow)
        start = start_request(
            target,
            self.args,
            options,
            namespace=client.namespace,
            identity=client.identity,
            converter=client.data_converter,
        )
        proto = m.NewWorkflowExecutionInfo()
        for at, value in start.ListFields():
            if at.name in _CARRIED and at.name != "workflow_id_reuse_policy":
                _put(proto, at.name, value)
        for name, payload in self.headers.items():
            proto.header.fields[name].CopyFrom(payload)
        return proto


@dataclass(slots=True)
class Schedule:
    """A workflow to start, and when."""

    action: ScheduleActionStartWorkflow
    spec: ScheduleSpec
    policy: SchedulePolicy = field(default_factory=SchedulePolicy)
    state: ScheduleState = field(default_factory=ScheduleState)

    @classmethod
    def from_proto(cls, proto: m.Schedule, converter: DataConverter) -> Schedule:
        """Make it from the API's message. Raises ConversionError: a search attribute or text can't be read."""
        return cls(
            action=ScheduleActionStartWorkflow.from_proto(proto.action.start_workflow, converter),
            spec=ScheduleSpec.from_proto(proto.spec),
            policy=SchedulePolicy.from_proto(proto.policies),
            state=ScheduleState.from_proto(proto.state),
        )

    def to_proto(self, client: Client) -> m.Schedule:
        """The API's message, as a client sends it. Raises what its parts do."""
        proto = m.Schedule(spec=self.spec.to_proto(), policies=self.policy.to_proto(), state=self.state.to_proto())
        proto.action.start_workflow.CopyFrom(self.action.to_proto(client))
        return proto


def _put(message: Any, name: str, value: Any) -> None:
    """Set a field of a message that is not repeated."""
    if hasattr(value, "DESCRIPTOR"):
        getattr(message, name).CopyFrom(value)
    else:
        setattr(message, name, value)


def _span(proto: m.NewWorkflowExecutionInfo, name: Any) -> timedelta | None:
    return timedelta(milliseconds=duration_ms(getattr(proto, name))) if proto.HasField(name) else None
