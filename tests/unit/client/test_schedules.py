"""Schedules through our own client, on the clock that jumps."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from perdure import workflow
from perdure.client import (
    Client,
    InvalidRequestError,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleBackfill,
    ScheduleCalendarSpec,
    ScheduleIntervalSpec,
    ScheduleNotFoundError,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleRange,
    ScheduleSpec,
    ScheduleState,
    ScheduleUpdate,
    ScheduleUpdateInput,
    WorkflowExecutionStatus,
)
from perdure.common import Priority, RetryPolicy, SearchAttributeKey, SearchAttributePair, TypedSearchAttributes
from perdure.exceptions import ConversionError
from perdure.testing import WorkflowEnvironment

START = datetime(2026, 1, 1, tzinfo=UTC)
TEAM = SearchAttributeKey.for_keyword("Team")
DAILY = ScheduleSpec(cron_expressions=["0 9 * * *"])


@workflow.defn
async def count(start: int) -> int:
    before = workflow.get_last_completion_result(int) if workflow.has_last_completion_result() else start
    return before + 1


@pytest.fixture
async def env() -> AsyncIterator[WorkflowEnvironment]:
    made = await WorkflowEnvironment.start_time_skipping(start_time=START, search_attributes=[TEAM])
    async with made as env, env.worker(workflows=[count]):
        yield env


@pytest.fixture
def client(env: WorkflowEnvironment) -> Client:
    return env.client


def action(**options: Any) -> ScheduleActionStartWorkflow:
    return ScheduleActionStartWorkflow(count, 10, id="count", **options)


async def test_a_month_of_days(env: WorkflowEnvironment, client: Client) -> None:
    handle = await client.create_schedule("daily", Schedule(action(), DAILY))
    await env.sleep(timedelta(days=31))
    info = (await handle.describe()).info
    assert info.num_actions == 31
    assert not info.running_actions
    last = info.recent_actions[-1]
    assert last.scheduled_at == last.started_at == datetime(2026, 1, 31, 9, tzinfo=UTC)
    assert last.status is WorkflowExecutionStatus.COMPLETED
    assert last.action.workflow_id == "count-2026-01-31T09:00:00Z"
    assert await client.get_workflow_handle(last.action.workflow_id).result() == 41
    assert info.next_action_times[0] == datetime(2026, 2, 1, 9, tzinfo=UTC)


async def test_everything_comes_back_as_it_was_given(client: Client) -> None:
    wanted = Schedule(
        action=action(
            task_queue="counters",
            execution_timeout=timedelta(hours=1),
            run_timeout=timedelta(minutes=3),
            task_timeout=timedelta(seconds=20),
            retry_policy=RetryPolicy(maximum_attempts=3),
            memo={"who": "me"},
            typed_search_attributes=TypedSearchAttributes([SearchAttributePair(TEAM, "red")]),
            static_summary="what",
            static_details="more",
            priority=Priority(priority_key=2),
        ),
        spec=ScheduleSpec(
            calendars=[ScheduleCalendarSpec(hour=[ScheduleRange(8, 18, 2)], comment="work")],
            intervals=[ScheduleIntervalSpec(timedelta(hours=5), timedelta(minutes=7))],
            skip=[ScheduleCalendarSpec(day_of_week=[ScheduleRange(0)])],
            start_at=START,
            end_at=START + timedelta(days=365),
            jitter=timedelta(seconds=9),
            time_zone_name="Europe/Berlin",
        ),
        policy=SchedulePolicy(ScheduleOverlapPolicy.CANCEL_OTHER, timedelta(hours=2), True, True),
        state=ScheduleState("a note", True, True, 7),
    )
    attributes = TypedSearchAttributes([SearchAttributePair(TEAM, "blue")])
    handle = await client.create_schedule("s", wanted, memo={"owner": "me"}, search_attributes=attributes)
    described = await handle.describe()
    found = described.schedule
    assert found.spec.to_proto() == wanted.spec.to_proto()
    assert (found.policy, found.state) == (wanted.policy, wanted.state)
    assert found.action.to_proto(client) == described.raw_description.schedule.action.start_workflow
    assert (found.action.static_summary, found.action.static_details) == ("what", "more")
    assert found.action.typed_search_attributes is not None
    assert found.action.typed_search_attributes[TEAM] == "red"
    assert described.typed_search_attributes[TEAM] == "blue"
    assert await described.memo() == {"owner": "me"}
    assert await described.memo_value("owner", type_hint=str) == "me"
    assert await described.memo_value("none", 5) == 5


async def test_updates_send_back_what_they_leave_alone(env: WorkflowEnvironment, client: Client) -> None:
    handle = await client.create_schedule("s", Schedule(action(), DAILY, state=ScheduleState(paused=True)))
    asked: list[str | None] = []

    async def unpaused(given: ScheduleUpdateInput) -> ScheduleUpdate:
        schedule = given.description.schedule
        asked.append(schedule.state.note)
        if len(asked) == 1:
            await handle.pause(note="meanwhile")
        schedule.state.paused = False
        schedule.action.id = "renamed"
        return ScheduleUpdate(schedule, TypedSearchAttributes([SearchAttributePair(TEAM, "green")]))

    await handle.update(unpaused)
    assert asked == [None, "meanwhile"]
    await handle.update(lambda _: None)
    described = await handle.describe()
    assert described.typed_search_attributes[TEAM] == "green"
    assert described.info.last_updated_at == START
    await env.sleep(timedelta(hours=10))
    assert await client.get_workflow_handle("renamed-2026-01-01T09:00:00Z").result() == 11


async def test_triggers_backfills_and_pauses(env: WorkflowEnvironment, client: Client) -> None:
    handle = await client.create_schedule("s", Schedule(action(), DAILY), trigger_immediately=True)
    await env.sleep(timedelta(seconds=1))
    await handle.pause(note="enough")
    await handle.trigger(overlap=ScheduleOverlapPolicy.ALLOW_ALL)
    begin = START - timedelta(days=3)
    await handle.backfill(ScheduleBackfill(begin, begin + timedelta(days=2), ScheduleOverlapPolicy.BUFFER_ALL))
    await env.sleep(timedelta(days=2))
    described = await handle.describe()
    assert described.info.num_actions == 4
    assert described.schedule.state == ScheduleState("enough", True)
    await handle.unpause()
    await env.sleep(timedelta(days=1))
    assert (await handle.describe()).info.num_actions == 5
    with pytest.raises(ValueError, match="at least one"):
        await handle.backfill()


async def test_lists_and_counts(client: Client) -> None:
    for number in range(5):
        attributes = TypedSearchAttributes([SearchAttributePair(TEAM, "red" if number % 2 else "blue")])
        schedule = Schedule(action(), DAILY, state=ScheduleState(note=f"no. {number}", paused=True))
        await client.create_schedule(f"s{number}", schedule, memo={"n": number}, search_attributes=attributes)
    found = [each async for each in client.list_schedules(page_size=2)]
    assert sorted(each.id for each in found) == [f"s{number}" for number in range(5)]
    (red, _) = [each async for each in client.list_schedules("Team = 'red'")]
    assert (red.id, red.workflow, red.note, red.paused) == ("s3", "count", "no. 3", True)
    assert await red.memo() == {"n": 3}
    assert red.typed_search_attributes[TEAM] == "red"
    assert len(red.next_action_times) == 5
    assert await client.count_schedules("Team = 'blue'") == 3
    with pytest.raises(InvalidRequestError):
        await client.count_schedules("Nobody = 1")


async def test_mistakes_are_told(client: Client) -> None:
    handle = await client.create_schedule("s", Schedule(action(), DAILY))
    with pytest.raises(ScheduleAlreadyRunningError, match="'s' exists already"):
        await client.create_schedule("s", Schedule(action(), DAILY))
    with pytest.raises(InvalidRequestError, match="nonsense"):
        await client.create_schedule("t", Schedule(action(), ScheduleSpec(cron_expressions=["nonsense"])))
    with pytest.raises(ValueError, match="go together"):
        await client.create_schedule("t", Schedule(action(), DAILY, state=ScheduleState(limited_actions=True)))
    with pytest.raises(ConversionError):
        wrong: Any = "no number"
        await client.create_schedule("t", Schedule(ScheduleActionStartWorkflow(count, wrong, id="x"), DAILY))
    with pytest.raises(TypeError, match="timedelta"):
        every: Any = 5
        spec = ScheduleSpec(intervals=[ScheduleIntervalSpec(every)])
        await client.create_schedule("t", Schedule(action(), spec))
    with pytest.raises(ValueError, match="no time zone"):
        await client.create_schedule("t", Schedule(action(), ScheduleSpec(start_at=datetime(2026, 1, 1))))  # noqa: DTZ001
    await handle.delete()
    for call in (handle.describe(), handle.delete(), handle.pause(), handle.trigger()):
        with pytest.raises(ScheduleNotFoundError, match="'s' not found"):
            await call


async def test_the_guide_is_true(env: WorkflowEnvironment, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (text,) = re.findall(r"^```python\n(.*?)^```", (root / "docs/schedules.md").read_text(), re.MULTILINE | re.DOTALL)
    guide: dict[str, Any] = {"__name__": "guide"}
    exec(compile(text, "docs/schedules.md", "exec", dont_inherit=True), guide)
    async with env.worker(workflows=[guide["report"]], task_queue="reports"):
        await guide["make_schedule"](env.client)
        await env.sleep(timedelta(days=7))
        handle = env.client.get_schedule_handle("nightly-report")
        assert (await handle.describe()).info.num_actions == 5
        await guide["look_after_it"](env.client)
        await env.sleep(timedelta(minutes=1))
        info = (await handle.describe()).info
    assert info.num_actions == 11
    last = info.recent_actions[-1].action.workflow_id
    assert await env.client.get_workflow_handle(last).result() == "report of north after report of north"
    printed = capsys.readouterr().out
    assert "so far; next at 2026-01-08" in printed
    assert "nightly-report report" in printed
