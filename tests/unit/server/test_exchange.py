"""Calls as frames on one stream: they are let in, allowed, answered and ended as calls of their own are."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from statistics import median
from typing import Any

import grpc
import grpc.aio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.api.rpcs import RPCS
from perdure.engine import Engine
from perdure.engine.ids import SeededIds
from perdure.engine.service import EngineService
from perdure.engine.store.memory import MemoryStore
from perdure.server import Server
from perdure.server.keys import ApiKeys, Role, make_key
from perdure.transport import GrpcChannel, ServerOptions, frame_answers, frames, service_of
from perdure.transport.exchange import FRAMED_BYTES, FRAMES_PATH
from perdure.transport.frames import Frame, FrameReader, Kind
from perdure.transport.statuses import error_of_status
from tests.unit.server.conftest import Wire
from tests.unit.server.test_handlers import start

DEADLINE_S = 60


class Stream:
    """Bare frames, and a service whose calls all go in frames."""

    def __init__(self, address: str, key: str = "") -> None:
        self.address = address
        self.channel = GrpcChannel(address, ServerOptions(api_key=key or None, tls=False))
        self.service: Any = service_of(self.channel.bind)

    async def open(self) -> Stream:
        assert self.channel.exchange is not None
        while self.channel.exchange.calls is None:
            await self.service.get_system_info(m.GetSystemInfoRequest())
        return self

    async def close(self) -> None:
        await self.channel.close()


async def refusal(call: Any) -> RpcError:
    with pytest.raises(RpcError) as refused:
        await call
    return refused.value


@pytest.fixture
async def stream(server: Server) -> AsyncIterator[Stream]:
    stream = await Stream(server.address).open()
    yield stream
    await stream.close()


async def answers(address: str, *sent: bytes, count: int | None = None) -> list[Frame]:
    """What a server says to these messages until it ends the stream, or the first `count` frames of it."""
    enough = asyncio.Event()

    async def messages() -> AsyncIterator[bytes]:
        for message in sent:
            yield message
        if count is not None:
            await enough.wait()

    async with grpc.aio.insecure_channel(address) as channel:
        call: Any = channel.stream_stream(FRAMES_PATH)(messages())
        reader = FrameReader()
        said: list[Frame] = []
        try:
            async for message in call:
                said += reader.feed(message)
                if count is not None and len(said) >= count:
                    enough.set()
        except grpc.aio.AioRpcError as error:
            # How gRPC says that the server ended the stream while a message was on its way there.
            assert error.code() is grpc.StatusCode.INTERNAL
        return said


async def test_calls_travel_as_frames_and_large_ones_do_not(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    framed: list[str] = []
    monkeypatch.setattr("perdure.server.exchange.FrameAnswers.take", _taking(framed))
    await stream.service.start_workflow_execution(start())
    assert framed == ["StartWorkflowExecution"]
    large = start("large")
    large.input.payloads.add(data=b"x" * FRAMED_BYTES)
    assert (await stream.service.start_workflow_execution(large)).run_id
    assert framed == ["StartWorkflowExecution"]
    too_large = start("too large")
    too_large.input.payloads.add(data=b"x" * 5_000_000)
    assert (await refusal(stream.service.start_workflow_execution(too_large))).code is StatusCode.RESOURCE_EXHAUSTED


def _taking(framed: list[str]) -> Any:
    take = frame_answers.FrameAnswers.take

    def noted(self: frame_answers.FrameAnswers, received: Frame) -> None:
        if received.kind == Kind.CALL:
            framed.append(frames.Call.of(received.content).method)
        take(self, received)

    return noted


async def test_answers_longer_than_a_message(stream: Stream) -> None:
    for number in range(4):
        large = start(f"large-{number}")
        large.input.payloads.add(data=b"x" * 900_000)
        await stream.service.start_workflow_execution(large)
    asked: list[Any] = []
    for number in range(4):
        request = m.GetWorkflowExecutionHistoryRequest(namespace="default")
        request.execution.workflow_id = f"large-{number}"
        asked.append(stream.service.get_workflow_execution_history(request))
    assert all(found.ByteSize() > 900_000 for found in await asyncio.gather(*asked))


async def test_refusals(stream: Stream, server: Server) -> None:
    await stream.service.start_workflow_execution(start())
    again = start()
    again.request_id = "another"
    refused = await refusal(stream.service.start_workflow_execution(again))
    assert refused.code is StatusCode.ALREADY_EXISTS
    assert isinstance(refused.details[0], m.WorkflowExecutionAlreadyStartedFailure)
    assert (await refusal(stream.service.list_clusters(m.ListClustersRequest()))).code is StatusCode.UNIMPLEMENTED
    sent = [
        frames.greeting(),
        frames.call(1, b"NoSuchMethod", b"", None) + frames.call(2, b"StartWorkflowExecution", b"\xff", None),
        frames.call(3, b"GetSystemInfo", b"", 1.0),
    ]
    greeting, *said = await answers(server.address, *sent, count=4)
    assert greeting.kind == Kind.GREETING
    assert {each.call: each.kind for each in said} == {1: Kind.REFUSAL, 2: Kind.REFUSAL, 3: Kind.ANSWER}
    codes = {each.call: error_of_status(each.content).code for each in said if each.kind == Kind.REFUSAL}
    assert codes == {1: StatusCode.UNIMPLEMENTED, 2: StatusCode.INVALID_ARGUMENT}


async def test_a_defect_says_nothing_of_its_insides(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, engine: Engine
) -> None:
    async def fail(*_: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr("perdure.engine.service.EngineService.list_namespaces", fail)
    async with Server(engine, address="127.0.0.1:0") as server:
        another = await Stream(server.address).open()
        with caplog.at_level(logging.CRITICAL, "perdure.server"):
            refused = await refusal(another.service.list_namespaces(m.ListNamespacesRequest()))
        await another.close()
    assert refused.code is StatusCode.INTERNAL and "secret" not in refused.message


@pytest.mark.parametrize(
    "sent",
    [
        [b"HTTP/1.1 GET"],
        [frames.call(1, b"GetSystemInfo", b"", None)],
        [frames.greeting(), frames.frame(Kind.ANSWER, 1)],
        [frames.greeting(), frames.frame(Kind.CALL, 1, b"\x00")],
        [frames.greeting(), b"\x7f\xff\xff\xff" + bytes(5)],
    ],
)
async def test_what_makes_no_sense_ends_the_stream(
    sent: list[bytes], server: Server, wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.CRITICAL, "perdure.server"):
        said = await answers(server.address, *sent)
    assert [each.kind for each in said] in ([Kind.GREETING], [])
    assert await wire.call("get_system_info")


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.lists(st.binary(max_size=200), max_size=4), greets=st.booleans())
def test_noise_ends_the_stream_and_nothing_else(
    noise: list[bytes], greets: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def make_noise() -> None:
        engine = Engine(MemoryStore())
        await engine.start()
        async with Server(engine, address="127.0.0.1:0") as server:
            await answers(server.address, *([frames.greeting()] if greets else []), *noise)
            stream = await Stream(server.address).open()
            await stream.service.start_workflow_execution(start())
            await stream.close()
        await engine.stop()

    with caplog.at_level(logging.CRITICAL, "perdure.server"):
        asyncio.run(make_noise())


async def test_a_call_number_in_use_ends_the_stream(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    poll = m.PollWorkflowTaskQueueRequest(namespace="default")
    poll.task_queue.name = "queue"
    twice = frames.call(1, b"PollWorkflowTaskQueue", poll.SerializeToString(), None) * 2
    with caplog.at_level(logging.CRITICAL, "perdure.server"):
        said = await answers(server.address, frames.greeting() + twice)
    assert [each.kind for each in said] == [Kind.GREETING]


async def test_more_calls_than_a_stream_may_have(
    stream: Stream, engine: Engine, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frame_answers, "MAX_CALLS", 3)
    poll = m.PollWorkflowTaskQueueRequest(namespace="default")
    poll.task_queue.name = "queue"
    polls = [asyncio.ensure_future(stream.service.poll_workflow_task_queue(poll)) for _ in range(4)]
    done, waiting = await asyncio.wait(polls, return_when=asyncio.FIRST_COMPLETED)
    (refused,) = done
    assert (await refusal(refused)).code is StatusCode.RESOURCE_EXHAUSTED
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    while engine.statistics().polls_waiting:
        await wire.call("get_system_info")
    assert await stream.service.get_system_info(m.GetSystemInfoRequest())


# -- keys ----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def guarded(engine: Engine) -> AsyncIterator[tuple[Server, dict[str, str]]]:
    made = {
        "worker": make_key(SeededIds(2), role=Role.WRITER, namespaces=["default"]),
        "reader": make_key(SeededIds(3), role=Role.READER, namespaces=["default", "other"]),
    }
    async with Server(engine, address="127.0.0.1:0", keys=ApiKeys(key for _, key in made.values())) as server:
        yield server, {name: text for name, (text, _) in made.items()}


async def test_no_stream_without_a_key(guarded: tuple[Server, dict[str, str]]) -> None:
    server, _ = guarded
    async with grpc.aio.insecure_channel(server.address) as channel:
        for metadata in ((), (("authorization", "Bearer perdure_00_x"),)):
            call: Any = channel.stream_stream(FRAMES_PATH)(metadata=metadata)
            assert await call.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_keys_open_what_they_are_for(guarded: tuple[Server, dict[str, str]]) -> None:
    server, keys = guarded
    worker = await Stream(server.address, keys["worker"]).open()
    reader = await Stream(server.address, keys["reader"]).open()
    assert (await worker.service.start_workflow_execution(start())).run_id
    describe = m.DescribeWorkflowExecutionRequest(namespace="default")
    describe.execution.workflow_id = "a"
    assert await reader.service.describe_workflow_execution(describe)
    elsewhere = start()
    elsewhere.namespace = "other"
    nested = m.ExecuteMultiOperationRequest(namespace="default")
    nested.operations.add().start_workflow.CopyFrom(elsewhere)
    for call in (
        worker.service.start_workflow_execution(elsewhere),
        worker.service.execute_multi_operation(nested),
        worker.service.register_namespace(m.RegisterNamespaceRequest(namespace="mine")),
        reader.service.start_workflow_execution(start("b")),
    ):
        assert (await refusal(call)).code is StatusCode.PERMISSION_DENIED
    await worker.close()
    await reader.close()


async def test_a_key_that_is_taken_away_opens_nothing_any_more(guarded: tuple[Server, dict[str, str]]) -> None:
    server, keys = guarded
    worker = await Stream(server.address, keys["worker"]).open()
    _, other = make_key(SeededIds(9), role=Role.READER, namespaces=["*"])
    server.change_keys(ApiKeys([other]))
    for _ in range(2):
        assert (await refusal(worker.service.start_workflow_execution(start()))).code is StatusCode.UNAUTHENTICATED
    await worker.close()


# -- stopping ------------------------------------------------------------------------------------------------------


async def test_a_server_that_stops(stream: Stream, server: Server, engine: Engine) -> None:
    poll = m.PollActivityTaskQueueRequest(namespace="default")
    poll.task_queue.name = "queue"
    waiting = asyncio.ensure_future(stream.service.poll_activity_task_queue(poll, timeout_s=DEADLINE_S))
    while not engine.statistics().polls_waiting:
        await stream.service.get_system_info(m.GetSystemInfoRequest())
    begun = [asyncio.ensure_future(stream.service.start_workflow_execution(start(str(n)))) for n in range(50)]
    while not engine.shard.cache.loaded:
        await asyncio.sleep(0)
    await server.stop()
    assert await waiting == m.PollActivityTaskQueueResponse()
    started = 0
    for outcome in await asyncio.gather(*begun, return_exceptions=True):
        if isinstance(outcome, RpcError):
            assert outcome.code is StatusCode.UNAVAILABLE
        else:
            started += 1
    counted = await engine.service().count_workflow_executions(m.CountWorkflowExecutionsRequest(namespace="default"))
    assert started and counted.count >= started
    assert (await refusal(stream.service.get_system_info(m.GetSystemInfoRequest()))).code is StatusCode.UNAVAILABLE


async def test_a_client_that_goes_leaves_no_calls(stream: Stream, engine: Engine, wire: Wire) -> None:
    poll = m.PollActivityTaskQueueRequest(namespace="default")
    poll.task_queue.name = "queue"
    waiting = asyncio.ensure_future(stream.service.poll_activity_task_queue(poll))
    while not engine.statistics().polls_waiting:
        await wire.call("get_system_info")
    await stream.close()
    assert (await refusal(waiting)).code is StatusCode.UNAVAILABLE
    while engine.statistics().polls_waiting:
        await wire.call("get_system_info")


# -- fairness ------------------------------------------------------------------------------------------------------


FLOOD = """
import asyncio, sys
from perdure.api import messages as m
from perdure.transport import GrpcChannel, ServerOptions, service_of

