"""Runs that memory has lost and the store still has: brought back after a back-off.

A run is lost when a commit with changes of it fails, or when it has something to do and can't be read just now. What
memory knew of it is forgotten; what the store says is the truth. The back-off doubles until a commit succeeds, and
it is a deadline like any other, so a virtual clock jumps to it.

Two things are remembered over a loss. Attempts of activities that workers of this process hold: they were durable
when they were handed out, so the same attempt must not be started beside them (`remember`, `restore`). And that the
run was lost: a worker's cache may be ahead of the truth, so the run leaves its sticky queue and the worker gets the
whole history.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from perdure.api import RpcError
from perdure.engine import history
from perdure.engine.reads import GONE
from perdure.engine.slot import HeldActivity, Slot

if TYPE_CHECKING:
    from perdure.engine.shard import Shard

__all__ = ["Recovery"]


class Recovery:
    """The lost runs of a shard."""

    def __init__(self, shard: Shard) -> None:
        self.lost: set[int] = set()
        """Keys of the runs that are to be brought back."""
        self._shard = shard
        self._held: dict[int, list[HeldActivity]] = {}
        self._waiting = False
        self._first_ms = shard.config.retry_ms
        self._retry_ms = self._first_ms

    def succeeded(self) -> None:
        """A commit has succeeded: the next failure is a first one again."""
        self._retry_ms = self._first_ms

    def give_up(self) -> None:
        """The shard has failed for good."""
        self.lost.clear()
        self._held.clear()

    # -- losing ----------------------------------------------------------------------------------------------------

    def remember(self, slot: Slot) -> None:
        """A run leaves memory with changes that were not written."""
        held = [*slot.settled]
        for event_id, live in slot.run.live.activities.items():
            item = slot.run.state.items.get(event_id)
            if isinstance(item, history.ActivityItem) and not live.leaving:
                held.append(HeldActivity(event_id, item.attempt, live))
        if held:
            self._held[slot.key] = held
        self.lost.add(slot.key)

    def tell(self, slot: Slot, error: RpcError) -> None:
        """The workers of this process that rest on what is lost (see `direct`)."""
        if slot.taker is not None:
            slot.taker.lose(slot.run.state.run_id)
        settled, slot.settled = slot.settled, []
        for held in settled:
            if held.lost is not None:
                held.lost(error)

    def later(self, run_keys: Iterable[int]) -> None:
        """Bring these runs, and the others that are lost, back after a back-off."""
        self.lost.update(run_keys)
        if not self._waiting:
            self._waiting = True
            clock = self._shard.clock
            clock.call_at(clock.now_ms() + self._retry_ms, self._begin)
            self._retry_ms = min(self._retry_ms * 2, self._shard.config.retry_max_ms)

    # -- coming back -----------------------------------------------------------------------------------------------

    def restore(self, slot: Slot, now_ms: int) -> None:
        """A run has been read: tell it what is remembered of it."""
        for held in self._held.pop(slot.key, ()):
            _hold_again(slot, held)
        if slot.key in self.lost:
            history.expire_sticky(slot.run, now_ms=now_ms)

    async def load(self, run_key: int) -> Slot | None:
        """A run that has something to do. None if it is gone, or can't be read now and is brought back later."""
        try:
            return await self._shard.cache.get(run_key)
        except RpcError as error:
            if error.code not in GONE:
                self.later((run_key,))
            return None

    def _begin(self) -> None:
        self._waiting = False
        if self._shard.is_running:
            self._shard.spawn(self._bring_back())

    async def _bring_back(self) -> None:
        for key in list(self.lost):
            slot = await self.load(key)
            if slot is None and self._waiting:
                continue  # It may be one that could not be read, and is tried again.
            self._held.pop(key, None)
            if slot is not None:
                self._shard.revive(slot)
            self.lost.discard(key)


def _hold_again(slot: Slot, held: HeldActivity) -> None:
    """A worker of this process still runs the attempt: it must not be handed out beside it."""
    item = slot.run.state.items.get(held.scheduled_event_id)
    if isinstance(item, history.ActivityItem) and item.attempt == held.attempt and not item.held:
        live = held.live
        history.start_activity(slot.run, held.scheduled_event_id, identity=live.identity, now_ms=live.started_at_ms)
        slot.run.live.activities[held.scheduled_event_id].last_heartbeat_at_ms = live.last_heartbeat_at_ms
