"""Activities in processes: a script of its own, as children import its module anew."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from perdure import activity
from perdure.converter import DataConverter
from perdure.exceptions import DefinitionError
from perdure.testing import WorkflowEnvironment

SCRIPT = """
import asyncio
import os
from dataclasses import dataclass
from datetime import timedelta

import perdure
from perdure import RetryPolicy, activity, workflow
from perdure.exceptions import ActivityError

PARENT = os.getpid()
SECONDS = timedelta(seconds=60)


@dataclass
class Image:
    name: str
    size: int


@activity.defn(executor="process", start_to_close_timeout=SECONDS)
def shrink(image: Image, factor: int) -> Image:
    assert activity.info().workflow_id == "images"
    return Image(f"{image.name} {'elsewhere' if __name__ != '__main__' else 'here'}", image.size // factor)


@activity.defn(executor="process", start_to_close_timeout=SECONDS, retry_policy=RetryPolicy(maximum_attempts=1))
def breaks() -> None:
    raise ValueError("in the child")


@activity.defn(executor="process", start_to_close_timeout=SECONDS)
def resumes() -> list[int]:
    details = activity.heartbeat_details(int)
    if not details:
        activity.heartbeat(7)
        raise RuntimeError("once more")
    return details


@activity.defn(executor="process", start_to_close_timeout=SECONDS)
def dies() -> int:
    if activity.info().attempt == 1:
        os._exit(3)
    return activity.info().attempt


@activity.defn(executor="process", start_to_close_timeout=SECONDS, heartbeat_timeout=SECONDS)
def waits() -> None:
    activity.heartbeat()
    activity.wait_for_cancelled_sync()
    activity.heartbeat()


@workflow.defn
class Images:
    def __init__(self) -> None:
        self.stop = False

    @workflow.run
    async def run(self) -> list[str]:
        said = [str(await shrink(Image("a.png", 100), 4))]
        try:
            await breaks()
        except ActivityError as error:
            said.append(str(error.cause))
        said.append(str(await resumes()))
        said.append(str(await dies()))
        running = workflow.start_activity(
            waits, cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED
        )
        await workflow.sleep(0.5)
        running.cancel()
        try:
            await running
        except asyncio.CancelledError:
            said.append("cancelled")
        return said


async def main() -> None:
    async with perdure.open("memory:", max_process_activities=1) as app:
        for line in await app.execute(Images.run, id="images"):
            print(line)


if __name__ == "__main__":
    asyncio.run(main())
"""


def test_a_script_with_process_activities(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=200)
    assert done.stdout.splitlines() == [
        "Image(name='a.png elsewhere', size=25)",
        "ValueError: in the child",
        "[7]",
        "2",
        "cancelled",
    ], done.stderr


@activity.defn(executor="process")
def fine() -> None: ...


async def test_what_a_child_could_not_run_is_refused() -> None:
    @activity.defn(executor="process")
    def local() -> None: ...

    async with await WorkflowEnvironment.start_time_skipping() as env:
        with pytest.raises(DefinitionError, match="top level of its module"):
            env.worker(activities=[local])
    async with await WorkflowEnvironment.start_time_skipping(data_converter=DataConverter()) as env:
        with pytest.raises(DefinitionError, match="default data converter"):
            env.worker(activities=[fine])
