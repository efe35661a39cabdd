"""Ports for servers that tests start, kill and start again at the same place.

A port that the system hands out (``127.0.0.1:0``) may be handed to any connection on the machine while nobody listens
there. Those below the system's range are left alone.
"""

from __future__ import annotations

import random
import socket

__all__ = ["free_port"]

_FIRST, _LAST = 15_000, 31_999
_TRIES = 100


def free_port() -> int:
    """A port of this machine where nobody listens, and that the system gives to nobody."""
    chance = random.SystemRandom()
    for _ in range(_TRIES):
        port = chance.randint(_FIRST, _LAST)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError(f"no port between {_FIRST} and {_LAST} is free")
