"""What a command asks of an activity, read from its bytes.

The commands that schedule one kind of activity differ in three fields: id, header and input. The rest (type, queue,
timeouts, retry policy, priority) are its *terms*, the same each time. So a command's bytes are cut in two: terms are
checked, completed with what holds by default, and turned into bytes of the event and of the task once for each
distinct value; the other three fields travel as they are.

Cutting rests on the order of fields that protobuf writes. Where it is another one, a field ends up among the terms:
the outcome is the same, it is only not remembered for the next command.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from google.protobuf.duration_pb2 import Duration
from msgspec import Struct

from perdure.api import messages as m
from perdure.api.durations import set_duration_ms
from perdure.api.wire import varint
from perdure.engine.history import retrying
from perdure.engine.history.state import Retry

_TERMS_KEPT: Final = 1024
_TERMS_KEPT_BYTES: Final = 4096
"""Longer ones are not remembered."""
_SPAN_MAX_MS: Final = 100 * 365 * 24 * 3600 * 1000

_TYPE_AND_QUEUE: Final = b"\x12\x22"
_HEADER, _INPUT = b"\x2a\x32"
"""Tags of a command's first fields; that of the id is 10."""


class BadTerms(ValueError):
    """Terms that can't hold; the message says why."""


class Terms(Struct, frozen=True):
    """What holds for every activity that is scheduled on the same terms."""

    activity_type: str
    task_queue: str
    timeouts_ms: tuple[int, int, int, int]
    """Schedule to close, schedule to start, start to close, heartbeat; 0 = none."""
    retry: Retry
    event: bytes
    """Fields of ``ActivityTaskScheduledEventAttributes``."""
    task: bytes
    """Fields of ``PollActivityTaskQueueResponse``."""


class Asked(Struct, frozen=True):
    """A command: its terms, and the three fields that are its own, serialized."""

    terms: Terms
    activity_id: bytes
    header: bytes
    input: bytes

    def event(self, completed_event_id: int) -> bytes:
        """The attributes of its Scheduled event, serialized."""
        return b"".join(
            (self.activity_id, self.header, self.input, self.terms.event, b"\x58", varint(completed_event_id))
        )

    def task(self) -> bytes:
        """What its worker is told, as a serialized ``PollActivityTaskQueueResponse`` that says no more."""
        data = self.terms.task
        if self.activity_id:
            data += b"\x32" + self.activity_id[1:]
        if self.header:
            data += b"\x3a" + self.header[1:]
        if self.input:
            data += b"\x42" + self.input[1:]
        return data


def read(data: bytes, task_queue: str, run_timeout_ms: int) -> Asked:
    """Read a serialized ``ScheduleActivityTaskCommandAttributes``.

    Args:
        data: the command.
        task_queue: the workflow's, for a command that names none.
        run_timeout_ms: the longest span that makes sense; 0 = any does.

    Raises:
        BadTerms: they can't hold.
    """
    end = len(data)
    terms_at = at = _end(data, 0) if data.startswith(b"\x0a") else 0
    while at < end and data[at] in _TYPE_AND_QUEUE:
        size = data[at + 1]
        at = at + 2 + size if size < 128 else _end(data, at)
    header_at = at
    if at < end and data[at] == _HEADER:
        at = _end(data, at)
    input_at = at
    if at < end and data[at] == _INPUT:
        at = _end(data, at)
    shared = data[terms_at:header_at] + data[at:]
    find = _terms if len(shared) <= _TERMS_KEPT_BYTES else _terms.__wrapped__
    terms = find(shared, task_queue, run_timeout_ms)
    return Asked(terms, data[:terms_at], data[header_at:input_at], data[input_at:at])


def _end(data: bytes, at: int) -> int:
    """Where the field with a length that begins at `at` ends."""
    at += 1
    size = data[at]
    if size < 128:
        return at + 1 + size
    size &= 127
    shift = 7
    while True:
        at += 1
        byte = data[at]
        size |= (byte & 127) << shift
        if byte < 128:
            return at + 1 + size
        shift += 7


