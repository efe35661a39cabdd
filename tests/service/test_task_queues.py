"""Task queues described: pollers, backlog, rates; and the hints that come with tasks."""

from __future__ import annotations

import asyncio

from perdure.api import StatusCode
from perdure.api import messages as m
from perdure.engine.store.memory import MemoryStore
from tests.service.support import QUEUE, Driver, complete_workflow, refusal, schedule_activity, turns

WORKFLOW = m.TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW
ACTIVITY = m.TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY
ENHANCED = m.DescribeTaskQueueMode.DESCRIBE_TASK_QUEUE_MODE_ENHANCED


async def describe(driver: Driver, kind: int = WORKFLOW, **fields: object) -> m.DescribeTaskQueueResponse:
    request = m.DescribeTaskQueueRequest(namespace="default", task_queue_type=kind, **fields)  # type: ignore[arg-type]
    request.task_queue.name = QUEUE
    return await driver.service.describe_task_queue(request)


async def test_a_queue_nobody_knows_is_empty(driver: Driver) -> None:
    described = await describe(driver, report_stats=True, report_config=True, include_task_queue_status=True)
    assert not described.pollers
    assert described.stats.approximate_backlog_count == 0
    assert described.HasField("config")
    assert described.effective_rate_limit.rate_limit_source == m.RateLimitSource.RATE_LIMIT_SOURCE_SYSTEM
    assert described.HasField("task_queue_status")
    assert not driver.engine.shard.matching.workflow, "asking makes no queue"


async def test_pollers_are_known_by_identity_and_last_visit(driver: Driver) -> None:
    await driver.poll()
    polled_ms = driver.clock.now_ms()
    driver.clock.advance_by(60_000)
    (poller,) = (await describe(driver)).pollers
    assert poller.identity == "worker"
    assert poller.last_access_time.ToMilliseconds() == polled_ms
    assert poller.rate_per_second > 0
    assert not (await describe(driver, ACTIVITY)).pollers
    driver.clock.advance_by(5 * 60_000)
    assert not (await describe(driver)).pollers, "it has not been back"


async def test_a_backlog_is_counted_and_its_age_told(driver: Driver) -> None:
    await driver.start("stale")
    for number in range(3):
        driver.clock.advance_by(1000)
        await driver.start(f"wf{number}", priority=m.Priority(priority_key=2 if number else 0))
    await driver.terminate("stale")
    driver.clock.advance_by(10_000)
    described = await describe(driver, report_stats=True, include_task_queue_status=True)
    assert described.stats.approximate_backlog_count == 4, "stale entries are counted until a poll comes"
    assert {key: each.approximate_backlog_count for key, each in described.stats_by_priority_key.items()} == {
        3: 2,
        2: 2,
    }
    assert described.task_queue_status.backlog_count_hint == 4
    assert described.stats.tasks_add_rate > 0
    assert described.stats.tasks_dispatch_rate == 0
    for _ in range(3):
        await driver.step(schedule_activity())
    described = await describe(driver, report_stats=True)
    assert described.stats.approximate_backlog_count <= 1
    assert described.stats.tasks_dispatch_rate > 0
    driver.clock.advance_by(7_000)
    activities = (await describe(driver, ACTIVITY, report_stats=True)).stats
    assert activities.approximate_backlog_count == 3
    assert activities.approximate_backlog_age.ToMilliseconds() == 7_000


async def test_rates_are_those_of_the_last_half_minute(driver: Driver) -> None:
    for number in range(30):
        driver.clock.advance_by(1000)
        await driver.start(f"wf{number}")
        await driver.step(complete_workflow())
    stats = (await describe(driver, report_stats=True)).stats
    assert 0.9 < stats.tasks_add_rate < 1.1
    assert 0.9 < stats.tasks_dispatch_rate < 1.1
    driver.clock.advance_by(3600_000)
    stats = (await describe(driver, report_stats=True)).stats
    assert stats.tasks_add_rate == stats.tasks_dispatch_rate == 0


