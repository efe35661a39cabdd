"""Which version of its workers a run belongs to.

A version is a build of a worker deployment, here the text ``deployment NUL build id``; the empty text stands for the
workers that are not versioned. A run is *pinned* to a version when an override says so, or when the worker that
completed its last workflow task did; a run that has not got that far has the version it inherited, if any. All other
runs go wherever their task queue's traffic goes (see ``engine.deployments``).
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Final, NamedTuple

from perdure.api import messages as m
from perdure.engine.history.state import RunState

SEPARATOR: Final = "\0"
_KEPT: Final = 1024

_PINNED = m.VersioningBehavior.VERSIONING_BEHAVIOR_PINNED
_AUTO_UPGRADE = m.VersioningBehavior.VERSIONING_BEHAVIOR_AUTO_UPGRADE
_VERSIONED = m.WorkerVersioningMode.WORKER_VERSIONING_MODE_VERSIONED
_BEHAVIORS: Final[dict[int, str]] = {
    _PINNED: "Pinned",
    _AUTO_UPGRADE: "AutoUpgrade",
}


class _Override(NamedTuple):
    version: str
    """Empty: the run moves on with the traffic."""


def key_of(deployment: str, build_id: str) -> str:
    """The version of a deployment's build; empty without a build."""
    return f"{deployment}{SEPARATOR}{build_id}" if build_id else ""


def message_of(version: str) -> m.WorkerDeploymentVersion:
    """A version as a message."""
    deployment, _, build_id = version.partition(SEPARATOR)
    return m.WorkerDeploymentVersion(deployment_name=deployment, build_id=build_id)


def name_of(version: str) -> str:
    """A version as people and older callers write it: ``deployment.build``."""
    return version.replace(SEPARATOR, ".")


def version_of_worker(options: m.WorkerDeploymentOptions) -> str:
    """The version a worker says it is of; empty if it is not versioned."""
    if options.worker_versioning_mode != _VERSIONED:
        return ""
    return key_of(options.deployment_name, options.build_id)


@lru_cache(maxsize=_KEPT)
def _override(versioning: bytes) -> _Override:
    override = m.VersioningOverride.FromString(versioning)
    if override.WhichOneof("override") == "pinned":
        version = override.pinned.version
        return _Override(key_of(version.deployment_name, version.build_id))
    if override.behavior == _PINNED and override.WhichOneof("override") is None:
        deployment, _, build_id = override.pinned_version.partition(".")
        older = override.deployment
        return _Override(key_of(deployment, build_id) or key_of(older.series_name, older.build_id))
    return _Override("")


@lru_cache(maxsize=_KEPT)
def _worker(worker: bytes) -> tuple[str, int]:
    """The version of the worker that had the run last, and the behaviour it said the workflow has."""
    info = m.WorkflowExecutionInfo.FromString(worker).versioning_info
    version = info.deployment_version
    return key_of(version.deployment_name, version.build_id), info.behavior


def is_versioned(worker: bytes) -> bool:
    """Whether what a worker said of itself speaks of a version."""
    return _worker(worker)[0] != ""


def pin_of(override: m.VersioningOverride) -> str:
    """The version an override pins a run to; empty if it lets the run move on with the traffic."""
    return _override(override.SerializeToString()).version


def pinned_version(state: RunState) -> str:
    """The version the run is pinned to; empty if it moves on with the traffic of its task queue."""
    if state.versioning:
        return _override(state.versioning).version
    if state.last_task_completed_event_id:
        version, behavior = _worker(state.worker)
        return version if behavior == _PINNED else ""
    return state.inherited


def last_version(state: RunState) -> str:
    """The version of the worker that completed the run's last workflow task."""
    return _worker(state.worker)[0]


def inherited_override(state: RunState) -> bytes:
    """The override that a run's successors and children inherit; empty unless it pins."""
    return state.versioning if state.versioning and _override(state.versioning).version else b""


def inherited_version(state: RunState) -> str:
    """The version that a run's successors inherit; an override goes to them apart from it."""
    if state.last_task_completed_event_id:
        version, behavior = _worker(state.worker)
        return version if behavior == _PINNED else ""
    return state.inherited


def search_attributes(state: RunState) -> m.SearchAttributes:
    """What filters and clients may ask of a run's version, besides its own search attributes."""
    attributes = m.SearchAttributes()
    version, behavior = _worker(state.worker)
    pinned = pinned_version(state)
    if pinned:
        behavior = _PINNED
    elif state.versioning:
        behavior = _AUTO_UPGRADE
    deployment, _, build_id = (pinned or version).partition(SEPARATOR)
    if not deployment:
        return attributes
    said = {
        "TemporalWorkerDeployment": deployment,
        "TemporalWorkerDeploymentVersion": f"{deployment}:{build_id}",
        "TemporalWorkflowVersioningBehavior": _BEHAVIORS.get(behavior, ""),
    }
    for name, value in said.items():
        if value:
            payload = attributes.indexed_fields[name]
            payload.metadata["encoding"] = b"json/plain"
            payload.metadata["type"] = b"Keyword"
            payload.data = json.dumps(value).encode()
    return attributes
