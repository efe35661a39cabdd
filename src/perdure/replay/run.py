"""One cached execution of a workflow: history in, outcomes out.

History is cut into segments, each ending with a WorkflowTaskStarted whose task completed (or the last one, the
current task). A segment is applied in one go: its command events are matched with what the code asked for in the
previous task, its other events wake the code, and the event loop runs until nothing is ready. A task that is being
replayed is activated only when the events up to the *next* Started are known, since the markers its commands left
(patches, steps) decide what the code sees. So at most two segments are held, and memory stays flat.

Errors absorb: once a task has failed the run answers the same failure until it is evicted.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any

from perdure.api import messages as m
from perdure.api.direct import Command, Step
from perdure.api.wire import content
from perdure.exceptions import NondeterminismError
from perdure.replay.calls import Issued, Timer, command
from perdure.replay.commands import PATCH_MARKER, STEP_MARKER
from perdure.replay.definition import WorkflowDefinition
from perdure.replay.events import APPLY, PASSED, RECORDED, Expected
from perdure.replay.loop import MAX_CALLBACKS, NOBODY, detach
from perdure.replay.matching import describe_event, marker_identity, missing
from perdure.replay.outcome import Outcome, StepsNeeded, TaskCompleted, TaskFailed
from perdure.replay.ports import NO_GUARD, Converter, Guard
from perdure.replay.runtime import WorkflowRuntime
from perdure.replay.unfinished import warn
from perdure.replay.updates import UpdateRequest, gather_requests

__all__ = ["WorkflowRun"]

log = logging.getLogger("perdure.workflow")

_STARTED = int(m.EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED)
_COMPLETED = int(m.EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED)
_FAILED = int(m.EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED)
_MARKER = int(m.EventType.EVENT_TYPE_MARKER_RECORDED)
_ACCEPTED = int(m.EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED)
_LOOKED_AHEAD = frozenset({_MARKER, _ACCEPTED})
_NONDETERMINISM = int(m.WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_NON_DETERMINISTIC_ERROR)
_UNHANDLED = int(m.WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_WORKFLOW_WORKER_UNHANDLED_FAILURE)

BASE_BYTES = 4_000
"""Rough memory of a run that waits for one thing, measured."""
CALL_BYTES = 800
TASK_BYTES = 1_400
_SHORT_EVENTS = 50
_FEW_CALLS = 8


class WorkflowRun:
    """One cached execution.

    Args:
        definition: the code to run.
        namespace: where the run lives.
        converter: values and failures to payloads and back.
        guard: made active while workflow code runs.

    Attributes:
        next_event_id: id of the next event `feed` expects; 1 at first. A task whose history begins later than this
            needs its earlier events fetched; events before it are skipped.
    """

    __slots__ = (
        "_admitted",
        "_block",
        "_early_steps",
        "_expected",
        "_failed",
        "_guard",
        "_live",
        "_messages",
        "_queries",
        "_runtime",
        "_segment",
        "_started",
        "_task_open",
        "next_event_id",
    )

    def __init__(
        self, definition: WorkflowDefinition, *, namespace: str, converter: Converter, guard: Guard = NO_GUARD
    ) -> None:
        self.next_event_id = 1
        self._runtime = WorkflowRuntime(definition, namespace=namespace, converter=converter)
        self._guard = guard
        self._expected = Expected()
        self._segment: list[m.HistoryEvent] = []
        self._started: m.HistoryEvent | None = None
        self._block: list[m.HistoryEvent] | None = None
        self._queries: dict[str, m.WorkflowQuery] = {}
        self._messages: Sequence[m.Message] = ()
        self._admitted: dict[str, UpdateRequest] = {}
        self._failed: TaskFailed | None = None
        self._live = False
        self._task_open = False
        self._early_steps: list[tuple[str, m.Payload | None, m.Failure | None]] = []

    @property
    def closed(self) -> bool:
        """Whether the run has issued a closing command."""
        return self._runtime.closed

    @property
    def estimated_bytes(self) -> int:
        """Rough memory held, for the cache's bound."""
        runtime = self._runtime
        return (
            BASE_BYTES
            + CALL_BYTES * (len(runtime.pending) + len(runtime.commands))
            + TASK_BYTES * len(runtime.loop.tasks)
            + 2 * runtime.kept_bytes
        )

    @property
    def asleep(self) -> bool:
        """It waits for a few timers and nothing else, and its history is short: replaying it costs next to nothing."""
        runtime = self._runtime
        if self.next_event_id > _SHORT_EVENTS or runtime.conditions:
            return False
        for issued in runtime.commands:
            if type(issued.call) is not Timer:
                return False
        for call in runtime.pending.values():
            if type(call) is not Timer:
                return False
        return 0 < len(runtime.pending) + len(runtime.commands) <= _FEW_CALLS

    @property
    def task_timeout_s(self) -> float:
        """Longest time a workflow task of this run may take, once its history has begun."""
        return self._runtime.info().task_timeout.total_seconds()

    def begin(self, task: m.PollWorkflowTaskQueueResponse) -> None:
        """Take the metadata, queries and messages of a workflow task; its history comes through `feed`."""
        runtime = self._runtime
        if not runtime.run_id:
            runtime.workflow_id = task.workflow_execution.workflow_id
            runtime.run_id = task.workflow_execution.run_id
        self._queries = dict(task.queries) if task.queries else {}
        self._messages = tuple(task.messages) if task.messages else ()
        self._live = False

    def begin_plain(self, workflow_id: str, run_id: str) -> None:
        """As `begin`, for a workflow task that brings nothing but events."""
        runtime = self._runtime
        if not runtime.run_id:
            runtime.workflow_id = workflow_id
            runtime.run_id = run_id
        if self._queries or self._messages:
            self._queries, self._messages = {}, ()
        self._live = False

    def feed(self, events: Sequence[m.HistoryEvent], *, last: bool) -> None:
        """Take the next events, in order; `last` with the page that ends with the task's Started event."""
        if self._failed is not None:
            return
        try:
            self._take(events)
            if last:
                self._finish_feed()
        except Exception as error:
            self._fail(error)

    def advance(self, step: Step, first_event_id: int) -> bool:
        """Take a whole task in short; False if this run has to be fed its events.

        Args:
            step: what they say.
            first_event_id: of the task's history.
        """
        runtime = self._runtime
        issued = runtime.commands
        if (
            self.next_event_id != first_event_id
            or self._failed is not None
            or self._started is not None
            or self._block is not None
            or self._segment
            or self._early_steps
            or runtime.updates is not None
            or len(issued) != len(step.scheduled)
        ):
            return False
        for one in issued:
            if one.kind != command.SCHEDULE_ACTIVITY or one.dropped:
                return False
        try:
            self._advance(step, issued)
        except Exception as error:
            self._fail(error)
        return True

    def _advance(self, step: Step, issued: list[Issued]) -> None:
        """`_activate`, with the events that `_apply_segment` would be given."""
        runtime = self._runtime
        task = runtime.task
        task.history_length = step.started_event_id
        task.history_size_bytes = step.history_bytes
        task.continue_as_new_suggested = step.suggests_continue_as_new
        loop = runtime.loop
        seconds, ms = divmod(step.started_at_ms, 1000)
        runtime.now_ns = step.started_at_ms * 1_000_000
        loop.now_s = seconds + ms * 1_000_000 / 1e9
        runtime.commands = []
        runtime.task_number += 1
        runtime.replaying = False
        pending = runtime.pending
        for one, event_id in zip(issued, step.scheduled, strict=True):
            call: Any = one.call
            call.issued = None
            call.event_id = event_id
            pending[event_id] = call
        for event_id, result in step.completed:
            call = pending.pop(event_id)
            if not call.done():
                self._resolve(call, result)
        if loop.ready:
            self._run()
        if runtime.error is not None:
            raise runtime.error
        self.next_event_id = step.started_event_id + 1
        self._live = self._task_open = True

    def _resolve(self, call: Any, payloads: bytes) -> None:
        """`WorkflowRuntime.resolve_with`, for the first of serialized ``Payloads``."""
        value = None
        if payloads:
            start, end = (2, 2 + payloads[1]) if payloads[1] < 128 else content(payloads, 0)
            try:
                value = self._runtime.converter.from_payload_bytes(payloads[start:end], call.result_type)
            except Exception as error:
                call.set_exception(error)
                return
        call.set_result(value)

    def _take(self, events: Sequence[m.HistoryEvent]) -> None:
        """Sort events into segments, and activate each segment that has become complete."""
        segment, block, expected_id = self._segment, self._block, self.next_event_id
        for event in events:
            event_id = event.event_id
            if event_id != expected_id:
                if event_id < expected_id:
                    continue
                raise NondeterminismError(
                    f"history has a gap: event {expected_id} expected, event {event_id} came "
                    f"({self._runtime.describe()}); the run is evicted and read again from its beginning"
                )
            expected_id += 1
            kind = event.event_type
            if block is not None:
                if kind == _STARTED:
                    self._replay_segment()
                    segment, block, self._started = self._segment, None, event
                elif kind not in PASSED:
                    block.append(event)
            elif kind == _STARTED:
                self._started = event
            elif self._started is not None:
                # The one event after Started says how the task ended; those that failed or timed out left no trace.
                if kind == _COMPLETED:
                    block = self._block = []
                else:
                    self._started = None
                    if kind == _FAILED:
                        segment.append(event)
            elif kind not in PASSED:
                segment.append(event)
        self.next_event_id = expected_id

    def _replay_segment(self) -> None:
        assert self._started is not None and self._block is not None
        block = self._block
        self._activate(self._started, replaying=True, block=block)
        self._segment, self._block, self._started = block, None, None

    def _finish_feed(self) -> None:
        if self._block is not None:
            # No task is open: a query, or the history of a closed run. What it recorded must match all the same.
            self._replay_segment()
            self._match_now()
        elif self._started is not None:
            started, self._started = self._started, None
            if self._messages:
                self._expected.updates += self._messages
                self._messages = ()
            self._activate(started, replaying=False, block=())
            self._live = self._task_open = True
            if self._early_steps:
                self._apply_early_steps()
                self._check_poison()

    def _match_now(self) -> None:
        self._expect()
        rest: list[m.HistoryEvent] = []
        for event in self._segment:
            handler = RECORDED.get(event.event_type)
            if handler is not None:
                handler(self._runtime, event, self._expected)
            else:
                rest.append(event)
        self._segment = rest
        if self._expected.rest():
            raise self._missing(())
        # The next activation must not expect them again.
        self._runtime.commands = []
        self._expected.issued = []
        self._expected.at = 0

    # One workflow task.

    def _activate(self, started: m.HistoryEvent, *, replaying: bool, block: Sequence[m.HistoryEvent]) -> None:
        runtime = self._runtime
        time = started.event_time
        seconds, nanos = time.seconds, time.nanos
        runtime.now_ns = seconds * 1_000_000_000 + nanos
        loop = runtime.loop
        loop.now_s = seconds + nanos / 1e9
        attrs = started.workflow_task_started_event_attributes
        task = runtime.task
        task.history_length = started.event_id
        task.history_size_bytes = attrs.history_size_bytes
        task.continue_as_new_suggested = attrs.suggest_continue_as_new
        self._expect()
        runtime.replaying = replaying
        segment, self._segment = self._segment, []
        steps = self._look_ahead(block) if block else ()
        self._apply_segment(segment)
        if runtime.first_task_at_ms == 0:
            runtime.first_task_at_ms = runtime.now_ns // 1_000_000
        if loop.ready:
            self._run()
        for event in steps:
            if runtime.error is None:
                self._replay_step(event)
        if replaying and runtime.updates is not None:
            runtime.updates.rest()
        if runtime.error is not None:
            raise runtime.error

    def _expect(self) -> None:
        """The commands issued so far have left; what follows belongs to a new workflow task."""
        runtime = self._runtime
        issued = runtime.commands
        for one in issued:
            if one.dropped:
                issued = [one for one in issued if not one.dropped]
                break
        self._expected.issued = issued
        self._expected.at = 0
        runtime.commands = []
        runtime.task_number += 1

    def _apply_segment(self, segment: list[m.HistoryEvent]) -> None:
        runtime, expected = self._runtime, self._expected
        for event in segment:
            handler = APPLY.get(event.event_type)
            if handler is not None:
                handler(runtime, event, expected)
            elif not event.worker_may_ignore:
                raise self._unknown(event)
        if expected.at < len(expected.issued):
            raise self._missing(segment)
        if expected.signals or expected.updates:
            self._deliver()

    def _deliver(self) -> None:
        """Hand over the signals and updates of a segment: handlers run before the code its other events wake."""
        runtime, expected = self._runtime, self._expected
        signals, expected.signals = expected.signals, []
        updates, expected.updates = expected.updates, []
        ready = runtime.loop.ready
        woken = list(ready)
        ready.clear()
        for event in signals:
            attrs = event.workflow_execution_signaled_event_attributes
            runtime.handlers.signal(attrs.signal_name, attrs.input.payloads)
        if updates:
            requests = gather_requests(updates, self._admitted, replaying=runtime.replaying)
            runtime.need_updates().deliver(requests)
        ready.extend(woken)

    def _unknown(self, event: m.HistoryEvent) -> NondeterminismError:
        return NondeterminismError(
            f"{describe_event(event)} is of a kind this version of Perdure does not know "
            f"({self._runtime.describe()}): update perdure where this worker runs"
        )

    def _missing(self, segment: Sequence[m.HistoryEvent]) -> NondeterminismError:
        after = next((event for event in segment if event.event_type not in RECORDED), None)
        return missing(self._expected.rest()[0], after, self._runtime.describe())

    def _run(self) -> None:
        runtime = self._runtime
        if not runtime.loop.run(self._guard):
            runtime.poison(
                NondeterminismError(
                    f"workflow code ran {MAX_CALLBACKS:,} callbacks without coming to rest "
                    f"({runtime.describe()}): a loop that only awaits asyncio.sleep(0) never waits; "
                    "use workflow.wait_condition or a longer sleep"
                )
            )
        if runtime.updates is not None:
            runtime.updates.close_now()
        if runtime.closed:
            runtime.keep_places()
            runtime.loop.close()
        violation = self._guard.take_violation()
        if violation is not None:
            runtime.poison(violation)

    # Markers that a replayed task left.

    def _look_ahead(self, block: Sequence[m.HistoryEvent]) -> Sequence[m.HistoryEvent]:
        """Note the patches a task recorded, and the updates it accepted; answer the steps that finished in it."""
        steps: list[m.HistoryEvent] = []
        for event in block:
            kind = event.event_type
            if kind not in _LOOKED_AHEAD:
                continue
            if kind == _ACCEPTED:
                self._expected.updates.append(event)
            else:
                attrs = event.marker_recorded_event_attributes
                if attrs.marker_name == PATCH_MARKER:
                    self._runtime.patches_recorded.add(marker_identity(attrs)["patch"])
                elif attrs.marker_name == STEP_MARKER:
                    steps.append(event)
        return steps

    def _replay_step(self, event: m.HistoryEvent) -> None:
        attrs = event.marker_recorded_event_attributes
        step_id = marker_identity(attrs)["step"]
        payloads = attrs.details["result"].payloads if "result" in attrs.details else ()
        failure = attrs.failure if attrs.HasField("failure") else None
        self._runtime.finish_step(str(step_id), payloads[0] if payloads else None, failure)
        if self._runtime.loop.ready:
            self._run()

    def _apply_early_steps(self) -> None:
        early, self._early_steps = self._early_steps, []
        for step_id, result, failure in early:
            self._runtime.finish_step(step_id, result, failure)
            if self._runtime.loop.ready:
                self._run()

    # Outcomes.

    @property
    def described(self) -> str:
        """What to call it in messages."""
        return self._runtime.describe()

    def outcome(self) -> Outcome:
        """What the task came to, after the last page."""
        runtime = self._runtime
        if runtime.error is not None:
            self._check_poison()
        if self._failed is not None:
            return self._failed
        if self._live and runtime.steps and not runtime.closed:
            return StepsNeeded(calls=tuple(future.step for future in runtime.steps.values()))
        return self._completed(force_new_task=False)

    def resolve_step(
        self, step_id: str, *, result: m.Payload | None = None, failure: m.Failure | None = None
    ) -> Outcome:
        """A step has finished; the same workflow task goes on. A step nobody waits for any more is ignored.

        Between tasks (after `suspend_steps`) the result is kept and applied in the next task; the answer is then the
        steps still running.
        """
        if self._failed is None:
            if not self._task_open:
                self._early_steps.append((step_id, result, failure))
                early = {one[0] for one in self._early_steps}
                steps = self._runtime.steps
                return StepsNeeded(calls=tuple(f.step for key, f in steps.items() if key not in early))
            self._runtime.finish_step(step_id, result, failure)
            if self._runtime.loop.ready:
                self._run()
        return self.outcome()

    def suspend_steps(self) -> TaskCompleted:
        """Complete the task while steps still run; they may be resolved in the next task."""
        return self._completed(force_new_task=True)

    def _completed(self, *, force_new_task: bool) -> TaskCompleted:
        runtime = self._runtime
        commands: list[Command] = []
        messages: Sequence[m.Message] = ()
        cancels_activities = False
        if self._live:
            if runtime.updates is not None:
                runtime.updates.rest()
                messages = runtime.updates.take_messages()
            if runtime.abandoned:
                for warning in runtime.abandoned:
                    warn(warning)
            for issued in runtime.commands:
                if not issued.dropped:
                    assert issued.message is not None, "a live task's command has its message"
                    commands.append(issued.message)
                    if issued.kind == command.CANCEL_ACTIVITY:
                        cancels_activities = True
        completed = TaskCompleted(
            asked=commands,
            force_new_task=force_new_task,
            closes=runtime.closed,
            cancels_activities=cancels_activities,
            messages=messages,
        )
        if self._queries:
            queries, self._queries = self._queries, {}
            completed.query_results = {key: self.query(query) for key, query in queries.items()}
        self._task_open = False
        return completed

    def forget_task(self) -> None:
        """The service has discarded the task just completed: its two events are not in the history.

        They were the last ones; what comes next takes their ids.
        """
        self.next_event_id = self._runtime.task.history_length - 1

    def query(self, query: m.WorkflowQuery) -> m.WorkflowQueryResult:
        """Answer a direct query (after `begin` and, for a fresh run, `feed`)."""
        if self._failed is not None:
            return m.WorkflowQueryResult(
                result_type=m.QueryResultType.QUERY_RESULT_TYPE_FAILED,
                error_message=f"the workflow task fails, so the query cannot be answered: {self._failed.error}",
                failure=self._failed.failure,
            )
        loop = self._runtime.loop
        try:
            with loop.reading("a query handler"):
                return loop.call(self._guard, self._runtime.handlers.answer, query)
        finally:
            self._guard.take_violation()  # It failed the query; the workflow task has nothing to do with it.

    def close(self) -> None:
        """Evict: end every coroutine without letting it act. Harmless to repeat."""
        runtime = self._runtime
        runtime.loop.close()
        # Whatever holds each other lets go, or the garbage collector would have to find it.
        for issued in runtime.commands:
            detach(issued.call)
            issued.call = None
        for calls in (runtime.pending, runtime.steps):
            for call in calls.values():
                detach(call)
            calls.clear()
        if runtime.updates is not None:
            runtime.updates.let_go()
        runtime.main = None
        runtime.loop.owner = NOBODY

    def __del__(self) -> None:
        # A run that was dropped without `close`: its coroutines must not come alive in the garbage collector's hands.
        if not sys.is_finalizing() and self._runtime.loop.owner is not NOBODY:
            self.close()

    def _check_poison(self) -> None:
        if self._failed is None and self._runtime.error is not None:
            self._fail(self._runtime.error)

    def _fail(self, error: BaseException) -> None:
        assert self._failed is None, "errors absorb"
        runtime = self._runtime
        runtime.poison(error)
        self._failed = TaskFailed(
            cause=_NONDETERMINISM if isinstance(error, NondeterminismError) else _UNHANDLED,
            failure=runtime.converter.to_failure(error),
            error=error,
        )
        runtime.loop.close()
        self._segment, self._block, self._started = [], None, None
