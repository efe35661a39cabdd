"""Updates: requests to a running workflow that it may check, carries out, and answers."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, Self, TypeVar, overload

from perdure.replay import context
from perdure.replay.unfinished import HandlerUnfinishedPolicy
from perdure.replay.updates import CURRENT_UPDATE, UpdateInfo
from perdure.workflow._definition import handler_decorator, names_around

__all__ = [
    "UpdateMethod",
    "current_update_info",
    "get_dynamic_update_handler",
    "get_update_handler",
    "set_dynamic_update_handler",
    "set_update_handler",
    "update",
]

_P = ParamSpec("_P")
_Q = ParamSpec("_Q")
_R = TypeVar("_R")
_R_co = TypeVar("_R_co", covariant=True)
_S = TypeVar("_S")

_WARN = HandlerUnfinishedPolicy.WARN_AND_ABANDON


class UpdateMethod(Protocol[_P, _R_co]):
    """What `update` makes of a function: the function itself, with `validator`."""

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R_co:
        """Call the handler."""
        ...

    @overload
    def __get__(self, instance: None, owner: type[Any]) -> Self: ...

    @overload
    def __get__(
        self: UpdateMethod[Concatenate[_S, _Q], _R], instance: _S, owner: type[_S] | None = None
    ) -> Callable[_Q, _R]: ...

    def validator(self, fn: Callable[_P, None]) -> Callable[_P, None]:
        """Decorate a plain function of the same parameters, which raises if the update is to be rejected."""
        ...


@overload
def update(fn: Callable[_P, Coroutine[Any, Any, _R]], /) -> UpdateMethod[_P, Coroutine[Any, Any, _R]]: ...


@overload
def update(fn: Callable[_P, _R], /) -> UpdateMethod[_P, _R]: ...


@overload
def update(
    *,
    name: str | None = None,
    dynamic: bool = False,
    unfinished_policy: HandlerUnfinishedPolicy = _WARN,
    description: str = "",
) -> Callable[[Callable[_P, _R]], UpdateMethod[_P, _R]]: ...


def update(
    fn: Any = None,
    /,
    *,
    name: str | None = None,
    dynamic: bool = False,
    unfinished_policy: HandlerUnfinishedPolicy = _WARN,
    description: str = "",
) -> Any:
    """Mark an update handler, sync or async: it may do what the run method may, and its result is the caller's.

    A validator may refuse the update before anything is recorded:

        @workflow.update
        async def set_address(self, address: Address) -> Quote:
            self.address = address
            return await quote(address)

        @set_address.validator
        def check_address(self, address: Address) -> None:
            if self.shipped:
                raise ValueError("it is on its way")

    An error of the handler fails the update, not the workflow. On a function nested in a running workflow function the
    handler is set at once, as with `signal`; a caller may be early, so set it before the first ``await``.

    Args:
        fn: the function, when the decorator is used without parentheses.
        name: the update's name; the function's when None.
        dynamic: handle every update nobody else handles; the function takes the name and a sequence of `RawValue`.
        unfinished_policy: what happens if the workflow closes while the handler is under way.
        description: one line for people.
    """
    return handler_decorator("update", fn, name, dynamic, description, names_around(), unfinished_policy)


def current_update_info() -> UpdateInfo | None:
    """The update whose handler or validator calls this; None in other code."""
    context.must_be()
    return CURRENT_UPDATE.get()


def get_update_handler(name: str) -> Callable[..., Any] | None:
    """The handler of an update, if one is set for exactly this name."""
    return context.must_be().need_updates().get(name)


def set_update_handler(
    name: str, handler: Callable[..., Any] | None, *, validator: Callable[..., Any] | None = None
) -> None:
    """Set or remove (None) the handler of an update.

    Args:
        name: the update's.
        handler: sync or async.
        validator: raises if the update is to be rejected; takes what the handler takes.
    """
    _set(name, handler, validator)


def get_dynamic_update_handler() -> Callable[..., Any] | None:
    """The handler of all updates nobody else handles."""
    return context.must_be().need_updates().get(None)


def set_dynamic_update_handler(
    handler: Callable[..., Any] | None, *, validator: Callable[..., Any] | None = None
) -> None:
    """Set or remove the handler of all other updates; it takes the name and a sequence of `RawValue`."""
    _set(None, handler, validator)


def _set(name: str | None, handler: Callable[..., Any] | None, validator: Callable[..., Any] | None) -> None:
    runtime = context.must_be()
    runtime.check_writable("set update handlers")
    runtime.need_updates().set(name, handler, validator)
