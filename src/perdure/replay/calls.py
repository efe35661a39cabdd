"""What workflow code has asked for and may still be waiting for: one class per kind of request.

Each call is the future (or timer handle) the code awaits and at once the machine that history drives: it is issued
as a command, recorded under an event id, and resolved by a later event that names that id. Cancelling one is where
the kinds differ: a call whose command has not left yet is simply taken back; otherwise a cancel command is issued,
and the cancellation type says whether the code waits for its outcome.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context
from enum import IntEnum
from typing import TYPE_CHECKING, Any, TypeVar, overload

from perdure.replay.definition import UNSET, HandlerDefinition, arguments
from perdure.replay.frames import Site, place_of_wait
from perdure.replay.loop import WorkflowFuture
from perdure.replay.outcome import StepCall
from perdure.replay.ports import ActivityCancellationType

if TYPE_CHECKING:
    from perdure.api.direct import Command
    from perdure.replay.runtime import WorkflowRuntime

__all__ = [
    "ActivityHandle",
    "Call",
    "ChildHandle",
    "ChildStart",
    "ChildWorkflowCancellationType",
    "ExternalCancel",
    "ExternalSignal",
    "Issued",
    "StepFuture",
    "Timer",
    "command",
]

_T = TypeVar("_T")
_P = TypeVar("_P")


class command:
    """Command types, as in the API's CommandType."""

    SCHEDULE_ACTIVITY = 1
    CANCEL_ACTIVITY = 2
    START_TIMER = 3
    COMPLETE_WORKFLOW = 4
    FAIL_WORKFLOW = 5
    CANCEL_TIMER = 6
    CANCEL_WORKFLOW = 7
    CANCEL_EXTERNAL = 8
    RECORD_MARKER = 9
    CONTINUE_AS_NEW = 10
    START_CHILD = 11
    SIGNAL_EXTERNAL = 12
    UPSERT_SEARCH_ATTRIBUTES = 13
    MODIFY_PROPERTIES = 16
    ACCEPT_UPDATE = 114
    """This and the next are both of type PROTOCOL_MESSAGE (14); they become different events."""
    COMPLETE_UPDATE = 214


class ChildWorkflowCancellationType(IntEnum):
    """What happens when workflow code stops waiting for a child because it is cancelled."""

    ABANDON = 0
    """Raise the cancellation at once; the child is not told."""
    TRY_CANCEL = 1
    """Ask the child to cancel, and raise the cancellation at once."""
    WAIT_CANCELLATION_COMPLETED = 2
    """Ask the child to cancel, and wait for what it answers."""
    WAIT_CANCELLATION_REQUESTED = 3
    """Ask the child to cancel, and wait until the request has reached it."""


class Issued:
    """One command, from the code's request to the event that records it.

    Attributes:
        kind: its command type.
        call: what asked for it; for commands without a call the values that identify it.
        place: code object and instruction that asked; None for a call that is awaited at once, as long as it is:
            taking a place costs more than the rest of a command, and the task that waits stands there anyway.
        message: the API's command; None while replaying, when nobody sends it.
        task: number of the workflow task it belongs to.
        dropped: taken back before it left.
    """

    __slots__ = ("call", "dropped", "kind", "message", "place", "task")

    def __init__(self, kind: int, call: Any, place: Any, message: Command | None, task: int) -> None:
        self.kind = kind
        self.call = call
        self.place = place
        self.message = message
        self.task = task
        self.dropped = False

    @property
    def site(self) -> Site | None:
        """Where it was asked for."""
        call: Any = self.call
        if self.place is None and isinstance(call, Call):
            tasks = call.runtime.loop.tasks_by_wait()
            self.keep_place(tasks)
            if self.place is None:
                # A task of its own without a line of the user's, as `gather` makes them: where the code waits for it.
                main = next((task for task in tasks.values() if task.get_name() == "main"), None)
                self.place = place_of_wait(main) if main is not None else None
        return Site(*self.place) if self.place is not None else None

    def keep_place(self, tasks: Mapping[Any, Any]) -> None:
        """Take the place of a call that is awaited, as long as it is; `tasks` are by what they wait for."""
        call: Any = self.call
        if self.place is None and isinstance(call, Call):
            task = tasks.get(call)
            self.place = place_of_wait(task) if task is not None else None

    def keep_function(self, fn: Any) -> None:
        """Take the beginning of a function as the place: all there is to point at when its code has ended."""
        code = getattr(fn, "__code__", None)
        self.place = (code, 0) if code is not None else None


