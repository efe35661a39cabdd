"""Code that does not do what its history recorded: the difference is named, with file and line."""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta
from typing import Any

import pytest

from perdure import activity, workflow
from perdure.api import messages as m
from perdure.exceptions import NondeterminismError
from perdure.replay.definition import WorkflowDefinition
from perdure.replay.outcome import TaskFailed
from tests.replay.support import E, Scenario


@activity.defn(start_to_close_timeout=timedelta(seconds=10))
async def reserve(order_id: str) -> str:
    return order_id


@activity.defn(start_to_close_timeout=timedelta(seconds=10))
async def charge(order_id: str) -> str:
    return order_id


@workflow.defn(name="order")
async def original() -> None:
    await reserve("o")
    await workflow.sleep(5)


def recorded(code: Any = original) -> Scenario:
    scenario = Scenario(code)
    scenario.task()
    scenario.complete("1", "x")
    scenario.task()
    return scenario


def mismatch(code: Any, scenario: Scenario | None = None) -> str:
    scenario = scenario or recorded()
    with pytest.raises(NondeterminismError) as caught:
        scenario.replay_all(WorkflowDefinition.must_be(code))
    return str(caught.value)


def line_of(needle: str) -> int:
    with open(__file__) as source:
        return next(number for number, line in enumerate(source, 1) if needle in line and "line_of" not in line)


def test_another_activity() -> None:
    @workflow.defn(name="order")
    async def changed() -> None:
        await charge("o")  # the changed line

    text = mismatch(changed)
    assert "event 5: ActivityTaskScheduled activity_id='1' activity_type='reserve'" in text
    assert "schedule an activity activity_id='1' activity_type='charge'" in text
    assert "differs        activity_type: 'reserve' → 'charge'" in text
    assert f"test_mismatch.py:{line_of('# the changed line')} in " in text
    assert "id 'wf-1', run 'run-1'" in text
    assert "workflow.patched(" in text


def test_the_place_of_a_call_in_a_task_that_the_end_abandons() -> None:
    async def aside() -> None:
        await charge("o")  # in a task of its own

    @workflow.defn(name="order")
    async def changed() -> None:
        abandoned = asyncio.create_task(aside())
        await asyncio.sleep(0)
        assert not abandoned.done()

    text = mismatch(changed)
    assert f"test_mismatch.py:{line_of('# in a task of its own')} in " in text


def test_a_call_that_is_a_task_by_itself_is_placed_where_it_is_waited_for() -> None:
    @workflow.defn(name="order")
    async def changed() -> None:
        await asyncio.gather(reserve("o"), charge("o"))  # both at once

    text = mismatch(changed)
    assert "asked to  schedule an activity activity_id='2' activity_type='charge'" in text
    assert f"test_mismatch.py:{line_of('# both at once')} in " in text


def test_a_command_that_ends_the_workflow_is_placed_in_its_function() -> None:
    @workflow.defn(name="order")
    async def changed() -> None:  # ends at once
        return None

    text = mismatch(changed)
    assert "asked to  complete the workflow" in text
    assert f"test_mismatch.py:{line_of('# ends at once') - 1} in " in text


def test_another_kind_of_command() -> None:
    @workflow.defn(name="order")
    async def changed() -> None:
        await asyncio.sleep(5)  # slept instead

    text = mismatch(changed)
    assert "history holds  event 5: ActivityTaskScheduled" in text
    assert "code asked to  start a timer timer_id='1'" in text
    assert f"test_mismatch.py:{line_of('# slept instead')} in " in text


def test_history_has_more_than_the_code_asked_for() -> None:
    @workflow.defn(name="order")
    async def changed() -> None:
        await reserve("o")
        await workflow.wait_condition(lambda: False)  # waits for ever

    text = mismatch(changed)
    assert "history holds  event 11: TimerStarted timer_id='1'" in text
    assert "code asked for nothing at this point" in text
    assert f"main waits at {__file__}:{line_of('# waits for ever')} in " in text


def test_the_code_asks_for_more_than_history_has() -> None:
    @workflow.defn(name="order")
    async def changed() -> None:
        await asyncio.gather(reserve("o"), charge("o"))  # one more

    text = mismatch(changed)
    assert re.search(r"history holds  nothing at this point; next comes event \d+: ActivityTaskCompleted", text)
    assert "code asked to  schedule an activity activity_id='2' activity_type='charge'" in text


def test_the_code_ends_earlier() -> None:
    @workflow.defn(name="order")
    async def changed() -> None:
        await reserve("o")

    text = mismatch(changed)
    assert "history holds  event 11: TimerStarted" in text and "code asked to  complete the workflow" in text


def test_the_code_fails_where_it_went_on() -> None:
    @workflow.defn(name="order")
    async def changed() -> None:
        await reserve("o")
        raise ValueError("new bug")

    assert "code asked to  fail the workflow" in mismatch(changed)


