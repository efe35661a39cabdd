"""Arguments, with errors that name them."""

from __future__ import annotations

import pytest

from perdure.converter import decode_arguments, default, encode_arguments
from perdure.exceptions import ConversionError
from perdure.replay.definition import Signature


def ship(order: str, count: int, express: bool = False) -> None: ...


def many(first: str, *rest: int) -> None: ...


SHIP = Signature(ship)


def test_arguments_come_back() -> None:
    payloads = encode_arguments(default(), ("o", 2), SHIP, "workflow ship")
    assert decode_arguments(default(), payloads.payloads, SHIP, "workflow ship") == ["o", 2]


def test_the_wrong_argument_is_named() -> None:
    with pytest.raises(ConversionError, match=r"^argument 'count' of workflow ship: expected int, got str"):
        encode_arguments(default(), ("o", "2"), SHIP, "workflow ship")


def test_the_number_is_checked() -> None:
    with pytest.raises(TypeError, match="workflow ship takes 2 to 3 arguments, 1 given"):
        encode_arguments(default(), ("o",), SHIP, "workflow ship")


def test_reading_names_the_argument() -> None:
    payloads = default().to_payloads(["o", "x"]).payloads
    with pytest.raises(ConversionError, match="argument 'count' of activity ship"):
        decode_arguments(default(), payloads, SHIP, "activity ship")
    with pytest.raises(ConversionError, match="argument 'count' of activity ship is missing"):
        decode_arguments(default(), payloads[:1], SHIP, "activity ship")


def test_arguments_of_a_newer_caller_are_dropped() -> None:
    payloads = default().to_payloads(["o", 1, True, "new"]).payloads
    assert decode_arguments(default(), payloads, SHIP, "x") == ["o", 1, True]


def test_star_arguments_are_all_taken() -> None:
    signature = Signature(many)
    payloads = encode_arguments(default(), ("a", 1, 2, 3), signature, "many").payloads
    assert decode_arguments(default(), payloads, signature, "many") == ["a", 1, 2, 3]
