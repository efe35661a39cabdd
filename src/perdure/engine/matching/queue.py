"""Task queues: where tasks and pollers meet.

A task goes to the poller that has waited longest, or waits in its queue's backlog in order of arrival, or of rank
while tasks wait that have one (see `ranks`). A backlog entry is a small tuple naming the task, not the task: whoever
takes it checks against the run whether it still stands, so stale entries are harmless and no entry ever has to be
removed.

What is kept: a task is in a backlog, or in the future of one poller, or in the hands of the code that took it. A
poll that is cancelled after a task was put into its future puts the task back at the head of its queue.

Sticky queues belong to one worker. They are alive while a poll waits in them or was seen within `alive_ms`; their
tasks carry an expiry (schedule-to-start), and expired ones go to `on_expired`, which moves them to the normal queue.
Waiting polls of a queue share one timer; it is armed for the earliest expiry and looks again when it rings.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from perdure.engine.history.priorities import Rank
from perdure.engine.matching.ranks import RankedBacklog
from perdure.engine.matching.throttle import Throttle
from perdure.engine.matching.watch import SEEN_MS, QueueWatch

if TYPE_CHECKING:
    from perdure.engine.clock import Clock, Handle
    from perdure.engine.history import ActivityItem
    from perdure.engine.queries import PendingQuery
    from perdure.engine.slot import Slot

__all__ = [
    "ActivityTask",
    "Matching",
    "NexusTask",
    "Poller",
    "QueryTask",
    "Standing",
    "Task",
    "TaskQueue",
    "WorkflowTask",
]

_NEVER_MS = -(1 << 62)


class WorkflowTask(Struct, frozen=True, gc=False):
    """A workflow task that may be handed out."""

    run_key: int
    scheduled_event_id: int
    expires_ms: int = 0
    """When it leaves a sticky queue; 0 in normal queues."""


class QueryTask(Struct, frozen=True):
    """A direct query."""

    query: PendingQuery
    expires_ms: int = 0


class ActivityTask(Struct, frozen=True, gc=False):
    """An attempt of an activity that may be handed out."""

    run_key: int
    scheduled_event_id: int
    attempt: int


class NexusTask(ActivityTask, frozen=True, gc=False):
    """An attempt of a request of a Nexus operation that may be handed out."""

    cancels: bool
    """It asks to cancel the operation, not to start it."""


Task = WorkflowTask | QueryTask | ActivityTask


def _expires_ms(task: Task) -> int:
    return 0 if isinstance(task, ActivityTask) else task.expires_ms


class Standing(Protocol):
    """A worker of this process that takes tasks by a call; see `perdure.engine.direct`."""

    identity: str
    worker_key: str

    def offer(self, task: Task) -> None:
        """Here is a task, which is its own from now on."""
        ...

    def offer_activity(self, slot: Slot, item: ActivityItem, now_ms: int) -> None:
        """Here is an activity of a run in memory."""
        ...

    def close(self) -> None:
        """It gets no more, and gives back what it has not begun. Harmless to repeat."""
        ...


class Poller:
    """A poll that waits. Its future yields a task, or None for an empty answer."""

    __slots__ = ("expires_s", "future", "identity", "worker_key")

    def __init__(self, future: asyncio.Future[Task | None], expires_s: float, identity: str, worker_key: str) -> None:
        self.future = future
        self.expires_s = expires_s
        self.identity = identity
        self.worker_key = worker_key


class TaskQueue:
    """One queue: backlog and waiting polls, never both non-empty for long."""

    __slots__ = (
        "_alarm",
        "_alarm_s",
        "_matching",
        "_pump_alarm",
        "_standing_goes_first",
        "_sticky_alarm",
        "added",
        "backlog",
        "last_poll_ms",
        "name",
        "pollers",
        "sole",
        "standing",
        "throttle",
        "watch",
    )

    def __init__(self, name: str, matching: Matching) -> None:
        self.name = name
        self.backlog: deque[Task] | RankedBacklog = deque()
        self.pollers: deque[Poller] = deque()
        self.standing: deque[Standing] = deque()
        """Who takes what no poll waits for, in turns."""
        self.sole: Standing | None = None
        """The only one of them, if no throttle is in its way: whoever offers a task may go to it at once."""
        self._standing_goes_first = False
        self.last_poll_ms = _NEVER_MS
        self.added = 0
        """Tasks that have come so far."""
        self.watch = QueueWatch(matching.clock.now_ms(), matching.seen_ms)
        self.throttle: Throttle | None = None
        self._pump_alarm: Handle | None = None
        self._matching = matching
        self._alarm: Handle | None = None
        self._alarm_s = 0.0
        self._sticky_alarm: Handle | None = None

    def offer(self, task: Task) -> None:
        """Give the task to a waiting poll, or keep it."""
        self.added += 1
        if self.throttle is not None:
            self.backlog.append(task)
            self._pump()
            return
        self._give(task)

    def _give(self, task: Task) -> None:
        """Give the task to a waiting poll, or a standing one, in turns where there are both; or keep it."""
        pollers = self.pollers
        standing = self.standing
        if standing and (self._standing_goes_first or not pollers):
            self._standing_goes_first = False
            first = standing[0]
            standing.rotate(-1)
            first.offer(task)
            return
        while pollers:
            future = pollers.popleft().future
            if not future.done():
                self._standing_goes_first = True
                self._matching.in_transit += 1
                future.set_result(task)
                return
        if standing:
            standing[0].offer(task)
        else:
            self.backlog.append(task)

    def stand(self, poll: Standing) -> None:
        """A standing poll begins, or goes on: it gets what waits."""
        self.standing.append(poll)
        self._find_sole()
        while poll in self.standing and (task := self.take()) is not None:
            poll.offer(task)
        if self.throttle is not None:
            self._pump()

    def leave(self, poll: Standing) -> None:
        """A standing poll ends, or pauses."""
        self.standing.remove(poll)
        self._find_sole()

    def _find_sole(self) -> None:
        self.sole = self.standing[0] if len(self.standing) == 1 and self.throttle is None else None

    def offer_ranked(self, task: Task, rank: Rank) -> None:
        """As `offer`, for a task with a rank."""
        pollers = self.pollers
        while pollers and pollers[0].future.done():
            pollers.popleft()
        if (pollers or self.standing) and self.throttle is None:
            self.offer(task)
            return
        self.added += 1
        backlog = self.backlog
        if not isinstance(backlog, RankedBacklog):
            backlog = self.backlog = RankedBacklog(backlog)
        backlog.add(task, rank)
        if self.throttle is not None:
            self._pump()

    def offer_sticky(self, task: WorkflowTask | QueryTask) -> None:
        """As `offer`, for a task with an expiry."""
        self.offer(task)
        if self.backlog and self._sticky_alarm is None:
            self._arm_sticky(task.expires_ms)

    def put_back(self, task: Task) -> None:
        """Return a task that was taken and could not be handed over; it is the next to go."""
        if self.throttle is not None:
            self.throttle.give_back()
            self.backlog.appendleft(task)
            self._pump()
        elif self.pollers or self.standing:
            self.added -= 1
            self.offer(task)
        else:
            self.backlog.appendleft(task)
        # It may have been taken without ever lying in the backlog, so that nobody watches its expiry yet.
        if self.backlog and self._sticky_alarm is None and not isinstance(task, ActivityTask) and task.expires_ms:
            self._arm_sticky(task.expires_ms)

    def clear(self) -> list[Task]:
        """Take everything that waits, in order."""
        tasks = list(self.backlog)
        self.backlog = deque()
        return tasks

    def take(self) -> Task | None:
        """The next task, if any may go, without waiting."""
        backlog = self.backlog
        if self.throttle is not None and backlog and not self.throttle.admit(self._matching.clock.monotonic_s()):
            return None
        return backlog.popleft() if backlog else None

    async def wait(self, wait_s: float, identity: str, worker_key: str) -> Task | None:
        """Wait for a task; None when `wait_s` seconds have passed or the worker shuts down.

        Cancelling loses nothing: a task that had already been put into this poll's hands goes back.
        """
        matching = self._matching
        if type(self.backlog) is not deque and not self.backlog:
            self.backlog = deque()  # Nothing waits that has a rank.
        future: asyncio.Future[Task | None] = asyncio.get_running_loop().create_future()
        poller = Poller(future, matching.clock.monotonic_s() + wait_s, identity, worker_key)
        self.pollers.append(poller)
        if self._alarm is None or poller.expires_s < self._alarm_s - 0.05:
            self._arm(poller.expires_s)
        if self.throttle is not None:
            self._pump()
        matching.on_parked()
        try:
            task = await future
        except asyncio.CancelledError:
            if future.cancelled():
                # A task offered before this resumes, or a release, has passed over the poll and dropped it already.
                if poller in self.pollers:
                    self.pollers.remove(poller)
            else:
                task = future.result()
                if task is not None:
                    matching.in_transit -= 1
                    self.put_back(task)
            raise
        if task is not None:
            matching.in_transit -= 1
        return task

    def sample(self, now_ms: int) -> None:
        """Note how many tasks there have been."""
        self.watch.sample(now_ms, self.added, len(self.backlog))

    def set_rate(self, rate: float) -> None:
        """Let no more than `rate` tasks a second go, from now on."""
        if self.throttle is None:
            self.throttle = Throttle(rate, self._matching.clock.monotonic_s())
            self._find_sole()
        elif self.throttle.rate != rate:
            self.throttle.change(rate)

    def _pump(self) -> None:
        """Let tasks go to waiting polls as the throttle allows, and come back for the rest."""
        throttle = self.throttle
        assert throttle is not None, "only a throttled queue is pumped"
        clock = self._matching.clock
        while self.backlog and (self.pollers or self.standing):
            if self.pollers and self.pollers[0].future.done():
                self.pollers.popleft()
            elif throttle.admit(clock.monotonic_s()):
                self._give(self.backlog.popleft())
            else:
                if self._pump_alarm is None:
                    self._pump_alarm = clock.call_later(throttle.wait_s(), self._pump_again)
                return

    def _pump_again(self) -> None:
        self._pump_alarm = None
        self._pump()

    def _arm(self, at_s: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        clock = self._matching.clock
        self._alarm_s = at_s
        self._alarm = clock.call_later(max(0.0, at_s - clock.monotonic_s()), self._expire_pollers)

    def _expire_pollers(self) -> None:
        self._alarm = None
        now_s = self._matching.clock.monotonic_s()
        self.last_poll_ms = self._matching.clock.now_ms()  # They are answered empty, and will be back.
        self.release(lambda poller: poller.expires_s <= now_s)
        if self.pollers:
            self._arm(min(poller.expires_s for poller in self.pollers))

    def release(self, wanted: Callable[[Poller], bool]) -> None:
        """Answer the waiting polls that are `wanted` empty."""
        if not self.pollers:
            return
        kept: deque[Poller] = deque()
        for poller in self.pollers:
            if not wanted(poller):
                kept.append(poller)
            elif not poller.future.done():
                poller.future.set_result(None)
        self.pollers = kept

    def dismiss(self, wanted: Callable[[Poller | Standing], bool]) -> None:
        """End the polls that are `wanted`, waiting or standing."""
        self.release(wanted)
        for standing in list(self.standing):
            if wanted(standing):
                standing.close()

    @property
    def is_idle(self) -> bool:
        """Nobody and nothing waits in it."""
        return not (self.backlog or self.pollers or self.standing)

    def is_alive(self, now_ms: int, alive_ms: int) -> bool:
        """Whether the worker behind a sticky queue still polls it."""
        return bool(self.standing) or bool(self.pollers) or now_ms - self.last_poll_ms < alive_ms

    def _arm_sticky(self, at_ms: int) -> None:
        self._sticky_alarm = self._matching.clock.call_at(at_ms, self._expire_tasks)

    def _expire_tasks(self) -> None:
        self._sticky_alarm = None
        self.expire_until(self._matching.clock.now_ms())
        expiries = (_expires_ms(task) for task in self.backlog)
        next_ms = next((expires_ms for expires_ms in expiries if expires_ms), 0)
        if next_ms:
            self._arm_sticky(next_ms)

    def expire_until(self, now_ms: int) -> None:
        """Hand tasks whose expiry has come to `on_expired`.

        Where a worker calls its sticky queue by the name of a normal one, tasks without an expiry lie among them. They
        stay.
        """
        while self.backlog and 0 < _expires_ms(self.backlog[0]) <= now_ms:
            self._expire(self.backlog.popleft())
        if not self.backlog or _expires_ms(self.backlog[0]):
            return
        for task in self.clear():
            if 0 < _expires_ms(task) <= now_ms:
                self._expire(task)
            else:
                self.backlog.append(task)

    def _expire(self, task: Task) -> None:
        if not isinstance(task, ActivityTask):
            self._matching.on_expired(task)

    def close(self) -> None:
        """Answer every waiting poll empty and forget the timers."""
        self.dismiss(lambda _: True)
        for alarm in (self._alarm, self._sticky_alarm, self._pump_alarm):
            if alarm is not None:
                alarm.cancel()
        self._alarm = self._sticky_alarm = self._pump_alarm = None


_Key = tuple[str, str]


class Matching:
    """All task queues of an engine, by (namespace, name); workflow, activity and Nexus queues apart.

    Args:
        clock: for expiries.
        on_expired: gets tasks that have waited too long in a sticky queue.
        on_parked: called when a poll begins to wait.
        max_queues: idle queues are dropped when there are more.
        seen_ms: pollers that have not been back for this long are forgotten.
    """

    def __init__(
        self,
        clock: Clock,
        on_expired: Callable[[WorkflowTask | QueryTask], None],
        on_parked: Callable[[], None],
        max_queues: int,
        seen_ms: int = SEEN_MS,
    ) -> None:
        self.clock = clock
        self.seen_ms = seen_ms
        self.on_expired = on_expired
        self.on_parked = on_parked
        self.in_transit = 0
        """Tasks in the futures of polls that have not resumed yet."""
        self.workflow: OrderedDict[_Key, TaskQueue] = OrderedDict()
        self.activity: OrderedDict[_Key, TaskQueue] = OrderedDict()
        self.nexus: OrderedDict[_Key, TaskQueue] = OrderedDict()
        self._max_queues = max_queues
        self._shut_workers: OrderedDict[str, None] = OrderedDict()

    def workflow_queue(self, namespace: str, name: str) -> TaskQueue:
        """The queue, made when it is new."""
        return self.workflow.get((namespace, name)) or self._make(self.workflow, (namespace, name))

    def activity_queue(self, namespace: str, name: str) -> TaskQueue:
        """The queue, made when it is new."""
        return self.activity.get((namespace, name)) or self._make(self.activity, (namespace, name))

    def nexus_queue(self, namespace: str, name: str) -> TaskQueue:
        """The queue, made when it is new."""
        return self.nexus.get((namespace, name)) or self._make(self.nexus, (namespace, name))

    def _make(self, queues: OrderedDict[_Key, TaskQueue], key: _Key) -> TaskQueue:
        if len(queues) >= self._max_queues:
            self._drop_idle(queues)
        queue = queues[key] = TaskQueue(key[1], self)
        return queue

    def _drop_idle(self, queues: OrderedDict[_Key, TaskQueue]) -> None:
        for key in [key for key, queue in queues.items() if queue.is_idle]:
            queues.pop(key).close()

    def shut_worker(self, namespace: str, worker_key: str, sticky_queue: str, identity: str, queue: str) -> None:
        """A worker leaves: answer its polls empty, now and later, and free the tasks in its sticky queue.

        Polls are its own when they carry its `worker_key`; without one, when they wait in its sticky queue, or in
        its normal queue `queue` under its `identity`.
        """
        if worker_key:
            self._shut_workers[worker_key] = None
            while len(self._shut_workers) > self._max_queues:
                self._shut_workers.popitem(last=False)
        for queues in (self.workflow, self.activity, self.nexus):
            for (of_namespace, name), task_queue in list(queues.items()):
                if of_namespace != namespace:
                    continue
                mine = bool(identity) and name.partition("\0")[0] == queue
                task_queue.dismiss(
                    lambda poller, mine=mine: (
                        poller.worker_key == worker_key if worker_key else mine and poller.identity == identity
                    )
                )
        sticky = self.workflow.get((namespace, sticky_queue)) if sticky_queue else None
        if sticky is not None:
            sticky.dismiss(lambda _: True)
            sticky.last_poll_ms = _NEVER_MS
            sticky.expire_until(1 << 62)

    def is_shut(self, worker_key: str) -> bool:
        """Whether the worker has said that it leaves."""
        return worker_key in self._shut_workers

    def queues(self) -> Iterator[TaskQueue]:
        """Every queue."""
        yield from self.workflow.values()
        yield from self.activity.values()
        yield from self.nexus.values()

    def has_match(self) -> bool:
        """A task is on its way to a poll."""
        return self.in_transit > 0

    def close(self) -> None:
        """Answer every poll empty."""
        for queue in self.queues():
            queue.close()
