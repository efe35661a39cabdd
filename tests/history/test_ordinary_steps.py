"""The ordinary step is written out; it comes to the same as the general way."""

from __future__ import annotations

import random
from typing import Any

import pytest

from perdure.api import messages as m
from perdure.engine import history as h
from perdure.engine.history import activity, commands_activity
from tests.history.scenario import Scenario, marker, payloads, retry, schedule, snapshot

STEPS = 60


def commands(chance: random.Random, number: int) -> list[m.Command]:
    """A completion's: activities mostly, one now and then under a name that is taken."""
    count = chance.choice([0, 1, 1, 1, 2, 40])
    names = [chance.choice([f"a{number}.{each}"] * 19 + ["twice"]) for each in range(count)]
    policy = retry(maximum_attempts=chance.choice([1, 3]))
    asked = [schedule(name, retry_policy=policy) for name in names]
    return [*asked, marker()] if chance.random() < 0.1 else asked


def act(scenario: Scenario, chance: random.Random, number: int) -> None:
    """Do one of the things that may be done now."""
    live = scenario.run.live
    started = [name for name, event_id in live.activity_ids.items() if event_id in live.activities]
    choices: list[Any] = [lambda: scenario.signal(request_id=str(number))]
    if live.task is not None:
        choices += [lambda: scenario.complete(*commands(chance, number))] * 4
    elif scenario.state.task_scheduled_event_id:
        choices += [scenario.start_task, lambda: scenario.step(*commands(chance, number))] * 3
    waiting = list(set(h.dispatchable_activities(scenario.run, scenario.now_ms)))
    if waiting:
        names = {item.event_id: item.activity_id for item in scenario.state.items.values()}  # type: ignore[union-attr]
        choices += [lambda: scenario.start_activity(names[min(waiting)])] * 4
    if started:
        name = chance.choice(started)
        result = chance.choice([None, payloads(b"r"), payloads(b"r" * 300)])
        choices += [lambda: scenario.complete_activity(name, result)] * 6
        choices += [lambda: scenario.fail_activity(activity_id=name)]
    chance.choice(choices)()


def play(seed: int) -> list[Any]:
    """A random run; what it was after each step."""
    chance = random.Random(seed)
    scenario = Scenario()
    seen: list[Any] = []
    for number in range(STEPS):
        act(scenario, chance, number)
        scenario.pass_time(chance.choice([0, 1, 2500]))
        seen.append((snapshot(scenario.run), list(scenario.frames)))
    return seen


@pytest.mark.parametrize("seed", range(25))
def test_both_ways_come_to_the_same(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ordinary = play(seed)

    def generally(run: Any, item: Any, held: Any, *rest: Any) -> Any:
        return activity._complete(run, item, *rest)

    monkeypatch.setattr(activity, "_complete_at_once", generally)
    monkeypatch.setattr(commands_activity, "plan_all", lambda *_: None)
    assert play(seed) == ordinary
