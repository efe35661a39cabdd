"""What `@activity.defn` makes: an `Activity`, the function together with its name and options.

Calling an activity gives an awaitable of its result. In workflow code the call schedules it, with the options its
decorator holds; in any other coroutine it runs the function itself (a plain one on a thread). In plain synchronous
code, where nothing can be awaited, calling a plain function's activity simply calls the function. `fn` is always the
undecorated function.

`REGISTRY` lists every activity decorated in this process, so that `perdure.open()` can serve them without being told.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from datetime import timedelta
from types import FrameType
from typing import Any, Concatenate, Generic, Literal, ParamSpec, Protocol, TypedDict, TypeVar, Unpack, cast, overload

from perdure.common import Priority, RetryPolicy
from perdure.exceptions import ConversionError, DefinitionError
from perdure.replay import context
from perdure.replay.definition import Signature, describe_callable
from perdure.replay.ports import ActivityCancellationType, ActivityOptions

__all__ = ["REGISTRY", "Activity", "ActivityRegistry", "Executor", "OptionValues", "defn"]

P = ParamSpec("P")
P2 = ParamSpec("P2")
R = TypeVar("R")

Executor = Literal["thread", "process"]
"""Where the worker runs a plain function."""


class OptionValues(TypedDict, total=False):
    """The options a decorator or `Activity.options` takes, as in `workflow.execute_activity`."""

    task_queue: str | None
    schedule_to_close_timeout: timedelta | None
    schedule_to_start_timeout: timedelta | None
    start_to_close_timeout: timedelta | None
    heartbeat_timeout: timedelta | None
    retry_policy: RetryPolicy | None
    cancellation_type: ActivityCancellationType
    activity_id: str | None
    summary: str | None
    priority: Priority | None


class Activity(Generic[P, R]):
    """An activity: a function that touches the outside world, run by a worker and retried when it fails.

    Attributes:
        name: the activity type; None = dynamic, running every type no other activity of the worker has.
        fn: the function itself.
        signature: its parameters and result.
        defaults: how it is scheduled unless the call says otherwise.
        is_async: whether `fn` is a coroutine function.
        executor: where a plain function runs.
        cancel_by_exception: whether a cancelled plain function is interrupted in its thread.
    """

    def __init__(
        self,
        fn: Callable[P, Any],
        *,
        name: str | None,
        signature: Signature,
        defaults: ActivityOptions,
        executor: Executor = "thread",
        cancel_by_exception: bool = True,
        is_method: bool = False,
    ) -> None:
        self.fn = fn
        self.name = name
        self.signature = signature
        self.defaults = defaults
        self.executor: Executor = executor
        self.cancel_by_exception = cancel_by_exception
        self.is_async = inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(
            getattr(fn, "__call__", None)  # noqa: B004 - objects with an async __call__ count as coroutine functions
        )
        self.is_method = is_method
        self._hints: tuple[tuple[Any, ...], Any] | None = None
        self.shown_name = f"activity {name or describe_callable(fn)}"
        """What messages call it."""
        functools.update_wrapper(self, fn)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Schedule the activity (in workflow code) or run the function; awaiting gives the result.

        Raises:
            TypeError: too few or too many arguments.
            ConversionError: in workflow code, an argument is not what its hint says. No retry can help.
            ActivityError: in workflow code, when awaited: the activity failed for good; see its ``cause``.
        """
        runtime = context.current()
        if runtime is not None:
            if kwargs or len(args) != self.signature.maximum:
                args = cast("Any", self.bind(args, kwargs))
            call = self._execute(runtime, args)
            # What Python names when the call is not awaited.
            call.__qualname__ = self.shown_name
            return call
        if self.is_async or not _in_coroutine():
            return self.fn(*args, **kwargs)
        return asyncio.to_thread(self.fn, *args, **kwargs)

    async def _execute(self, runtime: context.ActivityStarter, args: tuple[Any, ...]) -> R:
        if self.name is None:
            raise DefinitionError(
                f"{describe_callable(self.fn)} is a dynamic activity: call it by a name of your choice with "
                "workflow.execute_activity('name', …)"
            )
        if self._hints is None:
            self._hints = self.signature.hints
        arg_types, return_type = self._hints
        try:
            scheduled = runtime.start_activity(
                self.name, args, self.defaults, arg_types=arg_types, result_type=return_type, is_awaited=True
            )
        except ConversionError as error:
            raise type(error)(f"activity {self.name}, {error}") from error
        return await scheduled

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """The call's arguments by position, as they travel.

        Raises:
            TypeError: they do not fit the function.
        """
        if not kwargs:
            self.signature.check(args, f"activity {self.__name__}")
            return args
        signature = inspect.signature(self.fn)
        if self.is_method:
            signature = signature.replace(parameters=list(signature.parameters.values())[1:])
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"activity {self.__name__}: {error}") from None
        by_keyword = [
            name
            for name, parameter in signature.parameters.items()
            if parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_KEYWORD) and name in bound.arguments
        ]
        if by_keyword:
            raise TypeError(
                f"activity {self.__name__}: {', '.join(by_keyword)} can be given by keyword only, and arguments "
                "travel by position"
            )
        bound.apply_defaults()
        return bound.args

    def options(self, **changes: Unpack[OptionValues]) -> Activity[P, R]:
        """The same activity with other options: ``await charge.options(start_to_close_timeout=…)(order)``."""
        return Activity(
            self.fn,
            name=self.name,
            signature=self.signature,
            defaults=replace(self.defaults, **changes),
            executor=self.executor,
            cancel_by_exception=self.cancel_by_exception,
            is_method=self.is_method,
        )

    @overload
    def __get__(self, instance: None, owner: type[Any]) -> Activity[P, R]: ...

    @overload
    def __get__(self: Activity[Concatenate[Any, P2], R], instance: object, owner: type[Any]) -> Activity[P2, R]: ...

    def __get__(self, instance: object, owner: type[Any]) -> Activity[Any, Any]:
        """Activities may be methods: through an instance they are bound to it."""
        if instance is None or not self.is_method:
            return self
        return Activity(
            cast("Callable[..., Any]", self.fn).__get__(instance, owner),  # pyright: ignore[reportFunctionMemberAccess] - functions are descriptors
            name=self.name,
            signature=self.signature,
            defaults=self.defaults,
            executor=self.executor,
            cancel_by_exception=self.cancel_by_exception,
        )

    def __repr__(self) -> str:
        return f"<activity {self.name or '(dynamic)'}: {describe_callable(self.fn)}>"

    @property
    def __name__(self) -> str:
        return self.name or getattr(self.fn, "__name__", type(self.fn).__name__)

    @__name__.setter
    def __name__(self, value: str) -> None:
        """Set by `functools.update_wrapper`; the name shown is the activity's."""


