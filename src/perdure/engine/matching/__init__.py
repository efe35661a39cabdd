"""Task queues: where tasks and pollers meet. See `perdure.engine.matching.queue`."""

from perdure.engine.matching.queue import Matching, QueryTask, TaskQueue, WorkflowTask

__all__ = ["Matching", "QueryTask", "TaskQueue", "WorkflowTask"]
