"""Each command three ways: suspended, completed, still waiting; and always the same at replay."""

from __future__ import annotations

import asyncio
import builtins
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from perdure import activity, workflow
from perdure.api import messages as m
from perdure.common import RetryPolicy, SearchAttributeKey
from perdure.exceptions import (
    ActivityError,
    ApplicationError,
    ChildWorkflowError,
    ConversionError,
    TimeoutError,
    WorkflowAlreadyStartedError,
)
from tests.replay.support import CONVERTER, E, Scenario


@dataclass
class Order:
    id: str
    cents: int


@activity.defn(start_to_close_timeout=timedelta(seconds=10), retry_policy=RetryPolicy(maximum_attempts=3))
async def charge(order: Order) -> str:
    return order.id


@activity.defn(start_to_close_timeout=timedelta(seconds=10))
def ship(order_id: str) -> int:
    return len(order_id)


@workflow.defn
async def buy(order: Order) -> int:
    receipt = await charge(order)
    return await ship(receipt)


def test_activities_in_sequence() -> None:
    scenario = Scenario(buy, Order("o-1", 500))
    assert scenario.task() == ["activity 1 charge"]
    assert scenario.task() == []
    scenario.complete("1", "receipt-1")
    assert scenario.task() == ["activity 2 ship"]
    scenario.complete("2", 7)
    assert scenario.task() == ["complete 7"]
    scenario.check_laws()


def test_an_activity_carries_its_options() -> None:
    @workflow.defn
    async def code() -> None:
        await workflow.execute_activity(
            "charge",
            args=[1, "two"],
            task_queue="elsewhere",
            schedule_to_close_timeout=timedelta(minutes=5),
            heartbeat_timeout=timedelta(seconds=3),
            retry_policy=RetryPolicy(maximum_attempts=2, non_retryable_error_types=["Bad"]),
            activity_id="mine",
            summary="the charge",
        )

    scenario = Scenario(code)
    assert scenario.task() == ["activity mine charge"]
    assert isinstance(scenario.outcome, workflow_outcome())
    command = scenario.outcome.commands[0]
    attrs = command.schedule_activity_task_command_attributes
    assert attrs.task_queue.name == "elsewhere"
    assert attrs.schedule_to_close_timeout.ToTimedelta() == timedelta(minutes=5)
    assert not attrs.HasField("start_to_close_timeout")
    assert attrs.heartbeat_timeout.ToTimedelta() == timedelta(seconds=3)
    assert attrs.retry_policy.maximum_attempts == 2
    assert list(attrs.retry_policy.non_retryable_error_types) == ["Bad"]
    assert CONVERTER.from_payloads(attrs.input.payloads) == [1, "two"]
    assert CONVERTER.from_payload(command.user_metadata.summary) == "the charge"


def workflow_outcome() -> Any:
    from perdure.replay.outcome import TaskCompleted

    return TaskCompleted


def test_an_activity_without_a_timeout_is_refused() -> None:
    @workflow.defn
    async def code() -> str:
        try:
            await workflow.execute_activity("charge")
        except ValueError as error:
            return str(error)
        return "no error"

    (command,) = Scenario(code).task()
    assert "needs start_to_close_timeout" in command


def test_a_failed_activity_raises_with_its_cause() -> None:
    @workflow.defn
    async def code() -> list[object]:
        try:
            await charge(Order("o", 1))
        except ActivityError as error:
            cause = error.cause
            assert isinstance(cause, ApplicationError)
            return [error.activity_type, error.activity_id, cause.type, cause.message, list(cause.details)]
        return []

    scenario = Scenario(code)
    scenario.task()
    scenario.fail("1", ApplicationError("no money", 17, type="Declined", non_retryable=True))
    assert scenario.task() == ["complete ['charge', '1', 'Declined', 'no money', [17]]"]
    scenario.check_laws()


