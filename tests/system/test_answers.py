"""An answer to a query rests on what is durable, or is not given."""

from __future__ import annotations

import asyncio

import pytest

from perdure.api import StatusCode
from perdure.api import messages as m
from perdure.engine.store.memory import MemoryStore
from perdure.engine.store.port import Batch, StoreError
from tests.service import support as do
from tests.service.support import NAMESPACE, Driver


class Slow(MemoryStore):
    """A store whose commits wait while the gate is shut, and then may fail."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.fails = False

    async def commit(self, batch: Batch) -> None:
        if not self.gate.is_set():
            await self.gate.wait()
            if self.fails:
                raise StoreError("injected: try again")
        await super().commit(batch)


@pytest.mark.parametrize("fails", [True, False])
async def test_an_answer_given_while_its_ground_is_being_written(fails: bool) -> None:
    store = Slow()
    async with Driver(store) as driver:
        await driver.start()
        await driver.step()
        store.fails = fails
        store.gate.clear()
        signal = asyncio.ensure_future(driver.signal())
        request = driver.poll_request()
        task = await driver.service.poll_workflow_task_queue(request)
        completion = asyncio.ensure_future(driver.complete(task))
        await do.turns(3)
        query = asyncio.ensure_future(driver.query())
        asked = await driver.service.poll_workflow_task_queue(request)
        answer = m.RespondQueryTaskCompletedRequest(
            namespace=NAMESPACE,
            task_token=asked.task_token,
            completed_type=m.QueryResultType.QUERY_RESULT_TYPE_ANSWERED,
            query_result=do.payloads("1"),
        )
        # The commit's outcome is known first, and its waiters have not run yet when the answer comes.
        store.gate.set()
        await driver.service.respond_query_task_completed(answer)
        outcomes = await asyncio.gather(signal, completion, query, return_exceptions=True)
        if fails:
            assert [error.code for error in outcomes] == [StatusCode.UNAVAILABLE] * 3
        else:
            assert do.text_of(outcomes[2].query_result) == "1"
