"""A shopping cart: updates that answer, a validator that refuses, and a first item that starts the cart.

Run it: ``python examples/cart.py``.
"""

from __future__ import annotations

import asyncio
import tempfile
from datetime import timedelta
from pathlib import Path

import perdure
from perdure import activity, workflow
from perdure.client import WithStartWorkflowOperation, WorkflowUpdateFailedError
from perdure.common import WorkflowIDConflictPolicy

PRICES = {"pen": 2, "paper": 5, "desk": 240}
MAX_ITEMS = 3


@activity.defn(start_to_close_timeout=timedelta(minutes=1))
async def look_up_price(item: str) -> int:
    return PRICES[item]


@workflow.defn
class Cart:
    """Collects items until it is ordered, or forgotten for a day."""

    def __init__(self) -> None:
        self.items: list[str] = []
        self.total = 0
        self.ordered = False

    @workflow.run
    async def run(self) -> int:
        while not self.ordered:
            seen = len(self.items)
            try:
                await workflow.wait_condition(
                    lambda seen=seen: self.ordered or len(self.items) > seen, timeout=timedelta(days=1)
                )
            except TimeoutError:
                break
        await workflow.wait_condition(workflow.all_handlers_finished)
        return self.total if self.ordered else 0

    @workflow.update
    async def add(self, item: str) -> int:
        """Put an item in; the caller gets the new total."""
        self.items.append(item)
        price = await look_up_price(item)
        self.total += price
        return self.total

    @add.validator
    def check_item(self, item: str) -> None:
        # What is refused here leaves no trace in the history.
        if item not in PRICES:
            raise ValueError(f"there is no {item}")
        if self.ordered or len(self.items) >= MAX_ITEMS:
            raise ValueError("the cart is closed")

    @workflow.update
    def order(self) -> int:
        self.ordered = True
        return self.total


async def main() -> None:
    """Fill a cart and order, in a database of its own."""
    with tempfile.TemporaryDirectory() as folder:
        async with perdure.open(Path(folder) / "carts.db", workflows=[Cart], activities=[look_up_price]) as app:
            # The first item starts the cart, or goes into the one there is.
            start = WithStartWorkflowOperation(
                Cart.run, id="cart-7", id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING
            )
            add = app.client.execute_update_with_start_workflow
            print("total", await add(Cart.add, "pen", start_workflow_operation=start))
            cart = await start.workflow_handle()
            print("total", await cart.execute_update(Cart.add, "paper"))
            try:
                await cart.execute_update(Cart.add, "yacht")
            except WorkflowUpdateFailedError as error:
                print("refused:", error.cause)
            print("ordered for", await cart.execute_update(Cart.order))
            print("paid", await cart.result())


if __name__ == "__main__":
    asyncio.run(main())
