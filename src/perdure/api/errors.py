"""The one error that crosses the seam.

Every method of the WorkflowService either returns its response or raises `RpcError`: a gRPC status code, a
message that says what to do, and optional detail messages (what travels in ``grpc-status-details-bin``).
The engine raises it, the client and worker catch it; neither half knows another exception of the other's.
"""

from __future__ import annotations

from enum import IntEnum

from google.protobuf.message import Message

__all__ = ["RpcError", "StatusCode"]


class StatusCode(IntEnum):
    """gRPC's status codes (https://grpc.io/docs/guides/status-codes/)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class RpcError(Exception):
    """A call across the seam failed.

    Attributes:
        code: the gRPC status code.
        message: what went wrong and what to do next.
        details: structured detail messages, e.g. ``WorkflowExecutionAlreadyStartedFailure``.
    """

    def __init__(self, code: StatusCode, message: str, *details: Message) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message
        self.details = details


class EngineStoppedError(RpcError):
    """The engine in this process has been stopped in good order. Repeating the call does not start it again."""

    def __init__(self) -> None:
        super().__init__(
            StatusCode.UNAVAILABLE, "the engine has stopped, as its app or client was closed; open it again"
        )
