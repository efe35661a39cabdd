"""Schedules, through the service and on the virtual clock: what starts when, and what callers are told."""

from __future__ import annotations

import pytest

from perdure.api import StatusCode
from perdure.api import messages as m
from tests.service.scheduling import HOUR_MS, MINUTE_MS, Scheduling, schedule
from tests.service.support import (
    NAMESPACE,
    START_MS,
    Driver,
    complete_workflow,
    continue_as_new,
    fail_workflow,
    payloads,
    refusal,
)

# The virtual clock begins on 2026-01-01 at midnight, UTC.


@pytest.fixture
def s(driver: Driver) -> Scheduling:
    return Scheduling(driver)


async def started(driver: Driver) -> list[str]:
    """The ids of all workflows, in the order of their starts."""
    listed = await driver.service.list_workflow_executions(
        m.ListWorkflowExecutionsRequest(namespace=NAMESPACE, query="ORDER BY StartTime")
    )
    return [each.execution.workflow_id for each in listed.executions]


async def test_each_run_has_the_nominal_time_in_its_id_and_knows_its_schedule(driver: Driver, s: Scheduling) -> None:
    wanted = schedule(every_s=3600)
    action = wanted.action.start_workflow
    action.memo.fields["who"].data = b'"me"'
    action.header.fields["trace"].data = b"1"
    action.input.CopyFrom(payloads("in"))
    action.user_metadata.summary.data = b'"what"'
    action.workflow_run_timeout.seconds = 60
    action.retry_policy.maximum_attempts = 1
    action.priority.priority_key = 2
    await s.create(wanted)
    await s.pass_time(HOUR_MS)
    assert await started(driver) == ["wf-2026-01-01T01:00:00Z"]
    event = (await driver.history("wf-2026-01-01T01:00:00Z"))[0]
    attributes = event.workflow_execution_started_event_attributes
    assert attributes.input == payloads("in")
    assert attributes.header.fields["trace"].data == b"1"
    assert attributes.memo.fields["who"].data == b'"me"'
    assert attributes.workflow_run_timeout.seconds == 60
    assert attributes.retry_policy.maximum_attempts == 1
    assert attributes.priority.priority_key == 2
    found = attributes.search_attributes.indexed_fields
    assert found["TemporalScheduledById"].data == b'"s"'
    assert found["TemporalScheduledStartTime"].data == b'"2026-01-01T01:00:00Z"'
    assert event.user_metadata.summary.data == b'"what"'
    listed = await driver.service.list_workflow_executions(
        m.ListWorkflowExecutionsRequest(
            namespace=NAMESPACE,
            query="TemporalScheduledById = 's' AND TemporalScheduledStartTime = '2026-01-01T01:00:00Z'",
        )
    )
    assert len(listed.executions) == 1
    await driver.settle()


async def test_describe_tells_what_happened_and_what_will(driver: Driver, s: Scheduling) -> None:
    await s.create(schedule(every_s=3600, overlap="ALLOW_ALL", notes="hourly"))
    assert not (await s.info()).HasField("update_time")
    await s.pass_time(12 * HOUR_MS)
    await driver.step(complete_workflow())
    described = await s.describe()
    assert described.schedule.state.notes == "hourly"
    assert described.schedule.policies.catchup_window.seconds == 365 * 86_400
    info = described.info
    assert info.action_count == 12
    assert info.create_time.ToMilliseconds() == START_MS
    assert [each.schedule_time.ToMilliseconds() for each in info.recent_actions] == [
        START_MS + hour * HOUR_MS for hour in range(3, 13)
    ]
    assert len(info.running_workflows) == 11
    assert [each.ToMilliseconds() for each in info.future_action_times] == [
        START_MS + hour * HOUR_MS for hour in range(13, 23)
    ]
    await driver.settle()


async def test_a_skipped_action_is_counted(driver: Driver, s: Scheduling) -> None:
    await s.create(schedule(every_s=60))
    await s.pass_time(3 * MINUTE_MS)
    info = await s.info()
    assert (info.action_count, info.overlap_skipped, info.buffer_size) == (1, 2, 0)
    assert [each.start_workflow_status for each in info.recent_actions] == [1]
    await driver.step(complete_workflow())
    info = await s.info()
    assert not info.running_workflows
    assert [each.start_workflow_status for each in info.recent_actions] == [2]
    await s.pass_time(MINUTE_MS)
    assert (await s.info()).action_count == 2
    await driver.settle()


