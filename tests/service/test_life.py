"""An engine's life: restarts, stops, failures, damaged runs, retention, memory, clocks that jump."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.engine import Engine, EngineConfig
from perdure.engine.clock import VirtualClock
from perdure.engine.store.memory import MemoryState, MemoryStore
from perdure.engine.store.port import (
    Batch,
    HistoryRow,
    LoadedRun,
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreWriteError,
)
from perdure.engine.store.sqlite import SqliteStore
from perdure.engine.visibility.expressions import VisibilityQuery
from tests.service.support import (
    START_MS,
    STICKY,
    Driver,
    complete_workflow,
    refusal,
    schedule_activity,
    start_timer,
    turns,
)


class CountingStore(MemoryStore):
    """Counts the looks at what is due."""

    def __init__(self, state: MemoryState | None = None) -> None:
        super().__init__(state)
        self.scans = 0

    async def due_runs(self, until_ms: int, after: tuple[int, int] | None, limit: int) -> list[tuple[int, int]]:
        self.scans += 1
        return await super().due_runs(until_ms, after, limit)


async def test_a_restart_goes_on_where_the_engine_was(tmp_path: Path) -> None:
    clock = VirtualClock(START_MS)
    path = tmp_path / "test.db"
    async with Driver(SqliteStore(path), clock=clock) as driver:
        await driver.start("task")
        await driver.start("activity", task_queue=m.TaskQueue(name="second"))
        await driver.complete(await driver.poll("second"), schedule_activity())
        await driver.start("timer", task_queue=m.TaskQueue(name="third"))
        await driver.complete(await driver.poll("third"), start_timer("t", 3600), sticky=STICKY)
    async with Driver(SqliteStore(path), clock=clock, seed=2) as driver:
        await driver.rest()
        assert (await driver.poll()).workflow_execution.workflow_id == "task"
        assert (await driver.poll_activity()).workflow_execution.workflow_id == "activity"
        assert not (await driver.poll("third")).task_token
        clock.advance_by(3_600_000)
        await driver.rest()
        assert (await driver.poll("third")).workflow_execution.workflow_id == "timer"


async def test_a_task_handed_out_before_the_crash_is_handed_out_again_and_its_token_is_stale() -> None:
    clock = VirtualClock(START_MS)
    async with Driver(MemoryStore(), clock=clock) as driver:
        await driver.start()
        old = await driver.poll()
        await driver.signal()
        state = driver.store.snapshot()  # type: ignore[attr-defined]
    async with Driver(MemoryStore(state), clock=clock, seed=2) as driver:
        task = await driver.poll()
        assert task.attempt == 1
        assert len(task.history.events) == len(old.history.events) + 1, "the buffered signal is in the history now"
        assert (await refusal(driver.complete(old, complete_workflow()))).code is StatusCode.NOT_FOUND
        await driver.complete(task, complete_workflow())
        await driver.settle()


async def test_stop_is_harmless_twice_and_before_start() -> None:
    engine = Engine(MemoryStore())
    await engine.stop()
    await engine.start()
    await engine.start()
    await engine.stop()
    await engine.stop()


async def test_stop_answers_polls_and_followers_empty_and_refuses_calls(driver: Driver) -> None:
    await driver.start("other", task_queue=m.TaskQueue(name="other"))
    poll = asyncio.ensure_future(driver.service.poll_workflow_task_queue(driver.poll_request()))
    follow = driver.history_request("other", wait_new_event=True, history_event_filter_type=2)
    follower = asyncio.ensure_future(driver.service.get_workflow_execution_history(follow))
    query = asyncio.ensure_future(driver.query("other"))
    await turns()
    await driver.engine.stop()
    assert (await poll) == m.PollWorkflowTaskQueueResponse()
    assert (await follower).next_page_token
    assert (await refusal(query)).code is StatusCode.UNAVAILABLE
    assert (await refusal(driver.start())).code is StatusCode.UNAVAILABLE


async def test_stop_finishes_what_was_accepted(driver: Driver) -> None:
    starts = [asyncio.ensure_future(driver.start(f"wf{number}")) for number in range(20)]
    await turns(3)
    await driver.engine.stop()
    outcomes = await asyncio.gather(*starts, return_exceptions=True)
    assert all(isinstance(outcome, str) or outcome.code is StatusCode.UNAVAILABLE for outcome in outcomes)


async def test_a_call_that_is_cancelled_does_not_disturb_the_others() -> None:
    async with Driver(MemoryStore()) as driver:
        starts = [asyncio.ensure_future(driver.start(f"wf{number}")) for number in range(5)]
        await asyncio.sleep(0)
        starts[2].cancel()
        outcomes = await asyncio.gather(*starts, return_exceptions=True)
        assert sum(isinstance(outcome, str) for outcome in outcomes) == 4
        await driver.settle()


async def test_a_write_that_fails_for_good_stops_the_engine() -> None:
    def fail(number: int, _batch: Batch) -> None:
        if number == 3:
            raise StoreWriteError("fsync failed; check the disk and open the database again")

    async with Driver(MemoryStore(before_commit=fail)) as driver:
        await driver.start()
        poll = asyncio.ensure_future(driver.service.poll_activity_task_queue(_activity_poll()))
        await turns()
        error = await refusal(driver.start("second"))
        assert error.code is StatusCode.UNAVAILABLE
        assert "fsync failed" in error.message
        assert (await driver.engine.wait_failed()).message == error.message
        for call in (poll, driver.start("third"), driver.describe(), driver.poll()):
            assert (await refusal(call)).message == error.message


def _activity_poll() -> m.PollActivityTaskQueueRequest:
    request = m.PollActivityTaskQueueRequest(namespace="default")
    request.task_queue.name = "queue"
    return request


async def test_a_full_disk_refuses_and_recovers() -> None:
    full = [False]

    def hook(_number: int, _batch: Batch) -> None:
        if full[0]:
            raise StoreFullError("no space left on the device")

    async with Driver(MemoryStore(before_commit=hook)) as driver:
        await driver.start()
        await driver.step(schedule_activity())
        task = await driver.poll_activity()
        full[0] = True
        assert (await refusal(driver.start("second"))).code is StatusCode.RESOURCE_EXHAUSTED
        assert (await refusal(driver.complete_activity(task))).code is StatusCode.RESOURCE_EXHAUSTED
        assert (await driver.event_names())[-1] == "ActivityTaskScheduled", "reads go on"
        driver.clock.advance_by(10_000)
        await driver.rest()
        assert not (await driver.poll_activity()).task_token, "the attempt is still held by its worker"
        full[0] = False
        await driver.complete_activity(task)
        await driver.start("second")
        await driver.step(complete_workflow())
        await driver.step(complete_workflow())
        await driver.settle()


async def test_a_damaged_run_is_quarantined_and_its_neighbours_go_on() -> None:
    clock = VirtualClock(START_MS)
    async with Driver(MemoryStore(), clock=clock) as driver:
        await driver.start("bad")
        await driver.start("good")
        state = driver.store.snapshot()  # type: ignore[attr-defined]
    row = state.runs[1]
    state.runs[1] = row._replace(state=row.state[: len(row.state) // 2])
    async with Driver(MemoryStore(state), clock=clock) as driver:
        assert (await driver.poll()).workflow_execution.workflow_id == "good"
        error = await refusal(driver.describe("bad"))
        assert error.code is StatusCode.DATA_LOSS
        assert "quarantined" in error.message
        assert (await refusal(driver.signal("bad"))).code is StatusCode.DATA_LOSS
        assert driver.engine.statistics().quarantined_runs == 1


async def test_closed_runs_are_erased_when_their_retention_is_over(driver: Driver) -> None:
    run_id = await driver.start()
    await driver.step(complete_workflow())
    await driver.rest()
    day_ms = 24 * 3600 * 1000
    driver.clock.advance_by(3 * day_ms - 1000)
    await driver.rest()
    assert await driver.status(run_id=run_id) == "COMPLETED"
    driver.clock.advance_by(1000)
    await driver.rest()
    assert (await refusal(driver.describe())).code is StatusCode.NOT_FOUND
    request = m.ListWorkflowExecutionsRequest(namespace="default")
    assert not (await driver.service.list_workflow_executions(request)).executions
    assert await driver.start(workflow_id_reuse_policy=3)


async def test_run_keys_are_not_used_again_after_an_erasure() -> None:
    clock = VirtualClock(START_MS)
    async with Driver(MemoryStore(), clock=clock) as driver:
        await driver.start()
        await driver.step(schedule_activity())
        activity = await driver.poll_activity()
        await driver.terminate()
        clock.advance_by(4 * 24 * 3600 * 1000)
        await driver.rest()
        state = driver.store.snapshot()  # type: ignore[attr-defined]
    assert not state.runs
    async with Driver(MemoryStore(state), clock=clock, seed=2) as driver:
        await driver.start()
        await driver.step(schedule_activity())
        await driver.poll_activity()
        assert (await refusal(driver.complete_activity(activity))).code is StatusCode.NOT_FOUND


async def test_retention_can_be_switched_off() -> None:
    async with Driver(MemoryStore(), config=EngineConfig(erase_closed=False)) as driver:
        await driver.start()
        await driver.step(complete_workflow())
        await driver.rest()
        assert not driver.engine.advance(), "a closed run is nothing to wait for"
        driver.clock.advance_by(10 * 24 * 3600 * 1000)
        await driver.rest()
        assert await driver.status() == "COMPLETED"


async def test_many_sleepers_cost_no_memory_and_all_wake() -> None:
    config = EngineConfig(cache_bytes=100_000, scan_page=50, fire_slice=20)
    store = CountingStore()
    async with Driver(store, config=config) as driver:
        for number in range(500):
            await driver.start(f"wf{number}")
            await driver.step(start_timer("t", 86_400 + number % 7))
        await driver.settle()
        statistics = driver.engine.statistics()
        assert statistics.loaded_runs < 50
        assert len(driver.engine.shard.timers.away) == 0, "the store alone knows when they are due"
        scans = store.scans
        driver.clock.advance_by(80_000_000)
        await driver.rest()
        assert store.scans == scans, "nothing is polled while nothing is due"
        assert driver.engine.statistics().loads == 0, "stale deadlines load nothing"
        done = 0
        while driver.engine.advance():
            await driver.rest()
            while (task := await driver.poll()).task_token:
                await driver.complete(task, complete_workflow())
                done += 1
            if done == 500:
                break
        await driver.settle()


async def test_a_restart_with_many_sleepers_reads_few_rows() -> None:
    clock = VirtualClock(START_MS)
    async with Driver(MemoryStore(), clock=clock) as driver:
        for number in range(200):
            await driver.start(f"wf{number}")
            await driver.step(start_timer("t", 86_400))
        state = driver.store.snapshot()  # type: ignore[attr-defined]
    async with Driver(MemoryStore(state), clock=clock) as driver:
        await driver.rest()
        assert driver.engine.statistics().loaded_runs == 0
        assert driver.engine.next_deadline_ms() == START_MS + 86_400_000


@pytest.mark.parametrize("jump_ms", [-3_600_000, 3_600_000])
async def test_a_clock_that_jumps_fires_each_timer_once(jump_ms: int) -> None:
    async with Driver(MemoryStore()) as driver:
        await driver.start()
        await driver.step(start_timer("t", 1800))
        driver.clock.jump_to(START_MS + jump_ms)
        await driver.rest()
        while not (task := await driver.poll()).task_token:
            assert driver.engine.advance()
            await driver.rest()
        driver.clock.jump_to(START_MS + 1)
        await driver.rest()
        await driver.complete(task, complete_workflow())
        assert (await driver.event_names()).count("TimerFired") == 1


async def test_an_idle_engine_asks_nothing_of_its_store() -> None:
    store = CountingStore()
    async with Driver(store) as driver:
        await driver.start()
        await driver.step(start_timer("t", 86_400))
        await driver.rest()
        commits, scans = store.commits, store.scans
        driver.clock.advance_by(80_000_000)
        await driver.rest()
        assert (store.commits, store.scans) == (commits, scans)


async def test_the_store_is_closed_when_the_start_fails() -> None:
    def fail(_number: int, _batch: Batch) -> None:
        raise StoreWriteError("no")

    store = MemoryStore(before_commit=fail)
    engine = Engine(store)
    with pytest.raises(RpcError):
        await engine.start()
    store.before_commit = None
    await Engine(store).start()


async def test_a_later_step_costs_what_an_early_one_did() -> None:
    """The work of a step is counted in what is read and written, not in time."""
    written: list[int] = []

    def hook(_number: int, batch: Batch) -> None:
        written.append(sum(len(row.data) for row in batch.histories) + sum(len(row.state) for row in batch.runs))

    async with Driver(MemoryStore(before_commit=hook)) as driver:
        await driver.start()
        sticky = driver.poll_request(STICKY, sticky=True)
        await driver.poll(STICKY, sticky=True)
        task = await driver.poll()
        early = late = 0
        for number in range(300):
            written.clear()
            await driver.complete(task, schedule_activity(f"a{number}"), sticky=STICKY)
            await driver.activity()
            task = await driver.service.poll_workflow_task_queue(sticky)
            assert len(task.history.events) <= 8
            if number == 5:
                early = sum(written)
            late = sum(written)
        assert late < early * 1.2


class UnreadableStore(MemoryStore):
    """A store whose reads fail when told."""

    error: StoreError | None = None

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error

    async def load_run(self, run_key: int) -> LoadedRun | None:
        self._fail()
        return await super().load_run(run_key)

    async def current_run(self, namespace: str, workflow_id: str) -> int | None:
        self._fail()
        return await super().current_run(namespace, workflow_id)

    async def read_history(self, run_key: int, first_event_id: int, max_bytes: int) -> list[HistoryRow]:
        self._fail()
        return await super().read_history(run_key, first_event_id, max_bytes)

    async def count_visibility(self, query: VisibilityQuery) -> int:
        self._fail()
        return await super().count_visibility(query)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StoreError("the disk does not answer"), StatusCode.UNAVAILABLE),
        (StoreCorruptError("a checksum is wrong"), StatusCode.DATA_LOSS),
    ],
)
async def test_reads_that_fail_are_told_in_the_callers_terms(error: StoreError, code: StatusCode) -> None:
    store = UnreadableStore()
    async with Driver(store) as driver:
        run_id = await driver.start()
        driver.engine.shard.cache.evict_cold()
        count = m.CountWorkflowExecutionsRequest(namespace="default")
        store.error = error
        assert (await refusal(driver.service.count_workflow_executions(count))).code is code
        assert (await refusal(driver.describe(run_id=run_id))).code is code
        store.error = None
        if code is StatusCode.UNAVAILABLE:
            assert await driver.status() == "RUNNING", "it was only for a while"
            store.error = error
            driver.engine.shard.cache.evict_cold()
            assert (await refusal(driver.start("other"))).code is code
            store.error = None
        else:
            assert (await refusal(driver.describe(run_id=run_id))).code is code, "it stays quarantined"


async def test_a_history_without_its_end_quarantines_its_run_only() -> None:
    clock = VirtualClock(START_MS)
    async with Driver(MemoryStore(), clock=clock) as driver:
        await driver.start("bad")
        await driver.start("good")
        state = driver.store.snapshot()  # type: ignore[attr-defined]
    del state.histories[1]
    async with Driver(MemoryStore(state), clock=clock, seed=2) as driver:
        assert (await driver.poll()).workflow_execution.workflow_id == "good"
        assert (await refusal(driver.describe("bad"))).code is StatusCode.DATA_LOSS


async def test_a_poll_survives_that_its_queue_was_dropped() -> None:
    async with Driver(MemoryStore(), config=EngineConfig(max_queues=2)) as driver:
        poll = asyncio.ensure_future(driver.service.poll_workflow_task_queue(driver.poll_request()))
        await turns()
        for number in range(10):
            await driver.poll(f"other{number}")
        await driver.start()
        assert (await poll).task_token


DOES_NOT_ANSWER = StoreError("the disk does not answer")


async def test_a_read_that_fails_for_a_while_loses_no_task() -> None:
    store = UnreadableStore()
    async with Driver(store) as driver:
        await driver.start("task")
        await driver.start("second", task_queue=m.TaskQueue(name="second"))
        await driver.complete(await driver.poll("second"), schedule_activity())
        driver.engine.shard.cache.evict_cold()
        store.error = DOES_NOT_ANSWER
        assert (await refusal(driver.poll())).code is StatusCode.UNAVAILABLE
        assert (await refusal(driver.poll_activity())).code is StatusCode.UNAVAILABLE
        store.error = None
        assert (await driver.poll()).workflow_execution.workflow_id == "task"
        assert (await driver.poll_activity()).workflow_execution.workflow_id == "second"


async def test_a_read_that_fails_for_a_while_loses_no_timer_and_no_neighbour() -> None:
    store = UnreadableStore()
    async with Driver(store) as driver:
        for number in range(3):
            await driver.start(f"wf{number}")
            await driver.step(start_timer("t", 3600))
        driver.engine.shard.cache.evict_cold()
        store.error = DOES_NOT_ANSWER
        driver.clock.advance_by(3_600_000)
        for _ in range(5):
            await driver.rest()
            assert driver.engine.advance(), "it will try again"
        assert not (await driver.poll()).task_token
        store.error = None
        assert driver.engine.advance()
        await driver.rest()
        for _ in range(3):
            assert (await driver.poll()).task_token
        await driver.rest()


async def test_a_read_that_fails_at_the_start_delays_what_was_unfinished() -> None:
    clock = VirtualClock(START_MS)
    async with Driver(MemoryStore(), clock=clock) as driver:
        await driver.start()
        state = driver.store.snapshot()  # type: ignore[attr-defined]
    store = UnreadableStore(state)
    store.error = DOES_NOT_ANSWER
    async with Driver(store, clock=clock, seed=2) as driver:
        await driver.rest()
        assert not (await driver.poll()).task_token
        store.error = None
        assert driver.engine.advance()
        await driver.rest()
        assert (await driver.poll()).task_token
        assert not driver.engine.shard.recovery.lost


async def test_a_sticky_task_that_can_not_be_moved_yet_is_moved_later() -> None:
    store = UnreadableStore()
    async with Driver(store) as driver:
        await driver.start()
        await driver.poll(STICKY, sticky=True)
        await driver.step(sticky=STICKY)
        await driver.signal()
        driver.engine.shard.cache.evict_cold()
        store.error = DOES_NOT_ANSWER
        assert driver.engine.advance()
        await driver.rest()
        store.error = None
        assert driver.engine.advance()
        await driver.rest()
        assert (await driver.poll()).history.events[0].event_id == 1
