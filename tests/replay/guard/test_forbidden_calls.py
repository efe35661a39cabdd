"""Each forbidden call, by each way to it, raises in workflow code, and only there."""

# What these rules ban is what is to be refused here.
# ruff: noqa: DTZ002, DTZ007, DTZ011, SIM105, SIM115, T201, UP020

from __future__ import annotations

import asyncio
import concurrent.futures
import datetime
import glob
import io
import os
import pathlib
import random
import secrets
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable
from operator import methodcaller
from types import FunctionType
from typing import Any

import pytest

from perdure.exceptions import ForbiddenCallError, NondeterminismError
from perdure.replay import guard

HERE = os.path.realpath(os.path.dirname(__file__)) + "/README"
EXECUTOR = concurrent.futures.ThreadPoolExecutor(1)
LOOP = asyncio.new_event_loop()
LOOP.close()

# (what the error names, what it advises, the call)
CALLS: list[tuple[str, str, Callable[[], Any]]] = [
    ("time.time", "workflow.time()", lambda: time.time()),
    ("time.time_ns", "workflow.time()", lambda: time.time_ns()),
    ("time.monotonic", "workflow.time()", lambda: time.monotonic()),
    ("time.monotonic_ns", "workflow.time()", lambda: time.monotonic_ns()),
    ("time.perf_counter", "workflow.time()", lambda: time.perf_counter()),
    ("time.process_time", "workflow.time()", lambda: time.process_time()),
    ("time.clock_gettime", "workflow.time()", lambda: time.clock_gettime(time.CLOCK_REALTIME)),
    ("time.gmtime", "workflow.now()", lambda: time.gmtime()),
    ("time.localtime", "workflow.now()", lambda: time.localtime(None)),
    ("time.ctime", "workflow.now()", lambda: time.ctime()),
    ("time.strftime", "workflow.now()", lambda: time.strftime("%Y")),
    ("time.sleep", "workflow.sleep", lambda: methodcaller("sleep", 0)(time)),
    # C code that asks the module `time` for the time.
    ("time.time", "workflow.now()", lambda: datetime.date.today()),
    ("time.time", "workflow.now()", lambda: datetime.datetime.today()),
    ("random.random", "workflow.random()", lambda: random.random()),
    ("random.getrandbits", "workflow.random()", lambda: random.getrandbits(8)),
    ("random.randint", "workflow.random()", lambda: random.randint(1, 6)),
    ("random.choice", "workflow.random()", lambda: random.choice([1, 2])),
    ("random.shuffle", "workflow.random()", lambda: random.shuffle([1, 2, 3])),
    ("random.sample", "workflow.random()", lambda: random.sample(range(9), 3)),
    ("random.uniform", "workflow.random()", lambda: random.uniform(0, 1)),
    ("random.gauss", "workflow.random()", lambda: random.gauss(0, 1)),
    ("random.randbytes", "workflow.random()", lambda: random.randbytes(4)),
    ("random.seed", "workflow.random()", lambda: random.seed(1)),
    ("random.Random", "give random.Random a seed", lambda: random.Random()),
    ("random.SystemRandom.random", "workflow.random()", lambda: random.SystemRandom().random()),
    ("secrets.token_hex", "workflow.random()", lambda: secrets.token_hex()),
    ("secrets.randbelow", "workflow.random()", lambda: secrets.randbelow(5)),
    ("os.urandom", "workflow.random()", lambda: os.urandom(4)),
    ("uuid.uuid4", "workflow.uuid4()", lambda: uuid.uuid4()),
    ("uuid.uuid1", "workflow.uuid4()", lambda: uuid.uuid1()),
    ("os.environ", "argument", lambda: os.environ["HOME"]),
    ("os.environ", "argument", lambda: os.environ.get("HOME")),
    ("os.environ", "argument", lambda: "HOME" in os.environ),
    ("os.environ", "argument", lambda: dict(os.environ)),
    ("os.environ", "argument", lambda: os.environ.update(GUARDED="1")),
    ("os.getenv", "argument", lambda: os.getenv("HOME")),
    ("os.getpid", "argument", lambda: os.getpid()),
    ("os.getcwd", "argument", lambda: os.getcwd()),
    ("os.cpu_count", "argument", lambda: os.cpu_count()),
    ("open", "activity", lambda: open(HERE)),
    ("open", "activity", lambda: io.open(HERE)),
    ("open", "activity", lambda: os.open(HERE, os.O_RDONLY)),
    ("pathlib.Path.open", "activity", lambda: pathlib.Path(HERE).open()),
    ("pathlib.Path.read_text", "activity", lambda: pathlib.Path(HERE).read_text()),
    ("pathlib.Path.exists", "activity", lambda: pathlib.Path(HERE).exists()),
    ("os.stat", "activity", lambda: os.path.exists(HERE)),
    ("os.stat", "activity", lambda: os.stat(HERE)),
    ("os.listdir", "activity", lambda: os.listdir("/")),
    ("os.walk", "activity", lambda: next(os.walk("/"))),
    ("os.mkdir", "activity", lambda: os.mkdir("/nowhere/never")),
    ("os.makedirs", "activity", lambda: os.makedirs("/nowhere/never/ever")),
    ("os.remove", "activity", lambda: os.remove("/nowhere/never")),
    ("os.rename", "activity", lambda: os.rename("/nowhere/never", "/nowhere/ever")),
    ("glob.glob", "activity", lambda: glob.glob("/*")),
    ("shutil.copy", "activity", lambda: shutil.copy(HERE, "/nowhere/never")),
    ("tempfile.mkdtemp", "activity", lambda: tempfile.mkdtemp()),
    ("sqlite3.connect", "activity", lambda: sqlite3.connect(":memory:")),
    ("subprocess.run", "activity", lambda: subprocess.run(["true"], check=True)),
    ("os.system", "activity", lambda: os.system("true")),
    ("os.fork", "activity", lambda: os.fork()),
    ("socket.socket", "activity", lambda: socket.socket()),
    ("socket.create_connection", "activity", lambda: socket.create_connection(("127.0.0.1", 9))),
    ("socket.getaddrinfo", "activity", lambda: socket.getaddrinfo("localhost", 80)),
    ("socket.gethostname", "argument", lambda: socket.gethostname()),
    ("urllib.request.urlopen", "activity", lambda: urllib.request.urlopen("http://127.0.0.1:9/")),
    ("threading.Thread.start", "activity", lambda: threading.Thread(target=print).start()),
    ("threading.Thread.start", "activity", lambda: threading.Timer(1, print).start()),
    ("ThreadPoolExecutor.submit", "activity", lambda: EXECUTOR.submit(print)),
    ("asyncio.to_thread", "activity", lambda: asyncio.to_thread(print)),
    ("loop.run_in_executor", "activity", lambda: LOOP.run_in_executor(None, print)),
    ("asyncio.create_subprocess_exec", "activity", lambda: asyncio.create_subprocess_exec("true")),
    ("asyncio.open_connection", "activity", lambda: asyncio.open_connection("127.0.0.1", 9)),
    ("input", "wait_condition", lambda: input()),
]

