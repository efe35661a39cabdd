"""The commit pipeline: how decisions become durable, and what waits for that.

Transitions add to the accumulating `Group`. One long-lived committer takes the whole group, has it encoded (each
changed run once, in its latest state), writes it in one atomic `Store.commit`, and hands it back: released when it
is durable, lost when it is not. While a commit is in flight the next group accumulates. Before it takes a group
the committer lets the event loop turn a few times as long as new transitions keep arriving, so that a start, the
workflow task it causes and that task's commands land in one commit. A server also keeps a short distance between two
commits: the calls of other processes come one by one, and a commit costs as much as the engine's part of several.

The durability barrier. Before its commit a transition may do one thing only: hand a workflow task to a poller of
this process, whose commands can only be committed after it, in the same order. Replies, activity tasks, messages to
other runs and tasks for other processes wait for the commit.

Crash points. Let a transition T belong to group G. The process may die

1. before G is taken: T never happened; nobody was told of it.
2. while G is encoded: as 1.
3. during `Store.commit`: the store's atomicity makes it 1 or 4.
4. after the commit, before its waiters are released: T is durable, the caller has no reply; its retry is recognised
   by request id, token or the state itself.
5. after the waiters are released, before activities are offered: the run's row says wake 0, so that the next owner
   loads it and offers them.
6. after activities are offered or handed out: "started" is not written; the next owner hands them out again, same
   attempt, and a completion of the earlier hand-out is accepted if it arrives first. A hand-out to another process is
   a transition of its own, and its task leaves after the commit: from then on the next owner waits for that worker.
7. before, between or after deliveries of T's messages: they stay in the sender's outbox until the commit that holds
   both the receiver's change and the recorded outcome.

A failed commit. Groups are all or nothing, so everything decided since the last durable group is lost: waiters of
the group in flight and of the accumulating one get the error, and their runs leave memory and are read again. When
the store has failed for good (`StoreWriteError`, `StoreFencedError`, or an error nobody foresaw) the engine stops,
and from then on every call gets the same error.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from perdure.api import EngineStoppedError, RpcError, StatusCode
from perdure.engine.clock import Clock, SystemClock
from perdure.engine.history import OutMessage, UpdateChange
from perdure.engine.store.port import Batch, Store, StoreError, StoreFencedError, StoreFullError, StoreWriteError

if TYPE_CHECKING:
    from perdure.engine.slot import Slot

__all__ = ["CommitFuture", "CommitHost", "Committer", "Group"]


_CALM = 2
"""With so few runs in the latest group nobody else is expected, and the next one is taken at once."""


class CommitFuture(asyncio.Future[None]):
    """A future that many may await: cancelling one waiter must not cancel the others.

    A waiter that is cancelled stays until the commit is answered, and is cancelled then.
    """

    def cancel(self, msg: Any | None = None) -> bool:
        return False


class Group:
    """Everything that commits together, and what follows when it has."""

    __slots__ = (
        "_error",
        "_future",
        "_settled",
        "activities",
        "erased",
        "messages",
        "metas",
        "namespaces",
        "schedules",
        "slots",
        "updates",
    )

    def __init__(self) -> None:
        self.slots: list[Slot] = []
        """Changed runs, in order of their first change."""
        self.erased: list[int] = []
        self.namespaces: list[tuple[str, bytes | None]] = []
        """Names and rows; None = it is gone."""
        self.metas: list[tuple[str, bytes]] = []
        self.schedules: dict[tuple[str, str], tuple[bytes, bytes] | None] = {}
        """Changed schedules, by namespace and id; once encoded, their rows: definition and state, None = it is gone."""
        self.activities: list[tuple[Slot, list[int]]] = []
        """Activities to offer afterwards."""
        self.messages: list[tuple[Slot, list[OutMessage]]] = []
        """Messages to deliver afterwards."""
        self.updates: list[tuple[Slot, list[UpdateChange]]] = []
        """News of updates to tell afterwards."""
        self._future: CommitFuture | None = None
        self._settled = False
        self._error: RpcError | None = None

    def __bool__(self) -> bool:
        return bool(self.slots or self.erased or self.namespaces or self.metas or self.schedules)

    @property
    def settled(self) -> bool:
        """Its outcome is known."""
        return self._settled

    @property
    def lost(self) -> bool:
        """Its commit failed."""
        return self._settled and self._error is not None

    def durable(self) -> CommitFuture:
        """Await this before anything leaves. Raises the RpcError of a commit that failed."""
        future = self._future
        if future is None:
            future = self._future = CommitFuture()
            if self._settled:
                self._resolve(future)
        return future

    def settle(self, error: RpcError | None) -> None:
        """The outcome is known: wake everyone."""
        self._settled = True
        self._error = error
        if self._future is not None:
            self._resolve(self._future)

    def _resolve(self, future: CommitFuture) -> None:
        if self._error is None:
            future.set_result(None)
        else:
            future.set_exception(self._error)
            future.exception()  # Seen: nobody may be waiting any more.


class CommitHost(Protocol):
    """What the committer asks of the shard."""

    def encode_group(self, group: Group) -> Batch:
        """The group's rows, from the present state of its runs."""
        ...

    def release_group(self, group: Group) -> None:
        """The group is durable: let its consequences out."""
        ...

    def lose_groups(self, groups: list[Group], error: RpcError) -> None:
        """The groups are lost: forget what they changed."""
        ...

    def fail(self, error: RpcError) -> None:
        """Nothing can be written any more."""
        ...


