"""`perdure schedule …` on a database file that nobody else has open."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from perdure.cli.main import run
from perdure.client import Client

Perdure = Callable[..., tuple[int, str, str]]


@pytest.fixture
def perdure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Perdure:
    """Runs ``perdure schedule …`` in a folder with a database: its status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    async def prepare() -> None:
        async with await Client.connect("perdure.db"):
            pass

    asyncio.run(prepare())

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["perdure", "schedule", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run()
        shown = capsys.readouterr()
        return int(ended.value.code or 0), shown.out, shown.err

    return call


def described(perdure: Perdure) -> dict[str, dict[str, object]]:
    status, shown, _ = perdure("describe", "nightly", "--json")
    assert status == 0
    return json.loads(shown)


def test_a_schedule_from_its_making_to_its_end(perdure: Perdure) -> None:
    made = perdure(
        *("create", "nightly", "--workflow", "report", "--cron", "0 3 * * *", "--timezone", "Europe/Berlin"),
        *("--input", '"north"', "--overlap", "allow-all", "--note", "as asked"),
    )
    assert (made[0], made[1]) == (0, "")
    assert "nightly has been made; next at 2" in made[2]
    again = perdure("create", "nightly", "--workflow", "report")
    assert (again[0], "'nightly' exists already" in again[2]) == (2, True)
    _, table, _ = perdure("list")
    assert all(text in table for text in ("nightly", "report", "active", "as asked"))
    (line,) = perdure("list", "--json")[1].splitlines()
    assert json.loads(line)["workflow"] == "report"
    assert perdure("list", "--json", "--query", "TemporalSchedulePaused = true")[1] == ""

    assert "nightly is paused" in perdure("pause", "nightly", "--note", "wrong numbers")[2]
    assert described(perdure)["schedule"]["state"] == {"notes": "wrong numbers", "paused": True}
    assert "triggered" in perdure("trigger", "nightly")[2]
    assert (
        "makes up" in perdure("backfill", "nightly", "--start", "2025-12-01", "--end", "2025-12-03T12:00:00+01:00")[2]
    )
    assert described(perdure)["info"]["actionCount"] == "4"
    _, shown, _ = perdure("describe", "nightly")
    assert all(text in shown for text in ("paused", "allow-all", "4 taken", "nightly-2025-12-02T02:00:00Z", "running"))
    assert "goes on" in perdure("unpause", "nightly")[2]

    assert "deleted" in perdure("delete", "nightly")[2]
    gone = perdure("describe", "nightly")
    assert (gone[0], "'nightly' not found" in gone[2]) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("create", "s", "--workflow", "w", "--cron", "nonsense"), "nonsense"),
        (("create", "s", "--workflow", "w", "--overlap", "maybe"), "skip, buffer-one"),
        (("create", "s", "--workflow", "w", "--input", "north"), "not JSON"),
        (("backfill", "s", "--start", "yesterday", "--end", "2026-01-01"), "no time"),
        (("trigger", "s"), "'s' not found"),
    ],
)
def test_mistakes_are_told_in_a_line(perdure: Perdure, arguments: tuple[str, ...], said: str) -> None:
    status, shown, told = perdure(*arguments)
    assert (status, shown) == (2, "")
    assert said in told
    assert "Traceback" not in told
