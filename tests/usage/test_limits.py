"""Values at, and beyond, what the engine takes: an error where they are given, which code can handle."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

import perdure
from perdure import RetryPolicy, activity, workflow
from perdure.client import InvalidRequestError, WorkflowFailureError
from perdure.converter import DEFAULT_MAX_PAYLOAD_BYTES, default
from perdure.exceptions import ActivityError, ApplicationError, PayloadTooLargeError
from perdure.testing import Replayer, WorkflowEnvironment

SECONDS = timedelta(seconds=10)
ONCE = RetryPolicy(maximum_attempts=1)
NEARLY = DEFAULT_MAX_PAYLOAD_BYTES - 100
LARGEST = NEARLY + DEFAULT_MAX_PAYLOAD_BYTES - len(default().to_payloads_bytes(["x" * NEARLY]))
"""The longest text that may travel by itself."""


@activity.defn(start_to_close_timeout=SECONDS, retry_policy=ONCE)
async def length(text: str) -> int:
    return len(text)


@activity.defn(start_to_close_timeout=SECONDS, retry_policy=ONCE)
async def text_of(count: int) -> str:
    return "x" * count


@activity.defn(start_to_close_timeout=SECONDS, heartbeat_timeout=SECONDS, retry_policy=ONCE)
async def beats(count: int) -> int:
    activity.heartbeat("x" * count)
    return count


@workflow.defn
class Sink:
    @workflow.run
    async def run(self, text: str) -> int:
        return len(text)

    @workflow.signal
    def take(self, text: str) -> None: ...


ASKED: dict[str, Callable[[int], Awaitable[object]]] = {
    "argument of an activity": lambda count: length("x" * count),
    "argument of a child": lambda count: workflow.execute_child_workflow(Sink.run, "x" * count),
    "argument of a signal": lambda count: workflow.get_external_workflow_handle("nobody").signal("take", "x" * count),
    "result of a step": lambda count: workflow.step(lambda: "x" * (count - 128)),
    "result of an activity": lambda count: text_of(count),
    "heartbeat": lambda count: beats(count),
}


@workflow.defn
async def asks(what: str, count: int) -> str:
    """What became of it; the timer sees to it that the answer is found again by replay."""
    error: BaseException | None = None
    try:
        await ASKED[what](count)
    except PayloadTooLargeError as refused:
        error = refused
    except (ActivityError, ApplicationError) as failed:
        error = failed.cause if isinstance(failed, ActivityError) else failed
    await workflow.sleep(1)
    return error.type or "" if isinstance(error, ApplicationError) else type(error).__name__


@workflow.defn
async def memorises(count: int) -> str:
    try:
        workflow.upsert_memo({"text": "x" * count})
    except PayloadTooLargeError:
        return "too large"
    return "taken"


@workflow.defn
async def returns(count: int) -> str:
    return "x" * count


@workflow.defn
async def renews(text: str, count: int) -> str:
    if count:
        workflow.continue_as_new(args=["x" * count, 0])
    return text


ALL = [asks, memorises, returns, renews, Sink]


@pytest.mark.parametrize("what", ASKED)
@pytest.mark.parametrize("cached_bytes", [0, 1_000_000])
async def test_what_a_workflow_asks_for(what: str, cached_bytes: int) -> None:
    async with await WorkflowEnvironment.start_time_skipping() as env:
        activities = [length, text_of, beats]
        async with env.worker(workflows=ALL, activities=activities, max_cached_workflow_bytes=cached_bytes):
            fits = "ExternalWorkflowNotFound" if what == "argument of a signal" else "NoneType"
            assert await env.client.execute_workflow(asks, what, LARGEST, id="fits") == fits
            more = 129 if what == "result of a step" else 1
            handle = await env.client.start_workflow(asks, what, LARGEST + more, id="does-not")
            assert await handle.result() == "PayloadTooLargeError"
            await Replayer(workflows=ALL).replay_workflow(await handle.fetch_history())


async def test_results_memos_and_arguments_of_the_next_run() -> None:
    async with perdure.open("memory:", workflows=ALL, activities=[]) as app:
        assert len(await app.execute(returns, LARGEST)) == LARGEST
        with pytest.raises(WorkflowFailureError) as raised:
            await app.execute(returns, LARGEST + 1)
        assert isinstance(raised.value.cause, ApplicationError)
        assert raised.value.cause.type == "PayloadTooLargeError"
        assert "store the data elsewhere and pass a reference" in raised.value.cause.message
        assert await app.execute(memorises, LARGEST // 2) == "taken"
        assert await app.execute(memorises, LARGEST + 1) == "too large"
        with pytest.raises(WorkflowFailureError, match="PayloadTooLargeError"):
            await app.execute(renews, "", LARGEST + 1)


async def test_a_client_is_told_at_the_call() -> None:
    async with perdure.open("memory:", workflows=ALL, activities=[]) as app:
        assert await app.execute(Sink.run, "x" * LARGEST) == LARGEST
        with pytest.raises(InvalidRequestError, match="at most 2097152"):
            await app.execute(Sink.run, "x" * (LARGEST + 1))
        handle = await app.start(Sink.run, "x", start_delay=timedelta(days=1))
        with pytest.raises(InvalidRequestError, match="at most 2097152"):
            await handle.signal(Sink.take, "x" * (LARGEST + 1))
        await handle.signal(Sink.take, "x" * LARGEST)
