"""Whether, and after how long, a failed activity or workflow is tried again.

A policy arrives as a protobuf message with holes; `policy_of` fills them with the documented defaults, once per
distinct policy. `next_attempt` then decides from the failure, the attempt and the time left.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final, NamedTuple

from perdure.api import messages as m
from perdure.api.durations import duration_ms, set_duration_ms
from perdure.engine.history.state import Retry

_DEFAULT_INITIAL_MS: Final = 1000
_DEFAULT_COEFFICIENT: Final = 2.0
_DEFAULT_MAXIMUM_FACTOR: Final = 100
_POLICIES_KEPT: Final = 1024

_IN_PROGRESS = m.RetryState.RETRY_STATE_IN_PROGRESS
_NON_RETRYABLE = m.RetryState.RETRY_STATE_NON_RETRYABLE_FAILURE
_TIMEOUT = m.RetryState.RETRY_STATE_TIMEOUT
_MAXIMUM_ATTEMPTS = m.RetryState.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED
_NOT_SET = m.RetryState.RETRY_STATE_RETRY_POLICY_NOT_SET

_TIMEOUT_TYPE_PREFIX: Final = "TemporalTimeout:"
_TIMEOUT_NAMES: Final = {
    m.TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE: "StartToClose",
    m.TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_START: "ScheduleToStart",
    m.TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE: "ScheduleToClose",
    m.TimeoutType.TIMEOUT_TYPE_HEARTBEAT: "Heartbeat",
}
_RETRYABLE_TIMEOUTS: Final = frozenset(
    (m.TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE, m.TimeoutType.TIMEOUT_TYPE_HEARTBEAT)
)


class Policy(NamedTuple):
    """A retry policy with its defaults, as our value and as the message events carry (not to be changed)."""

    retry: Retry
    message: m.RetryPolicy
    data: bytes
    """The message, serialized."""


class Attempt(NamedTuple):
    """What follows a failed attempt: IN_PROGRESS and the delay, or why there is no other."""

    retry_state: m.RetryState.ValueType
    delay_ms: int


def timeout_name(timeout_type: m.TimeoutType.ValueType) -> str:
    """E.g. StartToClose."""
    return _TIMEOUT_NAMES.get(timeout_type, "Unspecified")


def policy_of(message: m.RetryPolicy) -> Policy:
    """The policy with defaults filled in.

    Raises:
        ValueError: it makes no sense; the message says which field.
    """
    return _policy_of_bytes(message.SerializeToString())


@lru_cache(maxsize=_POLICIES_KEPT)
def _policy_of_bytes(data: bytes) -> Policy:
    message = m.RetryPolicy.FromString(data)
    initial_ms = duration_ms(message.initial_interval)
    maximum_ms = duration_ms(message.maximum_interval)
    coefficient = message.backoff_coefficient
    if initial_ms < 0:
        raise ValueError("InitialInterval cannot be negative on retry policy.")
    if math.isnan(coefficient) or (coefficient != 0 and coefficient < 1):
        raise ValueError("BackoffCoefficient cannot be less than 1 on retry policy.")
    if maximum_ms < 0:
        raise ValueError("MaximumInterval cannot be negative on retry policy.")
    if message.maximum_attempts < 0:
        raise ValueError("MaximumAttempts cannot be negative on retry policy.")
    initial_ms = initial_ms or _DEFAULT_INITIAL_MS
    coefficient = coefficient or _DEFAULT_COEFFICIENT
    maximum_ms = maximum_ms or initial_ms * _DEFAULT_MAXIMUM_FACTOR
    if maximum_ms < initial_ms:
        raise ValueError("MaximumInterval cannot be less than InitialInterval on retry policy.")
    message.backoff_coefficient = coefficient
    set_duration_ms(message.initial_interval, initial_ms)
    set_duration_ms(message.maximum_interval, maximum_ms)
    retry = Retry(
        initial_ms=initial_ms,
        coefficient=coefficient,
        maximum_ms=maximum_ms,
        max_attempts=message.maximum_attempts,
        non_retryable=tuple(message.non_retryable_error_types),
    )
    return Policy(retry, message, message.SerializeToString())


def fill_policy(message: m.RetryPolicy, retry: Retry) -> None:
    """The policy as a message."""
    set_duration_ms(message.initial_interval, retry.initial_ms)
    message.backoff_coefficient = retry.coefficient
    set_duration_ms(message.maximum_interval, retry.maximum_ms)
    message.maximum_attempts = retry.max_attempts
    message.non_retryable_error_types.extend(retry.non_retryable)


def is_retryable(failure: m.Failure, non_retryable: tuple[str, ...]) -> bool:
    """Whether another attempt could help at all."""
    kind = failure.WhichOneof("failure_info")
    if kind == "application_failure_info":
        info = failure.application_failure_info
        return not info.non_retryable and info.type not in non_retryable
    if kind == "timeout_failure_info":
        timeout_type = failure.timeout_failure_info.timeout_type
        return (
            timeout_type in _RETRYABLE_TIMEOUTS
            and _TIMEOUT_TYPE_PREFIX + timeout_name(timeout_type) not in non_retryable
        )
    if kind == "server_failure_info":
        return not failure.server_failure_info.non_retryable
    return kind not in ("terminated_failure_info", "canceled_failure_info")


def next_attempt(retry: Retry | None, attempt: int, failure: m.Failure, *, expires_at_ms: int, now_ms: int) -> Attempt:
    """What follows the failure of attempt number `attempt`. `expires_at_ms` 0 = never."""
    if retry is None:
        return Attempt(_NOT_SET, 0)
    if not is_retryable(failure, retry.non_retryable):
        return Attempt(_NON_RETRYABLE, 0)
    if retry.max_attempts and attempt >= retry.max_attempts:
        return Attempt(_MAXIMUM_ATTEMPTS, 0)
    delay_ms = _requested_delay_ms(failure)
    if delay_ms is None:
        delay_ms = backoff_ms(retry, attempt)
    if expires_at_ms and now_ms + delay_ms > expires_at_ms:
        return Attempt(_TIMEOUT, 0)
    return Attempt(_IN_PROGRESS, delay_ms)


def backoff_ms(retry: Retry, attempt: int) -> int:
    """The delay after attempt number `attempt`."""
    try:
        delay = retry.initial_ms * retry.coefficient ** (attempt - 1)
    except OverflowError:
        return retry.maximum_ms
    return retry.maximum_ms if delay >= retry.maximum_ms else int(delay)


def _requested_delay_ms(failure: m.Failure) -> int | None:
    """The delay the code that failed asked for."""
    if failure.WhichOneof("failure_info") != "application_failure_info":
        return None
    info = failure.application_failure_info
    if not info.HasField("next_retry_delay"):
        return None
    return max(0, duration_ms(info.next_retry_delay))


DEFAULT: Final = policy_of(m.RetryPolicy())
"""What an activity without a policy has: unlimited attempts."""
