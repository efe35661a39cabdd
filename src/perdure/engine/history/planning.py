"""What checking the commands of one completion needs: the plan, the refusal, and checks that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, Protocol

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from msgspec import Struct

from perdure.api import messages as m
from perdure.engine.history import cron, events, retrying
from perdure.engine.history.recording import append
from perdure.engine.history.state import Run
from perdure.engine.history.transition import Limits, Transition
from perdure.engine.visibility.values import BadAttributeError, typed

_SPAN_MAX_MS: Final = 100 * 365 * 24 * 3600 * 1000

Cause = m.WorkflowTaskFailedCause.ValueType
_C = m.WorkflowTaskFailedCause


class SetsSearchAttributes(Protocol):
    """Attributes of a command that may set search attributes."""

    @property
    def search_attributes(self) -> m.SearchAttributes: ...


class BadCommand(Exception):
    """A command that can't be carried out; the task fails with `cause`."""

    def __init__(self, cause: Cause, reason: str) -> None:
        name = m.WorkflowTaskFailedCause.Name(cause).removeprefix("WORKFLOW_TASK_FAILED_CAUSE_")
        title = name.title().replace("_", "")
        super().__init__(f"{title}: {reason}" if reason else title)
        self.cause = cause


class Plan(Struct):
    """The commands of one completion: what was checked so far, and what carrying them out needs."""

    run: Run
    limits: Limits
    now_ms: int
    identity: str
    new_id: Callable[[], str]
    buffered: int
    """Buffered events that remain when timers whose firing was buffered are cancelled."""
    completed_event_id: int = 0
    closes: bool = False
    activity_ids: set[str] = set()
    cancelled_activities: set[int] = set()
    timers: dict[str, bool] = {}
    """Timers started (True) or cancelled (False) by earlier commands."""
    children: int = 0
    signals: int = 0
    cancels: int = 0
    memo_bytes: int = 0
    """What earlier commands add to the memo."""
    visibility: bool = False
    unsent_updates: bool = False
    """Updates have come that the worker has not seen."""
    attributes: Mapping[str, int] | None = None
    """The types of the namespace's own search attributes, by name; None: it has none."""
    mailbox: Mailbox | None = None
    """None: the worker sends no messages."""
    endpoints: Mapping[str, str] | None = None
    """Ids of the Nexus endpoints by name; None: there are none."""
    nexus: int = 0
    cancelled_nexus: set[int] = set()


class Mailbox(Struct):
    """The messages of a completion that were not planned yet, by id, and what the planned ones will have done."""

    messages: dict[str, m.Message]
    accepted: set[str] = set()
    """Update ids."""
    ended: set[str] = set()
    """Of updates that were completed or rejected."""


Check = Callable[[Plan, Any], Any]
"""(plan, the command's attributes) → whatever carrying it out needs again; raises BadCommand."""
Apply = Callable[[Plan, Transition, m.Command, Any, Any], None]
"""(plan, transition, command, attributes, what the check returned)."""


Step = tuple[Apply, m.Command, Any, Any]
"""A checked command: (apply, command, its attributes, what the check returned)."""


class Handler(NamedTuple):
    """How one type of command is treated."""

    attributes: str
    check: Check
    apply: Apply


def write(transition: Transition, command: m.Command, event: m.HistoryEvent) -> None:
    """Append the event of a command."""
    events.carry_command_metadata(event, command)
    append(transition, event)


def at_limit(what: str, limit: int, setting: str) -> str:
    """What a refusal says when there is too much of something at once."""
    return (
        f"the number of {what} has reached the limit of {limit}: have fewer at once, or open with Limits({setting}=…)."
    )


def check_name(plan: Plan, name: str, what: str, cause: Cause) -> None:
    if not name:
        raise BadCommand(cause, f"{what} is not set on command.")
    if len(name) > plan.limits.id_length:
        raise BadCommand(cause, f"{what} exceeds the length limit of {plan.limits.id_length} characters.")
    if "\0" in name:
        raise BadCommand(cause, f"{what} holds a NUL character.")


def check_length(plan: Plan, name: str, cause: Cause) -> None:
    if len(name) > plan.limits.id_length:
        raise BadCommand(cause, f"TaskQueue exceeds the length limit of {plan.limits.id_length} characters.")


def check_size(plan: Plan, part: Message, what: str, cause: Cause) -> None:
    if part.ByteSize() > plan.limits.blob_bytes:
        raise BadCommand(cause, f"{what} exceeds size limit of {plan.limits.blob_bytes} bytes.")


def check_search_attributes(plan: Plan, attributes: SetsSearchAttributes, *, keep_removals: bool = False) -> None:
    """Refuse search attributes that can't be set; write the types into those that can, in place."""
    if not attributes.search_attributes.indexed_fields:
        return
    try:
        checked = typed(
            attributes.search_attributes,
            plan.run.state.namespace,
            plan.attributes or {},
            plan.limits.of_attributes,
            keep_removals=keep_removals,
        )
    except BadAttributeError as bad:
        raise BadCommand(_C.WORKFLOW_TASK_FAILED_CAUSE_BAD_SEARCH_ATTRIBUTES, f"{bad}.") from None
    attributes.search_attributes.CopyFrom(checked)


def check_span(duration: Duration, what: str, cause: Cause) -> int:
    seconds = duration.seconds
    nanos = duration.nanos
    if seconds < 0 or nanos < 0:
        raise BadCommand(cause, f"{what} is negative.")
    ms = seconds * 1000 + -(-nanos // 1_000_000)
    return ms if ms < _SPAN_MAX_MS else _SPAN_MAX_MS


def check_namespace(plan: Plan, namespace: str, cause: Cause) -> None:
    if namespace and namespace != plan.run.state.namespace:
        raise BadCommand(cause, f"namespace {namespace!r} is not the workflow's own: that is not allowed.")


def check_cron(schedule: str, cause: Cause) -> None:
    if schedule:
        try:
            cron.check(schedule)
        except ValueError as error:
            raise BadCommand(cause, f"Invalid CronSchedule {schedule[:100]!r}: {error}") from None


def check_policy(message: m.RetryPolicy, cause: Cause) -> retrying.Policy:
    try:
        return retrying.policy_of(message)
    except ValueError as error:
        raise BadCommand(cause, str(error)) from None
