"""Listing and counting: filters, pages, groups, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime

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
    return datetime.fromtimestamp(START_MS / 1000 + second, UTC).isoformat()


def wf(*numbers: int) -> list[str]:
    return [f"wf{number}" for number in numbers]


OPEN = wf(7, 5, 3, 1)
CLOSED = wf(9, 8, 6, 4, 2, 0)


async def test_open_runs_first_then_the_last_closed_in_pages_of_any_size(driver: Driver) -> None:
    await populate(driver)
    for size in (0, 1, 3, 10, 11):
        assert await listed(driver, page_size=size) == OPEN + CLOSED


async def test_filters(driver: Driver) -> None:
    await populate(driver)
    run_id = (await driver.describe("wf3")).workflow_execution_info.execution.run_id
    cases = {
        "WorkflowId = 'wf3'": wf(3),
        'WorkflowId="wf3"': wf(3),
        "`WorkflowId` = 'wf3'": wf(3),
        f"RunId = '{run_id}'": wf(3),
        "WorkflowId != 'wf3'": wf(7, 5, 1, 9, 8, 6, 4, 2, 0),
        "WorkflowId IN ('wf3', 'wf4', 'absent')": wf(3, 4),
        "WorkflowId NOT IN ('wf3', 'wf4')": wf(7, 5, 1, 9, 8, 6, 2, 0),
        "WorkflowId STARTS_WITH 'wf' AND WorkflowId NOT STARTS_WITH 'wf3'": wf(7, 5, 1, 9, 8, 6, 4, 2, 0),
        "WorkflowId BETWEEN 'wf2' AND 'wf4'": wf(3, 4, 2),
        "WorkflowId > 'wf6' AND WorkflowId <= 'wf8'": wf(7, 8),
        "WorkflowType = 'odd'": wf(7, 5, 3, 1, 9),
        "TaskQueue = 'queue'": OPEN + CLOSED,
        "ExecutionStatus = 'Running'": OPEN,
        "ExecutionStatus != 'Running'": CLOSED,
        "ExecutionStatus = 'WORKFLOW_EXECUTION_STATUS_FAILED'": wf(9),
        "ExecutionStatus = 3": wf(9),
        "ExecutionStatus IN ('Failed', \"Completed\")": CLOSED,
        "WorkflowType = 'odd' AND ExecutionStatus = 'Failed'": wf(9),
        "WorkflowType = 'odd' and (ExecutionStatus = 'Running')": OPEN,
        "WorkflowType = 'even' OR ExecutionStatus = 'Failed'": CLOSED,
        "WorkflowId = 'wf1' OR WorkflowId = 'wf2' AND WorkflowType = 'odd'": wf(1),
        "(WorkflowId = 'wf1' OR WorkflowId = 'wf2') AND WorkflowType = 'even'": wf(2),
        "NOT WorkflowType = 'odd'": wf(8, 6, 4, 2, 0),
        "NOT (WorkflowType = 'odd' AND CloseTime IS NULL)": CLOSED,
        "CloseTime IS NULL": OPEN,
        "CloseTime IS NOT NULL": CLOSED,
        f"StartTime > '{stamp(7)}'": wf(9, 8),
        f"StartTime >= '{stamp(7)}'": wf(7, 9, 8),
        f"StartTime < '{stamp(2)}'": wf(1, 0),
        f"StartTime <= '{stamp(2)}'": wf(1, 2, 0),
        f"StartTime = '{stamp(2)}'": wf(2),
        f"StartTime BETWEEN '{stamp(2)}' AND '{stamp(4)}'": wf(3, 4, 2),
        f"StartTime NOT BETWEEN '{stamp(2)}' AND '{stamp(7)}'": wf(1, 9, 8, 0),
        f"CloseTime BETWEEN '{stamp(0)}' AND '{stamp(4)}'": wf(4, 2, 0),
        f"CloseTime >= {(START_MS + 6000) * 1_000_000}": wf(9, 8, 6),
        f"StartTime >= '{stamp(2)}' AND StartTime < '{stamp(4)}'": wf(3, 2),
        "StartTime > NOW() - 3s": wf(9, 8),
        "ExecutionDuration = 0": CLOSED,
        "ExecutionDuration < '1h30m'": CLOSED,
        "ExecutionDuration >= '00:00:01'": [],
        "HistoryLength >= 5 AND HistoryLength < 6.5": CLOSED,
        "HistorySizeBytes > 0": CLOSED,
        "StateTransitionCount > 0": CLOSED,
        "ParentWorkflowId IS NULL": OPEN + CLOSED,
        "RootWorkflowId = 'wf3'": wf(3),
        f"RootRunId != '{run_id}'": wf(7, 5, 1, 9, 8, 6, 4, 2, 0),
        "WorkflowId = 'wf3' AND WorkflowId = 'wf4'": [],
        "WorkflowId = 'it''s' OR WorkflowId = 'it\\'s'": [],
        "BuildIds = 'x' OR TemporalChangeVersion IS NOT NULL OR ChangeVersion = 'v1'": [],
        "ORDER BY StartTime": wf(*range(10)),
        "WorkflowType = 'odd' ORDER BY WorkflowId DESC": wf(9, 7, 5, 3, 1),
        "ORDER BY ExecutionStatus, StartTime DESC": wf(8, 6, 4, 2, 0, 9, 7, 5, 3, 1),
    }
    for query, expected in cases.items():
        assert await listed(driver, query) == expected, query
        assert await listed(driver, query, 3) == expected, query
        assert (await count(driver, query.partition("ORDER")[0])).count == len(expected), query


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


async def test_counts_by_type_and_other_keywords(driver: Driver) -> None:
    await populate(driver)
    for query, expected in {
        "GROUP BY WorkflowType": {'"even"': 5, '"odd"': 5},
        "ExecutionStatus = 'Failed' GROUP BY WorkflowType": {'"odd"': 1},
        "WorkflowId > 'wf7' GROUP BY TaskQueue": {'"queue"': 2},
        "WorkflowId > 'wf7' GROUP BY ExecutionStatus": {'"Completed"': 1, '"Failed"': 1},
        "WorkflowId = 'absent' GROUP BY ExecutionStatus": {},
    }.items():
        response = await count(driver, query)
        found = {group.group_values[0].data.decode(): group.count for group in response.groups}
        assert found == expected, query
        assert response.count == sum(expected.values())
        assert all(group.group_values[0].metadata["type"] == b"Keyword" for group in response.groups)


async def test_a_count_has_so_many_groups_at_most(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    await populate(driver)
    monkeypatch.setattr("perdure.engine.service.visibility.GROUPS", 9)
    error = await refusal(count(driver, "GROUP BY WorkflowId"))
    assert error.code is StatusCode.INVALID_ARGUMENT
    assert "more than 9 groups" in error.message


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
    ("query", "at", "expected"),
    [
        ("Colour = 'red'", 1, "invalid search attribute: Colour"),
        ("WorkflowID = 'x'", 1, "did you mean WorkflowId?"),
        ("WorkflowId = x", 14, "expected a value (a text stands in quotes)"),
        ("WorkflowId", 11, "it ends; expected BETWEEN, IN, IS, NOT, STARTS_WITH or a comparison"),
        ("WorkflowId = - 5", 14, "a text stands in quotes"),
        ("ExecutionStatus = 'Dancing'", 19, "a status is one of 'Running'"),
        ("ExecutionStatus = 77", 19, "a status is one of 'Running'"),
        ("ExecutionStatus > 'Running'", 1, "operator > is not supported"),
        ("ExecutionStatus IN ()", 21, "expected a value"),
        ("StartTime > 'yesterday'", 13, "an instant is like '2024-01-31T09:30:00Z'"),
        ("StartTime > '2024-13-01'", 13, "an instant is like"),
        ("StartTime STARTS_WITH '2024'", 1, "operator STARTS_WITH is not supported"),
        ("StartTime BETWEEN '2024-01-01T00:00:00Z'", 41, "it ends; expected AND"),
        ("HistoryLength = '5'", 17, "a number is written without quotes"),
        ("ExecutionDuration > 'long'", 21, "a duration is like '1h30m'"),
        ("GROUP BY StartTime", 10, "'GROUP BY' clause is not supported for search attribute StartTime"),
        ("GROUP BY ExecutionStatus, WorkflowType", 27, "only a single field"),
        ("ORDER BY RootRunId", 10, "unable to sort by search attribute RootRunId"),
        ("AND", 4, "it ends; expected"),
        ("WorkflowId = 'x' AND", 21, "it ends; expected '(', NOT or a search attribute"),
        ("(WorkflowId = 'x'", 18, "it ends; expected ')'"),
        ("WorkflowId = 'x')", 17, "unexpected ')'; expected"),
        ("WorkflowId = 'x'; DROP TABLE runs", 17, "unexpected '; DROP TABLE runs'"),
        ("WorkflowId = 'x' LIMIT 5", 18, "unexpected 'LIMIT'"),
        ("'unterminated", 1, 'unexpected "\'unterminated"'),
        ("HistoryLength = 1" + "0" * 5000, None, "too many digits"),
        ("x" * 20_000, None, "longer than 16384 characters"),
        ("NOT " * 101 + "WorkflowId = 'x'", None, "nested more than 100 deep"),
        (" AND ".join(["RunId = 'x'"] * 501), 8001, "more than 500 conditions"),
        (f"WorkflowId IN ({','.join(['0'] * 2001)})", 1, "more than 2000 values"),
        ("ORDER BY " + ", ".join(["StartTime"] * 6), 65, "orders by more than 5 search attributes"),
    ],
)
async def test_filters_that_are_refused(driver: Driver, query: str, at: int | None, expected: str) -> None:
    error = await refusal(count(driver, query))
    assert error.code is StatusCode.INVALID_ARGUMENT
    place = "" if at is None else f" at position {at}"
    assert error.message.startswith(f"invalid list filter{place}: "), error.message
    assert expected in error.message


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


def start_filter(low_s: int | None = None, high_s: int | None = None) -> m.StartTimeFilter:
    found = m.StartTimeFilter()
    if low_s is not None:
        found.earliest_time.FromMilliseconds(START_MS + low_s * 1000)
    if high_s is not None:
        found.latest_time.FromMilliseconds(START_MS + high_s * 1000)
    return found


async def open_runs(driver: Driver, size: int = 2, **fields: object) -> list[str]:
    request = m.ListOpenWorkflowExecutionsRequest(namespace="default", maximum_page_size=size, **fields)  # type: ignore[arg-type]
    found: list[str] = []
    while True:
        response = await driver.service.list_open_workflow_executions(request)
        found += [info.execution.workflow_id for info in response.executions]
        request.next_page_token = response.next_page_token
        if not response.next_page_token:
            return found


async def closed_runs(driver: Driver, size: int = 2, **fields: object) -> list[str]:
    request = m.ListClosedWorkflowExecutionsRequest(namespace="default", maximum_page_size=size, **fields)  # type: ignore[arg-type]
    found: list[str] = []
    while True:
        response = await driver.service.list_closed_workflow_executions(request)
        found += [info.execution.workflow_id for info in response.executions]
        request.next_page_token = response.next_page_token
        if not response.next_page_token:
            return found


async def test_open_and_closed_runs_are_listed_by_simple_filters(driver: Driver) -> None:
    await populate(driver)
    failed = m.StatusFilter(status=m.WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_FAILED)
    one = m.WorkflowExecutionFilter(workflow_id="wf3")
    assert await open_runs(driver) == OPEN
    assert await open_runs(driver, execution_filter=one) == wf(3)
    assert await open_runs(driver, type_filter=m.WorkflowTypeFilter(name="even")) == []
    assert await open_runs(driver, start_time_filter=start_filter(3, 6)) == wf(5, 3)
    assert await closed_runs(driver) == CLOSED
    assert await closed_runs(driver, status_filter=failed) == wf(9)
    assert await closed_runs(driver, execution_filter=one) == []
    assert await closed_runs(driver, start_time_filter=start_filter(high_s=4)) == wf(4, 2, 0)


async def test_simple_filters_that_are_refused(driver: Driver) -> None:
    running = m.StatusFilter(status=m.WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_RUNNING)
    for call in (
        closed_runs(driver, status_filter=running),
        closed_runs(driver, status_filter=m.StatusFilter()),
        open_runs(driver, start_time_filter=start_filter(5, 4)),
    ):
        assert (await refusal(call)).code is StatusCode.INVALID_ARGUMENT


async def test_a_scan_is_in_the_order_of_starts(driver: Driver) -> None:
    await populate(driver)
    request = m.ScanWorkflowExecutionsRequest(namespace="default", page_size=3)
    found: list[str] = []
    while True:
        response = await driver.service.scan_workflow_executions(request)
        found += [info.execution.workflow_id for info in response.executions]
        request.next_page_token = response.next_page_token
        if not response.next_page_token:
            break
        if len(found) == 3:
            await driver.terminate("wf1")
    assert found == wf(*range(9, -1, -1))
