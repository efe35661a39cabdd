"""A server stops: long polls are answered empty, what was begun is finished, and nothing new is taken."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from perdure.api import messages as m
from perdure.api.rpcs import RPCS
from perdure.engine import Engine
from perdure.server import Server
from tests.unit.server.conftest import Wire
from tests.unit.server.test_handlers import start

DEADLINE_S = 60


async def parked(wire: Wire, engine: Engine, count: int) -> None:
    while engine.statistics().polls_waiting < count:
        await wire.call("get_system_info")


async def test_long_polls_are_answered_empty_at_once(server: Server, wire: Wire, engine: Engine) -> None:
    await wire.call("start_workflow_execution", start())
    workflows = m.PollWorkflowTaskQueueRequest(namespace="default")
    workflows.task_queue.name = "other"
    activities = m.PollActivityTaskQueueRequest(namespace="default")
    activities.task_queue.name = "other"
    history = m.GetWorkflowExecutionHistoryRequest(namespace="default", wait_new_event=True)
    history.execution.workflow_id = "a"
    history.history_event_filter_type = m.HistoryEventFilterType.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT
    calls = [
        asyncio.ensure_future(wire.call("poll_workflow_task_queue", workflows, timeout=DEADLINE_S)),
        asyncio.ensure_future(wire.call("poll_activity_task_queue", activities, timeout=DEADLINE_S)),
        asyncio.ensure_future(wire.call("get_workflow_execution_history", history, timeout=DEADLINE_S)),
    ]
    await parked(wire, engine, 2)
    while not engine.shard.waiters.for_end:
        await wire.call("get_system_info")
    await server.stop()
    assert await calls[0] == m.PollWorkflowTaskQueueResponse()
    assert await calls[1] == m.PollActivityTaskQueueResponse()
    followed = await calls[2]
    assert not followed.history.events and followed.next_page_token, "it is told to ask again"


async def test_a_query_in_flight_is_told_to_ask_again(server: Server, wire: Wire, engine: Engine) -> None:
    await wire.call("start_workflow_execution", start())
    query = m.QueryWorkflowRequest(namespace="default")
    query.execution.workflow_id = "a"
    query.query.query_type = "state"
    asked = asyncio.ensure_future(wire.refusal("query_workflow", query))
    while not any(slot.queries for slot in engine.shard.cache.loaded.values()):
        await wire.call("get_system_info")
    await server.stop()
    assert (await asked).code() is grpc.StatusCode.UNAVAILABLE


async def test_nothing_new_is_taken(server: Server, wire: Wire) -> None:
    await wire.call("get_system_info")
    await server.stop()
    assert (await wire.refusal("get_system_info")).code() is grpc.StatusCode.UNAVAILABLE


async def test_commits_in_flight_are_finished(server: Server, wire: Wire, engine: Engine) -> None:
    path = RPCS["start_workflow_execution"].path
    begun = [wire.channel.unary_unary(path)(start(str(number)).SerializeToString()) for number in range(50)]
    while not engine.shard.cache.loaded:
        await wire.call("get_system_info")
    await server.stop()
    started = 0
    for call in begun:
        try:
            assert m.StartWorkflowExecutionResponse.FromString(await call).run_id
            started += 1
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert started
    counted = await engine.service().count_workflow_executions(m.CountWorkflowExecutionsRequest(namespace="default"))
    assert counted.count >= started


@pytest.mark.parametrize("method", ["poll_workflow_task_queue", "poll_activity_task_queue"])
async def test_the_engine_serves_on_behind_it(method: str, server: Server, engine: Engine) -> None:
    await server.stop()
    async with Server(engine, address="127.0.0.1:0") as another:
        wire = Wire(another.address)
        request = RPCS[method].request(namespace="default")
        request.task_queue.name = "queue"  # type: ignore[attr-defined]
        asked = asyncio.ensure_future(wire.call(method, request, timeout=DEADLINE_S))
        await parked(wire, engine, 1)
        await another.stop()
        assert await asked == RPCS[method].response()
        await wire.channel.close()
