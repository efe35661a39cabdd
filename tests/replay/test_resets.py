"""Histories that were taken up by a reset: the code goes on, and its chance is another from there on."""

from __future__ import annotations

from perdure import workflow
from perdure.api import messages as m
from perdure.replay.outcome import TaskCompleted
from tests.replay.support import E, Scenario, value_of


@workflow.defn
async def draws() -> list[str]:
    numbers = workflow.random()
    first = [str(workflow.uuid4()), str(numbers.random())]
    await workflow.sleep(60)
    return [*first, str(workflow.uuid4()), str(numbers.random())]


def drawn(run_id: str | None) -> list[str]:
    """What the code draws in all; from its second task on for the run that took it up, if one did."""
    scenario = Scenario(draws)
    scenario.task()
    scenario.fire("1")
    if run_id is not None:
        reset(scenario, run_id)
    scenario.task()
    scenario.check_laws()
    assert isinstance(scenario.outcome, TaskCompleted)
    (command,) = scenario.outcome.commands
    return value_of(command.complete_workflow_execution_command_attributes.result)


def reset(scenario: Scenario, run_id: str) -> None:
    """The failure that a reset ends a history with, as of a task that was handed out."""
    scenario.add(E.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED)
    scenario.add(E.EVENT_TYPE_WORKFLOW_TASK_STARTED)
    failed = scenario.add(E.EVENT_TYPE_WORKFLOW_TASK_FAILED).workflow_task_failed_event_attributes
    failed.cause = m.WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW
    failed.new_run_id = run_id


def test_chance_differs_after_a_reset_and_not_before() -> None:
    plain, once, again = drawn(None), drawn("run-2"), drawn("run-3")
    assert plain[:2] == once[:2] == again[:2]
    assert len({tuple(each[2:]) for each in (plain, once, again)}) == 3
    assert drawn("run-2") == once


def test_a_task_that_failed_for_another_reason_changes_nothing() -> None:
    scenario = Scenario(draws)
    scenario.task()
    scenario.fire("1")
    reset(scenario, "run-2")
    attributes = scenario.events[-1].workflow_task_failed_event_attributes
    attributes.cause = m.WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND
    scenario.task()
    assert isinstance(scenario.outcome, TaskCompleted)
    (command,) = scenario.outcome.commands
    assert value_of(command.complete_workflow_execution_command_attributes.result) == drawn(None)
