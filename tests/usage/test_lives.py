"""How apps begin and end: entered twice, closed too early, interrupted; and code that means to end the process."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import perdure
from perdure import RetryPolicy, activity, workflow
from perdure.client import ServiceUnavailableError, WorkflowFailureError, calls
from perdure.exceptions import ActivityError, ApplicationError, TargetError

SECONDS = timedelta(seconds=30)
ONCE = RetryPolicy(maximum_attempts=1)


@activity.defn(start_to_close_timeout=SECONDS)
async def blocks() -> None:
    await asyncio.Event().wait()


@activity.defn(start_to_close_timeout=SECONDS, retry_policy=ONCE)
async def exits() -> None:
    sys.exit(3)


@activity.defn(start_to_close_timeout=SECONDS, retry_policy=ONCE)
def exits_on_a_thread() -> None:
    sys.exit(3)


@activity.defn(start_to_close_timeout=SECONDS)
async def interrupted_activity() -> None:
    raise KeyboardInterrupt


@workflow.defn
async def quick(number: int) -> int:
    return number


@workflow.defn
async def waits() -> None:
    await blocks()


@workflow.defn
async def interrupted() -> None:
    await workflow.sleep(0.01)  # Its start is on disk by then.
    raise KeyboardInterrupt


@workflow.defn
async def awaits_interrupted() -> None:
    await interrupted_activity()


@workflow.defn
async def ends(how: str) -> None:
    await WAYS[how]()


def step_that_exits() -> None:
    sys.exit(3)


async def step_that_is_cancelled() -> None:
    raise asyncio.CancelledError


async def workflow_that_exits() -> None:
    sys.exit(3)


WAYS: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
    "activity": exits,
    "thread": exits_on_a_thread,
    "step": lambda: workflow.step(step_that_exits),
    "workflow": workflow_that_exits,
}


async def test_an_app_is_entered_once_at_a_time() -> None:
    app = perdure.open("memory:", workflows=[quick], activities=[])
    async with app:
        with pytest.raises(RuntimeError, match="this app is open already"):
            await app.__aenter__()
        assert await app.execute(quick, 1) == 1
    async with app:
        assert await app.execute(quick, 2) == 2


async def test_two_apps_on_one_database(tmp_path: Path) -> None:
    db = tmp_path / "a.db"
    async with perdure.open(db, workflows=[quick], activities=[]) as outer:
        async with perdure.open(db, workflows=[quick], activities=[]) as inner:
            assert await inner.execute(quick, 1) == 1
        assert await outer.execute(quick, 2) == 2
    async with perdure.open(db, workflows=[quick], activities=[]) as app:
        assert (await app.client.count_workflows()).count == 2


async def test_a_database_open_in_another_loop_of_the_process(tmp_path: Path) -> None:
    async def other() -> int:
        async with perdure.open(tmp_path / "a.db", workflows=[quick], activities=[]) as app:
            return await app.execute(quick, 2)

    async with perdure.open(tmp_path / "a.db", workflows=[quick], activities=[]) as app:
        assert await asyncio.to_thread(asyncio.run, other()) == 2
        assert await app.execute(quick, 1) == 1


async def test_a_handle_says_at_once_that_its_app_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_FIRST_WAIT_S", 1e9)
    monkeypatch.setattr(calls, "_LONGEST_WAIT_S", 1e9)
    async with perdure.open("memory:", workflows=[waits], activities=[blocks]) as app:
        handle = await app.start(waits)
        pending = asyncio.create_task(handle.result())
        async for _ in handle.fetch_history_events(wait_new_event=True):
            break
    for ask in (pending, handle.result(), handle.describe(), handle.signal("x")):
        with pytest.raises(ServiceUnavailableError, match=r"its app or client was closed; open it again$"):
            await ask


@pytest.mark.parametrize("target", [":memory:", "sqlite::memory:", "sqlite:///orders.db", "sqlite://orders.db"])
async def test_targets_as_other_libraries_write_them(target: str) -> None:
    with pytest.raises(TargetError, match="how other libraries say it"):
        await perdure.open(target).__aenter__()


@pytest.mark.parametrize("how", WAYS)
async def test_exiting_fails_what_exits_and_nothing_else(how: str) -> None:
    activities = [exits, exits_on_a_thread]
    async with perdure.open("memory:", workflows=[ends, quick], activities=activities) as app:
        with pytest.raises(WorkflowFailureError) as raised:
            await app.execute(ends, how)
        cause = raised.value.cause
        cause = cause.cause if isinstance(cause, ActivityError) else cause
        assert isinstance(cause, ApplicationError)
        assert (cause.type, cause.message) == ("SystemExit", "3")
        assert await app.execute(quick, 1) == 1


async def test_a_step_that_raises_cancelled_error_has_failed() -> None:
    @workflow.defn
    async def steps() -> str:
        try:
            await workflow.step(step_that_is_cancelled)
        except ApplicationError as error:
            return error.message
        return "nothing"

    async with perdure.open("memory:", workflows=[steps], activities=[]) as app:
        with pytest.raises(WorkflowFailureError) as raised:
            await app.execute(steps)
        assert "Cancelled" in str(raised.value)


@pytest.mark.parametrize("what", [interrupted, awaits_interrupted])
def test_an_interrupt_means_the_process(what: Callable[[], Coroutine[Any, Any, None]], tmp_path: Path) -> None:
    """Wherever it hits; what was interrupted is still there afterwards."""

    async def run() -> None:
        async with perdure.open(tmp_path / "a.db", workflows=[what], activities=[interrupted_activity]) as app:
            await app.execute(what, id="w")

    async def look() -> None:
        async with perdure.open(tmp_path / "a.db", workflows=[quick], activities=[]) as app:
            description = await app.handle("w").describe()
            assert description.status is perdure.client.WorkflowExecutionStatus.RUNNING
            assert [activity.attempt for activity in description.pending_activities] in ([], [1])

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(run())
    asyncio.run(look())
