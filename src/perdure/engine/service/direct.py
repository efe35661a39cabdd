"""The short way for workers of this process; see `perdure.api.direct`."""

from __future__ import annotations

from perdure.api import messages as m
from perdure.api.direct import ActivityTaker, Direct, StandingPoll, WorkflowTaker
from perdure.engine.direct import StandingActivityPoll, StandingWorkflowPoll
from perdure.engine.service.base import ServiceTopic, invalid

__all__ = ["DirectTopic"]


class DirectTopic(ServiceTopic):
    """Standing polls."""

    @property
    def direct(self) -> Direct | None:
        """The short way; None for callers in other processes."""
        return self if self.in_process else None

    def poll_activities(self, request: m.PollActivityTaskQueueRequest, taker: ActivityTaker) -> StandingPoll:
        """See `perdure.api.direct.Direct`."""
        self.check(request.namespace)
        queue = self.matching.activity_queue(request.namespace, _name(request.task_queue))
        poll = StandingActivityPoll(self.engine, queue, request, taker)
        poll.resume()
        return poll

    def poll_workflow_tasks(
        self,
        request: m.PollWorkflowTaskQueueRequest,
        completion: m.RespondWorkflowTaskCompletedRequest,
        taker: WorkflowTaker,
    ) -> StandingPoll:
        """See `perdure.api.direct.Direct`."""
        self.check(request.namespace)
        queue = self.matching.workflow_queue(request.namespace, _name(request.task_queue))
        poll = StandingWorkflowPoll(self.engine, queue, request, completion, taker)
        poll.resume()
        return poll


def _name(task_queue: m.TaskQueue) -> str:
    if not task_queue.name:
        raise invalid("the task queue has no name")
    return task_queue.name
