"""Values to payloads and back."""

from __future__ import annotations

import contextlib
import enum
import math
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, NamedTuple, TypedDict
from uuid import UUID

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.api import messages as m
from perdure.common import RawValue
from perdure.converter import PayloadConverter
from perdure.exceptions import ConversionError


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Size(enum.IntEnum):
    SMALL = 1


@dataclass
class Item:
    sku: str
    count: int = 1


@dataclass
class Order:
    id: UUID
    items: list[Item]
    at: datetime
    colour: Colour = Colour.RED
    price: Decimal = Decimal("1.10")
    note: str | None = None
    tags: frozenset[str] = frozenset()
    extra: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass
class Card:
    number: str


@dataclass
class Iban:
    iban: str
    bic: str = ""


@dataclass
class Wallet:
    methods: list[Card | Iban]
    since: datetime | str


class Point(NamedTuple):
    x: int
    y: int


class Row(TypedDict):
    name: str
    age: int


class Model(pydantic.BaseModel):
    a: int
    inner: list[Item] = []


@dataclass
class Holder:
    model: Model
    models: dict[str, Model]


CONVERTER = PayloadConverter()
ORDER = Order(UUID(int=5), [Item("a", 2)], datetime(2026, 1, 2, 3, tzinfo=UTC), Colour.BLUE, extra={"k": [1, None]})


@pytest.mark.parametrize(
    ("value", "hint", "encoding"),
    [
        (None, None, "binary/null"),
        (None, type(None), "binary/null"),
        (None, str | None, "binary/null"),
        (b"\x00\xff", bytes, "binary/plain"),
        (b"\x00", bytes | None, "binary/plain"),
        ("text", str, "json/plain"),
        (1, int, "json/plain"),
        (2**70, int, "json/plain"),
        (1.5, float, "json/plain"),
        (True, bool, "json/plain"),
        ([1, "a", None], None, "json/plain"),
        ({"a": 1}, dict[str, int], "json/plain"),
        ({1: Item("x")}, dict[int, Item], "json/plain"),
        ((1, "a"), tuple[int, str], "json/plain"),
        ((1, 2, 3), tuple[int, ...], "json/plain"),
        ({1, 2}, set[int], "json/plain"),
        (Colour.RED, Colour, "json/plain"),
        (Size.SMALL, Size, "json/plain"),
        (ORDER, Order, "json/plain"),
        ([ORDER], list[Order], "json/plain"),
        (Item("a"), Item | None, "json/plain"),
        (datetime(2026, 1, 1, tzinfo=UTC), datetime, "json/plain"),
        (date(2026, 1, 1), date, "json/plain"),
        (time(1, 2, 3), time, "json/plain"),
        (timedelta(days=1, microseconds=5), timedelta, "json/plain"),
        (UUID(int=1), UUID, "json/plain"),
        (Decimal("1.230"), Decimal, "json/plain"),
        (Point(1, 2), Point, "json/plain"),
        ({"name": "A", "age": 3}, Row, "json/plain"),
        (Model(a=1, inner=[Item("z")]), Model, "json/plain"),
        (Holder(Model(a=1), {"b": Model(a=2)}), Holder, "json/plain"),
        (Wallet([Card("4"), Iban("DE", "B"), Iban("X")], datetime(2026, 1, 1, tzinfo=UTC)), Wallet, "json/plain"),
        (Iban("a"), Card | Iban, "json/plain"),
        ({"k": [Card("1")]}, dict[str, list[Card | Iban]], "json/plain"),
        (m.WorkflowExecution(workflow_id="w"), m.WorkflowExecution, "json/protobuf"),
    ],
)
def test_what_goes_in_comes_out(value: Any, hint: Any, encoding: str) -> None:
    payload = CONVERTER.to_payload(value, hint)
    assert payload.metadata["encoding"] == encoding.encode()
    back = CONVERTER.from_payload(payload, hint)
    assert back == value
    assert type(back) is type(value)


