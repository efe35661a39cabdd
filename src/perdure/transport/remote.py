"""A `WorkflowService` whose methods are made from the table of RPCs, one call for each.

So there is nothing here to fall behind the API, and a call costs what the way to the other side does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeAlias, cast

from perdure.api import WorkflowService
from perdure.api.rpcs import RPCS, Rpc

__all__ = ["Call", "Channel", "service_of"]

Call: TypeAlias = Callable[..., Awaitable[Any]]
"""``await call(request)``, and for what may wait ``await call(request, timeout_s=…)``."""


class Channel(Protocol):
    """A way to another process."""

    def bind(self, rpc: Rpc) -> Call:
        """The call of one RPC.

        It raises `perdure.api.RpcError`: the refusal, or UNAVAILABLE when the other side cannot be reached.
        """
        ...


class _BoundService:
    """Calls by method name."""

    def __init__(self, bind: Callable[[Rpc], Call]) -> None:
        self.__dict__.update({rpc.method: bind(rpc) for rpc in RPCS.values()})


def service_of(bind: Callable[[Rpc], Call]) -> WorkflowService:
    """A service of the calls that `bind` makes, e.g. those of a `Channel`."""
    return cast("WorkflowService", _BoundService(bind))
