"""An `RpcError` as gRPC says it: a code, a message, and a ``google.rpc.Status`` in ``grpc-status-details-bin``.

Clients find the structured details of a refusal in that trailer, each packed as an ``Any``. Trailers are headers, and
clients bound those (8 KiB in some, 16 KiB in others, counted after base64), so messages are shortened and details that
would not pass are left out: a refusal without details can be read, one that is too long can't.
"""

from __future__ import annotations

import grpc
from temporalio.api.common.v1 import GrpcStatus

from perdure.api import RpcError

__all__ = ["CODES", "DETAILS_KEY", "status_of"]

DETAILS_KEY = "grpc-status-details-bin"
MESSAGE_CHARACTERS = 2_000
DETAILS_BYTES = 8_000

CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
"""gRPC's own enum by number."""


def status_of(error: RpcError) -> tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]:
    """The code, the message and the trailing metadata of a refusal."""
    message = error.message
    if len(message) > MESSAGE_CHARACTERS:
        message = f"{message[: MESSAGE_CHARACTERS - 1]}…"
    trailers: tuple[tuple[str, bytes], ...] = ()
    if error.details:
        status = GrpcStatus(code=error.code, message=message)
        for detail in error.details:
            status.details.add().Pack(detail)
        packed = status.SerializeToString()
        if len(packed) <= DETAILS_BYTES:
            trailers = ((DETAILS_KEY, packed),)
    return CODES[error.code], message, trailers
