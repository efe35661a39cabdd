"""Who waits for updates, and what they are told.

``engine.history`` decides what becomes of an update (see ``history.update``); here is who waits for it. An update has
an entry beside its run's slot from its admission until it is completed, rejected or lost; one that is accepted, as
long as somebody waits for it. Callers wait on the entry, which moves when the transition that decided is durable:

    stage      news                                        next
    ---------  ------------------------------------------  ----------------------------------------
    admitted   accepted                                    accepted
    admitted   rejected                                    completed, with the failure
    admitted   the run closed; another follows             moved: its callers ask the run that follows
    admitted   the run closed                              failed: NOT_FOUND
    accepted   completed, or the run closed                completed, with the outcome
    any        the run is lost, or the engine stops        failed: an error that may be retried

A run with entries stays in memory (`Slot.held`), as nothing is stored of an admitted update. After a crash it is gone;
its callers have lost their connection, and ask again with the same update id. The requests that wait to be accepted are
bounded by `EngineConfig.admitted_update_bytes` over all runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.engine.history import UpdateChange, UpdateFate, UpdateStage

if TYPE_CHECKING:
    from perdure.engine.clock import Clock
    from perdure.engine.slot import Slot

__all__ = ["PendingUpdate", "Updates"]


class PendingUpdate:
    """One update that somebody waits for, or may."""

    __slots__ = ("_waiters", "accepted_event_id", "callers", "error", "moved", "outcome", "size", "stage", "update_id")

    def __init__(self, update_id: str, stage: UpdateStage, size: int) -> None:
        self.update_id = update_id
        self.stage = stage
        """As far as it is durable."""
        self.size = size
        """Bytes of its request, while it is admitted."""
        self.accepted_event_id = 0
        self.outcome: m.Outcome | None = None
        self.error: RpcError | None = None
        self.moved = False
        """Its run is over; the run that follows may be asked."""
        self.callers = 0
        self._waiters: set[asyncio.Future[bool]] = set()

    @property
    def over(self) -> bool:
        """No more news will come."""
        return self.outcome is not None or self.moved or self.error is not None

    async def wait(self, wanted: UpdateStage, clock: Clock, until_s: float) -> bool:
        """Wait until it has reached the wanted stage, or is over. False when it is `until_s` on the monotonic clock."""
        while self.stage < wanted and not self.over:
            left_s = until_s - clock.monotonic_s()
            if left_s <= 0:
                return False
            waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            alarm = clock.call_later(left_s, lambda waiter=waiter: _end(waiter, in_time=False))
            try:
                if not await waiter:
                    return False
            finally:
                alarm.cancel()
                self._waiters.discard(waiter)
        return True

    def wake(self) -> None:
        """There is news."""
        for waiter in self._waiters:
            _end(waiter, in_time=True)


def _end(waiter: asyncio.Future[bool], *, in_time: bool) -> None:
    if not waiter.done():
        waiter.set_result(in_time)


class Updates:
    """The entries of all runs; those of one are in its slot.

    Args:
        limit_bytes: of requests that wait to be accepted.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.admitted_bytes = 0
        self._limit_bytes = limit_bytes

    def check_room(self, size: int) -> None:
        """Raises RpcError RESOURCE_EXHAUSTED if a request of so many bytes can't be kept."""
        if self.admitted_bytes + size > self._limit_bytes:
            raise RpcError(
                StatusCode.RESOURCE_EXHAUSTED,
                f"the updates that wait to be accepted take {self.admitted_bytes} bytes of {self._limit_bytes}:"
                " try again later, or open with EngineConfig(admitted_update_bytes=…)",
            )

    def enter(self, slot: Slot, update_id: str, stage: UpdateStage, size: int = 0) -> PendingUpdate:
        """An entry for an update: admitted just now, or accepted earlier."""
        if slot.updates is None:
            slot.updates = {}
        pending = slot.updates[update_id] = PendingUpdate(update_id, stage, size)
        self.admitted_bytes += size
        return pending

    def leave(self, slot: Slot, pending: PendingUpdate) -> None:
        """A caller waits no more."""
        pending.callers -= 1
        self._drop_unused(slot, pending)

    def tell(self, slot: Slot, changes: list[UpdateChange]) -> None:
        """Bring news of a transition, once what the run has decided so far is durable."""
        if slot.group is not None:
            slot.group.updates.append((slot, changes))
        else:
            self.settle(slot, changes)

    def settle(self, slot: Slot, changes: Iterable[UpdateChange]) -> None:
        """Bring news that is durable."""
        entries = slot.updates
        if not entries:
            return
        for change in changes:
            pending = entries.get(change.update_id)
            if pending is None:
                continue
            self._free(pending)
            pending.accepted_event_id = change.accepted_event_id or pending.accepted_event_id
            match change.fate:
                case UpdateFate.ACCEPTED:
                    pending.stage = UpdateStage.ACCEPTED
                case UpdateFate.COMPLETED | UpdateFate.REJECTED:
                    pending.stage = UpdateStage.COMPLETED
                    pending.outcome = change.outcome
                case UpdateFate.CLOSED:
                    pending.error = RpcError(StatusCode.NOT_FOUND, "workflow execution already completed")
                case UpdateFate.MOVED:
                    pending.moved = True
            if pending.over:
                del entries[change.update_id]
            else:
                self._drop_unused(slot, pending)
            pending.wake()

    def fail(self, slot: Slot, error: RpcError) -> None:
        """The run is lost, or nothing more will happen to it."""
        entries, slot.updates = slot.updates, None
        for pending in (entries or {}).values():
            self._free(pending)
            pending.error = error
            pending.wake()

    def _free(self, pending: PendingUpdate) -> None:
        self.admitted_bytes -= pending.size
        pending.size = 0

    def _drop_unused(self, slot: Slot, pending: PendingUpdate) -> None:
        """Nothing need be kept here of an update that is in the run's state."""
        if not pending.size and not pending.callers and slot.updates is not None:
            if slot.updates.get(pending.update_id) is pending:
                del slot.updates[pending.update_id]
