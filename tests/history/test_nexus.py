"""Nexus operations, as the workflow that calls them sees it: every way from Scheduled to the end."""

from __future__ import annotations

import pytest
from temporalio.api.nexus import v1 as nx

from perdure.api import StatusCode
from perdure.api import messages as m
from perdure.engine import history as h
from perdure.engine.history import links, nexus_failures
from tests.history.scenario import LIMITS, Scenario, app_failure, command, continue_as_new, finish, payloads

RESULT = payloads(b"9").payloads[0]
LINK = m.Link()
LINK.workflow_event.workflow_id = "handled"


def call(**fields: object) -> m.Command:
    header = fields.pop("nexus_header", {})
    fields = {"endpoint": "desk", "service": "s", "operation": "o", "input": payloads(b"1").payloads[0], **fields}
    asked = command("SCHEDULE_NEXUS_OPERATION", "schedule_nexus_operation", **fields)
    asked.schedule_nexus_operation_command_attributes.nexus_header.update(header)  # type: ignore[arg-type]
    return asked


def cancel(event_id: int = 5) -> m.Command:
    return command("REQUEST_CANCEL_NEXUS_OPERATION", "request_cancel_nexus_operation", scheduled_event_id=event_id)


class Calls(Scenario):
    """A workflow that has scheduled an operation at event 5."""

    def __init__(self, **fields: object) -> None:
        super().__init__()
        transition = self.step(call(**fields))
        assert transition.activities == [5]

    @property
    def item(self) -> h.NexusItem:
        item = self.state.items[5]
        assert isinstance(item, h.NexusItem)
        return item

    def hold(self, *, cancels: bool = False) -> int:
        """Hand the request out; its attempt."""
        request = self.item.request
        assert request is not None
        attempt = request.attempt
        self.take(h.hold_nexus(self.run, 5, attempt, cancels=cancels, limits=LIMITS, now_ms=self.now_ms))
        return attempt

    def start(self) -> h.Transition:
        attempt = self.hold()
        return self.take(h.start_nexus(self.run, 5, attempt, "token", [LINK], limits=LIMITS, now_ms=self.now_ms))

    def finish(self, completion: h.Completion) -> h.Transition:
        attempt = self.hold()
        return self.take(h.finish_nexus(self.run, 5, attempt, completion, [LINK], limits=LIMITS, now_ms=self.now_ms))

    def fail(self, failure: m.Failure, *, cancels: bool = False) -> h.Transition:
        attempt = self.hold(cancels=cancels)
        return self.take(
            h.fail_nexus_attempt(self.run, 5, attempt, failure, cancels=cancels, limits=LIMITS, now_ms=self.now_ms)
        )

    def complete_from_elsewhere(self, completion: h.Completion) -> h.Transition:
        return self.take(
            h.complete_nexus(
                self.run,
                5,
                self.item.request_id,
                completion,
                token="early",
                links=[LINK],
                limits=LIMITS,
                now_ms=self.now_ms,
            )
        )

    def pending(self) -> m.PendingNexusOperationInfo:
        return h.describe(self.run, self.now_ms).pending_nexus_operations[0]


def handler_error(kind: str, **fields: object) -> m.Failure:
    return nexus_failures.handler_failure(kind, "no", **fields)  # type: ignore[arg-type]


CANCELED = m.Failure(message="stopped")
CANCELED.canceled_failure_info.SetInParent()


def test_what_the_scheduled_event_says() -> None:
    scenario = Calls(schedule_to_close_timeout_s=60, nexus_header={"Who": "me"})
    said = scenario.event(5).nexus_operation_scheduled_event_attributes
    assert (said.endpoint, said.endpoint_id, said.service, said.operation) == ("desk", "endpoint-1", "s", "o")
    assert said.request_id == scenario.item.request_id and dict(said.nexus_header) == {"who": "me"}
    assert said.workflow_task_completed_event_id == 4
    assert said.schedule_to_close_timeout.seconds == 60 and not said.HasField("start_to_close_timeout")


