"""Deleting workflows and changing their options."""

from __future__ import annotations

import pytest

from perdure.api import StatusCode
from perdure.api import messages as m
from perdure.engine import EngineConfig
from perdure.engine.store.memory import MemoryState, MemoryStore
from tests.service.support import NAMESPACE, Driver, complete_workflow, refusal, start_child


async def delete(driver: Driver, workflow_id: str = "wf", run_id: str = "") -> None:
    request = m.DeleteWorkflowExecutionRequest(namespace=NAMESPACE)
    request.workflow_execution.workflow_id = workflow_id
    request.workflow_execution.run_id = run_id
    await driver.service.delete_workflow_execution(request)


async def listed(driver: Driver) -> list[str]:
    response = await driver.service.list_workflow_executions(m.ListWorkflowExecutionsRequest(namespace=NAMESPACE))
    return [info.execution.run_id for info in response.executions]


async def assert_gone(driver: Driver, run_id: str) -> None:
    assert (await refusal(driver.describe(run_id=run_id))).code is StatusCode.NOT_FOUND
    assert (await refusal(driver.history(run_id=run_id))).code is StatusCode.NOT_FOUND
    assert run_id not in await listed(driver)


# -- deleting


async def test_a_closed_run_goes_at_once(driver: Driver) -> None:
    run_id = await driver.start()
    await driver.step(complete_workflow())
    await delete(driver)
    await assert_gone(driver, run_id)
    assert (await refusal(driver.describe())).code is StatusCode.NOT_FOUND
    assert (await refusal(delete(driver))).code is StatusCode.NOT_FOUND
    await driver.settle()


async def test_an_open_run_is_terminated_and_goes(driver: Driver) -> None:
    run_id = await driver.start()
    task = await driver.poll()
    await delete(driver)
    assert (await refusal(driver.complete(task, complete_workflow()))).code is StatusCode.NOT_FOUND
    await assert_gone(driver, run_id)
    await driver.settle()
    reused = m.WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE
    assert await driver.start(workflow_id_reuse_policy=reused) != run_id


async def test_only_the_run_that_is_named_goes(driver: Driver) -> None:
    first = await driver.start()
    await driver.step(complete_workflow())
    second = await driver.start()
    await delete(driver, run_id=first)
    await assert_gone(driver, first)
    assert (await driver.describe()).workflow_execution_info.execution.run_id == second
    third_id = await driver.start("other")
    await delete(driver)
    await assert_gone(driver, second)
    assert await listed(driver) == [third_id]


async def test_earlier_runs_stay_when_the_current_one_goes(driver: Driver) -> None:
    first = await driver.start()
    await driver.step(complete_workflow())
    await driver.start()
    await delete(driver)
    assert (await refusal(driver.describe())).code is StatusCode.NOT_FOUND
    assert await driver.status(run_id=first) == "COMPLETED"
    await driver.start()
    assert await driver.status() == "RUNNING"
    await driver.settle()


async def test_a_parent_hears_of_its_child_before_the_child_goes(driver: Driver) -> None:
    await driver.start("parent")
    await driver.step(start_child("child", queue="elsewhere"))
    await driver.rest()
    await delete(driver, "child")
    await driver.rest()
    assert "ChildWorkflowExecutionTerminated" in await driver.event_names("parent")
    assert (await refusal(driver.describe("child"))).code is StatusCode.NOT_FOUND
    await driver.settle()


async def test_the_children_of_a_deleted_parent_follow_their_policy(driver: Driver) -> None:
    await driver.start("parent")
    await driver.step(start_child("child", queue="elsewhere"))
    await driver.rest()
    await delete(driver, "parent")
    await driver.settle()
    assert (await refusal(driver.describe("parent"))).code is StatusCode.NOT_FOUND
    assert await driver.status("child") == "TERMINATED"


async def test_a_deletion_needs_a_workflow_id_and_a_namespace(driver: Driver) -> None:
    assert (await refusal(delete(driver, ""))).code is StatusCode.INVALID_ARGUMENT
    assert (await refusal(delete(driver, "nobody"))).code is StatusCode.NOT_FOUND
    assert (await refusal(delete(driver, "nobody", "no-run"))).code is StatusCode.NOT_FOUND


@pytest.mark.parametrize("erase_closed", [True, False])
async def test_a_deletion_outlives_the_engine(erase_closed: bool) -> None:
    """The engine dies between the commit that marks the run and the one that erases it."""
    state = MemoryState()
    config = EngineConfig(erase_closed=erase_closed)
    store = MemoryStore(state)
    kept: list[MemoryState] = []
    store.after_commit = lambda number, batch: kept.append(store.snapshot())
    async with Driver(store, config=config) as driver:
        await driver.start()
        marked = len(kept)
        await delete(driver)
    async with Driver(MemoryStore(kept[marked]), config=config) as driver:
        await driver.settle()
        assert (await refusal(driver.describe())).code is StatusCode.NOT_FOUND
        assert await listed(driver) == []


# -- options


def options(**fields: object) -> m.WorkflowExecutionOptions:
    return m.WorkflowExecutionOptions(**fields)  # type: ignore[arg-type]


