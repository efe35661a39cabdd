"""What a worker reports with a workflow task it has completed, read from the bytes of its request.

Two things are in a request: commands, and what its worker says with every completion (who it is, its sticky queue,
what it wants). The second is a handful of fields, each of which takes a wrapper object to look at; so the request is
serialized and cut in two, and that part is read once for each distinct value. Commands stay bytes: the ordinary one,
which schedules an activity, is never made a message at all.

Cutting rests on protobuf writing fields in the order of their numbers: token, commands, the rest.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from msgspec import Struct

from perdure.api import messages as m
from perdure.api.durations import duration_ms
from perdure.api.wire import content
from perdure.engine.history import events, evolve

_MANNERS_KEPT: Final = 1024
_MANNER_KEPT_BYTES: Final = 1024
"""Longer ones are not remembered."""

_SCHEDULES_ACTIVITY: Final = b"\x08\x01\x12"
"""How a command of that type begins; the tag of its attributes comes last."""


class Manner(Struct, frozen=True):
    """What a worker says besides its commands."""

    identity: str
    sticky_queue: str
    """Empty: it keeps nothing."""
    sticky_timeout_ms: int
    wants_next: bool
    """It asks for a further workflow task."""
    has_messages: bool
    event: bytes
    """Fields of ``WorkflowTaskCompletedEventAttributes``."""
    worker: bytes
    """What it says of its version, for `RunState.worker`."""


def read(request: m.RespondWorkflowTaskCompletedRequest) -> tuple[list[bytes], Manner]:
    """The commands, serialized, and the rest of a request."""
    if request.resource_id:
        request.ClearField("resource_id")  # For those who route requests; it differs from run to run.
    data = request.SerializeToString()
    at = content(data, 0)[1] if data.startswith(b"\x0a") else 0
    commands: list[bytes] = []
    while data.startswith(b"\x12", at):
        start, at = content(data, at)
        commands.append(data[start:at])
    rest = data[at:]
    manner = _manner(rest) if len(rest) <= _MANNER_KEPT_BYTES else _manner.__wrapped__(rest)
    return commands, manner


@lru_cache(maxsize=_MANNERS_KEPT)
def _manner(rest: bytes) -> Manner:
    request = m.RespondWorkflowTaskCompletedRequest.FromString(rest)
    assert not request.task_token and not request.commands, "protobuf writes fields in the order of their numbers"
    sticky = request.sticky_attributes
    event = events.task_completed(0, 0, 0, 0, request)
    return Manner(
        request.identity,
        sticky.worker_task_queue.name,
        duration_ms(sticky.schedule_to_start_timeout),
        request.force_create_new_workflow_task,
        bool(request.messages),
        event.workflow_task_completed_event_attributes.SerializeToString(),
        evolve.worker_info(event.workflow_task_completed_event_attributes),
    )


def manner_of(request: m.RespondWorkflowTaskCompletedRequest) -> Manner:
    """What a worker says with each of its completions, read once; the request has neither token nor commands."""
    return _manner(request.SerializeToString())


def plain_schedule(command: bytes) -> int:
    """Where the attributes begin of a command that schedules an activity and says no more; 0 for another command."""
    if not command.startswith(_SCHEDULES_ACTIVITY):
        return 0
    size = command[3]
    start, end = (4, 4 + size) if size < 128 else content(command, 2)
    return start if end == len(command) else 0


def scheduled_activity(command: bytes) -> bytes | None:
    """The attributes of a command that schedules an activity and says no more; None for another command."""
    start = plain_schedule(command)
    return command[start:] if start else None
