"""Order fulfilment as a saga: reserve, charge, label, e-mail, complete.

Each step is an activity, retried while its failure may pass. When a step finally fails, what was already done is
undone in reverse order, and the order ends as cancelled, with the reason.

    perdure run examples/orders/workflow.py:fulfil --id A1 --db orders.db --input '{"order_id": "A1", "customer":
        "Ada", "email": "ada@example.com", "sku": "MUG-12", "quantity": 1, "amount_cents": 1250,
        "card": "4242-4242-4242-4242", "country": "DE"}'
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from perdure import RetryPolicy, activity, workflow
from perdure.exceptions import ActivityError, ApplicationError

from .world import world


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One row of the CSV."""

    order_id: str
    customer: str
    email: str
    sku: str
    quantity: int
    amount_cents: int
    card: str
    country: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an order ended."""

    order_id: str
    status: str
    """``fulfilled`` or ``cancelled``."""
    tracking: str = ""
    reason: str = ""


step = partial(
    activity.defn,
    start_to_close_timeout=timedelta(seconds=10),
    retry_policy=RetryPolicy(
        initial_interval=timedelta(milliseconds=100), maximum_interval=timedelta(seconds=1), maximum_attempts=6
    ),
)


@step()
async def reserve(order: Order) -> None:
    async with world().call(order.order_id) as call:
        if order.sku == "SOFA-00":
            raise ApplicationError(f"{order.sku} is sold out", type="SoldOut", non_retryable=True)
        call.effect_once("reserved", amount_cents=0)


@step()
async def release(order: Order) -> None:
    async with world().call(order.order_id) as call:
        call.effect_once("released", amount_cents=0)


@step()
async def charge(order: Order) -> None:
    async with world().call(order.order_id) as call:
        if order.card.endswith("-0002"):
            raise ApplicationError("the card was declined", type="CardDeclined", non_retryable=True)
        call.effect_once("charged", amount_cents=order.amount_cents)


@step()
async def refund(order: Order) -> None:
    async with world().call(order.order_id) as call:
        call.effect_once("refunded", amount_cents=order.amount_cents)


@step()
async def label(order: Order) -> str:
    async with world().call(order.order_id) as call:
        if order.country == "AQ":
            raise ApplicationError("no carrier goes to Antarctica", type="NoCarrier", non_retryable=True)
        call.effect_once("labelled", amount_cents=0)
        return f"{order.country}-{order.order_id}"


@step()
async def send_mail(order: Order, text: str) -> None:
    async with world().call(order.order_id) as call:
        call.effect_once("mailed", amount_cents=0, text=text)


@step()
async def complete(order: Order) -> None:
    async with world().call(order.order_id) as call:
        call.effect_once("completed", amount_cents=0)


@workflow.defn
async def fulfil(order: Order) -> Outcome:
    """Bring one order to its end, whatever happens to this process meanwhile."""
    undo: list[Callable[[Order], Awaitable[None]]] = []
    try:
        await reserve(order)
        undo.append(release)
        await charge(order)
        undo.append(refund)
        tracking = await label(order)
        await send_mail(order, f"Your parcel {tracking} is on its way")
        await complete(order)
    except ActivityError as error:
        for compensate in reversed(undo):
            await compensate(order)
        return Outcome(order_id=order.order_id, status="cancelled", reason=str(error.cause))
    return Outcome(order_id=order.order_id, status="fulfilled", tracking=tracking)
