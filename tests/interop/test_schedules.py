"""Schedules through Temporal's own client, with its worker, on our server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from temporalio import workflow
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionExecutionStartWorkflow,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleBackfill,
    ScheduleCalendarSpec,
    ScheduleHandle,
    ScheduleInfo,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleRange,
    ScheduleSpec,
    ScheduleState,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.common import RetryPolicy, SearchAttributeKey, SearchAttributePair, TypedSearchAttributes
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from tests.interop.conftest import Spawn

QUEUE = "scheduled"
BEGIN = datetime(2020, 1, 20, 5, 0, tzinfo=UTC)


@workflow.defn
class Report:
    """Says what it was given, and what the run before it said."""

    @workflow.run
    async def run(self, text: str) -> str:
        before = workflow.get_last_completion_result(str) if workflow.has_last_completion_result() else "nothing"
        return f"{text} after {before.split(' ')[0]}"


@workflow.defn
class Failing:
    """Never succeeds."""

    @workflow.run
    async def run(self) -> None:
        raise ApplicationError("out of paper", non_retryable=True)


def worker(client: Client) -> Worker:
    return Worker(client, task_queue=QUEUE, workflows=[Report, Failing], workflow_runner=UnsandboxedWorkflowRunner())


def action(workflow_id: str = "report", **options: object) -> ScheduleActionStartWorkflow:
    return ScheduleActionStartWorkflow(Report.run, "hello", id=workflow_id, task_queue=QUEUE, **options)  # type: ignore[call-overload]


async def eventually(handle: ScheduleHandle, holds: Callable[[ScheduleInfo], bool]) -> ScheduleInfo:
    """The schedule's info, once it says so."""

    async def look() -> ScheduleInfo:
        while not holds(info := (await handle.describe()).info):
            pass
        return info

    return await asyncio.wait_for(look(), 100)


async def refused(call: Awaitable[object], status: RPCStatusCode) -> RPCError:
    with pytest.raises(RPCError) as caught:
        await call
    assert caught.value.status is status
    return caught.value


async def test_everything_comes_back_as_it_was_given(client: Client) -> None:
    key = SearchAttributeKey.for_keyword("Kind")
    await add_attribute(client, key.name)
    wanted = Schedule(
        action=action(
            execution_timeout=timedelta(hours=1),
            run_timeout=timedelta(minutes=30),
            task_timeout=timedelta(seconds=15),
            retry_policy=RetryPolicy(maximum_attempts=2),
            memo={"who": "me"},
            typed_search_attributes=TypedSearchAttributes([SearchAttributePair(key, "run")]),
            static_summary="what",
            static_details="more of it",
        ),
        spec=ScheduleSpec(
            calendars=[ScheduleCalendarSpec(hour=[ScheduleRange(1, 5, 2)], comment="nights")],
            intervals=[ScheduleIntervalSpec(every=timedelta(days=10), offset=timedelta(days=2))],
            cron_expressions=["0 12 * * MON"],
            skip=[ScheduleCalendarSpec(year=[ScheduleRange(2050)])],
            start_at=datetime(2060, 7, 8, 9, 10, 11, tzinfo=UTC),
            end_at=datetime(2070, 1, 1, tzinfo=UTC),
            jitter=timedelta(seconds=80),
            time_zone_name="America/New_York",
        ),
        policy=SchedulePolicy(
            overlap=ScheduleOverlapPolicy.BUFFER_ONE, catchup_window=timedelta(minutes=5), pause_on_failure=True
        ),
        state=ScheduleState(note="a note", paused=True, limited_actions=True, remaining_actions=30),
    )
    handle = await client.create_schedule(
        "sched", wanted, memo={"key": "value"}, search_attributes=TypedSearchAttributes([SearchAttributePair(key, "s")])
    )
    with pytest.raises(ScheduleAlreadyRunningError):
        await client.create_schedule("sched", wanted)
    described = await handle.describe()
    assert await described.memo() == {"key": "value"}
    assert described.typed_search_attributes[key] == "s"
    found = described.schedule
    assert found.policy == wanted.policy
    assert found.state == wanted.state
    cron = ScheduleCalendarSpec(hour=[ScheduleRange(12)], day_of_week=[ScheduleRange(1)])
    assert list(found.spec.calendars[1].hour) == list(cron.hour)
    assert list(found.spec.calendars[1].day_of_week) == list(cron.day_of_week)
    assert not found.spec.cron_expressions
    assert found.spec.intervals == wanted.spec.intervals
    assert (found.spec.start_at, found.spec.end_at) == (wanted.spec.start_at, wanted.spec.end_at)
    assert found.spec.jitter == wanted.spec.jitter
    assert found.spec.time_zone_name == "America/New_York"
    start = found.action
    assert isinstance(start, ScheduleActionStartWorkflow)
    assert (start.workflow, start.id, start.task_queue) == ("Report", "report", QUEUE)
    assert start.run_timeout == timedelta(minutes=30)
    assert start.retry_policy is not None and start.retry_policy.maximum_attempts == 2
    assert start.typed_search_attributes[key] == "run"
    assert len(described.info.next_action_times) == 10
    await handle.delete()
    await refused(handle.describe(), RPCStatusCode.NOT_FOUND)


async def add_attribute(client: Client, name: str) -> None:
    from temporalio.api.enums.v1 import IndexedValueType
    from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest

    await client.operator_service.add_search_attributes(
        AddSearchAttributesRequest(
            namespace=client.namespace, search_attributes={name: IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD}
        )
    )


