"""Completions read from their bytes: commands and the worker's manner come out whole."""

from __future__ import annotations

import pytest

from perdure.api import messages as m
from perdure.engine.history import reports


def request(commands: int, **fields: object) -> m.RespondWorkflowTaskCompletedRequest:
    asked = m.RespondWorkflowTaskCompletedRequest(task_token=b"t" * 33, namespace="default", identity="w")
    for number in range(commands):
        command = asked.commands.add(command_type=m.CommandType.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK)
        command.schedule_activity_task_command_attributes.activity_id = str(number) * (number * 90 + 1)
    for name, value in fields.items():
        setattr(asked, name, value)
    return asked


@pytest.mark.parametrize("commands", [0, 1, 3])
def test_commands_and_manner(commands: int) -> None:
    asked = request(commands, force_create_new_workflow_task=True, resource_id="r")
    asked.sticky_attributes.worker_task_queue.name = "mine"
    asked.sticky_attributes.schedule_to_start_timeout.FromMilliseconds(1500)
    found, manner = reports.read(asked)
    assert found == [command.SerializeToString() for command in asked.commands]
    assert (manner.identity, manner.sticky_queue, manner.sticky_timeout_ms) == ("w", "mine", 1500)
    assert manner.wants_next and not manner.has_messages
    assert m.WorkflowTaskCompletedEventAttributes.FromString(manner.event).identity == "w"


def test_a_worker_that_says_little() -> None:
    found, manner = reports.read(m.RespondWorkflowTaskCompletedRequest())
    assert (found, manner.identity, manner.sticky_queue, manner.wants_next) == ([], "", "", False)
    with_message = m.RespondWorkflowTaskCompletedRequest()
    with_message.messages.add(id="1")
    assert reports.read(with_message)[1].has_messages


def test_a_long_rest_is_read_all_the_same() -> None:
    asked = request(1, identity="w" * 5000)
    asked.sdk_metadata.lang_used_flags.append(7)
    _, manner = reports.read(asked)
    event = m.WorkflowTaskCompletedEventAttributes.FromString(manner.event)
    assert manner.identity == event.identity == "w" * 5000
    assert list(event.sdk_metadata.lang_used_flags) == [7]


def test_plain_schedules_are_told_from_commands_that_say_more() -> None:
    (plain,), _ = reports.read(request(1))
    attributes = reports.scheduled_activity(plain)
    assert attributes is not None
    assert m.ScheduleActivityTaskCommandAttributes.FromString(attributes).activity_id == "0"
    command = m.Command.FromString(plain)
    command.user_metadata.summary.data = b"why"
    assert reports.scheduled_activity(command.SerializeToString()) is None
    assert reports.scheduled_activity(m.Command(command_type=3).SerializeToString()) is None
