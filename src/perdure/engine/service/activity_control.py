"""What operators do to pending activities: pause, unpause, reset, change options."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration

from perdure.api import messages as m
from perdure.engine import history
from perdure.engine.service.base import ServiceTopic, invalid
from perdure.engine.slot import Slot

__all__ = ["ActivityControlTopic"]

_JITTER_MAX_MS = 30 * 24 * 3600 * 1000


class ActivityControlTopic(ServiceTopic):
    """PauseActivity, UnpauseActivity, ResetActivity, UpdateActivityOptions."""

    async def pause_activity(self, request: m.PauseActivityRequest) -> m.PauseActivityResponse:
        """Hand activities out no more. Raises RpcError NOT_FOUND, INVALID_ARGUMENT."""
        slot, event_ids = await self.select_activities(request.namespace, request.execution, request.id, request.type)
        await self.transact(
            slot,
            history.pause_activities,
            event_ids,
            identity=request.identity,
            reason=request.reason,
            limits=self.limits,
        )
        return m.PauseActivityResponse()

    async def unpause_activity(self, request: m.UnpauseActivityRequest) -> m.UnpauseActivityResponse:
        """Let activities go on. Raises RpcError NOT_FOUND, INVALID_ARGUMENT."""
        delay_ms = self.random_delay_ms(request.jitter)
        slot, event_ids = await self.select_activities(
            request.namespace, request.execution, request.id, request.type, request.unpause_all
        )
        await self.transact(
            slot,
            history.unpause_activities,
            event_ids,
            reset_attempts=request.reset_attempts,
            reset_heartbeat=request.reset_heartbeat,
            delay_ms=delay_ms,
        )
        return m.UnpauseActivityResponse()

    async def reset_activity(self, request: m.ResetActivityRequest) -> m.ResetActivityResponse:
        """Begin activities anew. Raises RpcError NOT_FOUND, INVALID_ARGUMENT."""
        delay_ms = self.random_delay_ms(request.jitter)
        slot, event_ids = await self.select_activities(
            request.namespace, request.execution, request.id, request.type, request.match_all
        )
        await self.transact(
            slot,
            history.reset_activities,
            event_ids,
            reset_heartbeat=request.reset_heartbeat,
            keep_paused=request.keep_paused,
            restore_original=request.restore_original_options,
            delay_ms=delay_ms,
        )
        return m.ResetActivityResponse()

    async def update_activity_options(self, request: m.UpdateActivityOptionsRequest) -> m.UpdateActivityOptionsResponse:
        """Change options of activities, or give them those they began with.

        Raises:
            RpcError: NOT_FOUND, INVALID_ARGUMENT.
        """
        mask = list(request.update_mask.paths)
        if request.restore_original and (mask or request.HasField("activity_options")):
            raise invalid("either restore the original options or set others, not both")
        slot, event_ids = await self.select_activities(
            request.namespace, request.execution, request.id, request.type, request.match_all
        )
        if request.restore_original:
            await self.transact(slot, history.restore_activity_options, event_ids)
        else:
            await self.transact(
                slot, history.update_activity_options, event_ids, request.activity_options, mask, limits=self.limits
            )
        response = m.UpdateActivityOptionsResponse()
        item = slot.run.state.items.get(event_ids[-1])
        if isinstance(item, history.ActivityItem):
            response.activity_options.CopyFrom(history.activity_options_of(item))
        return response

    async def select_activities(
        self, namespace: str, execution: m.WorkflowExecution, activity_id: str, activity_type: str, every: bool = False
    ) -> tuple[Slot, list[int]]:
        """The activities of a workflow that are meant. Raises RpcError NOT_FOUND, INVALID_ARGUMENT."""
        self.check(namespace)
        if not execution.workflow_id:
            raise invalid("the workflow id is missing")
        slot = await self.cache.find(namespace, execution.workflow_id, execution.run_id)
        found = history.select_activities(slot.run, activity_id=activity_id, activity_type=activity_type, every=every)
        return slot, found

    def random_delay_ms(self, jitter: Duration) -> int:
        """A delay of up to a jitter. Raises RpcError INVALID_ARGUMENT."""
        longest_ms = jitter.ToMilliseconds()
        if not 0 <= longest_ms <= _JITTER_MAX_MS:
            raise invalid("the jitter is negative, or longer than thirty days")
        return int.from_bytes(self.shard.ids.new_bytes(8), "big") % (longest_ms + 1)