async def flood():
    channel = GrpcChannel(sys.argv[1], ServerOptions())
    service = service_of(channel.bind)
    while channel.exchange.calls is None:
        await service.get_system_info(m.GetSystemInfoRequest())

    async def again():
        while True:
            await service.count_workflow_executions(m.CountWorkflowExecutionsRequest(namespace="default"))

    await asyncio.gather(*(again() for _ in range(1000)))

asyncio.run(flood())
"""
"""A client that always has a thousand calls under way, in frames on one stream."""


@pytest.mark.parametrize("framed", [False, True])
async def test_a_flood_does_not_go_before_the_others(
    framed: bool, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted, not timed: how many calls of the flood are served between another's call and its answer."""
    served = 0
    answer = EngineService.count_workflow_executions

    async def counted(self: EngineService, request: Any) -> Any:
        nonlocal served
        served += 1
        return await answer(self, request)

    monkeypatch.setattr(EngineService, "count_workflow_executions", counted)
    async with Server(engine, address="127.0.0.1:0") as server:
        others: list[Any] = [Stream(server.address) if framed else Wire(server.address) for _ in range(9)]
        calls = [other.service.get_system_info if framed else _info(other) for other in others]
        for other in others:
            if framed:
                await other.open()
        flood = await asyncio.create_subprocess_exec(sys.executable, "-c", FLOOD, server.address)
        passed: list[int] = []
        try:
            while served < 2000:
                await calls[0](m.GetSystemInfoRequest())
            for call in calls:
                before = served
                await call(m.GetSystemInfoRequest())
                passed.append(served - before)
        finally:
            flood.kill()
            await flood.wait()
        for other in others:
            await other.channel.close()
    assert median(passed) < 50


def _info(wire: Wire) -> Any:
    async def call(request: Any) -> Any:
        return await wire.call("get_system_info", request)

    return call


def test_the_path_is_no_rpc_of_the_api() -> None:
    assert FRAMES_PATH not in {rpc.path for rpc in RPCS.values()}
