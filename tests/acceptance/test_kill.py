"""Real processes, killed with a real kill -9, judged by a ledger that outlives them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.kill_rounds import RESULTS
from tests.torture import share_of

PROGRAM = Path(__file__).with_name("kill_rounds.py")


def run_rounds(folder: Path, rounds: int, seed: int, timeout_s: float) -> list[dict[str, Any]]:
    """Run the program; returns its ledger."""
    ledger = folder / "ledger.jsonl"
    command = [sys.executable, str(PROGRAM), str(folder / "kill.db"), str(ledger), str(rounds), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, cwd=PROGRAM.parents[2])
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in ledger.read_text().splitlines()]


def assert_nothing_lost(rows: list[dict[str, Any]]) -> None:
    """Every acknowledged start has ended with the right result, every acknowledged signal was heard once."""
    results = next(row["results"] for row in rows if row["kind"] == "ended")
    heard = Counter(results["collector"])
    assert not [number for number, times in heard.items() if times > 1], "signals applied twice"
    for row in rows:
        if row["kind"] == "ack" and "started" in row:
            assert row["started"] in results, f"{row['started']} was acknowledged and lost"
        elif row["kind"] == "ack":
            assert row["signalled"] in heard, f"signal {row['signalled']} was acknowledged and lost"
    for workflow_id, result in results.items():
        kind = "chain" if workflow_id.endswith("-child") else workflow_id.split("-")[0]
        if kind != "collector":
            assert result == RESULTS[kind], workflow_id


def assert_no_completed_step_ran_again(rows: list[dict[str, Any]]) -> int:
    """Returns how many steps ran again because they were running when their process was killed."""
    completed: dict[str, set[str]] = {}
    open_calls: dict[tuple[str, str], int] = {}
    repeated = 0
    for row in rows:
        if "step" not in row:
            continue
        key = (row["run"], row["step"])
        if row["kind"] == "called":
            assert row["step"] not in completed.get(row["run"], set()), f"completed, and run again: {row}"
            before = open_calls.get(key)
            assert before != row["pid"], f"run twice at once, or after its end, in one process: {row}"
            repeated += before is not None
            open_calls[key] = row["pid"]
            completed.setdefault(row["run"], set()).update(row["needs"])
        elif row["kind"] == "failed":
            del open_calls[key]
    return repeated


def test_200_rounds(tmp_path: Path) -> None:
    rows = run_rounds(tmp_path, 200, seed=1, timeout_s=280)
    assert_nothing_lost(rows)
    repeated = assert_no_completed_step_ran_again(rows)
    assert len({row["pid"] for row in rows}) > 190
    assert repeated > 0, "no process was killed while a step was running: the test shows nothing"


@pytest.mark.torture
@pytest.mark.parametrize("seed", share_of(range(2, 8)))
def test_many_more_rounds(tmp_path: Path, seed: int) -> None:
    rows = run_rounds(tmp_path, 400, seed, timeout_s=1400)
    assert_nothing_lost(rows)
    assert_no_completed_step_ran_again(rows)
