"""What people do to workflows from a shell, while another process runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from perdure.cli.main import run

APP = """
import asyncio
import sys

from perdure import Client, Worker, workflow


@workflow.defn
class Counter:
    def __init__(self) -> None:
        self.total = 0
        self.done = False

    @workflow.run
    async def run(self) -> int:
        await workflow.wait_condition(lambda: self.done)
        return self.total

    @workflow.signal
    def finish(self) -> None:
        self.done = True

    @workflow.query
    def total_of(self, factor: int = 1) -> int:
        return self.total * factor

    @workflow.update
    def add(self, count: int) -> int:
        self.total += count
        return self.total

    @add.validator
    def check(self, count: int) -> None:
        if count < 0:
            raise ValueError("too few")


async def main(target: str) -> None:
    async with await Client.connect(target) as client:
        async with Worker(client, workflows=[Counter]):
            await client.start_workflow(Counter.run, id="c")
            print("ready", flush=True)
            await asyncio.to_thread(sys.stdin.read)


asyncio.run(main(sys.argv[1]))
"""
Served = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True)
class Done:
    """What a command came to."""

    returncode: int
    stdout: str
    stderr: str


Perdure = Callable[..., Done]


@pytest.fixture
def perdure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Perdure:
    """Runs ``perdure …`` in the test's folder: in this process, which spares the start of another."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["perdure", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run()
        shown = capsys.readouterr()
        return Done(int(ended.value.code or 0), shown.out, shown.err)

    return call


@pytest.fixture
def serve(tmp_path: Path, environment: dict[str, str]) -> Served:
    """``with serve(target):`` a process runs the workflow ``c``."""
    (tmp_path / "app.py").write_text(APP)

    @contextmanager
    def served(target: str) -> Iterator[None]:
        command = [sys.executable, "app.py", target]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, cwd=tmp_path, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
                yield
            finally:
                process.communicate(timeout=100)

    return served


def test_ask_and_tell_a_workflow_that_another_process_runs(perdure: Perdure, serve: Served) -> None:
    with serve("perdure.db"):
        assert perdure("count").stdout == "1\n"
        assert perdure("count", "--query", "WorkflowType='other'").stdout == "0\n"
        assert perdure("update", "c", "add", "--input", "3").stdout == "3\n"
        assert perdure("update", "c", "add", "--input", "4", "--update-id", "u").stdout == "7\n"
        assert perdure("update", "c", "add", "--input", "4", "--update-id", "u").stdout == "7\n"
        accepted = perdure("update", "c", "add", "--input", "1", "--update-id", "v", "--accepted")
        assert (accepted.stdout, "has accepted update v" in accepted.stderr) == ("", True)
        assert perdure("query", "c", "total_of", "--input", "10").stdout == "80\n"
        refused = perdure("update", "c", "add", "--input", "-1")
        assert (refused.returncode, "too few" in refused.stderr) == (1, True)
        unknown = perdure("query", "c", "fly")
        assert (unknown.returncode, unknown.stderr.count("no query 'fly'")) == (1, 1)
        assert perdure("signal", "c", "finish").returncode == 0
        assert perdure("query", "c", "total_of").stdout == "8\n"
    listed = perdure("list", "--json").stdout.splitlines()
    assert [json.loads(line)["status"] for line in listed] == ["completed"]


def test_stop_and_remove(perdure: Perdure, serve: Served) -> None:
    with serve("perdure.db"):
        assert "asked to stop" in perdure("cancel", "c", "--reason", "enough").stderr
    with serve("perdure.db"):
        assert "terminated" in perdure("terminate", "c", "--reason", "enough").stderr
    assert "TerminatedError" not in perdure("show", "c").stderr
    assert perdure("delete", "c").returncode == 0
    gone = perdure("delete", "c")
    assert (gone.returncode, "not found" in gone.stderr) == (2, True)


def test_go_back_and_do_it_again(perdure: Perdure, serve: Served) -> None:
    with serve("perdure.db"):
        perdure("update", "c", "add", "--input", "3")
        perdure("signal", "c", "finish")
        reset = perdure("reset", "c", "--to", "first", "--reason", "again")
        assert reset.returncode == 0, reset.stderr
        assert "goes on as run" in reset.stderr
        assert perdure("query", "c", "total_of").stdout == "3\n"
        assert perdure("reset", "c", "--to", "9999").returncode == 2
        assert "no point of a history" in perdure("reset", "c", "--to", "nowhere").stderr
    assert perdure("count").stdout == "2\n"


def test_nobody_who_could_answer(perdure: Perdure, serve: Served) -> None:
    with serve("perdure.db"):
        pass
    for command in (("query", "c", "total_of"), ("update", "c", "add", "--input", "1")):
        done = perdure(*command, "--timeout", "0.2")
        assert (done.returncode, "Is a process running" in done.stderr) == (1, True)
        assert "Traceback" not in done.stderr


def test_a_database_that_is_not_there(perdure: Perdure) -> None:
    for command in (("count",), ("signal", "c", "finish"), ("delete", "c")):
        done = perdure(*command)
        assert (done.returncode, "there is no database" in done.stderr) == (2, True)
