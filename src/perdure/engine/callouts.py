"""Calls out of the server: completions to callback URLs, by HTTP as the Nexus specification says.

Where it may call is a list that is empty unless somebody fills it (`EngineConfig.callback_addresses`). A callback to
another address is refused when it is registered. Redirects are not followed, and private addresses are called only if
their entry in the list allows insecure callbacks. The body is the result, its encoding in the headers, or the failure;
the state of the operation is a header. What comes back counts by its status:

    2xx                               delivered
    400 401 403 404 409 501, and 3xx  refused for good
    all else, and no answer           tried again later
"""

from __future__ import annotations

import asyncio
import http.client
import ipaddress
import json
import re
import ssl
from base64 import b64encode
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Final, NamedTuple
from urllib.parse import SplitResult, urlsplit

from google.protobuf import json_format

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.engine.config import Address
from perdure.engine.history import Completion

__all__ = ["CallOut", "Verdict", "call_out_of", "check_url", "post"]

_TIMEOUT_S: Final = 10.0
_READ_BYTES: Final = 64 * 1024
"""Of an answer's body."""
_TOLD: Final = 500
"""Characters of an answer that are told."""
_REFUSALS: Final = frozenset((400, 401, 403, 404, 409, 501))
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class CallOut(NamedTuple):
    """One call."""

    url: str
    headers: dict[str, str]
    body: bytes
    allow_insecure: bool


class Verdict(NamedTuple):
    """What came of a call."""

    failure: str = ""
    """Empty: it was delivered."""
    again: bool = False
    """Another attempt may help."""


def _invalid(message: str) -> RpcError:
    return RpcError(StatusCode.INVALID_ARGUMENT, f"invalid callback url: {message}")


def check_url(url: str, addresses: tuple[Address, ...]) -> Address:
    """The entry of the list that allows a URL. Raises RpcError INVALID_ARGUMENT."""
    parts = _split(url)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise _invalid(f"it is temporal://system, or begins with http:// or https:// and a host, not {url!r}")
    matching = [address for address in addresses if _matches(parts, address.pattern)]
    if not matching:
        raise _invalid(
            f"url does not match any configured callback address: {url!r};"
            " the server is told which there are (component.callbacks.allowedAddresses)"
        )
    for address in sorted(matching, key=lambda each: not each.allow_insecure):
        if parts.scheme == "https" or address.allow_insecure:
            return address
    raise _invalid(f"callback address does not allow insecure connections: {url!r}")


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return None if any(ord(sign) <= 32 or ord(sign) > 126 for sign in url) else parts


def _matches(parts: SplitResult, pattern: str) -> bool:
    host = parts.hostname or ""
    place = f"{host}:{parts.port}" if parts.port is not None else host
    return fnmatchcase(host, pattern.lower()) or fnmatchcase(place, pattern.lower())


def call_out_of(
    callback: m.Callback.Nexus, completion: Completion, addresses: tuple[Address, ...], further: Mapping[str, str]
) -> CallOut:
    """The call that tells a completion.

    Args:
        callback: whom.
        completion: what.
        addresses: where calls may go.
        further: headers besides; the callback's own take their place.

    Raises:
        RpcError: INVALID_ARGUMENT, the list does not allow it any more.
    """
    allowed = check_url(callback.url, addresses)
    headers = {name.lower(): value for name, value in further.items()}
    headers |= {name.lower(): value for name, value in callback.header.items()}
    if completion.failure is None:
        headers["nexus-operation-state"] = "succeeded"
        body = _content(completion.result, headers)
    else:
        canceled = completion.failure.HasField("canceled_failure_info")
        headers["nexus-operation-state"] = "canceled" if canceled else "failed"
        headers["content-type"] = "application/json"
        body = _failure(completion.failure)
    sound = {name: value for name, value in headers.items() if _is_sound(name, value)}
    return CallOut(callback.url, sound, body, allowed.allow_insecure)


def _is_sound(name: str, value: str) -> bool:
    return bool(_HEADER_NAME.fullmatch(name)) and value.isprintable() and value.isascii()


def _content(payload: m.Payload | None, headers: dict[str, str]) -> bytes:
    """A payload as a body, and what the headers must say of it."""
    if payload is None:
        return b""
    metadata = {name: value.decode(errors="replace") for name, value in payload.metadata.items()}
    encoding = metadata.get("encoding", "")
    message_type = metadata.get("messageType", "")
    plain = set(metadata) <= {"encoding"}
    typed = set(metadata) == {"encoding", "messageType"}
    if encoding == "json/plain" and plain:
        headers["content-type"] = "application/json"
    elif encoding == "binary/plain" and plain:
        headers["content-type"] = "application/octet-stream"
    elif encoding == "json/protobuf" and typed:
        headers["content-type"] = f'application/json; format=protobuf; message-type="{message_type}"'
    elif encoding == "binary/protobuf" and typed:
        headers["content-type"] = f'application/x-protobuf; message-type="{message_type}"'
    elif encoding != "binary/null" or not plain:
        headers["content-type"] = "application/x-temporal-payload"
        return payload.SerializeToString()
    return payload.data


def _failure(failure: m.Failure) -> bytes:
    """A failure as Nexus writes it: its message, and the rest as details."""
    rest = m.Failure()
    rest.CopyFrom(failure)
    rest.message = ""
    written = {
        "message": failure.message,
        "metadata": {"type": m.Failure.DESCRIPTOR.full_name},
        "details": json.loads(json_format.MessageToJson(rest, indent=None)),
    }
    return json.dumps(written).encode()


async def post(call: CallOut) -> Verdict:
    """Make the call. Raises nothing."""
    return await asyncio.to_thread(_post, call)


def _post(call: CallOut) -> Verdict:
    parts = urlsplit(call.url)
    host = parts.hostname or ""
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context()
        connection = http.client.HTTPSConnection(host, parts.port, timeout=_TIMEOUT_S, context=context)
    else:
        connection = http.client.HTTPConnection(host, parts.port, timeout=_TIMEOUT_S)
    try:
        connection.connect()
        address = connection.sock.getpeername()[0]
        if not call.allow_insecure and not ipaddress.ip_address(address).is_global:
            return Verdict(f"{host} has the private address {address}")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = dict(call.headers)
        if parts.username is not None:
            credentials = f"{parts.username}:{parts.password or ''}"
            headers.setdefault("authorization", f"Basic {b64encode(credentials.encode()).decode()}")
        connection.request("POST", target, call.body, headers)
        response = connection.getresponse()
        told = response.read(_READ_BYTES).decode(errors="replace")[:_TOLD]
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Verdict(f"the call failed: {error!r}"[:_TOLD], again=True)
    finally:
        connection.close()
    if 200 <= response.status < 300:
        return Verdict()
    again = response.status not in _REFUSALS and not 300 <= response.status < 400
    return Verdict(f"the answer was {response.status} {response.reason}: {told}", again)
