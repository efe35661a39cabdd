"""Updates: asking a run to do something, and following what becomes of it.

A call finds the update by its id, or admits it, and waits until it has reached the stage its caller named, at most
`EngineConfig.update_wait_s`; then it answers with the stage reached. A caller whose own time is over before that gets
DEADLINE_EXCEEDED, as clients distinguish the two. An update whose run ends before accepting it moves on to the run that
follows, if its caller asked for no run in particular.
"""

from __future__ import annotations

from typing import NamedTuple

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.engine import history
from perdure.engine.history import UpdateStage
from perdure.engine.service.base import ServiceTopic, invalid
from perdure.engine.service.workflows import check_chain
from perdure.engine.slot import Slot
from perdure.engine.updates import PendingUpdate

__all__ = ["Reached", "UpdateTopic", "check_stage"]

_Stage = m.UpdateWorkflowExecutionLifecycleStage
_ACCEPTED_EVENT = m.EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED


class Reached(NamedTuple):
    """How far an update is, for its caller."""

    stage: UpdateStage
    outcome: m.Outcome | None = None
    accepted_event_id: int = 0


class UpdateTopic(ServiceTopic):
    """UpdateWorkflowExecution and PollWorkflowExecutionUpdate."""

    async def update_workflow_execution(
        self, request: m.UpdateWorkflowExecutionRequest, *, timeout_s: float | None = None
    ) -> m.UpdateWorkflowExecutionResponse:
        """Admit an update, unless its id is known, and wait for the stage asked for: completed, if none is named.

        Raises:
            RpcError: NOT_FOUND, no such run, or it is closed; INVALID_ARGUMENT; RESOURCE_EXHAUSTED, too many in
                flight (retry); FAILED_PRECONDITION, the run has had as many as it may; DEADLINE_EXCEEDED;
                UNAVAILABLE, the update was lost before it was accepted (retry).
        """
        self.check(request.namespace)
        ask = self.prepare_update(request)
        execution = request.workflow_execution
        wanted = check_stage(request.wait_policy.lifecycle_stage) or UpdateStage.COMPLETED
        begun_s = self.clock.monotonic_s()
        while True:
            slot = await self.cache.find(request.namespace, execution.workflow_id, execution.run_id)
            check_chain(slot, request.first_execution_run_id)
            reached = await self.update(slot, ask, wanted, begun_s, timeout_s)
            if reached is not None:
                return self.update_response(slot, ask.meta.update_id, reached)
            if execution.run_id:
                raise RpcError(StatusCode.NOT_FOUND, "workflow execution already completed")

    def prepare_update(self, request: m.UpdateWorkflowExecutionRequest) -> m.Request:
        """The update itself, checked, with an id. Raises RpcError INVALID_ARGUMENT."""
        if not request.workflow_execution.workflow_id:
            raise invalid("the workflow id is missing")
        ask = request.request
        if not ask.meta.update_id:
            ask.meta.update_id = self.shard.ids.new_id()
        history.check_update(ask, self.limits)
        self.shard.nexus.check_callbacks(ask.completion_callbacks)
        return ask

    async def update(
        self,
        slot: Slot,
        ask: m.Request,
        wanted: UpdateStage,
        begun_s: float,
        timeout_s: float | None,
        *,
        with_start: bool = False,
    ) -> Reached | None:
        """Find or admit an update of a run, and wait for it. None: the run is over, and another has followed it.

        Nothing is awaited before the update is admitted.

        Raises:
            RpcError: as `update_workflow_execution`.
        """
        pending = self._pending(slot, ask.meta.update_id)
        if ask.completion_callbacks:
            self._attach(slot, ask)
        if pending is None:
            stage = history.update_stage(slot.run, ask.meta.update_id)
            if stage is UpdateStage.NONE:
                pending = await self._admit(slot, ask, with_start)
            elif stage > UpdateStage.ACCEPTED:
                return await self._recorded(slot, ask.meta.update_id)
            else:
                pending = self.shard.updates.enter(slot, ask.meta.update_id, stage)
        return await self._follow(slot, pending, wanted, begun_s, timeout_s)

    def _attach(self, slot: Slot, ask: m.Request) -> None:
        """Leave callbacks in an update that is under way. Raises RpcError INVALID_ARGUMENT, FAILED_PRECONDITION."""
        stage = history.update_stage(slot.run, ask.meta.update_id)
        if stage in (UpdateStage.ADMITTED, UpdateStage.ACCEPTED):
            transition = history.attach_to_update(slot.run, ask, limits=self.limits, now_ms=self.clock.now_ms())
            self.shard.apply(slot, transition)

    def _pending(self, slot: Slot, update_id: str) -> PendingUpdate | None:
        return slot.updates.get(update_id) if slot.updates else None

    async def _admit(self, slot: Slot, ask: m.Request, with_start: bool) -> PendingUpdate:
        size = ask.ByteSize()
        updates = self.shard.updates
        try:
            updates.check_room(size)
            transition = history.admit_update(
                slot.run, ask, limits=self.limits, with_start=with_start, now_ms=self.clock.now_ms()
            )
        except RpcError:
            await self.wait_durable(slot)
            raise
        pending = updates.enter(slot, ask.meta.update_id, UpdateStage.ADMITTED, size)
        self.shard.apply(slot, transition)
        return pending

    async def _follow(
        self, slot: Slot, pending: PendingUpdate, wanted: UpdateStage, begun_s: float, timeout_s: float | None
    ) -> Reached | None:
        wait_s = self.config.update_wait_s
        late = timeout_s is not None and timeout_s <= wait_s
        if late and timeout_s is not None:
            wait_s = timeout_s
        pending.callers += 1
        try:
            in_time = await pending.wait(wanted, self.clock, begun_s + wait_s)
            await self.wait_durable(slot)
        finally:
            self.shard.updates.leave(slot, pending)
            self.cache.cool(slot)
        if pending.error is not None:
            raise RpcError(pending.error.code, pending.error.message)
        if pending.moved:
            return None
        if late and not in_time:
            raise RpcError(
                StatusCode.DEADLINE_EXCEEDED,
                f"the update is {pending.stage.name.lower()} and did not get further in {wait_s:g} s;"
                f" is a worker polling the task queue {slot.run.state.task_queue!r}?",
            )
        return Reached(pending.stage, pending.outcome, pending.accepted_event_id)

    async def _recorded(self, slot: Slot, update_id: str) -> Reached:
        """What history says of an update that is over."""
        book = slot.run.state.updates
        assert book is not None, "it has been accepted"
        await self.wait_durable(slot)
        event_id = book.completed.get(update_id)
        if event_id is None:
            return Reached(UpdateStage.COMPLETED, history.abandoned_outcome(), book.accepted[update_id])
        event = await self.reader.event(slot.key, event_id)
        attributes = event.workflow_execution_update_completed_event_attributes
        return Reached(UpdateStage.COMPLETED, attributes.outcome, attributes.accepted_event_id)

    def update_response(self, slot: Slot, update_id: str, reached: Reached) -> m.UpdateWorkflowExecutionResponse:
        """What the caller of an update is told."""
        response = m.UpdateWorkflowExecutionResponse(stage=_Stage.ValueType(reached.stage))
        _refer(response.update_ref, slot, update_id)
        if reached.outcome is not None:
            response.outcome.CopyFrom(reached.outcome)
        if reached.accepted_event_id:
            state = slot.run.state
            link = response.link.workflow_event
            link.namespace = state.namespace
            link.workflow_id = state.workflow_id
            link.run_id = state.run_id
            link.event_ref.event_id = reached.accepted_event_id
            link.event_ref.event_type = _ACCEPTED_EVENT
        return response

    async def poll_workflow_execution_update(
        self, request: m.PollWorkflowExecutionUpdateRequest, *, timeout_s: float | None = None
    ) -> m.PollWorkflowExecutionUpdateResponse:
        """Wait for an update to reach a stage; without one, answer at once.

        Raises:
            RpcError: NOT_FOUND, no such run, or it knows no such update; INVALID_ARGUMENT; DEADLINE_EXCEEDED;
                UNAVAILABLE, the update was lost before it was accepted.
        """
        self.check(request.namespace)
        reference = request.update_ref
        execution = reference.workflow_execution
        update_id = reference.update_id
        if not execution.workflow_id:
            raise invalid("the workflow id is missing")
        if not update_id:
            raise invalid("the update id is missing")
        wanted = check_stage(request.wait_policy.lifecycle_stage)
        begun_s = self.clock.monotonic_s()
        slot = await self.cache.find(request.namespace, execution.workflow_id, execution.run_id)
        reached = await self._poll(slot, update_id, wanted, begun_s, timeout_s)
        if reached is None:
            await self.wait_durable(slot)
            raise RpcError(StatusCode.NOT_FOUND, f"update {update_id!r} not found: it was rejected, lost or never sent")
        response = m.PollWorkflowExecutionUpdateResponse(stage=_Stage.ValueType(reached.stage))
        _refer(response.update_ref, slot, update_id)
        if reached.outcome is not None:
            response.outcome.CopyFrom(reached.outcome)
        return response

    async def _poll(
        self, slot: Slot, update_id: str, wanted: UpdateStage, begun_s: float, timeout_s: float | None
    ) -> Reached | None:
        """How far an update is; None if it is unknown."""
        pending = self._pending(slot, update_id)
        if pending is None:
            stage = history.update_stage(slot.run, update_id)
            if stage is UpdateStage.NONE:
                return None
            if stage > UpdateStage.ACCEPTED:
                return await self._recorded(slot, update_id)
            pending = self.shard.updates.enter(slot, update_id, stage)
        return await self._follow(slot, pending, wanted, begun_s, timeout_s)


def check_stage(stage: int) -> UpdateStage:
    """The stage a caller wants to wait for; NONE if it names none. Raises RpcError INVALID_ARGUMENT."""
    if stage not in _Stage.values():
        raise invalid(f"stage {stage} is unknown: wait for ADMITTED, ACCEPTED or COMPLETED")
    return UpdateStage(stage)


def _refer(reference: m.UpdateRef, slot: Slot, update_id: str) -> None:
    state = slot.run.state
    reference.workflow_execution.workflow_id = state.workflow_id
    reference.workflow_execution.run_id = state.run_id
    reference.update_id = update_id
