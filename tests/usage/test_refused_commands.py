"""What the engine refuses of a workflow's commands: the run is kept, and somebody says why."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

import pytest

import perdure
from perdure import activity, workflow
from perdure.api import messages as m

SECONDS = timedelta(seconds=10)
REFUSAL = "Memo exceeds size limit of 2097152 bytes"
FAILED = m.EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED


@activity.defn(start_to_close_timeout=SECONDS)
async def greet(name: str) -> str:
    return f"hello {name}"


@workflow.defn
async def asks_too_much() -> str:
    for name in ("first", "second"):
        workflow.upsert_memo({name: "x" * 1_500_000})
    return await greet("Ada")


async def until_failed(handle: perdure.WorkflowHandle[str]) -> str:
    async for event in handle.fetch_history_events(wait_new_event=True):
        if event.event_type == FAILED:
            return event.workflow_task_failed_event_attributes.failure.message
    raise AssertionError("it closed")


async def test_a_refused_command_is_logged_and_the_run_kept(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "perdure.worker"):
        async with perdure.open("memory:", workflows=[asks_too_much], activities=[greet]) as app:
            handle = await app.start(asks_too_much, id="a-1")
            assert REFUSAL in await until_failed(handle)
            while not caplog.records:
                await asyncio.sleep(0)
            description = await handle.describe()
            await handle.terminate()
    assert description.status is perdure.client.WorkflowExecutionStatus.RUNNING
    said = caplog.records[0].getMessage()
    assert "workflow a-1 (asks_too_much)" in said
    assert REFUSAL in said
    assert "the run is kept" in said.lower()
