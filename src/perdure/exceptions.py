"""Every error the SDK raises or carries, named as in `temporalio.exceptions`.

Two families. `FailureError` and its subclasses travel: a converter turns them into the API's ``Failure`` and back,
so that an activity's error reaches the workflow, and a workflow's its caller, with type, message, details, cause
and stack. The others (`PerdureError` outside `FailureError`) stay in the process and say what to do next.

Inside workflow code a cancellation is Python's own `asyncio.CancelledError`. The `CancelledError` here is what a
cancellation becomes once it has been recorded in a failure, e.g. as the cause of a `ChildWorkflowError`.

This module depends on the API's messages only: replay and the rest of the SDK build on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum
from typing import Any

from perdure.api import messages as m
from perdure.api.durations import ms_of_timedelta

__all__ = [
    "ActivityError",
    "ApplicationError",
    "ApplicationErrorCategory",
    "CancelledError",
    "ChildWorkflowError",
    "ConversionError",
    "DatabaseDamagedError",
    "DatabaseError",
    "DatabaseForeignError",
    "DatabaseFullError",
    "DatabaseLockedError",
    "DatabaseMissingError",
    "DatabaseNewerError",
    "DefinitionError",
    "FailureError",
    "Finding",
    "ForbiddenCallError",
    "ForbiddenCodeError",
    "InvalidNameError",
    "NondeterminismError",
    "NotInWorkflowError",
    "PayloadTooLargeError",
    "PerdureError",
    "ReadOnlyContextError",
    "RetryState",
    "ServerError",
    "TargetError",
    "TerminatedError",
    "TimeoutError",
    "TimeoutType",
    "WorkflowAlreadyStartedError",
    "is_cancelled_exception",
]


class PerdureError(Exception):
    """Base of every error of Perdure's."""

    @property
    def cause(self) -> BaseException | None:
        """The error this one was raised from; the same as ``__cause__``."""
        return self.__cause__


class DefinitionError(PerdureError, TypeError):
    """A workflow, handler or activity is declared in a way that cannot work."""


class ConversionError(PerdureError, TypeError):
    """A value cannot become a payload, or a payload not the value its type hint asks for."""


class PayloadTooLargeError(ConversionError):
    """A value takes more bytes than the engine keeps. Store it elsewhere and pass a reference to it."""


class InvalidNameError(PerdureError, ValueError):
    """A text that cannot be an id or a name: empty, too long, holding a NUL character, or not valid Unicode."""


class TargetError(PerdureError, ValueError):
    """What was given to `Client.connect` or `perdure.open` names no kind of place Perdure knows."""


class DatabaseError(PerdureError):
    """A database cannot be opened or used. The message says why, and what to do next."""


class DatabaseMissingError(DatabaseError):
    """The place the database should be in does not exist or cannot be written."""


class DatabaseForeignError(DatabaseError):
    """The file is not one of Perdure's databases."""


class DatabaseNewerError(DatabaseError):
    """The database was written by a newer Perdure."""


class DatabaseFullError(DatabaseError):
    """The disk is full."""


class DatabaseDamagedError(DatabaseError):
    """Something in the database cannot be what was written."""


class DatabaseLockedError(DatabaseError):
    """Another process, or another event loop of this one, has the database open.

    Attributes:
        pid: that process; None if unknown.
    """

    def __init__(self, message: str, pid: int | None = None) -> None:
        super().__init__(message)
        self.pid = pid


class NotInWorkflowError(PerdureError, RuntimeError):
    """A function of `perdure.workflow` was called outside of workflow code."""

    def __init__(self, message: str = "this may only be called from workflow code, while a worker runs it") -> None:
        super().__init__(message)


class ReadOnlyContextError(PerdureError, RuntimeError):
    """A query handler tried to change the workflow; do it in a signal handler or the run method instead."""


class NondeterminismError(PerdureError):
    """Workflow code does not do what its history recorded.

    The run is kept and its workflow task retried: deploy code that matches the history (`workflow.patched` lets
    old and new behaviour live side by side), and the run goes on.
    """

    @property
    def message(self) -> str:
        """What differs, as text of several lines."""
        return str(self)


