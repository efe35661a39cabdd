"""Calls over a socket: many at once, refused, cancelled, cut off."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure.api import EngineStoppedError, RpcError, StatusCode
from perdure.api import messages as m
from perdure.api.rpcs import RPCS
from perdure.transport import (
    LineLostError,
    SocketChannel,
    SocketServer,
    frame_answers,
    frames,
    service_of,
    socket_client,
)
from perdure.transport.frames import FrameError, Kind


class Service:
    """Answers what the tests ask."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.cancelled = 0
        self.timeout_s: float | None = -1.0

    async def start_workflow_execution(self, request: Any) -> m.StartWorkflowExecutionResponse:
        return m.StartWorkflowExecutionResponse(run_id=f"run of {request.workflow_id}")

    async def poll_workflow_task_queue(self, request: Any, *, timeout_s: float | None = None) -> Any:
        self.timeout_s = timeout_s
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return m.PollWorkflowTaskQueueResponse(task_token=b"t" * 100_000)

    async def describe_namespace(self, request: Any) -> Any:
        raise RpcError(StatusCode.NOT_FOUND, "it is not there", m.NamespaceNotFoundFailure(namespace=request.namespace))

    async def describe_workflow_execution(self, request: Any) -> Any:
        raise ZeroDivisionError("secret")

    async def signal_workflow_execution(self, request: Any) -> Any:
        raise EngineStoppedError

    async def query_workflow(self, request: Any) -> Any:
        await asyncio.Event().wait()


class Both:
    """Both ends."""

    def __init__(self, path: str) -> None:
        self.fake = Service()
        self.path = path
        self.server = SocketServer(path, self.fake, {"pid": 7})  # type: ignore[arg-type]

    async def connect(self) -> Any:
        self.channel = await SocketChannel.connect(self.path)
        return service_of(self.channel.bind)


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[Both]:
    both = Both(str(tmp_path / "sock"))
    await both.server.start()
    yield both
    await both.server.close()


async def refusal(call: Any) -> RpcError:
    with pytest.raises(RpcError) as refused:
        await call
    return refused.value


async def test_many_calls_at_once(both: Both) -> None:
    service = await both.connect()
    assert both.channel.about["pid"] == 7
    requests = [m.StartWorkflowExecutionRequest(workflow_id=f"w{number}") for number in range(500)]
    answers = await asyncio.gather(*(service.start_workflow_execution(request) for request in requests))
    assert [answer.run_id for answer in answers] == [f"run of w{number}" for number in range(500)]
    both.channel.close()


async def test_a_poll_waits_and_others_pass_it(both: Both) -> None:
    service = await both.connect()
    poll = asyncio.ensure_future(service.poll_workflow_task_queue(m.PollWorkflowTaskQueueRequest(), timeout_s=12.5))
    await service.start_workflow_execution(m.StartWorkflowExecutionRequest())
    assert both.fake.timeout_s == 12.5
    both.fake.open.set()
    assert len((await poll).task_token) == 100_000
    await service.poll_workflow_task_queue(m.PollWorkflowTaskQueueRequest())
    assert both.fake.timeout_s is None
    both.channel.close()


async def test_refusals(both: Both, caplog: pytest.LogCaptureFixture) -> None:
    service = await both.connect()
    refused = await refusal(service.describe_namespace(m.DescribeNamespaceRequest(namespace="n")))
    assert (refused.code, refused.message) == (StatusCode.NOT_FOUND, "it is not there")
    assert refused.details == (m.NamespaceNotFoundFailure(namespace="n"),)
    refused = await refusal(service.list_schedules(m.ListSchedulesRequest()))
    assert refused.code is StatusCode.UNIMPLEMENTED
    with caplog.at_level(logging.CRITICAL, "perdure.transport"):
        refused = await refusal(service.describe_workflow_execution(m.DescribeWorkflowExecutionRequest()))
    assert refused.code is StatusCode.INTERNAL
    assert "secret" not in refused.message
    assert isinstance(
        await refusal(service.signal_workflow_execution(m.SignalWorkflowExecutionRequest())), LineLostError
    )
    refused = await refusal(both.channel._calls.call(b"StartWorkflowExecution", b"\xff", None, 9.0))
    assert refused.code is StatusCode.INVALID_ARGUMENT
    too_large = m.StartWorkflowExecutionRequest(workflow_id="x" * frames.MAX_CONTENT_BYTES)
    assert (await refusal(service.start_workflow_execution(too_large))).code is StatusCode.RESOURCE_EXHAUSTED
    both.channel.close()


