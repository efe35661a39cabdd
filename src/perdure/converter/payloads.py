"""Values to payloads and back.

A payload is bytes with an ``encoding`` in its metadata. `PayloadConverter` holds a chain of encodings; the first that
accepts a value's type writes it, and the encoding's name finds the one that reads it. The default chain writes what
Temporal's SDKs write: ``binary/null`` (None), ``binary/plain`` (bytes), ``json/protobuf`` (protobuf messages) and
``json/plain`` (everything else); it also reads ``binary/protobuf``.

Reading is typed by the reader's hint. A value that does not fit raises `ConversionError`, with the argument's name
where the caller gave one. The bytes decide nothing else: no class is looked up by a name found in data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, get_args

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message

from perdure.api import messages as m
from perdure.api.wire import sized, varint
from perdure.common import RawValue
from perdure.converter import typed_json
from perdure.converter.typed_json import hint_name
from perdure.exceptions import ConversionError

__all__ = [
    "BinaryNullEncoding",
    "BinaryPlainEncoding",
    "BinaryProtobufEncoding",
    "Encoding",
    "JsonPlainEncoding",
    "JsonProtobufEncoding",
    "PayloadConverter",
]

_MAX_CACHED_TYPES = 4096


class Encoding(Protocol):
    """One way of writing values as bytes.

    `to_payload` and `from_payload` raise ValueError (or a subclass) for a value or payload they cannot convert.
    """

    name: str
    """What stands in the payload's ``encoding`` metadata."""

    def accepts(self, cls: type[Any]) -> bool:
        """Whether values of exactly this class are written by this encoding."""
        ...

    def to_payload(self, value: Any) -> m.Payload: ...

    def from_payload(self, payload: m.Payload, hint: Any) -> Any: ...


class BinaryNullEncoding:
    """None, as a payload without data."""

    name = "binary/null"

    def __init__(self) -> None:
        self._payload = m.Payload(metadata={"encoding": b"binary/null"})

    def accepts(self, cls: type[Any]) -> bool:
        return cls is type(None)

    def to_payload(self, value: Any) -> m.Payload:
        payload = m.Payload()
        payload.CopyFrom(self._payload)
        return payload

    def from_payload(self, payload: m.Payload, hint: Any) -> Any:
        return None if hint is Any else typed_json.decode(b"null", hint)


class BinaryPlainEncoding:
    """bytes, as they are."""

    name = "binary/plain"

    def accepts(self, cls: type[Any]) -> bool:
        return cls is bytes or cls is bytearray or cls is memoryview

    def to_payload(self, value: Any) -> m.Payload:
        return m.Payload(metadata={"encoding": b"binary/plain"}, data=bytes(value))

    def from_payload(self, payload: m.Payload, hint: Any) -> Any:
        if hint is bytearray:
            return bytearray(payload.data)
        if hint is Any or hint is object or hint is bytes or bytes in get_args(hint):
            return payload.data
        raise ValueError(f"expected {hint_name(hint)}, got bytes")


class _ProtobufEncoding:
    """What both protobuf encodings share: messages know their own type, the reader's hint says which is expected."""

    name: str

    def accepts(self, cls: type[Any]) -> bool:
        return issubclass(cls, Message)

    def _empty(self, payload: m.Payload, hint: Any) -> Message:
        written = payload.metadata.get("messageType", b"").decode("utf-8", "replace")
        for candidate in (hint, *get_args(hint)):
            if isinstance(candidate, type) and issubclass(candidate, Message):
                if not written or candidate.DESCRIPTOR.full_name == written:
                    return candidate()
        raise ValueError(
            f"expected {hint_name(hint)}, got the protobuf message {written or '(unnamed)'}; "
            "annotate the argument or result with the message's class"
        )


class JsonProtobufEncoding(_ProtobufEncoding):
    """Protobuf messages in protobuf's JSON form."""

    name = "json/protobuf"

    def to_payload(self, value: Any) -> m.Payload:
        text = json_format.MessageToJson(value, indent=None, sort_keys=True)
        metadata = {"encoding": b"json/protobuf", "messageType": value.DESCRIPTOR.full_name.encode()}
        return m.Payload(metadata=metadata, data=text.encode())

    def from_payload(self, payload: m.Payload, hint: Any) -> Any:
        message = self._empty(payload, hint)
        try:
            return json_format.Parse(payload.data, message, ignore_unknown_fields=True)
        except (json_format.ParseError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"malformed protobuf JSON: {error}") from error


