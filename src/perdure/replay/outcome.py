"""What a workflow task came to, and what the worker has to do about it.

`WorkflowRun.outcome` answers one of three values. The worker turns `TaskCompleted` and `TaskFailed` into the
matching RPC; on `StepsNeeded` it runs the functions and reports each with `WorkflowRun.resolve_step`, which answers
the next outcome of the same workflow task.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeAlias

from msgspec import Struct

from perdure.api import messages as m
from perdure.api.direct import ActivityCommand, Command
from perdure.common import RetryPolicy

__all__ = ["Outcome", "StepCall", "StepsNeeded", "TaskCompleted", "TaskFailed"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepCall:
    """A `workflow.step` whose function the worker has to run, outside of the workflow's loop.

    Attributes:
        step_id: unique within the run; the same again after a replay.
        name: for logs and the history.
        fn: sync or async function; a sync one may block, so it belongs on a thread.
        args: its arguments, as the workflow gave them.
        retry_policy: None = no retries.
        timeout: of one attempt; None = no limit.
        return_type: the function's result hint, for serialising the result; None = not hinted.
    """

    step_id: str
    name: str
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    retry_policy: RetryPolicy | None
    timeout: timedelta | None
    return_type: Any


class TaskCompleted(Struct, kw_only=True, gc=False):
    """Respond with RespondWorkflowTaskCompleted.

    Attributes:
        asked: the commands, in order.
        query_results: answers to the task's buffered queries by query id.
        force_new_task: set `force_create_new_workflow_task`: steps are still running.
        closes: the last command closes the run; it may be dropped from the cache once the service has accepted it.
        cancels_activities: among the commands are requests to cancel activities.
        messages: answers to the task's updates; PROTOCOL_MESSAGE commands mark their places.

    (A Struct: one is made of every workflow task.)
    """

    asked: list[Command]
    query_results: Mapping[str, m.WorkflowQueryResult] = {}
    force_new_task: bool = False
    closes: bool = False
    cancels_activities: bool = False
    messages: Sequence[m.Message] = ()

    @property
    def encoded_commands(self) -> list[bytes]:
        """The commands, serialized."""
        return [one.serialize() if isinstance(one, ActivityCommand) else one for one in self.asked]

    @property
    def commands(self) -> list[m.Command]:
        """The commands as messages."""
        return [m.Command.FromString(command) for command in self.encoded_commands]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepsNeeded:
    """Every step the workflow waits for: start those not yet running, abandon running ones no longer listed."""

    calls: tuple[StepCall, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFailed:
    """Respond with RespondWorkflowTaskFailed (attempt 1; later attempts are left to time out), and evict the run.

    Attributes:
        cause: a WorkflowTaskFailedCause.
        failure: what the history will show.
        error: the same as an exception, for the worker's log.
    """

    cause: int
    failure: m.Failure
    error: BaseException


Outcome: TypeAlias = TaskCompleted | StepsNeeded | TaskFailed
