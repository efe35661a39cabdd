"""Processes that die: a real worker, client and engine on an event loop whose time is virtual.

`Lives` is what outlasts them: the durable state, the time, and the outside world's ledger. `Lives.play` runs a story
(an async function that may be run again from its beginning) in a process of its own; when the engine of that process
dies, everything in it is dropped, half-done as it is, and the story begins again in the next one on what is durable.

Time is the event loop's: `VirtualLoop` jumps to the next timer when nothing is left to do, so that timers of the
engine, waits of the worker and sleeps of activities all live in the same time, and years pass at once. A loop that
waits for nothing at all says so instead of hanging.
"""

from __future__ import annotations

import asyncio
import math
import selectors
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, TypeVar

from perdure.api import RpcError
from perdure.api import messages as m
from perdure.client import Client, WorkflowHistory
from perdure.engine import Engine, EngineConfig
from perdure.engine.ids import SeededIds
from perdure.engine.store.memory import CommitHook, MemoryState, MemoryStore
from perdure.engine.store.port import Batch, Store, StoreWriteError
from perdure.engine.visibility.expressions import VisibilityQuery
from perdure.worker import Worker

__all__ = [
    "OUTSIDE",
    "START_MS",
    "Died",
    "Ledger",
    "Life",
    "Lives",
    "LoopClock",
    "Severed",
    "SlowStore",
    "VirtualLoop",
    "Witness",
    "killed_at",
]

T = TypeVar("T")

START_MS = 1_767_225_600_000
MAX_LIVES = 400
MAX_TURNS = 50_000
"""Of one event loop; a story needs some hundreds."""
NEVER_S = 1e9


class _Jumping(selectors.BaseSelector):
    """A selector that never waits: what it was to wait for has passed already."""

    def __init__(self, max_turns: int) -> None:
        self._real = selectors.DefaultSelector()
        self._max_turns = max_turns
        self._turns = 0
        self.now_s = 0.0

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def get_map(self) -> Any:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = self._real.select(0)
        self._turns += 1
        if self._turns > self._max_turns:
            raise AssertionError(f"no end after {self._max_turns} turns of the event loop, at {self.now_s} s")
        if not ready and timeout is None:
            raise AssertionError("everything waits, and nothing will ever happen")
        if not ready and timeout:
            self.now_s += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop without threads or I/O whose time jumps to the next timer when it has nothing to do."""

    def __init__(self, now_s: float = 0.0, max_turns: int = MAX_TURNS) -> None:
        self._jumping = _Jumping(max_turns)
        self._jumping.now_s = now_s
        super().__init__(self._jumping)
        # A timer is due when it lies before now + resolution, which a nanosecond is too small for after half a year.
        self._clock_resolution = 1e-4

    def time(self) -> float:
        return self._jumping.now_s


class LoopClock:
    """The engine's clock in the event loop's time; `offset_ms` is how far an administrator has set the wall clock."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.offset_ms = 0

    def now_ms(self) -> int:
        return START_MS + self.offset_ms + math.ceil(self._loop.time() * 1000 - 0.001)

    def monotonic_s(self) -> float:
        return self._loop.time()

    def call_at(self, at_ms: int, callback: Callable[[], None]) -> asyncio.TimerHandle:
        return self._loop.call_at((at_ms - START_MS - self.offset_ms) / 1000, callback)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        return self._loop.call_later(delay_s, callback)


class SlowStore(MemoryStore):
    """A store whose commits and reads take their time, by chance, before and after they take effect.

    Args:
        delay_s: answers how long each of these waits takes; 0 = a turn of the event loop, below = none.
    """

    def __init__(self, state: MemoryState, delay_s: Callable[[], float], **hooks: CommitHook | None) -> None:
        super().__init__(state, **hooks)
        self._delay_s = delay_s

    async def _dawdle(self) -> None:
        delay_s = self._delay_s()
        if delay_s >= 0:
            await asyncio.sleep(delay_s)

    async def commit(self, batch: Batch) -> None:
        await self._dawdle()
        await super().commit(batch)
        await self._dawdle()


