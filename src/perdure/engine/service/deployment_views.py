"""Worker deployments as messages."""

from __future__ import annotations

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.api.durations import set_timestamp_ms
from perdure.engine.deployments import Deployment, Version
from perdure.engine.history.versions import key_of, message_of, name_of

__all__ = ["build_of", "check_token", "fill", "named", "old_name", "queue_versioning", "routing", "summary", "token"]

_UNVERSIONED = "__unversioned__"
"""How older callers write workers without versions."""
_Status = m.WorkerDeploymentVersionStatus
_Drainage = m.VersionDrainageStatus
_Summary = m.WorkerDeploymentInfo.WorkerDeploymentVersionSummary

_INSTANTS = {
    "create_time": "created_ms",
    "current_since_time": "current_since_ms",
    "ramping_since_time": "ramping_since_ms",
    "first_activation_time": "first_active_ms",
    "last_current_time": "last_current_ms",
    "last_deactivation_time": "deactivated_ms",
}
"""Field of a message → of a `Version`."""


def token(deployment: Deployment) -> bytes:
    """What a caller may show to say which state of the deployment he knows."""
    return deployment.revision.to_bytes(8, "big")


def check_token(deployment: Deployment, shown: bytes) -> None:
    """Raises RpcError FAILED_PRECONDITION, the deployment has been changed since."""
    if shown and shown != token(deployment):
        raise RpcError(StatusCode.FAILED_PRECONDITION, "conflict token mismatch: the deployment was changed meanwhile")


def old_name(deployment: str, build_id: str) -> str:
    """A version as older callers write it."""
    return name_of(key_of(deployment, build_id)) if build_id else _UNVERSIONED


def named(version: m.WorkerDeploymentVersion, old: str) -> tuple[str, str]:
    """Deployment and build id of the version a caller names, in the present or the older way."""
    if version.build_id:
        return version.deployment_name, version.build_id
    deployment, _, build_id = old.partition(".")
    return deployment, build_id


def build_of(build_id: str, old: str, deployment: str) -> str:
    """The build id a caller names, in the present or the older way; empty for workers without versions."""
    if build_id or not old or old == _UNVERSIONED:
        return build_id
    return old.removeprefix(f"{deployment}.")


def routing(deployment: Deployment) -> m.RoutingConfig:
    """Which version gets the traffic."""
    config = m.RoutingConfig(
        current_version=old_name(deployment.name, deployment.current), revision_number=deployment.revision
    )
    if deployment.current:
        config.current_deployment_version.CopyFrom(message_of(key_of(deployment.name, deployment.current)))
    if deployment.is_ramping:
        config.ramping_version = old_name(deployment.name, deployment.ramping)
        config.ramping_version_percentage = deployment.percentage
        if deployment.ramping:
            config.ramping_deployment_version.CopyFrom(message_of(key_of(deployment.name, deployment.ramping)))
    for field, at_ms in (
        (config.current_version_changed_time, deployment.current_changed_ms),
        (config.ramping_version_changed_time, deployment.ramping_changed_ms),
        (config.ramping_version_percentage_changed_time, deployment.percentage_changed_ms),
    ):
        if at_ms:
            set_timestamp_ms(field, at_ms)
    return config


def queue_versioning(deployment: Deployment) -> m.TaskQueueVersioningInfo:
    """The same, of a task queue."""
    config = routing(deployment)
    info = m.TaskQueueVersioningInfo(
        current_version=config.current_version,
        ramping_version=config.ramping_version,
        ramping_version_percentage=config.ramping_version_percentage,
    )
    if config.HasField("current_deployment_version"):
        info.current_deployment_version.CopyFrom(config.current_deployment_version)
    if config.HasField("ramping_deployment_version"):
        info.ramping_deployment_version.CopyFrom(config.ramping_deployment_version)
    changed_ms = max(deployment.current_changed_ms, deployment.percentage_changed_ms)
    set_timestamp_ms(info.update_time, changed_ms or deployment.created_ms)
    return info


def _status(version: Version) -> m.WorkerDeploymentVersionStatus.ValueType:
    if version.current_since_ms:
        return _Status.WORKER_DEPLOYMENT_VERSION_STATUS_CURRENT
    if version.ramping_since_ms:
        return _Status.WORKER_DEPLOYMENT_VERSION_STATUS_RAMPING
    if version.drained_ms:
        return _Status.WORKER_DEPLOYMENT_VERSION_STATUS_DRAINED
    if version.deactivated_ms:
        return _Status.WORKER_DEPLOYMENT_VERSION_STATUS_DRAINING
    if not version.queues:
        return _Status.WORKER_DEPLOYMENT_VERSION_STATUS_CREATED
    return _Status.WORKER_DEPLOYMENT_VERSION_STATUS_INACTIVE


def fill(info: m.WorkerDeploymentVersionInfo | _Summary, deployment: Deployment, version: Version, now_ms: int) -> None:
    """What description and summary of a version have in common."""
    key = key_of(deployment.name, version.build_id)
    info.version = name_of(key)
    info.deployment_version.CopyFrom(message_of(key))
    info.status = _status(version)
    for field, name in _INSTANTS.items():
        at_ms = getattr(version, name)
        if at_ms:
            set_timestamp_ms(getattr(info, field), at_ms)
    if version.deactivated_ms:
        drainage = info.drainage_info
        drainage.status = (
            _Drainage.VERSION_DRAINAGE_STATUS_DRAINED
            if version.drained_ms
            else _Drainage.VERSION_DRAINAGE_STATUS_DRAINING
        )
        set_timestamp_ms(drainage.last_changed_time, version.drained_ms or version.deactivated_ms)
        set_timestamp_ms(drainage.last_checked_time, version.drained_ms or now_ms)


def summary(deployment: Deployment, version: Version, now_ms: int) -> _Summary:
    """A version as a line of its deployment."""
    line = _Summary()
    fill(line, deployment, version, now_ms)
    line.drainage_status = line.drainage_info.status
    set_timestamp_ms(line.routing_update_time, version.changed_ms or version.created_ms)
    return line
