"""grpc.health.v1: whether the server serves, asked once or watched.

The names it knows are the API's services, and the empty one for the server as a whole. Asked for another, `Check`
answers NOT_FOUND and `Watch` answers SERVICE_UNKNOWN and goes on waiting, as the protocol has it. Once the server
begins to stop, everything is NOT_SERVING, and those who watch are told.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse

from perdure.api import RpcError, StatusCode
from perdure.api.rpcs import OPERATOR_SERVICE, WORKFLOW_SERVICE
from perdure.server.handlers import Context, Handler, refuse

__all__ = ["HEALTH_SERVICE", "Health"]

HEALTH_SERVICE = "grpc.health.v1.Health"
SERVICES = ("", WORKFLOW_SERVICE, OPERATOR_SERVICE, HEALTH_SERVICE)


class Health:
    """The health of a server."""

    def __init__(self) -> None:
        self._serving = True
        self._stopping = asyncio.Event()

    def handlers(self) -> dict[str, Handler]:
        """Its methods, by path."""
        return {
            f"/{HEALTH_SERVICE}/Check": grpc.unary_unary_rpc_method_handler(self._check),
            f"/{HEALTH_SERVICE}/List": grpc.unary_unary_rpc_method_handler(self._list),
            f"/{HEALTH_SERVICE}/Watch": grpc.unary_stream_rpc_method_handler(self._watch),
        }

    def stop(self) -> None:
        """The server begins to stop."""
        self._serving = False
        self._stopping.set()

    def _status(self) -> HealthCheckResponse.ServingStatus:
        return HealthCheckResponse.SERVING if self._serving else HealthCheckResponse.NOT_SERVING

    async def _check(self, data: bytes, context: Context) -> bytes:
        try:
            service = _asked(data)
            if service not in SERVICES:
                raise RpcError(StatusCode.NOT_FOUND, f"this server has no service {service!r}")
        except RpcError as error:
            return await refuse(context, error)
        return HealthCheckResponse(status=self._status()).SerializeToString()

    async def _list(self, data: bytes, context: Context) -> bytes:
        try:
            HealthListRequest.FromString(data)
        except DecodeError:
            return await refuse(context, RpcError(StatusCode.INVALID_ARGUMENT, "the bytes are not a HealthListRequest"))
        statuses = {service: HealthCheckResponse(status=self._status()) for service in SERVICES}
        return HealthListResponse(statuses=statuses).SerializeToString()

    async def _watch(self, data: bytes, context: Context) -> AsyncIterator[bytes]:
        try:
            service = _asked(data)
        except RpcError as error:
            await refuse(context, error)
            return
        known = service in SERVICES
        status = self._status() if known else HealthCheckResponse.SERVICE_UNKNOWN
        yield HealthCheckResponse(status=status).SerializeToString()
        await self._stopping.wait()
        if known and status != self._status():
            yield HealthCheckResponse(status=self._status()).SerializeToString()


def _asked(data: bytes) -> str:
    try:
        return HealthCheckRequest.FromString(data).service
    except DecodeError as error:
        raise RpcError(StatusCode.INVALID_ARGUMENT, "the bytes are not a HealthCheckRequest") from error
