"""Parents and children, retries and deadlines: each story with a process that dies at each commit boundary."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from perdure import activity, workflow
from perdure.client import WorkflowFailureError, WorkflowHandle, WorkflowNotFoundError
from perdure.common import ParentClosePolicy, RetryPolicy, WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from perdure.engine import EngineConfig
from perdure.exceptions import ApplicationError, ChildWorkflowError, WorkflowAlreadyStartedError
from tests.system.lives import NEVER_S, OUTSIDE, Life, Lives, killed_at
from tests.system.plain import names

MINUTE = timedelta(minutes=1)
DAY_S = 24 * 3600
RUNNING, COMPLETED, FAILED, CANCELED, TERMINATED, CONTINUED, TIMED_OUT = range(1, 8)


@activity.defn(start_to_close_timeout=MINUTE)
async def tidy(what: str) -> None:
    OUTSIDE.get().note(f"tidy {what}")


@workflow.defn
class Ward:
    """Lives until it is let go; tidies up when it is cancelled."""

    def __init__(self) -> None:
        self.free = False

    @workflow.signal
    def let_go(self) -> None:
        self.free = True

    @workflow.run
    async def run(self) -> str:
        try:
            await workflow.wait_condition(lambda: self.free)
        except asyncio.CancelledError:
            await asyncio.shield(tidy(workflow.info().workflow_id))
            raise
        return "free"


POLICIES = {
    "abandoned": ParentClosePolicy.ABANDON,
    "terminated": ParentClosePolicy.TERMINATE,
    "cancelled": ParentClosePolicy.REQUEST_CANCEL,
}


@workflow.defn
async def guardian(how: str) -> str:
    for name, policy in POLICIES.items():
        with suppress(WorkflowAlreadyStartedError):  # The run before this one left it.
            await workflow.start_child_workflow("Ward", id=name, parent_close_policy=policy)
    match how:
        case "fails":
            raise ApplicationError("I am no good")
        case "continues":
            workflow.continue_as_new("completes")
        case "completes":
            return "done"
        case _:
            await workflow.sleep(3600)
            return "too late"


@workflow.defn
async def hasty_guardian() -> str:
    """Closes in the task that starts its children: they may not even have begun."""
    children = [
        asyncio.ensure_future(workflow.execute_child_workflow("Ward", id=name, parent_close_policy=policy))
        for name, policy in POLICIES.items()
    ]
    await asyncio.sleep(0)
    del children
    return "done"


@workflow.defn
async def stubborn() -> int:
    attempt = workflow.info().attempt
    await tidy(f"attempt {attempt}")
    if attempt < 3:
        raise ApplicationError("not yet")
    return attempt


@workflow.defn
async def hopeful() -> None:
    """Fails for ever: its execution timeout ends it."""
    raise ApplicationError("never")


@workflow.defn
async def sleeper(seconds: int) -> str:
    await workflow.sleep(seconds)
    return "awake"


@workflow.defn
async def starts_over(laps: int) -> list[int]:
    """Fails once, then continues as new: attempts are counted anew."""
    attempt = workflow.info().attempt
    if laps == 0:
        return [attempt]
    if attempt == 1:
        raise ApplicationError("once more")
    workflow.continue_as_new(laps - 1)


@workflow.defn
async def has_a_cron_child() -> None:
    await workflow.execute_child_workflow("sleeper", 1, id="cron", cron_schedule="* * * * *")


@workflow.defn
async def mother() -> list[str]:
    """Hears of how each of her children ends."""
    found: list[str] = []
    for name, options in {
        "retried": {"retry_policy": RetryPolicy(initial_interval=timedelta(seconds=2))},
        "slow": {"run_timeout": timedelta(seconds=30)},
        "doomed": {},
    }.items():
        kind, args = ("stubborn", []) if name == "retried" else ("sleeper", [9999])
        try:
            found.append(str(await workflow.execute_child_workflow(kind, args=args, id=name, **options)))
        except ChildWorkflowError as error:
            found.append(type(error.cause).__name__)
    return found


WORKFLOWS = [Ward, guardian, hasty_guardian, stubborn, hopeful, sleeper, starts_over, has_a_cron_child, mother]


async def start(life: Life, name: str, *args: object, **options: Any) -> WorkflowHandle[Any]:
    try:
        return await life.client.start_workflow(
            name,
            *args,
            id=name,
            request_id=f"start {name}",
            id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            **options,
        )
    except WorkflowAlreadyStartedError:
        return life.client.get_workflow_handle(name)


async def end_of(handle: WorkflowHandle[Any]) -> str:
    try:
        return str(await handle.result())
    except WorkflowFailureError as error:
        return type(error.cause).__name__


async def wards(life: Life) -> dict[str, int]:
    """The status of each ward that there is, once all is quiet; the abandoned one runs until it is let go."""
    found: dict[str, int] = {}
    # What was in the way of a message may have to pass, and an activity whose worker has died waits for its timeout.
    for second in range(100):
        await life.rest()
        for name in POLICIES:
            with suppress(WorkflowNotFoundError):
                found[name] = int((await life.client.get_workflow_handle(name).describe()).status or 0)
        if RUNNING not in (found.get("terminated"), found.get("cancelled")):
            break
        await asyncio.sleep(1 if second < 60 else MINUTE.total_seconds())
    if found["abandoned"] == COMPLETED:
        assert life.is_reborn  # It was let go in an earlier life.
        found["abandoned"] = RUNNING
    return found


async def guarded(life: Life, how: str) -> object:
    handle = await start(life, "guardian", how, run_timeout=MINUTE if how == "times out" else None)
    if how == "is terminated":
        await life.at(10)
        with suppress(WorkflowNotFoundError):
            await handle.terminate(reason="enough")
    ended = await end_of(handle)
    statuses = await wards(life)
    await life.signal("abandoned", "let_go", request_id="let go")
    freed = await end_of(life.client.get_workflow_handle("abandoned"))
    return ended, statuses, freed


async def hastily_guarded(life: Life) -> object:
    ended = await end_of(await start(life, "hasty_guardian"))
    statuses = await wards(life)
    await life.signal("abandoned", "let_go", request_id="let go")
    return ended, statuses, await end_of(life.client.get_workflow_handle("abandoned"))


async def retried(life: Life) -> object:
    return await end_of(await start(life, "stubborn", retry_policy=RetryPolicy(initial_interval=timedelta(seconds=5))))


async def hoping(life: Life) -> object:
    handle = await start(
        life,
        "hopeful",
        retry_policy=RetryPolicy(initial_interval=timedelta(seconds=10)),
        execution_timeout=timedelta(seconds=65),
    )
    ended = await end_of(handle)
    runs = (await life.histories())["hopeful"]
    return ended, len(runs)


async def out_of_time(life: Life) -> object:
    """Each run has half a minute, and there are three."""
    handle = await start(
        life,
        "sleeper",
        9999,
        run_timeout=timedelta(seconds=30),
        retry_policy=RetryPolicy(initial_interval=timedelta(seconds=10), maximum_attempts=3),
    )
    ended = await end_of(handle)
    runs = (await life.histories())["sleeper"]
    starts = [run.events[0].workflow_execution_started_event_attributes for run in runs]
    assert len({attributes.first_execution_run_id for attributes in starts}) == 1
    return ended, [attributes.attempt for attributes in starts], names([run.events[-1] for run in runs])


async def started_over(life: Life) -> object:
    handle = await start(life, "starts_over", 1, retry_policy=RetryPolicy(initial_interval=timedelta(seconds=5)))
    return await handle.result()


async def delayed(life: Life) -> object:
    ended = await end_of(await start(life, "sleeper", 10, start_delay=timedelta(days=1)))
    return ended, asyncio.get_running_loop().time() >= DAY_S + 10


async def mothered(life: Life) -> object:
    handle = await start(life, "mother")
    await life.at(300)
    with suppress(WorkflowNotFoundError):
        await life.client.get_workflow_handle("doomed").terminate()
    return await handle.result()


ALL_ENDED = {"abandoned": RUNNING, "terminated": TERMINATED, "cancelled": CANCELED}
STORIES: dict[str, tuple[Callable[[Life], Awaitable[object]], object]] = {
    "completes": (lambda life: guarded(life, "completes"), ("done", ALL_ENDED, "free")),
    "fails": (lambda life: guarded(life, "fails"), ("ApplicationError", ALL_ENDED, "free")),
    "is terminated": (lambda life: guarded(life, "is terminated"), ("TerminatedError", ALL_ENDED, "free")),
    "times out": (lambda life: guarded(life, "times out"), ("TimeoutError", ALL_ENDED, "free")),
    "hasty": (hastily_guarded, ("done", {"abandoned": RUNNING}, "free")),
    "retried": (retried, "3"),
    "hoping": (hoping, ("ApplicationError", 3)),
    "out of time": (out_of_time, ("TimeoutError", [1, 2, 3], ["WorkflowExecutionTimedOut"] * 3)),
    "started over": (started_over, [1]),
    "delayed": (delayed, ("awake", True)),
    "mothered": (mothered, ["3", "TimeoutError", "TerminatedError"]),
}


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="perdure")


def play(name: str, **options: Any) -> tuple[Lives, object]:
    lives = Lives(workflows=WORKFLOWS, activities=[tidy], **options)
    return lives, lives.play(STORIES[name][0])


@pytest.mark.parametrize("name", STORIES)
def test_as_it_should_be_and_whenever_the_process_dies(name: str) -> None:
    undisturbed, result = play(name)
    assert result == STORIES[name][1]
    for commit in range(1, undisturbed.commits + 1):
        for when in ("before", "after"):
            hook, _ = killed_at(commit)
            lives, again = play(name, **{when: hook})
            assert again == result, f"{when} commit {commit} of {undisturbed.commits}"
            assert lives.ledger.repeated == []


def test_a_cron_child_runs_until_its_parent_ends() -> None:
    async def story(life: Life) -> None:
        await start(life, "has_a_cron_child")
        child = life.client.get_workflow_handle("cron")
        await life.rest()
        first = (await child.describe()).run_id
        await life.at(200)
        described = await child.describe()
        assert described.run_id != first
        assert described.status == RUNNING
        await life.client.get_workflow_handle("has_a_cron_child").terminate()
        await life.rest()
        assert (await child.describe()).status == TERMINATED

    Lives(workflows=WORKFLOWS, activities=[tidy]).play(story)


def test_continuing_as_new_is_a_close_too() -> None:
    """The policies apply to the children of the run that continued."""

    async def story(life: Life) -> object:
        await end_of(await start(life, "guardian", "continues"))
        return await wards(life)

    statuses = Lives(workflows=WORKFLOWS, activities=[tidy]).play(story)
    assert statuses == ALL_ENDED


def test_nothing_is_left_when_retention_is_over() -> None:
    config = EngineConfig(poll_timeout_s=NEVER_S)
    lives = Lives(workflows=WORKFLOWS, activities=[tidy], config=config)

    async def live(life: Life) -> None:
        for name in ("guardian", "stubborn", "mother"):
            story = {"guardian": lambda life: guarded(life, "fails"), "stubborn": retried, "mother": mothered}[name]
            await story(life)
        await start(life, "sleeper", 30 * DAY_S)
        await life.rest()
        assert len(lives.state.runs) > 8

    lives.play(live)

    async def look_on(life: Life) -> None:
        await life.at(10 * DAY_S)
        await life.rest()

    lives.play(look_on)
    (sleeper_key,) = lives.state.runs
    state = lives.state
    for rows in (state.histories, state.visibility):
        assert set(rows) == {sleeper_key}
    assert {key for key, items in state.items.items() if items} <= {sleeper_key}
    assert set(state.currents.values()) == {sleeper_key}
    assert set(state.run_keys.values()) == {sleeper_key}
    assert {key for _, key in state.wakes} == {sleeper_key}
    assert set(state.attributes) <= {sleeper_key}
    lives.config = replace(config, erase_closed=False)

    async def wake(life: Life) -> object:
        return await life.client.get_workflow_handle("sleeper").result()

    assert lives.play(wake) == "awake"
