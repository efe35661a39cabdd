"""Workers that die while their engine lives on, tasks that kill every worker, and clocks that are set."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterator, Sequence
from datetime import timedelta

import pytest

from perdure import activity, workflow
from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.client import WorkflowFailureError
from perdure.common import RetryPolicy
from perdure.exceptions import ActivityError, TimeoutError, TimeoutType
from tests.system.lives import OUTSIDE, Life, Lives
from tests.system.plain import names

MINUTE = timedelta(minutes=1)
DAY_S = 24 * 3600


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="perdure")


@activity.defn(start_to_close_timeout=timedelta(hours=1), heartbeat_timeout=timedelta(seconds=10))
async def climb(height: int) -> list[int]:
    """Ten seconds a metre; goes on where the attempt before had been."""
    known = activity.heartbeat_details(int)
    first = known[0] if known else 0
    OUTSIDE.get().note(f"attempt {activity.info().attempt} begins at {first}")
    for metre in range(first, height):
        activity.heartbeat(metre)
        await asyncio.sleep(5)
    return [activity.info().attempt, height]


@workflow.defn
async def climber(height: int) -> list[int]:
    await workflow.sleep(1)
    return await climb(height)


@activity.defn(start_to_close_timeout=MINUTE, retry_policy=RetryPolicy(maximum_attempts=3))
async def deadly() -> None:
    await asyncio.Event().wait()


@activity.defn(start_to_close_timeout=MINUTE)
async def harmless() -> str:
    return "fine"


@workflow.defn
async def lives_dangerously() -> str:
    try:
        await deadly()
    except ActivityError as error:
        assert isinstance(error.cause, TimeoutError)
        return f"timed out: {error.cause.type == TimeoutType.START_TO_CLOSE}"
    return "survived"


@workflow.defn
async def lives_quietly() -> str:
    for _ in range(5):
        await harmless()
        await workflow.sleep(60)
    return "fine"


@workflow.defn
async def sleeps(spans: list[int]) -> list[int]:
    woken: list[int] = []

    async def nap(seconds: int) -> None:
        await workflow.sleep(seconds)
        woken.append(seconds)

    await asyncio.gather(*(nap(seconds) for seconds in spans))
    return woken


WORKFLOWS = [climber, lives_dangerously, lives_quietly, sleeps]
ACTIVITIES = [climb, deadly, harmless]


def lives() -> Lives:
    return Lives(workflows=WORKFLOWS, activities=ACTIVITIES)


def count(events: Sequence[m.HistoryEvent], name: str) -> int:
    return names(events).count(name)


def test_a_worker_that_dies_in_an_activity() -> None:
    async def story(life: Life) -> list[int]:
        _, service = await life.start_doomed_worker()
        handle = await life.client.start_workflow(climber, 10, id="climber")
        await life.at(23)
        service.cut()
        await life.start_worker()
        result = await handle.result()
        history = await handle.fetch_history()
        started = [
            event.activity_task_started_event_attributes
            for event in history.events
            if event.HasField("activity_task_started_event_attributes")
        ]
        assert [each.attempt for each in started] == [2]
        assert started[0].last_failure.timeout_failure_info.timeout_type == TimeoutType.HEARTBEAT
        assert count(history.events, "ActivityTaskCompleted") == 1
        return result

    world = lives()
    assert world.play(story, worker=False) == [2, 10]
    assert world.ledger.effects == ["attempt 1 begins at 0", "attempt 2 begins at 3"]


def test_a_worker_that_dies_with_cached_runs() -> None:
    """Its sticky queue is given up, and others go on from the history."""

    async def story(life: Life) -> str:
        worker, service = await life.start_doomed_worker()
        handle = await life.client.start_workflow(lives_quietly, id="quiet")
        await life.at(70)
        assert worker.statistics().cached_workflows == 1
        service.cut()
        await life.start_worker()
        return await handle.result()

    assert lives().play(story, worker=False) == "fine"


def test_an_activity_that_kills_every_worker() -> None:
    """It fails after its attempts; those who live beside it notice nothing."""

    async def story(life: Life) -> tuple[str, str]:
        services = [(await life.start_doomed_worker())[1] for _ in range(3)]

        async def kill(number: int) -> None:
            await life.at(number * 65 + 5)
            services[number].cut()

        killers = [asyncio.ensure_future(kill(number)) for number in range(3)]
        dangerous = await life.client.start_workflow(lives_dangerously, id="dangerous")
        quiet = await life.client.start_workflow(lives_quietly, id="quiet")
        await asyncio.gather(*killers)
        await life.start_worker()
        results = await dangerous.result(), await quiet.result()
        history = await dangerous.fetch_history()
        assert len(history.events) < 15
        return results

    assert lives().play(story, worker=False) == ("timed out: True", "fine")


def test_a_workflow_task_that_kills_every_worker() -> None:
    """Bounded in history, ever rarer, visible, and the others don't notice."""

    async def story(life: Life) -> None:
        request = m.StartWorkflowExecutionRequest(namespace="default", workflow_id="poison", request_id="1")
        request.workflow_type.name = "poison"
        request.task_queue.name = "poison"
        await life.raw.start_workflow_execution(request)
        poll = m.PollWorkflowTaskQueueRequest(namespace="default", identity="victim")
        poll.task_queue.name = "poison"
        quiet = await life.client.start_workflow(lives_quietly, id="quiet")
        taken_at: list[float] = []
        loop = asyncio.get_running_loop()
        for attempt in range(1, 16):
            task = await life.raw.poll_workflow_task_queue(poll)
            assert task.attempt == attempt
            taken_at.append(loop.time())
        pauses = [round(after - before) for before, after in itertools.pairwise(taken_at)]
        assert pauses[:3] == [10, 10, 15]
        assert pauses == sorted(pauses)
        assert pauses[-1] == 70
        handle = life.client.get_workflow_handle("poison")
        history = await handle.fetch_history()
        assert names(history.events) == [
            "WorkflowExecutionStarted",
            "WorkflowTaskScheduled",
            "WorkflowTaskStarted",
            "WorkflowTaskTimedOut",
        ]
        described = await handle.describe()
        assert described.raw_description.pending_workflow_task.attempt == 15
        assert await quiet.result() == "fine"
        # Good code ends it at once, and the count begins anew.
        completion = m.RespondWorkflowTaskCompletedRequest(namespace="default", task_token=task.task_token)
        completion.force_create_new_workflow_task = True
        await life.raw.respond_workflow_task_completed(completion)
        assert (await life.raw.poll_workflow_task_queue(poll)).attempt == 1

    lives().play(story)


