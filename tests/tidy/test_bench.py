"""The bench: its rows can be named, chosen, and shown. (What they measure is measured by `make bench`.)"""

from __future__ import annotations

import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from bench.rows import ROWS
from bench.table import Budget, Row, print_table

BUDGET = Budget(metric="s", label="seconds", limit=2)
ROW = Row(name="one", what="something", measure=dict, budgets=(BUDGET,))


def shown(result: dict[str, float] | str) -> str:
    text = StringIO()
    print_table([ROW], {"one": result}, Console(file=text, width=100))
    return text.getvalue()


def test_names_are_unique() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("name", ["chains", "kill", "sleepers-100k", "replay", "idle"])
def test_rows_of_the_budget_table_are_there(name: str) -> None:
    assert name in {row.name for row in ROWS}


@pytest.mark.parametrize(("value", "at_least", "met"), [(1, False, True), (3, False, False), (3, True, True)])
def test_a_budget_is_judged(value: float, at_least: bool, met: bool) -> None:
    assert Budget(metric="s", label="s", limit=2, at_least=at_least).met_by(value) is met


def test_a_figure_without_a_budget_is_told() -> None:
    assert Budget(metric="s", label="s").met_by(1) is None


def test_the_table_says_pass_miss_and_failure() -> None:
    assert "✓" in shown({"s": 1})
    assert "✗ miss" in shown({"s": 3})
    assert "failed: [Errno 28]" in shown("[Errno 28]")


def test_the_command(root: Path) -> None:
    command = [sys.executable, "-m", "bench"]
    listed = subprocess.run([*command, "--list"], cwd=root, capture_output=True, text=True, check=True)
    assert len(listed.stdout.splitlines()) == len(ROWS)
    unknown = subprocess.run([*command, "--only", "none"], cwd=root, capture_output=True, text=True)
    assert unknown.returncode == 2
    assert "no such row: none" in unknown.stderr
