"""What the engine refuses of a workflow's commands: the run is kept, and somebody says why."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import perdure
from perdure import Limits, activity, workflow
from perdure.api import messages as m
from perdure.exceptions import TargetError

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


async def until_failed(handle: perdure.WorkflowHandle[Any]) -> str:
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


@workflow.defn
async def fans_out(count: int) -> int:
    return len(await asyncio.gather(*(greet(str(number)) for number in range(count))))


async def test_a_fan_out_beyond_the_limit_names_the_setting_that_lets_it_through(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The run is kept, and goes on where the limit is higher."""
    db = tmp_path / "a.db"
    with caplog.at_level(logging.CRITICAL, "perdure.worker"):
        async with perdure.open(
            db, workflows=[fans_out], activities=[greet], limits=Limits(pending_activities=3)
        ) as app:
            assert await app.execute(fans_out, 3) == 3
            handle = await app.start(fans_out, 4, id="wide")
            refusal = await until_failed(handle)
            async with perdure.open(db, workflows=[fans_out], activities=[greet]) as other:
                assert await other.execute(fans_out, 2) == 2
            with pytest.raises(TargetError, match="open in this process with other limits"):
                await perdure.open(db, limits=Limits()).__aenter__()
    assert "the number of pending activities has reached the limit of 3" in refusal
    assert "open with Limits(pending_activities=…)" in refusal
    async with perdure.open(db, workflows=[fans_out], activities=[greet]) as app:
        assert await app.handle("wide").result() == 4
