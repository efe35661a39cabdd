"""Failures of Nexus handlers: what they become in a history, and whether another attempt may help.

A handler reports in one of two languages. Workers that know of it send the API's own failures: one with
``NexusHandlerFailureInfo`` for a request that could not be served, one of an application or a cancellation for an
operation that ended badly. Others send Nexus failures, a message with metadata and JSON details, which may hold one of
the API's failures and say so.
"""

from __future__ import annotations

import json
from typing import Final

from google.protobuf import json_format
from temporalio.api.nexus import v1 as nx

from perdure.api import messages as m

_NOT_RETRYABLE: Final = frozenset(
    ("BAD_REQUEST", "UNAUTHENTICATED", "UNAUTHORIZED", "NOT_FOUND", "CONFLICT", "NOT_IMPLEMENTED")
)
"""Types of handler errors after which the same request can't succeed, unless the handler says otherwise."""
_BEHAVIOR = m.NexusHandlerErrorRetryBehavior
_RETRYABLE = _BEHAVIOR.NEXUS_HANDLER_ERROR_RETRY_BEHAVIOR_RETRYABLE
_NON_RETRYABLE = _BEHAVIOR.NEXUS_HANDLER_ERROR_RETRY_BEHAVIOR_NON_RETRYABLE
_API_FAILURE: Final = m.Failure.DESCRIPTOR.full_name
_CANCELED: Final = "canceled"
_CAUSES_KEPT: Final = 100


def is_retryable(failure: m.Failure) -> bool:
    """Whether the request may be sent again after a handler's failure."""
    info = failure.nexus_handler_failure_info
    if info.retry_behavior:
        return info.retry_behavior == _RETRYABLE
    return info.type not in _NOT_RETRYABLE


def handler_failure(error_type: str, message: str, *, retryable: bool | None = None) -> m.Failure:
    """A failure of a request that never reached a handler, or that none has answered."""
    failure = m.Failure(message=f"handler error ({error_type}): {message}")
    failure.nexus_handler_failure_info.type = error_type
    if retryable is not None:
        failure.nexus_handler_failure_info.retry_behavior = _RETRYABLE if retryable else _NON_RETRYABLE
    return failure


def of_handler_error(error: nx.HandlerError) -> m.Failure:
    """What a Nexus handler error becomes."""
    failure = m.Failure(message=f"handler error ({error.error_type}): {error.failure.message}")
    failure.nexus_handler_failure_info.type = error.error_type
    failure.nexus_handler_failure_info.retry_behavior = error.retry_behavior
    if error.HasField("failure"):
        failure.cause.CopyFrom(_of_nexus(error.failure, retryable=is_retryable(failure)))
    return failure


def of_operation_error(error: nx.UnsuccessfulOperationError) -> m.Failure:
    """What a Nexus operation error becomes; a cancelled operation has ``CanceledFailureInfo``."""
    failure = _of_nexus(error.failure, retryable=False)
    if error.operation_state == _CANCELED and not failure.HasField("canceled_failure_info"):
        details = list(failure.application_failure_info.details.payloads)
        failure.canceled_failure_info.details.payloads.extend(details)
    return failure


def is_canceled(failure: m.Failure) -> bool:
    """Whether an operation that failed so was cancelled."""
    return failure.HasField("canceled_failure_info")


def timeout(timeout_type: m.TimeoutType.ValueType) -> m.Failure:
    """The cause of an operation's end when its time is up."""
    failure = m.Failure(message="operation timed out")
    failure.timeout_failure_info.timeout_type = timeout_type
    return failure


def _of_nexus(source: nx.Failure, *, retryable: bool, depth: int = 0) -> m.Failure:
    failure = m.Failure()
    if source.metadata.get("type") == _API_FAILURE:
        try:
            json_format.Parse(source.details, failure, ignore_unknown_fields=True)
        except (json_format.ParseError, UnicodeDecodeError, RecursionError):
            failure = m.Failure()
    if failure.WhichOneof("failure_info") is None and not failure.message:
        failure.application_failure_info.type = "NexusFailure"
        failure.application_failure_info.non_retryable = not retryable
        if source.metadata or source.details:
            payload = failure.application_failure_info.details.payloads.add()
            payload.metadata["encoding"] = b"json/plain"
            payload.data = _as_json(source)
    failure.message = source.message or failure.message
    failure.stack_trace = source.stack_trace or failure.stack_trace
    if source.HasField("cause") and not failure.HasField("cause") and depth < _CAUSES_KEPT:
        failure.cause.CopyFrom(_of_nexus(source.cause, retryable=retryable, depth=depth + 1))
    return failure


def _as_json(source: nx.Failure) -> bytes:
    """What a Nexus failure says besides its message."""
    told: dict[str, object] = {}
    if source.metadata:
        told["metadata"] = dict(source.metadata)
    if source.details:
        try:
            told["details"] = json.loads(source.details)
        except (ValueError, RecursionError):
            told["details"] = source.details.decode(errors="replace")
    return json.dumps(told).encode()