async def test_buffer_one_keeps_one(driver: Driver, s: Scheduling) -> None:
    await s.create(schedule(every_s=60, overlap="BUFFER_ONE"))
    await s.pass_time(4 * MINUTE_MS)
    info = await s.info()
    assert (info.action_count, info.overlap_skipped, info.buffer_size) == (1, 2, 1)
    await driver.step(complete_workflow())
    await driver.rest()
    assert await started(driver) == ["wf-2026-01-01T00:01:00Z", "wf-2026-01-01T00:02:00Z"]
    assert (await s.info()).buffer_size == 0
    await driver.settle()


async def test_buffer_all_works_them_off_in_order(driver: Driver, s: Scheduling) -> None:
    await s.create(schedule(every_s=60, overlap="BUFFER_ALL"))
    await s.pass_time(3 * MINUTE_MS)
    assert (await s.info()).buffer_size == 2
    for minute in range(1, 4):
        task = await driver.step(complete_workflow())
        assert task.workflow_execution.workflow_id == f"wf-2026-01-01T00:0{minute}:00Z"
    assert (await s.info()).buffer_size == 0
    await driver.settle()


async def test_cancel_other_waits_until_the_other_has_gone(driver: Driver, s: Scheduling) -> None:
    await s.create(schedule(every_s=60, overlap="CANCEL_OTHER"))
    await s.pass_time(2 * MINUTE_MS)
    first = "wf-2026-01-01T00:01:00Z"
    assert (await driver.event_names(first)).count("WorkflowExecutionCancelRequested") == 1
    assert await started(driver) == [first]
    await s.pass_time(MINUTE_MS)
    assert (await driver.event_names(first)).count("WorkflowExecutionCancelRequested") == 1
    info = await s.info()
    assert (info.buffer_size, info.overlap_skipped) == (1, 1)
    cancel = m.Command(command_type=m.CommandType.COMMAND_TYPE_CANCEL_WORKFLOW_EXECUTION)
    cancel.cancel_workflow_execution_command_attributes.SetInParent()
    await driver.step(cancel)
    await driver.rest()
    assert await driver.status(first) == "CANCELED"
    assert await started(driver) == [first, "wf-2026-01-01T00:03:00Z"]
    await driver.settle()


async def test_terminate_other_makes_room_at_once(driver: Driver, s: Scheduling) -> None:
    await s.create(schedule(every_s=60, overlap="TERMINATE_OTHER"))
    await s.pass_time(2 * MINUTE_MS)
    assert await driver.status("wf-2026-01-01T00:01:00Z") == "TERMINATED"
    assert await driver.status("wf-2026-01-01T00:02:00Z") == "RUNNING"
    assert (await s.info()).action_count == 2
    await driver.settle()


async def test_results_and_failures_are_handed_on(driver: Driver, s: Scheduling) -> None:
    await s.create(schedule(every_s=60))
    seen: list[tuple[list[bytes], str]] = []
    for command in (complete_workflow("one"), fail_workflow("no"), complete_workflow("two"), complete_workflow("x")):
        await s.pass_time(MINUTE_MS)
        task = await driver.step(command)
        attributes = task.history.events[0].workflow_execution_started_event_attributes
        results = [each.data for each in attributes.last_completion_result.payloads]
        seen.append((results, attributes.continued_failure.message))
    assert seen == [([], ""), ([b"one"], ""), ([b"one"], "no"), ([b"two"], "")]
    await driver.settle()


async def test_a_workflow_that_goes_on_as_new_still_runs(driver: Driver, s: Scheduling) -> None:
    await s.create(schedule(every_s=60))
    await s.pass_time(MINUTE_MS)
    await driver.step(continue_as_new())
    await s.pass_time(MINUTE_MS)
    info = await s.info()
    assert (info.overlap_skipped, len(info.running_workflows)) == (1, 1)
    task = await driver.step(complete_workflow())
    assert task.workflow_execution.run_id != info.running_workflows[0].run_id
    assert not (await s.info()).running_workflows
    await driver.settle()


async def test_a_reset_workflow_still_runs(driver: Driver, s: Scheduling) -> None:
    await s.create(schedule(every_s=60))
    await s.pass_time(MINUTE_MS)
    await driver.step()
    request = m.ResetWorkflowExecutionRequest(namespace=NAMESPACE, reason="again", workflow_task_finish_event_id=4)
    request.workflow_execution.workflow_id = "wf-2026-01-01T00:01:00Z"
    await driver.service.reset_workflow_execution(request)
    assert len((await s.info()).running_workflows) == 1
    await driver.step(complete_workflow())
    assert not (await s.info()).running_workflows
    await driver.settle()


