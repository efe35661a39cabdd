"""gRPC reflection: tools such as grpcurl ask the server for the API's definitions.

The answers come from grpcio-reflection. Its messages are those of both versions of the protocol, so that tools which
know only the newer one are answered, too.
"""

from __future__ import annotations

from typing import Any

import grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2
from temporalio.api.operatorservice.v1 import service_pb2 as operator_service
from temporalio.api.workflowservice.v1 import service_pb2 as workflow_service

from perdure.server.handlers import Handler
from perdure.server.health import HEALTH_SERVICE

__all__ = ["reflection_handlers"]

REFLECTION_SERVICES = ("grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection")
SERVICES = (
    *(service.full_name for service in workflow_service.DESCRIPTOR.services_by_name.values()),
    *(service.full_name for service in operator_service.DESCRIPTOR.services_by_name.values()),
    HEALTH_SERVICE,
    *REFLECTION_SERVICES,
)


def reflection_handlers() -> dict[str, Handler]:
    """The methods of reflection, by path."""
    servicer: Any = reflection.aio.ReflectionServicer(SERVICES)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return {f"/{service}/ServerReflectionInfo": handler for service in REFLECTION_SERVICES}
