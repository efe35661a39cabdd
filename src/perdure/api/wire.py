"""Fields of messages as protobuf writes them, for the few messages that are assembled, or taken apart, as bytes.

A field is its tag (``number << 3 | wire type``), for what has a length its length, and its content
(https://protobuf.dev/programming-guides/encoding/). Fields that are joined make a message; repeated ones merge.
Messages every step needs are made so, in half the time that building them costs: most of a message's cost is one
small call for each of its fields.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from google.protobuf.message import Message

__all__ = ["content", "rare_varint", "sized", "sized_tag", "text", "timestamp", "varint"]

_NUMBERS_KEPT: Final = 4096
_TEXTS_KEPT: Final = 4096
_INSTANTS_KEPT: Final = 256


def rare_varint(number: int) -> bytes:
    """A number as an int64: seven bits a byte, the low ones first."""
    if 0 <= number < 128:
        return bytes((number,))
    if 0 <= number < 1 << 21:
        if number < 1 << 14:
            return bytes((number & 127 | 128, number >> 7))
        return bytes((number & 127 | 128, number >> 7 & 127 | 128, number >> 14))
    number &= 0xFFFF_FFFF_FFFF_FFFF
    data = bytearray()
    while number > 127:
        data.append(number & 127 | 128)
        number >>= 7
    data.append(number)
    return bytes(data)


class _Varints(dict[int, bytes]):
    """Remembers small numbers: unlike a cache that orders what it holds by use, a hit costs one look and no writes."""

    def __missing__(self, number: int) -> bytes:
        data = rare_varint(number)
        if 0 <= number < _NUMBERS_KEPT:
            self[number] = data
        return data


varint = _Varints().__getitem__
"""The same, remembered: for numbers that come again, as ids and lengths do."""


def sized(data: bytes) -> bytes:
    """The content of a bytes or message field, with its length before it."""
    return varint(len(data)) + data


def sized_tag(message: type[Message], field: str) -> bytes:
    """The tag of a string, bytes or message field; its `sized` content follows."""
    return varint(message.DESCRIPTOR.fields_by_name[field].number << 3 | 2)


def content(data: bytes, at: int) -> tuple[int, int]:
    """Where the content begins and ends of a field with a length and a one-byte tag, which begins at `at`."""
    start = at + 2
    size = data[at + 1]
    if size < 128:
        return start, start + size
    size &= 127
    shift = 7
    while True:
        byte = data[start]
        start += 1
        size |= (byte & 127) << shift
        if byte < 128:
            return start, start + size
        shift += 7


@lru_cache(maxsize=_TEXTS_KEPT)
def text(tag: bytes, value: str) -> bytes:
    """A string field; nothing when it is empty."""
    return tag + sized(value.encode()) if value else b""


class _Nanos(dict[int, bytes]):
    """The field of a Timestamp for what is beyond its seconds, by milliseconds: a thousand of them at most."""

    def __missing__(self, ms: int) -> bytes:
        self[ms] = data = b"\x10" + rare_varint(ms * 1_000_000) if ms else b""
        return data


class _Seconds(dict[int, bytes]):
    """The other field; remembers the latest."""

    def __missing__(self, seconds: int) -> bytes:
        if len(self) >= _INSTANTS_KEPT:
            self.clear()
        self[seconds] = data = b"\x08" + rare_varint(seconds) if seconds else b""
        return data


_nanos = _Nanos()
_seconds = _Seconds()


class _Timestamps(dict[int, bytes]):
    """Remembers the latest instants."""

    def __missing__(self, at_ms: int) -> bytes:
        if len(self) >= _INSTANTS_KEPT:
            self.clear()
        data = _seconds[at_ms // 1000] + _nanos[at_ms % 1000]
        self[at_ms] = found = varint(len(data)) + data
        return found


timestamp = _Timestamps().__getitem__
"""The content of a Timestamp field, with its length before it, of an instant in epoch milliseconds."""
