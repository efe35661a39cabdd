"""Drives one run through the machines and checks every law after every transition.

A `Scenario` plays the shard's part: it keeps all frames that were "written", hands out tasks, and after each decision
checks that event ids are contiguous, that the state is the fold of the history, that a run survives encoding, that
its indexes and deadlines agree with its items, and that a refused decision has left the state byte for byte as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.engine import history as h
from perdure.engine.history import deadlines

START_MS = 1_700_000_000_123
LIMITS = h.Limits()
ATTRIBUTES = {"City": 2}
"""The namespace's search attributes."""
ENDPOINTS = {"desk": "endpoint-1"}
"""The Nexus endpoints there are."""


def payloads(*values: bytes) -> m.Payloads:
    result = m.Payloads()
    for value in values:
        payload = result.payloads.add()
        payload.metadata["encoding"] = b"json/plain"
        payload.data = value
    return result


def start_request(**fields: Any) -> m.StartWorkflowExecutionRequest:
    request = m.StartWorkflowExecutionRequest(
        namespace="default", workflow_id="order-1", request_id="start-1", identity="client", input=payloads(b"1")
    )
    request.workflow_type.name = "order"
    request.task_queue.name = "orders"
    apply_fields(request, fields)
    return request


def apply_fields(message: Any, fields: dict[str, Any]) -> None:
    """Set fields; a name ending in _s is a Duration in seconds."""
    for name, value in fields.items():
        if name.endswith("_s"):
            duration = getattr(message, name[:-2])
            duration.SetInParent()
            duration.FromMilliseconds(round(value * 1000))
        elif isinstance(value, str | bytes | int | float):
            setattr(message, name, value)
        elif hasattr(getattr(message, name), "extend"):
            getattr(message, name).extend(value)
        else:
            getattr(message, name).CopyFrom(value)


def snapshot(run: h.Run) -> tuple[Any, ...]:
    """Everything of a run that a refusal must leave alone."""
    live = run.live
    return (
        repr(run.state),
        repr(live.task),
        repr(live.activities),
        sorted(live.scheduled),
        dict(live.activity_ids),
        dict(live.timer_ids),
        dict(live.child_ids),
        list(live.frames),
        set(live.dirty_items),
        repr(live.updates),
        live.speculative,
    )


