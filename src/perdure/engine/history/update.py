"""Updates of a run: requests that its worker accepts or rejects, and completes.

    state       kept as                           event in
    ----------  --------------------------------  --------------------------------------------------------------------
    (none)      nowhere                           admit → admitted
    admitted    live.updates                      its task is handed out → sent
    sent        the same, `sent` set              accepted → accepted; rejected, or left unanswered → (none);
                                                  the task fails or times out → admitted
    accepted    state.updates.accepted            completed → completed
    completed   state.updates.completed           –
    reapplied   state.updates.admitted            accepted → accepted; rejected → reapplied, with a negative id
    any         (the run closes)                  admitted, sent, reapplied → closed or moved; accepted stays for good

Admitted updates are not durable: they leave no event, live in memory, and are lost with it; who waits for one is told
and asks again. Accepted ones are events (Accepted, Completed) and part of the state. A rejection leaves nothing. Only a
reset, which takes over updates of the run it resets, writes an Admitted event (`reapply`); its request lies in the
history, so that workers find it there and are sent no message.

An update needs a workflow task to reach its worker. If none is pending, a *speculative* one is made: it is pending in
`live.speculative` alone, nothing of it is written, and its Scheduled and Started events exist in the worker's response
only, as those of a transient task do. When its worker completes it and has done nothing but reject, it is forgotten
as if it had never been (`completion`). Otherwise its events are written as those of any other. Whatever else calls for
a workflow task before it is handed out makes an ordinary one in its place.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from google.protobuf.any_pb2 import Any as AnyMessage

from perdure.api import messages as m
from perdure.engine.history import callbacks, events_update, evolve, evolve_nexus, failures
from perdure.engine.history.recording import append
from perdure.engine.history.state import Run
from perdure.engine.history.transition import Transition, UpdateChange, UpdateFate

_REQUEST_TYPE: Final = "type.googleapis.com/temporal.api.update.v1.Request"


class UpdateStage(IntEnum):
    """How far an update is, as far as its run knows."""

    NONE = 0
    ADMITTED = 1
    ACCEPTED = 2
    COMPLETED = 3
    ABANDONED = 4
    """The run closed after it was accepted and before it was completed."""


def stage(run: Run, update_id: str) -> UpdateStage:
    """How far an update is."""
    live = run.live.updates
    if live is not None and update_id in live:
        return UpdateStage.ADMITTED
    book = run.state.updates
    if book is None:
        return UpdateStage.NONE
    if update_id in book.completed:
        return UpdateStage.COMPLETED
    if update_id in book.accepted:
        return UpdateStage.ACCEPTED if run.is_open else UpdateStage.ABANDONED
    if run.is_open and book.admitted.get(update_id, 0) > 0:
        return UpdateStage.ADMITTED
    return UpdateStage.NONE


def speculate(transition: Transition) -> None:
    """Make a workflow task pending that is not written."""
    live = transition.run.live
    live.speculative = transition.run.state.next_event_id
    live.speculative_at_ms = transition.now_ms
    transition.workflow_task = True


def call_again(transition: Transition) -> None:
    """A workflow task has completed: make another if updates came too late for it."""
    run = transition.run
    if has_unsent(run) and not run.state.task_scheduled_event_id:
        speculate(transition)


def has_unsent(run: Run) -> bool:
    """Some updates have not been shown to the worker."""
    live = run.live.updates
    return bool(live) and any(not update.sent for update in live.values())


# What travels to the worker


def messages(run: Run, *, sticky: bool) -> list[m.Message]:
    """The messages that go with the workflow task that has just been handed out."""
    task = run.live.task
    updates = run.live.updates
    if task is None or not updates:
        return []
    found: list[m.Message] = []
    for update_id, update in updates.items():
        if update.sent and sticky:
            continue
        update.sent = True
        message = m.Message(id=f"{update_id}/request", protocol_instance_id=update_id)
        message.event_id = task.started_event_id - 1
        message.body.CopyFrom(AnyMessage(type_url=_REQUEST_TYPE, value=update.request))
        found.append(message)
    return found


# What becomes of them


def tell(transition: Transition, change: UpdateChange) -> None:
    """News for those who wait."""
    if transition.updates is None:
        transition.updates = []
    transition.updates.append(change)


def accept(transition: Transition, update_id: str, acceptance: m.Acceptance) -> None:
    """Write the Accepted event of an admitted update."""
    run = transition.run
    state = run.state
    live = None if run.live.updates is None else run.live.updates.pop(update_id, None)
    request = acceptance.accepted_request if acceptance.HasField("accepted_request") else None
    if live is not None:
        request = m.Request.FromString(live.request)
    event_id = state.next_event_id
    append(transition, events_update.update_accepted(event_id, transition.now_ms, update_id, acceptance, request))
    evolve.apply_update_accepted(state, update_id, event_id)
    if request is not None:
        evolve_nexus.apply_update(state, request, transition.now_ms)
    tell(transition, UpdateChange(update_id, UpdateFate.ACCEPTED, None, event_id))


def complete(transition: Transition, update_id: str, response: m.Response) -> None:
    """Write the Completed event of an accepted update."""
    state = transition.run.state
    book = state.updates
    assert book is not None, "it was accepted"
    accepted_id = book.accepted[update_id]
    event_id = state.next_event_id
    append(
        transition,
        events_update.update_completed(event_id, transition.now_ms, response.meta, accepted_id, response.outcome),
    )
    evolve.apply_update_completed(state, update_id, event_id)
    if state.callbacks is not None:
        callbacks.update_completed(transition, update_id, event_id)
    tell(transition, UpdateChange(update_id, UpdateFate.COMPLETED, response.outcome, accepted_id))


def reject(transition: Transition, update_id: str, failure: m.Failure) -> None:
    """The worker will not have it; nothing is written."""
    run = transition.run
    if run.live.updates is not None:
        run.live.updates.pop(update_id, None)
    book = run.state.updates
    if book is not None and update_id in book.admitted:
        book.admitted[update_id] = -abs(book.admitted[update_id])
    tell(transition, UpdateChange(update_id, UpdateFate.REJECTED, m.Outcome(failure=failure)))


def reject_unanswered(transition: Transition) -> None:
    """A worker that completes its task without a word about an update it was sent does not know updates."""
    updates = transition.run.live.updates
    if updates:
        for update_id in [update_id for update_id, update in updates.items() if update.sent]:
            reject(transition, update_id, _unanswered())


def unsend(run: Run) -> None:
    """The worker that had them has failed: they are sent again with the next task."""
    for update in (run.live.updates or {}).values():
        update.sent = False


def close(transition: Transition, *, moves: bool) -> None:
    """The run closes. What was not accepted goes on with the next run, if it `moves`; the rest has failed."""
    run = transition.run
    fate = UpdateFate.MOVED if moves else UpdateFate.CLOSED
    run.live.speculative = 0
    for update_id in run.live.updates or ():
        tell(transition, UpdateChange(update_id, fate))
    run.live.updates = None
    book = run.state.updates
    if book is not None:
        for update_id, event_id in book.admitted.items():
            if event_id > 0:
                tell(transition, UpdateChange(update_id, fate))
        for update_id, event_id in book.accepted.items():
            tell(transition, UpdateChange(update_id, UpdateFate.COMPLETED, abandoned(), event_id))


def abandoned() -> m.Outcome:
    """The outcome of an update that was accepted by a run that closed before completing it."""
    return m.Outcome(failure=failures.abandoned_update())


def _unanswered() -> m.Failure:
    failure = m.Failure(
        message="the worker completed its workflow task without answering the update; does it support updates?",
        source="Server",
    )
    failure.application_failure_info.type = "UnprocessedUpdate"
    failure.application_failure_info.non_retryable = True
    return failure
