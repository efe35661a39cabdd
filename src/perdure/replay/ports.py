"""What replay needs from outside: conversion of values and failures, and the determinism guard.

Replay is pure; whatever touches users' types or the interpreter's state comes in through these protocols. None of
the methods may block, do I/O, or depend on time or chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum
from typing import Any, Protocol

from perdure.api import messages as m
from perdure.api.durations import ms_of_timedelta
from perdure.common import Priority, RetryPolicy
from perdure.replay.checks import check_name

__all__ = [
    "NO_GUARD",
    "ActivityCancellationType",
    "ActivityOptions",
    "Converter",
    "Guard",
    "PayloadConverter",
]


class PayloadConverter(Protocol):
    """Values to payloads and back.

    A hint is a type as written in an annotation, already evaluated; None means that nothing is known. (The hint of
    a function that returns nothing is ``type(None)``.)
    """

    def to_payload(self, value: Any, hint: Any = None) -> m.Payload:
        """One value as a payload.

        Raises:
            ConversionError: the value cannot be serialised, or is not of the hinted type. A retry does not help.
        """
        ...

    def to_payloads(self, values: Sequence[Any], hints: Sequence[Any] | None = None) -> m.Payloads:
        """Several values as payloads; `hints` may be shorter or longer than `values`.

        Raises:
            ConversionError: as `to_payload`; the message names the argument.
        """
        ...

    def to_payload_bytes(self, value: Any, hint: Any = None) -> bytes:
        """What `to_payload` answers, serialized."""
        ...

    def to_payloads_bytes(self, values: Sequence[Any], hints: Sequence[Any] | None = None) -> bytes:
        """What `to_payloads` answers, serialized."""
        ...

    def from_payload(self, payload: m.Payload, hint: Any = None) -> Any:
        """The value of a payload, of the hinted type.

        Raises:
            ConversionError: the payload does not hold a value of that type.
        """
        ...

    def from_payload_bytes(self, data: bytes, hint: Any = None) -> Any:
        """What `from_payload` answers for a serialized payload."""
        ...

    def from_payloads(self, payloads: Sequence[m.Payload], hints: Sequence[Any] | None = None) -> list[Any]:
        """The values of several payloads; `hints` may be shorter or longer than `payloads`.

        Raises:
            ConversionError: as `from_payload`.
        """
        ...


class Converter(PayloadConverter, Protocol):
    """Values and failures."""

    def to_failure(self, error: BaseException) -> m.Failure:
        """An error with its type, message, details, cause and stack. Never raises."""
        ...

    def from_failure(self, failure: m.Failure) -> BaseException:
        """The error of a failure, its cause set. Never raises."""
        ...


class Guard(Protocol):
    """Watches workflow code while it runs; `enter` and `exit` are called around each activation, in pairs."""

    def enter(self) -> None:
        """Workflow code is about to run in this thread."""
        ...

    def exit(self) -> None:
        """Workflow code has stopped running in this thread."""
        ...

    def take_violation(self) -> BaseException | None:
        """What workflow code of this thread was refused since the last call, also if it swallowed the error."""
        ...


class _NoGuard:
    """Forbids nothing."""

    def enter(self) -> None:
        """Nothing to do."""

    def exit(self) -> None:
        """Nothing to do."""

    def take_violation(self) -> BaseException | None:
        """Nothing is forbidden."""
        return None


NO_GUARD: Guard = _NoGuard()


class ActivityCancellationType(IntEnum):
    """What happens when workflow code stops waiting for an activity because it is cancelled."""

    TRY_CANCEL = 0
    """Ask the activity to stop, and raise the cancellation at once."""
    WAIT_CANCELLATION_COMPLETED = 1
    """Ask the activity to stop, and wait for what it answers."""
    ABANDON = 2
    """Raise the cancellation at once; the activity is not told."""


_TIMEOUTS = ("schedule_to_close_timeout", "schedule_to_start_timeout", "start_to_close_timeout", "heartbeat_timeout")


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityOptions:
    """How an activity is scheduled. Hashable: equal options share their encoded form.

    `task_queue` None means the workflow's own; timeouts of None are not set. `start_to_close_timeout` or
    `schedule_to_close_timeout` must be given.

    Raises:
        TypeError: a timeout is not a timedelta.
        ValueError: a timeout is negative.
    """

    task_queue: str | None = None
    schedule_to_close_timeout: timedelta | None = None
    schedule_to_start_timeout: timedelta | None = None
    start_to_close_timeout: timedelta | None = None
    heartbeat_timeout: timedelta | None = None
    retry_policy: RetryPolicy | None = None
    cancellation_type: ActivityCancellationType = ActivityCancellationType.TRY_CANCEL
    activity_id: str | None = None
    summary: str | None = None
    priority: Priority | None = None

    def __post_init__(self) -> None:
        for name in _TIMEOUTS:
            timeout = getattr(self, name)
            if timeout is not None and ms_of_timedelta(timeout) < 0:
                raise ValueError(f"{name} may not be negative: {timeout}")
        for name, value in (("activity_id", self.activity_id), ("task_queue", self.task_queue)):
            if value is not None:
                check_name(value, name)
