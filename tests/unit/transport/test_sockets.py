"""Where the socket is: out of the way of long paths, of what dead processes left, and of other users."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import sys
import warnings
from pathlib import Path

import pytest

from perdure.transport import SocketChannel, SocketServer, sockets


def exchange(path: str) -> None:
    """Listen, connect, and pass a byte."""
    with sockets.listen(path) as listening, sockets.connect(path) as near:
        listening.setblocking(True)
        far, _ = listening.accept()
        with far:
            near.setblocking(True)
            near.sendall(b"x")
            assert far.recv(1) == b"x"


@pytest.mark.parametrize("depth", [0, 1, 4])
@pytest.mark.parametrize("name", ["a.db-sock", "n" * 120 + ".db-sock"])
def test_paths_of_any_length(tmp_path: Path, depth: int, name: str) -> None:
    folder = tmp_path.joinpath(*["d" * 60] * depth)
    folder.mkdir(parents=True, exist_ok=True)
    exchange(str(folder / name))
    assert [found.name for found in folder.iterdir()] == [name]


def test_it_is_its_users_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "a.db-sock")
    with sockets.listen(path):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_what_a_dead_process_left_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "a.db-sock")
    sockets.listen(path).close()
    with pytest.raises(ConnectionRefusedError):
        sockets.connect(path)
    exchange(path)
    sockets.forget(path)
    sockets.forget(path)
    with pytest.raises(FileNotFoundError):
        sockets.connect(path)


def test_where_there_can_be_no_socket(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        sockets.listen(str(tmp_path / "missing" / "a.db-sock"))
    assert not list(tmp_path.iterdir())


async def test_a_forked_child_keeps_nothing_open(tmp_path: Path) -> None:
    """Otherwise nobody would notice its parent's end."""
    path = str(tmp_path / "a.db-sock")
    server = SocketServer(path, object(), {})  # type: ignore[arg-type]
    await server.start()
    ours, theirs = await SocketChannel.connect(path), await SocketChannel.connect(path)
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The child does nothing that threads could disturb.
        child = os.fork()
    if child == 0:
        os.read(reading, 1)
        os._exit(0)
    try:
        for connection in tuple(server.connections):
            connection.close()
        async with asyncio.timeout(60):
            await asyncio.gather(ours.lost, theirs.lost)
        server.stop_listening()
        server = SocketServer(path, object(), {})  # type: ignore[arg-type]
        await server.start()
        await server.close()
    finally:
        os.write(writing, b".")
        await asyncio.to_thread(os.waitpid, child, 0)
        os.close(reading)
        os.close(writing)


@pytest.mark.skipif(sys.platform != "linux", reason="addresses are longer on Linux than elsewhere")
def test_the_bound_is_below_the_kernels(tmp_path: Path) -> None:
    """So a path that is used as it is can be used."""
    with socket.socket(socket.AF_UNIX) as probe, pytest.raises(OSError, match="too long"):
        probe.bind("/" + "x" * 108)
    assert sockets._ADDRESS_BYTES < 104
