"""Forbidden calls in a real app: the workflow task fails, the run is kept and goes on with corrected code."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from typing import Any

import pytest

import perdure
from perdure import activity, workflow
from perdure.api import messages as m
from perdure.client import WorkflowHandle
from perdure.exceptions import ForbiddenCodeError
from perdure.replay.definition import REGISTRY

# An app without a list of workflows serves all of the process: these are not for everybody.
_of_others = dict(REGISTRY._definitions)

FAILED = m.EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED


@activity.defn(start_to_close_timeout=timedelta(seconds=30))
async def read_clock(order: str) -> str:
    assert time.time() > 0 and random.random() < 1 and uuid.uuid4()
    return f"read for {order}"


class Deployed:
    """Code by a way that the reading cannot follow; wrong until it is corrected after its first call."""

    def __init__(self) -> None:
        self.calls = 0

    def clock(self) -> float:
        self.calls += 1
        return getattr(time if self.calls == 1 else workflow, "time")()  # noqa: B009 - so that it is not found


deployed = Deployed()


@workflow.defn
async def wrong(order: str) -> str:
    first = await read_clock(order)
    deployed.clock()
    with workflow.unsafe.guard_off():
        time.time()
    return first


@workflow.defn
async def swallowing(order: str) -> str:
    first = await read_clock(order)
    try:
        deployed.clock()
    except Exception:
        return "compensated for a mistake in the code"
    return first


async def _failed_task(handle: WorkflowHandle[Any]) -> m.WorkflowTaskFailedEventAttributes:
    async for event in handle.fetch_history_events(wait_new_event=True):
        assert "EXECUTION_FAILED" not in m.EventType.Name(event.event_type)
        if event.event_type == FAILED:
            return event.workflow_task_failed_event_attributes
    raise AssertionError("the run closed")


@pytest.mark.parametrize("faulty", [wrong, swallowing])
async def test_the_task_fails_and_the_run_goes_on_with_corrected_code(
    faulty: Callable[[str], Coroutine[Any, Any, str]], caplog: pytest.LogCaptureFixture
) -> None:
    deployed.calls = 0
    async with perdure.open("memory:", workflows=[faulty], activities=[read_clock]) as app:
        handle = await app.start(faulty, "A1", id="order-A1")
        failed = await _failed_task(handle)
        assert await handle.result() == "read for A1"
    line = deployed.clock.__code__.co_firstlineno + 2
    assert failed.failure.message.startswith("time.time may not be used in workflow code")
    assert f"{__file__}:{line}: use workflow.time()" in failed.failure.message
    assert failed.failure.application_failure_info.type == "ForbiddenCallError"
    assert deployed.calls == 2
    assert "the run is kept" in caplog.text
    assert failed.failure.message in caplog.text


@workflow.defn
async def refused_before_it_starts(order: str) -> datetime:
    return datetime.now()  # noqa: DTZ005 - to be found


async def test_what_the_reading_finds_keeps_the_worker_from_starting() -> None:
    line = refused_before_it_starts.__code__.co_firstlineno + 2
    with pytest.raises(ForbiddenCodeError, match=f"{__file__}:{line}: datetime.datetime.now .*workflow.now"):
        async with perdure.open("memory:", workflows=[refused_before_it_starts], activities=[]):
            pass
    async with perdure.open("memory:", workflows=[refused_before_it_starts], activities=[], guard=False) as app:
        assert await app.execute(refused_before_it_starts, "A1", id="order-A1")


@workflow.defn
class Asking:
    def __init__(self) -> None:
        self.done = False

    @workflow.run
    async def run(self) -> str:
        await workflow.wait_condition(lambda: self.done)
        return "done"

    @workflow.signal
    def finish(self) -> None:
        self.done = True

    @workflow.query
    def ask(self, wrongly: bool) -> str:
        return str(deployed.clock()) if wrongly else "fine"


REGISTRY._definitions = _of_others


async def test_a_query_that_is_refused_leaves_the_run_alone() -> None:
    deployed.calls = 0
    async with perdure.open("memory:", workflows=[Asking], activities=[]) as app:
        handle = await app.start(Asking.run, id="asking")
        assert await handle.query(Asking.ask, False) == "fine"
        with pytest.raises(Exception, match=r"time\.time may not be used in workflow code"):
            await handle.query(Asking.ask, True)
        await handle.signal(Asking.finish)
        assert await handle.result() == "done"