async def test_enhanced_mode(driver: Driver) -> None:
    await driver.poll()
    await driver.start()
    described = await describe(
        driver, api_mode=ENHANCED, report_pollers=True, report_stats=True, report_task_reachability=True
    )
    info = described.versions_info[""]
    assert info.types_info[WORKFLOW].pollers[0].identity == "worker"
    assert info.types_info[WORKFLOW].stats.approximate_backlog_count == 1
    assert info.types_info[ACTIVITY].stats.approximate_backlog_count == 0
    assert info.task_reachability == m.BuildIdTaskReachability.BUILD_ID_TASK_REACHABILITY_REACHABLE
    chosen = m.TaskQueueVersionSelection(build_ids=["1.0"])
    assert not (await describe(driver, api_mode=ENHANCED, versions=chosen)).versions_info


async def test_partitions(driver: Driver) -> None:
    request = m.ListTaskQueuePartitionsRequest(namespace="default")
    assert (await refusal(driver.service.list_task_queue_partitions(request))).code is StatusCode.INVALID_ARGUMENT
    request.task_queue.name = QUEUE
    listed = await driver.service.list_task_queue_partitions(request)
    assert len(listed.activity_task_queue_partitions) == len(listed.workflow_task_queue_partitions) == 1
    describe_nothing = m.DescribeTaskQueueRequest(namespace="default")
    assert (await refusal(driver.service.describe_task_queue(describe_nothing))).code is StatusCode.INVALID_ARGUMENT


# -- for workers of other processes


def poll(driver: Driver, rate: float = 0.0) -> asyncio.Future[m.PollActivityTaskQueueResponse]:
    request = m.PollActivityTaskQueueRequest(namespace="default", identity="far")
    request.task_queue.name = QUEUE
    request.deployment_options.build_id = "1.0"
    if rate:
        request.task_queue_metadata.max_tasks_per_second.value = rate
    return asyncio.ensure_future(driver.service.poll_activity_task_queue(request))


async def test_activities_go_no_faster_than_their_workers_ask_for() -> None:
    async with Driver(MemoryStore(), in_process=False) as driver:
        polls = [poll(driver, rate=2.0) for _ in range(6)]
        await turns()
        await driver.start()
        await driver.step(*(schedule_activity(f"a{number}") for number in range(6)))
        await driver.rest()
        assert sum(each.done() for each in polls) == 2
        described = await describe(driver, ACTIVITY, report_stats=True)
        assert described.stats.rate_limiting_active
        assert described.effective_rate_limit.requests_per_second == 2.0
        assert described.pollers[0].rate_per_second == 2.0
        assert described.pollers[0].deployment_options.build_id == "1.0"
        for seconds in range(1, 5):
            driver.clock.advance_by(500)
            await driver.rest()
            assert sum(each.done() for each in polls) == 2 + seconds
        late = poll(driver)
        await turns()
        late.cancel()


async def test_hints_say_how_many_polls_are_wanted() -> None:
    async with Driver(MemoryStore(), in_process=False) as driver:
        for number in range(3):
            await driver.start(f"wf{number}")
        task = await driver.poll()
        assert task.poller_scaling_decision.poll_request_delta_suggestion == 1
        assert task.backlog_count_hint == 2
        await driver.complete(task, *(schedule_activity(f"a{number}") for number in range(2)))
        assert (await poll(driver)).poller_scaling_decision.poll_request_delta_suggestion == 1
        assert not (await poll(driver)).HasField("poller_scaling_decision"), "that was the last"
        patient = [poll(driver), poll(driver)]
        await turns()
        driver.clock.advance_by(5_000)
        await driver.step(schedule_activity("b"))
        assert (await patient[0]).poller_scaling_decision.poll_request_delta_suggestion == -1
        driver.clock.advance_by(120_000)
        assert await patient[1] == m.PollActivityTaskQueueResponse(), "an empty answer is exactly empty"
