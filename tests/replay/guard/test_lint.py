"""The static check: what it finds in a workflow's code, what it follows, what it lets be."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any

import pytest

from perdure.exceptions import DefinitionError, Finding, ForbiddenCodeError
from perdure.replay import guard
from perdure.replay.definition import HandlerDefinition, Signature, WorkflowDefinition
from perdure.replay.lint import lint_definition, require_clean

Load = Callable[..., ModuleType]
HEADER = "# line 1\n"


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Load]:
    """``load(source, name)`` imports source text as a module; its first line is line 2, names are the originals."""
    loaded: list[str] = []
    guard.install()

    def load_module(source: str, name: str = "orders_under_lint") -> ModuleType:
        path = tmp_path / f"{name}.py"
        path.write_text(HEADER + dedent(source).lstrip("\n"))
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        loaded.append(name)
        spec.loader.exec_module(module)
        for key, value in list(vars(module).items()):
            if hasattr(value, "__perdure_guard_rule__"):
                # As if it had been imported before the guard was installed.
                setattr(module, key, value.__wrapped__)
        return module

    yield load_module
    for name in loaded:
        sys.modules.pop(name, None)


def _found(findings: list[Finding]) -> list[tuple[str, int]]:
    return [(finding.call, finding.line) for finding in findings]


def _lint(module: ModuleType, owner: str = "") -> list[tuple[str, int]]:
    if owner:
        cls = getattr(module, owner)
        return _found(lint_definition([cls.run], cls))
    return _found(lint_definition([module.run]))


# (imports, expression, what it is called)
EXPRESSIONS = [
    ("import time", "time.time()", "time.time"),
    ("from time import time", "time()", "time.time"),
    ("from time import monotonic as tick", "tick()", "time.monotonic"),
    ("from time import gmtime", "gmtime()", "time.gmtime"),
    ("import time", "time.sleep(1)", "time.sleep"),
    ("from datetime import datetime", "datetime.now()", "datetime.datetime.now"),
    ("from datetime import datetime, UTC", "datetime.now(UTC)", "datetime.datetime.now"),
    ("from datetime import datetime, UTC", "datetime.now(tz=UTC).isoformat()", "datetime.datetime.now"),
    ("import datetime", "datetime.datetime.now()", "datetime.datetime.now"),
    ("import datetime as dt", "dt.datetime.utcnow()", "datetime.datetime.utcnow"),
    ("from datetime import date", "date.today()", "datetime.date.today"),
    ("from datetime import datetime", "datetime.today()", "datetime.datetime.today"),
    ("from datetime import datetime\nclass Moment(datetime): pass", "Moment.now()", "orders_under_lint.Moment.now"),
    ("from datetime import datetime\nnow = datetime.now", "now()", "datetime.datetime.now"),
    ("import random", "random.random()", "random.random"),
    ("import random", "random.choice([1])", "random.choice"),
    ("from random import choice", "choice([1])", "random.choice"),
    ("from random import random as roll", "roll()", "random.random"),
    ("from random import Random", "Random()", "random.Random"),
    ("from secrets import token_hex", "token_hex()", "secrets.token_hex"),
    ("from uuid import uuid4", "uuid4()", "uuid.uuid4"),
    ("import uuid", "str(uuid.uuid1())", "uuid.uuid1"),
    ("from os import urandom", "urandom(4)", "os.urandom"),
    ("import os", "os.environ['HOME']", "os.environ"),
    ("from os import environ", "environ.get('HOME')", "os.environ"),
    ("from os import getenv", "getenv('HOME')", "os.getenv"),
    ("import os.path", "os.path.exists('/')", "os.path.exists"),
    ("", "open('/dev/null')", "open"),
    ("", "input()", "input"),
    ("import subprocess", "subprocess.run(['true'])", "subprocess.run"),
    ("from threading import Thread", "Thread()", "threading.Thread"),
    (
        "from concurrent.futures import ThreadPoolExecutor",
        "ThreadPoolExecutor()",
        "concurrent.futures.ThreadPoolExecutor",
    ),
    ("import socket", "socket.create_connection(('h', 1))", "socket.create_connection"),
    ("import asyncio", "await asyncio.to_thread(print)", "asyncio.to_thread"),
    ("import asyncio", "asyncio.get_running_loop().run_in_executor(None, print)", "loop.run_in_executor"),
    ("import urllib.request", "urllib.request.urlopen('http://x')", "urllib.request.urlopen"),
]

ALLOWED = [
    ("import time", "time.gmtime(0)"),
    ("from datetime import datetime", "datetime(2020, 1, 1)"),
    ("from datetime import datetime", "datetime.fromisoformat('2020-01-01')"),
    ("from random import Random", "Random(42).random()"),
    ("from random import Random", "Random(x=42)"),
    ("import uuid", "uuid.uuid5(uuid.NAMESPACE_DNS, 'x')"),
    ("from pathlib import Path", "Path('x').name"),
    ("def time(): return 1", "time()"),
    ("import asyncio", "await asyncio.sleep(1)"),
    # A function that is only mentioned may be meant for workflow.step.
    ("from datetime import datetime", "print(datetime.now)"),
    ("", "[time() for time in (int, float)]"),
    ("time = None", "time"),
]


@pytest.mark.parametrize(("imports", "expression", "call"), EXPRESSIONS)
def test_a_forbidden_call_is_found_by_what_its_name_is_bound_to(
    load: Load, imports: str, expression: str, call: str
) -> None:
    module = load(f"async def run():\n    pass\n    return {expression}\n{imports}\n")
    [finding] = lint_definition([module.run])
    assert (finding.call, finding.line, finding.file) == (call, 4, module.__file__)
    assert finding.advice
    assert str(finding).startswith(f"{module.__file__}:4: {call} ")


@pytest.mark.parametrize(("imports", "expression"), ALLOWED)
def test_what_answers_the_same_again_is_allowed(load: Load, imports: str, expression: str) -> None:
    assert _lint(load(f"{imports}\nasync def run():\n    return {expression}\n")) == []


@pytest.mark.parametrize(
    ("imports", "expression", "call"),
    [row for row in EXPRESSIONS[:14] if row[0].count("import") == len(row[0].splitlines())],
)
def test_names_imported_within_the_function(load: Load, imports: str, expression: str, call: str) -> None:
    assert _lint(load(f"async def run():\n    {imports}\n    return {expression}\n")) == [(call, 4)]


class TestFollowing:
    def test_functions_of_the_same_module(self, load: Load) -> None:
        module = load("""
            from datetime import datetime
            def deadline(days):
                return start() + days
            def start():
                return datetime.now()
            def never_called():
                return datetime.now()
            async def run():
                return deadline(3)
            """)
        assert _lint(module) == [("datetime.datetime.now", 6)]

    def test_functions_of_other_modules_of_the_user(self, load: Load) -> None:
        load("import time\ndef stamp(): return time.time()\n", "stamps_under_lint")
        module = load(
            "import stamps_under_lint as s\nfrom stamps_under_lint import stamp\nasync def run(): s.stamp(); stamp()\n"
        )
        [finding] = lint_definition([module.run])
        assert finding.file.endswith("stamps_under_lint.py")
        assert finding.line == 3

    def test_methods_of_the_workflow_and_of_its_bases(self, load: Load) -> None:
        module = load("""
            from datetime import datetime
            class Base:
                def inherited(self): return datetime.utcnow()
                def overridden(self): return datetime.today()
            class Order(Base):
                async def run(self):
                    self.helper(); self.inherited(); self.overridden(); Order.shared(); self.made()
                def helper(self): return datetime.now()
                def overridden(self): return super().overridden()
                @staticmethod
                def shared(): return datetime.now()
                @classmethod
                def made(cls): return cls.shared()
                def never(self): return datetime.now()
            """)
        found = set(_lint(module, "Order"))
        assert found == {
            ("datetime.datetime.now", 9),
            ("datetime.datetime.utcnow", 4),
            ("datetime.datetime.today", 5),
            ("datetime.datetime.now", 12),
        }
        # Without being told the class, it is found by the function's name.
        assert set(_found(lint_definition([module.Order.run]))) == found

    def test_a_class_within_a_function_when_it_is_told(self) -> None:
        from datetime import datetime

        class Order:
            async def run(self) -> None:
                self.helper()

            def helper(self) -> datetime:
                return datetime.now()  # noqa: DTZ005 - to be found

        assert [finding.call for finding in lint_definition([Order.run], Order)] == ["datetime.datetime.now"]

    def test_constructors_and_default_factories(self, load: Load) -> None:
        module = load("""
            from dataclasses import dataclass, field
            from datetime import datetime
            from uuid import uuid4
            class Plain:
                def __init__(self): self.at = datetime.now()
            @dataclass
            class Order:
                id: str
                at: datetime = field(default_factory=datetime.now)
                key: str = field(default_factory=lambda: str(uuid4()))
                def __post_init__(self): self.again = datetime.utcnow()
            async def run():
                Plain()
                Order('1')
            async def given():
                Order('1', datetime(2020, 1, 1), key='2')
            """)
        assert sorted(_lint(module)) == [
            ("datetime.datetime.now", 6),
            ("datetime.datetime.now", 15),
            ("datetime.datetime.utcnow", 12),
            ("uuid.uuid4", 11),
        ]
        assert _found(lint_definition([module.given])) == [("datetime.datetime.utcnow", 12)]

    def test_models(self, load: Load) -> None:
        pytest.importorskip("pydantic")
        module = load("""
            from datetime import datetime
            from pydantic import BaseModel, Field
            class Order(BaseModel):
                at: datetime = Field(default_factory=datetime.now)
            async def run():
                Order()
            async def given(at):
                Order(at=at)
            """)
        assert _lint(module) == [("datetime.datetime.now", 7)]
        assert lint_definition([module.given]) == []

    def test_decorated_and_wrapped_functions(self, load: Load) -> None:
        module = load("""
            import functools
            from datetime import datetime
            def logged(function):
                @functools.wraps(function)
                def inner(*args): return function(*args)
                return inner
            @logged
            def a(): return datetime.now()
            @functools.cache
            def b(): return datetime.now()
            def c(_): return datetime.now()
            d = functools.partial(c, 1)
            async def run(): a(); b(); d()
            """)
        assert _lint(module) == [("datetime.datetime.now", n) for n in (9, 11, 12)]

    def test_functions_and_comprehensions_within_functions(self, load: Load) -> None:
        module = load("""
            import time
            async def run():
                def inner(): return time.time()
                key = lambda x: (x, time.monotonic())
                return [time.time_ns() for _ in range(3)]
            """)
        assert _lint(module) == [("time.time", 4), ("time.monotonic", 5), ("time.time_ns", 6)]

    def test_recursion_ends(self, load: Load) -> None:
        assert _lint(load("def a(): b()\ndef b(): a()\nasync def run(): a()\n")) == []

    def test_closures(self, load: Load) -> None:
        module = load("""
            from datetime import datetime
            def make(clock):
                async def run(): return clock()
                return run
            run = make(datetime.now)
            """)
        assert _lint(module) == [("datetime.datetime.now", 4)]

    def test_the_standard_library_is_not_followed(self, load: Load) -> None:
        assert (
            _lint(load("import logging\nasync def run(): logging.getLogger('x').info('y'); logging.info('z')\n")) == []
        )


class TestLeftOut:
    def test_lines_marked_as_allowed(self, load: Load) -> None:
        module = load("""
            import time
            async def run():
                time.time()  # perdure: allow
                time.sleep(
                    1,  # perdure: allow - never reached
                )
                time.time()
            """)
        assert _lint(module) == [("time.time", 8)]

    def test_blocks_without_the_guard(self, load: Load) -> None:
        module = load("""
            import time
            from perdure.replay import guard
            from perdure.replay.guard import suspended
            async def run():
                with guard.suspended():
                    time.time()
                with suspended():
                    time.time()
                time.monotonic()
            """)
        assert _lint(module) == [("time.monotonic", 10)]

    def test_activities_called_directly(self, load: Load) -> None:
        module = load("""
            import time
            from datetime import timedelta
            from perdure import activity
            @activity.defn(start_to_close_timeout=timedelta(seconds=1))
            async def charge(): return time.time()
            class Payments:
                @activity.defn(start_to_close_timeout=timedelta(seconds=1))
                def refund(self): return time.time()
            payments = Payments()
            async def run():
                await charge()
                await payments.refund()
                await Payments.refund(payments)
            """)
        assert _lint(module) == []

    def test_functions_handed_to_a_step(self, load: Load) -> None:
        module = load("""
            import time
            from datetime import datetime
            def step(function, *args): ...
            step.__module__ = "perdure.workflow"
            def read(): return open("/etc/hosts").read()
            async def run():
                def local(): return time.time()
                def both(): return time.monotonic()
                await step(read)
                await step(time.time)
                await step(datetime.now)
                await step(lambda: datetime.now())
                await step(local)
                await step(both)
                both()
                await step(read, time.time_ns())
            """)
        assert sorted(_lint(module)) == [("time.monotonic", 9), ("time.time_ns", 17)]

    def test_code_without_source(self) -> None:
        namespace: dict[str, Any] = {"__name__": "nowhere"}
        exec("import time\nasync def run(): return time.time()", namespace)
        assert lint_definition([namespace["run"]]) == []


def test_all_findings_of_all_workflows_are_raised_at_once(load: Load) -> None:
    module = load("""
        import time, random
        async def first():
            time.time()
            helper()
        class Second:
            def __init__(self): self.at = time.time()
            async def run(self): helper()
            def signalled(self): self.inner()
            def inner(self): random.random()
        def helper(): random.choice([1])
        """)
    first = WorkflowDefinition(
        name="First", target=module.first, run=module.first, cls=None, signature=Signature(module.first)
    )
    handler = HandlerDefinition(
        kind="signal", name="s", fn=module.Second.signalled, signature=Signature(module.Second.signalled, skip=1)
    )
    second = WorkflowDefinition(
        name="Second",
        target=module.Second,
        run=module.Second.run,
        cls=module.Second,
        signature=Signature(module.Second.run, skip=1),
        signals={"s": handler},
    )
    with pytest.raises(ForbiddenCodeError) as caught:
        require_clean([first, second])
    assert isinstance(caught.value, DefinitionError)
    assert sorted(finding.line for finding in caught.value.findings) == [4, 7, 10, 11]
    for part in (f"{module.__file__}:4: time.time", f"{module.__file__}:10: random.random", "# perdure: allow"):
        assert part in str(caught.value)
    require_clean([])
