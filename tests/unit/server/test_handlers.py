"""The wire: what becomes of good, bad and ugly requests."""

from __future__ import annotations

import gzip
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from temporalio.api.common.v1 import GrpcStatus

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.api.rpcs import RPCS
from perdure.engine import Engine
from perdure.engine.ids import SeededIds
from perdure.engine.service.table import is_served
from perdure.server import Server
from perdure.server.handlers import MESSAGE_BYTES
from perdure.server.keys import ApiKeys, Role, make_key
from perdure.server.reflection import reflection_handlers
from perdure.server.status import DETAILS_BYTES, MESSAGE_CHARACTERS, status_of
from tests.unit.server.conftest import Wire

Code = grpc.StatusCode


def start(workflow_id: str = "a", **fields: Any) -> m.StartWorkflowExecutionRequest:
    request = m.StartWorkflowExecutionRequest(namespace="default", workflow_id=workflow_id, request_id="r", **fields)
    request.workflow_type.name = "flow"
    request.task_queue.name = "queue"
    return request


def details_of(error: grpc.aio.AioRpcError) -> GrpcStatus:
    trailers = dict(error.trailing_metadata() or ())
    return GrpcStatus.FromString(trailers["grpc-status-details-bin"])  # type: ignore[arg-type]


async def test_it_says_what_it_is(wire: Wire) -> None:
    assert (await wire.call("get_system_info")).capabilities.sdk_metadata
    cluster = await wire.call("get_cluster_info")
    assert cluster.cluster_id and cluster.history_shard_count == 1 and cluster.persistence_store == "memory"


async def test_a_refusal_keeps_code_message_and_details(wire: Wire) -> None:
    await wire.call("start_workflow_execution", start())
    again = start()
    again.request_id = "another"
    refused = await wire.refusal("start_workflow_execution", again)
    assert refused.code() is Code.ALREADY_EXISTS
    status = details_of(refused)
    failure = m.WorkflowExecutionAlreadyStartedFailure()
    assert status.details[0].Unpack(failure) and failure.run_id
    assert (status.code, status.message) == (StatusCode.ALREADY_EXISTS, refused.details())


async def test_what_is_not_served_says_so(wire: Wire) -> None:
    for method, rpc in RPCS.items():
        if not is_served(rpc):
            refused = await wire.refusal(method)
            assert refused.code() is Code.UNIMPLEMENTED
            assert rpc.name in (refused.details() or "")


async def test_a_method_that_does_not_exist_is_unimplemented(wire: Wire) -> None:
    service = "/temporal.api.workflowservice.v1.WorkflowService"
    for path in (f"{service}/NoSuchMethod", "/no.Service/Method", "/x/y"):
        assert (await wire.raw_refusal(path, b"")).code() is Code.UNIMPLEMENTED


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x05abc", b"\x0a\x02\xff\xfe", b"\x00", b"\x0b\x0b\x0b"])
async def test_bytes_that_are_no_request_are_refused(data: bytes, wire: Wire) -> None:
    refused = await wire.raw_refusal(RPCS["start_workflow_execution"].path, data)
    assert refused.code() is Code.INVALID_ARGUMENT
    assert "StartWorkflowExecutionRequest" in (refused.details() or "")


async def test_unknown_fields_and_metadata_do_no_harm(wire: Wire) -> None:
    unknown = b"\xfa\xff\xff\xff\x0f\x03abc"
    metadata = (("temporal-namespace", "default"), ("client-name", "x"), ("temporal-resource-id", "workflow:a"))
    data = start().SerializeToString() + unknown
    answer = await wire.raw(RPCS["start_workflow_execution"].path, data, metadata=metadata)
    assert m.StartWorkflowExecutionResponse.FromString(answer).run_id


async def test_compressed_requests_are_understood(wire: Wire) -> None:
    request = start()
    request.input.payloads.add(data=b"0" * 100_000)
    answer = await wire.call("start_workflow_execution", request, compression=grpc.Compression.Gzip)
    assert answer.run_id


async def test_messages_may_have_four_mebibytes(wire: Wire) -> None:
    assert MESSAGE_BYTES == 4 * 1024 * 1024
    for size in (MESSAGE_BYTES - 1, MESSAGE_BYTES):
        refused = await wire.refusal("respond_query_task_completed", respond(size))
        assert refused.code() is Code.INVALID_ARGUMENT, "it was read: its token is wrong"
    for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
        request = respond(MESSAGE_BYTES + 1)
        refused = await wire.refusal("respond_query_task_completed", request, compression=compression)
        assert refused.code() is Code.RESOURCE_EXHAUSTED
        assert (refused.details() or "").startswith("grpc: received message larger than max (4194305 vs. 4194304)")


