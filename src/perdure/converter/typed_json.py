"""Typed JSON: values to UTF-8 JSON bytes and back into what a type hint says.

msgspec does the work in C and strictly: dataclasses, enums, dates and times, UUID, Decimal, tuples, sets, TypedDict,
NamedTuple and typed containers of all these. Around it this module adds what Temporal's users expect and msgspec
refuses: pydantic models (recognised by their own methods, so pydantic is never imported here) and unions msgspec
cannot tell apart (`perdure.converter.unions`). It also refuses what msgspec would silently change: NaN and the
infinities, which JSON cannot say, would come out as ``null``.

Invariant: `decode(encode(value), hint)` either returns a value of the hint's type or raises `JsonError`; no input,
however malformed or deep, raises anything else. Decoders are compiled once for each hint and kept in a bounded cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Never, NoReturn, cast

import msgspec

from perdure.converter.unions import compile_converter

__all__ = ["JsonError", "decode", "encode", "hint_name", "is_model"]

_MAX_CACHED_DECODERS = 4096


class JsonError(ValueError):
    """A value cannot become JSON, or JSON cannot become the type asked for. The message says where and why."""


def is_model(cls: object) -> bool:
    """Whether `cls` is a pydantic model class."""
    return isinstance(cls, type) and hasattr(cls, "__pydantic_validator__") and hasattr(cls, "model_validate")


def _encode_other(value: Any) -> Any:
    """msgspec's hook for types it does not know."""
    cls = cast("type[Any]", type(value))
    if is_model(cls):
        return value.model_dump(mode="json", by_alias=True)
    if hasattr(cls, "__await__"):
        raise NotImplementedError(f"a {hint_name(cls)} has to be awaited first")
    raise NotImplementedError(f"values of type {hint_name(cls)} cannot become JSON")


def _decode_other(hint: Any, value: Any) -> Any:
    """msgspec's hook for hints it does not know; `value` is plain JSON."""
    if hint is object:
        return value
    if is_model(hint):
        return hint.model_validate(value)
    if isinstance(hint, type) and not getattr(hint, "_is_protocol", False) and isinstance(value, hint):
        return value
    raise ValueError(
        f"JSON cannot be read as {hint_name(hint)}; use a dataclass, a pydantic model, a standard type, or a "
        "payload converter of your own"
    )


_encoder = msgspec.json.Encoder(enc_hook=_encode_other)
_plain_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
_decoders: dict[object, Callable[[bytes], Any]] = {}


def encode(value: object) -> bytes:
    """`value` as UTF-8 JSON.

    Raises:
        JsonError: it holds something JSON cannot say (an unknown type, NaN, lone surrogates, endless depth).
    """
    try:
        data = _encoder.encode(value)
        # msgspec writes NaN as null, so only output with a null in it can hide one.
        if b"null" in data:
            _refuse_non_finite(msgspec.to_builtins(value, enc_hook=_encode_other), "")
    except RecursionError:
        raise JsonError("it is nested too deeply for JSON, or contains itself") from None
    except UnicodeEncodeError as error:
        raise JsonError(f"it holds text that is not valid Unicode ({error.reason})") from None
    except JsonError:
        raise
    except Exception as error:
        raise JsonError(str(error) or type(error).__name__) from error
    return data


def _refuse_non_finite(value: object, path: str) -> None:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise JsonError(f"it holds {value} at ${path}, which JSON cannot say; use None or a string")
    elif isinstance(value, Mapping):
        for key, item in cast("Mapping[Any, Any]", value).items():
            _refuse_non_finite(item, f"{path}.{key}")
    elif isinstance(value, (list, tuple, set, frozenset)):
        for index, item in enumerate(cast("list[Any]", value)):
            _refuse_non_finite(item, f"{path}[{index}]")


def decode(data: bytes, hint: object = Any) -> Any:
    """The value of JSON bytes, as `hint` (any type hint; Any for plain JSON values).

    Raises:
        JsonError: malformed, not UTF-8, too deep, or not what the hint says.
    """
    try:
        try:
            decoder = _decoders[hint]
        except (KeyError, TypeError):
            decoder = _decoder_of(hint)
        return decoder(data)
    except RecursionError:
        raise JsonError("the JSON is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise JsonError(f"the JSON is not valid UTF-8 at byte {error.start}") from None
    except msgspec.ValidationError as error:
        raise JsonError(_lower_first(str(error))) from error
    except msgspec.DecodeError as error:
        raise JsonError(_lower_first(str(error))) from error
    except JsonError:
        raise
    except Exception as error:
        # Constructors and validators of users' own types (pydantic, __post_init__) raise what they like.
        raise JsonError(f"{type(error).__name__}: {error}") from error


def _decoder_of(hint: object) -> Callable[[bytes], Any]:
    decoder = _compile(hint)
    if len(_decoders) >= _MAX_CACHED_DECODERS:
        _decoders.clear()
    with suppress(TypeError):  # A hint that cannot be hashed, such as Annotated with a list: compiled each time.
        _decoders[hint] = decoder
    return decoder


def _compile(hint: object) -> Callable[[bytes], Any]:
    if hint is Any or hint is object or hint is NoReturn or hint is Never:
        return _plain_decoder.decode
    try:
        return msgspec.json.Decoder(cast("type[Any]", hint), dec_hook=_decode_other).decode
    except (TypeError, RecursionError):
        pass
    convert = compile_converter(hint, _decode_other)

    def decode_and_convert(data: bytes) -> Any:
        return convert(_plain_decoder.decode(data))

    return decode_and_convert


def hint_name(hint: object) -> str:
    """A hint as a reader would write it: `Order`, `list[Order]`, `str | None`."""
    if hint is None or hint is type(None):
        return "None"
    if isinstance(hint, type) and not hasattr(hint, "__args__"):
        return hint.__qualname__
    return str(hint).replace("typing.", "").replace("collections.abc.", "")


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
