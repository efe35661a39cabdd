"""What the examples' tests share: an engine on virtual time, and a worker for one example."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from perdure.testing import WorkflowEnvironment
from perdure.worker import Worker

Stage = Callable[[Sequence[Any], Sequence[Any]], AbstractAsyncContextManager[WorkflowEnvironment]]


@asynccontextmanager
async def _stage(workflows: Sequence[Any], activities: Sequence[Any]) -> AsyncIterator[WorkflowEnvironment]:
    async with await WorkflowEnvironment.start_time_skipping() as env:
        async with Worker(env.client, task_queue="default", workflows=workflows, activities=activities):
            yield env


@pytest.fixture
def stage() -> Stage:
    """``async with stage([workflow], [activity]) as env``: both served, on virtual time."""
    return _stage
