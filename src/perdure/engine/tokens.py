"""Tokens: what the engine hands out and later recognises.

A token is a fixed-layout body and a keyed BLAKE2b digest over the namespace and the body. It can therefore be
neither forged nor used in another namespace. The key lies in the store (meta ``token_key``), so tokens outlive a
restart. What a token speaks of may be gone; that is for the reader to find out.

Who still has the token he sealed may compare the two instead of computing the digest again: `same`, with `run_key_of`
and `scheduled_event_id_of` as unproven hints where to look.

    workflow task   run key, hand-out number (unique per hand-out, so a stale token never matches a later task)
    query task      run key, query number
    activity task   run key, scheduled event id, attempt (both durable, so it survives a restart)
    Nexus task      the same of an operation, and whether it asks to cancel it
    callback        run key and scheduled event id of an operation, and the id of the request that started it
    history page    run key, next event id, last event id of a task's history (0 = all), flags, hand-out number
    list page       place in the list's order, digest of the filter it belongs to
    names page      the last name shown
    jobs page       start and number of the last batch job shown
"""

from __future__ import annotations

import hmac
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import blake2b
from typing import NamedTuple

from msgspec import Struct, msgpack

from perdure.api import RpcError, StatusCode

__all__ = [
    "ActivityToken",
    "CallbackToken",
    "HistoryToken",
    "ListToken",
    "NexusToken",
    "TaskToken",
    "Tokens",
    "run_key_of",
    "same",
    "scheduled_event_id_of",
]

_MAC_BYTES = 16
_NAMESPACES_KEPT = 1024
_TASK = struct.Struct(">BQQ")
_ACTIVITY = struct.Struct(">BQQI")
_NEXUS = struct.Struct(">BQQIB")
_CALLBACK = struct.Struct(">BQQ")
_HISTORY = struct.Struct(">BQQQBQ")
_JOBS = struct.Struct(">BqQ")
_LIST = struct.Struct(">B8s")
_places = msgpack.Decoder(tuple[int | str | None, ...])
_RUN_KEY = struct.Struct(">xQ")
_EVENT_ID = struct.Struct(">9xQ")
_KIND_TASK, _KIND_QUERY, _KIND_ACTIVITY, _KIND_HISTORY, _KIND_REVERSE, _KIND_LIST, _KIND_NAMES, _KIND_JOBS = range(1, 9)
_KIND_NEXUS, _KIND_CALLBACK = 20, 21


same = hmac.compare_digest
"""Whether two tokens are equal, without telling by its duration how much of them is."""


def run_key_of(token: bytes) -> int:
    """The run key a token claims; 0 if it is too short to be one."""
    return _RUN_KEY.unpack_from(token)[0] if len(token) >= _RUN_KEY.size else 0


def scheduled_event_id_of(token: bytes) -> int:
    """The scheduled event id that the token of an activity claims; 0 if it is too short to be one."""
    return _EVENT_ID.unpack_from(token)[0] if len(token) >= _EVENT_ID.size else 0


class TaskToken(Struct, frozen=True, gc=False):
    """A workflow task or a direct query that was handed out."""

    is_query: bool
    run_key: int
    number: int
    """Of the hand-out, or of the query."""


class ActivityToken(Struct, frozen=True, gc=False):
    """An attempt of an activity."""

    run_key: int
    scheduled_event_id: int
    attempt: int


class NexusToken(NamedTuple):
    """An attempt of a request of a Nexus operation."""

    run_key: int
    scheduled_event_id: int
    attempt: int
    cancels: bool


class CallbackToken(NamedTuple):
    """The operation that waits for a completion."""

    run_key: int
    scheduled_event_id: int
    request_id: str


class HistoryToken(NamedTuple):
    """Where the next page of a history begins."""

    run_key: int
    event_id: int
    """The next event to show (reverse: the next, going down)."""
    last_event_id: int = 0
    """Of a workflow task's history: show nothing beyond; 0 = no bound."""
    waits: bool = False
    """The caller asked for new events."""
    handout: int = 0
    """Of the workflow task whose transient events end the history."""


class ListToken(NamedTuple):
    """Where the next page of a list begins."""

    place: tuple[int | str | None, ...]
    """Of the last row shown, in the list's order."""
    filter_digest: bytes


