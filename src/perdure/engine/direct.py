"""The engine's end of the short way (see `perdure.api.direct`): standing polls.

A standing poll lies in its queue beside the polls that wait there, and gets what none of them takes. Activities are
handed over in the turn that offers them, which is that of the commit; workflow tasks in the next turn, all that have
gathered by then, so that code never runs inside of a transition. A run that is not in memory is read first.

What is handed over is started by the same decisions as for a poll, and held in the same places (``run.live``); only
the message and its token are left out until somebody asks for them. A task whose run has been read again since
(`Slot.gone`), or which is not the one held any more, is answered by message.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.api.direct import ActivityTaker, Command, Step, WorkflowTaker
from perdure.engine import history
from perdure.engine.history import ActivityItem, ActivityLive, Asked, Manner, WorkflowTaskLive
from perdure.engine.matching.queue import ActivityTask, QueryTask, Task, TaskQueue, WorkflowTask
from perdure.engine.reads import GONE
from perdure.engine.slot import HeldActivity, Slot

if TYPE_CHECKING:
    from perdure.engine.engine import Engine

__all__ = ["HandedActivity", "HandedWorkflowTask", "StandingActivityPoll", "StandingWorkflowPoll"]

_TASKS_A_TURN = 64
"""Workflow tasks handed over in one turn of the event loop."""


def _by_message() -> RpcError:
    return RpcError(StatusCode.UNAVAILABLE, "the run has been read again since the task was handed out")


class StandingPoll(ABC):
    """What both kinds share: a place in a queue, as long as it is neither paused nor closed.

    Args:
        engine: started.
        queue: whose tasks.
        identity: the worker's, for histories.
        worker_key: the worker's own name for itself; may be empty.
    """

    def __init__(self, engine: Engine, queue: TaskQueue, identity: str, worker_key: str) -> None:
        self.identity = identity
        self.worker_key = worker_key
        self.engine = engine
        self.shard = engine.shard
        self.hand_out = engine.hand_out
        self._queue = queue
        self._paused = True
        self._closed = False

    def pause(self) -> None:
        """See `perdure.api.direct.StandingPoll`."""
        if not self._paused:
            self._paused = True
            self._queue.leave(self)

    def resume(self) -> None:
        """See `perdure.api.direct.StandingPoll`."""
        if not self._paused or self._closed:
            return
        self._paused = False
        self._queue.stand(self)

    def close(self) -> None:
        """See `perdure.api.direct.StandingPoll`."""
        self._closed = True
        self.pause()

    @abstractmethod
    def offer(self, task: Task) -> None:
        """Here is a task of the queue: it is this poll's now."""

    def offer_activity(self, slot: Slot, item: ActivityItem, now_ms: int) -> None:
        """Here is an activity of the queue, of a run in memory."""
        raise NotImplementedError

    def _sample(self, now_ms: int) -> None:
        """Note for those who describe the queue what has gone by."""
        self._queue.watch.seen[self.identity] = now_ms
        self._queue.sample(now_ms)

    def _read_first(self, task: Task) -> None:
        """Hand over a task of a run that is not in memory, or not all that its task shows."""
        self.shard.spawn(self._read(task))

    async def _read(self, task: Task) -> None:
        try:
            await self._read_and_hand_over(task)
        except asyncio.CancelledError:
            self._queue.put_back(task)
            raise
        except RpcError as error:
            if error.code not in GONE:
                clock = self.shard.clock
                clock.call_at(clock.now_ms() + self.shard.config.retry_ms, partial(self._queue.put_back, task))

    @abstractmethod
    async def _read_and_hand_over(self, task: Task) -> None:
        """Read the task's run and hand the task over, unless it no longer stands. Raises RpcError."""


# Activities


class HandedActivity(Struct, eq=False):
    """An attempt of an activity that a worker of this process holds; a `perdure.api.direct.ActivityTask`."""

    run_id: str
    activity_type: str
    input: bytes
    start_to_close_ms: int
    poll: StandingActivityPoll
    slot: Slot
    item: ActivityItem
    attempt: int
    live: ActivityLive
    asked: Asked

    def message(self) -> m.PollActivityTaskQueueResponse:
        """What a poll would have brought."""
        item = self.item
        if item.attempt != self.attempt:  # It is at its next one already.
            item = structs.replace(item, attempt=self.attempt)
        return self.poll.hand_out.activity_message(self.slot, item, self.live, self.asked)

    def complete(self, result: bytes, lost: Callable[[RpcError], None]) -> None:
        """It has succeeded; see the protocol."""
        poll = self.poll
        slot = self.slot
        run = slot.run
        event_id = self.item.event_id
        live = self.live
        if slot.gone or run.live.activities.get(event_id) is not live or not poll.engine.running:
            raise _by_message()
        shard = poll.shard
        transition = history.complete_activity(
            run,
            event_id,
            self.attempt,
            result,
            identity=poll.identity,
            limits=shard.limits,
            now_ms=shard.clock.now_ms(),
        )
        # Held until its end is durable: a failed commit must not start it again.
        slot.settled.append(HeldActivity(event_id, self.attempt, live, lost))
        shard.apply(slot, transition)


