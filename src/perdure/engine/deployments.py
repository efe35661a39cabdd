"""Worker deployments: versions of workers, and which of them gets the traffic of their task queues.

A worker that is versioned says with each poll of which deployment and build it is; its version is entered when its
first poll comes, with the task queues it polls. Each version has queues of its own (the task queue's name, NUL, the
version), so that a task once routed lies where only that version looks. People say which version of a deployment is
current, and to which one a share of the workflows is ramped; `route` tells what follows from that for a task queue.
When it changes, tasks that wait are routed anew.

The deployments of a namespace are one row, small and rarely written.
"""

from __future__ import annotations

from zlib import crc32

import msgspec
from msgspec import Struct

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.engine.history.versions import SEPARATOR, key_of

__all__ = ["Deployment", "Deployments", "Version", "make_current", "queue_of", "ramp", "stop_ramping"]

MAX_DEPLOYMENTS = 100
"""Of a namespace."""
MAX_VERSIONS = 100
"""Of a deployment."""
MAX_QUEUES = 100
"""Of a version."""
_ROW = "deployments/"
_SHARES = 10_000
"""Workflows are dealt into so many parts when a share of them is ramped."""


class Version(Struct, array_like=True):
    """A build of a deployment. Instants are epoch milliseconds, 0 = never."""

    build_id: str
    created_ms: int
    queues: list[tuple[str, int]] = []
    """Task queues it has polled, by name and ``TaskQueueType``."""
    current_since_ms: int = 0
    ramping_since_ms: int = 0
    changed_ms: int = 0
    """When its part in the routing changed last."""
    first_active_ms: int = 0
    last_current_ms: int = 0
    deactivated_ms: int = 0
    """When it stopped being current or ramping."""
    drained_ms: int = 0
    """When no open run was pinned to it any more, after that."""
    metadata: bytes = b""
    """A serialized VersionMetadata."""
    modifier: str = ""


class Deployment(Struct, array_like=True):
    """All versions of a kind of workers, and their routing. A build id "" stands for workers without versions."""

    name: str
    created_ms: int
    versions: dict[str, Version] = {}
    current: str = ""
    ramping: str = ""
    is_ramping: bool = False
    percentage: float = 0.0
    current_changed_ms: int = 0
    ramping_changed_ms: int = 0
    percentage_changed_ms: int = 0
    revision: int = 0
    """Counts the changes; it is the conflict token."""
    manager: str = ""
    modifier: str = ""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Deployment])


def queue_of(task_queue: str, version: str) -> str:
    """The name of the queue where a version's tasks of a task queue lie."""
    return f"{task_queue}{SEPARATOR}{version}" if version else task_queue


