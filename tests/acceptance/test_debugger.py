"""`breakpoint()` with the real pdb at a real terminal: in a workflow, an activity, and one on a thread."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.acceptance.conftest import Perdure

CODE = """
from datetime import timedelta

from perdure import activity, workflow


@activity.defn(start_to_close_timeout=timedelta(seconds=60))
async def charge(order: str) -> str:
    breakpoint()
    receipt = f"receipt {order}"
    return receipt


@activity.defn(start_to_close_timeout=timedelta(seconds=60))
def on_a_thread(order: str) -> str:
    breakpoint()
    receipt = f"receipt {order}"
    return receipt


@workflow.defn
async def in_workflow(order: str) -> int:
    await workflow.sleep(0.001)
    count = 1
    breakpoint()
    count += 1
    return count


@workflow.defn
async def in_activity(order: str) -> str:
    return await charge(order)


@workflow.defn
async def in_thread(order: str) -> str:
    return await on_a_thread(order)
"""
PROMPT = "(Pdb) "
LONGEST_S = 100.0


def at_terminal(folder: Path, environment: dict[str, str], name: str, commands: Sequence[str]) -> tuple[int, str]:
    """Run a workflow at a terminal and answer its debugger's prompts; the exit status and what was on the screen."""
    master, slave = pty.openpty()
    arguments = ["-m", "perdure.cli", "run", f"steps.py:{name}", "--input", '"A1"', "--id", "w"]
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment | {"TERM": "dumb"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    screen, answered, seen = "", 0, 0
    while select.select([master], [], [], LONGEST_S)[0]:
        try:
            data = os.read(master, 4096)
        except OSError:  # The other end is closed.
            break
        screen += data.decode()
        while answered < len(commands) and (at := screen.find(PROMPT, seen)) >= 0:
            seen = at + len(PROMPT)
            os.write(master, f"{commands[answered]}\n".encode())
            answered += 1
    else:
        process.kill()
    os.close(master)
    return process.wait(), screen.replace("\r", "")


@pytest.mark.parametrize(
    ("name", "looked_at", "result"),
    [
        ("in_workflow", {"p count": "1", "next": "", "p count ": "2"}, "2"),
        ("in_activity", {"next": "", "p receipt": "'receipt A1'"}, '"receipt A1"'),
        ("in_thread", {"next": "", "p receipt": "'receipt A1'"}, '"receipt A1"'),
    ],
)
def test_breakpoint(
    tmp_path: Path, environment: dict[str, str], name: str, looked_at: dict[str, str], result: str
) -> None:
    (tmp_path / "steps.py").write_text(CODE)
    status, screen = at_terminal(tmp_path, environment, name, [*looked_at, "continue"])
    assert status == 0, screen
    for command, shown in looked_at.items():
        if shown:
            assert re.search(rf"\(Pdb\) {re.escape(command.strip())} ?\n{re.escape(shown)}\n", screen), screen
    assert screen.splitlines()[-1] == result


@pytest.mark.parametrize("name", ["in_workflow", "in_activity", "in_thread"])
def test_quitting_the_debugger_ends_the_process_and_loses_nothing(
    tmp_path: Path, environment: dict[str, str], perdure: Perdure, name: str
) -> None:
    (tmp_path / "steps.py").write_text(CODE)
    status, screen = at_terminal(tmp_path, environment, name, ["quit"])
    assert screen.count(PROMPT) == 1
    assert status == 130, screen
    assert "Nothing is lost" in screen
    assert json.loads(perdure("list", "--json").stdout)["status"] == "running"
    assert at_terminal(tmp_path, environment, name, ["continue"])[0] == 0
