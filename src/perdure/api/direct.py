"""The short way between a service and a worker that share a process and an event loop.

`WorkflowService` speaks in messages and waits in polls. Where nothing has to cross a wire, a task can be handed over
by a call and answered by a call: no message is built to be read on the other side, nobody waits to be woken. A service
that offers this has a property `direct` in its class; `direct_of` looks there and nowhere else, so that whoever wraps
a service to see its calls hides the short way with it.

It is the same service. Tasks come from the same queues, in the same order, under the same rules, and leave the same
histories; all that the short way has no word for goes the long one. Any task answers the message a poll would have
brought, and whatever is done with that message is as good: heartbeats, failures, completions.

A completion returns before it is durable, since nothing waits for it but what comes after it in the same commit or a
later one. When the commit fails, the taker is told: of an activity, to report it again by message; of a workflow, to
forget what its code has done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from msgspec import Struct
from temporalio.api.command import v1 as command
from temporalio.api.workflowservice import v1 as ws

from perdure.api.errors import RpcError
from perdure.api.service import WorkflowService
from perdure.api.wire import sized_tag, varint

__all__ = [
    "SCHEDULE_ACTIVITY_PREFIX",
    "ActivityCommand",
    "ActivityTask",
    "ActivityTaker",
    "Command",
    "Direct",
    "StandingPoll",
    "Step",
    "WorkflowTask",
    "WorkflowTaker",
    "direct_of",
]


SCHEDULE_ACTIVITY_PREFIX = b"\x08\x01" + sized_tag(command.Command, "schedule_activity_task_command_attributes")
"""How the command begins; the size of its attributes follows, and they themselves."""


class ActivityCommand(Struct, frozen=True, gc=False):
    """A command that schedules an activity and says no more, as its parts: those that differ each time, and the rest.

    Each part is serialized fields of ``ScheduleActivityTaskCommandAttributes``.
    """

    activity_id: str
    id_field: bytes
    input_field: bytes
    terms: bytes
    """All other fields; equal ones are one object, so that what they mean is looked up in no time."""
    head_bytes: int
    """How much of the terms belongs before the input."""

    def serialize(self) -> bytes:
        """The command as it crosses a wire."""
        terms = self.terms
        head = self.head_bytes
        attributes = b"".join((self.id_field, terms[:head], self.input_field, terms[head:]))
        return SCHEDULE_ACTIVITY_PREFIX + varint(len(attributes)) + attributes


Command = bytes | ActivityCommand
"""A command, serialized or on the way to it."""


class ActivityTask(Protocol):
    """An attempt of an activity, handed out."""

    @property
    def run_id(self) -> str: ...

    @property
    def activity_type(self) -> str: ...

    @property
    def input(self) -> bytes:
        """Its arguments, as serialized ``Payloads``."""
        ...

    @property
    def start_to_close_ms(self) -> int:
        """0 = no such timeout."""
        ...

    def message(self) -> ws.PollActivityTaskQueueResponse:
        """What a poll would have brought."""
        ...

    def complete(self, result: bytes, lost: Callable[[RpcError], None]) -> None:
        """It has succeeded.

        Args:
            result: serialized ``Payloads``.
            lost: called if this could not be written after all. The attempt is still this caller's then.

        Raises:
            RpcError: NOT_FOUND, nobody waits for it any more; UNAVAILABLE, report it by message.
        """
        ...


class Step(Struct, frozen=True, gc=False):
    """What a workflow task brings when activities alone have happened: all that its history says, in short.

    The worker has asked for them, and for nothing else, when it completed the task before; it knows the rest.
    """

    scheduled: Sequence[int]
    """Ids of the Scheduled events, in the order of the commands."""
    completed: Sequence[tuple[int, bytes]]
    """Those that have succeeded since, in order of arrival: (id of the Scheduled event, serialized ``Payloads``)."""
    started_event_id: int
    """Of the task's Started event, which ends its history."""
    started_at_ms: int
    """Epoch milliseconds."""
    history_bytes: int
    suggests_continue_as_new: bool


class WorkflowTask(Protocol):
    """The first attempt of a workflow task that brings nothing but events, all of them at hand."""

    @property
    def run_id(self) -> str: ...

    @property
    def workflow_id(self) -> str: ...

    @property
    def workflow_type(self) -> str: ...

    @property
    def first_event_id(self) -> int:
        """Of its history."""
        ...

    @property
    def history(self) -> bytes:
        """A serialized ``History`` that ends with the task's Started event."""
        ...

    @property
    def step(self) -> Step | None:
        """The same in short, for a worker that has taken in all events before; None if it can't be said so."""
        ...

    def message(self) -> ws.PollWorkflowTaskQueueResponse:
        """What a poll would have brought."""
        ...

    def complete(self, commands: Sequence[Command]) -> None:
        """The code has come to rest and asks for this.

        Args:
            commands: in order.

        Raises:
            RpcError: NOT_FOUND, the task is not held any more; INVALID_ARGUMENT, a command does not hold.
        """
        ...


class ActivityTaker(Protocol):
    """A worker's end. None of its methods may raise, wait, or call the poll that calls it but for `pause`."""

    def take_activity(self, task: ActivityTask) -> None:
        """Here is one."""
        ...


class WorkflowTaker(Protocol):
    """A worker's end; what `ActivityTaker` says holds here too. A task may be completed before the call returns."""

    def take_workflow_task(self, task: WorkflowTask) -> None:
        """Here is one."""
        ...

    def take_message(self, task: ws.PollWorkflowTaskQueueResponse) -> None:
        """Here is one that the short way has no word for: with queries, a history to be read, a further attempt."""
        ...

    def lose(self, run_id: str) -> None:
        """What the run has decided last could not be written: forget what its code has done."""
        ...


class StandingPoll(Protocol):
    """A poll that goes on until it is closed."""

    def pause(self) -> None:
        """Bring no more for now. Harmless to repeat."""
        ...

    def resume(self) -> None:
        """Go on, with what has come meanwhile first. Harmless to repeat."""
        ...

    def close(self) -> None:
        """Bring no more, ever; tasks on their way go back to their queue. Harmless to repeat."""
        ...


class Direct(Protocol):
    """The short way."""

    def poll_activities(self, request: ws.PollActivityTaskQueueRequest, taker: ActivityTaker) -> StandingPoll:
        """As repeated polls of that request would, without end.

        Raises:
            RpcError: what the poll would have been refused with.
        """
        ...

    def poll_workflow_tasks(
        self,
        request: ws.PollWorkflowTaskQueueRequest,
        completion: ws.RespondWorkflowTaskCompletedRequest,
        taker: WorkflowTaker,
    ) -> StandingPoll:
        """As repeated polls of that request would, without end.

        Args:
            request: which queue.
            completion: what every completion says besides its commands; neither token nor commands.
            taker: gets the tasks, from the event loop's turns.

        Raises:
            RpcError: what the poll would have been refused with.
        """
        ...


def direct_of(service: WorkflowService) -> Direct | None:
    """The short way to a service, if it has one."""
    offered: property | None = getattr(type(service), "direct", None)
    return None if offered is None else offered.__get__(service)