class BinaryProtobufEncoding(_ProtobufEncoding):
    """Protobuf messages in their binary form. The default chain reads it and leaves writing to json/protobuf."""

    name = "binary/protobuf"

    def to_payload(self, value: Any) -> m.Payload:
        metadata = {"encoding": b"binary/protobuf", "messageType": value.DESCRIPTOR.full_name.encode()}
        return m.Payload(metadata=metadata, data=value.SerializeToString())

    def from_payload(self, payload: m.Payload, hint: Any) -> Any:
        message = self._empty(payload, hint)
        try:
            message.ParseFromString(payload.data)
        except DecodeError as error:
            raise ValueError(f"malformed protobuf bytes: {error}") from error
        return message


_JSON_HEAD = m.Payload(metadata={"encoding": b"json/plain"}).SerializeToString() + b"\x12"
"""The bytes of a json/plain payload up to its data, which is its last field."""

_JSON_HEADS = tuple(_JSON_HEAD + varint(size) for size in range(256))
"""The same with the size of the data."""

_JSON_HEAD_BYTES = len(_JSON_HEADS[0])
"""Of one of the first 128."""


def _json_payload(data: bytes) -> bytes:
    size = len(data)
    return _JSON_HEADS[size] + data if size < 256 else _JSON_HEAD + sized(data)


class JsonPlainEncoding:
    """Any value JSON can hold; see `perdure.converter.typed_json`."""

    name = "json/plain"

    def accepts(self, cls: type[Any]) -> bool:
        return True

    def to_payload(self, value: Any) -> m.Payload:
        return m.Payload.FromString(_json_payload(typed_json.encode(value)))

    def from_payload(self, payload: m.Payload, hint: Any) -> Any:
        return typed_json.decode(payload.data, hint)


def _default_encodings() -> tuple[Encoding, ...]:
    return (
        BinaryNullEncoding(),
        BinaryPlainEncoding(),
        JsonProtobufEncoding(),
        BinaryProtobufEncoding(),
        JsonPlainEncoding(),
    )


_SELF_EVIDENT = frozenset({str, int, bool, type(None), bytes})
"""Types whose exact instances are always what a hint of the same type asks for. (A float may be NaN.)"""


