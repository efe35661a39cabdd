"""A worker's calls: which refusals are answered by trying again, which by giving up the task, which by stopping.

A poll is repeated for ever, with growing waits, while that may help. A response is repeated a bounded number of times
and then given up: the service hands the task out again. A refusal that no repetition can change (no such namespace, no
permission, an engine that has stopped for good) stops the worker.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from google.protobuf.message import Message

from perdure.api import RpcError, StatusCode
from perdure.client.calls import Backoff

__all__ = ["Outage", "is_fatal", "poll_backoff", "respond", "respond_again"]

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
_LONGEST_WAIT_S = 2.0
_MAX_RESPONSE_TRIES = 8


def is_fatal(error: RpcError) -> bool:
    """Whether a poll refused like this will never succeed."""
    return error.code in _FATAL


class Outage:
    """Tells, once each, that the service does not answer and that it answers again. Shared by a worker's pollers.

    Args:
        where: what is polled, for the log.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._lasts = False

    def begins(self, error: RpcError) -> None:
        """A poll has failed, and will be repeated."""
        if not self._lasts:
            self._lasts = True
            _logger.warning("%s: the service does not answer; polling goes on until it does: %s", self._where, error)
        else:
            _logger.debug("%s: a poll failed and is repeated: %s", self._where, error)

    def ends(self) -> None:
        """A poll has been answered."""
        if self._lasts:
            self._lasts = False
            _logger.warning("%s: the service answers again", self._where)


def poll_backoff() -> Backoff:
    """The waits between polls that fail."""
    return Backoff(_FIRST_WAIT_S, _LONGEST_WAIT_S)


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
    backoff = poll_backoff()
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