def test_the_bytes_are_temporals() -> None:
    assert CONVERTER.to_payload(Item("a", 2)).data == b'{"sku":"a","count":2}'
    assert CONVERTER.to_payload(None) == m.Payload(metadata={"encoding": b"binary/null"})
    protobuf = CONVERTER.to_payload(m.WorkflowType(name="n"))
    assert protobuf.metadata["messageType"] == b"temporal.api.common.v1.WorkflowType"
    assert protobuf.data == b'{"name": "n"}'


def test_binary_protobuf_is_read() -> None:
    message = m.WorkflowType(name="n")
    metadata = {"encoding": b"binary/protobuf", "messageType": b"temporal.api.common.v1.WorkflowType"}
    payload = m.Payload(metadata=metadata, data=message.SerializeToString())
    assert CONVERTER.from_payload(payload, m.WorkflowType) == message
    with pytest.raises(ConversionError, match=r"annotate the argument"):
        CONVERTER.from_payload(payload)
    with pytest.raises(ConversionError, match="malformed"):
        CONVERTER.from_payload(m.Payload(metadata=metadata, data=b"\xff"), m.WorkflowType)


def test_without_a_hint_values_stay_plain() -> None:
    payload = CONVERTER.to_payload(Item("a"))
    assert CONVERTER.from_payload(payload) == {"sku": "a", "count": 1}
    assert CONVERTER.from_payload(payload, Any) == {"sku": "a", "count": 1}
    assert CONVERTER.from_payload(payload, object) == {"sku": "a", "count": 1}


def test_raw_values_pass_through() -> None:
    payload = m.Payload(metadata={"encoding": b"secret"}, data=b"x")
    assert CONVERTER.to_payload(RawValue(payload)) == payload
    assert CONVERTER.from_payload(payload, RawValue) == RawValue(payload)


@pytest.mark.parametrize(
    ("value", "hint", "said"),
    [
        (5, str, "expected str, got int"),
        ("5", int, "expected int, got str"),
        (None, str, "expected str, got None"),
        (b"x", str, "expected str, got bytes"),
        ("x", bytes, "expected bytes, got str"),
        (Item(sku=5), Item, r"at `\$.sku`"),  # type: ignore[arg-type] - wrong on purpose
        ("x", Item, "expected Item, got str"),
        (1, type(None), "expected None, got int"),
        ({"a": "b"}, dict[str, int], "int"),
        ("green", Colour, "expected Colour, got str"),
        ({"a": "x"}, Model, "Model"),
        (1.5, Card | Iban, "Card"),
        (m.WorkflowType(), m.WorkflowExecution, "WorkflowExecution"),
    ],
)
def test_a_wrong_type_is_refused_when_written(value: Any, hint: Any, said: str) -> None:
    with pytest.raises(ConversionError, match=said):
        CONVERTER.to_payload(value, hint)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "wrap", [lambda v: v, lambda v: [1, v], lambda v: {"k": (v,)}, lambda v: Model.model_construct(a=v)]
)
def test_what_json_cannot_say_is_refused(value: float, wrap: Any) -> None:
    with pytest.raises(ConversionError, match=r"JSON cannot say|cannot become a payload"):
        CONVERTER.to_payload(wrap(value))


def test_null_beside_floats_is_fine() -> None:
    assert CONVERTER.from_payload(CONVERTER.to_payload([None, 1.5, "null"])) == [None, 1.5, "null"]


def test_unknown_types_are_refused_with_advice() -> None:
    with pytest.raises(ConversionError, match=r"values of type range cannot become JSON|range"):
        CONVERTER.to_payload(range(3))
    with pytest.raises(ConversionError, match="use a dataclass"):
        CONVERTER.from_payload(CONVERTER.to_payload({"a": 1}), range)


def deep(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def test_depth_is_bounded() -> None:
    with pytest.raises(ConversionError, match="too deeply"):
        CONVERTER.to_payload(deep(100_000))
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ConversionError, match="too deeply"):
        CONVERTER.to_payload(loop)
    for hint in (None, list[Any], Item, Card | Iban, list[Card | Iban]):
        payload = m.Payload(metadata={"encoding": b"json/plain"}, data=b"[" * 100_000 + b"]" * 100_000)
        with pytest.raises(ConversionError):
            CONVERTER.from_payload(payload, hint)


