"""Runs a function as if the replay core did: guarded, and under a frame of `perdure.replay`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

import pytest

from perdure.replay import guard


def _activate(guard: Any, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    guard.enter()
    try:
        return function(*args)
    finally:
        guard.exit()


_as_replay = FunctionType(_activate.__code__, {"__name__": "perdure.replay.pretended", "__builtins__": __builtins__})


@pytest.fixture
def in_workflow() -> Iterator[Callable[..., Any]]:
    """``in_workflow(function, *args)`` runs the function as workflow code."""
    guard.install()
    guard.take_violation()
    yield lambda function, *args: _as_replay(guard, function, args)
    guard.take_violation()
    assert not guard._active
