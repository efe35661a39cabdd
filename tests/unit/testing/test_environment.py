"""The environment on virtual time, and the replayer."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from perdure import RetryPolicy, activity, workflow
from perdure import exceptions as perdure_exceptions
from perdure.api import messages as m
from perdure.client import ServiceError, WorkflowHistory
from perdure.exceptions import ActivityError, DefinitionError, NondeterminismError
from perdure.testing import Environment, Replayer, WorkflowEnvironment

DAY = timedelta(days=1)


@activity.defn(start_to_close_timeout=timedelta(seconds=10))
async def charge(amount: int) -> str:
    raise AssertionError("the real thing is not called in tests")


@activity.defn(name="charge")
async def fake_charge(amount: int) -> str:
    return f"charged {amount}"


@workflow.defn
async def trial(days: int) -> str:
    await workflow.sleep(timedelta(days=days))
    return await charge(days)


@workflow.defn
async def waits_for_ever() -> None:
    await asyncio.Event().wait()


@workflow.defn
async def broken() -> None:
    await asyncio.get_running_loop().run_in_executor(None, print)


async def test_fourteen_days_pass_in_no_time() -> None:
    async with Environment() as env, env.worker(workflows=[trial], activities=[fake_charge]):
        before = await env.get_current_time()
        assert await env.client.execute_workflow(trial, 14) == "charged 14"
        assert timedelta(days=14) <= await env.get_current_time() - before < timedelta(days=14, minutes=1)
        assert await env.engine.check_invariants() == []


async def test_sleeping_lets_happen_what_is_due() -> None:
    async with await WorkflowEnvironment.start_time_skipping(start_time=datetime(2030, 1, 1, tzinfo=UTC)) as env:
        assert await env.get_current_time() == datetime(2030, 1, 1, tzinfo=UTC)
        async with env.worker(workflows=[trial], activities=[fake_charge]):
            handle = await env.client.start_workflow(trial, 14)
            await env.sleep(13 * DAY)
            assert (await handle.describe()).status == 1
            await env.sleep(1 * DAY)
            assert (await handle.describe()).status == 2
        assert await env.get_current_time() == datetime(2030, 1, 15, tzinfo=UTC)


async def test_time_stands_still_when_nobody_waits() -> None:
    async with Environment() as env, env.worker(workflows=[trial], activities=[fake_charge]):
        before = await env.get_current_time()
        handle = await env.client.start_workflow(trial, 14)
        await env.engine.wait_idle()
        assert await env.get_current_time() == before
        with env.auto_time_skipping_disabled():
            waiting = asyncio.create_task(handle.result())
            await env.engine.wait_idle()
            assert await env.get_current_time() == before
        assert await waiting == "charged 14"


async def test_time_does_not_pass_while_an_activity_runs() -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    @activity.defn(name="charge")
    async def slow(amount: int) -> str:
        started.set()
        await go_on.wait()
        return "slowly"

    async with Environment() as env, env.worker(workflows=[trial], activities=[slow]):
        waiting = asyncio.create_task(env.client.execute_workflow(trial, 0))
        await started.wait()
        before = await env.get_current_time()
        for _ in range(20):
            await asyncio.sleep(0)
        assert await env.get_current_time() == before
        go_on.set()
        assert await waiting == "slowly"


async def test_a_wait_that_could_not_end_ends_with_a_reason() -> None:
    async with Environment() as env, env.worker(workflows=[broken], guard=False):
        with pytest.raises(ServiceError, match="failed 10 times in a row"):
            await env.client.execute_workflow(broken)


async def test_waiting_for_what_never_comes_can_be_given_up() -> None:
    async with Environment() as env, env.worker(workflows=[waits_for_ever]):
        handle = await env.client.start_workflow(waits_for_ever)
        waiting = asyncio.create_task(handle.result())
        await env.sleep(365 * DAY)
        assert not waiting.done()
        await handle.terminate()
        with pytest.raises(Exception, match="did not complete"):
            await waiting


async def test_the_systems_clock_is_there_too() -> None:
    async with await WorkflowEnvironment.start_local() as env, env.worker(workflows=[trial], activities=[fake_charge]):
        assert not env.supports_time_skipping
        assert await env.client.execute_workflow(trial, 0) == "charged 0"
        await env.sleep(0)
        assert abs(await env.get_current_time() - datetime.now(UTC)) < timedelta(minutes=1)


async def test_start_and_stop_are_harmless_to_repeat() -> None:
    env = Environment()
    with pytest.raises(RuntimeError, match="not been started"):
        _ = env.client
    await env.shutdown()
    env = Environment()
    await env.start()
    await env.start()
    await env.shutdown()
    await env.shutdown()


async def recorded() -> WorkflowHistory:
    async with Environment() as env, env.worker(workflows=[trial], activities=[fake_charge]):
        handle = await env.client.start_workflow(trial, 14)
        await handle.result()
        return await handle.fetch_history()


async def test_replaying_finds_code_that_does_not_match() -> None:
    history = await recorded()
    assert (await Replayer(workflows=[trial]).replay_workflow(history)).replay_failure is None

    @workflow.defn(name="trial")
    async def changed(days: int) -> str:
        return await charge(days)

    replayer = Replayer(workflows=[changed])
    with pytest.raises(NondeterminismError):
        await replayer.replay_workflow(history)
    results = await replayer.replay_workflows([history], raise_on_replay_failure=False)
    assert isinstance(results.replay_failures[history.run_id], NondeterminismError)
    with pytest.raises(DefinitionError, match="'trial'"):
        await Replayer(workflows=[broken]).replay_workflow(history)


async def test_replaying_a_part_of_a_history() -> None:
    history = await recorded()
    for length in range(1, len(history.events) + 1):
        if history.events[length - 1].event_type == m.EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED:
            continue  # It is written together with what the task asked for.
        part = WorkflowHistory.from_json("w", WorkflowHistory("w", history.events[:length]).to_json())
        assert (await Replayer(workflows=[trial]).replay_workflow(part)).replay_failure is None


@activity.defn(start_to_close_timeout=DAY, heartbeat_timeout=timedelta(seconds=2))
async def falls_silent() -> None:
    activity.heartbeat("half")
    await asyncio.Event().wait()


@workflow.defn
async def relies_on_heartbeats() -> str:
    try:
        await falls_silent.options(retry_policy=RetryPolicy(maximum_attempts=1))()
    except ActivityError as error:
        assert isinstance(error.cause, perdure_exceptions.TimeoutError)
        return f"{error.cause.type} {error.cause.last_heartbeat_details}"
    return "it ended"


async def test_an_activity_that_hangs_meets_its_timeout() -> None:
    async with Environment() as env, env.worker(workflows=[relies_on_heartbeats], activities=[falls_silent]):
        began = asyncio.get_running_loop().time()
        assert await env.client.execute_workflow(relies_on_heartbeats) == "4 ['half']"
        assert asyncio.get_running_loop().time() - began < 30
