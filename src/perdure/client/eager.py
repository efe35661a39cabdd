"""Workers of this process to which a client can hand the first task of a workflow it starts.

A start that asks for it gets the first workflow task in its answer, if a worker of the same process serves the task
queue and has room: a round trip to the server less. Workers enlist here while they poll. Which service they work for
matters, not which client of it. The list keeps nobody in memory: a worker that is left behind, unstopped, on an event
loop that has died, holds its service, which would hold its place here.
"""

from __future__ import annotations

from typing import Protocol
from weakref import ReferenceType, WeakKeyDictionary, ref

from perdure.api import WorkflowService
from perdure.api import messages as m

__all__ = ["TaskTaker", "dismiss", "enlist", "find_taker"]


class TaskTaker(Protocol):
    """A worker, as far as starts are concerned."""

    def reserve(self, workflow_type: str) -> bool:
        """Keep room for a task of such a workflow; False if there is none, or the worker does not run it."""
        ...

    def take(self, task: m.PollWorkflowTaskQueueResponse | None) -> None:
        """Do the task that room was kept for; None gives the room back."""
        ...


_Key = tuple[str, str]
_takers: WeakKeyDictionary[WorkflowService, dict[_Key, list[ReferenceType[TaskTaker]]]] = WeakKeyDictionary()


def enlist(service: WorkflowService, namespace: str, task_queue: str, taker: TaskTaker) -> None:
    """A worker takes tasks from now on."""
    _takers.setdefault(service, {}).setdefault((namespace, task_queue), []).append(ref(taker))


def dismiss(service: WorkflowService, namespace: str, task_queue: str, taker: TaskTaker) -> None:
    """It takes none any more. Harmless to repeat."""
    takers = _takers.get(service, {}).get((namespace, task_queue), [])
    takers[:] = [enlisted for enlisted in takers if enlisted() not in (taker, None)]


def find_taker(service: WorkflowService, request: m.StartWorkflowExecutionRequest) -> TaskTaker | None:
    """A worker that has kept room for the first task of what the request starts; None if there is none."""
    for enlisted in _takers.get(service, {}).get((request.namespace, request.task_queue.name), ()):
        taker = enlisted()
        if taker is not None and taker.reserve(request.workflow_type.name):
            return taker
    return None
