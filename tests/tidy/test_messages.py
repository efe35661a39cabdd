"""`perdure.api.messages` gathers packages; where names clash it says which one is meant."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

from perdure.api import messages


def imports() -> tuple[list[str], dict[str, str]]:
    """The packages gathered with a star, and the names imported one by one with their package."""
    tree = ast.parse(Path(messages.__file__).read_text())
    stars: list[str] = []
    chosen: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.names[0].name == "*":
                stars.append(node.module)
            else:
                chosen |= {alias.name: node.module for alias in node.names}
    return stars, chosen


def test_every_clash_is_decided() -> None:
    stars, chosen = imports()
    meanings: dict[str, set[object]] = {}
    for package in stars:
        module = importlib.import_module(package)
        for name in module.__all__:
            meanings.setdefault(name, set()).add(getattr(module, name))
    clashes = {name for name, values in meanings.items() if len(values) > 1}
    assert clashes == set(chosen)


def test_the_chosen_one_wins() -> None:
    for name, package in imports()[1].items():
        assert getattr(messages, name) is getattr(importlib.import_module(package), name)


def test_the_chosen_ones_are_what_requests_use() -> None:
    assert type(messages.StartWorkflowExecutionRequest().on_conflict_options) is messages.OnConflictOptions
    assert isinstance(messages.DescribeWorkflowExecutionResponse().callbacks.add(), messages.CallbackInfo)
