"""Calls across the seam, tried again while that may help.

This is the one place where calls are repeated, workers' (`perdure.worker.service_calls`) aside, which know better how
long their tasks are worth it; what carries calls makes each once. Every changing request carries a request id or
changes nothing when repeated, so a call whose outcome is unknown is simply repeated. The waits grow and are bounded in
number; after the last one the error is the caller's.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from google.protobuf.message import Message

from perdure.api import EngineStoppedError, RpcError, StatusCode
from perdure.api import messages as m
from perdure.client.errors import translate

__all__ = ["Backoff", "call", "repeat"]

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)

_RETRYABLE = frozenset({StatusCode.UNAVAILABLE, StatusCode.ABORTED})
_FIRST_WAIT_S = 0.05
_LONGEST_WAIT_S = 2.0
_MAX_TRIES = 10
"""Some seven seconds in all: a server that is restarted is back by then."""
_PATIENT_TRIES = 50_000
"""A day."""


class Backoff:
    """Growing waits, with jitter, between repeated calls.

    Args:
        first_s: the first wait, at most.
        longest_s: the longest.
    """

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._next_s = first_s
        self._longest_s = longest_s

    async def wait(self) -> None:
        """Wait before the next try."""
        wait_s = self._next_s * random.uniform(0.5, 1.0)
        self._next_s = min(self._next_s * 2, self._longest_s)
        await asyncio.sleep(wait_s)


async def call(
    method: Callable[[_Request], Awaitable[_Response]],
    request: _Request,
    *,
    workflow_id: str = "",
    workflow_type: str = "",
    patient: bool = False,
) -> _Response:
    """Call a method of the service.

    Args:
        method: the service's method.
        request: what to ask.
        workflow_id: for the error's message.
        workflow_type: likewise.
        patient: sit out an outage of the service: the caller waits for something that may take days anyway.

    Raises:
        PerdureError: as `perdure.client.errors.translate` says, its cause the `RpcError`.
    """
    try:
        return await repeat(method, request, patient=patient)
    except RpcError as error:
        raise translate(error, workflow_id=workflow_id, workflow_type=workflow_type) from error


async def repeat(
    method: Callable[[_Request], Awaitable[_Response]], request: _Request, *, patient: bool = False
) -> _Response:
    """As `call`, for those who read refusals themselves.

    Raises:
        RpcError: the last one.
    """
    backoff: Backoff | None = None
    max_tries = _PATIENT_TRIES if patient else _MAX_TRIES
    for tries in range(1, max_tries + 1):
        try:
            return await method(request)
        except RpcError as error:
            may_help = _may_help(error) or (patient and error.code is StatusCode.DEADLINE_EXCEEDED)
            if tries == max_tries or not may_help:
                raise
        backoff = backoff or Backoff(_FIRST_WAIT_S, _LONGEST_WAIT_S)
        await backoff.wait()
    raise AssertionError("unreachable: the last try returns or raises")


def _may_help(error: RpcError) -> bool:
    """Whether the same call may succeed a little later."""
    if error.code is StatusCode.RESOURCE_EXHAUSTED:
        # A full disk or a limit stays; that too much is asked at once, which such a detail says, passes.
        return any(isinstance(detail, m.ResourceExhaustedFailure) and detail.cause for detail in error.details)
    return error.code in _RETRYABLE and not isinstance(error, EngineStoppedError)
