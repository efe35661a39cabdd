"""Puts wrappers in front of the functions of `guard_rules.WRAPPED`, once for the whole process.

A wrapper asks one thing: does any thread run workflow code right now? The answer is a global dictionary's truth
value; if it is no, the real function is called and nothing else has happened. What to do about a yes is the guard's
business (`check`).

Wrapping is idempotent and repairs itself: a test library that put the original back (or a fake in front) finds its
function wrapped again at the next `apply`.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from perdure.replay.guard_rules import STATIC_ONLY, WRAPPED, Rule, Target

__all__ = ["apply", "harmless", "rules_by_callable"]

RULE_ATTRIBUTE = "__perdure_guard_rule__"

Active = dict[int, int]
Check = Callable[[Rule], None]


def apply(active: Active, check: Check) -> None:
    """Wrap whatever is not wrapped yet.

    Args:
        active: threads that run workflow code; empty = nothing to check.
        check: raises if this thread's workflow code is responsible for the call.
    """
    for target in WRAPPED:
        found = _locate(target.path, eager=target.eager)
        if found is None:
            continue
        owner, name, real = found
        if getattr(real, RULE_ATTRIBUTE, None) is not None:
            continue
        wrapper = _wrapper(real, target, active, check)
        if isinstance(owner, ModuleType):
            wrapper.__module__ = owner.__name__
        setattr(owner, name, wrapper)
        if owner is os:
            _keep_capabilities(real, wrapper)


def rules_by_callable() -> dict[object, Target]:
    """Every forbidden function that this process can name, by the function itself and by its wrapper."""
    known: dict[object, Target] = {}
    for target in (*STATIC_ONLY, *WRAPPED):
        found = _locate(target.path, eager=False)
        if found is not None:
            function = found[2]
            known[function] = target
            known[getattr(function, "__wrapped__", function)] = target
    return known


def harmless(target: Target, args: tuple[object, ...]) -> bool:
    """Whether these positional arguments make the call deterministic (``time.gmtime(0)``)."""
    index = target.harmless_with
    return index is not None and len(args) > index and args[index] is not None


def _locate(path: str, *, eager: bool) -> tuple[Any, str, Any] | None:
    """Owner, attribute name and value of a path; None if this Python (or process, unless eager) lacks it."""
    module, _, attributes = path.partition(":")
    owner: Any = importlib.import_module(module) if eager else sys.modules.get(module)
    names = attributes.split(".")
    for name in names[:-1]:
        owner = getattr(owner, name, None)
    value = getattr(owner, names[-1], None)
    return None if value is None else (owner, names[-1], value)


def _wrapper(real: Callable[..., Any], target: Target, active: Active, check: Check) -> Callable[..., Any]:
    rule = target.rule

    def bare() -> Any:
        if active:
            check(rule)
        return real()

    def guarded(*args: Any, **kwargs: Any) -> Any:
        if active:
            check(rule)
        return real(*args, **kwargs)

    def guarded_unless_harmless(*args: Any, **kwargs: Any) -> Any:
        if active and not kwargs and not harmless(target, args):
            check(rule)
        return real(*args, **kwargs)

    wrapper: Callable[..., Any]
    if target.bare:
        wrapper = bare
    elif target.harmless_with is None:
        wrapper = guarded
    else:
        wrapper = guarded_unless_harmless
    for name, value in _identity(real):
        setattr(wrapper, name, value)
    setattr(wrapper, RULE_ATTRIBUTE, rule)
    return wrapper


def _identity(real: Callable[..., Any]) -> Iterator[tuple[str, object]]:
    """What makes a wrapper look (and pickle) like the function it stands for."""
    yield "__wrapped__", real
    for name in ("__name__", "__qualname__", "__doc__", "__module__"):
        value = getattr(real, name, None)
        if isinstance(value, str):
            yield name, value


def _keep_capabilities(real: object, wrapper: object) -> None:
    """`os` says by sets of functions what each can do (``os.stat in os.supports_fd``); a wrapper can do the same."""
    for name in ("supports_dir_fd", "supports_effective_ids", "supports_fd", "supports_follow_symlinks"):
        functions: set[object] = getattr(os, name)
        if real in functions:
            functions.add(wrapper)