def test_a_timed_out_activity_raises_with_its_cause() -> None:
    @workflow.defn
    async def code() -> str:
        try:
            await charge(Order("o", 1))
        except ActivityError as error:
            assert isinstance(error.cause, TimeoutError)
            return str(error.cause.type)
        return ""

    scenario = Scenario(code)
    scenario.task()
    scenario.time_out("1")
    assert scenario.task() == [f"complete '{int(m.TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE)}'"]
    scenario.check_laws()


def test_an_uncaught_error_fails_the_workflow() -> None:
    scenario = Scenario(buy, Order("o", 1))
    scenario.task()
    scenario.fail("1", ApplicationError("no money", type="Declined"))
    (command,) = scenario.task()
    assert command.startswith("fail activity 'charge' failed")
    scenario.check_laws()


def test_a_wrong_argument_is_an_error_at_the_call() -> None:
    @workflow.defn
    async def code() -> list[str]:
        said: list[str] = []
        for wrong in (17, object()):
            try:
                await charge(wrong)
            except ConversionError as error:
                said.append(type(error).__name__)
        await ship("x")
        return said

    scenario = Scenario(code)
    assert scenario.task() == ["activity 1 ship"]
    scenario.complete("1", 1)
    assert scenario.task() == ["complete ['ConversionError', 'ConversionError']"]
    scenario.check_laws()


def test_a_result_of_another_type_is_an_error_in_the_code() -> None:
    @workflow.defn
    async def code() -> str:
        try:
            await ship("x")
        except ConversionError:
            return "refused"
        return "taken"

    scenario = Scenario(code)
    scenario.task()
    scenario.complete("1", {"not": "a number"})
    assert scenario.task() == ["complete 'refused'"]


@pytest.mark.parametrize("kind", list(workflow.ActivityCancellationType))
def test_cancelling_an_activity(kind: workflow.ActivityCancellationType) -> None:
    @workflow.defn
    async def code() -> str:
        handle = workflow.start_activity(ship, "x", cancellation_type=kind)
        await workflow.sleep(1)
        handle.cancel()
        try:
            await handle
        except asyncio.CancelledError:
            said = "cancelled"
        else:
            said = "done"
        await workflow.sleep(1)
        return said

    scenario = Scenario(code)
    assert scenario.task() == ["activity 1 ship", "timer 1 1000ms"]
    scenario.fire("1")
    waits = kind is workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED
    told = [] if kind is workflow.ActivityCancellationType.ABANDON else [f"cancel activity @{scenario.scheduled('1')}"]
    assert scenario.task() == told + ([] if waits else ["timer 2 1000ms"])
    scenario.cancel_activity("1")
    assert scenario.task() == (["timer 2 1000ms"] if waits else [])
    scenario.fire("2")
    assert scenario.task() == ["complete 'cancelled'"]
    scenario.check_laws()


def test_an_activity_may_complete_although_it_was_cancelled() -> None:
    @workflow.defn
    async def code() -> int:
        handle = workflow.start_activity(
            ship, "x", cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED
        )
        await workflow.sleep(1)
        handle.cancel()
        handle.cancel()
        return await handle

    scenario = Scenario(code)
    scenario.task()
    scenario.fire("1")
    assert scenario.task() == [f"cancel activity @{scenario.scheduled('1')}"]
    scenario.complete("1", 5)
    assert scenario.task() == ["complete 5"]
    scenario.check_laws()


def test_what_is_cancelled_before_it_left_is_taken_back() -> None:
    @workflow.defn
    async def code() -> str:
        workflow.start_activity(ship, "x").cancel()
        await asyncio.wait_for(asyncio.sleep(0), 5)
        child = asyncio.create_task(workflow.execute_child_workflow("other", id="c"))
        await asyncio.sleep(0)
        child.cancel()
        await ship("y")
        return "end"

    scenario = Scenario(code)
    assert scenario.task() == ["activity 2 ship"]
    scenario.complete("2", 1)
    assert scenario.task() == ["complete 'end'"]
    scenario.check_laws()


