"""Workflows whose source runs on both SDKs: with `temporalio` in place of `perdure` in its imports it is Temporal's."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from perdure import workflow
from perdure.common import RetryPolicy
from perdure.exceptions import (
    ActivityError,
    ApplicationError,
    ChildWorkflowError,
    FailureError,
    WorkflowAlreadyStartedError,
)

SPAN = timedelta(minutes=1)
RETRY = RetryPolicy(initial_interval=timedelta(seconds=1))


@workflow.defn(name="activities")
class Activities:
    @workflow.run
    async def run(self) -> list[str]:
        found = [await workflow.execute_activity("echo", "one", start_to_close_timeout=SPAN)]
        found += await asyncio.gather(
            *(workflow.execute_activity("echo", name, start_to_close_timeout=SPAN) for name in "abc")
        )
        found.append(await workflow.execute_activity("flaky", "three", start_to_close_timeout=SPAN, retry_policy=RETRY))
        try:
            await workflow.execute_activity("hopeless", start_to_close_timeout=SPAN)
        except ActivityError as error:
            found.append(type(error.cause).__name__)
        try:
            await workflow.execute_activity(
                "late", start_to_close_timeout=SPAN, retry_policy=RetryPolicy(maximum_attempts=2)
            )
        except ActivityError as error:
            found.append(type(error.cause).__name__)
        return found


@workflow.defn(name="cancelled_activities")
class CancelledActivities:
    @workflow.run
    async def run(self) -> list[str]:
        found: list[str] = []
        kinds = workflow.ActivityCancellationType
        for name, kind in [
            ("endless", kinds.WAIT_CANCELLATION_COMPLETED),
            ("stubborn", kinds.WAIT_CANCELLATION_COMPLETED),
            ("endless", kinds.TRY_CANCEL),
            ("endless", kinds.ABANDON),
        ]:
            handle = workflow.start_activity(
                name, start_to_close_timeout=timedelta(hours=2), cancellation_type=kind, heartbeat_timeout=SPAN
            )
            await workflow.sleep(1)
            handle.cancel()
            try:
                found.append(str(await handle))
            except (asyncio.CancelledError, ActivityError):
                found.append(f"{name} {int(kind)} cancelled")
        never = workflow.start_activity("echo", "x", start_to_close_timeout=SPAN, task_queue="nobody listens here")
        await workflow.sleep(1)
        never.cancel()
        try:
            await never
        except (asyncio.CancelledError, ActivityError):
            found.append("never began")
        taken_back = workflow.start_activity("echo", "x", start_to_close_timeout=SPAN)
        taken_back.cancel()
        try:
            await taken_back
        except (asyncio.CancelledError, ActivityError):
            found.append("taken back")
        return found


@workflow.defn(name="timers")
class Timers:
    @workflow.run
    async def run(self) -> str:
        await asyncio.sleep(5)
        await workflow.sleep(timedelta(days=400))
        long, short = asyncio.create_task(asyncio.sleep(900)), asyncio.create_task(asyncio.sleep(3))
        await asyncio.wait([long, short], return_when=asyncio.FIRST_COMPLETED)
        long.cancel()
        try:
            async with asyncio.timeout(7):
                await asyncio.sleep(100)
        except TimeoutError:
            pass
        taken_back = asyncio.create_task(asyncio.sleep(50))
        await asyncio.sleep(0)
        taken_back.cancel()
        return "rested"


@workflow.defn(name="mailbox")
class Mailbox:
    def __init__(self) -> None:
        self.letters: list[str] = []

    @workflow.signal
    async def post(self, letter: str) -> None:
        self.letters.append(await workflow.execute_activity("echo", letter, start_to_close_timeout=SPAN))

    @workflow.signal
    def drop(self, letter: str) -> None:
        self.letters.append(letter)

    @workflow.run
    async def run(self) -> list[str]:
        await workflow.wait_condition(lambda: len(self.letters) >= 1)
        try:
            await workflow.wait_condition(lambda: len(self.letters) > 7, timeout=timedelta(seconds=30))
        except TimeoutError:
            self.letters.append("late")
        await workflow.wait_condition(lambda: len(self.letters) > 3, timeout=timedelta(days=30))
        return self.letters


@workflow.defn(name="child")
class Child:
    def __init__(self) -> None:
        self.told = ""

    @workflow.signal
    def tell(self, what: str) -> None:
        self.told = what

    @workflow.run
    async def run(self, how: str) -> str:
        if how == "fail":
            raise ApplicationError("as asked", type="Asked")
        if how == "quick":
            return "quick"
        await workflow.wait_condition(lambda: bool(self.told))
        return f"{how}, told {self.told}"


@workflow.defn(name="parent")
class Parent:
    @workflow.run
    async def run(self) -> list[str]:
        found = [await workflow.execute_child_workflow("child", "quick", id="child-quick")]
        try:
            await workflow.execute_child_workflow("child", "fail", id="child-fail")
        except ChildWorkflowError as error:
            found.append(type(error.cause).__name__)
        told = await workflow.start_child_workflow("child", "wait", id="child-told")
        await told.signal("tell", "hello")
        found.append(await told)
        doomed = await workflow.start_child_workflow("child", "wait", id="child-doomed")
        await workflow.sleep(1)
        doomed.cancel()
        try:
            await doomed
        except (asyncio.CancelledError, ChildWorkflowError):
            found.append("cancelled")
        try:
            await workflow.execute_child_workflow("child", "wait", id="stranger")
        except FailureError:
            found.append("exists already")
        except WorkflowAlreadyStartedError:
            found.append("exists already")
        abandoned = await workflow.start_child_workflow(
            "child", "wait", id="child-abandoned", parent_close_policy=workflow.ParentClosePolicy.ABANDON
        )
        found.append(abandoned.id)
        await workflow.start_child_workflow("child", "wait", id="child-left")
        return found


@workflow.defn(name="meddler")
class Meddler:
    @workflow.run
    async def run(self) -> list[str]:
        found: list[str] = []
        nobody = workflow.get_external_workflow_handle("nobody")
        try:
            await nobody.signal("tell", "x")
        except ApplicationError:
            found.append("nobody to signal")
        try:
            await nobody.cancel()
        except ApplicationError:
            found.append("nobody to cancel")
        await workflow.get_external_workflow_handle("victim").cancel()
        await workflow.get_external_workflow_handle("listener").signal("tell", "hello")
        return found


@workflow.defn(name="cleans_up")
class CleansUp:
    @workflow.run
    async def run(self) -> None:
        try:
            await workflow.sleep(timedelta(days=1))
        finally:
            await workflow.execute_activity("echo", "clean", start_to_close_timeout=SPAN)


@workflow.defn(name="fails")
class Fails:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity("echo", "before", start_to_close_timeout=SPAN)
        raise ApplicationError("broken", type="Broken")


@workflow.defn(name="again")
class Again:
    @workflow.run
    async def run(self, left: int) -> int:
        await workflow.execute_activity("echo", str(left), start_to_close_timeout=SPAN)
        if left:
            workflow.continue_as_new(left - 1)
        return left


@workflow.defn(name="patched")
class Patched:
    @workflow.run
    async def run(self) -> str:
        found = await workflow.execute_activity("echo", "one", start_to_close_timeout=SPAN)
        if workflow.patched("louder"):
            found += await workflow.execute_activity("echo", "!", start_to_close_timeout=SPAN)
        workflow.upsert_memo({"mood": "loud"})
        await workflow.sleep(1)
        if workflow.patched("louder"):
            found += await workflow.execute_activity("echo", "?", start_to_close_timeout=SPAN)
        return found


@workflow.defn(name="conversation")
class Conversation:
    def __init__(self) -> None:
        self.said: list[str] = []
        self.left = False

    @workflow.run
    async def run(self) -> list[str]:
        await workflow.execute_activity("echo", "begin", start_to_close_timeout=SPAN)
        await workflow.wait_condition(lambda: self.left)
        await workflow.wait_condition(workflow.all_handlers_finished)
        return sorted(self.said)

    @workflow.signal
    async def interrupt(self, text: str) -> None:
        self.said.append(await workflow.execute_activity("echo", text, start_to_close_timeout=SPAN))

    @workflow.update
    async def say(self, text: str) -> str:
        self.said.append(text)
        answer: str = await workflow.execute_activity("echo", f"{text}?", start_to_close_timeout=SPAN)
        self.said.append(answer)
        return answer

    @say.validator
    def check_text(self, text: str) -> None:
        if text == "nonsense":
            raise ValueError("nonsense is not taken")

    @workflow.update
    async def refuse(self) -> None:
        info = workflow.current_update_info()
        await workflow.sleep(1)
        raise ApplicationError(f"no, {info.name if info else ''}", type="No")

    @workflow.update(name="leave")
    def go_away(self) -> int:
        self.left = True
        return len(self.said)


WORKFLOWS = [
    Activities,
    CancelledActivities,
    Timers,
    Mailbox,
    Child,
    Parent,
    Meddler,
    CleansUp,
    Fails,
    Again,
    Patched,
    Conversation,
]
