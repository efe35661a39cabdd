"""Nexus on its way: requests of operations to the workers that handle them, and completions to those that wait.

A request goes to the queue that the operation's endpoint leads to, when the commit that made it dispatchable is
durable. A worker that polls that queue gets it when it is durable that it does (`history.hold_nexus`); what it answers
is applied to the run that calls. With the request goes a callback: the system's own URL, and a token that names the
operation. A handler that starts a workflow gives them to it as a completion callback, and when that workflow closes the
completion comes back here: it is found by its token and applied, in the commit that notes in the closed workflow that
it was told. An operation whose caller was reset since is found by the notes that resets leave.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Final

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.api.durations import set_timestamp_ms
from perdure.engine import history
from perdure.engine.callouts import Verdict, call_out_of, check_url, post
from perdure.engine.history import NexusItem, OutMessage, links, nexus_failures
from perdure.engine.matching.queue import NexusTask, Task
from perdure.engine.nexus_endpoints import Endpoints
from perdure.engine.reading import HistoryReader
from perdure.engine.slot import Slot
from perdure.engine.tokens import CallbackToken, NexusToken, Tokens

if TYPE_CHECKING:
    from perdure.engine.shard import Shard

__all__ = ["Nexus"]

SYSTEM_URL: Final = "temporal://system"
TOKEN_HEADER: Final = "temporal-callback-token"
_OPERATION_TOKEN_HEADERS: Final = ("nexus-operation-token", "nexus-operation-id")
_AGAIN = frozenset((StatusCode.UNAVAILABLE, StatusCode.RESOURCE_EXHAUSTED, StatusCode.DATA_LOSS, StatusCode.INTERNAL))
_RESETS_FOLLOWED = 100
_CALLS_AT_ONCE = 16
"""Calls out of the server that are under way."""
_RETRY_MS = 5_000
"""When a completion that could not be read is looked at again."""
_SCHEDULED = m.EventType.EVENT_TYPE_NEXUS_OPERATION_SCHEDULED
_STARTED = m.EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED


class Nexus:
    """The Nexus of a shard."""

    def __init__(self, shard: Shard) -> None:
        self.endpoints = Endpoints(shard, self._lead_again)
        self._shard = shard
        self._calls = asyncio.Semaphore(_CALLS_AT_ONCE)
        self._reader: HistoryReader | None = None
        self._tokens: Tokens | None = None

    async def start(self, reader: HistoryReader, tokens: Tokens) -> None:
        """Read the endpoints. Raises RpcError UNAVAILABLE, the store can't be read."""
        self._reader = reader
        self._tokens = tokens
        await self.endpoints.load()

    @property
    def reader(self) -> HistoryReader:
        assert self._reader is not None, "a started engine reads"
        return self._reader

    @property
    def tokens(self) -> Tokens:
        assert self._tokens is not None, "a started engine has tokens"
        return self._tokens

    # -- requests --------------------------------------------------------------------------------------------------

    def offer(self, slot: Slot, item: history.Item) -> None:
        """Bring the request of an operation to its queue; without a queue it fails."""
        request = item.request if isinstance(item, NexusItem) else None
        if request is None:
            return
        assert isinstance(item, NexusItem), "others have no request"
        cancels = bool(item.started_at_ms)
        endpoint = self.endpoints.by_id.get(item.endpoint_id)
        shard = self._shard
        if endpoint is not None and endpoint.spec.target.worker.namespace in shard.namespaces.by_name:
            worker = endpoint.spec.target.worker
            task = NexusTask(slot.key, item.event_id, request.attempt, cancels)
            shard.matching.nexus_queue(worker.namespace, worker.task_queue).offer(task)
            return
        failure = nexus_failures.handler_failure("NOT_FOUND", f"endpoint {item.endpoint!r} leads nowhere")
        transition = history.fail_nexus_attempt(
            slot.run,
            item.event_id,
            request.attempt,
            failure,
            cancels=cancels,
            limits=shard.limits,
            now_ms=shard.clock.now_ms(),
        )
        shard.apply(slot, transition)

    def _lead_again(self) -> None:
        """Endpoints have changed: what waits in a queue may belong into another."""
        waiting = [task for queue in self._shard.matching.nexus.values() for task in queue.clear()]
        if waiting:
            self._shard.spawn(self._offer_all(waiting))

    async def _offer_all(self, tasks: Iterable[Task]) -> None:
        for task in tasks:
            assert isinstance(task, NexusTask), "Nexus queues hold Nexus tasks"
            slot = await self._shard.recovery.load(task.run_key)
            item = slot.run.state.items.get(task.scheduled_event_id) if slot is not None else None
            if slot is not None and item is not None and _stands(slot, task):
                self.offer(slot, item)

    async def hand_out(self, task: NexusTask, namespace: str) -> m.PollNexusTaskQueueResponse | None:
        """Hand out a request; None when the entry no longer stands.

        When the caller gives up meanwhile the request is free again; the entry is the caller's to put back.

        Args:
            task: the entry.
            namespace: of the worker.

        Raises:
            RpcError: DATA_LOSS, the run is damaged; UNAVAILABLE or RESOURCE_EXHAUSTED, it could not be written.
        """
        shard = self._shard
        slot = await shard.cache.get(task.run_key)
        if not _stands(slot, task):
            return None
        event = await self.reader.event(task.run_key, task.scheduled_event_id)
        slot = await shard.cache.get(task.run_key)
        now_ms = shard.clock.now_ms()
        try:
            held = history.hold_nexus(
                slot.run,
                task.scheduled_event_id,
                task.attempt,
                cancels=task.cancels,
                limits=shard.limits,
                now_ms=now_ms,
            )
        except RpcError:
            return None
        item = slot.run.state.items[task.scheduled_event_id]
        assert isinstance(item, NexusItem), "it is held"
        response = self._request(slot, item, event.nexus_operation_scheduled_event_attributes, namespace, now_ms)
        try:
            await shard.apply(slot, held).durable()
        except asyncio.CancelledError:
            self._release(slot, task)
            raise
        return response

    def _release(self, slot: Slot, task: NexusTask) -> None:
        if slot.gone:
            return  # That it was handed out was lost with the run.
        released = history.release_nexus(
            slot.run,
            task.scheduled_event_id,
            task.attempt,
            cancels=task.cancels,
            now_ms=self._shard.clock.now_ms(),
        )
        self._shard.apply(slot, released)

    def _request(
        self,
        slot: Slot,
        item: NexusItem,
        said: m.NexusOperationScheduledEventAttributes,
        namespace: str,
        now_ms: int,
    ) -> m.PollNexusTaskQueueResponse:
        request = item.request
        assert request is not None, "it is held"
        cancels = bool(item.started_at_ms)
        token = NexusToken(slot.key, item.event_id, request.attempt, cancels)
        response = m.PollNexusTaskQueueResponse(task_token=self.tokens.nexus(namespace, token))
        asked = response.request
        asked.endpoint = item.endpoint
        asked.capabilities.temporal_failure_responses = True
        set_timestamp_ms(asked.scheduled_time, now_ms)
        for name, value in said.nexus_header.items():
            asked.header[name] = value
        left_ms = request.held_until_ms - now_ms
        if item.schedule_to_close_ms:
            operation_ms = max(1, item.scheduled_at_ms + item.schedule_to_close_ms - now_ms)
            left_ms = min(left_ms, operation_ms)
            if "operation-timeout" not in asked.header and not cancels:
                asked.header["operation-timeout"] = f"{operation_ms}ms"
        asked.header["request-timeout"] = f"{left_ms}ms"
        if cancels:
            cancel = asked.cancel_operation
            cancel.service = item.service
            cancel.operation = item.operation
            cancel.operation_id = cancel.operation_token = item.token
            return response
        start = asked.start_operation
        start.service = item.service
        start.operation = item.operation
        start.request_id = item.request_id
        start.callback = SYSTEM_URL
        start.payload.CopyFrom(said.input)
        start.callback_header[TOKEN_HEADER] = self.tokens.callback(
            CallbackToken(slot.key, item.event_id, item.request_id)
        )
        state = slot.run.state
        start.links.append(links.of_event(state.namespace, state.workflow_id, state.run_id, item.event_id, _SCHEDULED))
        return response

    # -- completions -----------------------------------------------------------------------------------------------

    def check_callbacks(self, callbacks: Iterable[m.Callback]) -> None:
        """Refuse callbacks that would never be made. Raises RpcError INVALID_ARGUMENT."""
        for callback in callbacks:
            if callback.nexus.url != SYSTEM_URL:
                check_url(callback.nexus.url, self._shard.config.callback_addresses)

    async def deliver(self, sender: Slot, message: OutMessage) -> int:
        """Tell the operation that waits for it how the sender has ended. 0, or why nobody waits.

        Nothing is awaited after the change of the receiver.

        Raises:
            RpcError: it can't be told now.
        """
        callback = history.callback_of(sender.run, message).nexus
        header = {name.lower(): value for name, value in callback.header.items()}
        event = await self.reader.event(sender.key, history.callback_event_id(sender.run, message))
        try:
            token = self.tokens.open_callback(header.get(TOKEN_HEADER, ""))
            caller = await self._caller(token)
            transition = history.complete_nexus(
                caller.run,
                token.scheduled_event_id,
                token.request_id,
                history.completion_of(sender.run, message, event),
                token=next((header[name] for name in _OPERATION_TOKEN_HEADERS if name in header), ""),
                links=[_link_to(sender)],
                limits=self._shard.limits,
                now_ms=self._shard.clock.now_ms(),
            )
        except RpcError as error:
            if error.code in _AGAIN:
                raise
            return history.CALLBACK_NOT_FOUND
        self._shard.apply(caller, transition)
        return 0

    def goes_out(self, sender: Slot, message: OutMessage) -> bool:
        """Whether a callback is for somebody outside of the server."""
        return history.callback_of(sender.run, message).nexus.url != SYSTEM_URL

    async def call_out(self, sender: Slot, message: OutMessage) -> None:
        """Tell somebody outside how the sender has ended, or find out that it has to be tried again, and when."""
        shard = self._shard
        try:
            event = await self.reader.event(sender.key, history.callback_event_id(sender.run, message))
            async with self._calls:
                failure, again = await self._call(sender, message, event)
            sender = await shard.cache.get(sender.key)
        except RpcError as error:
            if error.code in _AGAIN and error.code is not StatusCode.DATA_LOSS:
                self._deliver_at(shard.clock.now_ms() + _RETRY_MS, sender, message)
            return
        if all(message.seq != waiting.seq for waiting in sender.run.state.outbox):
            return  # It was delivered before this engine knew of it.
        now_ms = shard.clock.now_ms()
        if failure:
            told = nexus_failures.handler_failure("UPSTREAM_ERROR", failure, retryable=again)
            failed = history.callback_failed(sender.run, message, told, limits=shard.limits, now_ms=now_ms)
            shard.apply(sender, failed)
            due_ms = history.callback_due_ms(sender.run, message) if again else 0
            if due_ms:
                self._deliver_at(due_ms, sender, message)
                return
        cause = history.CALLBACK_REFUSED if failure else 0
        shard.apply(sender, history.message_delivered(sender.run, message.seq, failure_cause=cause, now_ms=now_ms))

    async def _call(self, sender: Slot, message: OutMessage, event: m.HistoryEvent) -> Verdict:
        callback = history.callback_of(sender.run, message).nexus
        completion = history.completion_of(sender.run, message, event)
        further = {"user-agent": "perdure", "nexus-operation-close-time": event.event_time.ToJsonString()}
        addresses = self._shard.config.callback_addresses
        try:
            call = call_out_of(callback, completion, addresses, further)
        except RpcError as error:
            return Verdict(error.message)
        return await post(call)

    def _deliver_at(self, due_ms: int, sender: Slot, message: OutMessage) -> None:
        shard = self._shard
        shard.clock.call_at(due_ms, partial(shard.outbox.add, sender, (message,)))

    async def _caller(self, token: CallbackToken) -> Slot:
        """The run that waits for a completion: the one that called, or the one that has taken up its history since."""
        cache = self._shard.cache
        caller = await cache.get(token.run_key)
        for _ in range(_RESETS_FOLLOWED):
            state = caller.run.state
            if caller.run.is_open or not state.reset_run_id:
                break
            caller = await cache.find(state.namespace, state.workflow_id, state.reset_run_id)
        return caller


def _link_to(slot: Slot) -> m.Link:
    """The link to the beginning of a workflow, or to an activity without one."""
    state = slot.run.state
    link = m.Link()
    if state.standalone is not None:
        link.activity.namespace = state.namespace
        link.activity.activity_id = state.workflow_id.removeprefix(history.ACTIVITY_PREFIX)
        link.activity.run_id = state.run_id
        return link
    event = link.workflow_event
    event.namespace = state.namespace
    event.workflow_id = state.workflow_id
    event.run_id = state.first_run_id or state.run_id
    event.event_ref.event_id = 1
    event.event_ref.event_type = _STARTED
    return link


def _stands(slot: Slot, task: NexusTask) -> bool:
    """Whether a backlog entry is that of a request which waits."""
    try:
        item, request = history.find_nexus(slot.run, task.scheduled_event_id, task.attempt, cancels=task.cancels)
    except RpcError:
        return False
    return item.request is request and not request.held_until_ms and not request.next_attempt_at_ms
