"""Namespaces: who lives in them is looked up by name, so every look-up of a run begins here.

A namespace is kept as the serialized ``DescribeNamespaceResponse`` it is shown as. All are in memory; there are few.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.api.durations import duration_ms, set_duration_ms

__all__ = ["DEFAULT_NAMESPACE", "Namespace", "Namespaces"]

DEFAULT_NAMESPACE = "default"
MIN_RETENTION_MS = 60 * 1000
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace:
    """A namespace."""

    name: str
    id: str
    retention_ms: int
    """How long a closed run stays."""
    description: m.DescribeNamespaceResponse


class Namespaces:
    """All namespaces, by name."""

    def __init__(self) -> None:
        self.by_name: dict[str, Namespace] = {}

    def load(self, row: bytes) -> Namespace:
        """Enter a namespace from its row."""
        description = m.DescribeNamespaceResponse.FromString(row)
        info = description.namespace_info
        namespace = Namespace(
            name=info.name,
            id=info.id,
            retention_ms=duration_ms(description.config.workflow_execution_retention_ttl),
            description=description,
        )
        self.by_name[namespace.name] = namespace
        return namespace

    def get(self, name: str) -> Namespace:
        """The namespace.

        Raises:
            RpcError: NOT_FOUND, with ``NamespaceNotFoundFailure``.
        """
        namespace = self.by_name.get(name)
        if namespace is None:
            raise RpcError(
                StatusCode.NOT_FOUND,
                f"namespace {name!r} does not exist; register it first",
                m.NamespaceNotFoundFailure(namespace=name),
            )
        return namespace

    def get_by_id(self, namespace_id: str) -> Namespace:
        """The namespace with this id. Raises RpcError NOT_FOUND."""
        for namespace in self.by_name.values():
            if namespace.id == namespace_id:
                return namespace
        raise RpcError(StatusCode.NOT_FOUND, f"no namespace has the id {namespace_id!r}")

    def register(
        self, request: m.RegisterNamespaceRequest, *, namespace_id: str, id_length: int, default_retention_ms: int
    ) -> Namespace:
        """Enter a new namespace.

        Raises:
            RpcError: INVALID_ARGUMENT; ALREADY_EXISTS.
        """
        name = request.namespace
        if len(name) > id_length or not _NAME.fullmatch(name):
            raise RpcError(
                StatusCode.INVALID_ARGUMENT,
                f"a namespace name has letters, digits, '.', '_' and '-', at most {id_length} in all",
            )
        if name in self.by_name:
            raise RpcError(
                StatusCode.ALREADY_EXISTS, f"namespace {name!r} exists already", m.NamespaceAlreadyExistsFailure()
            )
        retention_ms = duration_ms(request.workflow_execution_retention_period) or default_retention_ms
        if retention_ms < MIN_RETENTION_MS:
            raise RpcError(
                StatusCode.INVALID_ARGUMENT,
                f"the retention period must be at least {MIN_RETENTION_MS // 1000} s",
            )
        return self.load(_described(request, namespace_id, retention_ms).SerializeToString())

    def after(self, name: str, limit: int) -> list[Namespace]:
        """Namespaces in order of name, after this one."""
        return [self.by_name[each] for each in sorted(self.by_name) if each > name][:limit]


def _described(
    request: m.RegisterNamespaceRequest, namespace_id: str, retention_ms: int
) -> m.DescribeNamespaceResponse:
    described = m.DescribeNamespaceResponse()
    info = described.namespace_info
    info.name = request.namespace
    info.id = namespace_id
    info.state = m.NamespaceState.NAMESPACE_STATE_REGISTERED
    info.description = request.description
    info.owner_email = request.owner_email
    info.data.update(request.data)
    set_duration_ms(described.config.workflow_execution_retention_ttl, retention_ms)
    described.replication_config.active_cluster_name = "perdure"
    return described
