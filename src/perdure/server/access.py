"""What a key allows: each RPC has a role, and a key has the namespaces that its requests may speak of.

`NEEDS` names the role of every RPC; one that is not in it is refused, and a test fails. The namespaces of a request are
found by its descriptor, wherever in it they stand: in the request itself, in the commands of a workflow task, in the
parts of a multi-operation. Only messages that mention a namespace without touching it (`MENTIONS`) are left out.

What belongs to no namespace (the list of namespaces, clusters) needs a key for all of them; `OPEN` is for any key.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.api.rpcs import Rpc
from perdure.server.keys import ApiKey, Role

__all__ = ["NEEDS", "OPEN", "authorise", "namespaces_of"]

OPEN = frozenset({"get_cluster_info", "get_search_attributes", "get_system_info"})
"""Any key may call these, wherever it is for."""

_LOOKING = """
    count_activity_executions count_nexus_operation_executions count_schedules count_workers count_workflow_executions
    describe_activity_execution describe_batch_operation describe_deployment describe_namespace
    describe_nexus_operation_execution describe_schedule describe_task_queue describe_worker describe_worker_deployment
    describe_worker_deployment_version describe_workflow_execution describe_workflow_rule fetch_worker_config
    get_cluster_info get_current_deployment get_deployment_reachability get_nexus_endpoint get_search_attributes
    get_system_info get_worker_build_id_compatibility get_worker_task_reachability get_worker_versioning_rules
    get_workflow_execution_history get_workflow_execution_history_reverse list_activity_executions
    list_archived_workflow_executions list_batch_operations list_closed_workflow_executions list_clusters
    list_deployments list_namespaces list_nexus_endpoints list_nexus_operation_executions
    list_open_workflow_executions list_schedule_matching_times list_schedules list_search_attributes
    list_task_queue_partitions list_worker_deployments list_workers list_workflow_executions list_workflow_rules
    poll_activity_execution poll_nexus_operation_execution poll_workflow_execution_time_skipping
    poll_workflow_execution_update query_workflow scan_workflow_executions
    validate_worker_deployment_version_compute_config
"""
_ACTING = """
    create_schedule create_worker_deployment create_worker_deployment_version delete_activity_execution
    delete_nexus_operation_execution delete_schedule delete_worker_deployment delete_worker_deployment_version
    delete_workflow_execution execute_multi_operation patch_schedule pause_activity pause_activity_execution
    pause_workflow_execution poll_activity_task_queue poll_nexus_task_queue poll_workflow_task_queue
    record_activity_task_heartbeat record_activity_task_heartbeat_by_id record_worker_heartbeat
    request_cancel_activity_execution request_cancel_nexus_operation_execution request_cancel_workflow_execution
    reset_activity reset_activity_execution reset_sticky_task_queue reset_workflow_execution
    respond_activity_task_canceled respond_activity_task_canceled_by_id respond_activity_task_completed
    respond_activity_task_completed_by_id respond_activity_task_failed respond_activity_task_failed_by_id
    respond_nexus_task_completed respond_nexus_task_failed respond_query_task_completed
    respond_workflow_task_completed respond_workflow_task_failed set_current_deployment
    set_worker_deployment_current_version set_worker_deployment_manager set_worker_deployment_ramping_version
    shutdown_worker signal_with_start_workflow_execution signal_workflow_execution start_activity_execution
    start_batch_operation start_nexus_operation_execution start_workflow_execution stop_batch_operation
    terminate_activity_execution terminate_nexus_operation_execution terminate_workflow_execution
    trigger_workflow_rule unpause_activity unpause_activity_execution unpause_workflow_execution
    update_activity_execution_options update_activity_options update_schedule update_task_queue_config
    update_worker_build_id_compatibility update_worker_config update_worker_deployment_version_compute_config
    update_worker_deployment_version_metadata update_worker_versioning_rules update_workflow_execution
    update_workflow_execution_options
"""
_GOVERNING = """
    add_or_update_remote_cluster add_search_attributes create_nexus_endpoint create_workflow_rule delete_namespace
    delete_nexus_endpoint delete_workflow_rule deprecate_namespace register_namespace remove_remote_cluster
    remove_search_attributes update_namespace update_nexus_endpoint
"""

NEEDS: dict[str, Role] = {
    **dict.fromkeys(_LOOKING.split(), Role.READER),
    **dict.fromkeys(_ACTING.split(), Role.WRITER),
    **dict.fromkeys(_GOVERNING.split(), Role.ADMIN),
}
"""The role each RPC needs, by Python name."""

MENTIONS = frozenset({"temporal.api.common.v1.Link", "temporal.api.failure.v1.Failure"})
"""Messages whose namespaces say where something came from; nothing is read or written there."""

Path = tuple[tuple[str, bool], ...]
"""Fields from a request to a namespace, each with whether it is repeated."""


def authorise(key: ApiKey, rpc: Rpc, request: Message) -> None:
    """Raises RpcError PERMISSION_DENIED unless the key allows this call.

    Args:
        key: of the caller.
        rpc: what he calls.
        request: what he says.
    """
    needed = NEEDS.get(rpc.method)
    if needed is None or key.role < needed:
        role = needed.name.lower() if needed is not None else "no"
        raise _denied(f"{rpc.name} needs the role of {role}; the API key's is {key.role.name.lower()}")
    if key.is_global or rpc.method in OPEN:
        return
    named = list(namespaces_of(request))
    if not named:
        raise _denied(f"{rpc.name} needs an API key for all namespaces")
    for namespace in named:
        if namespace not in key.namespaces:
            raise _denied(f"the API key is not for the namespace {namespace!r}")


def namespaces_of(request: Message) -> Iterator[str]:
    """Every namespace a request speaks of, at any depth. Empty names below the top say "the same as above".

    A request that identifies a namespace by its id alone counts as one that names none.
    """
    for path in _paths(request.DESCRIPTOR):
        for name in _values(request, path):
            if name or len(path) == 1:
                yield name


def _values(message: Any, path: Path) -> Iterator[str]:
    (field, is_repeated), *rest = path
    if not rest:
        yield getattr(message, field)
    elif is_repeated:
        for each in getattr(message, field):
            yield from _values(each, tuple(rest))
    elif message.HasField(field):
        yield from _values(getattr(message, field), tuple(rest))


@cache
def _paths(of: Descriptor) -> tuple[Path, ...]:
    return tuple(_walk(of, (of.full_name,)))


def _walk(of: Descriptor, above: tuple[str, ...]) -> Iterator[Path]:
    for field in of.fields:
        if field.name == "namespace" and field.type == FieldDescriptor.TYPE_STRING:
            yield ((field.name, False),)
            continue
        inner = field.message_type
        if inner is None or inner.GetOptions().map_entry or inner.full_name in MENTIONS or inner.full_name in above:
            continue
        for path in _walk(inner, (*above, inner.full_name)):
            yield ((field.name, field.is_repeated), *path)


def _denied(reason: str) -> RpcError:
    return RpcError(StatusCode.PERMISSION_DENIED, reason, m.PermissionDeniedFailure(reason=reason))