def respond(size: int) -> m.RespondQueryTaskCompletedRequest:
    request = m.RespondQueryTaskCompletedRequest(namespace="default", task_token=b"forged")
    request.error_message = "x" * (size - request.ByteSize() - 5)
    request.error_message += "x" * (size - request.ByteSize())
    assert request.ByteSize() == size
    return request


async def test_what_unpacks_to_very_much_is_refused(wire: Wire) -> None:
    packed = len(gzip.compress(b"\0" * (64 << 20), compresslevel=1))
    assert packed < 1 << 20
    path = RPCS["start_workflow_execution"].path
    refused = await wire.raw_refusal(path, b"\0" * (64 << 20), compression=grpc.Compression.Gzip)
    assert refused.code() is Code.RESOURCE_EXHAUSTED
    assert await wire.call("get_system_info")


async def test_a_large_request_for_a_namespace_that_does_not_exist_is_not_parsed(wire: Wire) -> None:
    data = m.StartWorkflowExecutionRequest(namespace="nowhere").SerializeToString() + b"\xff" * 100_000
    refused = await wire.raw_refusal(RPCS["start_workflow_execution"].path, data)
    assert refused.code() is Code.NOT_FOUND
    failure = m.NamespaceNotFoundFailure()
    assert details_of(refused).details[0].Unpack(failure) and failure.namespace == "nowhere"


async def test_a_defect_is_logged_and_tells_nothing(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object) -> None:
        raise ValueError("the secret inside")

    monkeypatch.setattr("perdure.engine.service.EngineService.list_namespaces", broken)
    async with Server(engine, address="127.0.0.1:0") as server:
        wire = Wire(server.address)
        with caplog.at_level(logging.ERROR, "perdure.server"):
            refused = await wire.refusal("list_namespaces")
        await wire.channel.close()
    assert refused.code() is Code.INTERNAL and "secret" not in (refused.details() or "")
    assert "the secret inside" in caplog.text


