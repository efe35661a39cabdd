"""Update-with-start: one call that starts a run, or finds it, and updates it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.engine import EngineConfig
from perdure.engine.history import Limits
from perdure.engine.store.memory import MemoryStore
from perdure.engine.store.port import Batch, StoreError
from tests.service.support import Driver, complete_workflow, continue_as_new, refusal, start_timer, text_of, turns
from tests.service.updating import (
    ACCEPTED,
    ADMITTED,
    COMPLETED,
    acceptance,
    begin,
    both,
    idle,
    response,
    say,
)

CONFLICT = m.WorkflowIdConflictPolicy
REUSE = m.WorkflowIdReusePolicy
USE_EXISTING = CONFLICT.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING
FAIL = CONFLICT.WORKFLOW_ID_CONFLICT_POLICY_FAIL
TERMINATE_EXISTING = CONFLICT.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING


async def call(driver: Driver, **fields: Any) -> asyncio.Task[m.ExecuteMultiOperationResponse]:
    fields.setdefault("workflow_id_conflict_policy", FAIL)
    task = asyncio.ensure_future(driver.service.execute_multi_operation(both(driver, **fields)))
    await turns()
    return task


def statuses(error: RpcError) -> list[tuple[StatusCode, str]]:
    """The code of each operation, and the name of its first detail."""
    (failure,) = error.details
    assert isinstance(failure, m.MultiOperationExecutionFailure)
    return [
        (StatusCode(status.code), status.details[0].TypeName().rpartition(".")[2] if status.details else "")
        for status in failure.statuses
    ]


ABORTED = (StatusCode.ABORTED, "MultiOperationExecutionAborted")


async def serve(driver: Driver, update_id: str = "u") -> m.PollWorkflowTaskQueueResponse:
    """A worker that completes the update."""
    task = await driver.poll()
    assert [sent.protocol_instance_id for sent in task.messages] == [update_id]
    await say(driver, task, acceptance(update_id), response(update_id))
    return task


async def test_a_new_run_is_updated_with_its_first_task(driver: Driver) -> None:
    multi = await call(driver)
    task = await serve(driver)
    started, updated = (await multi).responses
    assert started.start_workflow.started
    assert started.start_workflow.run_id == task.workflow_execution.run_id
    assert started.start_workflow.first_execution_run_id == task.workflow_execution.run_id
    assert updated.update_workflow.stage == COMPLETED
    assert text_of(updated.update_workflow.outcome.success) == "out"
    assert updated.update_workflow.update_ref.workflow_execution.run_id == started.start_workflow.run_id
    assert (await driver.event_names())[:3] == [
        "WorkflowExecutionStarted",
        "WorkflowTaskScheduled",
        "WorkflowTaskStarted",
    ]
    await driver.settle()


async def test_the_open_run_is_used(driver: Driver) -> None:
    run_id = await idle(driver)
    multi = await call(driver, workflow_id_conflict_policy=USE_EXISTING)
    await serve(driver)
    started, updated = (await multi).responses
    assert (started.start_workflow.run_id, started.start_workflow.started) == (run_id, False)
    assert updated.update_workflow.stage == COMPLETED
    await driver.settle()


async def test_the_open_run_stands_in_the_way(driver: Driver) -> None:
    await idle(driver)
    error = await refusal(await call(driver))
    assert error.code is StatusCode.ALREADY_EXISTS
    assert statuses(error) == [(StatusCode.ALREADY_EXISTS, "WorkflowExecutionAlreadyStartedFailure"), ABORTED]
    assert (await driver.poll()).task_token == b""


async def test_the_open_run_is_replaced(driver: Driver) -> None:
    first = await idle(driver)
    waiting = await begin(driver, update_id="old")
    multi = await call(driver, workflow_id_conflict_policy=TERMINATE_EXISTING)
    await serve(driver)
    started, _ = (await multi).responses
    assert started.start_workflow.started and started.start_workflow.run_id != first
    assert await driver.status(run_id=first) == "TERMINATED"
    assert (await refusal(waiting)).code is StatusCode.NOT_FOUND
    await driver.settle()


@pytest.mark.parametrize("policy", [FAIL, USE_EXISTING, TERMINATE_EXISTING])
async def test_a_repeat_is_recognised(driver: Driver, policy: int) -> None:
    request = both(
        driver,
        workflow_id_conflict_policy=policy,
        request_id="again",
        stage=ACCEPTED,
    )
    multi = asyncio.ensure_future(driver.service.execute_multi_operation(request))
    await turns()
    repeat = asyncio.ensure_future(driver.service.execute_multi_operation(request))
    await turns()
    await serve(driver)
    answers = [await multi, await repeat, await driver.service.execute_multi_operation(request)]
    run_ids = {answer.responses[0].start_workflow.run_id for answer in answers}
    assert len(run_ids) == 1
    assert answers[-1].responses[1].update_workflow.stage == COMPLETED
    await driver.signal()
    await driver.step(complete_workflow())
    closed = await driver.service.execute_multi_operation(request)
    assert text_of(closed.responses[1].update_workflow.outcome.success) == "out"
    await driver.settle()


async def test_a_closed_run_answers_for_an_update_it_has_completed(driver: Driver) -> None:
    multi = await call(driver)
    await serve(driver)
    first, _ = (await multi).responses
    await driver.signal()
    await driver.step(complete_workflow())
    again, updated = (await (await call(driver))).responses
    assert again.start_workflow.run_id == first.start_workflow.run_id
    assert not again.start_workflow.started
    assert updated.update_workflow.outcome.HasField("success")
    other = await call(driver, update_id="v")
    await serve(driver, "v")
    started, _ = (await other).responses
    assert started.start_workflow.run_id != first.start_workflow.run_id
    await driver.settle()


async def test_the_reuse_policy_holds(driver: Driver) -> None:
    await driver.start()
    await driver.step(complete_workflow())
    policy = REUSE.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE
    error = await refusal(await call(driver, workflow_id_reuse_policy=policy))
    assert statuses(error) == [(StatusCode.ALREADY_EXISTS, "WorkflowExecutionAlreadyStartedFailure"), ABORTED]


async def test_an_update_that_is_refused_starts_nothing(driver: Driver) -> None:
    request = both(driver)
    request.operations[1].update_workflow.request.input.name = ""
    error = await refusal(driver.service.execute_multi_operation(request))
    assert error.code is StatusCode.INVALID_ARGUMENT
    assert statuses(error) == [ABORTED, (StatusCode.INVALID_ARGUMENT, "")]
    assert (await refusal(driver.describe())).code is StatusCode.NOT_FOUND


async def test_a_full_run_refuses_the_update() -> None:
    config = EngineConfig(limits=Limits(updates_in_flight=1))
    async with Driver(MemoryStore(), config=config) as driver:
        await idle(driver)
        await begin(driver, update_id="first")
        error = await refusal(await call(driver, workflow_id_conflict_policy=USE_EXISTING))
        assert statuses(error) == [ABORTED, (StatusCode.RESOURCE_EXHAUSTED, "ResourceExhaustedFailure")]


async def test_an_update_refused_by_the_end_of_its_run(driver: Driver) -> None:
    multi = await call(driver)
    await driver.terminate()
    error = await refusal(multi)
    assert error.code is StatusCode.NOT_FOUND
    assert statuses(error) == [ABORTED, (StatusCode.NOT_FOUND, "")]


async def test_an_update_moves_on_with_continue_as_new(driver: Driver) -> None:
    multi = await call(driver)
    await driver.step(continue_as_new())
    task = await serve(driver)
    started, updated = (await multi).responses
    assert updated.update_workflow.update_ref.workflow_execution.run_id == task.workflow_execution.run_id
    assert started.start_workflow.run_id != task.workflow_execution.run_id


async def test_the_wait_is_capped(driver: Driver) -> None:
    multi = await call(driver, stage=ACCEPTED)
    driver.clock.advance_by(20_000)
    assert (await multi).responses[1].update_workflow.stage == ADMITTED


async def test_a_caller_whose_own_time_is_over_is_told_so(driver: Driver) -> None:
    multi = asyncio.ensure_future(driver.service.execute_multi_operation(both(driver), timeout_s=5))
    await turns()
    driver.clock.advance_by(5_000)
    error = await refusal(multi)
    assert error.code is StatusCode.DEADLINE_EXCEEDED


async def test_it_ends_the_delay_of_a_start(driver: Driver) -> None:
    request = driver.start_request()
    request.workflow_start_delay.FromSeconds(600)
    await driver.service.start_workflow_execution(request)
    assert not (await driver.poll()).task_token
    multi = await call(driver, workflow_id_conflict_policy=USE_EXISTING)
    await serve(driver)
    assert (await multi).responses[1].update_workflow.stage == COMPLETED


async def test_neither_happens_when_the_commit_fails() -> None:
    failing = [True]

    def hook(_number: int, batch: Batch) -> None:
        if failing[0] and batch.runs:
            failing[0] = False
            raise StoreError("injected")

    async with Driver(MemoryStore(before_commit=hook)) as driver:
        request = both(driver)
        error = await refusal(driver.service.execute_multi_operation(request))
        assert error.code is StatusCode.UNAVAILABLE
        assert (await refusal(driver.describe())).code is StatusCode.NOT_FOUND
        multi = asyncio.ensure_future(driver.service.execute_multi_operation(request))
        await turns()
        await serve(driver)
        assert (await multi).responses[1].update_workflow.stage == COMPLETED
        await driver.settle()


def other_namespace(request: m.ExecuteMultiOperationRequest) -> None:
    request.operations[0].start_workflow.namespace = "other"


def foreign_update(request: m.ExecuteMultiOperationRequest) -> None:
    request.operations[1].update_workflow.namespace = "other"


def cron(request: m.ExecuteMultiOperationRequest) -> None:
    request.operations[0].start_workflow.cron_schedule = "* * * * *"


def delayed(request: m.ExecuteMultiOperationRequest) -> None:
    request.operations[0].start_workflow.workflow_start_delay.FromSeconds(1)


def eager(request: m.ExecuteMultiOperationRequest) -> None:
    request.operations[0].start_workflow.request_eager_execution = True


def other_id(request: m.ExecuteMultiOperationRequest) -> None:
    request.operations[1].update_workflow.workflow_execution.workflow_id = "other"


def with_run(request: m.ExecuteMultiOperationRequest) -> None:
    request.operations[1].update_workflow.workflow_execution.run_id = "r"


def with_chain(request: m.ExecuteMultiOperationRequest) -> None:
    request.operations[1].update_workflow.first_execution_run_id = "r"


BAD = (StatusCode.INVALID_ARGUMENT, "")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (other_namespace, [BAD, ABORTED]),
        (foreign_update, [ABORTED, BAD]),
        (cron, [BAD, ABORTED]),
        (delayed, [BAD, ABORTED]),
        (eager, [BAD, ABORTED]),
        (other_id, [ABORTED, BAD]),
        (with_run, [ABORTED, BAD]),
        (with_chain, [ABORTED, BAD]),
    ],
)
async def test_what_may_not_be_asked_for(driver: Driver, change: Any, expected: list[Any]) -> None:
    request = both(driver)
    change(request)
    error = await refusal(driver.service.execute_multi_operation(request))
    assert error.code is StatusCode.INVALID_ARGUMENT
    assert statuses(error) == expected


@pytest.mark.parametrize("picked", [[], [0], [1], [1, 0], [0, 0], [0, 1, 1]])
async def test_only_a_start_and_an_update_are_taken(driver: Driver, picked: list[int]) -> None:
    request = both(driver)
    operations = [
        m.ExecuteMultiOperationRequest.Operation.FromString(o.SerializeToString()) for o in request.operations
    ]
    del request.operations[:]
    request.operations.extend(operations[number] for number in picked)
    error = await refusal(driver.service.execute_multi_operation(request))
    assert error.code is StatusCode.INVALID_ARGUMENT and not error.details


async def test_a_waiting_timer_does_not_matter(driver: Driver) -> None:
    """An update accepted and not completed: the caller polls for the rest."""
    multi = await call(driver, stage=ACCEPTED)
    await say(driver, await driver.poll(), acceptance(), also=(start_timer("t", 5),))
    assert (await multi).responses[1].update_workflow.stage == ACCEPTED
