"""Calls across the seam, tried again while that may help.

Every changing request carries a request id or changes nothing when repeated, so a call whose outcome is unknown is
simply repeated. The waits grow and are bounded in number; after the last one the error is the caller's.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from google.protobuf.message import Message

from perdure.api import EngineStoppedError, RpcError, StatusCode
from perdure.client.errors import translate

__all__ = ["call"]

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)

_RETRYABLE = frozenset({StatusCode.UNAVAILABLE, StatusCode.ABORTED})
_FIRST_WAIT_S = 0.05
_LONGEST_WAIT_S = 2.0
_MAX_TRIES = 8


async def call(
    method: Callable[[_Request], Awaitable[_Response]],
    request: _Request,
    *,
    workflow_id: str = "",
    workflow_type: str = "",
) -> _Response:
    """Call a method of the service.

    Raises:
        PerdureError: as `perdure.client.errors.translate` says, its cause the `RpcError`.
    """
    wait_s = _FIRST_WAIT_S
    for tries in range(1, _MAX_TRIES + 1):
        try:
            return await method(request)
        except RpcError as error:
            if error.code not in _RETRYABLE or tries == _MAX_TRIES or isinstance(error, EngineStoppedError):
                raise translate(error, workflow_id=workflow_id, workflow_type=workflow_type) from error
        await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))
        wait_s = min(wait_s * 2, _LONGEST_WAIT_S)
    raise AssertionError("unreachable: the last try returns or raises")