def _slow(name: str) -> Callable[..., Awaitable[Any]]:
    async def read(self: SlowStore, *args: Any) -> Any:
        await self._dawdle()
        found = await getattr(MemoryStore, name)(self, *args)
        await self._dawdle()
        return found

    return read


for _name in ("load_run", "current_run", "find_run", "read_history", "read_history_reverse", "due_runs"):
    setattr(SlowStore, _name, _slow(_name))


@dataclass(slots=True)
class Ledger:
    """What the outside world has seen; it outlives every process."""

    ran: list[tuple[str, str, int]] = field(default_factory=list)
    """(run id, activity id, attempt) of each activity task that a worker took."""
    acknowledged: set[tuple[str, str]] = field(default_factory=set)
    """(run id, activity id) of activities whose completion the engine has acknowledged."""
    repeated: list[tuple[str, str, int]] = field(default_factory=list)
    """Attempts that were handed out although the completion had been acknowledged."""
    effects: list[str] = field(default_factory=list)
    """What activities and steps did, in their own words."""

    def note(self, effect: str) -> None:
        self.effects.append(effect)

    def take(self, task: m.PollActivityTaskQueueResponse) -> tuple[str, str]:
        """A worker takes a task; its key."""
        key = (task.workflow_execution.run_id, task.activity_id)
        self.ran.append((*key, task.attempt))
        if key in self.acknowledged:
            self.repeated.append((*key, task.attempt))
        return key


OUTSIDE: ContextVar[Ledger] = ContextVar("outside")
"""The ledger, for activities and steps."""


class Died(Exception):
    """The engine of this life has stopped for good."""


class Witness:
    """The engine's service as a worker sees it, with the ledger looking on; with its short way, if `short_way`."""

    def __init__(self, service: Any, ledger: Ledger, *, short_way: bool) -> None:
        self._service = service
        self._ledger = ledger
        self._keys: dict[bytes, tuple[str, str]] = {}
        self._short_way = short_way

    @property
    def direct(self) -> Any:
        return WitnessDirect(self._service, self._ledger, self._keys) if self._short_way else None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._service, name)

    async def poll_activity_task_queue(self, request: Any, **options: Any) -> m.PollActivityTaskQueueResponse:
        task = await self._service.poll_activity_task_queue(request, **options)
        if task.task_token:
            self._keys[task.task_token] = self._ledger.take(task)
        return task

    async def respond_activity_task_completed(self, request: Any) -> Any:
        response = await self._service.respond_activity_task_completed(request)
        self._ledger.acknowledged.add(self._keys[request.task_token])
        return response


class WitnessDirect:
    """The short way, with the ledger looking on."""

    def __init__(self, service: Any, ledger: Ledger, keys: dict[bytes, tuple[str, str]]) -> None:
        self._short_way = service.direct
        self._shard = service.shard
        self._ledger = ledger
        self._keys = keys

    def __getattr__(self, name: str) -> Any:
        return getattr(self._short_way, name)

    def poll_activities(self, request: Any, taker: Any) -> Any:
        def take_activity(task: Any) -> None:
            message = task.message()
            key = self._keys[message.task_token] = self._ledger.take(message)
            taker.take_activity(WitnessedActivity(task, key, self._shard, self._ledger))

        return self._short_way.poll_activities(request, SimpleNamespace(take_activity=take_activity))


class WitnessedActivity:
    """A task on the short way; its completion counts as acknowledged when it is durable."""

    def __init__(self, task: Any, key: tuple[str, str], shard: Any, ledger: Ledger) -> None:
        self._task = task
        self._key = key
        self._shard = shard
        self._ledger = ledger

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def complete(self, result: bytes, lost: Any) -> None:
        group = self._shard.committer.group
        self._task.complete(result, lost)
        group.durable().add_done_callback(self._acknowledge)

    def _acknowledge(self, durable: asyncio.Future[None]) -> None:
        if durable.exception() is None:
            self._ledger.acknowledged.add(self._key)


