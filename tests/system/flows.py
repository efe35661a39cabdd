"""Four workflows that use nearly everything, and the stories of what the outside does to them."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from perdure import activity, workflow
from perdure.client import WorkflowNotFoundError, WorkflowUpdateFailedError, WorkflowUpdateStage
from perdure.common import RetryPolicy, WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from perdure.exceptions import ActivityError, ApplicationError
from perdure.workflow import ActivityCancellationType
from tests.system.lives import OUTSIDE, Life

__all__ = ["ACTIVITIES", "STORIES", "WORKFLOWS"]

MINUTE_S = 60
HOUR_S = 3600

# A saga.


@activity.defn(
    start_to_close_timeout=timedelta(seconds=30), retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1))
)
async def reserve(what: str) -> str:
    OUTSIDE.get().note(f"reserve {what}")
    if what == "hotel" and activity.info().attempt < 3:
        raise RuntimeError("the line is busy")
    if what == "car":
        raise ApplicationError("no cars left", type="SoldOut", non_retryable=True)
    return f"{what}-1"


@activity.defn(start_to_close_timeout=timedelta(seconds=30))
async def release(reference: str) -> None:
    OUTSIDE.get().note(f"release {reference}")
    if reference == "flight-1" and activity.info().attempt < 2:
        raise RuntimeError("try again")


@workflow.defn
async def book_trip(stops: list[str]) -> str:
    booked: list[str] = []
    try:
        for stop in stops:
            booked.append(await reserve(stop))
    except ActivityError as error:
        for reference in reversed(booked):
            await release(reference)
        return f"undone, since {error.cause}"
    return "booked"


async def trip_story(life: Life) -> object:
    handle = await life.client.start_workflow(book_trip, ["flight", "hotel", "car"], id="trip", request_id="start trip")
    return await handle.result()


# A parent, children that continue as new, and a workflow of its own that they signal.


@activity.defn(start_to_close_timeout=timedelta(minutes=5))
async def run_lap(name: str, lap: int) -> int:
    OUTSIDE.get().note(f"{name} runs lap {lap}")
    await asyncio.sleep(7 if name == "ann" else 11)
    return lap * 400


@workflow.defn
class Finish:
    """Waits for everybody."""

    def __init__(self) -> None:
        self.arrived: list[str] = []

    @workflow.signal
    def arrive(self, who: str) -> None:
        self.arrived.append(who)

    @workflow.run
    async def run(self, expected: int) -> list[str]:
        await workflow.wait_condition(lambda: len(self.arrived) >= expected)
        return sorted(self.arrived)


@workflow.defn
async def runner(name: str, lap: int, metres: int) -> int:
    metres += await run_lap(name, lap)
    await workflow.get_external_workflow_handle("finish").signal("arrive", f"{name} {lap}")
    if lap < 2:
        workflow.continue_as_new(args=[name, lap + 1, metres])
    return metres


@workflow.defn
async def race() -> dict[str, int]:
    names = ["ann", "bob"]
    metres = await asyncio.gather(
        *(workflow.execute_child_workflow(runner, args=[name, 1, 0], id=f"runner {name}") for name in names)
    )
    return dict(zip(names, metres, strict=True))


async def race_story(life: Life) -> object:
    finish = await life.client.start_workflow(
        "Finish",
        4,
        id="finish",
        request_id="start finish",
        id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
    )
    handle = await life.client.start_workflow(race, id="race", request_id="start race")
    return [await handle.result(), await finish.result()]


# Timers, signals, conditions, steps, and an activity that is cancelled while it heartbeats.


async def draw_lot() -> int:
    OUTSIDE.get().note("draw a lot")
    await asyncio.sleep(0.5)
    return 7


@activity.defn(start_to_close_timeout=timedelta(days=1), heartbeat_timeout=timedelta(minutes=20))
async def watch_door() -> None:
    OUTSIDE.get().note("watch the door")
    beats = activity.heartbeat_details(int)
    beat = beats[0] if beats else 0
    while True:
        beat += 1
        activity.heartbeat(beat)
        await asyncio.sleep(15 * MINUTE_S)


@workflow.defn
class Patience:
    """Waits for two approvals, watching the door meanwhile."""

    def __init__(self) -> None:
        self.approvals: list[str] = []
        self.told: list[str] = []

    @workflow.signal
    async def approve(self, who: str) -> None:
        await workflow.sleep(1)
        self.approvals.append(who)

    @workflow.query
    def so_far(self) -> list[str]:
        return self.approvals

    @workflow.run
    async def run(self) -> list[str]:
        lot = await workflow.step(draw_lot)
        self.told.append(f"lot {lot} by chance {workflow.random().randint(0, 0)}")
        watch = workflow.start_activity(
            watch_door, cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED
        )
        await workflow.sleep(timedelta(minutes=10))
        try:
            await workflow.wait_condition(lambda: len(self.approvals) >= 2, timeout=timedelta(minutes=20))
        except TimeoutError:
            self.told.append(f"{len(self.approvals)} in time")
        await workflow.wait_condition(lambda: len(self.approvals) >= 2, timeout=timedelta(days=3650))
        watch.cancel()
        try:
            await watch
        except (asyncio.CancelledError, ActivityError):
            # The latter if its worker has died, and nobody was left to hear of the cancellation.
            self.told.append("watched")
        return [*self.told, *self.approvals]


async def patience_story(life: Life) -> object:
    handle = await life.client.start_workflow("Patience", id="patience", request_id="start patience")
    await life.at(5 * MINUTE_S)
    await life.signal("patience", "approve", "ann", request_id="first")
    await life.at(HOUR_S)
    await life.signal("patience", "approve", "bob", request_id="second")
    return await handle.result()


# Updates: rejected, accepted and followed, answered after a timer and an activity, and by a run that ends with them.


@workflow.defn
class Auction:
    """Takes bids until the hammer falls."""

    def __init__(self) -> None:
        self.bids: list[str] = []
        self.highest = 0
        self.over = False

    @workflow.update
    async def bid(self, who: str, price: int) -> str:
        self.highest = price
        await workflow.sleep(MINUTE_S)
        lot = await reserve(f"seat of {who}")
        self.bids.append(f"{who} {price}")
        return lot

    @bid.validator
    def check_bid(self, who: str, price: int) -> None:
        if price <= self.highest:
            raise ApplicationError(f"{who} must bid more", type="TooLow")

    @workflow.update
    def fall(self) -> int:
        self.over = True
        return self.highest

    @workflow.run
    async def run(self) -> list[str]:
        await workflow.wait_condition(lambda: self.over and workflow.all_handlers_finished())
        return self.bids


async def update(life: Life, name: str, *args: object, id: str) -> object:
    """An update's result, or "refused"; one that comes when all is over was refused in an earlier life."""
    handle = life.client.get_workflow_handle("auction")
    try:
        return await handle.execute_update(name, args=args, id=id)
    except (WorkflowUpdateFailedError, WorkflowNotFoundError):
        return "refused"


async def auction_story(life: Life) -> object:
    handle = await life.client.start_workflow(
        "Auction",
        id="auction",
        request_id="start auction",
        id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
    )
    told = [await update(life, "bid", "ann", 5, id="first"), await update(life, "bid", "bob", 4, id="low")]
    told += [await update(life, "bid", who, price, id=who) for price, who in enumerate(("dan", "eve"), 6)]
    auction = life.client.get_workflow_handle("auction")
    last = await auction.start_update("bid", args=["cid", 9], id="last", wait_for_stage=WorkflowUpdateStage.ACCEPTED)
    await life.at(3 * MINUTE_S + 30)
    told.append(await update(life, "fall", id="fall"))
    return [*told, await last.result(), await handle.result()]


WORKFLOWS = [book_trip, Finish, runner, race, Patience, Auction]
ACTIVITIES = [reserve, release, run_lap, watch_door]
STORIES = {"trip": trip_story, "race": race_story, "patience": patience_story, "auction": auction_story}
