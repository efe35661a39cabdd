"""Why a running activity should stop, and what becomes of one that people pause or reset."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from perdure import RetryPolicy, activity, workflow
from perdure.activity import ActivityCancellationDetails
from perdure.api import messages as m
from perdure.testing import ActivityEnvironment, WorkflowEnvironment

SOON = RetryPolicy(initial_interval=timedelta(milliseconds=10), maximum_attempts=5)
FOR_EVER = timedelta(days=1)


@pytest.fixture
async def env() -> AsyncIterator[WorkflowEnvironment]:
    async with await WorkflowEnvironment.start_time_skipping() as env:
        yield env


class Stoppable:
    """An activity that runs until it should stop, and says why; the attempts after the first end at once."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.beat = asyncio.Event()
        self.why: list[ActivityCancellationDetails | None] = []

    @activity.defn(start_to_close_timeout=FOR_EVER, heartbeat_timeout=FOR_EVER, retry_policy=SOON)
    async def work(self) -> int:
        assert activity.cancellation_details() is None
        if self.why:
            return activity.info().attempt
        self.started.set()
        await self.beat.wait()
        activity.heartbeat("half-way")
        try:
            await asyncio.Event().wait()
        finally:
            self.why.append(activity.cancellation_details())
        return 0


@workflow.defn
async def works() -> int:
    result: int = await workflow.execute_activity_method(Stoppable.work)
    return result


async def test_a_paused_activity_stops_and_goes_on_when_it_is_resumed(env: WorkflowEnvironment) -> None:
    stoppable = Stoppable()
    async with env.worker(workflows=[works], activities=[stoppable.work]):
        handle = await env.client.start_workflow(works)
        await stoppable.started.wait()
        execution = m.WorkflowExecution(workflow_id=handle.id)
        service = env.client.service
        await service.pause_activity(m.PauseActivityRequest(namespace="default", execution=execution, id="1"))
        stoppable.beat.set()
        while not stoppable.why:
            await asyncio.sleep(0)
        assert stoppable.why == [ActivityCancellationDetails(paused=True)]
        described = await handle.describe()
        assert described.pending_activities[0].paused
        await service.unpause_activity(m.UnpauseActivityRequest(namespace="default", execution=execution, id="1"))
        assert await handle.result() == 2


async def test_a_reset_activity_begins_again(env: WorkflowEnvironment) -> None:
    stoppable = Stoppable()
    async with env.worker(workflows=[works], activities=[stoppable.work]):
        handle = await env.client.start_workflow(works)
        await stoppable.started.wait()
        execution = m.WorkflowExecution(workflow_id=handle.id)
        request = m.ResetActivityRequest(namespace="default", execution=execution, id="1")
        await env.client.service.reset_activity(request)
        stoppable.beat.set()
        assert await handle.result() == 1
        assert stoppable.why == [ActivityCancellationDetails(reset=True)]


async def test_tests_give_a_reason_of_their_own() -> None:
    for details in (ActivityCancellationDetails(cancel_requested=True), ActivityCancellationDetails(paused=True)):
        stoppable = Stoppable()
        stoppable.beat.set()
        activities = ActivityEnvironment()
        running = asyncio.ensure_future(activities.run(stoppable.work))
        await stoppable.started.wait()
        await asyncio.sleep(0)
        activities.cancel(details)
        with pytest.raises(asyncio.CancelledError):
            await running
        assert stoppable.why == [details]
