"""The decorators: `defn`, `run`, `init`, `signal`, `query`; `update` stands with the rest of updates."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar, cast, overload

from perdure.exceptions import DefinitionError
from perdure.replay import context
from perdure.replay.definition import (
    HANDLER_ATTRIBUTE,
    REGISTRY,
    WORKFLOW_ATTRIBUTE,
    HandlerDefinition,
    Signature,
    WorkflowDefinition,
    describe_callable,
)
from perdure.replay.runtime import WorkflowRuntime
from perdure.replay.unfinished import HandlerUnfinishedPolicy
from perdure.replay.updates import check_validator

__all__ = ["defn", "handler_decorator", "init", "names_around", "query", "run", "signal"]

_T = TypeVar("_T", bound="type[Any] | Callable[..., Coroutine[Any, Any, Any]]")
_F = TypeVar("_F", bound=Callable[..., Any])
_A = TypeVar("_A", bound=Callable[..., Coroutine[Any, Any, Any]])

_RUN = "__perdure_run__"
_INIT = "__perdure_init__"


@overload
def defn(target: _T, /) -> _T: ...


@overload
def defn(
    *,
    name: str | None = None,
    dynamic: bool = False,
    sandboxed: bool = True,
    failure_exception_types: Sequence[type[BaseException]] = (),
) -> Callable[[_T], _T]: ...


def defn(
    target: Any = None,
    /,
    *,
    name: str | None = None,
    dynamic: bool = False,
    sandboxed: bool = True,
    failure_exception_types: Sequence[type[BaseException]] = (),
) -> Any:
    """Make a workflow of a class with a `@workflow.run` method, or of an async function.

        @workflow.defn
        async def order(item: Item) -> Receipt: ...

    Args:
        target: the class or function, when the decorator is used without parentheses.
        name: the workflow type; the class's or function's name when None.
        dynamic: run every workflow type that no other definition of the worker has.
        sandboxed: accepted for code written for Temporal's SDK; the determinism guard needs no sandbox.
        failure_exception_types: errors that fail the workflow although they would only fail its task by default.

    Raises:
        DefinitionError: what is decorated cannot be a workflow; the message says why.
    """
    del sandboxed
    names = names_around()

    def decorate(decorated: Any) -> Any:
        if dynamic and name is not None:
            raise DefinitionError("a dynamic workflow has no name of its own: leave out name or dynamic")
        if WorkflowDefinition.of(decorated) is not None:
            raise DefinitionError(f"{describe_callable(decorated)} is decorated with @workflow.defn twice")
        own_name = None if dynamic else name or decorated.__name__
        types = tuple(failure_exception_types)
        if isinstance(decorated, type):
            definition = _of_class(decorated, own_name, types, names)
            setattr(definition.run, WORKFLOW_ATTRIBUTE, definition)
        else:
            definition = _of_function(decorated, own_name, types, names)
        setattr(cast("Any", decorated), WORKFLOW_ATTRIBUTE, definition)
        REGISTRY.add(definition)
        return cast("Any", decorated)

    return decorate if target is None else decorate(target)


def run(fn: _A) -> _A:
    """Mark the method that is the workflow: an async method with positional parameters."""
    if not inspect.iscoroutinefunction(fn):
        raise DefinitionError(f"@workflow.run needs an async method; {describe_callable(fn)} is not async")
    setattr(fn, _RUN, True)
    return fn


def init(fn: _F) -> _F:
    """Mark ``__init__`` as taking the workflow's arguments, the same as the run method."""
    if fn.__name__ != "__init__":
        raise DefinitionError("@workflow.init goes on __init__ only")
    setattr(fn, _INIT, True)
    return fn


@overload
def signal(fn: _F, /) -> _F: ...


@overload
def signal(
    *,
    name: str | None = None,
    dynamic: bool = False,
    unfinished_policy: HandlerUnfinishedPolicy = HandlerUnfinishedPolicy.WARN_AND_ABANDON,
    description: str = "",
) -> Callable[[_F], _F]: ...


