"""Updates of one run: requests that its code checks, carries out, and answers.

A request comes as a protocol message of a workflow task. It is admitted where signals are delivered: ahead of the code
that the same task wakes, in order. Admitting one runs its validator, which may change nothing, or the workflow task
fails; what else the validator raises rejects the update, and leaves no trace. Otherwise the update is accepted and its
handler begins at once; the handler's end completes the update. Both are commands (of type PROTOCOL_MESSAGE) whose
messages travel beside them, and both become events.

A replay gets its requests from the accepted-events that the task being replayed has left; the validator has had its
say and is not asked again. An update nobody handles waits until the code of its task has come to rest, since a
workflow function sets its handlers while it runs; then it is rejected.

A run that closes lets the update handlers under way go on until its code rests, so that their answers leave with the
closing command, which comes last.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable, Coroutine, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from inspect import iscoroutine, iscoroutinefunction
from typing import TYPE_CHECKING, Any
from weakref import proxy

from perdure.api import messages as m
from perdure.exceptions import ApplicationError, DefinitionError, NondeterminismError, ReadOnlyContextError
from perdure.replay.calls import Issued, command
from perdure.replay.commands import protocol_message
from perdure.replay.definition import Signature, describe_callable
from perdure.replay.endings import fails_task, leaves_debugger, renewal_in, result_error
from perdure.replay.frames import strip_internal_frames
from perdure.replay.handlers import Handler
from perdure.replay.loop import ReadyHandle
from perdure.replay.unfinished import HandlerUnfinishedPolicy

if TYPE_CHECKING:
    from perdure.replay.runtime import WorkflowRuntime

__all__ = ["CURRENT_UPDATE", "UpdateInfo", "UpdateRequest", "Updates", "check_validator", "gather_requests"]


_ADMITTED = m.EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED


@dataclass(frozen=True, slots=True)
class UpdateInfo:
    """The update that code runs for.

    Attributes:
        id: unique within the workflow; the caller's, or made for it.
        name: of the update.
    """

    id: str
    name: str


CURRENT_UPDATE: ContextVar[UpdateInfo | None] = ContextVar("perdure-update", default=None)
"""The update whose validator or handler runs; tasks begun by it inherit it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateRequest:
    """An update as it reached the run.

    Attributes:
        message_id: of the message that brought it.
        instance_id: names the update in messages and events.
        event_id: of the event after which it counts.
        request: what is asked.
    """

    message_id: str
    instance_id: str
    event_id: int
    request: m.Request

    @staticmethod
    def of_message(message: m.Message) -> UpdateRequest:
        """A request as a workflow task brings it.

        Raises:
            ValueError: the message is of another protocol.
        """
        request = m.Request()
        if not message.body.Unpack(request):
            raise ValueError(
                f"a workflow task brought a message of type {message.body.type_url!r}, which this version of Perdure "
                "does not know: update perdure where this worker runs"
            )
        return UpdateRequest(
            message_id=message.id,
            instance_id=message.protocol_instance_id,
            event_id=message.event_id,
            request=request,
        )

    @staticmethod
    def of_admitted(event: m.HistoryEvent) -> UpdateRequest:
        """A request that an event recorded before the code saw it."""
        request = event.workflow_execution_update_admitted_event_attributes.request
        update_id = request.meta.update_id
        return UpdateRequest(
            message_id=f"{update_id}/request", instance_id=update_id, event_id=event.event_id, request=request
        )

    @staticmethod
    def of_accepted(event: m.HistoryEvent, admitted: dict[str, UpdateRequest]) -> UpdateRequest:
        """The request that an accepted-event tells of, or one of those `admitted` by earlier events."""
        attrs = event.workflow_execution_update_accepted_event_attributes
        known = admitted.pop(attrs.protocol_instance_id, None)
        if known is not None:
            return known
        return UpdateRequest(
            message_id=attrs.accepted_request_message_id,
            instance_id=attrs.protocol_instance_id,
            event_id=attrs.accepted_request_sequencing_event_id,
            request=attrs.accepted_request,
        )


