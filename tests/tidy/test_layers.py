"""Who may import whom: import-linter's contracts hold, and the front door is the only way around."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

PURE = ("src/perdure/replay", "src/perdure/engine/history")
BRIDGES = (
    "src/perdure/local.py",
    "src/perdure/sharing.py",
    "src/perdure/testing",
    "src/perdure/engine",
    "src/perdure/server",
    "src/perdure/cli",
    "src/perdure/__init__.py",
)


def imported_modules(file: Path) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def test_contracts_hold(root: Path) -> None:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_engine_is_reached_through_the_bridges_only(root: Path, project_files: list[Path]) -> None:
    outside = [file for file in project_files if file.suffix == ".py" and file.is_relative_to(root / "src")]
    outside = [file for file in outside if not any(file.is_relative_to(root / bridge) for bridge in BRIDGES)]
    found = [
        f"{file.relative_to(root)}:{line} imports {name}"
        for file in outside
        for line, name in imported_modules(file)
        if name.startswith("perdure.engine")
    ]
    assert not found, "\n".join(found)


def test_only_the_api_of_temporalio_is_used(root: Path, project_files: list[Path]) -> None:
    found = [
        f"{file.relative_to(root)}:{line} imports {name}"
        for file in project_files
        if file.suffix == ".py" and file.is_relative_to(root / "src")
        for line, name in imported_modules(file)
        if name.split(".")[0] == "temporalio" and not name.startswith("temporalio.api")
    ]
    assert not found, "\n".join(found)


def test_events_are_built_in_one_place(root: Path, project_files: list[Path]) -> None:
    found = [
        f"{file.relative_to(root)}:{node.lineno}"
        for file in project_files
        if file.suffix == ".py" and file.is_relative_to(root / "src/perdure/engine") and file.name != "events.py"
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).rsplit(".", 1)[-1] == "HistoryEvent"
        and (node.args or node.keywords)
    ]
    assert not found, "only engine/history/events.py builds events:\n" + "\n".join(found)
