"""Calls over gRPC: what they carry, how they are refused, and what becomes of them when the server goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import trustme

from perdure.api import RpcError, StatusCode, WorkflowService
from perdure.api import messages as m
from perdure.client import Client, KeepAliveConfig, ServiceUnavailableError, TLSConfig
from perdure.engine import Engine
from perdure.engine.ids import RandomIds
from perdure.engine.store.memory import MemoryStore
from perdure.server import Server
from perdure.server.keys import ApiKeys, Role, make_key
from perdure.server.listening import Tls
from perdure.transport import GrpcChannel, ServerOptions, grpc_client, service_of
from perdure.transport.exchange import FRAMES_PATH
from tests.ports import free_port


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    engine = Engine(MemoryStore())
    await engine.start()
    yield engine
    await engine.stop()


class Recorder(grpc.GenericRpcHandler):
    """A server that keeps what calls carry and answers as it is told. It has no stream of frames, as Temporal's."""

    def __init__(self) -> None:
        self.metadata: dict[str, Any] = {}
        self.answer: Callable[[Any], Any] | None = None

    def service(self, handler_call_details: Any) -> Any:
        if handler_call_details.method == FRAMES_PATH:
            return None

        async def take(data: bytes, context: Any) -> bytes:
            self.metadata = dict(context.invocation_metadata())
            return await self.answer(context) if self.answer is not None else b""

        return grpc.unary_unary_rpc_method_handler(take)