async def test_a_poll_knows_when_its_caller_gives_up(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it is answered before; the engine's own tests see that it is."""
    patience: list[float | None] = []

    async def answered(_: object, request: object, *, timeout_s: float | None = None) -> object:
        patience.append(timeout_s)
        return m.PollWorkflowTaskQueueResponse()

    monkeypatch.setattr("perdure.engine.service.EngineService.poll_workflow_task_queue", answered)
    async with Server(engine, address="127.0.0.1:0") as server:
        wire = Wire(server.address)
        for timeout in (100, None):
            await wire.call("poll_workflow_task_queue", timeout=timeout)
        await wire.channel.close()
    assert patience[0] is not None and 0 < patience[0] < 110, "the wire rounds"
    assert patience[1] is None


async def test_a_poll_whose_caller_has_gone_takes_no_task(wire: Wire, engine: Engine) -> None:
    poll = m.PollWorkflowTaskQueueRequest(namespace="default")
    poll.task_queue.name = "queue"
    path = RPCS["poll_workflow_task_queue"].path
    gone = wire.channel.unary_unary(path)(poll.SerializeToString())
    while not engine.statistics().polls_waiting:
        await wire.call("get_system_info")
    gone.cancel()
    while engine.statistics().polls_waiting:
        await wire.call("get_system_info")
    await wire.call("start_workflow_execution", start())
    assert (await wire.call("poll_workflow_task_queue", poll)).task_token


# -- callers who must say who they are -----------------------------------------------------------------------------


@pytest.fixture
async def guarded(engine: Engine) -> AsyncIterator[tuple[Wire, Server, dict[str, str]]]:
    """A server with keys: a connection to it, itself, and the keys by name."""
    made = {
        "admin": make_key(SeededIds(1), role=Role.ADMIN, namespaces=["*"]),
        "worker": make_key(SeededIds(2), role=Role.WRITER, namespaces=["default"]),
        "reader": make_key(SeededIds(3), role=Role.READER, namespaces=["default", "other"]),
    }
    keys = ApiKeys(key for _, key in made.values())
    async with Server(engine, address="127.0.0.1:0", keys=keys, others=reflection_handlers()) as server:
        wire = Wire(server.address)
        yield wire, server, {name: text for name, (text, _) in made.items()}
        await wire.channel.close()


async def test_every_rpc_asks_for_a_key(guarded: tuple[Wire, Server, dict[str, str]]) -> None:
    wire, _, _ = guarded
    for method in RPCS:
        assert (await wire.refusal(method)).code() is Code.UNAUTHENTICATED, method


async def test_a_request_without_a_key_is_not_even_received(guarded: tuple[Wire, Server, dict[str, str]]) -> None:
    wire, _, _ = guarded
    refused = await wire.raw_refusal(RPCS["start_workflow_execution"].path, b"\xff" * MESSAGE_BYTES * 2)
    assert refused.code() is Code.UNAUTHENTICATED


async def test_streams_ask_for_a_key_and_probes_do_not(guarded: tuple[Wire, Server, dict[str, str]]) -> None:
    wire, _, keys = guarded
    path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    call = wire.channel.stream_stream(path)(iter([b""]))
    assert await call.code() is Code.UNAUTHENTICATED
    allowed = wire.channel.stream_stream(path)(
        iter([b"\x3a\x00"]), metadata=(("authorization", f"Bearer {keys['reader']}"),)
    )
    assert len([answer async for answer in allowed]) == 1
    assert await wire.raw("/grpc.health.v1.Health/Check", b"") == b"\x08\x01"


async def test_keys_open_what_they_are_for(guarded: tuple[Wire, Server, dict[str, str]]) -> None:
    wire, _, keys = guarded
    await wire.call("register_namespace", m.RegisterNamespaceRequest(namespace="other"), key=keys["admin"])
    refused = await wire.refusal("register_namespace", key=keys["worker"])
    assert refused.code() is Code.PERMISSION_DENIED
    assert details_of(refused).details[0].Unpack(m.PermissionDeniedFailure())
    assert (await wire.call("start_workflow_execution", start(), key=keys["worker"])).run_id
    assert (await wire.refusal("start_workflow_execution", start(), key=keys["reader"])).code() is (
        Code.PERMISSION_DENIED
    )
    describe = m.DescribeWorkflowExecutionRequest(namespace="default")
    describe.execution.workflow_id = "a"
    assert await wire.call("describe_workflow_execution", describe, key=keys["reader"])
    elsewhere = start()
    elsewhere.namespace = "other"
    assert (await wire.refusal("start_workflow_execution", elsewhere, key=keys["worker"])).code() is (
        Code.PERMISSION_DENIED
    )


async def test_keys_may_change_while_the_server_runs(guarded: tuple[Wire, Server, dict[str, str]]) -> None:
    wire, server, keys = guarded
    await wire.call("get_system_info", key=keys["worker"])
    text, key = make_key(SeededIds(9), role=Role.READER, namespaces=["*"])
    server.change_keys(ApiKeys([key]))
    assert (await wire.refusal("get_system_info", key=keys["worker"])).code() is Code.UNAUTHENTICATED
    assert await wire.call("get_system_info", key=text)


# -- statuses ------------------------------------------------------------------------------------------------------


def test_long_messages_and_details_fit_into_headers() -> None:
    error = RpcError(StatusCode.INVALID_ARGUMENT, "x" * 100_000, m.QueryFailedFailure())
    _, message, trailers = status_of(error)
    assert len(message) == MESSAGE_CHARACTERS and trailers
    large = m.QueryFailedFailure(failure=m.Failure(message="y" * DETAILS_BYTES))
    _, message, trailers = status_of(RpcError(StatusCode.INVALID_ARGUMENT, "x", large))
    assert (message, trailers) == ("x", ())


@pytest.mark.parametrize("message", ["", "é \N{SNOWMAN} \N{GRINNING FACE}", "line\nbreak\r\n", "100 % \x00"])
async def test_any_message_travels(message: str, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object) -> None:
        raise RpcError(StatusCode.ABORTED, message)

    monkeypatch.setattr("perdure.engine.service.EngineService.list_namespaces", refuse)
    async with Server(engine, address="127.0.0.1:0") as server:
        wire = Wire(server.address)
        refused = await wire.refusal("list_namespaces")
        await wire.channel.close()
    assert (refused.code(), refused.details()) == (Code.ABORTED, message)
