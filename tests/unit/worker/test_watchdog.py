"""Workflow code that does not let go of the event loop is told of, with its place; nothing else is."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta

import pytest

from perdure import activity, workflow
from perdure.testing import WorkflowEnvironment

SOON = timedelta(milliseconds=20)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "without awaiting" in record.getMessage()]


@pytest.fixture
async def env() -> AsyncIterator[WorkflowEnvironment]:
    async with await WorkflowEnvironment.start_time_skipping() as env:
        yield env


@pytest.fixture
def until_told(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], bool]]:
    """Holds its thread until a warning has been logged."""
    caplog.set_level(logging.WARNING, logger="perdure.worker")
    said = threading.Event()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "without awaiting" in record.getMessage():
                said.set()

    listener = Listener()
    logging.getLogger("perdure.worker").addHandler(listener)
    yield said.wait
    logging.getLogger("perdure.worker").removeHandler(listener)


@pytest.mark.parametrize("short_way", [True, False])
async def test_code_that_never_awaits_is_told_of_once(
    env: WorkflowEnvironment, caplog: pytest.LogCaptureFixture, until_told: Callable[[], bool], short_way: bool
) -> None:
    @workflow.defn
    async def hogs() -> str:
        if not short_way:
            await workflow.step(lambda: None)
        spin()
        return "done"

    def spin() -> None:
        until_told()

    async with (
        env.worker(workflows=[hogs], deadlock_warning=SOON),
        env.worker(task_queue="other", workflows=[hogs], deadlock_warning=SOON),
    ):
        assert await env.client.execute_workflow(hogs, id="w-1") == "done"
    (warning,) = told(caplog)
    assert "w-1" in warning and "more than 0.02 s" in warning and "workflow.step" in warning
    assert "in spin\n    until_told()" in warning and "in hogs\n    spin()" in warning
    assert "perdure/replay" not in warning and "run_forever" not in warning


async def test_who_awaits_may_take_as_long_as_he_likes(
    env: WorkflowEnvironment, caplog: pytest.LogCaptureFixture
) -> None:
    @activity.defn(start_to_close_timeout=timedelta(hours=1))
    async def takes_its_time() -> None:
        while not watchdog.is_asleep:
            await asyncio.sleep(0)

    @workflow.defn
    async def waits() -> None:
        await takes_its_time()

    others = watchdogs()
    worker = env.worker(workflows=[waits], activities=[takes_its_time], deadlock_warning=SOON)
    async with worker:
        assert worker._workflow_tasks is not None
        watchdog = worker._workflow_tasks._watchdog
        await env.client.execute_workflow(waits)
        await env.client.execute_workflow(waits)
        assert len(watchdogs() - others) == 1
    assert not told(caplog) and not watchdogs() - others


def watchdogs() -> set[threading.Thread]:
    """Those of other tests among them, whose workers were left behind and nobody has collected yet."""
    return {thread for thread in threading.enumerate() if thread.name == "perdure-watchdog"}


async def test_nobody_watches_if_it_is_not_wanted(env: WorkflowEnvironment) -> None:
    others = watchdogs()

    @workflow.defn
    async def quick() -> int:
        return len(watchdogs() - others)

    async with env.worker(workflows=[quick]):
        assert await env.client.execute_workflow(quick) == 0
    async with env.worker(workflows=[quick], deadlock_warning=timedelta(seconds=2)):
        assert await env.client.execute_workflow(quick) == 1