class Updates:
    """What handles this run's updates, and what has been answered in the current workflow task.

    Attributes:
        messages: answers that leave with the commands of the current task.
        closing: closes the run, once its code rests: set while update handlers may still finish.
    """

    __slots__ = ("_handlers", "_running", "_runtime", "_waiting", "closing", "messages")

    def __init__(self, runtime: WorkflowRuntime) -> None:
        # The runtime holds this: held weakly in turn, so that dropping a run frees both at once.
        self._runtime: WorkflowRuntime = proxy(runtime)
        definition = runtime.definition
        self._handlers: dict[str | None, Handler | None] = dict.fromkeys(definition.updates)
        self._waiting: list[UpdateRequest] = []
        self._running: dict[str, tuple[UpdateInfo, HandlerUnfinishedPolicy]] = {}
        self.messages: list[m.Message] = []
        self.closing: Callable[[], None] | None = None

    # Handlers.

    def set(self, name: str | None, fn: Callable[..., Any] | None, validator: Callable[..., Any] | None = None) -> None:
        """Set or remove a handler; None as name is the handler of all other names. What waits for it is admitted."""
        if fn is None:
            self._handlers.pop(name, None)
            return
        if validator is not None:
            check_validator(validator)
        self._handlers[name] = Handler(fn, Signature(fn), dynamic=name is None, validator=validator)
        self.begin()

    def set_validator(self, name: str | None, validator: Callable[..., Any]) -> None:
        """Set the validator of a handler that is there."""
        check_validator(validator)
        handler = self._exactly(name)
        assert handler is not None, "its handler has just been set"
        handler.validator = validator

    def get(self, name: str | None) -> Callable[..., Any] | None:
        """The handler set for exactly this name."""
        handler = self._exactly(name)
        return handler.fn if handler is not None else None

    def names(self) -> list[str | None]:
        """Names that have a handler; None for the dynamic one."""
        return list(self._handlers)

    def _exactly(self, name: str | None) -> Handler | None:
        """The handler of a name; those of the definition are bound when first asked for."""
        handler = self._handlers.get(name)
        if handler is None and name in self._handlers:
            handler = Handler.bind(self._runtime.definition.updates[name], self._runtime.instance)
            self._handlers[name] = handler
        return handler

    def unfinished(self) -> list[str]:
        """The updates under way that may not be abandoned silently, as ``name (id)``."""
        return [
            f"{info.name} ({info.id})"
            for info, policy in self._running.values()
            if policy is HandlerUnfinishedPolicy.WARN_AND_ABANDON
        ]

    # Requests.

    def deliver(self, requests: Sequence[UpdateRequest]) -> None:
        """Requests have arrived; they are admitted once the code has begun."""
        self._waiting += requests
        if self._runtime.handlers.installed:
            self.begin()

    def begin(self) -> None:
        """Admit what waits, in order."""
        waiting, self._waiting = self._waiting, []
        loop = self._runtime.loop
        for request in waiting:
            context = loop.context.copy()
            context.run(CURRENT_UPDATE.set, UpdateInfo(request.request.meta.update_id, request.request.input.name))
            loop.ready.append(ReadyHandle(self._admit, (request, context), loop, context))

    def _admit(self, request: UpdateRequest, context: Any) -> None:
        runtime = self._runtime
        name = request.request.input.name
        handler = self._exactly(name) or self._exactly(None)
        if handler is None:
            self._waiting.append(request)
            return
        payloads = request.request.input.args.payloads
        what = f"update {name}"
        try:
            args = handler.arguments(runtime.converter, name, payloads, what)
            if handler.validator is not None and not runtime.replaying:
                with runtime.loop.reading("an update's validator"):
                    handler.validator(*args)
                # What the validator did to its arguments is not for the handler to see.
                args = handler.arguments(runtime.converter, name, payloads, what)
        except (Exception, CancelledError) as error:
            self._refuse(request, error)
            return
        self._issue(command.ACCEPT_UPDATE, request, handler, "accept", _acceptance)
        self._start(request, handler, args, context)

    def _start(self, request: UpdateRequest, handler: Handler, args: Sequence[Any], context: Any) -> None:
        runtime = self._runtime
        info = context[CURRENT_UPDATE]
        self._running[request.instance_id] = (info, handler.unfinished_policy)
        runtime.handlers.active += 1
        if not iscoroutinefunction(handler.fn):
            try:
                result = handler.fn(*args)
            except BaseException as error:
                self._fail(request, handler, error)
                return
            if not iscoroutine(result):
                self._finish(request, handler, result)
                return
            coroutine: Coroutine[Any, Any, Any] = result
        else:
            coroutine = handler.fn(*args)
        loop = runtime.loop
        ready = len(loop.ready)
        loop.create_task(self._run(request, handler, coroutine), name=f"update {info.name}", context=context)
        if len(loop.ready) == ready + 1:
            # It begins where it was accepted, ahead of what else is ready.
            loop.ready.rotate(1)

    async def _run(self, request: UpdateRequest, handler: Handler, coroutine: Coroutine[Any, Any, Any]) -> None:
        try:
            result = await coroutine
        except GeneratorExit:
            raise
        except BaseException as error:
            self._fail(request, handler, error)
        else:
            self._finish(request, handler, result)

    # Answers.

    def _refuse(self, request: UpdateRequest, error: BaseException) -> None:
        """The request cannot be accepted."""
        runtime = self._runtime
        if leaves_debugger(error) or isinstance(error, ReadOnlyContextError):
            # A validator that breaks the rules is a mistake of the code, and no word on the request.
            runtime.poison(error)
        elif runtime.replaying:
            raised = NondeterminismError(
                f"this run has accepted update {request.request.input.name!r} ({request.instance_id}), which its code "
                f"cannot handle now: {error} ({runtime.describe()})"
            )
            raised.__cause__ = error
            runtime.poison(raised)
        else:
            strip_internal_frames(error)
            self._reject(request, error)

    def _reject(self, request: UpdateRequest, error: BaseException) -> None:
        failure = self._runtime.converter.to_failure(error)
        self.messages.append(
            _message(
                request,
                "reject",
                m.Rejection(
                    rejected_request_message_id=request.message_id,
                    rejected_request_sequencing_event_id=request.event_id,
                    rejected_request=request.request,
                    failure=failure,
                ),
            )
        )

    def _finish(self, request: UpdateRequest, handler: Handler, result: Any) -> None:
        runtime = self._runtime
        if runtime.loop.inert:
            return
        try:
            hint = handler.signature.return_type
            payloads = runtime.converter.to_payloads((result,), (hint,))
        except Exception as error:
            self._fail(request, handler, result_error(error, f"update {request.request.input.name}"))
            return
        self._answer(request, handler, m.Outcome(success=payloads))

    def _fail(self, request: UpdateRequest, handler: Handler, error: BaseException) -> None:
        runtime = self._runtime
        if isinstance(error, KeyboardInterrupt):
            raise error
        if runtime.loop.inert:
            return
        if renewal_in(error) is not None:
            error = ApplicationError(
                "an update handler may not continue as new: let it set what the run method waits for",
                type="ContinueAsNewInUpdate",
            )
        if fails_task(error) and not isinstance(error, runtime.definition.failure_exception_types):
            runtime.poison(error)
            return
        strip_internal_frames(error)
        self._answer(request, handler, m.Outcome(failure=runtime.converter.to_failure(error)))

    def _answer(self, request: UpdateRequest, handler: Handler, outcome: m.Outcome) -> None:
        del self._running[request.instance_id]
        self._runtime.handlers.active -= 1
        self._issue(command.COMPLETE_UPDATE, request, handler, "complete", partial(_response, outcome))

    def _issue(
        self,
        kind: int,
        request: UpdateRequest,
        handler: Handler,
        what: str,
        body: Callable[[UpdateRequest], m.Acceptance | m.Response],
    ) -> None:
        runtime = self._runtime
        accepted = kind == command.ACCEPT_UPDATE
        identity = {"update_id": request.instance_id if accepted else request.request.meta.update_id}
        if runtime.replaying:
            issued = runtime.issue_built(kind, identity, None)
        else:
            message = _message(request, what, body(request))
            issued = runtime.issue_built(kind, identity, protocol_message(message.id))
            self.messages.append(message)
        _point_at(issued, handler)

    # The end of a task, and of the run.

    def rest(self) -> None:
        """The code of a task has come to rest: what still waits for a handler has none.

        Raises:
            NondeterminismError: the run accepted it once.
        """
        if not self._waiting or self._runtime.loop.inert:
            return
        waiting, self._waiting = self._waiting, []
        known = ", ".join(sorted(name for name in self._handlers if name is not None)) or "none"
        for request in waiting:
            name = request.request.input.name
            if self._runtime.replaying:
                raise NondeterminismError(
                    f"this run has accepted update {name!r} ({request.instance_id}), and its code handles no update of "
                    f"that name now; it has: {known} ({self._runtime.describe()})"
                )
            self._reject(request, LookupError(f"this workflow has no update {name!r}; it has: {known}"))

    def take_messages(self) -> list[m.Message]:
        """What has been answered in the current task."""
        messages, self.messages = self.messages, []
        return messages

    def let_go(self) -> None:
        """The run is evicted: hold nothing that holds this."""
        self._handlers.clear()
        self._waiting.clear()
        self._running.clear()
        self.closing = None

    def defers(self, close: Callable[[], None]) -> bool:
        """Whether the run's close has to wait until its code rests, or waits already; `close` is then called."""
        if self.closing is None and not self._running:
            return False
        self.closing = self.closing or close
        return True

    def close_now(self) -> None:
        """The code rests: do what was deferred, if anything was."""
        close, self.closing = self.closing, None
        if close is not None and not self._runtime.loop.inert:
            close()


