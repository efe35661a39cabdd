"""Durable execution for Python: ordinary async functions that run to completion, through anything.

Example::

    import perdure
    from perdure import activity, workflow

    @activity.defn(start_to_close_timeout=timedelta(seconds=10))
    async def charge(order: Order) -> Receipt: ...

    @workflow.defn
    async def fulfil(order: Order) -> Receipt:
        return await charge(order)

    async with perdure.open("orders.db") as app:
        receipt = await app.execute(fulfil, order, id=f"order-{order.id}")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perdure import activity, workflow
    from perdure.app import App, open
    from perdure.client import Client, WorkflowHandle
    from perdure.common import RetryPolicy
    from perdure.local import Limits
    from perdure.worker import Worker

__all__ = ["App", "Client", "Limits", "RetryPolicy", "Worker", "WorkflowHandle", "activity", "open", "workflow"]

_MODULES = frozenset({"activity", "client", "common", "converter", "exceptions", "testing", "worker", "workflow"})
_HOMES = {
    "App": "perdure.app",
    "Client": "perdure.client",
    "Limits": "perdure.local",
    "RetryPolicy": "perdure.common",
    "Worker": "perdure.worker",
    "WorkflowHandle": "perdure.client",
    "open": "perdure.app",
}
"""Names are looked up when they are first asked for: a server, which is in this package, too, needs none of them."""


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is not None:
        found = getattr(import_module(home), name)
    elif name in _MODULES:
        found = import_module(f"perdure.{name}")
    else:
        raise AttributeError(f"module 'perdure' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
