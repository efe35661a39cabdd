"""The command line finds every command where it is."""

from __future__ import annotations

from importlib import import_module

import pytest
from typer.main import get_command, get_group

from perdure.cli.main import COMMANDS, app


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_found(name: str) -> None:
    group = get_command(app)
    context = group.make_context("perdure", [name], resilient_parsing=True)
    assert group.get_command(context, name) is not None  # type: ignore[attr-defined]


def test_every_command_of_a_module_is_listed() -> None:
    for module in set(COMMANDS.values()):
        group = get_group(import_module(module).app)
        listed = {name for name, home in COMMANDS.items() if home == module}
        assert listed == set(group.commands) or listed == {group.name}, module


def test_an_unknown_command_is_none() -> None:
    group = get_command(app)
    context = group.make_context("perdure", ["no-such"], resilient_parsing=True)
    assert group.get_command(context, "no-such") is None  # type: ignore[attr-defined]
