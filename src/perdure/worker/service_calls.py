"""A worker's calls: which refusals are answered by trying again, which by giving up the task, which by stopping.

A poll is repeated for ever, with growing waits, while that may help. A response is repeated a bounded number of times
and then given up: the service hands the task out again. A refusal that no repetition can change (no such namespace, no
permission, an engine that has stopped for good) stops the worker.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from google.protobuf.message import Message

from perdure.api import RpcError, StatusCode

__all__ = ["Backoff", "is_fatal", "respond", "respond_again"]

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)

_logger = logging.getLogger("perdure.worker")

_FATAL = frozenset(
    {
        StatusCode.NOT_FOUND,
        StatusCode.INVALID_ARGUMENT,
        StatusCode.PERMISSION_DENIED,
        StatusCode.UNAUTHENTICATED,
        StatusCode.UNIMPLEMENTED,
        StatusCode.FAILED_PRECONDITION,
        StatusCode.DATA_LOSS,
    }
)
_REPEATED = frozenset(
    {
        StatusCode.UNAVAILABLE,
        StatusCode.RESOURCE_EXHAUSTED,
        StatusCode.ABORTED,
        StatusCode.UNKNOWN,
        StatusCode.INTERNAL,
        StatusCode.DEADLINE_EXCEEDED,
    }
)
_FIRST_WAIT_S = 0.02
_LONGEST_WAIT_S = 5.0
_MAX_RESPONSE_TRIES = 8


def is_fatal(error: RpcError) -> bool:
    """Whether a poll refused like this will never succeed."""
    return error.code in _FATAL


class Backoff:
    """Growing waits, with jitter, between repeated calls."""

    def __init__(self) -> None:
        self._next_s = _FIRST_WAIT_S

    async def wait(self) -> None:
        """Wait before the next try."""
        wait_s = self._next_s * random.uniform(0.5, 1.0)
        self._next_s = min(self._next_s * 2, _LONGEST_WAIT_S)
        await asyncio.sleep(wait_s)


async def respond(method: Callable[[_Request], Awaitable[_Response]], request: _Request, what: str) -> _Response | None:
    """Send the outcome of a task; None if the service does not want it any more or cannot take it now.

    Args:
        method: the service's method.
        request: what to send.
        what: the task, for the log.

    Raises:
        RpcError: the outcome itself is refused (malformed, too large); sending it again cannot help.
    """
    try:
        return await method(request)
    except RpcError as error:
        return await respond_again(error, method, request, what)


async def respond_again(
    error: RpcError, method: Callable[[_Request], Awaitable[_Response]], request: _Request, what: str
) -> _Response | None:
    """As `respond`, after a first call that ended with `error`."""
    backoff = Backoff()
    for _ in range(_MAX_RESPONSE_TRIES):
        if error.code is StatusCode.NOT_FOUND:
            _logger.debug("%s is not wanted any more: %s", what, error.message)
            return None
        if error.code not in _REPEATED:
            raise error
        await backoff.wait()
        try:
            return await method(request)
        except RpcError as again:
            error = again
    _logger.warning("%s was given up after %d tries: %s", what, _MAX_RESPONSE_TRIES + 1, error)
    return None
