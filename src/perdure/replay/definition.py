"""What a decorator learns about a workflow or a handler, and where the rest of the SDK finds it.

`perdure.workflow`'s decorators build these values and attach them to the decorated objects under the two attribute
names below; clients and workers read them with `WorkflowDefinition.of` and `HandlerDefinition.of`. `REGISTRY` lists
every decorated workflow of the process, so that `perdure.open()` can serve them without being told.

Type hints are evaluated when they are first needed (a name may be defined later in its module), with the names
visible where the decorator stood, so that types local to a function work too.
"""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from perdure.exceptions import DefinitionError
from perdure.replay.checks import check_name
from perdure.replay.unfinished import HandlerUnfinishedPolicy

__all__ = [
    "HANDLER_ATTRIBUTE",
    "REGISTRY",
    "UNSET",
    "WORKFLOW_ATTRIBUTE",
    "HandlerDefinition",
    "Registry",
    "Signature",
    "WorkflowDefinition",
    "arguments",
    "describe_callable",
]

WORKFLOW_ATTRIBUTE = "__perdure_workflow__"
HANDLER_ATTRIBUTE = "__perdure_handler__"

UNSET: Any = object()
"""Stands for an argument that was not given."""

_EMPTY: Mapping[Any, Any] = MappingProxyType({})


class Signature:
    """Parameters and result of a callable, as far as payloads are concerned.

    Args:
        fn: the function.
        skip: leading parameters to leave out (1 for an unbound method's ``self``).
        names: names that annotations may use besides the module's, e.g. the locals around a decorator.

    Attributes:
        minimum: fewest positional arguments.
        maximum: most positional arguments; None = any number.
    """

    __slots__ = ("_fn", "_hints", "_names", "_skip", "maximum", "minimum")

    def __init__(self, fn: Callable[..., Any], *, skip: int = 0, names: Mapping[str, Any] | None = None) -> None:
        self._fn = fn
        self._skip = skip
        self._names = names
        self._hints: tuple[tuple[Any, ...], Any] | None = None
        minimum = 0
        maximum: int | None = 0
        for parameter in self._parameters():
            if parameter.kind is parameter.VAR_POSITIONAL:
                maximum = None
            elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                if maximum is not None:
                    maximum += 1
                if parameter.default is parameter.empty:
                    minimum += 1
            elif parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
                raise DefinitionError(
                    f"{describe_callable(fn)} has the keyword-only parameter {parameter.name!r} without a default: "
                    "arguments travel by position, so make it positional or give it a default"
                )
        self.minimum = minimum
        self.maximum = maximum

    @staticmethod
    def known(fn: Callable[..., Any]) -> Signature | None:
        """A function's signature; None for functions written in C that do not tell."""
        try:
            return Signature(fn)
        except ValueError:
            return None

    def _parameters(self) -> list[inspect.Parameter]:
        return list(inspect.signature(self._fn).parameters.values())[self._skip :]

    @property
    def arg_types(self) -> tuple[Any, ...]:
        """The positional parameters' types, in order; None where nothing is annotated.

        Raises:
            DefinitionError: an annotation names something that cannot be found.
        """
        return self.hints[0]

    @property
    def return_type(self) -> Any:
        """The result's type; None if nothing is annotated, ``type(None)`` for a function that returns nothing.

        Raises:
            DefinitionError: as for `arg_types`.
        """
        return self.hints[1]

    @property
    def hints(self) -> tuple[tuple[Any, ...], Any]:
        """`arg_types` and `return_type`.

        Raises:
            DefinitionError: as for `arg_types`.
        """
        return self._hints or self._resolve()

    def check(self, args: Sequence[Any], what: str) -> None:
        """Refuse a wrong number of arguments.

        Raises:
            TypeError: too few or too many; the message begins with `what`.
        """
        count = len(args)
        if count < self.minimum or (self.maximum is not None and count > self.maximum):
            if self.maximum is None:
                wanted = f"at least {self.minimum}"
            elif self.minimum == self.maximum:
                wanted = str(self.minimum)
            else:
                wanted = f"{self.minimum} to {self.maximum}"
            raise TypeError(f"{what} takes {wanted} argument{'' if wanted == '1' else 's'}, {count} given")

    def resolve_early(self) -> None:
        """Evaluate the hints now if every name is known, and let go of the names; otherwise they are kept."""
        try:
            self._resolve()
        except DefinitionError:
            return
        self._names = None

    def _resolve(self) -> tuple[tuple[Any, ...], Any]:
        try:
            hints = typing.get_type_hints(self._fn, localns=dict(self._names) if self._names else None)
        except Exception as error:
            raise DefinitionError(
                f"a type hint of {describe_callable(self._fn)} cannot be evaluated: {error}. "
                "Import or define the type at module level, not only under TYPE_CHECKING"
            ) from error
        types: list[Any] = []
        for parameter in self._parameters():
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                types.append(hints.get(parameter.name))
        self._hints = resolved = (tuple(types), hints.get("return"))
        return resolved


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerDefinition:
    """A signal, query or update handler.

    Attributes:
        kind: "signal", "query" or "update".
        name: what callers name it by; None = dynamic, answering every name no other handler has.
        fn: the function; for methods the unbound one.
        signature: its parameters without ``self`` and, if dynamic, without the leading handler name.
        description: one line for people.
        unfinished_policy: what happens if the workflow closes while it is under way.
        validator: for updates, a function that raises if the update is to be rejected.
    """

    kind: str
    name: str | None
    fn: Callable[..., Any]
    signature: Signature
    description: str = ""
    unfinished_policy: HandlerUnfinishedPolicy = HandlerUnfinishedPolicy.WARN_AND_ABANDON
    validator: Callable[..., Any] | None = None

    @staticmethod
    def of(target: object) -> HandlerDefinition | None:
        """The definition attached to a decorated handler function or (bound) method."""
        found = getattr(target, HANDLER_ATTRIBUTE, None)
        return found if isinstance(found, HandlerDefinition) else None

    @staticmethod
    def signal(target: str | Callable[..., Any], args: Sequence[Any]) -> tuple[str, Sequence[Any] | None]:
        """The name and argument types of a signal given by name or by its handler.

        Raises:
            DefinitionError: the target is no named signal.
            TypeError: it takes another number of arguments.
        """
        if isinstance(target, str):
            check_name(target, "the signal's name")
            return target, None
        found = HandlerDefinition.of(target)
        if found is None or found.kind != "signal" or found.name is None:
            raise DefinitionError(
                f"{describe_callable(target)} is not a named signal: decorate it with @workflow.signal, "
                "or give the signal's name"
            )
        found.signature.check(args, f"signal {found.name}")
        return found.name, found.signature.arg_types


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WorkflowDefinition:
    """A workflow: a class with a run method, or a plain async function.

    Attributes:
        name: the workflow type; None = dynamic, running every type no other definition has.
        target: the decorated class or function.
        run: the coroutine function; for classes the unbound method.
        cls: the class, None for a plain function.
        signature: parameters of `run` without ``self``; its result is the workflow's.
        init_takes_args: ``__init__`` receives the workflow's arguments (`@workflow.init`).
        signals: handlers by name; the key None is the dynamic handler.
        queries: likewise.
        updates: likewise.
        failure_exception_types: errors that fail the workflow even if they would fail only the task by default.
    """

    name: str | None
    target: Callable[..., Any]
    run: Callable[..., Any]
    cls: type | None
    signature: Signature
    init_takes_args: bool = False
    signals: Mapping[str | None, HandlerDefinition] = field(default_factory=lambda: _EMPTY)
    queries: Mapping[str | None, HandlerDefinition] = field(default_factory=lambda: _EMPTY)
    updates: Mapping[str | None, HandlerDefinition] = field(default_factory=lambda: _EMPTY)
    failure_exception_types: tuple[type[BaseException], ...] = ()

    @property
    def arg_types(self) -> tuple[Any, ...]:
        """Types of the workflow's arguments."""
        return self.signature.arg_types

    @property
    def return_type(self) -> Any:
        """Type of the workflow's result."""
        return self.signature.return_type

    @property
    def location(self) -> str:
        """Where it is written, for messages."""
        return describe_callable(self.run)

    @staticmethod
    def of(target: object) -> WorkflowDefinition | None:
        """The definition of a decorated class, of its run method, or of a decorated function.

        A subclass of a decorated class has none of its own until it is decorated too.
        """
        if isinstance(target, type):
            found = target.__dict__.get(WORKFLOW_ATTRIBUTE)
        else:
            found = getattr(target, WORKFLOW_ATTRIBUTE, None)
        return found if isinstance(found, WorkflowDefinition) else None

    @staticmethod
    def must_be(target: object) -> WorkflowDefinition:
        """As `of`.

        Raises:
            DefinitionError: the target is not a decorated workflow.
        """
        found = WorkflowDefinition.of(target)
        if found is None:
            what = describe_callable(target) if callable(target) else repr(target)
            raise DefinitionError(f"{what} is not a workflow: decorate the class or function with @workflow.defn")
        return found