def test_timers() -> None:
    @workflow.defn
    async def code() -> float:
        began = workflow.time()
        await asyncio.sleep(3600)
        await workflow.sleep(timedelta(days=1), summary="a day")
        await workflow.sleep(0)
        await asyncio.sleep(0.0004)
        return workflow.time() - began

    scenario = Scenario(code)
    assert scenario.task() == ["timer 1 3600000ms"]
    scenario.fire("1")
    assert scenario.task() == ["timer 2 86400000ms"]
    scenario.fire("2")
    assert scenario.task() == ["timer 3 1ms"]
    scenario.fire("3")
    assert scenario.task() == ["complete 90001.0"]
    scenario.check_laws()


def test_a_timeout_cancels_what_it_guards() -> None:
    @workflow.defn
    async def code() -> str:
        try:
            async with asyncio.timeout(10):
                await ship("x")
        except TimeoutError_:
            return "late"
        return "in time"

    late = Scenario(code)
    assert late.task() == ["timer 1 10000ms", "activity 1 ship"]
    late.fire("1")
    assert late.task() == [f"cancel activity @{late.scheduled('1')}", "complete 'late'"]
    late.check_laws()

    early = Scenario(code)
    early.task()
    early.complete("1", 1)
    assert early.task() == ["cancel timer 1", "complete 'in time'"]
    early.check_laws()


TimeoutError_ = __builtins__["TimeoutError"] if isinstance(__builtins__, dict) else __builtins__.TimeoutError


def test_wait_condition_with_a_timeout() -> None:
    @workflow.defn
    class Approval:
        def __init__(self) -> None:
            self.approved = False

        @workflow.run
        async def run(self) -> str:
            try:
                await workflow.wait_condition(lambda: self.approved, timeout=timedelta(days=7))
            except builtins.TimeoutError:
                return "expired"
            return "approved"

        @workflow.signal
        def approve(self) -> None:
            self.approved = True

    expired = Scenario(Approval)
    assert expired.task() == ["timer 1 604800000ms"]
    expired.fire("1")
    assert expired.task() == ["complete 'expired'"]
    expired.check_laws()

    approved = Scenario(Approval)
    approved.task()
    approved.signal("approve")
    assert approved.task() == ["cancel timer 1", "complete 'approved'"]
    approved.check_laws()


def test_a_condition_that_holds_already_takes_no_timer() -> None:
    @workflow.defn
    async def code() -> str:
        await workflow.wait_condition(lambda: True, timeout=5)
        return "at once"

    scenario = Scenario(code)
    assert scenario.task() == ["complete 'at once'"]


def test_a_condition_that_raises_raises_where_it_is_awaited() -> None:
    @workflow.defn
    async def code() -> str:
        seen: list[int] = []

        def condition() -> bool:
            seen.append(1)
            if len(seen) > 1:
                raise KeyError("no")
            return False

        try:
            await workflow.wait_condition(condition)
        except KeyError:
            return "raised"
        return "?"

    assert Scenario(code).task() == ["complete 'raised'"]


# Children.


@workflow.defn
async def small(number: int) -> int:
    return number


@workflow.defn
async def parent() -> int:
    return await workflow.execute_child_workflow(small, 4, id="child")


def test_a_child_completes() -> None:
    scenario = Scenario(parent)
    assert scenario.task() == ["child child small"]
    scenario.child_started("child")
    assert scenario.task() == []
    scenario.child_completed("child", 16)
    assert scenario.task() == ["complete 16"]
    scenario.check_laws()


def test_a_childs_default_id_is_the_same_at_every_replay_and_differs_between_runs() -> None:
    @workflow.defn
    async def code() -> None:
        await workflow.execute_child_workflow("other")

    assert Scenario(code).task() == ["child run-1_1 other"]
    assert Scenario(code, original_run_id="run-2").task() == ["child run-2_1 other"]


