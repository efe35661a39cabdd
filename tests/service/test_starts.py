"""Starting workflows: who may have a workflow id, idempotence, delays, limits."""

from __future__ import annotations

import pytest

from perdure.api import StatusCode
from perdure.api import messages as m
from tests.service.support import Driver, complete_workflow, fail_workflow, payloads, refusal, text_of

REUSE = m.WorkflowIdReusePolicy
CONFLICT = m.WorkflowIdConflictPolicy


async def close(driver: Driver, workflow_id: str = "wf", *, failed: bool = False) -> None:
    await driver.step(fail_workflow() if failed else complete_workflow())
    assert await driver.status(workflow_id) == ("FAILED" if failed else "COMPLETED")


async def test_a_second_start_is_refused_and_names_the_run(driver: Driver) -> None:
    run_id = await driver.start()
    error = await refusal(driver.start())
    assert error.code is StatusCode.ALREADY_EXISTS
    (detail,) = error.details
    assert isinstance(detail, m.WorkflowExecutionAlreadyStartedFailure)
    assert detail.run_id == run_id
    assert detail.start_request_id == "start-1"


async def test_a_repeated_request_id_answers_with_the_run_it_started(driver: Driver) -> None:
    request = driver.start_request(request_id="once")
    first = await driver.service.start_workflow_execution(request)
    again = await driver.service.start_workflow_execution(request)
    assert again.run_id == first.run_id
    assert again.started
    await close(driver)
    after_close = await driver.service.start_workflow_execution(request)
    assert after_close.run_id == first.run_id


async def test_use_existing_answers_with_the_open_run(driver: Driver) -> None:
    run_id = await driver.start()
    request = driver.start_request(workflow_id_conflict_policy=CONFLICT.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING)
    response = await driver.service.start_workflow_execution(request)
    assert response.run_id == run_id
    assert not response.started


@pytest.mark.parametrize("by", ["conflict", "reuse"])
async def test_terminate_existing_ends_the_open_run(driver: Driver, by: str) -> None:
    first = await driver.start()
    if by == "conflict":
        policy = {"workflow_id_conflict_policy": CONFLICT.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING}
    else:
        policy = {"workflow_id_reuse_policy": REUSE.WORKFLOW_ID_REUSE_POLICY_TERMINATE_IF_RUNNING}
    second = await driver.start(**policy)
    assert second != first
    assert await driver.status(run_id=first) == "TERMINATED"
    assert await driver.status() == "RUNNING"
    assert (await driver.describe()).workflow_execution_info.execution.run_id == second
    await close(driver)
    await driver.settle()


@pytest.mark.parametrize(
    ("policy", "failed", "allowed"),
    [
        (REUSE.WORKFLOW_ID_REUSE_POLICY_UNSPECIFIED, False, True),
        (REUSE.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE, False, True),
        (REUSE.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE_FAILED_ONLY, False, False),
        (REUSE.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE_FAILED_ONLY, True, True),
        (REUSE.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE, True, False),
        (REUSE.WORKFLOW_ID_REUSE_POLICY_TERMINATE_IF_RUNNING, False, True),
    ],
)
async def test_reuse_of_a_closed_id(driver: Driver, policy: int, failed: bool, allowed: bool) -> None:
    first = await driver.start()
    await close(driver, failed=failed)
    if allowed:
        assert await driver.start(workflow_id_reuse_policy=policy) != first
    else:
        error = await refusal(driver.start(workflow_id_reuse_policy=policy))
        assert error.code is StatusCode.ALREADY_EXISTS


@pytest.mark.parametrize(
    "fields",
    [
        {
            "workflow_id_reuse_policy": REUSE.WORKFLOW_ID_REUSE_POLICY_TERMINATE_IF_RUNNING,
            "workflow_id_conflict_policy": CONFLICT.WORKFLOW_ID_CONFLICT_POLICY_FAIL,
        },
        {
            "workflow_id_reuse_policy": REUSE.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE,
            "workflow_id_conflict_policy": CONFLICT.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING,
        },
        {"input": payloads("x" * (2 * 1024 * 1024 + 1))},
    ],
)
async def test_what_makes_no_sense_is_refused(driver: Driver, fields: dict[str, object]) -> None:
    error = await refusal(driver.start(**fields))
    assert error.code is StatusCode.INVALID_ARGUMENT


async def test_ids_have_a_length_limit(driver: Driver) -> None:
    await driver.start("x" * 1000)
    assert (await refusal(driver.start("x" * 1001))).code is StatusCode.INVALID_ARGUMENT
    assert (await refusal(driver.start(""))).code is StatusCode.INVALID_ARGUMENT


async def test_a_refused_start_leaves_nothing(driver: Driver) -> None:
    await refusal(driver.start(input=payloads("x" * (2 * 1024 * 1024 + 1))))
    assert (await refusal(driver.describe())).code is StatusCode.NOT_FOUND
    await driver.settle()


async def test_a_start_delay_keeps_the_first_task_back(driver: Driver) -> None:
    request = driver.start_request()
    request.workflow_start_delay.seconds = 30
    await driver.service.start_workflow_execution(request)
    assert not (await driver.poll()).task_token
    before_ms = driver.clock.now_ms()
    assert driver.engine.advance()
    assert driver.clock.now_ms() == before_ms + 30_000
    assert (await driver.poll()).task_token


async def test_signal_with_start_starts_then_signals(driver: Driver) -> None:
    request = m.SignalWithStartWorkflowExecutionRequest(
        namespace="default", workflow_id="wf", request_id="r", signal_name="go", signal_input=payloads("sig")
    )
    request.workflow_type.name = "flow"
    request.task_queue.name = "queue"
    request.input.CopyFrom(payloads("in"))
    first = await driver.service.signal_with_start_workflow_execution(request)
    assert first.started
    request.request_id = "r2"
    second = await driver.service.signal_with_start_workflow_execution(request)
    assert not second.started
    assert second.run_id == first.run_id
    task = await driver.poll()
    signals = [event for event in task.history.events if event.HasField("workflow_execution_signaled_event_attributes")]
    assert len(signals) == 2
    assert text_of(signals[0].workflow_execution_signaled_event_attributes.input) == "sig"
    started = task.history.events[0].workflow_execution_started_event_attributes
    assert text_of(started.input) == "in"


async def test_a_repeated_signal_with_start_signals_once(driver: Driver) -> None:
    request = m.SignalWithStartWorkflowExecutionRequest(
        namespace="default", workflow_id="wf", request_id="r", signal_name="go"
    )
    request.workflow_type.name = "flow"
    request.task_queue.name = "queue"
    for _ in range(3):
        await driver.service.signal_with_start_workflow_execution(request)
    assert (await driver.event_names()).count("WorkflowExecutionSignaled") == 1


async def test_an_unknown_namespace_is_named(driver: Driver) -> None:
    error = await refusal(driver.start(namespace="elsewhere"))
    assert error.code is StatusCode.NOT_FOUND
    (detail,) = error.details
    assert isinstance(detail, m.NamespaceNotFoundFailure)
    assert detail.namespace == "elsewhere"


async def test_starts_of_one_id_at_once_make_one_run(driver: Driver) -> None:
    import asyncio

    calls = [driver.service.start_workflow_execution(driver.start_request()) for _ in range(20)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(outcome, m.StartWorkflowExecutionResponse) for outcome in outcomes) == 1
    await driver.settle()
