"""Updates, by Temporal's own client and worker."""

from __future__ import annotations

from datetime import timedelta

import pytest
from temporalio import workflow
from temporalio.client import Client, WorkflowUpdateFailedError, WorkflowUpdateStage
from temporalio.exceptions import ApplicationError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

QUEUE = "updates"


@workflow.defn
class Basket:
    def __init__(self) -> None:
        self.items: list[str] = []
        self.over = False

    @workflow.run
    async def run(self) -> list[str]:
        await workflow.wait_condition(lambda: self.over)
        return self.items

    @workflow.update
    async def add(self, item: str) -> int:
        self.items.append(item)
        return len(self.items)

    @add.validator
    def check(self, item: str) -> None:
        if not item:
            raise ApplicationError("an item has a name", type="Nameless")

    @workflow.update
    async def slow(self, item: str) -> int:
        await workflow.sleep(timedelta(milliseconds=10))
        self.items.append(item)
        return len(self.items)

    @workflow.signal
    def finish(self) -> None:
        self.over = True


def worker(client: Client) -> Worker:
    return Worker(client, task_queue=QUEUE, workflows=[Basket], workflow_runner=UnsandboxedWorkflowRunner())


async def test_an_update_is_accepted_rejected_and_followed(client: Client) -> None:
    async with worker(client):
        handle = await client.start_workflow(Basket.run, id="a", task_queue=QUEUE)
        assert await handle.execute_update(Basket.add, "x") == 1
        with pytest.raises(WorkflowUpdateFailedError) as refused:
            await handle.execute_update(Basket.add, "")
        assert isinstance(refused.value.cause, ApplicationError)
        assert refused.value.cause.type == "Nameless"
        assert await handle.execute_update(Basket.slow, "y") == 2
        update = await handle.start_update(Basket.slow, "z", wait_for_stage=WorkflowUpdateStage.ACCEPTED)
        assert await update.result() == 3
        await handle.signal(Basket.finish)
        assert await handle.result() == ["x", "y", "z"]