ALLOWED: list[Callable[[], Any]] = [
    lambda: time.gmtime(0),
    lambda: time.strftime("%Y", (2020, 1, 1, 0, 0, 0, 0, 1, 0)),
    lambda: datetime.datetime.strptime("2020-01-01", "%Y-%m-%d"),
    lambda: datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC).strftime("%A"),
    lambda: random.Random(42).choice([1, 2, 3]),
    lambda: random.Random(x=42),
    lambda: uuid.uuid5(uuid.NAMESPACE_DNS, "perdure"),
    lambda: os.path.join("a", "b"),
    lambda: pathlib.PurePath("a/b").suffix,
    lambda: io.StringIO("text").read(),
    lambda: print("", end=""),
    lambda: threading.Thread(target=print),
    lambda: threading.Lock().acquire(),
]


def _names() -> list[str]:
    return [f"{index}-{call}" for index, (call, _, _) in enumerate(CALLS)]


@pytest.mark.parametrize(("call", "advice", "function"), CALLS, ids=_names())
def test_a_forbidden_call_is_named_with_its_line_and_a_remedy(
    in_workflow: Callable[..., Any], call: str, advice: str, function: Callable[[], Any]
) -> None:
    with pytest.raises(ForbiddenCallError) as caught:
        in_workflow(function)
    error = caught.value
    assert isinstance(error, NondeterminismError)
    assert error.call == call
    assert advice in error.advice
    assert error.filename == __file__
    assert error.lineno == function.__code__.co_firstlineno
    assert f"{__file__}:{error.lineno}" in str(error)


def _helper(function: Callable[[], Any]) -> Any:
    return function()


@pytest.mark.parametrize(("call", "advice", "function"), CALLS, ids=_names())
def test_in_a_helper_function_too(
    in_workflow: Callable[..., Any], call: str, advice: str, function: Callable[[], Any]
) -> None:
    with pytest.raises(ForbiddenCallError):
        in_workflow(_helper, function)


@pytest.mark.parametrize("function", ALLOWED)
def test_what_answers_the_same_again_is_allowed(in_workflow: Callable[..., Any], function: Callable[[], Any]) -> None:
    in_workflow(function)


HARMLESS_OUTSIDE = [
    lambda: time.time(),
    lambda: time.monotonic(),
    lambda: time.gmtime(),
    lambda: random.choice([1, 2]),
    lambda: uuid.uuid4(),
    lambda: os.environ.get("HOME"),
    lambda: open("/dev/null").close(),
    lambda: os.listdir("/"),
    lambda: socket.socket().close(),
    lambda: EXECUTOR.submit(int).result(),
    lambda: os.stat("/"),
    lambda: random.Random(),
]


@pytest.mark.parametrize("function", HARMLESS_OUTSIDE)
def test_outside_of_workflow_code_nothing_changes(in_workflow: Callable[..., Any], function: Callable[[], Any]) -> None:
    function()
    in_workflow(int)
    function()


