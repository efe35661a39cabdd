"""Activities as decorated functions."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from perdure import RetryPolicy, activity
from perdure.activity.definition import REGISTRY, Activity
from perdure.exceptions import DefinitionError


@activity.defn
async def double(x: int) -> int:
    """Doubles."""
    return 2 * x


@activity.defn(name="thrice", start_to_close_timeout=timedelta(seconds=3), retry_policy=RetryPolicy(maximum_attempts=2))
def triple(x: int, *, note: str = "") -> int:
    return 3 * x


class Payments:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    @activity.defn
    async def charge(self, amount: int) -> int:
        return amount * self.factor

    @staticmethod
    @activity.defn
    async def refund(amount: int) -> int:
        return -amount


async def test_in_a_coroutine_calling_runs_the_function() -> None:
    assert await double(2) == 4
    assert await triple(2) == 6
    assert await Payments(5).charge(2) == 10
    assert await Payments.refund(2) == -2


def test_in_plain_code_a_plain_function_is_just_called() -> None:
    assert cast("Any", triple(2)) == 6
    assert triple.fn(2) == 6
    assert asyncio.run(double(4)) == 8


def test_what_the_decorator_keeps() -> None:
    assert double.__name__ == "double"
    assert double.__doc__ == "Doubles."
    assert double.name == "double"
    assert (triple.name, triple.is_async, double.is_async) == ("thrice", False, True)
    assert triple.defaults.start_to_close_timeout == timedelta(seconds=3)
    assert "thrice" in repr(triple)
    assert "test_definition.py" in repr(triple)


def test_options_make_another_activity() -> None:
    patient = triple.options(start_to_close_timeout=timedelta(minutes=1))
    assert patient.defaults.start_to_close_timeout == timedelta(minutes=1)
    assert patient.defaults.retry_policy == RetryPolicy(maximum_attempts=2)
    assert triple.defaults.start_to_close_timeout == timedelta(seconds=3)


def test_functions_are_registered_methods_are_not() -> None:
    listed = REGISTRY.activities()
    assert double in listed
    assert triple in listed
    assert not any(entry.__qualname__ == "Payments.charge" for entry in listed)


def test_methods_know_their_own_parameters_only() -> None:
    assert Payments.charge.signature.arg_types == (int,)
    assert Payments(1).charge.signature.arg_types == (int,)
    assert Payments.charge.is_method
    assert not Payments(1).charge.is_method
    assert Payments(1).charge.bind((), {"amount": 3}) == (3,)
    assert Payments.charge.bind((), {"amount": 3}) == (3,)


def test_keyword_arguments_travel_by_position() -> None:
    def four(a: int, b: int = 2, c: int = 3) -> None: ...

    bound: Activity[..., Any] = activity.defn(four)
    assert bound.bind((1,), {"c": 9}) == (1, 2, 9)
    with pytest.raises(TypeError, match="note can be given by keyword only"):
        triple.bind((1,), {"note": "x"})
    with pytest.raises(TypeError, match="unexpected keyword argument 'd'"):
        bound.bind((1,), {"d": 1})
    with pytest.raises(TypeError, match="takes 1 to 3 arguments, 0 given"):
        bound.bind((), {})


def test_what_cannot_be_an_activity_is_refused() -> None:
    def generator() -> Any:
        yield 1

    async def keyword_only(*, x: int) -> None: ...

    async def fine() -> None: ...

    with pytest.raises(DefinitionError, match="generator"):
        activity.defn(generator)
    with pytest.raises(DefinitionError, match="keyword-only"):
        activity.defn(keyword_only)
    with pytest.raises(DefinitionError, match="not a function"):
        activity.defn(cast("Any", Payments))
    with pytest.raises(DefinitionError, match="only plain functions run in processes"):
        activity.defn(executor="process")(fine)


def test_outside_of_an_activity_there_is_nothing_to_tell() -> None:
    assert not activity.in_activity()
    with pytest.raises(RuntimeError, match="from an activity"):
        activity.info()
    with pytest.raises(RuntimeError, match="from an activity"):
        activity.heartbeat()


TYPED = """
from datetime import timedelta
import asyncio
import perdure
from perdure import activity, workflow

@activity.defn(start_to_close_timeout=timedelta(seconds=1))
async def charge(amount: int, note: str = "") -> str: ...

@activity.defn
def resize(path: str) -> bytes: ...

class Shop:
    @activity.defn
    async def pack(self, item: str) -> list[int]: ...

@workflow.defn
async def buy(item: str, count: int = 1) -> float:
    reveal_type(await charge(3))
    reveal_type(await charge(amount=3, note="x"))
    reveal_type(await resize("a"))
    reveal_type(await Shop().pack("a"))
    reveal_type(await charge.options(task_queue="q")(3))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(resize("b"))
    reveal_type(task.result())
    await charge("wrong")
    return 1.0

@workflow.defn
class Sell:
    @workflow.run
    async def run(self, item: str) -> bytes: ...
    @workflow.query
    def price(self, currency: str) -> int: ...
    @workflow.signal
    async def hurry(self, by: int) -> None: ...

async def main() -> None:
    async with perdure.open("memory:") as app:
        reveal_type(await app.execute(buy, "pen", id="1"))
        reveal_type(await app.execute(buy, "pen", 3, id="1"))
        handle = await app.start(Sell.run, "pen", id="2")
        reveal_type(handle)
        reveal_type(await handle.query(Sell.price, "EUR"))
        await handle.signal(Sell.hurry, 5)
        reveal_type(await app.client.execute_workflow("by name", 1, result_type=int))
        reveal_type(app.client.get_workflow_handle_for(Sell.run, "2"))
        await app.execute(buy, "pen", "wrong", id="1")
        await handle.signal(Sell.hurry, "wrong")
"""

REVEALED = [
    "str",
    "str",
    "bytes",
    "list[int]",
    "str",
    "bytes",
    "float",
    "float",
    "WorkflowHandle[bytes]",
    "int",
    "int",
    "WorkflowHandle[bytes]",
]


def test_users_call_sites_type_check(tmp_path: Path) -> None:
    file = tmp_path / "typed.py"
    file.write_text(TYPED)
    checked = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = checked.stdout.splitlines()
    revealed = [line.rpartition('is "')[2].rstrip('"') for line in lines if "information: Type of" in line]
    assert revealed == REVEALED, checked.stdout
    errors = [line for line in lines if " - error:" in line]
    wrong = {number for number, line in enumerate(TYPED.splitlines(), 1) if '"wrong"' in line}
    assert {int(line.split(":")[1]) for line in errors} == wrong, checked.stdout
