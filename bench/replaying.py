"""The row about replay: a history of 50,000 events, page by page from a file, through the replay machine alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import perdure
from bench.probe import resident_mib
from bench.work import chain
from perdure.api import messages as m
from perdure.api.framing import frame
from perdure.converter import default
from perdure.replay.definition import WorkflowDefinition
from perdure.replay.outcome import TaskCompleted
from perdure.replay.run import WorkflowRun

EVENTS = 50_000
EVENTS_PER_STEP = 6
PAGE_EVENTS = 1_000


async def _write_history(folder: Path) -> int:
    """Make a real history by living it, and keep it in pages; returns its length."""
    async with perdure.open(folder / "bench.db") as app:
        handle = await app.start(chain, EVENTS // EVENTS_PER_STEP, id="long")
        await handle.result()
        frames = [frame(event) async for event in handle.fetch_history_events()]
    # What a worker replays ends with the start of the last workflow task: without its completion and the result.
    frames = frames[:-2]
    for number, at in enumerate(range(0, len(frames), PAGE_EVENTS)):
        (folder / f"page-{number:03}").write_bytes(b"".join(frames[at : at + PAGE_EVENTS]))
    return len(frames)


def _pages(folder: Path) -> Iterator[list[m.HistoryEvent]]:
    for file in sorted(folder.glob("page-*")):
        yield list(m.History.FromString(file.read_bytes()).events)


def replay(folder: Path) -> dict[str, float]:
    length = asyncio.run(_write_history(folder))
    _replay(folder, length)
    begin = time.perf_counter()
    grown = _replay(folder, length)
    return {"events_per_s": length / (time.perf_counter() - begin), "events": length, "mib_grown": grown}


def _replay(folder: Path, length: int) -> float:
    """Replay the whole history; returns by how much the memory grew after the tenth page."""
    run = WorkflowRun(WorkflowDefinition.must_be(chain), namespace="default", converter=default())
    run.begin(
        m.PollWorkflowTaskQueueResponse(
            workflow_execution=m.WorkflowExecution(workflow_id="long", run_id="long"),
            workflow_type=m.WorkflowType(name="bench.chain"),
            started_event_id=length,
            previous_started_event_id=length - EVENTS_PER_STEP,
            attempt=1,
        )
    )
    fed = 0
    early_mib = 0.0
    for page in _pages(folder):
        fed += len(page)
        run.feed(page, last=fed == length)
        if fed == 10 * PAGE_EVENTS:
            early_mib = resident_mib()
    late_mib = resident_mib()
    outcome = run.outcome()
    assert isinstance(outcome, TaskCompleted), outcome
    assert len(outcome.commands) == 1
    run.close()
    return late_mib - early_mib
