"""With a payload codec, what it hides is in no file of the database."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest

import perdure
from perdure import RetryPolicy, activity, workflow
from perdure.api import messages as m
from perdure.client import Client, WorkflowFailureError
from perdure.converter import DataConverter
from perdure.exceptions import ActivityError, ApplicationError

CANARY = "canary-4711"


class Mask:
    """Flips every bit."""

    async def encode(self, payloads: Sequence[m.Payload]) -> list[m.Payload]:
        return [
            m.Payload(metadata={"encoding": b"masked"}, data=bytes(255 - byte for byte in payload.SerializeToString()))
            for payload in payloads
        ]

    async def decode(self, payloads: Sequence[m.Payload]) -> list[m.Payload]:
        return [
            m.Payload.FromString(bytes(255 - byte for byte in payload.data))
            if payload.metadata.get("encoding") == b"masked"
            else payload
            for payload in payloads
        ]


@activity.defn(start_to_close_timeout=timedelta(seconds=10), retry_policy=RetryPolicy(maximum_attempts=2))
async def whispers(secret: str) -> str:
    seen = activity.heartbeat_details(str)
    activity.heartbeat(f"{secret} in a heartbeat")
    if not seen:
        raise ApplicationError("once more", f"{secret} in details")
    return seen[0]


@activity.defn(start_to_close_timeout=timedelta(seconds=10), retry_policy=RetryPolicy(maximum_attempts=1))
def fails(secret: str) -> None:
    raise ApplicationError("failed", f"{secret} in details", type="Failed")


@workflow.defn
class Secretive:
    def __init__(self) -> None:
        self.heard: list[str] = []

    @workflow.signal
    def hear(self, secret: str) -> None:
        self.heard.append(secret)

    @workflow.query
    def told(self) -> list[str]:
        return self.heard

    @workflow.run
    async def run(self, secret: str) -> list[str]:
        await workflow.wait_condition(lambda: bool(self.heard))
        step = await workflow.step(lambda: f"{secret} in a step")
        return [await whispers(secret), step, *self.heard]


@workflow.defn
async def unlucky(secret: str) -> None:
    await fails(secret)


async def test_what_is_hidden_stays_hidden(tmp_path: Path) -> None:
    converter = DataConverter(payload_codec=Mask())
    path = tmp_path / "a.db"
    async with perdure.open(
        path, workflows=[Secretive, unlucky], activities=[whispers, fails], data_converter=converter
    ) as app:
        handle = await app.start(Secretive.run, CANARY, id="s", memo={"m": f"{CANARY} in a memo"})
        await handle.signal(Secretive.hear, f"{CANARY} in a signal")
        assert await handle.query(Secretive.told) == [f"{CANARY} in a signal"]
        assert await handle.result() == [f"{CANARY} in {where}" for where in ("a heartbeat", "a step", "a signal")]
        assert (await (await handle.describe()).memo()) == {"m": f"{CANARY} in a memo"}
        assert CANARY in (await handle.fetch_history()).to_json() or any(
            CANARY.encode() in event.SerializeToString() for event in (await handle.fetch_history()).events
        )
        with pytest.raises(WorkflowFailureError) as caught:
            await app.execute(unlucky, CANARY, id="u")
        cause = caught.value.cause
        assert isinstance(cause, ActivityError)
        assert isinstance(cause.cause, ApplicationError)
        assert list(cause.cause.details) == [f"{CANARY} in details"]
        async with await Client.connect(path) as stranger:
            blind = await stranger.get_workflow_handle("s").fetch_history()
            assert not any(CANARY.encode() in event.SerializeToString() for event in blind.events)
        files = await asyncio.to_thread(lambda: [file.read_bytes() for file in tmp_path.iterdir() if file.is_file()])
    files += [file.read_bytes() for file in tmp_path.iterdir() if file.is_file()]
    assert files
    assert not any(CANARY.encode() in content for content in files)
