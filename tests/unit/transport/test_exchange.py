"""The stream of frames as a client uses it: when it is there, when it is not, and when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest

from perdure.api import EngineStoppedError, RpcError, StatusCode
from perdure.api import messages as m
from perdure.api.rpcs import RPCS
from perdure.transport import GrpcChannel, ServerOptions, exchange, frames, outflow, service_of
from perdure.transport.exchange import END, FRAMES_PATH, State
from perdure.transport.frames import Call, Frame, FrameReader, Kind
from perdure.transport.outflow import Outflow

Talk = Callable[[Any], Awaitable[None]]


class Fake(grpc.GenericRpcHandler):
    """A server that answers calls of their own with what their messages are by default, and streams as it is told."""

    def __init__(self) -> None:
        self.unary: list[str] = []
        self.streams = 0
        self.metadata: dict[str, Any] = {}
        self.talk: Talk | None = None
        """None: it knows no such method."""

    def service(self, handler_call_details: Any) -> Any:
        path = handler_call_details.method
        if path == FRAMES_PATH:
            self.streams += 1
            if self.talk is None:
                return None
            self.metadata = dict(handler_call_details.invocation_metadata)
            return grpc.stream_stream_rpc_method_handler(self._stream)

        async def answer(data: bytes, context: Any) -> bytes:
            self.unary.append(path.rpartition("/")[2])
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)

    async def _stream(self, _: Any, context: Any) -> None:
        assert self.talk is not None
        await self.talk(context)


async def calls_of(context: Any) -> AsyncIterator[tuple[Frame, Call | None]]:
    """What arrives on a stream after its greeting, which is answered."""
    reader = FrameReader()
    await context.write(frames.greeting())
    while (data := await context.read()) is not END:
        for received in reader.feed(data):
            if received.kind != Kind.GREETING:
                yield received, Call.of(received.content) if received.kind == Kind.CALL else None


@pytest.fixture
async def fake() -> AsyncIterator[tuple[Fake, GrpcChannel]]:
    fake = Fake()
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((fake,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel = GrpcChannel(f"127.0.0.1:{port}", ServerOptions(api_key="secret", tls=False))
    yield fake, channel
    await channel.close()
    await server.stop(None)


def state(channel: GrpcChannel) -> State:
    assert channel.exchange is not None
    return channel.exchange.state


async def until(channel: GrpcChannel, wanted: State) -> Any:
    """Call until the stream is in a state; the service."""
    service = service_of(channel.bind)
    while state(channel) is not wanted:
        await service.get_system_info(m.GetSystemInfoRequest())
    return service


async def refusal(call: Any) -> RpcError:
    with pytest.raises(RpcError) as refused:
        await call
    return refused.value


async def test_a_server_without_frames_is_asked_once(fake: tuple[Fake, GrpcChannel]) -> None:
    server, channel = fake
    service = await until(channel, State.REFUSED)
    for _ in range(3):
        await service.get_system_info(m.GetSystemInfoRequest())
    assert server.streams == 1 and len(server.unary) >= 3


async def greet_wrongly(context: Any) -> None:
    await context.write(frames.frame(Kind.GREETING, 0, b'{"version": 99}'))
    await asyncio.Event().wait()


async def say_nothing(context: Any) -> None:
    await context.read()


async def make_noise(context: Any) -> None:
    await context.write(b"\xff" * 100)


@pytest.mark.parametrize("talk", [greet_wrongly, say_nothing, make_noise])
async def test_a_server_whose_frames_are_not_understood(talk: Talk, fake: tuple[Fake, GrpcChannel]) -> None:
    server, channel = fake
    server.talk = talk
    service = await until(channel, State.REFUSED)
    await service.get_system_info(m.GetSystemInfoRequest())
    assert server.streams == 1


async def test_calls_in_frames(fake: tuple[Fake, GrpcChannel]) -> None:
    server, channel = fake
    heard: list[Call] = []

    async def answer(context: Any) -> None:
        async for received, call in calls_of(context):
            assert call is not None
            heard.append(call)
            response = m.DescribeNamespaceResponse(failover_version=len(heard)).SerializeToString()
            # In pieces: the far end's messages may end anywhere.
            data = frames.frame(Kind.ANSWER, received.call, response)
            await context.write(data[:5])
            await context.write(data[5:])

    server.talk = answer
    service = await until(channel, State.OPEN)
    server.unary.clear()
    described = await service.describe_namespace(m.DescribeNamespaceRequest(namespace="n"))
    assert described.failover_version == 1
    assert (heard[0].method, heard[0].timeout_s) == ("DescribeNamespace", 30.0)
    await service.poll_workflow_task_queue(m.PollWorkflowTaskQueueRequest(), timeout_s=12.5)
    assert heard[1].timeout_s == 12.5
    assert server.metadata["authorization"] == "Bearer secret"
    assert not server.unary
    await service.start_workflow_execution(m.StartWorkflowExecutionRequest(cron_schedule="x" * exchange.FRAMED_BYTES))
    assert server.unary == ["StartWorkflowExecution"]


async def test_strange_answers(fake: tuple[Fake, GrpcChannel]) -> None:
    server, channel = fake
    kinds = iter((Kind.ANSWER, Kind.REFUSAL, Kind.GONE, Kind.CALL))

    async def answer(context: Any) -> None:
        async for received, _ in calls_of(context):
            await context.write(frames.frame(Kind.ANSWER, 999) + frames.frame(next(kinds), received.call, b"\xff"))

    server.talk = answer
    service = await until(channel, State.OPEN)
    for code in (StatusCode.INTERNAL, StatusCode.UNKNOWN, StatusCode.UNAVAILABLE, StatusCode.UNAVAILABLE):
        assert (await refusal(service.get_system_info(m.GetSystemInfoRequest()))).code is code
    while state(channel) is State.OPEN:
        await asyncio.sleep(0)
    assert state(channel) is State.REFUSED, "what is no answer is not understood"
    await service.get_system_info(m.GetSystemInfoRequest())


@pytest.mark.parametrize("code", [None, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL])
async def test_a_stream_that_ends_is_opened_again(
    code: grpc.StatusCode | None, fake: tuple[Fake, GrpcChannel], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, channel = fake
    monkeypatch.setattr(exchange, "_FIRST_WAIT_S", 0.0)
    heard = asyncio.Event()
    ends = asyncio.Event()

    async def answer(context: Any) -> None:
        async for received, call in calls_of(context):
            assert call is not None
            if call.method != "DescribeNamespace":
                await context.write(frames.frame(Kind.ANSWER, received.call))
                continue
            heard.set()
            await ends.wait()
            if code is not None:
                await context.abort(code, "going away")
            return

    server.talk = answer
    service = await until(channel, State.OPEN)
    waiting = asyncio.ensure_future(service.describe_namespace(m.DescribeNamespaceRequest()))
    await heard.wait()
    ends.set()
    refused = await refusal(waiting)
    assert refused.code is StatusCode.UNAVAILABLE and "call again" in refused.message
    await service.get_system_info(m.GetSystemInfoRequest())
    await until(channel, State.OPEN)
    assert server.streams == 2


async def test_attempts_to_open_a_stream_are_apart(
    fake: tuple[Fake, GrpcChannel], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, channel = fake
    monkeypatch.setattr("perdure.transport.exchange._FIRST_WAIT_S", 60.0)

    async def abort(context: Any) -> None:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")

    server.talk = abort
    assert channel.exchange is not None
    channel.exchange._wait_s = 60.0
    service: Any = service_of(channel.bind)
    for _ in range(50):
        await service.get_system_info(m.GetSystemInfoRequest())
    assert server.streams == 1 and state(channel) is State.IDLE


async def test_deadlines_and_callers_that_go(fake: tuple[Fake, GrpcChannel], monkeypatch: pytest.MonkeyPatch) -> None:
    server, channel = fake
    monkeypatch.setattr("perdure.transport.grpc_client.CALL_S", 0.05)
    heard: list[tuple[int, str]] = []
    news = asyncio.Event()

    async def hang(context: Any) -> None:
        async for received, call in calls_of(context):
            heard.append((received.kind, call.method if call is not None else ""))
            news.set()

    server.talk = hang
    service: Any = await until(channel, State.OPEN)
    polled = await service.poll_activity_task_queue(m.PollActivityTaskQueueRequest(), timeout_s=0.02)
    assert polled == m.PollActivityTaskQueueResponse()
    late = service.get_workflow_execution_history(m.GetWorkflowExecutionHistoryRequest())
    assert (await refusal(late)).code is StatusCode.DEADLINE_EXCEEDED
    call = asyncio.ensure_future(service.poll_workflow_task_queue(m.PollWorkflowTaskQueueRequest()))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    while len(heard) < 6:
        news.clear()
        await news.wait()
    assert [kind for kind, _ in heard] == [Kind.CALL, Kind.CANCEL] * 3


async def test_a_client_that_is_closed(fake: tuple[Fake, GrpcChannel]) -> None:
    server, channel = fake
    heard = asyncio.Event()

    async def hang(context: Any) -> None:
        async for _ in calls_of(context):
            heard.set()

    server.talk = hang
    service = await until(channel, State.OPEN)
    call = asyncio.ensure_future(service.poll_workflow_task_queue(m.PollWorkflowTaskQueueRequest()))
    await heard.wait()
    await channel.close()
    await channel.close()
    assert isinstance(await refusal(call), EngineStoppedError)
    assert isinstance(await refusal(service.get_system_info(m.GetSystemInfoRequest())), EngineStoppedError)


# -- what leaves ---------------------------------------------------------------------------------------------------


async def test_what_is_said_in_a_turn_leaves_in_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outflow, "MESSAGE_BYTES", 10)
    written: list[bytes] = []
    slow = asyncio.Event()

    async def write(data: bytes) -> None:
        written.append(data)
        await slow.wait()

    out = Outflow()
    running = asyncio.ensure_future(out.run(write))
    await asyncio.sleep(0)
    out.put(b"ab")
    out.put(b"cd")
    await asyncio.sleep(0)
    out.put(b"0123456789")
    out.put(b"xyz")
    slow.set()
    out.end()
    await running
    assert written == [b"abcd", b"0123456789", b"xyz"]


async def test_a_full_outflow_has_room_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outflow, "FULL_BYTES", 3)
    gate = asyncio.Event()

    async def write(data: bytes) -> None:
        await gate.wait()

    out = Outflow()
    running = asyncio.ensure_future(out.run(write))
    out.put(b"abc")
    assert not out.is_full
    out.put(b"d")
    assert out.is_full
    waiting = asyncio.ensure_future(out.wait_room())
    await asyncio.sleep(0)
    gate.set()
    await waiting
    out.end()
    await running


async def test_nobody_writes_any_more() -> None:
    async def write(data: bytes) -> None:
        raise AssertionError(data)

    out = Outflow()
    running = asyncio.ensure_future(out.run(write))
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    out.put(b"nothing")
    out.end()
    out.end()


def test_every_rpc_has_a_name_of_its_own() -> None:
    assert len({rpc.name for rpc in RPCS.values()}) == len(RPCS)
