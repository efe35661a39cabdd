"""The few events that every step writes, encoded straight to the bytes that protobuf would make of them.

A step of a workflow is six events, most of them a handful of numbers and strings. Building a message and
serializing it costs two to three microseconds each, most of it in allocating the message; writing the bytes costs a
third of that. Each function here mirrors the one of the same name in `events`, which is the definition: a test
compares the two byte for byte over the whole range of values. (Field tags are `number << 3 | wire type`; fields go
in the order of their numbers, zeros and empty strings are left out.)

Functions return a frame of a serialized History. An event id of 0 is left out, as in `events`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from perdure.api import messages as m
from perdure.api.framing import frame
from perdure.api.wire import text, timestamp, varint
from perdure.engine.history import events

_STRINGS_KEPT: Final = 4096


def _type(event_type: m.EventType.ValueType) -> bytes:
    """Field 3, and the tag of field 5, the event's id once more."""
    return b"\x18" + varint(event_type) + b"\x28"


def _frame(event_id: int, at_ms: int, event_type: bytes, tag: bytes, attributes: bytes) -> bytes:
    if event_id:
        number = varint(event_id)
        body = b"".join(
            (b"\x08", number, b"\x12", timestamp(at_ms), event_type, number, tag, varint(len(attributes)), attributes)
        )
    else:
        body = b"\x12" + timestamp(at_ms) + event_type[:-1] + tag + varint(len(attributes)) + attributes
    return b"\x0a" + varint(len(body)) + body


def body_of(framed: bytes) -> bytes:
    """The serialized event in a frame."""
    at = 1
    while framed[at] > 127:
        at += 1
    return framed[at + 1 :]


_WORKFLOW_STARTED: Final = _type(m.EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED)
_TASK_SCHEDULED: Final = _type(m.EventType.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED)
_TASK_STARTED: Final = _type(m.EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED)
_TASK_COMPLETED: Final = _type(m.EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED)
_ACTIVITY_SCHEDULED: Final = _type(m.EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED)
_ACTIVITY_STARTED: Final = _type(m.EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED)
_ACTIVITY_COMPLETED: Final = _type(m.EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED)


def workflow_started(event_id: int, at_ms: int, attributes: bytes) -> bytes:
    """With attributes as `beginning.Beginning` makes them."""
    return _frame(event_id, at_ms, _WORKFLOW_STARTED, b"\x32", attributes)


@lru_cache(maxsize=_STRINGS_KEPT)
def _task_scheduled(task_queue: str, sticky_queue: str, timeout_ms: int, attempt: int) -> bytes:
    event = events.task_scheduled(0, 0, task_queue, sticky_queue, timeout_ms, attempt)
    return event.workflow_task_scheduled_event_attributes.SerializeToString()


def task_scheduled(
    event_id: int, at_ms: int, task_queue: str, sticky_queue: str, timeout_ms: int, attempt: int
) -> bytes:
    attributes = _task_scheduled(task_queue, sticky_queue, timeout_ms, attempt)
    return _frame(event_id, at_ms, _TASK_SCHEDULED, b"\x52", attributes)


def task_started(
    event_id: int,
    at_ms: int,
    scheduled_event_id: int,
    identity: str,
    request_id: str,
    history_bytes: int,
    suggest_reasons: list[m.SuggestContinueAsNewReason.ValueType] | None,
) -> bytes:
    if suggest_reasons:
        event = events.task_started(
            event_id, at_ms, scheduled_event_id, identity, request_id, history_bytes, suggest_reasons
        )
        return frame(event)
    request = request_id.encode()
    attributes = b"".join(
        (
            b"\x08",
            varint(scheduled_event_id),
            text(b"\x12", identity),
            b"\x1a" + varint(len(request)) + request if request else b"",
            b"\x28" + varint(history_bytes) if history_bytes else b"",
        )
    )
    return _frame(event_id, at_ms, _TASK_STARTED, b"\x5a", attributes)


def task_completed(event_id: int, at_ms: int, scheduled_event_id: int, started_event_id: int, said: bytes) -> bytes:
    """With what the worker said besides, as `reports.Manner` has it."""
    attributes = b"\x08" + varint(scheduled_event_id) + b"\x10" + varint(started_event_id) + said
    return _frame(event_id, at_ms, _TASK_COMPLETED, b"\x62", attributes)


def activity_scheduled(event_id: int, at_ms: int, attributes: bytes) -> bytes:
    """With attributes as `terms.Command` makes them."""
    return _frame(event_id, at_ms, _ACTIVITY_SCHEDULED, b"\x7a", attributes)


def activity_started(
    event_id: int, at_ms: int, scheduled_event_id: int, identity: str, attempt: int, last_failure: bytes
) -> bytes:
    attributes = b"\x08" + varint(scheduled_event_id) + text(b"\x12", identity) + b"\x20" + varint(attempt)
    if last_failure:
        attributes += b"\x2a" + varint(len(last_failure)) + last_failure
    return _frame(event_id, at_ms, _ACTIVITY_STARTED, b"\x82\x01", attributes)


def activity_done(
    event_id: int,
    started_at_ms: int,
    at_ms: int,
    scheduled_event_id: int,
    attempt: int,
    worker: str,
    result: bytes,
    identity: str,
) -> tuple[bytes, bytes]:
    """`activity_started` of an attempt that is the first to end, at `event_id`, and `activity_completed` after it."""
    number = varint(event_id)
    scheduled = varint(scheduled_event_id)
    attributes = b"".join((b"\x08", scheduled, text(b"\x12", worker), b"\x20", varint(attempt)))
    size = varint(len(attributes))
    body = b"".join(
        (b"\x08", number, b"\x12", timestamp(started_at_ms), _ACTIVITY_STARTED, number, b"\x82\x01", size, attributes)
    )
    started = b"\x0a" + varint(len(body)) + body
    attributes = b"".join(
        (b"\x0a", varint(len(result)), result, b"\x10", scheduled, b"\x18", number, text(b"\x22", identity))
    )
    number = varint(event_id + 1)
    size = varint(len(attributes))
    body = b"".join(
        (b"\x08", number, b"\x12", timestamp(at_ms), _ACTIVITY_COMPLETED, number, b"\x8a\x01", size, attributes)
    )
    return started, b"\x0a" + varint(len(body)) + body


def activity_completed(
    event_id: int, at_ms: int, scheduled_event_id: int, started_event_id: int, result: bytes | None, identity: str
) -> bytes:
    """With a result that is serialized ``Payloads``."""
    if result is not None:
        attributes = b"\x0a" + varint(len(result)) + result + b"\x10" + varint(scheduled_event_id)
    else:
        attributes = b"\x10" + varint(scheduled_event_id)
    attributes += b"\x18" + varint(started_event_id) + text(b"\x22", identity)
    return _frame(event_id, at_ms, _ACTIVITY_COMPLETED, b"\x8a\x01", attributes)
