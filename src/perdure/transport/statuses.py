"""Refusals as bytes: an `RpcError` as a ``google.rpc.Status``, and back.

It is what travels in gRPC's ``grpc-status-details-bin``. Details are packed as Any; types that are not among the API's
error details stay packed, so that nothing is lost on the way.
"""

from __future__ import annotations

from functools import cache

from google.protobuf.any_pb2 import Any as PackedMessage
from google.protobuf.message import DecodeError, Message
from temporalio.api.common.v1 import GrpcStatus
from temporalio.api.errordetails.v1 import message_pb2

from perdure.api import RpcError, StatusCode

__all__ = ["code_of", "error_of_status", "status_of_error"]

_CODES = {code.value: code for code in StatusCode}


def status_of_error(error: RpcError) -> bytes:
    """A refusal's serialized status."""
    status = GrpcStatus(code=error.code, message=error.message)
    for detail in error.details:
        if isinstance(detail, PackedMessage):
            status.details.append(detail)
        else:
            status.details.add().Pack(detail)
    return status.SerializeToString()


def error_of_status(data: bytes) -> RpcError:
    """The refusal that a serialized status tells of; UNKNOWN when it cannot be read."""
    try:
        status = GrpcStatus.FromString(data)
    except DecodeError:
        return RpcError(StatusCode.UNKNOWN, "the refusal itself cannot be read")
    details = [_unpacked(detail) for detail in status.details]
    return RpcError(code_of(status.code), status.message, *details)


def code_of(number: int) -> StatusCode:
    """The status code of this number; UNKNOWN for numbers nobody has defined."""
    return _CODES.get(number, StatusCode.UNKNOWN)


@cache
def _kinds() -> dict[str, type[Message]]:
    """The API's error details by their full names."""
    kinds: dict[str, type[Message]] = {}
    for name, descriptor in message_pb2.DESCRIPTOR.message_types_by_name.items():
        kinds[descriptor.full_name] = getattr(message_pb2, name)
    return kinds


def _unpacked(detail: PackedMessage) -> Message:
    kind = _kinds().get(detail.TypeName())
    if kind is None:
        return detail
    try:
        return kind.FromString(detail.value)
    except DecodeError:
        return detail