@lru_cache(maxsize=_TERMS_KEPT)
def _terms(data: bytes, task_queue: str, run_timeout_ms: int) -> Terms:
    command = m.ScheduleActivityTaskCommandAttributes.FromString(data)
    try:
        policy = retrying.policy_of(command.retry_policy) if command.HasField("retry_policy") else retrying.DEFAULT
    except ValueError as error:
        raise BadTerms(str(error)) from None
    given = (
        _span_ms(command.schedule_to_close_timeout, "ScheduleToCloseTimeout"),
        _span_ms(command.schedule_to_start_timeout, "ScheduleToStartTimeout"),
        _span_ms(command.start_to_close_timeout, "StartToCloseTimeout"),
        _span_ms(command.heartbeat_timeout, "HeartbeatTimeout"),
    )
    timeouts_ms = _timeouts_ms(given, run_timeout_ms)
    event = m.ActivityTaskScheduledEventAttributes.FromString(data)
    event.DiscardUnknownFields()
    event.retry_policy.CopyFrom(policy.message)
    event.ClearField("workflow_task_completed_event_id")
    if task_queue and not command.task_queue.name:
        event.task_queue.name = task_queue
    if timeouts_ms != given:
        set_duration_ms(event.schedule_to_close_timeout, timeouts_ms[0])
        set_duration_ms(event.schedule_to_start_timeout, timeouts_ms[1])
        set_duration_ms(event.start_to_close_timeout, timeouts_ms[2])
        set_duration_ms(event.heartbeat_timeout, timeouts_ms[3])
    return Terms(
        command.activity_type.name,
        event.task_queue.name,
        timeouts_ms,
        policy.retry,
        event.SerializeToString(),
        task_of(event),
    )


def _span_ms(duration: Duration, what: str) -> int:
    if duration.seconds < 0 or duration.nanos < 0:
        raise BadTerms(f"{what} is negative.")
    return min(duration.seconds * 1000 + -(-duration.nanos // 1_000_000), _SPAN_MAX_MS)


def _timeouts_ms(given: tuple[int, int, int, int], run_timeout_ms: int) -> tuple[int, int, int, int]:
    """The timeouts that hold: each bounded by the longer ones and by the run's; missing ones deduced."""
    to_close, to_start, start_to_close, heartbeat = given
    if start_to_close and not (to_close or run_timeout_ms):
        if heartbeat <= start_to_close:
            return given
    elif to_close:
        to_start = min(to_start or to_close, to_close)
        start_to_close = min(start_to_close or to_close, to_close)
    elif start_to_close:
        to_close = run_timeout_ms
        to_start = to_start or run_timeout_ms
    else:
        raise BadTerms("a valid StartToClose or ScheduleToCloseTimeout is not set on command.")
    if run_timeout_ms:
        to_close = min(to_close, run_timeout_ms)
        to_start = min(to_start, run_timeout_ms)
        start_to_close = min(start_to_close, run_timeout_ms)
    return to_close, to_start, start_to_close, min(heartbeat, start_to_close)


def task_of(event: m.ActivityTaskScheduledEventAttributes) -> bytes:
    """What a Scheduled event tells the worker of the activity, as a ``PollActivityTaskQueueResponse``."""
    task = m.PollActivityTaskQueueResponse(activity_id=event.activity_id)
    task.activity_type.name = event.activity_type.name
    for name in _TOLD:
        if event.HasField(name):
            getattr(task, name).CopyFrom(getattr(event, name))
    return task.SerializeToString()


_TOLD: Final = (
    "header",
    "input",
    "retry_policy",
    "schedule_to_close_timeout",
    "start_to_close_timeout",
    "heartbeat_timeout",
    "priority",
)
"""Messages that event and task share."""
