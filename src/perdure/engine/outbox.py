"""Messages from run to run: children, external signals and cancels, parent close policies, a child's end.

A message is part of its sender's durable state until its outcome is recorded there, so it is delivered at least
once; it comes here when the commit that wrote it is durable, or when its sender is loaded after a restart. The
receiver's change and the recorded outcome enter one commit group, so here they happen together or not at all; a
message delivered again is recognised by its request id, or because the item it speaks of is gone.

    kind           receiver                 outcome recorded in the sender
    START_CHILD    a new run                its run id, or why it could not start
    SIGNAL         an open run              delivered, or not found, namespace unknown, too many signals
    CANCEL         an open run              delivered, or not found, namespace unknown
    TERMINATE      an open child            dropped
    CHILD_CLOSED   the parent               dropped
    CALLBACK       the run that called      delivered, or nobody waits for it
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.engine import history
from perdure.engine.history import MessageKind, OutMessage
from perdure.engine.history.versions import inherited_override
from perdure.engine.slot import Slot
from perdure.engine.starts import start_workflow

if TYPE_CHECKING:
    from perdure.engine.shard import Shard

__all__ = ["Outbox"]

_RESETS_FOLLOWED = 100
"""Resets of a parent between the run that started a child and the present one."""
_RETRY_MS = 5_000
"""When a message whose receiver could not be reached is tried again."""
_AGAIN = frozenset((StatusCode.UNAVAILABLE, StatusCode.RESOURCE_EXHAUSTED, StatusCode.DATA_LOSS, StatusCode.INTERNAL))
"""Refusals that say nothing about the receiver."""

_ChildCause = m.StartChildWorkflowExecutionFailedCause
_SignalCause = m.SignalExternalWorkflowExecutionFailedCause
_Reuse = m.WorkflowIdReusePolicy
_Conflict = m.WorkflowIdConflictPolicy
_CancelCause = m.CancelExternalWorkflowExecutionFailedCause


class _Outcome(NamedTuple):
    run_id: str = ""
    failure_cause: int = 0


class Outbox:
    """Delivers the messages of a shard's runs, in order of arrival."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._queue: deque[tuple[int, OutMessage]] = deque()
        self._wake: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._delivering = False
        self._handlers: dict[int, Callable[[Slot, OutMessage], Awaitable[_Outcome | None]]] = {
            MessageKind.START_CHILD: self._start_child,
            MessageKind.SIGNAL: self._signal,
            MessageKind.CANCEL: self._cancel,
            MessageKind.TERMINATE: self._terminate,
            MessageKind.CHILD_CLOSED: self._child_closed,
            MessageKind.CALLBACK: self._callback,
        }

    @property
    def busy(self) -> bool:
        """A message is under way."""
        return self._delivering or bool(self._queue)

    def start(self) -> None:
        """Begin to deliver."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="perdure-outbox")

    async def stop(self) -> None:
        """Deliver no more; what is left is delivered by the next engine."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def add(self, slot: Slot, messages: Iterable[OutMessage]) -> None:
        """Deliver these messages of a run; they are durable."""
        self._queue.extend((slot.key, message) for message in messages)
        wake, self._wake = self._wake, None
        if wake is not None and not wake.done():
            wake.set_result(None)

    async def _run(self) -> None:
        while True:
            while not self._queue:
                self._wake = asyncio.get_running_loop().create_future()
                await self._wake
            self._delivering = True
            try:
                await self._deliver(*self._queue.popleft())
            except RpcError:
                pass  # The shard has failed or the sender is lost; its messages come again with it.
            except Exception as error:  # A defect: the engine must not go on as if the message had arrived.
                failure = RpcError(StatusCode.INTERNAL, f"the engine stopped: {error!r}")
                failure.__cause__ = error
                self._shard.fail(failure)
                return
            finally:
                self._delivering = False
                self._shard.on_settled()

    async def _deliver(self, run_key: int, message: OutMessage) -> None:
        shard = self._shard
        while True:
            sender = await shard.cache.get(run_key)
            if all(message.seq != waiting.seq for waiting in sender.run.state.outbox):
                return  # Delivered already.
            try:
                outcome = await self._handlers[message.kind](sender, message)
            except RpcError as error:
                if error.code not in _AGAIN:
                    raise
                if error.code is not StatusCode.DATA_LOSS:  # A damaged receiver stays so until the engine is reopened.
                    shard.clock.call_at(shard.clock.now_ms() + _RETRY_MS, partial(self.add, sender, (message,)))
                return
            if outcome is None:
                return  # It is on its way, and comes back here if it has to.
            if not sender.gone:
                break  # Nothing was awaited since the receiver's change: the outcome enters the same group.
            # The sender was lost while the receiver was looked for. Until it is read again the receiver's change may
            # be lost as well: deliver once more, which does nothing to a receiver that has kept it.
        transition = history.message_delivered(
            sender.run,
            message.seq,
            run_id=outcome.run_id,
            failure_cause=outcome.failure_cause,
            now_ms=shard.clock.now_ms(),
        )
        shard.apply(sender, transition)

    async def _start_child(self, sender: Slot, message: OutMessage) -> _Outcome:
        request = m.StartWorkflowExecutionRequest.FromString(message.data)
        namespace = self._shard.namespaces.by_name.get(message.namespace)
        if namespace is None:
            cause = _ChildCause.START_CHILD_WORKFLOW_EXECUTION_FAILED_CAUSE_NAMESPACE_NOT_FOUND
            return _Outcome(failure_cause=cause)
        lineage = history.child_lineage(sender.run, message)
        override = inherited_override(sender.run.state)
        if override:
            request.versioning_override.MergeFromString(override)
        if override or lineage.inherited_version:
            lineage = self._shard.offering.inherit(request, lineage)
        try:
            if sender.run.state.bases:
                await self._replace_child(sender, request)
            started = await start_workflow(self._shard, namespace, request, lineage=lineage)
        except RpcError as error:
            if error.code in _AGAIN:
                raise
            cause = _ChildCause.START_CHILD_WORKFLOW_EXECUTION_FAILED_CAUSE_WORKFLOW_ALREADY_EXISTS
            return _Outcome(failure_cause=cause)
        return _Outcome(run_id=started.slot.run.state.run_id)

    async def _signal(self, sender: Slot, message: OutMessage) -> _Outcome:
        if message.namespace not in self._shard.namespaces.by_name:
            cause = _SignalCause.SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED_CAUSE_NAMESPACE_NOT_FOUND
            return _Outcome(failure_cause=cause)
        request = m.SignalWorkflowExecutionRequest.FromString(message.data)
        state = sender.run.state
        try:
            target = await self._target(message)
            transition = history.signal(
                target.run,
                request,
                limits=self._shard.limits,
                external=(state.workflow_id, state.run_id),
                child_only=message.child_only and not history.is_child_of(target.run.state, state),
                now_ms=self._shard.clock.now_ms(),
            )
        except RpcError as error:
            if error.code is StatusCode.NOT_FOUND:
                cause = (
                    _SignalCause.SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED_CAUSE_EXTERNAL_WORKFLOW_EXECUTION_NOT_FOUND
                )
                return _Outcome(failure_cause=cause)
            if error.code is StatusCode.INVALID_ARGUMENT:
                cause = _SignalCause.SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED_CAUSE_SIGNAL_COUNT_LIMIT_EXCEEDED
                return _Outcome(failure_cause=cause)
            raise
        self._shard.apply(target, transition)
        return _Outcome(run_id=target.run.state.run_id)

    async def _cancel(self, sender: Slot, message: OutMessage) -> _Outcome:
        if message.namespace not in self._shard.namespaces.by_name:
            cause = _CancelCause.CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED_CAUSE_NAMESPACE_NOT_FOUND
            return _Outcome(failure_cause=cause)
        request = m.RequestCancelWorkflowExecutionRequest.FromString(message.data)
        state = sender.run.state
        try:
            target = await self._target(message)
            transition = history.request_cancel(
                target.run,
                request,
                external=(state.workflow_id, state.run_id),
                external_initiated_event_id=message.event_id,
                child_only=message.child_only and not history.is_child_of(target.run.state, state),
                now_ms=self._shard.clock.now_ms(),
            )
        except RpcError as error:
            if error.code in _AGAIN:
                raise
            cause = _CancelCause.CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED_CAUSE_EXTERNAL_WORKFLOW_EXECUTION_NOT_FOUND
            return _Outcome(failure_cause=cause)
        self._shard.apply(target, transition)
        return _Outcome(run_id=target.run.state.run_id)

    async def _terminate(self, sender: Slot, message: OutMessage) -> _Outcome:
        request = m.TerminateWorkflowExecutionRequest.FromString(message.data)
        try:
            target = await self._target(message)
        except RpcError as error:
            if error.code in _AGAIN:
                raise
            return _Outcome()
        if target.run.is_open and history.is_child_of(target.run.state, sender.run.state):
            transition = history.terminate(
                target.run,
                reason=request.reason,
                details=request.details if request.HasField("details") else None,
                identity=request.identity,
                now_ms=self._shard.clock.now_ms(),
            )
            self._shard.apply(target, transition)
        return _Outcome()

    async def _replace_child(self, sender: Slot, request: m.StartWorkflowExecutionRequest) -> None:
        """A parent that was reset starts a child again: the one it started after the point gives way."""
        existing = await self._shard.cache.find_current(request.namespace, request.workflow_id)
        if existing is not None and history.is_child_of(existing.run.state, sender.run.state):
            request.workflow_id_reuse_policy = _Reuse.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE
            request.workflow_id_conflict_policy = _Conflict.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING

    async def _parent(self, message: OutMessage) -> Slot:
        """The run that waits for a child: the one that started it, or the one that has taken up its history since."""
        parent = await self._target(message)
        for _ in range(_RESETS_FOLLOWED):
            state = parent.run.state
            if parent.run.is_open or not state.reset_run_id:
                break
            parent = await self._shard.cache.find(state.namespace, state.workflow_id, state.reset_run_id)
        if history.owner_of(parent.run.state, message.event_id) != message.run_id:
            raise RpcError(StatusCode.NOT_FOUND, "the parent was reset to before it started the child")
        return parent

    async def _child_closed(self, sender: Slot, message: OutMessage) -> _Outcome:
        try:
            parent = await self._parent(message)
        except RpcError as error:
            if error.code in _AGAIN:
                raise
            return _Outcome()
        transition = history.child_closed(
            parent.run,
            message.event_id,
            m.HistoryEvent.FromString(message.data),
            sender.run.state.run_id,
            now_ms=self._shard.clock.now_ms(),
        )
        self._shard.apply(parent, transition)
        return _Outcome()

    async def _callback(self, sender: Slot, message: OutMessage) -> _Outcome | None:
        nexus = self._shard.nexus
        if nexus.goes_out(sender, message):
            self._shard.spawn(nexus.call_out(sender, message))
            return None
        return _Outcome(failure_cause=await nexus.deliver(sender, message))

    def _target(self, message: OutMessage) -> Awaitable[Slot]:
        return self._shard.cache.find(message.namespace, message.workflow_id, message.run_id)
