"""A small world around an engine that dies: clients that retry, workers that decide from histories, a ledger outside.

Workflows are pure functions from a history to commands, so any worker can go on with any run. `World.play` drives
clients and worker until every workflow is closed, jumping the virtual clock when nothing else happens; when the engine
fails it opens another on what is durable, as a supervisor would. The ledger notes each activity attempt that ran and
each one whose completion was acknowledged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.engine import EngineConfig
from perdure.engine.clock import VirtualClock
from perdure.engine.store.memory import CommitHook, MemoryState, MemoryStore
from tests.service import support as do
from tests.service.support import Driver

__all__ = ["WORKFLOWS", "Ledger", "World"]

T = m.EventType
Decide = Callable[[Sequence[m.HistoryEvent]], list[m.Command]]

MAX_ROUNDS = 2000


def _count(events: Sequence[m.HistoryEvent], kind: int) -> int:
    return sum(event.event_type == kind for event in events)


def chain(events: Sequence[m.HistoryEvent]) -> list[m.Command]:
    """Three activities one after the other, the second failing once, with a pause between."""
    done = _count(events, T.EVENT_TYPE_ACTIVITY_TASK_COMPLETED)
    asked = _count(events, T.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED)
    timers = _count(events, T.EVENT_TYPE_TIMER_STARTED)
    fired = _count(events, T.EVENT_TYPE_TIMER_FIRED)
    if asked > done or timers > fired:
        return []
    if done == 3:
        return [do.complete_workflow("chained")]
    if done == 1 and not timers:
        return [do.start_timer("pause", 3600)]
    return [do.schedule_activity(f"a{done}", attempts=3, activity_type="flaky" if done == 1 else "work")]


def family(events: Sequence[m.HistoryEvent]) -> list[m.Command]:
    """A child that is signalled, and its result awaited; beside it an activity."""
    commands: list[m.Command] = []
    if not _count(events, T.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED):
        commands += [do.start_child("child"), do.schedule_activity("beside")]
    started = _count(events, T.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED)
    signalled = _count(events, T.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED)
    if started and not signalled:
        commands.append(do.signal_external("child"))
    delivered = _count(events, T.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_SIGNALED)
    ended = _count(events, T.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED)
    if ended and delivered and _count(events, T.EVENT_TYPE_ACTIVITY_TASK_COMPLETED):
        commands.append(do.complete_workflow("family"))
    return commands


def child(events: Sequence[m.HistoryEvent]) -> list[m.Command]:
    """Waits for a signal."""
    if _count(events, T.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED):
        return [do.complete_workflow("child")]
    return []


def relay(events: Sequence[m.HistoryEvent]) -> list[m.Command]:
    """Three runs, each with a timer; the client signals the chain, the last one completes."""
    started = events[0].workflow_execution_started_event_attributes
    lap = int(do.text_of(started.input)) if started.HasField("input") else 1
    if not _count(events, T.EVENT_TYPE_TIMER_STARTED):
        return [do.start_timer("lap", 60)]
    if not _count(events, T.EVENT_TYPE_TIMER_FIRED):
        return []
    if lap == 3:
        return [do.complete_workflow("relayed")]
    command = do.continue_as_new(str(lap + 1))
    command.continue_as_new_workflow_execution_command_attributes.workflow_type.name = "relay"
    return [command]


WORKFLOWS: dict[str, Decide] = {"chain": chain, "family": family, "child": child, "relay": relay}


@dataclass(slots=True)
class Ledger:
    """What happened outside the engine."""

    ran: list[tuple[str, str, int]] = field(default_factory=list)
    """(workflow id, activity id, attempt) of every attempt that ran."""
    acknowledged: set[tuple[str, str]] = field(default_factory=set)
    """(workflow id, activity id) whose completion the engine has taken in."""
    repeated: list[tuple[str, str, int]] = field(default_factory=list)
    """Attempts that ran although the activity's completion had been acknowledged."""


