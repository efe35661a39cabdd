"""Versioned workers, unmodified: pinned workflows stay with their version, others move on with the traffic."""

from __future__ import annotations

from datetime import timedelta

from temporalio import activity, workflow
from temporalio.api.deployment.v1 import WorkerDeploymentVersion as VersionMessage
from temporalio.api.workflowservice.v1 import (
    DescribeWorkerDeploymentRequest,
    DescribeWorkerDeploymentResponse,
    SetWorkerDeploymentCurrentVersionRequest,
)
from temporalio.client import Client
from temporalio.common import PinnedVersioningOverride, VersioningBehavior, WorkerDeploymentVersion
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


WORKFLOWS = {"1": [FirstPinned, FirstMoving], "2": [SecondPinned, SecondMoving]}


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
            version=WorkerDeploymentVersion(deployment_name="shop", build_id=build), use_worker_versioning=True
        ),
    )


async def describe(client: Client, versions: int) -> DescribeWorkerDeploymentResponse:
    """The deployment, once it has so many versions."""
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
