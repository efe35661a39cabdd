"""Documents: what they name exists, and what the README says to type works."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

DOCUMENTS = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"]
LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
MAKE = re.compile(r"`?make ([a-z]+)")


def documents(root: Path) -> list[Path]:
    return [root / name for name in DOCUMENTS] + sorted((root / "docs").rglob("*.md"))


def fences(root: Path, name: str, language: str) -> list[str]:
    return [text for kind, text in FENCE.findall((root / name).read_text()) if kind == language]


def test_links_lead_somewhere(root: Path) -> None:
    broken = [
        f"{document.relative_to(root)}: {link}"
        for document in documents(root)
        for link in LINK.findall(document.read_text())
        if not link.startswith("http") and not (document.parent / link).exists()
    ]
    assert not broken, "\n".join(broken)


def test_make_targets_exist(root: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (root / "Makefile").read_text(), re.MULTILINE))
    for document in documents(root):
        code = " ".join(re.findall(r"`make [a-z]+`|^(?:    |\$ )make [a-z]+", document.read_text(), re.MULTILINE))
        assert set(MAKE.findall(code)) <= targets, document


def test_folders_named_in_the_documents_exist(root: Path) -> None:
    named = re.compile(r"`((?:src|tests|docs|examples|bench|perdure)/[\w/.-]+)`")
    missing = [
        f"{document.name}: {name}"
        for document in documents(root)
        for name in named.findall(document.read_text())
        if not (root / name).exists() and not (root / "src" / name).exists()
        if name not in ("bench/results", "bench/results/latest.json")
    ]
    assert not missing, "\n".join(missing)


def test_every_example_has_a_line_in_the_readme_and_a_test(root: Path) -> None:
    readme = (root / "README.md").read_text()
    for example in sorted((root / "examples").iterdir()):
        if example.name.startswith(("_", ".")):
            continue
        assert f"(examples/{example.name}" in readme, f"{example.name} is not in the README"
        assert (root / "tests/examples" / f"test_{example.stem}.py").exists(), f"{example.name} has no test"


def test_every_decision_is_listed(root: Path) -> None:
    listing = (root / "docs/adr/README.md").read_text()
    records = sorted(path.name for path in (root / "docs/adr").glob("0*.md"))
    assert records == re.findall(r"\]\((0[^)]*)\)", listing)


@pytest.mark.parametrize("name", ["README.md", "docs/workflows.md", "docs/testing.md"])
def test_python_in_documents_is_python(root: Path, name: str) -> None:
    for code in fences(root, name, "python"):
        ast.parse(code)


def readme_commands(root: Path) -> list[tuple[str, str]]:
    """The README's commands with the output it shows, in order."""
    found: list[tuple[str, str]] = []
    for block in fences(root, "README.md", "console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output))
    return found


def killed_after_its_output(command: str, output: str, folder: Path, environment: dict[str, str]) -> None:
    """``timeout -s KILL n …``, but the time counts from its output: a slow machine needs longer to get there."""
    inner = shlex.split(command)[4:]
    with subprocess.Popen(inner, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in output.splitlines():
            assert process.stdout.readline().rstrip("\n") == line
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=2)
        process.kill()


def test_readme_commands_run(root: Path, tmp_path: Path) -> None:
    """Written, run, killed and resumed as the README says, in an empty folder."""
    for code in fences(root, "README.md", "python"):
        first = code.splitlines()[0]
        assert first.startswith("# ") and first.endswith(".py")
        (tmp_path / first[2:]).write_text(code)
    here = str(Path(sys.executable).parent)
    environment = os.environ | {"PATH": f"{here}{os.pathsep}{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"}
    ran = 0
    for command, output in readme_commands(root):
        if command.startswith("make ") or "activate" in command:
            continue
        ran += 1
        if command.startswith("timeout -s KILL "):
            killed_after_its_output(command, output, tmp_path, environment)
            continue
        done = subprocess.run(command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, command + "\n" + done.stdout + done.stderr
        for line in output.splitlines():
            assert line in done.stdout.splitlines(), f"{command}\nsaid\n{done.stdout}\nnot\n{line}"
        assert "charging the card for A1" not in done.stdout
    assert ran >= 4