class World:
    """Clients and a worker of an engine that may die at any commit."""

    def __init__(self, *, before: CommitHook | None = None, after: CommitHook | None = None) -> None:
        self.clock = VirtualClock(do.START_MS)
        self.state = MemoryState()
        self.ledger = Ledger()
        self.engines = 0
        self.errors: list[RpcError] = []
        self._before = before
        self._after = after
        self._started: set[str] = set()
        self._signalled = False
        self.commits = 0

    async def play(self, *workflow_types: str, config: EngineConfig | None = None) -> None:
        """Start one workflow of each type and see them all through."""
        for _ in range(MAX_ROUNDS):
            store = MemoryStore(self.state, before_commit=self._before, after_commit=self._after)
            self.engines += 1
            driver = Driver(store, clock=self.clock, config=config, seed=self.engines)
            try:
                async with driver:
                    await self._live(driver, workflow_types)
                    self.commits += store.commits
                    return
            except RpcError as error:
                self.errors.append(error)
                self.commits += store.commits
                assert error.code in (StatusCode.UNAVAILABLE, StatusCode.RESOURCE_EXHAUSTED), error
        raise AssertionError("the world came to no end")

    async def _live(self, driver: Driver, workflow_types: Sequence[str]) -> None:
        for _ in range(MAX_ROUNDS):
            moved = await self._client(driver, workflow_types)
            moved |= await self._work(driver)
            if moved:
                continue
            await driver.engine.wait_idle()
            driver.engine.check_running()
            if await self._is_over(driver, workflow_types):
                findings = await driver.engine.check_invariants()
                assert findings == [], findings
                return
            findings = await driver.engine.check_invariants()
            assert findings == [], findings
            assert driver.engine.advance(), "the engine waits for nothing, and the workflows are open"
        raise AssertionError("the workflows came to no end")

    async def _try(self, call: object) -> bool:
        """Make a call; False if it has to be made again. UNAVAILABLE of a dead engine ends the life."""
        try:
            await call  # type: ignore[misc]
        except RpcError as error:
            if error.code is StatusCode.NOT_FOUND:
                return True  # Done already, or taken over.
            if error.code is StatusCode.RESOURCE_EXHAUSTED or "injected" in error.message:
                return False
            raise
        return True

    async def _client(self, driver: Driver, workflow_types: Sequence[str]) -> bool:
        moved = False
        for name in workflow_types:
            if name not in self._started:
                request = driver.start_request(name, request_id=f"start {name}")
                request.workflow_type.name = name
                if await self._try(driver.service.start_workflow_execution(request)):
                    self._started.add(name)
                moved = True
        if "relay" in self._started and not self._signalled:
            self._signalled = await self._try(driver.signal("relay", request_id="signal"))
            moved = True
        return moved

    async def _work(self, driver: Driver) -> bool:
        task = await driver.poll()
        if task.task_token:
            commands = WORKFLOWS[task.workflow_type.name](task.history.events)
            await self._try(driver.complete(task, *commands))
            return True
        activity = await driver.poll_activity()
        if not activity.task_token:
            return False
        key = (activity.workflow_execution.workflow_id, activity.activity_id)
        self.ledger.ran.append((*key, activity.attempt))
        if key in self.ledger.acknowledged:
            self.ledger.repeated.append((*key, activity.attempt))
        if activity.activity_type.name == "flaky" and activity.attempt == 1:
            while not await self._try(driver.fail_activity(activity)):
                await self._back_off()
        else:
            while not await self._try(driver.complete_activity(activity)):
                await self._back_off()
            self.ledger.acknowledged.add(key)
        return True

    async def _back_off(self) -> None:
        self.clock.advance_by(500)
        await do.turns()

    async def _is_over(self, driver: Driver, workflow_types: Sequence[str]) -> bool:
        if self._started != set(workflow_types):
            return False
        statuses = [await driver.status(name) for name in workflow_types]
        assert set(statuses) <= {"RUNNING", "COMPLETED"}, statuses
        return "RUNNING" not in statuses
