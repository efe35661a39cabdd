"""Namespaces that are deleted: their runs are erased in the background, then their names are free.

The mark in the namespace's row commits first. From then on nobody can speak of the namespace, except that its name
can't be registered yet; an engine that starts finds the mark and goes on. Runs are deleted page by page, those that are
open by terminating them. A run whose messages are still under way goes a little later: the namespace is looked at again
until it is empty. The commit that takes its row away ends it.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

from perdure.api import RpcError, StatusCode
from perdure.engine.commit import CommitFuture
from perdure.engine.deployments import Deployments
from perdure.engine.reads import read
from perdure.engine.visibility.expressions import VisibilityQuery

if TYPE_CHECKING:
    from perdure.engine.shard import Shard

__all__ = ["Emptying"]

_PAGE: Final = 500
"""Runs deleted in one go."""
_AGAIN_MS: Final = 1_000
"""When a namespace that could not be emptied is looked at again."""
_IDENTITY: Final = "delete-namespace"


class Emptying:
    """Empties a shard's deleted namespaces."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._ends: dict[str, asyncio.Future[None]] = {}

    def start(self) -> None:
        """Go on with what an earlier engine has begun."""
        for name in self._shard.namespaces.deleted:
            self.begin(name)

    def begin(self, name: str) -> asyncio.Future[None]:
        """Empty a namespace whose deletion is durable; the future ends when its name is free."""
        end = self._ends.get(name)
        if end is None:
            end = self._ends[name] = asyncio.get_running_loop().create_future()
            self._shard.spawn(self._empty(name))
        return end

    async def wait_empty(self, name: str, wait_s: float) -> None:
        """Empty a namespace whose deletion is durable; returns when its name is free, or after `wait_s` seconds."""
        end = self.begin(name)
        late: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        alarm = self._shard.clock.call_later(wait_s, partial(_end, late))
        try:
            await asyncio.wait((end, late), return_when=asyncio.FIRST_COMPLETED)
        finally:
            alarm.cancel()
            late.cancel()

    async def _empty(self, name: str) -> None:
        """Erase the runs of a namespace; what can't go yet, go on with later."""
        try:
            done = await self._erase_runs(name)
        except RpcError:
            done = False  # A commit was lost, or a run can't be read now.
        if done:
            return
        shard = self._shard
        shard.clock.call_at(shard.clock.now_ms() + _AGAIN_MS, partial(self._again, name))

    def _again(self, name: str) -> None:
        if self._shard.is_running:
            self._shard.spawn(self._empty(name))

    async def _erase_runs(self, name: str) -> bool:
        """Whether the namespace is gone. Raises RpcError: something failed; try again."""
        shard = self._shard
        shard.schedules.remove_all(name)
        query = VisibilityQuery(namespace=name)
        seen: set[int] = set()
        while True:
            keys = [row.run_key for row in (await read(shard.store.list_visibility(query, None, _PAGE))).rows]
            if not keys:
                break
            if seen.issuperset(keys):
                return False
            seen.update(keys)
            pending = {await self._delete(key) for key in keys}
            for durable in pending - {None}:
                assert durable is not None, "taken out above"
                await durable
            await shard.erasing.wait_gone(keys)
        shard.offering.deployments.drop(name)
        group = shard.committer.group
        group.metas.append((Deployments.row_name(name), b""))
        group.namespaces.append((name, None))
        shard.committer.touch()
        await group.durable()
        self._ends.pop(name).set_result(None)
        return True

    async def _delete(self, run_key: int) -> CommitFuture | None:
        """Delete a run; what to await for that to be durable, None if it is going already."""
        shard = self._shard
        if run_key in shard.cache.erasing:
            return None
        try:
            slot = await shard.cache.get(run_key)
        except RpcError as error:
            if error.code is StatusCode.NOT_FOUND:
                return None
            if error.code is not StatusCode.DATA_LOSS:
                raise
            return shard.erasing.erase_unread(run_key).durable()
        return shard.erasing.delete_nowait(slot, _IDENTITY).durable()


def _end(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