def _steps() -> Iterator[tuple[float, int]]:
    yield 5, 30_000
    yield 20, -3_600_000
    yield 40, 0
    yield 100, 7_200_000
    yield 130, -60_000


def test_a_clock_that_is_set_forward_and_back() -> None:
    spans = [10, 30, 60, 120, 3600]

    async def story(life: Life) -> list[int]:
        handle = await life.client.start_workflow(sleeps, spans, id="sleeps")
        for at, offset_ms in _steps():
            await life.at(at)
            life.clock.offset_ms = offset_ms
            await life.rest()
            assert await life.engine.check_invariants() == []
        result = await handle.result()
        history = await handle.fetch_history()
        assert count(history.events, "TimerFired") == len(spans)
        fired = [
            event.timer_fired_event_attributes.timer_id
            for event in history.events
            if event.HasField("timer_fired_event_attributes")
        ]
        assert len(set(fired)) == len(spans)
        return result

    assert sorted(lives().play(story)) == spans


def test_ten_years_and_a_death_in_each() -> None:
    """A sleeper outlives its processes and wakes on the second."""
    world = lives()
    ten_years_s = 3650 * DAY_S

    async def begin(life: Life) -> None:
        await life.client.start_workflow(sleeps, [ten_years_s, ten_years_s + 1], id="sleeps")

    world.play(begin)
    for year in range(1, 10):
        world.live(lambda life, year=year: life.at(year * 365 * DAY_S), worker=year % 2 == 0)

    async def end(life: Life) -> list[int]:
        result = await life.client.get_workflow_handle_for(sleeps, "sleeps").result()
        assert round(asyncio.get_running_loop().time()) == ten_years_s + 1
        return result

    assert world.play(end) == [ten_years_s, ten_years_s + 1]


def test_a_run_whose_worker_never_comes() -> None:
    """It waits, and its run timeout ends it; a late worker is told so."""

    async def story(life: Life) -> None:
        handle = await life.client.start_workflow(
            lives_quietly, id="lonely", task_queue="nobody", run_timeout=timedelta(hours=1)
        )
        with pytest.raises(WorkflowFailureError) as caught:
            await handle.result()
        assert isinstance(caught.value.cause, TimeoutError)
        poll = m.PollWorkflowTaskQueueRequest(namespace="default", identity="late")
        poll.task_queue.name = "nobody"
        task = asyncio.ensure_future(life.raw.poll_workflow_task_queue(poll, timeout_s=5))
        assert not (await task).task_token
        with pytest.raises(RpcError) as refused:
            request = m.SignalWorkflowExecutionRequest(namespace="default", signal_name="x")
            request.workflow_execution.workflow_id = "lonely"
            await life.raw.signal_workflow_execution(request)
        assert refused.value.code is StatusCode.NOT_FOUND

    lives().play(story)
