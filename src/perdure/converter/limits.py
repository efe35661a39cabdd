"""A bound on what is converted: values that the engine would refuse are refused where they are given.

A workflow whose command the engine refuses fails its workflow task again and again, as its code would ask the same
again; an error at the call is one that the code can handle. The bound is checked while replaying too, so that the
same calls fail again. Measured before a payload codec has seen the payloads, whose work may add to their size.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NoReturn, TypeVar

from perdure.api import messages as m
from perdure.exceptions import PayloadTooLargeError
from perdure.replay.ports import Converter

__all__ = ["DEFAULT_MAX_PAYLOAD_BYTES", "limited"]

DEFAULT_MAX_PAYLOAD_BYTES = 2 * 1024 * 1024
"""What an engine takes unless it is set up otherwise."""

_LISTING_BYTES = 11
"""Most that a list of one payload adds to it."""

_C = TypeVar("_C", bound=Converter)


def limited(converter: _C, max_bytes: int) -> _C:
    """A copy of a converter that raises `PayloadTooLargeError` for what takes more than `max_bytes` as payloads."""
    plain_one, plain_some = converter.to_payload, converter.to_payloads
    roomy_bytes = max_bytes - _LISTING_BYTES
    plain_one_bytes, plain_some_bytes = converter.to_payload_bytes, converter.to_payloads_bytes

    def refuse(size_bytes: int) -> NoReturn:
        raise PayloadTooLargeError(
            f"{size_bytes:,} bytes as a payload are more than the {max_bytes:,} that are taken: "
            "store the data elsewhere and pass a reference to it"
        )

    def to_payload(value: Any, hint: Any = None) -> m.Payload:
        payload = plain_one(value, hint)
        if _listed(payload.ByteSize()) > max_bytes:
            refuse(_listed(payload.ByteSize()))
        return payload

    def to_payloads(values: Sequence[Any], hints: Sequence[Any] | None = None) -> m.Payloads:
        payloads = plain_some(values, hints)
        if payloads.ByteSize() > max_bytes:
            refuse(payloads.ByteSize())
        return payloads

    def to_payload_bytes(value: Any, hint: Any = None) -> bytes:
        payload = plain_one_bytes(value, hint)
        if len(payload) > roomy_bytes and _listed(len(payload)) > max_bytes:
            refuse(_listed(len(payload)))
        return payload

    def to_payloads_bytes(values: Sequence[Any], hints: Sequence[Any] | None = None) -> bytes:
        payloads = plain_some_bytes(values, hints)
        if len(payloads) > max_bytes:
            refuse(len(payloads))
        return payloads

    bounded: Any = copy.copy(converter)
    bounded.to_payload, bounded.to_payloads = to_payload, to_payloads
    bounded.to_payload_bytes, bounded.to_payloads_bytes = to_payload_bytes, to_payloads_bytes
    return bounded


def _listed(size_bytes: int) -> int:
    """What a list of one payload of this size takes: a tag and the size before it."""
    return 1 + (size_bytes.bit_length() + 6) // 7 + size_bytes
