"""Where a server listens, and who may reach it there.

Deny by default: an address that other machines can reach is refused unless callers must prove who they are, by an API
key or by a certificate (or the caller says that anyone may call).
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

__all__ = [
    "InsecureAddressError",
    "Tls",
    "TlsError",
    "can_share",
    "check_free",
    "check_reachable",
    "host_and_port",
]

_TAKEN = frozenset({errno.EADDRINUSE, errno.EACCES})


class InsecureAddressError(Exception):
    """Anyone who reaches the address could call. The message says what to do."""


class TlsError(Exception):
    """A certificate or key can't be used. The message names the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """A server's side of TLS, as PEM.

    Attributes:
        certificate: its certificate, with those between it and the authority.
        key: the certificate's private key.
        client_authority: whose certificates callers must show (mTLS); None to ask for none.
    """

    certificate: bytes
    key: bytes
    client_authority: bytes | None = None

    @classmethod
    def read(cls, certificate: str, key: str, client_authority: str = "") -> Tls:
        """From files.

        Raises:
            TlsError: one can't be read, they are no pair, or only one of the certificate and its key is named.
        """
        if not certificate or not key:
            raise TlsError("TLS needs both a certificate (--tls-cert) and its key (--tls-key)")
        _check(certificate, key, client_authority)
        return cls(
            certificate=Path(certificate).read_bytes(),
            key=Path(key).read_bytes(),
            client_authority=Path(client_authority).read_bytes() if client_authority else None,
        )

    def credentials(self) -> grpc.ServerCredentials:
        """As gRPC takes them."""
        return grpc.ssl_server_credentials(
            [(self.key, self.certificate)],
            root_certificates=self.client_authority,
            require_client_auth=self.client_authority is not None,
        )


def _check(certificate: str, key: str, client_authority: str) -> None:
    """Let Python's TLS say what is wrong: gRPC would only fail at the first handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        raise TlsError(f"the certificate {certificate} and its key {key} can't be used: {error}") from error
    if client_authority:
        try:
            context.load_verify_locations(client_authority)
        except OSError as error:
            raise TlsError(f"the authority {client_authority} can't be used: {error}") from error


def host_and_port(address: str) -> tuple[str, int]:
    """The parts of ``host:port``; brackets around an IPv6 host are taken off.

    Raises:
        ValueError: it has another form.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{address!r} is not HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


def check_reachable(address: str, *, authenticated: bool) -> None:
    """Refuse an address that is open to strangers.

    Args:
        address: ``host:port`` or ``unix:path``.
        authenticated: callers prove who they are.

    Raises:
        InsecureAddressError: others could call.
        ValueError: the address has another form.
    """
    if address.startswith("unix:") or authenticated:
        return
    host, _ = host_and_port(address)
    if host == "localhost":
        return
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise InsecureAddressError(
            f"{address} can be reached from other machines, and anyone who does could call: ask for API keys "
            "(--api-key-file) or client certificates (--tls-ca), or listen at 127.0.0.1"
        )


def can_share(address: str) -> bool:
    """Whether several listeners at this address get connections in turn."""
    return not address.startswith("unix:") and hasattr(socket, "SO_REUSEPORT")


def check_free(address: str) -> None:
    """Find out whether somebody listens there already.

    Args:
        address: ``host:port``; any free port is free.

    Raises:
        OSError: the address is in use, may not be used by this process, or is not known.
        ValueError: the address has another form.
    """
    host, port = host_and_port(address)
    if not port:
        return
    for family, kind, protocol, _, where in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        with socket.socket(family, kind, protocol) as probe:
            # Connections of a server that has just ended are no obstacle; a listener is.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(where)
            except OSError as error:
                if error.errno in _TAKEN:
                    raise OSError(f"can't listen at {address}: {error.strerror}") from error
