"""The shard: the runs of this engine, their transitions, and what follows from them.

Everything that changes a run comes through `apply`: a decision of ``engine.history`` has changed the run in memory
and says in a `Transition` what must be written and what must happen. The shard enters the run into the accumulating
commit group, offers its workflow task at once (the only thing that may leave before the commit), keeps activities
and messages for after it, and registers the run's next deadline. No `await` stands between a decision and its
`apply`, so transitions happen one at a time without a lock.

As the committer's host it encodes groups, lets their consequences out when they are durable, and forgets the runs
of groups that were lost; ``engine.recovery`` brings those back.

On start, runs that are hot (wake 0: tasks to hand out, messages to deliver) are loaded in pages and their tasks
offered; the rest sleep in the store until their deadline or a caller wants them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from perdure.api import EngineStoppedError, RpcError, StatusCode
from perdure.api import messages as m
from perdure.engine import history
from perdure.engine.cache import RunCache
from perdure.engine.commit import CommitFuture, Committer, Group
from perdure.engine.erasing import LAST_KEY, Erasing
from perdure.engine.history import Lineage, NextRun, Transition
from perdure.engine.matching.queue import Matching
from perdure.engine.namespaces import Namespace, Namespaces
from perdure.engine.nexus import Nexus
from perdure.engine.offering import Offering
from perdure.engine.outbox import Outbox
from perdure.engine.recovery import Recovery
from perdure.engine.rows import add_history, add_visibility
from perdure.engine.schedules import Schedules
from perdure.engine.slot import NEVER_MS, Slot
from perdure.engine.store.port import Batch, CurrentRow, ItemRow, RunRow, Store
from perdure.engine.timers import Timers
from perdure.engine.updates import Updates
from perdure.engine.waiting import Waiters

if TYPE_CHECKING:
    from perdure.engine.clock import Clock
    from perdure.engine.config import EngineConfig
    from perdure.engine.ids import Ids

__all__ = ["Shard"]

_LOADS_A_TURN = 20
"""Runs loaded in one turn of the event loop: a load may not suspend by itself."""


class Shard:
    """The runs of an engine.

    Args:
        store: open already.
        on_failed: called once when nothing can be written any more.
        on_settled: called whenever something has come to rest, so that idleness may be looked at.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        ids: Ids,
        config: EngineConfig,
        on_failed: Callable[[RpcError], None],
        on_settled: Callable[[], None],
    ) -> None:
        self.store = store
        self.clock = clock
        self.ids = ids
        self.config = config
        self.limits = config.limits
        self.namespaces = Namespaces()
        self.offering = Offering(self)
        self.matching = Matching(
            clock, self.offering.sticky_expired, on_settled, config.max_queues, config.poller_seen_ms
        )
        self.cache = RunCache(
            store,
            limit_bytes=config.cache_bytes,
            quarantine_kept=config.quarantine_kept,
            recovered_at_ms=clock.now_ms(),
            on_loaded=self._loaded,
            on_settled=on_settled,
            on_evicted=self._evicted,
        )
        self.committer = Committer(store, self, config.linger_turns, config.commit_distance_s, clock)
        self.timers = Timers(clock, self._ring, config.near_horizon_ms)
        self.outbox = Outbox(self)
        self.nexus = Nexus(self)
        self.schedules = Schedules(self)
        self.waiters = Waiters(clock)
        self.updates = Updates(config.admitted_update_bytes)
        self.next_number = int.from_bytes(ids.new_bytes(7), "big")
        """Of hand-outs and queries: starts at random, so that numbers of an earlier engine never match."""
        self._on_failed = on_failed
        self.on_settled = on_settled
        self.last_key = 0
        """The largest run key given so far."""
        self.recovery = Recovery(self)
        self.erasing = Erasing(self)
        self._background: set[asyncio.Task[None]] = set()
        self._waking_away = False
        """A slice of runs that were not in memory is being woken."""
        self._stopped = False

    # -- life ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin committing, and find what an earlier engine left unfinished."""
        stored = await self.store.load_meta(LAST_KEY)
        self.last_key = max(await self.store.max_run_key(), int(stored or b"0"))
        await self.schedules.load()
        self.committer.start()
        self.outbox.start()
        self.schedules.start()
        old_ms, new_ms = self.timers.move_horizon(self.clock.now_ms(), [])
        self.spawn(self._resume(max(old_ms, 0), new_ms))

    async def _resume(self, old_ms: int, new_ms: int) -> None:
        """Load the hot runs in pages, then read the near horizon."""
        page = self.config.scan_page
        after: tuple[int, int] | None = None
        while not self._stopped:
            rows = await self.store.due_runs(0, after, page)
            for count, (_, key) in enumerate(rows):
                if count % _LOADS_A_TURN == 0:
                    await asyncio.sleep(0)
                slot = await self.recovery.load(key)
                if slot is not None:
                    self.revive(slot)
            if len(rows) < page:
                break
            after = rows[-1]
        await self._scan(old_ms, new_ms)

    async def _scan(self, old_ms: int, new_ms: int) -> None:
        await self.timers.scan(self.store.due_runs, old_ms, new_ms, self.config.scan_page, self.cache.loaded)

    async def stop(self) -> None:
        """Commit what has accumulated, then rest."""
        self._stopped = True
        self.matching.close()
        self.timers.close()
        self.schedules.stop()
        await self.outbox.stop()
        for task in list(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self.committer.stop()
        self.matching.close()
        self._fail_waiting(EngineStoppedError())
        self.waiters.close()

    def release_polls(self, error: RpcError) -> None:
        """Answer every long poll empty, as if its time were up, and every query and update with `error`."""
        self.matching.close()
        self.waiters.release()
        self._fail_waiting(error)

    def _fail_waiting(self, error: RpcError) -> None:
        for slot in list(self.cache.loaded.values()):
            if slot.queries:
                slot.queries.fail_all(error)
            if slot.updates:
                self.updates.fail(slot, error)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something in the background; a refusal (RpcError) ends it quietly, a defect stops the engine."""
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background_done)

    def _background_done(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, RpcError):
            failure = RpcError(StatusCode.INTERNAL, f"the engine stopped: {error!r}")
            failure.__cause__ = error
            self.fail(failure)
        self.on_settled()

    @property
    def is_running(self) -> bool:
        """It has not been stopped and has not failed."""
        return not self._stopped and self.committer.failure is None

    @property
    def busy(self) -> bool:
        """Something is on its way that needs nobody outside."""
        return bool(
            self.committer.busy
            or self._background
            or self.outbox.busy
            or self.cache.busy
            or self.matching.has_match()
            or self.timers.has_due(self.clock.now_ms())
        )

    # -- transitions -----------------------------------------------------------------------------------------------

    def apply(self, slot: Slot, transition: Transition, *, offer: bool = True) -> Group:
        """Take over what a decision brought about. Await the group's `durable()` before anything leaves.

        The run's next deadline is noted when the group is encoded, once for all that happens to the run until then.

        Args:
            offer: False to keep the workflow task back; the caller hands it out itself.
        """
        committer = self.committer
        group = committer.group
        if transition.changed:
            if slot.group is not group:
                slot.group = group
                slot.groups += 1
                group.slots.append(slot)
            slot.pending += transition.frames
            if transition.visibility:  # As it is whenever a run begins or closes.
                slot.visibility = True
                if transition.attributes:
                    slot.attributes = True
                if transition.closed:
                    self.namespaces.retain(slot.run.state)
                    if self.schedules.watched:
                        self.schedules.closed(transition)
            if transition.activities:
                group.activities.append((slot, transition.activities))
            if transition.messages:
                group.messages.append((slot, transition.messages))
            if transition.closed and transition.next_run is not None:
                self._start_next(slot, transition.next_run)
            if transition.workflow_task and offer:
                self.offering.workflow_task(slot, transition.now_ms)
            committer.changes += 1
            if committer.wake is not None:
                committer.touch()
        else:
            group = slot.group or group
            if transition.workflow_task and offer:
                self.offering.workflow_task(slot, transition.now_ms)
        if transition.updates is not None:
            self.updates.tell(slot, transition.updates)
            self.cache.cool(slot)
        if slot.queries:
            self.offering.settle_queries(slot)
        return group

    def durable(self, slot: Slot) -> CommitFuture | None:
        """What to await so that everything the run has decided is durable; None when it is."""
        return None if slot.group is None else slot.group.durable()

    def create(
        self,
        namespace: Namespace,
        request: m.StartWorkflowExecutionRequest,
        *,
        lineage: Lineage | None = None,
        signal: m.SignalWorkflowExecutionRequest | None = None,
        run_id: str = "",
        offer: bool = True,
    ) -> tuple[Slot, Group]:
        """Start a run. Raises what `history.start_run` raises, having changed nothing.

        Args:
            offer: as for `apply`.
        """
        transition = history.start_run(
            run_key=self.last_key + 1,
            run_id=run_id or self.ids.new_id(),
            request=request,
            lineage=lineage or history.NO_LINEAGE,
            signal=signal,
            limits=self.limits,
            retention_ms=namespace.retention_ms,
            now_ms=self.clock.now_ms(),
        )
        slot = self.enter(transition, offer=offer)
        assert slot.group is not None, "a new run is not durable yet"
        return slot, slot.group

    def enter(self, transition: Transition, *, offer: bool = True) -> Slot:
        """Take over a new run with the key after `last_key`; it becomes the current one of its workflow id."""
        self.last_key = transition.run.key
        slot = Slot(transition.run, True)
        self.cache.add_new(slot)
        self.apply(slot, transition, offer=offer)
        return slot

    def _start_next(self, slot: Slot, following: NextRun) -> None:
        namespace = self.namespaces.of_run(slot.run.state)
        lineage = following.lineage
        if self.offering.deployments.in_use:
            lineage = self.offering.inherit(following.request, lineage)
        self.create(namespace, following.request, lineage=lineage, run_id=following.run_id)

    def number(self) -> int:
        """A fresh number for a hand-out or a query."""
        self.next_number += 1
        return self.next_number

    def register(self, slot: Slot) -> None:
        """Note the run's next deadline."""
        due_ms = self._due_ms(slot)
        if due_ms is not None and due_ms < slot.due_ms:
            self.timers.register(slot, due_ms)

    def _due_ms(self, slot: Slot) -> int | None:
        run = slot.run
        if run.is_open:
            return history.next_deadline_ms(run)
        return self.erasing.due_ms(run.state)

    # -- tasks -----------------------------------------------------------------------------------------------------

    def revive(self, slot: Slot) -> None:
        """Bring everything the run has to hand out or deliver on its way."""
        self.offering.workflow_task_if_ready(slot)
        waiting = history.dispatchable_activities(slot.run, self.clock.now_ms())
        if waiting:
            if slot.group is not None:
                slot.group.activities.append((slot, waiting))
            else:
                self.offering.activities(slot, waiting)
        undelivered = list(slot.run.state.outbox)
        if undelivered:
            if slot.group is not None:
                slot.group.messages.append((slot, undelivered))
            else:
                self.outbox.add(slot, undelivered)

    # -- time ------------------------------------------------------------------------------------------------------

    def _ring(self) -> None:
        """Something is due: wake a slice of runs, and come back for the rest."""
        if self._stopped:
            return
        timers = self.timers
        now_ms = self.clock.now_ms()
        if timers.horizon_passed(now_ms):
            old_ms, new_ms = timers.move_horizon(now_ms, list(self.cache.loaded.values()))
            self.spawn(self._scan(old_ms, new_ms))
        if self._waking_away:
            return  # Which goes on with the next slice when it is through.
        here, away = timers.pop_due(now_ms, self.config.fire_slice, self.cache.loaded)
        for slot in here:
            self._wake(slot, now_ms)
        if away:
            self._waking_away = True
            self.spawn(self._wake_away(away))
        elif timers.has_due(now_ms):
            asyncio.get_running_loop().call_soon(self._ring)
        else:
            timers.arm()
        self.on_settled()

    async def _wake_away(self, keys: list[int]) -> None:
        """Load a slice of runs and wake them, no faster than their tasks are handed out.

        So what a run's timer sets off is done while the run is in memory, and the most of it in one commit.
        """
        try:
            for count, key in enumerate(keys):
                if count % _LOADS_A_TURN == 0:
                    await asyncio.sleep(0)
                slot = await self.recovery.load(key)
                if slot is not None:
                    self._wake(slot, self.clock.now_ms())
        finally:
            self._waking_away = False
        self._ring()

    def _wake(self, slot: Slot, now_ms: int) -> None:
        """Let the run fire what is due, then note its next deadline."""
        slot.due_ms = NEVER_MS
        run = slot.run
        if run.is_open:
            transition = history.wake(run, limits=self.limits, new_id=self.ids.new_id, now_ms=now_ms)
            if transition.changed:
                self.apply(slot, transition)
        elif self.erasing.wake(slot, now_ms):
            return
        self.register(slot)
        assert slot.due_ms > now_ms, "what was due has been fired"

    def next_deadline_ms(self) -> int | None:
        """The earliest deadline that is not stale, as far as memory knows."""
        for slot in self.committer.group.slots:
            self.register(slot)
        return self.timers.settle_first(self.cache.loaded, self.register)

    # -- loading and leaving ---------------------------------------------------------------------------------------

    def _loaded(self, slot: Slot) -> None:
        """A run has been read: nobody holds its workflow task; its activities perhaps."""
        now_ms = self.clock.now_ms()
        self.timers.come(slot.key)
        self.recovery.restore(slot, now_ms)
        transition = history.flush_buffered(slot.run, now_ms=now_ms)
        if transition.changed:
            self.apply(slot, transition, offer=False)
        self.register(slot)

    def _evicted(self, slot: Slot) -> None:
        """A cold run leaves; its deadlines must not."""
        self.timers.leave(slot, self._due_ms(slot), row_tells=not history.hot(slot.run))
        self.timers.sweep(self.cache.loaded)

    # -- the committer's host --------------------------------------------------------------------------------------

    def encode_group(self, group: Group) -> Batch:
        """The group's rows, from the present state of its runs."""
        batch = Batch()
        for slot in group.slots:
            self._encode(slot, batch)
        batch.run_deletes += group.erased
        batch.namespaces += [(name, row) for name, row in group.namespaces if row is not None]
        batch.namespace_deletes += [name for name, row in group.namespaces if row is None]
        batch.metas += group.metas
        self.schedules.encode(group, batch)
        return batch

    def _encode(self, slot: Slot, batch: Batch) -> None:
        run = slot.run
        key = slot.key
        state = run.state
        if slot.pending:
            add_history(batch, slot)
        state.state_transitions += 1
        encoded = history.encode(run)
        if history.hot(run):
            wake_ms = 0
            if not run.is_open or history.due_before(run, slot.due_ms):
                self.register(slot)
        else:
            wake_ms = self._due_ms(slot)
            if wake_ms is not None and wake_ms < slot.due_ms:
                self.timers.register(slot, wake_ms)
            if wake_ms and run.live.task is not None:
                wake_ms = history.next_deadline_ms(run, after_loss=True)
        slot.hot = wake_ms == 0
        batch.runs.append(RunRow(key, state.run_id, wake_ms, encoded.state))
        for event_id, data in encoded.items:
            batch.items.append(ItemRow(key, event_id, data))
        for event_id in encoded.item_deletes:
            batch.item_deletes.append((key, event_id))
        if slot.fresh:
            slot.fresh = False
            if self.cache.current.get((state.namespace, state.workflow_id)) == key:
                batch.currents.append(CurrentRow(state.namespace, state.workflow_id, key))
            slot.attributes = history.has_attributes(run)
        if slot.visibility:
            add_visibility(batch, slot)
        slot.measure(len(encoded.state))

    def release_group(self, group: Group) -> None:
        """The group is durable: let its consequences out."""
        self.recovery.succeeded()
        waiters = self.waiters
        for slot in group.slots:
            slot.durable_event_id += len(slot.writing)
            slot.writing = []
            assert slot.durable_event_id == slot.row_event_id - 1, "durable is what has been written, no more"
            slot.groups -= 1
            if slot.group is group:
                slot.group = None
                if slot.settled:
                    slot.settled.clear()
            if waiters.for_events or (waiters.for_end and not slot.run.is_open):
                waiters.notify(slot.key, ended=not slot.run.is_open)
        for slot, event_ids in group.activities:
            if not slot.gone:
                self.offering.activities(slot, event_ids)
        for slot, messages in group.messages:
            if not slot.gone:
                self.outbox.add(slot, messages)
        for slot, changes in group.updates:
            self.updates.settle(slot, changes)
        if group.erased:
            self.cache.erasing.difference_update(group.erased)
        if group.namespaces:
            self.namespaces.written(group.namespaces)
        if group.schedules:
            self.schedules.written(group)
        cool = self.cache.cool
        for slot in group.slots:
            if not slot.held:
                cool(slot)
        if self.erasing.doomed:
            self.erasing.erase_doomed()
        self.on_settled()

    def lose_groups(self, groups: list[Group], error: RpcError) -> None:
        """The groups are lost: forget their runs, and read them again when the store may have recovered."""
        for group in groups:
            for slot in group.slots:
                if not slot.gone:
                    self._lose(slot, error)
            self.namespaces.restore(row[0] for row in group.namespaces)
            self.schedules.lost(group)
            self.cache.erasing.difference_update(group.erased)
            self.recovery.later(group.erased)
        self.recovery.later(())
        self.on_settled()

    def _lose(self, slot: Slot, error: RpcError) -> None:
        self.recovery.remember(slot)
        self.recovery.tell(slot, error)
        if slot.queries:
            slot.queries.fail_all(error)
        if slot.updates:
            self.updates.fail(slot, error)
        self.cache.drop(slot)
        self.waiters.notify(slot.key, ended=True)

    def fail(self, error: RpcError) -> None:
        """Nothing can be written any more: every poll and wait ends."""
        if self.committer.failure is None:
            self.committer.abandon(error)
        self.timers.close()
        self.recovery.give_up()
        self.matching.close()
        self.waiters.close()
        self._fail_waiting(error)
        self._on_failed(error)