def signal(
    fn: Any = None,
    /,
    *,
    name: str | None = None,
    dynamic: bool = False,
    unfinished_policy: HandlerUnfinishedPolicy = HandlerUnfinishedPolicy.WARN_AND_ABANDON,
    description: str = "",
) -> Any:
    """Mark a signal handler, sync or async.

    On a method of a workflow class it handles that workflow's signals. On a function nested in a running workflow
    function it is set at once:

        @workflow.defn
        async def approval(request: Request) -> bool:
            answers: list[bool] = []

            @workflow.signal
            def answer(yes: bool) -> None:
                answers.append(yes)

            await workflow.wait_condition(lambda: bool(answers))
            return answers[0]

    Args:
        fn: the function, when the decorator is used without parentheses.
        name: the signal's name; the function's when None.
        dynamic: handle every signal nobody else handles; the function takes the name and a sequence of `RawValue`.
        unfinished_policy: what happens if the workflow closes while the handler is under way.
        description: one line for people.
    """
    return handler_decorator("signal", fn, name, dynamic, description, names_around(), unfinished_policy)


@overload
def query(fn: _F, /) -> _F: ...


@overload
def query(*, name: str | None = None, dynamic: bool = False, description: str = "") -> Callable[[_F], _F]: ...


def query(fn: Any = None, /, *, name: str | None = None, dynamic: bool = False, description: str = "") -> Any:
    """Mark a query handler: a plain function that changes nothing. Otherwise as `signal`."""
    return handler_decorator("query", fn, name, dynamic, description, names_around())


def handler_decorator(
    kind: str,
    fn: Any,
    name: str | None,
    dynamic: bool,
    description: str,
    names: Mapping[str, Any] | None,
    unfinished_policy: HandlerUnfinishedPolicy = HandlerUnfinishedPolicy.WARN_AND_ABANDON,
) -> Any:
    """The decorator of a kind of handler, applied to `fn` unless that is None; `names` are those it stands among."""

    def decorate(decorated: Any) -> Any:
        what = f"@workflow.{kind} on {describe_callable(decorated)}"
        if dynamic and name is not None:
            raise DefinitionError(f"{what}: a dynamic handler has no name")
        if kind == "query" and inspect.iscoroutinefunction(decorated):
            raise DefinitionError(f"{what}: a query handler may not be async, it has to answer at once")
        own_name = None if dynamic else name or decorated.__name__
        runtime = context.current()
        if runtime is not None and "<locals>" in decorated.__qualname__ and not _takes_self(decorated):
            return _set_at_once(runtime, kind, own_name, decorated)
        signature = Signature(decorated, skip=1, names=names)
        if dynamic and (signature.minimum, signature.maximum) != (2, 2):
            raise DefinitionError(f"{what}: a dynamic handler takes the name and a sequence of RawValue")
        signature.resolve_early()
        definition = HandlerDefinition(
            kind=kind,
            name=own_name,
            fn=decorated,
            signature=signature,
            description=description,
            unfinished_policy=unfinished_policy,
        )
        setattr(decorated, HANDLER_ATTRIBUTE, definition)
        if kind == "update":
            decorated.validator = partial(_set_validator, decorated, definition)
        return decorated

    return decorate if fn is None else decorate(fn)


def _set_at_once(runtime: WorkflowRuntime, kind: str, name: str | None, decorated: Any) -> Any:
    """A handler decorated by a running workflow function."""
    runtime.check_writable(f"set {kind} handlers")
    if kind == "signal":
        runtime.handlers.set_signal(name, decorated)
    elif kind == "query":
        runtime.handlers.set_query(name, decorated)
    else:
        updates = runtime.need_updates()
        updates.set(name, decorated)

        def validator(fn: Any) -> Any:
            updates.set_validator(name, fn)
            return fn

        decorated.validator = validator
    return decorated


def _set_validator(decorated: Any, definition: HandlerDefinition, validator: Any) -> Any:
    check_validator(validator)
    own = Signature(validator, skip=1)
    wanted = (definition.signature.minimum, definition.signature.maximum)
    if (own.minimum, own.maximum) != wanted:
        raise DefinitionError(
            f"{describe_callable(validator)} validates the update {definition.name or 'of any name'}, so it takes the "
            "parameters of its handler"
        )
    setattr(decorated, HANDLER_ATTRIBUTE, replace(definition, validator=validator))
    return validator


