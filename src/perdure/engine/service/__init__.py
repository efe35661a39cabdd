"""The RPCs, transport neutral: `EngineService` composes one class a topic.

Handlers are ``async fn(request) -> response``. They check, find the run, let ``engine.history`` decide, hand the
transition to the shard and wait until it is durable. In process the client and worker call them directly; a server
calls the same methods from the network.
"""

from __future__ import annotations

from perdure.engine.service.activities import ActivityTopic
from perdure.engine.service.activity_executions import ActivityExecutionTopic
from perdure.engine.service.batches import BatchTopic
from perdure.engine.service.deployments import DeploymentTopic
from perdure.engine.service.direct import DirectTopic
from perdure.engine.service.histories import HistoryTopic
from perdure.engine.service.namespaces import NamespaceTopic
from perdure.engine.service.nexus import NexusTopic
from perdure.engine.service.operations import OperationTopic
from perdure.engine.service.queries import QueryTopic
from perdure.engine.service.schedules import ScheduleTopic
from perdure.engine.service.search_attributes import SearchAttributeTopic
from perdure.engine.service.task_queues import TaskQueueTopic
from perdure.engine.service.update_with_start import UpdateWithStartTopic
from perdure.engine.service.workers import WorkerTopic
from perdure.engine.service.workflow_tasks import WorkflowTaskTopic

__all__ = ["EngineService"]


class EngineService(
    NamespaceTopic,
    UpdateWithStartTopic,
    OperationTopic,
    BatchTopic,
    QueryTopic,
    HistoryTopic,
    ActivityExecutionTopic,
    SearchAttributeTopic,
    ScheduleTopic,
    WorkflowTaskTopic,
    ActivityTopic,
    DeploymentTopic,
    TaskQueueTopic,
    WorkerTopic,
    NexusTopic,
    DirectTopic,
):
    """The engine as a `perdure.api.WorkflowService`."""
