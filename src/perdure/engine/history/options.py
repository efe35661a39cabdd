"""Options of a run that may be changed while it is open: its versioning override and its priority.

A change is one event, WorkflowExecutionOptionsUpdated, and nothing the workflow must look at. Which options change is
said by an update mask; one that the mask names and the request leaves out is removed. Priorities may be changed field
by field, overrides as a whole. Work that waits in a queue keeps its place; what follows has the new priority.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.engine.history import callbacks, events, evolve, evolve_nexus, priorities, workflow_task
from perdure.engine.history.recording import arrival_id, arrive
from perdure.engine.history.state import Run, RunState
from perdure.engine.history.transition import Limits, Transition

_VERSIONING: Final = "versioning_override"
_PRIORITY: Final = "priority"
_PRIORITY_FIELDS: Final = tuple(field.name for field in m.Priority.DESCRIPTOR.fields)
_PINNED = m.VersioningBehavior.VERSIONING_BEHAVIOR_PINNED
_AUTO_UPGRADE = m.VersioningBehavior.VERSIONING_BEHAVIOR_AUTO_UPGRADE
_INNER_CAPITAL = re.compile(r"(?<=[a-z])[A-Z]")


def options_of(state: RunState) -> m.WorkflowExecutionOptions:
    """The options that hold."""
    options = m.WorkflowExecutionOptions()
    if state.versioning:
        options.versioning_override.MergeFromString(state.versioning)
    if state.priority:
        options.priority.MergeFromString(state.priority)
    return options


def update_options(
    run: Run, asked: m.WorkflowExecutionOptions, mask: Sequence[str], *, identity: str, now_ms: int
) -> Transition:
    """Change the options that `mask` names. changed=False if they hold already.

    Raises:
        RpcError: NOT_FOUND, closed; INVALID_ARGUMENT, UNIMPLEMENTED, what can't be set.
    """
    if not run.is_open:
        raise RpcError(StatusCode.NOT_FOUND, "workflow execution already completed")
    before = options_of(run.state)
    after = merged(before, asked, mask)
    transition = Transition(run, now_ms)
    if after == before:
        transition.changed = False
        return transition
    write_options(transition, before, after, identity)
    return transition


def attach(run: Run, request: m.StartWorkflowExecutionRequest, *, limits: Limits, now_ms: int) -> Transition:
    """What a start that found this run leaves in it, as its ``on_conflict_options`` say. changed=False if nothing.

    Raises:
        RpcError: INVALID_ARGUMENT, too many have been attached; FAILED_PRECONDITION, too many callbacks.
    """
    transition = Transition(run, now_ms)
    asked = request.on_conflict_options
    request_id = request.request_id if asked.attach_request_id else ""
    calls = request.completion_callbacks if asked.attach_completion_callbacks else ()
    links = callbacks.own_links(request.links, calls) if asked.attach_links else ()
    attached = run.state.attached or {}
    if not (request_id or links or calls) or request_id in attached:
        transition.changed = False
        return transition
    if len(attached) >= limits.request_ids_kept:
        raise _invalid(f"{len(attached)} requests have been attached to the run, the most it may have")
    callbacks.check(run.state, calls, limits)
    attributes = m.WorkflowExecutionOptionsUpdatedEventAttributes(
        attached_request_id=request_id, identity=request.identity, attached_completion_callbacks=calls
    )
    event = events.options_updated(arrival_id(run), now_ms, attributes)
    event.links.extend(links)
    evolve.apply_attached(run.state, request_id, event.event_id)
    evolve_nexus.apply_callbacks(run.state, calls, now_ms)
    arrive(transition, event)
    return transition


def write_options(
    transition: Transition, before: m.WorkflowExecutionOptions, after: m.WorkflowExecutionOptions, identity: str
) -> None:
    """Write the event of a change."""
    run = transition.run
    attributes = m.WorkflowExecutionOptionsUpdatedEventAttributes(identity=identity)
    if after.versioning_override != before.versioning_override:
        if after.HasField(_VERSIONING):
            attributes.versioning_override.CopyFrom(after.versioning_override)
        else:
            attributes.unset_versioning_override = True
        transition.visibility = transition.attributes = True
        transition.workflow_task = workflow_task.ready(run, transition.now_ms)  # Others may have to go on with it.
    if after.priority != before.priority:
        attributes.priority.CopyFrom(after.priority)
        transition.visibility = True
    arrive(transition, events.options_updated(arrival_id(run), transition.now_ms, attributes))
    evolve.apply_options_updated(run.state, attributes)


def check_options(asked: m.WorkflowExecutionOptions, mask: Sequence[str]) -> None:
    """Everything that can be wrong with a change whatever holds. Raises RpcError INVALID_ARGUMENT, UNIMPLEMENTED."""
    merged(m.WorkflowExecutionOptions(), asked, mask)


def merged(
    before: m.WorkflowExecutionOptions, asked: m.WorkflowExecutionOptions, mask: Sequence[str]
) -> m.WorkflowExecutionOptions:
    """The options after a change.

    Raises:
        RpcError: INVALID_ARGUMENT, UNIMPLEMENTED.
    """
    after = m.WorkflowExecutionOptions()
    after.CopyFrom(before)
    for path in mask:
        name, _, field = _snake(path).partition(".")
        if name == _VERSIONING and not field:
            check_override(asked.versioning_override if asked.HasField(_VERSIONING) else None)
            after.ClearField(_VERSIONING)
            if asked.HasField(_VERSIONING):
                after.versioning_override.CopyFrom(asked.versioning_override)
        elif name == _PRIORITY and (not field or field in _PRIORITY_FIELDS):
            for each in (field,) if field else _PRIORITY_FIELDS:
                setattr(after.priority, each, getattr(asked.priority, each))
        elif name == "time_skipping_config":
            raise RpcError(StatusCode.UNIMPLEMENTED, "a workflow can't skip time on this server; leave the option out")
        else:
            raise _invalid(f"the update mask names {path!r}; it may name {_VERSIONING}, {_PRIORITY} and its fields")
    refused = priorities.refusal(after.priority)
    if refused is not None:
        raise _invalid(refused)
    if after.priority == m.Priority():
        after.ClearField(_PRIORITY)
    return after


def check_override(override: m.VersioningOverride | None) -> None:
    """Refuse a versioning override that makes no sense. Raises RpcError INVALID_ARGUMENT, UNIMPLEMENTED."""
    if override is None:
        return
    kind = override.WhichOneof("override")
    if kind == "one_time":
        raise RpcError(StatusCode.UNIMPLEMENTED, "an override for one task is not supported; pin the workflow instead")
    if kind == "pinned":
        version = override.pinned.version
        if not version.deployment_name or not version.build_id:
            raise _invalid("a pinned versioning override needs a version with its deployment name and build id")
    elif kind is None and override.behavior == _PINNED:
        if not override.pinned_version and not override.deployment.build_id:
            raise _invalid("a pinned versioning override needs a version")
    elif kind is None and override.behavior != _AUTO_UPGRADE:
        raise _invalid("a versioning override is either pinned or auto-upgrade")


def _snake(path: str) -> str:
    return _INNER_CAPITAL.sub(lambda found: "_" + found[0].lower(), path)


def _invalid(message: str) -> RpcError:
    return RpcError(StatusCode.INVALID_ARGUMENT, message)
