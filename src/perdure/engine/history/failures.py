"""The failures and payloads that the engine itself writes into histories."""

from __future__ import annotations

import json
from typing import Final

from perdure.api import messages as m
from perdure.engine.history.retrying import timeout_name

_FAILURE_MESSAGE_KEPT: Final = 4000


def activity_timeout(timeout_type: m.TimeoutType.ValueType) -> m.Failure:
    """The failure of an attempt whose time is up."""
    failure = m.Failure(message=f"activity {timeout_name(timeout_type)} timeout", source="Server")
    failure.timeout_failure_info.timeout_type = timeout_type
    return failure


def no_time_for_retry() -> m.Failure:
    """A timed-out attempt after which schedule-to-close leaves no room for another."""
    failure = m.Failure(
        message="Not enough time to schedule next retry before activity ScheduleToClose timeout, giving up retrying",
        source="Server",
    )
    failure.timeout_failure_info.timeout_type = m.TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE
    return failure


def workflow_timeout() -> m.Failure:
    """The failure a timed-out run hands to the retry that follows it."""
    failure = m.Failure(message="workflow timeout", source="Server")
    failure.timeout_failure_info.timeout_type = m.TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE
    return failure


def abandoned_update() -> m.Failure:
    """What became of an update that was accepted by a run that closed before completing it."""
    failure = m.Failure(message="the workflow closed before the update completed", source="Server")
    failure.application_failure_info.type = "AcceptedUpdateCompletedWorkflow"
    failure.application_failure_info.non_retryable = True
    return failure


def server_failure(message: str, *, non_retryable: bool) -> m.Failure:
    """A failure the engine decided on."""
    failure = m.Failure(message=message, source="Server")
    failure.server_failure_info.non_retryable = non_retryable
    return failure


def bounded(failure: m.Failure, max_bytes: int) -> m.Failure:
    """The failure itself, or where it is too large its beginning as the cause of one that says so."""
    if failure.ByteSize() <= max_bytes:
        return failure
    outer = server_failure("Failure exceeds size limit.", non_retryable=False)
    outer.cause.message = failure.message[:_FAILURE_MESSAGE_KEPT]
    outer.cause.source = failure.source
    outer.cause.stack_trace = failure.stack_trace[:_FAILURE_MESSAGE_KEPT]
    if failure.WhichOneof("failure_info") == "application_failure_info":
        info = outer.cause.application_failure_info
        info.type = failure.application_failure_info.type
        info.non_retryable = failure.application_failure_info.non_retryable
        outer.server_failure_info.non_retryable = info.non_retryable
    return outer


def text_payloads(text: str) -> m.Payloads:
    """A JSON string as Payloads."""
    payloads = m.Payloads()
    payload = payloads.payloads.add()
    payload.metadata["encoding"] = b"json/plain"
    payload.data = json.dumps(text).encode()
    return payloads
