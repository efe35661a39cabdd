"""Errors to the API's ``Failure`` and back, with type, message, details, stack and the chain of causes.

Errors of Perdure's own keep their kind (activity, child workflow, timeout, cancelled, terminated, server). Any other
exception becomes an application failure whose type is the class's name. An error that came over the seam and is raised
on keeps the failure it came with. Neither direction raises: what cannot be converted is left out or shown as text, as
an error about an error would hide the first one.
"""

from __future__ import annotations

import asyncio
import os
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, cast

from perdure.api import messages as m
from perdure.api.durations import duration_ms, ms_of_timedelta, set_duration_ms
from perdure.exceptions import (
    ActivityError,
    ApplicationError,
    ApplicationErrorCategory,
    CancelledError,
    ChildWorkflowError,
    FailureError,
    RetryState,
    ServerError,
    TerminatedError,
    TimeoutError,
    TimeoutType,
    WorkflowAlreadyStartedError,
)
from perdure.replay.ports import PayloadConverter

__all__ = ["FailureConverter", "inconvertible"]

_SOURCE = "PerdurePythonSDK"
_MAX_TEXT_CHARS = 65_536
_MAX_CAUSES = 32
_OWN_CODE = os.path.dirname(os.path.dirname(__file__)) + os.sep


class FailureConverter:
    """Converts errors; stateless."""

    def to_failure(self, error: BaseException, converter: PayloadConverter) -> m.Failure:
        """An error as a failure. Never raises."""
        try:
            return _to_failure(error, converter, _MAX_CAUSES, set())
        except Exception as broken:
            return inconvertible(error, broken)

    def from_failure(self, failure: m.Failure, converter: PayloadConverter) -> BaseException:
        """The error a failure holds, its ``__cause__`` set. Never raises."""
        make = _FROM_INFO.get(failure.WhichOneof("failure_info") or "", _from_unknown)
        error = make(failure, converter)
        if failure.HasField("cause"):
            error.__cause__ = self.from_failure(failure.cause, converter)
        return error


def inconvertible(error: BaseException, broken: Exception) -> m.Failure:
    """The failure of an error whose own conversion failed: better half of it than none."""
    message = f"{_message_of(error)} (the rest of this error could not be converted: {_message_of(broken)})"
    failure = m.Failure(source=_SOURCE, message=_text(message))
    failure.application_failure_info.type = _text(type(error).__name__)
    return failure


def _to_failure(error: BaseException, converter: PayloadConverter, causes_left: int, seen: set[int]) -> m.Failure:
    seen.add(id(error))
    failure = m.Failure()
    carried = error.failure if isinstance(error, FailureError) else None
    if carried is not None:
        failure.CopyFrom(carried)
        return failure
    failure.source = _SOURCE
    failure.message = _text(error.message if isinstance(error, FailureError) else _message_of(error))
    failure.stack_trace = _text(_stack_of(error))
    for kind, write in _TO_INFO:
        if isinstance(error, kind):
            write(error, failure, converter)
            break
    cause = _cause_of(error)
    if cause is not None and causes_left > 0 and id(cause) not in seen:
        failure.cause.CopyFrom(_to_failure(cause, converter, causes_left - 1, seen))
    return failure


def _cause_of(error: BaseException) -> BaseException | None:
    if error.__cause__ is not None:
        return error.__cause__
    if isinstance(error, BaseExceptionGroup):
        return cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return None if error.__suppress_context__ else error.__context__


def _message_of(error: BaseException) -> str:
    if isinstance(error, asyncio.CancelledError):
        return "Cancelled"
    try:
        return str(error)
    except Exception as broken:
        return f"(its text cannot be shown: {type(broken).__name__})"