class Call(WorkflowFuture[_T]):
    """A request that an event resolves.

    Attributes:
        issued: the command that asks for it, until an event has recorded it.
        event_id: id of that event; 0 before.
    """

    __slots__ = ("event_id", "issued", "runtime")

    def __init__(self, runtime: WorkflowRuntime) -> None:
        super().__init__(runtime.loop)
        self.runtime = runtime
        self.issued: Issued | None = None
        self.event_id = 0

    def take_back(self) -> bool:
        """Drop the command if it has not left yet."""
        issued = self.issued
        if issued is None or issued.task != self.runtime.task_number or self.runtime.loop.inert:
            return False
        issued.dropped = True
        return True

    def resolve(self, value: _T) -> None:
        """Set the result, unless nobody waits any more."""
        if not self.done():
            self.set_result(value)

    def reject(self, error: BaseException) -> None:
        """Set the error, unless nobody waits any more."""
        if not self.done():
            self.set_exception(error)

    def finish_cancel(self, msg: Any = None) -> bool:
        """Cancel the future itself."""
        return super().cancel(msg)


class ActivityHandle(Call[_T]):
    """A scheduled activity; awaiting it gives the result.

    Attributes:
        name: the activity's type.
        activity_id: its id within the run.
    """

    __slots__ = ("activity_id", "cancel_requested", "cancellation_type", "name", "result_type")

    def __init__(
        self,
        runtime: WorkflowRuntime,
        name: str,
        activity_id: str,
        cancellation_type: ActivityCancellationType,
        result_type: Any,
    ) -> None:
        # One of these per step: its base classes' work, without their calls.
        loop = runtime.loop
        asyncio.Future.__init__(self, loop=loop)  # pyright: ignore[reportUnknownMemberType] - a C type
        self._number = loop.next_number()
        self.runtime = runtime
        self.issued = None
        self.event_id = 0
        self.name = name
        self.activity_id = activity_id
        self.cancellation_type = cancellation_type
        self.result_type = result_type
        self.cancel_requested = False

    def cancel(self, msg: Any = None) -> bool:
        if self.done():
            return False
        kind = self.cancellation_type
        if kind is ActivityCancellationType.ABANDON:
            return self.finish_cancel(msg)
        if not self.cancel_requested:
            self.cancel_requested = True
            if self.take_back():
                return self.finish_cancel(msg)
            self.runtime.issue(command.CANCEL_ACTIVITY, self)
        if kind is ActivityCancellationType.WAIT_CANCELLATION_COMPLETED:
            return True
        return self.finish_cancel(msg)


class Timer(asyncio.TimerHandle):
    """A durable timer: `call_later`'s handle."""

    __slots__ = ("_number", "done", "event_id", "issued", "runtime", "summary", "timer_id")

    def __init__(
        self,
        runtime: WorkflowRuntime,
        timer_id: str,
        when_s: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: Context,
    ) -> None:
        self._context = context
        self._callback = callback
        self._args = args
        self._loop = runtime.loop
        self._cancelled = False
        self._repr = None
        self._source_traceback = None
        self._when = when_s
        self._scheduled = True
        self._number = runtime.loop.next_number()
        self.runtime = runtime
        self.timer_id = timer_id
        self.issued: Issued | None = None
        self.event_id = 0
        self.done = False

    def __hash__(self) -> int:
        return self._number

    def fire(self) -> None:
        """The timer's event has come."""
        if not self.done:
            self.done = True
            self.runtime.loop.ready.append(self)

    def cancel(self) -> None:
        if self._cancelled:
            return
        self._cancelled = True
        if self.done:
            return
        self.done = True
        if self.runtime.loop.inert:
            return
        issued = self.issued
        if issued is not None and issued.task == self.runtime.task_number:
            issued.dropped = True
        else:
            self.runtime.issue(command.CANCEL_TIMER, self)


class ChildStart(Call[None]):
    """Waits for a child to have started; cancelling it cancels the child."""

    __slots__ = ("child",)

    def __init__(self, runtime: WorkflowRuntime, child: ChildHandle[Any]) -> None:
        super().__init__(runtime)
        self.child = child

    def cancel(self, msg: Any = None) -> bool:
        if self.done():
            return False
        if self.child.request_cancel():
            return True
        self.child.finish_cancel(msg)
        return self.finish_cancel(msg)


