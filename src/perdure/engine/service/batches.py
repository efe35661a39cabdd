"""Batch operations: starting, stopping, describing and listing their jobs."""

from __future__ import annotations

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.api.durations import set_timestamp_ms
from perdure.engine.batches import Job, check_operation
from perdure.engine.service.base import ServiceTopic, invalid

__all__ = ["BatchTopic"]

EXECUTIONS_MAX = 1000
"""Workflows that one request may name; more are found by a query."""
_PAGE_MAX = 100


class BatchTopic(ServiceTopic):
    """One thing done to many workflows."""

    async def start_batch_operation(self, request: m.StartBatchOperationRequest) -> m.StartBatchOperationResponse:
        """Begin a job. Returns when it is durable; the work is done behind.

        Raises:
            RpcError: NOT_FOUND (namespace), INVALID_ARGUMENT, UNIMPLEMENTED, ALREADY_EXISTS (the job id),
                RESOURCE_EXHAUSTED (too many jobs run).
        """
        self.check(request.namespace)
        self._check_name(request.job_id, "JobId")
        if not request.reason:
            raise invalid("the reason is not set: say why")
        executions = _executions(request)
        if bool(executions) == bool(request.visibility_query):
            raise invalid("say which workflows are meant, either by a visibility query or by their executions")
        check_operation(request, self.limits)
        await self.engine.batches.start_job(request, executions)
        return m.StartBatchOperationResponse()

    async def stop_batch_operation(self, request: m.StopBatchOperationRequest) -> m.StopBatchOperationResponse:
        """End a job where it is. Raises RpcError NOT_FOUND, it does not exist or has ended."""
        self.check(request.namespace)
        self._check_name(request.job_id, "JobId")
        self._check_name(request.identity, "Identity", required=False)
        if not request.reason:
            raise invalid("the reason is not set: say why")
        await self.engine.batches.stop_job(
            request.namespace, request.job_id, reason=request.reason, identity=request.identity
        )
        return m.StopBatchOperationResponse()

    async def describe_batch_operation(
        self, request: m.DescribeBatchOperationRequest
    ) -> m.DescribeBatchOperationResponse:
        """How far a job is. Raises RpcError NOT_FOUND."""
        self.check(request.namespace)
        job = self.engine.batches.get(request.namespace, request.job_id)
        asked = job.request or await self.engine.batches.request_of(job)
        progress = job.progress
        response = m.DescribeBatchOperationResponse(
            operation_type=m.BatchOperationType.ValueType(progress.operation_type),
            job_id=job.entry.job_id,
            state=m.BatchOperationState.ValueType(progress.state),
            total_operation_count=progress.total,
            complete_operation_count=progress.completed,
            failure_operation_count=progress.failed,
            identity=progress.closing_identity or _identity_of(asked),
            reason=progress.closing_reason or asked.reason,
            query=asked.visibility_query,
        )
        for workflow_id, run_id in _executions(asked):
            response.executions.add(
                type=m.ExecutionType.EXECUTION_TYPE_WORKFLOW, business_id=workflow_id, run_id=run_id
            )
        set_timestamp_ms(response.start_time, progress.started_at_ms)
        if progress.closed_at_ms:
            set_timestamp_ms(response.close_time, progress.closed_at_ms)
        return response

    async def list_batch_operations(self, request: m.ListBatchOperationsRequest) -> m.ListBatchOperationsResponse:
        """Jobs, newest first. Raises RpcError INVALID_ARGUMENT, the page token."""
        self.check(request.namespace)
        before: tuple[int, int] | None = None
        if request.next_page_token:
            before = self.tokens.open_jobs_page(request.namespace, request.next_page_token)
        found = sorted(
            (_place(job), job)
            for job in self.engine.batches.jobs.values()
            if job.entry.namespace == request.namespace and (before is None or _place(job) < before)
        )
        size = min(request.page_size, _PAGE_MAX) if request.page_size > 0 else _PAGE_MAX
        response = m.ListBatchOperationsResponse()
        for _, job in found[: -size - 1 : -1]:
            progress = job.progress
            info = response.operation_info.add(
                job_id=job.entry.job_id,
                state=m.BatchOperationState.ValueType(progress.state),
                operation_type=m.BatchOperationType.ValueType(progress.operation_type),
            )
            set_timestamp_ms(info.start_time, progress.started_at_ms)
            if progress.closed_at_ms:
                set_timestamp_ms(info.close_time, progress.closed_at_ms)
        if len(found) > size:
            response.next_page_token = self.tokens.jobs_page(request.namespace, *found[-size][0])
        return response

    def _check_name(self, name: str, what: str, *, required: bool = True) -> None:
        if not name and required:
            raise invalid(f"{what} is not set")
        if len(name) > self.limits.id_length or "\0" in name:
            raise invalid(f"{what} is too long, or holds a NUL character")


def _place(job: Job) -> tuple[int, int]:
    """Where a job stands in the list."""
    return job.progress.started_at_ms, job.entry.number


def _executions(request: m.StartBatchOperationRequest) -> list[tuple[str, str]]:
    """The workflows that a request names: (workflow id, run id). Raises RpcError INVALID_ARGUMENT, UNIMPLEMENTED."""
    found = [(each.workflow_id, each.run_id) for each in request.executions]
    for each in request.target_executions:
        if each.type == m.ExecutionType.EXECUTION_TYPE_ACTIVITY:
            raise RpcError(StatusCode.UNIMPLEMENTED, "activities without a workflow are not supported")
        found.append((each.business_id, each.run_id))
    if len(found) > EXECUTIONS_MAX:
        raise invalid(f"{len(found)} executions are named, and {EXECUTIONS_MAX} may be; use a visibility query")
    if any(not workflow_id for workflow_id, _ in found):
        raise invalid("an execution has no workflow id")
    return found


def _identity_of(request: m.StartBatchOperationRequest) -> str:
    """Whose operation it is."""
    name = request.WhichOneof("operation")
    return str(getattr(getattr(request, name), "identity", "")) if name else ""
