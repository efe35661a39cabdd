"""Children and external workflows: messages out, outcomes in, parent close policies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from perdure.api import messages as m
from perdure.engine import history as h
from tests.history.scenario import (
    START_MS,
    Scenario,
    app_failure,
    cancel_other,
    continue_as_new,
    fail,
    finish,
    give_in,
    payloads,
    retry,
    signal_other,
    start_child,
    timer,
)

POLICY = m.ParentClosePolicy
ALREADY_EXISTS = (
    m.StartChildWorkflowExecutionFailedCause.START_CHILD_WORKFLOW_EXECUTION_FAILED_CAUSE_WORKFLOW_ALREADY_EXISTS
)
SIGNAL_NOT_FOUND = 1
CANCEL_NOT_FOUND = 1


def parent(**fields: Any) -> Scenario:
    scenario = Scenario()
    scenario.step(start_child(**fields))
    return scenario


def start(scenario: Scenario, run_id: str = "child-run") -> None:
    scenario.deliver(scenario.state.outbox[0], run_id=run_id)


def child_of(scenario: Scenario) -> Scenario:
    """The run that the parent's first message starts."""
    message = scenario.state.outbox[0]
    request = m.StartWorkflowExecutionRequest.FromString(message.data)
    return Scenario(request=request, lineage=h.child_lineage(scenario.run, message))


def test_a_child_is_initiated_and_started() -> None:
    header = m.Header(fields={"trace": payloads(b"t").payloads[0]})
    scenario = parent(input=payloads(b"in"), header=header, workflow_run_timeout_s=30)
    (message,) = scenario.last.messages
    assert (message.kind, message.workflow_id, message.event_id) == (h.MessageKind.START_CHILD, "child-1", 5)
    assert h.hot(scenario.run)
    initiated = scenario.event(5).start_child_workflow_execution_initiated_event_attributes
    assert (initiated.namespace, initiated.workflow_id, initiated.workflow_type.name) == ("default", "child-1", "ship")
    assert (initiated.task_queue.name, initiated.input, initiated.header) == ("orders", payloads(b"in"), header)
    assert initiated.parent_close_policy == POLICY.PARENT_CLOSE_POLICY_TERMINATE
    assert initiated.workflow_task_completed_event_id == 4
    assert initiated.workflow_run_timeout.ToSeconds() == 30
    assert scenario.deliver(message, run_id="child-run").workflow_task
    started = scenario.event(6).child_workflow_execution_started_event_attributes
    assert (started.initiated_event_id, started.workflow_execution.run_id) == (5, "child-run")
    assert (started.workflow_type.name, started.header) == ("ship", header)
    assert not scenario.deliver(message, run_id="child-run").changed
    assert not scenario.state.outbox
    (shown,) = h.describe(scenario.run, scenario.now_ms).pending_children
    assert (shown.workflow_id, shown.run_id, shown.initiated_id) == ("child-1", "child-run", 5)


def test_the_child_knows_its_parent_and_root() -> None:
    scenario = parent(retry_policy=retry(maximum_attempts=2))
    child = child_of(scenario)
    started = child.event(1).workflow_execution_started_event_attributes
    assert started.parent_workflow_execution.workflow_id == "order-1"
    assert started.parent_workflow_namespace == "default"
    assert (started.parent_initiated_event_id, started.root_workflow_execution.workflow_id) == (5, "order-1")
    assert started.retry_policy.maximum_attempts == 2
    child.step(start_child("grandchild"))
    grandchild = child_of(child)
    started = grandchild.event(1).workflow_execution_started_event_attributes
    assert started.parent_workflow_execution.workflow_id == "child-1"
    assert started.root_workflow_execution.workflow_id == "order-1"


def test_a_child_that_can_not_start() -> None:
    scenario = parent()
    assert scenario.deliver(scenario.state.outbox[0], failure_cause=ALREADY_EXISTS).workflow_task
    failed = scenario.event(6).start_child_workflow_execution_failed_event_attributes
    assert (failed.cause, failed.initiated_event_id, failed.workflow_id) == (ALREADY_EXISTS, 5, "child-1")
    assert failed.workflow_type.name == "ship"
    assert not scenario.state.items


