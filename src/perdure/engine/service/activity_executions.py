"""Activities without a workflow: started, followed, listed, and ended from outside.

Their runs live in the shard like all others (see `history.standalone`); what workers say of them comes in with the
other activities' calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from perdure.api import messages as m
from perdure.engine import history
from perdure.engine.activity_starts import start_activity
from perdure.engine.service.activity_control import ActivityControlTopic
from perdure.engine.service.activity_views import describe, listed, options
from perdure.engine.service.base import invalid
from perdure.engine.service.visibility import VisibilityTopic
from perdure.engine.slot import Slot
from perdure.engine.visibility.parsing import Population

__all__ = ["ActivityExecutionTopic"]

_ACTIVITIES: Final = Population(
    {"ActivityId": "WorkflowId", "ActivityRunId": "RunId", "ActivityType": "WorkflowType"}, history.ACTIVITIES
)

_Control = (
    m.PauseActivityExecutionRequest
    | m.UnpauseActivityExecutionRequest
    | m.ResetActivityExecutionRequest
    | m.UpdateActivityExecutionOptionsRequest
)


class ActivityExecutionTopic(ActivityControlTopic, VisibilityTopic):
    """The calls of activity executions."""

    async def start_activity_execution(
        self, request: m.StartActivityExecutionRequest
    ) -> m.StartActivityExecutionResponse:
        """Raises RpcError NOT_FOUND (namespace), ALREADY_EXISTS, INVALID_ARGUMENT."""
        self.check(request.namespace)
        started = await start_activity(self.shard, self.namespaces.to_start_in(request.namespace), request)
        if started.group is not None:
            await started.group.durable()
        state = started.slot.run.state
        response = m.StartActivityExecutionResponse(
            run_id=state.run_id, started=started.is_new or state.start_request_id == request.request_id
        )
        response.link.activity.namespace = request.namespace
        response.link.activity.activity_id = request.activity_id
        response.link.activity.run_id = state.run_id
        return response

    # -- looking ---------------------------------------------------------------------------------------------------

    async def describe_activity_execution(
        self, request: m.DescribeActivityExecutionRequest, *, timeout_s: float | None = None
    ) -> m.DescribeActivityExecutionResponse:
        """What there is to know; with a token of an earlier answer, once there is more. Empty if that takes too long.

        Raises:
            RpcError: NOT_FOUND, INVALID_ARGUMENT, DATA_LOSS.
        """
        self.check(request.namespace)
        token = request.long_poll_token
        if token and not request.run_id:
            raise invalid("RunId is missing: a long poll follows one run")
        if token:
            slot = await self._wait_for_execution(
                request, timeout_s, lambda slot: self._state_token(slot) != token, for_end=False
            )
            if slot is None:
                return m.DescribeActivityExecutionResponse()
        else:
            slot = await self._find_execution(request.namespace, request.activity_id, request.run_id)
        await self.wait_durable(slot)
        scheduled = (await self.reader.event(slot.key, history.SCHEDULED_ID)).activity_task_scheduled_event_attributes
        run = slot.run
        response = m.DescribeActivityExecutionResponse(
            run_id=run.state.run_id, info=describe(run, scheduled, self.clock.now_ms())
        )
        if not request.include_heartbeat_details:
            response.info.ClearField("heartbeat_details")
        if not request.include_last_failure:
            response.info.ClearField("last_failure")
        if request.include_input:
            response.input.CopyFrom(scheduled.input)
        event = await self.reader.event(slot.key, 1)
        response.info.links.extend(event.links)
        for callback in run.state.callbacks or ():
            told = response.callbacks.add()
            told.trigger.activity_closed.SetInParent()
            history.fill_callback(told.info, callback)
        if run.is_open:
            response.long_poll_token = self._state_token(slot)
        elif request.include_outcome:
            response.outcome.CopyFrom(await self._outcome(slot))
        return response

    async def poll_activity_execution(
        self, request: m.PollActivityExecutionRequest, *, timeout_s: float | None = None
    ) -> m.PollActivityExecutionResponse:
        """Wait for the outcome; empty if it takes too long. Raises RpcError NOT_FOUND, INVALID_ARGUMENT, DATA_LOSS."""
        self.check(request.namespace)
        slot = await self._wait_for_execution(request, timeout_s, lambda slot: not slot.run.is_open, for_end=True)
        if slot is None:
            return m.PollActivityExecutionResponse()
        await self.wait_durable(slot)
        return m.PollActivityExecutionResponse(run_id=slot.run.state.run_id, outcome=await self._outcome(slot))

    async def list_activity_executions(
        self, request: m.ListActivityExecutionsRequest
    ) -> m.ListActivityExecutionsResponse:
        """Open ones first, then those that ended last. Raises RpcError NOT_FOUND (namespace), INVALID_ARGUMENT."""
        self.check(request.namespace)
        query = self.list_query(request.namespace, request.query, population=_ACTIVITIES)
        text = f"activities\0{request.query}"
        page = await self.list_page(query, text, request.next_page_token, request.page_size)
        return m.ListActivityExecutionsResponse(
            executions=[listed(info) for info in page.executions], next_page_token=page.next_token
        )

    async def count_activity_executions(
        self, request: m.CountActivityExecutionsRequest
    ) -> m.CountActivityExecutionsResponse:
        """How many match, in all or by group. Raises RpcError NOT_FOUND (namespace), INVALID_ARGUMENT."""
        self.check(request.namespace)
        counted = await self.count_runs(request.namespace, request.query, population=_ACTIVITIES)
        response = m.CountActivityExecutionsResponse(count=counted.count)
        for group in counted.groups:
            response.groups.add(count=group.count, group_values=group.group_values)
        return response

    async def _find_execution(self, namespace: str, activity_id: str, run_id: str) -> Slot:
        if not activity_id:
            raise invalid("the activity id is missing")
        return await self.cache.find_activity(namespace, activity_id, run_id)

    async def _wait_for_execution(
        self,
        request: m.DescribeActivityExecutionRequest | m.PollActivityExecutionRequest,
        timeout_s: float | None,
        is_it: Callable[[Slot], bool],
        *,
        for_end: bool,
    ) -> Slot | None:
        """The execution, once that holds; None if it takes too long, or the engine stops."""
        run_id = request.run_id
        until_s = self.clock.monotonic_s() + self.wait_s(timeout_s)
        while True:
            slot = await self._find_execution(request.namespace, request.activity_id, run_id)
            if is_it(slot):
                return slot
            run_id = slot.run.state.run_id
            if self.engine.stopping:
                self.engine.check_not_failed()
                return None
            left_s = until_s - self.clock.monotonic_s()
            if left_s <= 0 or not await self.shard.waiters.wait(slot.key, left_s, for_end=for_end):
                return None

    @staticmethod
    def _state_token(slot: Slot) -> bytes:
        """What tells the present state of an execution from those before."""
        state = slot.run.state
        return b"%d/%d/%d" % (state.status, state.state_transitions, state.next_event_id)

    async def _outcome(self, slot: Slot) -> m.ActivityExecutionOutcome:
        return history.activity_outcome(await self.reader.event(slot.key, history.outcome_event_id(slot.run)))

    # -- ending ----------------------------------------------------------------------------------------------------

    async def request_cancel_activity_execution(
        self, request: m.RequestCancelActivityExecutionRequest
    ) -> m.RequestCancelActivityExecutionResponse:
        """Raises RpcError NOT_FOUND, FAILED_PRECONDITION (it has ended, or is asked already), INVALID_ARGUMENT."""
        self.check(request.namespace)
        slot = await self._find_execution(request.namespace, request.activity_id, request.run_id)
        await self.transact(slot, history.request_cancel_activity, request, limits=self.limits)
        return m.RequestCancelActivityExecutionResponse()

    async def terminate_activity_execution(
        self, request: m.TerminateActivityExecutionRequest
    ) -> m.TerminateActivityExecutionResponse:
        """Raises RpcError NOT_FOUND, FAILED_PRECONDITION (it has ended), INVALID_ARGUMENT."""
        self.check(request.namespace)
        slot = await self._find_execution(request.namespace, request.activity_id, request.run_id)
        await self.transact(slot, history.terminate_activity, request, limits=self.limits)
        return m.TerminateActivityExecutionResponse()

    async def delete_activity_execution(
        self, request: m.DeleteActivityExecutionRequest
    ) -> m.DeleteActivityExecutionResponse:
        """Erase it; an open one is terminated first. Raises RpcError NOT_FOUND, INVALID_ARGUMENT."""
        self.check(request.namespace)
        slot = await self._find_execution(request.namespace, request.activity_id, request.run_id)
        await self.shard.erasing.delete(slot, "history-service")
        return m.DeleteActivityExecutionResponse()

    # -- operating, on activities of workflows as well -------------------------------------------------------------

    async def pause_activity_execution(
        self, request: m.PauseActivityExecutionRequest
    ) -> m.PauseActivityExecutionResponse:
        """Hand it out no more. Raises RpcError NOT_FOUND, INVALID_ARGUMENT, FAILED_PRECONDITION."""
        slot, event_ids = await self._chosen(request)
        if slot.run.state.standalone is not None:
            await self.transact(slot, history.pause_activity, request, limits=self.limits)
        else:
            who = {"identity": request.identity, "reason": request.reason}
            await self.transact(slot, history.pause_activities, event_ids, limits=self.limits, **who)
        return m.PauseActivityExecutionResponse()

    async def unpause_activity_execution(
        self, request: m.UnpauseActivityExecutionRequest
    ) -> m.UnpauseActivityExecutionResponse:
        """Let it go on. Raises RpcError NOT_FOUND, INVALID_ARGUMENT, FAILED_PRECONDITION."""
        delay_ms = self.random_delay_ms(request.jitter)
        slot, event_ids = await self._chosen(request)
        delay_ms = max(delay_ms, history.activity_delay_left_ms(slot.run, self.clock.now_ms()))
        await self.transact(slot, history.unpause_activities, event_ids, delay_ms=delay_ms)
        return m.UnpauseActivityExecutionResponse()

    async def reset_activity_execution(
        self, request: m.ResetActivityExecutionRequest
    ) -> m.ResetActivityExecutionResponse:
        """Begin it anew. Raises RpcError NOT_FOUND, INVALID_ARGUMENT, FAILED_PRECONDITION."""
        delay_ms = self.random_delay_ms(request.jitter)
        slot, event_ids = await self._chosen(request)
        if slot.run.state.standalone is not None:
            history.check_activity_reset(slot.run)
        await self.transact(
            slot,
            history.reset_activities,
            event_ids,
            reset_heartbeat=request.reset_heartbeat,
            keep_paused=request.keep_paused,
            restore_original=request.restore_original_options,
            delay_ms=max(delay_ms, history.activity_delay_left_ms(slot.run, self.clock.now_ms())),
        )
        return m.ResetActivityExecutionResponse()

    async def update_activity_execution_options(
        self, request: m.UpdateActivityExecutionOptionsRequest
    ) -> m.UpdateActivityExecutionOptionsResponse:
        """Change options, or restore those it began with.

        Raises:
            RpcError: NOT_FOUND, INVALID_ARGUMENT, FAILED_PRECONDITION.
        """
        mask = list(request.update_mask.paths)
        if request.restore_original and (mask or request.HasField("activity_options")):
            raise invalid("either restore the original options or set others, not both")
        slot, event_ids = await self._chosen(request)
        if slot.run.state.standalone is not None:
            await self.transact(slot, history.update_standalone_options, request, limits=self.limits)
            return m.UpdateActivityExecutionOptionsResponse(activity_options=options(slot.run))
        if request.restore_original:
            await self.transact(slot, history.restore_activity_options, event_ids)
        else:
            await self.transact(
                slot, history.update_activity_options, event_ids, request.activity_options, mask, limits=self.limits
            )
        response = m.UpdateActivityExecutionOptionsResponse()
        item = slot.run.state.items.get(event_ids[-1])
        if isinstance(item, history.ActivityItem):
            response.activity_options.CopyFrom(history.activity_options_of(item))
        return response

    async def _chosen(self, request: _Control) -> tuple[Slot, list[int]]:
        """The activity that is meant, of a workflow or without one.

        Raises:
            RpcError: NOT_FOUND; INVALID_ARGUMENT; FAILED_PRECONDITION, it has ended.
        """
        self.check(request.namespace)
        if request.workflow_id:
            execution = m.WorkflowExecution(workflow_id=request.workflow_id, run_id=request.run_id)
            return await self.select_activities(request.namespace, execution, request.activity_id, "")
        slot = await self._find_execution(request.namespace, request.activity_id, request.run_id)
        history.check_activity_open(slot.run)
        return slot, [history.SCHEDULED_ID]
