"""Where the socket of a database file is, and how to listen and connect there.

The socket stands beside the file as ``<database>-sock``, readable and writable by its user alone. It is made under
another name, listens, and is then renamed into its place: whoever finds it there finds it listening, unless its process
has died, and what a dead process left is replaced by the same rename. Only the holder of the database's lock may do
that, or take the socket away.

The kernel takes addresses of about a hundred bytes. For longer ones the directory is named through a short-lived
symbolic link.
"""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final
from weakref import WeakSet

__all__ = ["connect", "forget", "hang_up", "keep_from_children", "listen", "socket_path"]

_ADDRESS_BYTES: Final = 100
"""Longest address used as it is: Linux takes 107 bytes, others 103."""
_BACKLOG: Final = 512
_LINK: Final = "d"

_made: WeakSet[socket.socket] = WeakSet()
_accepted: set[Any] = set()
"""Sockets of this process that a forked child must not keep open: its parent's death would go unnoticed."""


def socket_path(database_path: str) -> str:
    """The path of a database's socket."""
    return database_path + "-sock"


def listen(path: str) -> socket.socket:
    """A listening socket at `path`, in place of one that a dead process left there.

    Raises:
        OSError: there can be none, e.g. because the file system knows no sockets.
    """
    directory, name = os.path.split(path)
    made = f".{os.getpid():x}-{os.urandom(4).hex()}"
    listening = _socket()
    try:
        with _short(directory, made) as address:
            listening.bind(address)
        try:
            os.chmod(os.path.join(directory, made), 0o600)
            listening.listen(_BACKLOG)
            os.rename(os.path.join(directory, made), os.path.join(directory, name))
        except BaseException:
            with suppress(OSError):
                os.unlink(os.path.join(directory, made))
            raise
    except BaseException:
        listening.close()
        raise
    return listening


def connect(path: str) -> socket.socket:
    """A socket connected to who listens at `path`.

    Raises:
        OSError: nobody does (FileNotFoundError, ConnectionRefusedError), or it is another user's (PermissionError).
    """
    directory, name = os.path.split(path)
    connected = _socket()
    try:
        with _short(directory, name) as address:
            connected.connect(address)
    except BaseException:
        connected.close()
        raise
    return connected


def forget(path: str) -> None:
    """Take the socket away. Harmless if it is not there."""
    with suppress(OSError):
        os.unlink(path)


def keep_from_children(transport: asyncio.BaseTransport) -> Callable[[], None]:
    """Let no forked child hold the connection of a transport open; call the answer when the connection has ended."""
    accepted = transport.get_extra_info("socket")
    _accepted.add(accepted)
    return partial(_accepted.discard, accepted)


def hang_up(transport: asyncio.Transport) -> None:
    """End the connection of a transport whose event loop has been closed; the other side learns of it at once."""
    connected = transport.get_extra_info("socket")
    if connected is not None:
        with suppress(OSError, TypeError):  # uvloop's socket has no shutdown: it has ended with its loop.
            connected.shutdown(socket.SHUT_RDWR)


def _socket() -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.setblocking(False)
    _made.add(made)
    return made


@contextmanager
def _short(directory: str, name: str) -> Generator[str]:
    """An address for a name in a directory, short enough while inside."""
    path = os.path.join(directory, name)
    if len(os.fsencode(path)) <= _ADDRESS_BYTES:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="perdure-", dir="/tmp" if os.path.isdir("/tmp") else None) as folder:
        link = os.path.join(folder, _LINK)
        if len(os.fsencode(os.path.join(link, name))) <= _ADDRESS_BYTES:
            os.symlink(directory, link)
            yield os.path.join(link, name)
        else:
            # The name alone is too long: a link to the socket itself does to connect, and nothing so named is bound.
            os.symlink(path, link)
            yield link


def _let_go_in_child() -> None:
    """The descriptors stay, and mean nothing: the objects that close them one day close no others of their number."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for inherited in (*_made, *_accepted):
        if inherited.fileno() >= 0:
            os.dup2(nothing, inherited.fileno(), inheritable=False)
    _accepted.clear()
    os.close(nothing)


os.register_at_fork(after_in_child=_let_go_in_child)
