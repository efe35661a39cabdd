"""What operators do to one workflow: take it back to an earlier point, delete it."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from perdure.api import StatusCode
from perdure.api import messages as m
from perdure.client.calls import call
from perdure.client.errors import InvalidRequestError

if TYPE_CHECKING:
    from perdure.client.client import Client
    from perdure.client.handle import WorkflowHandle

__all__ = ["OperatedHandle", "ResetReapplyExcludeType", "ResetType"]

_COMPLETED = m.EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED
_PAGE_EVENTS = 200


class ResetType(IntEnum):
    """Points of a history that need no event id."""

    FIRST_WORKFLOW_TASK = 1
    """The first workflow task: everything is done again."""
    LAST_WORKFLOW_TASK = 2
    """The last completed workflow task: what came after it is done again."""


class ResetReapplyExcludeType(IntEnum):
    """What a reset need not bring along, of all that has come from outside since the point it goes back to."""

    SIGNAL = 1
    UPDATE = 2
    NEXUS = 3
    CANCEL_REQUEST = 4


class OperatedHandle:
    """The part of `WorkflowHandle` for operators."""

    _client: Client
    id: str
    run_id: str | None

    async def reset(
        self,
        to: ResetType | int = ResetType.LAST_WORKFLOW_TASK,
        *,
        reason: str = "",
        exclude: Sequence[ResetReapplyExcludeType] = (),
    ) -> WorkflowHandle[Any]:
        """Take the workflow back: a new run begins with the history up to a point, and goes on from there.

        Signals and updates that have come since then are brought along. The run it replaces is terminated if it is
        running.

            await handle.reset(reason="the bug in charge() is mended")

        Args:
            to: the first or last workflow task, or the id of a WorkflowTaskCompleted event.
            reason: for the history.
            exclude: what is not brought along.

        Returns:
            A handle to the new run.

        Raises:
            WorkflowNotFoundError: there is no such workflow.
            InvalidRequestError: there is no such point in its history.
        """
        event_id = await self._find_point(to) if isinstance(to, ResetType) else to
        request = m.ResetWorkflowExecutionRequest(
            namespace=self._client.namespace,
            workflow_execution=self._workflow(),
            reason=reason,
            workflow_task_finish_event_id=event_id,
            request_id=str(uuid.uuid4()),
            identity=self._client.identity,
        )
        request.reset_reapply_exclude_types.extend(kind.value for kind in exclude)  # pyright: ignore[reportArgumentType] - an open enum is an int
        response = await call(self._client.service.reset_workflow_execution, request, workflow_id=self.id)
        return self._client.get_workflow_handle(self.id, run_id=response.run_id)

    async def _find_point(self, to: ResetType) -> int:
        """The event id of a point, found from the end of the history that it is nearer to."""
        service = self._client.service
        get: Any = service.get_workflow_execution_history_reverse
        kind: Any = m.GetWorkflowExecutionHistoryReverseRequest
        if to is ResetType.FIRST_WORKFLOW_TASK:
            get, kind = service.get_workflow_execution_history, m.GetWorkflowExecutionHistoryRequest
        token: bytes | None = b""
        while token is not None:
            request = kind(
                namespace=self._client.namespace,
                execution=self._workflow(),
                maximum_page_size=_PAGE_EVENTS,
                next_page_token=token,
            )
            page = await call(get, request, workflow_id=self.id)
            for event in page.history.events:
                if event.event_type == _COMPLETED:
                    return event.event_id
            token = page.next_page_token or None
        raise InvalidRequestError(
            f"workflow {self.id!r} has completed no workflow task, so there is nothing to go back to",
            StatusCode.INVALID_ARGUMENT,
        )

    async def delete(self) -> None:
        """Remove the run with its history: the one the handle names, or the current one. A running one is terminated.

        Raises:
            WorkflowNotFoundError: there is no such workflow.
        """
        request = m.DeleteWorkflowExecutionRequest(
            namespace=self._client.namespace, workflow_execution=self._workflow()
        )
        await call(self._client.service.delete_workflow_execution, request, workflow_id=self.id)

    def _workflow(self) -> m.WorkflowExecution:
        return m.WorkflowExecution(workflow_id=self.id, run_id=self.run_id or "")
