"""Updates: stages, polls, what they survive, and what they leave in histories."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from perdure.api import StatusCode
from perdure.api import messages as m
from perdure.engine import EngineConfig
from perdure.engine.history import Limits
from perdure.engine.store.memory import MemoryStore
from tests.service.support import (
    STICKY,
    Driver,
    complete_workflow,
    continue_as_new,
    refusal,
    start_timer,
    text_of,
    turns,
)
from tests.service.test_barrier import HeldStore
from tests.service.updating import (
    ACCEPTED,
    ADMITTED,
    COMPLETED,
    acceptance,
    begin,
    idle,
    poll_request,
    rejection,
    response,
    say,
    update_request,
)

FIRST = ["WorkflowExecutionStarted", "WorkflowTaskScheduled", "WorkflowTaskStarted", "WorkflowTaskCompleted"]
TASK = FIRST[1:]


async def test_an_update_is_accepted_and_completed(driver: Driver) -> None:
    run_id = await idle(driver)
    call = await begin(driver)
    task = await driver.poll()
    (sent,) = task.messages
    assert (sent.id, sent.protocol_instance_id, sent.event_id) == ("u/request", "u", task.started_event_id - 1)
    await say(driver, task, acceptance(), response())
    answer = await call
    assert answer.stage == COMPLETED
    assert text_of(answer.outcome.success) == "out"
    assert answer.update_ref.workflow_execution.run_id == run_id
    assert answer.update_ref.update_id == "u"
    assert answer.link.workflow_event.event_ref.event_id == 8
    assert await driver.event_names() == [
        *FIRST,
        *TASK,
        "WorkflowExecutionUpdateAccepted",
        "WorkflowExecutionUpdateCompleted",
    ]
    await driver.settle()


async def test_each_stage_answers_who_waits_for_it(driver: Driver) -> None:
    await idle(driver)
    admitted = await driver.service.update_workflow_execution(update_request(stage=ADMITTED))
    assert admitted.stage == ADMITTED and not admitted.HasField("outcome")
    accepted = await begin(driver, stage=ACCEPTED)
    completed = await begin(driver)
    unnamed = await begin(driver, stage=0)
    await say(driver, await driver.poll(), acceptance(), also=(start_timer("t", 5),))
    assert (await accepted).stage == ACCEPTED
    assert not completed.done() and not unnamed.done()
    assert (await driver.service.poll_workflow_execution_update(poll_request(stage=0))).stage == ACCEPTED
    driver.clock.advance_by(5_000)
    await say(driver, await driver.poll(), response())
    assert (await completed).stage == (await unnamed).stage == COMPLETED
    await driver.settle()


async def test_waits_are_capped_and_answer_the_stage_reached(driver: Driver) -> None:
    await idle(driver)
    call = await begin(driver, stage=ACCEPTED)
    driver.clock.advance_by(19_000)
    await turns()
    assert not call.done()
    driver.clock.advance_by(1_000)
    assert (await call).stage == ADMITTED
    await say(driver, await driver.poll(), acceptance(), also=(start_timer("t", 500),))
    poll = asyncio.ensure_future(driver.service.poll_workflow_execution_update(poll_request()))
    await turns()
    driver.clock.advance_by(20_000)
    assert (await poll).stage == ACCEPTED


async def test_a_caller_whose_own_time_is_over_is_told_so(driver: Driver) -> None:
    await idle(driver)
    call = await begin(driver, timeout_s=5)
    driver.clock.advance_by(5_000)
    assert (await refusal(call)).code is StatusCode.DEADLINE_EXCEEDED
    answer = await driver.service.update_workflow_execution(update_request(stage=ADMITTED), timeout_s=5)
    assert answer.stage == ADMITTED
    await say(driver, await driver.poll(), acceptance(), response())
    assert (await driver.service.poll_workflow_execution_update(poll_request(), timeout_s=5)).stage == COMPLETED


async def test_a_rejection_leaves_no_trace(driver: Driver) -> None:
    await idle(driver)
    call = await begin(driver)
    answer = await say(driver, await driver.poll(), rejection())
    assert answer.reset_history_event_id == 3
    rejected = await call
    assert rejected.stage == COMPLETED and rejected.outcome.failure.message == "no"
    assert await driver.event_names() == FIRST
    error = await refusal(driver.service.poll_workflow_execution_update(poll_request()))
    assert error.code is StatusCode.NOT_FOUND
    await driver.settle()
    again = await begin(driver)
    await say(driver, await driver.poll(), acceptance(), response())
    assert (await again).outcome.HasField("success")


async def test_a_speculative_task_goes_to_the_sticky_queue(driver: Driver) -> None:
    await driver.start()
    sticky = asyncio.ensure_future(driver.service.poll_workflow_task_queue(driver.poll_request(STICKY, sticky=True)))
    await turns()
    await driver.step(sticky=STICKY)
    call = await begin(driver)
    task = await sticky
    assert [event.event_id for event in task.history.events] == [4, 5, 6]
    assert task.previous_started_event_id == 3
    answer = await say(driver, task, rejection(), sticky=STICKY)
    assert answer.reset_history_event_id == 3
    await call
    await driver.signal()
    following = await driver.poll(STICKY, sticky=True)
    assert [event.event_id for event in following.history.events] == [4, 5, 6, 7]


async def test_a_speculative_task_leaves_a_sticky_queue_nobody_polls(driver: Driver) -> None:
    await driver.start()
    await driver.poll(STICKY, sticky=True)
    await driver.step(sticky=STICKY)
    call = await begin(driver)
    driver.clock.advance_by(10_000)
    task = await driver.poll()
    assert [event.event_id for event in task.history.events] == [1, 2, 3, 4, 5, 6]
    await say(driver, task, acceptance(), response())
    assert (await call).stage == COMPLETED
    await driver.settle()


async def test_the_next_task_comes_with_the_answer(driver: Driver) -> None:
    await driver.start()
    task = await driver.poll()
    call = await begin(driver)
    answer = await driver.complete(task, sticky=STICKY, return_new_workflow_task=True)
    following = answer.workflow_task
    assert [sent.protocol_instance_id for sent in following.messages] == ["u"]
    await begin(driver, update_id="v")
    answer = await say(driver, following, rejection(), sticky=STICKY, return_new_workflow_task=True)
    assert answer.reset_history_event_id == 3
    assert [sent.protocol_instance_id for sent in answer.workflow_task.messages] == ["v"]
    assert (await call).outcome.HasField("failure")
    await say(driver, answer.workflow_task, rejection("v"))
    assert await driver.event_names() == FIRST
    await driver.settle()


async def test_queries_ride_on_a_speculative_task(driver: Driver) -> None:
    await idle(driver)
    call = await begin(driver)
    query = asyncio.ensure_future(driver.query())
    await turns()
    task = await driver.poll()
    (number,) = task.queries
    answered = m.WorkflowQueryResult(result_type=m.QueryResultType.QUERY_RESULT_TYPE_ANSWERED)
    await say(driver, task, rejection(), answers={number: answered})
    await query
    assert (await call).outcome.HasField("failure")
    assert await driver.event_names() == FIRST
    query = asyncio.ensure_future(driver.query())
    assert (await driver.poll()).query.query_type == "state"
    query.cancel()


async def test_an_update_outlives_its_caller(driver: Driver) -> None:
    await idle(driver)
    call = await begin(driver)
    call.cancel()
    await turns()
    assert driver.engine.shard.cache.evict_cold() == 0
    await say(driver, await driver.poll(), acceptance(), response())
    answer = await driver.service.update_workflow_execution(update_request())
    assert text_of(answer.outcome.success) == "out"
    await driver.settle()
    assert driver.engine.shard.cache.evict_cold() == 1


async def test_completed_updates_are_answered_from_history(driver: Driver) -> None:
    await idle(driver)
    for number in range(3):
        call = await begin(driver, update_id=f"u{number}")
        await say(driver, await driver.poll(), acceptance(f"u{number}"), response(f"u{number}", f"out {number}"))
        await call
    await driver.settle()
    driver.engine.shard.cache.evict_cold()
    poll = await driver.service.poll_workflow_execution_update(poll_request(update_id="u1"))
    assert (poll.stage, text_of(poll.outcome.success)) == (COMPLETED, "out 1")
    await driver.signal()
    await driver.step(complete_workflow())
    await driver.settle()
    driver.engine.shard.cache.evict_cold()
    repeat = await driver.service.update_workflow_execution(update_request(update_id="u2"))
    assert (repeat.stage, text_of(repeat.outcome.success)) == (COMPLETED, "out 2")
    assert repeat.link.workflow_event.event_ref.event_id > 0
    error = await refusal(driver.service.update_workflow_execution(update_request(update_id="new")))
    assert error.code is StatusCode.NOT_FOUND
    assert "workflow execution already completed" in error.message


async def test_an_accepted_update_that_never_finished_failed_with_the_run(driver: Driver) -> None:
    run_id = await idle(driver)
    call = await begin(driver)
    await say(driver, await driver.poll(), acceptance(), also=(start_timer("t", 500),))
    await driver.terminate()
    answer = await call
    assert answer.stage == COMPLETED
    assert answer.outcome.failure.application_failure_info.type == "AcceptedUpdateCompletedWorkflow"
    driver.engine.shard.cache.evict_cold()
    poll = await driver.service.poll_workflow_execution_update(poll_request(run_id=run_id))
    assert poll.outcome == answer.outcome
    repeat = await driver.service.update_workflow_execution(update_request())
    assert repeat.outcome == answer.outcome
    await driver.settle()


async def test_an_update_that_was_not_accepted_is_refused_with_the_run(driver: Driver) -> None:
    await idle(driver)
    call = await begin(driver)
    poll = asyncio.ensure_future(driver.service.poll_workflow_execution_update(poll_request()))
    await turns()
    await driver.terminate()
    for each in (call, poll):
        error = await refusal(each)
        assert (error.code, error.message) == (StatusCode.NOT_FOUND, "workflow execution already completed")
    assert (await driver.event_names())[4:] == ["WorkflowExecutionTerminated"]
    await driver.settle()


async def test_an_update_moves_on_with_continue_as_new(driver: Driver) -> None:
    first = await idle(driver)
    call = await begin(driver)
    bound = await begin(driver, update_id="bound", run_id=first)
    poll = asyncio.ensure_future(driver.service.poll_workflow_execution_update(poll_request()))
    task = await driver.poll()
    await driver.complete(task, continue_as_new())
    assert (await refusal(bound)).code is StatusCode.NOT_FOUND
    assert (await refusal(poll)).code is StatusCode.NOT_FOUND
    task = await driver.poll()
    assert task.workflow_execution.run_id != first
    assert [sent.protocol_instance_id for sent in task.messages] == ["u"]
    await say(driver, task, acceptance(), response())
    answer = await call
    assert answer.update_ref.workflow_execution.run_id == task.workflow_execution.run_id
    await driver.settle()


async def test_a_run_closes_only_when_its_worker_has_seen_all_updates(driver: Driver) -> None:
    await driver.start()
    task = await driver.poll()
    call = await begin(driver)
    error = await refusal(driver.complete(task, complete_workflow()))
    assert (error.code, error.message) == (StatusCode.INVALID_ARGUMENT, "UnhandledUpdate")
    task = await driver.poll()
    await say(driver, task, acceptance(), response(), also=(complete_workflow(),))
    assert (await call).stage == COMPLETED
    assert await driver.status() == "COMPLETED"


async def test_bad_messages_fail_the_task_and_the_update_comes_again(driver: Driver) -> None:
    await idle(driver)
    call = await begin(driver)
    error = await refusal(say(driver, await driver.poll(), response()))
    assert error.code is StatusCode.INVALID_ARGUMENT
    assert error.message.startswith("BadUpdateWorkflowExecutionMessage")
    task = await driver.poll()
    assert len(task.messages) == 1 and task.attempt == 2
    await say(driver, task, acceptance(), response())
    assert (await call).stage == COMPLETED
    await driver.settle()


async def test_the_chain_and_the_run_are_checked(driver: Driver) -> None:
    first = await idle(driver)
    request = update_request(stage=ADMITTED)
    request.first_execution_run_id = "other"
    assert (await refusal(driver.service.update_workflow_execution(request))).code is StatusCode.NOT_FOUND
    request.first_execution_run_id = first
    assert (await driver.service.update_workflow_execution(request)).stage == ADMITTED
    request.workflow_execution.run_id = "other"
    assert (await refusal(driver.service.update_workflow_execution(request))).code is StatusCode.NOT_FOUND


async def test_bad_requests_are_refused(driver: Driver) -> None:
    await idle(driver)
    nameless = update_request()
    nameless.request.input.name = ""
    unknown = update_request()
    unknown.wait_policy.lifecycle_stage = m.UpdateWorkflowExecutionLifecycleStage.ValueType(9)
    nowhere = update_request("")
    for request in (nameless, unknown, nowhere, m.UpdateWorkflowExecutionRequest(namespace="default")):
        error = await refusal(driver.service.update_workflow_execution(request))
        assert error.code is StatusCode.INVALID_ARGUMENT
    for poll in (poll_request(""), poll_request(update_id=""), poll_request(stage=9)):
        error = await refusal(driver.service.poll_workflow_execution_update(poll))
        assert error.code is StatusCode.INVALID_ARGUMENT
    for call in (
        driver.service.update_workflow_execution(update_request("none")),
        driver.service.poll_workflow_execution_update(poll_request("none")),
        driver.service.poll_workflow_execution_update(poll_request(update_id="none")),
    ):
        assert (await refusal(call)).code is StatusCode.NOT_FOUND


async def test_an_update_without_an_id_gets_one(driver: Driver) -> None:
    await idle(driver)
    answer = await driver.service.update_workflow_execution(update_request(update_id="", stage=ADMITTED))
    assert len(answer.update_ref.update_id) == 36


async def test_waiting_requests_take_bounded_memory() -> None:
    config = EngineConfig(admitted_update_bytes=1000)
    async with Driver(MemoryStore(), config=config) as driver:
        await idle(driver)
        first = await begin(driver, update_id="first", text="x" * 600)
        error = await refusal(driver.service.update_workflow_execution(update_request(text="x" * 600)))
        assert error.code is StatusCode.RESOURCE_EXHAUSTED
        await say(driver, await driver.poll(), rejection("first"))
        await first
        second = await begin(driver, update_id="second", text="x" * 600)
        await say(driver, await driver.poll(), acceptance("second"))
        third = await begin(driver, update_id="third", text="x" * 600)
        await driver.terminate()
        assert (await second).outcome.HasField("failure")
        assert (await refusal(third)).code is StatusCode.NOT_FOUND
        assert driver.engine.shard.updates.admitted_bytes == 0


async def test_ten_are_in_flight_at_most() -> None:
    limits = Limits(updates_in_flight=2)
    async with Driver(MemoryStore(), config=replace(EngineConfig(), limits=limits)) as driver:
        await idle(driver)
        await begin(driver, update_id="a")
        await begin(driver, update_id="b")
        error = await refusal(driver.service.update_workflow_execution(update_request(update_id="c")))
        assert error.code is StatusCode.RESOURCE_EXHAUSTED
        assert isinstance(error.details[0], m.ResourceExhaustedFailure)


async def test_an_admitted_update_is_lost_with_the_engine(driver: Driver) -> None:
    await idle(driver)
    call = await begin(driver)
    await driver.engine.stop()
    assert (await refusal(call)).code is StatusCode.UNAVAILABLE


async def test_an_accepted_update_lives_on() -> None:
    store = MemoryStore()
    async with Driver(store) as driver:
        await idle(driver)
        call = await begin(driver, stage=ACCEPTED)
        await say(driver, await driver.poll(), acceptance(), also=(start_timer("t", 5),))
        await call
        await begin(driver, update_id="lost")
    async with Driver(MemoryStore(store.snapshot()), clock=driver.clock, seed=2) as after:
        poll = asyncio.ensure_future(after.service.poll_workflow_execution_update(poll_request()))
        await turns()
        error = await refusal(after.service.poll_workflow_execution_update(poll_request(update_id="lost")))
        assert error.code is StatusCode.NOT_FOUND
        assert after.engine.shard.cache.evict_cold() == 0
        after.clock.advance_by(5_000)
        task = await after.poll()
        assert not task.messages
        await say(after, task, response())
        assert text_of((await poll).outcome.success) == "out"
        await after.settle()
        assert after.engine.shard.cache.evict_cold() == 1


async def test_no_news_before_it_is_durable() -> None:
    store = HeldStore()
    async with Driver(store, in_process=False) as driver:
        await idle(driver)
        call = await begin(driver)
        task = await driver.poll()
        store.commits_open.clear()
        completion = asyncio.ensure_future(say(driver, task, acceptance(), response()))
        await turns(50)
        assert not call.done()
        late = await begin(driver)
        poll = asyncio.ensure_future(driver.service.poll_workflow_execution_update(poll_request()))
        await turns(50)
        assert not late.done() and not poll.done()
        store.commits_open.set()
        await completion
        assert (await call).stage == (await late).stage == (await poll).stage == COMPLETED
        await driver.settle()


@pytest.mark.in_process("over a wire the task itself waits until what it shows is durable")
async def test_a_rejection_waits_for_what_it_rests_on() -> None:
    store = HeldStore()
    async with Driver(store) as driver:
        await idle(driver)
        store.commits_open.clear()
        signal = asyncio.ensure_future(driver.signal())
        await turns(50)
        step = asyncio.ensure_future(driver.step())
        await turns(50)
        call = await begin(driver)
        task = await driver.service.poll_workflow_task_queue(driver.poll_request())
        assert [sent.protocol_instance_id for sent in task.messages] == ["u"]
        completion = asyncio.ensure_future(say(driver, task, rejection()))
        await turns(50)
        assert not call.done() and not completion.done()
        store.commits_open.set()
        assert (await completion).reset_history_event_id > 0
        assert (await call).outcome.HasField("failure")
        await asyncio.gather(signal, step)
        await driver.settle()
