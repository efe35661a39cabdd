"""The event loop: what asyncio and users may ask of it, and that it lives inside another loop."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import logging
import pdb
import sys
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest

from perdure import activity, workflow
from perdure.exceptions import ForbiddenCallError, NondeterminismError, NotInWorkflowError
from perdure.replay import guard
from tests.replay.support import Scenario


@activity.defn(start_to_close_timeout=timedelta(seconds=10))
async def ship(order_id: str) -> int:
    return 1


async def test_it_runs_inside_another_loop() -> None:
    outer = asyncio.get_running_loop()
    task = asyncio.current_task()

    @workflow.defn
    async def code() -> bool:
        inner = asyncio.current_task()
        assert asyncio.get_running_loop() is not outer
        assert inner is not task and inner is not None and inner.get_name() == "main"
        await ship("x")
        assert asyncio.current_task() is inner
        return True

    scenario = Scenario(code)
    scenario.task()
    assert asyncio.get_running_loop() is outer and asyncio.current_task() is task
    await asyncio.sleep(0)
    scenario.complete("1", 1)
    assert scenario.task() == ["complete True"]
    scenario.check_laws()
    assert asyncio.current_task() is task


def test_asyncios_debug_mode_changes_nothing() -> None:
    @workflow.defn
    async def code() -> int:
        asyncio.get_running_loop().set_debug(True)
        return sum(await asyncio.gather(ship("x"), asyncio.create_task(ship("y"))))

    async def main() -> list[str]:
        scenario = Scenario(code)
        scenario.task()
        scenario.complete("1", 1)
        scenario.complete("2", 2)
        said = scenario.task()
        scenario.check_laws()
        return said

    assert asyncio.run(main(), debug=True) == ["complete 3"]


def test_forbidden_methods_say_what_to_do() -> None:
    @workflow.defn
    async def code() -> list[str]:
        said: list[str] = []
        loop = asyncio.get_running_loop()
        attempts: list[Callable[[], Any]] = [
            lambda: loop.run_in_executor(None, print),
            lambda: loop.create_connection(None, "localhost", 80),
            lambda: loop.call_soon_threadsafe(print),
            lambda: loop.run_until_complete(None),
        ]
        for attempt in attempts:
            try:
                attempt()
            except ForbiddenCallError as error:
                said.append(error.advice)
        return said

    (command,) = Scenario(code).task()
    assert "workflow.step" in command and "send it a signal" in command


def test_a_forbidden_method_fails_the_task_not_the_workflow() -> None:
    @workflow.defn
    async def code() -> None:
        await asyncio.to_thread(print)

    with pytest.raises(NondeterminismError, match="run_in_executor"):
        Scenario(code).task()


def test_context_variables() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    variable.set("the worker's")

    @workflow.defn
    async def code() -> list[str]:
        seen = [variable.get()]
        variable.set("main")

        async def child() -> None:
            seen.append(variable.get())
            variable.set("child")
            await ship("x")
            seen.append(variable.get())

        await asyncio.create_task(child())
        seen.append(variable.get())
        return seen

    scenario = Scenario(code)
    scenario.task()
    scenario.complete("1", 1)
    assert scenario.task() == ["complete ['unset', 'main', 'child', 'main']"]
    scenario.check_laws()


def test_errors_nobody_awaits_are_logged_live_only(caplog: pytest.LogCaptureFixture) -> None:
    @workflow.defn
    async def code() -> str:
        async def fails() -> None:
            raise ValueError("unseen")

        task = asyncio.create_task(fails())
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        del task
        await ship("x")
        return "end"

    scenario = Scenario(code)
    scenario.task()
    said = [record.message for record in caplog.records]
    assert any("callback" in text for text in said)
    caplog.clear()
    scenario.complete("1", 1)
    assert scenario.task() == ["complete 'end'"]
    scenario.check_laws()


def test_an_exception_handler_may_be_set() -> None:
    @workflow.defn
    async def code() -> list[str]:
        seen: list[str] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: seen.append(str(context["message"])))
        assert loop.get_exception_handler() is not None
        loop.call_exception_handler({"message": "mine"})
        return seen

    assert Scenario(code).task() == ["complete ['mine']"]


def test_handles_can_be_cancelled_and_asked() -> None:
    @workflow.defn
    async def code() -> list[object]:
        loop = asyncio.get_running_loop()
        seen: list[object] = []
        soon = loop.call_soon(seen.append, "soon")
        soon.cancel()
        later = loop.call_later(5, seen.append, "later")
        at = loop.call_at(loop.time() + 7, seen.append, "at")
        seen.append(round(at.when() - loop.time(), 3))
        later.cancel()
        seen.extend([soon.cancelled(), later.cancelled(), at.cancelled(), loop.is_running(), loop.is_closed()])
        repr(soon), repr(later)
        await workflow.sleep(10)
        return seen

    scenario = Scenario(code)
    assert scenario.task() == ["timer 2 7000ms", "timer 3 10000ms"]
    scenario.fire("2")
    scenario.fire("3")
    assert scenario.task() == ["complete [7.0, True, True, False, True, False, 'at']"]
    scenario.check_laws()


def test_breakpoint_works(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    commands = iter(["p 6 * 7", "continue"])
    said: list[str] = []

    class Debugger(pdb.Pdb):
        def cmdloop(self, intro: str | None = None) -> None:
            for line in commands:
                if self.onecmd(line):
                    return

        def message(self, msg: str) -> None:
            said.append(msg)

    def hook() -> None:
        Debugger(nosigint=True).set_trace(sys._getframe(1))

    monkeypatch.setattr(sys, "breakpointhook", hook)

    @workflow.defn
    async def code() -> str:
        breakpoint()
        await ship("x")
        return "end"

    guard.install()
    scenario = Scenario(code, guard=guard)
    try:
        assert scenario.task() == ["activity 1 ship"]
    finally:
        sys.settrace(None)
    assert "42" in said


def test_leaving_the_debugger_does_not_fail_the_workflow() -> None:
    import bdb

    @workflow.defn
    async def code() -> None:
        raise bdb.BdbQuit

    with pytest.raises(bdb.BdbQuit):
        Scenario(code).task()


def test_the_guard_is_active_while_code_runs_and_its_verdict_stands() -> None:
    import time

    @workflow.defn
    async def code() -> str:
        with contextlib.suppress(Exception):
            time.time()
        return "swallowed"

    guard.install()
    with pytest.raises(ForbiddenCallError, match=r"time\.time"):
        Scenario(code, guard=guard).task()


def test_outside_of_workflows() -> None:
    assert not workflow.in_workflow()
    with pytest.raises(NotInWorkflowError):
        workflow.now()


def test_a_task_factory_may_be_set() -> None:
    made: list[object] = []

    @workflow.defn
    async def code() -> int:
        loop = asyncio.get_running_loop()

        def factory(loop: asyncio.AbstractEventLoop, coro: Any) -> Any:
            made.append(coro)
            loop.set_task_factory(None)
            return loop.create_task(coro)

        loop.set_task_factory(factory)
        return await asyncio.create_task(ship("x"))

    scenario = Scenario(code)
    assert scenario.task() == ["activity 1 ship"]
    assert len(made) == 1


def test_system_exit_fails_the_workflow_and_keyboard_interrupt_passes() -> None:
    @workflow.defn
    async def exits() -> None:
        sys.exit(3)

    assert Scenario(exits).task() == ["fail 3"]

    @workflow.defn
    async def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Scenario(interrupted).task()
    logging.getLogger(__name__).debug("the loop is restored: %s", asyncio._get_running_loop())
    assert asyncio._get_running_loop() is None


async def test_generators_of_the_outer_loop_stay_with_it() -> None:
    closed: list[str] = []

    async def numbers(where: str) -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            closed.append(where)

    @workflow.defn
    async def code() -> str:
        async for _ in numbers("inner"):
            break
        await ship("x")
        return "end"

    scenario = Scenario(code)
    scenario.task()
    assert closed == ["inner"]
    async for _ in numbers("outer"):
        break
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert closed == ["inner", "outer"]
    kept = [numbers("kept by the instance")]

    @workflow.defn
    async def keeps() -> None:
        await anext(kept[0])
        await ship("x")

    keeping = Scenario(keeps)
    keeping.task()
    keeping.run.close()
    kept.clear()
    del keeping
    gc.collect()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert closed == ["inner", "outer"]
