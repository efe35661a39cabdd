"""The client's end of a gRPC connection: calls of the API to a server, ours or a Temporal one.

A call is made once: what to repeat, and how often, its caller knows (`perdure.client.calls`,
`perdure.worker.service_calls`). gRPC itself connects again, with growing waits of a second at most, when a connection
has ended.

A server of ours offers a stream of frames besides, which is where calls go while it is open: see
`perdure.transport.exchange`.

Calls carry what Temporal's clients send: who is calling, the API key, the namespace they are about. A refusal becomes
an `RpcError` with the details of ``grpc-status-details-bin``. A poll whose deadline has passed has found nothing, and
answers so.
"""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from typing import Any, Final, cast

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from perdure.api import EngineStoppedError, RpcError, StatusCode
from perdure.api.rpcs import Rpc
from perdure.transport.exchange import FRAMED_BYTES, Exchange
from perdure.transport.options import ServerOptions, TLSConfig
from perdure.transport.remote import Call
from perdure.transport.statuses import code_of, error_of_status

__all__ = ["GrpcChannel"]

POLL_S: Final = 70.0
CALL_S: Final = 30.0
MAX_RECEIVED_BYTES: Final = 128 * 1024 * 1024
_DETAILS_KEY: Final = "grpc-status-details-bin"
_EMPTY_AT_DEADLINE: Final = frozenset({"poll_workflow_task_queue", "poll_activity_task_queue", "poll_nexus_task_queue"})
"""Polls for which an empty answer means that there was nothing."""
_UNREACHED: Final = ("failed to connect", "connections to all backends", "DNS resolution", "Socket", "Connection")
"""How gRPC's own messages begin when there is no server; a server's refusal is passed on as it is."""
_NAMESPACES_KEPT: Final = 1000


class ChannelClosedError(EngineStoppedError):
    """The client has been closed. Repeating the call does not open it again."""

    def __init__(self, address: str) -> None:
        RpcError.__init__(self, StatusCode.UNAVAILABLE, f"the client of {address} has been closed; connect again")


