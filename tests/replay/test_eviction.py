"""Eviction: every coroutine ends, nothing it does on the way out has an effect, nothing is said."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from perdure import activity, workflow
from tests.replay.support import Scenario


@activity.defn(start_to_close_timeout=timedelta(seconds=10))
async def ship(order_id: str) -> int:
    return 1


@pytest.fixture(autouse=True)
def nothing_is_said(caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder) -> Any:
    caplog.set_level(logging.DEBUG)
    yield
    gc.collect()
    assert [record.message for record in caplog.records] == []
    assert [str(one.message) for one in recwarn.list] == []


def evict(code: Any) -> Scenario:
    scenario = Scenario(code)
    before = scenario.task()
    runtime = scenario.run._runtime
    issued = len(runtime.commands)
    scenario.run.close()
    assert len(runtime.commands) == issued
    assert not runtime.loop.ready
    assert before
    gc.collect()
    return scenario


@pytest.mark.parametrize("completed", [False, True])
@pytest.mark.parametrize("gathered", [False, True])
def test_an_evicted_run_leaves_nothing_to_the_garbage_collector(completed: bool, gathered: bool) -> None:
    @workflow.defn
    async def code() -> None:
        if gathered:
            await asyncio.gather(ship("x"), asyncio.sleep(5))
        await asyncio.wait_for(ship("x"), 10)

    scenario = Scenario(code)
    scenario.task()
    if completed:
        scenario.complete("1", 1)
        if gathered:
            scenario.fire("1")
        scenario.task()
    gone = weakref.ref(scenario.run._runtime)
    gc.collect()
    gc.disable()
    try:
        scenario.run.close()
        del scenario
        assert gone() is None
    finally:
        gc.enable()


class Thing:
    """Something that a workflow holds."""


@workflow.defn
class Updated:
    held: list[weakref.ref[Thing]] = []  # noqa: RUF012 - the test looks at it

    def __init__(self) -> None:
        self.thing = Thing()
        self.held.append(weakref.ref(self.thing))

    @workflow.run
    async def run(self) -> None:
        await ship("x")

    @workflow.update
    async def change(self) -> None:
        await ship("y")


@workflow.defn
async def updated() -> None:
    thing = Thing()
    Updated.held.append(weakref.ref(thing))

    @workflow.update
    async def change() -> None:
        await ship(str(thing))

    @change.validator
    def check() -> None:
        assert thing

    await ship("x")


@pytest.mark.parametrize("code", [Updated, updated])
def test_an_evicted_run_with_updates_leaves_nothing_either(code: Any) -> None:
    Updated.held.clear()
    scenario = Scenario(code)
    scenario.update("u1", "change")
    scenario.task()
    scenario.update("u2", "change")
    scenario.task()
    gone = weakref.ref(scenario.run._runtime)
    gc.collect()
    gc.disable()
    try:
        scenario.run.close()
        del scenario
        assert gone() is None
        assert [thing() for thing in Updated.held] == [None]
    finally:
        gc.enable()


def test_awaits_in_finally_issue_nothing() -> None:
    trace: list[str] = []

    @workflow.defn
    async def code() -> None:
        try:
            try:
                await ship("x")
            finally:
                trace.append("inner")
                await ship("compensation")
                trace.append("unreachable")
        finally:
            await asyncio.gather(ship("a"), ship("b"))
            trace.append("unreachable")

    evict(code)
    assert trace == ["inner"]


def test_every_way_of_asking_is_inert() -> None:
    @workflow.defn
    async def code() -> None:
        try:
            await ship("x")
        finally:
            asyncio.create_task(ship("y"))  # noqa: RUF006 - nobody will want it
            asyncio.get_running_loop().call_later(5, print)
            asyncio.get_running_loop().call_soon(print)
            workflow.upsert_memo({"a": 1})
            workflow.upsert_search_attributes({"a": ["b"]})
            workflow.logger.error("not to be seen")
            workflow.patched("p")
            workflow.start_activity("z", start_to_close_timeout=timedelta(1))
            try:
                await asyncio.wait_for(ship("z"), 5)
            finally:
                try:
                    await workflow.step(lambda: 1)
                finally:
                    await workflow.execute_child_workflow("child")

    evict(code)


def test_code_that_refuses_to_end_is_left_alone() -> None:
    @workflow.defn
    async def code() -> None:
        while True:
            try:
                await ship("x")
            except BaseException:
                continue

    evict(code)


def test_errors_on_the_way_out_are_nobodys() -> None:
    @workflow.defn
    async def code() -> None:
        try:
            await ship("x")
        finally:
            raise ValueError("nobody is told")

    evict(code)


def test_groups_tasks_and_generators_end_quietly() -> None:
    closed: list[str] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            while True:
                yield await ship("x")
        finally:
            closed.append("generator")
            await ship("y")

    @workflow.defn
    async def code() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(workflow.sleep(5))
            group.create_task(asyncio.wait_for(ship("x"), 50))
            background = asyncio.create_task(asyncio.Event().wait())
            async for _ in numbers():
                pass
            await background

    evict(code)
    assert closed in ([], ["generator"])  # Before Python 3.13 a generator that awaits is dropped, not closed.


def test_an_abandoned_generator_is_closed_by_a_task() -> None:
    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            await ship("cleanup")

    @workflow.defn
    async def code() -> None:
        async for _ in numbers():
            break
        await workflow.sleep(1)

    scenario = Scenario(code)
    assert scenario.task() == ["timer 1 1000ms", "activity 1 ship"]
    scenario.complete("1", 1)
    scenario.task()
    scenario.check_laws()


def test_a_dropped_run_is_closed_by_itself() -> None:
    @workflow.defn
    async def code() -> None:
        try:
            await ship("x")
        finally:
            await ship("y")

    scenario = Scenario(code)
    scenario.task()
    scenario.run = None
    gc.collect()


def test_tasks_nobody_holds_live_on() -> None:
    """The garbage collector must not decide what a workflow does."""
    trace: list[str] = []

    @workflow.defn
    async def code() -> None:
        async def forgotten() -> None:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                trace.append("woken by the collector")

        asyncio.create_task(forgotten())  # noqa: RUF006 - that is the point
        await workflow.sleep(1)
        gc.collect()
        await workflow.sleep(1)

    scenario = Scenario(code)
    scenario.task()
    gc.collect()
    scenario.fire("1")
    assert scenario.task() == ["timer 2 1000ms"]
    assert trace == []
    scenario.run.close()


def test_what_still_runs_when_the_workflow_closes_ends_quietly() -> None:
    @workflow.defn
    async def code() -> str:
        async def background() -> None:
            try:
                await workflow.sleep(100)
            finally:
                await ship("x")

        asyncio.create_task(background())  # noqa: RUF006 - that is the point
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return "end"

    scenario = Scenario(code)
    assert scenario.task() == ["timer 1 100000ms", "complete 'end'"]
    scenario.check_laws()


def test_many_evictions_leave_nothing_behind() -> None:
    @workflow.defn
    async def code() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(workflow.sleep(5))

    def loops() -> int:
        gc.collect()
        return sum(type(one).__name__ == "WorkflowLoop" for one in gc.get_objects())

    before = loops()
    for _ in range(20):
        evict(code)
    assert loops() == before
