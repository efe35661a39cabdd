"""Schedules over crashes and commits that fail: each action is taken once, whichever commit the trouble comes at."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.engine.clock import VirtualClock
from perdure.engine.store import MemoryState, MemoryStore
from perdure.engine.store.port import Batch, StoreFullError, StoreWriteError
from tests.service.scheduling import MINUTE_MS, Scheduling, schedule
from tests.service.support import NAMESPACE, START_MS, Driver, complete_workflow, refusal

ACTIONS = 4
TERMINATED = m.WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_TERMINATED
Hook = Callable[[int, Batch], None]


class Trouble:
    """A hook that raises at the nth commit, counted over all engines."""

    def __init__(self, at: int, error: Exception) -> None:
        self.commits = 0
        self._at = at
        self._error = error

    def __call__(self, _number: int, _batch: Batch) -> None:
        self.commits += 1
        if self.commits == self._at:
            raise self._error


class Life:
    """A schedule that acts each minute while engines come and go, with a worker that completes its workflows."""

    def __init__(self, overlap: str, trouble: Trouble, *, after: bool) -> None:
        self.clock = VirtualClock(START_MS)
        self.engines = 0
        self._overlap = overlap
        self._state = MemoryState()
        self._trouble = trouble
        self._after = after
        self.runs: list[tuple[str, str]] = []
        self.carried: list[list[bytes]] = []

    def _store(self) -> MemoryStore:
        before, after = (None, self._trouble) if self._after else (self._trouble, None)
        return MemoryStore(self._state, before_commit=before, after_commit=after)

    async def play(self) -> m.ScheduleInfo:
        """Engine after engine, until all actions are taken and their workflows completed."""
        while True:
            self.engines += 1
            assert self.engines < 4, "one crash, one more engine"
            try:
                async with Driver(self._store(), clock=self.clock, seed=self.engines) as driver:
                    return await self._live(driver)
            except RpcError:
                continue

    async def _live(self, driver: Driver) -> m.ScheduleInfo:
        s = Scheduling(driver)
        wanted = schedule(every_s=60, overlap=self._overlap, limited_actions=True, remaining_actions=ACTIONS)
        for _ in range(3):
            try:
                await s.create(wanted)
                break
            except RpcError:
                if driver.engine.stopping:
                    raise
        while True:
            await s.pass_time(MINUTE_MS)
            driver.engine.check_running()
            while (task := await driver.poll()).task_token:
                attributes = task.history.events[0].workflow_execution_started_event_attributes
                self.carried.append([each.data for each in attributes.last_completion_result.payloads])
                try:
                    await driver.complete(task, complete_workflow(task.workflow_execution.workflow_id))
                except RpcError:
                    driver.engine.check_running()
                    break  # The commit failed; the task comes again.
            described = await s.describe()
            info = described.info
            if not described.schedule.state.remaining_actions and not info.running_workflows and not info.buffer_size:
                await driver.settle()
                listed = await driver.service.list_workflow_executions(
                    m.ListWorkflowExecutionsRequest(namespace=NAMESPACE)
                )
                self.runs = [(each.execution.workflow_id, each.execution.run_id) for each in listed.executions]
                return info


async def commits_of(overlap: str) -> int:
    trouble = Trouble(0, RuntimeError())
    await Life(overlap, trouble, after=False).play()
    return trouble.commits


def check(life: Life, info: m.ScheduleInfo, overlap: str) -> None:
    expected = [f"wf-2026-01-01T00:0{minute}:00Z" for minute in range(1, ACTIONS + 1)]
    assert info.action_count == ACTIONS
    assert sorted(workflow_id for workflow_id, _ in life.runs) == expected
    assert sorted(each.start_workflow_result.workflow_id for each in info.recent_actions) == expected
    assert {each.start_workflow_status for each in info.recent_actions} == {2}
    assert {each.start_workflow_result.run_id for each in info.recent_actions} == {run_id for _, run_id in life.runs}
    if overlap == "BUFFER_ALL":
        results = [[], *([each.encode()] for each in expected[:-1])]
        assert [each for at, each in enumerate(life.carried) if each not in life.carried[:at]] == results


@pytest.mark.parametrize("overlap", ["ALLOW_ALL", "BUFFER_ALL"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_crash_at_every_commit_boundary(overlap: str, after: bool) -> None:
    commits = await commits_of(overlap)
    assert commits > 2 * ACTIONS
    for commit in range(2, commits + 1):
        trouble = Trouble(commit, StoreWriteError("the process dies here"))
        life = Life(overlap, trouble, after=after)
        try:
            info = await life.play()
            assert life.engines == 2, "the engine should have died"
            check(life, info, overlap)
        except AssertionError as error:
            error.add_note(f"crashed at commit {commit} of {commits}")
            raise


@pytest.mark.parametrize("overlap", ["ALLOW_ALL", "BUFFER_ALL"])
async def test_every_commit_may_fail_once(overlap: str) -> None:
    commits = await commits_of(overlap)
    for commit in range(2, commits + 1):
        life = Life(overlap, Trouble(commit, StoreFullError("no space left")), after=False)
        try:
            info = await life.play()
            assert life.engines == 1
            check(life, info, overlap)
        except AssertionError as error:
            error.add_note(f"commit {commit} of {commits} failed")
            raise


async def restarted(state: MemoryState, clock: VirtualClock, seed: int) -> Driver:
    return Driver(MemoryStore(state), clock=clock, seed=seed)


async def test_what_came_due_while_nobody_was_there_is_caught_up_with() -> None:
    state, clock = MemoryState(), VirtualClock(START_MS)
    async with await restarted(state, clock, 1) as driver:
        wanted = schedule(every_s=60, overlap="ALLOW_ALL")
        wanted.policies.catchup_window.seconds = 150
        await Scheduling(driver).create(wanted)
    clock.jump_to(START_MS + 10 * MINUTE_MS + 1)
    async with await restarted(state, clock, 2) as driver:
        await driver.rest()
        info = await Scheduling(driver).info()
        assert (info.action_count, info.missed_catchup_window) == (3, 7)
        assert info.recent_actions[0].schedule_time.ToMilliseconds() == START_MS + 8 * MINUTE_MS
        await driver.settle()


async def test_an_engine_that_starts_knows_what_waits_and_what_runs() -> None:
    state, clock = MemoryState(), VirtualClock(START_MS)
    async with await restarted(state, clock, 1) as driver:
        s = Scheduling(driver)
        await s.create(schedule(every_s=60, overlap="BUFFER_ONE"))
        await s.pass_time(2 * MINUTE_MS)
        assert (await s.info()).buffer_size == 1
    async with await restarted(state, clock, 2) as driver:
        s = Scheduling(driver)
        await driver.step(complete_workflow("one"))
        task = await driver.poll()
        assert task.workflow_execution.workflow_id == "wf-2026-01-01T00:02:00Z"
        assert (await s.info()).action_count == 2
        await s.pass_time(2 * MINUTE_MS)
        info = await s.info()
        assert (info.buffer_size, info.overlap_skipped) == (1, 1)
        await driver.step(complete_workflow("two"))
        await driver.settle()


async def test_a_change_that_is_lost_leaves_the_schedule_as_it_was() -> None:
    trouble = Trouble(4, StoreFullError("no space left"))
    async with Driver(MemoryStore(before_commit=trouble)) as driver:
        s = Scheduling(driver)
        await s.create(schedule(every_s=60, overlap="ALLOW_ALL"))
        while trouble.commits < 3:
            await s.pass_time(MINUTE_MS)
        before = await s.describe()
        error = await refusal(s.patch(pause="lost"))
        assert error.code is StatusCode.RESOURCE_EXHAUSTED
        assert (await s.describe()).schedule == before.schedule
        await s.pass_time(2 * MINUTE_MS)
        assert (await s.info()).action_count == before.info.action_count + 2
        await driver.settle()


async def test_clocks_that_jump_take_no_action_twice_and_leave_none_out() -> None:
    async with Driver(MemoryStore()) as driver:
        s = Scheduling(driver)
        await s.create(schedule(every_s=60, overlap="ALLOW_ALL"))
        await s.pass_time(3 * MINUTE_MS)
        driver.clock.jump_to(START_MS - 60 * MINUTE_MS)
        await s.pass_time(62 * MINUTE_MS)
        assert (await s.info()).action_count == 3
        driver.clock.jump_to(START_MS + 8 * MINUTE_MS)
        await driver.rest()
        info = await s.info()
        assert info.action_count == 8
        assert len({each.start_workflow_result.workflow_id for each in info.recent_actions}) == 8
        await driver.settle()


async def test_a_damaged_row_harms_no_other_schedule() -> None:
    state, clock = MemoryState(), VirtualClock(START_MS)
    async with await restarted(state, clock, 1) as driver:
        for name in ("good", "bad state", "bad definition"):
            await Scheduling(driver, name).create(schedule(every_s=60, overlap="ALLOW_ALL"))
    for name, field in (("bad state", "state"), ("bad definition", "definition")):
        row = state.schedules[NAMESPACE, name]
        data = bytearray(getattr(row, field))
        data[len(data) // 2] ^= 1
        state.schedules[NAMESPACE, name] = row._replace(**{field: bytes(data)})
    async with await restarted(state, clock, 2) as driver:
        await Scheduling(driver).pass_time(2 * MINUTE_MS)
        assert (await Scheduling(driver, "good").info()).action_count == 2
        listed = (await Scheduling(driver).listed()).schedules
        assert {each.schedule_id for each in listed if "damaged" in each.info.notes} == {"bad state", "bad definition"}
        for name in ("bad state", "bad definition"):
            await Scheduling(driver, name).delete()


async def test_a_month_is_over_in_no_time() -> None:
    async with Driver(MemoryStore()) as driver:
        s = Scheduling(driver)
        await s.create(schedule(cron="TZ=America/New_York 0 9 * * MON-FRI"))
        for _ in range(22):
            while not (task := await driver.poll()).task_token:
                driver.engine.advance()
            await driver.complete(task, complete_workflow())
        info = await s.info()
        assert info.action_count == 22
        assert driver.clock.now_ms() > START_MS + 28 * 24 * 60 * MINUTE_MS


async def test_a_damaged_workflow_does_not_hold_its_schedule_up() -> None:
    state, clock = MemoryState(), VirtualClock(START_MS)
    async with await restarted(state, clock, 1) as driver:
        s = Scheduling(driver)
        await s.create(schedule(every_s=60, overlap="BUFFER_ONE"))
        await s.pass_time(2 * MINUTE_MS)
    (row,) = state.runs.values()
    state.runs[row.run_key] = row._replace(state=b"\xff" + row.state)
    state.histories[row.run_key].batches[0] = b"\xff"
    async with await restarted(state, clock, 2) as driver:
        s = Scheduling(driver)
        task = await driver.poll()
        assert task.workflow_execution.workflow_id == "wf-2026-01-01T00:02:00Z"
        info = await s.info()
        assert [each.start_workflow_status for each in info.recent_actions] == [TERMINATED, 1]
