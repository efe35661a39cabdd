"""Handlers set while the workflow runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from perdure.replay import context

__all__ = [
    "get_dynamic_query_handler",
    "get_dynamic_signal_handler",
    "get_query_handler",
    "get_signal_handler",
    "set_dynamic_query_handler",
    "set_dynamic_signal_handler",
    "set_query_handler",
    "set_signal_handler",
]


def get_signal_handler(name: str) -> Callable[..., Any] | None:
    """The handler of a signal, if one is set for exactly this name."""
    return context.must_be().handlers.get_signal(name)


def set_signal_handler(name: str, handler: Callable[..., Any] | None) -> None:
    """Set or remove (None) the handler of a signal; signals that have waited for it are delivered, in order."""
    context.must_be().handlers.set_signal(name, handler)


def get_dynamic_signal_handler() -> Callable[..., Any] | None:
    """The handler of all signals nobody else handles."""
    return context.must_be().handlers.get_signal(None)


def set_dynamic_signal_handler(handler: Callable[..., Any] | None) -> None:
    """Set or remove the handler of all other signals; it takes the name and a sequence of `RawValue`."""
    context.must_be().handlers.set_signal(None, handler)


def get_query_handler(name: str) -> Callable[..., Any] | None:
    """The handler of a query, if one is set for exactly this name."""
    return context.must_be().handlers.get_query(name)


def set_query_handler(name: str, handler: Callable[..., Any] | None) -> None:
    """Set or remove (None) the handler of a query."""
    context.must_be().handlers.set_query(name, handler)


def get_dynamic_query_handler() -> Callable[..., Any] | None:
    """The handler of all queries nobody else handles."""
    return context.must_be().handlers.get_query(None)


def set_dynamic_query_handler(handler: Callable[..., Any] | None) -> None:
    """Set or remove the handler of all other queries; it takes the name and a sequence of `RawValue`."""
    context.must_be().handlers.set_query(None, handler)