@pytest.mark.parametrize("how", ["failed", "terminated", "timed_out", "canceled"])
def test_a_child_that_does_not_complete(how: str) -> None:
    @workflow.defn
    async def code() -> list[str]:
        try:
            await workflow.execute_child_workflow(small, 4, id="child")
        except ChildWorkflowError as error:
            return [error.workflow_id, type(error.cause).__name__]
        return []

    scenario = Scenario(code)
    scenario.task()
    scenario.child_started("child")
    kind = E.Value(f"EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_{how.upper()}")
    attrs = scenario.child(kind, "child")
    if how == "failed":
        attrs.failure.CopyFrom(CONVERTER.to_failure(ApplicationError("bad", type="Bad")))
    cause = {
        "failed": "ApplicationError",
        "terminated": "TerminatedError",
        "timed_out": "TimeoutError",
        "canceled": "CancelledError",
    }[how]
    assert scenario.task() == [f"complete ['child', '{cause}']"]
    scenario.check_laws()


def test_a_child_whose_id_is_taken() -> None:
    @workflow.defn
    async def code() -> str:
        try:
            await workflow.start_child_workflow(small, 4, id="child")
        except WorkflowAlreadyStartedError as error:
            return error.workflow_id
        return ""

    scenario = Scenario(code)
    scenario.task()
    attrs = scenario.child(E.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_FAILED, "child")
    attrs.cause = 1  # WORKFLOW_ALREADY_EXISTS
    assert scenario.task() == ["complete 'child'"]
    scenario.check_laws()


@pytest.mark.parametrize("kind", list(workflow.ChildWorkflowCancellationType))
@pytest.mark.parametrize("started", [False, True])
def test_cancelling_a_child(kind: workflow.ChildWorkflowCancellationType, started: bool) -> None:
    types = workflow.ChildWorkflowCancellationType

    @workflow.defn
    async def code() -> str:
        try:
            await workflow.execute_child_workflow(small, 4, id="child", cancellation_type=kind)
        except asyncio.CancelledError:
            await ship("compensation")
            raise
        return "done"

    scenario = Scenario(code)
    scenario.task()
    if started:
        scenario.child_started("child")
        assert scenario.task() == []
    scenario.request_cancel()
    told = [] if kind is types.ABANDON else ["cancel workflow child"]
    compensates = ["activity 1 ship"]
    at_once = kind in (types.ABANDON, types.TRY_CANCEL)
    assert scenario.task() == (told if started else []) + (compensates if at_once else [])
    if not started:
        scenario.child_started("child")
        assert scenario.task() == told
    if told:
        scenario.answer_external(
            E.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED,
            E.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_CANCEL_REQUESTED,
        )
        assert scenario.task() == (compensates if kind is types.WAIT_CANCELLATION_REQUESTED else [])
        scenario.child(E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_CANCELED, "child")
        assert scenario.task() == (compensates if kind is types.WAIT_CANCELLATION_COMPLETED else [])
    scenario.complete("1", 1)
    assert scenario.task() == ["cancelled"]
    scenario.check_laws()


def test_signalling_a_child() -> None:
    @workflow.defn
    async def code() -> str:
        child = await workflow.start_child_workflow(small, 4, id="child")
        await child.signal("more", 5)
        return child.id

    scenario = Scenario(code)
    scenario.task()
    scenario.child_started("child")
    assert scenario.task() == ["signal child more"]
    scenario.answer_external(
        E.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED,
        E.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_SIGNALED,
    )
    assert scenario.task() == ["complete 'child'"]
    scenario.check_laws()


# Other workflows.


@pytest.mark.parametrize("found", [True, False])
def test_signalling_another_workflow(found: bool) -> None:
    @workflow.defn
    async def code() -> str:
        try:
            await workflow.get_external_workflow_handle("other").signal("go", args=[1, 2])
        except ApplicationError as error:
            return error.type or ""
        return "delivered"

    scenario = Scenario(code)
    assert scenario.task() == ["signal other go"]
    assert scenario.task() == []
    initiated = E.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED
    if found:
        scenario.answer_external(initiated, E.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_SIGNALED)
    else:
        attrs = scenario.answer_external(initiated, E.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED)
        attrs.cause = 1
    assert scenario.task() == [f"complete '{'delivered' if found else 'ExternalWorkflowNotFound'}'"]
    scenario.check_laws()


