"""Task queues as their owners see them: who polls, what waits, how fast tasks come and go."""

from __future__ import annotations

from collections import Counter

from perdure.api import RpcError
from perdure.api import messages as m
from perdure.api.durations import set_duration_ms, set_timestamp_ms
from perdure.engine.deployments import queue_of
from perdure.engine.history import ActivityItem
from perdure.engine.history.priorities import KEY_DEFAULT
from perdure.engine.matching.queue import ActivityTask, Task, TaskQueue, WorkflowTask
from perdure.engine.matching.ranks import RankedBacklog
from perdure.engine.matching.throttle import Throttle
from perdure.engine.service.base import ServiceTopic, invalid
from perdure.engine.service.deployment_views import queue_versioning

__all__ = ["TaskQueueTopic"]

_TYPE = m.TaskQueueType
_WORKFLOW = _TYPE.TASK_QUEUE_TYPE_WORKFLOW
_ACTIVITY = _TYPE.TASK_QUEUE_TYPE_ACTIVITY
_NEXUS = _TYPE.TASK_QUEUE_TYPE_NEXUS
_ENHANCED = m.DescribeTaskQueueMode.DESCRIBE_TASK_QUEUE_MODE_ENHANCED
_STICKY = m.TaskQueueKind.TASK_QUEUE_KIND_STICKY
_RATE = 100_000.0
"""Tasks a second that a queue without a throttle is said to let go."""
_HOST = "perdure"
"""Who owns each partition."""
_HEADS_LOOKED_AT = 20
"""Stale entries at the head of a backlog that are passed over to find the oldest task that stands."""
_LIMITED_S = 30.0
"""A throttle that has held a task back within this time counts as active."""


