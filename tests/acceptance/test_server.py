"""`perdure server` as a process: its ready line, its flags, its signals, and whom it lets in."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path

import grpc.aio
import pytest
import trustme
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode, TLSConfig

from perdure.api import messages as m
from perdure.api.rpcs import RPCS
from tests.acceptance.conftest import Perdure

WAIT_S = 100
LOOPBACK = ("--address", "127.0.0.1:0")


class Serving:
    """A server's process."""

    def __init__(self, process: Process, ready_line: str) -> None:
        self.process = process
        self.ready_line = ready_line
        self.address = ready_line.rsplit(" ", 1)[-1]

    async def stop(self, *signals: int) -> tuple[int, str]:
        """Send signals; the exit status and the log."""
        for number in signals:
            self.process.send_signal(number)
        _, log = await asyncio.wait_for(self.process.communicate(), WAIT_S)
        assert self.process.returncode is not None
        return self.process.returncode, log.decode()


Serve = Callable[..., Coroutine[object, object, Serving]]


@pytest.fixture
async def serve(tmp_path: Path, environment: dict[str, str]) -> AsyncIterator[Serve]:
    """Starts ``perdure server ARGUMENTS…`` and waits for its ready line; killed after the test."""
    spawned: list[Process] = []

    async def start(*arguments: str) -> Serving:
        command = [sys.executable, "-m", "perdure.cli", "server", *arguments]
        process = await asyncio.create_subprocess_exec(
            *command, cwd=tmp_path, env=environment, stdout=PIPE, stderr=PIPE
        )
        spawned.append(process)
        assert process.stdout is not None and process.stderr is not None
        line = await asyncio.wait_for(process.stdout.readline(), WAIT_S)
        assert line, (await process.stderr.read()).decode()
        return Serving(process, line.decode().strip())

    yield start
    for process in spawned:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def test_it_says_when_it_is_ready(serve: Serve) -> None:
    serving = await serve("start", "--db", "orders.db", *LOOPBACK)
    assert serving.ready_line.startswith("perdure ") and " serves orders.db at 127.0.0.1:" in serving.ready_line
    assert await (await Client.connect(serving.address)).service_client.check_health()
    status, log = await serving.stop(signal.SIGTERM)
    assert status == 0 and "stopped" in log


async def test_it_keeps_what_it_was_told(serve: Serve) -> None:
    for _ in range(2):
        serving = await serve("start", "--db", "orders.db", "--namespace", "shop", "--namespace", "default", *LOOPBACK)
        client = await Client.connect(serving.address, namespace="shop")
        try:
            await client.start_workflow("fulfil", id="a", task_queue="queue")
        except Exception as error:
            assert "already" in str(error).lower()
        assert (await client.get_workflow_handle("a").describe()).workflow_type == "fulfil"
        assert (await serving.stop(signal.SIGINT))[0] == 0


async def test_the_flags_of_temporals_development_server_are_understood(serve: Serve, tmp_path: Path) -> None:
    serving = await serve(
        *("start-dev", "--port", "0", "--ip", "127.0.0.1", "--namespace", "shop", "--headless"),
        *("--log-format", "json", "--log-level", "info", "--db-filename", "dev.db"),
        *("--ui-port", "8233", "--ui-ip=127.0.0.1", "--metrics-port", "9090", "--sqlite-pragma", "journal_mode=wal"),
        *("--search-attribute", "Customer=Keyword", "--search-attribute", "Paid=Bool"),
        *("--dynamic-config-value", "limit.blobSize.error=1000"),
        *("--dynamic-config-value", "frontend.enableServerVersionCheck=false"),
    )
    client = await Client.connect(serving.address, namespace="shop")
    listed = await client.operator_service.list_search_attributes(m.ListSearchAttributesRequest(namespace="shop"))
    assert {"Customer", "Paid"} <= set(listed.custom_attributes)
    with pytest.raises(RPCError, match="1000|1,000"):
        await client.start_workflow("fulfil", "x" * 1001, id="a", task_queue="queue")
    status, log = await serving.stop(signal.SIGTERM)
    said = [json.loads(line) for line in log.splitlines()]
    assert status == 0 and (tmp_path / "dev.db").exists()
    assert {line.get("flag") for line in said} >= {"--ui-port", "--ui-ip", "--metrics-port", "--sqlite-pragma"}
    assert "frontend.enableServerVersionCheck" in {line.get("key") for line in said}


async def polled(serving: Serving) -> tuple[grpc.aio.Channel, asyncio.Future[bytes]]:
    """A long poll that waits at the server."""
    channel = grpc.aio.insecure_channel(serving.address)
    poll = m.PollWorkflowTaskQueueRequest(namespace="default")
    poll.task_queue.name = "queue"
    begun = channel.unary_unary(RPCS["poll_workflow_task_queue"].path)(poll.SerializeToString(), timeout=WAIT_S)
    waiting = asyncio.ensure_future(begun)
    describe = m.DescribeTaskQueueRequest(namespace="default", task_queue_type=m.TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW)
    describe.task_queue.name = "queue"
    rpc = RPCS["describe_task_queue"]
    while not rpc.response.FromString(await channel.unary_unary(rpc.path)(describe.SerializeToString())).pollers:
        pass
    return channel, waiting


async def test_a_signal_answers_long_polls_empty(serve: Serve) -> None:
    serving = await serve("start-dev", "--port", "0")
    channel, waiting = await polled(serving)
    status, _ = await serving.stop(signal.SIGTERM)
    assert status == 0 and await waiting == b""
    await channel.close()


