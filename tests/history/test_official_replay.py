"""An unmodified Temporal SDK replays histories that the machines wrote.

The workflow is what its worker would have run; its commands are given to the scenario by hand. The SDK's core checks
each event against the commands that the code makes, so a wrong order or reference is a non-determinism error.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.client import WorkflowHistory
from temporalio.exceptions import ActivityError
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner

from perdure.api import messages as m
from perdure.engine import history as h
from tests.history.scenario import (
    Scenario,
    app_failure,
    cancel_timer,
    finish,
    marker,
    payloads,
    schedule,
    signal_other,
    start_child,
    timer,
)

SPAN = timedelta(seconds=10)


@workflow.defn(name="order")
class Order:
    def __init__(self) -> None:
        self.signals = 0

    @workflow.signal
    def go(self, amount: int) -> None:
        self.signals += 1

    @workflow.run
    async def run(self, number: int) -> str:
        await workflow.execute_activity("charge", 1, start_to_close_timeout=SPAN)
        patience = asyncio.create_task(workflow.sleep(60))
        await self.attempt("bad", start_to_close_timeout=SPAN)
        await workflow.wait_condition(lambda: self.signals >= 2)
        patience.cancel()
        await workflow.execute_child_workflow("ship", id="child-1")
        await workflow.get_external_workflow_handle("other", run_id="r").signal("hello", 1)
        await self.attempt("late", schedule_to_close_timeout=SPAN)
        return "done"

    async def attempt(self, name: str, **options: timedelta) -> None:
        try:
            await workflow.execute_activity(name, 1, **options)
        except ActivityError:
            pass
        else:
            raise AssertionError(f"{name} was to fail")


def activity(activity_id: str, name: str, **fields: object) -> m.Command:
    return schedule(activity_id, activity_type=m.ActivityType(name=name), **fields)


def a_long_life() -> Scenario:
    """Transient attempts, buffered events, a failing activity, a child, an external signal, a timeout."""
    scenario = Scenario()
    scenario.step(activity("1", "charge"), sticky="s")
    scenario.start_activity("1")
    scenario.complete_activity("1", payloads(b'"ok"'))
    scenario.start_task(sticky=True)
    scenario.fail_task()
    scenario.step(activity("2", "bad"), timer("1", 60), sticky="s")
    scenario.signal("go")
    scenario.start_task()
    scenario.start_activity("2")
    scenario.fail_activity(app_failure("x", non_retryable=True), "2")
    scenario.signal("go")
    scenario.complete()
    scenario.step(start_child("child-1"), cancel_timer("1"))
    (message,) = scenario.state.outbox
    scenario.deliver(message, run_id="child-run")
    scenario.step()
    closing = m.HistoryEvent(event_type=m.EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED)
    closing.workflow_execution_completed_event_attributes.result.CopyFrom(payloads(b'"c"'))
    scenario.take(h.child_closed(scenario.run, message.event_id, closing, "child-run", now_ms=scenario.now_ms))
    scenario.step(signal_other(signal_name="hello", input=payloads(b"1")))
    scenario.deliver(scenario.state.outbox[0])
    scenario.step(activity("3", "late", start_to_close_timeout_s=None, schedule_to_close_timeout_s=10))
    scenario.wait_due()
    return scenario


async def replay_failure(scenario: Scenario) -> Exception | None:
    replayer = Replayer(workflows=[Order], workflow_runner=UnsandboxedWorkflowRunner())
    history = WorkflowHistory("order-1", scenario.events())
    return (await replayer.replay_workflow(history, raise_on_replay_failure=False)).replay_failure


async def test_the_official_sdk_replays_our_histories() -> None:
    scenario = a_long_life()
    scenario.step(finish(payloads(b'"done"')))
    assert await replay_failure(scenario) is None


async def test_the_check_can_fail() -> None:
    scenario = a_long_life()
    scenario.step(marker("unasked"), finish(payloads(b'"done"')))
    assert isinstance(await replay_failure(scenario), workflow.NondeterminismError)
