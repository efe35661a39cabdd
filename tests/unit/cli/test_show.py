"""What the history table says of each kind of event."""

from __future__ import annotations

import pytest

from perdure.api import messages as m
from perdure.cli.show import details_of, event_name
from perdure.converter import default

E = m.EventType


def payloads(*values: object) -> m.Payloads:
    return default().to_payloads(values)


def failure() -> m.Failure:
    cause = m.Failure(message="no carrier", application_failure_info=m.ApplicationFailureInfo(type="NoCarrier"))
    return m.Failure(message="Activity task failed", cause=cause)


@pytest.mark.parametrize(
    ("event", "name", "details"),
    [
        (
            m.HistoryEvent(
                event_type=E.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED,
                activity_task_scheduled_event_attributes=m.ActivityTaskScheduledEventAttributes(
                    activity_type=m.ActivityType(name="charge"), input=payloads("A1", 5, None, b"\x00\x01")
                ),
            ),
            "ActivityTaskScheduled",
            'charge  "A1", 5, null, 2 bytes',
        ),
        (
            m.HistoryEvent(
                event_type=E.EVENT_TYPE_ACTIVITY_TASK_FAILED,
                activity_task_failed_event_attributes=m.ActivityTaskFailedEventAttributes(
                    failure=failure(), scheduled_event_id=5, started_event_id=6
                ),
            ),
            "ActivityTaskFailed",
            "Activity task failed ← NoCarrier: no carrier  of event 5",
        ),
        (
            m.HistoryEvent(
                event_type=E.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED,
                workflow_execution_update_accepted_event_attributes=m.WorkflowExecutionUpdateAcceptedEventAttributes(
                    protocol_instance_id="u1",
                    accepted_request=m.Request(input=m.Input(name="add", args=payloads("pen"))),
                ),
            ),
            "WorkflowExecutionUpdateAccepted",
            'add "pen"  update u1',
        ),
        (
            m.HistoryEvent(
                event_type=E.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED,
                workflow_execution_update_completed_event_attributes=m.WorkflowExecutionUpdateCompletedEventAttributes(
                    meta=m.Meta(update_id="u1"), outcome=m.Outcome(failure=failure())
                ),
            ),
            "WorkflowExecutionUpdateCompleted",
            "update u1  Activity task failed ← NoCarrier: no carrier",
        ),
        (
            m.HistoryEvent(
                event_type=E.EVENT_TYPE_TIMER_STARTED,
                timer_started_event_attributes=m.TimerStartedEventAttributes(
                    timer_id="1", start_to_fire_timeout={"seconds": 1_209_600}
                ),
            ),
            "TimerStarted",
            "timer 1  14 days, 0:00:00",
        ),
        (
            m.HistoryEvent(
                event_type=E.EVENT_TYPE_WORKFLOW_TASK_FAILED,
                workflow_task_failed_event_attributes=m.WorkflowTaskFailedEventAttributes(
                    cause=m.WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND, scheduled_event_id=2
                ),
            ),
            "WorkflowTaskFailed",
            "WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND  of event 2",
        ),
        (
            m.HistoryEvent(
                event_type=E.EVENT_TYPE_NEXUS_OPERATION_SCHEDULED,
                nexus_operation_scheduled_event_attributes=m.NexusOperationScheduledEventAttributes(
                    endpoint="desk", service="books", operation="lend", input=payloads("pen").payloads[0]
                ),
            ),
            "NexusOperationScheduled",
            'desk  books  lend  "pen"',
        ),
        (m.HistoryEvent(event_type=E.EVENT_TYPE_UNSPECIFIED), "Unspecified", ""),
    ],
)
def test_an_event(event: m.HistoryEvent, name: str, details: str) -> None:
    assert event_name(event) == name
    assert details_of(event) == details


def test_long_values_are_cut() -> None:
    event = m.HistoryEvent(
        event_type=E.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED,
        workflow_execution_completed_event_attributes=m.WorkflowExecutionCompletedEventAttributes(
            result=payloads("x" * 500)
        ),
    )
    assert len(details_of(event)) == 60