def refused(perdure: Perdure, *arguments: str) -> str:
    done = perdure("server", *arguments)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr and not done.stdout
    return done.stderr


def test_strangers_are_not_let_in_by_default(perdure: Perdure) -> None:
    assert "--api-key-file" in refused(perdure, "start", "--address", "0.0.0.0:0")
    assert "--allow-unauthenticated" in refused(perdure, "start-dev", "--ip", "0.0.0.0", "--port", "0")
    assert "can be reached" in refused(perdure, "start-dev", "--ip", "::", "--port", "0")


def test_what_can_not_be_is_said_in_a_line(perdure: Perdure, tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database " * 100)
    assert "text.db" in refused(perdure, "start", "--db", "text.db", *LOOPBACK)
    assert "--frobnicate" in refused(perdure, "start-dev", "--frobnicate")
    assert "limit.blobSize.error" in refused(perdure, "start-dev", "--dynamic-config-value", "limit.blobSize.error=x")
    assert "NAME=TYPE" in refused(perdure, "start-dev", "--search-attribute", "Customer=String")
    assert "no such log" in refused(perdure, "start-dev", "--log-level", "loud")
    assert "HOST:PORT" in refused(perdure, "start", "--address", "7233")
    assert "--tls-key" in refused(perdure, "start", "--tls-cert", "cert.pem")
    assert "keys.txt" in refused(perdure, "start", "--api-key-file", "keys.txt")


async def test_an_address_in_use_is_said(serve: Serve, perdure: Perdure) -> None:
    serving = await serve("start-dev", "--port", "0")
    port = serving.address.rpartition(":")[2]
    said = await asyncio.to_thread(refused, perdure, "start-dev", "--port", port)
    assert f"127.0.0.1:{port}" in said


async def test_api_keys_are_made_used_and_revoked(serve: Serve, perdure: Perdure, tmp_path: Path) -> None:
    made = await asyncio.to_thread(perdure, "server", "api-key", "--file", "keys", "--name", "Ada")
    key = made.stdout.strip()
    kept = tmp_path / "keys"
    assert made.returncode == 0 and key not in kept.read_text() and kept.stat().st_mode & 0o077 == 0
    serving = await serve("start", "--address", "0.0.0.0:0", "--api-key-file", "keys")
    address = f"127.0.0.1:{serving.address.rpartition(':')[2]}"
    with pytest.raises(RuntimeError, match="[Uu]nauthenticated|API key"):
        await Client.connect(address)
    client = await Client.connect(address, api_key=key, tls=False)
    await client.start_workflow("fulfil", id="a", task_queue="queue")
    another = (await asyncio.to_thread(perdure, "server", "api-key", "--file", "keys")).stdout.strip()
    kept.write_text(kept.read_text().splitlines(keepends=True)[1])
    serving.process.send_signal(signal.SIGHUP)
    assert serving.process.stderr is not None
    while b"API keys read again" not in await serving.process.stderr.readline():
        pass
    with pytest.raises(RPCError) as gone:
        await client.get_workflow_handle("a").describe()
    assert gone.value.status is RPCStatusCode.UNAUTHENTICATED
    client = await Client.connect(address, api_key=another, tls=False)
    assert await client.get_workflow_handle("a").describe()


@pytest.fixture
def certificates(tmp_path: Path) -> trustme.CA:
    """An authority, and files of a server's certificate."""
    authority = trustme.CA()
    server = authority.issue_cert("localhost")
    server.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    server.private_key_pem.write_to_path(tmp_path / "key.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return authority


async def test_tls(serve: Serve, certificates: trustme.CA) -> None:
    serving = await serve("start-dev", "--port", "0", "--tls-cert", "cert.pem", "--tls-key", "key.pem")
    port = serving.address.rpartition(":")[2]
    tls = TLSConfig(server_root_ca_cert=certificates.cert_pem.bytes())
    client = await Client.connect(f"localhost:{port}", tls=tls)
    await client.start_workflow("fulfil", id="a", task_queue="queue")
    with pytest.raises(RuntimeError):
        await Client.connect(f"localhost:{port}", tls=TLSConfig(server_root_ca_cert=trustme.CA().cert_pem.bytes()))


async def test_certificates_of_callers(serve: Serve, certificates: trustme.CA) -> None:
    serving = await serve(
        *("start", "--address", "0.0.0.0:0", "--tls-cert", "cert.pem", "--tls-key", "key.pem", "--tls-ca", "ca.pem")
    )
    port = serving.address.rpartition(":")[2]
    mine = certificates.issue_cert("client@example.com")
    theirs = trustme.CA().issue_cert("stranger@example.com")

    def tls(certificate: trustme.LeafCert) -> TLSConfig:
        return TLSConfig(
            server_root_ca_cert=certificates.cert_pem.bytes(),
            client_cert=certificate.cert_chain_pems[0].bytes(),
            client_private_key=certificate.private_key_pem.bytes(),
        )

    client = await Client.connect(f"localhost:{port}", tls=tls(mine))
    await client.start_workflow("fulfil", id="a", task_queue="queue")
    with pytest.raises(RuntimeError):
        await Client.connect(f"localhost:{port}", tls=tls(theirs))
    with pytest.raises(RuntimeError):
        await Client.connect(f"localhost:{port}", tls=TLSConfig(server_root_ca_cert=certificates.cert_pem.bytes()))
