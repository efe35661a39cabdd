"""Bringing tasks to their queues: a workflow task to the worker that has the run in its cache, others to all.

A task goes to the sticky queue of its run while somebody polls it, else to the run's task queue; activities go to
their own. Where workers are versioned, each version has queues of its own, and a task goes to the queue of the version
its run is pinned to, or the one that gets the traffic (see ``engine.deployments``); a sticky queue is left when another
version is to go on with the run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from perdure.api import messages as m
from perdure.engine import history
from perdure.engine.deployments import Deployments, queue_of
from perdure.engine.history import Lineage, RunState
from perdure.engine.history.versions import last_version, pin_of, pinned_version
from perdure.engine.matching.queue import ActivityTask, QueryTask, Task, TaskQueue, WorkflowTask
from perdure.engine.slot import Slot

if TYPE_CHECKING:
    from perdure.engine.shard import Shard

__all__ = ["Offering"]

_WORKFLOW = m.TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW
_ACTIVITY = m.TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY
_TURN = 100
"""Tasks routed anew before others get their turn."""


class Offering:
    """Brings the tasks of a shard's runs to its `matching`."""

    def __init__(self, shard: Shard) -> None:
        self.deployments = Deployments()
        self._shard = shard
        self._clock = shard.clock
        self._config = shard.config

    # -- where to --------------------------------------------------------------------------------------------------

    def version_for(self, state: RunState) -> str:
        """The version of the workers that a workflow task of the run goes to now."""
        pinned = pinned_version(state)
        if pinned:
            return pinned
        return self.deployments.route(state.namespace, state.task_queue, _WORKFLOW, state.workflow_id)

    def _workflow_queue(self, state: RunState) -> TaskQueue:
        name = state.task_queue
        if self.deployments.in_use:
            name = queue_of(name, self.version_for(state))
        return self._shard.matching.workflow_queue(state.namespace, name)

    def _sticky_queue(self, state: RunState, now_ms: int) -> TaskQueue | None:
        """The run's sticky queue, if its worker is there and still the one to go on."""
        queue = self._shard.matching.workflow.get((state.namespace, state.sticky_queue))
        if queue is None or not (queue.standing or queue.is_alive(now_ms, self._config.sticky_alive_ms)):
            return None
        if self.deployments.in_use and last_version(state) != self.version_for(state):
            return None
        return queue

    def _activity_queue_name(self, state: RunState, task_queue: str) -> str:
        deployments = self.deployments
        version = pinned_version(state)
        if not version or not deployments.polls(state.namespace, version, task_queue, _ACTIVITY):
            version = deployments.route(state.namespace, task_queue, _ACTIVITY, state.workflow_id)
        return queue_of(task_queue, version)

    def stands(self, state: RunState, queue: TaskQueue, *, sticky: bool) -> bool:
        """Whether the run's workflow task still belongs where it was found."""
        version = self.version_for(state)
        return last_version(state) == version if sticky else queue.name == queue_of(state.task_queue, version)

    def move(self, slot: Slot, task: WorkflowTask, queue: TaskQueue) -> None:
        """A poll has taken a task where it does not belong any more: bring it to where it does."""
        if slot.run.state.sticky_queue == queue.name:
            self.sticky_expired(task)
        else:
            self.workflow_task_if_ready(slot)

    def target_has_changed(self, state: RunState) -> bool:
        """Whether the run is pinned to other workers than those that get the traffic."""
        pinned = pinned_version(state)
        if not pinned:
            return False
        target = self.deployments.route(state.namespace, state.task_queue, _WORKFLOW, state.workflow_id)
        return target not in ("", pinned)

    def starts_at(self, request: m.StartWorkflowExecutionRequest, version: str) -> bool:
        """Whether workers of a version would get the first workflow task of a start."""
        if not self.deployments.in_use:
            return not version
        name = request.task_queue.name
        routed = self.deployments.route(request.namespace, name, _WORKFLOW, request.workflow_id)
        return (pin_of(request.versioning_override) or routed) == version

    def inherit(self, request: m.StartWorkflowExecutionRequest, lineage: Lineage) -> Lineage:
        """What a run really inherits: a version that looks for its tasks. Takes out an override to another."""
        deployments = self.deployments
        namespace = request.namespace
        queue = request.task_queue.name
        if request.HasField("versioning_override"):
            if not deployments.polls(namespace, pin_of(request.versioning_override), queue, _WORKFLOW):
                request.ClearField("versioning_override")
        inherited = lineage.inherited_version
        if lineage.prefers_ramping:
            return replace(lineage, inherited_version=deployments.ramping(namespace, queue, _WORKFLOW))
        if inherited and not deployments.polls(namespace, inherited, queue, _WORKFLOW):
            return replace(lineage, inherited_version="")
        return lineage

    # -- tasks -----------------------------------------------------------------------------------------------------

    def workflow_task_if_ready(self, slot: Slot) -> None:
        """Bring the run's workflow task to its queue, if it has one to hand out."""
        now_ms = self._clock.now_ms()
        if history.workflow_task_ready(slot.run, now_ms):
            self.workflow_task(slot, now_ms)

    def workflow_task(self, slot: Slot, now_ms: int) -> None:
        """Bring the run's workflow task to its queue, the sticky one while its worker is there."""
        run = slot.run
        state = run.state
        if state.sticky_queue:
            queue = self._sticky_queue(state, now_ms)
            if queue is not None:
                timeout_ms = state.sticky_timeout_ms or self._config.sticky_timeout_ms
                task = WorkflowTask(slot.key, history.pending_task_id(run), now_ms + timeout_ms)
                if queue.sole is not None and not queue.pollers:
                    queue.added += 1
                    queue.sole.offer(task)
                else:
                    queue.offer_sticky(task)
                return
            history.expire_sticky(run, now_ms=now_ms)
        task = WorkflowTask(slot.key, history.pending_task_id(run))
        queue = self._workflow_queue(state)
        if state.priority:
            queue.offer_ranked(task, history.rank_of(state.priority))
        else:
            queue.offer(task)

    def is_current(self, slot: Slot, task: WorkflowTask) -> bool:
        """Whether a backlog entry still stands."""
        return history.pending_task_id(slot.run) == task.scheduled_event_id and history.workflow_task_ready(
            slot.run, self._clock.now_ms()
        )

    def query(self, slot: Slot, task: QueryTask) -> None:
        """Bring a direct query to the run's queue."""
        state = slot.run.state
        now_ms = self._clock.now_ms()
        if state.sticky_queue and not task.expires_ms:
            queue = self._sticky_queue(state, now_ms)
            if queue is not None:
                timeout_ms = state.sticky_timeout_ms or self._config.sticky_timeout_ms
                queue.offer_sticky(QueryTask(task.query, now_ms + timeout_ms))
                return
        self._workflow_queue(state).offer(QueryTask(task.query))

    def settle_queries(self, slot: Slot) -> None:
        """After a transition: send queries directly, or keep them for the next task."""
        if slot.queries:
            for query in slot.queries.settle(slot.run, slot.handout):
                self.query(slot, QueryTask(query))

    def activities(self, slot: Slot, event_ids: Iterable[int]) -> None:
        """Bring activities, and requests of Nexus operations, to their queues."""
        state = slot.run.state
        items = state.items
        matching = self._shard.matching
        versioned = self.deployments.in_use
        now_ms = self._clock.now_ms()
        for event_id in event_ids:
            item = items.get(event_id)
            if isinstance(item, history.ActivityItem):
                name = self._activity_queue_name(state, item.task_queue) if versioned else item.task_queue
                queue = matching.activity_queue(state.namespace, name)
                if queue.sole is not None and not queue.pollers and not queue.backlog:
                    queue.added += 1
                    queue.sole.offer_activity(slot, item, now_ms)
                    continue
                task = ActivityTask(slot.key, event_id, item.attempt)
                if state.priority or item.priority:
                    queue.offer_ranked(task, history.rank_of(state.priority + item.priority))
                else:
                    queue.offer(task)
            elif item is not None:
                self._shard.nexus.offer(slot, item)

    # -- tasks that have to go elsewhere ---------------------------------------------------------------------------

    def sticky_expired(self, task: WorkflowTask | QueryTask) -> None:
        """A task has waited too long for the worker that holds the run's cache."""
        shard = self._shard
        key = task.run_key if isinstance(task, WorkflowTask) else task.query.run_key
        slot = shard.cache.loaded.get(key)
        if slot is None:
            if isinstance(task, WorkflowTask):
                shard.spawn(self._expire_loaded(task))
        elif isinstance(task, QueryTask):
            if not task.query.done:
                self.query(slot, task)
        elif self.is_current(slot, task):
            shard.apply(slot, history.expire_sticky(slot.run, now_ms=self._clock.now_ms()))

    async def _expire_loaded(self, task: WorkflowTask) -> None:
        if await self._shard.recovery.load(task.run_key) is not None:
            self.sticky_expired(task)

    def reroute(self, namespace: str, queues: Iterable[tuple[str, int]]) -> None:
        """The traffic of task queues has another way to go: bring what waits in them to where it belongs now."""
        moved: list[Task] = []
        for name, kind in queues:
            known = self._shard.matching.workflow if kind == _WORKFLOW else self._shard.matching.activity
            for version in ("", *self.deployments.versions_of(namespace, name, kind)):
                queue = known.get((namespace, queue_of(name, version)))
                if queue is not None:
                    moved += queue.clear()
        if moved:
            self._shard.spawn(self._reroute(moved))

    async def _reroute(self, tasks: list[Task]) -> None:
        shard = self._shard
        for number, task in enumerate(tasks, 1):
            if number % _TURN == 0:
                await asyncio.sleep(0)
            key = task.query.run_key if isinstance(task, QueryTask) else task.run_key
            slot = await shard.recovery.load(key)
            if slot is None:
                continue
            if isinstance(task, QueryTask):
                self.query(slot, QueryTask(task.query))
            elif isinstance(task, WorkflowTask):
                self.workflow_task_if_ready(slot)
            else:
                self.activities(slot, (task.scheduled_event_id,))
