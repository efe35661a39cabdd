"""Activities of an unmodified worker: retries, heartbeats, completion from elsewhere, cancellation, local ones."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from temporalio import activity, workflow
from temporalio.client import AsyncActivityCancelledError, Client, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, CancelledError, TimeoutError, TimeoutType
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

QUEUE = "activities"
SOON = timedelta(milliseconds=10)
LONG = timedelta(seconds=30)


@activity.defn
async def fail_until(attempt: int) -> int:
    now = activity.info().attempt
    if now < attempt:
        raise ApplicationError("not yet", now, type="NotYet")
    return now


@activity.defn
async def fail_asking_for_delay() -> int:
    info = activity.info()
    if info.attempt == 1:
        raise ApplicationError("later", next_retry_delay=timedelta(milliseconds=300))
    return round((info.started_time - info.scheduled_time).total_seconds() * 1000)


@activity.defn
async def fail_for_good() -> None:
    raise ApplicationError("never", type="Never", non_retryable=True)


@activity.defn
async def resume() -> list[int]:
    info = activity.info()
    if info.attempt == 1:
        activity.heartbeat(1, 2, 3)
        raise ApplicationError("half way")
    return list(info.heartbeat_details)


@activity.defn
async def hang() -> None:
    await asyncio.Event().wait()


OBEYING: list[asyncio.Event] = []


@activity.defn
async def obey(answer: str) -> str:
    OBEYING[-1].set()
    try:
        while True:
            activity.heartbeat()
            await asyncio.wait((asyncio.ensure_future(activity.wait_for_cancelled()),), timeout=0.05)
    except asyncio.CancelledError:
        if answer:
            return answer
        raise


class Outside:
    """An activity that others complete."""

    def __init__(self) -> None:
        self.tokens: asyncio.Queue[bytes] = asyncio.Queue()

    @activity.defn
    async def wait_outside(self) -> str:
        await self.tokens.put(activity.info().task_token)
        activity.raise_complete_async()


@workflow.defn
class One:
    """Runs one activity as it is told."""

    @workflow.run
    async def run(self, name: str, arguments: list[Any], options: dict[str, float]) -> Any:
        return await workflow.execute_activity(
            name,
            args=arguments,
            start_to_close_timeout=timedelta(seconds=options.get("start_to_close", 30)),
            heartbeat_timeout=timedelta(seconds=options["heartbeat"]) if "heartbeat" in options else None,
            retry_policy=RetryPolicy(initial_interval=SOON, maximum_attempts=int(options.get("attempts", 0))),
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        )


@workflow.defn
class Cancels:
    """Cancels an activity when it is told to, waiting for it as it is told."""

    def __init__(self) -> None:
        self.told = False

    @workflow.signal
    def cancel(self) -> None:
        self.told = True

    @workflow.run
    async def run(self, kind: int, answer: str) -> str:
        handle = workflow.start_activity(
            obey,
            answer,
            start_to_close_timeout=LONG,
            heartbeat_timeout=LONG,
            cancellation_type=workflow.ActivityCancellationType(kind),
        )
        await workflow.wait_condition(lambda: self.told)
        handle.cancel()
        try:
            return await handle
        except ActivityError as error:
            return type(error.cause).__name__


@workflow.defn
class Local:
    """Runs local activities: a plain one, one that is retried, one whose retry waits for a timer."""

    @workflow.run
    async def run(self) -> list[int]:
        return [
            await workflow.execute_local_activity(fail_until, 1, start_to_close_timeout=LONG),
            await workflow.execute_local_activity(
                fail_until, 3, start_to_close_timeout=LONG, retry_policy=RetryPolicy(initial_interval=SOON)
            ),
            await workflow.execute_local_activity(
                fail_until,
                2,
                start_to_close_timeout=LONG,
                retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=200)),
                local_retry_threshold=SOON,
            ),
        ]


def worker(client: Client, *more: object) -> Worker:
    return Worker(
        client,
        task_queue=QUEUE,
        workflows=[One, Cancels, Local],
        activities=[fail_until, fail_asking_for_delay, fail_for_good, resume, hang, obey, *more],  # type: ignore[list-item]
        workflow_runner=UnsandboxedWorkflowRunner(),
        default_heartbeat_throttle_interval=timedelta(milliseconds=50),
        max_heartbeat_throttle_interval=timedelta(milliseconds=50),
    )


async def one(client: Client, name: str, *arguments: object, **options: float) -> object:
    return await client.execute_workflow(
        One.run, args=[name, list(arguments), options], id=f"one-{name}", task_queue=QUEUE
    )


async def cause(client: Client, name: str, *arguments: object, **options: float) -> BaseException | None:
    with pytest.raises(WorkflowFailureError) as failed:
        await one(client, name, *arguments, **options)
    assert isinstance(failed.value.cause, ActivityError)
    return failed.value.cause.cause


async def test_activities_are_retried(client: Client) -> None:
    async with worker(client):
        assert await one(client, "fail_until", 3) == 3
        assert await one(client, "resume", heartbeat=5) == [1, 2, 3]
        waited_ms = await one(client, "fail_asking_for_delay")
        assert isinstance(waited_ms, int) and waited_ms >= 300


async def test_activities_fail_for_good(client: Client) -> None:
    async with worker(client):
        error = await cause(client, "fail_for_good")
        assert isinstance(error, ApplicationError) and (error.type, error.non_retryable) == ("Never", True)
        error = await cause(client, "fail_until", 9, attempts=2)
        assert isinstance(error, ApplicationError) and list(error.details) == [2]


async def test_activities_time_out(client: Client) -> None:
    async with worker(client):
        error = await cause(client, "hang", start_to_close=0.3, attempts=1)
        assert isinstance(error, TimeoutError) and error.type is TimeoutType.START_TO_CLOSE
        error = await cause(client, "hang", heartbeat=0.3, attempts=1)
        assert isinstance(error, TimeoutError) and error.type is TimeoutType.HEARTBEAT


@pytest.mark.parametrize(
    ("kind", "answer", "expected"),
    [
        (workflow.ActivityCancellationType.TRY_CANCEL, "", "CancelledError"),
        (workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED, "", "CancelledError"),
        (workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED, "finished first", "finished first"),
        (workflow.ActivityCancellationType.ABANDON, "", "CancelledError"),
    ],
)
async def test_activities_are_cancelled(client: Client, kind: int, answer: str, expected: str) -> None:
    OBEYING.append(asyncio.Event())
    async with worker(client):
        handle = await client.start_workflow(Cancels.run, args=[int(kind), answer], id="c", task_queue=QUEUE)
        await OBEYING[-1].wait()
        await handle.signal(Cancels.cancel)
        assert await handle.result() == expected


async def test_local_activities(client: Client) -> None:
    async with worker(client):
        assert await client.execute_workflow(Local.run, id="l", task_queue=QUEUE) == [1, 3, 2]


async def test_an_activity_is_completed_from_elsewhere(client: Client) -> None:
    outside = Outside()
    async with worker(client, outside.wait_outside):
        run = asyncio.ensure_future(one(client, "wait_outside"))
        handle = client.get_async_activity_handle(task_token=await outside.tokens.get())
        await handle.heartbeat("still here")
        await handle.complete("by token")
        assert await run == "by token"
        with pytest.raises(RPCError) as late:
            await handle.complete("again")
        assert late.value.status is RPCStatusCode.NOT_FOUND

        run = asyncio.ensure_future(one(client, "wait_outside"))
        await outside.tokens.get()
        by_id = client.get_async_activity_handle(workflow_id="one-wait_outside", run_id=None, activity_id="1")
        await by_id.heartbeat()
        (pending,) = (
            await client.get_workflow_handle("one-wait_outside").describe()
        ).raw_description.pending_activities
        assert pending.HasField("last_heartbeat_time")
        await by_id.fail(ApplicationError("by id", non_retryable=True))
        with pytest.raises(WorkflowFailureError):
            await run


async def test_one_who_completes_from_elsewhere_learns_of_a_cancellation(client: Client) -> None:
    outside = Outside()
    async with worker(client, outside.wait_outside):
        flow = await client.start_workflow(One.run, args=["wait_outside", [], {}], id="x", task_queue=QUEUE)
        handle = client.get_async_activity_handle(task_token=await outside.tokens.get())
        await flow.cancel()
        with pytest.raises(AsyncActivityCancelledError):
            while True:
                await handle.heartbeat()
        await handle.report_cancellation("enough")
        with pytest.raises(WorkflowFailureError) as failed:
            await flow.result()
        assert isinstance(failed.value.cause, CancelledError)
        assert (await flow.describe()).status is WorkflowExecutionStatus.CANCELED