@pytest.mark.parametrize(
    ("completion", "name"),
    [
        (h.Completion(result=RESULT), "NexusOperationCompleted"),
        (h.Completion(failure=app_failure("broken")), "NexusOperationFailed"),
        (h.Completion(failure=CANCELED), "NexusOperationCanceled"),
    ],
)
def test_an_answer_at_once_ends_it(completion: h.Completion, name: str) -> None:
    scenario = Calls()
    scenario.finish(completion)
    assert scenario.names(6) == [name, "WorkflowTaskScheduled"]
    event = scenario.event(6)
    assert list(event.links) == [LINK]
    if completion.failure is not None:
        failure = (
            h.folded_view(scenario.state)
            and getattr(
                event,
                event.WhichOneof("attributes"),  # type: ignore[arg-type]
            ).failure
        )
        info = failure.nexus_operation_execution_failure_info
        assert failure.message == "nexus operation completed unsuccessfully"
        assert (info.scheduled_event_id, info.endpoint, info.service, info.operation) == (5, "desk", "s", "o")
        assert failure.cause == completion.failure
    scenario.step(finish())


def test_it_starts_and_its_completion_comes_later() -> None:
    scenario = Calls()
    scenario.start()
    assert scenario.pending().operation_token == "token"
    scenario.reload()
    scenario.complete_from_elsewhere(h.Completion(result=RESULT))
    assert scenario.names(6) == [
        "NexusOperationStarted",
        "WorkflowTaskScheduled",
        "NexusOperationCompleted",
    ]
    started = scenario.event(6)
    assert started.nexus_operation_started_event_attributes.operation_token == "token"
    assert list(started.links) == [LINK]


def test_a_completion_may_overtake_the_answer() -> None:
    scenario = Calls()
    attempt = scenario.hold()
    scenario.complete_from_elsewhere(h.Completion(result=RESULT))
    assert scenario.names(6) == ["NexusOperationStarted", "NexusOperationCompleted", "WorkflowTaskScheduled"]
    assert scenario.event(6).nexus_operation_started_event_attributes.operation_token == "early"
    scenario.refuse(StatusCode.NOT_FOUND, h.start_nexus, scenario.run, 5, attempt, "token", [], limits=LIMITS, now_ms=0)


def test_a_completion_for_another_request_is_refused() -> None:
    scenario = Calls()
    scenario.refuse(
        StatusCode.NOT_FOUND,
        h.complete_nexus,
        scenario.run,
        5,
        "another",
        h.Completion(),
        limits=LIMITS,
        now_ms=scenario.now_ms,
    )


@pytest.mark.parametrize(
    ("failure", "again"),
    [
        (handler_error("INTERNAL"), True),
        (handler_error("UNAVAILABLE"), True),
        (handler_error("SOMETHING_NEW"), True),
        (handler_error("BAD_REQUEST"), False),
        (handler_error("NOT_FOUND"), False),
        (handler_error("NOT_FOUND", retryable=True), True),
        (handler_error("INTERNAL", retryable=False), False),
    ],
)
def test_a_handler_that_fails(failure: m.Failure, again: bool) -> None:
    scenario = Calls()
    scenario.fail(failure)
    if not again:
        assert scenario.names(6) == ["NexusOperationFailed", "WorkflowTaskScheduled"]
        return
    told = scenario.pending()
    assert told.state == m.PendingNexusOperationState.PENDING_NEXUS_OPERATION_STATE_BACKING_OFF
    assert told.attempt == 1 and told.last_attempt_failure == failure
    before_ms = scenario.now_ms
    assert scenario.wait_due().activities == [5]
    assert scenario.now_ms == before_ms + LIMITS.nexus_backoff_initial_ms
    scenario.fail(failure)
    before_ms = scenario.now_ms
    scenario.wait_due()
    assert scenario.now_ms == before_ms + 2 * LIMITS.nexus_backoff_initial_ms
    scenario.finish(h.Completion(result=RESULT))
    assert scenario.names(6) == ["NexusOperationCompleted", "WorkflowTaskScheduled"]


def test_a_handler_that_does_not_answer_is_asked_again_and_its_answer_refused() -> None:
    scenario = Calls()
    attempt = scenario.hold()
    scenario.refuse(
        StatusCode.NOT_FOUND, h.hold_nexus, scenario.run, 5, attempt, cancels=False, limits=LIMITS, now_ms=0
    )
    scenario.reload()
    assert scenario.last.activities == []
    scenario.wait_due()
    assert scenario.item.start.attempt == 2
    scenario.refuse(
        StatusCode.NOT_FOUND,
        h.finish_nexus,
        scenario.run,
        5,
        attempt,
        h.Completion(),
        [],
        limits=LIMITS,
        now_ms=scenario.now_ms,
    )
    scenario.wait_due()
    scenario.start()


