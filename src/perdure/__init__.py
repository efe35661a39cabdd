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

from perdure import activity, workflow
from perdure.app import App, open
from perdure.client import Client, WorkflowHandle
from perdure.common import RetryPolicy
from perdure.local import Limits
from perdure.worker import Worker

__all__ = ["App", "Client", "Limits", "RetryPolicy", "Worker", "WorkflowHandle", "activity", "open", "workflow"]
