"""Workflow tasks: polling for them, completing them, failing them; and workers that leave."""

from __future__ import annotations

import asyncio
from functools import partial

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.engine import history
from perdure.engine.matching.queue import QueryTask, Task, TaskQueue, WorkflowTask
from perdure.engine.polling import hint, note_versions
from perdure.engine.queries import PendingQuery
from perdure.engine.reads import GONE
from perdure.engine.service.base import ServiceTopic, invalid
from perdure.engine.slot import Slot
from perdure.engine.tokens import run_key_of, same

__all__ = ["WorkflowTaskTopic"]

_STICKY = m.TaskQueueKind.TASK_QUEUE_KIND_STICKY
_WORKFLOW = m.TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW


class WorkflowTaskTopic(ServiceTopic):
    """The workflow half of a worker's calls."""

    async def poll_workflow_task_queue(
        self, request: m.PollWorkflowTaskQueueRequest, *, timeout_s: float | None = None
    ) -> m.PollWorkflowTaskQueueResponse:
        """Wait for a workflow task or a direct query; empty when none came in time.

        Raises:
            RpcError: NOT_FOUND (namespace), INVALID_ARGUMENT.
        """
        namespace = request.namespace
        self.check(namespace)
        task_queue = request.task_queue
        name = task_queue.name
        if not name:
            raise invalid("the task queue has no name")
        sticky = task_queue.kind == _STICKY
        identity = request.identity
        worker_key = request.worker_instance_key
        if not self.in_process and not sticky and request.HasField("deployment_options"):
            name = await self.queue_of_poll(request, _WORKFLOW)
        until_s = waited_s = 0.0
        while not (worker_key and self.matching.is_shut(worker_key)):
            # Looked up in each round: an idle queue may have been dropped while this poll was elsewhere.
            queue = self.matching.workflow_queue(namespace, name)
            now_ms = queue.last_poll_ms = self.clock.now_ms()
            queue.watch.seen[identity] = now_ms
            if now_ms >= queue.watch.sample_due_ms:
                queue.sample(now_ms)
            if not self.in_process:
                note_versions(queue, request)
            task = queue.take()
            if task is None:
                until_s = until_s or self.clock.monotonic_s() + self.wait_s(timeout_s)
                left_s = until_s - self.clock.monotonic_s()
                if left_s <= 0:
                    break
                task = await queue.wait(left_s, identity, worker_key)
                if task is None:
                    break
                now_ms = queue.last_poll_ms = self.clock.now_ms()
                if not self.in_process:
                    waited_s += left_s - until_s + self.clock.monotonic_s()
            response = None
            if self.in_process and isinstance(task, WorkflowTask):
                response = self.hand_out.workflow_task_nowait(
                    queue, task, sticky=sticky, identity=identity, now_ms=now_ms
                )
            if response is None:
                response = await self._take_workflow_task(queue, task, identity, sticky)
            if response is not None:
                if not self.in_process:
                    hint(response, queue, waited_s)
                return response
        self.engine.check_not_failed()
        return m.PollWorkflowTaskQueueResponse()

    async def _take_workflow_task(
        self, queue: TaskQueue, task: Task, identity: str, sticky: bool
    ) -> m.PollWorkflowTaskQueueResponse | None:
        """Turn a backlog entry into a response; None when it no longer stands."""
        try:
            if isinstance(task, WorkflowTask):
                return await self.hand_out.workflow_task(
                    queue, task, sticky=sticky, identity=identity, durable_only=not self.in_process
                )
            assert isinstance(task, QueryTask), "workflow queues hold workflow tasks and queries"
            return await self.hand_out.query(task, sticky=sticky, durable_only=not self.in_process)
        except asyncio.CancelledError:
            queue.put_back(task)
            raise
        except RpcError as error:
            if error.code in GONE:
                return None  # Others wait in the queue.
            queue.put_back(task)
            raise

    def _held(self, namespace: str, token: bytes) -> Slot:
        """The run whose workflow task the caller holds. Raises RpcError NOT_FOUND, INVALID_ARGUMENT."""
        slot = self.cache.loaded.get(run_key_of(token))
        if (
            slot is not None
            and slot.run.live.task is not None
            and same(slot.token, token)
            and slot.run.state.namespace == namespace
        ):
            return slot
        opened = self.tokens.open_task(namespace, token)
        if opened.is_query:
            raise invalid("the token is that of a query task; answer it with RespondQueryTaskCompleted")
        raise RpcError(StatusCode.NOT_FOUND, "workflow task not found: it was completed, timed out, or taken over")

    async def respond_workflow_task_completed(
        self, request: m.RespondWorkflowTaskCompletedRequest
    ) -> m.RespondWorkflowTaskCompletedResponse:
        """Carry out the commands of a workflow task.

        Raises:
            RpcError: NOT_FOUND, the token is stale; INVALID_ARGUMENT, bad commands or UnhandledCommand.
        """
        namespace = request.namespace
        self.check(namespace)
        shard = self.shard
        slot = self._held(namespace, request.task_token)
        now_ms = self.clock.now_ms()
        transition = history.complete_workflow_task(
            slot.run,
            request,
            limits=self.limits,
            new_id=shard.ids.new_id,
            attributes=self.namespaces.by_name[namespace].attributes,
            endpoints=shard.nexus.endpoints.ids,
            now_ms=now_ms,
        )
        error = transition.error
        answered: list[PendingQuery] = []
        if slot.queries and error is None:
            answered = self._answered(slot, request)
        wants_next = error is None and request.return_new_workflow_task
        response = m.RespondWorkflowTaskCompletedResponse()
        if transition.reset_event_id:
            response.reset_history_event_id = transition.reset_event_id
        if transition.eager:
            response.activity_tasks.extend(
                self.eager.activities(slot, transition, request.identity, elsewhere=not self.in_process)
            )
        shard.apply(slot, transition, offer=not wants_next)
        durable = shard.durable(slot)
        if answered:
            if durable is None:
                _answer(answered, request, None)
            else:
                durable.add_done_callback(partial(_answer, answered, request))
        if wants_next and transition.workflow_task and slot.run.state.pause is None:
            sticky = bool(slot.run.state.sticky_queue)
            following = self.hand_out.start(slot, sticky=sticky, identity=request.identity, now_ms=now_ms)
            response.workflow_task.CopyFrom(following)
        try:
            if durable is not None:
                await durable
            if response.workflow_task.next_page_token:
                await self.hand_out.fill(slot, response.workflow_task)
        except asyncio.CancelledError:
            self.eager.take_back(slot, response.workflow_task.task_token, response.activity_tasks)
            raise
        if transition.eager:
            self.eager.left(slot, response.activity_tasks)
        if error is not None:
            raise error
        return response

    def _answered(self, slot: Slot, request: m.RespondWorkflowTaskCompletedRequest) -> list[PendingQuery]:
        """The queries that came with the task and have an answer; they wait for the commit alone."""
        queries = slot.queries
        assert queries is not None, "asked only when there are queries"
        riders = queries.attached(slot.handout)
        answered = [query for query in riders if str(query.number) in request.query_results]
        for query in answered:
            del queries.by_number[query.number]
        return answered

    async def respond_workflow_task_failed(
        self, request: m.RespondWorkflowTaskFailedRequest
    ) -> m.RespondWorkflowTaskFailedResponse:
        """The worker could not carry out the task, or the query.

        Raises:
            RpcError: NOT_FOUND, the token is stale.
        """
        self.check(request.namespace)
        slot = self._held(request.namespace, request.task_token)
        await self.transact(slot, history.fail_workflow_task, request, limits=self.limits)
        return m.RespondWorkflowTaskFailedResponse()

    async def reset_sticky_task_queue(self, request: m.ResetStickyTaskQueueRequest) -> m.ResetStickyTaskQueueResponse:
        """Take a run back from its sticky queue. Raises RpcError NOT_FOUND."""
        self.check(request.namespace)
        execution = request.execution
        if not execution.workflow_id:
            raise invalid("the workflow id is missing")
        slot = await self.cache.find(request.namespace, execution.workflow_id, execution.run_id)
        await self.transact(slot, history.expire_sticky)
        return m.ResetStickyTaskQueueResponse()

    async def shutdown_worker(self, request: m.ShutdownWorkerRequest) -> m.ShutdownWorkerResponse:
        """A worker leaves: its polls are answered at once, and its sticky tasks go to the normal queue."""
        self.check(request.namespace)
        if request.HasField("worker_heartbeat"):
            self.workers.record(request.namespace, (request.worker_heartbeat,), self.clock.now_ms())
        self.matching.shut_worker(
            request.namespace,
            worker_key=request.worker_instance_key,
            sticky_queue=request.sticky_task_queue,
            identity=request.identity,
            queue=request.task_queue,
        )
        return m.ShutdownWorkerResponse()


def _answer(
    queries: list[PendingQuery], request: m.RespondWorkflowTaskCompletedRequest, durable: asyncio.Future[None] | None
) -> None:
    """The commit of the task that answered these queries has come to an end; None: there was nothing to commit."""
    error = None if durable is None else durable.exception()
    for query in queries:
        if isinstance(error, RpcError):
            query.fail(error)
            continue
        result = request.query_results[str(query.number)]
        failure = result.failure if result.HasField("failure") else None
        query.answer(result.result_type, result.answer, result.error_message, failure)
