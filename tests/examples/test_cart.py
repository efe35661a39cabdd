"""Ordered, refused, and forgotten."""

from __future__ import annotations

from datetime import timedelta

import pytest

from examples.cart import Cart, look_up_price, main
from perdure.client import WorkflowUpdateFailedError
from tests.examples.conftest import Stage


async def test_every_item_answers_with_the_total(stage: Stage) -> None:
    async with stage([Cart], [look_up_price]) as env:
        cart = await env.client.start_workflow(Cart.run, id="c")
        assert [await cart.execute_update(Cart.add, item) for item in ("pen", "desk")] == [2, 242]
        assert await cart.execute_update(Cart.order) == 242
        assert await cart.result() == 242


async def test_what_does_not_fit_is_refused(stage: Stage) -> None:
    async with stage([Cart], [look_up_price]) as env:
        cart = await env.client.start_workflow(Cart.run, id="c")
        with pytest.raises(WorkflowUpdateFailedError, match="there is no yacht"):
            await cart.execute_update(Cart.add, "yacht")
        for _ in range(3):
            await cart.execute_update(Cart.add, "pen")
        with pytest.raises(WorkflowUpdateFailedError, match="closed"):
            await cart.execute_update(Cart.add, "pen")
        assert await cart.execute_update(Cart.order) == 6


async def test_a_cart_is_forgotten_a_day_after_its_last_item(stage: Stage) -> None:
    async with stage([Cart], [look_up_price]) as env:
        before = await env.get_current_time()
        cart = await env.client.start_workflow(Cart.run, id="c")
        await env.sleep(timedelta(hours=20))
        await cart.execute_update(Cart.add, "pen")
        assert await cart.result() == 0
        assert timedelta(hours=44) <= await env.get_current_time() - before < timedelta(hours=45)


async def test_it_runs_as_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    await main()
    assert "refused: ValueError: there is no yacht\nordered for 7\npaid 7\n" in capsys.readouterr().out
