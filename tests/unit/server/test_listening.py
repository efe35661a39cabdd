"""Where a server may listen, and its certificates."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import trustme

from perdure.engine import Engine
from perdure.server import Server
from perdure.server.listening import InsecureAddressError, Tls, TlsError, check_reachable, host_and_port
from tests.unit.server.conftest import Wire


@pytest.mark.parametrize("address", ["127.0.0.1:0", "127.8.9.1:7233", "localhost:1", "[::1]:7233", "unix:perdure.sock"])
def test_this_machine_may_call(address: str) -> None:
    check_reachable(address, authenticated=False)


@pytest.mark.parametrize("address", ["0.0.0.0:7233", "[::]:7233", "10.1.2.3:1", "example.com:443", "localhost.evil:1"])
def test_strangers_must_say_who_they_are(address: str) -> None:
    with pytest.raises(InsecureAddressError, match="--api-key-file"):
        check_reachable(address, authenticated=False)
    check_reachable(address, authenticated=True)


@pytest.mark.parametrize("address", ["", "localhost", ":7233", "localhost:", "localhost:x", "localhost:70000"])
def test_an_address_has_a_host_and_a_port(address: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        host_and_port(address)


async def test_a_server_refuses_strangers_by_default(engine: Engine) -> None:
    with pytest.raises(InsecureAddressError):
        await Server(engine, address="0.0.0.0:0").start()
    async with Server(engine, address="0.0.0.0:0", allow_unauthenticated=True) as server:
        assert server.port


async def test_tls_alone_does_not_tell_who_calls(engine: Engine, tmp_path: Path) -> None:
    certificate, key, _ = pems(tmp_path)
    with pytest.raises(InsecureAddressError):
        await Server(engine, address="0.0.0.0:0", tls=Tls.read(certificate, key)).start()


async def test_an_address_in_use_is_refused(engine: Engine, server: Server) -> None:
    with pytest.raises(OSError, match="in use"):
        await Server(engine, address=server.address).start()


async def test_an_address_in_use_by_another_program_is_refused(engine: Engine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        with pytest.raises(OSError, match="in use"):
            await Server(engine, address=f"127.0.0.1:{other.getsockname()[1]}").start()


async def test_a_unix_socket(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with Server(engine, address="unix:perdure.sock") as server:
        wire = Wire(server.address)
        assert (await wire.call("get_system_info")).server_version
        await wire.channel.close()


async def test_an_address_is_free_as_soon_as_the_server_has_stopped(engine: Engine, server: Server, wire: Wire) -> None:
    await wire.call("get_system_info")
    await server.stop()
    async with Server(engine, address=server.address) as again:
        assert again.address == server.address


async def test_a_server_starts_and_stops_twice(engine: Engine) -> None:
    server = Server(engine, address="127.0.0.1:0")
    await server.stop()
    await server.start()
    await server.start()
    await server.stop()
    await server.stop()


def pems(folder: Path) -> tuple[str, str, str]:
    """A certificate, its key and their authority, as files."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    return str(folder / "cert.pem"), str(folder / "key.pem"), str(folder / "ca.pem")


def test_certificates_are_read(tmp_path: Path) -> None:
    certificate, key, authority = pems(tmp_path)
    assert Tls.read(certificate, key).client_authority is None
    assert Tls.read(certificate, key, authority).client_authority == Path(authority).read_bytes()


def test_certificates_that_can_not_be_used_are_refused(tmp_path: Path) -> None:
    certificate, key, authority = pems(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    _, other_key, _ = pems(other)
    (tmp_path / "text").write_text("not PEM")
    for wrong in (
        (certificate, ""),
        ("", key),
        (certificate, other_key),
        (certificate, str(tmp_path / "missing")),
        (str(tmp_path / "text"), key),
        (certificate, key, str(tmp_path / "text")),
    ):
        with pytest.raises(TlsError):
            Tls.read(*wrong)
    assert Tls.read(certificate, key, authority)