CLOSINGS: list[tuple[str, Callable[[Scenario], Any], str]] = [
    ("completed", lambda child: child.step(finish(payloads(b"out"))), "ChildWorkflowCompleted"),
    ("failed", lambda child: child.step(fail(app_failure("bad"))), "ChildWorkflowFailed"),
    ("canceled", lambda child: child.step(give_in(payloads(b"c"))), "ChildWorkflowCanceled"),
    ("terminated", lambda child: child.terminate(), "ChildWorkflowTerminated"),
    ("timed out", lambda child: child.wait_due(), "ChildWorkflowTimedOut"),
]


@pytest.mark.parametrize(("close", "name"), [(c[1], c[2]) for c in CLOSINGS], ids=[c[0] for c in CLOSINGS])
def test_a_child_closes(close: Callable[[Scenario], Any], name: str) -> None:
    scenario = parent(workflow_run_timeout_s=30)
    child = child_of(scenario)
    start(scenario)
    close(child)
    (news,) = child.last.messages
    assert (news.kind, news.workflow_id, news.run_id) == (h.MessageKind.CHILD_CLOSED, "order-1", "run-1")
    assert h.wake_at_ms(child.run) == 0
    closing = m.HistoryEvent.FromString(news.data)
    assert closing == child.events()[-1]
    transition = h.child_closed(scenario.run, news.event_id, closing, "child-run", now_ms=scenario.now_ms)
    scenario.take(transition)
    event = scenario.find(name)
    (_, attributes), *_ = [
        (field, value) for field, value in event.ListFields() if field.name.endswith("_event_attributes")
    ]
    assert (attributes.initiated_event_id, attributes.started_event_id) == (5, 6)
    assert attributes.workflow_execution.run_id == "child-run"
    assert attributes.workflow_type.name == "ship"
    if name == "ChildWorkflowCompleted":
        assert attributes.result == payloads(b"out")
    if name == "ChildWorkflowFailed":
        assert attributes.failure.message == "bad"
    again = h.child_closed(scenario.run, news.event_id, closing, "child-run", now_ms=scenario.now_ms)
    assert not scenario.take(again).changed
    child.deliver(news)
    assert not child.state.outbox
    assert h.wake_at_ms(child.run) == child.state.retain_until_ms


def test_a_child_that_closes_before_its_start_is_known() -> None:
    scenario = parent()
    child = child_of(scenario)
    child.step(finish())
    closing = m.HistoryEvent.FromString(child.last.messages[0].data)
    scenario.take(h.child_closed(scenario.run, 5, closing, "child-run", now_ms=scenario.now_ms))
    assert scenario.names(6) == ["ChildWorkflowStarted", "ChildWorkflowCompleted", "WorkflowTaskScheduled"]
    start(scenario)
    assert scenario.names()[-1] == "WorkflowTaskScheduled"


def test_buffered_child_events_refer_to_each_other() -> None:
    scenario = parent()
    child = child_of(scenario)
    child.step(finish())
    closing = m.HistoryEvent.FromString(child.last.messages[0].data)
    scenario.signal()
    scenario.start_task()
    start(scenario)
    scenario.take(h.child_closed(scenario.run, 5, closing, "child-run", now_ms=scenario.now_ms))
    scenario.signal()
    scenario.complete()
    assert scenario.names(10) == [
        "ChildWorkflowStarted",
        "WorkflowSignaled",
        "ChildWorkflowCompleted",
        "WorkflowTaskScheduled",
    ]
    completed = scenario.event(12).child_workflow_execution_completed_event_attributes
    assert (completed.initiated_event_id, completed.started_event_id) == (5, 10)


def test_a_buffered_start_is_numbered_when_flushed() -> None:
    scenario = parent()
    scenario.signal()
    scenario.start_task()
    start(scenario)
    scenario.complete()
    (child,) = scenario.state.items.values()
    assert isinstance(child, h.ChildItem)
    assert child.started_event_id == 10


@pytest.mark.parametrize(
    ("policy", "kind"),
    [
        (POLICY.PARENT_CLOSE_POLICY_UNSPECIFIED, h.MessageKind.TERMINATE),
        (POLICY.PARENT_CLOSE_POLICY_TERMINATE, h.MessageKind.TERMINATE),
        (POLICY.PARENT_CLOSE_POLICY_REQUEST_CANCEL, h.MessageKind.CANCEL),
        (POLICY.PARENT_CLOSE_POLICY_ABANDON, None),
    ],
)
def test_parent_close_policies(policy: m.ParentClosePolicy.ValueType, kind: h.MessageKind | None) -> None:
    scenario = parent(parent_close_policy=policy)
    start(scenario)
    transition = scenario.step(finish())
    assert [message.kind for message in transition.messages] == ([] if kind is None else [kind])
    if kind is None:
        assert not h.hot(scenario.run)
        return
    (message,) = scenario.state.outbox
    assert (message.workflow_id, message.child_only) == ("child-1", True)
    assert h.hot(scenario.run)
    scenario.deliver(message)
    assert not h.hot(scenario.run)


