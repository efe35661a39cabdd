"""What the guard lets through: imports, reports, debuggers, finalizers, and what it was told to."""

from __future__ import annotations

import asyncio
import contextvars
import datetime
import gc
import io
import linecache
import logging
import os
import random
import subprocess
import sys
import time
import traceback
import uuid
import warnings
import weakref
import zoneinfo
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perdure.exceptions import ForbiddenCallError
from perdure.replay import guard

ACTIVATION = """
from types import FunctionType
from perdure.exceptions import ForbiddenCallError
from perdure.replay import guard

guard.install()

def activate(function):
    guard.enter()
    try:
        return function()
    finally:
        guard.exit()

run = FunctionType(activate.__code__, {"__name__": "perdure.replay.pretended", "guard": guard})
"""


def _forbidden() -> float:
    return time.time()


class TestImports:
    def test_a_module_may_be_imported_and_do_at_import_what_it_likes(
        self, in_workflow: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "data.txt").write_text("42")
        (tmp_path / "lazily_imported_by_guard_test.py").write_text(
            "import os, time, random, uuid\n"
            "STARTED = time.time(); SEED = random.random(); ID = uuid.uuid4(); HOME = os.environ.get('HOME')\n"
            f"with open({str(tmp_path / 'data.txt')!r}) as file: DATA = file.read()\n"
            "def ask(): return time.time()\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        seen: list[Any] = []

        def workflow_code() -> None:
            import lazily_imported_by_guard_test as lazy

            seen.append(lazy.DATA)
            lazy.ask()

        with pytest.raises(ForbiddenCallError) as caught:
            in_workflow(workflow_code)
        assert seen == ["42"]
        assert caught.value.filename == str(tmp_path / "lazily_imported_by_guard_test.py")
        assert caught.value.lineno == 4

    def test_by_importlib_too(
        self, in_workflow: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "imported_by_name_by_guard_test.py").write_text("import time; NOW = time.time()\n")
        monkeypatch.syspath_prepend(str(tmp_path))

        def workflow_code() -> None:
            import importlib

            importlib.import_module("imported_by_name_by_guard_test")

        in_workflow(workflow_code)


class TestReporting:
    def test_logging_with_a_handler_that_opens_files(self, in_workflow: Callable[..., Any], tmp_path: Path) -> None:
        log = logging.getLogger("guard-test")
        handler = logging.FileHandler(tmp_path / "log.txt", delay=True)
        log.addHandler(handler)
        try:
            in_workflow(log.warning, "asked from workflow code")
        finally:
            log.removeHandler(handler)
            handler.close()
        assert "asked" in (tmp_path / "log.txt").read_text()

    def test_logging_an_exception(self, in_workflow: Callable[..., Any]) -> None:
        stream = io.StringIO()
        log = logging.getLogger("guard-test")
        handler = logging.StreamHandler(stream)
        log.addHandler(handler)

        def workflow_code() -> None:
            linecache.clearcache()
            try:
                raise ValueError("reported")
            except ValueError:
                log.exception("it failed")

        try:
            in_workflow(workflow_code)
        finally:
            log.removeHandler(handler)
        assert 'raise ValueError("reported")' in stream.getvalue()

    def test_formatting_a_traceback_reads_source(self, in_workflow: Callable[..., Any]) -> None:
        def workflow_code() -> str:
            linecache.clearcache()
            try:
                raise ValueError("reported")
            except ValueError:
                return traceback.format_exc()

        assert "raise ValueError" in in_workflow(workflow_code)

    def test_warnings(self, in_workflow: Callable[..., Any]) -> None:
        lines: list[str] = []

        def workflow_code() -> None:
            linecache.clearcache()
            warnings.warn("from workflow code", UserWarning, stacklevel=1)

        with pytest.warns(UserWarning, match="from workflow code"):
            in_workflow(workflow_code)
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = lambda message, category, file, line, *_: lines.append(
                warnings.formatwarning(message, category, file, line)
            )
            in_workflow(workflow_code)
        assert 'warnings.warn("from workflow code"' in lines[0]

    def test_print(self, in_workflow: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
        in_workflow(print, "hello")
        assert capsys.readouterr().out == "hello\n"

    def test_time_zones(self, in_workflow: Callable[..., Any]) -> None:
        zoneinfo.ZoneInfo.clear_cache()
        moment = datetime.datetime(2024, 7, 1, tzinfo=datetime.UTC)
        local = in_workflow(lambda: moment.astimezone(zoneinfo.ZoneInfo("Europe/Paris")))
        assert local.hour == 2


class TestDebuggers:
    def test_breakpoint_with_a_debugger_of_ones_own(
        self, in_workflow: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answers: list[Any] = []

        def debugger() -> None:
            answers.extend([time.time(), os.getpid(), len(os.listdir("/"))])
            with open(os.devnull) as file:
                answers.append(file.readline())

        monkeypatch.setattr(sys, "breakpointhook", debugger)

        def workflow_code() -> None:
            breakpoint()
            time.time()

        with pytest.raises(ForbiddenCallError):
            in_workflow(workflow_code)
        assert len(answers) == 4

    def test_a_debugger_that_is_a_bound_method(
        self, in_workflow: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Debugger:
            def stop(self) -> None:
                self.time = time.time()

        debugger = Debugger()
        monkeypatch.setattr(sys, "breakpointhook", debugger.stop)
        in_workflow(lambda: breakpoint())
        assert debugger.time > 0

    @pytest.mark.parametrize("how", ["breakpoint()", "import pdb; pdb.set_trace()"])
    def test_pdb(self, how: str) -> None:
        commands = "p 'now', time.time() > 0\np 'home', 'HOME' in os.environ\nlist\ncontinue\n"
        script = (
            "import os, time\n" + ACTIVATION + f"def workflow():\n    {how}\n    return 1\nprint('ran', run(workflow))"
        )
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONBREAKPOINT"}
        answer = subprocess.run(
            [sys.executable, "-c", script], input=commands, capture_output=True, text=True, check=True, env=environment
        )
        assert "('now', True)" in answer.stdout
        assert "('home', True)" in answer.stdout
        assert "ran 1" in answer.stdout

    def test_the_debugger_that_the_environment_names(self, tmp_path: Path) -> None:
        (tmp_path / "odddebugger.py").write_text("import time\ndef stop(): print('stopped', time.time() > 0)\n")
        script = ACTIVATION + "def workflow():\n    breakpoint()\nrun(workflow)"
        environment = {**os.environ, "PYTHONBREAKPOINT": "odddebugger.stop", "PYTHONPATH": str(tmp_path)}
        answer = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
        )
        assert answer.stdout == "stopped True\n"


class TestFinalizers:
    def test_objects_collected_while_workflow_code_runs(self, in_workflow: Callable[..., Any], tmp_path: Path) -> None:
        seen: list[float] = []

        class Resource:
            def __init__(self) -> None:
                self.itself = self

            def release(self) -> None:
                seen.append(time.time())

            def __del__(self) -> None:
                self.release()

        class Watched:
            def __init__(self) -> None:
                self.itself = self

        def told(_: object) -> None:
            seen.append(time.time())

        gc.collect()
        gc.disable()
        try:
            Resource()
            watched = Watched()
            reference = weakref.ref(watched, told)
            del watched

            def workflow_code() -> None:
                gc.collect()
                time.time()

            with pytest.raises(ForbiddenCallError):
                in_workflow(workflow_code)
            assert reference() is None
        finally:
            gc.enable()
        assert len(seen) == 2

    @pytest.mark.parametrize("first", [True, False])
    def test_whoever_watches_the_collector(self, first: bool, in_workflow: Callable[..., Any]) -> None:
        seen: list[float] = []

        def watch(phase: str, _: dict[str, int]) -> None:
            seen.append(time.perf_counter())

        gc.callbacks.insert(0 if first else len(gc.callbacks), watch)
        try:
            in_workflow(gc.collect)
        finally:
            gc.callbacks.remove(watch)
        assert len(seen) >= 2

    def test_the_last_reference_dropped_by_workflow_code(self, in_workflow: Callable[..., Any]) -> None:
        seen: list[float] = []

        class Resource:
            def __del__(self) -> None:
                seen.append(time.time())

        def workflow_code() -> None:
            Resource()

        in_workflow(workflow_code)
        assert len(seen) == 1


class TestSuspended:
    def test_within_the_block_only(self, in_workflow: Callable[..., Any]) -> None:
        def workflow_code() -> None:
            with guard.suspended():
                time.time()
                with guard.suspended():
                    random.random()
                uuid.uuid4()
                open(os.devnull).close()
            time.time()

        with pytest.raises(ForbiddenCallError) as caught:
            in_workflow(workflow_code)
        assert caught.value.lineno == workflow_code.__code__.co_firstlineno + 7

    def test_outside_of_workflow_code_it_does_nothing(self) -> None:
        with guard.suspended():
            time.time()

    def test_an_await_within_the_block_leaves_other_tasks_guarded(self, in_workflow: Callable[..., Any]) -> None:
        async def lenient() -> None:
            with guard.suspended():
                await asyncio.sleep(0)
                time.time()
            time.time()

        def both_tasks() -> None:
            # As a loop does: each task's steps run in its own context.
            coroutine, context = lenient(), contextvars.copy_context()
            context.run(coroutine.send, None)
            with pytest.raises(ForbiddenCallError):
                contextvars.copy_context().run(_forbidden)
            with pytest.raises(ForbiddenCallError) as caught:
                context.run(coroutine.send, None)
            assert caught.value.lineno == lenient.__code__.co_firstlineno + 4

        in_workflow(both_tasks)

    def test_a_coroutine_closed_within_the_block_leaves_no_trace(self, in_workflow: Callable[..., Any]) -> None:
        async def workflow_code() -> None:
            with guard.suspended():
                await asyncio.sleep(0)

        coroutine = workflow_code()
        in_workflow(lambda: coroutine.send(None))
        coroutine.close()
        with pytest.raises(ForbiddenCallError):
            in_workflow(_forbidden)


class TestPassedModules:
    def test_a_passed_module_may_do_what_it_likes(
        self, in_workflow: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(guard, "_passed", set(guard._passed))
        namespace: dict[str, Any] = {"__name__": "tracing_library.spans", "time": time}
        exec("def span(inner): time.time(); return inner()", namespace)
        with pytest.raises(ForbiddenCallError):
            in_workflow(lambda: namespace["span"](int))
        guard.install(pass_modules=["tracing_library"])
        in_workflow(lambda: namespace["span"](int))
        with pytest.raises(ForbiddenCallError):
            in_workflow(lambda: namespace["span"](_forbidden))

    def test_a_model_may_be_defined_while_a_workflow_runs(
        self, in_workflow: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pydantic = pytest.importorskip("pydantic")
        loader = pytest.importorskip("pydantic.plugin._loader")
        monkeypatch.setattr(loader, "_plugins", None)

        def define() -> Any:
            return pydantic.create_model("Order", key=(uuid.UUID, pydantic.Field(default_factory=uuid.uuid4)))

        model = in_workflow(define)
        in_workflow(lambda: model(key=uuid.UUID(int=1)))
        with pytest.raises(ForbiddenCallError) as caught:
            in_workflow(lambda: model())
        assert caught.value.call == "uuid.uuid4"


EARLY_NAMES = """
from os import environ, getenv, urandom
from random import choice, randint, shuffle, Random, SystemRandom
from secrets import token_hex
from threading import Thread
from time import time
from uuid import uuid1, uuid4
from builtins import open as opened
"""
EARLY_CALLS = """
refused = []
for name, function in {
    "environ": lambda: environ["HOME"], "getenv": lambda: getenv("HOME"), "choice": lambda: choice([1]),
    "randint": lambda: randint(1, 2), "shuffle": lambda: shuffle([1, 2]), "Random": lambda: Random(),
    "SystemRandom": lambda: SystemRandom().random(), "token_hex": lambda: token_hex(), "uuid1": lambda: uuid1(),
    "uuid4": lambda: uuid4(), "open": lambda: opened("/dev/null"), "Thread": lambda: Thread(target=int).start(),
    # C functions without an audit event: the static check's business.
    "time": lambda: time(), "urandom": lambda: urandom(1),
}.items():
    try:
        run(function)
    except ForbiddenCallError:
        refused.append(name)
print(*refused)
"""


def test_names_imported_before_the_guard_was_installed() -> None:
    answer = subprocess.run(
        [sys.executable, "-c", EARLY_NAMES + ACTIVATION + EARLY_CALLS], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == (
        "environ getenv choice randint shuffle Random SystemRandom token_hex uuid1 uuid4 open Thread"
    )
