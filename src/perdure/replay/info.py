"""What a workflow may know about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from google.protobuf.duration_pb2 import Duration

from perdure.api import messages as m
from perdure.api.durations import datetime_of_ms, duration_ms
from perdure.common import Priority, RetryPolicy

__all__ = ["Info", "ParentInfo", "RootInfo", "TaskInfo", "info_of"]


@dataclass(frozen=True, slots=True)
class ParentInfo:
    """The workflow that started this one."""

    namespace: str
    run_id: str
    workflow_id: str


@dataclass(frozen=True, slots=True)
class RootInfo:
    """The first workflow of a family."""

    run_id: str
    workflow_id: str


@dataclass(slots=True)
class TaskInfo:
    """What the current workflow task says about the run so far."""

    history_length: int = 0
    history_size_bytes: int = 0
    continue_as_new_suggested: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """The running workflow. `original_execution_run_id` outlives a reset, `run_id` does not."""

    attempt: int
    continued_run_id: str | None
    cron_schedule: str | None
    execution_timeout: timedelta | None
    first_execution_run_id: str
    headers: Mapping[str, m.Payload]
    namespace: str
    original_execution_run_id: str
    parent: ParentInfo | None
    root: RootInfo | None
    priority: Priority
    raw_memo: Mapping[str, m.Payload]
    retry_policy: RetryPolicy | None
    run_id: str
    run_timeout: timedelta | None
    raw_search_attributes: Mapping[str, m.Payload]
    start_time: datetime
    task_queue: str
    task_timeout: timedelta
    workflow_id: str
    workflow_start_time: datetime
    workflow_type: str
    task: TaskInfo

    def get_current_history_length(self) -> int:
        """Events in the history, up to and with the current workflow task's start."""
        return self.task.history_length

    def get_current_history_size(self) -> int:
        """Bytes of the history at the start of the current workflow task."""
        return self.task.history_size_bytes

    def is_continue_as_new_suggested(self) -> bool:
        """Whether the history has grown so long that `continue_as_new` is due."""
        return self.task.continue_as_new_suggested


def info_of(
    attrs: m.WorkflowExecutionStartedEventAttributes,
    *,
    namespace: str,
    workflow_id: str,
    run_id: str,
    started_at_ms: int,
    first_task_at_ms: int,
    task_timeout: timedelta,
    task: TaskInfo,
) -> Info:
    """The info a WorkflowExecutionStarted event gives."""
    parent = None
    if attrs.parent_workflow_execution.workflow_id:
        execution = attrs.parent_workflow_execution
        parent = ParentInfo(attrs.parent_workflow_namespace or namespace, execution.run_id, execution.workflow_id)
    root = None
    if attrs.root_workflow_execution.workflow_id:
        root = RootInfo(attrs.root_workflow_execution.run_id, attrs.root_workflow_execution.workflow_id)
    return Info(
        attempt=max(1, attrs.attempt),
        continued_run_id=attrs.continued_execution_run_id or None,
        cron_schedule=attrs.cron_schedule or None,
        execution_timeout=_optional(attrs.workflow_execution_timeout),
        first_execution_run_id=attrs.first_execution_run_id,
        headers=dict(attrs.header.fields),
        namespace=namespace,
        original_execution_run_id=attrs.original_execution_run_id or run_id,
        parent=parent,
        root=root,
        priority=Priority.from_proto(attrs.priority),
        raw_memo=dict(attrs.memo.fields),
        retry_policy=RetryPolicy.from_proto(attrs.retry_policy) if attrs.HasField("retry_policy") else None,
        run_id=run_id,
        run_timeout=_optional(attrs.workflow_run_timeout),
        raw_search_attributes=dict(attrs.search_attributes.indexed_fields),
        start_time=datetime_of_ms(first_task_at_ms),
        task_queue=attrs.task_queue.name,
        task_timeout=_optional(attrs.workflow_task_timeout) or task_timeout,
        workflow_id=workflow_id,
        workflow_start_time=datetime_of_ms(started_at_ms),
        workflow_type=attrs.workflow_type.name,
        task=task,
    )


def _optional(duration: Duration) -> timedelta | None:
    ms = duration_ms(duration)
    return timedelta(milliseconds=ms) if ms else None
