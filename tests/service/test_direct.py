"""The short way: the same tasks, rules and histories as by polls, without messages and waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.api.direct import ActivityTask, StandingPoll, WorkflowTask, direct_of
from perdure.engine.store.memory import MemoryStore
from perdure.engine.store.port import Batch, StoreFullError
from tests.service.support import (
    NAMESPACE,
    QUEUE,
    STICKY,
    Driver,
    complete_workflow,
    payloads,
    refusal,
    schedule_activity,
    turns,
)

pytestmark = pytest.mark.in_process("the short way is that of one process")

Decide = Callable[[m.History], list[m.Command]]


class Taker:
    """A worker's end: keeps what it is given, and completes workflow tasks with what `decide` says, if there is one."""

    def __init__(self, driver: Driver, decide: Decide | None = None) -> None:
        self._driver = driver
        self._decide = decide
        self.activities: list[ActivityTask] = []
        self.workflow_tasks: list[WorkflowTask] = []
        self.messages: list[m.PollWorkflowTaskQueueResponse] = []
        self.lost: list[str] = []

    def take_activity(self, task: ActivityTask) -> None:
        self.activities.append(task)

    def take_workflow_task(self, task: WorkflowTask) -> None:
        self.workflow_tasks.append(task)
        if self._decide is not None:
            task.complete([each.SerializeToString() for each in self._decide(m.History.FromString(task.history))])

    def take_message(self, task: m.PollWorkflowTaskQueueResponse) -> None:
        self.messages.append(task)

    def lose(self, run_id: str) -> None:
        self.lost.append(run_id)

    def poll(self, *, sticky: bool = False) -> StandingPoll:
        short_way = direct_of(self._driver.service)
        assert short_way is not None
        completion = m.RespondWorkflowTaskCompletedRequest(namespace=NAMESPACE, identity="worker")
        if sticky:
            completion.sticky_attributes.worker_task_queue.name = STICKY
            completion.sticky_attributes.schedule_to_start_timeout.seconds = 10
            short_way.poll_workflow_tasks(self._driver.poll_request(STICKY, sticky=True), completion, self)
        return short_way.poll_workflow_tasks(self._driver.poll_request(), completion, self)

    def poll_activities(self) -> StandingPoll:
        short_way = direct_of(self._driver.service)
        assert short_way is not None
        request = m.PollActivityTaskQueueRequest(namespace=NAMESPACE, identity="worker")
        request.task_queue.name = QUEUE
        return short_way.poll_activities(request, self)


def no_loss(error: RpcError) -> None:
    raise AssertionError(f"lost: {error}")


def three_steps(history: m.History) -> list[m.Command]:
    """Three activities one after the other; the number is how many have been completed by then."""
    last = history.events[-1].event_id
    return [complete_workflow()] if last > 18 else [schedule_activity(f"a{last}")]


async def by_short_way(driver: Driver) -> None:
    taker = Taker(driver, three_steps)
    taker.poll(sticky=True)
    taker.poll_activities()
    await driver.start()
    for _ in range(3):
        await driver.rest()
        taker.activities.pop().complete(payloads("out").SerializeToString(), no_loss)
    await driver.rest()
    assert [task.first_event_id for task in taker.workflow_tasks] == [1, 4, 10, 16]


async def by_polls(driver: Driver) -> None:
    await driver.poll(STICKY, sticky=True)
    await driver.start()
    for number in range(4):
        task = await driver.poll(STICKY, sticky=True) if number else await driver.poll()
        await driver.complete(task, *three_steps(task.history), sticky=STICKY)
        if number < 3:
            await driver.activity()


async def test_both_ways_leave_the_same_history() -> None:
    histories: list[Any] = []
    for tell in (by_short_way, by_polls):
        async with Driver(MemoryStore()) as driver:
            await tell(driver)
            events = await driver.history()
            for event in events:
                if event.event_type == m.EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED:
                    event.workflow_task_started_event_attributes.request_id = ""
            histories.append(events)
            await driver.settle()
    assert histories[0] == histories[1]
    assert len(histories[0]) == 23


async def test_a_task_is_what_a_poll_would_have_brought(driver: Driver) -> None:
    taker = Taker(driver)
    taker.poll()
    taker.poll_activities()
    run_id = await driver.start()
    await driver.rest()
    (task,) = taker.workflow_tasks
    message = task.message()
    assert (message.workflow_execution.run_id, message.workflow_type.name) == (run_id, "flow")
    assert message.history == m.History.FromString(task.history)
    assert [event.event_id for event in message.history.events] == [1, 2, 3]
    await driver.complete(message, schedule_activity(text="given"))
    await driver.rest()
    (activity,) = taker.activities
    told = activity.message()
    assert (activity.run_id, activity.activity_type, activity.start_to_close_ms) == (run_id, "work", 60_000)
    assert activity.input == payloads("given").SerializeToString() == told.input.SerializeToString()
    assert (told.activity_id, told.attempt) == ("a", 1)
    await driver.complete_activity(told)
    error = refused(lambda: activity.complete(b"", no_loss))
    assert error.code is StatusCode.UNAVAILABLE, "it is told by message, and refused there"
    assert (await refusal(driver.complete_activity(told))).code is StatusCode.NOT_FOUND
    assert refused(lambda: task.complete([])).code is StatusCode.NOT_FOUND


def refused(call: Callable[[], None]) -> RpcError:
    with pytest.raises(RpcError) as caught:
        call()
    return caught.value