class Severed:
    """A service whose caller may be cut off: what is under way is given up, and nothing comes through any more."""

    def __init__(self, service: Any) -> None:
        self._service = service
        self._calls: set[asyncio.Future[Any]] = set()
        self._is_cut = False

    def __getattr__(self, name: str) -> Any:
        async def call(request: Any, **options: Any) -> Any:
            if self._is_cut:
                await asyncio.Event().wait()
            inner = asyncio.ensure_future(getattr(self._service, name)(request, **options))
            self._calls.add(inner)
            inner.add_done_callback(self._calls.discard)
            try:
                return await asyncio.shield(inner)
            except asyncio.CancelledError:
                if self._is_cut:
                    await asyncio.Event().wait()
                inner.cancel()
                raise

        return call

    def cut(self) -> None:
        self._is_cut = True
        for call in tuple(self._calls):
            call.cancel()


class Life:
    """One process."""

    def __init__(self, lives: Lives, engine: Engine, clock: LoopClock) -> None:
        self.ledger = lives.ledger
        self.engine = engine
        self.clock = clock
        self._lives = lives
        self.raw = engine.service(in_process=lives.in_process)
        witness = Witness(self.raw, self.ledger, short_way=lives.short_way)
        self.client = Client(witness, task_queue="system", identity="system")  # type: ignore[arg-type]
        self.worker: Worker | None = None
        self.is_reborn = lives.lives > 1

    async def start_worker(self, **options: Any) -> Worker:
        """A worker for everything the lives are about."""
        lives = self._lives
        worker = Worker(
            self.client,
            task_queue="system",
            workflows=lives.workflows,
            activities=lives.activities,
            **{**lives.worker_options, **options},
        )
        await worker.start()
        return worker

    async def start_doomed_worker(self) -> tuple[Worker, Severed]:
        """A worker that dies when its service is cut."""
        lives = self._lives
        service = Severed(Witness(self.raw, self.ledger, short_way=False))
        client = Client(service, identity="doomed")  # type: ignore[arg-type]
        worker = Worker(client, task_queue="system", workflows=lives.workflows, activities=lives.activities)
        await worker.start()
        return worker, service

    async def at(self, seconds: float) -> None:
        """Wait until so many seconds have passed since the beginning of the first life."""
        await asyncio.sleep(max(0.0, seconds - asyncio.get_running_loop().time()))

    async def signal(self, workflow_id: str, name: str, *args: Any, request_id: str) -> None:
        """Send a signal; a repeat with the same request id is the same signal. One that comes too late is let be."""
        request = m.SignalWorkflowExecutionRequest(namespace="default", signal_name=name, request_id=request_id)
        request.workflow_execution.workflow_id = workflow_id
        request.input.CopyFrom(self.client.data_converter.to_payloads(args))
        try:
            await self.raw.signal_workflow_execution(request)
        except RpcError as error:
            if "already completed" not in error.message:
                raise

    async def rest(self) -> None:
        """Until nothing is left to do before the next timer: time does not pass before."""
        await asyncio.sleep(0.001)

    async def histories(self) -> dict[str, list[WorkflowHistory]]:
        """Every run's history, by workflow id, oldest run first."""
        page = await self.engine.shard.store.list_visibility(VisibilityQuery(namespace="default"), None, 1000)
        found: dict[str, list[WorkflowHistory]] = {}
        for row in sorted(page.rows, key=lambda row: row.run_key):
            handle = self.client.get_workflow_handle(row.workflow_id, run_id=row.run_id)
            found.setdefault(row.workflow_id, []).append(await handle.fetch_history())
        return found

    async def check(self) -> None:
        """Nothing is lost, doubled or stuck, and each run's state is the fold of its history."""
        await self.rest()
        findings = await self.engine.check_invariants()
        assert findings == [], findings


Story = Callable[[Life], Awaitable[T]]


