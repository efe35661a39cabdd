"""The run as its own code sees it: what the functions of `perdure.workflow` call.

A runtime owns the event loop, the handlers, everything the code waits for, and the commands of the current workflow
task. Calls from user code append to `commands`; `perdure.replay.events` applies history to what waits. The runtime
knows nothing of pages, segments or outcomes: `WorkflowRun` drives it.

Once the run has closed, failed its task or been evicted the runtime is inert: it answers every call and records none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context, copy_context
from datetime import timedelta
from functools import partial
from typing import Any, NoReturn
from zlib import crc32

from perdure.api import messages as m
from perdure.api.direct import Command
from perdure.common import RawValue
from perdure.exceptions import ReadOnlyContextError, is_cancelled_exception
from perdure.replay import commands as build
from perdure.replay.calls import (
    ActivityHandle,
    ChildHandle,
    ChildWorkflowCancellationType,
    ExternalCancel,
    ExternalSignal,
    Issued,
    StepFuture,
    Timer,
    command,
)
from perdure.replay.checks import LONGEST_TIMER_S, timer_seconds
from perdure.replay.definition import Signature, WorkflowDefinition
from perdure.replay.endings import ContinueAsNewError, fails_task, renewal_in, result_error
from perdure.replay.frames import place_of_call, strip_internal_frames
from perdure.replay.handlers import Handlers
from perdure.replay.info import Info, TaskInfo, info_of
from perdure.replay.loop import ReadyHandle, WorkflowLoop
from perdure.replay.outcome import StepCall
from perdure.replay.ports import ActivityOptions, Converter
from perdure.replay.unfinished import abandoned_by
from perdure.replay.updates import Updates

__all__ = ["WorkflowRuntime"]

log = logging.getLogger("perdure.workflow")

_BUILDERS: dict[int, Callable[[Any], m.Command]] = {
    command.CANCEL_ACTIVITY: build.cancel_activity,
    command.CANCEL_TIMER: build.cancel_timer,
    command.CANCEL_EXTERNAL: build.cancel_external,
}


class WorkflowRuntime:
    """One run's state.

    Attributes:
        replaying: the current workflow task has been completed before.
        task_number: counts workflow tasks; a command issued under the current number has not left yet.
        commands: of the current task.
        pending: what history may still resolve, by the id of the event that recorded it.
        steps: unfinished steps by id, in order.
        closed: a closing command has been issued.
        error: what makes the workflow task fail.
        kept_bytes: size of the messages held.
        conditions: what the code waits for, as (condition, future, context).
        updates: its updates, once there are any.
        abandoned: warnings of the handlers that the run's close has cut short.
    """

    def __init__(self, definition: WorkflowDefinition, *, namespace: str, converter: Converter) -> None:
        self.definition = definition
        self.namespace = namespace
        self.converter = converter
        self.loop = WorkflowLoop(self)
        self.handlers = Handlers(self)
        self.updates: Updates | None = None
        self.abandoned: tuple[RuntimeWarning, ...] = ()
        self.workflow_id = ""
        self.run_id = ""
        self.original_run_id = ""
        self.task_queue = ""
        self.task = TaskInfo()
        self.now_ns = 0
        self.started_at_ms = 0
        self.first_task_at_ms = 0
        self.replaying = True
        self.task_number = 0
        self.commands: list[Issued] = []
        self.pending: dict[int, Any] = {}
        self.steps: dict[str, StepFuture] = {}
        self.closed = False
        self.error: BaseException | None = None
        self.instance: Any = None
        self.cancel_requested = False
        self.cancel_reason: str | None = None
        self.patches_recorded: set[str] = set()
        self.scratch: dict[str, Any] = {}
        """For the authoring API: what it derives from this run and wants to keep with it."""
        self._patches: dict[str, bool] = {}
        self._started = b""
        self.kept_bytes = 0
        self._info: Info | None = None
        self._memo: dict[str, m.Payload] | None = None
        self._search_attributes: dict[str, m.Payload] | None = None
        self.conditions: list[Any] = []
        self.main: Any = None
        self._main_entered = False
        self._activities = self._timers = self._children = self._step_count = 0

    # Commands.

    def issue(self, kind: int, call: Any) -> Issued:
        """Append a command of a kind that needs nothing but the call."""
        message = None if self.replaying else _BUILDERS[kind](call).SerializeToString()
        issued = Issued(kind, call, place_of_call(), message, self.task_number)
        if not self.loop.inert:
            self.commands.append(issued)
        return issued

    def check_writable(self, what: str) -> None:
        """Refuse what a query handler or a validator may not do.

        Raises:
            ReadOnlyContextError: one of them asks.
        """
        if self.loop.read_only:
            raise ReadOnlyContextError(
                f"{self.loop.read_only} may not {what}: do it in a signal handler or the run method"
            )

    def start_activity(
        self,
        name: str,
        args: Sequence[Any],
        options: ActivityOptions,
        *,
        arg_types: Sequence[Any] | None = None,
        result_type: Any = None,
        is_awaited: bool = False,
    ) -> ActivityHandle[Any]:
        """Schedule an activity; see `perdure.replay.context.ActivityStarter`."""
        loop = self.loop
        if loop.read_only:
            self.check_writable("start activities")
        template = build.activity_template(name, self.task_queue, options)
        payloads = self.converter.to_payloads_bytes(args, arg_types)
        self._activities += 1
        activity_id = options.activity_id or str(self._activities)
        handle: ActivityHandle[Any] = ActivityHandle(self, name, activity_id, options.cancellation_type, result_type)
        if not loop.inert:
            message: Command | None = None
            if not self.replaying:
                message = asked = build.schedule_activity(template, activity_id, payloads)
                if options.summary:
                    message = asked.serialize() + build.metadata(self.converter.to_payload(options.summary))
            place = None if is_awaited else place_of_call()
            handle.issued = issued = Issued(command.SCHEDULE_ACTIVITY, handle, place, message, self.task_number)
            self.commands.append(issued)
        return handle

    def start_timer(
        self,
        delay_s: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: Context | None,
        summary: str | None = None,
    ) -> Timer:
        """A durable timer; a delay of nothing is no timer, its callback is ready at once."""
        delay_s = delay_s if delay_s < LONGEST_TIMER_S else timer_seconds(delay_s)
        loop = self.loop
        self._timers += 1
        timer = Timer(
            self, str(self._timers), loop.now_s + delay_s, callback, args, context if context else copy_context()
        )
        if loop.inert:
            timer.done = True
            return timer
        if delay_s <= 0:
            timer.fire()
            return timer
        message = None
        if not self.replaying:
            message = build.start_timer(timer, max(1, round(delay_s * 1000)))
            if summary:
                message.user_metadata.summary.CopyFrom(self.converter.to_payload(summary))
        timer.issued = self.issue_built(command.START_TIMER, timer, message)
        return timer

    def issue_built(self, kind: int, call: Any, message: m.Command | bytes | None) -> Issued:
        """Append a command whose message stands already, or is not needed."""
        encoded = message.SerializeToString() if isinstance(message, m.Command) else message
        issued = Issued(kind, call, place_of_call(), encoded, self.task_number)
        if not self.loop.inert:
            self.commands.append(issued)
        return issued

    def start_child(
        self,
        name: str,
        args: Sequence[Any],
        *,
        arg_types: Sequence[Any] | None,
        result_type: Any,
        id: str | None,
        task_queue: str | None,
        cancellation_type: ChildWorkflowCancellationType,
        memo: Mapping[str, Any] | None,
        search_attributes: Mapping[str, m.Payload] | None,
        **options: Any,
    ) -> ChildHandle[Any]:
        """Start a child workflow; `options` as for `perdure.replay.commands.start_child`."""
        self.check_writable("start child workflows")
        payloads = self.converter.to_payloads(args, arg_types)
        fields = {key: self.converter.to_payload(value) for key, value in (memo or {}).items()}
        self._children += 1
        child: ChildHandle[Any] = ChildHandle(
            self,
            name=name,
            workflow_id=id or f"{self.original_run_id}_{self._children}",
            namespace=self.namespace,
            cancellation_type=cancellation_type,
            result_type=result_type,
        )
        message = None
        if not self.replaying:
            message = build.start_child(
                child,
                payloads,
                task_queue=task_queue or self.task_queue,
                memo=fields,
                search_attributes=search_attributes or {},
                **options,
            )
        child.issued = self.issue_built(command.START_CHILD, child, message)
        return child

    def signal_external(
        self,
        workflow_id: str,
        run_id: str,
        name: str,
        args: Sequence[Any],
        *,
        arg_types: Sequence[Any] | None = None,
        child: bool = False,
    ) -> ExternalSignal:
        """Signal another workflow."""
        self.check_writable("signal other workflows")
        payloads = self.converter.to_payloads(args, arg_types)
        call = ExternalSignal(self, workflow_id, name)
        message = None if self.replaying else build.signal_external(call, run_id, payloads, child=child)
        call.issued = self.issue_built(command.SIGNAL_EXTERNAL, call, message)
        return call

    def cancel_external(self, workflow_id: str, run_id: str) -> ExternalCancel:
        """Ask another workflow to cancel."""
        self.check_writable("cancel other workflows")
        call = ExternalCancel(self, workflow_id, run_id)
        call.issued = self.issue(command.CANCEL_EXTERNAL, call)
        return call

    def step(
        self,
        fn: Callable[..., Any],
        args: Sequence[Any],
        *,
        name: str,
        retry_policy: Any,
        timeout: timedelta | None,
    ) -> StepFuture:
        """Have the worker run a function once and record its result."""
        self.check_writable("run steps")
        self._step_count += 1
        signature = Signature.known(fn)
        if signature is not None:
            signature.check(args, f"step {name}")
        step = StepCall(
            step_id=str(self._step_count),
            name=name,
            fn=fn,
            args=tuple(args),
            retry_policy=retry_policy,
            timeout=timeout,
            return_type=signature.return_type if signature is not None else None,
        )
        future = StepFuture(self, step)
        if not self.loop.inert:
            self.steps[step.step_id] = future
        return future

    def finish_step(self, step_id: str, result: m.Payload | None, failure: m.Failure | None) -> None:
        """A step's outcome: record it and let the code go on. A step nobody waits for any more is ignored."""
        future = self.steps.pop(step_id, None)
        if future is None or self.loop.inert:
            return
        step = future.step
        identity = {"marker": build.STEP_MARKER, "step": step.step_id, "name": step.name}
        message = None
        if not self.replaying:
            data = self.converter.to_payload({"id": step.step_id, "name": step.name})
            details = {"data": data} if result is None else {"data": data, "result": result}
            message = build.marker(build.STEP_MARKER, details, failure)
        self.issue_built(command.RECORD_MARKER, identity, message)
        if failure is not None:
            future.reject(self.converter.from_failure(failure))
        elif not future.done():
            self.resolve_with(future, result, step.return_type)

    def patched(self, patch_id: str, *, deprecated: bool) -> bool:
        """Whether this run follows the new branch of a change; always the same answer for the same id."""
        known = self._patches.get(patch_id)
        if known is not None:
            return known
        self.check_writable("ask for a patch for the first time")
        recorded = patch_id in self.patches_recorded
        answer = recorded or not self.replaying
        self._patches[patch_id] = answer
        if answer:
            message = None
            if not self.replaying:
                data = self.converter.to_payload({"id": patch_id, "deprecated": deprecated})
                message = build.marker(build.PATCH_MARKER, {"patch-data": data})
            self.issue_built(command.RECORD_MARKER, {"marker": build.PATCH_MARKER, "patch": patch_id}, message)
        return answer

    def upsert_memo(self, updates: Mapping[str, Any]) -> None:
        """Change the memo; None removes a key."""
        self.check_writable("change the memo")
        if not updates:
            return
        fields = {key: self.converter.to_payload(value) for key, value in updates.items()}
        memo = self.raw_memo()
        for key, value in updates.items():
            if value is None:
                memo.pop(key, None)
            else:
                memo[key] = fields[key]
        message = None if self.replaying else build.modify_properties(fields)
        self.issue_built(command.MODIFY_PROPERTIES, {"memo_keys": sorted(fields)}, message)

    def upsert_search_attributes(self, fields: Mapping[str, m.Payload], removed: Sequence[str]) -> None:
        """Change search attributes; `removed` names those whose payload says "unset"."""
        self.check_writable("change search attributes")
        if not fields:
            return
        known = self.raw_search_attributes()
        known.update(fields)
        for key in removed:
            known.pop(key, None)
        message = None if self.replaying else build.upsert_search_attributes(fields)
        self.issue_built(command.UPSERT_SEARCH_ATTRIBUTES, {"keys": sorted(fields)}, message)

    def continue_as_new(
        self, args: Sequence[Any], *, arg_types: Sequence[Any] | None, options: Mapping[str, Any]
    ) -> NoReturn:
        """Leave the code and start the next run."""
        self.check_writable("continue as new")
        raise ContinueAsNewError(options, args, arg_types)

    # Waiting.

    def add_condition(self, condition: Callable[[], bool], future: Any) -> None:
        """Resolve a future once a condition holds; it is looked at whenever the code has come to rest."""
        self.conditions.append((condition, future, copy_context()))

    def poll_conditions(self) -> bool:
        """Resolve the futures of conditions that hold; the loop's owner's duty."""
        if not self.conditions:
            return False
        woken = False
        remaining: list[tuple[Callable[[], bool], Any, Context]] = []
        for entry in self.conditions:
            condition, future, context = entry
            if future.done():
                continue
            try:
                holds = context.run(condition)
            except Exception as error:
                future.set_exception(error)
                woken = True
                continue
            if holds:
                future.set_result(None)
                woken = True
            else:
                remaining.append(entry)
        self.conditions = remaining
        return woken

    # What the code may know.

    def info(self) -> Info:
        """The run's info."""
        if self._info is None:
            self._info = info_of(
                self.started_attributes(),
                namespace=self.namespace,
                workflow_id=self.workflow_id,
                run_id=self.run_id,
                started_at_ms=self.started_at_ms,
                first_task_at_ms=self.first_task_at_ms,
                task_timeout=timedelta(seconds=10),
                task=self.task,
            )
        return self._info

    def started_attributes(self) -> m.WorkflowExecutionStartedEventAttributes:
        """Attributes of the first event."""
        return m.WorkflowExecutionStartedEventAttributes.FromString(self._started)

    def raw_memo(self) -> dict[str, m.Payload]:
        """The memo, as payloads."""
        if self._memo is None:
            self._memo = dict(self.started_attributes().memo.fields)
        return self._memo

    def raw_search_attributes(self) -> dict[str, m.Payload]:
        """The search attributes, as payloads."""
        if self._search_attributes is None:
            self._search_attributes = dict(self.started_attributes().search_attributes.indexed_fields)
        return self._search_attributes

    # The life of the run; called by WorkflowRun and by events.

    def start(self, event: m.HistoryEvent) -> None:
        """The WorkflowExecutionStarted event: the code begins in this activation."""
        attrs = event.workflow_execution_started_event_attributes
        self.original_run_id = attrs.original_execution_run_id or self.run_id
        self.task_queue = attrs.task_queue.name
        self.started_at_ms = event.event_time.seconds * 1000 + event.event_time.nanos // 1_000_000
        self._started = attrs.SerializeToString()
        self.kept_bytes = len(self._started)
        self.loop.seed(crc32(self.original_run_id.encode()))
        self.loop.ready.append(ReadyHandle(self._begin, (), self.loop, self.loop.context))

    def _begin(self) -> None:
        definition = self.definition
        try:
            attrs = self.started_attributes()
            args: list[Any] = self._arguments(attrs)
            if definition.cls is not None:
                self.instance = definition.cls(*args) if definition.init_takes_args else definition.cls()
                args = [self.instance, *args]
            self.handlers.install(self.instance)
            if self.updates is not None:
                self.updates.begin()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self.conclude(error)
            return
        self.main = self.loop.create_task(self._run_main(args), name="main", context=self.loop.context.copy())

    def _arguments(self, attrs: m.WorkflowExecutionStartedEventAttributes) -> list[Any]:
        payloads = attrs.input.payloads
        if self.definition.name is None:
            return [[RawValue(payload) for payload in payloads]]
        args = self.converter.from_payloads(payloads, self.definition.arg_types)
        self.definition.signature.check(args, f"workflow {attrs.workflow_type.name}")
        return args

    async def _run_main(self, args: Sequence[Any]) -> None:
        self._main_entered = True
        try:
            result = await self.definition.run(*args)
        except (GeneratorExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.conclude(error)
        else:
            self._complete(result)

    def _complete(self, result: Any) -> None:
        if self.loop.inert:
            return
        try:
            payloads = self.converter.to_payloads_bytes((result,), (self.definition.return_type,))
        except Exception as error:
            self.conclude(result_error(error, f"workflow {self.definition.name or 'of any type'}"))
            return
        message = None if self.replaying else build.complete_workflow(payloads)
        self._close(command.COMPLETE_WORKFLOW, {}, message)

    def conclude(self, error: BaseException) -> None:
        """The code, or a signal handler, has ended with an error: close the run, or fail the workflow task."""
        if self.loop.inert:
            return
        renewal = renewal_in(error)
        if renewal is not None:
            self._continue(renewal)
        elif self.cancel_requested and is_cancelled_exception(error):
            self._close(command.CANCEL_WORKFLOW, {}, None if self.replaying else build.cancel_workflow())
        elif fails_task(error) and not isinstance(error, self.definition.failure_exception_types):
            self.poison(error)
        else:
            strip_internal_frames(error)
            message = None if self.replaying else build.fail_workflow(self.converter.to_failure(error))
            self._close(command.FAIL_WORKFLOW, {}, message)

    def _continue(self, error: ContinueAsNewError) -> None:
        options = dict(error.options)
        name = options.pop("workflow_type", None) or self.started_attributes().workflow_type.name
        memo = options.pop("memo", None)
        attributes = options.pop("search_attributes", None)
        try:
            payloads = self.converter.to_payloads(error.arguments, error.arg_types)
            fields = self.raw_memo() if memo is None else {k: self.converter.to_payload(v) for k, v in memo.items()}
        except Exception as conversion:
            self.conclude(conversion)
            return
        message = None
        if not self.replaying:
            message = build.continue_as_new(
                payloads,
                workflow_type=name,
                task_queue=options.pop("task_queue", None) or self.task_queue,
                memo=fields,
                search_attributes=self.raw_search_attributes() if attributes is None else attributes,
                **options,
            )
        self._close(command.CONTINUE_AS_NEW, {"workflow_type": name}, message)

    def need_updates(self) -> Updates:
        """The updates of this run."""
        if self.updates is None:
            self.updates = Updates(self)
        return self.updates

    def _close(self, kind: int, identity: dict[str, Any], message: m.Command | bytes | None) -> None:
        if self.updates is None or not self.updates.defers(partial(self._close_now, kind, identity, message)):
            self._close_now(kind, identity, message)

    def _close_now(self, kind: int, identity: dict[str, Any], message: m.Command | bytes | None) -> None:
        if self.handlers.active and not self.replaying:
            self.abandoned = abandoned_by(self)
        self.issue_built(kind, identity, message).keep_function(self.definition.run)
        self.closed = True
        self.steps.clear()
        self.loop.inert = True
        self.loop.ready.clear()

    def poison(self, error: BaseException) -> None:
        """Fail the workflow task, whatever the code does from here on."""
        if self.error is None:
            self.error = error
        self.loop.inert = True
        self.loop.ready.clear()

    def request_cancel(self, reason: str) -> None:
        """Somebody asked this workflow to cancel."""
        self.cancel_requested = True
        self.cancel_reason = reason
        self.loop.ready.append(ReadyHandle(self._cancel_main, (), self.loop, self.loop.context))

    def _cancel_main(self) -> None:
        if not self._main_entered and self.main is not None:
            # Let the code reach its first await, so that it can handle the cancellation.
            self.loop.ready.append(ReadyHandle(self._cancel_main, (), self.loop, self.loop.context))
        elif self.main is not None:
            self.main.cancel()

    def resolve_with(self, future: Any, payload: m.Payload | None, hint: Any) -> None:
        """Resolve a future with a payload's value."""
        if payload is None:
            future.set_result(None)
            return
        try:
            value = self.converter.from_payload(payload, hint)
        except Exception as error:
            future.set_exception(error)
            return
        future.set_result(value)

    def report(self, message: str, error: BaseException | None) -> None:
        """Log an error nothing waits for; silent while replaying and once the run is over."""
        if not self.replaying and not self.loop.inert:
            log.error("workflow %s (run %s): %s", self.workflow_id, self.run_id, message, exc_info=error)

    def describe(self) -> str:
        """The run in words, for messages."""
        name = self.definition.name or (self.started_attributes().workflow_type.name if self._started else "dynamic")
        return f"workflow {name}, id {self.workflow_id!r}, run {self.run_id!r}"

    def keep_places(self) -> None:
        """The tasks are about to be closed, but a message may still have to say where a command came from."""
        if any(issued.place is None for issued in self.commands):
            tasks = self.loop.tasks_by_wait()
            for issued in self.commands:
                issued.keep_place(tasks)
