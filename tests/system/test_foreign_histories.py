"""Histories as another server might have written them for the same code: both SDKs must replay them.

A server decides how many workflow tasks there are: one may fail or time out before any other, and its
events carry fields ours leaves out. Recorded histories are rewritten so, and replayed by Temporal's replayer (is the
rewriting sound?) and by ours (does it cope?).
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import temporalio

from perdure import workflow
from perdure.api import messages as m
from perdure.client import WorkflowHistory
from perdure.exceptions import NondeterminismError
from perdure.testing import Replayer
from tests.system.test_official_replayer import OURS, failures, told
from tests.system.twin_stories import STORIES

T = m.EventType
SCHEDULED = T.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED
OF_OTHERS = ("parent_initiated_event_id", "external_initiated_event_id")
"""References to events of other runs."""
Rewrite = Callable[[list[m.HistoryEvent]], list[m.HistoryEvent]]


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="perdure")


def event(kind: int, like: m.HistoryEvent) -> m.HistoryEvent:
    """An event to be inserted: numbers below zero say how far back it refers."""
    made = m.HistoryEvent(event_type=m.EventType.ValueType(kind))
    made.event_time.CopyFrom(like.event_time)
    return made


def attempt(like: m.HistoryEvent, kind: int) -> list[m.HistoryEvent]:
    """A workflow task of its own before one like it."""
    scheduled = event(SCHEDULED, like)
    scheduled.workflow_task_scheduled_event_attributes.CopyFrom(like.workflow_task_scheduled_event_attributes)
    started = event(T.EVENT_TYPE_WORKFLOW_TASK_STARTED, like)
    started.workflow_task_started_event_attributes.scheduled_event_id = -1
    ended = event(kind, like)
    attributes: Any = getattr(
        ended, T.Name(m.EventType.ValueType(kind))[len("EVENT_TYPE_") :].lower() + "_event_attributes"
    )
    attributes.scheduled_event_id = -2
    attributes.started_event_id = -1
    return [scheduled, started, ended]


def before_each_task(kind: int) -> Rewrite:
    def rewrite(events: list[m.HistoryEvent]) -> list[m.HistoryEvent]:
        rewritten: list[m.HistoryEvent] = []
        for each in events:
            if each.event_type == SCHEDULED:
                rewritten += attempt(each, kind)
            rewritten.append(each)
        return rewritten

    return rewrite


def with_more_fields(events: list[m.HistoryEvent]) -> list[m.HistoryEvent]:
    """What ours leaves out: versions, flags, an event that workers may ignore."""
    rewritten: list[m.HistoryEvent] = []
    for each in events:
        if each.event_type == SCHEDULED and rewritten and len(rewritten) > 2:
            ignored = event(T.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED, each)
            ignored.worker_may_ignore = True
            ignored.workflow_execution_options_updated_event_attributes.unset_versioning_override = True
            rewritten.append(ignored)
        each.version = 7
        each.task_id += 1_048_576
        if each.HasField("workflow_task_completed_event_attributes"):
            about = each.workflow_task_completed_event_attributes
            about.sdk_metadata.lang_used_flags.append(1)
            about.sdk_metadata.sdk_name = "temporal-python"
            about.worker_version.build_id = "abc"
        rewritten.append(each)
    return rewritten


REWRITES: dict[str, Rewrite] = {
    "failed tasks": before_each_task(T.EVENT_TYPE_WORKFLOW_TASK_FAILED),
    "timed out tasks": before_each_task(T.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT),
    "more fields": with_more_fields,
}


def renumbered(events: Iterable[m.HistoryEvent]) -> list[m.HistoryEvent]:
    """Contiguous ids, and references that follow them."""
    rewritten = list(events)
    new_ids = {each.event_id: at for at, each in enumerate(rewritten, 1) if each.event_id}
    for at, each in enumerate(rewritten, 1):
        each.event_id = at
        name = each.WhichOneof("attributes")
        attributes: Any = getattr(each, name) if name else None
        for field, value in attributes.ListFields() if attributes is not None else ():
            if field.name.endswith("_event_id") and field.name not in OF_OTHERS:
                setattr(attributes, field.name, at + value if value < 0 else new_ids[value])
    return rewritten


@pytest.mark.parametrize("rewrite", REWRITES)
@pytest.mark.parametrize("name", STORIES)
def test_both_replay_it(name: str, rewrite: str) -> None:
    _, histories = told(name)
    rewritten: list[WorkflowHistory] = []
    for history in histories:
        copies = list(m.History(events=history.events).events)
        rewritten.append(WorkflowHistory(history.workflow_id, renumbered(REWRITES[rewrite](copies))))
    assert asyncio.run(failures(rewritten)) == {}

    async def replay() -> None:
        for history in rewritten:
            await Replayer(workflows=OURS).replay_workflow(history)

    asyncio.run(replay())


@workflow.defn(name="SayHelloWorkflow")
class SayHello:
    @workflow.run
    async def run(self, name: Any) -> str:
        greeting = await workflow.execute_activity("say_hello", name, start_to_close_timeout=timedelta(seconds=5))
        await workflow.wait_condition(lambda: False)
        return str(greeting)


@workflow.defn(name="SayHelloWorkflow")
class SayGoodbye:
    @workflow.run
    async def run(self, name: Any) -> str:
        return await workflow.execute_activity("say_goodbye", name, start_to_close_timeout=timedelta(seconds=5))


async def test_a_history_that_a_temporal_server_wrote() -> None:
    """Recorded by others, for other code: it comes with the official package."""
    package = Path(inspect.getfile(temporalio)).parent
    file = next(package.glob("bridge/sdk-core/**/ends_empty_wft_complete.bin"), None)
    if file is None:
        pytest.skip("this build of temporalio does not bring its core's source along")
    history = WorkflowHistory("hello", list(m.History.FromString(file.read_bytes()).events))
    await Replayer(workflows=[SayHello]).replay_workflow(history)
    with pytest.raises(NondeterminismError, match="say_goodbye"):
        await Replayer(workflows=[SayGoodbye]).replay_workflow(history)
