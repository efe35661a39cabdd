"""Tasks that come in the answer to a call of the worker's own: over a server, with everything in one process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from perdure import Client, Worker, activity, workflow
from perdure.api import messages as m
from perdure.common import WorkflowIDReusePolicy
from perdure.engine import Engine
from perdure.engine.store.memory import MemoryStore
from perdure.server import Server
from perdure.worker.eager import EagerActivities

SPAN = timedelta(seconds=30)
REJECT = WorkflowIDReusePolicy.REJECT_DUPLICATE


@activity.defn(start_to_close_timeout=SPAN)
async def echo(text: str) -> str:
    return text


@workflow.defn
async def one(text: str) -> str:
    return await echo(text)


@workflow.defn
async def many(count: int) -> int:
    return len(await asyncio.gather(*(echo(str(number)) for number in range(count))))


@workflow.defn
async def elsewhere() -> str:
    return await echo.options(task_queue="other")("x")


@dataclass
class Heard:
    """What went over the client's calls, by method."""

    requests: dict[str, list[Any]] = field(default_factory=dict)
    responses: dict[str, list[Any]] = field(default_factory=dict)

    def listen(self, client: Client, *methods: str) -> None:
        for method in methods:
            setattr(client.service, method, self._overheard(method, getattr(client.service, method)))

    def _overheard(self, method: str, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def listened(request: Any, **options: Any) -> Any:
            self.requests.setdefault(method, []).append(request)
            response = await call(request, **options)
            self.responses.setdefault(method, []).append(response)
            return response

        return listened

    def came_along(self) -> list[int]:
        """How many activities each completion of a workflow task brought."""
        return [len(response.activity_tasks) for response in self.responses["respond_workflow_task_completed"]]


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    engine = Engine(MemoryStore())
    await engine.start()
    async with Server(engine, address="127.0.0.1:0") as server:
        async with await Client.connect(server.address) as client:
            yield client
    await engine.stop()


@pytest.fixture
def heard(client: Client) -> Heard:
    heard = Heard()
    heard.listen(client, "respond_workflow_task_completed", "start_workflow_execution")
    return heard


async def test_an_activity_comes_with_the_answer_to_the_task_that_schedules_it(client: Client, heard: Heard) -> None:
    async with Worker(client, workflows=[one], activities=[echo]):
        assert await client.execute_workflow(one, "x") == "x"
    assert heard.came_along() == [1, 0]


async def test_a_few_come_and_the_rest_by_polls(client: Client, heard: Heard) -> None:
    async with Worker(client, workflows=[many], activities=[echo]):
        assert await client.execute_workflow(many, 20) == 20
    assert max(heard.came_along()) == 3


async def test_none_is_asked_for_that_there_is_no_room_for(client: Client, heard: Heard) -> None:
    async with Worker(client, workflows=[many], activities=[echo], max_concurrent_activities=2):
        assert await client.execute_workflow(many, 20) == 20
    assert max(heard.came_along()) <= 1  # A slot is the poller's.


async def test_those_of_other_queues_are_left_to_them(client: Client, heard: Heard) -> None:
    async with (
        Worker(client, workflows=[elsewhere], activities=[echo]),
        Worker(client, task_queue="other", activities=[echo]),
    ):
        assert await client.execute_workflow(elsewhere) == "x"
    assert max(heard.came_along()) == 0


@pytest.mark.parametrize("eager", [True, False])
async def test_a_start_brings_its_first_task_if_it_asks(client: Client, heard: Heard, eager: bool) -> None:
    async with Worker(client, workflows=[one], activities=[echo]):
        handle = await client.start_workflow(one, "x", request_eager_start=eager)
        assert await handle.result() == "x"
        started = heard.responses["start_workflow_execution"][0]
        assert started.HasField("eager_workflow_task") is eager


async def test_a_start_asks_only_if_a_worker_here_runs_it(client: Client, heard: Heard) -> None:
    async with Worker(client, workflows=[many], activities=[echo]):
        await client.start_workflow(one, "x", id="a", request_eager_start=True)
        await client.start_workflow(many, 1, id="b", task_queue="other", request_eager_start=True)
    await client.start_workflow(many, 1, id="c", request_eager_start=True)
    assert [request.request_eager_execution for request in heard.requests["start_workflow_execution"]] == [False] * 3


async def test_a_start_that_is_refused_gives_the_room_back(client: Client) -> None:
    async with Worker(client, workflows=[one], activities=[echo], max_concurrent_workflow_tasks=3) as worker:
        for number in range(10):
            handle = await client.start_workflow(one, "x", id=str(number), request_eager_start=True)
            with pytest.raises(Exception, match="already been started"):
                await client.start_workflow(one, "x", id=str(number), request_eager_start=True, id_reuse_policy=REJECT)
            assert await handle.result() == "x"
        assert worker.is_running


class Room:
    """Takes activities, as many as there is room for."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.taken: list[m.PollActivityTaskQueueResponse] = []

    def reserve(self) -> bool:
        self.room -= self.room > 0
        return self.room >= 0

    def release(self) -> None:
        self.room += 1

    async def take(self, task: m.PollActivityTaskQueueResponse) -> None:
        self.taken.append(task)


async def test_what_was_asked_for_and_did_not_come_leaves_its_room() -> None:
    room = Room(5)
    eager = EagerActivities(room, "q")
    command = m.Command(command_type=m.CommandType.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK)
    command.schedule_activity_task_command_attributes.task_queue.name = "q"
    command.user_metadata.summary.data = b"x"
    commands = [command.SerializeToString()] * 2 + [m.Command(command_type=3).SerializeToString()]  # type: ignore[arg-type]
    assert eager.ask(commands) == 2
    asked = m.Command.FromString(commands[0])
    assert asked.schedule_activity_task_command_attributes.request_eager_execution
    assert asked.schedule_activity_task_command_attributes.task_queue.name == "q"
    await eager.settle(2, [m.PollActivityTaskQueueResponse(task_token=b"t")])
    assert (room.room, len(room.taken)) == (4, 1)
