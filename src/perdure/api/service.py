"""The seam: Temporal's WorkflowService as Python async methods.

Requests and responses are the API's own protobuf messages. Each method returns its response or raises
`perdure.api.RpcError`. Long polls answer an empty message when `timeout_s` (seconds; the service's own
default when None) has passed. Messages handed over belong to the receiver: neither side mutates a message
after passing it on.
"""

from __future__ import annotations

from typing import Protocol

from temporalio.api.operatorservice import v1 as operator
from temporalio.api.workflowservice import v1 as ws

__all__ = ["WorkflowService"]


class WorkflowService(Protocol):
    """What the SDK half may ask of an engine, wherever that engine is."""

    async def get_system_info(self, request: ws.GetSystemInfoRequest) -> ws.GetSystemInfoResponse: ...

    async def get_cluster_info(self, request: ws.GetClusterInfoRequest) -> ws.GetClusterInfoResponse: ...

    async def register_namespace(self, request: ws.RegisterNamespaceRequest) -> ws.RegisterNamespaceResponse: ...

    async def describe_namespace(self, request: ws.DescribeNamespaceRequest) -> ws.DescribeNamespaceResponse: ...

    async def list_namespaces(self, request: ws.ListNamespacesRequest) -> ws.ListNamespacesResponse: ...

    async def update_namespace(self, request: ws.UpdateNamespaceRequest) -> ws.UpdateNamespaceResponse: ...

    async def deprecate_namespace(self, request: ws.DeprecateNamespaceRequest) -> ws.DeprecateNamespaceResponse: ...

    async def delete_namespace(self, request: operator.DeleteNamespaceRequest) -> operator.DeleteNamespaceResponse: ...

    async def add_search_attributes(
        self, request: operator.AddSearchAttributesRequest
    ) -> operator.AddSearchAttributesResponse: ...

    async def remove_search_attributes(
        self, request: operator.RemoveSearchAttributesRequest
    ) -> operator.RemoveSearchAttributesResponse: ...

    async def list_search_attributes(
        self, request: operator.ListSearchAttributesRequest
    ) -> operator.ListSearchAttributesResponse: ...

    async def get_search_attributes(self, request: ws.GetSearchAttributesRequest) -> ws.GetSearchAttributesResponse: ...

    async def start_workflow_execution(
        self, request: ws.StartWorkflowExecutionRequest
    ) -> ws.StartWorkflowExecutionResponse: ...

    async def signal_workflow_execution(
        self, request: ws.SignalWorkflowExecutionRequest
    ) -> ws.SignalWorkflowExecutionResponse: ...

    async def signal_with_start_workflow_execution(
        self, request: ws.SignalWithStartWorkflowExecutionRequest
    ) -> ws.SignalWithStartWorkflowExecutionResponse: ...

    async def update_workflow_execution(
        self, request: ws.UpdateWorkflowExecutionRequest, *, timeout_s: float | None = None
    ) -> ws.UpdateWorkflowExecutionResponse: ...

    async def poll_workflow_execution_update(
        self, request: ws.PollWorkflowExecutionUpdateRequest, *, timeout_s: float | None = None
    ) -> ws.PollWorkflowExecutionUpdateResponse: ...

    async def execute_multi_operation(
        self, request: ws.ExecuteMultiOperationRequest, *, timeout_s: float | None = None
    ) -> ws.ExecuteMultiOperationResponse: ...

    async def query_workflow(self, request: ws.QueryWorkflowRequest) -> ws.QueryWorkflowResponse: ...

    async def request_cancel_workflow_execution(
        self, request: ws.RequestCancelWorkflowExecutionRequest
    ) -> ws.RequestCancelWorkflowExecutionResponse: ...

    async def terminate_workflow_execution(
        self, request: ws.TerminateWorkflowExecutionRequest
    ) -> ws.TerminateWorkflowExecutionResponse: ...

    async def reset_workflow_execution(
        self, request: ws.ResetWorkflowExecutionRequest
    ) -> ws.ResetWorkflowExecutionResponse: ...

    async def delete_workflow_execution(
        self, request: ws.DeleteWorkflowExecutionRequest
    ) -> ws.DeleteWorkflowExecutionResponse: ...

    async def start_batch_operation(self, request: ws.StartBatchOperationRequest) -> ws.StartBatchOperationResponse: ...

    async def stop_batch_operation(self, request: ws.StopBatchOperationRequest) -> ws.StopBatchOperationResponse: ...

    async def describe_batch_operation(
        self, request: ws.DescribeBatchOperationRequest
    ) -> ws.DescribeBatchOperationResponse: ...

    async def list_batch_operations(self, request: ws.ListBatchOperationsRequest) -> ws.ListBatchOperationsResponse: ...

    # -- schedules ------------------------------------------------------------------------------------------------

    async def create_schedule(self, request: ws.CreateScheduleRequest) -> ws.CreateScheduleResponse: ...

    async def describe_schedule(self, request: ws.DescribeScheduleRequest) -> ws.DescribeScheduleResponse: ...

    async def update_schedule(self, request: ws.UpdateScheduleRequest) -> ws.UpdateScheduleResponse: ...

    async def patch_schedule(self, request: ws.PatchScheduleRequest) -> ws.PatchScheduleResponse: ...

    async def delete_schedule(self, request: ws.DeleteScheduleRequest) -> ws.DeleteScheduleResponse: ...

    async def list_schedules(self, request: ws.ListSchedulesRequest) -> ws.ListSchedulesResponse: ...

    async def count_schedules(self, request: ws.CountSchedulesRequest) -> ws.CountSchedulesResponse: ...

    async def list_schedule_matching_times(
        self, request: ws.ListScheduleMatchingTimesRequest
    ) -> ws.ListScheduleMatchingTimesResponse: ...

    async def pause_workflow_execution(
        self, request: ws.PauseWorkflowExecutionRequest
    ) -> ws.PauseWorkflowExecutionResponse: ...

    async def unpause_workflow_execution(
        self, request: ws.UnpauseWorkflowExecutionRequest
    ) -> ws.UnpauseWorkflowExecutionResponse: ...

    async def update_workflow_execution_options(
        self, request: ws.UpdateWorkflowExecutionOptionsRequest
    ) -> ws.UpdateWorkflowExecutionOptionsResponse: ...

    async def describe_workflow_execution(
        self, request: ws.DescribeWorkflowExecutionRequest
    ) -> ws.DescribeWorkflowExecutionResponse: ...

    async def get_workflow_execution_history(
        self, request: ws.GetWorkflowExecutionHistoryRequest, *, timeout_s: float | None = None
    ) -> ws.GetWorkflowExecutionHistoryResponse: ...

    async def get_workflow_execution_history_reverse(
        self, request: ws.GetWorkflowExecutionHistoryReverseRequest
    ) -> ws.GetWorkflowExecutionHistoryReverseResponse: ...

    async def list_workflow_executions(
        self, request: ws.ListWorkflowExecutionsRequest
    ) -> ws.ListWorkflowExecutionsResponse: ...

    async def count_workflow_executions(
        self, request: ws.CountWorkflowExecutionsRequest
    ) -> ws.CountWorkflowExecutionsResponse: ...

    async def list_open_workflow_executions(
        self, request: ws.ListOpenWorkflowExecutionsRequest
    ) -> ws.ListOpenWorkflowExecutionsResponse: ...

    async def list_closed_workflow_executions(
        self, request: ws.ListClosedWorkflowExecutionsRequest
    ) -> ws.ListClosedWorkflowExecutionsResponse: ...

    async def scan_workflow_executions(
        self, request: ws.ScanWorkflowExecutionsRequest
    ) -> ws.ScanWorkflowExecutionsResponse: ...

    async def poll_workflow_task_queue(
        self, request: ws.PollWorkflowTaskQueueRequest, *, timeout_s: float | None = None
    ) -> ws.PollWorkflowTaskQueueResponse: ...

    async def respond_workflow_task_completed(
        self, request: ws.RespondWorkflowTaskCompletedRequest
    ) -> ws.RespondWorkflowTaskCompletedResponse: ...

    async def respond_workflow_task_failed(
        self, request: ws.RespondWorkflowTaskFailedRequest
    ) -> ws.RespondWorkflowTaskFailedResponse: ...

    async def respond_query_task_completed(
        self, request: ws.RespondQueryTaskCompletedRequest
    ) -> ws.RespondQueryTaskCompletedResponse: ...

    async def reset_sticky_task_queue(
        self, request: ws.ResetStickyTaskQueueRequest
    ) -> ws.ResetStickyTaskQueueResponse: ...

    async def poll_activity_task_queue(
        self, request: ws.PollActivityTaskQueueRequest, *, timeout_s: float | None = None
    ) -> ws.PollActivityTaskQueueResponse: ...

    async def record_activity_task_heartbeat(
        self, request: ws.RecordActivityTaskHeartbeatRequest
    ) -> ws.RecordActivityTaskHeartbeatResponse: ...

    async def record_activity_task_heartbeat_by_id(
        self, request: ws.RecordActivityTaskHeartbeatByIdRequest
    ) -> ws.RecordActivityTaskHeartbeatByIdResponse: ...

    async def pause_activity(self, request: ws.PauseActivityRequest) -> ws.PauseActivityResponse: ...

    async def unpause_activity(self, request: ws.UnpauseActivityRequest) -> ws.UnpauseActivityResponse: ...

    async def reset_activity(self, request: ws.ResetActivityRequest) -> ws.ResetActivityResponse: ...

    async def update_activity_options(
        self, request: ws.UpdateActivityOptionsRequest
    ) -> ws.UpdateActivityOptionsResponse: ...

    async def respond_activity_task_completed(
        self, request: ws.RespondActivityTaskCompletedRequest
    ) -> ws.RespondActivityTaskCompletedResponse: ...

    async def respond_activity_task_completed_by_id(
        self, request: ws.RespondActivityTaskCompletedByIdRequest
    ) -> ws.RespondActivityTaskCompletedByIdResponse: ...

    async def respond_activity_task_failed(
        self, request: ws.RespondActivityTaskFailedRequest
    ) -> ws.RespondActivityTaskFailedResponse: ...

    async def respond_activity_task_failed_by_id(
        self, request: ws.RespondActivityTaskFailedByIdRequest
    ) -> ws.RespondActivityTaskFailedByIdResponse: ...

    async def respond_activity_task_canceled(
        self, request: ws.RespondActivityTaskCanceledRequest
    ) -> ws.RespondActivityTaskCanceledResponse: ...

    async def respond_activity_task_canceled_by_id(
        self, request: ws.RespondActivityTaskCanceledByIdRequest
    ) -> ws.RespondActivityTaskCanceledByIdResponse: ...

    async def describe_task_queue(self, request: ws.DescribeTaskQueueRequest) -> ws.DescribeTaskQueueResponse: ...

    async def list_task_queue_partitions(
        self, request: ws.ListTaskQueuePartitionsRequest
    ) -> ws.ListTaskQueuePartitionsResponse: ...

    async def record_worker_heartbeat(
        self, request: ws.RecordWorkerHeartbeatRequest
    ) -> ws.RecordWorkerHeartbeatResponse: ...

    async def list_workers(self, request: ws.ListWorkersRequest) -> ws.ListWorkersResponse: ...

    async def count_workers(self, request: ws.CountWorkersRequest) -> ws.CountWorkersResponse: ...

    async def describe_worker(self, request: ws.DescribeWorkerRequest) -> ws.DescribeWorkerResponse: ...

    async def start_activity_execution(
        self, request: ws.StartActivityExecutionRequest
    ) -> ws.StartActivityExecutionResponse: ...

    async def describe_activity_execution(
        self, request: ws.DescribeActivityExecutionRequest, *, timeout_s: float | None = None
    ) -> ws.DescribeActivityExecutionResponse: ...

    async def poll_activity_execution(
        self, request: ws.PollActivityExecutionRequest, *, timeout_s: float | None = None
    ) -> ws.PollActivityExecutionResponse: ...

    async def list_activity_executions(
        self, request: ws.ListActivityExecutionsRequest
    ) -> ws.ListActivityExecutionsResponse: ...

    async def count_activity_executions(
        self, request: ws.CountActivityExecutionsRequest
    ) -> ws.CountActivityExecutionsResponse: ...

    async def request_cancel_activity_execution(
        self, request: ws.RequestCancelActivityExecutionRequest
    ) -> ws.RequestCancelActivityExecutionResponse: ...

    async def terminate_activity_execution(
        self, request: ws.TerminateActivityExecutionRequest
    ) -> ws.TerminateActivityExecutionResponse: ...

    async def delete_activity_execution(
        self, request: ws.DeleteActivityExecutionRequest
    ) -> ws.DeleteActivityExecutionResponse: ...

    async def pause_activity_execution(
        self, request: ws.PauseActivityExecutionRequest
    ) -> ws.PauseActivityExecutionResponse: ...

    async def unpause_activity_execution(
        self, request: ws.UnpauseActivityExecutionRequest
    ) -> ws.UnpauseActivityExecutionResponse: ...

    async def reset_activity_execution(
        self, request: ws.ResetActivityExecutionRequest
    ) -> ws.ResetActivityExecutionResponse: ...

    async def update_activity_execution_options(
        self, request: ws.UpdateActivityExecutionOptionsRequest
    ) -> ws.UpdateActivityExecutionOptionsResponse: ...

    async def describe_worker_deployment_version(
        self, request: ws.DescribeWorkerDeploymentVersionRequest
    ) -> ws.DescribeWorkerDeploymentVersionResponse: ...

    async def describe_worker_deployment(
        self, request: ws.DescribeWorkerDeploymentRequest
    ) -> ws.DescribeWorkerDeploymentResponse: ...

    async def set_worker_deployment_current_version(
        self, request: ws.SetWorkerDeploymentCurrentVersionRequest
    ) -> ws.SetWorkerDeploymentCurrentVersionResponse: ...

    async def set_worker_deployment_ramping_version(
        self, request: ws.SetWorkerDeploymentRampingVersionRequest
    ) -> ws.SetWorkerDeploymentRampingVersionResponse: ...

    async def list_worker_deployments(
        self, request: ws.ListWorkerDeploymentsRequest
    ) -> ws.ListWorkerDeploymentsResponse: ...

    async def delete_worker_deployment_version(
        self, request: ws.DeleteWorkerDeploymentVersionRequest
    ) -> ws.DeleteWorkerDeploymentVersionResponse: ...

    async def delete_worker_deployment(
        self, request: ws.DeleteWorkerDeploymentRequest
    ) -> ws.DeleteWorkerDeploymentResponse: ...

    async def update_worker_deployment_version_metadata(
        self, request: ws.UpdateWorkerDeploymentVersionMetadataRequest
    ) -> ws.UpdateWorkerDeploymentVersionMetadataResponse: ...

    async def set_worker_deployment_manager(
        self, request: ws.SetWorkerDeploymentManagerRequest
    ) -> ws.SetWorkerDeploymentManagerResponse: ...

    async def shutdown_worker(self, request: ws.ShutdownWorkerRequest) -> ws.ShutdownWorkerResponse: ...

    async def poll_nexus_task_queue(
        self, request: ws.PollNexusTaskQueueRequest, *, timeout_s: float | None = None
    ) -> ws.PollNexusTaskQueueResponse: ...

    async def respond_nexus_task_completed(
        self, request: ws.RespondNexusTaskCompletedRequest
    ) -> ws.RespondNexusTaskCompletedResponse: ...

    async def respond_nexus_task_failed(
        self, request: ws.RespondNexusTaskFailedRequest
    ) -> ws.RespondNexusTaskFailedResponse: ...

    async def create_nexus_endpoint(
        self, request: operator.CreateNexusEndpointRequest
    ) -> operator.CreateNexusEndpointResponse: ...

    async def update_nexus_endpoint(
        self, request: operator.UpdateNexusEndpointRequest
    ) -> operator.UpdateNexusEndpointResponse: ...

    async def delete_nexus_endpoint(
        self, request: operator.DeleteNexusEndpointRequest
    ) -> operator.DeleteNexusEndpointResponse: ...

    async def get_nexus_endpoint(
        self, request: operator.GetNexusEndpointRequest
    ) -> operator.GetNexusEndpointResponse: ...

    async def list_nexus_endpoints(
        self, request: operator.ListNexusEndpointsRequest
    ) -> operator.ListNexusEndpointsResponse: ...
