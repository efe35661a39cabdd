"""A history builder that answers a workflow's commands the way a service would, for tests of replay.

`Scenario` keeps one run's history as events. `task()` hands the run a workflow task and turns the commands it answers
into events; `complete`, `fire`, `signal` and their like append what comes from outside. `check_laws()` hands every
workflow task of the history to fresh runs, in several ways, and expects the commands of the first time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from perdure.api import messages as m
from perdure.converter import DataConverter
from perdure.replay.definition import WorkflowDefinition
from perdure.replay.outcome import Outcome, StepCall, StepsNeeded, TaskCompleted, TaskFailed
from perdure.replay.ports import NO_GUARD, Guard
from perdure.replay.run import WorkflowRun

CONVERTER = DataConverter()
START_S = 1_700_000_000
E = m.EventType
C = m.CommandType
MAX_TASKS = 2000


def payloads(*values: Any) -> m.Payloads:
    return CONVERTER.to_payloads(values)


def value_of(received: m.Payloads) -> Any:
    return CONVERTER.from_payload(received.payloads[0])


def names(commands: Sequence[m.Command]) -> list[str]:
    """Commands in short: ``activity 1 charge``, ``timer 1``, ``complete 5``."""
    return [_NAMES[command.command_type](command) for command in commands]


_NAMES: dict[int, Callable[[m.Command], str]] = {
    C.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK: lambda c: (
        f"activity {c.schedule_activity_task_command_attributes.activity_id} "
        f"{c.schedule_activity_task_command_attributes.activity_type.name}"
    ),
    C.COMMAND_TYPE_REQUEST_CANCEL_ACTIVITY_TASK: lambda c: (
        f"cancel activity @{c.request_cancel_activity_task_command_attributes.scheduled_event_id}"
    ),
    C.COMMAND_TYPE_START_TIMER: lambda c: (
        f"timer {c.start_timer_command_attributes.timer_id} "
        f"{c.start_timer_command_attributes.start_to_fire_timeout.ToMilliseconds()}ms"
    ),
    C.COMMAND_TYPE_CANCEL_TIMER: lambda c: f"cancel timer {c.cancel_timer_command_attributes.timer_id}",
    C.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION: lambda c: (
        f"complete {value_of(c.complete_workflow_execution_command_attributes.result)!r}"
    ),
    C.COMMAND_TYPE_FAIL_WORKFLOW_EXECUTION: lambda c: (
        f"fail {c.fail_workflow_execution_command_attributes.failure.message}"
    ),
    C.COMMAND_TYPE_CANCEL_WORKFLOW_EXECUTION: lambda c: "cancelled",
    C.COMMAND_TYPE_CONTINUE_AS_NEW_WORKFLOW_EXECUTION: lambda c: (
        "continue as new "
        f"{CONVERTER.from_payloads(c.continue_as_new_workflow_execution_command_attributes.input.payloads)}"
    ),
    C.COMMAND_TYPE_RECORD_MARKER: lambda c: f"marker {c.record_marker_command_attributes.marker_name}",
    C.COMMAND_TYPE_START_CHILD_WORKFLOW_EXECUTION: lambda c: (
        f"child {c.start_child_workflow_execution_command_attributes.workflow_id} "
        f"{c.start_child_workflow_execution_command_attributes.workflow_type.name}"
    ),
    C.COMMAND_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION: lambda c: (
        f"signal {c.signal_external_workflow_execution_command_attributes.execution.workflow_id} "
        f"{c.signal_external_workflow_execution_command_attributes.signal_name}"
    ),
    C.COMMAND_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION: lambda c: (
        f"cancel workflow {c.request_cancel_external_workflow_execution_command_attributes.workflow_id}"
    ),
    C.COMMAND_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES: lambda c: "search attributes",
    C.COMMAND_TYPE_MODIFY_WORKFLOW_PROPERTIES: lambda c: "memo",
    C.COMMAND_TYPE_PROTOCOL_MESSAGE: lambda c: f"message {c.protocol_message_command_attributes.message_id}",
}


class Scenario:
    """One run's history, and the cached run that made it.

    Args:
        workflow: the decorated class or function.
        args: its arguments.
    """

    def __init__(self, workflow: Any, *args: Any, guard: Guard = NO_GUARD, **attributes: Any) -> None:
        self.definition = WorkflowDefinition.must_be(workflow)
        self.guard = guard
        self.events: list[m.HistoryEvent] = []
        self.now_s = START_S
        self.run = self.fresh_run()
        self.tasks: list[tuple[int, list[bytes]]] = []
        """Per completed task: the id of its Started event and its commands."""
        self.step_log: dict[int, list[tuple[str, m.Payload | None, m.Failure | None]]] = {}
        self.suspended: set[int] = set()
        self.waiting_steps: list[StepCall] = []
        self.outcome: Outcome | None = None
        self.last_started = 0
        self.updates: list[tuple[str, str, m.Payloads]] = []
        """Id, name and arguments of the updates that the next task brings."""
        self.answers: dict[str, m.Message] = {}
        """Messages by which tasks have answered updates."""
        self.asked: dict[int, list[m.Message]] = {}
        """Per task, by the id of its Started event: the messages it brought."""
        started = self.add(E.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED)
        attrs = started.workflow_execution_started_event_attributes
        attrs.workflow_type.name = self.definition.name or "dynamic"
        attrs.task_queue.name = "queue"
        attrs.input.CopyFrom(payloads(*args))
        attrs.original_execution_run_id = attributes.pop("original_run_id", "run-1")
        attrs.first_execution_run_id = "run-1"
        attrs.attempt = 1
        for key, value in attributes.pop("memo", {}).items():
            attrs.memo.fields[key].CopyFrom(CONVERTER.to_payload(value))
        assert not attributes

    def fresh_run(self) -> WorkflowRun:
        return WorkflowRun(self.definition, namespace="default", converter=CONVERTER, guard=self.guard)

    # Events.

    def add(self, kind: int) -> m.HistoryEvent:
        """Append an event; the caller fills in its attributes."""
        event = m.HistoryEvent(event_id=len(self.events) + 1, event_type=kind)
        event.event_time.seconds = self.now_s
        self.events.append(event)
        return event

    def find(self, kind: int, **identity: Any) -> m.HistoryEvent:
        """The latest event of a kind whose attributes have these values."""
        for event in reversed(self.events):
            if event.event_type == kind:
                attrs = getattr(event, str(event.WhichOneof("attributes")))
                if all(getattr(attrs, key) == value for key, value in identity.items()):
                    return event
        raise LookupError((kind, identity))

    def scheduled(self, activity_id: str) -> int:
        return self.find(E.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED, activity_id=activity_id).event_id

    def _started(self, scheduled_id: int) -> int:
        event = self.add(E.EVENT_TYPE_ACTIVITY_TASK_STARTED)
        event.activity_task_started_event_attributes.scheduled_event_id = scheduled_id
        return event.event_id

    def complete(self, activity_id: str, value: Any = None) -> None:
        """An activity has completed."""
        scheduled = self.scheduled(activity_id)
        started = self._started(scheduled)
        attrs = self.add(E.EVENT_TYPE_ACTIVITY_TASK_COMPLETED).activity_task_completed_event_attributes
        attrs.scheduled_event_id = scheduled
        attrs.started_event_id = started
        attrs.result.CopyFrom(payloads(value))

    def fail(self, activity_id: str, error: BaseException) -> None:
        """An activity has failed for good."""
        scheduled = self.scheduled(activity_id)
        started = self._started(scheduled)
        attrs = self.add(E.EVENT_TYPE_ACTIVITY_TASK_FAILED).activity_task_failed_event_attributes
        attrs.scheduled_event_id = scheduled
        attrs.started_event_id = started
        attrs.failure.CopyFrom(CONVERTER.to_failure(error))

    def time_out(self, activity_id: str) -> None:
        """An activity has timed out for good."""
        scheduled = self.scheduled(activity_id)
        attrs = self.add(E.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT).activity_task_timed_out_event_attributes
        attrs.scheduled_event_id = scheduled
        attrs.failure.message = "activity StartToClose timeout"
        attrs.failure.timeout_failure_info.timeout_type = m.TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE

    def cancel_activity(self, activity_id: str) -> None:
        """An activity has answered a cancel request."""
        attrs = self.add(E.EVENT_TYPE_ACTIVITY_TASK_CANCELED).activity_task_canceled_event_attributes
        attrs.scheduled_event_id = self.scheduled(activity_id)

    def fire(self, timer_id: str) -> None:
        """A timer has fired; the clock follows."""
        started = self.find(E.EVENT_TYPE_TIMER_STARTED, timer_id=timer_id)
        due = started.event_time.seconds + -(
            -started.timer_started_event_attributes.start_to_fire_timeout.ToMilliseconds() // 1000
        )
        self.now_s = max(self.now_s, due)
        attrs = self.add(E.EVENT_TYPE_TIMER_FIRED).timer_fired_event_attributes
        attrs.timer_id = timer_id
        attrs.started_event_id = started.event_id

    def signal(self, name: str, *args: Any) -> None:
        """A signal has arrived."""
        attrs = self.add(E.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED).workflow_execution_signaled_event_attributes
        attrs.signal_name = name
        attrs.input.CopyFrom(payloads(*args))

    def request_cancel(self, reason: str = "") -> None:
        """Somebody asks the workflow to cancel."""
        event = self.add(E.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED)
        event.workflow_execution_cancel_requested_event_attributes.cause = reason

    def update(self, update_id: str, name: str, *args: Any) -> None:
        """Somebody asks for an update, with the next task."""
        self.updates.append((update_id, name, payloads(*args)))

    def _messages(self) -> list[m.Message]:
        """The requests for the task just opened."""
        updates, self.updates = self.updates, []
        messages: list[m.Message] = []
        for update_id, name, args in updates:
            request = m.Request(meta=m.Meta(update_id=update_id), input=m.Input(name=name, args=args))
            message = m.Message(
                id=f"{update_id}/request", protocol_instance_id=update_id, event_id=self.last_started - 1
            )
            message.body.Pack(request)
            messages.append(message)
        self.asked[self.last_started] = messages
        return messages

    def answer(self, update_id: str, what: str) -> Any:
        """How a task has answered an update: "accept", "reject" or "complete"."""
        body = _BODIES[what]()
        assert self.answers[f"{update_id}/request/{what}"].body.Unpack(body)
        return body

    def initiated(self, workflow_id: str) -> m.HistoryEvent:
        return self.find(E.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED, workflow_id=workflow_id)

    def child(self, kind: int, workflow_id: str) -> Any:
        """An event of a child; answers its attributes."""
        initiated = self.initiated(workflow_id)
        event = self.add(kind)
        name = E.Name(kind).removeprefix("EVENT_TYPE_").lower() + "_event_attributes"
        attrs = getattr(event, name)
        attrs.initiated_event_id = initiated.event_id
        if hasattr(attrs, "workflow_execution"):
            attrs.workflow_execution.workflow_id = workflow_id
            attrs.workflow_execution.run_id = "child-run"
        return attrs

    def child_started(self, workflow_id: str) -> None:
        self.child(E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED, workflow_id)

    def child_completed(self, workflow_id: str, value: Any = None) -> None:
        attrs = self.child(E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED, workflow_id)
        attrs.result.CopyFrom(payloads(value))

    def answer_external(self, initiated_kind: int, answer_kind: int) -> Any:
        """The outcome of the latest signal or cancel of another workflow."""
        initiated = self.find(initiated_kind)
        event = self.add(answer_kind)
        name = E.Name(answer_kind).removeprefix("EVENT_TYPE_").lower() + "_event_attributes"
        attrs = getattr(event, name)
        attrs.initiated_event_id = initiated.event_id
        return attrs

    # Tasks.

    def poll_response(
        self, queries: dict[str, m.WorkflowQuery] | None = None, messages: Sequence[m.Message] = ()
    ) -> m.PollWorkflowTaskQueueResponse:
        response = m.PollWorkflowTaskQueueResponse(attempt=1, messages=messages)
        response.workflow_execution.workflow_id = "wf-1"
        response.workflow_execution.run_id = "run-1"
        for key, query in (queries or {}).items():
            response.queries[key].CopyFrom(query)
        return response

    def open_task(self) -> None:
        """Append Scheduled and Started."""
        scheduled = self.add(E.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED)
        started = self.add(E.EVENT_TYPE_WORKFLOW_TASK_STARTED)
        started.workflow_task_started_event_attributes.scheduled_event_id = scheduled.event_id
        self.last_started = started.event_id

    def task(
        self,
        *,
        cached: bool = True,
        steps: int | None = None,
        queries: dict[str, m.WorkflowQuery] | None = None,
    ) -> list[str]:
        """A workflow task, start to completion; answers its commands in short.

        Args:
            cached: use the run in memory; otherwise a fresh one.
            steps: how many steps finish within the task; None = all.
            queries: buffered ones.
        """
        self.open_task()
        if not cached:
            self.run.close()
            self.run = self.fresh_run()
        run = self.run
        run.begin(self.poll_response(queries, self._messages()))
        run.feed(self.events[run.next_event_id - 1 :], last=True)
        outcome = run.outcome()
        started = self.last_started
        log = self.step_log.setdefault(started, [])
        while isinstance(outcome, StepsNeeded):
            if steps is not None and len(log) >= steps:
                outcome = run.suspend_steps()
                self.suspended.add(started)
                break
            call = outcome.calls[0]
            log.append((call.step_id, *run_step(call)))
            outcome = run.resolve_step(call.step_id, result=log[-1][1], failure=log[-1][2])
        self.outcome = outcome
        if isinstance(outcome, TaskFailed):
            raise outcome.error
        assert isinstance(outcome, TaskCompleted)
        self.answers.update({message.id: message for message in outcome.messages})
        if outcome.messages and not outcome.commands:
            # What only rejects leaves no trace: the service takes the task's two events back.
            del self.events[-2:]
            run.forget_task()
            return []
        self.tasks.append((started, [command.SerializeToString() for command in outcome.commands]))
        self.close_task(outcome.commands)
        return names(outcome.commands)

    def close_task(self, commands: Sequence[m.Command]) -> None:
        """Append Completed and what the commands become."""
        completed = self.add(E.EVENT_TYPE_WORKFLOW_TASK_COMPLETED)
        completed.workflow_task_completed_event_attributes.started_event_id = self.last_started
        for command in commands:
            self._record(command)

    def fail_task(self) -> None:
        """Append Failed: the task's attempt left nothing."""
        failed = self.add(E.EVENT_TYPE_WORKFLOW_TASK_FAILED)
        failed.workflow_task_failed_event_attributes.started_event_id = self.last_started

    def _record_message(self, command: m.Command) -> None:
        message = self.answers[command.protocol_message_command_attributes.message_id]
        accepted = m.Acceptance()
        if message.body.Unpack(accepted):
            attrs = self.add(
                E.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED
            ).workflow_execution_update_accepted_event_attributes
            attrs.protocol_instance_id = message.protocol_instance_id
            attrs.accepted_request_message_id = accepted.accepted_request_message_id
            attrs.accepted_request_sequencing_event_id = accepted.accepted_request_sequencing_event_id
            attrs.accepted_request.CopyFrom(accepted.accepted_request)
            return
        response = m.Response()
        assert message.body.Unpack(response)
        completed = self.add(E.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED)
        attributes = completed.workflow_execution_update_completed_event_attributes
        attributes.meta.CopyFrom(response.meta)
        attributes.outcome.CopyFrom(response.outcome)

    def _record(self, command: m.Command) -> None:
        if command.command_type == C.COMMAND_TYPE_PROTOCOL_MESSAGE:
            self._record_message(command)
            return
        field = str(command.WhichOneof("attributes"))
        source = getattr(command, field)
        event = self.add(_EVENT_OF[command.command_type])
        name = E.Name(event.event_type).removeprefix("EVENT_TYPE_").lower() + "_event_attributes"
        target = getattr(event, name)
        target.SetInParent()
        known = {one.name for one in target.DESCRIPTOR.fields}
        for one, value in source.ListFields():
            if one.name not in known:
                continue
            if one.message_type is not None:
                getattr(target, one.name).MergeFrom(value)
            else:
                setattr(target, one.name, value)
        if command.command_type == C.COMMAND_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION:
            target.workflow_execution.CopyFrom(source.execution)
        elif command.command_type == C.COMMAND_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION:
            target.workflow_execution.workflow_id = source.workflow_id
        elif command.command_type == C.COMMAND_TYPE_CANCEL_TIMER:
            target.started_event_id = self.find(E.EVENT_TYPE_TIMER_STARTED, timer_id=source.timer_id).event_id

    # Replay.

    def replay_until(
        self, started: int, *, page: int = 0, definition: WorkflowDefinition | None = None
    ) -> tuple[WorkflowRun, Outcome]:
        """A fresh run, fed up to a Started event, in pages of `page` events."""
        run = WorkflowRun(definition or self.definition, namespace="default", converter=CONVERTER, guard=self.guard)
        run.begin(self.poll_response(messages=self.asked.get(started, ())))
        events = self.events[:started]
        size = page or len(events)
        for at in range(0, len(events), size):
            run.feed(events[at : at + size], last=at + size >= len(events))
        outcome = run.outcome()
        return run, self._play_steps(run, outcome, started)

    def _play_steps(self, run: WorkflowRun, outcome: Outcome, started: int) -> Outcome:
        for step_id, result, failure in self.step_log.get(started, ()):
            outcome = run.resolve_step(step_id, result=result, failure=failure)
        if isinstance(outcome, StepsNeeded):
            assert started in self.suspended
            outcome = run.suspend_steps()
        return outcome

    def replay_all(self, definition: WorkflowDefinition | None = None) -> WorkflowRun:
        """The whole history, as for a query; raises what fails the task."""
        run = WorkflowRun(definition or self.definition, namespace="default", converter=CONVERTER)
        run.begin(self.poll_response())
        run.feed(self.events, last=True)
        outcome = run.outcome()
        if isinstance(outcome, TaskFailed):
            raise outcome.error
        return run

    def check_laws(self) -> None:
        """Every task answers the same commands from scratch, page by page, and from every earlier cached state."""
        for started, commands in self.tasks:
            for page in (0, 1, 3):
                run, outcome = self.replay_until(started, page=page)
                assert serialized(outcome) == commands, f"task @{started} replayed in pages of {page}"
                run.close()
        for at in range(len(self.tasks)):
            self._check_from_cache(at)
        self.replay_all().close()

    def _check_from_cache(self, at: int) -> None:
        run, _ = self.replay_until(self.tasks[at][0])
        for started, commands in self.tasks[at + 1 :]:
            run.begin(self.poll_response(messages=self.asked.get(started, ())))
            run.feed(self.events[run.next_event_id - 1 : started], last=True)
            outcome = self._play_steps(run, run.outcome(), started)
            assert serialized(outcome) == commands, f"task @{started}, cached since task {at}"
        run.close()


