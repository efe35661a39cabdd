"""Random lives of a run that is updated: the laws of `test_laws`, and those of updates."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from perdure.api import RpcError
from perdure.api import messages as m
from perdure.engine import history as h
from tests.history.scenario import Scenario, finish, retry
from tests.history.test_laws import COMMANDS, Life
from tests.history.test_updates import acceptance, place, rejection, request, response

FATE = h.UpdateFate
STAGE = h.UpdateStage
UPDATES = st.sampled_from(["u1", "u2", "u3", "u4"])
ANSWERS = st.sampled_from(["accept", "complete", "reject", "ignore"])

BEFORE = {
    FATE.ACCEPTED: {STAGE.ADMITTED},
    FATE.COMPLETED: {STAGE.ACCEPTED},
    FATE.REJECTED: {STAGE.ADMITTED},
    FATE.CLOSED: {STAGE.ADMITTED},
    FATE.MOVED: {STAGE.ADMITTED},
}
"""What an update must have been before each piece of news."""


class Updated(Life):
    """One run, its updates, and what their callers have been told of them."""

    @initialize(delay=st.sampled_from([0, 0, 5]), policy=st.none() | st.just(retry(maximum_attempts=2)))
    def begin(self, delay: int, policy: m.RetryPolicy | None) -> None:  # type: ignore[override]
        fields: dict[str, Any] = {"workflow_start_delay_s": delay}
        if policy is not None:
            fields["retry_policy"] = policy
        self.scenario = Scenario(limits=h.Limits(buffered_events=12, updates_in_flight=3, updates_per_run=12), **fields)
        self.known: dict[str, STAGE] = {}
        """Updates that somebody waits for."""
        self.completed: set[str] = set()
        take = self.scenario.take

        def told(transition: h.Transition) -> h.Transition:
            self.hear(transition)
            return take(transition)

        self.scenario.take = told  # type: ignore[method-assign]

    def hear(self, transition: h.Transition) -> None:
        for change in transition.updates or ():
            before = self.known.pop(change.update_id)
            assert before in BEFORE[change.fate], (change, before)
            if change.fate is FATE.ACCEPTED:
                self.known[change.update_id] = STAGE.ACCEPTED
            elif change.fate is FATE.COMPLETED and self.run.is_open:
                assert change.outcome is not None
                self.completed.add(change.update_id)

    @precondition(lambda self: self.run.is_open)
    @rule(update_id=UPDATES, with_start=st.booleans())
    def update(self, update_id: str, with_start: bool) -> None:
        scenario = self.scenario
        known = h.update_stage(self.run, update_id)
        arguments = {"limits": scenario.limits, "with_start": with_start, "now_ms": scenario.now_ms}
        try:
            transition = scenario.take(h.admit_update(self.run, request(update_id), **arguments))
        except RpcError:
            assert known is STAGE.NONE
            scenario.check()
            return
        if known is STAGE.NONE:
            self.known[update_id] = STAGE.ADMITTED
        else:
            assert not transition.changed and not transition.workflow_task

    @precondition(lambda self: h.workflow_task_ready(self.run, self.scenario.now_ms))
    @rule(sticky=st.booleans())
    def start_task(self, sticky: bool) -> None:
        self.scenario.start_task(sticky=sticky)
        sent = h.update_messages(self.run, sticky=sticky)
        task = self.run.live.task
        assert task is not None
        assert {message.event_id for message in sent} <= {task.started_event_id - 1}
        if not sticky:
            assert len(sent) == len(self.run.live.updates or ())

    @precondition(lambda self: self.run.live.task is not None)
    @rule(data=st.data(), capable=st.booleans(), closes=st.booleans(), force=st.booleans())
    def answer(self, data: st.DataObject, capable: bool, closes: bool, force: bool) -> None:
        commands: list[m.Command] = []
        said: list[m.Message] = []
        for update_id, update in (self.run.live.updates or {}).items():
            kind = data.draw(ANSWERS) if update.sent else "ignore"
            if kind == "reject":
                said.append(rejection(update_id))
            elif kind != "ignore":
                mine = [acceptance(update_id), *([response(update_id)] if kind == "complete" else [])]
                said += mine
                if data.draw(st.booleans()):
                    commands += map(place, mine)
        book = self.run.state.updates
        for update_id in book.accepted if book is not None else ():
            if data.draw(st.booleans()):
                said.append(response(update_id))
                commands.append(place(said[-1]))
        commands += data.draw(st.lists(COMMANDS, max_size=1))
        if closes and self.run.state.next_event_id > 40:
            commands.append(finish())
        capabilities = m.RespondWorkflowTaskCompletedRequest.Capabilities()
        capabilities.discard_speculative_workflow_task_with_events = capable
        self.scenario.complete(
            *commands, messages=said, capabilities=capabilities, force_create_new_workflow_task=force, sticky="s"
        )

    @precondition(lambda self: self.run.is_open)
    @rule(data=st.data(), capable=st.booleans(), closes=st.booleans(), force=st.booleans())
    def work(self, data: st.DataObject, capable: bool, closes: bool, force: bool) -> None:
        """A worker that is quick: it takes the task that is there, or comes with time, and answers."""
        if self.run.live.task is None:
            if not h.workflow_task_ready(self.run, self.scenario.now_ms) and self.run.state.task_not_before_ms:
                self.scenario.wait_due()
            if not h.workflow_task_ready(self.run, self.scenario.now_ms):
                return
            self.start_task(data.draw(st.booleans()))
        self.answer(data, capable, closes, force)

    @precondition(lambda self: self.run.live.task is not None)
    @rule()
    def give_back(self) -> None:
        self.scenario.take(h.release_workflow_task(self.run, now_ms=self.scenario.now_ms))

    @precondition(lambda self: self.run.state.next_event_id > 15)
    @rule()
    def crash(self) -> None:
        self.scenario.reload()
        self.known = {update_id: known for update_id, known in self.known.items() if known is STAGE.ACCEPTED}

    # -- laws

    @invariant()
    def callers_know_the_truth(self) -> None:
        if not hasattr(self, "scenario"):
            return
        if not self.run.is_open:
            assert self.known == {}
        for update_id, known in self.known.items():
            assert h.update_stage(self.run, update_id) is known
        for update_id in self.completed:
            assert h.update_stage(self.run, update_id) is STAGE.COMPLETED

    @invariant()
    def updates_reach_a_worker(self) -> None:
        if not hasattr(self, "scenario"):
            return
        run = self.run
        if h.has_unsent_updates(run) and run.live.task is None:
            assert h.pending_task_id(run) or run.state.task_not_before_ms
        if run.live.speculative:
            assert run.live.updates and run.live.task is None and not run.state.task_scheduled_event_id


TestUpdated = Updated.TestCase
TestUpdated.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
