"""What the service is, and its namespaces."""

from __future__ import annotations

from importlib.metadata import version

from perdure.api import messages as m
from perdure.engine.namespaces import Namespace
from perdure.engine.service.base import ServiceTopic, invalid

__all__ = ["NamespaceTopic"]

_PAGE = 1000
_DELETION_WAIT_S = 3.0
"""How long a call that deletes a namespace waits for its workflows to be erased."""
_ID_SHOWN = 5
_CAPABILITIES = {
    "sync_update": "update_workflow_execution",
    "async_update": "poll_workflow_execution_update",
    "standalone_activities": "start_activity_execution",
    "standalone_activity_start_delay": "start_activity_execution",
    "standalone_activity_operator_commands": "pause_activity_execution",
}
"""What a namespace can do because a method is served, by the capability's name."""
_CLUSTER = "perdure"
_VERSION = version("perdure")


class NamespaceTopic(ServiceTopic):
    """GetSystemInfo, GetClusterInfo and the namespace calls."""

    async def get_system_info(self, request: m.GetSystemInfoRequest) -> m.GetSystemInfoResponse:
        """What the SDK may rely on."""
        self.engine.check_running()
        response = m.GetSystemInfoResponse(server_version=_VERSION)
        response.capabilities.signal_and_query_header = True
        response.capabilities.internal_error_differentiation = True
        response.capabilities.activity_failure_include_heartbeat = True
        response.capabilities.encoded_failure_attributes = True
        response.capabilities.eager_workflow_start = True
        response.capabilities.sdk_metadata = True
        response.capabilities.upsert_memo = True
        response.capabilities.nexus = True
        response.capabilities.supports_schedules = True
        response.capabilities.count_group_by_execution_status = True
        return response

    async def get_cluster_info(self, request: m.GetClusterInfoRequest) -> m.GetClusterInfoResponse:
        """What stands behind the service."""
        self.engine.check_running()
        store = type(self.shard.store).__name__.removesuffix("Store").lower()
        return m.GetClusterInfoResponse(
            server_version=_VERSION,
            cluster_id=self.namespaces.cluster_id,
            cluster_name=_CLUSTER,
            history_shard_count=1,
            persistence_store=store,
            visibility_store=store,
        )

    async def register_namespace(self, request: m.RegisterNamespaceRequest) -> m.RegisterNamespaceResponse:
        """Raises RpcError INVALID_ARGUMENT, ALREADY_EXISTS."""
        self.engine.check_running()
        await self.engine.register_namespace(request)
        return m.RegisterNamespaceResponse()

    async def describe_namespace(self, request: m.DescribeNamespaceRequest) -> m.DescribeNamespaceResponse:
        """Raises RpcError NOT_FOUND."""
        self.engine.check_running()
        if request.id and not request.namespace:
            return self._describe(self.namespaces.get_by_id(request.id))
        return self._describe(self.namespaces.get(request.namespace))

    async def list_namespaces(self, request: m.ListNamespacesRequest) -> m.ListNamespacesResponse:
        """In order of name. Raises RpcError INVALID_ARGUMENT, the page token is not one."""
        self.engine.check_running()
        after = self.tokens.open_names_page(request.next_page_token) if request.next_page_token else ""
        limit = min(request.page_size, _PAGE) if request.page_size > 0 else _PAGE
        found = self.namespaces.after(after, limit + 1, deleted=request.namespace_filter.include_deleted)
        response = m.ListNamespacesResponse(namespaces=[self._describe(each) for each in found[:limit]])
        if len(found) > limit:
            response.next_page_token = self.tokens.names_page(found[limit - 1].name)
        return response

    async def update_namespace(self, request: m.UpdateNamespaceRequest) -> m.UpdateNamespaceResponse:
        """Raises RpcError NOT_FOUND, INVALID_ARGUMENT."""
        self.engine.check_running()
        namespace = self.namespaces.update(request)
        await self.engine.write_namespace(namespace)
        described = self._describe(namespace)
        return m.UpdateNamespaceResponse(
            namespace_info=described.namespace_info,
            config=described.config,
            replication_config=described.replication_config,
        )

    async def deprecate_namespace(self, request: m.DeprecateNamespaceRequest) -> m.DeprecateNamespaceResponse:
        """No workflow starts in it any more; those that run go on. Raises RpcError NOT_FOUND."""
        self.engine.check_running()
        deprecated = m.NamespaceState.NAMESPACE_STATE_DEPRECATED
        await self.engine.write_namespace(self.namespaces.set_state(request.namespace, deprecated))
        return m.DeprecateNamespaceResponse()

    async def delete_namespace(self, request: m.DeleteNamespaceRequest) -> m.DeleteNamespaceResponse:
        """Nobody can speak of the namespace any more; its workflows are erased, then its name is free.

        Answers when they are erased, or after a few seconds while that goes on.

        Raises:
            RpcError: NOT_FOUND; INVALID_ARGUMENT, the name and the id are not of one namespace.
        """
        self.engine.check_running()
        if request.namespace:
            namespace = self.namespaces.get(request.namespace)
        elif request.namespace_id:
            namespace = self.namespaces.get_by_id(request.namespace_id)
        else:
            raise invalid("Namespace is not set on request.")
        if request.namespace_id not in ("", namespace.id):
            raise invalid(f"namespace {namespace.name!r} has another id than {request.namespace_id!r}")
        namespace = self.namespaces.set_state(namespace.name, m.NamespaceState.NAMESPACE_STATE_DELETED)
        await self.engine.write_namespace(namespace)
        await self.engine.emptying.wait_empty(namespace.name, _DELETION_WAIT_S)
        return m.DeleteNamespaceResponse(deleted_namespace=f"{namespace.name}-deleted-{namespace.id[:_ID_SHOWN]}")

    def _describe(self, namespace: Namespace) -> m.DescribeNamespaceResponse:
        described = m.DescribeNamespaceResponse()
        described.CopyFrom(namespace.description)
        if not described.replication_config.clusters:
            described.replication_config.clusters.add(cluster_name=described.replication_config.active_cluster_name)
        capabilities = described.namespace_info.capabilities
        capabilities.eager_workflow_start = True
        capabilities.sync_update = capabilities.async_update = True
        capabilities.worker_heartbeats = True
        capabilities.poller_autoscaling = True
        capabilities.worker_poll_complete_on_shutdown = True
        for capability, method in _CAPABILITIES.items():
            setattr(capabilities, capability, hasattr(self, method))
        limits = described.namespace_info.limits
        limits.blob_size_limit_error = self.limits.blob_bytes
        limits.memo_size_limit_error = self.limits.memo_bytes
        return described
