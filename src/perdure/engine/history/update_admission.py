"""How updates enter a run: from a client, into memory; from a reset, into the history (see `update`)."""

from __future__ import annotations

from typing import Final

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.engine.history import (
    callbacks,
    events,
    events_update,
    evolve,
    evolve_nexus,
    lifecycle,
    pausing,
    update,
    workflow_task,
)
from perdure.engine.history.recording import arrival_id, arrive
from perdure.engine.history.state import Run, UpdateBook, UpdateLive
from perdure.engine.history.transition import Limits, Transition

_REAPPLY: Final = m.UpdateAdmittedEventOrigin.UPDATE_ADMITTED_EVENT_ORIGIN_REAPPLY
_BUSY: Final = m.ResourceExhaustedFailure(
    cause=m.ResourceExhaustedCause.RESOURCE_EXHAUSTED_CAUSE_CONCURRENT_LIMIT,
    scope=m.ResourceExhaustedScope.RESOURCE_EXHAUSTED_SCOPE_NAMESPACE,
)


def check(request: m.Request, limits: Limits) -> None:
    """Everything that can be wrong with an update.

    Raises:
        RpcError: INVALID_ARGUMENT.
    """
    lifecycle.check_name(request.meta.update_id, "UpdateId", limits)
    lifecycle.check_name(request.meta.identity, "Identity", limits, required=False)
    lifecycle.check_name(request.request_id, "RequestId", limits, required=False)
    if not request.HasField("input"):
        raise lifecycle.invalid("the update has no input: set its name at least")
    lifecycle.check_name(request.input.name, "Update name", limits)
    lifecycle.check_size(request.input.args.ByteSize(), limits.blob_bytes, "Args")
    lifecycle.check_size(request.input.header.ByteSize(), limits.blob_bytes, "Header")
    if request.completion_callbacks:
        callbacks.check(None, request.completion_callbacks, limits)


def admit(run: Run, request: m.Request, *, limits: Limits, with_start: bool = False, now_ms: int) -> Transition:
    """Take in an update. changed=False, unless a workflow task is written for it; an update id known already is left.

    Args:
        with_start: it ends the delay before the first workflow task; other updates wait for that one.

    Raises:
        RpcError: NOT_FOUND, closed; INVALID_ARGUMENT; RESOURCE_EXHAUSTED, too many in flight; FAILED_PRECONDITION,
            the run has had as many as it may, or its workflow task is failing.
    """
    update_id = request.meta.update_id
    transition = Transition(run, now_ms, changed=False)
    if update.stage(run, update_id) is not update.UpdateStage.NONE:
        return transition
    if not run.is_open:
        raise lifecycle.closed()
    check(request, limits)
    error = pausing.refusal(run)
    if error is not None:
        raise error
    if workflow_task.is_failing(run):
        raise RpcError(
            StatusCode.FAILED_PRECONDITION,
            "the workflow can't be updated while its workflow task is failing"
            f" (attempt {run.state.task_attempt}); see describe for the failure",
            m.WorkflowNotReadyFailure(),
        )
    _check_room(run, limits)
    live = run.live
    if live.updates is None:
        live.updates = {}
    live.updates[update_id] = UpdateLive(request.SerializeToString())
    _call(transition, limits, with_start=with_start)
    return transition


def _check_room(run: Run, limits: Limits) -> None:
    book = run.state.updates or UpdateBook()
    admitted = len(run.live.updates or ())
    flying = admitted + len(book.accepted) + len(book.admitted)
    if flying >= limits.updates_in_flight:
        raise RpcError(
            StatusCode.RESOURCE_EXHAUSTED,
            f"limit on number of concurrent in-flight updates has been reached ({limits.updates_in_flight});"
            " wait until some have completed, or open with Limits(updates_in_flight=…)",
            _BUSY,
        )
    if flying + len(book.completed) >= limits.updates_per_run:
        raise RpcError(
            StatusCode.FAILED_PRECONDITION,
            f"limit on the total number of distinct updates in this workflow has been reached"
            f" ({limits.updates_per_run}): let it continue as new",
        )


def _call(transition: Transition, limits: Limits, *, with_start: bool) -> None:
    """See that a workflow task comes: the one there is, the first one if it is delayed, or a speculative one."""
    run = transition.run
    if run.live.task is not None or workflow_task.pending_id(run):
        return
    if not lifecycle.is_delayed(run):
        update.speculate(transition)
    elif with_start:
        workflow_task.call(transition, limits)
        transition.changed = True


def reapply(transition: Transition, request: m.Request) -> None:
    """Admit an update by an event, as a reset does with those it takes over. Its update id must be new to the run."""
    event = events_update.update_admitted(arrival_id(transition.run), transition.now_ms, request, _REAPPLY)
    assert event.event_id, "a run that is being reset has handed out nothing"
    arrive(transition, event)
    evolve.apply_update_admitted(transition.run.state, request.meta.update_id, event.event_id)
    evolve_nexus.apply_update(transition.run.state, request, transition.now_ms)


def attach(run: Run, request: m.Request, *, limits: Limits, now_ms: int) -> Transition:
    """A request that finds its update under way leaves its callbacks. changed=False if nothing is written.

    Raises:
        RpcError: INVALID_ARGUMENT; FAILED_PRECONDITION, there are too many.
    """
    transition = Transition(run, now_ms, changed=False)
    state = run.state
    update_id = request.meta.update_id
    live = (run.live.updates or {}).get(update_id)
    known = m.Request.FromString(live.request).completion_callbacks if live is not None else ()
    there = {callback.SerializeToString(deterministic=True) for callback in known}
    there.update(item.callback for item in state.callbacks or () if item.update_id == update_id)
    new = [each for each in request.completion_callbacks if each.SerializeToString(deterministic=True) not in there]
    if not new:
        return transition
    callbacks.check(state, new, limits)
    if live is not None:
        asked = m.Request.FromString(live.request)
        asked.completion_callbacks.extend(new)
        live.request = asked.SerializeToString()
        return transition
    attributes = m.WorkflowExecutionOptionsUpdatedEventAttributes(identity=request.meta.identity)
    attributes.workflow_update_options.add(
        update_id=update_id, attached_request_id=request.request_id, attached_completion_callbacks=new
    )
    arrive(transition, events.options_updated(arrival_id(run), now_ms, attributes))
    evolve_nexus.apply_options(state, attributes, now_ms)
    transition.changed = True
    return transition