class Scenario:
    """One run, its whole history, and the present instant."""

    def __init__(
        self,
        *,
        limits: h.Limits = LIMITS,
        lineage: h.Lineage | None = None,
        signal: m.SignalWorkflowExecutionRequest | None = None,
        request: m.StartWorkflowExecutionRequest | None = None,
        **fields: Any,
    ) -> None:
        self.limits = limits
        self.now_ms = START_MS
        self.frames: list[bytes] = []
        self._numbers = count(1)
        transition = h.start_run(
            run_key=7,
            run_id="run-1",
            request=request or start_request(**fields),
            lineage=lineage or h.Lineage(),
            signal=signal,
            limits=limits,
            retention_ms=86_400_000,
            now_ms=self.now_ms,
        )
        self.run = transition.run
        self.last = self.take(transition)

    @property
    def state(self) -> h.RunState:
        return self.run.state

    def new_id(self) -> str:
        return f"new-{next(self._numbers)}"

    # -- the laws

    def take(self, transition: h.Transition) -> h.Transition:
        """Keep what a transition wrote and check every law."""
        assert transition.run is self.run
        if not transition.changed:
            assert not transition.frames
        self.frames.extend(transition.frames)
        self.last = transition
        self.check()
        return transition

    def check(self) -> None:
        run = self.run
        assert [event.event_id for event in self.events()] == list(range(1, run.state.next_event_id))
        assert all(event.HasField("event_time") and event.task_id == event.event_id for event in self.events())
        assert run.live.frames == self.frames[len(self.frames) - len(run.live.frames) :]
        assert not run.state.buffered or run.live.task is not None
        self.check_fold()
        self.check_encoding()
        self.check_indexes()
        self.check_deadlines()

    def check_fold(self) -> None:
        """The law, also for events that are buffered: as they would be flushed."""
        copy = self.copy()
        flushed = h.flush_buffered(copy, now_ms=self.now_ms)
        folded = h.fold(7, self.frames + flushed.frames)
        assert h.folded_view(copy.state) == h.folded_view(folded)

    def check_encoding(self) -> None:
        encoded = full_encoding(self.run)
        assert full_encoding(self.copy()) == encoded

    def check_indexes(self) -> None:
        items = self.state.items
        live = self.run.live
        activities = {i.activity_id: i.event_id for i in items.values() if isinstance(i, h.ActivityItem)}
        timers = {i.timer_id: i.event_id for i in items.values() if isinstance(i, h.TimerItem)}
        children = {i.workflow_id: i.event_id for i in items.values() if isinstance(i, h.ChildItem)}
        assert (live.activity_ids, live.timer_ids) == (activities, timers)
        assert set(live.child_ids) == set(children)
        assert live.nexus_ids == {i.event_id for i in items.values() if isinstance(i, h.NexusItem)}
        assert set(live.activities) <= set(activities.values())
        assert set(live.scheduled) <= set(activities.values())
        if not self.run.is_open:
            assert not items and not self.state.task_scheduled_event_id and live.task is None

    def check_deadlines(self) -> None:
        """The heap knows the earliest instant, however many of its entries are stale."""
        found = h.next_deadline_ms(self.run)
        if not self.run.is_open:
            assert found is None
            return
        due = [deadlines.run_deadline_ms(self.run)]
        task = self.run.live.task
        due.append(task.deadline_ms if task is not None else self.state.task_not_before_ms)
        for item in self.state.items.values():
            if isinstance(item, h.TimerItem):
                due.append(item.fire_at_ms)
            elif isinstance(item, h.ActivityItem):
                due.append(deadlines.activity_due_ms(self.run, item))
            elif isinstance(item, h.NexusItem):
                due.append(deadlines.nexus_due_ms(item))
        assert found == min((at for at in due if at), default=None)

    def copy(self) -> h.Run:
        """The run as another process would load it."""
        state, items = full_encoding(self.run)
        return h.decode(7, state, items)

    def reload(self) -> h.Transition:
        """Lose everything that is not durable, as after a crash."""
        self.run = self.copy()
        return self.take(h.flush_buffered(self.run, now_ms=self.now_ms))

    def refuse(self, code: StatusCode, call: Callable[..., Any], *args: Any, **kwargs: Any) -> RpcError:
        """The call is refused and has changed nothing."""
        before = snapshot(self.run)
        with pytest.raises(RpcError) as caught:
            call(*args, **kwargs)
        assert caught.value.code == code
        assert snapshot(self.run) == before
        return caught.value

    # -- looking

    def events(self) -> list[m.HistoryEvent]:
        return list(m.History.FromString(b"".join(self.frames)).events)

    def names(self, first: int = 1) -> list[str]:
        """Event types from an id on, shortened: `WorkflowTaskScheduled`."""
        return [name_of(event) for event in self.events()[first - 1 :]]

    def event(self, event_id: int) -> m.HistoryEvent:
        return self.events()[event_id - 1]

    def find(self, name: str) -> m.HistoryEvent:
        """The last event of a type."""
        return next(event for event in reversed(self.events()) if name_of(event) == name)

    def activity(self, activity_id: str = "a") -> h.ActivityItem:
        return h.activity_by_id(self.run, activity_id)

    # -- acting

    def pass_time(self, ms: int) -> None:
        self.now_ms += ms

    def wake(self) -> h.Transition:
        return self.take(h.wake(self.run, limits=self.limits, new_id=self.new_id, now_ms=self.now_ms))

    def wait_due(self) -> h.Transition:
        """Jump to the next deadline and wake."""
        due_ms = h.next_deadline_ms(self.run)
        assert due_ms is not None
        self.now_ms = max(self.now_ms, due_ms)
        return self.wake()

    def start_task(self, *, sticky: bool = False) -> None:
        h.start_workflow_task(
            self.run,
            identity="worker",
            request_id="poll-1",
            sticky=sticky,
            limits=self.limits,
            now_ms=self.now_ms,
        )
        self.check()

    def complete(self, *commands: m.Command, **fields: Any) -> h.Transition:
        """Complete the held task."""
        request = m.RespondWorkflowTaskCompletedRequest(identity="worker", commands=commands)
        sticky = fields.pop("sticky", "")
        if sticky:
            request.sticky_attributes.worker_task_queue.name = sticky
            request.sticky_attributes.schedule_to_start_timeout.FromSeconds(10)
        apply_fields(request, fields)
        return self.take(
            h.complete_workflow_task(
                self.run,
                request,
                limits=self.limits,
                new_id=self.new_id,
                attributes=ATTRIBUTES,
                endpoints=ENDPOINTS,
                now_ms=self.now_ms,
            )
        )

    def step(self, *commands: m.Command, **fields: Any) -> h.Transition:
        """Hand out the pending task and complete it."""
        self.start_task()
        return self.complete(*commands, **fields)

    def refuse_commands(self, *commands: m.Command) -> tuple[str, str]:
        """Completing with these fails the task; returns the message and the cause, short."""
        if self.run.live.task is None:
            self.start_task()
        first = self.run.live.task.attempt == 1 if self.run.live.task is not None else True
        transition = self.complete(*commands)
        assert transition.error is not None and transition.error.code == StatusCode.INVALID_ARGUMENT
        if not first:
            return transition.error.message, ""
        attributes = self.find("WorkflowTaskFailed").workflow_task_failed_event_attributes
        assert attributes.failure.message == transition.error.message
        return transition.error.message, m.WorkflowTaskFailedCause.Name(attributes.cause).removeprefix(
            "WORKFLOW_TASK_FAILED_CAUSE_"
        )

    def fail_task(self, **fields: Any) -> h.Transition:
        request = m.RespondWorkflowTaskFailedRequest(identity="worker", failure=m.Failure(message="boom"))
        request.cause = m.WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_WORKFLOW_WORKER_UNHANDLED_FAILURE
        apply_fields(request, fields)
        return self.take(h.fail_workflow_task(self.run, request, limits=self.limits, now_ms=self.now_ms))

    def signal(self, name: str = "go", request_id: str = "", **kwargs: Any) -> h.Transition:
        return self.take(
            h.signal(
                self.run,
                signal_request(name, request_id),
                limits=self.limits,
                now_ms=self.now_ms,
                **kwargs,
            )
        )

    def cancel(self, **kwargs: Any) -> h.Transition:
        request = m.RequestCancelWorkflowExecutionRequest(identity="client", request_id="cancel-1", reason="why")
        return self.take(h.request_cancel(self.run, request, now_ms=self.now_ms, **kwargs))

    def terminate(self) -> h.Transition:
        return self.take(
            h.terminate(self.run, reason="enough", details=payloads(b"9"), identity="admin", now_ms=self.now_ms)
        )

    def start_activity(self, activity_id: str = "a") -> h.ActivityItem:
        item = self.activity(activity_id)
        h.start_activity(self.run, item.event_id, identity="actor", now_ms=self.now_ms)
        self.check()
        return item

    def complete_activity(self, activity_id: str = "a", result: m.Payloads | None = None) -> h.Transition:
        item = self.activity(activity_id)
        return self.take(
            h.complete_activity(
                self.run,
                item.event_id,
                item.attempt,
                None if result is None else result.SerializeToString(),
                identity="actor",
                now_ms=self.now_ms,
            )
        )

    def fail_activity(self, failure: m.Failure | None = None, activity_id: str = "a", **kwargs: Any) -> h.Transition:
        item = self.activity(activity_id)
        return self.take(
            h.fail_activity(
                self.run,
                item.event_id,
                item.attempt,
                failure or app_failure("broken"),
                identity="actor",
                now_ms=self.now_ms,
                **kwargs,
            )
        )

    def heartbeat(self, details: m.Payloads | None = None, activity_id: str = "a") -> h.Transition:
        item = self.activity(activity_id)
        return self.take(
            h.heartbeat_activity(self.run, item.event_id, item.attempt, details, identity="actor", now_ms=self.now_ms)
        )

    def deliver(self, message: h.OutMessage, **kwargs: Any) -> h.Transition:
        return self.take(h.message_delivered(self.run, message.seq, now_ms=self.now_ms, **kwargs))


