"""Starting activities without a workflow: which one of an activity id there may be.

    current one   condition                       outcome
    none          –                               start
    any           same request id                 answer with it
    open          conflict policy use-existing    answer with it
    open          otherwise                       ALREADY_EXISTS
    closed        reuse policy reject-duplicate   ALREADY_EXISTS
    closed        failed-only, and it completed   ALREADY_EXISTS
    closed        otherwise                       start

No `await` lies between looking at the current one and starting the new one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.engine import history
from perdure.engine.namespaces import Namespace
from perdure.engine.starts import Started
from perdure.engine.visibility.values import BadAttributeError, typed

if TYPE_CHECKING:
    from perdure.engine.shard import Shard

__all__ = ["start_activity"]

_Reuse = m.ActivityIdReusePolicy
_Conflict = m.ActivityIdConflictPolicy
_COMPLETED = m.WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_COMPLETED


async def start_activity(shard: Shard, namespace: Namespace, request: m.StartActivityExecutionRequest) -> Started:
    """Start an activity, or find the one that answers the request.

    Raises:
        RpcError: ALREADY_EXISTS with ``ActivityExecutionAlreadyStartedFailure``; INVALID_ARGUMENT.
    """
    if request.id_reuse_policy not in _Reuse.values() or request.id_conflict_policy not in _Conflict.values():
        raise _invalid("unknown activity id reuse or conflict policy")
    shard.nexus.check_callbacks(request.completion_callbacks)
    internal_id = history.internal_id(request.activity_id)
    while True:
        existing = await shard.cache.find_current(namespace.name, internal_id)
        if existing is None:
            break
        state = existing.run.state
        if request.request_id and state.start_request_id == request.request_id:
            return Started(existing, False, existing.group)
        if state.attached and request.request_id in state.attached:
            return Started(existing, False, existing.group)
        if existing.run.is_open:
            if request.id_conflict_policy == _Conflict.ACTIVITY_ID_CONFLICT_POLICY_USE_EXISTING:
                if request.HasField("on_conflict_options"):
                    left = history.attach_to_activity(
                        existing.run, request, limits=shard.limits, now_ms=shard.clock.now_ms()
                    )
                    shard.apply(existing, left)
                return Started(existing, False, existing.group)
            refusal = "is already running"
        else:
            refusal = _reuse_refusal(request.id_reuse_policy, state.status)
        if refusal is None:
            break
        pending = shard.durable(existing)
        if pending is None:
            raise RpcError(
                StatusCode.ALREADY_EXISTS,
                f"activity execution {request.activity_id!r} {refusal} (run {state.run_id})",
                m.ActivityExecutionAlreadyStartedFailure(start_request_id=state.start_request_id, run_id=state.run_id),
            )
        await pending
    if request.HasField("search_attributes"):
        request = _with_types(request, namespace, shard)
    transition = history.start_activity_execution(
        run_key=shard.last_key + 1,
        run_id=shard.ids.new_id(),
        request=request,
        limits=shard.limits,
        retention_ms=namespace.retention_ms,
        now_ms=shard.clock.now_ms(),
    )
    slot = shard.enter(transition)
    return Started(slot, True, slot.group)


def _with_types(
    request: m.StartActivityExecutionRequest, namespace: Namespace, shard: Shard
) -> m.StartActivityExecutionRequest:
    """The same start with the types of its search attributes. Raises RpcError INVALID_ARGUMENT."""
    try:
        checked = typed(request.search_attributes, namespace.name, namespace.attributes, shard.limits.of_attributes)
    except BadAttributeError as bad:
        raise _invalid(str(bad)) from None
    start = m.StartActivityExecutionRequest()
    start.CopyFrom(request)
    start.search_attributes.CopyFrom(checked)
    return start


def _reuse_refusal(policy: int, status: int) -> str | None:
    """Why one that has ended stands in the way of a new one, or None."""
    if policy == _Reuse.ACTIVITY_ID_REUSE_POLICY_REJECT_DUPLICATE:
        return "has been started already, and the id reuse policy rejects duplicates"
    if policy == _Reuse.ACTIVITY_ID_REUSE_POLICY_ALLOW_DUPLICATE_FAILED_ONLY and status == _COMPLETED:
        return "has completed already, and the id reuse policy allows a new one only after a failed one"
    return None


def _invalid(message: str) -> RpcError:
    return RpcError(StatusCode.INVALID_ARGUMENT, message)