def test_a_request_nobody_took_waits_again() -> None:
    scenario = Calls()
    attempt = scenario.hold()
    scenario.take(h.release_nexus(scenario.run, 5, attempt, cancels=False, now_ms=scenario.now_ms))
    assert h.dispatchable_activities(scenario.run, scenario.now_ms) == [5]
    scenario.take(h.release_nexus(scenario.run, 5, attempt, cancels=False, now_ms=scenario.now_ms))
    scenario.start()


@pytest.mark.parametrize(
    ("fields", "started", "kind"),
    [
        ({"schedule_to_close_timeout_s": 5}, False, "SCHEDULE_TO_CLOSE"),
        ({"schedule_to_close_timeout_s": 5}, True, "SCHEDULE_TO_CLOSE"),
        ({"schedule_to_start_timeout_s": 5}, False, "SCHEDULE_TO_START"),
        ({"start_to_close_timeout_s": 5}, True, "START_TO_CLOSE"),
    ],
)
def test_timeouts(fields: dict[str, object], started: bool, kind: str) -> None:
    scenario = Calls(**fields)
    if started:
        scenario.start()
    scenario.pass_time(5000)
    scenario.wake()
    failure = scenario.find("NexusOperationTimedOut").nexus_operation_timed_out_event_attributes.failure
    assert m.TimeoutType.Name(failure.cause.timeout_failure_info.timeout_type) == f"TIMEOUT_TYPE_{kind}"
    assert not scenario.state.items


def test_timeouts_that_concern_another_state() -> None:
    scenario = Calls(schedule_to_start_timeout_s=5)
    scenario.start()
    assert h.next_deadline_ms(scenario.run) is None
    scenario = Calls(start_to_close_timeout_s=5)
    assert h.next_deadline_ms(scenario.run) is None


def test_timeouts_end_with_the_run_and_with_each_other() -> None:
    scenario = Scenario(workflow_run_timeout_s=30)
    scenario.step(call(schedule_to_start_timeout_s=90, start_to_close_timeout_s=10))
    item = scenario.state.items[5]
    assert isinstance(item, h.NexusItem)
    assert (item.schedule_to_close_ms, item.schedule_to_start_ms, item.start_to_close_ms) == (30_000, 30_000, 10_000)


def test_a_cancel_goes_out_once_the_operation_has_started() -> None:
    scenario = Calls()
    scenario.signal()
    scenario.step(cancel())
    state = m.NexusOperationCancellationState
    assert scenario.pending().cancellation_info.state == state.NEXUS_OPERATION_CANCELLATION_STATE_UNSPECIFIED
    assert scenario.start().activities == [5]
    assert scenario.pending().cancellation_info.state == state.NEXUS_OPERATION_CANCELLATION_STATE_SCHEDULED
    attempt = scenario.hold(cancels=True)
    scenario.take(h.nexus_cancel_delivered(scenario.run, 5, attempt, now_ms=scenario.now_ms))
    assert scenario.pending().cancellation_info.state == state.NEXUS_OPERATION_CANCELLATION_STATE_SUCCEEDED
    delivered = scenario.find("NexusOperationCancelRequestCompleted")
    said = delivered.nexus_operation_cancel_request_completed_event_attributes
    requested = scenario.find("NexusOperationCancelRequested")
    assert (said.requested_event_id, said.scheduled_event_id) == (requested.event_id, 5)
    scenario.complete_from_elsewhere(h.Completion(failure=CANCELED))
    assert "NexusOperationCanceled" in scenario.names()


def test_a_cancel_that_is_refused_leaves_the_operation() -> None:
    scenario = Calls()
    scenario.start()
    assert scenario.step(cancel()).activities == [5]
    scenario.fail(handler_error("INTERNAL"), cancels=True)
    scenario.wait_due()
    scenario.fail(handler_error("NOT_IMPLEMENTED"), cancels=True)
    failed = scenario.find("NexusOperationCancelRequestFailed")
    info = failed.nexus_operation_cancel_request_failed_event_attributes.failure.nexus_handler_failure_info
    assert info.type == "NOT_IMPLEMENTED"
    assert h.dispatchable_activities(scenario.run, scenario.now_ms) == []
    scenario.complete_from_elsewhere(h.Completion(result=RESULT))