async def test_a_late_message_speaks_of_its_own_attempt(driver: Driver) -> None:
    taker = Taker(driver)
    poll = taker.poll_activities()
    await driver.start()
    await driver.step(schedule_activity(start_to_close_s=5, attempts=0))
    await driver.rest()
    poll.pause()
    driver.clock.advance_by(10_000)
    await driver.rest()
    (first,) = taker.activities
    told = first.message()
    assert told.attempt == 1
    assert (await refusal(driver.complete_activity(told))).code is StatusCode.NOT_FOUND
    poll.resume()
    await driver.rest()
    assert taker.activities[1].message().attempt == 2
    taker.activities[1].complete(b"", no_loss)
    await driver.rest()
    assert (await driver.event_names())[-1] == "WorkflowTaskScheduled"


async def test_paused_and_closed_polls_leave_tasks_to_others(driver: Driver) -> None:
    taker = Taker(driver)
    poll = taker.poll()
    poll.pause()
    poll.pause()
    await driver.start()
    await driver.rest()
    assert not taker.workflow_tasks
    poll.resume()
    poll.close()
    await turns()
    assert not taker.workflow_tasks, "it was on its way, and went back"
    assert (await driver.poll()).task_token
    poll.resume()
    await driver.start("another")
    assert (await driver.poll()).task_token


async def test_standing_and_waiting_polls_take_turns(driver: Driver) -> None:
    one, other = Taker(driver), Taker(driver)
    one.poll()
    other.poll()
    polls = [asyncio.ensure_future(driver.service.poll_workflow_task_queue(driver.poll_request())) for _ in range(2)]
    await turns()
    for number in range(6):
        await driver.start(f"wf-{number}")
    await driver.rest()
    assert [(await poll).workflow_execution.workflow_id for poll in polls] == ["wf-0", "wf-2"]
    assert [task.workflow_id for task in one.workflow_tasks] == ["wf-1", "wf-4"]
    assert [task.workflow_id for task in other.workflow_tasks] == ["wf-3", "wf-5"]


async def test_what_the_short_way_has_no_word_for_comes_as_a_message(driver: Driver) -> None:
    taker = Taker(driver)
    taker.poll()
    await driver.start()
    await driver.rest()
    await driver.fail_task(taker.workflow_tasks[0].message())
    await driver.rest()
    assert taker.messages[0].attempt == 2
    await driver.complete(taker.messages[0])
    asked = asyncio.ensure_future(driver.query())
    await driver.rest()
    assert taker.messages[1].query.query_type == "state"
    asked.cancel()


async def test_a_run_that_is_not_in_memory_is_read_first(driver: Driver) -> None:
    taker = Taker(driver)
    await driver.start()
    await driver.step(schedule_activity())
    await driver.start("another")
    await driver.settle()
    assert driver.engine.shard.cache.evict_cold() == 2
    taker.poll()
    taker.poll_activities()
    await driver.rest()
    assert [task.workflow_execution.workflow_id for task in taker.messages] == ["another"]
    (activity,) = taker.activities
    assert activity.input == payloads("in").SerializeToString()
    activity.complete(payloads("out").SerializeToString(), no_loss)
    await driver.rest()
    assert [task.workflow_execution.workflow_id for task in taker.messages] == ["another", "wf"]
    assert (await driver.event_names())[-1] == "WorkflowTaskScheduled"


async def test_who_has_decided_what_is_lost_is_told() -> None:
    full = [False]

    def hook(_number: int, _batch: Batch) -> None:
        if full[0]:
            raise StoreFullError("no space left on the device")

    async with Driver(MemoryStore(before_commit=hook)) as driver:
        taker = Taker(driver, lambda history: [schedule_activity()])
        taker.poll(sticky=True)
        taker.poll_activities()
        run_id = await driver.start()
        await driver.rest()
        full[0] = True
        lost: list[RpcError] = []
        taker.activities[0].complete(payloads("out").SerializeToString(), lost.append)
        await driver.rest()
        assert [error.code for error in lost] == [StatusCode.RESOURCE_EXHAUSTED]
        assert taker.lost == [run_id]
        full[0] = False
        driver.clock.advance_by(10_000)
        await driver.rest()
        assert len(taker.activities) == 1, "the attempt is still its own"
        await driver.complete_activity(taker.activities[0].message())
        await driver.rest()
        (message,) = taker.messages
        assert message.history.events[0].event_id == 1, "the whole history: nothing it knows counts"
        await driver.complete(message, complete_workflow())
        await driver.settle()


async def test_only_the_service_itself_offers_it() -> None:
    class Wrapper:
        def __init__(self, service: Any) -> None:
            self._service = service

        def __getattr__(self, name: str) -> Any:
            return getattr(self._service, name)

    async with Driver(MemoryStore()) as driver:
        assert direct_of(driver.service) is not None
        wrapped: Any = Wrapper(driver.service)
        assert direct_of(wrapped) is None, "whoever wraps a service to see its calls sees them"
    async with Driver(MemoryStore(), in_process=False) as driver:
        assert direct_of(driver.service) is None


async def test_an_activity_without_a_workflow(driver: Driver) -> None:
    taker = Taker(driver)
    taker.poll_activities()
    request = m.StartActivityExecutionRequest(namespace=NAMESPACE, activity_id="act", input=payloads("in"))
    request.activity_type.name = "work"
    request.task_queue.name = QUEUE
    request.start_to_close_timeout.seconds = 60
    run_id = (await driver.service.start_activity_execution(request)).run_id
    await driver.rest()
    (task,) = taker.activities
    assert (task.run_id, task.activity_type, task.input) == (run_id, "work", payloads("in").SerializeToString())
    assert task.message().activity_run_id == run_id
    task.complete(payloads("out").SerializeToString(), no_loss)
    wanted = m.PollActivityExecutionRequest(namespace=NAMESPACE, activity_id="act")
    assert (await driver.service.poll_activity_execution(wanted)).outcome.result == payloads("out")
    await driver.settle()