class ForbiddenCallError(NondeterminismError):
    """Workflow code called something whose outcome differs from run to run (clock, chance, I/O, threads).

    Attributes:
        call: the dotted name of what was called.
        advice: what to use instead.
        filename: file of the call, empty if unknown.
        lineno: line of the call, 0 if unknown.
        through: the library function by which user code came to the call, empty if it made it itself.
    """

    def __init__(self, call: str, advice: str, *, filename: str = "", lineno: int = 0, through: str = "") -> None:
        where = f" at {filename}:{lineno}" if filename else ""
        way = f" (reached through {through})" if through else ""
        super().__init__(f"{call}{way} may not be used in workflow code{where}: {advice}")
        self.call = call
        self.advice = advice
        self.filename = filename
        self.lineno = lineno
        self.through = through


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A call that workflow code may not make, and where it stands.

    Attributes:
        call: the call as its author knows it, e.g. ``time.time``.
        file: path of the source file.
        line: line in that file, from 1.
        advice: what to use instead.
    """

    call: str
    file: str
    line: int
    advice: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.call} may not be used in workflow code: {self.advice}"


class ForbiddenCodeError(DefinitionError):
    """Workflow code contains calls whose outcome differs from run to run; the worker does not start with it.

    Attributes:
        findings: every one of them, in the order they were met.
    """

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = tuple(findings)
        lines = "\n".join(f"  {finding}" for finding in self.findings)
        super().__init__(
            f"workflow code contains forbidden calls ({len(self.findings)}):\n{lines}\n"
            "Change them, or mark a line that is safe with the comment '# perdure: allow'."
        )


class FailureError(PerdureError):
    """Base of the errors that travel as the API's ``Failure``."""

    def __init__(
        self, message: str, *, failure: m.Failure | None = None, exc_args: tuple[object, ...] | None = None
    ) -> None:
        super().__init__(*(exc_args if exc_args is not None else (message,)))
        self._message = message
        self._failure = failure

    @property
    def message(self) -> str:
        """What happened, without the type."""
        return self._message

    @property
    def failure(self) -> m.Failure | None:
        """The message this error was made from, if it came over the seam."""
        return self._failure


class ApplicationErrorCategory(IntEnum):
    """How loudly an application error is reported."""

    UNSPECIFIED = 0
    BENIGN = 1
    """Expected; logged at debug level."""


class ApplicationError(FailureError):
    """An error of the application, in an activity or a workflow.

    Raise it to give a type callers can test, to forbid retries, or to choose the next retry's delay:

        raise ApplicationError("card expired", card_id, type="CardExpired", non_retryable=True)

    An ordinary exception arrives as an ApplicationError whose type is the exception's class name.

    Args:
        message: what happened.
        details: values for the caller; must be convertible to payloads.
        type: a name for the kind of error.
        non_retryable: True if no retry can help.
        next_retry_delay: wait this long before the next attempt, whatever the retry policy says.
        category: how loudly it is reported.

    Raises:
        TypeError: the delay is not a timedelta.
    """

    def __init__(
        self,
        message: str,
        *details: Any,
        type: str | None = None,
        non_retryable: bool = False,
        next_retry_delay: timedelta | None = None,
        category: ApplicationErrorCategory = ApplicationErrorCategory.UNSPECIFIED,
    ) -> None:
        super().__init__(message, exc_args=(f"{type}: {message}" if type else message,))
        if next_retry_delay is not None:
            ms_of_timedelta(next_retry_delay)
        self._details = details
        self._type = type
        self._non_retryable = non_retryable
        self._next_retry_delay = next_retry_delay
        self._category = category

    @property
    def details(self) -> Sequence[Any]:
        """The values given with the error."""
        return self._details

    @property
    def type(self) -> str | None:
        """The kind of error."""
        return self._type

    @property
    def non_retryable(self) -> bool:
        """Whether the error itself forbids retries."""
        return self._non_retryable

    @property
    def next_retry_delay(self) -> timedelta | None:
        """The delay this error asks for before the next attempt."""
        return self._next_retry_delay

    @property
    def category(self) -> ApplicationErrorCategory:
        """How loudly it is reported."""
        return self._category


class CancelledError(FailureError):
    """A cancellation recorded in a failure."""

    def __init__(self, message: str = "Cancelled", *details: Any) -> None:
        super().__init__(message)
        self._details = details

    @property
    def details(self) -> Sequence[Any]:
        """Values given with the cancellation."""
        return self._details


class TerminatedError(FailureError):
    """The workflow was terminated from outside."""

    def __init__(self, message: str, *details: Any) -> None:
        super().__init__(message)
        self._details = details

    @property
    def details(self) -> Sequence[Any]:
        """Values given with the termination."""
        return self._details


class TimeoutType(IntEnum):
    """Which timeout passed."""

    START_TO_CLOSE = 1
    SCHEDULE_TO_START = 2
    SCHEDULE_TO_CLOSE = 3
    HEARTBEAT = 4


