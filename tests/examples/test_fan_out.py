"""Many at once, one result."""

from __future__ import annotations

import pytest

from examples.fan_out import CHAPTERS, count_words, main, most_frequent
from tests.examples.conftest import Stage


async def test_the_words_of_all_chapters(stage: Stage) -> None:
    async with stage([most_frequent], [count_words]) as env:
        assert await env.client.execute_workflow(most_frequent, args=[CHAPTERS, 2], id="w") == ["the", "a"]


async def test_a_hundred_chapters(stage: Stage) -> None:
    async with stage([most_frequent], [count_words]) as env:
        chapters = [f"word{number} twice twice" for number in range(100)]
        assert await env.client.execute_workflow(most_frequent, args=[chapters, 1], id="w") == ["twice"]


async def test_it_runs_as_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    await main()
    assert "['the'" in capsys.readouterr().out
