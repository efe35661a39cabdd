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
from perdure.api.direct import ActivityCommand
from perdure.api.durations import set_duration_ms
from perdure.api.wire import content, varint
from perdure.engine.history import priorities, retrying
from perdure.engine.history.state import Retry

_TERMS_KEPT: Final = 1024
_TERMS_KEPT_BYTES: Final = 4096
"""Longer ones are not remembered."""
_SPAN_MAX_MS: Final = 100 * 365 * 24 * 3600 * 1000

_ID: Final = b"\x0a"
_TYPE_AND_QUEUE: Final = b"\x12\x22"
_HEADER, _INPUT = b"\x2a\x32"
"""Tags of a command's first fields."""


class BadTerms(ValueError):
    """Terms that can't hold; the message says why."""


class Terms(Struct, frozen=True, gc=False):
    """What holds for every activity that is scheduled on the same terms."""

    activity_id: str
    """Empty, as ids are not among the terms, but for a command in another order."""
    activity_type: str
    task_queue: str
    timeouts_ms: tuple[int, int, int, int]
    """Schedule to close, schedule to start, start to close, heartbeat; 0 = none."""
    retry: Retry
    event: bytes
    """Fields of ``ActivityTaskScheduledEventAttributes``."""
    task: bytes
    """Fields of ``PollActivityTaskQueueResponse``."""
    eager: bool
    """The worker asks to have it at once."""
    priority: bytes
    """A serialized ``Priority``, or nothing."""
    longest_name: int
    """Characters in the longer one of type and task queue; 0 if one of them can't be a name."""
    input: bytes = b""
    """Serialized ``Payloads``: empty, as inputs are not among the terms, but for a command in another order."""


class Asked(Struct, frozen=True, gc=False):
    """A command: its terms, and the three fields that are its own, serialized."""

    terms: Terms
    activity_id: str
    id_field: bytes
    header: bytes
    input: bytes

    def event(self, completed_event_id: int) -> bytes:
        """The attributes of its Scheduled event, serialized."""
        return b"".join((self.id_field, self.header, self.input, self.terms.event, b"\x58", varint(completed_event_id)))

    def task(self) -> bytes:
        """What its worker is told, as a serialized ``PollActivityTaskQueueResponse`` that says no more."""
        data = self.terms.task
        if self.id_field:
            data += b"\x32" + self.id_field[1:]
        if self.header:
            data += b"\x3a" + self.header[1:]
        if self.input:
            data += b"\x42" + self.input[1:]
        return data

    def payloads(self) -> bytes:
        """The activity's arguments, as serialized ``Payloads``."""
        data = self.input
        if not data:
            return self.terms.input
        return data[2:] if data[1] < 128 else data[content(data, 0)[0] :]


def read(data: bytes, task_queue: str, run_timeout_ms: int, start: int = 0) -> Asked:
    """Read a serialized ``ScheduleActivityTaskCommandAttributes``.

    Args:
        data: the command.
        task_queue: the workflow's, for a command that names none.
        run_timeout_ms: the longest span that makes sense; 0 = any does.
        start: where in `data` it begins.

    Raises:
        BadTerms: they can't hold.
    """
    end = len(data)
    id_at = at = start
    if data.startswith(_ID, at):
        id_at = at + 2
        size = data[at + 1]
        at = id_at + size
        if size > 127:
            id_at, at = content(data, start)
    terms_at = at
    while at < end and data[at] in _TYPE_AND_QUEUE:
        size = data[at + 1]
        at = at + 2 + size if size < 128 else content(data, at)[1]
    header_at = at
    if at < end and data[at] == _HEADER:
        at = content(data, at)[1]
    input_at = at
    if at < end and data[at] == _INPUT:
        size = data[at + 1]
        at = at + 2 + size if size < 128 else content(data, at)[1]
    shared = data[terms_at:header_at] + data[at:]
    find = _terms if len(shared) <= _TERMS_KEPT_BYTES else _terms.__wrapped__
    terms = find(shared, task_queue, run_timeout_ms)
    activity_id = data[id_at:terms_at].decode() if terms_at > start else terms.activity_id
    return Asked(terms, activity_id, data[start:terms_at], data[header_at:input_at], data[input_at:at])


def of_command(command: ActivityCommand, task_queue: str, run_timeout_ms: int) -> Asked:
    """`read` for a command that is in parts already."""
    shared = command.terms
    find = _terms if len(shared) <= _TERMS_KEPT_BYTES else _terms.__wrapped__
    terms = find(shared, task_queue, run_timeout_ms)
    return Asked(terms, command.activity_id, command.id_field, b"", command.input_field)


@lru_cache(maxsize=_TERMS_KEPT)
def _terms(data: bytes, task_queue: str, run_timeout_ms: int) -> Terms:
    command = m.ScheduleActivityTaskCommandAttributes.FromString(data)
    try:
        policy = retrying.policy_of(command.retry_policy) if command.HasField("retry_policy") else retrying.DEFAULT
    except ValueError as error:
        raise BadTerms(str(error)) from None
    refused = priorities.refusal(command.priority)
    if refused is not None:
        raise BadTerms(f"{refused}.")
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
        command.activity_id,
        command.activity_type.name,
        event.task_queue.name,
        timeouts_ms,
        policy.retry,
        event.SerializeToString(),
        task_of(event),
        command.request_eager_execution,
        command.priority.SerializeToString(),
        _longest_name(command.activity_type.name, event.task_queue.name),
        command.input.SerializeToString(),
    )


def asked_by(event: m.ActivityTaskScheduledEventAttributes) -> Asked:
    """What a Scheduled event that has been read again says to the worker of the activity."""
    terms = Terms(
        event.activity_id,
        event.activity_type.name,
        event.task_queue.name,
        (0, 0, 0, 0),
        Retry(),
        b"",
        task_of(event),
        False,
        event.priority.SerializeToString(),
        0,
        event.input.SerializeToString(),
    )
    return Asked(terms, event.activity_id, b"", b"", b"")


def _longest_name(*names: str) -> int:
    if not all(names) or any("\0" in name for name in names):
        return 0
    return max(map(len, names))


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
    for name in _SPANS:
        # There also when there is none, as a span of nothing: some workers look inside without asking.
        getattr(task, name).SetInParent()
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
_SPANS: Final = ("schedule_to_close_timeout", "start_to_close_timeout", "heartbeat_timeout")
