"""Workflows as `list_workflows` and `describe` show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Any

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from perdure.api import messages as m
from perdure.api.durations import datetime_of_ms, duration_ms, timestamp_ms
from perdure.common import Priority, TypedSearchAttributes
from perdure.converter import DataConverter
from perdure.converter.attributes import decode_search_attributes

__all__ = [
    "WorkflowExecution",
    "WorkflowExecutionCount",
    "WorkflowExecutionCountAggregationGroup",
    "WorkflowExecutionDescription",
    "WorkflowExecutionStatus",
]


class WorkflowExecutionStatus(IntEnum):
    """How a workflow stands."""

    RUNNING = 1
    COMPLETED = 2
    FAILED = 3
    CANCELED = 4
    TERMINATED = 5
    CONTINUED_AS_NEW = 6
    TIMED_OUT = 7
    PAUSED = 8


def _moment(message: Message, field: str) -> datetime | None:
    return _time(getattr(message, field)) if message.HasField(field) else None


def _time(timestamp: Timestamp) -> datetime:
    return datetime_of_ms(timestamp_ms(timestamp)).astimezone(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowExecution:
    """One run, in short. `raw_info` is the message it was made from; times are aware, in UTC."""

    id: str
    run_id: str
    workflow_type: str
    task_queue: str
    status: WorkflowExecutionStatus | None
    start_time: datetime
    execution_time: datetime | None
    close_time: datetime | None
    history_length: int
    parent_id: str | None
    parent_run_id: str | None
    raw_info: m.WorkflowExecutionInfo
    data_converter: DataConverter

    @classmethod
    def of(cls, info: m.WorkflowExecutionInfo, converter: DataConverter, **more: Any) -> WorkflowExecution:
        """Make it from the API's message."""
        parent = info.parent_execution if info.HasField("parent_execution") else None
        known = info.status in WorkflowExecutionStatus._value2member_map_
        return cls(
            id=info.execution.workflow_id,
            run_id=info.execution.run_id,
            workflow_type=info.type.name,
            task_queue=info.task_queue,
            status=WorkflowExecutionStatus(info.status) if known else None,
            start_time=_time(info.start_time),
            execution_time=_time(info.execution_time) if info.HasField("execution_time") else None,
            close_time=_time(info.close_time) if info.HasField("close_time") else None,
            history_length=info.history_length,
            parent_id=parent.workflow_id if parent else None,
            parent_run_id=parent.run_id if parent else None,
            raw_info=info,
            data_converter=converter,
            **more,
        )

    @property
    def root_id(self) -> str | None:
        """The workflow id of the first of its family: itself if it has no parent."""
        return self.raw_info.root_execution.workflow_id or None

    @property
    def root_run_id(self) -> str | None:
        """The run id of the first of its family."""
        return self.raw_info.root_execution.run_id or None

    @property
    def first_run_id(self) -> str | None:
        """The first run of its chain of retries, cron runs and continuations."""
        return self.raw_info.first_run_id or None

    @property
    def execution_duration(self) -> timedelta | None:
        """How long a closed run took."""
        raw = self.raw_info
        return (
            timedelta(milliseconds=duration_ms(raw.execution_duration)) if raw.HasField("execution_duration") else None
        )

    @property
    def history_size_bytes(self) -> int:
        """Bytes of its history."""
        return self.raw_info.history_size_bytes

    @property
    def priority(self) -> Priority:
        """Which of several waiting tasks goes first."""
        return Priority.from_proto(self.raw_info.priority)

    @property
    def typed_search_attributes(self) -> TypedSearchAttributes:
        """The values it can be found by.

        Raises:
            ConversionError: a value cannot be read.
        """
        return decode_search_attributes(self.data_converter, self.raw_info.search_attributes.indexed_fields)

    async def memo(self) -> Mapping[str, Any]:
        """The memo, as plain values.

        Raises:
            ConversionError: a value cannot be read.
        """
        fields = self.raw_info.memo.fields
        return {name: self.data_converter.from_payload(payload) for name, payload in fields.items()}

    async def memo_value(self, key: str, default: Any = None, *, type_hint: Any = None) -> Any:
        """One value of the memo, typed by `type_hint`; `default` if there is none.

        Raises:
            ConversionError: it is not of that type.
        """
        fields = self.raw_info.memo.fields
        return self.data_converter.from_payload(fields[key], type_hint) if key in fields else default


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowExecutionDescription(WorkflowExecution):
    """One run in detail, with what it is waiting for. `raw_description` is the message it was made from."""

    raw_description: m.DescribeWorkflowExecutionResponse

    @property
    def pending_activities(self) -> Sequence[m.PendingActivityInfo]:
        """Activities scheduled and not closed, with their attempts and last failures."""
        return self.raw_description.pending_activities

    @property
    def pending_children(self) -> Sequence[m.PendingChildExecutionInfo]:
        """Children started and not closed."""
        return self.raw_description.pending_children

    @property
    def pending_workflow_task(self) -> m.PendingWorkflowTaskInfo | None:
        """The workflow task that waits or runs, with its attempt; many attempts mean that its code keeps failing."""
        raw = self.raw_description
        return raw.pending_workflow_task if raw.HasField("pending_workflow_task") else None

    @property
    def pending_nexus_operations(self) -> Sequence[m.PendingNexusOperationInfo]:
        """Nexus operations scheduled and not closed."""
        return self.raw_description.pending_nexus_operations

    @property
    def callbacks(self) -> Sequence[m.CallbackInfo]:
        """What is told when the workflow closes."""
        return self.raw_description.callbacks

    @property
    def cancel_requested(self) -> bool:
        """Whether it has been asked to cancel."""
        return self.raw_description.workflow_extended_info.cancel_requested

    @property
    def execution_expiration_time(self) -> datetime | None:
        """When its execution timeout ends it, over retries and continuations."""
        return _moment(self.raw_description.workflow_extended_info, "execution_expiration_time")

    @property
    def run_expiration_time(self) -> datetime | None:
        """When its run timeout ends this run."""
        return _moment(self.raw_description.workflow_extended_info, "run_expiration_time")

    @property
    def original_start_time(self) -> datetime | None:
        """When the run began that this one is a reset of, or itself."""
        return _moment(self.raw_description.workflow_extended_info, "original_start_time")

    @property
    def reset_run_id(self) -> str | None:
        """The run that this one was reset to."""
        return self.raw_description.workflow_extended_info.reset_run_id or None

    async def static_summary(self) -> str | None:
        """One line for people, given at the start.

        Raises:
            ConversionError: it cannot be read.
        """
        metadata = self.raw_description.execution_config.user_metadata
        return self.data_converter.from_payload(metadata.summary, str) if metadata.HasField("summary") else None

    async def static_details(self) -> str | None:
        """Several lines for people, given at the start.

        Raises:
            ConversionError: they cannot be read.
        """
        metadata = self.raw_description.execution_config.user_metadata
        return self.data_converter.from_payload(metadata.details, str) if metadata.HasField("details") else None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowExecutionCountAggregationGroup:
    """How many workflows share the values of a GROUP BY."""

    count: int
    group_values: Sequence[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowExecutionCount:
    """How many workflows match a query."""

    count: int
    groups: Sequence[WorkflowExecutionCountAggregationGroup]
