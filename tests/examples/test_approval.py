"""Yes, no, and silence."""

from __future__ import annotations

from datetime import timedelta

import pytest

from examples.approval import Approval, Decision, ask, main
from tests.examples.conftest import Stage


@pytest.mark.parametrize("approved", [True, False])
async def test_the_first_answer_counts(stage: Stage, approved: bool) -> None:
    async with stage([Approval], [ask]) as env:
        handle = await env.client.start_workflow(Approval.run, args=["a desk", "Grace"], id="a")
        await env.sleep(timedelta(days=2))
        assert await handle.query(Approval.status) == "waiting"
        await handle.signal(Approval.decide, Decision(approved, "Grace"))
        assert await handle.result() == Decision(approved, "Grace")
        assert await handle.query(Approval.status) == ("approved" if approved else "rejected")


async def test_silence_is_no(stage: Stage) -> None:
    async with stage([Approval], [ask]) as env:
        before = await env.get_current_time()
        decision = await env.client.execute_workflow(Approval.run, args=["a desk", "Grace"], id="a")
        assert decision == Decision(approved=False, by="the calendar")
        assert await env.get_current_time() - before >= timedelta(days=7)


async def test_it_runs_as_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    await main()
    assert "Decision(approved=True, by='Grace')" in capsys.readouterr().out
