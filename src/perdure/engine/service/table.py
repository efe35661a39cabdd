"""What becomes of each RPC: served by the function of its name in `EngineService`, or refused with a reason.

`UNSERVED` is the list of refusals; `NOTES` says where a served method has its bounds. A method is either a function of
`EngineService` or a line of `UNSERVED`, never both and never neither: a test holds that against
`perdure.api.rpcs.RPCS`, and the whole is printed into docs/rpcs.md. A method in neither place is refused all the same.
"""

from __future__ import annotations

from perdure.api import RpcError, StatusCode
from perdure.api.rpcs import Rpc
from perdure.engine.service import EngineService

__all__ = ["NOTES", "UNSERVED", "is_served", "refusal"]

_ARCHIVAL = "archival is not supported; keep closed workflows longer with the namespace's retention period"
_BUILD_IDS = "versioning by build id sets is not supported; use workflow.patched in the code"
_CLUSTERS = "there is one cluster and no replication; run one server for all namespaces"
_DEPLOYMENTS = "deployments come with the first poll of their workers; see DescribeWorkerDeployment"
_NEXUS = "Nexus operations are started by workflows; start a workflow that calls the operation"
_QUEUES = "the server sets no rates for task queues; workers do, with max_task_queue_activities_per_second"
_RULES = "workflow rules are not supported; act on workflows with batch operations"
_TIME_SKIPPING = "a server runs on real time; test with perdure.testing, whose clock jumps"
_WORKERS = "workers are configured where they run; change their options there"
_NOT_YET = "it is not supported yet"

UNSERVED: dict[str, str] = {
    "list_archived_workflow_executions": _ARCHIVAL,
    "update_worker_build_id_compatibility": _BUILD_IDS,
    "get_worker_build_id_compatibility": _BUILD_IDS,
    "update_worker_versioning_rules": _BUILD_IDS,
    "get_worker_versioning_rules": _BUILD_IDS,
    "get_worker_task_reachability": _BUILD_IDS,
    "describe_deployment": _DEPLOYMENTS,
    "list_deployments": _DEPLOYMENTS,
    "set_current_deployment": _DEPLOYMENTS,
    "create_worker_deployment": _DEPLOYMENTS,
    "create_worker_deployment_version": _DEPLOYMENTS,
    "update_worker_deployment_version_compute_config": _DEPLOYMENTS,
    "validate_worker_deployment_version_compute_config": _DEPLOYMENTS,
    "get_current_deployment": _DEPLOYMENTS,
    "get_deployment_reachability": _DEPLOYMENTS,
    "create_workflow_rule": _RULES,
    "describe_workflow_rule": _RULES,
    "delete_workflow_rule": _RULES,
    "list_workflow_rules": _RULES,
    "trigger_workflow_rule": _RULES,
    "update_task_queue_config": _QUEUES,
    "fetch_worker_config": _WORKERS,
    "update_worker_config": _WORKERS,
    "start_nexus_operation_execution": _NEXUS,
    "describe_nexus_operation_execution": _NEXUS,
    "poll_nexus_operation_execution": _NEXUS,
    "list_nexus_operation_executions": _NEXUS,
    "count_nexus_operation_executions": _NEXUS,
    "request_cancel_nexus_operation_execution": _NEXUS,
    "terminate_nexus_operation_execution": _NEXUS,
    "delete_nexus_operation_execution": _NEXUS,
    "poll_workflow_execution_time_skipping": _TIME_SKIPPING,
    "add_or_update_remote_cluster": _CLUSTERS,
    "remove_remote_cluster": _CLUSTERS,
    "list_clusters": _CLUSTERS,
}
"""Why a method is refused, and what to do instead, by Python name."""

NOTES: dict[str, str] = {
    "get_cluster_info": "one cluster, one shard",
    "create_nexus_endpoint": "targets are workers; an external URL is refused",
    "update_workflow_execution_options": "no time skipping; no versioning override for one task",
}
"""Where a served method does less than its definition allows for, or otherwise; printed beside it."""


def is_served(rpc: Rpc) -> bool:
    """Whether `EngineService` has a function for it."""
    return hasattr(EngineService, rpc.method)


def refusal(rpc: Rpc) -> RpcError:
    """What a caller of an unserved method gets."""
    reason = UNSERVED.get(rpc.method, _NOT_YET)
    return RpcError(StatusCode.UNIMPLEMENTED, f"{rpc.name}: {reason}")
