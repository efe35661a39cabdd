"""Payload codecs: encryption or compression of every payload before it leaves this process.

`PayloadCodec` is the user's two functions. `CodecService` stands between the SDK and a `WorkflowService` and applies
them at the edge: every payload in a request is encoded, every payload in a response decoded, wherever it is nested
(inputs, results, failures, memos, headers, heartbeat details, histories), also inside the packed bodies of protocol
messages, by which updates travel. Nothing else in the SDK knows of codecs.
Search attributes stay readable, since the engine indexes them. The walk over a message type's fields is planned once
for each type. Requests are copied, as a message handed over belongs to the receiver.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from perdure.api import WorkflowService
from perdure.api import messages as m

__all__ = ["CodecService", "PayloadCodec", "decode_message", "encode_message"]

_M = TypeVar("_M", bound=Message)
_MARK_PREFIX = "perdure-"
"""Metadata whose key begins like this is meant for the engine and stays readable."""
_PAYLOAD = m.Payload.DESCRIPTOR.full_name
_PROTOCOL_MESSAGE = m.Message.DESCRIPTOR.full_name
_BODIES: tuple[type[Message], ...] = (m.Request, m.Acceptance, m.Rejection, m.Response)
"""What the body of a protocol message may be."""
_ENDS = frozenset({_PAYLOAD, _PROTOCOL_MESSAGE})
_NEVER_ENCODED = frozenset({m.SearchAttributes.DESCRIPTOR.full_name})


class PayloadCodec(Protocol):
    """Turns payloads into other payloads, and back.

    Both take any number of payloads and return as many, in order. `decode` must leave payloads alone that it did not
    encode. An exception fails the call or task the payloads belong to; it is retried where that task is.
    """

    async def encode(self, payloads: Sequence[m.Payload]) -> list[m.Payload]: ...

    async def decode(self, payloads: Sequence[m.Payload]) -> list[m.Payload]: ...


class _Plan:
    """Which fields of a message type lead to payloads."""

    __slots__ = ("maps", "plain", "repeated")

    def __init__(self) -> None:
        self.plain: list[str] = []
        self.repeated: list[str] = []
        self.maps: list[str] = []


_plans: dict[str, _Plan | None] = {}


def _plan_of(descriptor: Descriptor) -> _Plan | None:
    """The plan of a message type; None if no payload can occur in it."""
    name = descriptor.full_name
    if name not in _plans:
        reaching = _reaching(descriptor)
        for reached, planned in reaching.items():
            _plans.setdefault(reached, planned)
    return _plans[name]


def _reaching(root: Descriptor) -> dict[str, _Plan | None]:
    """Plans of `root` and every type below it. Types may contain themselves (Failure.cause)."""
    types: dict[str, Descriptor] = {}
    pending = [root]
    while pending:
        descriptor = pending.pop()
        if descriptor.full_name in types or descriptor.full_name in _NEVER_ENCODED:
            continue
        types[descriptor.full_name] = descriptor
        pending.extend(field.message_type for field in descriptor.fields if field.message_type is not None)
    leads: set[str] = {_PAYLOAD, _PROTOCOL_MESSAGE}
    grew = True
    while grew:
        grew = False
        for name, descriptor in types.items():
            if name not in leads and any(
                f.message_type and f.message_type.full_name in leads for f in descriptor.fields
            ):
                leads.add(name)
                grew = True
    plans: dict[str, _Plan | None] = dict.fromkeys(_NEVER_ENCODED)
    for name, descriptor in types.items():
        plans[name] = _plan_fields(descriptor, leads) if name in leads and name not in _ENDS else None
    return plans


def _plan_fields(descriptor: Descriptor, leads: set[str]) -> _Plan:
    plan = _Plan()
    for field in descriptor.fields:
        inner = field.message_type
        if inner is None or inner.full_name not in leads:
            continue
        if inner.GetOptions().map_entry:
            plan.maps.append(field.name)
        elif _is_repeated(field):
            plan.repeated.append(field.name)
        else:
            plan.plain.append(field.name)
    return plan


def _is_repeated(field: FieldDescriptor) -> bool:
    return bool(field.is_repeated)


def _payloads_in(message: Any, unpacked: list[tuple[m.Message, Message]]) -> Iterator[m.Payload]:
    """Every payload nested in `message`, as live references; those in packed bodies refer to what is `unpacked`."""
    if isinstance(message, m.Payload):
        yield message
        return
    if isinstance(message, m.Message):
        for body in _BODIES:
            if message.body.Is(body.DESCRIPTOR):  # pyright: ignore[reportArgumentType] - the faster kind of descriptor
                content = body()
                message.body.Unpack(content)
                unpacked.append((message, content))
                yield from _payloads_in(content, unpacked)
        return
    plan = _plan_of(message.DESCRIPTOR)
    if plan is None:
        return
    for name in plan.plain:
        if message.HasField(name):
            yield from _payloads_in(getattr(message, name), unpacked)
    for name in plan.repeated:
        for item in getattr(message, name):
            yield from _payloads_in(item, unpacked)
    for name in plan.maps:
        for item in getattr(message, name).values():
            yield from _payloads_in(item, unpacked)


async def _replace(message: Message, convert: Callable[[Sequence[m.Payload]], Awaitable[list[m.Payload]]]) -> None:
    unpacked: list[tuple[m.Message, Message]] = []
    payloads = list(_payloads_in(message, unpacked))
    if not payloads:
        return
    converted = await convert(payloads)
    if len(converted) != len(payloads):
        raise ValueError(f"the payload codec returned {len(converted)} payloads for {len(payloads)}")
    for payload, replacement in zip(payloads, converted, strict=True):
        if replacement is not payload:
            marks = {name: mark for name, mark in payload.metadata.items() if name.startswith(_MARK_PREFIX)}
            payload.CopyFrom(replacement)
            for name, mark in marks.items():
                payload.metadata[name] = mark
    for packed, content in unpacked:
        packed.body.Pack(content)


async def encode_message(codec: PayloadCodec, message: _M) -> _M:
    """A copy of `message` with every payload in it encoded."""
    copy = type(message)()
    copy.CopyFrom(message)
    await _replace(copy, codec.encode)
    return copy


async def decode_message(codec: PayloadCodec, message: _M) -> _M:
    """A copy of `message` with every payload in it decoded."""
    copy = type(message)()
    copy.CopyFrom(message)
    await _replace(copy, codec.decode)
    return copy


class CodecService:
    """A `WorkflowService` whose callers see plain payloads and whose engine sees encoded ones."""

    def __init__(self, service: WorkflowService, codec: PayloadCodec) -> None:
        self.inner = service
        self.codec = codec

    @classmethod
    def around(cls, service: WorkflowService, codec: PayloadCodec) -> WorkflowService:
        """`service` behind `codec`; typed as the protocol, whose methods it forwards by name."""
        return cast("WorkflowService", cls(service, codec))

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)

        async def call(request: Message, **options: Any) -> Message:
            response = await method(await encode_message(self.codec, request), **options)
            return await decode_message(self.codec, response)

        self.__dict__[name] = call
        return call
