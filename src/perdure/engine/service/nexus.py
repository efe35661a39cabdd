"""Nexus: polling for requests of operations, answering them, and the endpoints that lead to those who do."""

from __future__ import annotations

import asyncio

from temporalio.api.nexus import v1 as nx

from perdure.api import RpcError
from perdure.api import messages as m
from perdure.engine import history
from perdure.engine.history import Completion, links, nexus_failures
from perdure.engine.matching.queue import NexusTask, Task, TaskQueue
from perdure.engine.polling import hint, note_versions
from perdure.engine.reads import GONE
from perdure.engine.service.base import ServiceTopic, invalid
from perdure.engine.slot import Slot
from perdure.engine.tokens import NexusToken

__all__ = ["NexusTopic"]

_PAGE = 1000


class NexusTopic(ServiceTopic):
    """What handlers of Nexus operations call, and OperatorService's calls about endpoints."""

    async def poll_nexus_task_queue(
        self, request: m.PollNexusTaskQueueRequest, *, timeout_s: float | None = None
    ) -> m.PollNexusTaskQueueResponse:
        """Wait for a Nexus task; empty when none came in time.

        Raises:
            RpcError: NOT_FOUND (namespace), INVALID_ARGUMENT.
        """
        self.check(request.namespace)
        name = request.task_queue.name
        if not name:
            raise invalid("the task queue has no name")
        worker_key = request.worker_instance_key
        until_s = self.clock.monotonic_s() + self.wait_s(timeout_s)
        waited_s = 0.0
        while not (worker_key and self.matching.is_shut(worker_key)):
            # Looked up in each round: an idle queue may have been dropped while this poll was elsewhere.
            queue = self.matching.nexus_queue(request.namespace, name)
            now_ms = self.clock.now_ms()
            queue.watch.seen[request.identity] = now_ms
            if now_ms >= queue.watch.sample_due_ms:
                queue.sample(now_ms)
            note_versions(queue, request)
            task = queue.take()
            if task is None:
                left_s = until_s - self.clock.monotonic_s()
                if left_s <= 0:
                    break
                task = await queue.wait(left_s, request.identity, worker_key)
                if task is None:
                    break
                waited_s += left_s - until_s + self.clock.monotonic_s()
            response = await self._take_nexus(queue, task, request.namespace)
            if response is not None:
                hint(response, queue, waited_s)
                return response
        self.engine.check_not_failed()
        return m.PollNexusTaskQueueResponse()

    async def _take_nexus(self, queue: TaskQueue, task: Task, namespace: str) -> m.PollNexusTaskQueueResponse | None:
        assert isinstance(task, NexusTask), "Nexus queues hold Nexus tasks"
        try:
            return await self.shard.nexus.hand_out(task, namespace)
        except asyncio.CancelledError:
            queue.put_back(task)
            raise
        except RpcError as error:
            if error.code in GONE:
                return None  # Others wait in the queue.
            queue.put_back(task)
            raise

    async def respond_nexus_task_completed(
        self, request: m.RespondNexusTaskCompletedRequest
    ) -> m.RespondNexusTaskCompletedResponse:
        """A handler has answered a request.

        Raises:
            RpcError: NOT_FOUND, it has been answered, or its time is up; INVALID_ARGUMENT.
        """
        self.check(request.namespace)
        token = self.tokens.open_nexus(request.namespace, request.task_token)
        kind = request.response.WhichOneof("variant")
        if kind != ("cancel_operation" if token.cancels else "start_operation"):
            raise invalid("the response is not one to the request that the task holds")
        slot = await self.cache.get(token.run_key)
        if token.cancels:
            await self.transact(slot, history.nexus_cancel_delivered, token.scheduled_event_id, token.attempt)
        else:
            await self._started(slot, token, request.response.start_operation)
        return m.RespondNexusTaskCompletedResponse()

    async def _started(self, slot: Slot, token: NexusToken, response: nx.StartOperationResponse) -> None:
        event_id, attempt = token.scheduled_event_id, token.attempt
        kind = response.WhichOneof("variant")
        if kind == "async_success":
            started = response.async_success
            operation_token = started.operation_token or started.operation_id
            found = links.read(started.links)
            await self.transact(
                slot, history.start_nexus, event_id, attempt, operation_token, found, limits=self.limits
            )
            return
        found: list[m.Link] = []
        if kind == "sync_success":
            sync = response.sync_success
            completion = Completion(result=sync.payload if sync.HasField("payload") else None)
            found = links.read(sync.links)
        elif kind == "failure":
            if response.failure.WhichOneof("failure_info") not in ("application_failure_info", "canceled_failure_info"):
                raise invalid("a failed operation has an application failure or a canceled failure")
            completion = Completion(failure=response.failure)
        elif kind == "operation_error":
            completion = Completion(failure=nexus_failures.of_operation_error(response.operation_error))
        else:
            raise invalid("the response to a start request says nothing")
        await self.transact(slot, history.finish_nexus, event_id, attempt, completion, found, limits=self.limits)

    async def respond_nexus_task_failed(
        self, request: m.RespondNexusTaskFailedRequest
    ) -> m.RespondNexusTaskFailedResponse:
        """A handler could not serve a request.

        Raises:
            RpcError: NOT_FOUND, it has been answered, or its time is up; INVALID_ARGUMENT.
        """
        self.check(request.namespace)
        token = self.tokens.open_nexus(request.namespace, request.task_token)
        if request.HasField("failure"):
            failure = request.failure
            if not failure.HasField("nexus_handler_failure_info"):
                raise invalid("request Failure must contain a NexusHandlerFailureInfo")
        elif request.HasField("error"):
            failure = nexus_failures.of_handler_error(request.error)
        else:
            raise invalid("the request says neither failure nor error")
        slot = await self.cache.get(token.run_key)
        await self.transact(
            slot,
            history.fail_nexus_attempt,
            token.scheduled_event_id,
            token.attempt,
            failure,
            cancels=token.cancels,
            limits=self.limits,
        )
        return m.RespondNexusTaskFailedResponse()

    # -- endpoints -------------------------------------------------------------------------------------------------

    async def create_nexus_endpoint(self, request: m.CreateNexusEndpointRequest) -> m.CreateNexusEndpointResponse:
        """Raises RpcError INVALID_ARGUMENT, ALREADY_EXISTS, FAILED_PRECONDITION, UNIMPLEMENTED, RESOURCE_EXHAUSTED."""
        self.engine.check_running()
        return m.CreateNexusEndpointResponse(endpoint=await self.shard.nexus.endpoints.create(request.spec))

    async def update_nexus_endpoint(self, request: m.UpdateNexusEndpointRequest) -> m.UpdateNexusEndpointResponse:
        """Raises RpcError NOT_FOUND, INVALID_ARGUMENT, ALREADY_EXISTS, FAILED_PRECONDITION, UNIMPLEMENTED."""
        self.engine.check_running()
        endpoint = await self.shard.nexus.endpoints.update(request.id, request.version, request.spec)
        return m.UpdateNexusEndpointResponse(endpoint=endpoint)

    async def delete_nexus_endpoint(self, request: m.DeleteNexusEndpointRequest) -> m.DeleteNexusEndpointResponse:
        """Raises RpcError NOT_FOUND, INVALID_ARGUMENT, FAILED_PRECONDITION."""
        self.engine.check_running()
        await self.shard.nexus.endpoints.delete(request.id, request.version)
        return m.DeleteNexusEndpointResponse()

    async def get_nexus_endpoint(self, request: m.GetNexusEndpointRequest) -> m.GetNexusEndpointResponse:
        """Raises RpcError NOT_FOUND, INVALID_ARGUMENT."""
        self.engine.check_running()
        return m.GetNexusEndpointResponse(endpoint=self.shard.nexus.endpoints.get(request.id))

    async def list_nexus_endpoints(self, request: m.ListNexusEndpointsRequest) -> m.ListNexusEndpointsResponse:
        """In order of their ids; the one of a name, if one is given. Raises RpcError INVALID_ARGUMENT (page token)."""
        self.engine.check_running()
        endpoints = self.shard.nexus.endpoints
        response = m.ListNexusEndpointsResponse()
        if request.name:
            endpoint_id = endpoints.ids.get(request.name)
            if endpoint_id is not None:
                response.endpoints.append(endpoints.by_id[endpoint_id])
            return response
        after = self.tokens.open_names_page(request.next_page_token) if request.next_page_token else ""
        limit = min(request.page_size, _PAGE) if request.page_size > 0 else _PAGE
        found = endpoints.after(after, limit + 1)
        response.endpoints.extend(found[:limit])
        if len(found) > limit:
            response.next_page_token = self.tokens.names_page(found[limit - 1].id)
        return response
