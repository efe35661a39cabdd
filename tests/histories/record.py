"""Records golden histories: ``python -m tests.histories.record FOLDER``, once for each release, on virtual time.

What is recorded is never edited or recorded again. A new release adds a folder.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from perdure.client import (
    Client,
    WithStartWorkflowOperation,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowUpdateStage,
)
from perdure.common import WorkflowIDConflictPolicy
from perdure.testing import WorkflowEnvironment
from perdure.worker import Worker
from tests.histories import flows_v0_1 as flows

ROOT = Path(__file__).resolve().parents[2]


async def _lives(client: Client, env: WorkflowEnvironment) -> dict[str, WorkflowHandle[Any]]:
    """Every flow, lived to its end; name → handle."""
    plain: Sequence[tuple[str, Any]] = [
        (name, getattr(flows, name)) for name in ("activities", "timers", "chance", "combinators", "parent", "steps")
    ]
    handles: dict[str, WorkflowHandle[Any]] = {}
    for name, workflow in plain:
        handles[name] = await client.start_workflow(workflow, id=name)
        await handles[name].result()
    handles["child_failed"] = client.get_workflow_handle("parent-bad")

    mailbox = await client.start_workflow(flows.Mailbox.run, id="mailbox")
    await env.sleep(timedelta(seconds=1))
    await mailbox.signal(flows.Mailbox.post, "hello")
    await mailbox.result()
    handles["mailbox"] = mailbox

    cancelled = await client.start_workflow(flows.cancelled, id="cancelled")
    await env.sleep(timedelta(seconds=1))
    await cancelled.cancel()
    try:
        await cancelled.result()
    except WorkflowFailureError:
        handles["cancelled"] = cancelled

    again = await client.start_workflow(flows.again, 1, id="again")
    await again.result()
    handles["again_first"] = client.get_workflow_handle("again", run_id=again.first_execution_run_id)
    handles["again_last"] = client.get_workflow_handle("again")

    handles["basket"] = await _basket(client)
    return handles


async def _basket(client: Client) -> WorkflowHandle[Any]:
    """Updates: one that starts it, one that is rejected, one that waits, and two that end it."""
    operation = WithStartWorkflowOperation(
        flows.basket, 2, id="basket", id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING
    )
    await client.execute_update_with_start_workflow("put", "pen", start_workflow_operation=operation, id="1")
    basket = await operation.workflow_handle()
    rejected = await basket.start_update("put", "", wait_for_stage=WorkflowUpdateStage.COMPLETED, id="2")
    await basket.execute_update("put", "paper", id="3")
    await basket.execute_update("close", id="4")
    assert "nothing" in str((await rejected.wait_outcome()).failure.message)
    await basket.result()
    return basket


async def record(folder: Path) -> list[str]:
    """Live every flow, and write the histories that are not there yet; returns their names."""
    written: list[str] = []
    async with await WorkflowEnvironment.start_time_skipping() as env:
        client = Client(env.client.service, identity="recorder")
        async with Worker(client, workflows=flows.WORKFLOWS, activities=flows.ACTIVITIES, identity="recorder"):
            for name, handle in (await _lives(client, env)).items():
                file = folder / f"{name}.json"
                if not file.exists():
                    history = await handle.fetch_history()
                    text = json.dumps(history.to_json_dict(), indent=1)
                    # Stack traces name files; where this checkout lies is nobody's business.
                    file.write_text(text.replace(f"{ROOT}/", "") + "\n")
                    written.append(name)
    return written


if __name__ == "__main__":
    sys.stdout.write("\n".join(asyncio.run(record(Path(sys.argv[1])))) + "\n")
