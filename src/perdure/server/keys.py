"""API keys: who may call, known only by a hash.

A key is ``perdure_ID_SECRET``. The file of keys holds a line for each: its id, the SHA-256 of the whole key, a role,
the namespaces it is for (``*`` for all), and a name for people. A key is drawn from 256 random bits, so a plain hash of
it can't be searched, and who reads the file learns no key. A caller sends it as ``authorization: Bearer KEY``.

Whether a key is right is found by comparing hashes in constant time; an unknown id is compared, too, with a hash that
nothing has, so that an answer's duration tells nothing of the file.
"""

from __future__ import annotations

import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256

from perdure.api import RpcError, StatusCode
from perdure.engine.ids import Ids

__all__ = ["ALL_NAMESPACES", "ApiKey", "ApiKeys", "KeyFileError", "Role", "make_key"]

MAX_KEYS = 10_000
ALL_NAMESPACES = "*"
_ID_BYTES = 6
_SECRET_BYTES = 32
_LINE = re.compile(
    r"(?P<id>[0-9a-f]+) sha256:(?P<digest>[0-9a-f]{64}) (?P<role>\w+) (?P<namespaces>\S+)(?: (?P<name>.*))?"
)
_KEY = re.compile(r"perdure_([0-9a-f]+)_[A-Za-z0-9_-]+")
_NOTHING = bytes(sha256().digest_size)
_ADVICE = "send an API key as 'authorization: Bearer perdure_…'; `perdure server api-key` makes one"


class KeyFileError(Exception):
    """The file of API keys can't be read. The message names the line."""


class Role(IntEnum):
    """What a key allows; each includes the ones before."""

    READER = 1
    """Look: describe, list, count, histories, queries."""
    WRITER = 2
    """Act: start, signal, cancel; and work: poll for tasks and answer them."""
    ADMIN = 3
    """Govern: namespaces and search attributes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """What is known of a key."""

    id: str
    digest: bytes
    """SHA-256 of the key."""
    role: Role
    namespaces: frozenset[str]
    name: str = ""

    @property
    def is_global(self) -> bool:
        """It is for all namespaces, and for what belongs to none."""
        return ALL_NAMESPACES in self.namespaces

    def line(self) -> str:
        """Its line in the file."""
        namespaces = ",".join(sorted(self.namespaces))
        return f"{self.id} sha256:{self.digest.hex()} {self.role.name.lower()} {namespaces} {self.name}".rstrip()


def make_key(ids: Ids, *, role: Role, namespaces: Iterable[str], name: str = "") -> tuple[str, ApiKey]:
    """A new key, and what is kept of it.

    Args:
        ids: source of chance.
        role: what it allows.
        namespaces: where; ``*`` for everywhere.
        name: for people.
    """
    key_id = ids.new_bytes(_ID_BYTES).hex()
    secret = urlsafe_b64encode(ids.new_bytes(_SECRET_BYTES)).decode().rstrip("=")
    key = f"perdure_{key_id}_{secret}"
    digest = sha256(key.encode()).digest()
    return key, ApiKey(id=key_id, digest=digest, role=role, namespaces=frozenset(namespaces), name=name)


class ApiKeys:
    """The keys of a server.

    Args:
        keys: those it accepts.
    """

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self._by_id = {key.id: key for key in keys}

    def __len__(self) -> int:
        return len(self._by_id)

    @classmethod
    def parse(cls, text: str, where: str) -> ApiKeys:
        """The keys of a file.

        Args:
            text: its content.
            where: its name, for errors.

        Raises:
            KeyFileError: a line is none of a key's, an id stands there twice, or there is no key at all.
        """
        keys: dict[str, ApiKey] = {}
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            key = _key_of(line, f"{where}, line {number}")
            if key.id in keys:
                raise KeyFileError(f"{where}, line {number}: the key {key.id} stands there twice")
            keys[key.id] = key
        if not keys:
            raise KeyFileError(f"{where} holds no key; add one with `perdure server api-key --file {where}`")
        if len(keys) > MAX_KEYS:
            raise KeyFileError(f"{where} holds more than {MAX_KEYS} keys")
        return cls(keys.values())

    def find(self, authorization: str) -> ApiKey:
        """The key that a header speaks of.

        Args:
            authorization: the header's value; empty when there is none.

        Raises:
            RpcError: UNAUTHENTICATED.
        """
        scheme, _, text = authorization.partition(" ")
        if scheme.lower() != "bearer" or not text:
            raise RpcError(StatusCode.UNAUTHENTICATED, f"the call has no API key; {_ADVICE}")
        form = _KEY.fullmatch(text)
        key = self._by_id.get(form[1]) if form is not None else None
        is_right = hmac.compare_digest(sha256(text.encode()).digest(), key.digest if key is not None else _NOTHING)
        if key is None or not is_right:
            raise RpcError(StatusCode.UNAUTHENTICATED, f"the API key is not one of this server's; {_ADVICE}")
        return key


def _key_of(line: str, where: str) -> ApiKey:
    found = _LINE.fullmatch(line.strip())
    if found is None or found["role"].upper() not in Role.__members__:
        raise KeyFileError(f"{where} is not 'ID sha256:HASH reader|writer|admin NAMESPACES NAME'")
    return ApiKey(
        id=found["id"],
        digest=bytes.fromhex(found["digest"]),
        role=Role[found["role"].upper()],
        namespaces=frozenset(found["namespaces"].split(",")),
        name=found["name"] or "",
    )
