"""The engine: a shard, its readers and its services, with one life from `start` to `stop`.

`Engine` owns the store it is given from `start` to `stop`. Everything happens on the event loop that called `start`.
It fails once and for good when nothing can be written any more: `wait_failed` ends, and every call gets that error.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from perdure.api import EngineStoppedError, RpcError, StatusCode
from perdure.api import messages as m
from perdure.engine.batches import Batches
from perdure.engine.clock import Clock, SystemClock, VirtualClock
from perdure.engine.config import EngineConfig
from perdure.engine.deployments import Deployments
from perdure.engine.emptying import Emptying
from perdure.engine.handout import HandOut
from perdure.engine.history import ActivityItem, Item, Live
from perdure.engine.ids import Ids, RandomIds
from perdure.engine.invariants import scan_memory, scan_store
from perdure.engine.namespaces import DEFAULT_NAMESPACE, Namespace
from perdure.engine.reading import HistoryReader
from perdure.engine.service import EngineService
from perdure.engine.shard import Shard
from perdure.engine.store.port import Store
from perdure.engine.tokens import Tokens
from perdure.engine.workers import Workers

__all__ = ["Engine", "EngineStatistics"]

_TOKEN_KEY = "token_key"
_KEY_BYTES = 32
_SETTLING_TURNS = 3
"""Turns of the event loop without work before the engine counts as idle: callers may be about to go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatistics:
    """What an engine holds and has done."""

    loaded_runs: int
    cold_bytes: int
    """Estimate of the runs that could leave memory."""
    loads: int
    evictions: int
    quarantined_runs: int
    commits: int
    tasks_waiting: int
    """Tasks in backlogs."""
    polls_waiting: int
    timers: int
    """Deadlines of the near horizon."""


