"""Completing activities from outside, after `activity.raise_complete_async`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.client.calls import call
from perdure.client.errors import AsyncActivityCancelledError, AsyncActivityNotFoundError, WorkflowNotFoundError

if TYPE_CHECKING:
    from perdure.client.client import Client

__all__ = ["AsyncActivityHandle", "AsyncActivityIDReference"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AsyncActivityIDReference:
    """An activity named by its ids."""

    workflow_id: str
    run_id: str | None
    activity_id: str


class AsyncActivityHandle:
    """One activity that waits to be completed.

    Every method raises `AsyncActivityNotFoundError` if the activity is not running any more.
    """

    def __init__(self, client: Client, reference: AsyncActivityIDReference | bytes) -> None:
        self._client = client
        self._reference = reference

    def _address(self) -> dict[str, Any]:
        address: dict[str, Any] = {"namespace": self._client.namespace, "identity": self._client.identity}
        if isinstance(self._reference, bytes):
            return {**address, "task_token": self._reference}
        return {
            **address,
            "workflow_id": self._reference.workflow_id,
            "run_id": self._reference.run_id or "",
            "activity_id": self._reference.activity_id,
        }

    def _payloads(self, values: Sequence[Any]) -> m.Payloads | None:
        return self._client.data_converter.to_payloads(values) if values else None

    async def heartbeat(self, *details: Any) -> None:
        """Say that the activity is alive; `details` replace those of the last heartbeat.

        Raises:
            AsyncActivityCancelledError: it should stop.
        """
        fields: dict[str, Any] = {**self._address(), "details": self._payloads(details)}
        service = self._client.service
        if isinstance(self._reference, bytes):
            response = await _found(
                service.record_activity_task_heartbeat, m.RecordActivityTaskHeartbeatRequest(**fields)
            )
        else:
            by_id = m.RecordActivityTaskHeartbeatByIdRequest(**fields)
            response = await _found(service.record_activity_task_heartbeat_by_id, by_id)
        if response.cancel_requested:
            raise AsyncActivityCancelledError

    async def complete(self, result: Any = None) -> None:
        """Complete the activity with a result.

        Raises:
            ConversionError: the result cannot be encoded.
        """
        fields: dict[str, Any] = {**self._address(), "result": self._payloads([result])}
        service = self._client.service
        if isinstance(self._reference, bytes):
            await _found(service.respond_activity_task_completed, m.RespondActivityTaskCompletedRequest(**fields))
        else:
            by_id = m.RespondActivityTaskCompletedByIdRequest(**fields)
            await _found(service.respond_activity_task_completed_by_id, by_id)

    async def fail(self, error: Exception, *, last_heartbeat_details: Sequence[Any] = ()) -> None:
        """Fail this attempt; the activity's retry policy decides whether there is another."""
        failure = self._client.data_converter.to_failure(error)
        details = self._payloads(last_heartbeat_details)
        fields: dict[str, Any] = {**self._address(), "failure": failure, "last_heartbeat_details": details}
        service = self._client.service
        if isinstance(self._reference, bytes):
            await _found(service.respond_activity_task_failed, m.RespondActivityTaskFailedRequest(**fields))
        else:
            by_id = m.RespondActivityTaskFailedByIdRequest(**fields)
            await _found(service.respond_activity_task_failed_by_id, by_id)

    async def report_cancellation(self, *details: Any) -> None:
        """Say that the activity has stopped because it was cancelled."""
        fields: dict[str, Any] = {**self._address(), "details": self._payloads(details)}
        service = self._client.service
        if isinstance(self._reference, bytes):
            await _found(service.respond_activity_task_canceled, m.RespondActivityTaskCanceledRequest(**fields))
        else:
            by_id = m.RespondActivityTaskCanceledByIdRequest(**fields)
            await _found(service.respond_activity_task_canceled_by_id, by_id)


async def _found(method: Any, request: Any) -> Any:
    try:
        return await call(method, request)
    except WorkflowNotFoundError as error:
        cause = error.__cause__
        message = cause.message if isinstance(cause, RpcError) else error.message
        raise AsyncActivityNotFoundError(
            f"{message} (the activity has completed, timed out, or its workflow closed)", StatusCode.NOT_FOUND
        ) from cause
