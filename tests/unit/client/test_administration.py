"""What operators ask of a client, through the engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from perdure import workflow
from perdure.client import (
    Client,
    InvalidRequestError,
    ResetReapplyExcludeType,
    ResetType,
    ServiceError,
    TaskQueueType,
    WorkflowExecutionStatus,
    WorkflowNotFoundError,
)
from perdure.common import Priority, SearchAttributeKey, SearchAttributePair, TypedSearchAttributes
from perdure.testing import WorkflowEnvironment

CITY = SearchAttributeKey.for_keyword("HomeTown")
AGE = SearchAttributeKey.for_int("Age")


@workflow.defn
async def sleeps(hours: float) -> str:
    await asyncio.sleep(hours * 3600)
    return "awake"


@pytest.fixture
async def env() -> AsyncIterator[WorkflowEnvironment]:
    async with await WorkflowEnvironment.start_time_skipping() as env:
        async with env.worker(workflows=[sleeps]):
            yield env


@pytest.fixture
def client(env: WorkflowEnvironment) -> Client:
    return env.client


async def test_search_attributes_are_added_listed_used_and_removed(client: Client) -> None:
    known = await client.list_search_attributes()
    await client.add_search_attributes(CITY, AGE)
    await client.add_search_attributes(CITY)
    assert set(await client.list_search_attributes()) == {*known, CITY, AGE}
    attributes = TypedSearchAttributes([SearchAttributePair(CITY, "Oslo"), SearchAttributePair(AGE, 7)])
    handle = await client.start_workflow(sleeps, 1, id="a", search_attributes=attributes)
    assert (await handle.describe()).typed_search_attributes[CITY] == "Oslo"
    with pytest.raises(ServiceError):
        await client.add_search_attributes(SearchAttributeKey.for_int("HomeTown"))
    await client.remove_search_attributes("HomeTown", "Age")
    assert await client.list_search_attributes() == known


async def test_workflows_are_found_and_counted_by_what_they_say_of_themselves(client: Client) -> None:
    await client.add_search_attributes(CITY, AGE)
    for number, city in enumerate(["Oslo", "Bern", "Oslo", "Rome"]):
        attributes = TypedSearchAttributes([SearchAttributePair(CITY, city), SearchAttributePair(AGE, number)])
        await client.start_workflow(sleeps, number, id=f"w{number}", search_attributes=attributes)

    async def found(query: str) -> list[str]:
        return [workflow.id async for workflow in client.list_workflows(query)]

    assert set(await found("HomeTown = 'Oslo'")) == {"w0", "w2"}
    assert set(await found("HomeTown IN ('Bern', 'Rome') OR Age BETWEEN 2 AND 3")) == {"w1", "w2", "w3"}
    assert set(await found("NOT HomeTown STARTS_WITH 'O' AND WorkflowType = 'sleeps'")) == {"w1", "w3"}
    counted = await client.count_workflows("WorkflowType = 'sleeps' GROUP BY ExecutionStatus")
    assert counted.count == 4
    assert sum(group.count for group in counted.groups) == 4
    assert {group.group_values[0] for group in counted.groups} <= {"Running", "Completed"}
    with pytest.raises(InvalidRequestError):
        await found("Nothing = 'x'")


async def test_a_task_queue_tells_who_polls_it_and_what_waits(client: Client, env: WorkflowEnvironment) -> None:
    described = await client.describe_task_queue()
    assert [poller.identity for poller in described.pollers] == [client.identity]
    await client.start_workflow(sleeps, 1, id="a", task_queue="nobody")
    nobody = await client.describe_task_queue("nobody")
    assert not nobody.pollers
    assert nobody.stats.backlog_count == 1
    assert (await client.describe_task_queue("nobody", type=TaskQueueType.ACTIVITY)).stats.backlog_count == 0


async def test_a_workflow_is_deleted_with_its_history(client: Client) -> None:
    handle = await client.start_workflow(sleeps, 1, id="a")
    await handle.delete()
    with pytest.raises(WorkflowNotFoundError):
        await handle.describe()
    with pytest.raises(WorkflowNotFoundError):
        await client.get_workflow_handle("never").delete()


async def test_a_workflow_goes_back_and_does_again_what_followed(client: Client) -> None:
    handle = await client.start_workflow(sleeps, 1, id="a")
    assert await handle.result() == "awake"
    again = await handle.reset(reason="once more")
    assert again.run_id is not None
    assert again.run_id != handle.first_execution_run_id
    assert await again.result() == "awake"
    from_the_start = await again.reset(ResetType.FIRST_WORKFLOW_TASK, exclude=[ResetReapplyExcludeType.SIGNAL])
    assert await from_the_start.result() == "awake"
    described = await client.get_workflow_handle("a", run_id=handle.result_run_id).describe()
    assert described.reset_run_id == again.run_id
    with pytest.raises(InvalidRequestError):
        await handle.reset(9999)
    never = await client.start_workflow(sleeps, 1, id="b", task_queue="nobody")
    with pytest.raises(InvalidRequestError, match="no workflow task"):
        await never.reset()


async def test_a_description_tells_what_was_given_at_the_start(client: Client) -> None:
    handle = await client.start_workflow(
        sleeps,
        1,
        id="a",
        static_summary="in short",
        static_details="at length",
        priority=Priority(priority_key=2, fairness_key="tenant"),
        execution_timeout=timedelta(hours=9),
        run_timeout=timedelta(hours=5),
    )
    described = await handle.describe()
    assert (await described.static_summary(), await described.static_details()) == ("in short", "at length")
    assert described.priority == Priority(priority_key=2, fairness_key="tenant")
    assert described.run_expiration_time is not None
    assert described.run_expiration_time - described.start_time == timedelta(hours=5)
    assert described.execution_expiration_time is not None
    assert described.execution_expiration_time - described.start_time == timedelta(hours=9)
    assert (described.root_id, described.root_run_id) == ("a", described.run_id)
    assert described.first_run_id == described.run_id
    assert not described.cancel_requested
    assert described.reset_run_id is None
    assert not described.callbacks
    assert not described.pending_nexus_operations
    assert await handle.result() == "awake"
    closed = await handle.describe()
    assert closed.status is WorkflowExecutionStatus.COMPLETED
    assert closed.execution_duration == timedelta(hours=1)


async def test_a_bare_start_has_no_words_for_people(client: Client) -> None:
    described = await (await client.start_workflow(sleeps, 1, id="a")).describe()
    assert await described.static_summary() is None
    assert await described.static_details() is None
    assert described.priority == Priority()


async def test_a_cron_workflow_runs_again_and_again(client: Client, env: WorkflowEnvironment) -> None:
    handle = await client.start_workflow(sleeps, 0.1, id="a", cron_schedule="@every 1h")
    first = handle.first_execution_run_id
    await env.sleep(timedelta(hours=3))
    described = await client.get_workflow_handle("a").describe()
    assert described.run_id != first
    assert described.first_run_id == first
    await client.get_workflow_handle("a").terminate()
