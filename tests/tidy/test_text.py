"""What may not stand in a file of the project: machine paths, registries' addresses, real sleeps, SQL in Python."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

MACHINE_PATH = re.compile(r"(?<![\w.~$}{>])/(?:work|tmp|root|home|Users)/\w")
# The names are put together here, so that this file may be searched too.
REGISTRY = re.compile(
    "https?://[^ \"']*(?:" + "|".join(["py" + "pi", "npm" + "js", "regis" + "try", "/simp" + "le/"]) + ")"
)
SQL = re.compile(
    r"\b(?:SELECT\s[\s\S]*\bFROM\b|INSERT\s+(?:OR\s+\w+\s+)?INTO\b|UPDATE\s+\w+\s+SET\b|DELETE\s+FROM\b|"
    r"CREATE\s+(?:TABLE|INDEX|TRIGGER|VIEW)\b|ALTER\s+TABLE\b|DROP\s+TABLE\b)"
)
UNFINISHED = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b")
VIRTUAL = ("tests/replay", "tests/simulation", "tests/system")
"""Folders whose tests run on loops of virtual time: every `asyncio.sleep` there is a timer that takes none."""
TEXT = {".py", ".md", ".toml", ".sql", ".lock", ".csv", ".yml", ".yaml", ".txt", ".json", ""}


def text_of(file: Path) -> str:
    return file.read_text(errors="replace") if file.suffix in TEXT else ""


def hits(pattern: re.Pattern[str], files: list[Path], root: Path) -> list[str]:
    return [
        f"{file.relative_to(root)}:{number}: {line.strip()[:120]}"
        for file in files
        for number, line in enumerate(text_of(file).splitlines(), 1)
        if pattern.search(line)
    ]


def test_no_machine_paths(project_files: list[Path], root: Path) -> None:
    files = [file for file in project_files if file != Path(__file__)]
    assert not hits(MACHINE_PATH, files, root)


def test_no_registry_addresses(project_files: list[Path], root: Path) -> None:
    assert not hits(REGISTRY, project_files, root)


def test_nothing_is_marked_unfinished(project_files: list[Path], root: Path) -> None:
    assert not hits(UNFINISHED, project_files, root)


def literals(file: Path) -> Iterator[tuple[int, str]]:
    """String literals that are not docstrings."""
    tree = ast.parse(file.read_text())
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value


def test_sql_lives_in_sql_files(project_files: list[Path], root: Path) -> None:
    found = [
        f"{file.relative_to(root)}:{line}: {text.strip()[:80]}"
        for file in project_files
        if file.suffix == ".py" and file.is_relative_to(root / "src")
        for line, text in literals(file)
        if SQL.search(text)
    ]
    assert not found, "\n".join(found)


class _Sleeps(ast.NodeVisitor):
    """Finds real waits: `time.sleep`, and `asyncio.sleep` above 0 outside of workflow code (there it is a timer)."""

    def __init__(self, virtual: bool) -> None:
        self.found: list[int] = []
        self._virtual = virtual

    def _visit_definition(self, node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        before = self._virtual
        decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
        self._virtual = before or any(text.startswith(("workflow.", "perdure.workflow.")) for text in decorators)
        self.generic_visit(node)
        self._virtual = before

    visit_ClassDef = _visit_definition
    visit_FunctionDef = _visit_definition
    visit_AsyncFunctionDef = _visit_definition

    def visit_Call(self, node: ast.Call) -> None:
        name = ast.unparse(node.func)
        yields = len(node.args) == 1 and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0
        if name == "time.sleep" or (name == "asyncio.sleep" and not self._virtual and not yields):
            self.found.append(node.lineno)
        self.generic_visit(node)


def test_no_sleeps_in_tests(project_files: list[Path], root: Path) -> None:
    found: list[str] = []
    for file in project_files:
        if file.suffix == ".py" and file.is_relative_to(root / "tests"):
            sleeps = _Sleeps(virtual=any(file.is_relative_to(root / folder) for folder in VIRTUAL))
            sleeps.visit(ast.parse(file.read_text()))
            found += [f"{file.relative_to(root)}:{line}" for line in sleeps.found]
    assert not found, "wait for a condition, a signal or virtual time:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("code", "waits"),
    [
        ("import time\ntime.sleep(1)", True),
        ("async def f():\n    await asyncio.sleep(0.1)", True),
        ("async def f():\n    await asyncio.sleep(0)", False),
        ("@workflow.defn\nasync def f():\n    await asyncio.sleep(60)", False),
        ("@workflow.defn\nclass W:\n    async def f(self):\n        await asyncio.sleep(60)", False),
    ],
)
def test_the_search_for_sleeps(code: str, waits: bool) -> None:
    sleeps = _Sleeps(virtual=False)
    sleeps.visit(ast.parse(code))
    assert bool(sleeps.found) is waits


def test_exclusions_carry_their_reason(project_files: list[Path], root: Path) -> None:
    """Where a checker looks: tests are not type-checked, and call things wrongly on purpose."""
    bare = re.compile(r"#\s*(?:type: ignore|noqa|pyright: ignore)(?:\[[\w, -]+\]|:\s*[A-Z0-9, ]+)?\s*$")
    files = [file for file in project_files if file.suffix == ".py" and not file.is_relative_to(root / "tests")]
    assert not hits(bare, files, root)
