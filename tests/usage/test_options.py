"""Ids, options and timeouts that cannot be: told at the call, in words."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

import perdure
from perdure import App, RetryPolicy, activity, workflow
from perdure.client import InvalidRequestError, WorkflowFailureError, WorkflowNotFoundError

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
