"""Handlers on bytes: from a serialized request to a serialized response, through a function of the service.

gRPC hands over the bytes of a request as they are, because a request that can't be parsed is the caller's mistake
(INVALID_ARGUMENT) and not an unknown error. Each is parsed once, and each response is serialized once. A long poll is
told how long its caller waits. A refusal becomes a gRPC status; any other exception is a defect: it is logged with its
traceback and answered with INTERNAL, which says nothing of its insides.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from perdure.api import RpcError, StatusCode
from perdure.api.rpcs import RPCS, Rpc
from perdure.engine.service import EngineService
from perdure.engine.service.table import is_served, refusal
from perdure.server.status import status_of

__all__ = ["MESSAGE_BYTES", "Handlers"]

logger = logging.getLogger(__name__)

MESSAGE_BYTES = 4 * 1024 * 1024
"""A request may have so many."""

Context = grpc.aio.ServicerContext[bytes, bytes]


class Handlers(grpc.GenericRpcHandler):
    """The handlers of every RPC in the table, by path.

    Args:
        service: what answers.
    """

    def __init__(self, service: EngineService) -> None:
        self._by_path: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {}
        for rpc in RPCS.values():
            call = _Call(rpc, getattr(service, rpc.method)) if is_served(rpc) else _Refusal(rpc)
            self._by_path[rpc.path] = grpc.unary_unary_rpc_method_handler(call.answer)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        """The handler of a call; None when no such method exists, which gRPC answers with UNIMPLEMENTED."""
        return self._by_path.get(handler_call_details.method)


class _Refusal:
    """A method that is not served."""

    def __init__(self, rpc: Rpc) -> None:
        self._error = refusal(rpc)

    async def answer(self, data: bytes, context: Context) -> bytes:
        return await _refuse(context, self._error)


class _Call:
    """A method that is served."""

    __slots__ = ("_function", "_parse", "_rpc", "_waits")

    def __init__(self, rpc: Rpc, function: Callable[..., Awaitable[Message]]) -> None:
        self._rpc = rpc
        self._function = function
        self._parse: Callable[[bytes], Any] = rpc.request.FromString
        self._waits = "timeout_s" in inspect.signature(function).parameters

    async def answer(self, data: bytes, context: Context) -> bytes:
        try:
            if len(data) > MESSAGE_BYTES:
                raise RpcError(
                    StatusCode.RESOURCE_EXHAUSTED,
                    f"grpc: received message larger than max ({len(data)} vs. {MESSAGE_BYTES})",
                )
            try:
                request = self._parse(data)
            except DecodeError as error:
                raise RpcError(
                    StatusCode.INVALID_ARGUMENT, f"the bytes are not a {self._rpc.request.DESCRIPTOR.name}: {error}"
                ) from error
            if self._waits:
                response = await self._function(request, timeout_s=context.time_remaining())
            else:
                response = await self._function(request)
        except RpcError as error:
            return await _refuse(context, error)
        except Exception:
            logger.exception("%s failed", self._rpc.name)
            return await _refuse(context, _defect(self._rpc))
        return response.SerializeToString()


async def _refuse(context: Context, error: RpcError) -> bytes:
    code, message, trailers = status_of(error)
    await context.abort(code, message, trailers)
    raise AssertionError("abort does not return")


def _defect(rpc: Rpc) -> RpcError:
    return RpcError(StatusCode.INTERNAL, f"{rpc.name} failed for a reason of the server's own; its log says which")
