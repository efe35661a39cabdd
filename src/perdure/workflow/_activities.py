"""Activities as workflow code starts them by name or by reference."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeVar, Unpack, cast, overload

from perdure.activity import Activity
from perdure.activity.definition import OptionValues
from perdure.exceptions import DefinitionError
from perdure.replay import context
from perdure.replay.calls import ActivityHandle
from perdure.replay.checks import check_name
from perdure.replay.definition import UNSET, arguments, describe_callable
from perdure.replay.ports import ActivityOptions

__all__ = [
    "ActivityConfig",
    "execute_activity",
    "execute_activity_method",
    "start_activity",
    "start_activity_method",
]

_P = TypeVar("_P")
_R = TypeVar("_R")

ActivityConfig = OptionValues
"""Options of `start_activity` and `execute_activity`."""

_NO_DEFAULTS = ActivityOptions()


@lru_cache(maxsize=1024)
def _options(defaults: ActivityOptions, changes: tuple[tuple[str, Any], ...]) -> ActivityOptions:
    # Equal calls share one object, whose encoded form is kept.
    return replace(defaults, **dict(changes))


def _start(activity: Any, args: Sequence[Any], result_type: Any, changes: dict[str, Any]) -> ActivityHandle[Any]:
    runtime = context.must_be()
    if isinstance(activity, str):
        check_name(activity, "the activity's name")
        options = _options(_NO_DEFAULTS, tuple(changes.items())) if changes else _NO_DEFAULTS
        return runtime.start_activity(activity, args, options, result_type=result_type)
    if not isinstance(activity, Activity):
        what = describe_callable(activity) if callable(activity) else repr(activity)
        raise DefinitionError(f"{what} is not an activity: decorate it with @activity.defn, or give its name")
    known = cast("Activity[Any, Any]", activity)
    if known.name is None:
        raise DefinitionError(f"{describe_callable(known.fn)} is a dynamic activity: give the name to run it under")
    signature = known.signature
    signature.check(args, f"activity {known.name}")
    options = _options(known.defaults, tuple(changes.items())) if changes else known.defaults
    return runtime.start_activity(
        known.name,
        args,
        options,
        arg_types=signature.arg_types,
        result_type=result_type if result_type is not None else signature.return_type,
    )


@overload
def start_activity(
    activity: Callable[[], Awaitable[_R]], *, result_type: None = None, **options: Unpack[OptionValues]
) -> ActivityHandle[_R]: ...


@overload
def start_activity(
    activity: Callable[[_P], Awaitable[_R]], arg: _P, *, result_type: None = None, **options: Unpack[OptionValues]
) -> ActivityHandle[_R]: ...


@overload
def start_activity(
    activity: Callable[..., Awaitable[_R]],
    *,
    args: Sequence[Any],
    result_type: None = None,
    **options: Unpack[OptionValues],
) -> ActivityHandle[_R]: ...


@overload
def start_activity(
    activity: str,
    arg: Any = ...,
    *,
    args: Sequence[Any] | None = None,
    result_type: type[_R],
    **options: Unpack[OptionValues],
) -> ActivityHandle[_R]: ...


@overload
def start_activity(
    activity: str,
    arg: Any = ...,
    *,
    args: Sequence[Any] | None = None,
    result_type: None = None,
    **options: Unpack[OptionValues],
) -> ActivityHandle[Any]: ...


def start_activity(
    activity: Any,
    arg: Any = UNSET,
    *,
    args: Sequence[Any] | None = None,
    result_type: Any = None,
    **options: Unpack[OptionValues],
) -> ActivityHandle[Any]:
    """Schedule an activity and go on; awaiting the handle gives the result.

    Args:
        activity: the decorated activity, or its name.
        arg: its only argument.
        args: its arguments, if there are several.
        result_type: what the result is, when the activity is given by name.
        options: timeouts, retry policy and so on; they replace those of the activity's decorator.

    Returns:
        A handle that is a future: await it, `cancel()` it, put it into `asyncio.gather` or `asyncio.wait`.

    Raises:
        ConversionError: an argument cannot be serialised or is of the wrong type.
        ValueError: neither `start_to_close_timeout` nor `schedule_to_close_timeout` is given.
    """
    return _start(activity, arguments(arg, args), result_type, cast("dict[str, Any]", options))


@overload
async def execute_activity(
    activity: Callable[[], Awaitable[_R]], *, result_type: None = None, **options: Unpack[OptionValues]
) -> _R: ...


@overload
async def execute_activity(
    activity: Callable[[_P], Awaitable[_R]], arg: _P, *, result_type: None = None, **options: Unpack[OptionValues]
) -> _R: ...


@overload
async def execute_activity(
    activity: Callable[..., Awaitable[_R]],
    *,
    args: Sequence[Any],
    result_type: None = None,
    **options: Unpack[OptionValues],
) -> _R: ...


@overload
async def execute_activity(
    activity: str,
    arg: Any = ...,
    *,
    args: Sequence[Any] | None = None,
    result_type: type[_R],
    **options: Unpack[OptionValues],
) -> _R: ...


@overload
async def execute_activity(
    activity: str,
    arg: Any = ...,
    *,
    args: Sequence[Any] | None = None,
    result_type: None = None,
    **options: Unpack[OptionValues],
) -> Any: ...


async def execute_activity(
    activity: Any,
    arg: Any = UNSET,
    *,
    args: Sequence[Any] | None = None,
    result_type: Any = None,
    **options: Unpack[OptionValues],
) -> Any:
    """Schedule an activity and wait for its result; see `start_activity`.

    Raises:
        ActivityError: it failed for good; the reason is the error's ``cause``.
    """
    return await _start(activity, arguments(arg, args), result_type, cast("dict[str, Any]", options))


@overload
def start_activity_method(
    activity: Callable[[Any], Awaitable[_R]], **options: Unpack[OptionValues]
) -> ActivityHandle[_R]: ...


@overload
def start_activity_method(
    activity: Callable[[Any, _P], Awaitable[_R]], arg: _P, **options: Unpack[OptionValues]
) -> ActivityHandle[_R]: ...


@overload
def start_activity_method(
    activity: Callable[..., Awaitable[_R]], *, args: Sequence[Any], **options: Unpack[OptionValues]
) -> ActivityHandle[_R]: ...


def start_activity_method(
    activity: Any, arg: Any = UNSET, *, args: Sequence[Any] | None = None, **options: Unpack[OptionValues]
) -> ActivityHandle[Any]:
    """As `start_activity`, for an activity that is a method, named through its class: ``Payments.charge``."""
    return _start(activity, arguments(arg, args), None, cast("dict[str, Any]", options))


@overload
async def execute_activity_method(activity: Callable[[Any], Awaitable[_R]], **options: Unpack[OptionValues]) -> _R: ...


@overload
async def execute_activity_method(
    activity: Callable[[Any, _P], Awaitable[_R]], arg: _P, **options: Unpack[OptionValues]
) -> _R: ...


@overload
async def execute_activity_method(
    activity: Callable[..., Awaitable[_R]], *, args: Sequence[Any], **options: Unpack[OptionValues]
) -> _R: ...


async def execute_activity_method(
    activity: Any, arg: Any = UNSET, *, args: Sequence[Any] | None = None, **options: Unpack[OptionValues]
) -> Any:
    """As `execute_activity`, for an activity that is a method, named through its class."""
    return await _start(activity, arguments(arg, args), None, cast("dict[str, Any]", options))