class Lives:
    """What outlasts processes, and the way to start one.

    Args:
        workflows: what the worker of each process runs.
        activities: likewise.
        before, after: see each commit; StoreWriteError kills the process before or after it.
        forget: whether the engine drops every run that nobody holds after a commit; asked each time.
        delay_s: how long the store takes; see `SlowStore`.
        config: of the engines.
        worker_options: of the workers.
        in_process: False for engines that treat their callers as other processes.
        short_way: False for workers that get their tasks by polls all the same.
    """

    def __init__(
        self,
        *,
        workflows: Sequence[Any] = (),
        activities: Sequence[Any] = (),
        before: CommitHook | None = None,
        after: CommitHook | None = None,
        forget: Callable[[], bool] | None = None,
        delay_s: Callable[[], float] | None = None,
        config: EngineConfig | None = None,
        worker_options: dict[str, Any] | None = None,
        in_process: bool = True,
        short_way: bool = True,
    ) -> None:
        self.in_process = in_process
        self.short_way = short_way and in_process
        self._delay_s = delay_s
        self.workflows = workflows
        self.activities = activities
        self.config = config or EngineConfig(poll_timeout_s=NEVER_S, erase_closed=False)
        self.worker_options = worker_options or {}
        self.state = MemoryState()
        self.ledger = Ledger()
        self.now_s = 0.0
        self.lives = 0
        self.commits = 0
        self.forgotten = 0
        self._forget = forget
        self._engine: Engine | None = None
        self._before = before
        self._after = after

    def make_store(self) -> Store:
        if self._delay_s is not None:
            return SlowStore(self.state, self._delay_s, before_commit=self._count, after_commit=self._after)
        return MemoryStore(self.state, before_commit=self._count, after_commit=self._after)

    def _count(self, number: int, batch: Batch) -> None:
        self.commits += 1
        if self._forget is not None and self._forget():
            asyncio.get_running_loop().call_soon(self._evict)
        if self._before is not None:
            self._before(number, batch)

    def _evict(self) -> None:
        assert self._engine is not None
        self.forgotten += self._engine.shard.cache.evict_cold()

    def play(self, story: Story[T], *, worker: bool = True) -> T:
        """Run a story to its end, in as many lives as it takes."""
        for _ in range(MAX_LIVES):
            try:
                return self.live(story, worker=worker)
            except Died:
                continue
        raise AssertionError(f"the story has come to no end in {MAX_LIVES} lives")

    def live(self, story: Story[T], *, worker: bool = True) -> T:
        """One process: it ends with the story, or dies with the engine.

        Raises:
            Died: the engine has stopped for good.
        """
        self.lives += 1
        loop = VirtualLoop(self.now_s)
        with asyncio.Runner(loop_factory=lambda: loop) as runner, self._outside():
            try:
                return runner.run(self._live(story, worker))
            finally:
                self.now_s = loop.time()

    @contextmanager
    def _outside(self) -> Iterator[None]:
        token = OUTSIDE.set(self.ledger)
        try:
            yield
        finally:
            OUTSIDE.reset(token)

    async def _live(self, story: Story[T], worker: bool) -> T:
        OUTSIDE.set(self.ledger)
        clock = LoopClock()
        engine = Engine(self.make_store(), clock=clock, ids=SeededIds(self.lives), config=self.config)
        self._engine = engine
        failed = asyncio.ensure_future(engine.wait_failed())
        told = asyncio.ensure_future(self._tell(story, engine, clock, worker))
        await asyncio.wait((failed, told), return_when=asyncio.FIRST_COMPLETED)
        if failed.done():
            told.cancel()
            await asyncio.gather(told, return_exceptions=True)
            raise Died(failed.result().message)
        failed.cancel()
        return told.result()

    async def _tell(self, story: Story[T], engine: Engine, clock: LoopClock, worker: bool) -> T:
        try:
            await engine.start()
        except RpcError as error:  # What it writes first was refused: another process has to try.
            raise Died(error.message) from error
        life = Life(self, engine, clock)
        if worker:
            life.worker = await life.start_worker()
        result = await story(life)
        await life.check()
        return result


def killed_at(commit: int) -> tuple[CommitHook, Callable[[], int]]:
    """A hook that kills one process, at the nth commit of all; and how many it has seen."""
    seen = [0]

    def hook(_number: int, _batch: Batch) -> None:
        seen[0] += 1
        if seen[0] == commit:
            raise StoreWriteError("the process dies here")

    return hook, lambda: seen[0]