def test_other_threads_are_unaffected(in_workflow: Callable[..., Any]) -> None:
    begin, done = threading.Event(), threading.Event()
    outcomes: list[Any] = []

    def bystander() -> None:
        begin.wait()
        for function in HARMLESS_OUTSIDE:
            outcomes.append(function())
        done.set()

    thread = threading.Thread(target=bystander)
    thread.start()

    def workflow_code() -> None:
        begin.set()
        done.wait()

    in_workflow(workflow_code)
    thread.join()
    assert len(outcomes) == len(HARMLESS_OUTSIDE)


def test_a_forked_child_forgets_what_other_threads_did(in_workflow: Callable[..., Any]) -> None:
    def fork() -> int:
        child = os.fork()
        if child == 0:
            os._exit(len(guard._active))
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def in_another_thread() -> None:
        thread = threading.Thread(target=lambda: statuses.append(fork()))
        with guard.suspended():
            thread.start()
            thread.join()

    statuses: list[int] = []
    in_workflow(in_another_thread)
    assert statuses == [0]


def test_a_run_may_be_nested_in_another(in_workflow: Callable[..., Any]) -> None:
    def outer() -> None:
        in_workflow(int)
        time.time()

    with pytest.raises(ForbiddenCallError):
        in_workflow(outer)
    time.time()


def test_an_exit_too_many_is_harmless() -> None:
    guard.exit()
    guard.exit()
    assert not guard._active


def test_installing_twice_changes_nothing(in_workflow: Callable[..., Any]) -> None:
    before = time.time, os.stat, random.random
    guard.install()
    assert (time.time, os.stat, random.random) == before


def test_a_function_put_back_by_others_is_wrapped_again(
    in_workflow: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", time.time.__wrapped__)  # type: ignore[attr-defined] - a wrapper's
    in_workflow(lambda: time.time())
    guard.install()
    with pytest.raises(ForbiddenCallError):
        in_workflow(lambda: time.time())


def test_wrappers_look_like_what_they_wrap() -> None:
    guard.install()
    assert (time.time.__name__, time.time.__module__) == ("time", "time")
    assert random.random.__module__ == "random"
    assert os.stat in os.supports_fd and os.stat in os.supports_follow_symlinks


def test_the_innermost_line_of_user_code_is_named_below_a_third_party_library(
    in_workflow: Callable[..., Any],
) -> None:
    namespace: dict[str, Any] = {"__name__": "somelibrary.client", "time": time}
    exec(compile("def fetch():\n    return time.time()\n", "/x/site-packages/somelibrary/client.py", "exec"), namespace)

    def workflow_code() -> None:
        namespace["fetch"]()

    with pytest.raises(ForbiddenCallError) as caught:
        in_workflow(workflow_code)
    assert caught.value.filename == __file__
    assert caught.value.through == "somelibrary.client.fetch"
    assert "reached through somelibrary.client.fetch" in str(caught.value)

    with pytest.raises(ForbiddenCallError) as caught:
        in_workflow(namespace["fetch"])
    assert caught.value.filename == "/x/site-packages/somelibrary/client.py"


def test_a_standard_library_module_on_the_way_is_named(in_workflow: Callable[..., Any]) -> None:
    import configparser

    with pytest.raises(ForbiddenCallError) as caught:
        in_workflow(lambda: configparser.ConfigParser().read(HERE))
    assert caught.value.call == "open"
    assert caught.value.through == "configparser.RawConfigParser.read"


def test_a_swallowed_error_can_be_asked_for(in_workflow: Callable[..., Any]) -> None:
    def workflow_code() -> None:
        try:
            time.time()
        except Exception:
            pass
        try:
            random.random()
        except Exception:
            pass

    in_workflow(workflow_code)
    violation = guard.take_violation()
    assert violation is not None
    assert violation.call == "time.time"
    assert violation.__traceback__ is None
    assert guard.take_violation() is None

    in_workflow(workflow_code)
    in_workflow(int)
    assert guard.take_violation() is None, "it belonged to an earlier run"


def test_outside_of_workflow_code_a_call_costs_one_test(monkeypatch: pytest.MonkeyPatch) -> None:
    guard.install()

    def never(*_: object) -> None:
        raise AssertionError("the guard looked closer than at whether any workflow code runs")

    for name in ("_judge_event", "_blame", "get_ident"):
        monkeypatch.setattr(guard, name, never)
    for function in HARMLESS_OUTSIDE:
        function()


def test_what_exists_only_within_a_workflow_refuses_with_the_callers_place() -> None:
    def stand_in(refusal: Callable[[str, str], ForbiddenCallError]) -> ForbiddenCallError:
        return refusal("loop.getaddrinfo", "use an activity")

    own = FunctionType(stand_in.__code__, {"__name__": "perdure.replay.loop"})
    error = own(guard.refusal)
    assert (error.call, error.advice, error.filename) == ("loop.getaddrinfo", "use an activity", __file__)
    assert error.lineno == stand_in.__code__.co_firstlineno + 4
