"""Nexus endpoints: names under which workflows call operations, and where each leads.

An endpoint leads to the workers of a namespace and a task queue. It has an id, which stays when it is renamed, and a
version, which a change must name. All are in memory and in one row of the store; there are few. A change is seen at
once and answered when it is durable; if its commit is lost, what was durable holds again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from temporalio.api.nexus import v1 as nx

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.api.durations import set_timestamp_ms
from perdure.engine.reads import read

if TYPE_CHECKING:
    from perdure.engine.shard import Shard

__all__ = ["Endpoints"]

_ROW: Final = "nexus_endpoints"
ENDPOINTS_MAX: Final = 1000
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_-]*")
_NAME_LENGTH: Final = 200
_DESCRIPTION_BYTES: Final = 20_000


def _invalid(message: str) -> RpcError:
    return RpcError(StatusCode.INVALID_ARGUMENT, message)


class Endpoints:
    """All endpoints of an engine.

    Args:
        shard: writes them.
        on_changed: called when an endpoint leads elsewhere, or is gone.
    """

    def __init__(self, shard: Shard, on_changed: Callable[[], None]) -> None:
        self.by_id: dict[str, nx.Endpoint] = {}
        self.ids: dict[str, str] = {}
        """By name."""
        self._shard = shard
        self._on_changed = on_changed
        self._durable = b""

    async def load(self) -> None:
        """Read what an earlier engine has kept. Raises RpcError UNAVAILABLE, the store can't be read."""
        self._restore(await read(self._shard.store.load_meta(_ROW)) or b"")

    def _restore(self, row: bytes) -> None:
        self._durable = row
        endpoints = m.ListNexusEndpointsResponse.FromString(row).endpoints
        self.by_id = {endpoint.id: endpoint for endpoint in endpoints}
        self._index()

    def _index(self) -> None:
        self.ids = {endpoint.spec.name: endpoint.id for endpoint in self.by_id.values()}

    # -- looking up ------------------------------------------------------------------------------------------------

    def get(self, endpoint_id: str) -> nx.Endpoint:
        """The endpoint. Raises RpcError NOT_FOUND, INVALID_ARGUMENT."""
        if not endpoint_id:
            raise _invalid("Nexus endpoint ID not set")
        endpoint = self.by_id.get(endpoint_id)
        if endpoint is None:
            raise RpcError(StatusCode.NOT_FOUND, f"Nexus endpoint with id {endpoint_id!r} not found")
        return endpoint

    def after(self, endpoint_id: str, limit: int) -> list[nx.Endpoint]:
        """Endpoints in order of their ids, after this one."""
        return [self.by_id[each] for each in sorted(self.by_id) if each > endpoint_id][:limit]

    # -- changes ---------------------------------------------------------------------------------------------------

    async def create(self, spec: nx.EndpointSpec) -> nx.Endpoint:
        """Enter a new endpoint.

        Raises:
            RpcError: INVALID_ARGUMENT; ALREADY_EXISTS; FAILED_PRECONDITION, no such namespace; UNIMPLEMENTED, the
                target; RESOURCE_EXHAUSTED, there are too many.
        """
        self._check(spec)
        if len(self.by_id) >= ENDPOINTS_MAX:
            raise RpcError(StatusCode.RESOURCE_EXHAUSTED, f"there are {ENDPOINTS_MAX} Nexus endpoints; delete some")
        endpoint = nx.Endpoint(version=1, id=self._shard.ids.new_id(), spec=spec)
        endpoint.url_prefix = f"/nexus/endpoints/{endpoint.id}/services"
        set_timestamp_ms(endpoint.created_time, self._shard.clock.now_ms())
        await self._put(endpoint)
        return endpoint

    async def update(self, endpoint_id: str, version: int, spec: nx.EndpointSpec) -> nx.Endpoint:
        """Change an endpoint.

        Raises:
            RpcError: NOT_FOUND; FAILED_PRECONDITION, it has another version; and as `create`.
        """
        known = self.get(endpoint_id)
        _check_version(known, version)
        self._check(spec, endpoint_id)
        endpoint = nx.Endpoint()
        endpoint.CopyFrom(known)
        endpoint.spec.CopyFrom(spec)
        endpoint.version += 1
        set_timestamp_ms(endpoint.last_modified_time, self._shard.clock.now_ms())
        await self._put(endpoint)
        return endpoint

    async def delete(self, endpoint_id: str, version: int) -> None:
        """Take an endpoint out; operations that wait for it fail. Raises RpcError NOT_FOUND, FAILED_PRECONDITION."""
        endpoint = self.get(endpoint_id)
        if version:
            _check_version(endpoint, version)
        del self.by_id[endpoint_id]
        await self._write()

    async def _put(self, endpoint: nx.Endpoint) -> None:
        self.by_id[endpoint.id] = endpoint
        await self._write()

    async def _write(self) -> None:
        self._index()
        row = m.ListNexusEndpointsResponse(endpoints=self.by_id.values()).SerializeToString()
        committer = self._shard.committer
        group = committer.group
        group.metas.append((_ROW, row))
        committer.touch()
        try:
            await group.durable()
        except RpcError:
            self._restore(self._durable)
            raise
        self._durable = row
        self._on_changed()

    def _check(self, spec: nx.EndpointSpec, endpoint_id: str = "") -> None:
        name = spec.name
        if not name:
            raise _invalid("Nexus endpoint name not set")
        if len(name) > _NAME_LENGTH or not _NAME.fullmatch(name):
            raise _invalid(
                f"invalid Nexus endpoint name {name[:_NAME_LENGTH]!r}: it has 1 to {_NAME_LENGTH} letters, digits,"
                " dashes and underscores, and does not begin with a digit"
            )
        if spec.description.ByteSize() > _DESCRIPTION_BYTES:
            raise _invalid(f"the Nexus endpoint's description exceeds {_DESCRIPTION_BYTES} bytes")
        target = spec.target.WhichOneof("variant")
        if target == "external":
            raise RpcError(
                StatusCode.UNIMPLEMENTED,
                "Nexus endpoints lead to workers of this server; an external URL can't be the target",
            )
        if target is None:
            raise _invalid("Nexus endpoint target not set: give a namespace and a task queue")
        worker = spec.target.worker
        if not worker.namespace:
            raise _invalid("target namespace not set")
        if not worker.task_queue or len(worker.task_queue) > self._shard.limits.id_length:
            raise _invalid(f"a target task queue has 1 to {self._shard.limits.id_length} characters")
        if worker.namespace not in self._shard.namespaces.by_name:
            raise RpcError(
                StatusCode.FAILED_PRECONDITION,
                f"could not verify namespace referenced by target exists: Namespace {worker.namespace} is not found",
            )
        if self.ids.get(name, endpoint_id) != endpoint_id:
            raise RpcError(
                StatusCode.ALREADY_EXISTS, f"error creating Nexus endpoint: one with the name {name} is registered"
            )


def _check_version(endpoint: nx.Endpoint, version: int) -> None:
    if endpoint.version != version:
        raise RpcError(
            StatusCode.FAILED_PRECONDITION,
            f"nexus endpoint version mismatch. received: {version} expected {endpoint.version}",
        )
