"""Tasks that a worker gets in the answer to a call of its own, without polling.

A client that is also a worker may ask for the first workflow task in the answer to its start; a worker may ask for
activities it has just scheduled, and for the next workflow task, in the answer to its completion. Such tasks are
handed out in the same turn as the transition that made them, so that they never lie in a queue, and one commit holds
both; the answer leaves after it. When the caller has gone by then, the tasks are taken back.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from perdure.api import messages as m
from perdure.engine import history
from perdure.engine.history import Transition
from perdure.engine.matching.queue import ActivityTask
from perdure.engine.slot import Slot
from perdure.engine.starts import Started
from perdure.engine.tokens import same, scheduled_event_id_of

if TYPE_CHECKING:
    from perdure.engine.handout import HandOut
    from perdure.engine.shard import Shard

__all__ = ["Eager"]


class Eager:
    """Hands out tasks of a shard ahead of its queues."""

    def __init__(self, shard: Shard, hand_out: HandOut) -> None:
        self._shard = shard
        self._hand_out = hand_out

    def first_task(self, started: Started, identity: str) -> m.PollWorkflowTaskQueueResponse | None:
        """The first workflow task of a run that was started without offering it; None if the run is not new."""
        if not started.is_new:
            return None
        slot = started.slot
        now_ms = self._shard.clock.now_ms()
        if not history.workflow_task_ready(slot.run, now_ms):
            return None
        return self._hand_out.start(slot, sticky=False, identity=identity, now_ms=now_ms)

    def activities(
        self, slot: Slot, transition: Transition, identity: str, *, elsewhere: bool
    ) -> list[m.PollActivityTaskQueueResponse]:
        """The activities asked for by the completion that brought about `transition`, which has yet to be applied.

        Args:
            elsewhere: the worker is another process.
        """
        taken: list[m.PollActivityTaskQueueResponse] = []
        for event_id in transition.eager or ():
            if event_id not in transition.activities:
                continue  # A later command has cancelled it, or has closed the run.
            response = self._hand_out.activity_nowait(ActivityTask(slot.key, event_id, 1), identity)
            if response is None:
                continue
            transition.activities.remove(event_id)
            if elsewhere:
                history.hold_activity(slot.run, event_id, now_ms=transition.now_ms)
            taken.append(response)
        return taken

    def left(self, slot: Slot, activities: Iterable[m.PollActivityTaskQueueResponse]) -> None:
        """The answer is on its way."""
        for response in activities:
            history.activity_left(slot.run, scheduled_event_id_of(response.task_token))

    def take_back(
        self, slot: Slot, workflow_task: bytes, activities: Iterable[m.PollActivityTaskQueueResponse] = ()
    ) -> None:
        """Nobody was there to take the answer.

        Args:
            workflow_task: the token of the workflow task in it; empty if there was none.
        """
        shard = self._shard
        if slot.gone:
            return  # The tasks were lost with the run.
        if workflow_task and slot.run.live.task is not None and same(slot.token, workflow_task):
            shard.apply(slot, history.release_workflow_task(slot.run, now_ms=shard.clock.now_ms()))
        for response in activities:
            event_id = scheduled_event_id_of(response.task_token)
            task = ActivityTask(slot.key, event_id, response.attempt)
            self._hand_out.release_activity(slot, task)
            shard.offering.activities(slot, [event_id])
