"""Listing and counting: filters, pages, groups, and what is refused."""

from __future__ import annotations

import pytest

from perdure.api import StatusCode
from perdure.api import messages as m
from tests.service.support import START_MS, Driver, complete_workflow, fail_workflow, refusal


async def populate(driver: Driver) -> None:
    """Ten workflows, one a second: the even ones completed, number 9 failed, the other odd ones open."""
    for number in range(10):
        workflow_type = m.WorkflowType(name="even" if number % 2 == 0 else "odd")
        await driver.start(f"wf{number}", workflow_type=workflow_type)
        task = await driver.poll()
        if number % 2 == 0:
            await driver.complete(task, complete_workflow())
        elif number == 9:
            await driver.complete(task, fail_workflow())
        else:
            await driver.complete(task)
        driver.clock.advance_by(1000)


async def listed(driver: Driver, query: str = "", page_size: int = 0) -> list[str]:
    request = m.ListWorkflowExecutionsRequest(namespace="default", query=query, page_size=page_size)
    found: list[str] = []
    while True:
        response = await driver.service.list_workflow_executions(request)
        assert not page_size or len(response.executions) <= page_size
        found += [info.execution.workflow_id for info in response.executions]
        if not response.next_page_token:
            return found
        request.next_page_token = response.next_page_token


async def count(driver: Driver, query: str = "") -> m.CountWorkflowExecutionsResponse:
    request = m.CountWorkflowExecutionsRequest(namespace="default", query=query)
    return await driver.service.count_workflow_executions(request)


def stamp(second: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(START_MS / 1000 + second, UTC).isoformat()


def wf(*numbers: int) -> list[str]:
    return [f"wf{number}" for number in numbers]


async def test_newest_start_first_in_pages_of_any_size(driver: Driver) -> None:
    await populate(driver)
    for size in (0, 1, 3, 10, 11):
        assert await listed(driver, page_size=size) == wf(*range(9, -1, -1))


async def test_filters(driver: Driver) -> None:
    await populate(driver)
    run_id = (await driver.describe("wf3")).workflow_execution_info.execution.run_id
    cases = {
        "WorkflowId = 'wf3'": wf(3),
        'WorkflowId="wf3"': wf(3),
        f"RunId = '{run_id}'": wf(3),
        "WorkflowType = 'odd'": wf(9, 7, 5, 3, 1),
        "ExecutionStatus = 'Running'": wf(7, 5, 3, 1),
        "ExecutionStatus = 3": wf(9),
        "ExecutionStatus IN ('Failed', \"Completed\")": wf(9, 8, 6, 4, 2, 0),
        "WorkflowType = 'odd' AND ExecutionStatus = 'Failed'": wf(9),
        "WorkflowType = 'odd' and (ExecutionStatus = 'Running')": wf(7, 5, 3, 1),
        f"StartTime > '{stamp(7)}'": wf(9, 8),
        f"StartTime >= '{stamp(7)}'": wf(9, 8, 7),
        f"StartTime < '{stamp(2)}'": wf(1, 0),
        f"StartTime <= '{stamp(2)}'": wf(2, 1, 0),
        f"StartTime = '{stamp(2)}'": wf(2),
        f"StartTime BETWEEN '{stamp(2)}' AND '{stamp(4)}'": wf(4, 3, 2),
        f"CloseTime BETWEEN '{stamp(0)}' AND '{stamp(4)}'": wf(4, 2, 0),
        f"CloseTime >= {(START_MS + 6000) * 1_000_000}": wf(9, 8, 6),
        f"StartTime >= '{stamp(2)}' AND StartTime < '{stamp(4)}'": wf(3, 2),
        "WorkflowId = 'wf3' AND WorkflowId = 'wf4'": [],
        "ExecutionStatus = 'Running' AND ExecutionStatus = 'Failed'": [],
        "WorkflowId = 'it''s'": [],
    }
    for query, expected in cases.items():
        assert await listed(driver, query) == expected, query
        assert (await count(driver, query)).count == len(expected), query


async def test_counts_by_status(driver: Driver) -> None:
    await populate(driver)
    response = await count(driver, "GROUP BY ExecutionStatus")
    assert response.count == 10
    assert {group.group_values[0].data.decode(): group.count for group in response.groups} == {
        '"Running"': 4,
        '"Completed"': 5,
        '"Failed"': 1,
    }
    response = await count(driver, "WorkflowType = 'odd' GROUP BY ExecutionStatus")
    assert response.count == 5


async def test_a_listed_run_tells_about_itself(driver: Driver) -> None:
    memo = m.Memo(fields={"note": m.Payload(data=b"1")})
    run_id = await driver.start(memo=memo)
    await driver.step(complete_workflow())
    request = m.ListWorkflowExecutionsRequest(namespace="default")
    (info,) = (await driver.service.list_workflow_executions(request)).executions
    assert info.execution.run_id == run_id
    assert info.type.name == "flow"
    assert info.task_queue == "queue"
    assert info.status == m.WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_COMPLETED
    assert info.start_time.ToMilliseconds() == START_MS
    assert info.close_time.ToMilliseconds() == START_MS
    assert info.history_length == 5
    assert info.memo.fields["note"].data == b"1"


@pytest.mark.parametrize(
    "query",
    [
        "Colour = 'red'",
        "WorkflowId != 'x'",
        "WorkflowId = x",
        "WorkflowId",
        "WorkflowId = 'x' OR WorkflowId = 'y'",
        "ExecutionStatus = 'Dancing'",
        "ExecutionStatus = 77",
        "ExecutionStatus IN ()",
        "StartTime > 'yesterday'",
        "StartTime > '9999999999999999999999'",
        "StartTime BETWEEN '2024-01-01T00:00:00Z'",
        "ORDER BY StartTime",
        "GROUP BY WorkflowType",
        "AND",
        "WorkflowId = 'x' AND",
        "(WorkflowId = 'x'",
        "WorkflowId = 'x')",
        "WorkflowId = 'x'; DROP TABLE runs",
        "'unterminated",
        "x" * 10_000,
        " AND ".join(["WorkflowId = 'x'"] * 60),
    ],
)
async def test_filters_that_are_refused(driver: Driver, query: str) -> None:
    error = await refusal(listed(driver, query))
    assert error.code is StatusCode.INVALID_ARGUMENT
    assert "supported are" in error.message


async def test_a_list_is_not_grouped(driver: Driver) -> None:
    assert (await refusal(listed(driver, "GROUP BY ExecutionStatus"))).code is StatusCode.INVALID_ARGUMENT


async def test_a_page_token_belongs_to_its_filter(driver: Driver) -> None:
    await populate(driver)
    request = m.ListWorkflowExecutionsRequest(namespace="default", query="WorkflowType = 'odd'", page_size=2)
    request.next_page_token = (await driver.service.list_workflow_executions(request)).next_page_token
    request.query = ""
    assert (await refusal(driver.service.list_workflow_executions(request))).code is StatusCode.INVALID_ARGUMENT
    request.next_page_token = b"x" * 60
    assert (await refusal(driver.service.list_workflow_executions(request))).code is StatusCode.INVALID_ARGUMENT


async def test_namespaces_are_listed_apart(driver: Driver) -> None:
    await driver.service.register_namespace(m.RegisterNamespaceRequest(namespace="other"))
    await driver.start("mine")
    await driver.start("theirs", namespace="other")
    assert await listed(driver) == ["mine"]
