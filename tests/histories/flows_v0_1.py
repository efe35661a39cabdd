"""The workflows behind the golden histories of 0.1. Never edited: the recorded runs must keep replaying with them."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from perdure import RetryPolicy, activity, workflow
from perdure.exceptions import ActivityError, ApplicationError, ChildWorkflowError

MINUTE = timedelta(minutes=1)


@activity.defn(name="golden.echo", start_to_close_timeout=MINUTE)
async def echo(value: str) -> str:
    return value


@activity.defn(
    name="golden.flaky", start_to_close_timeout=MINUTE, retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1))
)
async def flaky() -> int:
    attempt = activity.info().attempt
    if attempt < 3:
        raise ApplicationError("not yet", attempt)
    return attempt


@activity.defn(name="golden.hopeless", start_to_close_timeout=MINUTE)
async def hopeless() -> None:
    raise ApplicationError("never", type="Hopeless", non_retryable=True)


@workflow.defn(name="golden.activities")
async def activities() -> list[str]:
    """One after the other, at once, retried, and finally failing."""
    found = [await echo("one")]
    found += await asyncio.gather(*(echo(name) for name in "abc"))
    found.append(str(await flaky()))
    try:
        await hopeless()
    except ActivityError as error:
        found.append(str(error.cause))
    return found


@workflow.defn(name="golden.timers")
async def timers() -> str:
    """A sleep, a timeout that fires, and one that is cancelled."""
    await asyncio.sleep(60)
    try:
        async with asyncio.timeout(30):
            await asyncio.sleep(3600)
    except TimeoutError:
        pass
    async with asyncio.timeout(3600):
        await echo("in time")
    return "done"


@workflow.defn(name="golden.chance")
async def chance() -> str:
    """Ids and chance decide what is done."""
    name = f"{workflow.uuid4()}"
    for _ in range(workflow.random().randrange(2, 5)):
        await echo(name)
    return name


@workflow.defn(name="golden.combinators")
async def combinators() -> list[str]:
    """A task group, a queue, and the first to complete."""
    queue: asyncio.Queue[str] = asyncio.Queue(maxsize=1)
    taken: list[str] = []

    async def make() -> None:
        for name in "xyz":
            await queue.put(await echo(name))

    async def take() -> None:
        for _ in range(3):
            taken.append(await queue.get())
            await asyncio.sleep(1)

    async with asyncio.TaskGroup() as group:
        group.create_task(make())
        group.create_task(take())
    tasks = [asyncio.ensure_future(asyncio.sleep(seconds)) for seconds in (30, 5)]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    return taken


@workflow.defn(name="golden.mailbox")
class Mailbox:
    """Signals, a condition with and without its timeout."""

    def __init__(self) -> None:
        self.letters: list[str] = []

    @workflow.run
    async def run(self) -> list[str]:
        await workflow.wait_condition(lambda: bool(self.letters))
        try:
            await workflow.wait_condition(lambda: len(self.letters) > 5, timeout=10)
        except TimeoutError:
            self.letters.append("late")
        return self.letters

    @workflow.signal
    async def post(self, letter: str) -> None:
        self.letters.append(await echo(letter))


@workflow.defn(name="golden.child")
async def child(fails: bool) -> str:
    """A child that may fail."""
    if fails:
        raise ApplicationError("as asked")
    return await echo("from the child")


@workflow.defn(name="golden.parent")
async def parent() -> list[str]:
    """A child that succeeds, one that fails, and a signal to a stranger."""
    me = workflow.info().workflow_id
    found = [await workflow.execute_child_workflow(child, False, id=f"{me}-good")]
    try:
        await workflow.execute_child_workflow(child, True, id=f"{me}-bad")
    except ChildWorkflowError as error:
        found.append(str(error.cause))
    try:
        await workflow.get_external_workflow_handle("nobody").signal("hello")
    except ApplicationError as error:
        found.append(type(error).__name__)
    return found


@workflow.defn(name="golden.cancelled")
async def cancelled() -> str:
    """Cleans up in a shield when it is cancelled."""
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        await asyncio.shield(echo("cleaning up"))
        raise
    return "not cancelled"


@workflow.defn(name="golden.again")
async def again(left: int) -> int:
    """Continues as new until nothing is left."""
    await echo(str(left))
    if left:
        workflow.continue_as_new(left - 1)
    return left


@workflow.defn(name="golden.steps")
async def steps() -> str:
    """Recorded functions, and a patch."""
    first = await workflow.step(str.upper, "abc")
    if workflow.patched("louder"):
        first = await workflow.step(str.__add__, first, "!")
    return first


@workflow.defn(name="golden.basket")
async def basket(limit: int) -> list[str]:
    """Sets the handler of an update while it runs, and closes while one is about to be answered."""
    items: list[str] = []
    label = await workflow.step(str.upper, "basket")

    @workflow.update
    async def put(item: str) -> int:
        items.append(await echo(item))
        return len(items)

    @put.validator
    def check(item: str) -> None:
        if not item:
            raise ValueError("nothing to put in")

    @workflow.update
    async def close() -> str:
        items.append(label)
        await workflow.wait_condition(lambda: len(items) > limit)
        return items[-1]

    await workflow.wait_condition(lambda: len(items) > limit)
    items.append("closed")
    return items


WORKFLOWS = [activities, timers, chance, combinators, Mailbox, child, parent, cancelled, again, steps, basket]
ACTIVITIES = [echo, flaky, hopeless]
