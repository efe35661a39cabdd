"""What all topics of the service share: the engine's parts, and the way from a decision to its reply."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.engine.deployments import queue_of
from perdure.engine.eager import Eager
from perdure.engine.history import Transition
from perdure.engine.history.versions import version_of_worker
from perdure.engine.slot import Slot
from perdure.engine.visibility.attributes import type_of

if TYPE_CHECKING:
    from perdure.engine.engine import Engine

__all__ = ["ServiceTopic", "invalid"]


def invalid(message: str) -> RpcError:
    """An INVALID_ARGUMENT error."""
    return RpcError(StatusCode.INVALID_ARGUMENT, message)


class ServiceTopic:
    """One topic's handlers.

    Args:
        engine: started.
        in_process: its callers share this process, so a workflow task may reach them before its commit.
    """

    def __init__(self, engine: Engine, *, in_process: bool) -> None:
        self.engine = engine
        self.in_process = in_process
        self.shard = engine.shard
        self.cache = self.shard.cache
        self.matching = self.shard.matching
        self.namespaces = self.shard.namespaces
        self.clock = self.shard.clock
        self.config = self.shard.config
        self.limits = self.shard.limits
        self.tokens = engine.tokens
        self.reader = engine.reader
        self.hand_out = engine.hand_out
        self.workers = engine.workers
        self.eager = Eager(self.shard, self.hand_out)

    def check(self, namespace: str) -> None:
        """Every call begins here. Raises RpcError: the engine does not run; NOT_FOUND, no such namespace."""
        if not self.engine.running or namespace not in self.namespaces.by_name:
            self.engine.check_running()
            self.namespaces.get(namespace)

    async def transact(self, slot: Slot, decision: Callable[..., Transition], /, *args: Any, **kwargs: Any) -> None:
        """Decide, apply and wait until the outcome is durable, also when it is a refusal.

        Raises:
            RpcError: what the decision raised or put into its transition; UNAVAILABLE, the commit failed.
        """
        shard = self.shard
        try:
            transition = decision(slot.run, *args, now_ms=shard.clock.now_ms(), **kwargs)
        except RpcError:
            await self.wait_durable(slot)
            raise
        shard.apply(slot, transition)
        await self.wait_durable(slot)
        if transition.error is not None:
            raise transition.error

    async def queue_of_poll(
        self, request: m.PollWorkflowTaskQueueRequest | m.PollActivityTaskQueueRequest, kind: m.TaskQueueType.ValueType
    ) -> str:
        """The queue in which a poll of a worker that tells its deployment waits; its version is entered if it is new.

        Raises:
            RpcError: INVALID_ARGUMENT, RESOURCE_EXHAUSTED, the version can't be entered; UNAVAILABLE.
        """
        name = request.task_queue.name
        options = request.deployment_options
        version = version_of_worker(options)
        if not version:
            return name
        deployments = self.shard.offering.deployments
        if deployments.seen(request.namespace, options, name, kind, self.clock.now_ms()):
            await self.write_deployments(request.namespace)
            self.shard.offering.reroute(request.namespace, ((name, kind),))
        return queue_of(name, version)

    async def write_deployments(self, namespace: str) -> None:
        """Wait until the deployments of a namespace are durable as they are now."""
        deployments = self.shard.offering.deployments
        committer = self.shard.committer
        group = committer.group
        group.metas.append((deployments.row_name(namespace), deployments.row(namespace)))
        committer.touch()
        await group.durable()

    async def wait_durable(self, slot: Slot) -> None:
        """Until everything the run has decided so far is durable."""
        group = slot.group
        if group is not None:
            await group.durable()

    def show_attributes(self, namespace: str, info: m.WorkflowExecutionInfo) -> None:
        """Take out of a run's summary the search attributes that its namespace no longer has."""
        if not info.HasField("search_attributes"):
            return
        custom = self.namespaces.get(namespace).attributes
        fields = info.search_attributes.indexed_fields
        for name in [name for name in fields if type_of(name, custom) is None]:
            del fields[name]

    def wait_s(self, timeout_s: float | None) -> float:
        """How long a long poll may wait: a little less than its caller does."""
        longest_s = self.config.poll_timeout_s
        if timeout_s is None:
            return longest_s
        return max(0.0, min(longest_s, timeout_s - min(self.config.poll_margin_s, timeout_s / 10)))
