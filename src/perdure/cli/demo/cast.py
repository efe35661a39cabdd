"""The process that does the demo's work, and that gets killed: ``python -m perdure.cli.demo.cast DB CSV``.

It asks for every order to be fulfilled, under the order's own id, and waits for all of them. It has no idea whether
it is the first to do so: an order that is under way goes on, one that is done stays done.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import perdure
from perdure.cli.demo.orders import OrderRow, example_folder, read_orders
from perdure.cli.loading import import_file
from perdure.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from perdure.exceptions import WorkflowAlreadyStartedError

__all__ = ["fulfil_all"]

ASK_AT_ONCE = 100
CALLS_AT_ONCE = 40
"""Activities in flight: the outside world takes no more at a time."""


async def fulfil_all(db: Path, orders: list[OrderRow]) -> dict[str, str]:
    """Bring every order to its end; returns order id → status."""
    example: Any = import_file(example_folder() / "workflow.py")
    async with perdure.open(db, max_concurrent_activities=CALLS_AT_ONCE) as app:
        gate = asyncio.Semaphore(ASK_AT_ONCE)

        async def ask(order: OrderRow) -> Any:
            async with gate:
                workflow_id = f"order-{order.order_id}"
                argument = example.Order(**{name: getattr(order, name) for name in OrderRow.__slots__})
                try:
                    return await app.start(
                        example.fulfil,
                        argument,
                        id=workflow_id,
                        id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                    )
                except WorkflowAlreadyStartedError:
                    return app.client.get_workflow_handle_for(example.fulfil, workflow_id)

        handles = await asyncio.gather(*(ask(order) for order in orders))
        outcomes = await asyncio.gather(*(handle.result() for handle in handles))
    return {outcome.order_id: outcome.status for outcome in outcomes}


def _main() -> None:
    db, orders = Path(sys.argv[1]), Path(sys.argv[2])
    statuses = asyncio.run(fulfil_all(db, read_orders(orders)))
    sys.stdout.write(json.dumps(statuses))
    sys.stdout.flush()
    os.close(sys.stdout.fileno())


if __name__ == "__main__":
    _main()
