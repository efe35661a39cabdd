"""Serialized histories as bytes that concatenate.

A ``History`` message has one repeated field, so its bytes are a run of frames: the tag byte 0x0A, a varint
length, one serialized ``HistoryEvent``. Joining the bytes of two histories gives the bytes of the joined
history (https://protobuf.dev/programming-guides/encoding/), so stored batches are never re-encoded.
"""

from __future__ import annotations

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


def frames_of(history: bytes) -> list[bytes]:
    """The frames of a serialized History, in order.

    Raises:
        ValueError: the bytes are not a whole number of frames.
    """
    frames: list[bytes] = []
    at = 0
    end = len(history)
    try:
        while at < end:
            start = at
            if history[at] != 0x0A:
                raise ValueError(f"history bytes are damaged at offset {at}: expected a frame")
            size = history[at + 1]
            at += 2
            if size > 127:
                size &= 127
                shift = 7
                while (byte := history[at]) > 127:
                    size |= (byte & 127) << shift
                    shift += 7
                    at += 1
                size |= byte << shift
                at += 1
            at += size
            frames.append(history[start:at])
    except IndexError:
        at = end + 1
    if at > end:
        raise ValueError("history bytes are damaged: truncated frame")
    return frames