def _stack_of(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "".join(traceback.format_exception(cast("BaseException", error)))
    frames = traceback.extract_tb(error.__traceback__)
    # The frames that called the user's code say nothing about the error.
    first = next((index for index, frame in enumerate(frames) if not frame.filename.startswith(_OWN_CODE)), 0)
    return "".join(traceback.format_list(frames[first:]))


def _text(text: object) -> str:
    """`text` as the API can carry it: valid UTF-8, and no longer than anyone reads."""
    if not isinstance(text, str):
        # Whoever raised the error gave a number or None where the hint says text.
        text = str(text)
    if len(text) > _MAX_TEXT_CHARS:
        text = text[: _MAX_TEXT_CHARS // 2] + "\n… (shortened) …\n" + text[-_MAX_TEXT_CHARS // 2 :]
    return text.encode("utf-8", "replace").decode()


def _payloads_of(details: Sequence[Any], converter: PayloadConverter) -> m.Payloads:
    payloads = m.Payloads()
    for detail in details:
        try:
            payloads.payloads.append(converter.to_payload(detail))
        except Exception as error:
            payloads.payloads.append(converter.to_payload(f"(a {type(detail).__name__} that cannot be sent: {error})"))
    return payloads


def _values_of(payloads: m.Payloads, converter: PayloadConverter) -> list[Any]:
    values: list[Any] = []
    for payload in payloads.payloads:
        try:
            values.append(converter.from_payload(payload))
        except Exception:
            values.append(payload)
    return values


def _write_application(error: ApplicationError, failure: m.Failure, converter: PayloadConverter) -> None:
    info = failure.application_failure_info
    info.type = _text(error.type if error.type is not None else "")
    info.non_retryable = bool(error.non_retryable)
    info.category = ApplicationErrorCategory(error.category).value  # pyright: ignore[reportAttributeAccessIssue] - an open enum is an int
    if error.details:
        info.details.CopyFrom(_payloads_of(error.details, converter))
    if error.next_retry_delay is not None:
        set_duration_ms(info.next_retry_delay, ms_of_timedelta(error.next_retry_delay))


def _write_cancelled(error: BaseException, failure: m.Failure, converter: PayloadConverter) -> None:
    failure.canceled_failure_info.SetInParent()
    if isinstance(error, CancelledError) and error.details:
        failure.canceled_failure_info.details.CopyFrom(_payloads_of(error.details, converter))


def _write_terminated(error: TerminatedError, failure: m.Failure, converter: PayloadConverter) -> None:
    failure.terminated_failure_info.SetInParent()


def _write_timeout(error: TimeoutError, failure: m.Failure, converter: PayloadConverter) -> None:
    info = failure.timeout_failure_info
    info.SetInParent()
    if error.type is not None:
        info.timeout_type = error.type.value  # pyright: ignore[reportAttributeAccessIssue] - an open enum is an int
    if error.last_heartbeat_details:
        info.last_heartbeat_details.CopyFrom(_payloads_of(error.last_heartbeat_details, converter))


def _write_server(error: ServerError, failure: m.Failure, converter: PayloadConverter) -> None:
    failure.server_failure_info.SetInParent()
    failure.server_failure_info.non_retryable = error.non_retryable


def _write_activity(error: ActivityError, failure: m.Failure, converter: PayloadConverter) -> None:
    info = failure.activity_failure_info
    info.SetInParent()
    info.scheduled_event_id = error.scheduled_event_id
    info.started_event_id = error.started_event_id
    info.identity = error.identity
    info.activity_type.name = error.activity_type
    info.activity_id = error.activity_id
    info.retry_state = (error.retry_state or RetryState.UNSPECIFIED).value  # pyright: ignore[reportAttributeAccessIssue] - an open enum is an int


def _write_child(error: ChildWorkflowError, failure: m.Failure, converter: PayloadConverter) -> None:
    info = failure.child_workflow_execution_failure_info
    info.SetInParent()
    info.namespace = error.namespace
    info.workflow_execution.workflow_id = error.workflow_id
    info.workflow_execution.run_id = error.run_id
    info.workflow_type.name = error.workflow_type
    info.initiated_event_id = error.initiated_event_id
    info.started_event_id = error.started_event_id
    info.retry_state = (error.retry_state or RetryState.UNSPECIFIED).value  # pyright: ignore[reportAttributeAccessIssue] - an open enum is an int


def _write_already_started(error: BaseException, failure: m.Failure, converter: PayloadConverter) -> None:
    failure.application_failure_info.type = "WorkflowExecutionAlreadyStarted"


def _write_other(error: BaseException, failure: m.Failure, converter: PayloadConverter) -> None:
    failure.application_failure_info.type = _text(type(error).__name__)


_TO_INFO: tuple[tuple[type[BaseException], Callable[[Any, m.Failure, PayloadConverter], None]], ...] = (
    (ApplicationError, _write_application),
    (CancelledError, _write_cancelled),
    (asyncio.CancelledError, _write_cancelled),
    (TimeoutError, _write_timeout),
    (ActivityError, _write_activity),
    (ChildWorkflowError, _write_child),
    (TerminatedError, _write_terminated),
    (ServerError, _write_server),
    (WorkflowAlreadyStartedError, _write_already_started),
    (BaseException, _write_other),
)
"""Which part of a failure an error's kind fills; the first match counts."""


def _carrying(error: FailureError, failure: m.Failure) -> FailureError:
    error._failure = failure
    return error


def _from_application(failure: m.Failure, converter: PayloadConverter) -> FailureError:
    info = failure.application_failure_info
    delay_ms = duration_ms(info.next_retry_delay) if info.HasField("next_retry_delay") else 0
    known = info.category in ApplicationErrorCategory._value2member_map_
    error = ApplicationError(
        failure.message,
        *_values_of(info.details, converter),
        type=info.type or None,
        non_retryable=info.non_retryable,
        next_retry_delay=timedelta(milliseconds=delay_ms) if delay_ms else None,
        category=ApplicationErrorCategory(info.category) if known else ApplicationErrorCategory.UNSPECIFIED,
    )
    return _carrying(error, failure)


def _from_cancelled(failure: m.Failure, converter: PayloadConverter) -> FailureError:
    details = _values_of(failure.canceled_failure_info.details, converter)
    return _carrying(CancelledError(failure.message or "Cancelled", *details), failure)


def _from_terminated(failure: m.Failure, converter: PayloadConverter) -> FailureError:
    return _carrying(TerminatedError(failure.message or "Terminated"), failure)


def _from_timeout(failure: m.Failure, converter: PayloadConverter) -> FailureError:
    info = failure.timeout_failure_info
    known = info.timeout_type in TimeoutType._value2member_map_
    error = TimeoutError(
        failure.message or "Timed out",
        type=TimeoutType(info.timeout_type) if known else None,
        last_heartbeat_details=_values_of(info.last_heartbeat_details, converter),
    )
    return _carrying(error, failure)


def _from_server(failure: m.Failure, converter: PayloadConverter) -> FailureError:
    error = ServerError(failure.message, non_retryable=failure.server_failure_info.non_retryable)
    return _carrying(error, failure)


def _retry_state(value: int) -> RetryState | None:
    return RetryState(value) if value and value in RetryState._value2member_map_ else None


def _from_activity(failure: m.Failure, converter: PayloadConverter) -> FailureError:
    info = failure.activity_failure_info
    error = ActivityError(
        failure.message or "Activity task failed",
        scheduled_event_id=info.scheduled_event_id,
        started_event_id=info.started_event_id,
        identity=info.identity,
        activity_type=info.activity_type.name,
        activity_id=info.activity_id,
        retry_state=_retry_state(info.retry_state),
    )
    return _carrying(error, failure)


def _from_child(failure: m.Failure, converter: PayloadConverter) -> FailureError:
    info = failure.child_workflow_execution_failure_info
    error = ChildWorkflowError(
        failure.message or "Child workflow execution failed",
        namespace=info.namespace,
        workflow_id=info.workflow_execution.workflow_id,
        run_id=info.workflow_execution.run_id,
        workflow_type=info.workflow_type.name,
        initiated_event_id=info.initiated_event_id,
        started_event_id=info.started_event_id,
        retry_state=_retry_state(info.retry_state),
    )
    return _carrying(error, failure)


def _from_unknown(failure: m.Failure, converter: PayloadConverter) -> FailureError:
    return FailureError(failure.message or "Failure without a kind", failure=failure)


_FROM_INFO: dict[str, Callable[[m.Failure, PayloadConverter], FailureError]] = {
    "application_failure_info": _from_application,
    "canceled_failure_info": _from_cancelled,
    "terminated_failure_info": _from_terminated,
    "timeout_failure_info": _from_timeout,
    "server_failure_info": _from_server,
    "activity_failure_info": _from_activity,
    "child_workflow_execution_failure_info": _from_child,
}
