"""What the outside does to the workflows of `twins`, and what comes of it. Every story may be told again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from perdure.api import messages as m
from perdure.client import (
    WithStartWorkflowOperation,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowNotFoundError,
    WorkflowUpdateFailedError,
)
from perdure.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from perdure.exceptions import WorkflowAlreadyStartedError
from tests.system.lives import Life

__all__ = ["STORIES"]


async def start(life: Life, name: str, *args: object, id: str | None = None) -> WorkflowHandle[Any]:
    """Start a workflow, or find the one that an earlier life started."""
    id = id or name
    try:
        return await life.client.start_workflow(
            name,
            *args,
            id=id,
            request_id=f"start {id}",
            id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        )
    except WorkflowAlreadyStartedError:
        return life.client.get_workflow_handle(id)


async def simple(life: Life, name: str, *args: object) -> object:
    return await (await start(life, name, *args)).result()


async def mailbox(life: Life) -> object:
    handle = await start(life, "mailbox")
    await life.at(1)
    await life.signal("mailbox", "post", "first", request_id="1")
    await life.at(60)
    # Both reach it in one workflow task.
    await asyncio.gather(
        life.signal("mailbox", "drop", "second", request_id="2"),
        life.signal("mailbox", "post", "third", request_id="3"),
    )
    return await handle.result()


async def parent(life: Life) -> object:
    await start(life, "child", "stranger", id="stranger")
    result = await simple(life, "parent")
    with pytest.raises(WorkflowFailureError, match="TerminatedError"):
        await life.client.get_workflow_handle("child-left").result()
    assert (await life.client.get_workflow_handle("child-abandoned").describe()).status == 1
    return result


async def meddler(life: Life) -> object:
    victim = await start(life, "cleans_up", id="victim")
    listener = await start(life, "child", "listen", id="listener")
    await life.at(1)
    result = await simple(life, "meddler")
    with pytest.raises(WorkflowFailureError):
        await victim.result()
    return [result, await listener.result()]


async def cleans_up(life: Life) -> object:
    handle = await start(life, "cleans_up")
    await life.at(5)
    with suppress(WorkflowNotFoundError):  # It has been cancelled and has closed in an earlier life.
        await handle.cancel()
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()
    return type(caught.value.cause).__name__


async def fails(life: Life) -> object:
    with pytest.raises(WorkflowFailureError) as caught:
        await simple(life, "fails")
    return str(caught.value.cause)


async def conversation(life: Life) -> object:
    start_it = WithStartWorkflowOperation(
        "conversation",
        id="conversation",
        request_id="start conversation",
        id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
    )
    with suppress(WorkflowAlreadyStartedError):
        await life.client.execute_update_with_start_workflow("say", "hello", start_workflow_operation=start_it, id="1")
    handle = life.client.get_workflow_handle("conversation")

    async def update(id: str, name: str, *args: object) -> None:
        # What was rejected leaves no trace, and a run that an earlier life has closed takes no more.
        with suppress(WorkflowUpdateFailedError, WorkflowNotFoundError):
            await handle.execute_update(name, *args, id=id)

    await life.at(5)
    await update("2", "say", "nonsense")
    await update("3", "say", "well")
    await life.at(60)
    await asyncio.gather(
        update("4", "say", "but"),
        life.signal("conversation", "interrupt", "stop", request_id="5"),
        update("6", "say", "nonsense"),
        update("7", "refuse"),
        update("8", "fly"),
    )
    await update("9", "say", "good night")
    await update("10", "leave")
    return await handle.result()


async def take_up(life: Life, workflow_id: str, event_id: int) -> WorkflowHandle[Any]:
    """Reset a workflow, once."""
    request = m.ResetWorkflowExecutionRequest(
        namespace="default", reason="back", request_id="back", workflow_task_finish_event_id=event_id
    )
    request.workflow_execution.workflow_id = workflow_id
    await life.raw.reset_workflow_execution(request)
    return life.client.get_workflow_handle(workflow_id)


async def reset(life: Life) -> object:
    """Back to the first task: what came since comes again."""
    await start(life, "mailbox", id="reset")
    await life.at(1)
    await life.signal("reset", "post", "first", request_id="1")
    await life.at(5)
    handle = await take_up(life, "reset", 4)
    await life.at(60)
    await life.signal("reset", "drop", "second", request_id="2")
    await life.signal("reset", "post", "third", request_id="3")
    return await handle.result()


async def reset_conversation(life: Life) -> object:
    """Back to the first task of one that took updates: they are asked for again."""
    await conversation(life)
    handle = await take_up(life, "conversation", 4)
    return await handle.result()


async def reset_at_the_end(life: Life) -> object:
    """Back to the last task of one that has completed: what it did before is done."""
    result = await parent(life)
    (*_, closed) = (await life.histories())["parent"]
    tasks = [event.event_id for event in closed.events if event.HasField("workflow_task_completed_event_attributes")]
    handle = await take_up(life, "parent", tasks[-1])
    assert await handle.result() == result
    return result


STORIES: dict[str, tuple[Callable[[Life], Awaitable[object]], object]] = {
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
    "reset_conversation": (
        reset_conversation,
        ["but", "but?", "good night", "good night?", "hello", "hello?", "stop", "well", "well?"],
    ),
    "reset": (reset, ["first", "late", "second", "third"]),
    "reset_at_the_end": (
        reset_at_the_end,
        ["quick", "ApplicationError", "wait, told hello", "cancelled", "exists already", "child-abandoned"],
    ),
    "meddler": (meddler, [["nobody to signal", "nobody to cancel"], "listen, told hello"]),
    "cleans_up": (cleans_up, "CancelledError"),
    "fails": (fails, "Broken: broken"),
    "again": (lambda life: simple(life, "again", 2), 0),
    "conversation": (
        conversation,
        ["but", "but?", "good night", "good night?", "hello", "hello?", "stop", "well", "well?"],
    ),
    "patched": (lambda life: simple(life, "patched"), "one!?"),
}