class ChildHandle(Call[_T]):
    """A child workflow; awaiting it gives the result.

    Attributes:
        id: the child's workflow id.
        name: its workflow type.
        namespace: where it lives.
        started: resolves once it has started.
        first_execution_run_id: its first run's id, once it has started.
        started_event_id: id of the event that says so; 0 before.
    """

    __slots__ = (
        "cancel_requested",
        "cancellation_type",
        "first_execution_run_id",
        "id",
        "name",
        "namespace",
        "result_type",
        "started",
        "started_event_id",
    )

    def __init__(
        self,
        runtime: WorkflowRuntime,
        *,
        name: str,
        workflow_id: str,
        namespace: str,
        cancellation_type: ChildWorkflowCancellationType,
        result_type: Any,
    ) -> None:
        super().__init__(runtime)
        self.name = name
        self.id = workflow_id
        self.namespace = namespace
        self.cancellation_type = cancellation_type
        self.result_type = result_type
        self.started = ChildStart(runtime, self)
        self.first_execution_run_id: str | None = None
        self.started_event_id = 0
        self.cancel_requested = False

    def cancel(self, msg: Any = None) -> bool:
        if self.done():
            return False
        if self.request_cancel():
            return True
        return self.finish_cancel(msg)

    @overload
    async def signal(self, signal: Callable[[Any], Any]) -> None: ...

    @overload
    async def signal(self, signal: Callable[[Any, _P], Any], arg: _P) -> None: ...

    @overload
    async def signal(self, signal: str, arg: Any = ...) -> None: ...

    @overload
    async def signal(self, signal: str | Callable[..., Any], *, args: Sequence[Any]) -> None: ...

    async def signal(
        self, signal: str | Callable[..., Any], arg: Any = UNSET, *, args: Sequence[Any] | None = None
    ) -> None:
        """Signal the child; returns once the signal has been delivered.

        Args:
            signal: the decorated handler, or the signal's name.
            arg: its only argument.
            args: its arguments, if there are several.

        Raises:
            ApplicationError: of type "ExternalWorkflowNotFound" if the child has closed.
        """
        given = arguments(arg, args)
        name, arg_types = HandlerDefinition.signal(signal, given)
        await self.runtime.signal_external(self.id, "", name, given, arg_types=arg_types, child=True)

    def request_cancel(self) -> bool:
        """Ask the child to cancel, as its cancellation type says; True if the code has to wait for the outcome."""
        kind = self.cancellation_type
        if kind is ChildWorkflowCancellationType.ABANDON:
            return False
        if not self.cancel_requested:
            self.cancel_requested = True
            if self.take_back():
                return False
            if self.started_event_id:
                self.issue_cancel()
        return kind is not ChildWorkflowCancellationType.TRY_CANCEL

    def issue_cancel(self) -> None:
        """Issue the cancel command; the child has started."""
        self.runtime.issue(command.CANCEL_EXTERNAL, ExternalCancel(self.runtime, self.id, "", child=self))

    def cancel_delivered(self) -> None:
        """The cancel request has reached the child."""
        if self.cancellation_type is ChildWorkflowCancellationType.WAIT_CANCELLATION_REQUESTED:
            self.finish_cancel()


class ExternalSignal(Call[None]):
    """A signal to another workflow; resolves once it has been delivered."""

    __slots__ = ("name", "workflow_id")

    def __init__(self, runtime: WorkflowRuntime, workflow_id: str, name: str) -> None:
        super().__init__(runtime)
        self.workflow_id = workflow_id
        self.name = name

    def cancel(self, msg: Any = None) -> bool:
        if not self.done():
            self.take_back()
        return self.finish_cancel(msg)


class ExternalCancel(Call[None]):
    """A cancel request to another workflow; resolves once it has been delivered."""

    __slots__ = ("child", "run_id", "workflow_id")

    def __init__(
        self, runtime: WorkflowRuntime, workflow_id: str, run_id: str, *, child: ChildHandle[Any] | None = None
    ) -> None:
        super().__init__(runtime)
        self.workflow_id = workflow_id
        self.run_id = run_id
        self.child = child

    def cancel(self, msg: Any = None) -> bool:
        if not self.done():
            self.take_back()
        return self.finish_cancel(msg)


class StepFuture(Call[Any]):
    """A `workflow.step`: the worker runs it, a marker records it.

    Attributes:
        step: what the worker is asked to run.
    """

    __slots__ = ("step",)

    def __init__(self, runtime: WorkflowRuntime, step: StepCall) -> None:
        super().__init__(runtime)
        self.step = step

    def cancel(self, msg: Any = None) -> bool:
        if not self.done():
            self.runtime.steps.pop(self.step.step_id, None)
        return self.finish_cancel(msg)