async def test_a_failure_pauses_if_asked_to(driver: Driver, s: Scheduling) -> None:
    wanted = schedule(every_s=60)
    wanted.policies.pause_on_failure = True
    await s.create(wanted)
    await s.pass_time(MINUTE_MS)
    await driver.step(fail_workflow("out of paper"))
    state = (await s.describe()).schedule.state
    assert state.paused
    assert "out of paper" in state.notes
    await s.pass_time(5 * MINUTE_MS)
    assert (await s.info()).action_count == 1
    await driver.settle()


async def test_a_paused_schedule_does_not_make_up_for_it(driver: Driver, s: Scheduling) -> None:
    await s.create(schedule(every_s=60))
    await s.patch(pause="holidays")
    assert (await s.describe()).schedule.state.notes == "holidays"
    await s.pass_time(5 * MINUTE_MS + 1)
    assert await started(driver) == []
    await s.patch(unpause="back")
    await driver.rest()
    assert await started(driver) == []
    await s.pass_time(MINUTE_MS)
    assert await started(driver) == ["wf-2026-01-01T00:06:00Z"]
    info = await s.info()
    assert (info.action_count, info.missed_catchup_window) == (1, 0)
    await driver.settle()


async def test_a_trigger_acts_also_while_paused(driver: Driver, s: Scheduling) -> None:
    await s.create(schedule(every_s=3600, paused=True))
    await s.trigger(request_id="one")
    await s.trigger(request_id="one")
    await driver.rest()
    assert await started(driver) == ["wf-2026-01-01T00:00:00Z"]
    await s.pass_time(1000)
    await s.trigger()
    await driver.rest()
    assert (await s.info()).overlap_skipped == 1
    await s.trigger("ALLOW_ALL")
    await driver.rest()
    assert await started(driver) == ["wf-2026-01-01T00:00:00Z", "wf-2026-01-01T00:00:01Z"]
    await driver.settle()


async def test_a_trigger_may_come_with_the_schedule(driver: Driver, s: Scheduling) -> None:
    patch = m.SchedulePatch(trigger_immediately=m.TriggerImmediatelyRequest())
    patch.trigger_immediately.scheduled_time.FromJsonString("2025-05-05T05:05:05Z")
    await s.create(schedule(every_s=3600), initial_patch=patch)
    await driver.rest()
    assert await started(driver) == ["wf-2025-05-05T05:05:05Z"]


async def test_a_backfill_includes_both_ends(driver: Driver, s: Scheduling) -> None:
    await s.create(schedule(every_s=60, paused=True))
    await s.backfill(START_MS - HOUR_MS, START_MS - HOUR_MS + 2 * MINUTE_MS, "ALLOW_ALL")
    await driver.rest()
    assert await started(driver) == [f"wf-2025-12-31T23:0{minute}:00Z" for minute in range(3)]
    assert (await s.info()).action_count == 3
    await driver.settle()


async def test_a_long_backfill_takes_its_turn_in_the_buffer(driver: Driver, s: Scheduling) -> None:
    await s.create(schedule(every_s=60, paused=True))
    await s.backfill(START_MS - HOUR_MS, START_MS - HOUR_MS + 29 * MINUTE_MS, "BUFFER_ALL")
    for _ in range(30):
        await driver.step(complete_workflow())
    await driver.rest()
    info = await s.info()
    assert (info.action_count, info.buffer_size, info.buffer_dropped) == (30, 0, 0)
    await driver.settle()


async def test_limited_actions_come_to_an_end(driver: Driver, s: Scheduling) -> None:
    await s.create(schedule(every_s=60, overlap="ALLOW_ALL", limited_actions=True, remaining_actions=2))
    assert len((await s.info()).future_action_times) == 2
    await s.pass_time(5 * MINUTE_MS)
    described = await s.describe()
    assert described.info.action_count == 2
    assert described.schedule.state.remaining_actions == 0
    assert not described.info.future_action_times
    await s.trigger("ALLOW_ALL")
    await driver.rest()
    assert (await s.info()).action_count == 3
    await driver.settle()


