"""Golden histories of the twins, replayed by our replayer and by Temporal's, each with code of its own SDK."""

from __future__ import annotations

import inspect
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import temporalio.client
import temporalio.worker

from perdure.client import WorkflowHistory
from perdure.exceptions import NondeterminismError
from perdure.testing import Replayer
from tests.histories import twins_v0_1
from tests.system.test_official_replayer import official_twins

FILES = sorted((Path(__file__).parent / "twins_v0_1").glob("*.json"))


def read(file: Path) -> WorkflowHistory:
    document = json.loads(file.read_text())
    return WorkflowHistory.from_json(document.pop("workflowId"), document)


@pytest.fixture(scope="module")
def theirs() -> list[Any]:
    workflows: list[Any] = official_twins(twins_v0_1).WORKFLOWS
    return workflows


def test_there_are_histories_of_every_workflow() -> None:
    recorded = {read(file).events[0].workflow_execution_started_event_attributes.workflow_type.name for file in FILES}
    assert len(FILES) > 15
    assert len(recorded) == len(twins_v0_1.WORKFLOWS)


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
async def test_both_replay_it(file: Path, theirs: list[Any]) -> None:
    history = read(file)
    await Replayer(workflows=twins_v0_1.WORKFLOWS).replay_workflow(history)
    official = temporalio.worker.Replayer(
        workflows=theirs, workflow_runner=temporalio.worker.UnsandboxedWorkflowRunner()
    )
    await official.replay_workflow(temporalio.client.WorkflowHistory(history.workflow_id, history.events))


CHANGES = {
    "activities": ('execute_activity("echo", name', 'execute_activity("ohce", name'),
    "timers": ("await asyncio.sleep(5)", 'await workflow.execute_activity("echo", "x", start_to_close_timeout=SPAN)'),
    "parent": ('id="child-told"', 'id="child-sold"'),
    "meddler": ('"victim"', '"bystander"'),
    "again": ("workflow.continue_as_new(left - 1)", "await workflow.sleep(1)"),
    "patched": ('workflow.upsert_memo({"mood": "loud"})', ""),
    "fails": ('raise ApplicationError("broken", type="Broken")', "return None"),
}


@pytest.mark.parametrize("name", CHANGES)
async def test_changed_code_is_told(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="perdure")
    old, new = CHANGES[name]
    source = inspect.getsource(twins_v0_1)
    assert source.count(old) == 1, "the change is to be made in one place"
    scope: dict[str, Any] = {"__name__": f"tests.histories.changed_{name}"}
    exec(compile(source.replace(old, new), twins_v0_1.__file__, "exec"), scope)
    (file,) = [file for file in FILES if file.stem == f"{name}.{name}.1"]
    with pytest.raises(NondeterminismError) as caught:
        await Replayer(workflows=scope["WORKFLOWS"]).replay_workflow(read(file))
    assert "history holds" in str(caught.value)
    assert "twins_v0_1.py:" in str(caught.value)
