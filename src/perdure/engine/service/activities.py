"""Activity tasks: polling for them, heartbeats, and their three ends, by token and by id."""

from __future__ import annotations

import asyncio
from typing import Any

from perdure.api import RpcError
from perdure.api import messages as m
from perdure.engine import history
from perdure.engine.history import Transition
from perdure.engine.matching.queue import ActivityTask, Task, TaskQueue
from perdure.engine.polling import hint, note_rate, note_versions
from perdure.engine.reads import GONE
from perdure.engine.service.base import ServiceTopic, invalid
from perdure.engine.slot import HeldActivity, Slot
from perdure.engine.tokens import ActivityToken, run_key_of, same, scheduled_event_id_of

__all__ = ["ActivityTopic"]

_ACTIVITY = m.TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY


class ActivityTopic(ServiceTopic):
    """The activity half of a worker's calls."""

    async def poll_activity_task_queue(
        self, request: m.PollActivityTaskQueueRequest, *, timeout_s: float | None = None
    ) -> m.PollActivityTaskQueueResponse:
        """Wait for an activity task; empty when none came in time.

        Raises:
            RpcError: NOT_FOUND (namespace), INVALID_ARGUMENT.
        """
        self.check(request.namespace)
        name = request.task_queue.name
        if not name:
            raise invalid("the task queue has no name")
        worker_key = request.worker_instance_key
        if not self.in_process and request.HasField("deployment_options"):
            name = await self.queue_of_poll(request, _ACTIVITY)
        until_s = waited_s = 0.0
        while not (worker_key and self.matching.is_shut(worker_key)):
            # Looked up in each round: an idle queue may have been dropped while this poll was elsewhere.
            queue = self.matching.activity_queue(request.namespace, name)
            now_ms = self.clock.now_ms()
            queue.watch.seen[request.identity] = now_ms
            if now_ms >= queue.watch.sample_due_ms:
                queue.sample(now_ms)
            if not self.in_process:
                note_versions(queue, request)
                note_rate(queue, request)
            task = queue.take()
            if task is None:
                until_s = until_s or self.clock.monotonic_s() + self.wait_s(timeout_s)
                left_s = until_s - self.clock.monotonic_s()
                if left_s <= 0:
                    break
                task = await queue.wait(left_s, request.identity, worker_key)
                if task is None:
                    break
                if not self.in_process:
                    waited_s += left_s - until_s + self.clock.monotonic_s()
            response = await self._take_activity(queue, task, request.identity)
            if response is not None:
                if not self.in_process:
                    hint(response, queue, waited_s)
                return response
        self.engine.check_not_failed()
        return m.PollActivityTaskQueueResponse()

    async def _take_activity(
        self, queue: TaskQueue, task: Task, identity: str
    ) -> m.PollActivityTaskQueueResponse | None:
        assert isinstance(task, ActivityTask), "activity queues hold activity tasks"
        if self.in_process:
            response = self.hand_out.activity_nowait(task, identity)
            if response is not None:
                return response
        try:
            if self.in_process:
                return await self.hand_out.activity(task, identity)
            return await self.hand_out.activity_elsewhere(task, identity)
        except asyncio.CancelledError:
            queue.put_back(task)
            raise
        except RpcError as error:
            if error.code in GONE:
                return None  # Others wait in the queue.
            queue.put_back(task)
            raise

    # -- by token --------------------------------------------------------------------------------------------------

    def _held_attempt(self, namespace: str, task_token: bytes) -> tuple[Slot, ActivityToken] | None:
        """The attempt whose hand-out this engine remembers."""
        slot = self.cache.loaded.get(run_key_of(task_token))
        if slot is None or slot.run.state.namespace != namespace:
            return None
        event_id = scheduled_event_id_of(task_token)
        live = slot.run.live.activities.get(event_id)
        if live is None or not same(live.token, task_token):
            return None
        item = slot.run.state.items[event_id]
        assert isinstance(item, history.ActivityItem), "only activities are handed out as such"
        return slot, ActivityToken(slot.key, event_id, item.attempt)

    async def _by_token(self, namespace: str, task_token: bytes) -> tuple[Slot, ActivityToken]:
        self.check(namespace)
        held = self._held_attempt(namespace, task_token)
        if held is not None:
            return held
        token = self.tokens.open_activity(namespace, task_token)
        slot = self.cache.loaded.get(token.run_key) or await self.cache.get(token.run_key)
        return slot, token

    async def _by_id(
        self, namespace: str, workflow_id: str, run_id: str, activity_id: str
    ) -> tuple[Slot, ActivityToken]:
        self.check(namespace)
        if not activity_id:
            raise invalid("the activity id is missing")
        if workflow_id:
            slot = await self.cache.find(namespace, workflow_id, run_id)
        else:
            slot = await self.cache.find_activity(namespace, activity_id, run_id)
        item = history.activity_by_id(slot.run, activity_id)
        return slot, ActivityToken(slot.key, item.event_id, item.attempt)

    async def _end(self, slot: Slot, token: ActivityToken, decision: Any, what: Any, **kwargs: Any) -> None:
        """An attempt ends."""
        self._remember(slot, token)
        await self.transact(slot, decision, token.scheduled_event_id, token.attempt, what, **kwargs)

    def _remember(self, slot: Slot, token: ActivityToken) -> None:
        """An attempt that ends counts as held until its end is durable: a failed commit must not start it again."""
        live = slot.run.live.activities.get(token.scheduled_event_id)
        if live is not None:
            slot.settled.append(HeldActivity(token.scheduled_event_id, token.attempt, live))

    async def respond_activity_task_completed(
        self, request: m.RespondActivityTaskCompletedRequest
    ) -> m.RespondActivityTaskCompletedResponse:
        """Raises RpcError NOT_FOUND (stale), INVALID_ARGUMENT (token)."""
        # What every step does is written out here: each coroutine less counts.
        namespace = request.namespace
        self.check(namespace)
        task_token = request.task_token
        slot, token = self._held_attempt(namespace, task_token) or await self._by_token(namespace, task_token)
        self._remember(slot, token)
        try:
            transition = history.complete_activity(
                slot.run,
                token.scheduled_event_id,
                token.attempt,
                request.result.SerializeToString() if request.HasField("result") else None,
                identity=request.identity,
                limits=self.limits,
                now_ms=self.clock.now_ms(),
            )
        except RpcError:
            await self.wait_durable(slot)
            raise
        await self.shard.apply(slot, transition).durable()
        return m.RespondActivityTaskCompletedResponse()

    async def respond_activity_task_completed_by_id(
        self, request: m.RespondActivityTaskCompletedByIdRequest
    ) -> m.RespondActivityTaskCompletedByIdResponse:
        """Raises RpcError NOT_FOUND, INVALID_ARGUMENT."""
        slot, token = await self._by_id(request.namespace, request.workflow_id, request.run_id, request.activity_id)
        result = request.result.SerializeToString() if request.HasField("result") else None
        await self._end(slot, token, history.complete_activity, result, identity=request.identity)
        return m.RespondActivityTaskCompletedByIdResponse()

    async def respond_activity_task_failed(
        self, request: m.RespondActivityTaskFailedRequest
    ) -> m.RespondActivityTaskFailedResponse:
        """Raises RpcError NOT_FOUND (stale), INVALID_ARGUMENT (token)."""
        slot, token = await self._by_token(request.namespace, request.task_token)
        details = request.last_heartbeat_details if request.HasField("last_heartbeat_details") else None
        await self._end(
            slot,
            token,
            history.fail_activity,
            request.failure,
            identity=request.identity,
            last_heartbeat_details=details,
        )
        return m.RespondActivityTaskFailedResponse()

    async def respond_activity_task_failed_by_id(
        self, request: m.RespondActivityTaskFailedByIdRequest
    ) -> m.RespondActivityTaskFailedByIdResponse:
        """Raises RpcError NOT_FOUND, INVALID_ARGUMENT."""
        slot, token = await self._by_id(request.namespace, request.workflow_id, request.run_id, request.activity_id)
        details = request.last_heartbeat_details if request.HasField("last_heartbeat_details") else None
        await self._end(
            slot,
            token,
            history.fail_activity,
            request.failure,
            identity=request.identity,
            last_heartbeat_details=details,
        )
        return m.RespondActivityTaskFailedByIdResponse()

    async def respond_activity_task_canceled(
        self, request: m.RespondActivityTaskCanceledRequest
    ) -> m.RespondActivityTaskCanceledResponse:
        """Raises RpcError NOT_FOUND (stale), INVALID_ARGUMENT (token, or nobody asked for it)."""
        slot, token = await self._by_token(request.namespace, request.task_token)
        details = request.details if request.HasField("details") else None
        await self._end(slot, token, history.cancel_activity, details, identity=request.identity)
        return m.RespondActivityTaskCanceledResponse()

    async def respond_activity_task_canceled_by_id(
        self, request: m.RespondActivityTaskCanceledByIdRequest
    ) -> m.RespondActivityTaskCanceledByIdResponse:
        """Raises RpcError NOT_FOUND, INVALID_ARGUMENT."""
        slot, token = await self._by_id(request.namespace, request.workflow_id, request.run_id, request.activity_id)
        details = request.details if request.HasField("details") else None
        await self._end(slot, token, history.cancel_activity, details, identity=request.identity)
        return m.RespondActivityTaskCanceledByIdResponse()

    # -- heartbeats ------------------------------------------------------------------------------------------------

    async def record_activity_task_heartbeat(
        self, request: m.RecordActivityTaskHeartbeatRequest
    ) -> m.RecordActivityTaskHeartbeatResponse:
        """Raises RpcError NOT_FOUND (stale: counts as cancelled), INVALID_ARGUMENT (token)."""
        slot, token = await self._by_token(request.namespace, request.task_token)
        details = request.details if request.HasField("details") else None
        item = await self._heartbeat(slot, token, details, request.identity)
        return m.RecordActivityTaskHeartbeatResponse(
            cancel_requested=item is not None and bool(item.cancel_requested_event_id),
            activity_paused=item is not None and (item.paused or slot.run.state.pause is not None),
            activity_reset=item is not None and item.control is not None and item.control.reset,
        )

    async def record_activity_task_heartbeat_by_id(
        self, request: m.RecordActivityTaskHeartbeatByIdRequest
    ) -> m.RecordActivityTaskHeartbeatByIdResponse:
        """Raises RpcError NOT_FOUND, INVALID_ARGUMENT."""
        slot, token = await self._by_id(request.namespace, request.workflow_id, request.run_id, request.activity_id)
        details = request.details if request.HasField("details") else None
        item = await self._heartbeat(slot, token, details, request.identity)
        return m.RecordActivityTaskHeartbeatByIdResponse(
            cancel_requested=item is not None and bool(item.cancel_requested_event_id),
            activity_paused=item is not None and (item.paused or slot.run.state.pause is not None),
            activity_reset=item is not None and item.control is not None and item.control.reset,
        )

    async def _heartbeat(
        self, slot: Slot, token: ActivityToken, details: m.Payloads | None, identity: str
    ) -> history.ActivityItem | None:
        """Record a heartbeat; returns the activity, whose worker is told what is wanted of it."""
        event_id = token.scheduled_event_id

        def decide(run: history.Run, *, now_ms: int) -> Transition:
            return history.heartbeat_activity(run, event_id, token.attempt, details, identity=identity, now_ms=now_ms)

        await self.transact(slot, decide)
        self.shard.register(slot)
        item = slot.run.state.items.get(event_id)
        return item if isinstance(item, history.ActivityItem) else None
