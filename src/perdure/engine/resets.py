"""Resetting workflows: reading what a new run takes up, and putting it in place of the present one.

``engine.history.resetting`` says what the new run is; here it gets what it needs. The run that is reset, the *base*,
is read to its end, and so are the runs that continued it as new; children that were pending at the point are looked
up. All that may take a while, in which everything else goes on. So in the end, from one turn of the event loop to the
next, it is checked that nothing of it has changed; what has is read, and the check repeated. Until then all those runs
stay in memory. Then, without an `await`:
the run that is open ends, the new one begins as the current run of the workflow id, and the base notes its id. All of
that is one commit.

A child whose parent was reset still knows the run that started it; its end finds the present one by these notes
(``outbox``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from google.protobuf.message import DecodeError

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.engine import history
from perdure.engine.history import ChildEnd, ChildItem, Takeover
from perdure.engine.reading import HistoryReader
from perdure.engine.slot import Slot

if TYPE_CHECKING:
    from perdure.engine.shard import Shard

__all__ = ["reset_workflow"]

_SLICE_EVENTS: Final = 500
"""Read in one turn of the event loop."""
_SLICE_BYTES: Final = 1024 * 1024
_ROUNDS_MAX: Final = 100
"""How often a run that keeps changing is read on, before the caller is asked to come again."""
_CONTINUED_MAX: Final = 1000
"""Runs that continued the base as new, whose signals are taken over."""
_ENDS_FOLLOWED: Final = 10_000
"""Runs of a child looked at for its end."""
_CONTINUED = m.WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_CONTINUED_AS_NEW


class _Reading(NamedTuple):
    """A run that continued the base, and how far it has been read."""

    slot: Slot
    events_read: int


class _LeftError(Exception):
    """A run left memory while it was read, perhaps for good."""


class _Pins:
    """Runs that stay in memory for one reset."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._slots: set[Slot] = set()

    def add(self, slot: Slot) -> Slot:
        """Keep a run in memory until `release`."""
        if slot not in self._slots:
            self._slots.add(slot)
            slot.pins += 1
        return slot

    def release(self) -> None:
        """They may leave."""
        for slot in self._slots:
            slot.pins -= 1
            self._shard.cache.cool(slot)
        self._slots.clear()


class _Reset:
    """One reset on its way."""

    def __init__(
        self, shard: Shard, reader: HistoryReader, base: Slot, request: m.ResetWorkflowExecutionRequest, pins: _Pins
    ) -> None:
        self.base = pins.add(base)
        self._pins = pins
        self._shard = shard
        self._reader = reader
        self._request = request
        self._takeover = Takeover(request.workflow_task_finish_event_id)
        self._following: list[_Reading] = []
        self._children: list[tuple[ChildItem, Slot]] = []
        self._ends: dict[int, ChildEnd] = {}
        self._last_left: Slot | None = None
        """The run whose successor has been erased."""

    async def read(self) -> None:
        """Read what has not been read yet.

        Raises:
            RpcError: INVALID_ARGUMENT, the workflow can't be taken up there; DATA_LOSS.
        """
        await self._read_base()
        await self._read_following()
        await self._find_children()

    def is_whole(self, current: Slot) -> bool:
        """Whether nothing has changed since it was read."""
        base = self.base
        if base.gone or current.gone or self._takeover.events_read != base.run.state.next_event_id - 1:
            return False
        last = base
        for reading in self._following:
            last = reading.slot
            if last.gone or reading.events_read != last.run.state.next_event_id - 1:
                return False
        if last is not current and last is not self._last_left and last.run.state.status == _CONTINUED:
            if len(self._following) < _CONTINUED_MAX:
                return False
        return all(slot.run.is_open and not slot.gone for _, slot in self._children)

    async def _read_base(self) -> None:
        takeover = self._takeover
        while takeover.events_read < self.base.run.state.next_event_id - 1:
            takeover.feed(await self._slice(self.base, takeover.events_read + 1))

    async def _read_following(self) -> None:
        last = self.base
        for at, reading in enumerate(self._following):
            last = reading.slot
            self._following[at] = await self._read_on(reading)
        while last.run.state.status == _CONTINUED and len(self._following) < _CONTINUED_MAX:
            state = last.run.state
            try:
                last = await self._shard.cache.find(state.namespace, state.workflow_id, state.new_run_id)
            except RpcError as error:
                if error.code is StatusCode.NOT_FOUND:
                    self._last_left = last
                    return  # Erased: what came to it is gone.
                raise
            self._following.append(await self._read_on(_Reading(self._pins.add(last), 0)))

    async def _read_on(self, reading: _Reading) -> _Reading:
        slot, events_read = reading
        while events_read < slot.run.state.next_event_id - 1:
            batch = await self._slice(slot, events_read + 1)
            self._takeover.feed_following(batch)
            events_read += len(batch)
        return _Reading(slot, events_read)

    async def _slice(self, slot: Slot, first_event_id: int) -> list[bytes]:
        await asyncio.sleep(0)
        page = await self._reader.page(
            slot.key, first_event_id, max_events=_SLICE_EVENTS, max_bytes=_SLICE_BYTES, durable_only=False
        )
        if not page.frames:
            if slot.gone:
                raise _LeftError
            raise self._shard.cache.quarantine(slot.key, f"its history ends before event {first_event_id}")
        return page.frames

    async def _find_children(self) -> None:
        """See which children of the new run still run, and how the others ended."""
        self._children = []
        self._ends = {}
        for item in self._takeover.unfinished_children():
            slot = await self._last_run(item)
            if slot is not None and slot.run.is_open:
                self._children.append((item, self._pins.add(slot)))
            else:
                self._ends[item.event_id] = await self._end_of(item, slot)

    async def _last_run(self, item: ChildItem) -> Slot | None:
        """The latest run of a child; None if it has been erased."""
        run_id = item.run_id
        slot: Slot | None = None
        for _ in range(_ENDS_FOLLOWED):
            try:
                slot = await self._shard.cache.find(item.namespace, item.workflow_id, run_id)
            except RpcError as error:
                if error.code is StatusCode.NOT_FOUND:
                    return None
                raise
            state = slot.run.state
            run_id = state.reset_run_id or state.new_run_id
            if slot.run.is_open or not run_id:
                break
        return slot

    async def _end_of(self, item: ChildItem, slot: Slot | None) -> ChildEnd:
        if slot is not None:
            if slot.group is not None:
                await slot.group.durable()
            event = await self._reader.event(slot.key, slot.run.state.close_event_id)
            if event.event_type in history.CHILD_CLOSINGS:
                return ChildEnd(event, slot.run.state.run_id)
        return history.erased_child(item.run_id)

    def begin(self, current: Slot) -> Slot:
        """End the present run and begin the new one (precondition: `is_whole`)."""
        shard = self._shard
        request = self._request
        base = self.base
        takeover = self._takeover
        now_ms = shard.clock.now_ms()
        run_id = shard.ids.new_id()
        if current.run.is_open:
            identity = request.identity or "history-service"
            spared = _children_of(current.run if current is base else takeover.state)
            ending = history.terminate_for_reset(
                current.run, reason=request.reason, identity=identity, spared=set(spared), now_ms=now_ms
            )
            shard.apply(current, ending)
            if current is base:
                takeover.feed(ending.frames)
            elif any(reading.slot is current for reading in self._following):
                takeover.feed_following(ending.frames)
        for slot in {base, current}:
            shard.apply(slot, history.mark_reset(slot.run, run_id, now_ms=now_ms))
        transition = history.reset_run(
            takeover,
            request,
            base=base.run.state,
            current=current.run.state,
            ends=self._ends,
            run_key=shard.last_key + 1,
            run_id=run_id,
            limits=shard.limits,
            now_ms=now_ms,
        )
        return shard.enter(transition)


