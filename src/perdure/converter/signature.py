"""What a function takes and gives, read once from its annotations.

`Signature` binds a call's arguments to positions (payloads have no names), checks them against the hints, and decodes
them on the other side; errors name the argument.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_origin, get_type_hints

from perdure.api import messages as m
from perdure.exceptions import ConversionError
from perdure.replay.ports import PayloadConverter

__all__ = ["Parameter", "Signature", "signature_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One positional parameter."""

    name: str
    hint: Any
    required: bool
    default: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """A callable's parameters and result, as type hints.

    Attributes:
        name: how messages call it.
        parameters: the positional parameters.
        variadic: the hint of ``*args``; None when there is no such parameter.
        returns: the hint of the result (of the awaited result for coroutine functions); Any when not annotated.
    """

    name: str
    parameters: tuple[Parameter, ...]
    variadic: Any | None
    returns: Any
    call_signature: inspect.Signature

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> tuple[Any, ...]:
        """The positional arguments of a call.

        Raises:
            TypeError: too many, too few, or unknown arguments; the message is Python's own.
        """
        if not kwargs:
            count = len(args)
            if count == len(self.parameters):
                return args
            if count > len(self.parameters):
                if self.variadic is not None:
                    return args
            elif not self.parameters[count].required:
                return args
        try:
            bound = self.call_signature.bind(*args, **(kwargs or {}))
        except TypeError as error:
            raise TypeError(f"{self.name}: {error}") from None
        if bound.kwargs:
            named = ", ".join(bound.kwargs)
            raise TypeError(f"{self.name}: {named} can only be given by keyword, and arguments travel by position")
        bound.apply_defaults()
        return bound.args

    def hint_at(self, index: int) -> Any:
        """The hint of the argument at `index`; Any past the end."""
        if index < len(self.parameters):
            return self.parameters[index].hint
        return self.variadic if self.variadic is not None else Any

    def where(self, index: int) -> str:
        """How messages name the argument at `index`."""
        if index < len(self.parameters):
            return f"argument '{self.parameters[index].name}' of {self.name}"
        return f"argument {index + 1} of {self.name}"

    def encode(self, converter: PayloadConverter, args: Sequence[Any]) -> m.Payloads:
        """A call's bound arguments as payloads, each checked against its hint.

        Raises:
            ConversionError: an argument cannot be encoded or is not what the hint says.
        """
        payloads = m.Payloads()
        append = payloads.payloads.append
        for index, value in enumerate(args):
            try:
                append(converter.to_payload(value, self.hint_at(index)))
            except ConversionError as error:
                raise ConversionError(f"{self.where(index)}: {error}") from error
        return payloads

    def decode(self, converter: PayloadConverter, payloads: Sequence[m.Payload]) -> list[Any]:
        """The arguments a task carries, typed by the hints; extra ones (from a newer caller) are dropped.

        Raises:
            ConversionError: too few arguments, or one that does not fit its hint.
        """
        items = payloads
        parameters = self.parameters
        count = len(items)
        if count < len(parameters) and parameters[count].required:
            raise ConversionError(f"{self.where(count)} is missing: the call carries {count} arguments")
        if count > len(parameters) and self.variadic is None:
            items = items[: len(parameters)]
        values: list[Any] = []
        for index, payload in enumerate(items):
            try:
                values.append(converter.from_payload(payload, self.hint_at(index)))
            except ConversionError as error:
                raise ConversionError(f"{self.where(index)}: {error}") from error
        return values


def signature_of(fn: Callable[..., Any], *, name: str | None = None, skip_first: bool = False) -> Signature:
    """Read a callable's signature.

    Args:
        fn: a function, coroutine function, method or callable object.
        name: how messages call it; its own name when None.
        skip_first: leave out the first parameter (``self`` of an unbound method).

    Raises:
        TypeError: it has keyword-only parameters without a default, which no call over a task queue can give.
    """
    shown = name or getattr(fn, "__qualname__", type(fn).__name__)
    signature = inspect.signature(fn)
    hints = _hints_of(fn)
    parameters = list(signature.parameters.values())
    if skip_first:
        parameters = parameters[1:]
        signature = signature.replace(parameters=parameters)
    positional: list[Parameter] = []
    variadic: Any | None = None
    for parameter in parameters:
        hint = hints.get(parameter.name, Any)
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            required = parameter.default is parameter.empty
            default = None if required else parameter.default
            positional.append(Parameter(name=parameter.name, hint=hint, required=required, default=default))
        elif parameter.kind is parameter.VAR_POSITIONAL:
            variadic = hint
        elif parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
            raise TypeError(
                f"{shown} has the keyword-only parameter '{parameter.name}' without a default; arguments travel by "
                "position: make it positional or give it a default"
            )
    returns = hints.get("return", Any)
    if get_origin(returns) in (Awaitable, Coroutine):  # A plain function that returns an awaitable.
        returns = get_args(returns)[-1]
    return Signature(
        name=shown,
        parameters=tuple(positional),
        variadic=variadic,
        returns=returns,
        call_signature=signature,
    )


def _hints_of(fn: Callable[..., Any]) -> dict[str, Any]:
    """The hints of a callable; none where a name in them cannot be resolved (then values stay plain)."""
    target = fn if inspect.isroutine(fn) else type(fn).__call__
    try:
        return get_type_hints(inspect.unwrap(target), include_extras=True)
    except (NameError, AttributeError, TypeError):
        return {}