def test_a_removed_patch() -> None:
    @workflow.defn(name="order")
    async def patched() -> None:
        if workflow.patched("p"):
            await reserve("o")

    @workflow.defn(name="order")
    async def removed() -> None:
        await reserve("o")

    scenario = Scenario(patched)
    scenario.task()
    text = mismatch(removed, scenario)
    assert "MarkerRecorded marker='core_patch' patch='p'" in text


def test_another_child_signal_step_and_attributes() -> None:
    @workflow.defn(name="order")
    async def first(variant: str = "a") -> None:
        workflow.upsert_memo({variant: 1})
        workflow.upsert_search_attributes({variant: ["x"]})
        await workflow.step(lambda: 1, name=variant)
        async with asyncio.TaskGroup() as group:
            group.create_task(workflow.execute_child_workflow("w", id=variant))
            group.create_task(workflow.get_external_workflow_handle("other").signal(variant))
            group.create_task(workflow.get_external_workflow_handle(variant).cancel())

    scenario = Scenario(first)
    scenario.task()
    for at, name in enumerate(("memo", "keys", "step", "child", "signal", "cancel")):

        @workflow.defn(name="order")
        async def second(at: int = at) -> None:
            def variant(index: int) -> str:
                return "b" if index == at else "a"

            workflow.upsert_memo({variant(0): 1})
            workflow.upsert_search_attributes({variant(1): ["x"]})
            await workflow.step(lambda: 1, name=variant(2))
            async with asyncio.TaskGroup() as group:
                group.create_task(workflow.execute_child_workflow("w", id=variant(3)))
                group.create_task(workflow.get_external_workflow_handle("other").signal(variant(4)))
                group.create_task(workflow.get_external_workflow_handle(variant(5)).cancel())

        text = mismatch(second, scenario)
        assert "differs" in text and "'a'" in text and "'b'" in text, name


def test_durations_inputs_and_options_may_change() -> None:
    @workflow.defn(name="order")
    async def changed() -> None:
        await workflow.execute_activity("reserve", args=[1, 2, 3], schedule_to_close_timeout=timedelta(days=1))
        await workflow.sleep(500)

    recorded().replay_all(WorkflowDefinition.must_be(changed)).close()


def test_the_failure_is_reported_as_nondeterminism_and_absorbs() -> None:
    @workflow.defn(name="order")
    async def changed() -> None:
        await charge("o")

    scenario = recorded()
    scenario.definition = WorkflowDefinition.must_be(changed)
    scenario.open_task()
    run = scenario.fresh_run()
    run.begin(scenario.poll_response())
    run.feed(scenario.events, last=True)
    outcome = run.outcome()
    assert isinstance(outcome, TaskFailed)
    assert outcome.cause == m.WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_NON_DETERMINISTIC_ERROR
    assert "ActivityTaskScheduled" in outcome.failure.message
    run.feed(scenario.events, last=True)
    assert run.outcome() is outcome
    assert run.query(m.WorkflowQuery(query_type="__stack_trace")).error_message.startswith("the workflow task fails")
    run.close()
    run.close()


def test_the_live_task_after_a_mismatch_in_the_cache_is_refused_too() -> None:
    scenario = Scenario(original)
    scenario.task()
    scenario.events[4].activity_task_scheduled_event_attributes.activity_type.name = "something else"
    scenario.complete("1", "x")
    with pytest.raises(NondeterminismError, match="something else"):
        scenario.task()


def test_damaged_histories_are_named() -> None:
    scenario = recorded()
    gap = scenario.fresh_run()
    gap.begin(scenario.poll_response())
    gap.feed([*scenario.events[:4], *scenario.events[5:]], last=True)
    outcome = gap.outcome()
    assert isinstance(outcome, TaskFailed) and "gap" in str(outcome.error)

    scenario = recorded()
    scenario.events[6].activity_task_completed_event_attributes.scheduled_event_id = 3
    with pytest.raises(NondeterminismError, match="nothing in this run waits for"):
        scenario.replay_all()


def test_events_of_an_unknown_kind() -> None:
    def with_unknown(ignorable: bool) -> Scenario:
        scenario = Scenario(original)
        scenario.task()
        scenario.add(E.EVENT_TYPE_NEXUS_OPERATION_STARTED).worker_may_ignore = ignorable
        scenario.complete("1", "x")
        return scenario

    assert with_unknown(True).task() == ["timer 1 5000ms"]
    with pytest.raises(NondeterminismError, match="does not know"):
        with_unknown(False).task()


def test_a_loop_that_never_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.replay.loop.MAX_CALLBACKS", 1000)

    @workflow.defn
    async def spins() -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(NondeterminismError, match="never waits"):
        Scenario(spins).task()


def test_the_first_of_several_errors_is_told() -> None:
    @workflow.defn(name="order")
    async def breaks() -> None:
        await reserve("o")
        raise NondeterminismError("the first")

    scenario = recorded()
    scenario.fire("1")
    scenario.task()
    with pytest.raises(NondeterminismError, match="the first"):
        scenario.replay_all(WorkflowDefinition.must_be(breaks))
