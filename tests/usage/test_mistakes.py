"""Everyday mistakes, and what Perdure says about them."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest

import perdure
from perdure import App, RetryPolicy, activity, workflow
from perdure.client import WorkflowFailureError
from perdure.exceptions import DefinitionError

SECONDS = timedelta(seconds=10)
LATER: Any = asyncio.sleep


@activity.defn(start_to_close_timeout=SECONDS, retry_policy=RetryPolicy(maximum_attempts=1))
async def echo(text: str) -> str:
    return text


@activity.defn(start_to_close_timeout=SECONDS, retry_policy=RetryPolicy(maximum_attempts=1))
async def forgets_inside() -> str:
    return LATER(1)


@workflow.defn
async def forgets_to_await() -> str:
    echo("x")
    await workflow.sleep(0.001)
    return "it did not wait"


@workflow.defn
async def returns_a_coroutine() -> str:
    answer: Any = echo("x")
    return answer


@workflow.defn
async def returns_another_type() -> int:
    number: Any = "one"
    return number


@workflow.defn
async def returns_from_activity() -> str:
    return await forgets_inside()


@workflow.defn
async def too_few() -> str:
    call: Any = echo
    return await call()


@workflow.defn
async def undecorated() -> object:
    return await workflow.execute_activity(returns_a_coroutine, start_to_close_timeout=SECONDS)


@workflow.defn
async def without_timeout() -> str:
    return await workflow.execute_activity("echo", "x", result_type=str)


@workflow.defn
async def takes_one(count: int) -> int:
    return count


ALL = [forgets_to_await, returns_another_type, too_few, undecorated, without_timeout, takes_one]


@pytest.fixture
async def app() -> AsyncIterator[App]:
    workflows = [*ALL, returns_a_coroutine, returns_from_activity]
    async with perdure.open("memory:", workflows=workflows, activities=[echo, forgets_inside]) as app:
        yield app


async def test_a_forgotten_await_is_named(app: App) -> None:
    with pytest.warns(RuntimeWarning, match="coroutine 'activity echo' was never awaited"):
        assert await app.execute(forgets_to_await) == "it did not wait"


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (returns_a_coroutine, "the result of workflow returns_a_coroutine: .*: a coroutine has to be awaited first"),
        (returns_from_activity, "the result of activity forgets_inside: .*: a coroutine has to be awaited first"),
    ],
)
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
async def test_a_coroutine_for_a_result(app: App, made: Callable[[], Any], words: str) -> None:
    with pytest.raises(WorkflowFailureError, match=words):
        await app.execute(made)
    gc.collect()


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (returns_another_type, "the result of workflow returns_another_type: expected int, got str"),
        (too_few, "activity echo takes 1 argument, 0 given"),
        (undecorated, r"returns_a_coroutine \(.*test_mistakes.py:\d+\) is not an activity: decorate it"),
        (without_timeout, "activity 'echo' needs start_to_close_timeout .* or schedule_to_close_timeout"),
    ],
)
async def test_what_a_failed_workflow_says(app: App, made: Callable[[], Any], words: str) -> None:
    with pytest.raises(WorkflowFailureError, match=words):
        await app.execute(made)


async def test_arguments_of_a_start(app: App) -> None:
    untyped: Any = app.client
    with pytest.raises(TypeError, match="workflow takes_one takes 1 argument, 0 given"):
        await untyped.execute_workflow(takes_one)
    with pytest.raises(TypeError, match="argument 'count' of workflow takes_one: expected int, got str"):
        await untyped.execute_workflow(takes_one, "one")
    with pytest.raises(TypeError, match="argument 'count' of workflow takes_one: .* values of type object"):
        await untyped.execute_workflow(takes_one, object())
    with pytest.raises(DefinitionError, match="echo .* is not a workflow: decorate .* with @workflow.defn"):
        await untyped.execute_workflow(echo, "x")
    with pytest.raises(WorkflowFailureError, match="workflow takes_one takes 1 argument, 0 given"):
        await untyped.execute_workflow("takes_one")
    with pytest.raises(WorkflowFailureError, match="a payload cannot be read as int"):
        await untyped.execute_workflow("takes_one", "one")


async def generator() -> AsyncIterator[int]:
    yield 1


def plain() -> int:
    return 1


def test_decorators_on_what_they_cannot_decorate() -> None:
    untyped: Any = workflow
    for wrong in (plain, generator):
        with pytest.raises(DefinitionError, match="needs a class or an async function"):
            untyped.defn(wrong)
    with pytest.raises(DefinitionError, match="is a generator: an activity returns its result"):
        activity.defn(generator)
    with pytest.raises(DefinitionError, match="a query handler may not be async"):
        untyped.query(takes_one)
    with pytest.raises(DefinitionError, match="has no run method of its own"):
        untyped.defn(type("Empty", (), {}))
    with pytest.raises(DefinitionError, match="only plain functions run in processes"):
        activity.defn(executor="process")(echo.fn)