class Registry:
    """Every workflow decorated in this process, in order of decoration.

    A definition replaces an earlier one of the same module and qualified name (a reloaded module).
    """

    __slots__ = ("_definitions",)

    def __init__(self) -> None:
        self._definitions: dict[tuple[str, str], WorkflowDefinition] = {}

    def add(self, definition: WorkflowDefinition) -> None:
        """List a definition."""
        target = definition.target
        self._definitions[(target.__module__, target.__qualname__)] = definition

    def workflows(self) -> list[WorkflowDefinition]:
        """All of them."""
        return list(self._definitions.values())


REGISTRY = Registry()


def arguments(arg: Any, args: Sequence[Any] | None) -> Sequence[Any]:
    """The arguments of a call that takes one as `arg` or several as `args`.

    Raises:
        TypeError: both are given.
    """
    if arg is UNSET:
        return () if args is None else args
    if args:
        raise TypeError("give either one argument or args=[…], not both")
    return (arg,)


def describe_callable(target: object) -> str:
    """A function's qualified name with file and line, for messages."""
    name = getattr(target, "__qualname__", None) or repr(target)
    code = getattr(inspect.unwrap(target) if callable(target) else target, "__code__", None)
    if code is None:
        module = sys.modules.get(getattr(target, "__module__", "") or "")
        return f"{name} ({getattr(module, '__file__', None) or 'unknown file'})"
    return f"{name} ({code.co_filename}:{code.co_firstlineno})"
