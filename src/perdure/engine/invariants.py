"""The invariant scan: every open run goes on by itself, or waits for something outside.

`scan_store` looks at what is durable: event ids are contiguous, the state is the fold of its history, the row's wake
tells what the state needs, an open run has a task, a timer, a message, a pending item or waits for a signal, and a
pending child that has started either runs or has sent word of its end. `scan_memory` looks at what a restart would
repair but a running engine must not forget: tasks that may be handed out lie in a queue, deadlines are registered, and
schedules are woken.

Call both when the engine is idle; in between, tasks are legitimately on their way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.api import messages as m
from perdure.api.framing import frames_of
from perdure.engine import history
from perdure.engine.history import ActivityItem, ChildItem, MessageKind, NexusItem, Run
from perdure.engine.matching.queue import ActivityTask, WorkflowTask
from perdure.engine.slot import NEVER_MS, Slot
from perdure.engine.store.port import Store
from perdure.engine.visibility.expressions import Position, VisibilityQuery

if TYPE_CHECKING:
    from perdure.engine.shard import Shard

__all__ = ["scan_memory", "scan_store"]

_PAGE = 500
_READ_BYTES = 1024 * 1024


async def scan_store(store: Store, namespaces: list[str]) -> list[str]:
    """Findings about the durable state, one line each."""
    findings: list[str] = []
    for namespace in namespaces:
        query = VisibilityQuery(namespace=namespace)
        found = 0
        after: Position | None = None
        while True:
            page = await store.list_visibility(query, after, _PAGE)
            found += len(page.rows)
            for row in page.rows:
                findings += await _scan_run(store, row.run_key)
            after = page.next
            if after is None:
                break
        counted = await store.count_visibility(query)
        if counted != found:
            findings.append(f"namespace {namespace} is said to have {counted} runs, and {found} are listed")
    return findings


async def _read(store: Store, run_key: int) -> tuple[Run, int | None] | None:
    loaded = await store.load_run(run_key)
    if loaded is None:
        return None
    run = history.decode(run_key, loaded.row.state, [(item.event_id, item.data) for item in loaded.items])
    return run, loaded.row.wake_at_ms


async def _scan_run(store: Store, run_key: int) -> list[str]:
    read = await _read(store, run_key)
    if read is None:
        return [f"run {run_key} is listed but has no state"]
    run, wake_ms = read
    name = f"run {run_key} ({run.state.workflow_id})"
    frames: list[bytes] = []
    while len(frames) < run.state.next_event_id - 1:
        next_id = len(frames) + 1
        rows = await store.read_history(run_key, next_id, _READ_BYTES)
        if not rows or rows[0].first_event_id != next_id:
            return [f"{name}: history has no row that begins with event {next_id}"]
        for row in rows:
            frames.extend(frames_of(row.data))
    findings = [*await _scan_state(store, run, wake_ms), *_scan_history(run, frames)]
    return [f"{name}: {finding}" for finding in findings]


def _scan_history(run: Run, frames: list[bytes]) -> list[str]:
    findings: list[str] = []
    state = run.state
    ids = [event.event_id for event in m.History.FromString(b"".join(frames)).events]
    if ids != list(range(1, len(ids) + 1)):
        findings.append(f"event ids are not contiguous: {ids}")
    if state.next_event_id != len(ids) + 1:
        findings.append(f"the state counts {state.next_event_id - 1} events, the history {len(ids)}")
        return findings
    # What is buffered counts in the state, and comes into the history when it is flushed.
    frames += history.flush_buffered(run, now_ms=0).frames
    if history.folded_view(history.fold(run.key, frames)) != history.folded_view(state):
        findings.append("the state is not the fold of its history")
    return findings


async def _scan_state(store: Store, run: Run, wake_ms: int | None) -> list[str]:
    findings: list[str] = []
    state = run.state
    expected_ms = history.wake_at_ms(run)
    if wake_ms != expected_ms and run.is_open:
        findings.append(f"it is to be woken at {wake_ms}, but its state says {expected_ms}")
    if not run.is_open:
        return findings
    if state.buffered and not state.task_scheduled_event_id and wake_ms != 0 and state.pause is None:
        findings.append("events are buffered and no workflow task is pending")
    begun = state.last_task_completed_event_id or state.task_scheduled_event_id or state.standalone is not None
    if not begun and wake_ms is None:
        findings.append("its first workflow task is missing")
    if state.standalone is not None and not isinstance(state.items.get(history.SCHEDULED_ID), ActivityItem):
        findings.append("it is an activity execution without its activity")
    for item in state.items.values():
        if isinstance(item, ChildItem) and item.run_id:
            findings += await _scan_child(store, run, item)
        elif not isinstance(item, ActivityItem | history.TimerItem | NexusItem):
            kinds = (MessageKind.START_CHILD, MessageKind.SIGNAL, MessageKind.CANCEL)
            if not any(sent.event_id == item.event_id and sent.kind in kinds for sent in state.outbox):
                findings.append(f"item {item.event_id} waits for a message that is not in the outbox")
    return findings


async def _scan_child(store: Store, parent: Run, item: ChildItem) -> list[str]:
    """A started child runs, or the news of its end is under way. It may have continued as new."""
    key = await store.current_run(item.namespace, item.workflow_id)
    read = None if key is None else await _read(store, key)
    if read is None:
        return [f"child {item.workflow_id} is gone and its end was never told"]
    child = read[0]
    if child.is_open or any(sent.kind == MessageKind.CHILD_CLOSED for sent in child.state.outbox):
        return []
    return [f"child {item.workflow_id} is closed and its end was never told"]


def scan_memory(shard: Shard) -> list[str]:
    """Findings about tasks and deadlines of loaded runs, one line each."""
    waiting: set[tuple[int, int]] = set()
    for queue in shard.matching.queues():
        for task in queue.backlog:
            if isinstance(task, WorkflowTask | ActivityTask):
                waiting.add((task.run_key, task.scheduled_event_id))
    findings = shard.schedules.findings()
    for slot in shard.cache.loaded.values():
        if slot.key in shard.recovery.lost:
            continue  # Its tasks are offered when the back-off of the failed commit is over.
        findings += [
            f"run {slot.key} ({slot.run.state.workflow_id}): {each}" for each in _scan_slot(shard, slot, waiting)
        ]
    return findings


def _scan_slot(shard: Shard, slot: Slot, waiting: set[tuple[int, int]]) -> list[str]:
    findings: list[str] = []
    run = slot.run
    now_ms = shard.clock.now_ms()
    if not slot.groups and slot.durable_event_id != run.state.next_event_id - 1:
        findings.append(f"events up to {slot.durable_event_id} count as durable, {run.state.next_event_id - 1} are")
    if not run.is_open:
        return findings
    if history.workflow_task_ready(run, now_ms) and (slot.key, history.pending_task_id(run)) not in waiting:
        findings.append("its workflow task lies in no queue")
    if history.has_unsent_updates(run) and not history.pending_task_id(run) and not run.state.task_not_before_ms:
        if run.live.task is None:
            findings.append("updates wait, and no workflow task is pending")
    for event_id in history.dispatchable_activities(run, now_ms):
        if (slot.key, event_id) not in waiting:
            findings.append(f"activity or Nexus operation {event_id} lies in no queue")
    due_ms = history.next_deadline_ms(run)
    if due_ms is not None and (slot.due_ms == NEVER_MS or slot.due_ms > due_ms):
        findings.append(f"its deadline {due_ms} is not registered")
    return findings
