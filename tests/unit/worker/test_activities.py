"""Activities as a worker runs them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from perdure import RetryPolicy, activity, workflow
from perdure.activity import Activity
from perdure.client import AsyncActivityNotFoundError, WorkflowFailureError
from perdure.common import RawValue
from perdure.exceptions import (
    ActivityError,
    ApplicationError,
    CancelledError,
    RetryState,
    TimeoutError,
    TimeoutType,
)
from perdure.testing import WorkflowEnvironment

ONCE = RetryPolicy(maximum_attempts=1)
SECONDS = timedelta(seconds=10)


@dataclass
class Parcel:
    id: str
    weight: float


@pytest.fixture(params=["short way", "messages"])
async def env(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WorkflowEnvironment]:
    """An environment whose worker gets its tasks by the short way, or by polls."""
    if request.param == "messages":
        monkeypatch.setattr("perdure.worker.worker.direct_of", lambda service: None)
    async with await WorkflowEnvironment.start_time_skipping() as env:
        yield env


@workflow.defn
async def runs(name: str, args: list[Any], options: dict[str, Any]) -> Any:
    """Runs any activity by its name."""
    heartbeat_s, attempts = options.get("heartbeat"), options.get("attempts", 1)
    return await workflow.execute_activity(
        name,
        args=args,
        start_to_close_timeout=timedelta(seconds=options.get("timeout", 10)),
        heartbeat_timeout=timedelta(seconds=heartbeat_s) if heartbeat_s else None,
        retry_policy=RetryPolicy(maximum_attempts=attempts),
    )


async def run(env: WorkflowEnvironment, activity: Activity[..., Any], *args: Any, **options: Any) -> Any:
    async with env.worker(workflows=[runs], activities=[activity]):
        return await env.client.execute_workflow(runs, activity.__name__, list(args), options)


async def failure(env: WorkflowEnvironment, activity: Activity[..., Any], *args: Any, **options: Any) -> ActivityError:
    with pytest.raises(WorkflowFailureError) as caught:
        await run(env, activity, *args, **options)
    cause = caught.value.cause
    assert isinstance(cause, ActivityError)
    return cause


async def test_async_thread_and_method(env: WorkflowEnvironment) -> None:
    @activity.defn
    async def weigh(parcel: Parcel) -> float:
        return parcel.weight

    @activity.defn
    def stamp(parcel: Parcel, times: int = 2) -> Parcel:
        assert threading.current_thread() is not threading.main_thread()
        assert activity.info().activity_type == "stamp"
        return Parcel(parcel.id * times, parcel.weight)

    class Depot:
        def __init__(self, place: str) -> None:
            self.place = place

        @activity.defn
        async def store(self, parcel: Parcel) -> str:
            return f"{parcel.id} in {self.place}"

    assert await run(env, weigh, {"id": "a", "weight": 1.5}) == 1.5
    assert await run(env, stamp, {"id": "a", "weight": 1.5}) == {"id": "aa", "weight": 1.5}
    assert await run(env, Depot("Berlin").store, {"id": "a", "weight": 1}) == "a in Berlin"


async def test_info_tells_where_it_runs(env: WorkflowEnvironment) -> None:
    @activity.defn
    async def tells() -> dict[str, Any]:
        info = activity.info()
        assert info.start_to_close_timeout == SECONDS
        assert info.retry_policy is not None
        assert info.heartbeat_timeout is None
        assert info.started_time >= info.scheduled_time
        return {"type": info.workflow_type, "queue": info.task_queue, "attempt": info.attempt}

    assert await run(env, tells) == {"type": "runs", "queue": "default", "attempt": 1}


async def test_an_error_keeps_type_and_message(env: WorkflowEnvironment) -> None:
    @activity.defn
    def breaks() -> None:
        raise KeyError("shelf")

    error = await failure(env, breaks)
    assert isinstance(error.cause, ApplicationError)
    assert error.cause.type == "KeyError"
    assert "shelf" in error.cause.message
    assert error.cause.failure is not None
    assert "in breaks" in error.cause.failure.stack_trace
    assert error.retry_state is RetryState.MAXIMUM_ATTEMPTS_REACHED


async def test_retries_see_the_details_of_the_attempt_before(env: WorkflowEnvironment) -> None:
    seen: list[Any] = []

    @activity.defn
    async def pages() -> int:
        seen.append((activity.info().attempt, activity.heartbeat_details(Parcel)))
        activity.heartbeat(Parcel("first", 1))
        activity.heartbeat(Parcel(f"last of {activity.info().attempt}", 2))
        if activity.info().attempt < 3:
            raise ValueError("again")
        return 7

    assert await run(env, pages, attempts=5) == 7
    assert seen == [(1, []), (2, [Parcel("last of 1", 2)]), (3, [Parcel("last of 2", 2)])]


async def test_a_wrong_result_is_a_clear_failure_without_retries(env: WorkflowEnvironment) -> None:
    @activity.defn
    async def lies() -> int:
        return "x"  # type: ignore[return-value] - wrong on purpose

    error = await failure(env, lies, attempts=5)
    assert isinstance(error.cause, ApplicationError)
    assert error.cause.type == "ConversionError"
    assert "the result of activity lies: expected int, got str" in error.cause.message
    assert error.retry_state is RetryState.NON_RETRYABLE_FAILURE


async def test_a_wrong_argument_is_a_clear_failure_without_retries(env: WorkflowEnvironment) -> None:
    @activity.defn
    async def takes(parcel: Parcel) -> None: ...

    error = await failure(env, takes, "no parcel", attempts=5)
    assert isinstance(error.cause, ApplicationError)
    assert "argument 'parcel' of activity takes" in error.cause.message


async def test_an_unknown_activity_is_retried_until_a_worker_knows_it(env: WorkflowEnvironment) -> None:
    @activity.defn
    async def known() -> str:
        return "found"

    @activity.defn
    async def other() -> None: ...

    async with env.worker(workflows=[runs], activities=[other]):
        handle = await env.client.start_workflow(runs, "known", [], {"attempts": 0})
        await env.sleep(timedelta(minutes=1))
        pending = (await handle.describe()).pending_activities[0]
        assert pending.attempt > 2
        assert "'known' is not registered" in pending.last_failure.message
        assert "it knows other" in pending.last_failure.message
    async with env.worker(workflows=[runs], activities=[known]):
        assert await handle.result() == "found"


async def test_a_dynamic_activity_takes_what_no_other_does(env: WorkflowEnvironment) -> None:
    @activity.defn(dynamic=True)
    async def anything(args: list[RawValue]) -> str:
        values = activity.payload_converter().from_payloads([arg.payload for arg in args])
        return f"{activity.info().activity_type}{values}"

    async with env.worker(workflows=[runs], activities=[anything]):
        assert await env.client.execute_workflow(runs, "surprise", [1, "a"], {}) == "surprise[1, 'a']"


@workflow.defn
class Cancels:
    """Cancels an activity when signalled, and says what came of it."""

    def __init__(self) -> None:
        self.stopped = False

    @workflow.signal
    def stop(self) -> None:
        self.stopped = True

    @workflow.run
    async def run(self, name: str, kind: str = "wait") -> str:
        kinds = {
            "wait": workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            "try": workflow.ActivityCancellationType.TRY_CANCEL,
        }
        handle = workflow.start_activity(
            name, start_to_close_timeout=timedelta(hours=1), cancellation_type=kinds[kind], retry_policy=ONCE
        )
        await workflow.wait_condition(lambda: self.stopped)
        handle.cancel()
        try:
            return f"result {await handle}"
        except asyncio.CancelledError:
            return "cancelled"


async def cancelled(env: WorkflowEnvironment, activity: Activity[..., Any], started: asyncio.Event, kind: str) -> str:
    async with env.worker(workflows=[Cancels], activities=[activity]):
        handle = await env.client.start_workflow(Cancels.run, activity.__name__, kind)
        await started.wait()
        await handle.signal(Cancels.stop)
        return await handle.result()


@pytest.mark.parametrize("kind", ["wait", "try"])
async def test_cancelling_reaches_an_async_activity_without_a_heartbeat(env: WorkflowEnvironment, kind: str) -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    @activity.defn
    async def waits() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            assert activity.is_cancelled()
            ended.set()

    assert await cancelled(env, waits, started, kind) == "cancelled"
    await ended.wait()


async def test_an_activity_may_finish_in_spite_of_its_cancellation(env: WorkflowEnvironment) -> None:
    started = asyncio.Event()

    @activity.defn
    async def insists() -> str:
        started.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return "done"

    assert await cancelled(env, insists, started, "wait") == "result done"


async def test_cancelling_interrupts_a_thread(env: WorkflowEnvironment) -> None:
    loop = asyncio.get_running_loop()
    started = asyncio.Event()
    notes: list[str] = []

    @activity.defn
    def spins() -> None:
        try:
            with activity.shield_thread_cancel_exception():
                loop.call_soon_threadsafe(started.set)
                activity.wait_for_cancelled_sync(timedelta(seconds=30))
                notes.append("shielded")
            while True:
                pass
        except CancelledError:
            notes.append("interrupted")
            raise

    assert await cancelled(env, spins, started, "wait") == "cancelled"
    assert notes == ["shielded", "interrupted"]


async def test_a_thread_that_asked_for_it_learns_from_its_heartbeat_only(env: WorkflowEnvironment) -> None:
    loop = asyncio.get_running_loop()
    started = asyncio.Event()
    notes: list[str] = []

    @activity.defn(no_thread_cancel_exception=True)
    def polite() -> None:
        loop.call_soon_threadsafe(started.set)
        activity.wait_for_cancelled_sync()
        notes.append("still here")
        activity.heartbeat()

    assert await cancelled(env, polite, started, "wait") == "cancelled"
    assert notes == ["still here"]


async def test_closing_the_workflow_stops_its_activities(env: WorkflowEnvironment) -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    @activity.defn
    async def waits() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    @workflow.defn
    class Leaves:
        def __init__(self) -> None:
            self.left = False

        @workflow.signal
        def leave(self) -> None:
            self.left = True

        @workflow.run
        async def run(self) -> str:
            running = workflow.start_activity(waits, start_to_close_timeout=timedelta(hours=1))
            await workflow.wait_condition(lambda: self.left)
            assert not running.done()
            return "left"

    async with env.worker(workflows=[Leaves], activities=[waits]):
        handle = await env.client.start_workflow(Leaves.run)
        await started.wait()
        await handle.signal(Leaves.leave)
        assert await handle.result() == "left"
        await ended.wait()


async def test_a_heartbeat_learns_of_a_termination(env: WorkflowEnvironment) -> None:
    started, ended = asyncio.Event(), asyncio.Event()
    beat = asyncio.Event()

    @activity.defn
    async def beats() -> None:
        started.set()
        await beat.wait()
        activity.heartbeat()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with env.worker(workflows=[runs], activities=[beats]):
        handle = await env.client.start_workflow(runs, "beats", [], {"timeout": 3600})
        await started.wait()
        await handle.terminate(reason="enough")
        beat.set()
        await ended.wait()


async def test_cancelled_error_without_a_cancellation_is_a_failure(env: WorkflowEnvironment) -> None:
    @activity.defn
    async def confused() -> None:
        raise asyncio.CancelledError

    error = await failure(env, confused)
    assert isinstance(error.cause, ApplicationError)
    assert "nobody cancelled it" in error.cause.message


async def test_async_completion_by_token_and_by_id(env: WorkflowEnvironment) -> None:
    tokens: asyncio.Queue[bytes] = asyncio.Queue()

    @activity.defn
    async def elsewhere() -> Parcel:
        tokens.put_nowait(activity.info().task_token)
        activity.raise_complete_async()

    async with env.worker(workflows=[runs], activities=[elsewhere]):
        with env.auto_time_skipping_disabled():
            one = await env.client.start_workflow(runs, "elsewhere", [], {"timeout": 3600}, id="one")
            by_token = env.client.get_async_activity_handle(task_token=await tokens.get())
            await by_token.heartbeat("half")
            await by_token.complete(Parcel("p", 1))
            assert await one.result() == {"id": "p", "weight": 1.0}
            with pytest.raises(AsyncActivityNotFoundError):
                await by_token.complete(Parcel("p", 1))

            two = await env.client.start_workflow(runs, "elsewhere", [], {"timeout": 3600}, id="two")
            await tokens.get()
            pending = (await two.describe()).pending_activities[0]
            by_id = env.client.get_async_activity_handle(workflow_id="two", activity_id=pending.activity_id)
            await by_id.fail(ApplicationError("lost", type="Lost"))
            with pytest.raises(WorkflowFailureError) as caught:
                await two.result()
            assert isinstance(caught.value.cause, ActivityError)
            assert isinstance(caught.value.cause.cause, ApplicationError)
            assert caught.value.cause.cause.type == "Lost"


async def test_an_attempt_after_one_left_to_others_finds_its_details(env: WorkflowEnvironment) -> None:
    tokens: asyncio.Queue[bytes] = asyncio.Queue()
    seen: list[list[Any]] = []

    @activity.defn
    async def elsewhere(detail: str | None) -> None:
        seen.append(activity.heartbeat_details())
        if activity.info().attempt == 1:
            if detail:
                activity.heartbeat(detail)
            tokens.put_nowait(activity.info().task_token)
            activity.raise_complete_async()

    async with env.worker(workflows=[runs], activities=[elsewhere]):
        for detail in (None, "half"):
            handle = await env.client.start_workflow(runs, "elsewhere", [detail], {"timeout": 3600, "attempts": 2})
            token = await tokens.get()
            await env.engine.wait_idle()
            await env.client.get_async_activity_handle(task_token=token).fail(ValueError("lost"))
            await handle.result()
    assert seen == [[], [], [], ["half"]]


async def test_a_thread_may_leave_completion_to_others(env: WorkflowEnvironment) -> None:
    tokens: asyncio.Queue[bytes] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    @activity.defn
    def elsewhere() -> str:
        activity.heartbeat("details stay")
        loop.call_soon_threadsafe(tokens.put_nowait, activity.info().task_token)
        activity.raise_complete_async()

    async with env.worker(workflows=[runs], activities=[elsewhere]):
        handle = await env.client.start_workflow(runs, "elsewhere", [], {"timeout": 3600})
        token = await tokens.get()
        await env.engine.wait_idle()
        await env.client.get_async_activity_handle(task_token=token).complete("done")
        assert await handle.result() == "done"


async def test_an_attempt_that_takes_too_long_is_cancelled() -> None:
    ended = asyncio.Event()

    @activity.defn
    async def sleeps() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with await WorkflowEnvironment.start_local() as env, env.worker(workflows=[runs], activities=[sleeps]):
        with pytest.raises(WorkflowFailureError) as caught:
            await env.client.execute_workflow(runs, "sleeps", [], {"timeout": 0.05})
        assert isinstance(caught.value.cause, ActivityError)
        assert isinstance(caught.value.cause.cause, TimeoutError)
        assert caught.value.cause.cause.type is TimeoutType.START_TO_CLOSE
        await ended.wait()


async def test_no_more_run_at_once_than_allowed(env: WorkflowEnvironment) -> None:
    running = most = 0

    @activity.defn(start_to_close_timeout=SECONDS)
    async def counts() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    @workflow.defn
    async def many() -> None:
        await asyncio.gather(*(counts() for _ in range(50)))

    async with env.worker(workflows=[many], activities=[counts], max_concurrent_activities=3):
        await env.client.execute_workflow(many)
    assert most == 3


async def test_a_result_that_is_too_large_is_a_clear_failure(env: WorkflowEnvironment) -> None:
    @activity.defn
    async def floods() -> bytes:
        return b"x" * 3_000_000

    error = await failure(env, floods)
    assert isinstance(error.cause, ApplicationError)
    assert error.cause.type == "PayloadTooLargeError"
    assert "the result of activity floods" in error.cause.message


async def test_shutdown_hands_back_what_does_not_finish(env: WorkflowEnvironment) -> None:
    started = asyncio.Event()
    attempts: list[int] = []

    @activity.defn
    async def patient() -> int:
        attempts.append(activity.info().attempt)
        if activity.info().attempt == 1:
            started.set()
            await activity.wait_for_worker_shutdown()
            await asyncio.Event().wait()
        return activity.info().attempt

    worker = env.worker(workflows=[runs], activities=[patient])
    async with worker:
        handle = await env.client.start_workflow(runs, "patient", [], {"attempts": 3})
        await started.wait()
    assert not worker.is_running
    await worker.stop()
    async with env.worker(workflows=[runs], activities=[patient]):
        assert await handle.result() == 2


async def test_a_graceful_shutdown_lets_activities_finish(env: WorkflowEnvironment) -> None:
    started = asyncio.Event()

    @activity.defn
    async def patient() -> str:
        started.set()
        await activity.wait_for_worker_shutdown()
        return "finished"

    async with env.worker(workflows=[runs], activities=[patient], graceful_shutdown_timeout=SECONDS):
        handle = await env.client.start_workflow(runs, "patient", [], {"attempts": 1})
        await started.wait()
    async with env.worker(workflows=[runs]):
        assert await handle.result() == "finished"
