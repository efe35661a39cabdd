"""Reads that fail: what a caller is told.

A store's errors do not cross the seam. A damaged row is told by whoever knows which run it belongs to, so it passes
here as it is; any other failure of a read means that the caller may try again.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

from perdure.api import RpcError, StatusCode
from perdure.engine.store.port import StoreCorruptError, StoreError

__all__ = ["GONE", "read"]

_T = TypeVar("_T")

GONE = frozenset((StatusCode.NOT_FOUND, StatusCode.DATA_LOSS))
"""What an RpcError says of a run that will not come back: erased, or quarantined. Others mean: try again."""


async def read(call: Awaitable[_T]) -> _T:
    """The outcome of a store's read.

    Raises:
        StoreCorruptError: a row is damaged.
        RpcError: UNAVAILABLE, the store can't be read now.
    """
    try:
        return await call
    except StoreCorruptError:
        raise
    except StoreError as error:
        raise RpcError(StatusCode.UNAVAILABLE, f"the store can't be read: {error}") from error
