"""Ids, options and timeouts that cannot be: told at the call, in words."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

import perdure
from perdure import App, RetryPolicy, activity, workflow
from perdure.client import InvalidRequestError, WorkflowFailureError, WorkflowNotFoundError
from perdure.testing import WorkflowEnvironment

SECONDS = timedelta(seconds=10)
NUMBER: Any = 5


@activity.defn(start_to_close_timeout=SECONDS)
async def echo(text: str) -> str:
    return text


@workflow.defn
async def greet(name: str) -> str:
    return await echo(f"hello {name}")


@workflow.defn
async def with_timeout(seconds: int) -> str:
    return await workflow.execute_activity(echo, "x", start_to_close_timeout=timedelta(seconds=seconds))


@workflow.defn
async def with_number(seconds: int) -> str:
    number: Any = seconds
    return await workflow.execute_activity(echo, "x", start_to_close_timeout=number)


ASKED: dict[str, Callable[[], Awaitable[object]]] = {
    "TypeError: the option 'id' has to be text, not 5": lambda: workflow.execute_child_workflow(greet, "x", id=NUMBER),
    "InvalidNameError: the option 'id' is empty": lambda: workflow.execute_child_workflow(greet, "x", id=""),
    "InvalidNameError: the option 'id' is too long": lambda: workflow.execute_child_workflow(greet, "x", id="x" * 1001),
    "InvalidNameError: the option 'task_queue' holds a NUL": lambda: workflow.execute_child_workflow(
        greet, "x", task_queue="\0"
    ),
    "ValueError: run_timeout may not be negative": lambda: workflow.execute_child_workflow(
        greet, "x", run_timeout=-SECONDS
    ),
    "TypeError: a child has no option 'memory'": lambda: workflow.execute_child_workflow(
        greet, "x", **dict[str, Any](memory=1)
    ),
    "InvalidNameError: the workflow id is not valid Unicode": lambda: workflow.get_external_workflow_handle(
        "\ud800"
    ).cancel(),
    "InvalidNameError: the signal's name is empty": lambda: workflow.get_external_workflow_handle("x").signal(""),
    "InvalidNameError: the activity's name is too long": lambda: workflow.execute_activity(
        "x" * 1001, start_to_close_timeout=SECONDS
    ),
    "InvalidNameError: activity_id is empty": lambda: workflow.execute_activity(echo, "x", activity_id=""),
    "ValueError: a timer's delay may not be NaN": lambda: workflow.sleep(math.nan),
    "TypeError: a span of time": lambda: renewed(NUMBER),
    "nothing": lambda: asyncio.wait({asyncio.ensure_future(workflow.sleep(math.inf))}, timeout=1),
}


async def renewed(span: Any) -> None:
    workflow.continue_as_new("x", run_timeout=span)


@workflow.defn
async def asks(what: str) -> str:
    said = "nothing"
    try:
        await ASKED[what]()
    except (TypeError, ValueError) as error:
        said = f"{type(error).__name__}: {error}"
    await workflow.sleep(1)
    return said


@pytest.mark.parametrize("what", ASKED)
async def test_what_workflow_code_may_not_ask_for_is_an_error_there(what: str) -> None:
    """Found again by replay, as nothing is cached."""
    async with await WorkflowEnvironment.start_time_skipping() as env:
        async with env.worker(workflows=[asks, greet], activities=[echo], max_cached_workflow_bytes=0):
            assert what in await env.client.execute_workflow(asks, what)


@pytest.fixture
async def app() -> AsyncIterator[App]:
    async with perdure.open("memory:", workflows=[greet, with_timeout, with_number], activities=[echo]) as app:
        yield app


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"id": ""}, ValueError, "the option 'id' is empty"),
        ({"id": 5}, TypeError, "the option 'id' has to be text, not 5"),
        ({"id": "a\ud800"}, ValueError, "not valid Unicode"),
        ({"task_queue": ""}, ValueError, "the option 'task_queue' is empty"),
        ({"run_timeout": 5}, TypeError, r"write timedelta\(seconds=5\)"),
        ({"idd": "x"}, TypeError, "no option 'idd'; did you mean 'id'"),
        ({"id": "x" * 1001}, InvalidRequestError, "WorkflowId is too long: 1001 characters, at most 1000"),
        ({"id": "a\0b"}, InvalidRequestError, "WorkflowId holds a NUL character"),
        ({"run_timeout": timedelta(seconds=-1)}, InvalidRequestError, "WorkflowRunTimeout is negative"),
    ],
)
async def test_options_of_a_start(app: App, options: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as raised:
        await app.start(greet, "Ada", **options)
    assert len(str(raised.value)) < 400


async def test_the_longest_of_everything(app: App) -> None:
    assert await app.execute(greet, "Ada", id="x" * 1000, run_timeout=timedelta.max) == "hello Ada"
    handle = await app.start(greet, "Ada", id="later", start_delay=timedelta.max)
    await handle.terminate()


async def test_ids_of_handles(app: App) -> None:
    with pytest.raises(ValueError, match="the workflow id is empty"):
        app.handle("")
    with pytest.raises(ValueError, match="not valid Unicode"):
        app.client.get_workflow_handle_for(greet, "\udc00")
    with pytest.raises(TypeError, match="has to be text, not 5"):
        app.handle(NUMBER)
    with pytest.raises(WorkflowNotFoundError):
        await app.handle("a\0b").describe()


async def test_what_is_said_of_workflows_that_are_not_there_or_closed(app: App) -> None:
    with pytest.raises(WorkflowNotFoundError) as missing:
        await app.handle("nobody").signal("x")
    assert str(missing.value).count("nobody") == 1
    assert "check the workflow id" in str(missing.value)
    await app.execute(greet, "Ada", id="closed")
    with pytest.raises(WorkflowNotFoundError) as closed:
        await app.handle("closed").signal("x")
    assert str(closed.value) == "workflow 'closed': workflow execution already completed"


async def test_timeouts_in_workflow_code(app: App) -> None:
    with pytest.raises(WorkflowFailureError, match="ValueError: start_to_close_timeout may not be negative"):
        await app.execute(with_timeout, -1)
    with pytest.raises(WorkflowFailureError, match=r"TypeError: a span of time .* write timedelta\(seconds=3\)"):
        await app.execute(with_number, 3)


def test_options_of_decorators_and_policies() -> None:
    with pytest.raises(TypeError, match=r"write timedelta\(seconds=5\)"):
        activity.defn(start_to_close_timeout=NUMBER)(echo.fn)
    with pytest.raises(ValueError, match="heartbeat_timeout may not be negative"):
        activity.defn(heartbeat_timeout=timedelta(seconds=-1))(echo.fn)
    with pytest.raises(TypeError, match=r"write timedelta\(seconds=5\)"):
        RetryPolicy(initial_interval=NUMBER)
    with pytest.raises(ValueError, match="backoff_coefficient"):
        RetryPolicy(backoff_coefficient=math.nan)