def full_encoding(run: h.Run) -> tuple[bytes, list[tuple[int, bytes]]]:
    """All rows of a run, whatever is dirty."""
    dirty = run.live.dirty_items
    spilled = run.state.spilled
    run.live.dirty_items = set(run.state.items)
    updates = run.state.updates
    paged = 0 if updates is None else updates.paged
    if updates is not None:
        updates.paged = 0
    encoded = h.encode(run)
    run.live.dirty_items = dirty
    run.state.spilled = spilled
    if updates is not None:
        updates.paged = paged
    return encoded.state, sorted(encoded.items)


def name_of(event: m.HistoryEvent) -> str:
    name = m.EventType.Name(event.event_type).removeprefix("EVENT_TYPE_")
    return name.title().replace("_", "").replace("WorkflowExecution", "Workflow")


def app_failure(message: str, kind: str = "ValueError", **fields: Any) -> m.Failure:
    failure = m.Failure(message=message)
    failure.application_failure_info.type = kind
    apply_fields(failure.application_failure_info, fields)
    return failure


def signal_request(name: str = "go", request_id: str = "", **fields: Any) -> m.SignalWorkflowExecutionRequest:
    request = m.SignalWorkflowExecutionRequest(
        namespace="default", signal_name=name, request_id=request_id, identity="client", input=payloads(b"2")
    )
    apply_fields(request, fields)
    return request


