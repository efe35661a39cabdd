"""Handlers on bytes: from a serialized request to a serialized response, through a function of the service.

gRPC hands over the bytes of a request as they are, because a request that can't be parsed is the caller's mistake
(INVALID_ARGUMENT) and not an unknown error. Each is parsed once, and each response is serialized once. A long poll is
told how long its caller waits. A refusal becomes a gRPC status; any other exception is a defect: it is logged with its
traceback and answered with INTERNAL, which says nothing of its insides.

With API keys a caller is recognised by his headers before his request is received, and each key has handlers of its
own, which check what the request speaks of against what the key is for. Without keys none of that costs anything.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from perdure.api import RpcError, StatusCode, WorkflowService
from perdure.api.rpcs import RPCS, Rpc
from perdure.engine.service.table import is_served, refusal
from perdure.server.access import authorise
from perdure.server.admission import Admission
from perdure.server.keys import ApiKey, ApiKeys
from perdure.server.status import status_of

__all__ = ["MESSAGE_BYTES", "Context", "Handler", "Handlers", "refuse"]

logger = logging.getLogger(__name__)

MESSAGE_BYTES = 4 * 1024 * 1024
"""A request may have so many."""
PEEKED_BYTES = 64 * 1024
"""A request larger than this is parsed only if the namespace at its head exists."""

Context = grpc.aio.ServicerContext[bytes, bytes]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class Handlers(grpc.GenericRpcHandler):
    """The handlers of every RPC in the table, and of `others`, by path.

    Args:
        service: what answers.
        others: handlers of further services, by path. With keys, any key may call them but those in `public`.
        public: paths that need no key.
        keys: who may call; None for anyone.
    """

    def __init__(
        self,
        service: WorkflowService,
        *,
        others: dict[str, Handler] | None = None,
        public: frozenset[str] = frozenset(),
        keys: ApiKeys | None = None,
    ) -> None:
        self.stopping = False
        """No call is taken any more."""
        self.taken = 0
        """Calls that have come so far."""
        self.in_flight = 0
        """Those that have not been answered yet."""
        self.admission = Admission()
        self.keys = keys
        self._service = service
        self._others = others or {}
        self._public = public
        self._by_path: dict[str, Handler] = {rpc.path: self._handler(rpc, None) for rpc in RPCS.values()} | self._others
        self._by_key: dict[ApiKey, dict[str, Handler]] = {}

    def _handler(self, rpc: Rpc, key: ApiKey | None) -> Handler:
        if not is_served(rpc):
            return grpc.unary_unary_rpc_method_handler(_Refusal(refusal(rpc)).answer)
        return grpc.unary_unary_rpc_method_handler(_Call(self, self._service, rpc, key).answer)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """The handler of a call; None when no such method exists, which gRPC answers with UNIMPLEMENTED."""
        path = handler_call_details.method
        if self.keys is None or path in self._public:
            return self._by_path.get(path)
        try:
            key = self.keys.find(_authorization(handler_call_details))
        except RpcError as error:
            # A handler for a stream: it answers before a request has been received.
            return grpc.stream_unary_rpc_method_handler(_Refusal(error).answer)
        if path in self._others:
            return self._others[path]
        of_key = self._by_key.get(key)
        if of_key is None:
            of_key = self._by_key[key] = {rpc.path: self._handler(rpc, key) for rpc in RPCS.values()}
        return of_key.get(path)

    def change_keys(self, keys: ApiKeys) -> None:
        """Accept these keys from now on."""
        assert self.keys is not None, "a server begins with keys or has none"
        self.keys = keys
        self._by_key.clear()


def _authorization(details: grpc.HandlerCallDetails) -> str:
    for name, value in details.invocation_metadata or ():
        if name == "authorization":
            return value if isinstance(value, str) else ""
    return ""


class _Refusal:
    """A call that is refused whatever it says."""

    def __init__(self, error: RpcError) -> None:
        self._error = error

    async def answer(self, _request: bytes | AsyncIterator[bytes], context: Context) -> bytes:
        return await refuse(context, self._error)


class _Call:
    """A method that is served, for one key or for everyone."""

    __slots__ = ("_check", "_function", "_handlers", "_has_namespace", "_key", "_parse", "_rpc", "_waits")

    def __init__(self, handlers: Handlers, service: WorkflowService, rpc: Rpc, key: ApiKey | None) -> None:
        self._handlers = handlers
        self._check: Callable[[str], None] | None = getattr(service, "check", None)
        self._rpc = rpc
        self._key = key
        self._function: Callable[..., Awaitable[Message]] = getattr(service, rpc.method)
        self._parse: Callable[[bytes], Any] = rpc.request.FromString
        self._waits = rpc.is_long_poll
        first = rpc.request.DESCRIPTOR.fields_by_number.get(1)
        self._has_namespace = first is not None and first.name == "namespace" and rpc.method != "register_namespace"

    async def answer(self, data: bytes, context: Context) -> bytes:
        handlers = self._handlers
        handlers.taken += 1
        handlers.in_flight += 1
        try:
            if handlers.stopping:
                raise RpcError(StatusCode.UNAVAILABLE, "the server is stopping; ask again")
            if not handlers.admission.enter_nowait():
                client = context.peer() if self._key is None else self._key.id
                await handlers.admission.wait(client, len(data))
            if len(data) > PEEKED_BYTES:
                self._check_large(data)
            try:
                request = self._parse(data)
            except DecodeError as error:
                raise RpcError(
                    StatusCode.INVALID_ARGUMENT, f"the bytes are not a {self._rpc.request.DESCRIPTOR.name}: {error}"
                ) from error
            if self._key is not None:
                authorise(self._key, self._rpc, request)
            if self._waits:
                response = await self._function(request, timeout_s=context.time_remaining())
            else:
                response = await self._function(request)
        except RpcError as error:
            return await refuse(context, error)
        except Exception:
            logger.exception("%s failed", self._rpc.name)
            return await refuse(context, _defect(self._rpc))
        finally:
            handlers.in_flight -= 1
        return response.SerializeToString()

    def _check_large(self, data: bytes) -> None:
        """What can be said against a large request without parsing it. Raises RpcError."""
        if len(data) > MESSAGE_BYTES:
            # SDKs know this text, and fail the task whose completion was too large.
            raise RpcError(
                StatusCode.RESOURCE_EXHAUSTED,
                f"grpc: received message larger than max ({len(data)} vs. {MESSAGE_BYTES})",
            )
        # Written in order of their numbers, the fields of a request begin with the namespace: tag, length, name.
        if self._check is not None and self._has_namespace and data[0] == 0x0A and data[1] < 0x80:
            self._check(data[2 : 2 + data[1]].decode(errors="replace"))


async def refuse(context: Context, error: RpcError) -> bytes:
    """End a call with an error."""
    code, message, trailers = status_of(error)
    await context.abort(code, message, trailers)
    raise AssertionError("abort does not return")


def _defect(rpc: Rpc) -> RpcError:
    return RpcError(StatusCode.INTERNAL, f"{rpc.name} failed for a reason of the server's own; its log says which")
