"""Workflow tasks that come by the short way (see `perdure.api.direct`).

The ordinary task, whose run is in the cache and whose code comes to rest at once, is activated and completed in the
call that brings it: no message, no coroutine, no turn of the event loop. Any other goes on as one that came by a poll,
from where it stands.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from perdure.api import RpcError
from perdure.api import messages as m
from perdure.api.direct import Direct, WorkflowTask
from perdure.replay.outcome import TaskCompleted
from perdure.worker.pollers import Pool
from perdure.worker.standing import StandingPool
from perdure.worker.workflow_tasks import UNHANDLED, Task, WorkflowTaskWorker

__all__ = ["DirectWorkflowTaskWorker"]

_logger = logging.getLogger("perdure.worker")


class DirectWorkflowTaskWorker(WorkflowTaskWorker):
    """A `WorkflowTaskWorker` that is a `perdure.api.direct.WorkflowTaker`.

    Args:
        short_way: to the service.
        options: as for `WorkflowTaskWorker`.
    """

    def __init__(self, short_way: Direct, **options: Any) -> None:
        self._short_way = short_way
        super().__init__(**options)

    def _make_pools(
        self,
        requests: Sequence[m.PollWorkflowTaskQueueRequest],
        completed: m.RespondWorkflowTaskCompletedRequest,
    ) -> list[Pool]:
        completion = m.RespondWorkflowTaskCompletedRequest()
        completion.CopyFrom(completed)
        completion.return_new_workflow_task = False  # It comes by itself.
        self._standing = StandingPool(
            f"workflow tasks of {self._task_queue}",
            begin=lambda: [self._short_way.poll_workflow_tasks(request, completion, self) for request in requests],
            max_tasks=self._max_concurrent,
            on_fatal=self._on_fatal,
        )
        return [self._standing]

    def take_message(self, task: Task) -> None:
        """See `perdure.api.direct.WorkflowTaker`."""
        self._standing.run(self._handle_in_slot(task))

    def lose(self, run_id: str) -> None:
        """See `perdure.api.direct.WorkflowTaker`."""
        entry = self.cache.get(run_id)
        if entry is not None and not entry.busy:
            self.cache.drop(entry)

    def take_workflow_task(self, task: WorkflowTask) -> None:
        """See `perdure.api.direct.WorkflowTaker`."""
        entry = self.cache.get(task.run_id) or self._new_entry(task.run_id, task.workflow_type)
        if entry is None or entry.busy or entry.run.next_event_id < task.first_event_id:
            self.take_message(task.message())
            return
        entry.busy = True
        if self._watchdog.is_asleep:
            self._watchdog.wake()
        try:
            run = entry.run
            run.begin_plain(task.workflow_id, task.run_id)
            step = task.step
            if step is None or not run.advance(step, task.first_event_id):
                run.feed(m.History.FromString(task.history).events, last=True)
            outcome = run.outcome()
            if not isinstance(outcome, TaskCompleted) or outcome.messages:
                self._standing.run(self._handle_in_slot(task.message(), (entry, outcome)))
                return
            task.complete(outcome.asked)
            if outcome.closes:
                self.cache.drop(entry)
            else:
                self.cache.measure(entry)
            if outcome.closes or outcome.cancels_activities:
                self._poke_activities(entry.run_id)
        except RpcError as error:
            self._log_given_up(task.message(), error)
            self.cache.drop(entry)
        except Exception as error:
            _logger.exception("workflow task of %s failed", task.workflow_id)
            self.cache.drop(entry)
            self._standing.run(self._fail(task.message(), UNHANDLED, self._converter.to_failure(error)))
        entry.release()
