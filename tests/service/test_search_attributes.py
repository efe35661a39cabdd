"""Search attributes of runs: set at the start, changed by the workflow, carried on, shown, filtered by, and refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from perdure.api import StatusCode
from perdure.api import messages as m
from tests.service.support import (
    Driver,
    complete_workflow,
    continue_as_new,
    fail_workflow,
    refusal,
    start_child,
)

TYPES = {"Text": 1, "Keyword": 2, "Int": 3, "Double": 4, "Bool": 5, "Datetime": 6, "KeywordList": 7}
"""Each attribute of these tests has the name of its type."""
VALUES: dict[str, Any] = {
    "Text": "Late, and blue",
    "Keyword": "red",
    "Int": -5,
    "Double": 2.5,
    "Bool": True,
    "Datetime": "2024-03-01T12:00:00.123456+02:00",
    "KeywordList": ["a", "b"],
}
BAD_SEARCH = m.WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_BAD_SEARCH_ATTRIBUTES


@pytest.fixture(autouse=True)
async def attributes(driver: Driver) -> None:
    types = {name: m.IndexedValueType.ValueType(number) for name, number in TYPES.items()}
    request = m.AddSearchAttributesRequest(namespace="default", search_attributes=types)
    await driver.service.add_search_attributes(request)


def given(**values: Any) -> m.SearchAttributes:
    """Search attributes as a client sends them: JSON without a type."""
    found = m.SearchAttributes()
    for name, value in values.items():
        found.indexed_fields[name].data = b"" if value is None else json.dumps(value).encode()
        found.indexed_fields[name].metadata["encoding"] = b"binary/null" if value is None else b"json/plain"
    return found


def upsert(**values: Any) -> m.Command:
    command = m.Command(command_type=m.CommandType.COMMAND_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES)
    command.upsert_workflow_search_attributes_command_attributes.search_attributes.CopyFrom(given(**values))
    return command


def modify_memo(**values: Any) -> m.Command:
    command = m.Command(command_type=m.CommandType.COMMAND_TYPE_MODIFY_WORKFLOW_PROPERTIES)
    fields = command.modify_workflow_properties_command_attributes.upserted_memo.fields
    for name, payload in given(**values).indexed_fields.items():
        fields[name].CopyFrom(payload)
    return command


def read(attributes: m.SearchAttributes) -> dict[str, Any]:
    """What attributes say; each has its type."""
    for name, payload in attributes.indexed_fields.items():
        assert payload.metadata["type"] == name.encode(), name
    return {name: json.loads(payload.data) for name, payload in attributes.indexed_fields.items()}


async def shown(driver: Driver, workflow_id: str = "wf") -> dict[str, Any]:
    """The attributes of a run as describe and list show them."""
    described = read((await driver.describe(workflow_id)).workflow_execution_info.search_attributes)
    run_id = (await driver.describe(workflow_id)).workflow_execution_info.execution.run_id
    request = m.ListWorkflowExecutionsRequest(namespace="default", query=f"RunId = '{run_id}'")
    (info,) = (await driver.service.list_workflow_executions(request)).executions
    assert read(info.search_attributes) == described
    return described


async def found(driver: Driver, query: str) -> list[str]:
    """Workflow ids, oldest start first."""
    request = m.ListWorkflowExecutionsRequest(namespace="default", query=f"{query} ORDER BY StartTime")
    executions = (await driver.service.list_workflow_executions(request)).executions
    count = m.CountWorkflowExecutionsRequest(namespace="default", query=query)
    assert (await driver.service.count_workflow_executions(count)).count == len(executions)
    return [info.execution.workflow_id for info in executions]


async def test_every_type_is_stored_typed_shown_and_found(driver: Driver) -> None:
    await driver.start(search_attributes=given(**VALUES))
    await driver.start("other")
    assert await shown(driver) == VALUES
    started = (await driver.history())[0].workflow_execution_started_event_attributes
    assert read(started.search_attributes) == VALUES
    for query in (
        "Text = 'blue'",
        "Text = 'BLUE green'",
        "Keyword = 'red'",
        "Keyword STARTS_WITH 're' AND Keyword > 'a' AND Keyword BETWEEN 'rea' AND 'red'",
        "Int = -5",
        "Int < 0 AND Int >= -5.5",
        "Double = 2.5",
        "Double > 2 AND Double <= 25e-1",
        "Bool = true",
        "Bool != false",
        "Datetime = '2024-03-01T10:00:00.123456Z'",
        "Datetime > '2024-03-01' AND Datetime < 1709287200123457000",
        "KeywordList = 'b'",
        "KeywordList IN ('x', 'a')",
        "Keyword = 'blue' OR Int = -5",
    ):
        expected = ["wf", "other"] if "!=" in query else ["wf"]
        assert await found(driver, query) == expected, query
    for query in ("Text = 'lat'", "Keyword = 'r'", "Int > 0", "Double < 2.5", "Bool = false", "KeywordList = 'c'"):
        assert await found(driver, query) == [], query
    for name in TYPES:
        assert await found(driver, f"{name} IS NULL") == ["other"]
        assert await found(driver, f"{name} IS NOT NULL") == ["wf"]


async def test_an_upsert_changes_adds_and_removes(driver: Driver) -> None:
    await driver.start(search_attributes=given(Keyword="red", Int=1, KeywordList=["a", "b"]))
    await driver.step(upsert(Keyword="blue", Int=None, Bool=False), upsert(KeywordList=[]))
    assert await shown(driver) == {"Keyword": "blue", "Bool": False}
    assert await found(driver, "Keyword = 'blue' AND Bool = false") == ["wf"]
    assert await found(driver, "Keyword = 'red' OR Int = 1 OR KeywordList = 'a'") == []
    events = [
        event
        for event in await driver.history()
        if event.HasField("upsert_workflow_search_attributes_event_attributes")
    ]
    first = events[0].upsert_workflow_search_attributes_event_attributes
    assert set(first.search_attributes.indexed_fields) == {"Keyword", "Int", "Bool"}
    assert first.search_attributes.indexed_fields["Int"].metadata["type"] == b"Int"
    await driver.signal()
    await driver.step(complete_workflow())
    assert await shown(driver) == {"Keyword": "blue", "Bool": False}
    assert await found(driver, "ExecutionStatus = 'Completed' AND Keyword = 'blue'") == ["wf"]


async def test_a_memo_is_changed_by_its_workflow(driver: Driver) -> None:
    memo = m.Memo(fields=dict(given(a=1, b=2).indexed_fields))
    await driver.start(memo=memo)
    await driver.step(modify_memo(a=3, b=None, c="new"))
    info = (await driver.describe()).workflow_execution_info
    assert {name: json.loads(payload.data) for name, payload in info.memo.fields.items()} == {"a": 3, "c": "new"}
    request = m.ListWorkflowExecutionsRequest(namespace="default")
    (listed,) = (await driver.service.list_workflow_executions(request)).executions
    assert listed.memo == info.memo


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"Colour": "red"}, "Namespace default has no mapping defined for search attribute Colour"),
        ({"WorkflowId": "x"}, "WorkflowId attribute can't be set in SearchAttributes"),
        ({"Int": "5"}, 'invalid value for search attribute Int of type Int: "5"'),
        ({"Int": 2.5}, "invalid value for search attribute Int of type Int: 2.5"),
        ({"Int": 2**63}, "invalid value for search attribute Int of type Int"),
        ({"Int": True}, "invalid value for search attribute Int of type Int"),
        ({"Double": "x"}, "of type Double"),
        ({"Double": float("nan")}, "of type Double"),
        ({"Bool": 1}, "of type Bool"),
        ({"Datetime": "yesterday"}, "of type Datetime"),
        ({"Datetime": 5}, "of type Datetime"),
        ({"Keyword": 5}, "of type Keyword"),
        ({"KeywordList": [1]}, "of type KeywordList"),
        ({"Text": {"a": 1}}, "of type Text"),
        ({"Keyword": "\ud800"}, "of type Keyword"),
        ({"Keyword": "x" * 2047}, "search attribute Keyword value size 2049 exceeds size limit 2048"),
        ({f"A{number}": 1 for number in range(101)}, "number of search attributes 101 exceeds limit 100"),
    ],
    ids=lambda value: "-".join(value)[:30] if isinstance(value, dict) else None,
)
async def test_attributes_that_can_not_be_set(driver: Driver, values: dict[str, Any], expected: str) -> None:
    error = await refusal(driver.start(search_attributes=given(**values)))
    assert error.code is StatusCode.INVALID_ARGUMENT
    assert expected in error.message
    await driver.start()
    task = await driver.poll()
    for command in (upsert(**values), _with(continue_as_new(), values), _with(start_child("child"), values)):
        error = await refusal(driver.complete(task, command))
        assert error.code is StatusCode.INVALID_ARGUMENT
        assert expected in error.message
        driver.clock.advance_by(120_000)
        task = await driver.poll()
    failed = [event for event in await driver.history() if event.HasField("workflow_task_failed_event_attributes")]
    assert failed[0].workflow_task_failed_event_attributes.cause == BAD_SEARCH
    assert await shown(driver) == {}


def _with(command: m.Command, values: dict[str, Any]) -> m.Command:
    """The same command with search attributes."""
    (_, about), *_ = [entry for entry in command.ListFields() if entry[0].message_type is not None]
    about.search_attributes.CopyFrom(given(**values))
    return command


async def test_values_of_the_largest_size_are_taken(driver: Driver) -> None:
    await driver.start(search_attributes=given(Keyword="x" * 2046))
    assert await found(driver, "Keyword STARTS_WITH 'xxx'") == ["wf"]
    words = {"Text": "w" * 2046, "Keyword": "x" * 2046}
    await driver.start("second", search_attributes=given(**words))
    assert (await refusal(driver.start("third", search_attributes=given(Keyword="x" * 2047)))).code is (
        StatusCode.INVALID_ARGUMENT
    )


async def test_a_list_given_to_another_type_has_all_its_values(driver: Driver) -> None:
    await driver.start(search_attributes=given(Keyword=["red", "blue"], Int=[1]))
    assert await found(driver, "Keyword = 'blue' AND Keyword = 'red' AND Int = 1") == ["wf"]


async def test_predefined_attributes_may_be_set_and_divisions_are_listed_apart(driver: Driver) -> None:
    await driver.start(search_attributes=given(BuildIds=["b1"], BatcherUser="me"))
    await driver.start("apart", search_attributes=given(TemporalNamespaceDivision="batch"))
    assert await found(driver, "BuildIds = 'b1' AND BatcherUser = 'me'") == ["wf"]
    assert await found(driver, "ExecutionStatus = 'Running'") == ["wf"]
    assert await found(driver, "TemporalNamespaceDivision = 'batch'") == ["apart"]
    assert await found(driver, "NamespaceDivision IS NULL OR NamespaceDivision IS NOT NULL") == ["wf", "apart"]
    count = m.CountWorkflowExecutionsRequest(namespace="default")
    assert (await driver.service.count_workflow_executions(count)).count == 1
    opened = await driver.service.list_open_workflow_executions(
        m.ListOpenWorkflowExecutionsRequest(namespace="default")
    )
    assert [info.execution.workflow_id for info in opened.executions] == ["wf"]


async def test_attributes_go_with_a_run_that_continues_as_new(driver: Driver) -> None:
    await driver.start(search_attributes=given(Keyword="red", Int=1))
    await driver.step(upsert(Int=2), continue_as_new())
    assert await shown(driver) == {"Keyword": "red", "Int": 2}
    await driver.step(_with(continue_as_new(), {"Keyword": "blue"}))
    assert await shown(driver) == {"Keyword": "blue"}
    assert await found(driver, "Keyword = 'red'") == ["wf", "wf"]
    assert await found(driver, "Keyword = 'blue' AND ExecutionStatus = 'Running'") == ["wf"]


async def test_a_retried_run_begins_with_those_of_the_start(driver: Driver) -> None:
    policy = m.RetryPolicy(maximum_attempts=2)
    policy.initial_interval.FromSeconds(1)
    await driver.start(search_attributes=given(Keyword="red"), retry_policy=policy)
    await driver.step(upsert(Keyword="blue"), fail_workflow())
    assert await shown(driver) == {"Keyword": "red"}
    assert await found(driver, "Keyword = 'blue' AND ExecutionStatus = 'Failed'") == ["wf"]


async def test_a_child_has_its_own_and_is_found_by_its_parent(driver: Driver) -> None:
    run_id = await driver.start("parent", search_attributes=given(Keyword="red"))
    await driver.step(_with(start_child("child"), {"Keyword": "blue"}))
    await driver.rest()
    assert await shown(driver, "child") == {"Keyword": "blue"}
    for query, expected in {
        "ParentWorkflowId = 'parent'": ["child"],
        f"ParentRunId = '{run_id}'": ["child"],
        "ParentWorkflowId IS NULL": ["parent"],
        "RootWorkflowId = 'parent'": ["parent", "child"],
        f"RootRunId IN ('{run_id}')": ["parent", "child"],
        "RootWorkflowId = 'child'": [],
        "RootWorkflowId != 'parent' OR RootWorkflowId IS NULL": [],
        "RootWorkflowId IS NOT NULL": ["parent", "child"],
    }.items():
        assert await found(driver, query) == expected, query


async def test_a_removed_attribute_is_neither_shown_nor_known_until_it_is_back(driver: Driver) -> None:
    await driver.start(search_attributes=given(Keyword="red", Int=1))
    request = m.RemoveSearchAttributesRequest(namespace="default", search_attributes=["Keyword"])
    await driver.service.remove_search_attributes(request)
    assert await shown(driver) == {"Int": 1}
    assert (await refusal(found(driver, "Keyword = 'red'"))).code is StatusCode.INVALID_ARGUMENT
    assert (await refusal(driver.start("b", search_attributes=given(Keyword="x")))).code is StatusCode.INVALID_ARGUMENT
    back = m.AddSearchAttributesRequest(namespace="default")
    back.search_attributes["Keyword"] = m.IndexedValueType.INDEXED_VALUE_TYPE_INT
    await driver.service.add_search_attributes(back)
    assert await found(driver, "Keyword IS NOT NULL") == []
    await driver.service.remove_search_attributes(request)
    back.search_attributes["Keyword"] = m.IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
    await driver.service.add_search_attributes(back)
    assert await found(driver, "Keyword = 'red'") == ["wf"]


async def test_counts_by_an_attribute(driver: Driver) -> None:
    for number, colour in enumerate(["red", "blue", "red"]):
        await driver.start(f"wf{number}", search_attributes=given(Keyword=colour, Bool=number == 0))
    await driver.start("none")
    for name, expected in {"Keyword": {'"blue"': 1, '"red"': 2}, "Bool": {"false": 2, "true": 1}}.items():
        request = m.CountWorkflowExecutionsRequest(namespace="default", query=f"GROUP BY {name}")
        groups = (await driver.service.count_workflow_executions(request)).groups
        assert {group.group_values[0].data.decode(): group.count for group in groups} == expected
        assert all(group.group_values[0].metadata["type"] == name.encode() for group in groups)
