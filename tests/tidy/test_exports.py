"""Public names: every public module says what it exports, and the SDK's exports are pinned."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

PINS = Path(__file__).with_name("exports.txt")
PINNED = [
    "perdure",
    "perdure.workflow",
    "perdure.activity",
    "perdure.client",
    "perdure.worker",
    "perdure.common",
    "perdure.exceptions",
    "perdure.converter",
    "perdure.testing",
    "perdure.api",
    "perdure.engine",
]


def pins() -> dict[str, list[str]]:
    """Module → names, from lines ``module name``."""
    found: dict[str, list[str]] = {}
    for line in PINS.read_text().splitlines():
        if line and not line.startswith("#"):
            module, name = line.split()
            found.setdefault(module, []).append(name)
    return found


@pytest.mark.parametrize("module", PINNED)
def test_exports_are_pinned(module: str) -> None:
    """A name added or removed on purpose goes into exports.txt and the change log."""
    exported = importlib.import_module(module).__all__
    assert sorted(exported) == sorted(pins().get(module, []))
    assert len(set(exported)) == len(exported)


@pytest.mark.parametrize("module", PINNED)
def test_exports_exist(module: str) -> None:
    loaded = importlib.import_module(module)
    assert not [name for name in loaded.__all__ if not hasattr(loaded, name)]


def has_all(tree: ast.Module) -> bool:
    return any("__all__" in map(ast.unparse, node.targets) for node in tree.body if isinstance(node, ast.Assign))


def test_every_module_says_what_it_exports(project_files: list[Path], root: Path) -> None:
    """A module, or the package it stands behind, has an ``__all__``."""
    silent: list[str] = []
    for file in project_files:
        if file.suffix != ".py" or not file.is_relative_to(root / "src"):
            continue
        tree = ast.parse(file.read_text())
        public = any(
            isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_")
            for node in tree.body
        )
        if public and not has_all(tree) and not has_all(ast.parse((file.parent / "__init__.py").read_text())):
            silent.append(str(file.relative_to(root)))
    assert not silent, "\n".join(silent)


def test_every_module_has_a_docstring(project_files: list[Path], root: Path) -> None:
    bare = [
        str(file.relative_to(root))
        for file in project_files
        if file.suffix == ".py" and file.is_relative_to(root / "src") and file.read_text().strip()
        if not ast.get_docstring(ast.parse(file.read_text()))
    ]
    assert not bare, "\n".join(bare)