def test_an_end_that_is_buffered_comes_after_the_other_events() -> None:
    scenario = Calls()
    scenario.signal()
    scenario.start_task()
    scenario.start()
    scenario.complete_from_elsewhere(h.Completion(result=RESULT))
    scenario.signal("later")
    scenario.complete(cancel())
    assert scenario.names(10) == [
        "NexusOperationCancelRequested",
        "NexusOperationStarted",
        "WorkflowSignaled",
        "NexusOperationCompleted",
        "WorkflowTaskScheduled",
    ]


BAD = "BAD_SCHEDULE_NEXUS_OPERATION_ATTRIBUTES"
BAD_CANCEL = "BAD_REQUEST_CANCEL_NEXUS_OPERATION_ATTRIBUTES"


@pytest.mark.parametrize(
    ("bad", "cause"),
    [
        (call(endpoint="nowhere"), BAD),
        (call(endpoint=""), BAD),
        (call(service=""), BAD),
        (call(operation="x" * 1001), BAD),
        (call(schedule_to_close_timeout_s=-1), BAD),
        (call(input=payloads(b"1" * (3 * 1024 * 1024)).payloads[0]), BAD),
        (call(nexus_header={"a": "x" * 9000}), BAD),
        (cancel(5), BAD_CANCEL),
        (cancel(2), BAD_CANCEL),
    ],
)
def test_commands_that_do_not_hold(bad: m.Command, cause: str) -> None:
    scenario = Scenario()
    assert scenario.refuse_commands(bad)[1] == cause


def test_a_cancel_may_be_asked_for_once() -> None:
    scenario = Calls()
    scenario.signal()
    assert scenario.refuse_commands(cancel(), cancel())[1] == BAD_CANCEL
    scenario.step(cancel())
    scenario.signal()
    assert scenario.refuse_commands(cancel())[1] == BAD_CANCEL


def test_operations_at_once_are_bounded() -> None:
    scenario = Scenario()
    calls = [call() for _ in range(LIMITS.pending_nexus_operations)]
    scenario.step(*calls)
    scenario.signal()
    assert scenario.refuse_commands(call())[1] == "PENDING_NEXUS_OPERATIONS_LIMIT_EXCEEDED"


def test_results_and_failures_are_bounded() -> None:
    scenario = Calls()
    scenario.finish(h.Completion(result=payloads(b"1" * (3 * 1024 * 1024)).payloads[0]))
    assert "exceeds size limit" in str(scenario.find("NexusOperationFailed"))
    scenario = Calls()
    scenario.finish(h.Completion(failure=app_failure("1" * (3 * 1024 * 1024))))
    assert scenario.event(6).ByteSize() < LIMITS.blob_bytes


# Callbacks.


def callback(**header: str) -> m.Callback:
    made = m.Callback()
    made.nexus.url = "temporal://system"
    made.nexus.header.update(header)
    return made


@pytest.mark.parametrize("way", ["complete", "terminate", "time out"])
def test_a_workflow_that_ends_tells_its_callbacks(way: str) -> None:
    scenario = Scenario(completion_callbacks=[callback(a="1"), callback(b="2")], workflow_run_timeout_s=9)
    if way == "complete":
        scenario.step(finish())
    elif way == "terminate":
        scenario.terminate()
    else:
        scenario.wait_due()
    messages = scenario.last.messages
    assert [(each.kind, each.event_id) for each in messages] == [
        (h.MessageKind.CALLBACK, 0),
        (h.MessageKind.CALLBACK, 1),
    ]
    scenario.reload()
    scenario.deliver(messages[0])
    scenario.deliver(messages[1], failure_cause=h.CALLBACK_NOT_FOUND)
    states = [each.state for each in h.describe(scenario.run, scenario.now_ms).callbacks]
    assert states == [m.CallbackState.CALLBACK_STATE_SUCCEEDED, m.CallbackState.CALLBACK_STATE_FAILED]
    assert not scenario.state.outbox


def test_callbacks_follow_the_workflow() -> None:
    scenario = Scenario(completion_callbacks=[callback(a="1")])
    transition = scenario.step(continue_as_new())
    assert not transition.messages and transition.next_run is not None
    assert list(transition.next_run.request.completion_callbacks) == [callback(a="1")]


