"""Handing out tasks: from a backlog entry to the poll response a worker gets.

An entry only names a task; here it is checked against the run, which may have moved on, and turned into a response.
Everything that must be read from the store is read before the task is started, so that a poll that is cancelled in
between leaves the task where it was. From starting the task to the finished response there is no `await`.

"Started" is not written: the run remembers in memory who holds the task (`Slot.handout`, ``run.live``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.timestamp_pb2 import Timestamp

from perdure.api import RpcError
from perdure.api import messages as m
from perdure.engine import history
from perdure.engine.matching.queue import ActivityTask, QueryTask, TaskQueue, WorkflowTask
from perdure.engine.queries import PendingQuery
from perdure.engine.reading import HistoryReader, cut
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
            if not shard.is_current(slot, task) or (sticky and slot.run.state.sticky_queue != queue.name):
                return None
            if durable_only and slot.group is not None:
                await slot.group.durable()
                continue
            first_id = slot.run.state.last_task_started_event_id + 1 if sticky else 1
            next_id = first_id + len(head)
            if next_id >= slot.run.frames_first_event_id or head:
                return self.start(slot, sticky=sticky, identity=identity, head=head)
            page = await self._reader.page(
                task.run_key,
                first_id,
                max_events=self._page_events,
                max_bytes=self._page_bytes,
                durable_only=False,
            )
            head = page.frames

    def start(
        self, slot: Slot, *, sticky: bool, identity: str, head: list[bytes] | None = None
    ) -> m.PollWorkflowTaskQueueResponse:
        """Start the run's pending workflow task and build its response.

        Args:
            head: the first frames of the history to send, already read.
        """
        shard = self._shard
        run = slot.run
        state = run.state
        first_id = state.last_task_started_event_id + 1 if sticky else 1
        handout = slot.handout = shard.number()
        now_ms = shard.clock.now_ms()
        history.start_workflow_task(
            run, identity=identity, request_id=str(handout), sticky=sticky, limits=shard.limits, now_ms=now_ms
        )
        shard.register(slot)
        task = run.live.task
        assert task is not None, "a workflow task that was started is live"
        response = m.PollWorkflowTaskQueueResponse.FromString(slot.task_head)
        response.task_token = self._tokens.workflow_task(state.namespace, slot.key, handout)
        response.previous_started_event_id = state.last_task_started_event_id
        response.started_event_id = task.started_event_id
        response.attempt = task.attempt
        _set_ms(response.scheduled_time, state.task_scheduled_at_ms)
        _set_ms(response.started_time, now_ms)
        next_id = self._set_history(response, run, first_id, head or [])
        if next_id <= task.started_event_id:
            response.next_page_token = self._tokens.history(
                state.namespace,
                HistoryToken(slot.key, next_id, last_event_id=task.started_event_id, handout=handout),
            )
        if slot.queries:
            for query in slot.queries.attach(handout):
                response.queries[str(query.number)].CopyFrom(query.query)
        return response

    def _set_history(
        self, response: m.PollWorkflowTaskQueueResponse, run: history.Run, first_id: int, head: list[bytes]
    ) -> int:
        """Put as many events as fit a page into the response; returns the id of the next one."""
        frames = head
        next_id = first_id + len(head)
        if next_id >= run.frames_first_event_id:
            frames = head + history.task_frames(run, next_id)
            frames = cut(frames, self._page_events, self._page_bytes)
        response.history.MergeFromString(b"".join(frames))
        return first_id + len(frames)

    # -- queries ---------------------------------------------------------------------------------------------------

    async def query(self, task: QueryTask, *, sticky: bool) -> m.PollWorkflowTaskQueueResponse | None:
        """Hand out a direct query; None when nobody waits for it any more.

        Raises:
            RpcError: DATA_LOSS, the run's history is damaged.
        """
        query = task.query
        if query.done:
            return None
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
        response = m.PollWorkflowTaskQueueResponse.FromString(slot.task_head)
        response.task_token = self._tokens.query(state.namespace, slot.key, query.number)
        response.previous_started_event_id = state.last_task_started_event_id
        response.attempt = 1
        response.query.CopyFrom(query.query)
        now_ms = self._shard.clock.now_ms()
        _set_ms(response.scheduled_time, now_ms)
        _set_ms(response.started_time, now_ms)
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
        event = slot.run.live.scheduled.get(task.scheduled_event_id)
        if event is None or not self._is_waiting(slot, task):
            return None
        return self._start_activity(slot, task, event, identity)

    async def activity(self, task: ActivityTask, identity: str) -> m.PollActivityTaskQueueResponse | None:
        """Hand out an activity; None when the entry no longer stands.

        Raises:
            RpcError: DATA_LOSS, the run is damaged.
        """
        slot = await self._shard.cache.get(task.run_key)
        if not self._is_waiting(slot, task):
            return None
        event = slot.run.live.scheduled.get(task.scheduled_event_id)
        if event is None:
            event = await self._reader.event(task.run_key, task.scheduled_event_id)
            slot = await self._shard.cache.get(task.run_key)
            if not self._is_waiting(slot, task):
                return None
        return self._start_activity(slot, task, event, identity)

    def _is_waiting(self, slot: Slot, task: ActivityTask) -> bool:
        item = slot.run.state.items.get(task.scheduled_event_id)
        return (
            isinstance(item, history.ActivityItem)
            and item.attempt == task.attempt
            and task.scheduled_event_id not in slot.run.live.activities
        )

    def _start_activity(
        self, slot: Slot, task: ActivityTask, event: m.HistoryEvent, identity: str
    ) -> m.PollActivityTaskQueueResponse | None:
        shard = self._shard
        run = slot.run
        state = run.state
        now_ms = shard.clock.now_ms()
        try:
            item = history.start_activity(run, task.scheduled_event_id, identity=identity, now_ms=now_ms)
        except RpcError:
            return None  # Its back-off is not over, or it is held: another entry comes when it is due.
        shard.register(slot)
        about = event.activity_task_scheduled_event_attributes
        response = m.PollActivityTaskQueueResponse.FromString(slot.activity_head)
        response.task_token = self._tokens.activity(state.namespace, slot.key, item.event_id, item.attempt)
        response.activity_id = item.activity_id
        response.attempt = item.attempt
        response.activity_type.name = item.activity_type
        _copy_options(about, response)
        _set_ms(response.scheduled_time, item.scheduled_at_ms)
        _set_ms(response.current_attempt_scheduled_time, item.attempt_scheduled_at_ms or item.scheduled_at_ms)
        _set_ms(response.started_time, now_ms)
        if item.heartbeat_details:
            response.heartbeat_details.MergeFromString(item.heartbeat_details)
        return response


def _copy_options(about: m.ActivityTaskScheduledEventAttributes, response: m.PollActivityTaskQueueResponse) -> None:
    """What the workflow said of the activity; only what is set travels."""
    if about.HasField("header"):
        response.header.CopyFrom(about.header)
    if about.HasField("input"):
        response.input.CopyFrom(about.input)
    if about.HasField("retry_policy"):
        response.retry_policy.CopyFrom(about.retry_policy)
    if about.HasField("schedule_to_close_timeout"):
        response.schedule_to_close_timeout.CopyFrom(about.schedule_to_close_timeout)
    if about.HasField("start_to_close_timeout"):
        response.start_to_close_timeout.CopyFrom(about.start_to_close_timeout)
    if about.HasField("heartbeat_timeout"):
        response.heartbeat_timeout.CopyFrom(about.heartbeat_timeout)
    if about.HasField("priority"):
        response.priority.CopyFrom(about.priority)


def _set_ms(timestamp: Timestamp, at_ms: int) -> None:
    seconds, ms = divmod(at_ms, 1000)
    timestamp.seconds = seconds
    if ms:
        timestamp.nanos = ms * 1_000_000