class Committer:
    """Takes groups to the store, one at a time.

    Args:
        store: where they go.
        host: encodes and releases them.
        linger_turns: event loop turns to wait at most while transitions keep arriving.
        distance_s: seconds from the end of a commit to the beginning of the next one, at least.
        clock: for the distance.
    """

    def __init__(
        self, store: Store, host: CommitHost, linger_turns: int, distance_s: float = 0.0, clock: Clock | None = None
    ) -> None:
        self.group = Group()
        """The accumulating group."""
        self.commits = 0
        self.failure: RpcError | None = None
        self._store = store
        self._host = host
        self._linger_turns = linger_turns
        self._distance_s = distance_s
        self._clock = clock or SystemClock()
        self._ended_at_s = 0.0
        self._writing: Group | None = None
        self.changes = 0
        """Counts transitions."""
        self._crowd = 0
        """Runs in the latest group."""
        self.wake: asyncio.Future[None] | None = None
        """Set while it sleeps; whoever counts a transition calls `touch` then."""
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    @property
    def busy(self) -> bool:
        """Something is not durable yet."""
        return self._writing is not None or bool(self.group)

    def start(self) -> None:
        """Begin taking groups."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="perdure-committer")

    def touch(self) -> None:
        """The accumulating group has grown."""
        self.changes += 1
        wake = self.wake
        if wake is not None:
            self.wake = None
            if not wake.done():
                wake.set_result(None)

    async def stop(self) -> None:
        """Commit what has accumulated, then end."""
        self._stopping = True
        self.touch()
        task, self._task = self._task, None
        if task is not None:
            # Not `await task`: an interrupt cancels everything on the loop, and the store still has to be closed.
            await asyncio.wait((task,))
        self._close(EngineStoppedError())

    async def _run(self) -> None:
        try:
            while self.failure is None:
                if self.group:
                    await self._linger()
                    await self._commit()
                elif self._stopping:
                    return
                else:
                    self.wake = asyncio.get_running_loop().create_future()
                    await self.wake
        except asyncio.CancelledError:
            self._absorb(RpcError(StatusCode.UNAVAILABLE, "the engine's event loop is closing; open it again"))
            raise
        except Exception as error:  # A defect, not a condition: nothing more may be written on top of it.
            failure = RpcError(StatusCode.INTERNAL, f"the engine stopped: {error!r}")
            failure.__cause__ = error
            self._absorb(failure)

    async def _linger(self) -> None:
        if self._distance_s:
            await self._keep_distance()
        if self._crowd <= _CALM:
            return  # What a lone caller sets off comes in the turn that woke the committer.
        for _ in range(self._linger_turns):
            seen = self.changes
            await asyncio.sleep(0)
            if self.changes == seen:
                return

    async def _keep_distance(self) -> None:
        left_s = self._ended_at_s + self._distance_s - self._clock.monotonic_s()
        if left_s > 0:
            over = asyncio.get_running_loop().create_future()
            alarm = self._clock.call_later(left_s, partial(over.set_result, None))
            try:
                await over
            finally:
                alarm.cancel()

    async def _commit(self) -> None:
        group, self.group = self.group, Group()
        self._writing = group
        self._crowd = len(group.slots)
        try:
            await self._store.commit(self._host.encode_group(group))
        except (StoreWriteError, StoreFencedError) as error:
            self._absorb(RpcError(StatusCode.UNAVAILABLE, f"the engine stopped: {error}"))
        except StoreError as error:
            full = isinstance(error, StoreFullError)
            code = StatusCode.RESOURCE_EXHAUSTED if full else StatusCode.UNAVAILABLE
            self._lose(RpcError(code, str(error)))
        else:
            self._writing = None
            self.commits += 1
            if self._distance_s:
                self._ended_at_s = self._clock.monotonic_s()
            group.settle(None)
            self._host.release_group(group)

    def _lose(self, error: RpcError) -> None:
        """The outcome of the group in flight is a failure; what was decided on top of it goes with it."""
        groups = [group for group in (self._writing, self.group) if group]
        self._writing = None
        self.group = Group()
        for group in groups:
            group.settle(error)
        self._host.lose_groups(groups, error)

    def abandon(self, error: RpcError) -> None:
        """Something else failed for good: take nothing more. The commit in flight is still answered."""
        self._close(error)
        self.touch()

    def _absorb(self, error: RpcError) -> None:
        if self.failure is None:
            self._lose(error)
            self._close(error)
            self._host.fail(error)

    def _close(self, error: RpcError) -> None:
        """From now on nothing is taken; who waits for a group gets the error at once."""
        if self.failure is None:
            self.failure = error
            self.group.settle(error)
