"""The way from one process to another: `WorkflowService` calls over a wire, in the API's own messages.

Two kinds of wire carry the same calls, made from the one table of RPCs (`perdure.api.rpcs`):

- gRPC, to a server: `GrpcChannel`. It is what Temporal servers speak, ours included; to ours, calls go as frames on one
  stream of gRPC (`exchange`).
- A Unix socket beside a database file, between processes that share it: `SocketChannel` and `SocketServer`, which
  exchange the frames of `frames`. A call costs them a few microseconds where one of gRPC takes two hundred.

`service_of` makes a `WorkflowService` of a channel. A channel makes each call once and answers with the response or
raises `RpcError`; repeating is its callers' business. This package depends on `perdure.api` alone.
"""

from perdure.transport.grpc_client import GrpcChannel
from perdure.transport.options import KeepAliveConfig, ServerOptions, TLSConfig
from perdure.transport.remote import Call, Channel, service_of
from perdure.transport.socket_client import LineLostError, SocketChannel
from perdure.transport.socket_server import SocketServer
from perdure.transport.sockets import socket_path

__all__ = [
    "Call",
    "Channel",
    "GrpcChannel",
    "KeepAliveConfig",
    "LineLostError",
    "ServerOptions",
    "SocketChannel",
    "SocketServer",
    "TLSConfig",
    "service_of",
    "socket_path",
]
