"""What polls from other processes say and are told beside their tasks: versions, rates, how many polls are wanted.

A worker that scales its polls follows hints that come with its tasks: one more poll when tasks wait and no poll does,
one less when a poll had to wait long for its task while others waited too. An empty answer carries no hint: workers
read it as exactly the empty message.
"""

from __future__ import annotations

from perdure.api import messages as m
from perdure.engine.matching.queue import TaskQueue
from perdure.engine.matching.watch import PollerVersions

__all__ = ["hint", "note_rate", "note_versions"]

_LONG_WAIT_S = 1.0
"""A poll that has waited longer for its task was one too many, if others waited too."""


def note_versions(
    queue: TaskQueue,
    request: m.PollWorkflowTaskQueueRequest | m.PollActivityTaskQueueRequest | m.PollNexusTaskQueueRequest,
) -> None:
    """Remember what the poller says of the code it runs."""
    if request.HasField("deployment_options") or request.HasField("worker_version_capabilities"):
        known = queue.watch.versions.get(request.identity)
        if known is None or known.deployment != request.deployment_options:
            queue.watch.versions[request.identity] = PollerVersions(
                request.worker_version_capabilities, request.deployment_options
            )


def note_rate(queue: TaskQueue, request: m.PollActivityTaskQueueRequest) -> None:
    """Let activities go no faster than the poller asks for."""
    if request.HasField("task_queue_metadata") and request.task_queue_metadata.HasField("max_tasks_per_second"):
        rate = request.task_queue_metadata.max_tasks_per_second.value
        if rate > 0:
            queue.set_rate(rate)


def hint(
    response: m.PollWorkflowTaskQueueResponse | m.PollActivityTaskQueueResponse | m.PollNexusTaskQueueResponse,
    queue: TaskQueue,
    waited_s: float,
) -> None:
    """Say with a task whether the worker should poll more, or less.

    Args:
        response: holds a task.
        queue: where it came from.
        waited_s: how long the poll waited for it.
    """
    waiting = len(queue.backlog)
    if waiting and not queue.pollers:
        response.poller_scaling_decision.poll_request_delta_suggestion = 1
    elif waited_s >= _LONG_WAIT_S and queue.pollers:
        response.poller_scaling_decision.poll_request_delta_suggestion = -1
    if waiting and isinstance(response, m.PollWorkflowTaskQueueResponse):
        response.backlog_count_hint = waiting
