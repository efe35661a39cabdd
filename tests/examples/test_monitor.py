"""Many looks, short histories."""

from __future__ import annotations

import pytest

from examples.monitor import DONE_AFTER, look, main, monitor
from tests.examples.conftest import Stage


async def test_it_looks_until_it_is_done(stage: Stage) -> None:
    async with stage([monitor], [look]) as env:
        assert await env.client.execute_workflow(monitor, args=["b", DONE_AFTER - 3], id="m") == DONE_AFTER


async def test_it_continues_as_new(stage: Stage) -> None:
    async with stage([monitor], [look]) as env:
        assert await env.client.execute_workflow(monitor, args=["b", 0], id="m") == DONE_AFTER
        runs = [run async for run in env.client.list_workflows("WorkflowId='m'")]
        assert len(runs) == 3


async def test_it_runs_as_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    await main()
    assert "done after 250 looks" in capsys.readouterr().out
