"""`workflow.step` as its users rely on it."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import perdure
from perdure import workflow
from perdure.api import messages as m

COMPLETED = m.EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED


async def test_a_step_may_outlast_a_short_task_timeout() -> None:
    calls: list[int] = []
    enough = asyncio.Event()

    async def slow() -> int:
        calls.append(1)
        await enough.wait()
        return len(calls)

    @workflow.defn
    async def patient() -> int:
        return await workflow.step(slow)

    async with perdure.open("memory:", workflows=[patient], activities=[]) as app:
        handle = await app.start(patient, id="patient", task_timeout=timedelta(seconds=1))
        completed = 0
        async for event in handle.fetch_history_events(wait_new_event=True):
            completed += event.event_type == COMPLETED
            if completed == 3:
                enough.set()
        assert await handle.result() == 1
        history = await handle.fetch_history()
        kinds = {event.event_type for event in history.events}
        assert m.EventType.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT not in kinds