class Engine:
    """Durable execution over a store.

    Args:
        store: opened by `start`, closed by `stop`.
        clock: wall clock and timers.
        ids: run ids and the token key.
        config: bounds and timeouts.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock | None = None,
        ids: Ids | None = None,
        config: EngineConfig | None = None,
    ) -> None:
        self.config = config or EngineConfig()
        self.clock = clock or SystemClock()
        self._ids = ids or RandomIds()
        self._store = store
        self._shard: Shard | None = None
        self._tokens: Tokens | None = None
        self._reader: HistoryReader | None = None
        self._hand_out: HandOut | None = None
        self._emptying: Emptying | None = None
        self._batches: Batches | None = None
        self._failure: RpcError | None = None
        self._failed = asyncio.Event()
        self.workers = Workers()
        self._idle_waiters: list[asyncio.Future[None]] = []
        self._stopped = False
        self.running = False
        """It takes calls: started, neither stopped nor failed."""

    # -- life ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the store and go on where an earlier engine left off. Harmless twice.

        Raises:
            StoreError: the store can't be opened; the subclass and its message say why.
        """
        if self._shard is not None:
            return
        await self._store.open()
        try:
            key = await self._store.load_meta(_TOKEN_KEY)
            shard = Shard(
                self._store,
                clock=self.clock,
                ids=self._ids,
                config=self.config,
                on_failed=self._fail,
                on_settled=self._settled,
            )
            for _, row in await self._store.load_namespaces():
                namespace = shard.namespaces.load(row).name
                deployments = await self._store.load_meta(Deployments.row_name(namespace))
                if deployments:
                    shard.offering.deployments.load(namespace, deployments)
        except BaseException:
            await self._store.close()
            raise
        fresh_key = key or self._ids.new_bytes(_KEY_BYTES)
        self._tokens = Tokens(fresh_key)
        self._reader = HistoryReader(self._store, shard.cache)
        self._hand_out = HandOut(shard, self._reader, self._tokens)
        self._shard = shard
        self._stopped = False
        self.running = True
        try:
            await shard.nexus.start(self._reader, self._tokens)
            await shard.start()
            await self._first_rows(shard, None if key else fresh_key)
            self._emptying = Emptying(shard)
            self._emptying.start()
            self._batches = Batches(shard, self._reader, EngineService(self, in_process=False), self._settled)
            await self._batches.start()
        except BaseException:
            await self.stop()
            raise

    async def _first_rows(self, shard: Shard, new_key: bytes | None) -> None:
        """Write what every store must hold."""
        group = shard.committer.group
        if new_key is not None:
            group.metas.append((_TOKEN_KEY, new_key))
        if DEFAULT_NAMESPACE not in shard.namespaces.by_name | shard.namespaces.deleted:
            request = m.RegisterNamespaceRequest(namespace=DEFAULT_NAMESPACE)
            self.register_namespace(request)
        if group:
            shard.committer.touch()
            await group.durable()

    def register_namespace(self, request: m.RegisterNamespaceRequest) -> asyncio.Future[None]:
        """Enter a namespace; await the answer for it to be durable. Raises RpcError."""
        shard = self.shard
        namespace = shard.namespaces.register(
            request,
            namespace_id=self._ids.new_id(),
            id_length=self.config.limits.id_length,
            default_retention_ms=self.config.limits.default_retention_ms,
        )
        return self.write_namespace(namespace)

    def write_namespace(self, namespace: Namespace) -> asyncio.Future[None]:
        """Keep a namespace that is new or has changed; await the answer for that to be durable."""
        committer = self.shard.committer
        committer.group.namespaces.append(namespace.row())
        committer.touch()
        return committer.group.durable()

    async def stop(self) -> None:
        """Finish the commit in flight, answer every poll empty, close the store. Harmless twice, or before start."""
        shard = self._shard
        if shard is None or self._stopped:
            return
        self._stopped = True
        self.running = False
        try:
            if self._batches is not None:
                await self._batches.stop()
            await shard.stop()
        finally:
            await self._store.close()
        self._settled()

    def release_polls(self) -> None:
        """Answer those who wait, for a server that stops: long polls empty, queries with UNAVAILABLE."""
        if not self.stopping:
            self.shard.release_polls(RpcError(StatusCode.UNAVAILABLE, "the server is stopping; ask again"))

    def _fail(self, error: RpcError) -> None:
        if self._failure is None:
            self._failure = error
            self.running = False
            self._failed.set()
            self._settled()

    async def wait_failed(self) -> RpcError:
        """Wait until the engine has failed for good; returns the error every call gets from then on."""
        await self._failed.wait()
        assert self._failure is not None, "failed means that there is an error"
        return self._failure

    # -- parts -----------------------------------------------------------------------------------------------------

    def check_running(self) -> None:
        """Raises RpcError UNAVAILABLE unless the engine runs, or the error it failed with."""
        self.check_not_failed()
        if self._stopped:
            raise EngineStoppedError
        if self._shard is None:
            raise RpcError(StatusCode.UNAVAILABLE, "the engine is not running; start it first")

    def check_not_failed(self) -> None:
        """Raises the RpcError the engine failed with, if it has."""
        if self._failure is not None:
            raise RpcError(self._failure.code, self._failure.message)

    def service(self, *, in_process: bool = True) -> EngineService:
        """The engine's calls. Raises RpcError UNAVAILABLE unless it has been started.

        Args:
            in_process: the callers live and die with this engine, so that a workflow task may reach them before
                the commit that made it. False for callers in other processes.
        """
        self.check_running()
        return EngineService(self, in_process=in_process)

    @property
    def stopping(self) -> bool:
        """Waiting makes no sense any more."""
        return self._stopped or self._failure is not None

    @property
    def shard(self) -> Shard:
        """The shard. Raises RpcError UNAVAILABLE before `start`."""
        if self._shard is None:
            self.check_running()
        assert self._shard is not None, "a running engine has a shard"
        return self._shard

    @property
    def emptying(self) -> Emptying:
        assert self._emptying is not None, "a running engine empties deleted namespaces"
        return self._emptying

    @property
    def tokens(self) -> Tokens:
        assert self._tokens is not None, "a running engine has a token key"
        return self._tokens

    @property
    def reader(self) -> HistoryReader:
        assert self._reader is not None, "a running engine has a reader"
        return self._reader

    @property
    def batches(self) -> Batches:
        assert self._batches is not None, "a running engine has batch jobs, or none, but knows"
        return self._batches

    @property
    def hand_out(self) -> HandOut:
        assert self._hand_out is not None, "a running engine hands out tasks"
        return self._hand_out

    # -- idleness and virtual time ---------------------------------------------------------------------------------

    def is_idle(self, *, but_held: bool = False) -> bool:
        """Nothing will happen before a deadline, a call or a poll: no commit in flight, no task handed out.

        Args:
            but_held: True to count an engine as idle although workers hold tasks.
        """
        shard = self._shard
        if shard is None or self.stopping:
            return True
        if shard.busy or (self._batches is not None and self._batches.busy):
            return False
        if but_held:
            return True
        return not any(_is_worked_on(slot.run.live, slot.run.state.items) for slot in shard.cache.loaded.values())

    async def wait_idle(self, *, but_held: bool = False) -> None:
        """Wait until the engine has been idle, as `is_idle` says, for a few turns of the event loop."""
        quiet = 0
        while quiet < _SETTLING_TURNS:
            if self.is_idle(but_held=but_held):
                quiet += 1
                await asyncio.sleep(0)
            else:
                quiet = 0
                waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._idle_waiters.append(waiter)
                await waiter

    def _settled(self) -> None:
        """Something has come to rest: let those who wait for idleness look again."""
        if self._idle_waiters:
            waiters, self._idle_waiters = self._idle_waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def next_deadline_ms(self) -> int | None:
        """The earliest deadline the engine waits for, epoch milliseconds; None if it waits for none."""
        return self.shard.next_deadline_ms()

    def advance(self) -> bool:
        """Jump the virtual clock to the next deadline. False when there is none. Only with a `VirtualClock`."""
        assert isinstance(self.clock, VirtualClock), "only a virtual clock can jump"
        self.shard.next_deadline_ms()
        return self.clock.advance()

    # -- looking in ------------------------------------------------------------------------------------------------

    def statistics(self) -> EngineStatistics:
        """What the engine holds now and has done so far."""
        shard = self.shard
        return EngineStatistics(
            loaded_runs=len(shard.cache.loaded),
            cold_bytes=shard.cache.cold_bytes,
            loads=shard.cache.loads,
            evictions=shard.cache.evictions,
            quarantined_runs=len(shard.cache.quarantined),
            commits=shard.committer.commits,
            tasks_waiting=sum(len(queue.backlog) for queue in shard.matching.queues()),
            polls_waiting=sum(len(queue.pollers) + len(queue.standing) for queue in shard.matching.queues()),
            timers=len(shard.timers),
        )

    async def check_invariants(self) -> list[str]:
        """Look for runs that would never go on, and for states that their histories do not tell.

        Call it when the engine is idle. Returns one line a finding; an empty list means that all is well.
        """
        shard = self.shard
        return scan_memory(shard) + await scan_store(self._store, list(shard.namespaces.by_name))


def _is_worked_on(live: Live, items: dict[int, Item]) -> bool:
    """Whether a worker holds a task of a run now (activities that complete elsewhere do not count)."""
    if live.task is not None:
        return True
    for event_id in live.activities:
        item = items.get(event_id)
        if isinstance(item, ActivityItem) and not item.held:
            return True
    return False
