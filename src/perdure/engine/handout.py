"""Handing out tasks: from a backlog entry to the poll response a worker gets.

An entry only names a task; here it is checked against the run, which may have moved on, and turned into a response.
Everything that must be read from the store is read before the task is started, so that a poll that is cancelled in
between leaves the task where it was. From starting the task to the finished response there is no `await`.

"Started" is not written: the run remembers in memory who holds the task (`Slot.handout`, ``run.live``). An activity
for another process is the exception: its start is durable before the task leaves (see `history.hold_activity`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from perdure.api import RpcError
from perdure.api import messages as m
from perdure.api.durations import set_timestamp_ms
from perdure.engine import history
from perdure.engine.matching.queue import ActivityTask, QueryTask, TaskQueue, WorkflowTask
from perdure.engine.queries import PendingQuery
from perdure.engine.reading import HistoryReader, cut
from perdure.engine.responses import activity_response, run_in_activity_response, run_in_task_response, task_response
from perdure.engine.slot import Slot
from perdure.engine.tokens import HistoryToken, Tokens

if TYPE_CHECKING:
    from perdure.engine.shard import Shard

__all__ = ["HandOut"]


class HandOut:
    """Builds poll responses for a shard."""

    def __init__(self, shard: Shard, reader: HistoryReader, tokens: Tokens) -> None:
        self._shard = shard
        self._reader = reader
        self._tokens = tokens
        self._page_events = shard.config.history_page_events
        self._page_bytes = shard.config.history_page_bytes

    # -- workflow tasks --------------------------------------------------------------------------------------------

    def workflow_task_nowait(
        self, queue: TaskQueue, task: WorkflowTask, *, sticky: bool, identity: str, now_ms: int
    ) -> m.PollWorkflowTaskQueueResponse | None:
        """Hand out a workflow task of a run that is in memory, with its history; None to try `workflow_task`."""
        shard = self._shard
        slot = shard.cache.loaded.get(task.run_key)
        if slot is None:
            return None
        state = slot.run.state
        first_id = state.last_task_started_event_id + 1 if sticky else 1
        if (
            history.pending_task_id(slot.run) != task.scheduled_event_id
            or (sticky and state.sticky_queue != queue.name)
            or first_id < state.next_event_id - len(slot.run.live.frames)
            or not history.workflow_task_ready(slot.run, now_ms)
            or (shard.offering.deployments.in_use and not shard.offering.stands(state, queue, sticky=sticky))
        ):
            return None
        return self.start(slot, sticky=sticky, identity=identity, now_ms=now_ms)

    async def workflow_task(
        self, queue: TaskQueue, task: WorkflowTask, *, sticky: bool, identity: str, durable_only: bool
    ) -> m.PollWorkflowTaskQueueResponse | None:
        """Hand out a workflow task; None when the entry no longer stands.

        Args:
            durable_only: wait until what the task shows is durable: its worker is another process.

        Raises:
            RpcError: DATA_LOSS, the run's history is damaged.
        """
        shard = self._shard
        head: list[bytes] = []
        while True:
            slot = shard.cache.loaded.get(task.run_key) or await shard.cache.get(task.run_key)
            if not shard.offering.is_current(slot, task):
                return None
            state = slot.run.state
            if sticky and state.sticky_queue != queue.name:
                if state.task_queue != queue.name:
                    return None
                sticky = False  # The poll took its queue for a sticky one; the entry is the task's only one.
            if shard.offering.deployments.in_use and not shard.offering.stands(state, queue, sticky=sticky):
                shard.offering.move(slot, task, queue)
                return None
            if durable_only and slot.group is not None:
                await slot.group.durable()
                continue
            first_id = slot.run.state.last_task_started_event_id + 1 if sticky else 1
            next_id = first_id + len(head)
            if next_id >= slot.run.frames_first_event_id or head:
                now_ms = shard.clock.now_ms()
                return self.start(slot, sticky=sticky, identity=identity, now_ms=now_ms, head=head)
            page = await self._reader.page(
                task.run_key,
                first_id,
                max_events=self._page_events,
                max_bytes=self._page_bytes,
                durable_only=False,
            )
            head = page.frames
            if not head and slot.gone:
                continue  # It has left memory, perhaps for good.
            if not head:
                raise shard.cache.quarantine(task.run_key, f"its history ends before event {first_id}")

    def start(
        self, slot: Slot, *, sticky: bool, identity: str, now_ms: int, head: list[bytes] | None = None
    ) -> m.PollWorkflowTaskQueueResponse:
        """Start the run's pending workflow task and build its response.

        Args:
            head: the first frames of the history to send, already read.
        """
        run = slot.run
        state = run.state
        first_id = state.last_task_started_event_id + 1 if sticky else 1
        task = self.start_task(slot, sticky=sticky, identity=identity, now_ms=now_ms)
        offering = self._shard.offering
        if offering.deployments.in_use and offering.target_has_changed(state):
            history.tell_target_changed(run)
        handout = slot.handout
        token = slot.token = self._tokens.workflow_task(state.namespace, slot.key, handout)
        frames = self._frames(run, first_id, head or [])
        history_data = b"".join(frames)
        if len(frames) > self._page_events or len(history_data) > self._page_bytes:
            frames = cut(frames, self._page_events, self._page_bytes)
            history_data = b"".join(frames)
        run_head = slot.task_head or self._task_head(slot)
        response = task_response(run_head, token, state, task, history_data)
        next_id = first_id + len(frames)
        if next_id <= task.started_event_id:
            response.next_page_token = self._tokens.history(
                state.namespace,
                HistoryToken(slot.key, next_id, last_event_id=task.started_event_id, handout=handout),
            )
        if slot.queries:
            for query in slot.queries.attach(handout):
                response.queries[str(query.number)].CopyFrom(query.query)
        if run.live.updates:
            response.messages.extend(history.update_messages(run, sticky=sticky))
        return response

    def start_task(self, slot: Slot, *, sticky: bool, identity: str, now_ms: int) -> history.WorkflowTaskLive:
        """Start the run's pending workflow task."""
        shard = self._shard
        handout = slot.handout = shard.number()
        slot.token = b""
        task = history.start_workflow_task(
            slot.run, identity=identity, request_id=str(handout), sticky=sticky, limits=shard.limits, now_ms=now_ms
        )
        if task.deadline_ms < slot.due_ms:
            shard.timers.register(slot, task.deadline_ms)
        return task

    def task_message(
        self, slot: Slot, handout: int, task: history.WorkflowTaskLive, frames: bytes
    ) -> m.PollWorkflowTaskQueueResponse:
        """The response for a task that has been handed out without one; `frames` is its history, all of it."""
        state = slot.run.state
        token = self._tokens.workflow_task(state.namespace, slot.key, handout)
        if slot.handout == handout:
            slot.token = token
        return task_response(slot.task_head or self._task_head(slot), token, state, task, frames)

    async def fill(self, slot: Slot, response: m.PollWorkflowTaskQueueResponse) -> None:
        """Give a task that was started before its history could be read the first page of it.

        Everything it shows must be durable. It is left as it is when the task has ended meanwhile.

        Raises:
            RpcError: DATA_LOSS, the run's history is damaged.
        """
        if response.history.events:
            return
        page = await self._reader.page(
            slot.key, 1, max_events=self._page_events, max_bytes=self._page_bytes, durable_only=True
        )
        if slot.run.live.task is None or slot.token != response.task_token:
            return
        frames = cut(self._frames(slot.run, 1, page.frames), self._page_events, self._page_bytes)
        response.history.MergeFromString(b"".join(frames))
        if len(frames) >= response.started_event_id:
            response.ClearField("next_page_token")
        else:
            token = HistoryToken(
                slot.key, 1 + len(frames), last_event_id=response.started_event_id, handout=slot.handout
            )
            response.next_page_token = self._tokens.history(slot.run.state.namespace, token)

    def _frames(self, run: history.Run, first_id: int, head: list[bytes]) -> list[bytes]:
        """Frames of the held task's history: all there are, or its head if that is not the whole of what is stored."""
        next_id = first_id + len(head)
        if next_id < run.state.next_event_id - len(run.live.frames):
            return head
        frames = history.task_frames(run, next_id)
        return head + frames if head else frames

    def _task_head(self, slot: Slot) -> bytes:
        head = slot.task_head = run_in_task_response(slot.run.state)
        return head

    # -- queries ---------------------------------------------------------------------------------------------------

    async def query(
        self, task: QueryTask, *, sticky: bool, durable_only: bool
    ) -> m.PollWorkflowTaskQueueResponse | None:
        """Hand out a direct query; None when nobody waits for it any more.

        Args:
            durable_only: as for `workflow_task`.

        Raises:
            RpcError: DATA_LOSS, the run's history is damaged.
        """
        query = task.query
        if query.done:
            return None
        slot = await self._shard.cache.get(query.run_key)
        while durable_only and slot.group is not None:
            await slot.group.durable()
            slot = await self._shard.cache.get(query.run_key)
        frames: list[bytes] = []
        if not sticky:
            page = await self._reader.page(
                slot.key, 1, max_events=self._page_events, max_bytes=self._page_bytes, durable_only=False
            )
            frames = page.frames
        if query.done or slot.gone:
            return None
        return self._query_response(slot, query, frames, sticky=sticky)

    def _query_response(
        self, slot: Slot, query: PendingQuery, frames: list[bytes], *, sticky: bool
    ) -> m.PollWorkflowTaskQueueResponse:
        state = slot.run.state
        response = m.PollWorkflowTaskQueueResponse.FromString(slot.task_head or self._task_head(slot))
        response.task_token = self._tokens.query(state.namespace, slot.key, query.number)
        response.previous_started_event_id = state.last_task_started_event_id
        response.attempt = 1
        response.query.CopyFrom(query.query)
        now_ms = self._shard.clock.now_ms()
        set_timestamp_ms(response.scheduled_time, now_ms)
        set_timestamp_ms(response.started_time, now_ms)
        response.history.MergeFromString(b"".join(frames))
        last_id = state.next_event_id - 1
        if not sticky and len(frames) < last_id:
            response.next_page_token = self._tokens.history(
                state.namespace, HistoryToken(slot.key, len(frames) + 1, last_event_id=last_id)
            )
        return response

    # -- activities ------------------------------------------------------------------------------------------------

    def activity_nowait(self, task: ActivityTask, identity: str) -> m.PollActivityTaskQueueResponse | None:
        """Hand out an activity whose run is in memory and whose Scheduled event is, too; else None."""
        slot = self._shard.cache.loaded.get(task.run_key)
        if slot is None:
            return None
        asked = slot.run.live.scheduled.get(task.scheduled_event_id)
        if asked is None:
            return None
        return self._start_and_answer(slot, task, asked, identity)

    async def activity(self, task: ActivityTask, identity: str) -> m.PollActivityTaskQueueResponse | None:
        """Hand out an activity; None when the entry no longer stands.

        Raises:
            RpcError: DATA_LOSS, the run is damaged.
        """
        found = await self.find_activity(task)
        return None if found is None else self._start_and_answer(found[0], task, found[1], identity)

    async def find_activity(self, task: ActivityTask) -> tuple[Slot, history.Asked] | None:
        """The run of an activity that waits, and what its Scheduled event says; None when the entry no longer stands.

        Raises:
            RpcError: DATA_LOSS, the run is damaged.
        """
        slot = await self._shard.cache.get(task.run_key)
        if not self._is_waiting(slot, task):
            return None
        asked = slot.run.live.scheduled.get(task.scheduled_event_id)
        if asked is None:
            try:
                event = await self._reader.event(task.run_key, task.scheduled_event_id)
            except RpcError:
                if slot.gone:
                    return None  # Erased while it was read, or damaged, which its next caller is told.
                raise
            asked = history.asked_by(event.activity_task_scheduled_event_attributes)
            slot = await self._shard.cache.get(task.run_key)
            if not self._is_waiting(slot, task):
                return None
        return slot, asked

    async def activity_elsewhere(self, task: ActivityTask, identity: str) -> m.PollActivityTaskQueueResponse | None:
        """Hand out an activity to a worker of another process: as `activity`, and its start is durable.

        When the caller gives up meanwhile the attempt is free again; the entry is the caller's to put back.

        Raises:
            RpcError: DATA_LOSS, the run is damaged; UNAVAILABLE or RESOURCE_EXHAUSTED, the start could not be written.
        """
        response = self.activity_nowait(task, identity) or await self.activity(task, identity)
        if response is None:
            return None
        shard = self._shard
        slot = shard.cache.loaded[task.run_key]
        holding = history.hold_activity(slot.run, task.scheduled_event_id, now_ms=shard.clock.now_ms())
        try:
            await shard.apply(slot, holding).durable()
        except asyncio.CancelledError:
            self.release_activity(slot, task)
            raise
        history.activity_left(slot.run, task.scheduled_event_id)
        return response

    def release_activity(self, slot: Slot, task: ActivityTask) -> None:
        """Nobody was there to take the attempt: it is free again."""
        if slot.gone:
            return  # Its start was lost with the run.
        released = history.release_activity(
            slot.run, task.scheduled_event_id, task.attempt, now_ms=self._shard.clock.now_ms()
        )
        self._shard.apply(slot, released)
        self._shard.register(slot)

    def _is_waiting(self, slot: Slot, task: ActivityTask) -> bool:
        item = slot.run.state.items.get(task.scheduled_event_id)
        return (
            isinstance(item, history.ActivityItem)
            and item.attempt == task.attempt
            and task.scheduled_event_id not in slot.run.live.activities
        )

    def _start_and_answer(
        self, slot: Slot, task: ActivityTask, asked: history.Asked, identity: str
    ) -> m.PollActivityTaskQueueResponse | None:
        if not self._is_waiting(slot, task):
            return None
        shard = self._shard
        run = slot.run
        event_id = task.scheduled_event_id
        try:
            live = history.start_activity(run, event_id, identity=identity, now_ms=shard.clock.now_ms())
        except RpcError:
            return None  # Its back-off is not over, or it is held: another entry comes when it is due.
        deadlines = run.live.deadlines
        if deadlines and deadlines[0][0] < slot.due_ms:
            shard.register(slot)
        item = run.state.items[event_id]
        assert isinstance(item, history.ActivityItem), "it waits"
        return self.activity_message(slot, item, live, asked)

    def activity_message(
        self, slot: Slot, item: history.ActivityItem, live: history.ActivityLive, asked: history.Asked
    ) -> m.PollActivityTaskQueueResponse:
        """The response for an attempt that has been started; makes its token."""
        state = slot.run.state
        live.token = self._tokens.activity(state.namespace, slot.key, item.event_id, item.attempt)
        head = slot.activity_head
        if not head:
            head = slot.activity_head = run_in_activity_response(state)
        said = asked.task()
        if item.control is not None:
            said = history.told_of_activity(item, said)
        return activity_response(head, live.token, item, said, live.started_at_ms)
