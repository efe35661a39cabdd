"""Serialized histories as bytes that concatenate.

A ``History`` message has one repeated field, so its bytes are a run of frames: the tag byte 0x0A, a varint
length, one serialized ``HistoryEvent``. Joining the bytes of two histories gives the bytes of the joined
history (https://protobuf.dev/programming-guides/encoding/), so stored batches are never re-encoded.
"""

from __future__ import annotations

from collections.abc import Iterator

from temporalio.api.history.v1 import HistoryEvent

__all__ = ["frame", "frames_of"]


def frame(event: HistoryEvent) -> bytes:
    """One event as a frame of a serialized History."""
    body = event.SerializeToString()
    size = len(body)
    if size < 128:
        return b"\x0a" + size.to_bytes(1, "little") + body
    head = bytearray(b"\x0a")
    while size > 127:
        head.append(size & 127 | 128)
        size >>= 7
    head.append(size)
    return bytes(head) + body


def frames_of(history: bytes) -> Iterator[bytes]:
    """The frames of a serialized History, in order.

    Raises:
        ValueError: the bytes are not a whole number of frames.
    """
    at = 0
    end = len(history)
    while at < end:
        start = at
        if history[at] != 0x0A:
            raise ValueError(f"history bytes are damaged at offset {at}: expected a frame")
        at += 1
        size = shift = 0
        while True:
            if at >= end:
                raise ValueError("history bytes are damaged: truncated frame")
            byte = history[at]
            at += 1
            size |= (byte & 127) << shift
            if byte < 128:
                break
            shift += 7
        at += size
        if at > end:
            raise ValueError("history bytes are damaged: truncated frame")
        yield history[start:at]
