"""Running the `perdure` command as a user does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Perdure = Callable[..., subprocess.CompletedProcess[str]]

SHOP = """
import asyncio
import os
from dataclasses import dataclass
from datetime import timedelta

from perdure import RetryPolicy, activity, workflow
from perdure.exceptions import ApplicationError


@dataclass
class Order:
    id: str
    amount: int


@activity.defn(start_to_close_timeout=timedelta(seconds=30), retry_policy=RetryPolicy(maximum_attempts=1))
async def charge(order: Order) -> str:
    print(f"charging {order.amount}", flush=True)
    if order.amount < 0:
        raise ApplicationError("the amount is negative")
    return f"receipt {order.id}"


@activity.defn(start_to_close_timeout=timedelta(seconds=30))
async def hang(name: str) -> str:
    print(f"{name} in {os.getpid()}", flush=True)
    if not os.path.exists("go"):
        await asyncio.Event().wait()
    return name


@workflow.defn
async def fulfil(order: Order) -> str:
    return await charge(order)


@workflow.defn
async def slow(name: str) -> str:
    return await hang(name)
"""


@pytest.fixture
def environment() -> dict[str, str]:
    """The environment of a shell in which this Perdure is installed."""
    here = str(Path(sys.executable).parent)
    return os.environ | {"PATH": f"{here}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "200", "PYTHONUNBUFFERED": "1"}


@pytest.fixture
def perdure(tmp_path: Path, environment: dict[str, str]) -> Perdure:
    """Runs ``perdure …`` in the test's folder, which holds ``shop.py``."""
    (tmp_path / "shop.py").write_text(SHOP)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "perdure.cli", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)

    return run
