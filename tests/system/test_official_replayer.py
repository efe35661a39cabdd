"""What our engine and worker write together, Temporal's own SDK replays: event for event, workflow by workflow.

The workflows of `twins` are the same source for both SDKs. They run on ours, in virtual time; the unmodified
`temporalio` replayer, whose core checks each event against the commands the code makes, has to accept every history.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
from types import ModuleType

import pytest
import temporalio.client
import temporalio.worker

from perdure.api import messages as m
from perdure.client import WorkflowHistory
from perdure.testing import Replayer
from tests.system import twins
from tests.system.lives import Life, Lives
from tests.system.twin_activities import ACTIVITIES
from tests.system.twin_stories import STORIES


def official_twins(ours: ModuleType) -> ModuleType:
    """The same source, written with Temporal's SDK."""
    module = ModuleType(f"{ours.__name__}_official")
    sys.modules[module.__name__] = module
    source = inspect.getsource(ours).replace("from perdure", "from temporalio")
    exec(compile(source, f"{ours.__file__} for temporalio", "exec"), module.__dict__)
    return module


CHECKS_IDS = 1
OURS = twins.WORKFLOWS
THEIRS = official_twins(twins).WORKFLOWS


def told(name: str, **options: object) -> tuple[object, list[WorkflowHistory]]:
    lives = Lives(workflows=OURS, activities=ACTIVITIES, **options)  # type: ignore[arg-type]

    async def story(life: Life) -> tuple[object, list[WorkflowHistory]]:
        result = await STORIES[name][0](life)
        await life.rest()
        return result, [run for runs in (await life.histories()).values() for run in runs]

    return lives.play(story)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="perdure")


async def failures(histories: list[WorkflowHistory]) -> dict[str, str]:
    """What the official replayer says against each of these histories."""
    replayer = temporalio.worker.Replayer(
        workflows=THEIRS, workflow_runner=temporalio.worker.UnsandboxedWorkflowRunner()
    )
    found: dict[str, str] = {}
    for history in histories:
        events = m.History(events=history.events).events
        for event in events:
            if event.HasField("workflow_task_completed_event_attributes"):
                # Their core compares ids and types, too, in histories whose worker said that it does.
                event.workflow_task_completed_event_attributes.sdk_metadata.core_used_flags.append(CHECKS_IDS)
        theirs = temporalio.client.WorkflowHistory(history.workflow_id, events)
        result = await replayer.replay_workflow(theirs, raise_on_replay_failure=False)
        if result.replay_failure is not None:
            found[history.workflow_id] = repr(result.replay_failure)
    return found


@pytest.mark.parametrize("name", STORIES)
def test_the_official_replayer_accepts_it(name: str) -> None:
    result, histories = told(name)
    assert result == STORIES[name][1]
    assert asyncio.run(failures(histories)) == {}


@pytest.mark.parametrize("name", STORIES)
def test_ours_does_too(name: str) -> None:
    _, histories = told(name, worker_options={"max_cached_workflow_bytes": 0})

    async def replay() -> None:
        for history in histories:
            await Replayer(workflows=OURS).replay_workflow(history)

    asyncio.run(replay())


def test_the_check_can_fail() -> None:
    _, (history,) = told("patched")
    for event in history.events:
        if event.HasField("activity_task_scheduled_event_attributes"):
            event.activity_task_scheduled_event_attributes.activity_type.name = "other"
    assert "Nondeterminism" in asyncio.run(failures([history]))["patched"]