class ActivityRegistry:
    """Every activity decorated in this process, in order. Methods are left out: they need an instance.

    A definition replaces an earlier one of the same module and qualified name (a reloaded module).
    """

    def __init__(self) -> None:
        self._activities: dict[tuple[str, str], Activity[Any, Any]] = {}

    def add(self, activity: Activity[Any, Any]) -> None:
        """List an activity."""
        key = (activity.fn.__module__, activity.fn.__qualname__)
        self._activities.pop(key, None)
        self._activities[key] = activity

    def activities(self) -> list[Activity[Any, Any]]:
        """All of them."""
        return list(self._activities.values())


REGISTRY = ActivityRegistry()


class _Decorator(Protocol):
    @overload
    def __call__(self, fn: Callable[P, Awaitable[R]], /) -> Activity[P, R]: ...  # pyright: ignore[reportOverlappingOverload] - a coroutine function is a plain one too; the first match is meant

    @overload
    def __call__(self, fn: Callable[P, R], /) -> Activity[P, R]: ...


@overload
def defn(fn: Callable[P, Awaitable[R]], /) -> Activity[P, R]: ...  # pyright: ignore[reportOverlappingOverload] - as in _Decorator


@overload
def defn(fn: Callable[P, R], /) -> Activity[P, R]: ...


@overload
def defn(
    *,
    name: str | None = None,
    dynamic: bool = False,
    executor: Executor = "thread",
    no_thread_cancel_exception: bool = False,
    **options: Unpack[OptionValues],
) -> _Decorator: ...


def defn(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    dynamic: bool = False,
    executor: Executor = "thread",
    no_thread_cancel_exception: bool = False,
    **options: Unpack[OptionValues],
) -> Any:
    """Make an activity of a function, plain or async.

    Example::

        @activity.defn(start_to_close_timeout=timedelta(seconds=10), retry_policy=RetryPolicy(maximum_attempts=5))
        async def charge(order: Order) -> Receipt: ...

    Args:
        fn: the function, when the decorator is used without parentheses.
        name: the activity type; the function's name when None.
        dynamic: run every activity type that no other activity of the worker has; the function takes the arguments
            as a sequence of `RawValue`.
        executor: "thread" or "process": where the worker runs a plain function.
        no_thread_cancel_exception: do not interrupt a plain function's thread on cancellation; it finds out from
            `heartbeat` and `is_cancelled` only.
        options: timeouts, retry policy, task queue and so on, used by the direct call ``await charge(order)``.

    Raises:
        DefinitionError: the function cannot be an activity.
    """
    frame = sys._getframe(1)

    def decorate(target: Callable[..., Any]) -> Activity[..., Any]:
        return _define(
            target,
            frame,
            name=None if dynamic else name or getattr(target, "__name__", type(target).__name__),
            defaults=ActivityOptions(**options),
            executor=executor,
            cancel_by_exception=not no_thread_cancel_exception,
        )

    return decorate if fn is None else decorate(fn)


def _define(
    fn: Callable[..., Any],
    frame: FrameType,
    *,
    name: str | None,
    defaults: ActivityOptions,
    executor: Executor,
    cancel_by_exception: bool,
) -> Activity[..., Any]:
    if not callable(fn) or isinstance(fn, type):
        raise DefinitionError(f"{fn!r} is not a function: @activity.defn decorates functions, plain or async")
    if inspect.isasyncgenfunction(fn) or inspect.isgeneratorfunction(fn):
        raise DefinitionError(f"{describe_callable(fn)} is a generator: an activity returns its result")
    is_method = _is_method(fn)
    # Names local to the function around the decorator are visible to annotations too.
    names = frame.f_locals if frame.f_locals is not frame.f_globals else None
    signature = Signature(fn, skip=1 if is_method else 0, names=names)
    signature.resolve_early()
    activity: Activity[..., Any] = Activity(
        fn,
        name=name,
        signature=signature,
        defaults=defaults,
        executor=executor,
        cancel_by_exception=cancel_by_exception,
        is_method=is_method,
    )
    if executor == "process" and activity.is_async:
        raise DefinitionError(f"{describe_callable(fn)} is async: only plain functions run in processes")
    if not is_method and hasattr(fn, "__qualname__"):
        REGISTRY.add(activity)
    return activity


def _is_method(fn: Callable[..., Any]) -> bool:
    """Whether a function stands in a class body and takes ``self``."""
    scope = getattr(fn, "__qualname__", "").rpartition(".")[0]
    if not scope or scope.endswith("<locals>"):
        return False
    parameters = list(inspect.signature(fn).parameters)
    return bool(parameters) and parameters[0] == "self"


def _in_coroutine() -> bool:
    """Whether the caller runs on an event loop, so that it can await."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