AUTO = m.VersioningOverride(auto_upgrade=True)
PINNED = m.VersioningOverride(
    pinned=m.VersioningOverride.PinnedOverride(
        behavior=m.VersioningOverride.PinnedOverrideBehavior.PINNED_OVERRIDE_BEHAVIOR_PINNED,
        version=m.WorkerDeploymentVersion(deployment_name="d", build_id="b"),
    )
)


async def update(driver: Driver, asked: m.WorkflowExecutionOptions, *mask: str) -> m.WorkflowExecutionOptions:
    request = m.UpdateWorkflowExecutionOptionsRequest(
        namespace=NAMESPACE, workflow_execution_options=asked, identity="operator"
    )
    request.workflow_execution.workflow_id = "wf"
    request.update_mask.paths.extend(mask)
    response = await driver.service.update_workflow_execution_options(request)
    assert response.update_time.ToMilliseconds() == driver.clock.now_ms()
    return response.workflow_execution_options


async def test_options_change_as_the_mask_says(driver: Driver) -> None:
    await driver.start(priority=m.Priority(priority_key=2, fairness_key="a"))
    assert (await update(driver, options(versioning_override=PINNED), "versioning_override")) == options(
        versioning_override=PINNED, priority=m.Priority(priority_key=2, fairness_key="a")
    )
    found = await update(
        driver, options(priority=m.Priority(priority_key=4, fairness_key="no")), "priority.priority_key"
    )
    assert found.priority == m.Priority(priority_key=4, fairness_key="a")
    assert found.versioning_override == PINNED
    found = await update(driver, options(versioning_override=AUTO), "versioningOverride", "priority")
    assert found == options(versioning_override=AUTO)
    found = await update(driver, options(), "versioning_override")
    assert found == options()
    attributes = [
        event.workflow_execution_options_updated_event_attributes
        for event in await driver.history()
        if event.event_type == m.EventType.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED
    ]
    assert [each.identity for each in attributes] == ["operator"] * 4
    assert attributes[0].versioning_override == PINNED and not attributes[0].HasField("priority")
    assert attributes[1].priority == m.Priority(priority_key=4, fairness_key="a")
    assert attributes[2].HasField("priority") and attributes[2].priority == m.Priority()
    assert attributes[3].unset_versioning_override
    await driver.settle()


async def test_what_holds_already_changes_nothing(driver: Driver) -> None:
    await driver.start(priority=m.Priority(priority_key=2))
    before = await driver.event_names()
    assert (await update(driver, options(priority=m.Priority(priority_key=2)), "priority")).priority.priority_key == 2
    await update(driver, options())
    assert await driver.event_names() == before


async def test_a_change_during_a_task_waits_for_its_end(driver: Driver) -> None:
    await driver.start()
    task = await driver.poll()
    await update(driver, options(priority=m.Priority(priority_key=1)), "priority")
    assert (await driver.event_names())[-1] == "WorkflowTaskScheduled"
    await driver.complete(task)
    assert (await driver.event_names())[-2:] == ["WorkflowExecutionOptionsUpdated", "WorkflowTaskScheduled"]
    await driver.step(complete_workflow())
    await driver.settle()


@pytest.mark.parametrize(
    ("asked", "mask", "code"),
    [
        (options(), "nonsense", StatusCode.INVALID_ARGUMENT),
        (options(versioning_override=PINNED), "versioning_override.pinned", StatusCode.INVALID_ARGUMENT),
        (options(priority=m.Priority(priority_key=-1)), "priority", StatusCode.INVALID_ARGUMENT),
        (options(priority=m.Priority()), "priority.colour", StatusCode.INVALID_ARGUMENT),
        (options(), "time_skipping_config", StatusCode.UNIMPLEMENTED),
        (
            options(versioning_override=m.VersioningOverride(pinned=m.VersioningOverride.PinnedOverride())),
            "versioning_override",
            StatusCode.INVALID_ARGUMENT,
        ),
        (options(versioning_override=m.VersioningOverride()), "versioning_override", StatusCode.INVALID_ARGUMENT),
        (
            options(
                versioning_override=m.VersioningOverride(
                    behavior=m.VersioningBehavior.VERSIONING_BEHAVIOR_PINNED,
                )
            ),
            "versioning_override",
            StatusCode.INVALID_ARGUMENT,
        ),
        (
            options(
                versioning_override=m.VersioningOverride(
                    one_time=m.VersioningOverride.OneTimeOverride(target_deployment_version=PINNED.pinned.version)
                )
            ),
            "versioning_override",
            StatusCode.UNIMPLEMENTED,
        ),
    ],
)
async def test_options_that_cannot_be_set(
    driver: Driver, asked: m.WorkflowExecutionOptions, mask: str, code: StatusCode
) -> None:
    await driver.start()
    assert (await refusal(update(driver, asked, mask))).code is code
    assert await driver.event_names() == ["WorkflowExecutionStarted", "WorkflowTaskScheduled"]


async def test_options_of_a_closed_run_stay(driver: Driver) -> None:
    await driver.start()
    await driver.step(complete_workflow())
    error = await refusal(update(driver, options(priority=m.Priority(priority_key=2)), "priority"))
    assert error.code is StatusCode.NOT_FOUND
