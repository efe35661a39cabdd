"""What a run knows of itself, and what it tells people about itself and its children."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure import workflow
from perdure.api import messages as m
from perdure.common import Priority, SearchAttributeKey
from perdure.exceptions import ReadOnlyContextError
from tests.replay.support import CONVERTER, Scenario, payloads

CITY = SearchAttributeKey.for_keyword("City")


@workflow.defn(name="Told")
class Told:
    @workflow.run
    async def run(self) -> None:
        workflow.set_current_details("waiting for **Ada**")
        workflow.set_signal_handler("late", print)
        await asyncio.sleep(100)

    @workflow.signal(description="say yes")
    def approve(self) -> None: ...

    @workflow.query(description="how it stands")
    def status(self) -> str:
        return workflow.get_current_details()

    @workflow.query
    def cheat(self) -> None:
        workflow.set_current_details("other")

    @workflow.update(description="another limit")
    def change(self, limit: int) -> None: ...

    @workflow.update(dynamic=True)
    def other(self, name: str, args: Any) -> None: ...


def test_a_run_lists_its_handlers_and_shows_the_details_it_has_set() -> None:
    scenario = Scenario(Told)
    asked = {name: m.WorkflowQuery(query_type=name, query_args=payloads()) for name in ("status", "cheat")}
    asked["metadata"] = m.WorkflowQuery(query_type="__temporal_workflow_metadata", query_args=payloads())
    scenario.task(queries=asked)
    results: Any = scenario.outcome.query_results  # pyright: ignore
    assert CONVERTER.from_payload(results["status"].answer.payloads[0]) == "waiting for **Ada**"
    assert results["cheat"].failure.application_failure_info.type == ReadOnlyContextError.__name__
    metadata = CONVERTER.from_payload(results["metadata"].answer.payloads[0], m.WorkflowMetadata)
    assert metadata.current_details == "waiting for **Ada**"
    definition = metadata.definition
    assert definition.type == "Told"
    assert [(one.name, one.description) for one in definition.signal_definitions] == [
        ("approve", "say yes"),
        ("late", ""),
    ]
    assert [one.name for one in definition.query_definitions] == [
        "cheat",
        "status",
        "__stack_trace",
        "__temporal_workflow_metadata",
    ]
    assert [(one.name, one.description) for one in definition.update_definitions] == [
        ("", ""),
        ("change", "another limit"),
    ]


def test_a_run_knows_its_priority_and_its_attributes_of_now() -> None:
    @workflow.defn
    async def asks() -> list[Any]:
        info = workflow.info()
        before = len(info.typed_search_attributes)
        workflow.upsert_search_attributes([CITY.value_set("Oslo")])
        assert workflow.info() is info
        return [info.priority.priority_key, info.priority.fairness_key, before, info.typed_search_attributes[CITY]]

    scenario = Scenario(asks)
    priority = scenario.events[0].workflow_execution_started_event_attributes.priority
    priority.priority_key, priority.fairness_key = 2, "tenant"
    assert scenario.task() == ["search attributes", "complete [2, 'tenant', 0, 'Oslo']"]


def test_a_run_without_a_priority_has_the_default() -> None:
    @workflow.defn
    async def asks() -> bool:
        return workflow.info().priority == Priority()

    assert Scenario(asks).task() == ["complete True"]


def test_a_child_has_words_for_people_and_a_priority() -> None:
    @workflow.defn
    async def parent() -> None:
        await workflow.execute_child_workflow(
            "child", static_summary="in short", static_details="at length", priority=Priority(priority_key=1)
        )

    scenario = Scenario(parent)
    scenario.task()
    command = m.Command.FromString(scenario.tasks[0][1][0])
    assert CONVERTER.from_payload(command.user_metadata.summary) == "in short"
    assert CONVERTER.from_payload(command.user_metadata.details) == "at length"
    assert command.start_child_workflow_execution_command_attributes.priority.priority_key == 1


@pytest.mark.parametrize(("key", "error"), [(0, ValueError), (-1, ValueError), ("1", TypeError), (True, TypeError)])
def test_a_priority_begins_at_one(key: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="priority_key"):
        Priority(priority_key=key)
