"""The page on Temporal's SDKs: its files and commands work as they are written, in their order."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ports import free_port

PAGE = "docs/temporal-sdks.md"
PORT = "7233"
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\w+\.py)\n")
STEP_S = 120.0
TOO_SLOW = "did not start within"
"""Temporal's test environment gives a server five seconds, which are not always enough on a busy machine."""
TRIES = 10
CRASHES_AT_THE_END = {-signal.SIGABRT, -signal.SIGSEGV}
"""The native part of Temporal's SDK now and then does not survive the end of its Python, after all has been done."""


class Shell:
    """Runs the page's commands; those that end with & go on until the end."""

    def __init__(self, folder: Path, port: str) -> None:
        self.folder = folder
        self.port = port
        scripts = str(Path(sys.executable).parent)
        self.environment = os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"}
        self.running: list[subprocess.Popen[str]] = []

    def run(self, line: str) -> str:
        words = shlex.split(line.replace(PORT, self.port))
        if words[:2] == ["pip", "install"]:
            return ""  # It is in the test's environment already.
        if words[-1] == "&":
            self._leave_running(words[:-1])
            return ""
        done = self._done(words)
        for _ in range(TRIES):
            if TOO_SLOW not in done.stderr:
                break
            done = self._done(words)
        tolerated = CRASHES_AT_THE_END if words[0] == "python" else set[int]()
        assert done.returncode in {0} | tolerated, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def _done(self, words: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=STEP_S
        )

    def _leave_running(self, words: list[str]) -> None:
        if words[-1] == "start-dev":
            words += ["--port", self.port]
        process = subprocess.Popen(
            words, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.running.append(process)
        if "server" in words:
            assert process.stdout is not None
            assert self.port in process.stdout.readline(), "the server says where it serves"

    def close(self) -> None:
        for process in reversed(self.running):
            process.send_signal(signal.SIGTERM)
            process.wait(STEP_S)
            if process.stdout is not None:
                process.stdout.close()


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    opened = Shell(tmp_path, str(free_port()))
    try:
        yield opened
    finally:
        opened.close()


def test_the_page(root: Path, shell: Shell) -> None:
    commands = 0
    for language, text in BLOCK.findall((root / PAGE).read_text()):
        if language == "python":
            name = FILE.match(text)
            assert name is not None, f"a block of code says which file it is: {text}"
            (shell.folder / name[1]).write_text(text.replace(PORT, shell.port))
            continue
        said = ""
        for line in text.splitlines():
            if line.startswith("$ "):
                said = shell.run(line[2:])
                commands += 1
            else:
                assert line in said, f"{line!r} is in the output:\n{said}"
    assert commands >= 8
