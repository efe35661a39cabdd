"""How to reach a server: what `Client.connect` is told besides the address."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

__all__ = ["KeepAliveConfig", "ServerOptions", "TLSConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TLSConfig:
    """An encrypted connection. All of it in PEM; what is None is the system's."""

    server_root_ca_cert: bytes | None = None
    """Certificates that may vouch for the server; those the system trusts when None."""
    domain: str | None = None
    """The name in the server's certificate, if it is not the one in the address."""
    client_cert: bytes | None = None
    """This client's certificate, where the server wants to know it."""
    client_private_key: bytes | None = None
    """The key to it."""

    def __post_init__(self) -> None:
        if (self.client_cert is None) != (self.client_private_key is None):
            raise ValueError("client_cert and client_private_key go together: give both or neither")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepAliveConfig:
    """When a connection on which nothing happens is tried."""

    interval: timedelta = timedelta(seconds=30)
    timeout: timedelta = timedelta(seconds=15)
    """How long its answer may take before the connection counts as broken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """How to reach a server."""

    tls: bool | TLSConfig | None = None
    """None = as the address says (``https://``), and with an API key."""
    api_key: str | None = None
    rpc_metadata: Mapping[str, str | bytes] = field(default_factory=dict[str, str | bytes])
    """Sent with every call."""
    keep_alive: KeepAliveConfig | None = KeepAliveConfig()
    """None = never tried."""