async def test_triggers_run_and_results_are_handed_on(client: Client) -> None:
    wanted = Schedule(
        action=action(),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=timedelta(days=1))]),
        state=ScheduleState(paused=True),
    )
    handle = await client.create_schedule("triggered", wanted, trigger_immediately=True)
    async with worker(client):
        info = await eventually(handle, lambda info: info.num_actions == 1 and not info.running_actions)
        await handle.trigger(overlap=ScheduleOverlapPolicy.BUFFER_ALL)
        await eventually(handle, lambda info: info.num_actions == 2 and not info.running_actions)
        await handle.backfill(
            ScheduleBackfill(BEGIN, BEGIN + timedelta(days=2), overlap=ScheduleOverlapPolicy.BUFFER_ALL)
        )
        info = await eventually(handle, lambda info: info.num_actions == 4 and not info.running_actions)
    results: list[str] = []
    for recent in info.recent_actions:
        execution = recent.action
        assert isinstance(execution, ScheduleActionExecutionStartWorkflow)
        results.append(
            await client.get_workflow_handle(execution.workflow_id, run_id=execution.first_execution_run_id).result()
        )
    assert results == ["hello after nothing", "hello after hello", "hello after hello", "hello after hello"]
    last = info.recent_actions[-1].action
    assert isinstance(last, ScheduleActionExecutionStartWorkflow)
    assert last.workflow_id == "report-2020-01-22T00:00:00Z"


async def test_intervals_run_by_the_clock(client: Client) -> None:
    wanted = Schedule(
        action=action("clockwork"), spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=timedelta(seconds=1))])
    )
    handle = await client.create_schedule("clockwork", wanted)
    async with worker(client):
        info = await eventually(handle, lambda info: info.num_actions >= 2)
        await handle.pause(note="enough")
    assert (await handle.describe()).schedule.state.note == "enough"
    first = info.recent_actions[0]
    assert first.scheduled_at.microsecond == 0
    assert timedelta(0) <= first.started_at - first.scheduled_at < timedelta(minutes=1)
    await handle.unpause(note="go on")
    state = (await handle.describe()).schedule.state
    assert (state.paused, state.note) == (False, "go on")
    await handle.delete()


async def test_a_failure_pauses(client: Client) -> None:
    wanted = Schedule(
        action=ScheduleActionStartWorkflow(Failing.run, id="failing", task_queue=QUEUE),
        spec=ScheduleSpec(),
        policy=SchedulePolicy(pause_on_failure=True),
    )
    handle = await client.create_schedule("failing", wanted, trigger_immediately=True)
    async with worker(client):
        await eventually(handle, lambda info: info.num_actions == 1 and not info.running_actions)
    state = (await handle.describe()).schedule.state
    assert state.paused
    assert state.note is not None and "out of paper" in state.note


async def test_updates(client: Client) -> None:
    wanted = Schedule(action=action(), spec=ScheduleSpec(), state=ScheduleState(paused=True))
    handle = await client.create_schedule("updated", wanted)

    async def change(given: ScheduleUpdateInput) -> ScheduleUpdate:
        changed = given.description.schedule
        changed.spec.intervals = [ScheduleIntervalSpec(every=timedelta(hours=3))]
        changed.state.note = "changed"
        return ScheduleUpdate(changed)

    await handle.update(change)
    described = await handle.describe()
    assert described.schedule.state.note == "changed"
    assert described.info.last_updated_at is not None
    assert len(described.info.next_action_times) == 10
    await handle.update(lambda _: None)
    assert (await handle.describe()).info.last_updated_at == described.info.last_updated_at


async def test_lists(client: Client) -> None:
    for number in range(5):
        spec = ScheduleSpec(intervals=[ScheduleIntervalSpec(every=timedelta(days=1))])
        await client.create_schedule(
            f"listed-{number}",
            Schedule(action=action(), spec=spec, state=ScheduleState(note=f"no. {number}")),
            memo={"number": number},
        )
    found = [each async for each in await client.list_schedules(page_size=2)]
    assert sorted(each.id for each in found) == [f"listed-{number}" for number in range(5)]
    by_query = [each async for each in await client.list_schedules("ScheduleId = 'listed-3'")]
    assert [each.id for each in by_query] == ["listed-3"]
    (listed,) = by_query
    assert await listed.memo() == {"number": 3}
    assert listed.schedule is not None and listed.schedule.state.note == "no. 3"
    assert listed.info is not None and len(listed.info.next_action_times) == 5


async def test_schedules_survive_the_server(spawn_server: Spawn, tmp_path: Path) -> None:
    first = await spawn_server("start", "--db", str(tmp_path / "kept.db"), "--address", "127.0.0.1:0")
    client = await Client.connect(first.address)
    spec = ScheduleSpec(intervals=[ScheduleIntervalSpec(every=timedelta(seconds=1))])
    policy = SchedulePolicy(overlap=ScheduleOverlapPolicy.ALLOW_ALL)
    handle = await client.create_schedule("kept", Schedule(action=action("kept"), spec=spec, policy=policy))
    await eventually(handle, lambda info: info.num_actions >= 1)
    await first.kill()
    second = await spawn_server("start", "--db", str(tmp_path / "kept.db"), "--address", "127.0.0.1:0")
    client = await Client.connect(second.address)
    handle = client.get_schedule_handle("kept")
    async with worker(client):
        before = (await handle.describe()).info.num_actions
        info = await eventually(handle, lambda info: info.num_actions >= before + 2)
        await handle.pause()
    scheduled = [each.scheduled_at for each in info.recent_actions]
    assert scheduled == sorted(set(scheduled)), "each action is taken once"
    steps = {after - earlier for earlier, after in pairwise(scheduled)}
    assert steps == {timedelta(seconds=1)}, "and none is left out"
