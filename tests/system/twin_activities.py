"""The activities of `twins`."""

from __future__ import annotations

import asyncio

from perdure import activity
from perdure.exceptions import ApplicationError


@activity.defn
async def echo(value: str) -> str:
    return value


@activity.defn
async def flaky(value: str) -> str:
    if activity.info().attempt < 3:
        raise RuntimeError("not yet")
    return value


@activity.defn
async def hopeless() -> None:
    raise ApplicationError("never", type="Hopeless", non_retryable=True)


@activity.defn
async def endless() -> None:
    activity.heartbeat("beat")
    await activity.wait_for_cancelled()
    raise asyncio.CancelledError


@activity.defn
async def stubborn() -> str:
    activity.heartbeat()
    try:
        await asyncio.sleep(5000)
    except asyncio.CancelledError:
        return "done all the same"
    return "undisturbed"


@activity.defn
async def late() -> None:
    await asyncio.sleep(3600)


ACTIVITIES = [echo, flaky, hopeless, endless, stubborn, late]