def test_a_start_not_yet_delivered_is_withdrawn_unless_abandoned() -> None:
    scenario = Scenario()
    transition = scenario.step(
        start_child("gone"),
        start_child("stays", parent_close_policy=POLICY.PARENT_CLOSE_POLICY_ABANDON),
        signal_other(),
        finish(),
    )
    kinds = [(message.kind, message.workflow_id) for message in scenario.state.outbox]
    assert kinds == [
        (h.MessageKind.START_CHILD, "stays"),
        (h.MessageKind.SIGNAL, "other"),
        (h.MessageKind.TERMINATE, "gone"),
    ]
    assert transition.messages == scenario.state.outbox


def test_the_parent_hears_of_the_last_run_only() -> None:
    child = child_of(parent())
    transition = child.step(continue_as_new())
    assert not transition.messages
    following = transition.next_run
    assert following is not None
    last = Scenario(request=following.request, lineage=following.lineage)
    (message,) = last.step(finish()).messages
    assert (message.kind, message.event_id) == (h.MessageKind.CHILD_CLOSED, 5)


def test_signal_to_another_workflow() -> None:
    scenario = Scenario()
    transition = scenario.step(signal_other(child_workflow_only=True))
    initiated = scenario.event(5).signal_external_workflow_execution_initiated_event_attributes
    assert (initiated.signal_name, initiated.input, initiated.namespace) == ("hello", payloads(b"4"), "default")
    assert initiated.child_workflow_only and initiated.workflow_task_completed_event_id == 4
    (message,) = transition.messages
    assert (message.kind, message.workflow_id, message.run_id, message.child_only) == (
        h.MessageKind.SIGNAL,
        "other",
        "r",
        True,
    )
    request = m.SignalWorkflowExecutionRequest.FromString(message.data)
    assert (request.signal_name, request.request_id, request.input) == ("hello", "run-1:5", payloads(b"4"))
    assert scenario.deliver(message).workflow_task
    delivered = scenario.event(6).external_workflow_execution_signaled_event_attributes
    assert (delivered.initiated_event_id, delivered.workflow_execution.workflow_id) == (5, "other")
    assert not scenario.state.items


def test_cancel_of_another_workflow() -> None:
    scenario = Scenario()
    (message,) = scenario.step(cancel_other()).messages
    initiated = scenario.event(5).request_cancel_external_workflow_execution_initiated_event_attributes
    assert (initiated.workflow_execution.workflow_id, initiated.reason) == ("other", "because")
    request = m.RequestCancelWorkflowExecutionRequest.FromString(message.data)
    assert (request.request_id, request.reason) == ("run-1:5", "because")
    scenario.deliver(message)
    delivered = scenario.event(6).external_workflow_execution_cancel_requested_event_attributes
    assert (delivered.initiated_event_id, delivered.workflow_execution.run_id) == (5, "r")


def test_targets_that_are_not_there() -> None:
    scenario = Scenario()
    first, second = scenario.step(signal_other(), cancel_other()).messages
    scenario.deliver(second, failure_cause=CANCEL_NOT_FOUND)
    scenario.deliver(first, failure_cause=SIGNAL_NOT_FOUND)
    cancel_failed = scenario.find("RequestCancelExternalWorkflowFailed")
    assert cancel_failed.request_cancel_external_workflow_execution_failed_event_attributes.initiated_event_id == 6
    signal_failed = scenario.find("SignalExternalWorkflowFailed")
    attributes = signal_failed.signal_external_workflow_execution_failed_event_attributes
    assert (attributes.initiated_event_id, attributes.cause) == (5, SIGNAL_NOT_FOUND)
    assert not scenario.state.items and not scenario.state.outbox


def test_outcomes_after_the_close_are_dropped() -> None:
    scenario = Scenario()
    scenario.step(signal_other(), timer())
    scenario.terminate()
    (message,) = scenario.state.outbox
    transition = scenario.deliver(message)
    assert transition.changed and not transition.frames
    assert not scenario.take(h.message_delivered(scenario.run, 99, now_ms=START_MS)).changed
