"""Worker deployments: their versions described, and which of them gets the traffic.

A change is checked against the deployment (its manager, the conflict token, the version, the task queues that would be
left without workers), written, and then tasks that wait are routed anew.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.api.durations import set_timestamp_ms
from perdure.engine.deployments import Deployment, Deployments, Version, make_current, queue_of, ramp, stop_ramping
from perdure.engine.history.versions import key_of, message_of
from perdure.engine.matching.queue import TaskQueue
from perdure.engine.service.base import invalid
from perdure.engine.service.deployment_views import (
    build_of,
    check_token,
    fill,
    named,
    old_name,
    routing,
    summary,
    token,
)
from perdure.engine.service.task_queues import TaskQueueTopic
from perdure.engine.visibility.attributes import KEYWORD
from perdure.engine.visibility.expressions import And, Attribute, In, VisibilityQuery

__all__ = ["DeploymentTopic"]

_PAGE = 100
_WORKFLOW = m.TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW
_PROPAGATED = m.RoutingConfigUpdateState.ROUTING_CONFIG_UPDATE_STATE_COMPLETED
_RUNNING = int(m.WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_RUNNING)

_STATUS = Attribute("ExecutionStatus", KEYWORD)
_VERSION = Attribute("TemporalWorkerDeploymentVersion", KEYWORD)
_BEHAVIOR = Attribute("TemporalWorkflowVersioningBehavior", KEYWORD)

_Change = (
    m.SetWorkerDeploymentCurrentVersionRequest
    | m.SetWorkerDeploymentRampingVersionRequest
    | m.DeleteWorkerDeploymentVersionRequest
)
_Routing = m.SetWorkerDeploymentCurrentVersionRequest | m.SetWorkerDeploymentRampingVersionRequest


class DeploymentTopic(TaskQueueTopic):
    """The calls of worker deployments."""

    # -- looking ---------------------------------------------------------------------------------------------------

    async def describe_worker_deployment(
        self, request: m.DescribeWorkerDeploymentRequest
    ) -> m.DescribeWorkerDeploymentResponse:
        """Raises RpcError NOT_FOUND."""
        self.check(request.namespace)
        deployment = self._deployments.get(request.namespace, request.deployment_name)
        await self._look_for_drained(request.namespace, deployment)
        response = m.DescribeWorkerDeploymentResponse(conflict_token=token(deployment))
        info = response.worker_deployment_info
        info.name = deployment.name
        set_timestamp_ms(info.create_time, deployment.created_ms)
        info.routing_config.CopyFrom(routing(deployment))
        info.last_modifier_identity = deployment.modifier
        info.manager_identity = deployment.manager
        info.routing_config_update_state = _PROPAGATED
        for version in deployment.versions.values():
            info.version_summaries.append(summary(deployment, version, self.clock.now_ms()))
        return response

    async def describe_worker_deployment_version(
        self, request: m.DescribeWorkerDeploymentVersionRequest
    ) -> m.DescribeWorkerDeploymentVersionResponse:
        """Raises RpcError NOT_FOUND."""
        self.check(request.namespace)
        name, build_id = named(request.deployment_version, request.version)
        deployment = self._deployments.get(request.namespace, name)
        version = self._deployments.version(request.namespace, name, build_id)
        await self._look_for_drained(request.namespace, deployment)
        response = m.DescribeWorkerDeploymentVersionResponse()
        info = response.worker_deployment_version_info
        fill(info, deployment, version, self.clock.now_ms())
        info.deployment_name = name
        if version.build_id == deployment.ramping and deployment.is_ramping:
            info.ramp_percentage = deployment.percentage
        set_timestamp_ms(info.routing_changed_time, version.changed_ms or version.created_ms)
        info.metadata.MergeFromString(version.metadata)
        info.last_modifier_identity = version.modifier
        for queue, kind in version.queues:
            line = response.version_task_queues.add(name=queue, type=m.TaskQueueType.ValueType(kind))
            if request.report_task_queue_stats:
                line.stats.CopyFrom(
                    await self.queue_stats(self._parts(request.namespace, key_of(name, build_id), queue, kind))
                )
            info.task_queue_infos.add(name=queue, type=m.TaskQueueType.ValueType(kind))
        return response

    async def list_worker_deployments(self, request: m.ListWorkerDeploymentsRequest) -> m.ListWorkerDeploymentsResponse:
        """In order of name. Raises RpcError INVALID_ARGUMENT (page token)."""
        self.check(request.namespace)
        after = self._open_page(request.namespace, request.next_page_token)
        deployments = self._deployments.of(request.namespace)
        names = [name for name in sorted(deployments) if name > after]
        limit = min(request.page_size, _PAGE) if request.page_size > 0 else _PAGE
        response = m.ListWorkerDeploymentsResponse()
        for name in names[:limit]:
            deployment = deployments[name]
            line = response.worker_deployments.add(name=name, routing_config=routing(deployment))
            set_timestamp_ms(line.create_time, deployment.created_ms)
            latest = max(deployment.versions.values(), key=lambda version: version.created_ms, default=None)
            for field, version in (
                (line.latest_version_summary, latest),
                (line.current_version_summary, deployment.versions.get(deployment.current)),
                (line.ramping_version_summary, deployment.versions.get(deployment.ramping)),
            ):
                if version is not None:
                    field.CopyFrom(summary(deployment, version, self.clock.now_ms()))
        if len(names) > limit:
            response.next_page_token = self.tokens.names_page(f"{request.namespace}\0{names[limit - 1]}")
        return response

    def _open_page(self, namespace: str, token: bytes) -> str:
        of_namespace, _, name = self.tokens.open_names_page(token).partition("\0") if token else (namespace, "", "")
        if of_namespace != namespace:
            raise invalid("the page token is not one of a list of this namespace's deployments")
        return name

    async def _look_for_drained(self, namespace: str, deployment: Deployment) -> None:
        """Note which versions no open run is pinned to any more, once they have lost their traffic."""
        for version in deployment.versions.values():
            if not version.deactivated_ms or version.drained_ms:
                continue
            where = And(
                (
                    In(_STATUS, (_RUNNING,)),
                    In(_VERSION, (f"{deployment.name}:{version.build_id}",)),
                    In(_BEHAVIOR, ("Pinned",)),
                )
            )
            if not await self.shard.store.count_visibility(VisibilityQuery(namespace=namespace, where=where)):
                version.drained_ms = self.clock.now_ms()

    # -- changing --------------------------------------------------------------------------------------------------

    async def set_worker_deployment_current_version(
        self, request: m.SetWorkerDeploymentCurrentVersionRequest
    ) -> m.SetWorkerDeploymentCurrentVersionResponse:
        """Raises RpcError NOT_FOUND, FAILED_PRECONDITION, INVALID_ARGUMENT."""
        self.check(request.namespace)
        name = request.deployment_name
        build_id = build_of(request.build_id, request.version, name)
        deployment = self._to_change(request.namespace, name, request.identity, request.conflict_token, request)
        response = m.SetWorkerDeploymentCurrentVersionResponse(previous_version=old_name(name, deployment.current))
        if deployment.current:
            response.previous_deployment_version.CopyFrom(message_of(key_of(name, deployment.current)))
        if build_id != deployment.current or not deployment.revision:
            self._check_version(request.namespace, deployment, build_id, request)

            def change(now_ms: int) -> None:
                make_current(deployment, build_id, now_ms)

            await self._change(request.namespace, deployment, request.identity, change, reroute=True)
        response.conflict_token = token(deployment)
        return response

    async def set_worker_deployment_ramping_version(
        self, request: m.SetWorkerDeploymentRampingVersionRequest
    ) -> m.SetWorkerDeploymentRampingVersionResponse:
        """Raises RpcError NOT_FOUND, FAILED_PRECONDITION, INVALID_ARGUMENT."""
        self.check(request.namespace)
        name = request.deployment_name
        if not 0 <= request.percentage <= 100:
            raise invalid("the percentage is between 0 and 100")
        stops = not request.build_id and not request.version and request.percentage == 0
        build_id = build_of(request.build_id, request.version, name)
        deployment = self._to_change(request.namespace, name, request.identity, request.conflict_token, request)
        response = m.SetWorkerDeploymentRampingVersionResponse(previous_percentage=deployment.percentage)
        if deployment.is_ramping:
            response.previous_version = old_name(name, deployment.ramping)
            if deployment.ramping:
                response.previous_deployment_version.CopyFrom(message_of(key_of(name, deployment.ramping)))
        if not stops:
            if build_id == deployment.current and deployment.revision:
                raise _failed(f"version {old_name(name, build_id)!r} is the current version and can't ramp")
            if not deployment.is_ramping or deployment.ramping != build_id:
                self._check_version(request.namespace, deployment, build_id, request)

        def change(now_ms: int) -> None:
            if stops:
                stop_ramping(deployment, now_ms)
            else:
                ramp(deployment, build_id, request.percentage, now_ms)

        await self._change(request.namespace, deployment, request.identity, change, reroute=True)
        response.conflict_token = token(deployment)
        return response

    async def set_worker_deployment_manager(
        self, request: m.SetWorkerDeploymentManagerRequest
    ) -> m.SetWorkerDeploymentManagerResponse:
        """Raises RpcError NOT_FOUND, FAILED_PRECONDITION."""
        self.check(request.namespace)
        deployment = self._deployments.get(request.namespace, request.deployment_name)
        check_token(deployment, request.conflict_token)
        previous = deployment.manager

        def change(_: int) -> None:
            is_self = request.WhichOneof("new_manager_identity") == "self"
            deployment.manager = request.identity if is_self else request.manager_identity

        await self._change(request.namespace, deployment, request.identity, change)
        return m.SetWorkerDeploymentManagerResponse(
            conflict_token=token(deployment), previous_manager_identity=previous
        )

    async def update_worker_deployment_version_metadata(
        self, request: m.UpdateWorkerDeploymentVersionMetadataRequest
    ) -> m.UpdateWorkerDeploymentVersionMetadataResponse:
        """Raises RpcError NOT_FOUND, INVALID_ARGUMENT (too large)."""
        self.check(request.namespace)
        name, build_id = named(request.deployment_version, request.version)
        deployment = self._deployments.get(request.namespace, name)
        version = self._deployments.version(request.namespace, name, build_id)
        metadata = m.VersionMetadata.FromString(version.metadata)
        for key, payload in request.upsert_entries.items():
            metadata.entries[key].CopyFrom(payload)
        for key in request.remove_entries:
            metadata.entries.pop(key, None)
        if metadata.ByteSize() > self.limits.memo_bytes:
            raise invalid(f"the metadata exceeds the limit of {self.limits.memo_bytes} bytes")

        def change(_: int) -> None:
            version.metadata = metadata.SerializeToString(deterministic=True)
            version.modifier = request.identity

        await self._change(request.namespace, deployment, request.identity, change)
        return m.UpdateWorkerDeploymentVersionMetadataResponse(metadata=metadata)

    async def delete_worker_deployment_version(
        self, request: m.DeleteWorkerDeploymentVersionRequest
    ) -> m.DeleteWorkerDeploymentVersionResponse:
        """Raises RpcError NOT_FOUND, FAILED_PRECONDITION (it is needed)."""
        self.check(request.namespace)
        name, build_id = named(request.deployment_version, request.version)
        deployment = self._to_change(request.namespace, name, request.identity, b"", request)
        version = self._deployments.version(request.namespace, name, build_id)
        await self._look_for_drained(request.namespace, deployment)
        if version.current_since_ms or version.ramping_since_ms:
            raise _failed("the version is current or ramping; let another one take its place first")
        if self._has_pollers(request.namespace, key_of(name, build_id), version):
            raise _failed("the version has active pollers; stop its workers, and try again five minutes later")
        if version.deactivated_ms and not version.drained_ms and not request.skip_drainage:
            raise _failed("the version is draining: open workflows are pinned to it; wait, or set skip_drainage")
        await self._change(
            request.namespace,
            deployment,
            request.identity,
            lambda _: self._deployments.forget(request.namespace, name, build_id),
        )
        return m.DeleteWorkerDeploymentVersionResponse()

    async def delete_worker_deployment(
        self, request: m.DeleteWorkerDeploymentRequest
    ) -> m.DeleteWorkerDeploymentResponse:
        """Harmless when there is none. Raises RpcError FAILED_PRECONDITION (it has versions)."""
        self.check(request.namespace)
        deployment = self._deployments.of(request.namespace).get(request.deployment_name)
        if deployment is None:
            return m.DeleteWorkerDeploymentResponse()
        if deployment.versions:
            raise _failed("the deployment has versions; delete them first")
        await self._change(
            request.namespace,
            deployment,
            request.identity,
            lambda _: self._deployments.forget(request.namespace, deployment.name),
        )
        return m.DeleteWorkerDeploymentResponse()

    # -- what changes have in common -------------------------------------------------------------------------------

    @property
    def _deployments(self) -> Deployments:
        return self.shard.offering.deployments

    def _to_change(self, namespace: str, name: str, identity: str, token: bytes, request: _Change) -> Deployment:
        """The deployment that somebody wants to change.

        Raises:
            RpcError: NOT_FOUND; FAILED_PRECONDITION, another manages it, or it has been changed meanwhile.
        """
        if name and name not in self._deployments.of(namespace) and getattr(request, "allow_no_pollers", False):
            return self._deployments.create(namespace, name, self.clock.now_ms())
        deployment = self._deployments.get(namespace, name)
        if deployment.manager and deployment.manager != identity:
            raise _failed(f"the deployment is managed by {deployment.manager!r}, not by {identity!r}")
        check_token(deployment, token)
        return deployment

    def _check_version(self, namespace: str, deployment: Deployment, build_id: str, request: _Routing) -> None:
        """Whether a version may get traffic. Raises RpcError NOT_FOUND, FAILED_PRECONDITION."""
        if not build_id:
            return
        if build_id not in deployment.versions:
            if not request.allow_no_pollers:
                self._deployments.version(namespace, deployment.name, build_id)
            deployment.versions[build_id] = Version(build_id, self.clock.now_ms())
        current = deployment.versions.get(deployment.current)
        if current is None or request.ignore_missing_task_queues:
            return
        missing = sorted(
            queue
            for queue, kind in current.queues
            if (queue, kind) not in deployment.versions[build_id].queues
            and self._is_busy(namespace, deployment, queue, kind)
        )
        if missing:
            raise _failed(
                f"the new version does not poll task queues of the current one: {', '.join(missing)};"
                " start its workers, or set ignore_missing_task_queues"
            )

    def _is_busy(self, namespace: str, deployment: Deployment, queue: str, kind: int) -> bool:
        """Whether tasks come or wait in the current version's part of a task queue."""
        for part in self._parts(namespace, key_of(deployment.name, deployment.current), queue, kind):
            waiting = len(part.backlog)
            if waiting > 0 or part.watch.rates(self.clock.now_ms(), part.added, waiting).add > 0:
                return True
        return False

    def _parts(self, namespace: str, version: str, queue: str, kind: int) -> list[TaskQueue]:
        """A version's part of a task queue, if anything is known of it."""
        known = self.matching.workflow if kind == _WORKFLOW else self.matching.activity
        found = known.get((namespace, queue_of(queue, version)))
        return [] if found is None else [found]

    def _has_pollers(self, namespace: str, key: str, version: Version) -> bool:
        now_ms = self.clock.now_ms()
        for name, kind in version.queues:
            if any(part.pollers or part.watch.pollers(now_ms) for part in self._parts(namespace, key, name, kind)):
                return True
        return False

    async def _change(
        self,
        namespace: str,
        deployment: Deployment,
        identity: str,
        change: Callable[[int], None],
        *,
        reroute: bool = False,
    ) -> None:
        """Carry out a change, write it, and bring waiting tasks where they belong then."""
        with self._taken_back_if_lost(namespace):
            change(self.clock.now_ms())
            deployment.revision += 1
            deployment.modifier = identity
            await self.write_deployments(namespace)
        if reroute:
            queues = {each for version in deployment.versions.values() for each in version.queues}
            self.shard.offering.reroute(namespace, sorted(queues))

    @contextmanager
    def _taken_back_if_lost(self, namespace: str) -> Generator[None]:
        before = self._deployments.row(namespace)
        try:
            yield
        except RpcError:
            self._deployments.restore(namespace, before)
            raise


def _failed(message: str) -> RpcError:
    return RpcError(StatusCode.FAILED_PRECONDITION, message)