def serialized(outcome: Outcome) -> list[bytes]:
    if isinstance(outcome, TaskFailed):
        raise outcome.error
    assert isinstance(outcome, TaskCompleted)
    return [command.SerializeToString() for command in outcome.commands]


def run_step(call: StepCall) -> tuple[m.Payload | None, m.Failure | None]:
    try:
        return CONVERTER.to_payload(call.fn(*call.args)), None
    except Exception as error:
        return None, CONVERTER.to_failure(error)


_BODIES: dict[str, Callable[[], Any]] = {"accept": m.Acceptance, "reject": m.Rejection, "complete": m.Response}

_EVENT_OF: dict[int, int] = {
    C.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK: E.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED,
    C.COMMAND_TYPE_REQUEST_CANCEL_ACTIVITY_TASK: E.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED,
    C.COMMAND_TYPE_START_TIMER: E.EVENT_TYPE_TIMER_STARTED,
    C.COMMAND_TYPE_CANCEL_TIMER: E.EVENT_TYPE_TIMER_CANCELED,
    C.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION: E.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED,
    C.COMMAND_TYPE_FAIL_WORKFLOW_EXECUTION: E.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED,
    C.COMMAND_TYPE_CANCEL_WORKFLOW_EXECUTION: E.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED,
    C.COMMAND_TYPE_CONTINUE_AS_NEW_WORKFLOW_EXECUTION: E.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW,
    C.COMMAND_TYPE_RECORD_MARKER: E.EVENT_TYPE_MARKER_RECORDED,
    C.COMMAND_TYPE_START_CHILD_WORKFLOW_EXECUTION: E.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED,
    C.COMMAND_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION: E.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED,
    C.COMMAND_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION: (
        E.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED
    ),
    C.COMMAND_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES: E.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES,
    C.COMMAND_TYPE_MODIFY_WORKFLOW_PROPERTIES: E.EVENT_TYPE_WORKFLOW_PROPERTIES_MODIFIED,
}
