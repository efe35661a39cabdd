"""Updates in a run's history: admission, acceptance, completion, rejection; speculative workflow tasks."""

from __future__ import annotations

from typing import Any

from perdure.api import messages as m
from perdure.engine import history as h
from tests.history.scenario import Scenario, app_failure, payloads

FATE = h.UpdateFate


def request(update_id: str = "u", name: str = "set") -> m.Request:
    ask = m.Request()
    ask.meta.update_id = update_id
    ask.meta.identity = "client"
    ask.input.name = name
    ask.input.args.CopyFrom(payloads(b"7"))
    return ask


def admit(scenario: Scenario, update_id: str = "u", **kwargs: Any) -> h.Transition:
    limits = kwargs.pop("limits", scenario.limits)
    return scenario.take(
        h.admit_update(scenario.run, request(update_id, **kwargs), limits=limits, now_ms=scenario.now_ms)
    )


def message(kind: str, update_id: str, body: Any) -> m.Message:
    found = m.Message(id=f"{update_id}/request/{kind}", protocol_instance_id=update_id)
    found.body.Pack(body)
    return found


def acceptance(update_id: str = "u", **fields: Any) -> m.Message:
    body = m.Acceptance(accepted_request_message_id=f"{update_id}/request", **fields)
    return message("accept", update_id, body)


def rejection(update_id: str = "u", text: str = "no") -> m.Message:
    return message("reject", update_id, m.Rejection(failure=app_failure(text)))


def response(update_id: str = "u", value: bytes = b"8") -> m.Message:
    body = m.Response(outcome=m.Outcome(success=payloads(value)))
    body.meta.update_id = update_id
    return message("complete", update_id, body)


def place(said: m.Message) -> m.Command:
    """The command that marks the place of a message."""
    command = m.Command(command_type=m.CommandType.COMMAND_TYPE_PROTOCOL_MESSAGE)
    command.protocol_message_command_attributes.message_id = said.id
    return command


def say(scenario: Scenario, *said: m.Message, also: tuple[m.Command, ...] = (), **fields: Any) -> h.Transition:
    """Complete the held task with these messages, in their places, and then these commands."""
    places = [place(each) for each in said if not each.body.Is(m.Rejection.DESCRIPTOR)]
    return scenario.complete(*places, *also, messages=said, **fields)


def fates(transition: h.Transition) -> list[tuple[str, str]]:
    return [(change.update_id, change.fate.name) for change in transition.updates or ()]


def idle(**fields: Any) -> Scenario:
    """A run whose first workflow task is done."""
    scenario = Scenario(**fields)
    scenario.step()
    return scenario


def test_an_update_makes_a_task_that_is_not_written() -> None:
    scenario = idle()
    transition = admit(scenario)
    assert transition.workflow_task and not transition.changed
    assert scenario.state.task_scheduled_event_id == 0
    assert h.workflow_task_ready(scenario.run, scenario.now_ms)
    assert h.pending_task_id(scenario.run) == 5
    scenario.start_task()
    (sent,) = h.update_messages(scenario.run, sticky=False)
    assert (sent.id, sent.protocol_instance_id, sent.event_id) == ("u/request", "u", 5)
    body = m.Request()
    assert sent.body.Unpack(body) and body == request()
    seen = list(m.History.FromString(b"".join(h.task_frames(scenario.run, 5))).events)
    assert [event.event_id for event in seen] == [5, 6]
    assert len(scenario.frames) == 4


def test_an_accepted_update_is_written_with_its_task() -> None:
    scenario = idle()
    admit(scenario)
    scenario.start_task()
    h.update_messages(scenario.run, sticky=False)
    transition = say(scenario, acceptance(accepted_request_sequencing_event_id=5), response())
    assert fates(transition) == [("u", "ACCEPTED"), ("u", "COMPLETED")]
    assert scenario.names(5) == [
        "WorkflowTaskScheduled",
        "WorkflowTaskStarted",
        "WorkflowTaskCompleted",
        "WorkflowUpdateAccepted",
        "WorkflowUpdateCompleted",
    ]
    accepted = scenario.event(8).workflow_execution_update_accepted_event_attributes
    assert accepted.protocol_instance_id == "u"
    assert accepted.accepted_request_message_id == "u/request"
    assert accepted.accepted_request_sequencing_event_id == 5
    assert accepted.accepted_request == request()
    completed = scenario.event(9).workflow_execution_update_completed_event_attributes
    assert (completed.meta.update_id, completed.accepted_event_id) == ("u", 8)
    assert completed.outcome.success == payloads(b"8")
    assert h.update_stage(scenario.run, "u") is h.UpdateStage.COMPLETED
    assert transition.reset_event_id == 0


def test_a_rejection_leaves_nothing() -> None:
    scenario = idle()
    admit(scenario)
    scenario.start_task()
    h.update_messages(scenario.run, sticky=False)
    transition = say(scenario, rejection(), sticky="s")
    assert not transition.changed
    assert fates(transition) == [("u", "REJECTED")]
    assert transition.reset_event_id == 3
    assert len(scenario.frames) == 4
    assert scenario.state.sticky_queue == "s"
    assert h.update_stage(scenario.run, "u") is h.UpdateStage.NONE
    assert h.next_deadline_ms(scenario.run) is None
