"""A function fits a screen, a file a sitting."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

FILE_LINES = 600
TEST_FILE_LINES = 1000
FUNCTION_LINES = 70


def python_files(files: list[Path]) -> list[Path]:
    return [file for file in files if file.suffix == ".py"]


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_files_are_short(project_files: list[Path], root: Path) -> None:
    long: list[str] = []
    for file in python_files(project_files):
        lines = len(file.read_text().splitlines())
        limit = TEST_FILE_LINES if file.is_relative_to(root / "tests") else FILE_LINES
        if lines > limit:
            long.append(f"{file.relative_to(root)}: {lines} lines, at most {limit}")
    assert not long, "\n".join(long)


def test_functions_are_short(project_files: list[Path], root: Path) -> None:
    long: list[str] = []
    for file in python_files(project_files):
        for function in functions(ast.parse(file.read_text())):
            lines = (function.end_lineno or function.lineno) - function.lineno + 1
            if lines > FUNCTION_LINES:
                long.append(f"{file.relative_to(root)}:{function.lineno} {function.name}: {lines} lines")
    assert not long, f"at most {FUNCTION_LINES} lines a function:\n" + "\n".join(long)


def test_lines_of_other_files_are_not_endless(project_files: list[Path], root: Path) -> None:
    wide = [
        f"{file.relative_to(root)}:{number}"
        for file in project_files
        if file.suffix in {".sql", ".toml"} or file.name == "Makefile"
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if len(line) > 200 and not line.startswith(("select =", "source_modules", "forbidden_modules"))
    ]
    assert not wide, "\n".join(wide)