class Tokens:
    """Seals and opens tokens with one key."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._begun: dict[str, blake2b] = {}
        """Digests that have seen a namespace, to be copied."""

    def _mac(self, namespace: str, body: bytes) -> bytes:
        begun = self._begun.get(namespace)
        if begun is None:
            begun = self._begin(namespace)
        mac = begun.copy()
        mac.update(body)
        return mac.digest()

    def _begin(self, namespace: str) -> blake2b:
        if len(self._begun) >= _NAMESPACES_KEPT:
            self._begun.clear()
        name = namespace.encode()
        begun = blake2b(len(name).to_bytes(8, "big") + name, key=self._key, digest_size=_MAC_BYTES)
        self._begun[namespace] = begun
        return begun

    def _seal(self, namespace: str, body: bytes) -> bytes:
        return body + self._mac(namespace, body)

    def _open(self, namespace: str, token: bytes) -> bytes:
        body = token[:-_MAC_BYTES]
        if not body or not same(self._mac(namespace, body), token[-_MAC_BYTES:]):
            raise RpcError(
                StatusCode.INVALID_ARGUMENT,
                "the token was not issued by this service for this namespace; pass it back unchanged",
            )
        return body

    def workflow_task(self, namespace: str, run_key: int, handout: int) -> bytes:
        return self._seal(namespace, _TASK.pack(_KIND_TASK, run_key, handout))

    def query(self, namespace: str, run_key: int, number: int) -> bytes:
        return self._seal(namespace, _TASK.pack(_KIND_QUERY, run_key, number))

    def open_task(self, namespace: str, token: bytes) -> TaskToken:
        """Open the token of a workflow task or a query task. Raises RpcError INVALID_ARGUMENT."""
        body = self._open(namespace, token)
        if len(body) != _TASK.size or body[0] not in (_KIND_TASK, _KIND_QUERY):
            raise _wrong_kind("a workflow task")
        kind, run_key, number = _TASK.unpack(body)
        return TaskToken(kind == _KIND_QUERY, run_key, number)

    def activity(self, namespace: str, run_key: int, scheduled_event_id: int, attempt: int) -> bytes:
        return self._seal(namespace, _ACTIVITY.pack(_KIND_ACTIVITY, run_key, scheduled_event_id, attempt))

    def open_activity(self, namespace: str, token: bytes) -> ActivityToken:
        """Open the token of an activity task. Raises RpcError INVALID_ARGUMENT."""
        body = self._open(namespace, token)
        if len(body) != _ACTIVITY.size or body[0] != _KIND_ACTIVITY:
            raise _wrong_kind("an activity task")
        _, run_key, event_id, attempt = _ACTIVITY.unpack(body)
        return ActivityToken(run_key, event_id, attempt)

    def nexus(self, namespace: str, token: NexusToken) -> bytes:
        return self._seal(namespace, _NEXUS.pack(_KIND_NEXUS, *token))

    def open_nexus(self, namespace: str, token: bytes) -> NexusToken:
        """Open the token of a Nexus task. Raises RpcError INVALID_ARGUMENT."""
        body = self._open(namespace, token)
        if len(body) != _NEXUS.size or body[0] != _KIND_NEXUS:
            raise _wrong_kind("a Nexus task")
        _, run_key, event_id, attempt, cancels = _NEXUS.unpack(body)
        return NexusToken(run_key, event_id, attempt, bool(cancels))

    def callback(self, token: CallbackToken) -> str:
        """For a header: text."""
        body = _CALLBACK.pack(_KIND_CALLBACK, token.run_key, token.scheduled_event_id) + token.request_id.encode()
        return urlsafe_b64encode(self._seal("", body)).decode()

    def open_callback(self, text: str) -> CallbackToken:
        """Open the token of a callback. Raises RpcError INVALID_ARGUMENT."""
        try:
            token = urlsafe_b64decode(text.encode())
        except ValueError:
            raise _wrong_kind("a Nexus callback") from None
        body = self._open("", token)
        if len(body) < _CALLBACK.size or body[0] != _KIND_CALLBACK:
            raise _wrong_kind("a Nexus callback")
        _, run_key, event_id = _CALLBACK.unpack_from(body)
        return CallbackToken(run_key, event_id, body[_CALLBACK.size :].decode())

    def history(self, namespace: str, token: HistoryToken, *, reverse: bool = False) -> bytes:
        kind = _KIND_REVERSE if reverse else _KIND_HISTORY
        body = _HISTORY.pack(kind, token.run_key, token.event_id, token.last_event_id, token.waits, token.handout)
        return self._seal(namespace, body)

    def open_history(self, namespace: str, token: bytes, *, reverse: bool = False) -> HistoryToken:
        """Open the page token of a history. Raises RpcError INVALID_ARGUMENT."""
        body = self._open(namespace, token)
        if len(body) != _HISTORY.size or body[0] != (_KIND_REVERSE if reverse else _KIND_HISTORY):
            raise _wrong_kind("a history page")
        _, run_key, event_id, last_event_id, waits, handout = _HISTORY.unpack(body)
        return HistoryToken(run_key, event_id, last_event_id, bool(waits), handout)

    def list_page(self, namespace: str, token: ListToken) -> bytes:
        body = _LIST.pack(_KIND_LIST, token.filter_digest) + msgpack.encode(token.place)
        return self._seal(namespace, body)

    def open_list_page(self, namespace: str, token: bytes) -> ListToken:
        """Open the page token of a list. Raises RpcError INVALID_ARGUMENT."""
        body = self._open(namespace, token)
        if len(body) <= _LIST.size or body[0] != _KIND_LIST:
            raise _wrong_kind("a list page")
        _, digest = _LIST.unpack_from(body)
        return ListToken(_places.decode(body[_LIST.size :]), digest)

    def jobs_page(self, namespace: str, started_at_ms: int, number: int) -> bytes:
        return self._seal(namespace, _JOBS.pack(_KIND_JOBS, started_at_ms, number))

    def open_jobs_page(self, namespace: str, token: bytes) -> tuple[int, int]:
        """Open the page token of a list of batch jobs. Raises RpcError INVALID_ARGUMENT."""
        body = self._open(namespace, token)
        if len(body) != _JOBS.size or body[0] != _KIND_JOBS:
            raise _wrong_kind("a page of batch operations")
        _, started_at_ms, number = _JOBS.unpack(body)
        return started_at_ms, number

    def names_page(self, name: str) -> bytes:
        return self._seal("", bytes([_KIND_NAMES]) + name.encode())

    def open_names_page(self, token: bytes) -> str:
        """Open the page token of a list of namespaces. Raises RpcError INVALID_ARGUMENT."""
        body = self._open("", token)
        if body[0] != _KIND_NAMES:
            raise _wrong_kind("a page of namespaces")
        return body[1:].decode()


def _wrong_kind(wanted: str) -> RpcError:
    return RpcError(StatusCode.INVALID_ARGUMENT, f"the token is not that of {wanted}")
