"""Golden histories: runs that earlier releases recorded keep replaying with the code they were recorded with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perdure.client import WorkflowHistory
from perdure.exceptions import NondeterminismError
from perdure.testing import Replayer
from tests.histories import flows_v0_1
from tests.histories.record import record

HERE = Path(__file__).parent
FLOWS = {"v0_1": flows_v0_1}
FILES = sorted(HERE.glob("v*/*.json"))


@pytest.mark.parametrize("file", FILES, ids=[f"{file.parent.name}/{file.stem}" for file in FILES])
async def test_it_replays(file: Path) -> None:
    history = WorkflowHistory.from_json(file.stem, file.read_text())
    await Replayer(workflows=FLOWS[file.parent.name].WORKFLOWS).replay_workflow(history)


async def test_a_history_of_other_code_does_not_replay() -> None:
    """The test above can fail."""
    document = json.loads((HERE / "v0_1" / "timers.json").read_text())
    attributes = document["events"][0]["workflowExecutionStartedEventAttributes"]
    attributes["workflowType"]["name"] = "golden.combinators"
    history = WorkflowHistory.from_json("timers", document)
    with pytest.raises(NondeterminismError):
        await Replayer(workflows=flows_v0_1.WORKFLOWS).replay_workflow(history)


async def test_today_records_the_same_events(tmp_path: Path) -> None:
    """A difference is not wrong by itself, but it has to be meant. (Chance decides the length of one of them.)"""
    names = await record(tmp_path)
    assert sorted(names) == [file.stem for file in FILES if file.parent.name == "v0_1"]
    for name in set(names) - {"chance"}:
        old, new = (
            [event["eventType"] for event in json.loads((folder / f"{name}.json").read_text())["events"]]
            for folder in (HERE / "v0_1", tmp_path)
        )
        assert old == new, name