class TaskQueueTopic(ServiceTopic):
    """DescribeTaskQueue and what belongs to it."""

    async def describe_task_queue(self, request: m.DescribeTaskQueueRequest) -> m.DescribeTaskQueueResponse:
        """Who polls a queue, and what waits in it.

        Raises:
            RpcError: NOT_FOUND (namespace), INVALID_ARGUMENT.
        """
        self.check(request.namespace)
        name = request.task_queue.name
        if not name:
            raise invalid("the task queue has no name")
        if request.api_mode == _ENHANCED:
            return await self._describe_enhanced(request)
        response = m.DescribeTaskQueueResponse()
        kind = request.task_queue_type or _WORKFLOW
        queues = self._queues(request.namespace, name, kind)
        response.pollers.extend(self._pollers(queues))
        if request.report_stats:
            response.stats.CopyFrom(await self.queue_stats(queues))
            self._add_by_priority(queues, response)
        deployment = self.shard.offering.deployments.routing_of(request.namespace, name, kind)
        if deployment is not None:
            response.versioning_info.CopyFrom(queue_versioning(deployment))
        if request.report_config:
            response.config.SetInParent()
        if request.report_stats or request.report_config:
            throttle = _throttle(queues)
            response.effective_rate_limit.requests_per_second = throttle.rate if throttle is not None else _RATE
            response.effective_rate_limit.rate_limit_source = (
                m.RateLimitSource.RATE_LIMIT_SOURCE_WORKER
                if throttle is not None
                else m.RateLimitSource.RATE_LIMIT_SOURCE_SYSTEM
            )
        if request.include_task_queue_status:
            status = response.task_queue_status
            status.backlog_count_hint = sum(len(queue.backlog) for queue in queues)
            throttle = _throttle(queues)
            status.rate_per_second = throttle.rate if throttle is not None else _RATE
        return response

    async def _describe_enhanced(self, request: m.DescribeTaskQueueRequest) -> m.DescribeTaskQueueResponse:
        """The same by version and type; all workers are of the one version without a name."""
        if request.task_queue.kind == _STICKY:
            raise invalid("a sticky queue can't be described in enhanced mode; leave out api_mode")
        response = m.DescribeTaskQueueResponse()
        if request.versions.build_ids and not (request.versions.unversioned or request.versions.all_active):
            return response
        info = response.versions_info[""]
        for kind in request.task_queue_types or (_WORKFLOW, _ACTIVITY):
            of_type = info.types_info[kind]
            queues = self._queues(request.namespace, request.task_queue.name, kind)
            if request.report_pollers:
                of_type.pollers.extend(self._pollers(queues))
            if request.report_stats:
                of_type.stats.CopyFrom(await self.queue_stats(queues))
        if request.report_task_reachability:
            info.task_reachability = m.BuildIdTaskReachability.BUILD_ID_TASK_REACHABILITY_REACHABLE
        return response

    def _queues(self, namespace: str, name: str, kind: int) -> list[TaskQueue]:
        """What is known of a task queue, each version's part by itself: asking must not make one."""
        if kind == _NEXUS:
            nexus = self.matching.nexus.get((namespace, name))
            return [nexus] if nexus is not None else []
        if kind not in (_WORKFLOW, _ACTIVITY):
            return []
        known = self.matching.workflow if kind == _WORKFLOW else self.matching.activity
        versions = self.shard.offering.deployments.versions_of(namespace, name, kind)
        found = (known.get((namespace, queue_of(name, version))) for version in ("", *versions))
        return [queue for queue in found if queue is not None]

    def _pollers(self, queues: list[TaskQueue]) -> list[m.PollerInfo]:
        """Who has polled of late."""
        pollers: list[m.PollerInfo] = []
        now_ms = self.clock.now_ms()
        for queue in queues:
            for standing in queue.standing:
                queue.watch.seen[standing.identity] = now_ms
            for waiting in queue.pollers:
                queue.watch.seen.setdefault(waiting.identity, now_ms)
            for identity, at_ms in queue.watch.pollers(now_ms):
                poller = m.PollerInfo(identity=identity)
                set_timestamp_ms(poller.last_access_time, at_ms)
                poller.rate_per_second = queue.throttle.rate if queue.throttle is not None else _RATE
                versions = queue.watch.versions.get(identity)
                if versions is not None:
                    poller.worker_version_capabilities.CopyFrom(versions.capabilities)
                    poller.deployment_options.CopyFrom(versions.deployment)
                pollers.append(poller)
        return pollers

    async def queue_stats(self, queues: list[TaskQueue]) -> m.TaskQueueStats:
        """Backlog and rates of queues together."""
        stats = m.TaskQueueStats()
        now_ms = self.clock.now_ms()
        age_ms = 0
        for queue in queues:
            waiting = len(queue.backlog)
            rates = queue.watch.rates(now_ms, queue.added, waiting)
            stats.approximate_backlog_count += waiting
            stats.tasks_add_rate += rates.add
            stats.tasks_dispatch_rate += rates.dispatch
            throttle = queue.throttle
            if throttle is not None and self.clock.monotonic_s() - throttle.limited_at_s <= _LIMITED_S:
                stats.rate_limiting_active = True
            age_ms = max(age_ms, await self._age_ms(queue, now_ms))
        stats.approximate_backlog_age.SetInParent()
        set_duration_ms(stats.approximate_backlog_age, age_ms)
        return stats

    def _add_by_priority(self, queues: list[TaskQueue], response: m.DescribeTaskQueueResponse) -> None:
        counts: Counter[int] = Counter()
        for queue in queues:
            backlog = queue.backlog
            if backlog:
                counts.update(backlog.counts() if isinstance(backlog, RankedBacklog) else {KEY_DEFAULT: len(backlog)})
        for key, count in counts.items():
            stats = response.stats_by_priority_key[key]
            stats.approximate_backlog_count = count
            stats.approximate_backlog_age.SetInParent()
            if len(counts) == 1:
                stats.CopyFrom(response.stats)

    async def _age_ms(self, queue: TaskQueue, now_ms: int) -> int:
        """How long the task at the head of the backlog has waited."""
        heads = [task for task, _ in zip(queue.backlog, range(_HEADS_LOOKED_AT), strict=False)]
        for task in heads:
            since_ms = await self._waiting_since_ms(task)
            if since_ms:
                return max(0, now_ms - since_ms)
        return 0

    async def _waiting_since_ms(self, task: Task) -> int:
        """When a task began to wait; 0 if it does not stand any more."""
        if not isinstance(task, WorkflowTask | ActivityTask):
            return 0
        try:
            slot = await self.cache.get(task.run_key)
        except RpcError:
            return 0
        state = slot.run.state
        if isinstance(task, WorkflowTask):
            return state.task_scheduled_at_ms if state.task_scheduled_event_id == task.scheduled_event_id else 0
        item = state.items.get(task.scheduled_event_id)
        if not isinstance(item, ActivityItem) or item.attempt != task.attempt:
            return 0
        return item.attempt_scheduled_at_ms or item.scheduled_at_ms

    async def list_task_queue_partitions(
        self, request: m.ListTaskQueuePartitionsRequest
    ) -> m.ListTaskQueuePartitionsResponse:
        """Every queue is one partition.

        Raises:
            RpcError: NOT_FOUND (namespace), INVALID_ARGUMENT.
        """
        self.check(request.namespace)
        name = request.task_queue.name
        if not name:
            raise invalid("the task queue has no name")
        response = m.ListTaskQueuePartitionsResponse()
        response.activity_task_queue_partitions.add(key=name, owner_host_name=_HOST)
        response.workflow_task_queue_partitions.add(key=name, owner_host_name=_HOST)
        return response


def _throttle(queues: list[TaskQueue]) -> Throttle | None:
    """How fast tasks may go, if their workers have said so."""
    return next((queue.throttle for queue in queues if queue.throttle is not None), None)
