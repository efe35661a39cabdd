"""Importing workflow files by path."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.cli.errors import CliError
from perdure.cli.loading import import_file, load_workflow
from perdure.replay.definition import REGISTRY

ONE = "from perdure import workflow\n\n@workflow.defn\nasync def {name}() -> None: ...\n"


@pytest.fixture(autouse=True)
def interpreter() -> Iterator[None]:
    """Modules, paths and registered workflows are as before when a test has ended."""
    path, modules, known = list(sys.path), set(sys.modules), dict(REGISTRY._definitions)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]
    REGISTRY._definitions.clear()
    REGISTRY._definitions.update(known)


def test_a_single_workflow_needs_no_name(tmp_path: Path) -> None:
    file = tmp_path / "loading_one.py"
    file.write_text(ONE.format(name="flow"))
    assert load_workflow(str(file)).name == "flow"
    assert load_workflow(f"{file}:flow").name == "flow"


def test_workflows_of_other_modules_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "loading_other.py").write_text(ONE.format(name="elsewhere"))
    file = tmp_path / "loading_two.py"
    file.write_text("from loading_other import elsewhere\n" + ONE.format(name="here"))
    assert load_workflow(str(file)).name == "here"


def test_relative_imports_work_in_a_package(tmp_path: Path) -> None:
    package = tmp_path / "loading_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "names.py").write_text("NAME = 'inside'\n")
    (package / "flow.py").write_text("from .names import NAME\n")
    module = import_file(package / "flow.py")
    assert module.__name__ == "loading_package.flow"
    assert module.NAME == "inside"


def test_a_file_without_workflows(tmp_path: Path) -> None:
    file = tmp_path / "loading_none.py"
    file.write_text("x = 1\n")
    with pytest.raises(CliError, match="defines no workflow"):
        load_workflow(str(file))


def test_a_syntax_error_names_its_line(tmp_path: Path) -> None:
    file = tmp_path / "loading_broken.py"
    file.write_text("x = 1\nif:\n")
    with pytest.raises(CliError, match="SyntaxError") as caught:
        load_workflow(str(file))
    assert "line 2" in caught.value.hint


def test_a_name_that_another_module_has_taken(tmp_path: Path) -> None:
    """`json.py` in the user's folder must not silently be the standard library's."""
    file = tmp_path / "json.py"
    file.write_text(ONE.format(name="flow"))
    with pytest.raises(CliError, match="another module"):
        load_workflow(str(file))