class GrpcChannel:
    """A connection to a server; made when the first call needs it, and again when it has ended.

    Args:
        address: ``host:port``.
        options: TLS, keys and the like.
        secure: what the address's scheme says about TLS; None when it has none.
        frames: whether to use the stream of frames of servers that have one.
    """

    def __init__(
        self, address: str, options: ServerOptions, *, secure: bool | None = None, frames: bool = True
    ) -> None:
        self.address = address
        self._closed = False
        self._metadata: dict[str, tuple[tuple[str, str | bytes], ...]] = {}
        self._common = [("client-name", "perdure"), ("client-version", version("perdure"))]
        if options.api_key is not None:
            self._common.append(("authorization", f"Bearer {options.api_key}"))
        self._common += [(key.lower(), value) for key, value in options.rpc_metadata.items()]
        tls = _tls(options, secure)
        settings = _settings(options, tls)
        if tls is None:
            self._channel = grpc.aio.insecure_channel(address, options=settings)
        else:
            credentials = grpc.ssl_channel_credentials(tls.server_root_ca_cert, tls.client_private_key, tls.client_cert)
            self._channel = grpc.aio.secure_channel(address, credentials, options=settings)
        self.exchange = Exchange(self._channel, self._common, self._lost_error) if frames else None

    async def close(self) -> None:
        """End the connection; calls in flight end with UNAVAILABLE. Harmless to repeat."""
        self._closed = True
        if self.exchange is not None:
            await self.exchange.close()
        await self._channel.close()

    def bind(self, rpc: Rpc) -> Call:
        """The call of one RPC; see `perdure.transport.remote.Channel`."""
        # Bytes both ways: a message that cannot be read is refused here, where the error has a name.
        send = cast(Any, self._channel.unary_unary(rpc.path))
        named = "namespace" in rpc.request.DESCRIPTOR.fields_by_name
        has_wait = "wait_new_event" in rpc.request.DESCRIPTOR.fields_by_name

        name = rpc.name.encode()
        exchange = self.exchange

        async def call(request: Any, timeout_s: float = CALL_S) -> Message:
            data: bytes = request.SerializeToString()
            if exchange is not None and len(data) <= FRAMED_BYTES and not self._closed:
                if exchange.calls is not None:
                    answer = await exchange.calls.call(name, data, timeout_s, timeout_s)
                    return self._parsed(rpc, answer)
                exchange.open_nowait()
            metadata = self._metadata_of(request.namespace if named else "")
            try:
                answer = await send(data, timeout=timeout_s, metadata=metadata)
            except grpc.aio.AioRpcError as error:
                raise self._refusal(error) from None
            except grpc.aio.UsageError as error:
                raise self._closed_error() from error
            except asyncio.CancelledError:
                me = asyncio.current_task()
                if self._closed and me is not None and not me.cancelling():
                    raise self._closed_error() from None
                raise
            return self._parsed(rpc, answer)

        async def poll(request: Any, *, timeout_s: float | None = None) -> Message:
            if timeout_s is None:
                timeout_s = CALL_S if has_wait and not request.wait_new_event else POLL_S
            try:
                return await call(request, timeout_s)
            except RpcError as error:
                if error.code is StatusCode.DEADLINE_EXCEEDED and rpc.method in _EMPTY_AT_DEADLINE:
                    return rpc.response()
                raise

        return poll if rpc.is_long_poll else call

    def _parsed(self, rpc: Rpc, data: bytes) -> Message:
        try:
            return rpc.response.FromString(data)
        except DecodeError as error:
            name = rpc.response.DESCRIPTOR.name
            raise RpcError(StatusCode.INTERNAL, f"{self.address} answered with what is no {name}") from error

    def _metadata_of(self, namespace: str) -> tuple[tuple[str, str | bytes], ...]:
        found = self._metadata.get(namespace)
        if found is None:
            if len(self._metadata) >= _NAMESPACES_KEPT:
                self._metadata.clear()
            about = [("temporal-namespace", namespace)] if namespace.isascii() and namespace else []
            found = self._metadata[namespace] = tuple(self._common + about)
        return found

    def _refusal(self, error: grpc.aio.AioRpcError) -> RpcError:
        for key, value in error.trailing_metadata() or ():
            if key == _DETAILS_KEY and isinstance(value, bytes):
                return error_of_status(value)
        code = code_of(cast("int", error.code().value[0]))
        message = error.details() or ""
        if code is StatusCode.UNAVAILABLE and message.startswith(_UNREACHED):
            message = f"the server at {self.address} cannot be reached: {message}"
        elif code is StatusCode.CANCELLED:
            # Nobody here has cancelled it, so the server is going away.
            return RpcError(StatusCode.UNAVAILABLE, f"the server at {self.address} ended the call; it may be stopping")
        return RpcError(code, message)

    def _lost_error(self) -> RpcError:
        if self._closed:
            return self._closed_error()
        message = f"the connection to the server at {self.address} ended with the call in flight; call again"
        return RpcError(StatusCode.UNAVAILABLE, message)

    def _closed_error(self) -> RpcError:
        return ChannelClosedError(self.address)


def _tls(options: ServerOptions, secure: bool | None) -> TLSConfig | None:
    """How to encrypt; None = not at all.

    Raises:
        ValueError: the address says one thing and the options another.
    """
    tls = options.tls
    if tls is None:
        tls = secure if secure is not None else options.api_key is not None
    elif secure is not None and bool(tls) != secure:
        raise ValueError(f"the address begins with {'https' if secure else 'http'}://, and tls= says otherwise")
    if isinstance(tls, TLSConfig):
        return tls
    return TLSConfig() if tls else None


def _settings(options: ServerOptions, tls: TLSConfig | None) -> list[tuple[str, str | int]]:
    """gRPC's own options."""
    settings: list[tuple[str, str | int]] = [
        ("grpc.primary_user_agent", f"perdure/{version('perdure')}"),
        ("grpc.max_receive_message_length", MAX_RECEIVED_BYTES),
        ("grpc.max_send_message_length", -1),
        ("grpc.enable_retries", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        # The least an attempt may take, in spite of its name.
        ("grpc.min_reconnect_backoff_ms", 5_000),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        # Clients of one address are strangers to each other: each has a connection, and waits, of its own.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    keep_alive = options.keep_alive
    if keep_alive is not None:
        settings += [
            ("grpc.keepalive_time_ms", round(keep_alive.interval.total_seconds() * 1000)),
            ("grpc.keepalive_timeout_ms", round(keep_alive.timeout.total_seconds() * 1000)),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
        ]
    if tls is not None and tls.domain is not None:
        settings.append(("grpc.ssl_target_name_override", tls.domain))
    return settings
