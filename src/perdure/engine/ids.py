"""Chance, injected: run ids, worker-visible nonces and the token key.

Nothing else in the engine draws random numbers. `RandomIds` takes them from the operating system; `SeededIds` makes
a repeatable sequence for simulations.
"""

from __future__ import annotations

import hashlib
import os
from typing import Protocol

__all__ = ["Ids", "RandomIds", "SeededIds"]

_POOL_BYTES = 4096


class Ids(Protocol):
    """Where ids come from."""

    def new_id(self) -> str:
        """A fresh id in the form of a random UUID."""
        ...

    def new_bytes(self, count: int) -> bytes:
        """Unpredictable bytes."""
        ...


def _uuid_text(raw: bytes) -> str:
    """Sixteen random bytes as a version 4 UUID."""
    digits = raw.hex()
    variant = "89ab"[raw[8] & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


class RandomIds:
    """Ids from the operating system's generator, drawn a pool at a time."""

    def __init__(self) -> None:
        self._pool = b""
        self._at = 0

    def new_id(self) -> str:
        return _uuid_text(self.new_bytes(16))

    def new_bytes(self, count: int) -> bytes:
        start = self._at
        end = start + count
        if end > len(self._pool):
            self._pool = os.urandom(max(_POOL_BYTES, count))
            start, end = 0, count
        self._at = end
        return self._pool[start:end]


class SeededIds:
    """A repeatable sequence, for tests and simulations.

    Args:
        seed: two instances with one seed give the same ids.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._count = 0

    def new_id(self) -> str:
        return _uuid_text(self.new_bytes(16))

    def new_bytes(self, count: int) -> bytes:
        self._count += 1
        return hashlib.shake_128(f"{self._seed}/{self._count}".encode()).digest(count)
