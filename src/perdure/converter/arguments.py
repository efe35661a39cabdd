"""A call's arguments to payloads and back, with errors that name the argument.

`Signature` (of replay) knows how many and of which types; this module adds the conversion and the words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from perdure.api import messages as m
from perdure.api.wire import content
from perdure.exceptions import ConversionError
from perdure.replay.definition import Signature
from perdure.replay.ports import PayloadConverter

__all__ = ["decode_arguments", "decode_serialized_arguments", "encode_arguments"]


def encode_arguments(converter: PayloadConverter, args: Sequence[Any], signature: Signature, what: str) -> m.Payloads:
    """The arguments of a call of `what`, each checked against its hint.

    Raises:
        TypeError: too few or too many.
        ConversionError: one cannot be encoded or is not what its hint says.
    """
    signature.check(args, what)
    hints = signature.arg_types
    payloads = m.Payloads()
    for index, value in enumerate(args):
        try:
            payloads.payloads.append(converter.to_payload(value, hints[index] if index < len(hints) else None))
        except ConversionError as error:
            raise ConversionError(f"{_where(signature, index, what)}: {error}") from error
    return payloads


def decode_arguments(
    converter: PayloadConverter, payloads: Sequence[m.Payload], signature: Signature, what: str
) -> list[Any]:
    """The arguments a task carries for `what`; ones beyond its parameters (from a newer caller) are dropped.

    Raises:
        ConversionError: too few, or one does not fit its hint.
    """
    count = len(payloads)
    if count < signature.minimum:
        raise ConversionError(f"{_where(signature, count, what)} is missing: the call carries {count} of them")
    if signature.maximum is not None and count > signature.maximum:
        payloads = payloads[: signature.maximum]
    hints, _ = signature.hints
    values: list[Any] = []
    index = 0
    try:
        for payload in payloads:
            values.append(converter.from_payload(payload, hints[index] if index < len(hints) else None))
            index += 1
    except ConversionError as error:
        raise ConversionError(f"{_where(signature, index, what)}: {error}") from error
    return values


def decode_serialized_arguments(converter: PayloadConverter, data: bytes, signature: Signature, what: str) -> list[Any]:
    """As `decode_arguments`, for serialized ``Payloads``."""
    if signature.maximum == 1 and data:
        start, end = (2, 2 + data[1]) if data[1] < 128 else content(data, 0)
        if end == len(data):
            hints, _ = signature.hints
            try:
                return [converter.from_payload_bytes(data[start:], hints[0])]
            except ConversionError as error:
                raise ConversionError(f"{_where(signature, 0, what)}: {error}") from error
    return decode_arguments(converter, m.Payloads.FromString(data).payloads, signature, what)


def _where(signature: Signature, index: int, what: str) -> str:
    parameters = signature._parameters()
    name = f"'{parameters[index].name}'" if index < len(parameters) else str(index + 1)
    return f"argument {name} of {what}"
