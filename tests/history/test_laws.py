"""Random lives of a run: whatever happens, in whatever order, the laws hold.

The machine plays the worker, the clients, the clock, other runs and crashes at once. `Scenario` checks the laws after
every transition; here a few more are stated that need the whole life.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from perdure.api import RpcError
from perdure.api import messages as m
from perdure.engine import history as h
from perdure.engine.history.activity import HELD_KEY
from perdure.engine.history.evolve import STATUS_OF_CLOSING
from tests.history.scenario import (
    Scenario,
    app_failure,
    cancel_activity,
    cancel_other,
    cancel_timer,
    continue_as_new,
    fail,
    finish,
    give_in,
    marker,
    name_of,
    payloads,
    retry,
    schedule,
    signal_other,
    start_child,
    timer,
)

IDS = st.sampled_from(["a", "b", "c"])
SECONDS = st.sampled_from([0.5, 1, 3, 15])
ACTIVITY_FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "schedule_to_close_timeout_s": SECONDS,
        "schedule_to_start_timeout_s": SECONDS,
        "heartbeat_timeout_s": SECONDS,
        "retry_policy": st.sampled_from([retry(maximum_attempts=2), retry(initial_interval_s=5)]),
    },
)
COMMANDS = st.one_of(
    st.builds(lambda name, fields: schedule(name, **fields), IDS, ACTIVITY_FIELDS),
    st.builds(timer, IDS, SECONDS),
    st.builds(cancel_timer, IDS),
    st.builds(start_child, IDS, parent_close_policy=st.integers(0, 3)),
    st.builds(signal_other),
    st.builds(cancel_other),
    st.builds(marker),
    st.builds(cancel_activity, st.integers(5, 30)),
)
CLOSING = st.sampled_from([finish(), fail(), give_in(), continue_as_new()])


class Life(RuleBasedStateMachine):
    """One run from its start on."""

    @initialize(
        delay=st.sampled_from([0, 5]),
        run_timeout=st.sampled_from([0, 0, 200]),
        policy=st.none() | st.just(retry(maximum_attempts=2)),
    )
    def begin(self, delay: int, run_timeout: int, policy: m.RetryPolicy | None) -> None:
        fields: dict[str, Any] = {"workflow_start_delay_s": delay, "workflow_run_timeout_s": run_timeout}
        if policy is not None:
            fields["retry_policy"] = policy
        self.scenario = Scenario(limits=h.Limits(buffered_events=12), **fields)

    @property
    def run(self) -> h.Run:
        return self.scenario.run

    def is_open(self) -> bool:
        return self.run.is_open

    def attempt(self, call: Any, *arguments: Any, **named: Any) -> None:
        """Do it; a refusal must have changed nothing (its laws are checked again)."""
        before = h.encode(self.run).state if not self.run.state.spilled else b""
        try:
            call(*arguments, **named)
        except RpcError:
            assert not before or h.encode(self.run).state == before
            self.scenario.check()

    # -- the worker of workflow tasks

    @precondition(lambda self: h.workflow_task_ready(self.run, self.scenario.now_ms))
    @rule(sticky=st.booleans())
    def start_task(self, sticky: bool) -> None:
        self.scenario.start_task(sticky=sticky)

    @precondition(lambda self: self.run.live.task is not None)
    @rule(commands=st.lists(COMMANDS, max_size=6), force=st.booleans(), sticky=st.sampled_from(["", "s"]))
    def complete_task(self, commands: list[m.Command], force: bool, sticky: str) -> None:
        self.scenario.complete(*commands, force_create_new_workflow_task=force, sticky=sticky)

    @precondition(lambda self: self.run.live.task is not None and self.run.state.next_event_id > 12)
    @rule(commands=st.lists(COMMANDS, max_size=3), last=CLOSING)
    def close(self, commands: list[m.Command], last: m.Command) -> None:
        self.scenario.complete(*commands, last)

    @precondition(lambda self: self.run.live.task is not None)
    @rule()
    def fail_task(self) -> None:
        self.scenario.fail_task()

    # -- the workers of activities

    @precondition(lambda self: h.dispatchable_activities(self.run, self.scenario.now_ms))
    @rule()
    def start_activity(self) -> None:
        event_id = h.dispatchable_activities(self.run, self.scenario.now_ms)[0]
        h.start_activity(self.run, event_id, identity="actor", now_ms=self.scenario.now_ms)
        self.scenario.check()

    @precondition(lambda self: self.run.live.activity_ids)
    @rule(data=st.data(), outcome=st.sampled_from(["complete", "fail", "fatal", "cancel", "beat", "hold", "stale"]))
    def report_activity(self, data: st.DataObject, outcome: str) -> None:
        activity_id = data.draw(st.sampled_from(sorted(self.run.live.activity_ids)))
        scenario = self.scenario
        item = scenario.activity(activity_id)
        arguments = {"identity": "actor", "now_ms": scenario.now_ms}
        if outcome == "complete":
            self.attempt(scenario.complete_activity, activity_id, payloads(b"r"))
        elif outcome == "fail":
            self.attempt(scenario.fail_activity, app_failure("x"), activity_id)
        elif outcome == "fatal":
            self.attempt(scenario.fail_activity, app_failure("x", non_retryable=True), activity_id)
        elif outcome == "cancel":
            self.attempt(
                lambda: scenario.take(h.cancel_activity(self.run, item.event_id, item.attempt, None, **arguments))
            )
        elif outcome == "stale":
            with pytest.raises(RpcError):
                h.complete_activity(self.run, item.event_id, item.attempt + 1, None, **arguments)
        else:
            details = payloads(b"d")
            if outcome == "hold":
                details.payloads.add().metadata[HELD_KEY] = b"1"
            self.attempt(scenario.heartbeat, details, activity_id)

    # -- clients, other runs, time, crashes

    @precondition(is_open)
    @rule(request_id=st.sampled_from(["", "1", "2"]))
    def signal(self, request_id: str) -> None:
        self.scenario.signal("go", request_id)

    @precondition(is_open)
    @rule()
    def cancel(self) -> None:
        self.scenario.cancel()

    @precondition(lambda self: self.run.is_open and self.run.state.next_event_id > 25)
    @rule()
    def terminate(self) -> None:
        self.scenario.terminate()

    @precondition(lambda self: self.run.state.outbox)
    @rule(data=st.data(), cause=st.sampled_from([0, 0, 1]))
    def deliver(self, data: st.DataObject, cause: int) -> None:
        message = data.draw(st.sampled_from(self.run.state.outbox))
        self.scenario.deliver(message, run_id="" if cause else "child-run", failure_cause=cause)

    @precondition(lambda self: any(isinstance(item, h.ChildItem) for item in self.run.state.items.values()))
    @rule(kind=st.sampled_from(["WORKFLOW_EXECUTION_COMPLETED", "WORKFLOW_EXECUTION_TERMINATED"]))
    def close_child(self, kind: str) -> None:
        item = next(item for item in self.run.state.items.values() if isinstance(item, h.ChildItem))
        closing = m.HistoryEvent(event_id=9, event_type=m.EventType.Value(f"EVENT_TYPE_{kind}"))
        self.scenario.take(h.child_closed(self.run, item.event_id, closing, "child-run", now_ms=self.scenario.now_ms))

    @rule(ms=st.sampled_from([1, 400, 1000, 7000]))
    def wait(self, ms: int) -> None:
        self.scenario.pass_time(ms)
        self.scenario.wake()

    @precondition(lambda self: h.next_deadline_ms(self.run) is not None)
    @rule()
    def wait_due(self) -> None:
        self.scenario.wait_due()

    @rule()
    def crash(self) -> None:
        self.scenario.reload()

    @rule()
    def expire_sticky(self) -> None:
        self.scenario.take(h.expire_sticky(self.run, now_ms=self.scenario.now_ms))

    # -- laws of the whole

    @invariant()
    def waits_for_something(self) -> None:
        """An open run has a task, or has had one and waits for its items or for the outside."""
        if not hasattr(self, "scenario") or not self.run.is_open:
            return
        state = self.run.state
        assert state.task_scheduled_event_id or state.task_not_before_ms or state.last_task_completed_event_id
        for item in state.items.values():
            if isinstance(item, h.SignalItem | h.CancelItem):
                assert any(message.event_id == item.event_id for message in state.outbox)
            if isinstance(item, h.ChildItem) and not item.started_event_id:
                assert any(message.event_id == item.event_id for message in state.outbox)

    @invariant()
    def waking_is_noted(self) -> None:
        """What a restarted engine is told about the run wakes it in time."""
        if not hasattr(self, "scenario"):
            return
        woken_ms = h.wake_at_ms(self.run)
        if h.dispatchable_activities(self.copy(), self.scenario.now_ms) or self.run.state.outbox:
            assert woken_ms is not None and woken_ms <= self.scenario.now_ms
        if not self.run.is_open and not self.run.state.outbox:
            assert woken_ms == self.run.state.retain_until_ms > 0

    def copy(self) -> h.Run:
        return self.scenario.copy()

    @invariant()
    def history_makes_sense(self) -> None:
        """It begins with Started, closes at most once, and every back-reference points at what it should."""
        if not hasattr(self, "scenario"):
            return
        history = self.scenario.events()
        assert name_of(history[0]) == "WorkflowStarted"
        closings = [event.event_id for event in history if event.event_type in STATUS_OF_CLOSING]
        assert closings == ([] if self.run.is_open else [len(history)])
        names = [name_of(event) for event in history]
        for event in history:
            attributes = getattr(event, str(event.WhichOneof("attributes")))
            for field, expected in REFERENCES.items():
                number = getattr(attributes, field, 0)
                if number:
                    assert number < event.event_id
                    assert names[number - 1] in expected, (event, names[number - 1])


REFERENCES = {
    "scheduled_event_id": {"WorkflowTaskScheduled", "ActivityTaskScheduled"},
    "started_event_id": {"WorkflowTaskStarted", "ActivityTaskStarted", "TimerStarted", "ChildWorkflowStarted"},
    "initiated_event_id": {
        "StartChildWorkflowInitiated",
        "SignalExternalWorkflowInitiated",
        "RequestCancelExternalWorkflowInitiated",
    },
    "workflow_task_completed_event_id": {"WorkflowTaskCompleted"},
    "latest_cancel_requested_event_id": {"ActivityTaskCancelRequested"},
}

TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
