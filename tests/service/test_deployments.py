"""Worker deployments: versions come with polls, people say which gets the traffic, and tasks follow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from perdure.api import StatusCode
from perdure.api import messages as m
from perdure.engine import EngineConfig
from perdure.engine.store.memory import MemoryStore
from tests.service.support import (
    QUEUE,
    STICKY,
    Driver,
    complete_workflow,
    continue_as_new,
    payloads,
    refusal,
    schedule_activity,
    start_child,
    start_timer,
    text_of,
)

PINNED = m.VersioningBehavior.VERSIONING_BEHAVIOR_PINNED
AUTO = m.VersioningBehavior.VERSIONING_BEHAVIOR_AUTO_UPGRADE
WORKFLOW = m.TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW
Status = m.WorkerDeploymentVersionStatus


@pytest.fixture
async def far() -> AsyncIterator[Driver]:
    """An engine whose workers are other processes."""
    async with Driver(MemoryStore(), in_process=False) as driver:
        yield driver


def options(build: str, deployment: str = "shop") -> m.WorkerDeploymentOptions:
    return m.WorkerDeploymentOptions(
        deployment_name=deployment,
        build_id=build,
        worker_versioning_mode=m.WorkerVersioningMode.WORKER_VERSIONING_MODE_VERSIONED,
    )


async def poll(driver: Driver, build: str, queue: str = QUEUE) -> m.PollWorkflowTaskQueueResponse:
    """A workflow task for a version; empty if there is none now."""
    request = driver.poll_request(queue)
    request.deployment_options.CopyFrom(options(build))
    call = driver.service.poll_workflow_task_queue(request)
    return await driver._soon(call, m.PollWorkflowTaskQueueResponse())


async def poll_activity(driver: Driver, build: str, queue: str = QUEUE) -> m.PollActivityTaskQueueResponse:
    request = m.PollActivityTaskQueueRequest(namespace="default", identity="far")
    request.task_queue.name = queue
    request.deployment_options.CopyFrom(options(build))
    call = driver.service.poll_activity_task_queue(request)
    return await driver._soon(call, m.PollActivityTaskQueueResponse())


async def complete(
    driver: Driver,
    task: m.PollWorkflowTaskQueueResponse,
    build: str,
    *commands: m.Command,
    behavior: int = PINNED,
    sticky: str = "",
) -> None:
    await driver.complete(
        task, *commands, deployment_options=options(build), versioning_behavior=behavior, sticky=sticky
    )


async def set_current(driver: Driver, build: str, **fields: object) -> m.SetWorkerDeploymentCurrentVersionResponse:
    request = m.SetWorkerDeploymentCurrentVersionRequest(
        namespace="default",
        deployment_name="shop",
        build_id=build,
        **fields,  # type: ignore[arg-type]
    )
    return await driver.service.set_worker_deployment_current_version(request)


async def ramp(driver: Driver, build: str, percentage: float) -> m.SetWorkerDeploymentRampingVersionResponse:
    request = m.SetWorkerDeploymentRampingVersionRequest(
        namespace="default", deployment_name="shop", build_id=build, percentage=percentage
    )
    return await driver.service.set_worker_deployment_ramping_version(request)


async def describe(driver: Driver) -> m.DescribeWorkerDeploymentResponse:
    request = m.DescribeWorkerDeploymentRequest(namespace="default", deployment_name="shop")
    return await driver.service.describe_worker_deployment(request)


async def statuses(driver: Driver) -> dict[str, str]:
    info = (await describe(driver)).worker_deployment_info
    return {
        each.deployment_version.build_id: Status.Name(each.status).removeprefix("WORKER_DEPLOYMENT_VERSION_STATUS_")
        for each in info.version_summaries
    }


async def test_a_task_taken_where_it_does_not_belong_is_brought_to_where_it_does(far: Driver) -> None:
    """Where workers are versioned, a poll of a normal queue may take a sticky task, if both queues have one name."""
    await poll(far, "1", queue="elsewhere")
    await far.poll(STICKY, sticky=True)
    await far.start()
    await far.step(sticky=STICKY)
    await far.signal()
    assert not (await far.poll(STICKY)).task_token
    task = await far.poll()
    assert task.task_token and task.history.events[0].event_id == 1
    await far.complete(task, complete_workflow())


async def test_a_version_comes_with_its_first_poll(far: Driver) -> None:
    assert (await refusal(describe(far))).code is StatusCode.NOT_FOUND
    await poll(far, "1")
    await poll(far, "2")
    await poll_activity(far, "2")
    assert await statuses(far) == {"1": "INACTIVE", "2": "INACTIVE"}
    about = m.DescribeWorkerDeploymentVersionRequest(namespace="default", report_task_queue_stats=True)
    about.deployment_version.CopyFrom(m.WorkerDeploymentVersion(deployment_name="shop", build_id="2"))
    described = await far.service.describe_worker_deployment_version(about)
    assert len(described.version_task_queues) == 2
    listed = await far.service.list_worker_deployments(m.ListWorkerDeploymentsRequest(namespace="default"))
    assert [each.name for each in listed.worker_deployments] == ["shop"]
    about.deployment_version.build_id = "3"
    assert (await refusal(far.service.describe_worker_deployment_version(about))).code is StatusCode.NOT_FOUND
    bad = far.poll_request()
    bad.deployment_options.CopyFrom(options("1", "a.b"))
    assert (await refusal(far.service.poll_workflow_task_queue(bad))).code is StatusCode.INVALID_ARGUMENT


async def test_deployments_outlive_a_restart(far: Driver) -> None:
    await poll(far, "1")
    await set_current(far, "1")
    assert isinstance(far.store, MemoryStore)
    async with Driver(MemoryStore(far.store.snapshot()), clock=far.clock, seed=2, in_process=False) as after:
        assert await statuses(after) == {"1": "CURRENT"}
        await after.start()
        assert not (await after.poll()).task_token, "workers without a version get nothing"
        assert (await poll(after, "1")).task_token


async def test_traffic_goes_to_the_current_version(far: Driver) -> None:
    await poll(far, "1")
    await poll(far, "2")
    await far.start("before")
    assert not (await poll(far, "1")).task_token, "no version is current yet"
    assert (await far.poll()).task_token
    await far.start("waits")
    await set_current(far, "1")
    await far.rest()
    assert not (await far.poll()).task_token
    task = await poll(far, "1")
    assert task.workflow_execution.workflow_id == "waits", "what waits is routed anew"
    await complete(far, task, "1", complete_workflow())
    await far.start("later")
    assert not (await poll(far, "2")).task_token
    assert (await poll(far, "1")).task_token
    await set_current(far, "")
    await far.start("last")
    assert (await far.poll()).workflow_execution.workflow_id == "last"


async def test_pinned_runs_stay_and_others_move_on(far: Driver) -> None:
    await poll(far, "1")
    await poll(far, "2")
    await set_current(far, "1")
    for workflow_id, behavior in (("pinned", PINNED), ("moves", AUTO)):
        await far.start(workflow_id)
        await complete(far, await poll(far, "1"), "1", start_timer("t", 3600), behavior=behavior)
    await far.poll(STICKY, sticky=True)
    await set_current(far, "2")
    await far.signal("pinned")
    await far.signal("moves")
    assert (await poll(far, "2")).workflow_execution.workflow_id == "moves"
    task = await poll(far, "1")
    assert task.workflow_execution.workflow_id == "pinned"
    info = (await far.describe("pinned")).workflow_execution_info
    assert info.versioning_info.behavior == PINNED
    assert info.versioning_info.deployment_version.build_id == "1"
    assert text_of_attribute(info, "TemporalWorkerDeploymentVersion") == '"shop:1"'
    assert await statuses(far) == {"1": "DRAINING", "2": "CURRENT"}
    await complete(far, task, "1", complete_workflow())
    assert await statuses(far) == {"1": "DRAINED", "2": "CURRENT"}


def text_of_attribute(info: m.WorkflowExecutionInfo, name: str) -> str:
    return info.search_attributes.indexed_fields[name].data.decode()


async def test_a_sticky_run_leaves_its_worker_when_it_moves_on(far: Driver) -> None:
    await poll(far, "1")
    await poll(far, "2")
    await set_current(far, "1")
    await far.start()
    task = await poll(far, "1")
    await far.poll(STICKY, sticky=True)
    await complete(far, task, "1", start_timer("t", 3600), behavior=AUTO, sticky=STICKY)
    await far.signal()
    assert (await far.poll(STICKY, sticky=True)).task_token
    far.clock.advance_by(10_000)
    await far.rest()
    await complete(far, await poll(far, "1"), "1", start_timer("u", 3600), behavior=AUTO, sticky=STICKY)
    await far.poll(STICKY, sticky=True)
    await set_current(far, "2")
    await far.signal()
    assert not (await far.poll(STICKY, sticky=True)).task_token
    task = await poll(far, "2")
    assert task.history.events[0].event_id == 1, "the other version has to see it all"


async def test_a_share_is_ramped(far: Driver) -> None:
    await poll(far, "1")
    await poll(far, "2")
    await set_current(far, "1")
    await ramp(far, "2", 30)
    assert await statuses(far) == {"1": "CURRENT", "2": "RAMPING"}
    config = (await describe(far)).worker_deployment_info.routing_config
    assert (config.ramping_deployment_version.build_id, config.ramping_version_percentage) == ("2", 30)
    for number in range(200):
        await far.start(f"wf{number}")
    ramped = 0
    while (await poll(far, "2")).task_token:
        ramped += 1
    assert 40 <= ramped <= 80
    response = await ramp(far, "", 0)
    assert response.previous_percentage == 30
    assert await statuses(far) == {"1": "CURRENT", "2": "DRAINED"}
    assert (await refusal(ramp(far, "1", 10))).code is StatusCode.FAILED_PRECONDITION
    assert (await refusal(ramp(far, "2", 101))).code is StatusCode.INVALID_ARGUMENT
    await ramp(far, "2", 100)
    await set_current(far, "2")
    assert not (await describe(far)).worker_deployment_info.routing_config.ramping_version


async def test_activities_go_where_their_workflow_belongs(far: Driver) -> None:
    for build in ("1", "2"):
        await poll(far, build)
        await poll_activity(far, build)
    await set_current(far, "1")
    await far.start()
    await complete(far, await poll(far, "1"), "1", schedule_activity("a"), schedule_activity("b", queue="elsewhere"))
    await set_current(far, "2")
    assert not (await poll_activity(far, "2")).task_token
    task = await poll_activity(far, "1")
    assert task.activity_id == "a"
    assert (await far.poll_activity("elsewhere")).activity_id == "b", "nobody's version polls that queue"


async def test_children_and_successors_inherit_a_pin(far: Driver) -> None:
    await poll(far, "1")
    await poll(far, "2")
    await set_current(far, "1")
    await far.start()
    await complete(far, await poll(far, "1"), "1", start_child("child", policy=2))
    await far.rest()
    await set_current(far, "2")
    await far.rest()
    found = {}
    for _ in range(2):
        task = await poll(far, "1")
        found[task.workflow_execution.workflow_id] = task
    started = found["child"].history.events[0].workflow_execution_started_event_attributes
    assert started.inherited_pinned_version.build_id == "1"
    await complete(far, found["wf"], "1", continue_as_new())
    task = await poll(far, "1")
    assert task.workflow_execution.workflow_id == "wf"
    upgrade = continue_as_new()
    upgrade.continue_as_new_workflow_execution_command_attributes.initial_versioning_behavior = (
        m.ContinueAsNewVersioningBehavior.CONTINUE_AS_NEW_VERSIONING_BEHAVIOR_AUTO_UPGRADE
    )
    await complete(far, task, "1", upgrade)
    assert (await poll(far, "2")).workflow_execution.workflow_id == "wf"


async def test_an_override_decides(far: Driver) -> None:
    await poll(far, "1")
    await poll(far, "2")
    await set_current(far, "1")
    override = m.VersioningOverride()
    override.pinned.behavior = m.VersioningOverride.PinnedOverrideBehavior.PINNED_OVERRIDE_BEHAVIOR_PINNED
    override.pinned.version.CopyFrom(m.WorkerDeploymentVersion(deployment_name="shop", build_id="2"))
    await far.start(versioning_override=override)
    assert not (await poll(far, "1")).task_token
    assert (await poll(far, "2")).task_token


async def test_queries_go_to_the_right_version(far: Driver) -> None:
    await poll(far, "1")
    await poll(far, "2")
    await set_current(far, "1")
    await far.start()
    await complete(far, await poll(far, "1"), "1", start_timer("t", 3600))
    await set_current(far, "2")
    query = asyncio.ensure_future(far.query())
    direct = far.poll_request()
    direct.deployment_options.CopyFrom(options("1"))
    task = await far.service.poll_workflow_task_queue(direct)
    answer = m.RespondQueryTaskCompletedRequest(
        namespace="default", task_token=task.task_token, completed_type=1, query_result=payloads("one")
    )
    await far.service.respond_query_task_completed(answer)
    assert text_of((await query).query_result) == "one"


async def test_changes_are_guarded(far: Driver) -> None:
    await poll(far, "1")
    await poll(far, "2")
    assert (await refusal(set_current(far, "3"))).code is StatusCode.NOT_FOUND
    token = (await describe(far)).conflict_token
    first = await set_current(far, "1", conflict_token=token)
    assert first.previous_version == "__unversioned__"
    assert (await refusal(set_current(far, "2", conflict_token=token))).code is StatusCode.FAILED_PRECONDITION
    assert (await set_current(far, "1")).conflict_token == first.conflict_token, "it is so already"
    assert (await set_current(far, "2", conflict_token=first.conflict_token)).previous_version == "shop.1"
    assert (await set_current(far, "", version="shop.1")).previous_deployment_version.build_id == "2"
    manage = m.SetWorkerDeploymentManagerRequest(
        namespace="default", deployment_name="shop", identity="boss", self=True
    )
    await far.service.set_worker_deployment_manager(manage)
    assert (await refusal(set_current(far, "2", identity="other"))).code is StatusCode.FAILED_PRECONDITION
    await set_current(far, "2", identity="boss")
    assert (await describe(far)).worker_deployment_info.manager_identity == "boss"


async def test_a_version_without_workers_gets_no_traffic_by_accident(far: Driver) -> None:
    await poll(far, "1")
    await poll(far, "1", queue="other")
    await set_current(far, "1")
    request = far.start_request()
    request.task_queue.name = "other"
    await far.service.start_workflow_execution(request)
    await poll(far, "2")
    error = await refusal(set_current(far, "2"))
    assert error.code is StatusCode.FAILED_PRECONDITION
    assert "other" in error.message
    await set_current(far, "2", ignore_missing_task_queues=True)
    await set_current(far, "9", allow_no_pollers=True, ignore_missing_task_queues=True)
    assert (await statuses(far))["9"] == "CURRENT"


async def test_metadata_and_deletion(far: Driver) -> None:
    await poll(far, "1")
    await poll(far, "2")
    await set_current(far, "1")
    version = m.WorkerDeploymentVersion(deployment_name="shop", build_id="2")
    update = m.UpdateWorkerDeploymentVersionMetadataRequest(namespace="default", deployment_version=version)
    update.upsert_entries["colour"].data = b'"red"'
    update.upsert_entries["size"].data = b"1"
    await far.service.update_worker_deployment_version_metadata(update)
    update = m.UpdateWorkerDeploymentVersionMetadataRequest(
        namespace="default", deployment_version=version, remove_entries=["size"]
    )
    answer = await far.service.update_worker_deployment_version_metadata(update)
    assert dict(answer.metadata.entries) == {"colour": m.Payload(data=b'"red"')}
    delete = m.DeleteWorkerDeploymentVersionRequest(namespace="default", deployment_version=version)
    error = await refusal(far.service.delete_worker_deployment_version(delete))
    assert error.code is StatusCode.FAILED_PRECONDITION, "it was polled a moment ago"
    far.clock.advance_by(6 * 60_000)
    await far.service.delete_worker_deployment_version(delete)
    assert await statuses(far) == {"1": "CURRENT"}
    delete.deployment_version.build_id = "1"
    assert (await refusal(far.service.delete_worker_deployment_version(delete))).code is StatusCode.FAILED_PRECONDITION
    whole = m.DeleteWorkerDeploymentRequest(namespace="default", deployment_name="shop")
    assert (await refusal(far.service.delete_worker_deployment(whole))).code is StatusCode.FAILED_PRECONDITION
    await set_current(far, "")
    await far.service.delete_worker_deployment_version(delete)
    await far.service.delete_worker_deployment(whole)
    await far.service.delete_worker_deployment(whole)
    assert (await refusal(describe(far))).code is StatusCode.NOT_FOUND


async def test_a_task_queue_tells_its_versions(far: Driver) -> None:
    await poll(far, "1")
    await set_current(far, "1")
    await far.start()
    request = m.DescribeTaskQueueRequest(namespace="default", task_queue_type=WORKFLOW, report_stats=True)
    request.task_queue.name = QUEUE
    described = await far.service.describe_task_queue(request)
    assert described.versioning_info.current_deployment_version.build_id == "1"
    assert described.stats.approximate_backlog_count == 1
    assert [poller.deployment_options.build_id for poller in described.pollers] == ["1"]


def pin_to(build: str) -> m.VersioningOverride:
    override = m.VersioningOverride()
    override.pinned.behavior = m.VersioningOverride.PinnedOverrideBehavior.PINNED_OVERRIDE_BEHAVIOR_PINNED
    override.pinned.version.CopyFrom(m.WorkerDeploymentVersion(deployment_name="shop", build_id=build))
    return override


async def test_an_override_moves_a_task_that_waits(far: Driver) -> None:
    await poll(far, "1")
    await poll(far, "2")
    await set_current(far, "1")
    await far.start()
    request = m.UpdateWorkflowExecutionOptionsRequest(namespace="default")
    request.workflow_execution.workflow_id = "wf"
    request.workflow_execution_options.versioning_override.CopyFrom(pin_to("2"))
    request.update_mask.paths.append("versioning_override")
    await far.service.update_workflow_execution_options(request)
    info = (await far.describe()).workflow_execution_info
    assert text_of_attribute(info, "TemporalWorkerDeploymentVersion") == '"shop:2"'
    assert not (await poll(far, "1")).task_token
    assert (await poll(far, "2")).task_token


async def test_tasks_follow_when_a_chosen_version_begins_to_look_for_them(far: Driver) -> None:
    await poll(far, "1")
    await set_current(far, "1")
    await far.start()
    await complete(far, await poll(far, "1"), "1", schedule_activity("a"))
    assert (await poll_activity(far, "1")).activity_id == "a"


async def test_what_a_retry_and_the_next_cron_run_inherit(far: Driver) -> None:
    await poll(far, "1")
    await poll(far, "2")
    await set_current(far, "1")
    await far.start("cron", cron_schedule="* * * * *")
    far.clock.advance_by(60_000)
    await far.rest()
    await complete(far, await poll(far, "1"), "1", complete_workflow())
    await set_current(far, "2")
    far.clock.advance_by(60_000)
    await far.rest()
    assert (await poll(far, "2")).workflow_execution.workflow_id == "cron", "a pin ends with its run"
    await far.start("kept", cron_schedule="* * * * *", versioning_override=pin_to("1"))
    far.clock.advance_by(60_000)
    await far.rest()
    await complete(far, await poll(far, "1"), "1", complete_workflow())
    far.clock.advance_by(60_000)
    await far.rest()
    assert (await poll(far, "1")).workflow_execution.workflow_id == "kept", "an override doesn't"


async def test_a_successor_may_ask_for_the_ramping_version(far: Driver) -> None:
    await poll(far, "1")
    await poll(far, "2")
    await set_current(far, "1")
    await far.start()
    task = await poll(far, "1")
    started = task.history.events[-1].workflow_task_started_event_attributes
    assert not started.target_worker_deployment_version_changed
    await complete(far, task, "1", start_timer("t", 3600))
    await ramp(far, "2", 0.001)
    await set_current(far, "")
    await far.signal()
    command = continue_as_new()
    command.continue_as_new_workflow_execution_command_attributes.initial_versioning_behavior = (
        m.ContinueAsNewVersioningBehavior.CONTINUE_AS_NEW_VERSIONING_BEHAVIOR_USE_RAMPING_VERSION
    )
    await complete(far, await poll(far, "1"), "1", command)
    assert (await poll(far, "2")).task_token


async def test_eager_starts_are_for_the_version_that_gets_the_traffic(far: Driver) -> None:
    await poll(far, "1")
    await poll(far, "2")
    await set_current(far, "1")
    for build, is_eager in (("1", True), ("2", False)):
        request = far.start_request(f"by{build}", request_eager_execution=True)
        request.eager_worker_deployment_options.CopyFrom(options(build))
        response = await far.service.start_workflow_execution(request)
        assert bool(response.eager_workflow_task.task_token) is is_eager
    assert (await poll(far, "1")).workflow_execution.workflow_id == "by2"


async def test_deployments_go_with_their_namespace(far: Driver) -> None:
    request = m.RegisterNamespaceRequest(namespace="default2")
    request.workflow_execution_retention_period.FromSeconds(86400)
    listing = m.ListWorkerDeploymentsRequest(namespace="default2")
    for _ in range(2):
        await far.service.register_namespace(request)
        assert not (await far.service.list_worker_deployments(listing)).worker_deployments
        asked = far.poll_request()
        asked.namespace = "default2"
        asked.deployment_options.CopyFrom(options("1"))
        await far._soon(far.service.poll_workflow_task_queue(asked), m.PollWorkflowTaskQueueResponse())
        assert len((await far.service.list_worker_deployments(listing)).worker_deployments) == 1
        await far.service.delete_namespace(m.DeleteNamespaceRequest(namespace="default2"))
        await far.rest()


async def test_when_a_version_counts_as_left_by_its_workers_is_a_setting() -> None:
    async with Driver(MemoryStore(), config=EngineConfig(poller_seen_ms=1000), in_process=False) as far:
        await poll(far, "1")
        version = m.WorkerDeploymentVersion(deployment_name="shop", build_id="1")
        delete = m.DeleteWorkerDeploymentVersionRequest(namespace="default", deployment_version=version)
        error = await refusal(far.service.delete_worker_deployment_version(delete))
        assert error.code is StatusCode.FAILED_PRECONDITION
        far.clock.advance_by(1001)
        await far.service.delete_worker_deployment_version(delete)
        assert await statuses(far) == {}
