"""Updates in a run's history: admission, acceptance, completion, rejection; speculative workflow tasks."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.engine import history as h
from tests.history.scenario import LIMITS, Scenario, app_failure, continue_as_new, finish, payloads, timer

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


def test_a_rejection_in_an_ordinary_task_leaves_the_task_alone() -> None:
    scenario = Scenario()
    assert not admit(scenario).workflow_task
    scenario.start_task()
    h.update_messages(scenario.run, sticky=False)
    transition = say(scenario, rejection())
    assert fates(transition) == [("u", "REJECTED")]
    assert scenario.names(3) == ["WorkflowTaskStarted", "WorkflowTaskCompleted"]
    change = (transition.updates or [])[0]
    assert change.outcome is not None and change.outcome.failure.message == "no"


@pytest.mark.parametrize("capable", [False, True])
def test_a_task_that_showed_events_is_forgotten_only_by_workers_that_can(capable: bool) -> None:
    scenario = Scenario()
    scenario.step(timer())
    admit(scenario)
    scenario.start_task()
    h.update_messages(scenario.run, sticky=False)
    capabilities = m.RespondWorkflowTaskCompletedRequest.Capabilities()
    capabilities.discard_speculative_workflow_task_with_events = capable
    transition = say(scenario, rejection(), capabilities=capabilities)
    assert transition.changed is not capable
    assert transition.reset_event_id == (3 if capable else 0)
    assert scenario.names(6) == (
        [] if capable else ["WorkflowTaskScheduled", "WorkflowTaskStarted", "WorkflowTaskCompleted"]
    )


def test_what_else_happens_makes_an_ordinary_task() -> None:
    scenario = idle()
    admit(scenario)
    transition = scenario.signal()
    assert transition.workflow_task and scenario.names(5) == ["WorkflowSignaled", "WorkflowTaskScheduled"]
    assert h.pending_task_id(scenario.run) == 6
    scenario.start_task()
    (sent,) = h.update_messages(scenario.run, sticky=False)
    assert sent.event_id == 6
    say(scenario, rejection())
    assert scenario.names(7) == ["WorkflowTaskStarted", "WorkflowTaskCompleted"]


def test_what_happens_during_a_speculative_task_keeps_it() -> None:
    scenario = idle()
    admit(scenario)
    scenario.start_task()
    h.update_messages(scenario.run, sticky=False)
    scenario.signal()
    assert scenario.state.buffered
    assert h.wake_at_ms(scenario.run) == 0, "after a crash nobody remembers the task, and the signal must be looked at"
    transition = say(scenario, rejection())
    assert transition.changed and transition.workflow_task
    assert scenario.names(5) == [
        "WorkflowTaskScheduled",
        "WorkflowTaskStarted",
        "WorkflowTaskCompleted",
        "WorkflowSignaled",
        "WorkflowTaskScheduled",
    ]


@pytest.mark.parametrize("commands", [(timer(),), ()])
def test_commands_and_heartbeats_keep_a_speculative_task(commands: tuple[m.Command, ...]) -> None:
    scenario = idle()
    admit(scenario)
    scenario.start_task()
    h.update_messages(scenario.run, sticky=False)
    transition = say(scenario, rejection(), also=commands, force_create_new_workflow_task=not commands)
    assert transition.changed
    assert scenario.names(5)[:3] == ["WorkflowTaskScheduled", "WorkflowTaskStarted", "WorkflowTaskCompleted"]


def test_a_failed_speculative_task_is_written_and_its_updates_are_sent_again() -> None:
    scenario = idle()
    admit(scenario)
    scenario.start_task()
    assert len(h.update_messages(scenario.run, sticky=False)) == 1
    scenario.fail_task()
    assert scenario.names(5) == ["WorkflowTaskScheduled", "WorkflowTaskStarted", "WorkflowTaskFailed"]
    scenario.start_task()
    assert scenario.run.live.task is not None and scenario.run.live.task.attempt == 2
    (again,) = h.update_messages(scenario.run, sticky=True)
    assert again.event_id == 8
    say(scenario, acceptance(), response())
    assert scenario.names(8) == [
        "WorkflowTaskScheduled",
        "WorkflowTaskStarted",
        "WorkflowTaskCompleted",
        "WorkflowUpdateAccepted",
        "WorkflowUpdateCompleted",
    ]


def test_a_speculative_task_times_out() -> None:
    scenario = idle()
    admit(scenario)
    scenario.start_task()
    h.update_messages(scenario.run, sticky=False)
    scenario.wait_due()
    assert scenario.names(5) == ["WorkflowTaskScheduled", "WorkflowTaskStarted", "WorkflowTaskTimedOut"]
    assert h.workflow_task_ready(scenario.run, scenario.now_ms)


def test_a_speculative_task_leaves_its_sticky_queue() -> None:
    scenario = Scenario()
    scenario.step(sticky="s")
    admit(scenario)
    transition = scenario.take(h.expire_sticky(scenario.run, now_ms=scenario.now_ms))
    assert transition.workflow_task
    assert h.pending_task_id(scenario.run) == 5 and len(scenario.frames) == 4


def test_a_hand_out_that_nobody_took_is_undone() -> None:
    scenario = idle()
    admit(scenario)
    scenario.start_task()
    h.update_messages(scenario.run, sticky=False)
    transition = scenario.take(h.release_workflow_task(scenario.run, now_ms=scenario.now_ms))
    assert transition.workflow_task and not transition.changed
    scenario.start_task()
    assert len(h.update_messages(scenario.run, sticky=True)) == 1
    scenario.signal()
    transition = scenario.take(h.release_workflow_task(scenario.run, now_ms=scenario.now_ms))
    assert transition.changed
    assert scenario.names(5) == ["WorkflowSignaled", "WorkflowTaskScheduled"]


def test_updates_that_come_during_a_task_get_one_of_their_own() -> None:
    scenario = Scenario()
    scenario.start_task()
    assert not admit(scenario).workflow_task
    transition = scenario.complete()
    assert transition.workflow_task
    assert scenario.names(3) == ["WorkflowTaskStarted", "WorkflowTaskCompleted"]
    assert h.pending_task_id(scenario.run) == 5
    scenario.start_task()
    assert [sent.protocol_instance_id for sent in h.update_messages(scenario.run, sticky=True)] == ["u"]
    admit(scenario, "v")
    transition = say(scenario, rejection("u"))
    assert not transition.changed and transition.workflow_task
    scenario.start_task()
    assert [sent.protocol_instance_id for sent in h.update_messages(scenario.run, sticky=True)] == ["v"]


def test_a_worker_that_ignores_an_update_rejects_it() -> None:
    scenario = Scenario()
    admit(scenario)
    scenario.start_task()
    h.update_messages(scenario.run, sticky=False)
    transition = scenario.complete(timer())
    assert fates(transition) == [("u", "REJECTED")]
    (change,) = transition.updates or []
    assert change.outcome is not None
    assert change.outcome.failure.application_failure_info.type == "UnprocessedUpdate"


def test_a_heartbeat_may_leave_an_update_unanswered() -> None:
    scenario = Scenario()
    admit(scenario)
    scenario.start_task()
    h.update_messages(scenario.run, sticky=False)
    transition = scenario.complete(force_create_new_workflow_task=True, sticky="s")
    assert fates(transition) == []
    scenario.start_task(sticky=True)
    assert h.update_messages(scenario.run, sticky=True) == []
    assert fates(say(scenario, acceptance(), response())) == [("u", "ACCEPTED"), ("u", "COMPLETED")]


def test_a_heartbeat_taken_by_another_worker_brings_the_update_again() -> None:
    scenario = Scenario()
    admit(scenario)
    scenario.start_task()
    h.update_messages(scenario.run, sticky=False)
    scenario.complete(force_create_new_workflow_task=True, sticky="s")
    scenario.start_task(sticky=False)
    assert len(h.update_messages(scenario.run, sticky=False)) == 1


def test_a_run_may_not_close_before_its_worker_has_seen_all_updates() -> None:
    scenario = Scenario()
    scenario.start_task()
    admit(scenario)
    message_of, cause = scenario.refuse_commands(finish())
    assert (message_of, cause) == ("UnhandledUpdate", "UNHANDLED_UPDATE")
    scenario.start_task()
    assert len(h.update_messages(scenario.run, sticky=False)) == 1
    transition = say(scenario, acceptance(), response(), also=(finish(),))
    assert fates(transition) == [("u", "ACCEPTED"), ("u", "COMPLETED")]
    assert transition.closed


def test_accepted_updates_outlast_the_tasks_and_fail_with_the_run() -> None:
    scenario = idle()
    admit(scenario)
    scenario.start_task()
    h.update_messages(scenario.run, sticky=False)
    say(scenario, acceptance(), also=(timer(),))
    assert h.update_stage(scenario.run, "u") is h.UpdateStage.ACCEPTED
    scenario.reload()
    assert h.update_stage(scenario.run, "u") is h.UpdateStage.ACCEPTED
    scenario.wait_due()
    transition = scenario.step(finish())
    assert fates(transition) == [("u", "COMPLETED")]
    (change,) = transition.updates or []
    assert change.outcome == h.abandoned_outcome()
    assert change.outcome.failure.application_failure_info.type == "AcceptedUpdateCompletedWorkflow"
    scenario.reload()
    assert h.update_stage(scenario.run, "u") is h.UpdateStage.ABANDONED


def test_an_accepted_update_completes_later() -> None:
    scenario = idle()
    admit(scenario)
    scenario.start_task()
    h.update_messages(scenario.run, sticky=False)
    say(scenario, acceptance(), also=(timer(),))
    scenario.reload()
    scenario.wait_due()
    scenario.start_task()
    assert h.update_messages(scenario.run, sticky=False) == []
    assert fates(say(scenario, response())) == [("u", "COMPLETED")]
    assert scenario.names()[-1] == "WorkflowUpdateCompleted"


@pytest.mark.parametrize(("ends", "fate"), [(finish(), "CLOSED"), (continue_as_new(), "MOVED")])
def test_updates_that_were_not_accepted_when_the_run_closes(ends: m.Command, fate: str) -> None:
    scenario = Scenario()
    admit(scenario)
    scenario.start_task()
    h.update_messages(scenario.run, sticky=False)
    assert fates(scenario.complete(ends)) == [("u", fate)]
    assert scenario.run.live.updates is None
    with pytest.raises(RpcError, match="already completed"):
        admit(scenario, "v")


def test_termination_ends_waiting_updates_and_speculative_tasks() -> None:
    scenario = idle()
    admit(scenario)
    transition = scenario.terminate()
    assert fates(transition) == [("u", "CLOSED")]
    assert scenario.names(5) == ["WorkflowTerminated"]
    assert h.pending_task_id(scenario.run) == 0


def test_a_rejection_counts_also_when_the_run_closes() -> None:
    scenario = Scenario()
    admit(scenario)
    scenario.start_task()
    h.update_messages(scenario.run, sticky=False)
    transition = scenario.complete(finish(), messages=[rejection()])
    assert fates(transition) == [("u", "REJECTED")]
    assert scenario.names()[-1] == "WorkflowCompleted"


def test_an_acceptance_after_the_close_does_not_count() -> None:
    scenario = Scenario()
    admit(scenario)
    scenario.start_task()
    h.update_messages(scenario.run, sticky=False)
    said = acceptance()
    transition = scenario.complete(finish(), place(said), messages=[said])
    assert fates(transition) == [("u", "CLOSED")]
    assert scenario.names()[-1] == "WorkflowCompleted"


def test_messages_without_commands_come_last() -> None:
    scenario = Scenario()
    admit(scenario)
    scenario.start_task()
    h.update_messages(scenario.run, sticky=False)
    scenario.complete(timer(), messages=[acceptance(), response()])
    assert scenario.names(5) == ["TimerStarted", "WorkflowUpdateAccepted", "WorkflowUpdateCompleted"]


def test_commands_mark_the_place_of_messages() -> None:
    scenario = Scenario()
    admit(scenario)
    scenario.start_task()
    h.update_messages(scenario.run, sticky=False)
    first, last = acceptance(), response()
    scenario.complete(place(first), timer(), place(last), messages=[last, first])
    assert scenario.names(5) == ["WorkflowUpdateAccepted", "TimerStarted", "WorkflowUpdateCompleted"]


def bare(**fields: Any) -> m.Message:
    return m.Message(id="x", protocol_instance_id="u", **fields)


def broken(kind: str) -> m.Message:
    found = bare()
    found.body.type_url = f"type.googleapis.com/temporal.api.update.v1.{kind}"
    found.body.value = b"\xff"
    return found


def unsure() -> m.Message:
    return message("complete", "u", m.Response(meta=m.Meta(update_id="u")))


def misnamed() -> m.Message:
    body = m.Response(outcome=m.Outcome(success=payloads(b"1")))
    body.meta.update_id = "v"
    return message("complete", "u", body)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ([m.Message(id="x")], "has no protocol_instance_id"),
        ([bare()], "unknown type"),
        ([broken("Acceptance")], "can't be read"),
        ([message("x", "u", m.Request())], "unknown type"),
        ([message("accept", "u", m.Acceptance())], "accepted_request_message_id"),
        ([message("reject", "u", m.Rejection())], "has no failure"),
        ([acceptance("v")], "does not know"),
        ([rejection("v")], "does not know"),
        ([response()], "which is admitted"),
        ([acceptance(), unsure()], "has no outcome"),
        ([acceptance(), misnamed()], "speaks of update 'v'"),
        ([acceptance(), acceptance()], "the same id"),
        ([acceptance(), rejection()], "which is accepted"),
        ([rejection(), acceptance()], "which is completed"),
        ([acceptance(), response(value=b"x" * (LIMITS.blob_bytes + 1))], "exceeds size limit"),
    ],
)
def test_malformed_messages_fail_the_task(said: list[m.Message], reason: str) -> None:
    scenario = idle()
    admit(scenario)
    scenario.start_task()
    h.update_messages(scenario.run, sticky=False)
    transition = scenario.complete(messages=said)
    assert transition.error is not None and transition.error.code == StatusCode.INVALID_ARGUMENT
    assert reason in transition.error.message
    assert transition.updates is None
    failed = scenario.find("WorkflowTaskFailed").workflow_task_failed_event_attributes
    assert m.WorkflowTaskFailedCause.Name(failed.cause).endswith("BAD_UPDATE_WORKFLOW_EXECUTION_MESSAGE")
    scenario.start_task()
    assert len(h.update_messages(scenario.run, sticky=True)) == 1


def test_a_command_that_names_no_message_fails_the_task() -> None:
    scenario = Scenario()
    text, cause = scenario.refuse_commands(place(acceptance()))
    assert "'u/request/accept'" in text and cause == "BAD_UPDATE_WORKFLOW_EXECUTION_MESSAGE"


def test_an_overlong_failure_is_cut() -> None:
    scenario = idle(limits=h.Limits(blob_bytes=2000))
    admit(scenario)
    scenario.start_task()
    h.update_messages(scenario.run, sticky=False)
    body = m.Response(outcome=m.Outcome(failure=app_failure("x" * 5000)))
    body.meta.update_id = "u"
    say(scenario, acceptance(), message("complete", "u", body))
    outcome = scenario.find("WorkflowUpdateCompleted").workflow_execution_update_completed_event_attributes.outcome
    assert outcome.failure.cause.application_failure_info.type == "ValueError"
    assert len(outcome.failure.cause.message) < 5000


def test_the_same_update_id_is_the_same_update() -> None:
    scenario = idle()
    assert admit(scenario).workflow_task
    assert not admit(scenario, name="other").workflow_task
    scenario.start_task()
    assert len(h.update_messages(scenario.run, sticky=False)) == 1
    say(scenario, acceptance(), response())
    transition = admit(scenario)
    assert not transition.changed and not transition.workflow_task
    assert scenario.run.live.updates == {}


def test_updates_in_flight_are_bounded() -> None:
    limits = h.Limits(updates_in_flight=2)
    scenario = idle(limits=limits)
    admit(scenario, "a")
    admit(scenario, "b")
    error = scenario.refuse(
        StatusCode.RESOURCE_EXHAUSTED,
        h.admit_update,
        scenario.run,
        request("c"),
        limits=limits,
        now_ms=scenario.now_ms,
    )
    (detail,) = error.details
    assert isinstance(detail, m.ResourceExhaustedFailure)
    assert detail.cause == m.ResourceExhaustedCause.RESOURCE_EXHAUSTED_CAUSE_CONCURRENT_LIMIT
    scenario.start_task()
    h.update_messages(scenario.run, sticky=False)
    say(scenario, acceptance("a"), rejection("b"))
    admit(scenario, "c")
    scenario.start_task()
    h.update_messages(scenario.run, sticky=False)
    with pytest.raises(RpcError, match="in-flight"):
        admit(scenario, "d")
    say(scenario, response("a"), rejection("c"))
    admit(scenario, "d")


def test_updates_of_a_run_are_bounded_and_pages_keep_them() -> None:
    """As many as two pages and more; each completed one is known after a reload, also when the run has closed."""
    limits = h.Limits(updates_per_run=300, updates_suggest=0.7)
    scenario = Scenario(limits=limits)
    scenario.step()
    ids: list[str] = []
    for group in range(30):
        added = [f"u-{group}-{number}" for number in range(10)]
        for update_id in added:
            h.admit_update(scenario.run, request(update_id), limits=limits, now_ms=scenario.now_ms)
        scenario.start_task()
        h.update_messages(scenario.run, sticky=False)
        said = [each for update_id in added for each in (acceptance(update_id), response(update_id))]
        say(scenario, *said)
        h.encode(scenario.run)
        ids += added
    book = scenario.state.updates
    assert book is not None and book.paged >= 128
    assert h.encode(scenario.run).items == []
    with pytest.raises(RpcError, match="total number") as caught:
        admit(scenario, "more")
    assert caught.value.code is StatusCode.FAILED_PRECONDITION
    scenario.signal()
    scenario.start_task()
    task = scenario.run.live.task
    assert task is not None
    started = m.History.FromString(task.started_frame).events[0].workflow_task_started_event_attributes
    assert started.suggest_continue_as_new
    assert m.SuggestContinueAsNewReason.SUGGEST_CONTINUE_AS_NEW_REASON_TOO_MANY_UPDATES in (
        started.suggest_continue_as_new_reasons
    )
    scenario.complete(finish())
    scenario.reload()
    assert {h.update_stage(scenario.run, update_id) for update_id in ids} == {h.UpdateStage.COMPLETED}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda ask: ask.ClearField("input"), "no input"),
        (lambda ask: setattr(ask.input, "name", ""), "Update name is not set"),
        (lambda ask: setattr(ask.meta, "update_id", "x" * 1001), "UpdateId is too long"),
        (lambda ask: setattr(ask.meta, "update_id", ""), "UpdateId is not set"),
        (lambda ask: setattr(ask.meta, "update_id", "a\0b"), "NUL"),
        (lambda ask: setattr(ask.meta, "identity", "x" * 1001), "Identity is too long"),
        (lambda ask: ask.input.args.CopyFrom(payloads(b"x" * (LIMITS.blob_bytes + 1))), "Args exceeds"),
        (lambda ask: ask.completion_callbacks.add(), "completion callback"),
    ],
)
def test_bad_updates_are_refused(change: Any, reason: str) -> None:
    scenario = idle()
    ask = request()
    change(ask)
    error = scenario.refuse(
        StatusCode.INVALID_ARGUMENT, h.admit_update, scenario.run, ask, limits=LIMITS, now_ms=scenario.now_ms
    )
    assert reason in error.message


def test_an_update_of_the_longest_id_is_taken() -> None:
    scenario = idle()
    assert admit(scenario, "x" * LIMITS.id_length).workflow_task


def test_an_update_waits_for_a_delayed_start() -> None:
    scenario = Scenario(workflow_start_delay_s=60)
    transition = admit(scenario)
    assert not transition.workflow_task and not transition.changed
    scenario.wait_due()
    scenario.start_task()
    assert len(h.update_messages(scenario.run, sticky=False)) == 1


def test_an_update_with_start_ends_the_delay() -> None:
    scenario = Scenario(workflow_start_delay_s=60)
    transition = scenario.take(
        h.admit_update(scenario.run, request(), limits=LIMITS, with_start=True, now_ms=scenario.now_ms)
    )
    assert transition.workflow_task and transition.changed
    assert scenario.names() == ["WorkflowStarted", "WorkflowTaskScheduled"]


def test_an_update_rides_on_a_task_that_failed() -> None:
    scenario = Scenario()
    scenario.start_task()
    scenario.fail_task()
    assert not admit(scenario).workflow_task
    scenario.start_task()
    assert len(h.update_messages(scenario.run, sticky=False)) == 1


def test_a_run_whose_task_keeps_failing_refuses_updates() -> None:
    scenario = Scenario()
    admit(scenario, "before")
    for _ in range(2):
        scenario.start_task()
        scenario.fail_task()
    error = scenario.refuse(
        StatusCode.FAILED_PRECONDITION,
        h.admit_update,
        scenario.run,
        request(),
        limits=LIMITS,
        now_ms=scenario.now_ms,
    )
    assert isinstance(error.details[0], m.WorkflowNotReadyFailure)
    assert not admit(scenario, "before").changed


def reapplied() -> Scenario:
    """A run that has taken over an update, as a reset makes them."""
    scenario = Scenario()
    transition = h.Transition(scenario.run, scenario.now_ms)
    h.reapply_update(transition, request())
    scenario.take(transition)
    return scenario


def test_a_reapplied_update_lies_in_the_history() -> None:
    scenario = reapplied()
    admitted = scenario.event(3).workflow_execution_update_admitted_event_attributes
    assert admitted.request == request()
    assert admitted.origin == m.UpdateAdmittedEventOrigin.UPDATE_ADMITTED_EVENT_ORIGIN_REAPPLY
    assert h.update_stage(scenario.run, "u") is h.UpdateStage.ADMITTED
    scenario.reload()
    assert not admit(scenario).changed
    scenario.start_task()
    assert h.update_messages(scenario.run, sticky=False) == []
    assert fates(say(scenario, acceptance(), response())) == [("u", "ACCEPTED"), ("u", "COMPLETED")]
    assert scenario.names(6) == ["WorkflowUpdateAccepted", "WorkflowUpdateCompleted"]


def test_a_reapplied_update_may_be_rejected() -> None:
    scenario = reapplied()
    scenario.start_task()
    assert fates(say(scenario, rejection())) == [("u", "REJECTED")]
    assert h.update_stage(scenario.run, "u") is h.UpdateStage.NONE
    scenario.reload()
    assert h.update_stage(scenario.run, "u") is h.UpdateStage.NONE
    assert fates(scenario.terminate()) == []


def test_a_reapplied_update_ends_with_the_run() -> None:
    assert fates(reapplied().terminate()) == [("u", FATE.CLOSED.name)]