async def test_a_cancelled_call_is_cancelled_at_the_far_end(both: Both) -> None:
    service = await both.connect()
    poll = asyncio.ensure_future(service.poll_workflow_task_queue(m.PollWorkflowTaskQueueRequest()))
    await service.start_workflow_execution(m.StartWorkflowExecutionRequest())
    poll.cancel()
    await asyncio.gather(poll, return_exceptions=True)
    await service.start_workflow_execution(m.StartWorkflowExecutionRequest())
    assert both.fake.cancelled == 1
    both.channel.close()


@pytest.mark.parametrize("how", ["server", "client", "abandoned"])
async def test_calls_in_flight_when_the_connection_ends(both: Both, how: str) -> None:
    service = await both.connect()
    poll = asyncio.ensure_future(service.poll_workflow_task_queue(m.PollWorkflowTaskQueueRequest()))
    await service.start_workflow_execution(m.StartWorkflowExecutionRequest())
    if how == "server":
        await both.server.close()
    elif how == "client":
        both.channel.close()
    else:
        both.server.abandon()
    assert isinstance(await refusal(poll), LineLostError)
    await both.channel.lost
    assert isinstance(await refusal(service.start_workflow_execution(m.StartWorkflowExecutionRequest())), LineLostError)
    while not both.fake.cancelled:
        await asyncio.sleep(0)
    both.channel.close()


async def test_a_call_without_an_answer_ends_in_time(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_client, "_CALL_S", 0.02)
    service = await both.connect()
    poll = asyncio.ensure_future(service.poll_workflow_task_queue(m.PollWorkflowTaskQueueRequest()))
    refused = await refusal(service.query_workflow(m.QueryWorkflowRequest()))
    assert refused.code is StatusCode.DEADLINE_EXCEEDED
    assert not poll.done(), "a poll waits as long as it takes"
    both.fake.open.set()
    await poll
    assert not both.channel._calls.is_watching, "nothing is watched when nothing can be late"
    both.channel.close()


async def test_a_client_that_asks_too_much_is_refused(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_answers, "MAX_CALLS", 3)
    service = await both.connect()
    polls = [
        asyncio.ensure_future(service.poll_workflow_task_queue(m.PollWorkflowTaskQueueRequest())) for _ in range(4)
    ]
    done, _ = await asyncio.wait(polls, return_when=asyncio.FIRST_COMPLETED)
    (refused,) = done
    assert (await refusal(refused)).code is StatusCode.RESOURCE_EXHAUSTED
    both.fake.open.set()
    await asyncio.gather(*polls, return_exceptions=True)
    both.channel.close()


async def test_who_listens_but_is_no_owner(tmp_path: Path) -> None:
    """An older version, or something else altogether."""

    async def greet(said: bytes) -> None:
        def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(said)
            writer.close()

        path = str(tmp_path / f"sock{len(said)}")
        listening = await asyncio.start_unix_server(answer, path)
        try:
            await SocketChannel.connect(path)
        finally:
            listening.close()

    with pytest.raises(FrameError, match="longer than"):
        await greet(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(FrameError, match="does not greet"):
        await greet(frames.frame(Kind.ANSWER, 1))
    with pytest.raises(ConnectionResetError):
        await greet(b"")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.binary(max_size=200), greets=st.booleans())
def test_noise_ends_the_connection_and_nothing_else(
    noise: bytes, greets: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def make_noise() -> None:
        both = Both(str(tmp_path / "sock"))
        await both.server.start()
        reader, writer = await asyncio.open_unix_connection(both.path)
        writer.write((frames.greeting() if greets else b"") + noise)
        writer.write_eof()
        await reader.read()
        writer.close()
        service = await both.connect()
        await service.start_workflow_execution(m.StartWorkflowExecutionRequest())
        both.channel.close()
        await both.server.close()

    with caplog.at_level(logging.CRITICAL, "perdure.transport"):
        asyncio.run(make_noise())


def test_every_rpc_can_be_called() -> None:
    bound: list[str] = []

    def bind(rpc: Any) -> Any:
        bound.append(rpc.method)
        return None

    service_of(bind)
    assert bound == list(RPCS)