class PayloadConverter:
    """A chain of encodings: the first that accepts a value's type writes it.

    A hint is an evaluated annotation; None and Any mean that nothing is known. A hint given to `to_payload` checks the
    value: its bytes are read back as the reader would read them, so what would fail there fails here.

    Example::

        converter = PayloadConverter()
        payload = converter.to_payload(Order("o-1", 3))
        order = converter.from_payload(payload, Order)
    """

    def __init__(self, encodings: Sequence[Encoding] | None = None) -> None:
        """Make a converter from `encodings`, in order of preference; the default chain when None."""
        self.encodings = tuple(encodings) if encodings is not None else _default_encodings()
        self._readers = {encoding.name.encode(): encoding for encoding in self.encodings}
        self._reads_json = (
            type(self._readers.get(b"json/plain")) is JsonPlainEncoding
            and type(self).from_payload is PayloadConverter.from_payload
        )
        """Whether such payloads can be read as bytes, without a message."""
        self._writers: dict[type[Any], Encoding] = {}
        self._json_types: set[type[Any]] = set()
        """Types whose payloads can be written as bytes without a message."""

    def to_payload(self, value: Any, hint: Any = None) -> m.Payload:
        """One value as a payload.

        Raises:
            ConversionError: no encoding takes it, or it is not of the hinted type; the message says which part and why.
        """
        typed: object = value
        cls = type(typed)
        writer = self._writers.get(cls)
        try:
            if writer is None:
                if cls is RawValue:
                    return value.payload
                writer = self._find_writer(cls)
            payload = writer.to_payload(value)
        except ValueError as error:
            raise ConversionError(f"a {hint_name(cls)} cannot become a payload: {error}") from error
        if hint is None or hint is Any or (cls is hint and cls in _SELF_EVIDENT):
            return payload
        try:
            writer.from_payload(payload, hint)
        except ValueError as error:
            raise ConversionError(f"expected {hint_name(hint)}, got {hint_name(cls)}: {error}") from error
        return payload

    def to_payloads(self, values: Sequence[Any], hints: Sequence[Any] | None = None) -> m.Payloads:
        """Several values, each as a payload, checked against `hints` as far as they reach.

        Raises:
            ConversionError: as `to_payload`; the message names the argument's number.
        """
        return m.Payloads.FromString(self.to_payloads_bytes(values, hints))

    def to_payloads_bytes(self, values: Sequence[Any], hints: Sequence[Any] | None = None) -> bytes:
        """What `to_payloads` answers, as the bytes of that message; cheaper where it becomes part of another one."""
        known = len(hints) if hints is not None else 0
        parts: list[bytes] = []
        index = 0
        try:
            for value in values:
                payload = self.to_payload_bytes(value, hints[index] if hints is not None and index < known else None)
                parts += (b"\x0a", varint(len(payload)), payload)
                index += 1
        except ConversionError as error:
            raise ConversionError(f"argument {index + 1}: {error}") from error
        return b"".join(parts)

    def to_payload_bytes(self, value: Any, hint: Any = None) -> bytes:
        """What `to_payload` answers, as the bytes of that message."""
        typed: object = value
        cls = type(typed)
        if cls not in self._json_types:
            return self.to_payload(value, hint).SerializeToString()
        try:
            data = typed_json.encode(value)
        except ValueError as error:
            raise ConversionError(f"a {hint_name(cls)} cannot become a payload: {error}") from error
        if not (cls is hint and cls in _SELF_EVIDENT) and hint is not None and hint is not Any:
            try:
                typed_json.decode(data, hint)
            except ValueError as error:
                raise ConversionError(f"expected {hint_name(hint)}, got {hint_name(cls)}: {error}") from error
        size = len(data)
        return _JSON_HEADS[size] + data if size < 256 else _json_payload(data)

    def from_payload(self, payload: m.Payload, hint: Any = None) -> Any:
        """The value of a payload, of the hinted type; plain values without a hint, `RawValue` gives the payload.

        Raises:
            ConversionError: unknown encoding, malformed data, or not what the hint says.
        """
        if hint is RawValue:
            return RawValue(payload)
        encoding = payload.metadata.get("encoding", b"")
        reader = self._readers.get(encoding)
        if reader is None:
            raise ConversionError(self._unreadable(encoding))
        try:
            if type(reader) is JsonPlainEncoding:
                return typed_json.decode(payload.data, Any if hint is None else hint)
            return reader.from_payload(payload, Any if hint is None else hint)
        except ValueError as error:
            raise self._misfit(hint, error) from error

    def from_payload_bytes(self, data: bytes, hint: Any = None) -> Any:
        """What `from_payload` answers for a serialized payload; cheaper for small JSON."""
        size = len(data) - _JSON_HEAD_BYTES
        if 0 <= size < 128 and self._reads_json and data.startswith(_JSON_HEADS[size]) and hint is not RawValue:
            try:
                return typed_json.decode(data[_JSON_HEAD_BYTES:], Any if hint is None else hint)
            except ValueError as error:
                raise self._misfit(hint, error) from error
        return self.from_payload(m.Payload.FromString(data), hint)

    def _misfit(self, hint: Any, error: ValueError) -> ConversionError:
        expected = "a value" if hint is None else hint_name(hint)
        return ConversionError(f"a payload cannot be read as {expected}: {error}")

    def from_payloads(self, payloads: Sequence[m.Payload], hints: Sequence[Any] | None = None) -> list[Any]:
        """The values of several payloads, typed by `hints` as far as they reach.

        Raises:
            ConversionError: as `from_payload`; the message names the argument's number.
        """
        known = len(hints) if hints is not None else 0
        values: list[Any] = []
        for index, payload in enumerate(payloads):
            try:
                values.append(self.from_payload(payload, hints[index] if hints is not None and index < known else None))
            except ConversionError as error:
                raise ConversionError(f"argument {index + 1}: {error}") from error
        return values

    def _unreadable(self, encoding: bytes) -> str:
        known = ", ".join(sorted(name.decode() for name in self._readers))
        shown = encoding.decode("utf-8", "replace") or "(none)"
        return (
            f"a payload is encoded as {shown}, which this converter cannot read (it knows {known}); "
            "give the client and worker the converter or codec that wrote it"
        )

    def _find_writer(self, cls: type[Any]) -> Encoding:
        for encoding in self.encodings:
            if encoding.accepts(cls):
                if len(self._writers) >= _MAX_CACHED_TYPES:
                    self._writers.clear()
                    self._json_types.clear()
                self._writers[cls] = encoding
                if type(encoding) is JsonPlainEncoding and type(self).to_payload is PayloadConverter.to_payload:
                    self._json_types.add(cls)
                return encoding
        raise ValueError("no encoding of this converter takes it")
