"""The decorators: what they accept, what they refuse, and what the rest of the SDK reads from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from perdure import activity, workflow
from perdure.common import RawValue
from perdure.exceptions import ApplicationError, DefinitionError
from perdure.replay.definition import REGISTRY, HandlerDefinition, WorkflowDefinition
from tests.replay.support import Scenario


@dataclass
class Item:
    name: str


@activity.defn(start_to_close_timeout=timedelta(seconds=1))
async def look(item: Item) -> Item:
    return item


class Lab:
    @activity.defn(start_to_close_timeout=timedelta(seconds=1))
    async def measure(self, item: Item) -> int:
        return 1


@workflow.defn
async def of_a_function(item: Item, count: int = 1) -> list[Item]:
    return [item] * count


@workflow.defn(name="Other.Name")
class OfAClass:
    @workflow.run
    async def run(self, item: Item) -> Item:
        return item

    @workflow.signal(name="go", description="starts it")
    def proceed(self, item: Item) -> None: ...

    @workflow.query
    def state(self) -> str:
        return ""


def test_a_function() -> None:
    definition = WorkflowDefinition.must_be(of_a_function)
    assert definition.name == "of_a_function" and definition.cls is None
    assert definition.arg_types == (Item, int) and definition.return_type == list[Item]
    assert (definition.signature.minimum, definition.signature.maximum) == (1, 2)
    assert definition in REGISTRY.workflows()
    assert f"{__file__}:" in definition.location


def test_a_class() -> None:
    definition = WorkflowDefinition.must_be(OfAClass)
    assert WorkflowDefinition.of(OfAClass.run) is definition
    assert definition.name == "Other.Name" and definition.cls is OfAClass
    assert definition.arg_types == (Item,) and definition.return_type is Item
    assert set(definition.signals) == {"go"} and set(definition.queries) == {"state"}
    handler = HandlerDefinition.of(OfAClass.proceed)
    assert handler is definition.signals["go"]
    assert handler.signature.arg_types == (Item,) and handler.description == "starts it"
    assert HandlerDefinition.of(OfAClass().state) is definition.queries["state"]


def test_types_local_to_a_function_are_found() -> None:
    @dataclass
    class Local:
        value: int

    @workflow.defn
    class Uses:
        @workflow.run
        async def run(self, local: Local) -> Local:
            return local

        @workflow.signal
        def take(self, local: Local) -> None: ...

    definition = WorkflowDefinition.must_be(Uses)
    assert definition.arg_types == (Local,) and definition.return_type is Local
    assert definition.signals["take"].signature.arg_types == (Local,)


def test_types_defined_later_are_found_later() -> None:
    @workflow.defn
    async def early(value: Later) -> None: ...

    assert WorkflowDefinition.must_be(early).arg_types == (Later,)


class Later:
    pass


def test_types_that_are_nowhere() -> None:
    @workflow.defn
    async def lost(value: Nowhere) -> None: ...  # noqa: F821 - that is the point

    with pytest.raises(DefinitionError, match=r"type hint of .*lost.*Nowhere"):
        _ = WorkflowDefinition.must_be(lost).arg_types


def test_subclasses_are_decorated_on_their_own() -> None:
    class Plain(OfAClass):
        pass

    assert WorkflowDefinition.of(Plain) is None

    with pytest.raises(DefinitionError, match="inherited"):
        workflow.defn(Plain)

    @workflow.defn
    class Derived(OfAClass):
        @workflow.run
        async def run(self, item: Item) -> Item:
            return item

    definition = WorkflowDefinition.must_be(Derived)
    assert definition.name == "Derived" and set(definition.signals) == {"go"}

    with pytest.raises(DefinitionError, match="overrides a decorated method"):

        @workflow.defn
        class Careless(OfAClass):
            @workflow.run
            async def run(self, item: Item) -> Item:
                return item

            def state(self) -> str:
                return "undecorated"


def test_refusals() -> None:
    with pytest.raises(DefinitionError, match="no run method"):

        @workflow.defn
        class Empty:
            pass

    with pytest.raises(DefinitionError, match="not async"):

        class Sync:
            @workflow.run
            def run(self) -> None: ...

    with pytest.raises(DefinitionError, match="neither"):
        workflow.defn(lambda: None)

    with pytest.raises(DefinitionError, match="two run methods"):

        @workflow.defn
        class Two:
            @workflow.run
            async def one(self) -> None: ...

            @workflow.run
            async def two(self) -> None: ...

    with pytest.raises(DefinitionError, match="two handlers of signal 'go'"):

        @workflow.defn
        class Twice:
            @workflow.run
            async def run(self) -> None: ...

            @workflow.signal(name="go")
            def one(self) -> None: ...

            @workflow.signal(name="go")
            def two(self) -> None: ...

    with pytest.raises(DefinitionError, match="keyword-only"):

        @workflow.defn
        async def keywords(*, a: int) -> None: ...

    with pytest.raises(DefinitionError, match="twice"):
        workflow.defn(workflow.defn(_again))

    with pytest.raises(DefinitionError, match="__init__ only"):
        workflow.init(lambda self: None)

    with pytest.raises(DefinitionError, match=r"takes the run method's parameters"):

        @workflow.defn
        class Unequal:
            @workflow.init
            def __init__(self) -> None: ...

            @workflow.run
            async def run(self, a: int) -> None: ...

    with pytest.raises(DefinitionError, match="dynamic"):
        workflow.defn(name="x", dynamic=True)(_again)
    with pytest.raises(DefinitionError, match="name and a sequence"):

        @workflow.signal(dynamic=True)
        def wrong(self: Any) -> None: ...

    with pytest.raises(DefinitionError, match="is not a workflow"):
        WorkflowDefinition.must_be(_again_plain)


async def _again() -> None: ...


async def _again_plain() -> None: ...


def test_wrong_calls_are_errors_in_the_code() -> None:
    @workflow.defn
    async def code() -> list[str]:
        said: list[str] = []
        attempts: list[Any] = [
            lambda: workflow.execute_activity(look),  # no argument
            lambda: workflow.execute_activity(look, Item("a"), args=[Item("b")]),
            lambda: workflow.execute_activity(_again_plain),
            lambda: workflow.execute_child_workflow(_again_plain),
            lambda: workflow.execute_child_workflow(of_a_function),
            lambda: workflow.get_external_workflow_handle("x").signal(OfAClass.proceed),
            lambda: workflow.get_external_workflow_handle("x").signal(OfAClass.state),
            lambda: look(),
        ]
        for attempt in attempts:
            try:
                await attempt()
            except TypeError as error:
                said.append(type(error).__name__)
        return said

    wrong, undecorated = "TypeError", "DefinitionError"
    expected = [wrong, wrong, undecorated, undecorated, wrong, wrong, undecorated, wrong]
    assert Scenario(code).task() == [f"complete {expected}"]


def test_activities_by_reference_by_name_and_as_methods() -> None:
    @workflow.defn
    async def code() -> list[object]:
        one = await look(Item("a"))
        two = await workflow.execute_activity(look, Item("b"), start_to_close_timeout=timedelta(seconds=9))
        three = await workflow.execute_activity(
            "look", Item("c"), result_type=Item, start_to_close_timeout=timedelta(seconds=9)
        )
        four = await workflow.execute_activity_method(Lab.measure, Item("d"))
        assert isinstance(one, Item) and isinstance(two, Item) and isinstance(three, Item)
        return [one.name, two.name, three.name, four]

    scenario = Scenario(code)
    for number, (name, value) in enumerate(
        [("look", Item("1")), ("look", Item("2")), ("look", Item("3")), ("measure", 4)], 1
    ):
        assert scenario.task() == [f"activity {number} {name}"]
        scenario.complete(str(number), value)
    assert scenario.task() == ["complete ['1', '2', '3', 4]"]
    scenario.check_laws()


def test_a_dynamic_workflow_runs_any_type() -> None:
    @workflow.defn(dynamic=True)
    async def anything(args: Sequence[RawValue]) -> list[object]:
        info = workflow.info()
        return [info.workflow_type, [workflow.payload_converter().from_payload(arg.payload) for arg in args]]

    assert WorkflowDefinition.must_be(anything).name is None
    scenario = Scenario(anything, 1, "two")
    assert scenario.task() == ["complete ['dynamic', [1, 'two']]"]
    scenario.check_laws()


def test_failure_exception_types() -> None:
    from perdure.exceptions import ForbiddenCallError

    @workflow.defn(failure_exception_types=[ForbiddenCallError])
    async def code() -> None:
        raise ForbiddenCallError("x", "y")

    (command,) = Scenario(code).task()
    assert command.startswith("fail x may not be used")


def test_an_application_error_travels_whole() -> None:
    @workflow.defn
    async def code() -> None:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ApplicationError("outer", 1, "two", type="Kind", non_retryable=True) from error

    scenario = Scenario(code)
    assert scenario.task() == ["fail outer"]
    assert scenario.outcome is not None
    failure = scenario.outcome.commands[0].fail_workflow_execution_command_attributes.failure
    assert failure.application_failure_info.type == "Kind" and failure.application_failure_info.non_retryable
    assert failure.cause.application_failure_info.type == "KeyError"
    assert "test_authoring.py" in failure.stack_trace
