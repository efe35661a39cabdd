"""Parts of processes in one file, here all in one process: who owns it, who joins, who takes over."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from perdure import local, sharing
from perdure.api import EngineStoppedError, RpcError, StatusCode
from perdure.api import messages as m
from perdure.client import Client
from perdure.engine import Engine
from perdure.engine.store.port import StoreLockedError
from perdure.engine.store.sqlite import SqliteStore
from perdure.exceptions import DatabaseLockedError
from perdure.server import Server
from perdure.sharing import SharedDatabase, State
from perdure.transport import GrpcChannel, LineLostError, ServerOptions, SocketServer, service_of, sockets


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Any]:
    """Makes parts in one file, opened."""
    made: list[SharedDatabase] = []

    async def make() -> SharedDatabase:
        part = SharedDatabase(str(tmp_path / "a.db"))
        made.append(part)
        await part.open()
        return part

    yield make
    for part in made:
        await part.close()


async def start(part: SharedDatabase, workflow_id: str, request_id: str = "") -> str:
    request = m.StartWorkflowExecutionRequest(namespace="default", workflow_id=workflow_id, request_id=request_id)
    request.workflow_type.name = "flow"
    request.task_queue.name = "queue"
    return (await part.service.start_workflow_execution(request)).run_id


async def count(part: SharedDatabase) -> int:
    response = await part.service.count_workflow_executions(m.CountWorkflowExecutionsRequest(namespace="default"))
    return response.count


def poll(part: SharedDatabase) -> asyncio.Future[m.PollWorkflowTaskQueueResponse]:
    request = m.PollWorkflowTaskQueueRequest(namespace="default", identity="worker")
    request.task_queue.name = "queue"
    return asyncio.ensure_future(part.service.poll_workflow_task_queue(request))


def crash(part: SharedDatabase) -> None:
    """What ``kill -9`` leaves of an owner: a free lock, ended connections, a stale socket, and no last words."""
    assert part._server is not None and part._store is not None
    server, part._server = part._server, None
    part._store._lock.release()
    assert server._server is not None
    server._server.close()
    for connection in tuple(server.connections):
        connection._transport.abort()  # type: ignore[union-attr]


async def test_one_owns_and_the_others_join(parts: Any) -> None:
    owner, one, two = await parts(), await parts(), await parts()
    assert [part.state for part in (owner, one, two)] == [State.OWNER, State.MEMBER, State.MEMBER]
    assert await start(owner, "a", "r") == await start(one, "a", "r")
    await start(two, "b")
    assert [await count(part) for part in (owner, one, two)] == [2, 2, 2]
    assert one.engine is None and owner.engine is not None


@pytest.mark.parametrize("how", ["closes", "crashes"])
async def test_another_takes_over(parts: Any, how: str) -> None:
    owner, one, two = await parts(), await parts(), await parts()
    await start(one, "before")
    assert (await poll(two)).task_token
    waiting = {poll(one), poll(two)}
    for _ in range(20):
        await asyncio.sleep(0)
    if how == "closes":
        await owner.close()
    else:
        crash(owner)
    run_id = await start(two, "after", "r")
    assert await start(one, "after", "r") == run_id
    assert await count(one) == await count(two) == 2
    assert {one.state, two.state} == {State.OWNER, State.MEMBER}
    polled: set[str] = set()
    while polled != {"before", "after"}:
        # The owner that left answered its polls empty; those it left behind were made again.
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        polled |= {each.result().workflow_execution.workflow_id for each in done} - {""}
        waiting = waiting or {poll(one)}
    for each in waiting:
        each.cancel()
    if how == "crashes":
        owner._store._release()


class Cut:
    """A line to a service that is lost with each answer."""

    def __init__(self, service: Any) -> None:
        self.service = service

    def __getattr__(self, method: str) -> Any:
        async def call(request: Any, **options: Any) -> Any:
            await getattr(self.service, method)(request, **options)
            following.point(self.service)
            raise LineLostError

        following = self.following
        return call

    following: Any = None


async def test_what_ended_a_workflow_and_lost_its_answer_is_answered_when_it_is_repeated(parts: Any) -> None:
    owner = await parts()
    following = sharing._Following()
    service = service_of(following.bind)
    cut = Cut(owner.service)
    cut.following = following
    execution = m.WorkflowExecution(workflow_id="a")
    await start(owner, "a")
    terminate = m.TerminateWorkflowExecutionRequest(
        namespace="default", workflow_execution=execution, reason="enough", identity="me"
    )
    following.point(cut)  # type: ignore[arg-type]
    assert await service.terminate_workflow_execution(terminate) == m.TerminateWorkflowExecutionResponse()
    with pytest.raises(RpcError, match="completed"):
        await service.terminate_workflow_execution(terminate)
    delete = m.DeleteWorkflowExecutionRequest(namespace="default", workflow_execution=execution)
    following.point(cut)  # type: ignore[arg-type]
    assert await service.delete_workflow_execution(delete) == m.DeleteWorkflowExecutionResponse()
    with pytest.raises(RpcError, match="not found"):
        await service.delete_workflow_execution(delete)


async def test_a_repeated_terminate_of_what_others_ended_is_refused(parts: Any) -> None:
    owner = await parts()
    following = sharing._Following()
    service = service_of(following.bind)
    await start(owner, "a")
    execution = m.WorkflowExecution(workflow_id="a")
    mine, theirs = (
        m.TerminateWorkflowExecutionRequest(namespace="default", workflow_execution=execution, identity=who)
        for who in ("me", "you")
    )

    class Lost:
        async def terminate_workflow_execution(self, _request: Any) -> Any:
            await owner.service.terminate_workflow_execution(theirs)
            following.point(owner.service)
            raise LineLostError

    following.point(Lost())  # type: ignore[arg-type]
    with pytest.raises(RpcError, match="completed"):
        await service.terminate_workflow_execution(mine)


async def test_a_server_that_is_a_member_answers_its_polls_when_it_stops(parts: Any) -> None:
    owner, member = await parts(), await parts()
    await start(owner, "a")
    async with Server(member, address="127.0.0.1:0") as server:
        channel = GrpcChannel(server.address, ServerOptions())
        service = service_of(channel.bind)
        request = m.PollWorkflowTaskQueueRequest(namespace="default")
        request.task_queue.name = "other"
        polled = asyncio.ensure_future(service.poll_workflow_task_queue(request))
        follow = m.GetWorkflowExecutionHistoryRequest(namespace="default", wait_new_event=True)
        follow.execution.workflow_id = "a"
        follow.history_event_filter_type = m.HistoryEventFilterType.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT
        followed = asyncio.ensure_future(service.get_workflow_execution_history(follow))
        while not owner.engine.statistics().polls_waiting or not owner.engine.shard.waiters.for_end:
            await asyncio.sleep(0)
        await server.stop(grace_s=10_000)
        assert await polled == m.PollWorkflowTaskQueueResponse()
        with pytest.raises(RpcError) as refused:
            await followed
        assert refused.value.code is StatusCode.UNAVAILABLE
        await channel.close()
    assert await count(member) == 1
    assert (await poll(member)).task_token


async def test_many_race_and_one_wins(parts: Any) -> None:
    owner = await parts()
    members = [await parts() for _ in range(12)]
    await owner.close()
    assert await asyncio.gather(*(count(member) for member in members)) == [0] * 12
    assert sum(member.engine is not None for member in members) == 1


async def test_a_closed_part_answers_so(parts: Any) -> None:
    owner, member = await parts(), await parts()
    waiting = poll(member)
    await start(member, "x")
    await waiting
    waiting = poll(member)
    await asyncio.sleep(0)
    await member.close()
    await member.close()
    for call in (waiting, count(member)):
        with pytest.raises(EngineStoppedError):
            await call
    await owner.close()
    with pytest.raises(EngineStoppedError):
        await count(owner)


async def test_a_file_that_went_away_fails_the_member(parts: Any, tmp_path: Path) -> None:
    owner, member = await parts(), await parts()
    await owner.close()
    failed = asyncio.ensure_future(member.wait_failed())
    # Before the member tries for the lock, which takes it a few turns at least.
    for file in tmp_path.iterdir():
        file.unlink()
    error = await failed
    assert error.code is StatusCode.FAILED_PRECONDITION
    assert "its owner has gone" in error.message
    with pytest.raises(RpcError, match="its owner has gone"):
        await count(member)
    assert not (tmp_path / "a.db").exists(), "nobody made a new one"


async def test_an_owners_failure_is_told(parts: Any) -> None:
    owner, member = await parts(), await parts()
    await owner.close()
    await count(member)
    failed = asyncio.ensure_future(member.wait_failed())
    await asyncio.sleep(0)
    member.engine._fail(RpcError(StatusCode.UNAVAILABLE, "the disk"))
    assert (await failed).message == "the disk"


async def test_a_lock_whose_holder_does_not_listen(parts: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(sharing, "PATIENCE_S", 0.05)
    store = SqliteStore(tmp_path / "a.db")
    await store.open()
    with pytest.raises(StoreLockedError, match="does not listen"):
        await parts()
    with pytest.raises(DatabaseLockedError, match="does not listen"):
        await Client.connect(tmp_path / "a.db")
    path = sockets.socket_path(store.path)
    with sockets.listen(path):
        os.chmod(path, 0)
        if os.geteuid():
            with pytest.raises(StoreLockedError, match="another user's"):
                await parts()
        monkeypatch.setattr("perdure.transport.socket_client._GREETING_S", 0.01)
        os.chmod(path, 0o600)
        with pytest.raises(StoreLockedError, match="does not answer"):
            await parts()
    await store.close()


async def test_an_owner_that_begins_to_listen_is_waited_for(parts: Any, tmp_path: Path) -> None:
    engine = Engine(SqliteStore(tmp_path / "a.db"))
    await engine.start()
    joining = asyncio.ensure_future(parts())
    for _ in range(50):
        await asyncio.sleep(0)
    server = SocketServer(sockets.socket_path(str(tmp_path / "a.db")), engine.service(in_process=False), {})
    await server.start()
    member = await joining
    assert await count(member) == 0
    server.stop_listening()
    await engine.stop()
    await server.close()


async def test_where_there_can_be_no_socket(parts: Any, monkeypatch: Any, caplog: Any) -> None:
    def refuse(path: str) -> Any:
        raise OSError("no sockets here")

    monkeypatch.setattr(sockets, "listen", refuse)
    owner = await parts()
    assert "no sockets here" in caplog.text
    assert await count(owner) == 0


async def test_clients_of_one_file_are_one_part(tmp_path: Path) -> None:
    async with await Client.connect(tmp_path / "a.db") as outer:
        async with await Client.connect(tmp_path / "a.db") as inner:
            assert inner.service is outer.service
            assert not inner.is_last
        assert outer.is_last


async def test_a_member_does_not_stop_the_engine(tmp_path: Path) -> None:
    part = SharedDatabase(str(tmp_path / "a.db"))
    await part.open()
    async with await Client.connect(tmp_path / "a.db") as member:
        assert not member.is_last
        assert [running.source.engine for running in local._running.values()] == [None]
    await part.close()