class Deployments:
    """The deployments of all namespaces."""

    def __init__(self) -> None:
        self.in_use = False
        """There is one; until then nothing has to be routed."""
        self._by_namespace: dict[str, dict[str, Deployment]] = {}
        self._by_queue: dict[tuple[str, str, int], set[str]] = {}
        """Names of the deployments that have polled a task queue."""

    # -- rows ------------------------------------------------------------------------------------------------------

    @staticmethod
    def row_name(namespace: str) -> str:
        """The meta row of a namespace's deployments."""
        return _ROW + namespace

    def load(self, namespace: str, row: bytes) -> None:
        """Enter a namespace's deployments from their row."""
        for deployment in _decoder.decode(row):
            self._enter(namespace, deployment)

    def restore(self, namespace: str, row: bytes) -> None:
        """Go back to what a row says: a change could not be written."""
        self.drop(namespace)
        self.load(namespace, row)

    def drop(self, namespace: str) -> None:
        """A namespace goes."""
        for key in [key for key in self._by_queue if key[0] == namespace]:
            del self._by_queue[key]
        self._by_namespace.pop(namespace, None)

    def row(self, namespace: str) -> bytes:
        """A namespace's deployments as a row."""
        return _encoder.encode(list(self.of(namespace).values()))

    def _enter(self, namespace: str, deployment: Deployment) -> None:
        self.in_use = True
        self._by_namespace.setdefault(namespace, {})[deployment.name] = deployment
        for version in deployment.versions.values():
            for queue, kind in version.queues:
                self._by_queue.setdefault((namespace, queue, kind), set()).add(deployment.name)

    # -- looking up ------------------------------------------------------------------------------------------------

    def of(self, namespace: str) -> dict[str, Deployment]:
        """A namespace's deployments by name."""
        return self._by_namespace.get(namespace, {})

    def get(self, namespace: str, name: str) -> Deployment:
        """A deployment. Raises RpcError NOT_FOUND."""
        deployment = self.of(namespace).get(name)
        if deployment is None:
            raise RpcError(StatusCode.NOT_FOUND, f"no Worker Deployment found with name {name!r}: no worker has polled")
        return deployment

    def version(self, namespace: str, name: str, build_id: str) -> Version:
        """A version. Raises RpcError NOT_FOUND."""
        version = self.get(namespace, name).versions.get(build_id)
        if version is None:
            raise RpcError(
                StatusCode.NOT_FOUND,
                f"build ID {build_id!r} not found in Worker Deployment {name!r}: no worker of it has polled",
            )
        return version

    def versions_of(self, namespace: str, queue: str, kind: int) -> list[str]:
        """The versions that have polled a task queue."""
        return [
            key_of(name, version.build_id)
            for name in sorted(self._by_queue.get((namespace, queue, kind), ()))
            for version in self.of(namespace)[name].versions.values()
            if (queue, kind) in version.queues
        ]

    def polls(self, namespace: str, version: str, queue: str, kind: int) -> bool:
        """Whether a version has polled a task queue."""
        name, _, build_id = version.partition(SEPARATOR)
        deployment = self.of(namespace).get(name)
        found = deployment.versions.get(build_id) if deployment is not None else None
        return found is not None and (queue, kind) in found.queues

    def routing_of(self, namespace: str, queue: str, kind: int) -> Deployment | None:
        """The deployment whose routing holds for a task queue: the one whose current version was set last."""
        found: Deployment | None = None
        for name in self._by_queue.get((namespace, queue, kind), ()):
            deployment = self.of(namespace)[name]
            if not deployment.revision or not _routes(deployment, queue, kind):
                continue
            if found is None or deployment.current_changed_ms > found.current_changed_ms:
                found = deployment
        return found

    def route(self, namespace: str, queue: str, kind: int, workflow_id: str) -> str:
        """The version that a task of a workflow goes to that is pinned to none; empty for workers without versions."""
        deployment = self.routing_of(namespace, queue, kind)
        if deployment is None:
            return ""
        build_id = deployment.current
        if deployment.is_ramping and crc32(workflow_id.encode()) % _SHARES < deployment.percentage * (_SHARES / 100):
            build_id = deployment.ramping
        version = deployment.versions.get(build_id)
        return key_of(deployment.name, build_id) if version is not None and (queue, kind) in version.queues else ""

    def ramping(self, namespace: str, queue: str, kind: int) -> str:
        """The version that gets a share of a task queue's traffic; empty if none does."""
        deployment = self.routing_of(namespace, queue, kind)
        if deployment is None or not deployment.is_ramping:
            return ""
        version = key_of(deployment.name, deployment.ramping)
        return version if self.polls(namespace, version, queue, kind) else ""

    # -- changing --------------------------------------------------------------------------------------------------

    def create(self, namespace: str, name: str, now_ms: int) -> Deployment:
        """Enter a deployment without versions.

        Raises:
            RpcError: INVALID_ARGUMENT, its name can't be one; RESOURCE_EXHAUSTED.
        """
        if not name or "." in name or ":" in name or SEPARATOR in name:
            raise RpcError(StatusCode.INVALID_ARGUMENT, "a deployment's name is not empty and holds no '.' and no ':'")
        if len(self.of(namespace)) >= MAX_DEPLOYMENTS:
            raise RpcError(
                StatusCode.RESOURCE_EXHAUSTED,
                f"the namespace has {MAX_DEPLOYMENTS} Worker Deployments already; delete one that is not needed",
            )
        deployment = Deployment(name, now_ms)
        self._enter(namespace, deployment)
        return deployment

    def seen(self, namespace: str, options: m.WorkerDeploymentOptions, queue: str, kind: int, now_ms: int) -> bool:
        """A versioned worker polls a task queue. Returns whether that was not known.

        Raises:
            RpcError: INVALID_ARGUMENT; RESOURCE_EXHAUSTED, too many versions.
        """
        name = options.deployment_name
        build_id = options.build_id
        deployment = self.of(namespace).get(name)
        version = deployment.versions.get(build_id) if deployment is not None else None
        if version is not None and (queue, kind) in version.queues:
            return False
        if not build_id or SEPARATOR in build_id:
            raise RpcError(
                StatusCode.INVALID_ARGUMENT, "a versioned worker must say the name of its deployment and its build id"
            )
        if deployment is None:
            deployment = self.create(namespace, name, now_ms)
        if version is None:
            if len(deployment.versions) >= MAX_VERSIONS:
                raise RpcError(
                    StatusCode.RESOURCE_EXHAUSTED,
                    f"Worker Deployment {name!r} has {MAX_VERSIONS} versions already; delete those that are drained",
                )
            version = deployment.versions[build_id] = Version(build_id, now_ms)
        if len(version.queues) >= MAX_QUEUES:
            raise RpcError(StatusCode.RESOURCE_EXHAUSTED, f"the version polls {MAX_QUEUES} task queues already")
        version.queues.append((queue, kind))
        self._by_queue.setdefault((namespace, queue, kind), set()).add(name)
        return True

    def forget(self, namespace: str, name: str, build_id: str = "") -> None:
        """A version is deleted, or a deployment without versions."""
        deployment = self.of(namespace)[name]
        gone = deployment.versions.pop(build_id, None) if build_id else None
        for queue, kind in gone.queues if gone is not None else ():
            if not any((queue, kind) in version.queues for version in deployment.versions.values()):
                self._by_queue[namespace, queue, kind].discard(name)
        if not build_id:
            del self._by_namespace[namespace][name]