class StandingActivityPoll(StandingPoll):
    """Gives activities to a worker."""

    def __init__(
        self, engine: Engine, queue: TaskQueue, request: m.PollActivityTaskQueueRequest, taker: ActivityTaker
    ) -> None:
        super().__init__(engine, queue, request.identity, request.worker_instance_key)
        self._take = taker.take_activity

    def offer(self, task: Task) -> None:
        assert isinstance(task, ActivityTask), "activity queues hold activity tasks"
        slot = self.shard.cache.loaded.get(task.run_key)
        if slot is None:
            self._read_first(task)
            return
        item = slot.run.state.items.get(task.scheduled_event_id)
        if isinstance(item, ActivityItem) and item.attempt == task.attempt:
            self.offer_activity(slot, item, self.shard.clock.now_ms())

    def offer_activity(self, slot: Slot, item: ActivityItem, now_ms: int) -> None:
        asked = slot.run.live.scheduled.get(item.event_id)
        if asked is None:
            self._read_first(ActivityTask(slot.key, item.event_id, item.attempt))
        else:
            self._hand_over(slot, item, asked, now_ms)

    def _hand_over(self, slot: Slot, item: ActivityItem, asked: Asked, now_ms: int) -> None:
        run = slot.run
        try:
            live = history.start_activity(run, item.event_id, identity=self.identity, now_ms=now_ms)
        except RpcError:
            return  # It is held, or not due yet: another entry comes when it is.
        deadlines = run.live.deadlines
        if deadlines and deadlines[0][0] < slot.due_ms:
            self.shard.register(slot)
        if now_ms >= self._queue.watch.sample_due_ms:
            self._sample(now_ms)
        self._take(
            HandedActivity(
                run.state.run_id,
                item.activity_type,
                asked.payloads(),
                item.start_to_close_ms,
                self,
                slot,
                item,
                item.attempt,
                live,
                asked,
            )
        )

    async def _read_and_hand_over(self, task: Task) -> None:
        assert isinstance(task, ActivityTask), "activity queues hold activity tasks"
        found = await self.hand_out.find_activity(task)
        if found is None:
            return
        slot, asked = found
        if self._paused:
            self._queue.put_back(task)
            return
        item = slot.run.state.items[task.scheduled_event_id]
        assert isinstance(item, ActivityItem), "it waits"
        self._hand_over(slot, item, asked, self.shard.clock.now_ms())


# Workflow tasks


class HandedWorkflowTask(Struct, eq=False):
    """A workflow task that a worker of this process holds; a `perdure.api.direct.WorkflowTask`."""

    run_id: str
    workflow_id: str
    workflow_type: str
    first_event_id: int
    step: Step | None
    recent: list[bytes]
    """Frames up to the one before the task's Started event, perhaps more at either end."""
    frames: tuple[int, int]
    """Where in `recent` the task's history begins, and where it ends."""
    poll: StandingWorkflowPoll
    slot: Slot
    handout: int
    live: WorkflowTaskLive

    @property
    def history(self) -> bytes:
        """Put together when it is asked for, as a step tells the same."""
        begin, end = self.frames
        return b"".join(self.recent[begin:end]) + self.live.started_frame

    def message(self) -> m.PollWorkflowTaskQueueResponse:
        """What a poll would have brought."""
        return self.poll.hand_out.task_message(self.slot, self.handout, self.live, self.history)

    def complete(self, commands: Sequence[Command]) -> None:
        """The code has come to rest; see the protocol."""
        poll = self.poll
        slot = self.slot
        run = slot.run
        if slot.gone or run.live.task is not self.live:
            raise RpcError(StatusCode.NOT_FOUND, "workflow task not found: it has timed out or its run was lost")
        if not poll.engine.running:
            poll.engine.check_running()
        shard = poll.shard
        transition = history.carry_out(
            run,
            commands,
            poll.manner,
            limits=shard.limits,
            new_id=shard.ids.new_id,
            attributes=shard.namespaces.by_name[run.state.namespace].attributes,
            now_ms=shard.clock.now_ms(),
        )
        shard.apply(slot, transition)
        if transition.error is not None:
            raise transition.error