async def test_the_workflow_id_may_stay_as_it_is(driver: Driver, s: Scheduling) -> None:
    wanted = schedule(every_s=60)
    wanted.policies.keep_original_workflow_id = True
    await s.create(wanted)
    for _ in range(2):
        await s.pass_time(MINUTE_MS)
        await driver.step(complete_workflow())
    assert await started(driver) == ["wf", "wf"]
    await driver.settle()


async def test_a_start_that_is_refused_is_left_out(driver: Driver, s: Scheduling) -> None:
    await driver.start("wf")
    wanted = schedule(every_s=60)
    wanted.policies.keep_original_workflow_id = True
    await s.create(wanted)
    await s.pass_time(MINUTE_MS)
    assert (await s.info()).action_count == 0
    await driver.terminate("wf")
    await s.pass_time(MINUTE_MS)
    assert (await s.info()).action_count == 1
    await driver.settle()


async def test_an_update_replaces_the_schedule(driver: Driver, s: Scheduling) -> None:
    created = await s.create(schedule(every_s=60), memo=m.Memo(fields={"a": m.Payload(data=b"1")}))
    await s.pass_time(30_000)
    await s.update(schedule(cron="@hourly", notes="slower"), conflict_token=created.conflict_token, request_id="u")
    await s.update(schedule(cron="@daily"), conflict_token=created.conflict_token, request_id="u")
    described = await s.describe()
    assert described.memo.fields["a"].data == b"1"
    assert described.schedule.state.notes == "slower"
    assert described.info.update_time.ToMilliseconds() == START_MS + 30_000
    await s.pass_time(59 * MINUTE_MS)
    assert await started(driver) == []
    await s.pass_time(MINUTE_MS)
    assert await started(driver) == ["wf-2026-01-01T01:00:00Z"]
    error = await refusal(s.update(schedule(every_s=1), conflict_token=created.conflict_token))
    assert (error.code, error.message) == (StatusCode.FAILED_PRECONDITION, "mismatched conflict token")
    await s.update(schedule(every_s=1), memo=m.Memo())
    assert not (await s.describe()).memo.fields
    await driver.settle()


async def test_an_id_is_taken_until_it_is_deleted(driver: Driver, s: Scheduling) -> None:
    first = await s.create(schedule(every_s=60))
    assert await s.create(schedule(every_s=60)) == first
    error = await refusal(s.create(schedule(every_s=60), request_id="another"))
    assert error.code is StatusCode.ALREADY_EXISTS
    assert isinstance(error.details[0], m.WorkflowExecutionAlreadyStartedFailure)
    await s.pass_time(MINUTE_MS)
    await s.delete()
    for call in (s.describe(), s.delete(), s.trigger(), s.update(schedule(every_s=1))):
        assert (await refusal(call)).code is StatusCode.NOT_FOUND
    assert await driver.status("wf-2026-01-01T00:01:00Z") == "RUNNING"
    await s.pass_time(5 * MINUTE_MS)
    assert len(await started(driver)) == 1
    await driver.step(complete_workflow())
    await s.create(schedule(every_s=60), request_id="another")
    assert (await s.info()).action_count == 0
    await driver.settle()


async def test_matching_times_lie_after_the_start_and_not_after_the_end(driver: Driver, s: Scheduling) -> None:
    await s.create(schedule(cron="0 * * * *", paused=True))
    request = m.ListScheduleMatchingTimesRequest(namespace=NAMESPACE, schedule_id="s")
    request.start_time.FromMilliseconds(START_MS)
    request.end_time.FromMilliseconds(START_MS + 3 * HOUR_MS)
    found = await driver.service.list_schedule_matching_times(request)
    assert [each.ToMilliseconds() for each in found.start_time] == [START_MS + hour * HOUR_MS for hour in (1, 2, 3)]
    request.ClearField("end_time")
    assert (await refusal(driver.service.list_schedule_matching_times(request))).code is StatusCode.INVALID_ARGUMENT