@pytest.mark.parametrize("buffered", [False, True])
def test_callbacks_are_attached_to_a_workflow_that_runs(buffered: bool) -> None:
    scenario = Scenario()
    request = m.StartWorkflowExecutionRequest(request_id="second", links=[LINK])
    request.completion_callbacks.append(callback(a="1"))
    request.completion_callbacks[0].links.append(LINK)
    request.on_conflict_options.attach_request_id = True
    request.on_conflict_options.attach_completion_callbacks = True
    request.on_conflict_options.attach_links = True
    scenario.start_task()
    if not buffered:
        scenario.complete()
    for _ in range(2):
        scenario.take(h.attach(scenario.run, request, limits=LIMITS, now_ms=scenario.now_ms))
    if buffered:
        scenario.complete()
    event = scenario.find("WorkflowOptionsUpdated")
    attributes = event.workflow_execution_options_updated_event_attributes
    assert list(attributes.attached_completion_callbacks) == list(request.completion_callbacks)
    assert not event.links, "the callback carries them"
    assert len(scenario.terminate().messages) == 1


def test_callbacks_are_bounded() -> None:
    limits = h.Limits(callbacks=1)
    scenario = Scenario(limits=limits, completion_callbacks=[callback()])
    request = m.StartWorkflowExecutionRequest(completion_callbacks=[callback()])
    request.on_conflict_options.attach_completion_callbacks = True
    scenario.refuse(
        StatusCode.FAILED_PRECONDITION, h.attach, scenario.run, request, limits=limits, now_ms=scenario.now_ms
    )


# Failures and links.


def test_nexus_failures_of_workers_that_know_no_others() -> None:
    error = nx.HandlerError(error_type="BAD_REQUEST", failure=nx.Failure(message="bad", details=b'{"a": 1}'))
    failure = nexus_failures.of_handler_error(error)
    assert not nexus_failures.is_retryable(failure)
    info = failure.cause.application_failure_info
    assert (failure.cause.message, info.type, info.non_retryable) == ("bad", "NexusFailure", True)
    assert info.details.payloads[0].data == b'{"details": {"a": 1}}'
    inner = nx.Failure(message="why", metadata={"type": "temporal.api.failure.v1.Failure"})
    inner.details = b'{"applicationFailureInfo": {"type": "Broken"}, "cause": {"message": "deep"}}'
    failed = nexus_failures.of_operation_error(nx.UnsuccessfulOperationError(operation_state="failed", failure=inner))
    assert failed.application_failure_info.type == "Broken" and failed.message == "why"
    assert failed.cause.message == "deep"
    cancelled = nexus_failures.of_operation_error(
        nx.UnsuccessfulOperationError(operation_state="canceled", failure=nx.Failure(message="stop"))
    )
    assert nexus_failures.is_canceled(cancelled)
    inner.details = b"\xff no json"
    assert nexus_failures.of_operation_error(nx.UnsuccessfulOperationError(failure=inner)).message == "why"


def test_links_there_and_back() -> None:
    event_type = m.EventType.EVENT_TYPE_NEXUS_OPERATION_SCHEDULED
    made = links.of_event("a b", "id/1", "run", 5, event_type)
    (found,) = links.read([made])
    event = found.workflow_event
    assert (event.namespace, event.workflow_id, event.run_id) == ("a b", "id/1", "run")
    assert (event.event_ref.event_id, event.event_ref.event_type) == (5, event_type)
    path = "temporal:///namespaces/n/workflows/w/r/history"
    kind = made.type
    query = "referenceType=RequestIdReference&requestID=q&eventType=EVENT_TYPE_WORKFLOW_EXECUTION_STARTED"
    (by_id,) = links.read([nx.Link(url=f"{path}?{query}", type=kind)])
    assert by_id.workflow_event.request_id_ref.request_id == "q"
    for bad in ("http://x/", f"{path}?eventID=x", f"{path}?eventType=Nope", "temporal:///elsewhere", "temporal://["):
        assert links.read([nx.Link(url=bad, type=kind)]) == []
    assert links.read([nx.Link(url=made.url, type="other")]) == []
    of_activity = m.Link.Activity.DESCRIPTOR.full_name
    (found,) = links.read([nx.Link(url="temporal:///namespaces/n/activities/a%2F1/r/details", type=of_activity)])
    assert (found.activity.namespace, found.activity.activity_id, found.activity.run_id) == ("n", "a/1", "r")
    assert links.read([nx.Link(url="temporal:///namespaces/n/activities/a/r", type=of_activity)]) == []
