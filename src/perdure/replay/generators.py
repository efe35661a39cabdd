"""Whose asynchronous generators are whose.

An asynchronous generator that is dropped half-way has to be closed by its loop: Python asks the hooks of the thread,
which belong to the loop that runs there for good, the worker's. A workflow's generators must not be closed by that
one. So the thread's hooks are replaced, once, by `GeneratorHooks`, which remembers which generators began inside a
workflow and passes all others on to the hooks it found.

A generator is known by its address, which is safe: every generator whose finalizer is ours has begun under our
`began`, so an address that is used again is judged anew. The set holds each address once, so it is bounded by the
number of generators alive at one time.
"""

from __future__ import annotations

import sys
from asyncio import events
from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeAlias

__all__ = ["GeneratorHooks", "hooks_of_thread"]

CloserOf: TypeAlias = Callable[[object], Callable[[AsyncGenerator[Any, Any]], None] | None]

_get_running_loop = events._get_running_loop


class GeneratorHooks:
    """A thread's hooks.

    Args:
        closer_of: how the running loop closes a workflow's generator; None for loops that are no workflow's.
        found: the hooks to pass other generators on to.
    """

    __slots__ = ("_closer_of", "_first", "_last", "_owned")

    def __init__(self, closer_of: CloserOf, found: Any) -> None:
        self._closer_of = closer_of
        self._first = found.firstiter
        self._last = found.finalizer
        self._owned: set[int] = set()

    def began(self, generator: AsyncGenerator[Any, Any]) -> None:
        """A generator is iterated for the first time."""
        if self._closer_of(_get_running_loop()) is not None:
            self._owned.add(id(generator))
            return
        self._owned.discard(id(generator))
        if self._first is not None:
            self._first(generator)

    def dropped(self, generator: AsyncGenerator[Any, Any]) -> None:
        """A generator is finalised before its end."""
        if id(generator) not in self._owned:
            if self._last is not None:
                self._last(generator)
            return
        self._owned.discard(id(generator))
        # Outside of its workflow's loop it must not come alive: whatever it still had to do is left undone.
        close = self._closer_of(_get_running_loop())
        if close is not None:
            close(generator)


def hooks_of_thread(closer_of: CloserOf) -> Any:
    """See to it that this thread's hooks know workflows.

    Returns:
        Hooks to put back when the workflow's loop stops; None if ours may stay, since a loop runs below it that will
        put back its own.
    """
    found = sys.get_asyncgen_hooks()
    if type(getattr(found.finalizer, "__self__", None)) is GeneratorHooks:
        return None
    hooks = GeneratorHooks(closer_of, found)
    sys.set_asyncgen_hooks(firstiter=hooks.began, finalizer=hooks.dropped)
    return None if _get_running_loop() is not None else found
