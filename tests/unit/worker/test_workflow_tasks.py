"""Workflow tasks as a worker does them: cache, eviction, paging, failures, steps, queries."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from perdure import RetryPolicy, activity, workflow
from perdure.api import RpcError, StatusCode
from perdure.client import ServiceError, WorkflowFailureError, WorkflowQueryFailedError
from perdure.exceptions import ApplicationError, DefinitionError
from perdure.testing import WorkflowEnvironment
from perdure.worker import Worker

SECONDS = timedelta(seconds=10)


@activity.defn(start_to_close_timeout=SECONDS)
async def add(x: int, y: int) -> int:
    return x + y


@workflow.defn
async def sums(count: int) -> int:
    total = 0
    for number in range(count):
        total = await add(total, number)
        await asyncio.sleep(1)
    return total


@workflow.defn
class Counter:
    def __init__(self) -> None:
        self.count = 0
        self.done = False

    @workflow.signal
    def more(self, by: int) -> None:
        self.count += by

    @workflow.signal
    def finish(self) -> None:
        self.done = True

    @workflow.query
    def current(self) -> int:
        return self.count

    @workflow.query
    def broken(self) -> int:
        raise ValueError("no answer")

    @workflow.run
    async def run(self) -> int:
        await workflow.wait_condition(lambda: self.done)
        return self.count


@pytest.fixture(params=["short way", "messages"])
async def env(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WorkflowEnvironment]:
    """An environment whose worker gets its tasks by the short way, or by polls."""
    if request.param == "messages":
        monkeypatch.setattr("perdure.worker.worker.direct_of", lambda service: None)
    async with await WorkflowEnvironment.start_time_skipping() as env:
        yield env


async def test_runs_stay_cached_until_they_close(env: WorkflowEnvironment) -> None:
    async with env.worker(workflows=[Counter]) as worker:
        handle = await env.client.start_workflow(Counter.run)
        await env.engine.wait_idle()
        statistics = worker.statistics()
        assert statistics.cached_workflows == 1
        assert statistics.cached_bytes > 0
        await handle.signal(Counter.finish)
        await handle.result()
        await env.engine.wait_idle()
        assert worker.statistics().cached_workflows == 0
        assert worker.statistics().cached_bytes == 0


@pytest.mark.parametrize("max_bytes", [0, 1])
async def test_evicted_at_every_task_they_do_the_same(env: WorkflowEnvironment, max_bytes: int) -> None:
    async with env.worker(workflows=[sums], activities=[add], max_cached_workflow_bytes=max_bytes) as worker:
        handles = [await env.client.start_workflow(sums, 6) for _ in range(3)]
        assert [await handle.result() for handle in handles] == [15, 15, 15]
        if max_bytes:
            assert worker.statistics().cache_evictions > 10
        assert worker.statistics().cached_workflows == 0


async def test_the_least_recently_used_is_evicted(env: WorkflowEnvironment) -> None:
    async with env.worker(workflows=[Counter], max_cached_workflow_bytes=20_000) as worker:
        handles = [await env.client.start_workflow(Counter.run) for _ in range(10)]
        await env.engine.wait_idle()
        assert 0 < worker.statistics().cached_bytes <= 20_000
        assert 0 < worker.statistics().cached_workflows < 10
        for number, handle in enumerate(handles):
            await handle.signal(Counter.more, number)
        assert [await handle.query(Counter.current) for handle in handles] == list(range(10))
        for handle in handles:
            await handle.signal(Counter.finish)
        assert [await handle.result() for handle in handles] == list(range(10))


async def test_a_long_history_is_fetched_in_pages(env: WorkflowEnvironment) -> None:
    async with env.worker(workflows=[sums], activities=[add]):
        handle = await env.client.start_workflow(sums, 150)
        await env.sleep(timedelta(seconds=145))
    async with env.worker(workflows=[sums], activities=[add], max_cached_workflow_bytes=0):
        assert await handle.result() == sum(range(150))
    history = await handle.fetch_history()
    assert len(history.events) > 1500


async def test_another_worker_goes_on(env: WorkflowEnvironment) -> None:
    async with env.worker(workflows=[Counter]):
        handle = await env.client.start_workflow(Counter.run)
        await handle.signal(Counter.more, 5)
        await env.engine.wait_idle()
    async with env.worker(workflows=[Counter]):
        await handle.signal(Counter.finish)
        assert await handle.result() == 5


async def test_an_unknown_workflow_type_waits_and_says_so(
    env: WorkflowEnvironment, caplog: pytest.LogCaptureFixture
) -> None:
    async with env.worker(workflows=[sums], activities=[add]):
        handle = await env.client.start_workflow("Counter")
        with pytest.raises(ServiceError, match="'Counter' is not registered"):
            await handle.result()
        assert (await handle.describe()).status == 1
        assert "it knows sums" in caplog.text
    async with env.worker(workflows=[Counter]):
        await handle.signal(Counter.finish)
        assert await handle.result() == 0


async def test_failing_code_keeps_the_run_until_it_is_mended(
    env: WorkflowEnvironment, caplog: pytest.LogCaptureFixture
) -> None:
    @workflow.defn(name="mended")
    async def broken() -> int:
        await asyncio.sleep(1)
        await asyncio.sleep(1)
        return 1

    @workflow.defn(name="mended")
    async def other() -> int:
        return await add(1, 2)

    async with env.worker(workflows=[broken]):
        handle = await env.client.start_workflow("mended")
        await env.sleep(1.5)
    with caplog.at_level(logging.CRITICAL):
        async with env.worker(workflows=[other], activities=[add]):
            with pytest.raises(ServiceError, match="retried for ever"):
                await handle.result()
    async with env.worker(workflows=[broken]):
        assert await handle.result() == 1


async def test_queries_running_closed_and_broken(env: WorkflowEnvironment) -> None:
    async with env.worker(workflows=[Counter]):
        handle = await env.client.start_workflow(Counter.run)
        assert await handle.query(Counter.current) == 0
        await handle.signal(Counter.more, 2)
        assert await handle.query(Counter.current) == 2
        assert await handle.query("current", result_type=int) == 2
        with pytest.raises(WorkflowQueryFailedError, match="no answer"):
            await handle.query(Counter.broken)
        with pytest.raises(WorkflowQueryFailedError, match="nonsense"):
            await handle.query("nonsense")
        await handle.signal(Counter.finish)
        assert await handle.result() == 2
        assert await handle.query(Counter.current) == 2
        answers = await asyncio.gather(*(handle.query(Counter.current) for _ in range(20)))
        assert answers == [2] * 20


async def test_steps_run_outside_and_are_recorded(env: WorkflowEnvironment) -> None:
    calls: list[str] = []

    async def look(name: str) -> str:
        calls.append(name)
        return f"saw {name}"

    def compute(x: int) -> int:
        assert threading.current_thread() is not threading.main_thread()
        calls.append("computed")
        return x * x

    @workflow.defn
    async def steps() -> tuple[str, int]:
        one, two = await asyncio.gather(workflow.step(look, "it"), workflow.step(compute, 4))
        await asyncio.sleep(3600)
        return one, two

    async with env.worker(workflows=[steps], max_cached_workflow_bytes=0):
        assert await env.client.execute_workflow(steps) == ("saw it", 16)
    assert sorted(calls) == ["computed", "it"]


async def test_a_step_is_retried_and_its_last_error_kept(env: WorkflowEnvironment) -> None:
    attempts: list[int] = []

    async def flaky() -> int:
        attempts.append(1)
        if len(attempts) < 3:
            raise ValueError("not yet")
        return 5

    def never() -> None:
        raise KeyError("gone")

    quick = RetryPolicy(initial_interval=timedelta(milliseconds=1), maximum_attempts=5)

    @workflow.defn
    async def steps() -> int:
        return await workflow.step(flaky, retry_policy=quick)

    @workflow.defn
    async def fails() -> None:
        await workflow.step(never)

    async with env.worker(workflows=[steps, fails]):
        assert await env.client.execute_workflow(steps) == 5
        with pytest.raises(WorkflowFailureError) as caught:
            await env.client.execute_workflow(fails)
        assert isinstance(caught.value.cause, ApplicationError)
        assert caught.value.cause.type == "KeyError"


async def test_names_must_be_unambiguous(env: WorkflowEnvironment) -> None:
    @workflow.defn(name="sums")
    async def twin() -> None: ...

    async def undecorated() -> None: ...

    class Shop:
        @activity.defn
        async def sell(self) -> None: ...

    with pytest.raises(DefinitionError, match="two workflows are named 'sums'"):
        env.worker(workflows=[sums, twin])
    with pytest.raises(DefinitionError, match=r"decorate the class or function with @workflow\.defn"):
        env.worker(workflows=[undecorated])
    with pytest.raises(DefinitionError, match=r"decorate it with @activity\.defn"):
        env.worker(activities=[undecorated])
    with pytest.raises(DefinitionError, match="pass it through an instance"):
        env.worker(activities=[Shop.sell])
    with pytest.raises(ValueError, match="nothing to run"):
        env.worker()


async def test_start_and_stop_are_harmless_to_repeat(env: WorkflowEnvironment) -> None:
    worker = env.worker(workflows=[sums])
    await worker.stop()
    worker = env.worker(workflows=[sums])
    await worker.start()
    await worker.start()
    assert worker.is_running
    await asyncio.gather(worker.stop(), worker.stop())
    await worker.stop()
    with pytest.raises(RuntimeError, match="make a new one"):
        await worker.start()


async def test_run_ends_with_stop_and_with_a_failure(env: WorkflowEnvironment) -> None:
    worker = env.worker(workflows=[sums])
    running = asyncio.create_task(worker.run())
    await env.engine.wait_idle()
    await worker.stop()
    await running

    failing = env.worker(workflows=[sums])
    running = asyncio.create_task(failing.run())
    await env.engine.wait_idle()
    failing._fail(RpcError(StatusCode.PERMISSION_DENIED, "go away"))
    with pytest.raises(ServiceError, match="go away"):
        await running


async def test_a_missing_namespace_stops_the_worker(env: WorkflowEnvironment) -> None:
    env.client.namespace = "nowhere"
    with pytest.raises(ServiceError, match="nowhere"):
        await Worker(env.client, workflows=[sums]).start()
