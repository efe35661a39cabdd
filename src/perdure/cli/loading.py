"""Imports a workflow file by its path and finds the workflow that was asked for in it.

A file inside a package (a folder with ``__init__.py``) is imported under its dotted name, so that its relative
imports work; any other file under its own name, with its folder importable. Importing runs the file: that is what
the user asked for.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from perdure.cli.errors import CliError
from perdure.replay.definition import WorkflowDefinition

__all__ = ["import_file", "load_workflow"]


def load_workflow(target: str) -> WorkflowDefinition:
    """The workflow that ``FILE.py:name`` names; the name may be left out if the file has only one.

    Raises:
        CliError: no such file, it can't be imported, or it has no such workflow.
    """
    file, _, name = target.partition(":") if ".py:" in target else (target, "", "")
    module = import_file(Path(file))
    found = _workflows_of(module)
    if not found:
        raise CliError(f"{file} defines no workflow", "Decorate a class or an async function with @workflow.defn.")
    listed = ", ".join(found)
    if not name:
        if len(found) > 1:
            raise CliError(f"{file} defines several workflows: {listed}", f"Say which: {file}:{next(iter(found))}")
        return next(iter(found.values()))
    if name not in found:
        raise CliError(f"{file} has no workflow {name!r}", f"It has: {listed}.")
    return found[name]


def _workflows_of(module: ModuleType) -> dict[str, WorkflowDefinition]:
    """Workflows that a module defines itself, by their name in it."""
    targets: list[tuple[str, Callable[..., Any]]] = [
        (name, value) for name, value in vars(module).items() if callable(value)
    ]
    return {
        name: definition
        for name, value in targets
        if (definition := WorkflowDefinition.of(value)) is not None and definition.target.__module__ == module.__name__
    }


def import_file(file: Path) -> ModuleType:
    """Import a Python file.

    Raises:
        CliError: it is missing, is no Python file, fails while it is imported, or bears another module's name.
    """
    file = file.resolve()
    if not file.is_file():
        raise CliError(f"there is no file {file}", "Give the path of a Python file, and a workflow: FILE.py:name.")
    if file.suffix != ".py":
        raise CliError(f"{file} is not a Python file", "Give the path of a .py file, and a workflow: FILE.py:name.")
    names = [file.stem]
    folder = file.parent
    while (folder / "__init__.py").is_file():
        names.insert(0, folder.name)
        folder = folder.parent
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        module = importlib.import_module(".".join(names))
    except Exception as error:
        where = _last_line_in(error, file)
        raise CliError(f"{file} can't be imported: {type(error).__name__}: {error}", where) from error
    if module.__file__ is None or Path(module.__file__).resolve() != file:
        raise CliError(f"{file} has the name of another module, {module.__file__}", "Rename it.")
    return module


def _last_line_in(error: BaseException, file: Path) -> str:
    """Where in the user's file an import failed, if it did there."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f"See line {error.lineno} of {error.filename}."
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    return f"See line {lines[-1]} of {file}." if lines else ""