def _children_of(run: history.Run | history.RunState) -> Iterator[str]:
    state = run.state if isinstance(run, history.Run) else run
    return (item.workflow_id for item in state.items.values() if isinstance(item, ChildItem))


async def reset_workflow(
    shard: Shard, reader: HistoryReader, base: Slot, request: m.ResetWorkflowExecutionRequest
) -> Slot:
    """Reset a run. Returns the new run, which is not durable yet, or the one an earlier call with the request id made.

    Args:
        shard: of the run.
        reader: of its histories.
        base: the run to reset.
        request: what is asked for.

    Raises:
        RpcError: INVALID_ARGUMENT; NOT_FOUND; DATA_LOSS, a history is damaged; UNAVAILABLE, try again.
    """
    history.check_reset(request, shard.limits)
    pins = _Pins(shard)
    try:
        return await _reset(shard, reader, base, request, pins)
    finally:
        pins.release()


async def _reset(
    shard: Shard, reader: HistoryReader, base: Slot, request: m.ResetWorkflowExecutionRequest, pins: _Pins
) -> Slot:
    namespace, workflow_id = base.run.state.namespace, base.run.state.workflow_id
    reset = _Reset(shard, reader, base, request, pins)
    for _ in range(_ROUNDS_MAX):
        current = pins.add(await shard.cache.find(namespace, workflow_id, ""))
        if request.request_id and current.run.state.start_request_id == request.request_id:
            return current
        if reset.base.gone:
            base = await shard.cache.find(namespace, workflow_id, reset.base.run.state.run_id)
            reset = _Reset(shard, reader, base, request, pins)
        if not 1 < request.workflow_task_finish_event_id < reset.base.run.state.next_event_id:
            raise history.no_such_point(reset.base.run)
        try:
            await reset.read()
        except _LeftError:
            base = await shard.cache.find(namespace, workflow_id, reset.base.run.state.run_id)
            reset = _Reset(shard, reader, base, request, pins)
            continue
        except (ValueError, LookupError, DecodeError) as error:
            raise shard.cache.quarantine(reset.base.key, f"its history is damaged: {error}") from error
        if shard.cache.current.get((namespace, workflow_id)) == current.key and reset.is_whole(current):
            return reset.begin(current)
    raise RpcError(StatusCode.UNAVAILABLE, f"workflow {workflow_id!r} is too busy to be reset now; try again")
