"""The front door's names: looked up when they are asked for, so that each command loads what it needs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import perdure


def loaded(code: str) -> set[str]:
    """The modules of ours that this code loads."""
    script = f"import sys; {code}; print(' '.join(name for name in sys.modules if name.startswith('perdure')))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_names_are_the_ones_behind_it() -> None:
    from perdure.app import open
    from perdure.client import Client

    assert perdure.open is open and perdure.Client is Client
    assert perdure.exceptions.ApplicationError.__name__ == "ApplicationError"
    assert {"open", "Client", "workflow"} <= set(dir(perdure))


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = perdure.no_such_name


def test_serving_loads_no_sdk() -> None:
    modules = loaded("import perdure.cli.main, perdure.cli.server")
    assert not {"perdure.client", "perdure.worker", "perdure.workflow", "perdure.replay", "perdure.app"} & modules


def test_running_loads_no_server() -> None:
    modules = loaded("import perdure.cli.main, perdure.cli.workflows, perdure.cli.demo.command")
    assert not any(name.startswith("perdure.server") for name in modules)
