"""Messages between runs when commits fail at the worst moment."""

from __future__ import annotations

import asyncio

from perdure.api import StatusCode
from perdure.engine.store.memory import MemoryStore
from perdure.engine.store.port import Batch, LoadedRun, StoreError
from tests.service import support as do
from tests.service.support import Driver


class Gated(MemoryStore):
    """A store whose reads wait while their gate is shut, and whose next commit may be refused."""

    def __init__(self) -> None:
        super().__init__(before_commit=self._refuse)
        self.refusals = 0
        self.looks_up = asyncio.Event()
        self.loads = asyncio.Event()
        self.open_gates()

    def open_gates(self) -> None:
        self.looks_up.set()
        self.loads.set()

    def _refuse(self, _number: int, _batch: Batch) -> None:
        if self.refusals:
            self.refusals -= 1
            raise StoreError("injected: try again")

    async def current_run(self, namespace: str, workflow_id: str) -> int | None:
        await self.looks_up.wait()
        return await super().current_run(namespace, workflow_id)

    async def load_run(self, run_key: int) -> LoadedRun | None:
        await self.loads.wait()
        return await super().load_run(run_key)


async def test_a_child_lost_while_its_parent_is_read_again_is_started_again() -> None:
    store = Gated()
    async with Driver(store) as driver:
        await driver.start("parent")
        store.looks_up.clear()
        await driver.step(do.start_child("child"))
        await do.turns(20)
        # The start of the child is under way. The parent is lost, ...
        store.refusals = 1
        store.loads.clear()
        error = await do.refusal(driver.signal("parent"))
        assert error.code is StatusCode.UNAVAILABLE
        # ... the child begins to exist, and is lost before the parent is back.
        store.refusals = 1
        store.looks_up.set()
        await do.turns(20)
        assert store.refusals == 0
        store.open_gates()
        driver.clock.advance_by(10_000)
        await driver.rest()
        assert await driver.engine.check_invariants() == []
        assert "ChildWorkflowExecutionStarted" in await driver.event_names("parent")
        assert await driver.status("child") == "RUNNING"