@pytest.mark.parametrize("found", [True, False])
def test_cancelling_another_workflow(found: bool) -> None:
    @workflow.defn
    async def code() -> str:
        try:
            await workflow.get_external_workflow_handle("other").cancel()
        except ApplicationError as error:
            return error.type or ""
        return "delivered"

    scenario = Scenario(code)
    assert scenario.task() == ["cancel workflow other"]
    assert scenario.task() == []
    initiated = E.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED
    if found:
        scenario.answer_external(initiated, E.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_CANCEL_REQUESTED)
    else:
        attrs = scenario.answer_external(initiated, E.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED)
        attrs.cause = 1
    assert scenario.task() == [f"complete '{'delivered' if found else 'ExternalWorkflowNotFound'}'"]
    scenario.check_laws()


# Markers, memo, search attributes.


def test_steps_run_once_and_are_recorded() -> None:
    calls: list[int] = []

    def roll(sides: int) -> int:
        calls.append(sides)
        return sides + len(calls)

    @workflow.defn
    async def code() -> list[int]:
        first = await workflow.step(roll, 6)
        await workflow.sleep(1)
        second, third = await asyncio.gather(workflow.step(roll, 20), workflow.step(roll, 30))
        return [first, second, third]

    scenario = Scenario(code)
    assert scenario.task() == ["marker perdure.step", "timer 1 1000ms"]
    scenario.fire("1")
    assert scenario.task() == ["marker perdure.step", "marker perdure.step", "complete [7, 22, 33]"]
    assert calls == [6, 20, 30]
    scenario.check_laws()
    assert calls == [6, 20, 30]


def test_a_failing_step_raises() -> None:
    def fails() -> int:
        raise ZeroDivisionError("by nothing")

    @workflow.defn
    async def code() -> list[str]:
        try:
            await workflow.step(fails)
        except ApplicationError as error:
            return [str(error.type), error.message]
        return []

    scenario = Scenario(code)
    assert scenario.task() == ["marker perdure.step", "complete ['ZeroDivisionError', 'by nothing']"]
    scenario.check_laws()


def test_a_long_step_outlives_its_task() -> None:
    @workflow.defn
    async def code() -> str:
        handle = workflow.start_activity(ship, "x")
        value = await workflow.step(lambda: "stepped", name="slow")
        return f"{value} {await handle}"

    scenario = Scenario(code)
    assert scenario.task(steps=0) == ["activity 1 ship"]
    scenario.complete("1", 3)
    assert scenario.task(steps=0) == []
    assert scenario.task() == ["marker perdure.step", "complete 'stepped 3'"]
    scenario.check_laws()


def test_a_step_that_finishes_between_tasks_is_applied_in_the_next_one() -> None:
    @workflow.defn
    async def code() -> str:
        return await workflow.step(lambda: "stepped", name="slow")

    scenario = Scenario(code)
    scenario.task(steps=0)
    assert scenario.run.resolve_step("1", result=CONVERTER.to_payload("stepped")).calls == ()
    assert scenario.task() == ["marker perdure.step", "complete 'stepped'"]


def test_a_cancelled_step_leaves_no_marker() -> None:
    @workflow.defn
    async def code() -> str:
        try:
            async with asyncio.timeout(5):
                await workflow.step(lambda: "never", name="slow")
        except builtins.TimeoutError:
            return "gave up"
        return "?"

    scenario = Scenario(code)
    assert scenario.task(steps=0) == ["timer 1 5000ms"]
    scenario.fire("1")
    assert scenario.task() == ["complete 'gave up'"]
    scenario.check_laws()


