"""A subscription: a 14-day trial, then a bill every 30 days until the customer cancels.

Run it: ``python examples/subscription.py``. It lives a year on the virtual clock, in well under a second. On the
wall clock the same code would sleep through deploys and restarts.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from perdure import activity, workflow
from perdure.testing import WorkflowEnvironment
from perdure.worker import Worker

TRIAL = timedelta(days=14)
PERIOD = timedelta(days=30)


@activity.defn(start_to_close_timeout=timedelta(minutes=1))
async def bill(customer: str, number: int) -> None:
    print(f"bill {number} to {customer}")


@activity.defn(start_to_close_timeout=timedelta(minutes=1))
async def send_mail(customer: str, text: str) -> None:
    print(f"mail to {customer}: {text}")


@workflow.defn
class Subscription:
    """One customer's subscription; its result is the number of bills."""

    def __init__(self) -> None:
        self.cancelled = False
        self.bills = 0

    @workflow.run
    async def run(self, customer: str) -> int:
        await send_mail(customer, "welcome to your trial")
        pause = TRIAL
        while not await self.cancelled_within(pause):
            self.bills += 1
            await bill(customer, self.bills)
            pause = PERIOD
        await send_mail(customer, "goodbye")
        return self.bills

    async def cancelled_within(self, pause: timedelta) -> bool:
        try:
            await workflow.wait_condition(lambda: self.cancelled, timeout=pause)
        except TimeoutError:
            return False
        return True

    @workflow.signal
    def cancel(self) -> None:
        self.cancelled = True

    @workflow.query
    def bills_sent(self) -> int:
        return self.bills


async def main() -> None:
    """Live through one year."""
    async with await WorkflowEnvironment.start_time_skipping() as env:
        async with Worker(env.client, task_queue="shop", workflows=[Subscription], activities=[bill, send_mail]):
            handle = await env.client.start_workflow(Subscription.run, "Ada", id="subscription-ada", task_queue="shop")
            await env.sleep(timedelta(days=365))
            print(f"after a year: {await handle.query(Subscription.bills_sent)} bills")
            await handle.signal(Subscription.cancel)
            print(f"in all: {await handle.result()} bills")


if __name__ == "__main__":
    asyncio.run(main())
