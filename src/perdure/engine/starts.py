"""Starting runs: which run of a workflow id there may be, and who gets an answer instead of a new one.

At most one run of a (namespace, workflow id) is open. What happens when there is one already, or was one, is decided
here and nowhere else, for clients, for signal-with-start and for children:

    current run   condition                                outcome
    none          –                                        start
    any           same request id                          answer with that run
    open          conflict policy use-existing             answer with that run (signal it)
    open          conflict policy terminate-existing       start, and terminate it in the same commit
    open          otherwise                                ALREADY_EXISTS
    closed        reuse policy reject-duplicate            ALREADY_EXISTS
    closed        failed-only, and it completed            ALREADY_EXISTS
    closed        otherwise                                start

No `await` lies between looking at the current run and starting the new one.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.engine import history
from perdure.engine.commit import Group
from perdure.engine.history import Lineage
from perdure.engine.namespaces import Namespace
from perdure.engine.slot import Slot
from perdure.engine.visibility.values import AttributeLimits, BadAttributeError, typed

if TYPE_CHECKING:
    from perdure.engine.shard import Shard

__all__ = ["Started", "start_workflow"]

_Reuse = m.WorkflowIdReusePolicy
_Conflict = m.WorkflowIdConflictPolicy
_Status = m.WorkflowExecutionStatus

_NOT_SUCCESSFUL = frozenset(
    (
        _Status.WORKFLOW_EXECUTION_STATUS_FAILED,
        _Status.WORKFLOW_EXECUTION_STATUS_CANCELED,
        _Status.WORKFLOW_EXECUTION_STATUS_TERMINATED,
        _Status.WORKFLOW_EXECUTION_STATUS_TIMED_OUT,
    )
)


class Started(NamedTuple):
    """The run that answers a start."""

    slot: Slot
    is_new: bool
    """False: it was there already."""
    group: Group | None
    """What to await before answering; None when everything is durable."""


async def start_workflow(
    shard: Shard,
    namespace: Namespace,
    request: m.StartWorkflowExecutionRequest,
    *,
    lineage: Lineage | None = None,
    signal: m.SignalWorkflowExecutionRequest | None = None,
    offer: bool = True,
) -> Started:
    """Start a run, or find the one that answers the request.

    Args:
        signal: signal-with-start: recorded in whichever run answers.
        offer: False to keep the workflow task of a new run back; the caller hands it out.

    Raises:
        RpcError: ALREADY_EXISTS with ``WorkflowExecutionAlreadyStartedFailure``; INVALID_ARGUMENT.
    """
    _check_id(request.workflow_id)
    conflict = _conflict_policy(
        request.workflow_id_conflict_policy, request.workflow_id_reuse_policy, signal is not None
    )
    if request.completion_callbacks and lineage is None:
        shard.nexus.check_callbacks(request.completion_callbacks)
    while True:
        existing = await shard.cache.find_current(namespace.name, request.workflow_id)
        if existing is None:
            break
        state = existing.run.state
        if request.request_id and state.start_request_id == request.request_id:
            return _answer_with(shard, existing, signal)
        if state.attached and request.request_id in state.attached:
            return _answer_with(shard, existing, signal)
        if existing.run.is_open:
            if conflict == _Conflict.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING:
                if request.HasField("on_conflict_options"):
                    _attach(shard, existing, request)
                return _answer_with(shard, existing, signal)
            refusal = None
            if conflict != _Conflict.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING:
                refusal = "is already running"
        else:
            refusal = _reuse_refusal(request.workflow_id_reuse_policy, state.status)
        if refusal is None:
            break
        pending = shard.durable(existing)
        if pending is None:
            raise RpcError(
                StatusCode.ALREADY_EXISTS,
                f"workflow {request.workflow_id!r} {refusal} (run {state.run_id})",
                m.WorkflowExecutionAlreadyStartedFailure(
                    start_request_id=state.start_request_id,
                    run_id=state.run_id,
                    first_execution_run_id=state.first_run_id,
                ),
            )
        await pending
    if lineage is None and request.HasField("search_attributes"):
        request = _with_types(request, namespace, shard.limits.of_attributes)
    slot, group = shard.create(namespace, request, lineage=lineage, signal=signal, offer=offer)
    if existing is not None and existing.run.is_open:
        ending = history.terminate(
            existing.run,
            reason="terminated to start a new run of the workflow id",
            details=None,
            identity=request.identity,
            now_ms=shard.clock.now_ms(),
        )
        shard.apply(existing, ending)
    return Started(slot, True, group)


def _check_id(workflow_id: str) -> None:
    """Raises RpcError INVALID_ARGUMENT, it is one that activity executions have in its place."""
    if workflow_id.startswith(history.ACTIVITY_PREFIX):
        raise _invalid(f"WorkflowId may not begin with {history.ACTIVITY_PREFIX!r}")


def _with_types(
    request: m.StartWorkflowExecutionRequest, namespace: Namespace, limits: AttributeLimits
) -> m.StartWorkflowExecutionRequest:
    """The same start with the types of its search attributes. Raises RpcError INVALID_ARGUMENT."""
    try:
        checked = typed(request.search_attributes, namespace.name, namespace.attributes, limits)
    except BadAttributeError as bad:
        raise _invalid(str(bad)) from None
    start = m.StartWorkflowExecutionRequest()
    start.CopyFrom(request)
    start.search_attributes.CopyFrom(checked)
    return start


def _answer_with(shard: Shard, slot: Slot, signal: m.SignalWorkflowExecutionRequest | None) -> Started:
    if signal is not None and slot.run.is_open:
        transition = history.signal(slot.run, signal, limits=shard.limits, with_start=True, now_ms=shard.clock.now_ms())
        shard.apply(slot, transition)
    return Started(slot, False, slot.group)


def _attach(shard: Shard, slot: Slot, request: m.StartWorkflowExecutionRequest) -> None:
    """Leave in an open run what the request that found it asks for."""
    shard.apply(slot, history.attach(slot.run, request, limits=shard.limits, now_ms=shard.clock.now_ms()))


def _reuse_refusal(policy: int, status: int) -> str | None:
    """Why a closed run stands in the way of a new one, or None."""
    if policy == _Reuse.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE:
        return "has been used already, and the id reuse policy rejects duplicates"
    if policy == _Reuse.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE_FAILED_ONLY and status not in _NOT_SUCCESSFUL:
        return "has completed already, and the id reuse policy allows a new run only after a failed one"
    return None


@cache
def _conflict_policy(conflict: int, reuse: int, with_signal: bool) -> int:
    """The policy for an open run, with the defaults filled in."""
    if reuse == _Reuse.WORKFLOW_ID_REUSE_POLICY_TERMINATE_IF_RUNNING:
        if conflict != _Conflict.WORKFLOW_ID_CONFLICT_POLICY_UNSPECIFIED:
            raise _invalid("the id reuse policy terminate-if-running can't be combined with a conflict policy")
        return _Conflict.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING
    if conflict == _Conflict.WORKFLOW_ID_CONFLICT_POLICY_UNSPECIFIED:
        if with_signal:
            return _Conflict.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING
        return _Conflict.WORKFLOW_ID_CONFLICT_POLICY_FAIL
    if conflict == _Conflict.WORKFLOW_ID_CONFLICT_POLICY_FAIL and with_signal:
        raise _invalid("the conflict policy fail has no meaning for signal-with-start")
    if (
        conflict == _Conflict.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING
        and reuse == _Reuse.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE
    ):
        raise _invalid("the conflict policy terminate-existing contradicts the reuse policy reject-duplicate")
    if conflict not in _Conflict.values() or reuse not in _Reuse.values():
        raise _invalid("unknown workflow id reuse or conflict policy")
    return conflict


def _invalid(message: str) -> RpcError:
    return RpcError(StatusCode.INVALID_ARGUMENT, message)
