"""Decoding into hints msgspec refuses: unions whose members look alike in JSON (`Card | Iban`, `datetime | str`).

`compile_converter(hint, hook)` gives a function from plain JSON values to the hint's type. It walks dataclasses,
TypedDicts, NamedTuples and containers until it meets a union, and tries the union's members in the order written;
among members that are objects, one whose fields all appear wins over one that would ignore keys. Everything below
that msgspec can do is left to msgspec.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, TypedDict, Union, cast, get_args, get_origin, get_type_hints, is_typeddict

import msgspec

__all__ = ["compile_converter"]

Convert = Callable[[Any], Any]
Hook = Callable[[Any, Any], Any]

_ARRAYS: dict[object, Callable[[Any], Any]] = {
    list: list,
    set: set,
    frozenset: frozenset,
    collections.abc.Sequence: list,
    collections.abc.MutableSequence: list,
    collections.abc.Collection: list,
    collections.abc.Iterable: list,
    collections.abc.Set: set,
    collections.abc.MutableSet: set,
}
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


@dataclasses.dataclass(frozen=True, slots=True)
class _Fields:
    """The keys an object of some class may and must have."""

    known: frozenset[str]
    required: frozenset[str]


def compile_converter(hint: Any, hook: Hook) -> Convert:
    """A function turning plain JSON values into `hint`; it raises ValueError or msgspec.ValidationError."""
    return _Compiler(hook).of(hint)


class _Compiler:
    def __init__(self, hook: Hook) -> None:
        self._hook = hook
        self._done: dict[Any, Convert] = {}

    def of(self, hint: Any) -> Convert:
        """The converter of one hint; recursive types meet their own, still unfinished, converter."""
        if hint in self._done:
            return self._done[hint]
        # A placeholder for types that contain themselves; replaced below before anything runs.
        self._done[hint] = lambda value: self._done[hint](value)
        self._done[hint] = self._build(hint)
        return self._done[hint]

    def _build(self, hint: Any) -> Convert:
        if _msgspec_takes(hint):
            return lambda value: msgspec.convert(value, hint, dec_hook=self._hook, str_keys=True)
        origin: Any = get_origin(hint)
        args = get_args(hint)
        if origin is Annotated:
            return self.of(args[0])
        if origin is Union or isinstance(hint, types.UnionType):
            return self._union(args, hint)
        if origin in _ARRAYS:
            return self._array(_ARRAYS[origin], self.of(args[0]))
        if origin is tuple:
            return self._tuple(args)
        if origin in _MAPPINGS:
            return self._mapping(self.of(args[0]), self.of(args[1]))
        if dataclasses.is_dataclass(hint):
            return self._object(hint, _dataclass_fields(hint))
        if is_typeddict(hint):
            keys = cast("type[TypedDict]", hint)  # pyright: ignore[reportInvalidTypeForm] - checked above
            known = frozenset(keys.__annotations__)
            return self._object(hint, _Fields(known, keys.__required_keys__), make=dict)
        if isinstance(hint, type) and hasattr(cast("Any", hint), "_fields"):
            return self._tuple(tuple(get_type_hints(hint).values()), cast("Any", hint)._make)
        raise TypeError(f"JSON cannot be read as {hint}; use a dataclass, a pydantic model or a standard type")

    def _union(self, members: tuple[Any, ...], hint: Any) -> Convert:
        converters = [(self.of(member), _fields_of(member)) for member in members]

        def convert(value: Any) -> Any:
            keys = frozenset(cast("dict[str, Any]", value)) if isinstance(value, dict) else None
            # Stable sort: the written order decides among equals.
            ranked = converters if keys is None else sorted(converters, key=lambda member: _misfit(member[1], keys))
            reasons: list[str] = []
            for converter, _ in ranked:
                try:
                    return converter(value)
                except Exception as error:
                    reasons.append(str(error))
            raise ValueError(f"expected {hint}, got {_json_kind(value)} ({'; '.join(reasons)})")

        return convert

    def _array(self, make: Callable[[Any], Any], item: Convert) -> Convert:
        def convert(value: Any) -> Any:
            return make([item(element) for element in _expect(value, list)])

        return convert

    def _tuple(self, args: tuple[Any, ...], make: Callable[[Any], Any] = tuple) -> Convert:
        if len(args) == 2 and args[1] is Ellipsis:
            return self._array(tuple, self.of(args[0]))
        items = [self.of(arg) for arg in args]

        def convert(value: Any) -> Any:
            elements = _expect(value, list)
            if len(elements) != len(items):
                raise ValueError(f"expected an array of {len(items)} elements, got {len(elements)}")
            return make([item(element) for item, element in zip(items, elements, strict=True)])

        return convert

    def _mapping(self, key: Convert, item: Convert) -> Convert:
        def convert(value: Any) -> Any:
            return {key(name): item(element) for name, element in _expect(value, dict).items()}

        return convert

    def _object(self, cls: Any, fields: _Fields, make: Callable[..., Any] | None = None) -> Convert:
        hints = get_type_hints(cls, include_extras=True)
        converters = {name: self.of(_without_qualifiers(hints[name])) for name in fields.known}
        build: Callable[..., Any] = make or cls

        def convert(value: Any) -> Any:
            given = _expect(value, dict)
            missing = fields.required - given.keys()
            if missing:
                raise ValueError(f"{cls.__qualname__} lacks {', '.join(sorted(missing))}")
            return build(
                **{name: convert_field(given[name]) for name, convert_field in converters.items() if name in given}
            )

        return convert


def _msgspec_takes(hint: Any) -> bool:
    try:
        msgspec.json.Decoder(hint)
    except (TypeError, RecursionError):
        return False
    return True


def _dataclass_fields(cls: Any) -> _Fields:
    fields = [field for field in dataclasses.fields(cls) if field.init]
    required = [f for f in fields if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    return _Fields(frozenset(f.name for f in fields), frozenset(f.name for f in required))


def _fields_of(member: Any) -> _Fields | None:
    if dataclasses.is_dataclass(member):
        return _dataclass_fields(member)
    if is_typeddict(member):
        return _Fields(frozenset(member.__annotations__), frozenset(member.__required_keys__))
    if isinstance(member, type) and hasattr(member, "model_fields"):
        models: dict[str, Any] = cast("Any", member).model_fields
        required = [name for name, field in models.items() if field.is_required()]
        return _Fields(frozenset(models), frozenset(required))
    return None


def _misfit(fields: _Fields | None, keys: frozenset[str]) -> tuple[int, int]:
    """How badly an object with `keys` fits: first keys the class would ignore, then required ones it lacks."""
    if fields is None:
        return (0, 0)
    return (len(keys - fields.known), len(fields.required - keys))


def _without_qualifiers(hint: Any) -> Any:
    """The hint inside TypedDict's Required[] and NotRequired[]."""
    if get_origin(hint) in (typing.Required, typing.NotRequired):
        return get_args(hint)[0]
    return hint


def _expect(value: Any, kind: type[Any]) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"expected {'array' if kind is list else 'object'}, got {_json_kind(value)}")
    return value


def _json_kind(value: Any) -> str:
    if value is None:
        return "null"
    return {"dict": "object", "list": "array"}.get(type(value).__name__, type(value).__name__)