def test_memo_and_search_attributes() -> None:
    customer = SearchAttributeKey.for_keyword("Customer")
    total = SearchAttributeKey.for_int("Total")

    @workflow.defn
    async def code() -> list[object]:
        before = dict(workflow.memo())
        workflow.upsert_memo({"state": "paid", "old": None})
        workflow.upsert_search_attributes([customer.value_set("c-1"), total.value_unset()])
        await workflow.sleep(1)
        found = workflow.search_attributes()
        return [before, dict(workflow.memo()), found[customer], total in found]

    scenario = Scenario(code, memo={"old": 1})
    assert scenario.task() == ["memo", "search attributes", "timer 1 1000ms"]
    scenario.fire("1")
    assert scenario.task() == ["complete [{'old': 1}, {'state': 'paid'}, 'c-1', False]"]
    scenario.check_laws()


# Closing.


def test_continue_as_new_carries_arguments_and_memo() -> None:
    @workflow.defn
    async def code(number: int) -> None:
        try:
            await workflow.sleep(1)
            workflow.continue_as_new(number + 1)
        except Exception:
            pytest.fail("an ordinary handler must not see it")

    scenario = Scenario(code, 5, memo={"a": 1})
    scenario.task()
    scenario.fire("1")
    assert scenario.task() == ["continue as new [6]"]
    attrs = scenario.outcome.commands[0].continue_as_new_workflow_execution_command_attributes
    assert (attrs.workflow_type.name, attrs.task_queue.name) == ("code", "queue")
    assert CONVERTER.from_payload(attrs.memo.fields["a"]) == 1
    scenario.check_laws()


def test_nothing_is_asked_after_the_workflow_has_closed() -> None:
    @workflow.defn
    async def code() -> str:
        async def background() -> None:
            while True:
                await ship("x")

        task = asyncio.create_task(background())
        await asyncio.sleep(0)
        try:
            return "end"
        finally:
            task.cancel()

    scenario = Scenario(code)
    (last,) = scenario.task()[-1:]
    assert last == "complete 'end'"
    scenario.check_laws()


def test_a_result_of_the_wrong_type_fails_the_workflow() -> None:
    @workflow.defn
    async def code() -> int:
        return "text"

    (command,) = Scenario(code).task()
    assert command.startswith("fail ")


def test_wrong_workflow_arguments_fail_the_workflow() -> None:
    (command,) = Scenario(buy, 17).task()
    assert command.startswith("fail ")
    (command,) = Scenario(buy).task()
    assert "takes 1 argument, 0 given" in command


def test_continue_as_new_from_a_task_group() -> None:
    @workflow.defn
    async def code(number: int) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(workflow.sleep(5))
            group.create_task(renew(number))

    async def renew(number: int) -> None:
        await workflow.sleep(1)
        workflow.continue_as_new(number + 1)

    scenario = Scenario(code, 1)
    scenario.task()
    scenario.fire("2")
    assert scenario.task() == ["cancel timer 1", "continue as new [2]"]
    scenario.check_laws()


def test_errors_outside_of_exception_fail_the_workflow_too() -> None:
    class Strange(BaseException):
        pass

    @workflow.defn
    async def code() -> None:
        raise Strange("odd")

    assert Scenario(code).task() == ["fail odd"]


def test_a_failure_begins_in_the_users_code() -> None:
    @workflow.defn
    async def code() -> None:
        raise ValueError("here")

    scenario = Scenario(code)
    scenario.task()
    trace = scenario.outcome.commands[0].fail_workflow_execution_command_attributes.failure.stack_trace
    assert "test_commands.py" in trace and "runtime.py" not in trace


def test_steps_of_builtin_functions() -> None:
    @workflow.defn
    async def code() -> list[object]:
        return [await workflow.step(max, 1, 5), await workflow.step(divmod, 7, 2)]

    scenario = Scenario(code)
    assert scenario.task()[-1] == "complete [5, [3, 1]]"
    scenario.check_laws()
