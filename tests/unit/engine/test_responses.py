"""Poll responses and the terms of activities: the bytes they are made of say what a message built by fields would."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.api import messages as m
from perdure.api.durations import set_timestamp_ms
from perdure.engine import responses
from perdure.engine.history import ActivityItem, RunState, WorkflowTaskLive, retrying, terms

INSTANTS = st.integers(1, 4_000_000_000_000)
NUMBERS = st.integers(1, 10**6)
STATE = RunState(
    version=1, namespace="space", workflow_id="Bestellung-ä", run_id="run-1", workflow_type="order", task_queue="orders"
)


@given(INSTANTS, INSTANTS, NUMBERS, NUMBERS, NUMBERS)
def test_task_response(scheduled: int, started: int, previous: int, started_id: int, attempt: int) -> None:
    STATE.last_task_started_event_id = previous
    STATE.task_scheduled_at_ms = scheduled
    task = WorkflowTaskLive(started_id - 1, started_id, attempt, started, started + 10, "w", "r", b"", b"", True)
    history = m.History(events=[m.HistoryEvent(event_id=number) for number in range(1, 20)])
    expected = m.PollWorkflowTaskQueueResponse(
        task_token=b"token" * 7,
        previous_started_event_id=previous,
        started_event_id=started_id,
        attempt=attempt,
        history=history,
    )
    expected.workflow_execution.workflow_id = "Bestellung-ä"
    expected.workflow_execution.run_id = "run-1"
    expected.workflow_type.name = "order"
    expected.workflow_execution_task_queue.name = "orders"
    expected.workflow_execution_task_queue.kind = m.TaskQueueKind.TASK_QUEUE_KIND_NORMAL
    set_timestamp_ms(expected.scheduled_time, scheduled)
    set_timestamp_ms(expected.started_time, started)
    run = responses.run_in_task_response(STATE)
    assert responses.task_response(run, b"token" * 7, STATE, task, history.SerializeToString()) == expected


def command(**fields: Any) -> m.ScheduleActivityTaskCommandAttributes:
    asked = m.ScheduleActivityTaskCommandAttributes(activity_id="a", **fields)
    asked.activity_type.name = "charge"
    asked.start_to_close_timeout.seconds = 5
    return asked


@given(INSTANTS, INSTANTS, NUMBERS, st.binary(max_size=300), st.booleans())
def test_activity_response(scheduled: int, now: int, attempt: int, beaten: bytes, with_header: bool) -> None:
    asked = command(input=m.Payloads(payloads=[m.Payload(data=b"x" * 200)]))
    if with_header:
        asked.header.fields["h"].data = b"1"
    item = ActivityItem(5, "a", "charge", "orders", scheduled, attempt=attempt)
    if beaten:
        item.heartbeat_details = m.Payloads(payloads=[m.Payload(data=beaten)]).SerializeToString()
    expected = m.PollActivityTaskQueueResponse(
        task_token=b"token" * 7, workflow_namespace="space", activity_id="a", attempt=attempt, input=asked.input
    )
    expected.workflow_execution.workflow_id = "Bestellung-ä"
    expected.workflow_execution.run_id = "run-1"
    expected.workflow_type.name = "order"
    expected.activity_type.name = "charge"
    expected.start_to_close_timeout.seconds = 5
    # Spans of nothing are said, too: some workers look inside without asking.
    expected.schedule_to_close_timeout.SetInParent()
    expected.heartbeat_timeout.SetInParent()
    expected.retry_policy.CopyFrom(retrying.DEFAULT.message)
    if with_header:
        expected.header.CopyFrom(asked.header)
    if beaten:
        expected.heartbeat_details.MergeFromString(item.heartbeat_details)
    set_timestamp_ms(expected.scheduled_time, scheduled)
    set_timestamp_ms(expected.current_attempt_scheduled_time, scheduled)
    set_timestamp_ms(expected.started_time, now)
    said = terms.read(asked.SerializeToString(), "orders", 0).task()
    run = responses.run_in_activity_response(STATE)
    assert responses.activity_response(run, b"token" * 7, item, said, now) == expected


RICH: list[dict[str, Any]] = [
    {},
    {"header": m.Header(fields={"h": m.Payload(data=b"1" * 200)})},
    {"task_queue": m.TaskQueue(name="other"), "input": m.Payloads(payloads=[m.Payload(data=b"2" * 20_000)])},
    {"priority": m.Priority(priority_key=3), "request_eager_execution": True, "use_workflow_build_id": True},
    {"retry_policy": m.RetryPolicy(maximum_attempts=3, non_retryable_error_types=["x" * 5000])},
]


@pytest.mark.parametrize("fields", RICH)
def test_a_command_is_cut_without_loss(fields: dict[str, Any]) -> None:
    asked = command(**fields)
    read = terms.read(asked.SerializeToString(), "orders", 0)
    event = m.ActivityTaskScheduledEventAttributes.FromString(read.event(7))
    assert event.workflow_task_completed_event_id == 7
    assert event.task_queue.name == (asked.task_queue.name or "orders")
    assert event.retry_policy == retrying.policy_of(asked.retry_policy).message
    for name in ("activity_id", "activity_type", "header", "input", "start_to_close_timeout", "priority"):
        assert getattr(event, name) == getattr(asked, name)
    assert event.use_workflow_build_id == asked.use_workflow_build_id
    task = m.PollActivityTaskQueueResponse.FromString(read.task())
    assert task == m.PollActivityTaskQueueResponse.FromString(terms.task_of(event))


def test_fields_in_another_order_mean_the_same() -> None:
    asked = command(input=m.Payloads(payloads=[m.Payload(data=b"2")]))
    data = asked.SerializeToString()
    at = data.index(b"\x12\x08\n\x06charge")
    turned = data[at:] + data[:at]
    assert m.ScheduleActivityTaskCommandAttributes.FromString(turned) == asked
    expected, read = terms.read(data, "orders", 0), terms.read(turned, "orders", 0)
    parse = m.ActivityTaskScheduledEventAttributes.FromString
    assert parse(read.event(7)) == parse(expected.event(7))
    assert m.PollActivityTaskQueueResponse.FromString(read.task()) == m.PollActivityTaskQueueResponse.FromString(
        expected.task()
    )
