"""All schedules of an engine: kept in memory, durable with the runs they start, woken by the clock.

A schedule is a definition and a state (`state`), each a row of its own in the store. All of them are read when the
engine starts, before any run is; what takes time, compiling their specs, waits until they are due. What a schedule
does is decided in `stepping`; here its decisions meet the shard.

Exactly once. A schedule's state changes in the same commit group as what it speaks of:

- an action that is due moves from the calendar into the buffer, and on into `starting`, by changes of the state alone;
- its workflow's start and the move from `starting` to `running` happen in one turn of the event loop, so one group;
- a workflow's end and the move out of `running` do, too: the shard tells of each run that ends (`closed`), so nobody
  polls, and nothing is to be looked for after a restart.

A crash, or a commit that fails, therefore leaves an action either where it was or where it goes. Should a start have
been committed by itself all the same, its request id, which follows from the action, finds the run.

A group that is lost takes its schedules back to their last durable rows (`lost`), which are kept beside them.

Each schedule has one worker at a time, a task of the shard's, from when there is something to do until there is not.
A refusal that may pass is tried again after a while; any other drops the action, as there is nobody to tell.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.engine import history
from perdure.engine.reads import read
from perdure.engine.schedules import stepping
from perdure.engine.schedules.definition import Definition, start_request
from perdure.engine.schedules.state import Action, Running, State, decode, encode, unseal
from perdure.engine.starts import start_workflow
from perdure.engine.store.port import Batch, ScheduleRow

if TYPE_CHECKING:
    from perdure.engine.clock import Handle
    from perdure.engine.commit import CommitFuture, Group
    from perdure.engine.history import Transition
    from perdure.engine.shard import Shard
    from perdure.engine.slot import Slot

__all__ = ["Key", "Schedule", "Schedules"]

SCHEDULES_MAX: Final = 100_000
"""Of one engine."""
_PAGE: Final = 500
"""Rows read at a time when the engine starts."""
_AGAIN_MS: Final = 1_000
"""When a step that was refused for the moment is tried again."""
_AGAIN: Final = frozenset((StatusCode.UNAVAILABLE, StatusCode.RESOURCE_EXHAUSTED, StatusCode.ABORTED))
_STALE_FACTOR: Final = 4
"""Entries in the heap of wakes for each schedule; beyond it stale ones are cleared out."""
_IDENTITY: Final = "temporal-scheduler"
_RUNNING: Final = m.WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_RUNNING
_TERMINATED: Final = m.WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_TERMINATED
_TIMED_OUT: Final = m.WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_TIMED_OUT

Key = tuple[str, str]
"""(namespace, schedule id)"""


class Schedule:
    """A schedule in memory.

    Args:
        key: whose it is.
        definition: what it was asked to be.
        state: how far it is.
    """

    __slots__ = ("armed_ms", "definition", "group", "key", "state", "verified")

    def __init__(self, key: Key, definition: Definition, state: State) -> None:
        self.key = key
        self.definition = definition
        self.state = state
        self.group: Group | None = None
        """The last one with changes of it, until that is durable."""
        self.armed_ms: int | None = None
        """When it is woken next."""
        self.verified = False
        """The workflows it waits for have been looked at since it was read."""


class Schedules:
    """The schedules of a shard.

    Args:
        shard: starts and ends the workflows.
    """

    def __init__(self, shard: Shard) -> None:
        self.known: dict[Key, Schedule] = {}
        self.watched: dict[tuple[str, str], Key] = {}
        """Workflows that were started and have not ended, by namespace and workflow id, and whose they are."""
        self._shard = shard
        self._durable: dict[Key, tuple[bytes, bytes]] = {}
        """Rows as the store has them: definition, state."""
        self._wakes: list[tuple[int, Key]] = []
        """A heap; entries whose schedule is armed for another instant are stale."""
        self._alarm: Handle | None = None
        self._alarm_ms = 0
        self._working: set[Key] = set()
        self._again: set[Key] = set()
        """Schedules at work that have something more to do since."""

    # -- life ------------------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Read all schedules; nothing happens before `start`.

        Raises:
            RpcError: UNAVAILABLE, the store can't be read.
        """
        after = "", ""
        while True:
            rows = await read(self._shard.store.load_schedules(after, _PAGE))
            for namespace, schedule_id, definition, state in rows:
                after = namespace, schedule_id
                assert definition is not None, "it is only left out where a row is written"
                self._durable[after] = definition, state
                self._restore(after)
            if len(rows) < _PAGE:
                return
            await asyncio.sleep(0)

    def start(self) -> None:
        """Go on where an earlier engine left off."""
        for schedule in list(self.known.values()):
            wake_ms = schedule.state.wake_ms
            if wake_ms is not None:
                self._arm(schedule, wake_ms)

    def stop(self) -> None:
        """Wake nobody any more."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _restore(self, key: Key) -> Schedule | None:
        """Take over what the store has of a schedule; None if that is nothing, or damaged."""
        old = self.known.pop(key, None)
        if old is not None:
            self._unwatch(old)
        rows = self._durable.get(key)
        if rows is None:
            return None
        try:
            state = decode(rows[1])
            unseal(rows[0])
        except ValueError:
            # It stays known, so that callers are told; it has nothing to do.
            state = State("", 0, 0, paused=True, notes="its rows in the store are damaged: delete it")
        schedule = self.known[key] = Schedule(key, Definition(rows[0]), state)
        for running in state.running:
            self.watched[key[0], running.workflow_id] = key
        return schedule

    def _unwatch(self, schedule: Schedule) -> None:
        for running in schedule.state.running:
            self.watched.pop((schedule.key[0], running.workflow_id), None)

    # -- calls -----------------------------------------------------------------------------------------------------

    def get(self, namespace: str, schedule_id: str) -> Schedule:
        """A schedule. Raises RpcError NOT_FOUND."""
        schedule = self.known.get((namespace, schedule_id))
        if schedule is None:
            raise RpcError(StatusCode.NOT_FOUND, f"schedule {schedule_id!r} not found in namespace {namespace!r}")
        return schedule

    def is_durable(self, key: Key) -> bool:
        """Whether a schedule's creation is durable."""
        return key in self._durable

    def add(self, key: Key, definition: Definition, state: State) -> Schedule:
        """Enter a new schedule (precondition: its id is free). Raises RpcError RESOURCE_EXHAUSTED."""
        if len(self.known) >= SCHEDULES_MAX:
            raise RpcError(
                StatusCode.RESOURCE_EXHAUSTED, f"there are {SCHEDULES_MAX} schedules; delete some before adding others"
            )
        schedule = self.known[key] = Schedule(key, definition, state)
        self.changed(schedule)
        return schedule

    def changed(self, schedule: Schedule) -> None:
        """A caller has changed it: keep that, and see what there is to do."""
        self._keep(schedule)
        self._begin(schedule.key)

    def remove(self, schedule: Schedule) -> CommitFuture:
        """Forget a schedule; its workflows go on. Await the answer for that to be durable."""
        del self.known[schedule.key]
        self._unwatch(schedule)
        committer = self._shard.committer
        committer.group.schedules[schedule.key] = None
        committer.touch()
        return committer.group.durable()

    def remove_all(self, namespace: str) -> None:
        """Forget the schedules of a namespace."""
        for key in [key for key in self.known if key[0] == namespace]:
            self.remove(self.known[key])

    # -- what the shard tells --------------------------------------------------------------------------------------

    def closed(self, transition: Transition) -> None:
        """A run ends (precondition: `watched` is not empty)."""
        state = transition.run.state
        key = self.watched.get((state.namespace, state.workflow_id))
        if key is None or state.new_run_id or transition.handed_on:
            return
        schedule = self.known[key]
        running = next(each for each in schedule.state.running if each.workflow_id == state.workflow_id)
        event = m.History.FromString(transition.frames[-1]).events[0]
        completed = event.workflow_execution_completed_event_attributes
        failure: m.Failure | None = None
        if event.HasField("workflow_execution_failed_event_attributes"):
            failure = event.workflow_execution_failed_event_attributes.failure
        elif state.status == _TIMED_OUT:
            failure = history.workflow_timeout()
        self._end(
            schedule,
            running,
            state.status,
            result=completed.result.SerializeToString() if completed.HasField("result") else None,
            failure=failure,
        )

    def encode(self, group: Group, batch: Batch) -> None:
        """Put the rows of a group's schedules into its batch."""
        for key in group.schedules:
            schedule = self.known.get(key)
            if schedule is None:
                batch.schedule_deletes.append(key)
                group.schedules[key] = None
                continue
            rows = schedule.definition.row, encode(schedule.state)
            known = self._durable.get(key)
            is_same = known is not None and known[0] is rows[0]
            batch.schedules.append(ScheduleRow(*key, None if is_same else rows[0], rows[1]))
            group.schedules[key] = rows

    def written(self, group: Group) -> None:
        """The group is durable."""
        for key, rows in group.schedules.items():
            if rows is None:
                self._durable.pop(key, None)
            else:
                self._durable[key] = rows
            schedule = self.known.get(key)
            if schedule is not None and schedule.group is group:
                schedule.group = None

    def lost(self, group: Group) -> None:
        """The group is lost: go back to what is durable, and on from there after a while."""
        for key in group.schedules:
            if self._restore(key) is not None:
                self._later(key, self._shard.config.retry_ms)

    def findings(self) -> list[str]:
        """What must not be while the engine is idle: schedules that nobody wakes, ends that nobody waits for."""
        found: list[str] = []
        for key, schedule in self.known.items():
            state = schedule.state
            waits = any(not each.beside for each in state.running)
            if state.starting or (state.buffer and not waits):
                found.append(f"schedule {key} has actions to start, and nobody starts them")
            with suppress(RpcError):
                next_ms = stepping.next_wake_ms(state, schedule.definition.times)
                if schedule.armed_ms != next_ms:
                    found.append(f"schedule {key} is woken at {schedule.armed_ms} and not at {next_ms}")
            for each in state.running:
                if self.watched.get((key[0], each.workflow_id)) != key:
                    found.append(f"schedule {key} does not hear of the end of {each.workflow_id!r}")
        return found

    # -- time ------------------------------------------------------------------------------------------------------

    def _arm(self, schedule: Schedule, at_ms: int) -> None:
        """Wake a schedule at an instant, and at no other."""
        if schedule.armed_ms == at_ms:
            return
        schedule.armed_ms = at_ms
        if len(self._wakes) > _STALE_FACTOR * len(self.known):
            self._wakes = [(each.armed_ms, key) for key, each in self.known.items() if each.armed_ms is not None]
            heapify(self._wakes)
        else:
            heappush(self._wakes, (at_ms, schedule.key))
        if self._alarm is None or at_ms < self._alarm_ms:
            self._set_alarm()

    def _set_alarm(self) -> None:
        """For the first schedule that is due."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        while self._wakes and self._is_stale(*self._wakes[0]):
            heappop(self._wakes)
        if self._wakes:
            self._alarm_ms = self._wakes[0][0]
            self._alarm = self._shard.clock.call_at(self._alarm_ms, self._ring)

    def _is_stale(self, at_ms: int, key: Key) -> bool:
        schedule = self.known.get(key)
        return schedule is None or schedule.armed_ms != at_ms

    def _ring(self) -> None:
        self._alarm = None
        now_ms = self._shard.clock.now_ms()
        while self._wakes and self._wakes[0][0] <= now_ms:
            at_ms, key = heappop(self._wakes)
            if not self._is_stale(at_ms, key):
                self.known[key].armed_ms = None
                self._begin(key)
        self._set_alarm()

    def _later(self, key: Key, span_ms: int) -> None:
        clock = self._shard.clock
        clock.call_at(clock.now_ms() + span_ms, partial(self._begin, key))

    # -- work ------------------------------------------------------------------------------------------------------

    def _keep(self, schedule: Schedule) -> None:
        """The schedule has changed: its row enters the accumulating group."""
        state = schedule.state
        schedule.armed_ms = None
        next_ms = self._arm_next(schedule)
        state.wake_ms = 0 if state.starting or state.buffer or state.backfills else next_ms
        committer = self._shard.committer
        schedule.group = committer.group
        committer.group.schedules[schedule.key] = None
        committer.touch()

    def _arm_next(self, schedule: Schedule) -> int | None:
        """Wake a schedule when its next action is due, unless that is settled; the instant, None if there is none."""
        if schedule.armed_ms is None and self._has(schedule):
            with suppress(RpcError):
                next_ms = stepping.next_wake_ms(schedule.state, schedule.definition.times)
                if next_ms is not None:
                    self._arm(schedule, next_ms)
        return schedule.armed_ms

    def _begin(self, key: Key) -> None:
        """See what a schedule has to do."""
        if key in self._working:
            self._again.add(key)
        elif key in self.known and self._shard.is_running:
            self._working.add(key)
            self._shard.spawn(self._work(key))

    async def _work(self, key: Key) -> None:
        try:
            while True:
                schedule = self.known.get(key)
                if schedule is None or not self._shard.is_running or key[0] not in self._shard.namespaces.by_name:
                    return
                self._again.discard(key)
                if not await self._step(schedule) and key not in self._again:
                    self._arm_next(schedule)
                    return
                await asyncio.sleep(0)
        except RpcError as error:
            if error.code in _AGAIN and self._shard.is_running:
                self._later(key, _AGAIN_MS)
        finally:
            self._working.discard(key)
            self._again.discard(key)

    async def _step(self, schedule: Schedule) -> bool:
        """Decide what is to be done, and do one thing of it. True if there is more.

        Raises:
            RpcError: not now; or the schedule can't be used any more.
        """
        state, definition = schedule.state, schedule.definition
        before = encode(state)
        now_ms = self._shard.clock.now_ms()
        more = stepping.collect(state, definition.times, definition.policies, now_ms)
        stops = stepping.plan(state, definition.policies)
        if encode(state) != before:
            self._keep(schedule)
        if state.starting:
            await self._start(schedule, state.starting[0])
            return True
        if stops.cancel or stops.terminate:
            for running in list(state.running):
                await self._stop(schedule, running, terminate=stops.terminate)
        elif state.buffer and not schedule.verified:
            schedule.verified = True
            for running in list(state.running):
                await self._open_run(schedule, running)
        return more

    async def _start(self, schedule: Schedule, action: Action) -> None:
        """Start an action's workflow, and note that in the same turn."""
        shard, state = self._shard, schedule.state
        try:
            request = start_request(schedule.definition, state, action)
            started = await start_workflow(shard, shard.namespaces.to_start_in(request.namespace), request)
        except RpcError as error:
            if error.code in _AGAIN:
                raise
            if self._has(schedule) and action in state.starting:
                state.starting.remove(action)
                self._keep(schedule)
            return
        if not self._has(schedule) or action not in state.starting:
            return  # Deleted; or taken back by a commit that failed, and then it is done again.
        run = started.slot.run.state
        forgotten = stepping.started(
            state,
            action,
            schedule.definition.policies,
            workflow_id=run.workflow_id,
            run_id=run.first_run_id or run.run_id,
            status=run.status,
            now_ms=shard.clock.now_ms(),
        )
        if run.status == _RUNNING:
            self.watched[run.namespace, run.workflow_id] = schedule.key
        if forgotten is not None:
            self.watched.pop((run.namespace, forgotten.workflow_id), None)
        self._keep(schedule)

    async def _stop(self, schedule: Schedule, running: Running, *, terminate: bool) -> None:
        """Ask a workflow to cancel, or terminate it, to make room for another."""
        if running.beside or (running.stopping and not terminate):
            return
        slot = await self._open_run(schedule, running)
        if slot is None:
            return
        shard = self._shard
        now_ms = shard.clock.now_ms()
        if terminate:
            reason = "terminated by schedule overlap policy"
            ending = history.terminate(slot.run, reason=reason, details=None, identity=_IDENTITY, now_ms=now_ms)
            shard.apply(slot, ending)
            return
        request = m.RequestCancelWorkflowExecutionRequest(
            identity=_IDENTITY,
            reason="cancelled by schedule overlap policy",
            request_id=f"{schedule.state.uid}-cancel-{running.run_id}",
        )
        shard.apply(slot, history.request_cancel(slot.run, request, now_ms=now_ms))
        running.stopping = 1
        self._keep(schedule)

    async def _open_run(self, schedule: Schedule, running: Running) -> Slot | None:
        """The present run of a workflow that runs; None if it has gone, which is noted, or is not the schedule's."""
        namespace = schedule.key[0]
        try:
            slot = await self._shard.cache.find_current(namespace, running.workflow_id)
        except RpcError as error:
            if error.code is not StatusCode.DATA_LOSS:
                raise
            slot = None  # It is damaged, and will never end.
        if not self._has(schedule) or running not in schedule.state.running:
            return None
        if slot is None or not slot.run.is_open:
            self._end(schedule, running, _TERMINATED if slot is None else slot.run.state.status)
            return None
        return slot

    def _has(self, schedule: Schedule) -> bool:
        """Whether it is still the schedule of its id, and not one that a lost commit took back."""
        return self.known.get(schedule.key) is schedule

    def _end(
        self,
        schedule: Schedule,
        running: Running,
        status: int,
        *,
        result: bytes | None = None,
        failure: m.Failure | None = None,
    ) -> None:
        """A workflow has ended: others may have waited for that."""
        del self.watched[schedule.key[0], running.workflow_id]
        stepping.ended(
            schedule.state,
            running,
            schedule.definition.policies,
            status=status,
            result=result,
            failure=failure.SerializeToString() if failure is not None else None,
            message=failure.message if failure is not None else "",
        )
        self.changed(schedule)
