"""The frames in which Perdure's processes exchange calls: over the socket beside a database file, and with a server
over a stream of gRPC. Pure: bytes in, frames out.

A frame is its head (the length of its content, the number of the call it belongs to, its kind) and its content. Calls
are numbered by who makes them; their answers come in any order.

    either side   GREETING   JSON: what speaks, and which version of these frames
    client        CALL       how long the caller waits (milliseconds, 0 = as long as it takes), the length of the
                             method's name, the name, the request's bytes
    client        CANCEL     nothing: the caller has gone
    server        ANSWER     the response's bytes
    server        REFUSAL    a ``google.rpc.Status``
    server        GONE       nothing: the engine is being stopped, ask the next owner

The greeting comes first on both sides. What is not understood ends the connection, and so does a frame that is longer
than `MAX_CONTENT_BYTES`.
"""

from __future__ import annotations

import json
from enum import IntEnum
from struct import Struct
from typing import Any, Final, NamedTuple, cast

__all__ = [
    "MAX_CONTENT_BYTES",
    "VERSION",
    "Call",
    "Frame",
    "FrameError",
    "FrameReader",
    "Kind",
    "call",
    "frame",
    "greeting",
    "read_greeting",
]

VERSION: Final = 1
MAX_CONTENT_BYTES: Final = 64 * 1024 * 1024

_HEAD: Final = Struct(">IIB")
_CALL_HEAD: Final = Struct(">IB")
_MAX_TIMEOUT_MS: Final = 0xFFFF_FFFF


class Kind(IntEnum):
    """What a frame is."""

    GREETING = 0
    CALL = 1
    CANCEL = 2
    ANSWER = 3
    REFUSAL = 4
    GONE = 5


class FrameError(Exception):
    """The other side does not speak this language."""


class Frame(NamedTuple):
    """One frame.

    Attributes:
        kind: a `Kind`, or a number this version does not know.
        call: the call's number; 0 in a greeting.
        content: see the module.
    """

    kind: int
    call: int
    content: bytes


class Call(NamedTuple):
    """What a CALL frame holds.

    Attributes:
        method: the RPC's name, e.g. ``PollActivityTaskQueue``.
        request: its serialized message.
        timeout_s: how long the caller waits; None = as long as it takes.
    """

    method: str
    request: bytes
    timeout_s: float | None

    @classmethod
    def of(cls, content: bytes) -> Call:
        """Read a CALL frame's content. Raises FrameError."""
        if len(content) < _CALL_HEAD.size:
            raise FrameError("a call without a head")
        timeout_ms, name_bytes = _CALL_HEAD.unpack_from(content)
        name_ends = _CALL_HEAD.size + name_bytes
        name = content[_CALL_HEAD.size : name_ends]
        if len(name) < name_bytes or not name.isascii():
            raise FrameError("a call without a method")
        return cls(name.decode("ascii"), content[name_ends:], timeout_ms / 1000 if timeout_ms else None)


def frame(kind: Kind, call_number: int, content: bytes = b"") -> bytes:
    """A frame's bytes."""
    return _HEAD.pack(len(content), call_number, kind) + content


def call(call_number: int, method: bytes, request: bytes, timeout_s: float | None) -> bytes:
    """A CALL frame's bytes."""
    timeout_ms = 0 if timeout_s is None else min(max(1, int(timeout_s * 1000)), _MAX_TIMEOUT_MS)
    length = _CALL_HEAD.size + len(method) + len(request)
    return b"".join(
        (_HEAD.pack(length, call_number, Kind.CALL), _CALL_HEAD.pack(timeout_ms, len(method)), method, request)
    )


def greeting(**about: Any) -> bytes:
    """A GREETING frame's bytes."""
    return frame(Kind.GREETING, 0, json.dumps({"version": VERSION, **about}).encode())


def read_greeting(received: Frame) -> dict[str, Any]:
    """What a greeting says. Raises FrameError: it is none, or of another version."""
    if received.kind != Kind.GREETING:
        raise FrameError("it does not greet")
    try:
        about: Any = json.loads(received.content)
    except ValueError as error:
        raise FrameError("its greeting cannot be read") from error
    if not isinstance(about, dict):
        raise FrameError("its greeting cannot be read")
    said = cast("dict[str, Any]", about)
    if said.get("version") != VERSION:
        raise FrameError("it is of another version of Perdure")
    return said


class FrameReader:
    """Cuts a stream of bytes into frames.

    Args:
        max_bytes: longest content of a frame.
    """

    def __init__(self, max_bytes: int = MAX_CONTENT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._parts: list[bytes] = []
        self._held = 0
        self._wanted = _HEAD.size

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are complete with these bytes.

        Raises:
            FrameError: a frame is too long. Nothing more can be read.
        """
        if self._parts:
            self._parts.append(data)
            self._held += len(data)
            if self._held < self._wanted:
                return []
            data = b"".join(self._parts)
            self._parts.clear()
        frames: list[Frame] = []
        at, end = 0, len(data)
        self._wanted = _HEAD.size
        while end - at >= _HEAD.size:
            length, number, kind = _HEAD.unpack_from(data, at)
            if length > self._max_bytes:
                raise FrameError(f"a frame of {length} bytes is longer than {self._max_bytes}")
            ends = at + _HEAD.size + length
            if ends > end:
                self._wanted = _HEAD.size + length
                break
            frames.append(Frame(kind, number, data[at + _HEAD.size : ends]))
            at = ends
        if at < end:
            self._parts.append(data[at:])
            self._held = end - at
        return frames
