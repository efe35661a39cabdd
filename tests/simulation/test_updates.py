"""Updates in a world whose engine dies at every commit boundary, or whose commits go wrong by chance.

What was acknowledged stays: a completed update is in the history once, with the outcome its client was told. Rejected
ones leave nothing. Clients repeat what got no answer, with the same ids.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.engine import EngineConfig
from tests.service import support as do
from tests.service.support import Driver, turns
from tests.service.updating import acceptance, both, place, rejection, response, update_request
from tests.simulation.test_crash_points import crash_at
from tests.simulation.test_faults import Faults
from tests.simulation.world import World

T = m.EventType
ASKED = ("now 1", "refuse 1", "later 1", "now 2", "start 1", "later 2", "refuse 2", "last")
"""What clients ask, one after the other; the first word says what the worker makes of it."""


def updates_in(events: Sequence[m.HistoryEvent]) -> tuple[dict[str, int], dict[str, m.Outcome]]:
    """Accepted updates by id with how often they were, and the outcomes of completed ones."""
    accepted: dict[str, int] = {}
    completed: dict[str, m.Outcome] = {}
    for event in events:
        if event.event_type == T.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED:
            update_id = event.workflow_execution_update_accepted_event_attributes.protocol_instance_id
            accepted[update_id] = accepted.get(update_id, 0) + 1
        elif event.event_type == T.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED:
            about = event.workflow_execution_update_completed_event_attributes
            assert about.meta.update_id not in completed, "completed twice"
            completed[about.meta.update_id] = about.outcome
    return accepted, completed


def decide(events: Sequence[m.HistoryEvent], asked: Sequence[m.Message]) -> tuple[list[m.Command], list[m.Message]]:
    """A worker that answers from the history and the messages alone."""
    commands: list[m.Command] = []
    said: list[m.Message] = []
    accepted, completed = updates_in(events)
    for message in asked:
        update_id = message.protocol_instance_id
        kind = update_id.split()[0]
        if kind == "refuse":
            said.append(rejection(update_id))
            continue
        mine = [acceptance(update_id)]
        if kind != "later":
            mine.append(response(update_id, f"did {update_id}"))
        said += mine
        commands += map(place, mine)
        if kind == "later":
            commands.append(do.start_timer(update_id, 30))
        if kind == "last":
            commands.append(do.complete_workflow("desk"))
    fired = {
        event.timer_fired_event_attributes.timer_id for event in events if event.event_type == T.EVENT_TYPE_TIMER_FIRED
    }
    for update_id in accepted.keys() - completed.keys():
        if update_id in fired:
            answer = response(update_id, f"did {update_id}")
            said.append(answer)
            commands.append(place(answer))
    return commands, said


class Desk(World):
    """A workflow that does nothing but answer updates, and a client that asks for one after the other."""

    def __init__(self, **hooks: object) -> None:
        super().__init__(**hooks)  # type: ignore[arg-type]
        self.told: dict[str, m.Outcome] = {}
        self._asking: asyncio.Future[None] | None = None
        self._asked: Driver | None = None
        """The engine that is asked; what an earlier one was asked is over."""

    async def _client(self, driver: Driver, workflow_types: Sequence[str]) -> bool:
        moved = False
        if self._asked is not driver:
            if self._asking is not None:
                await asyncio.gather(self._asking, return_exceptions=True)
            self._asking, self._asked = None, driver
        if self._asking is not None and self._asking.done():
            asking, self._asking = self._asking, None
            moved = await self._try(asking)
        left = [name for name in ASKED if name not in self.told]
        if left and self._asking is None:
            self._asking = asyncio.ensure_future(self._ask(driver, left[0]))
            moved = True
        await turns()
        return moved

    async def _ask(self, driver: Driver, name: str) -> None:
        """One attempt: it may come back without an outcome, and is made again then."""
        try:
            if name.startswith("start") or len(self.told) == 0:
                request = both(driver, "desk", name, request_id="start desk")
                start = request.operations[0].start_workflow
                start.workflow_type.name = "desk"
                start.workflow_id_conflict_policy = m.WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING
                multi = await driver.service.execute_multi_operation(request)
                answer = multi.responses[1].update_workflow
            else:
                answer = await driver.service.update_workflow_execution(update_request("desk", name))
        except RpcError as error:
            if error.code is StatusCode.NOT_FOUND:
                assert name == "refuse 2", "only a rejection may be forgotten by a run that is over"
            raise
        if answer.HasField("outcome"):
            self.told[name] = answer.outcome

    async def _work(self, driver: Driver) -> bool:
        task = await driver.poll()
        if not task.task_token:
            await driver.rest()
            return self._asking is not None and self._asking.done()
        commands, said = decide(task.history.events, task.messages)
        await self._try(driver.complete(task, *commands, messages=said))
        return True

    async def _is_over(self, driver: Driver, workflow_types: Sequence[str]) -> bool:
        if len(self.told) < len(ASKED) or await driver.status("desk") == "RUNNING":
            return False
        accepted, completed = updates_in(await driver.history("desk"))
        assert set(accepted.values()) == {1}
        for name, outcome in self.told.items():
            if name.startswith("refuse"):
                assert name not in accepted and outcome.HasField("failure")
                continue
            assert completed.pop(name) == outcome
            assert do.text_of(outcome.success) == f"did {name}"
        assert not completed
        return True


async def played(**hooks: object) -> Desk:
    desk = Desk(**hooks)
    await desk.play("desk")
    return desk


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_crash_at_every_commit_boundary(when: str) -> None:
    commits = (await played()).commits
    assert commits > 8
    for commit in range(1, commits + 1):
        hook, seen = crash_at(commit)
        try:
            desk = await played(**{when: hook})
        except AssertionError as error:
            error.add_note(f"crashed {when} commit {commit} of {commits}")
            raise
        assert seen[0] >= commit
        assert desk.engines == 2, f"commit {commit} should have killed the engine"


@pytest.mark.parametrize("seed", range(30))
async def test_everything_is_answered_whatever_fails(seed: int) -> None:
    faults = Faults(seed)
    await played(before=faults.before, after=faults.after)


@pytest.mark.parametrize("seed", range(5))
async def test_everything_is_answered_with_no_room_in_memory(seed: int) -> None:
    faults = Faults(seed)
    desk = Desk(before=faults.before, after=faults.after)
    await desk.play("desk", config=EngineConfig(cache_bytes=1))
