"""Handlers on bytes: from a serialized request to a serialized response, through a function of the service.

gRPC hands over the bytes of a request as they are, because a request that can't be parsed is the caller's mistake
(INVALID_ARGUMENT) and not an unknown error. Each is parsed once, and each response is serialized once. A long poll is
told how long its caller waits. A refusal becomes a gRPC status; any other exception is a defect: it is logged with its
traceback and answered with INTERNAL, which says nothing of its insides.

Perdure's own clients send the same calls as frames on a stream (`perdure.server.exchange`), where the same functions
answer them: `Answering.answered` knows nothing of what brought the bytes.

With API keys a caller is recognised by his headers before his request is received, and each key has handlers of its
own, which check what the request speaks of against what the key is for. Without keys none of that costs anything.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from perdure.api import RpcError, StatusCode, WorkflowService
from perdure.api.rpcs import RPCS, Rpc
from perdure.engine.service.table import is_served, refusal
from perdure.server.access import authorise
from perdure.server.admission import Admission
from perdure.server.exchange import Exchange
from perdure.server.keys import ApiKey, ApiKeys
from perdure.server.status import status_of
from perdure.transport.exchange import FRAMES_PATH

__all__ = ["MESSAGE_BYTES", "Answering", "Context", "Handler", "Handlers", "refuse"]

logger = logging.getLogger(__name__)

MESSAGE_BYTES = 4 * 1024 * 1024
"""A request may have so many."""
PEEKED_BYTES = 64 * 1024
"""A request larger than this is parsed only if the namespace at its head exists."""

Context = grpc.aio.ServicerContext[bytes, bytes]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class _Methods(NamedTuple):
    """What may be called: by name, and by path with what is no call of the API."""

    calls: Mapping[str, Answering]
    by_path: Mapping[str, Handler]


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
        self.exchanges: set[Exchange] = set()
        """Streams of frames that are open."""
        self.keys = keys
        self._service = service
        self._others = others or {}
        self._public = public
        self._of_all = self._methods(None)
        self._of_key: dict[ApiKey, _Methods] = {}

    def _methods(self, key: ApiKey | None) -> _Methods:
        """What may be called, with a key or without."""
        calls: dict[str, Answering] = {}
        for rpc in RPCS.values():
            calls[rpc.name] = _Call(self, self._service, rpc, key) if is_served(rpc) else _Refusal(refusal(rpc))
        by_path: dict[str, Handler] = {
            rpc.path: grpc.unary_unary_rpc_method_handler(calls[rpc.name].answer) for rpc in RPCS.values()
        }
        return _Methods(calls, by_path | self._others)

    def begin(self) -> None:
        """A call has come; `in_flight` is one less when it has been answered."""
        self.taken += 1
        self.in_flight += 1

    def calls_of(self, authorization: str) -> tuple[str, Mapping[str, Answering]]:
        """A caller's id, empty if he has none, and what he may call, by the names of the RPCs.

        Raises:
            RpcError: UNAUTHENTICATED.
        """
        if self.keys is None:
            return "", self._of_all.calls
        key = self.keys.find(authorization)
        return key.id, self._methods_of(key).calls

    def _methods_of(self, key: ApiKey) -> _Methods:
        methods = self._of_key.get(key)
        if methods is None:
            methods = self._of_key[key] = self._methods(key)
        return methods

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """The handler of a call; None when no such method exists, which gRPC answers with UNIMPLEMENTED."""
        path = handler_call_details.method
        methods = self._of_all
        if self.keys is not None and path not in self._public:
            try:
                methods = self._methods_of(self.keys.find(_authorization(handler_call_details)))
            except RpcError as error:
                # A handler for a stream: it answers before a request has been received.
                return grpc.stream_unary_rpc_method_handler(_Refusal(error).answer)
        if path == FRAMES_PATH:
            return grpc.stream_stream_rpc_method_handler(Exchange(self, _authorization(handler_call_details)).answer)
        return methods.by_path.get(path)

    async def end_exchanges(self) -> None:
        """Let the streams of frames end, with what has been answered."""
        await asyncio.gather(*(exchange.end() for exchange in tuple(self.exchanges)))

    def change_keys(self, keys: ApiKeys) -> None:
        """Accept these keys from now on."""
        assert self.keys is not None, "a server begins with keys or has none"
        self.keys = keys
        self._of_key.clear()


def _authorization(details: grpc.HandlerCallDetails) -> str:
    for name, value in details.invocation_metadata or ():
        if name == "authorization":
            return value if isinstance(value, str) else ""
    return ""


class Answering(Protocol):
    """What answers the calls of one method."""

    async def answer(self, data: bytes, context: Context) -> bytes:
        """Answer a call that gRPC brought."""
        ...

    async def answered(self, data: bytes, timeout_s: float | None) -> bytes:
        """The response to a call that has been let in, however it came.

        Args:
            data: its request.
            timeout_s: how long its caller waits; None = as long as it takes.

        Raises:
            RpcError: the refusal.
        """
        ...


class _Refusal:
    """A call that is refused whatever it says."""

    def __init__(self, error: RpcError) -> None:
        self._error = error

    async def answer(self, data: bytes | AsyncIterator[bytes], context: Context) -> bytes:
        return await refuse(context, self._error)

    async def answered(self, data: bytes, timeout_s: float | None) -> bytes:
        raise self._error.with_traceback(None)


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
        handlers.begin()
        try:
            if not handlers.admission.enter_nowait():
                client = context.peer() if self._key is None else self._key.id
                await handlers.admission.wait(client, len(data))
            return await self.answered(data, context.time_remaining() if self._waits else None)
        except RpcError as error:
            return await refuse(context, error)
        finally:
            handlers.in_flight -= 1

    async def answered(self, data: bytes, timeout_s: float | None) -> bytes:
        if self._handlers.stopping:
            raise RpcError(StatusCode.UNAVAILABLE, "the server is stopping; ask again")
        if len(data) > PEEKED_BYTES:
            self._check_large(data)
        try:
            request = self._parse(data)
        except DecodeError as error:
            name = self._rpc.request.DESCRIPTOR.name
            raise RpcError(StatusCode.INVALID_ARGUMENT, f"the bytes are not a {name}: {error}") from error
        if self._key is not None:
            authorise(self._key, self._rpc, request)
        try:
            if self._waits:
                response = await self._function(request, timeout_s=timeout_s)
            else:
                response = await self._function(request)
        except RpcError:
            raise
        except Exception as error:
            logger.exception("%s failed", self._rpc.name)
            raise _defect(self._rpc) from error
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
