"""Runs that leave the store for good: closed ones whose retention is over, and those a caller deletes.

A run may be erased when nobody needs it any more: it is closed, its changes are durable, and its messages (to its
parent, to its children) are delivered. Retention is a deadline like any other. A deletion is a mark in the run's
state: it commits together with the termination of a run that was open, and from then on the run is as good as gone,
also for an engine that starts after a crash. It is erased as soon as it may be; a closed run that nobody holds at once.

The current run of a workflow id is a row of its own, which goes with the run it names. Then the id has no current run,
as if it had never been used; earlier runs stay where they are, under their run ids.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from perdure.engine import history
from perdure.engine.commit import CommitFuture, Group
from perdure.engine.history import RunState
from perdure.engine.slot import Slot

if TYPE_CHECKING:
    from perdure.engine.shard import Shard

__all__ = ["LAST_KEY", "Erasing"]

LAST_KEY = "last_run_key"
"""Under this name the store remembers the largest run key ever given, as its run may have been erased."""
_LATER_MS = 60_000
"""When a closed run that cannot be erased yet is looked at again."""


class Erasing:
    """What a shard erases."""

    def __init__(self, shard: Shard) -> None:
        self.doomed: set[int] = set()
        """Keys of deleted runs that somebody still held."""
        self._shard = shard
        self._leaving: dict[int, CommitFuture] = {}
        """Commits that erase deleted runs, while they are under way."""

    def due_ms(self, state: RunState) -> int | None:
        """When a closed run is to be erased."""
        return state.retain_until_ms if self._shard.config.erase_closed or state.deleted else None

    def wake(self, slot: Slot, now_ms: int) -> bool:
        """Erase a closed run whose time has come. False if it has not."""
        due_ms = self.due_ms(slot.run.state)
        if due_ms is None or due_ms > now_ms:
            return False
        if slot.held:
            self._shard.timers.register(slot, now_ms + _LATER_MS)
        else:
            self._erase(slot)
        return True

    def delete_nowait(self, slot: Slot, identity: str) -> Group:
        """Delete a run, terminating it if it is open. When the group is durable, it is so that the run goes."""
        shard = self._shard
        if slot.held or slot.run.is_open:
            self.doomed.add(slot.key)
            return shard.apply(slot, history.delete_run(slot.run, identity=identity, now_ms=shard.clock.now_ms()))
        self._erase(slot)
        return shard.committer.group

    async def delete(self, slot: Slot, identity: str) -> None:
        """The same; returns when that is durable, and as a rule when the run has gone.

        Raises:
            RpcError: the commit failed; repeat the call.
        """
        await self.delete_nowait(slot, identity).durable()
        await self.wait_gone((slot.key,))

    async def wait_gone(self, run_keys: Iterable[int]) -> None:
        """Until those of the runs that are being erased are. Raises RpcError: the commit failed."""
        for key in run_keys:
            leaving = self._leaving.get(key)
            if leaving is not None:
                await leaving

    def erase_unread(self, run_key: int) -> Group:
        """Erase a run that can't be read, and that nobody may speak of any more."""
        group = self._shard.committer.group
        group.erased.append(run_key)
        self._shard.cache.erasing.add(run_key)
        self._shard.committer.touch()
        return group

    def erase_doomed(self) -> None:
        """A commit has been released: deleted runs that nobody holds any more go."""
        for key in list(self.doomed):
            slot = self._shard.cache.loaded.get(key)
            if slot is None:
                self.doomed.discard(key)  # Its deadline brings it back.
            elif not slot.held and slot.run.state.deleted:
                self._erase(slot)

    def _erase(self, slot: Slot) -> None:
        shard = self._shard
        key = slot.key
        group = shard.committer.group
        group.erased.append(key)
        group.metas.append((LAST_KEY, str(shard.last_key).encode()))
        shard.cache.drop(slot)
        shard.cache.erasing.add(key)
        shard.committer.touch()
        self.doomed.discard(key)
        durable = self._leaving[key] = group.durable()
        durable.add_done_callback(lambda _: self._leaving.pop(key, None))
