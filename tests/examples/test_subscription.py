"""A year of a subscription."""

from __future__ import annotations

from datetime import timedelta

import pytest

from examples.subscription import Subscription, bill, main, send_mail
from tests.examples.conftest import Stage


async def test_nothing_is_billed_in_the_trial(stage: Stage) -> None:
    async with stage([Subscription], [bill, send_mail]) as env:
        handle = await env.client.start_workflow(Subscription.run, "Ada", id="s")
        await env.sleep(timedelta(days=13))
        await handle.signal(Subscription.cancel)
        assert await handle.result() == 0


async def test_a_year_is_twelve_bills(stage: Stage) -> None:
    async with stage([Subscription], [bill, send_mail]) as env:
        handle = await env.client.start_workflow(Subscription.run, "Ada", id="s")
        await env.sleep(timedelta(days=14, hours=1))
        assert await handle.query(Subscription.bills_sent) == 1
        await env.sleep(timedelta(days=351))
        assert await handle.query(Subscription.bills_sent) == 12
        await handle.signal(Subscription.cancel)
        assert await handle.result() == 12


async def test_it_runs_as_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    await main()
    assert "in all: 12 bills" in capsys.readouterr().out