@pytest.mark.parametrize("data", [b'"\xff"', b"NaN", b"", b"{", b'{"a":1}x', b"\x00", b'{"sku":"\xc3"}'])
def test_malformed_bytes_are_refused(data: bytes) -> None:
    payload = m.Payload(metadata={"encoding": b"json/plain"}, data=data)
    for hint in (None, Item, str, Card | Iban, Model):
        with pytest.raises(ConversionError):
            CONVERTER.from_payload(payload, hint)


def test_lone_surrogates_are_refused() -> None:
    with pytest.raises(ConversionError, match="Unicode"):
        CONVERTER.to_payload("\ud800")


def test_an_unknown_encoding_is_named() -> None:
    with pytest.raises(ConversionError, match=r"encoded as binary/encrypted.*json/plain"):
        CONVERTER.from_payload(m.Payload(metadata={"encoding": b"binary/encrypted"}))
    with pytest.raises(ConversionError, match=r"\(none\)"):
        CONVERTER.from_payload(m.Payload())


def test_several_values_name_the_one_that_is_wrong() -> None:
    with pytest.raises(ConversionError, match=r"argument 2: expected int, got str"):
        CONVERTER.to_payloads([1, "x"], [int, int])
    payloads = CONVERTER.to_payloads([1, "x", None]).payloads
    assert CONVERTER.from_payloads(payloads) == [1, "x", None]
    assert CONVERTER.from_payloads(payloads, [int]) == [1, "x", None]
    with pytest.raises(ConversionError, match="argument 2"):
        CONVERTER.from_payloads(payloads, [int, int])


def test_the_union_member_that_knows_all_keys_wins() -> None:
    def read(data: bytes) -> Any:
        return CONVERTER.from_payload(m.Payload(metadata={"encoding": b"json/plain"}, data=data), Card | Iban)

    assert read(b'{"iban":"i","bic":"b"}') == Iban("i", "b")
    assert read(b'{"number":"n"}') == Card("n")
    assert read(b'{"number":"n","bic":"b"}') == Card("n")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_any_json_value_survives(value: Any) -> None:
    try:
        payload = CONVERTER.to_payload(value)
    except ConversionError as error:
        assert "Unicode" in str(error)
        return
    assert CONVERTER.from_payload(payload) == value


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    payload = m.Payload(metadata={"encoding": b"json/plain"}, data=data)
    for hint in (None, Order, Wallet, Model, list[Card | Iban], dict[str, Point]):
        with contextlib.suppress(ConversionError):
            CONVERTER.from_payload(payload, hint)


class Reversed:
    """An encoding of a user's own."""

    name = "text/reversed"

    def accepts(self, cls: type[Any]) -> bool:
        return cls is str

    def to_payload(self, value: Any) -> m.Payload:
        return m.Payload(metadata={"encoding": b"text/reversed"}, data=value[::-1].encode())

    def from_payload(self, payload: m.Payload, hint: Any) -> Any:
        return payload.data.decode()[::-1]


def test_the_chain_can_be_replaced() -> None:
    converter = PayloadConverter([Reversed()])
    payload = converter.to_payload("abc", str)
    assert payload.data == b"cba"
    assert converter.from_payload(payload, str) == "abc"
    with pytest.raises(ConversionError, match="no encoding"):
        converter.to_payload(1)


def test_a_hint_that_cannot_be_hashed_works() -> None:
    import typing

    hint = typing.Annotated[int, []]
    assert CONVERTER.from_payload(CONVERTER.to_payload(1), hint) == 1


def test_msgspec_structs_work() -> None:
    class S(msgspec.Struct):
        a: int

    assert CONVERTER.from_payload(CONVERTER.to_payload(S(1)), S) == S(1)
