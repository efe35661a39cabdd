"""Queries: asking a running or closed workflow, and the worker's answer."""

from __future__ import annotations

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.engine.matching.queue import QueryTask
from perdure.engine.queries import PendingQuery, QueryState, RunQueries, failing_error, is_direct
from perdure.engine.service.base import ServiceTopic, invalid
from perdure.engine.slot import Slot

__all__ = ["QueryTopic"]

_Reject = m.QueryRejectCondition
_Status = m.WorkflowExecutionStatus
_CLEAN = (_Status.WORKFLOW_EXECUTION_STATUS_RUNNING, _Status.WORKFLOW_EXECUTION_STATUS_COMPLETED)


class QueryTopic(ServiceTopic):
    """QueryWorkflow and RespondQueryTaskCompleted."""

    async def query_workflow(self, request: m.QueryWorkflowRequest) -> m.QueryWorkflowResponse:
        """Ask a worker.

        Raises:
            RpcError: NOT_FOUND; INVALID_ARGUMENT with ``QueryFailedFailure``, the query failed; FAILED_PRECONDITION,
                the workflow task is failing; DEADLINE_EXCEEDED, no worker answered; RESOURCE_EXHAUSTED.
        """
        self.check(request.namespace)
        if not request.query.query_type:
            raise invalid("the query has no type")
        if not request.execution.workflow_id:
            raise invalid("the workflow id is missing")
        slot = await self.cache.find(request.namespace, request.execution.workflow_id, request.execution.run_id)
        status = slot.run.state.status
        if _is_rejected(request.query_reject_condition, status):
            await self.wait_durable(slot)
            rejected = m.QueryRejected(status=m.WorkflowExecutionStatus.ValueType(status))
            return m.QueryWorkflowResponse(query_rejected=rejected)
        error = failing_error(slot.run)
        if error is not None:
            raise error
        return m.QueryWorkflowResponse(query_result=await self._ask(slot, request.query))

    async def _ask(self, slot: Slot, query: m.WorkflowQuery) -> m.Payloads:
        queries = slot.queries
        if queries is None:
            queries = slot.queries = RunQueries()
        if len(queries.by_number) >= self.config.max_queries_per_run:
            raise RpcError(
                StatusCode.RESOURCE_EXHAUSTED,
                f"{self.config.max_queries_per_run} queries wait for this run already; try again later",
            )
        pending = PendingQuery(slot.key, self.shard.number(), query)
        queries.by_number[pending.number] = pending
        if is_direct(slot.run):
            pending.state = QueryState.DIRECT
            self.shard.offering.query(slot, QueryTask(pending))
        too_late = RpcError(
            StatusCode.DEADLINE_EXCEEDED,
            f"no worker answered the query within {self.config.query_timeout_s:g} s;"
            f" is one polling the task queue {slot.run.state.task_queue!r}?",
        )
        timer = self.clock.call_later(self.config.query_timeout_s, lambda: pending.fail(too_late))
        try:
            return await pending.future
        finally:
            timer.cancel()
            queries.by_number.pop(pending.number, None)
            self.cache.cool(slot)
            if pending.group is not None:
                # A worker of this process may have seen what is not durable yet, and may never be.
                await pending.group.durable()

    async def respond_query_task_completed(
        self, request: m.RespondQueryTaskCompletedRequest
    ) -> m.RespondQueryTaskCompletedResponse:
        """The worker's answer to a direct query.

        Raises:
            RpcError: NOT_FOUND, nobody waits for it any more; INVALID_ARGUMENT, a foreign token.
        """
        self.check(request.namespace)
        token = self.tokens.open_task(request.namespace, request.task_token)
        slot = self.cache.loaded.get(token.run_key)
        queries = None if slot is None else slot.queries
        pending = queries.by_number.get(token.number) if queries is not None and token.is_query else None
        if pending is None or pending.done:
            raise RpcError(StatusCode.NOT_FOUND, "nobody waits for the answer to this query any more")
        failure = request.failure if request.HasField("failure") else None
        pending.group = slot.group if slot is not None else None
        pending.answer(request.completed_type, request.query_result, request.error_message, failure)
        return m.RespondQueryTaskCompletedResponse()


def _is_rejected(condition: int, status: int) -> bool:
    if condition == _Reject.QUERY_REJECT_CONDITION_NOT_OPEN:
        return status != _Status.WORKFLOW_EXECUTION_STATUS_RUNNING
    if condition == _Reject.QUERY_REJECT_CONDITION_NOT_COMPLETED_CLEANLY:
        return status not in _CLEAN
    return False
