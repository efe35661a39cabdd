"""Update-with-start: ExecuteMultiOperation, which starts a run and updates it as one.

The operations are exactly a start and an update of the same workflow id. The run that answers the start (a new one, or
as its id policies say the one that is open) is updated before anything else can happen to it. If either can't begin,
neither does. The answer comes when both have one.

A repeat is recognised by the request id of the start and by the update id: it finds the run it has started, and the
update it has sent. A run that is closed and has taken that update in answers for it, whatever the policies say of a
new run.

A refusal carries ``MultiOperationExecutionFailure`` with a status for each operation: what failed says so as it would
by itself, and the other one counts as aborted.
"""

from __future__ import annotations

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.engine import history
from perdure.engine.history import UpdateStage
from perdure.engine.service.base import invalid
from perdure.engine.service.updates import Reached, UpdateTopic, check_stage
from perdure.engine.service.workflows import WorkflowTopic
from perdure.engine.slot import Slot
from perdure.engine.starts import Started, start_workflow

__all__ = ["UpdateWithStartTopic"]


class UpdateWithStartTopic(WorkflowTopic, UpdateTopic):
    """ExecuteMultiOperation."""

    async def execute_multi_operation(
        self, request: m.ExecuteMultiOperationRequest, *, timeout_s: float | None = None
    ) -> m.ExecuteMultiOperationResponse:
        """Start a run, or find the one that answers, and update it.

        Raises:
            RpcError: with ``MultiOperationExecutionFailure``, what the start or the update is refused with;
                INVALID_ARGUMENT without it, other operations than these two.
        """
        self.check(request.namespace)
        start, update = _operations(request)
        ask, wanted = self._check_both(request.namespace, start, update)
        begun_s = self.clock.monotonic_s()
        try:
            started = await self._begin(start, ask.meta.update_id)
        except RpcError as error:
            raise _failure(error, None) from None
        slot = started.slot
        try:
            reached = await self.update(slot, ask, wanted, begun_s, timeout_s, with_start=True)
            while reached is None:
                slot = await self.cache.find(start.namespace, start.workflow_id, "")
                reached = await self.update(slot, ask, wanted, begun_s, timeout_s)
        except RpcError as error:
            raise _failure(None, error) from None
        return self._answer(start, started, slot, ask.meta.update_id, reached)

    def _check_both(
        self, namespace: str, start: m.StartWorkflowExecutionRequest, update: m.UpdateWorkflowExecutionRequest
    ) -> tuple[m.Request, UpdateStage]:
        """The update itself, and the stage to wait for. Raises RpcError."""
        start_error = update_error = None
        ask = update.request
        wanted = UpdateStage.COMPLETED
        try:
            _check_start(namespace, start)
        except RpcError as error:
            start_error = error
        try:
            _check_update(namespace, start, update)
            ask = self.prepare_update(update)
            self.shard.updates.check_room(ask.ByteSize())
            wanted = check_stage(update.wait_policy.lifecycle_stage) or wanted
        except RpcError as error:
            update_error = error
        if start_error is not None or update_error is not None:
            raise _failure(start_error, update_error)
        return ask, wanted

    async def _begin(self, start: m.StartWorkflowExecutionRequest, update_id: str) -> Started:
        """The run to update; nothing is awaited after it was decided which one."""
        current = await self.cache.find_current(start.namespace, start.workflow_id)
        if current is not None and not current.run.is_open:
            if history.update_stage(current.run, update_id) is not UpdateStage.NONE:
                return Started(current, False, current.group)
        return await start_workflow(self.shard, self.namespaces.to_start_in(start.namespace), start)

    def _answer(
        self,
        start: m.StartWorkflowExecutionRequest,
        started: Started,
        slot: Slot,
        update_id: str,
        reached: Reached,
    ) -> m.ExecuteMultiOperationResponse:
        response = m.ExecuteMultiOperationResponse()
        response.responses.add().start_workflow.CopyFrom(self.start_response(start, started))
        response.responses.add().update_workflow.CopyFrom(self.update_response(slot, update_id, reached))
        return response


def _operations(
    request: m.ExecuteMultiOperationRequest,
) -> tuple[m.StartWorkflowExecutionRequest, m.UpdateWorkflowExecutionRequest]:
    """Raises RpcError INVALID_ARGUMENT unless they are the two."""
    kinds = [operation.WhichOneof("operation") for operation in request.operations]
    if kinds != ["start_workflow", "update_workflow"]:
        raise invalid("Operations have to be exactly [Start, Update]: one start_workflow, then one update_workflow")
    return request.operations[0].start_workflow, request.operations[1].update_workflow


def _check_start(namespace: str, start: m.StartWorkflowExecutionRequest) -> None:
    start.namespace = start.namespace or namespace
    if start.namespace != namespace:
        raise invalid("the start is for another namespace than the request")
    if not start.workflow_id:
        raise invalid("the workflow id is missing")
    if start.cron_schedule:
        raise invalid("CronSchedule is not allowed in an update-with-start")
    if start.request_eager_execution:
        raise invalid("RequestEagerExecution is not allowed in an update-with-start")
    if start.HasField("workflow_start_delay"):
        raise invalid("WorkflowStartDelay is not allowed in an update-with-start")


def _check_update(
    namespace: str, start: m.StartWorkflowExecutionRequest, update: m.UpdateWorkflowExecutionRequest
) -> None:
    if update.namespace and update.namespace != namespace:
        raise invalid("the update is for another namespace than the request")
    if update.workflow_execution.workflow_id != start.workflow_id:
        raise invalid("WorkflowId is not the same in both operations")
    if update.workflow_execution.run_id:
        raise invalid("RunId is not allowed in an update-with-start: its run is the one that answers the start")
    if update.first_execution_run_id:
        raise invalid("FirstExecutionRunId is not allowed in an update-with-start")


def _failure(start: RpcError | None, update: RpcError | None) -> RpcError:
    """What the caller gets when an operation failed; the first that did gives the code."""
    first = start or update
    assert first is not None, "one of them failed"
    failure = m.MultiOperationExecutionFailure()
    for error in (start, update):
        status = failure.statuses.add()
        if error is None:
            status.code = StatusCode.ABORTED
            status.message = "Operation was aborted: the other one failed."
            status.details.add().Pack(m.MultiOperationExecutionAborted())
            continue
        status.code = error.code
        status.message = error.message
        for detail in error.details:
            status.details.add().Pack(detail)
    return RpcError(first.code, f"Update-with-Start could not be executed: {first.message}", failure)