def gather_requests(
    found: Sequence[m.Message | m.HistoryEvent], admitted: dict[str, UpdateRequest], *, replaying: bool
) -> list[UpdateRequest]:
    """The requests of one workflow task, in the order in which they are to be delivered.

    Args:
        found: what brings them: messages if the task is live, accepted-events if it is replayed, and events that
            admitted some of them.
        admitted: keeps what such events say until the update is accepted.
        replaying: the task is replayed: those that the accepted-events do not name were rejected.

    Raises:
        ValueError: a message is of another protocol.
    """
    accepted: list[m.HistoryEvent] = []
    requests: dict[str, UpdateRequest] = {}
    for one in found:
        if isinstance(one, m.Message):
            request = UpdateRequest.of_message(one)
            requests.setdefault(request.instance_id, request)
        elif one.event_type == _ADMITTED:
            request = UpdateRequest.of_admitted(one)
            (admitted if replaying else requests)[request.instance_id] = request
        else:
            accepted.append(one)
    if not replaying:
        return sorted(requests.values(), key=lambda request: request.event_id)
    return [UpdateRequest.of_accepted(event, admitted) for event in accepted]


def check_validator(validator: Callable[..., Any]) -> None:
    """Refuse a validator that cannot answer at once.

    Raises:
        DefinitionError: it is async.
    """
    if iscoroutinefunction(validator):
        raise DefinitionError(
            f"{describe_callable(validator)} validates an update, so it may not be async: it has to answer at once"
        )


def _message(request: UpdateRequest, what: str, body: Any) -> m.Message:
    message = m.Message(id=f"{request.message_id}/{what}", protocol_instance_id=request.instance_id)
    message.body.Pack(body)
    return message


def _acceptance(request: UpdateRequest) -> m.Acceptance:
    return m.Acceptance(
        accepted_request_message_id=request.message_id,
        accepted_request_sequencing_event_id=request.event_id,
        accepted_request=request.request,
    )


def _response(outcome: m.Outcome, request: UpdateRequest) -> m.Response:
    return m.Response(meta=request.request.meta, outcome=outcome)


def _point_at(issued: Issued, handler: Handler) -> None:
    issued.keep_function(getattr(handler.fn, "__func__", handler.fn))
