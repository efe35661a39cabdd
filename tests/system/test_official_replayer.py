"""What our engine and worker write together, Temporal's own SDK replays: event for event, workflow by workflow.

The workflows of `twins` are the same source for both SDKs. They run on ours, in virtual time; the unmodified
`temporalio` replayer, whose core checks each event against the commands the code makes, has to accept every history.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
from collections.abc import Awaitable, Callable
from types import ModuleType

import pytest
import temporalio.client
import temporalio.worker

from perdure.api import messages as m
from perdure.client import WorkflowFailureError, WorkflowHistory
from perdure.testing import Replayer
from tests.system import twins
from tests.system.lives import Life, Lives
from tests.system.twin_activities import ACTIVITIES


def official_twins() -> ModuleType:
    """The same source, written with Temporal's SDK."""
    module = ModuleType("tests.system.official_twins")
    sys.modules[module.__name__] = module
    source = inspect.getsource(twins).replace("from perdure", "from temporalio")
    exec(compile(source, f"{twins.__file__} for temporalio", "exec"), module.__dict__)
    return module


CHECKS_IDS = 1
OURS = twins.WORKFLOWS
THEIRS = official_twins().WORKFLOWS


async def simple(life: Life, name: str, *args: object) -> object:
    return await life.client.execute_workflow(name, *args, id=name)


async def mailbox(life: Life) -> object:
    handle = await life.client.start_workflow("mailbox", id="mailbox")
    await life.at(1)
    await handle.signal("post", "first")
    await life.at(60)
    # Both reach it in one workflow task.
    await asyncio.gather(handle.signal("drop", "second"), handle.signal("post", "third"))
    return await handle.result()


async def parent(life: Life) -> object:
    await life.client.start_workflow("child", "stranger", id="stranger")
    result = await simple(life, "parent")
    await life.rest()
    assert (await life.client.get_workflow_handle("child-left").describe()).status == 5
    assert (await life.client.get_workflow_handle("child-abandoned").describe()).status == 1
    return result


async def meddler(life: Life) -> object:
    victim = await life.client.start_workflow("cleans_up", id="victim")
    listener = await life.client.start_workflow("child", "listen", id="listener")
    await life.at(1)
    result = await simple(life, "meddler")
    with pytest.raises(WorkflowFailureError):
        await victim.result()
    return [result, await listener.result()]


async def cleans_up(life: Life) -> object:
    handle = await life.client.start_workflow("cleans_up", id="cleans_up")
    await life.at(5)
    await handle.cancel()
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()
    return type(caught.value.cause).__name__


async def fails(life: Life) -> object:
    with pytest.raises(WorkflowFailureError) as caught:
        await simple(life, "fails")
    return str(caught.value.cause)


Told = Callable[[Life], Awaitable[object]]
STORIES: dict[str, tuple[Told, object]] = {
    "activities": (
        lambda life: simple(life, "activities"),
        ["one", "a", "b", "c", "three", "ApplicationError", "TimeoutError"],
    ),
    "cancelled_activities": (
        lambda life: simple(life, "cancelled_activities"),
        [
            "endless 1 cancelled",
            "done all the same",
            "endless 0 cancelled",
            "endless 2 cancelled",
            "never began",
            "taken back",
        ],
    ),
    "timers": (lambda life: simple(life, "timers"), "rested"),
    "mailbox": (mailbox, ["first", "late", "second", "third"]),
    "parent": (
        parent,
        ["quick", "ApplicationError", "wait, told hello", "cancelled", "exists already", "child-abandoned"],
    ),
    "meddler": (meddler, [["nobody to signal", "nobody to cancel"], "listen, told hello"]),
    "cleans_up": (cleans_up, "CancelledError"),
    "fails": (fails, "Broken: broken"),
    "again": (lambda life: simple(life, "again", 2), 0),
    "patched": (lambda life: simple(life, "patched"), "one!?"),
}


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
