"""grpc.health.v1 and reflection, as their own clients see them."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse, HealthListResponse
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from perdure.api.rpcs import OPERATOR_SERVICE, WORKFLOW_SERVICE
from perdure.engine import Engine
from perdure.server import Server
from tests.unit.server.conftest import Wire

HEALTH = "/grpc.health.v1.Health"
SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


def asking(service: str) -> bytes:
    return HealthCheckRequest(service=service).SerializeToString()


@pytest.mark.parametrize("service", ["", WORKFLOW_SERVICE, OPERATOR_SERVICE, "grpc.health.v1.Health"])
async def test_what_is_served_is_healthy(service: str, wire: Wire) -> None:
    answer = await wire.raw(f"{HEALTH}/Check", asking(service))
    assert HealthCheckResponse.FromString(answer).status == SERVING


async def test_an_unknown_service_is_not_found(wire: Wire) -> None:
    assert (await wire.raw_refusal(f"{HEALTH}/Check", asking("other"))).code() is grpc.StatusCode.NOT_FOUND


async def test_all_are_listed(wire: Wire) -> None:
    listed = HealthListResponse.FromString(await wire.raw(f"{HEALTH}/List", b"")).statuses
    assert {each.status for each in listed.values()} == {SERVING} and WORKFLOW_SERVICE in listed


@pytest.mark.parametrize("method", ["Check", "List"])
async def test_malformed_questions_are_refused(method: str, wire: Wire) -> None:
    refused = await wire.raw_refusal(f"{HEALTH}/{method}", b"\xff")
    assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_malformed_watch_is_refused(wire: Wire) -> None:
    assert await wire.channel.unary_stream(f"{HEALTH}/Watch")(b"\xff").code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_who_watches_is_told_that_the_server_stops(engine: Engine) -> None:
    server = Server(engine, address="127.0.0.1:0")
    await server.start()
    wire = Wire(server.address)
    known = wire.channel.unary_stream(f"{HEALTH}/Watch")(asking(WORKFLOW_SERVICE))
    unknown = wire.channel.unary_stream(f"{HEALTH}/Watch")(asking("other"))
    assert HealthCheckResponse.FromString(await known.read()).status == SERVING
    assert HealthCheckResponse.FromString(await unknown.read()).status == HealthCheckResponse.SERVICE_UNKNOWN
    stopping = asyncio.ensure_future(server.stop())
    assert HealthCheckResponse.FromString(await known.read()).status == NOT_SERVING
    await stopping
    await wire.channel.close()


async def reflected(wire: Wire, version: str, *questions: ServerReflectionRequest) -> list[ServerReflectionResponse]:
    path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    call = wire.channel.stream_stream(path)(iter([each.SerializeToString() for each in questions]))
    return [ServerReflectionResponse.FromString(answer) async for answer in call]


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_tools_find_the_definitions(version: str, wire: Wire) -> None:
    listed, file = await reflected(
        wire,
        version,
        ServerReflectionRequest(list_services=""),
        ServerReflectionRequest(file_containing_symbol=WORKFLOW_SERVICE),
    )
    names = {service.name for service in listed.list_services_response.service}
    assert {WORKFLOW_SERVICE, OPERATOR_SERVICE, "grpc.health.v1.Health"} <= names
    found = [FileDescriptorProto.FromString(each) for each in file.file_descriptor_response.file_descriptor_proto]
    assert any(service.name == "WorkflowService" for each in found for service in each.service)
