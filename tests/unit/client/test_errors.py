"""Refusals become typed errors, and calls are repeated while that may help."""

from __future__ import annotations

import pytest

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.client import (
    InvalidRequestError,
    NamespaceNotFoundError,
    ResourceExhaustedError,
    RPCError,
    ServiceError,
    ServiceUnavailableError,
    WorkflowNotFoundError,
    calls,
)
from perdure.client.calls import call
from perdure.client.errors import translate
from perdure.exceptions import PerdureError, WorkflowAlreadyStartedError


@pytest.mark.parametrize(
    ("refusal", "kind", "said"),
    [
        (RpcError(StatusCode.NOT_FOUND, "no such run"), WorkflowNotFoundError, "workflow 'w': no such run"),
        (RpcError(StatusCode.NOT_FOUND, "x", m.NamespaceNotFoundFailure()), NamespaceNotFoundError, "register it"),
        (RpcError(StatusCode.INVALID_ARGUMENT, "id too long"), InvalidRequestError, "id too long"),
        (RpcError(StatusCode.RESOURCE_EXHAUSTED, "disk full"), ResourceExhaustedError, "make room"),
        (RpcError(StatusCode.UNAVAILABLE, "stopped"), ServiceUnavailableError, "call again"),
        (RpcError(StatusCode.INTERNAL, "bug"), ServiceError, "bug"),
        (RpcError(StatusCode.ALREADY_EXISTS, "x"), WorkflowAlreadyStartedError, "another id"),
        (
            RpcError(StatusCode.ALREADY_EXISTS, "x", m.WorkflowExecutionAlreadyStartedFailure(run_id="r")),
            WorkflowAlreadyStartedError,
            "another id",
        ),
    ],
)
def test_refusals_are_typed_and_say_what_to_do(refusal: RpcError, kind: type[PerdureError], said: str) -> None:
    error = translate(refusal, workflow_id="w", workflow_type="t")
    assert type(error) is kind
    assert said in str(error)
    if isinstance(error, RPCError):
        assert error.status is refusal.code


class Answers:
    """A method of a service that fails a few times first."""

    def __init__(self, *failures: RpcError) -> None:
        self.failures = list(failures)
        self.requests: list[m.QueryWorkflowRequest] = []

    async def __call__(self, request: m.QueryWorkflowRequest) -> m.QueryWorkflowResponse:
        self.requests.append(request)
        if self.failures:
            raise self.failures.pop(0)
        return m.QueryWorkflowResponse()


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_FIRST_WAIT_S", 0.0)


async def test_what_may_pass_is_repeated() -> None:
    method = Answers(RpcError(StatusCode.UNAVAILABLE, "a"), RpcError(StatusCode.ABORTED, "b"))
    assert await call(method, m.QueryWorkflowRequest()) == m.QueryWorkflowResponse()
    assert len(method.requests) == 3


async def test_what_was_too_much_at_once_is_asked_again() -> None:
    limit = m.ResourceExhaustedFailure(cause=m.ResourceExhaustedCause.RESOURCE_EXHAUSTED_CAUSE_RPS_LIMIT)
    method = Answers(RpcError(StatusCode.RESOURCE_EXHAUSTED, "slower", limit))
    await call(method, m.QueryWorkflowRequest())
    assert len(method.requests) == 2
    method = Answers(RpcError(StatusCode.RESOURCE_EXHAUSTED, "the disk is full"))
    with pytest.raises(ResourceExhaustedError):
        await call(method, m.QueryWorkflowRequest())


async def test_who_waits_for_a_result_sits_out_an_outage() -> None:
    gone = [RpcError(StatusCode.UNAVAILABLE, "x"), RpcError(StatusCode.DEADLINE_EXCEEDED, "x")] * 20
    method = Answers(*gone)
    await call(method, m.QueryWorkflowRequest(), patient=True)
    assert len(method.requests) == 41
    with pytest.raises(ServiceError):
        await call(Answers(RpcError(StatusCode.DEADLINE_EXCEEDED, "x")), m.QueryWorkflowRequest())


async def test_the_number_of_tries_is_bounded() -> None:
    method = Answers(*(RpcError(StatusCode.UNAVAILABLE, "x") for _ in range(100)))
    with pytest.raises(ServiceUnavailableError) as caught:
        await call(method, m.QueryWorkflowRequest())
    assert len(method.requests) == 10
    assert isinstance(caught.value.cause, RpcError)


async def test_what_cannot_pass_is_not_repeated() -> None:
    method = Answers(RpcError(StatusCode.INVALID_ARGUMENT, "x"))
    with pytest.raises(InvalidRequestError):
        await call(method, m.QueryWorkflowRequest())
    assert len(method.requests) == 1