class StandingWorkflowPoll(StandingPoll):
    """Gives workflow tasks to a worker."""

    def __init__(
        self,
        engine: Engine,
        queue: TaskQueue,
        request: m.PollWorkflowTaskQueueRequest,
        completion: m.RespondWorkflowTaskCompletedRequest,
        taker: WorkflowTaker,
    ) -> None:
        super().__init__(engine, queue, request.identity, request.worker_instance_key)
        self.manner: Manner = history.manner_of(completion)
        self.taker = taker
        self._take = taker.take_workflow_task
        self._sticky = request.task_queue.kind == m.TaskQueueKind.TASK_QUEUE_KIND_STICKY
        self._inbox: deque[Task] = deque()
        self._loop = asyncio.get_running_loop()
        # Not that of whoever happens to offer a task: an activity's, say.
        self._context = copy_context()
        self._expected = False
        """A turn is asked for."""
        self._page_events = self.shard.config.history_page_events
        self._limits = self.shard.limits
        self._loaded = self.shard.cache.loaded
        self._name = queue.name

    def offer(self, task: Task) -> None:
        self._inbox.append(task)
        self.shard.matching.in_transit += 1
        if not self._expected:
            self._expected = True
            self._loop.call_soon(self._turn, context=self._context)

    def close(self) -> None:
        super().close()
        self._return()

    def _turn(self) -> None:
        """Hand over what has gathered."""
        self._expected = False
        inbox = self._inbox
        matching = self.shard.matching
        now_ms = self.shard.clock.now_ms()
        if now_ms >= self._queue.watch.sample_due_ms:
            self._sample(now_ms)
        for _ in range(_TASKS_A_TURN):
            if not inbox or self._paused:
                break
            matching.in_transit -= 1
            self._hand_over(inbox.popleft(), now_ms)
        if self._paused:
            self._return()
        elif inbox:
            self._expected = True
            self._loop.call_soon(self._turn, context=self._context)
        self.shard.on_settled()

    def _return(self) -> None:
        """What has not been handed over goes back to the queue."""
        inbox = self._inbox
        self.shard.matching.in_transit -= len(inbox)
        while inbox:
            self._queue.put_back(inbox.pop())

    def _hand_over(self, task: Task, now_ms: int) -> None:
        slot = self._loaded.get(task.run_key) if isinstance(task, WorkflowTask) else None
        if slot is None or not isinstance(task, WorkflowTask):
            self._read_first(task)
            return
        run = slot.run
        state = run.state
        live = run.live
        if state.task_attempt > 1 or slot.queries or live.updates or live.speculative:
            self._read_first(task)  # It brings more than new events.
            return
        sticky = self._sticky
        if (
            state.task_scheduled_event_id != task.scheduled_event_id
            or live.task is not None
            or state.task_not_before_ms > now_ms
            or (sticky and state.sticky_queue != self._name)
        ):
            return  # The entry no longer stands.
        first_id = state.last_task_started_event_id + 1 if sticky else 1
        recent = live.frames
        known = len(recent)
        begin = first_id - state.next_event_id + known
        if begin < 0 or known > self._page_events:
            self._read_first(task)
            return
        shard = self.shard
        handout = slot.handout = shard.next_number = shard.next_number + 1
        slot.token = b""
        started = history.start_workflow_task(
            run, identity=self.identity, request_id=str(handout), sticky=sticky, limits=self._limits, now_ms=now_ms
        )
        slot.taker = self.taker
        news = live.news
        step = None
        # Whether the task's events are those that the news tell of, and no more (see `News`).
        if news is not None and known - begin == 2 + len(news.scheduled) + 2 * len(news.completed):
            step = Step(
                news.scheduled,
                news.completed,
                started.started_event_id,
                started.started_at_ms,
                state.history_bytes,
                started.suggests,
            )
        self._take(
            HandedWorkflowTask(
                state.run_id,
                state.workflow_id,
                state.workflow_type,
                first_id,
                step,
                recent,
                (begin, known),
                self,
                slot,
                handout,
                started,
            )
        )
        # Most tasks are done by now, and need no deadline.
        if run.live.task is started and started.deadline_ms < slot.due_ms:
            shard.timers.register(slot, started.deadline_ms)

    async def _read_and_hand_over(self, task: Task) -> None:
        if isinstance(task, QueryTask):
            message = await self.hand_out.query(task, sticky=self._sticky, durable_only=False)
        else:
            assert isinstance(task, WorkflowTask), "workflow queues hold workflow tasks and queries"
            message = await self.hand_out.workflow_task(
                self._queue, task, sticky=self._sticky, identity=self.identity, durable_only=False
            )
        if message is None:
            return
        if not self._closed:
            self.taker.take_message(message)
        elif isinstance(task, QueryTask):
            self._queue.put_back(task)
        else:
            slot = self.shard.cache.loaded[task.run_key]
            self.shard.apply(slot, history.release_workflow_task(slot.run, now_ms=self.shard.clock.now_ms()))
