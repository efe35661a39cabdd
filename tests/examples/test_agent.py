"""Thinking, acting, asking, and waiting three days."""

from __future__ import annotations

from datetime import timedelta

import pytest

from examples.agent import INBOX, Agent, main, tell_person, think, use_tool
from tests.examples.conftest import Stage

ACTIVITIES = [think, use_tool, tell_person]


@pytest.mark.parametrize(("reply", "outcome"), [("yes", "booked"), ("no", "not booked")])
async def test_a_person_decides(stage: Stage, reply: str, outcome: str) -> None:
    async with stage([Agent], ACTIVITIES) as env:
        handle = await env.client.start_workflow(Agent.run, "a flight", id="a")
        await env.sleep(timedelta(days=2))
        assert "shall I book it?" in await handle.query(Agent.open_question)
        assert "shall I book it?" in INBOX.get_nowait()
        await handle.signal(Agent.answer, reply)
        assert await handle.result() == outcome


async def test_nobody_answers(stage: Stage) -> None:
    async with stage([Agent], ACTIVITIES) as env:
        before = await env.get_current_time()
        assert await env.client.execute_workflow(Agent.run, "a flight", id="a") == "not booked"
        assert await env.get_current_time() - before >= timedelta(days=3)
        INBOX.get_nowait()


async def test_it_runs_as_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    await main()
    assert "answered: booked" in capsys.readouterr().out
