"""Signals, queries, cancellation: what reaches a workflow from outside."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from perdure import activity, workflow
from perdure.api import messages as m
from perdure.common import RawValue
from perdure.exceptions import DefinitionError
from tests.replay.support import CONVERTER, E, Scenario, payloads


@activity.defn(start_to_close_timeout=timedelta(seconds=10))
async def ship(order_id: str) -> int:
    return 1


@workflow.defn
class Basket:
    def __init__(self) -> None:
        self.items: list[str] = []
        self.closed = False

    @workflow.run
    async def run(self) -> list[str]:
        await workflow.wait_condition(lambda: self.closed)
        return self.items

    @workflow.signal
    def add(self, item: str) -> None:
        self.items.append(item)

    @workflow.signal(name="bye")
    async def finish(self) -> None:
        await ship("all")
        self.closed = True

    @workflow.query
    def count(self, at_least: int = 0) -> int:
        return max(at_least, len(self.items))

    @workflow.query
    def breaks(self) -> int:
        raise KeyError("missing")

    @workflow.query
    def cheats(self) -> int:
        asyncio.get_running_loop().create_task(asyncio.sleep(1))
        return 1


def query(name: str, *args: Any) -> m.WorkflowQuery:
    return m.WorkflowQuery(query_type=name, query_args=payloads(*args))


def test_signals_before_the_first_task_reach_their_handlers_first() -> None:
    @workflow.defn
    class Eager(Basket):
        @workflow.run
        async def run(self) -> list[str]:
            return self.items

    scenario = Scenario(Eager)
    scenario.signal("add", "a")
    scenario.signal("add", "b")
    assert scenario.task() == ["complete ['a', 'b']"]
    scenario.check_laws()


def test_signals_run_before_the_code_that_the_same_task_wakes() -> None:
    @workflow.defn
    class Watch:
        def __init__(self) -> None:
            self.seen: list[str] = []

        @workflow.run
        async def run(self) -> list[str]:
            await ship("x")
            return self.seen

        @workflow.signal
        def note(self, what: str) -> None:
            self.seen.append(what)

    scenario = Scenario(Watch)
    scenario.task()
    scenario.complete("1", 1)
    scenario.signal("note", "later")
    assert scenario.task() == ["complete ['later']"]
    scenario.check_laws()


def test_an_async_handler_works_on_beside_the_run_method() -> None:
    scenario = Scenario(Basket)
    assert scenario.task() == []
    scenario.signal("add", "a")
    scenario.signal("bye")
    assert scenario.task() == ["activity 1 ship"]
    scenario.complete("1", 1)
    assert scenario.task() == ["complete ['a']"]
    scenario.check_laws()


def test_unhandled_signals_wait_for_a_handler() -> None:
    @workflow.defn
    async def code() -> list[str]:
        seen: list[str] = []
        await workflow.sleep(1)

        @workflow.signal
        def note(what: str) -> None:
            seen.append(what)

        assert workflow.get_signal_handler("note") is note
        await workflow.wait_condition(lambda: len(seen) == 2)
        workflow.set_signal_handler("note", None)
        return seen

    scenario = Scenario(code)
    scenario.signal("note", "a")
    scenario.task()
    scenario.signal("note", "b")
    assert scenario.task() == []
    scenario.fire("1")
    assert scenario.task() == ["complete ['a', 'b']"]
    scenario.check_laws()


def test_dynamic_handlers_take_what_nobody_else_does() -> None:
    @workflow.defn
    class Anything:
        def __init__(self) -> None:
            self.seen: list[object] = []

        @workflow.run
        async def run(self) -> list[object]:
            await workflow.wait_condition(lambda: len(self.seen) == 2)
            return self.seen

        @workflow.signal
        def known(self, what: int) -> None:
            self.seen.append(what)

        @workflow.signal(dynamic=True)
        def other(self, name: str, args: Sequence[RawValue]) -> None:
            self.seen.append([name, *(workflow.payload_converter().from_payload(a.payload) for a in args)])

        @workflow.query(dynamic=True)
        def ask(self, name: str, args: Sequence[RawValue]) -> str:
            return f"{name} {len(args)}"

    scenario = Scenario(Anything)
    scenario.signal("known", 1)
    scenario.task()
    assert value(scenario.run.query(query("whatever", 1, 2))) == "whatever 2"
    scenario.signal("strange", 2, 3)
    assert scenario.task() == ["complete [1, ['strange', 2, 3]]"]
    scenario.check_laws()


def value(result: m.WorkflowQueryResult) -> Any:
    assert result.result_type == m.QueryResultType.QUERY_RESULT_TYPE_ANSWERED, result.error_message
    return CONVERTER.from_payload(result.answer.payloads[0])


def test_a_signal_that_cannot_be_read_is_dropped_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    scenario = Scenario(Basket)
    scenario.task()
    scenario.signal("add", {"not": "text"})
    scenario.signal("add")
    scenario.signal("add", "a")
    scenario.task()
    assert [record.message for record in caplog.records if "dropped" in record.message] != []
    caplog.clear()
    run = scenario.replay_all()
    assert not caplog.records
    assert value(run.query(query("count"))) == 1


def test_an_error_in_a_handler_fails_the_workflow() -> None:
    @workflow.defn
    class Fragile(Basket):
        @workflow.run
        async def run(self) -> list[str]:
            await workflow.wait_condition(lambda: self.closed)
            return []

        @workflow.signal
        def poke(self) -> None:
            raise ValueError("ouch")

        @workflow.signal
        async def poke_later(self) -> None:
            await workflow.sleep(1)
            raise ValueError("ouch later")

    scenario = Scenario(Fragile)
    scenario.signal("poke")
    assert scenario.task() == ["fail ouch"]
    scenario.check_laws()
    scenario = Scenario(Fragile)
    scenario.signal("poke_later")
    scenario.task()
    scenario.fire("1")
    assert scenario.task() == ["fail ouch later"]
    scenario.check_laws()


def test_a_handler_may_continue_as_new() -> None:
    @workflow.defn
    class Renews:
        @workflow.run
        async def run(self) -> None:
            await workflow.wait_condition(lambda: False)

        @workflow.signal
        async def renew(self) -> None:
            workflow.continue_as_new()

    scenario = Scenario(Renews)
    scenario.signal("renew")
    assert scenario.task() == ["continue as new []"]
    scenario.check_laws()


def test_waiting_for_handlers() -> None:
    @workflow.defn
    class Polite(Basket):
        @workflow.run
        async def run(self) -> list[str]:
            await ship("first")
            await workflow.wait_condition(workflow.all_handlers_finished)
            return ["end"]

    scenario = Scenario(Polite)
    scenario.signal("bye")
    assert scenario.task() == ["activity 1 ship", "activity 2 ship"]
    scenario.complete("2", 1)
    assert scenario.task() == []
    scenario.complete("1", 1)
    assert scenario.task() == ["complete ['end']"]
    scenario.check_laws()


# Queries.


def test_queries_answer_and_leave_no_trace() -> None:
    scenario = Scenario(Basket)
    scenario.signal("add", "a")
    assert scenario.task(queries={"q1": query("count"), "q2": query("breaks"), "q3": query("nosuch")}) == []
    outcome: Any = scenario.outcome
    assert value(outcome.query_results["q1"]) == 1
    assert "missing" in outcome.query_results["q2"].error_message
    assert "it has: breaks, cheats, count" in outcome.query_results["q3"].error_message
    assert value(scenario.run.query(query("count", 5))) == 5
    cheating = scenario.run.query(query("cheats"))
    assert "may not" in cheating.error_message
    scenario.check_laws()


def test_a_closed_workflow_still_answers() -> None:
    scenario = Scenario(Basket)
    scenario.signal("add", "a")
    scenario.signal("bye")
    scenario.task()
    scenario.complete("1", 1)
    scenario.task()
    run = scenario.replay_all()
    assert run.closed
    assert value(run.query(query("count"))) == 1


def test_a_query_in_a_function() -> None:
    @workflow.defn
    async def code() -> None:
        state = "new"

        @workflow.query
        def status() -> str:
            return state

        await workflow.sleep(1)
        state = "old"
        await workflow.sleep(1)

    scenario = Scenario(code)
    scenario.task()
    assert value(scenario.run.query(query("status"))) == "new"
    scenario.fire("1")
    scenario.task()
    assert value(scenario.run.query(query("status"))) == "old"
    assert value(scenario.replay_all().query(query("status"))) == "old"


def test_the_stack_trace_query_says_where_the_code_waits() -> None:
    scenario = Scenario(Basket)
    scenario.task()
    text = value(scenario.run.query(query("__stack_trace")))
    assert "test_handlers.py" in text and "wait_condition" in text


def test_no_async_queries() -> None:
    with pytest.raises(DefinitionError, match="may not be async"):

        @workflow.query
        async def ask(self: Any) -> int:
            return 1


# Cancellation.


def test_a_cancelled_workflow_ends_as_cancelled() -> None:
    @workflow.defn
    async def code() -> None:
        await workflow.sleep(100)

    scenario = Scenario(code)
    scenario.task()
    scenario.request_cancel("enough")
    assert scenario.task() == ["cancel timer 1", "cancelled"]
    scenario.check_laws()


def test_cancelled_before_its_first_task_the_code_runs_to_its_first_await() -> None:
    @workflow.defn
    async def code() -> str:
        try:
            await ship("x")
        except asyncio.CancelledError:
            return f"cleaned up: {workflow.cancellation_reason()}"
        return "?"

    scenario = Scenario(code)
    scenario.request_cancel("never mind")
    assert scenario.task() == ["complete 'cleaned up: never mind'"]
    scenario.check_laws()


def test_compensation_after_cancellation() -> None:
    @workflow.defn
    async def code() -> None:
        try:
            await ship("x")
        finally:
            await ship("compensation")

    scenario = Scenario(code)
    scenario.task()
    scenario.request_cancel()
    assert scenario.task() == [f"cancel activity @{scenario.scheduled('1')}", "activity 2 ship"]
    scenario.cancel_activity("1")
    assert scenario.task() == []
    scenario.complete("2", 1)
    assert scenario.task() == ["cancelled"]
    scenario.check_laws()


def test_a_shield_keeps_cancellation_off() -> None:
    @workflow.defn
    async def code() -> int:
        handle = workflow.start_activity(ship, "x")
        try:
            return await asyncio.shield(handle)
        except asyncio.CancelledError:
            return 100 + await handle

    scenario = Scenario(code)
    scenario.task()
    scenario.request_cancel()
    assert scenario.task() == []
    scenario.complete("1", 5)
    assert scenario.task() == ["complete 105"]
    scenario.check_laws()


def test_a_cancellation_nobody_asked_for_fails_the_workflow() -> None:
    @workflow.defn
    async def code() -> None:
        raise asyncio.CancelledError

    (command,) = Scenario(code).task()
    assert command.startswith("fail")


# Around the run.


def test_init_takes_the_arguments() -> None:
    @workflow.defn
    class Greeter:
        @workflow.init
        def __init__(self, name: str) -> None:
            self.greeting = f"hello {name}"

        @workflow.run
        async def run(self, name: str) -> str:
            return self.greeting

        @workflow.query
        def said(self) -> str:
            return self.greeting

    scenario = Scenario(Greeter, "you")
    assert scenario.task(queries={"q": query("said")}) == ["complete 'hello you'"]
    scenario.check_laws()


def test_info_time_and_chance() -> None:
    @workflow.defn
    async def code() -> list[object]:
        info = workflow.info()
        assert workflow.in_workflow() and workflow.instance() is None
        assert workflow.now().timestamp() == workflow.time() == workflow.time_ns() / 1e9
        before = [workflow.random().random(), str(workflow.uuid4()), str(workflow.uuid7())]
        before.append(workflow.new_random().random())
        await workflow.sleep(60)
        after = [workflow.random().random(), str(workflow.uuid4())]
        return [info.workflow_id, info.run_id, info.workflow_type, info.get_current_history_length(), before, after]

    scenario = Scenario(code)
    scenario.task()
    scenario.fire("1")
    scenario.task()
    scenario.check_laws()
    assert scenario.outcome is not None
    other = Scenario(code, original_run_id="run-2")
    other.task()
    other.fire("1")
    assert other.task() != scenario.tasks


def test_the_logger_is_silent_in_replay(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="perdure.workflow")

    @workflow.defn
    async def code() -> None:
        workflow.logger.info("began")
        await workflow.sleep(1)
        workflow.logger.info("ended")

    scenario = Scenario(code)
    scenario.task()
    scenario.fire("1")
    scenario.task()
    assert [record.message for record in caplog.records] == ["began", "ended"]
    assert caplog.records[0].perdure_workflow["workflow_id"] == "wf-1"
    caplog.clear()
    scenario.replay_all()
    assert not caplog.records


def test_patches() -> None:
    @workflow.defn(name="patched")
    async def before() -> str:
        await workflow.sleep(1)
        await workflow.sleep(2)
        return "before"

    @workflow.defn(name="patched")
    async def after() -> str:
        await workflow.sleep(1)
        if workflow.patched("no-second-sleep"):
            return "after"
        await workflow.sleep(2)
        assert not workflow.patched("no-second-sleep")
        return "before"

    @workflow.defn(name="patched")
    async def later() -> str:
        await workflow.sleep(1)
        workflow.deprecate_patch("no-second-sleep")
        return "after"

    @workflow.defn(name="patched")
    async def finally_() -> str:
        await workflow.sleep(1)
        return "after"

    from perdure.replay.definition import WorkflowDefinition

    def definition(code: Any) -> WorkflowDefinition:
        return WorkflowDefinition.must_be(code)

    old = Scenario(before)
    old.task()
    old.fire("1")
    assert old.task() == ["timer 2 2000ms"]
    old.definition = definition(after)
    old.fire("2")
    assert old.task(cached=False) == ["complete 'before'"]
    old.replay_all()

    new = Scenario(after)
    new.task()
    new.fire("1")
    assert new.task() == ["marker core_patch", "complete 'after'"]
    new.check_laws()
    new.replay_all(definition(later))

    newer = Scenario(later)
    newer.task()
    newer.fire("1")
    assert newer.task() == ["marker core_patch", "complete 'after'"]
    newer.check_laws()
    newer.replay_all(definition(after))
    newer.replay_all(definition(finally_))


def test_failed_and_timed_out_tasks_leave_no_trace() -> None:
    @workflow.defn
    async def code() -> int:
        return await ship("x")

    scenario = Scenario(code)
    scenario.open_task()
    scenario.fail_task()
    assert scenario.task(cached=False) == ["activity 1 ship"]
    scenario.complete("1", 3)
    scenario.open_task()
    timed_out = scenario.add(E.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT)
    timed_out.workflow_task_timed_out_event_attributes.SetInParent()
    assert scenario.task(cached=False) == ["complete 3"]
    scenario.check_laws()
