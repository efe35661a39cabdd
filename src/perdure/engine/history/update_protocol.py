"""What a worker says about updates: the messages of a completion, checked and carried out among its commands.

Each message is an Acceptance, a Rejection or a Response about one update, packed as an ``Any``. A PROTOCOL_MESSAGE
command names a message and marks its place among the other commands. Messages that no command names come after all
commands; when the run closes, only the rejections among them still matter, and they come first.

As commands are, messages are checked as a whole before anything is carried out. One that is malformed, or that does
not fit the state of its update, fails the task.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from google.protobuf.message import DecodeError, Message

from perdure.api import messages as m
from perdure.engine.history import failures, update
from perdure.engine.history.planning import Apply, BadCommand, Check, Mailbox, Plan, Step
from perdure.engine.history.transition import Transition

_CAUSE: Final = m.WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_BAD_UPDATE_WORKFLOW_EXECUTION_MESSAGE
_PLAIN: Final = m.Command()
_MESSAGES_MAX: Final = 10_000
"""Messages of one completion."""


def _bad(reason: str) -> BadCommand:
    return BadCommand(_CAUSE, reason)


def open_mailbox(plan: Plan, request: m.RespondWorkflowTaskCompletedRequest) -> None:
    """Give the plan its messages. Raises BadCommand."""
    messages = list(request.messages)
    if len(messages) > _MESSAGES_MAX:
        raise _bad(f"{len(messages)} messages in one completion, at most {_MESSAGES_MAX}.")
    plan.mailbox = mailbox = Mailbox({message.id: message for message in messages})
    if len(mailbox.messages) < len(messages):
        raise _bad("two messages have the same id.")


def check_command(plan: Plan, attributes: m.ProtocolMessageCommandAttributes) -> tuple[Apply, Any]:
    """The check of a PROTOCOL_MESSAGE command. Raises BadCommand."""
    mailbox = plan.mailbox
    message = None if mailbox is None else mailbox.messages.pop(attributes.message_id, None)
    if message is None:
        raise _bad(f"ProtocolMessageCommand names message {attributes.message_id!r}, which was not sent.")
    kind, prepared = _check(plan, message)
    return kind.apply, prepared


def apply_command(
    plan: Plan,
    transition: Transition,
    command: m.Command,
    attributes: m.ProtocolMessageCommandAttributes,
    checked: tuple[Apply, Any],
) -> None:
    apply, prepared = checked
    apply(plan, transition, command, None, prepared)


def plan_rest(plan: Plan, steps: list[Step]) -> list[Step]:
    """The steps together with those of the messages that no command names. Raises BadCommand."""
    mailbox = plan.mailbox
    assert mailbox is not None, "asked only when there are messages"
    rejections: list[Step] = []
    others: list[Step] = []
    for message in list(mailbox.messages.values()):
        kind, prepared = _check(plan, message)
        step = (kind.apply, _PLAIN, None, prepared)
        (rejections if kind.message is m.Rejection else others).append(step)
    return rejections + steps if plan.closes else steps + rejections + others


def only_rejects(request: m.RespondWorkflowTaskCompletedRequest) -> bool:
    """The worker has rejected updates, and said nothing else."""
    return not request.commands and all(message.body.Is(m.Rejection.DESCRIPTOR) for message in request.messages)


class _Kind(NamedTuple):
    message: type[Message]
    check: Check
    apply: Apply


def _check(plan: Plan, message: m.Message) -> tuple[_Kind, Any]:
    if not message.protocol_instance_id:
        raise _bad(f"message {message.id!r} has no protocol_instance_id.")
    kind = _KINDS.get(message.body.TypeName())
    if kind is None:
        raise _bad(f"message {message.id!r} is of unknown type {message.body.TypeName()!r}.")
    body = kind.message()
    try:
        body.ParseFromString(message.body.value)
    except DecodeError as error:
        raise _bad(f"message {message.id!r} can't be read: {error}.") from None
    return kind, (message.protocol_instance_id, kind.check(plan, (message.protocol_instance_id, body)))


def _stage(plan: Plan, update_id: str) -> update.UpdateStage:
    """How far the update is after the messages before."""
    mailbox = plan.mailbox
    assert mailbox is not None, "a message comes from it"
    if update_id in mailbox.ended:
        return update.UpdateStage.COMPLETED
    if update_id in mailbox.accepted:
        return update.UpdateStage.ACCEPTED
    return update.stage(plan.run, update_id)


def _expect(plan: Plan, update_id: str, wanted: update.UpdateStage, what: str) -> None:
    found = _stage(plan, update_id)
    if found is update.UpdateStage.NONE:
        raise _bad(f"{what} of update {update_id!r}, which the server does not know.")
    if found is not wanted:
        raise _bad(f"{what} of update {update_id!r}, which is {found.name.lower()}.")


def _check_acceptance(plan: Plan, said: tuple[str, m.Acceptance]) -> m.Acceptance:
    update_id, acceptance = said
    if not acceptance.accepted_request_message_id:
        raise _bad(f"Acceptance of update {update_id!r} has no accepted_request_message_id.")
    _expect(plan, update_id, update.UpdateStage.ADMITTED, "Acceptance")
    assert plan.mailbox is not None, "a message comes from it"
    plan.mailbox.accepted.add(update_id)
    return acceptance


def _accept(plan: Plan, transition: Transition, _command: m.Command, _: Any, said: tuple[str, m.Acceptance]) -> None:
    if plan.run.is_open:
        update.accept(transition, *said)


def _check_rejection(plan: Plan, said: tuple[str, m.Rejection]) -> m.Failure:
    update_id, rejection = said
    if not rejection.HasField("failure"):
        raise _bad(f"Rejection of update {update_id!r} has no failure.")
    _expect(plan, update_id, update.UpdateStage.ADMITTED, "Rejection")
    assert plan.mailbox is not None, "a message comes from it"
    plan.mailbox.ended.add(update_id)
    return failures.bounded(rejection.failure, plan.limits.blob_bytes)


def _reject(plan: Plan, transition: Transition, _command: m.Command, _: Any, said: tuple[str, m.Failure]) -> None:
    update.reject(transition, *said)


def _check_response(plan: Plan, said: tuple[str, m.Response]) -> m.Response:
    update_id, response = said
    if response.meta.update_id != update_id:
        raise _bad(f"Response to update {update_id!r} speaks of update {response.meta.update_id!r}.")
    value = response.outcome.WhichOneof("value")
    if value is None:
        raise _bad(f"Response to update {update_id!r} has no outcome.")
    if value == "failure":
        failure = failures.bounded(response.outcome.failure, plan.limits.blob_bytes)
        if failure is not response.outcome.failure:
            response.outcome.failure.CopyFrom(failure)
    elif response.outcome.ByteSize() > plan.limits.blob_bytes:
        raise _bad(f"Response to update {update_id!r} exceeds size limit of {plan.limits.blob_bytes} bytes.")
    _expect(plan, update_id, update.UpdateStage.ACCEPTED, "Response")
    assert plan.mailbox is not None, "a message comes from it"
    plan.mailbox.ended.add(update_id)
    return response


def _respond(plan: Plan, transition: Transition, _command: m.Command, _: Any, said: tuple[str, m.Response]) -> None:
    if plan.run.is_open:
        update.complete(transition, *said)


_KINDS: Final[dict[str, _Kind]] = {
    kind.message.DESCRIPTOR.full_name: kind
    for kind in (
        _Kind(m.Acceptance, _check_acceptance, _accept),
        _Kind(m.Rejection, _check_rejection, _reject),
        _Kind(m.Response, _check_response, _respond),
    )
}
