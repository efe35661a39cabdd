"""Priorities: carried from workflows to their activities and children, and honoured by queues."""

from __future__ import annotations

from perdure.api import StatusCode
from perdure.api import messages as m
from tests.service.support import QUEUE, Driver, complete_workflow, refusal, schedule_activity, start_child


def ranked(activity_id: str, **fields: object) -> m.Command:
    command = schedule_activity(activity_id)
    command.schedule_activity_task_command_attributes.priority.CopyFrom(m.Priority(**fields))  # type: ignore[arg-type]
    return command


async def test_activities_leave_their_queue_by_priority(driver: Driver) -> None:
    await driver.start(priority=m.Priority(priority_key=4, fairness_key="tenant"))
    await driver.step(
        schedule_activity("a"), ranked("b", priority_key=5), ranked("c", priority_key=1), schedule_activity("d")
    )
    tasks = [await driver.activity() for _ in range(4)]
    assert [task.activity_id for task in tasks] == ["c", "a", "d", "b"]
    assert [task.priority.priority_key for task in tasks] == [1, 4, 4, 5]
    assert {task.priority.fairness_key for task in tasks} == {"tenant"}
    await driver.step(complete_workflow())
    await driver.settle()


async def test_workflow_tasks_leave_their_queue_by_priority(driver: Driver) -> None:
    await driver.start("plain")
    await driver.start("last", priority=m.Priority(priority_key=5))
    await driver.start("first", priority=m.Priority(priority_key=1))
    found = [(await driver.poll()).workflow_execution.workflow_id for _ in range(3)]
    assert found == ["first", "plain", "last"]


async def test_a_child_has_its_parents_priority(driver: Driver) -> None:
    await driver.start(priority=m.Priority(priority_key=2, fairness_key="tenant"))
    command = start_child("child")
    command.start_child_workflow_execution_command_attributes.priority.priority_key = 1
    await driver.step(command)
    await driver.rest()
    info = (await driver.describe("child")).workflow_execution_info
    assert (info.priority.priority_key, info.priority.fairness_key) == (1, "tenant")


async def test_describe_shows_the_priority_of_an_activity(driver: Driver) -> None:
    await driver.start(priority=m.Priority(fairness_key="tenant"))
    await driver.step(ranked("a", priority_key=2))
    (pending,) = (await driver.describe()).pending_activities
    assert (pending.priority.priority_key, pending.priority.fairness_key) == (2, "tenant")


async def test_a_bad_priority_is_refused(driver: Driver) -> None:
    error = await refusal(driver.start(priority=m.Priority(priority_key=-1)))
    assert error.code is StatusCode.INVALID_ARGUMENT
    await driver.start()
    error = await refusal(driver.complete(await driver.poll(), ranked("a", fairness_key="x" * 65)))
    assert error.code is StatusCode.INVALID_ARGUMENT
    bad = start_child("child")
    bad.start_child_workflow_execution_command_attributes.priority.priority_key = -1
    error = await refusal(driver.complete(await driver.poll(), bad))
    assert error.code is StatusCode.INVALID_ARGUMENT
    assert (await driver.poll(QUEUE)).task_token