def command(kind: str, attributes: str, **fields: Any) -> m.Command:
    result = m.Command(command_type=m.CommandType.Value(f"COMMAND_TYPE_{kind}"))
    target = getattr(result, f"{attributes}_command_attributes")
    target.SetInParent()
    apply_fields(target, fields)
    return result


def schedule(activity_id: str = "a", **fields: Any) -> m.Command:
    fields = {"start_to_close_timeout_s": 10, "input": payloads(b"3"), **fields}
    fields = {name: value for name, value in fields.items() if value is not None}
    result = command("SCHEDULE_ACTIVITY_TASK", "schedule_activity_task", activity_id=activity_id, **fields)
    attributes = result.schedule_activity_task_command_attributes
    attributes.activity_type.name = attributes.activity_type.name or "charge"
    return result


def retry(**fields: Any) -> m.RetryPolicy:
    policy = m.RetryPolicy()
    names = fields.pop("non_retryable", ())
    apply_fields(policy, fields)
    policy.non_retryable_error_types.extend(names)
    return policy


def cancel_activity(event_id: int) -> m.Command:
    return command("REQUEST_CANCEL_ACTIVITY_TASK", "request_cancel_activity_task", scheduled_event_id=event_id)


def timer(timer_id: str = "t", seconds: float = 60) -> m.Command:
    return command("START_TIMER", "start_timer", timer_id=timer_id, start_to_fire_timeout_s=seconds)


def cancel_timer(timer_id: str = "t") -> m.Command:
    return command("CANCEL_TIMER", "cancel_timer", timer_id=timer_id)


def finish(result: m.Payloads | None = None) -> m.Command:
    fields = {} if result is None else {"result": result}
    return command("COMPLETE_WORKFLOW_EXECUTION", "complete_workflow_execution", **fields)


def fail(failure: m.Failure | None = None) -> m.Command:
    return command("FAIL_WORKFLOW_EXECUTION", "fail_workflow_execution", failure=failure or app_failure("it failed"))


def give_in(details: m.Payloads | None = None) -> m.Command:
    fields = {} if details is None else {"details": details}
    return command("CANCEL_WORKFLOW_EXECUTION", "cancel_workflow_execution", **fields)


def continue_as_new(**fields: Any) -> m.Command:
    return command("CONTINUE_AS_NEW_WORKFLOW_EXECUTION", "continue_as_new_workflow_execution", **fields)


def start_child(workflow_id: str = "child-1", **fields: Any) -> m.Command:
    result = command(
        "START_CHILD_WORKFLOW_EXECUTION", "start_child_workflow_execution", workflow_id=workflow_id, **fields
    )
    result.start_child_workflow_execution_command_attributes.workflow_type.name = "ship"
    return result


def signal_other(**fields: Any) -> m.Command:
    fields = {
        "execution": m.WorkflowExecution(workflow_id="other", run_id="r"),
        "signal_name": "hello",
        "input": payloads(b"4"),
        **fields,
    }
    return command("SIGNAL_EXTERNAL_WORKFLOW_EXECUTION", "signal_external_workflow_execution", **fields)


def cancel_other(**fields: Any) -> m.Command:
    fields = {"workflow_id": "other", "run_id": "r", "reason": "because", **fields}
    return command("REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION", "request_cancel_external_workflow_execution", **fields)


def marker(name: str = "perdure.step") -> m.Command:
    result = command("RECORD_MARKER", "record_marker", marker_name=name)
    result.record_marker_command_attributes.details["data"].CopyFrom(payloads(b"5"))
    return result