class TimeoutError(FailureError):
    """An activity or a workflow took too long."""

    def __init__(self, message: str, *, type: TimeoutType | None, last_heartbeat_details: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self._type = type
        self._last_heartbeat_details = last_heartbeat_details

    @property
    def type(self) -> TimeoutType | None:
        """Which timeout passed."""
        return self._type

    @property
    def last_heartbeat_details(self) -> Sequence[Any]:
        """Details of the activity's last heartbeat."""
        return self._last_heartbeat_details


class ServerError(FailureError):
    """An error that began in the engine."""

    def __init__(self, message: str, *, non_retryable: bool = False) -> None:
        super().__init__(message)
        self._non_retryable = non_retryable

    @property
    def non_retryable(self) -> bool:
        """Whether no retry can help."""
        return self._non_retryable


class RetryState(IntEnum):
    """Why there was no further attempt."""

    UNSPECIFIED = 0
    IN_PROGRESS = 1
    NON_RETRYABLE_FAILURE = 2
    TIMEOUT = 3
    MAXIMUM_ATTEMPTS_REACHED = 4
    RETRY_POLICY_NOT_SET = 5
    INTERNAL_SERVER_ERROR = 6
    CANCEL_REQUESTED = 7


class ActivityError(FailureError):
    """An activity finally failed; the reason is the ``cause``."""

    def __init__(
        self,
        message: str,
        *,
        scheduled_event_id: int,
        started_event_id: int,
        identity: str,
        activity_type: str,
        activity_id: str,
        retry_state: RetryState | None,
    ) -> None:
        super().__init__(message)
        self._scheduled_event_id = scheduled_event_id
        self._started_event_id = started_event_id
        self._identity = identity
        self._activity_type = activity_type
        self._activity_id = activity_id
        self._retry_state = retry_state

    @property
    def scheduled_event_id(self) -> int:
        """Id of the ActivityTaskScheduled event."""
        return self._scheduled_event_id

    @property
    def started_event_id(self) -> int:
        """Id of the ActivityTaskStarted event, 0 if it never started."""
        return self._started_event_id

    @property
    def identity(self) -> str:
        """The worker that ran the last attempt."""
        return self._identity

    @property
    def activity_type(self) -> str:
        """The activity's name."""
        return self._activity_type

    @property
    def activity_id(self) -> str:
        """The activity's id within the run."""
        return self._activity_id

    @property
    def retry_state(self) -> RetryState | None:
        """Why there was no further attempt."""
        return self._retry_state


class ChildWorkflowError(FailureError):
    """A child workflow did not complete; the reason is the ``cause``."""

    def __init__(
        self,
        message: str,
        *,
        namespace: str,
        workflow_id: str,
        run_id: str,
        workflow_type: str,
        initiated_event_id: int,
        started_event_id: int,
        retry_state: RetryState | None,
    ) -> None:
        super().__init__(message)
        self._namespace = namespace
        self._workflow_id = workflow_id
        self._run_id = run_id
        self._workflow_type = workflow_type
        self._initiated_event_id = initiated_event_id
        self._started_event_id = started_event_id
        self._retry_state = retry_state

    @property
    def namespace(self) -> str:
        """Namespace of the child."""
        return self._namespace

    @property
    def workflow_id(self) -> str:
        """Workflow id of the child."""
        return self._workflow_id

    @property
    def run_id(self) -> str:
        """Run id of the child."""
        return self._run_id

    @property
    def workflow_type(self) -> str:
        """Workflow type of the child."""
        return self._workflow_type

    @property
    def initiated_event_id(self) -> int:
        """Id of the parent's StartChildWorkflowExecutionInitiated event."""
        return self._initiated_event_id

    @property
    def started_event_id(self) -> int:
        """Id of the parent's ChildWorkflowExecutionStarted event."""
        return self._started_event_id

    @property
    def retry_state(self) -> RetryState | None:
        """Why there was no further attempt."""
        return self._retry_state


class WorkflowAlreadyStartedError(FailureError):
    """A workflow with this id exists, and the id policies forbid another.

    Choose another id, or an `id_reuse_policy` / `id_conflict_policy` that says what should happen.
    """

    def __init__(
        self, workflow_id: str, workflow_type: str, *, run_id: str | None = None, first_run_id: str | None = None
    ) -> None:
        super().__init__(
            f"workflow {workflow_id!r} ({workflow_type}) has already been started: "
            "choose another id, or say with id_reuse_policy or id_conflict_policy what should happen"
        )
        self.workflow_id = workflow_id
        self.workflow_type = workflow_type
        self.run_id = run_id
        self.first_run_id = first_run_id


def is_cancelled_exception(error: BaseException) -> bool:
    """Whether an error is a cancellation, be it Python's, a recorded one, or one wrapped by an activity or child."""
    if isinstance(error, asyncio.CancelledError | CancelledError):
        return True
    return isinstance(error, ActivityError | ChildWorkflowError) and isinstance(error.cause, CancelledError)