def _takes_self(fn: Any) -> bool:
    return next(iter(inspect.signature(fn).parameters), "") == "self"


def names_around() -> Mapping[str, Any] | None:
    """Names visible where the decorator stands, if that is inside a function or class."""
    frame = sys._getframe(2)
    if frame.f_locals is frame.f_globals:
        return None
    names: dict[str, Any] = {}
    outer = frame.f_back
    if outer is not None and outer.f_globals is frame.f_globals and outer.f_locals is not outer.f_globals:
        names.update(outer.f_locals)
    names.update(frame.f_locals)
    return names


def _of_function(
    fn: Any, name: str | None, failure_types: tuple[type[BaseException], ...], names: Mapping[str, Any] | None
) -> WorkflowDefinition:
    if not inspect.iscoroutinefunction(fn):
        raise DefinitionError(f"@workflow.defn needs a class or an async function; {describe_callable(fn)} is neither")
    signature = Signature(fn, names=names)
    signature.resolve_early()
    return WorkflowDefinition(
        name=name, target=fn, run=fn, cls=None, signature=signature, failure_exception_types=failure_types
    )


def _of_class(
    cls: type[Any], name: str | None, failure_types: tuple[type[BaseException], ...], names: Mapping[str, Any] | None
) -> WorkflowDefinition:
    run_fn: Any = None
    handlers: dict[str, dict[str | None, HandlerDefinition]] = {"signal": {}, "query": {}, "update": {}}
    for attribute, member in inspect.getmembers(cls):
        if getattr(member, _RUN, False):
            run_fn = _the_run_method(cls, run_fn, member)
        handler = HandlerDefinition.of(member)
        if handler is None:
            _check_override(cls, attribute, member)
            continue
        table = handlers[handler.kind]
        if handler.name in table:
            what = f"{handler.kind} {handler.name!r}" if handler.name is not None else f"dynamic {handler.kind}"
            raise DefinitionError(f"{cls.__qualname__} has two handlers of {what}")
        table[handler.name] = handler
    if run_fn is None:
        raise DefinitionError(
            f"{cls.__qualname__} has no run method of its own: decorate one of its async methods with @workflow.run"
        )
    signature = Signature(run_fn, skip=1, names=names)
    signature.resolve_early()
    takes_args = bool(getattr(cls.__init__, _INIT, False))
    if takes_args:
        _check_init(cls, signature)
    return WorkflowDefinition(
        name=name,
        target=cls,
        run=run_fn,
        cls=cls,
        signature=signature,
        init_takes_args=takes_args,
        signals=handlers["signal"],
        queries=handlers["query"],
        updates=handlers["update"],
        failure_exception_types=failure_types,
    )


def _the_run_method(cls: type[Any], found: Any, member: Any) -> Any:
    if member.__name__ not in cls.__dict__:
        raise DefinitionError(
            f"the run method of {cls.__qualname__} is inherited: override it in the class and decorate it there"
        )
    if found is not None:
        raise DefinitionError(f"{cls.__qualname__} has two run methods: {found.__name__} and {member.__name__}")
    return member


def _check_override(cls: type[Any], attribute: str, member: Any) -> None:
    """Refuse a method that silently replaces a decorated one of a base class."""
    if not callable(member) or attribute.startswith("__"):
        return
    for base in cls.__mro__[1:]:
        inherited = base.__dict__.get(attribute)
        if inherited is None:
            continue
        if HandlerDefinition.of(inherited) is not None or getattr(inherited, _RUN, False):
            if member is not inherited and not getattr(member, _RUN, False):
                raise DefinitionError(
                    f"{cls.__qualname__}.{attribute} overrides a decorated method of {base.__qualname__}: "
                    "decorate it the same way"
                )
        return


def _check_init(cls: type[Any], signature: Signature) -> None:
    own = Signature(cls.__init__, skip=1)
    if (own.minimum, own.maximum) != (signature.minimum, signature.maximum):
        raise DefinitionError(
            f"{cls.__qualname__}.__init__ is decorated with @workflow.init, so it takes the run method's parameters"
        )