async def test_lists_and_counts(driver: Driver) -> None:
    await driver.service.add_search_attributes(
        m.AddSearchAttributesRequest(
            namespace=NAMESPACE, search_attributes={"Team": m.IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD}
        )
    )
    for number in range(5):
        each = Scheduling(driver, f"s{number}")
        attributes = m.SearchAttributes()
        attributes.indexed_fields["Team"].data = b'"red"' if number % 2 else b'"blue"'
        attributes.indexed_fields["Team"].metadata["encoding"] = b"json/plain"
        memo = m.Memo(fields={"n": m.Payload(data=b"%d" % number)})
        await each.create(schedule(every_s=60, paused=number == 4), search_attributes=attributes, memo=memo)
        await each.pass_time(1)
    s = Scheduling(driver)
    assert await s.ids() == ["s4", "s3", "s2", "s1", "s0"]
    assert await s.ids("Team = 'red'") == ["s3", "s1"]
    assert await s.ids("ScheduleId = 's2' OR ScheduleId STARTS_WITH 's3'") == ["s3", "s2"]
    assert await s.ids("TemporalSchedulePaused = true") == ["s4"]
    assert await s.ids("Team = 'blue' AND NOT TemporalSchedulePaused = true") == ["s2", "s0"]
    entry = (await s.listed("ScheduleId = 's3'")).schedules[0]
    assert entry.memo.fields["n"].data == b"3"
    assert entry.search_attributes.indexed_fields["Team"].metadata["type"] == b"Keyword"
    assert entry.info.workflow_type.name == "flow"
    assert len(entry.info.future_action_times) == 5
    page = await s.listed(maximum_page_size=3)
    assert [each.schedule_id for each in page.schedules] == ["s4", "s3", "s2"]
    rest = await s.listed(maximum_page_size=3, next_page_token=page.next_page_token)
    assert [each.schedule_id for each in rest.schedules] == ["s1", "s0"]
    assert not rest.next_page_token
    other = await refusal(s.listed("Team = 'red'", next_page_token=page.next_page_token))
    assert other.code is StatusCode.INVALID_ARGUMENT
    for query in ("GROUP BY Team", "ORDER BY StartTime", "Nonsense = 1"):
        assert (await refusal(s.listed(query))).code is StatusCode.INVALID_ARGUMENT
    count = m.CountSchedulesRequest(namespace=NAMESPACE, query="Team = 'blue'")
    assert (await driver.service.count_schedules(count)).count == 3
    count.query = "GROUP BY Team"
    groups = (await driver.service.count_schedules(count)).groups
    assert [(each.group_values[0].data, each.count) for each in groups] == [(b'"blue"', 3), (b'"red"', 2)]


async def test_schedules_are_no_workflows(driver: Driver, s: Scheduling) -> None:
    await s.create(schedule(every_s=60, paused=True))
    assert await started(driver) == []


@pytest.mark.parametrize(
    "flaw", ["id", "action", "queue", "cron", "reuse", "spec", "catchup", "attribute", "backfill", "time", "note"]
)
async def test_what_makes_no_sense_is_refused(driver: Driver, s: Scheduling, flaw: str) -> None:
    wanted = schedule(every_s=60)
    action = wanted.action.start_workflow
    patch = m.SchedulePatch()
    match flaw:
        case "id":
            s.schedule_id = ""
        case "action":
            wanted.ClearField("action")
        case "queue":
            action.task_queue.name = ""
        case "cron":
            action.cron_schedule = "@daily"
        case "reuse":
            action.workflow_id_reuse_policy = m.WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE
        case "spec":
            wanted.spec.cron_string.append("nonsense")
        case "catchup":
            wanted.policies.catchup_window.seconds = -1
        case "attribute":
            action.search_attributes.indexed_fields["Nobody"].data = b"1"
        case "time":
            patch.trigger_immediately.scheduled_time.seconds = -(1 << 60)
        case "note":
            patch.pause = "x" * 200_000
        case _:
            patch.backfill_request.add()
    assert (await refusal(s.create(wanted, initial_patch=patch))).code is StatusCode.INVALID_ARGUMENT
    assert await s.ids() == []


async def test_a_namespace_goes_with_its_schedules(driver: Driver) -> None:
    register = m.RegisterNamespaceRequest(namespace="other")
    register.workflow_execution_retention_period.seconds = 86_400
    await driver.service.register_namespace(register)
    await driver.service.create_schedule(
        m.CreateScheduleRequest(namespace="other", schedule_id="s", schedule=schedule(every_s=60))
    )
    await Scheduling(driver).pass_time(MINUTE_MS)
    await driver.service.delete_namespace(m.DeleteNamespaceRequest(namespace="other"))
    await driver.service.register_namespace(register)
    listed = await driver.service.list_schedules(m.ListSchedulesRequest(namespace="other"))
    assert not listed.schedules
    await driver.settle()