def _routes(deployment: Deployment, queue: str, kind: int) -> bool:
    """Whether the deployment's routing speaks of a task queue: a version that gets traffic, or got it, polls it."""
    chosen = {deployment.current, deployment.ramping} if deployment.is_ramping else {deployment.current}
    return any(
        (queue, kind) in version.queues and (version.build_id in chosen or version.deactivated_ms)
        for version in deployment.versions.values()
    )


# -- what becomes of versions ------------------------------------------------------------------------------------------


def make_current(deployment: Deployment, build_id: str, now_ms: int) -> None:
    """From now on this version gets the traffic; "" = workers without versions."""
    before = deployment.versions.get(deployment.current)
    if before is not None and before.build_id != build_id:
        before.current_since_ms = 0
        _rest(before, now_ms)
    if deployment.is_ramping and deployment.ramping == build_id:
        stop_ramping(deployment, now_ms)
    deployment.current = build_id
    deployment.current_changed_ms = now_ms
    version = deployment.versions.get(build_id)
    if version is not None:
        version.current_since_ms = version.last_current_ms = now_ms
        _work(version, now_ms)


def ramp(deployment: Deployment, build_id: str, percentage: float, now_ms: int) -> None:
    """From now on this version gets a share of the traffic; "" = workers without versions."""
    if not deployment.is_ramping or deployment.ramping != build_id:
        stop_ramping(deployment, now_ms)
        deployment.is_ramping = True
        deployment.ramping = build_id
        deployment.ramping_changed_ms = now_ms
    deployment.percentage = percentage
    deployment.percentage_changed_ms = now_ms
    version = deployment.versions.get(build_id)
    if version is not None:
        version.ramping_since_ms = version.ramping_since_ms or now_ms
        _work(version, now_ms)


def stop_ramping(deployment: Deployment, now_ms: int) -> None:
    """The share goes back to the current version."""
    if not deployment.is_ramping:
        return
    version = deployment.versions.get(deployment.ramping)
    deployment.is_ramping = False
    deployment.ramping = ""
    deployment.percentage = 0.0
    deployment.ramping_changed_ms = deployment.percentage_changed_ms = now_ms
    if version is not None:
        version.ramping_since_ms = 0
        _rest(version, now_ms)


def _work(version: Version, now_ms: int) -> None:
    version.changed_ms = now_ms
    version.first_active_ms = version.first_active_ms or now_ms
    version.deactivated_ms = version.drained_ms = 0


def _rest(version: Version, now_ms: int) -> None:
    version.changed_ms = now_ms
    if not version.current_since_ms and not version.ramping_since_ms:
        version.deactivated_ms = now_ms
