"""Versioned workers, unmodified: pinned workflows stay with their version, others move on with the traffic."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from temporalio import activity, workflow
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.deployment.v1 import WorkerDeploymentVersion as VersionMessage
from temporalio.api.enums.v1 import VersionDrainageStatus
from temporalio.api.workflow.v1 import WorkflowExecutionOptions
from temporalio.api.workflowservice.v1 import (
    DescribeWorkerDeploymentRequest,
    DescribeWorkerDeploymentResponse,
    DescribeWorkerDeploymentVersionRequest,
    SetWorkerDeploymentCurrentVersionRequest,
    SetWorkerDeploymentRampingVersionRequest,
    UpdateWorkflowExecutionOptionsRequest,
)
from temporalio.client import Client, WorkflowHandle
from temporalio.common import PinnedVersioningOverride, RawValue, VersioningBehavior, WorkerDeploymentVersion
from temporalio.service import RPCError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker, WorkerDeploymentConfig

QUEUE = "versions"
SOON = timedelta(seconds=10)


class Wait:
    def __init__(self) -> None:
        self.done = False

    @workflow.signal
    def go_on(self) -> None:
        self.done = True


class Pinned(Wait):
    build = ""

    async def tell(self) -> str:
        await workflow.wait_condition(lambda: self.done)
        where = await workflow.execute_activity("where", start_to_close_timeout=SOON, result_type=str)
        return f"{self.build} {where}"


class Generation(Wait):
    """Goes on as new when another version gets the traffic, and moves there if asked to."""

    build = ""

    async def generations(self, upgrades: bool, number: int) -> str:
        version = workflow.info().get_current_deployment_version()
        assert version is not None
        assert version.build_id == self.build
        if number == 2:
            return self.build
        await workflow.wait_condition(lambda: self.done)
        assert workflow.info().is_target_worker_deployment_version_changed()
        behavior = workflow.ContinueAsNewVersioningBehavior.AUTO_UPGRADE if upgrades else None
        workflow.continue_as_new(args=[upgrades, 2], initial_versioning_behavior=behavior)


@workflow.defn(name="Generation", versioning_behavior=VersioningBehavior.PINNED)
class FirstGeneration(Generation):
    build = "1"

    @workflow.run
    async def run(self, upgrades: bool, number: int) -> str:
        return await self.generations(upgrades, number)


@workflow.defn(name="Generation", versioning_behavior=VersioningBehavior.PINNED)
class SecondGeneration(Generation):
    build = "2"

    @workflow.run
    async def run(self, upgrades: bool, number: int) -> str:
        return await self.generations(upgrades, number)


@workflow.defn(dynamic=True)
class FirstParent:
    """What it does by default says its worker."""

    @workflow.run
    async def run(self, _: Sequence[RawValue]) -> str:
        child = await workflow.start_child_workflow("Pinned", id=f"{workflow.info().workflow_id}-child")
        await child.signal("go_on")
        result: str = await child
        return f"1 {result}"


@workflow.defn(name="Pinned", versioning_behavior=VersioningBehavior.PINNED)
class FirstPinned(Pinned):
    build = "1"

    @workflow.run
    async def run(self) -> str:
        return await self.tell()


@workflow.defn(name="Pinned", versioning_behavior=VersioningBehavior.PINNED)
class SecondPinned(Pinned):
    build = "2"

    @workflow.run
    async def run(self) -> str:
        return await self.tell()


@workflow.defn(name="Moving", versioning_behavior=VersioningBehavior.AUTO_UPGRADE)
class FirstMoving(Wait):
    @workflow.run
    async def run(self) -> str:
        await workflow.wait_condition(lambda: self.done)
        return "1"


@workflow.defn(name="Moving", versioning_behavior=VersioningBehavior.AUTO_UPGRADE)
class SecondMoving(Wait):
    @workflow.run
    async def run(self) -> str:
        await workflow.wait_condition(lambda: self.done)
        return "2"


WORKFLOWS = {
    "1": [FirstPinned, FirstMoving, FirstGeneration, FirstParent],
    "2": [SecondPinned, SecondMoving, SecondGeneration],
}


def worker(client: Client, build: str) -> Worker:
    @activity.defn
    async def where() -> str:
        return build

    return Worker(
        client,
        task_queue=QUEUE,
        workflows=WORKFLOWS[build],
        activities=[where],
        workflow_runner=UnsandboxedWorkflowRunner(),
        deployment_config=WorkerDeploymentConfig(
            version=WorkerDeploymentVersion(deployment_name="shop", build_id=build),
            use_worker_versioning=True,
            default_versioning_behavior=VersioningBehavior.PINNED,
        ),
    )


async def polled(client: Client, versions: int) -> int:
    """How many queues the versions of the deployment have."""
    found = 0
    for number in range(versions):
        request = DescribeWorkerDeploymentVersionRequest(
            namespace="default", deployment_version=VersionMessage(deployment_name="shop", build_id=str(number + 1))
        )
        try:
            described = await client.workflow_service.describe_worker_deployment_version(request)
        except RPCError:
            return 0
        found += len(described.worker_deployment_version_info.task_queue_infos)
    return found


async def describe(client: Client, versions: int) -> DescribeWorkerDeploymentResponse:
    """The deployment, once it has so many versions, whose workers ask for tasks of both kinds."""
    while await polled(client, versions) < 2 * versions:
        pass
    while True:
        try:
            described = await client.workflow_service.describe_worker_deployment(
                DescribeWorkerDeploymentRequest(namespace="default", deployment_name="shop")
            )
        except RPCError:
            continue
        if len(described.worker_deployment_info.version_summaries) >= versions:
            return described


async def set_current(client: Client, build: str, token: bytes) -> None:
    request = SetWorkerDeploymentCurrentVersionRequest(
        namespace="default", deployment_name="shop", build_id=build, conflict_token=token
    )
    await client.workflow_service.set_worker_deployment_current_version(request)


async def test_versions_follow_one_another(client: Client) -> None:
    async with worker(client, "1"), worker(client, "2"):
        described = await describe(client, 2)
        await set_current(client, "1", described.conflict_token)
        stays = await client.start_workflow("Pinned", id="stays", task_queue=QUEUE, result_type=str)
        moves = await client.start_workflow("Moving", id="moves", task_queue=QUEUE, result_type=str)
        for handle in (stays, moves):
            while (await handle.describe()).history_length < 4:
                pass
        await set_current(client, "2", (await describe(client, 2)).conflict_token)
        later = await client.start_workflow("Pinned", id="later", task_queue=QUEUE, result_type=str)
        override = PinnedVersioningOverride(WorkerDeploymentVersion(deployment_name="shop", build_id="1"))
        forced = await client.start_workflow(
            "Moving", id="forced", task_queue=QUEUE, result_type=str, versioning_override=override
        )
        for handle in (stays, moves, later, forced):
            await handle.signal("go_on")
        assert await stays.result() == "1 1"
        assert await moves.result() == "2"
        assert await later.result() == "2 2"
        assert await forced.result() == "1"
        info = (await stays.describe()).raw_description.workflow_execution_info.versioning_info
        assert info.deployment_version == VersionMessage(deployment_name="shop", build_id="1")


async def first_task_done(handle: WorkflowHandle[Any, Any]) -> None:
    while (await handle.describe()).history_length < 4:
        pass


async def test_successors_stay_or_move(client: Client) -> None:
    async with worker(client, "1"), worker(client, "2"):
        await set_current(client, "1", (await describe(client, 2)).conflict_token)
        handles = [
            await client.start_workflow("Generation", args=[upgrades, 1], id=f"gen-{upgrades}", task_queue=QUEUE)
            for upgrades in (True, False)
        ]
        for handle in handles:
            await first_task_done(handle)
        await set_current(client, "2", b"")
        for handle in handles:
            await handle.signal("go_on")
        assert [await handle.result() for handle in handles] == ["2", "1"]


async def test_children_of_pinned_workflows_are_of_their_version(client: Client) -> None:
    async with worker(client, "1"), worker(client, "2"):
        await set_current(client, "2", (await describe(client, 2)).conflict_token)
        override = PinnedVersioningOverride(WorkerDeploymentVersion(deployment_name="shop", build_id="1"))
        result = await client.execute_workflow("Any", id="any", task_queue=QUEUE, versioning_override=override)
        assert result == "1 1 1"
        info = (await client.get_workflow_handle("any").describe()).raw_description.workflow_execution_info
        assert info.versioning_info.behavior == VersioningBehavior.PINNED
        completed = [
            event.workflow_task_completed_event_attributes
            async for event in client.get_workflow_handle("any").fetch_history_events()
            if event.HasField("workflow_task_completed_event_attributes")
        ]
        assert {each.deployment_version.build_id for each in completed} == {"1"}
        assert {each.worker_deployment_name for each in completed} == {"shop"}


async def test_an_override_moves_an_open_workflow(client: Client) -> None:
    async with worker(client, "1"), worker(client, "2"):
        await set_current(client, "1", (await describe(client, 2)).conflict_token)
        handle = await client.start_workflow("Moving", id="moved", task_queue=QUEUE)
        await first_task_done(handle)
        options = UpdateWorkflowExecutionOptionsRequest(
            namespace="default",
            workflow_execution=WorkflowExecution(workflow_id="moved"),
            workflow_execution_options=WorkflowExecutionOptions(
                versioning_override=PinnedVersioningOverride(
                    WorkerDeploymentVersion(deployment_name="shop", build_id="2")
                )._to_proto()
            ),
            update_mask=FieldMask(paths=["versioning_override"]),
        )
        await client.workflow_service.update_workflow_execution_options(options)
        await handle.signal("go_on")
        assert await handle.result() == "2"


async def test_a_ramp_of_all_and_of_nothing(client: Client) -> None:
    async def start(workflow_id: str) -> Any:
        handle = await client.start_workflow("Pinned", id=workflow_id, task_queue=QUEUE)
        await handle.signal("go_on")
        return await handle.result()

    async def ramp(percentage: float) -> None:
        request = SetWorkerDeploymentRampingVersionRequest(
            namespace="default", deployment_name="shop", build_id="2", percentage=percentage
        )
        await client.workflow_service.set_worker_deployment_ramping_version(request)

    async with worker(client, "1"), worker(client, "2"):
        await set_current(client, "1", (await describe(client, 2)).conflict_token)
        await ramp(100)
        assert await start("all") == "2 2"
        await ramp(0)
        assert await start("nothing") == "1 1"
        await ramp(50)
        assert {await start(f"half{number}") for number in range(20)} == {"1 1", "2 2"}
        described = await describe(client, 2)
        assert described.worker_deployment_info.routing_config.ramping_version_percentage == 50


async def test_a_version_left_by_the_traffic_drains(client: Client) -> None:
    async def drainage() -> int:
        request = DescribeWorkerDeploymentVersionRequest(
            namespace="default", deployment_version=VersionMessage(deployment_name="shop", build_id="1")
        )
        described = await client.workflow_service.describe_worker_deployment_version(request)
        return described.worker_deployment_version_info.drainage_info.status

    async with worker(client, "1"), worker(client, "2"):
        await set_current(client, "1", (await describe(client, 2)).conflict_token)
        assert await drainage() == VersionDrainageStatus.VERSION_DRAINAGE_STATUS_UNSPECIFIED
        handle = await client.start_workflow("Pinned", id="drains", task_queue=QUEUE)
        await first_task_done(handle)
        await set_current(client, "2", b"")
        assert await drainage() == VersionDrainageStatus.VERSION_DRAINAGE_STATUS_DRAINING
        found = [each.id async for each in client.list_workflows('TemporalWorkerDeploymentVersion = "shop:1"')]
        assert found == ["drains"]
        await handle.signal("go_on")
        await handle.result()
        assert await drainage() == VersionDrainageStatus.VERSION_DRAINAGE_STATUS_DRAINED


async def test_workers_that_come_after_their_version_is_chosen(client: Client) -> None:
    request = SetWorkerDeploymentCurrentVersionRequest(
        namespace="default", deployment_name="shop", build_id="1", allow_no_pollers=True
    )
    await client.workflow_service.set_worker_deployment_current_version(request)
    handle = await client.start_workflow("Pinned", id="early", task_queue=QUEUE)
    await handle.signal("go_on")
    async with worker(client, "1"):
        assert await handle.result() == "1 1"