@pytest.fixture
async def recorder() -> AsyncIterator[tuple[Recorder, str]]:
    recorder = Recorder()
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((recorder,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield recorder, f"127.0.0.1:{port}"
    await server.stop(None)


async def refusal(call: Any) -> RpcError:
    with pytest.raises(RpcError) as refused:
        await call
    return refused.value


async def test_what_a_call_carries(recorder: tuple[Recorder, str]) -> None:
    kept, address = recorder
    options = ServerOptions(api_key="secret", tls=False, rpc_metadata={"Team": "blue", "trace-bin": b"\0\xff"})
    channel = GrpcChannel(address, options)
    service = service_of(channel.bind)
    await service.describe_namespace(m.DescribeNamespaceRequest(namespace="mine"))
    assert kept.metadata["client-name"] == "perdure"
    assert kept.metadata["client-version"]
    assert kept.metadata["authorization"] == "Bearer secret"
    assert kept.metadata["temporal-namespace"] == "mine"
    assert kept.metadata["team"] == "blue"
    assert kept.metadata["trace-bin"] == b"\0\xff"
    await service.get_system_info(m.GetSystemInfoRequest())
    assert "temporal-namespace" not in kept.metadata
    await service.describe_namespace(m.DescribeNamespaceRequest(namespace="größer"))
    assert "temporal-namespace" not in kept.metadata, "a header takes ASCII alone"
    await channel.close()
    await channel.close()
    refused = await refusal(service.get_system_info(m.GetSystemInfoRequest()))
    assert (refused.code, "has been closed" in refused.message) == (StatusCode.UNAVAILABLE, True)


async def test_deadlines(recorder: tuple[Recorder, str], monkeypatch: pytest.MonkeyPatch) -> None:
    kept, address = recorder
    monkeypatch.setattr(grpc_client, "CALL_S", 0.05)
    monkeypatch.setattr(grpc_client, "POLL_S", 0.06)

    async def hang(context: Any) -> bytes:
        await asyncio.Event().wait()
        return b""

    kept.answer = hang
    channel = GrpcChannel(address, ServerOptions())
    service: Any = service_of(channel.bind)
    assert await service.poll_workflow_task_queue(m.PollWorkflowTaskQueueRequest()) == m.PollWorkflowTaskQueueResponse()
    polled = await service.poll_activity_task_queue(m.PollActivityTaskQueueRequest(), timeout_s=0.02)
    assert polled == m.PollActivityTaskQueueResponse()
    waiting = m.GetWorkflowExecutionHistoryRequest(wait_new_event=True)
    for late in (
        service.describe_namespace(m.DescribeNamespaceRequest()),
        service.get_workflow_execution_history(waiting),
        service.get_workflow_execution_history(m.GetWorkflowExecutionHistoryRequest()),
    ):
        assert (await refusal(late)).code is StatusCode.DEADLINE_EXCEEDED
    await channel.close()


async def test_what_a_caller_cancels_and_what_is_cancelled_under_him(recorder: tuple[Recorder, str]) -> None:
    kept, address = recorder
    arrived = asyncio.Event()

    async def hang(context: Any) -> bytes:
        arrived.set()
        await asyncio.Event().wait()
        return b""

    kept.answer = hang
    channel = GrpcChannel(address, ServerOptions())
    service = service_of(channel.bind)
    call = asyncio.ensure_future(service.poll_workflow_task_queue(m.PollWorkflowTaskQueueRequest()))
    await arrived.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    call = asyncio.ensure_future(service.poll_workflow_task_queue(m.PollWorkflowTaskQueueRequest()))
    arrived.clear()
    await arrived.wait()
    await channel.close()
    assert (await refusal(call)).code is StatusCode.UNAVAILABLE


async def test_strange_answers(recorder: tuple[Recorder, str]) -> None:
    kept, address = recorder
    channel = GrpcChannel(address, ServerOptions())
    service = service_of(channel.bind)

    async def noise(context: Any) -> bytes:
        return b"\xff"

    async def abort(context: Any) -> bytes:
        await context.abort(grpc.StatusCode.CANCELLED, "going away")
        return b""

    async def details(context: Any) -> bytes:
        await context.abort(grpc.StatusCode.NOT_FOUND, "no", (("grpc-status-details-bin", b"\xff"),))
        return b""

    for answer, code in ((noise, StatusCode.INTERNAL), (abort, StatusCode.UNAVAILABLE), (details, StatusCode.UNKNOWN)):
        kept.answer = answer
        assert (await refusal(service.get_system_info(m.GetSystemInfoRequest()))).code is code
    await channel.close()


async def test_details_of_refusals(engine: Engine) -> None:
    async with Server(engine, address="127.0.0.1:0") as server:
        channel = GrpcChannel(server.address, ServerOptions(keep_alive=None))
        service: WorkflowService = service_of(channel.bind)
        refused = await refusal(service.describe_namespace(m.DescribeNamespaceRequest(namespace="none")))
        assert refused.code is StatusCode.NOT_FOUND
        assert refused.details == (m.NamespaceNotFoundFailure(namespace="none"),)
        await channel.close()


async def test_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.client.calls._LONGEST_WAIT_S", 0.01)
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(ServiceUnavailableError, match=f"{address} cannot be reached"):
        await Client.connect(address)


async def test_a_server_that_comes_back(engine: Engine) -> None:
    async with Server(engine, address=f"127.0.0.1:{free_port()}") as server:
        client = await Client.connect(server.address, keep_alive_config=KeepAliveConfig(interval=timedelta(seconds=60)))
    async with Server(engine, address=server.address):
        assert (await client.count_workflows()).count == 0
        await client.close()


def authority(tmp_path: Path) -> tuple[trustme.CA, Tls]:
    ca = trustme.CA()
    certificate = ca.issue_cert("server.example")
    key = certificate.private_key_pem.bytes()
    chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    return ca, Tls(certificate=chain, key=key, client_authority=ca.cert_pem.bytes())


async def test_tls_both_ways(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.client.calls._LONGEST_WAIT_S", 0.01)
    ca, tls = authority(tmp_path)
    mine = ca.issue_cert("me@client.example")
    chain = b"".join(blob.bytes() for blob in mine.cert_chain_pems)
    root = ca.cert_pem.bytes()
    known = TLSConfig(
        server_root_ca_cert=root,
        domain="server.example",
        client_cert=chain,
        client_private_key=mine.private_key_pem.bytes(),
    )
    async with Server(engine, address="127.0.0.1:0", tls=tls) as server:
        async with await Client.connect(f"https://{server.address}", tls=known) as client:
            assert (await client.count_workflows()).count == 0
        for stranger in (
            TLSConfig(server_root_ca_cert=root, domain="server.example"),
            TLSConfig(
                server_root_ca_cert=root,
                domain="other.example",
                client_cert=chain,
                client_private_key=mine.private_key_pem.bytes(),
            ),
            False,
        ):
            with pytest.raises(ServiceUnavailableError):
                await Client.connect(server.address, tls=stranger)


async def test_api_keys(engine: Engine) -> None:
    key, kept = make_key(RandomIds(), role=Role.WRITER, namespaces=["default"])
    keys = ApiKeys([kept])
    async with Server(engine, address="127.0.0.1:0", keys=keys) as server:
        async with await Client.connect(server.address, api_key=key, tls=False) as client:
            assert (await client.count_workflows()).count == 0
        for wrong in ({"api_key": "perdure_00_x", "tls": False}, {}):
            with pytest.raises(Exception, match="API key"):
                await (await Client.connect(server.address, **wrong)).count_workflows()
