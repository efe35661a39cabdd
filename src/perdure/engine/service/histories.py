"""Histories: paged, followed, reversed. Only durable events are shown.

A page token says where the next page begins. While the run is open a caller who waits for new events always gets
one; once the closing event has been shown there is none. With the close-event filter a waiting caller gets no
events until the run is closed, and then the last one only.

The page tokens of a workflow task's history bound it to the task's Started event. The events of a transient task
exist nowhere but in the run's memory while the task is handed out; they end its last page.
"""

from __future__ import annotations

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.engine import history
from perdure.engine.reading import cut
from perdure.engine.service.base import ServiceTopic, invalid
from perdure.engine.slot import Slot
from perdure.engine.tokens import HistoryToken

__all__ = ["HistoryTopic"]

_CLOSE_EVENT = m.HistoryEventFilterType.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT


class HistoryTopic(ServiceTopic):
    """GetWorkflowExecutionHistory and its reverse."""

    async def get_workflow_execution_history(
        self, request: m.GetWorkflowExecutionHistoryRequest, *, timeout_s: float | None = None
    ) -> m.GetWorkflowExecutionHistoryResponse:
        """A page of a history.

        Raises:
            RpcError: NOT_FOUND, INVALID_ARGUMENT, DATA_LOSS.
        """
        self.check(request.namespace)
        if request.next_page_token:
            token = self.tokens.open_history(request.namespace, request.next_page_token)
        else:
            slot = await self._find(request.namespace, request.execution)
            token = HistoryToken(slot.key, 1)
        token = token._replace(waits=request.wait_new_event)
        max_events = self._page_events(request.maximum_page_size)
        if token.last_event_id:
            return await self._task_page(request.namespace, token, max_events)
        close_only = request.history_event_filter_type == _CLOSE_EVENT
        until_s = 0.0
        while True:
            slot = self.cache.loaded.get(token.run_key)
            if slot is None:
                slot = await self._again(request, token)
                token = token._replace(run_key=slot.key)
            if close_only:
                response = await self._close_event(request.namespace, slot, token)
            else:
                response = await self._page(request.namespace, slot, token, max_events)
            if response is not None:
                return response
            until_s = until_s or self.clock.monotonic_s() + self.wait_s(timeout_s)
            if not await self._wait(token.run_key, until_s, for_end=close_only):
                return self._nothing(request.namespace, token)

    async def _find(self, namespace: str, execution: m.WorkflowExecution) -> Slot:
        if not execution.workflow_id:
            raise invalid("the workflow id is missing")
        return await self.cache.find(namespace, execution.workflow_id, execution.run_id)

    async def _again(self, request: m.GetWorkflowExecutionHistoryRequest, token: HistoryToken) -> Slot:
        """The run that is read, which memory has lost. If its start was lost with its commit, the caller, who was told
        nothing of it, means the run that the workflow id stands for now."""
        try:
            return await self.cache.get(token.run_key)
        except RpcError as error:
            if error.code is not StatusCode.NOT_FOUND or request.next_page_token or request.execution.run_id:
                raise
            return await self._find(request.namespace, request.execution)

    def _page_events(self, asked: int) -> int:
        longest = self.config.history_page_events
        return min(asked, longest) if asked > 0 else longest

    async def _close_event(
        self, namespace: str, slot: Slot, token: HistoryToken
    ) -> m.GetWorkflowExecutionHistoryResponse | None:
        """The last event of a closed run; None to wait for it."""
        close_id = slot.run.state.close_event_id
        if slot.run.is_open or close_id > slot.durable_event_id:
            return None if token.waits else _response([])
        return _response(await self._frames(slot, close_id, close_id, 1))

    async def _page(
        self, namespace: str, slot: Slot, token: HistoryToken, max_events: int
    ) -> m.GetWorkflowExecutionHistoryResponse | None:
        """The next events; None to wait for some."""
        last_id = slot.durable_event_id
        key = slot.key
        is_over = not slot.run.is_open and slot.run.state.close_event_id <= last_id
        frames: list[bytes] = []
        if token.event_id <= last_id:
            frames = await self._frames(slot, token.event_id, last_id, max_events)
        next_id = token.event_id + len(frames)
        if not frames and token.waits and not is_over:
            return None
        response = _response(frames)
        if next_id <= last_id or (token.waits and not is_over):
            response.next_page_token = self.tokens.history(namespace, HistoryToken(key, next_id, waits=token.waits))
        return response

    async def _frames(self, slot: Slot, first_id: int, last_id: int, max_events: int) -> list[bytes]:
        """Durable frames `first…last`, as many as fit a page."""
        frames = self.reader.in_memory(slot, first_id, last_id)
        if frames is None:
            page = await self.reader.page(
                slot.key,
                first_id,
                max_events=min(max_events, last_id + 1 - first_id),
                max_bytes=self.config.history_page_bytes,
                durable_only=True,
            )
            frames = page.frames
        return cut(frames, max_events, self.config.history_page_bytes)

    async def _wait(self, run_key: int, until_s: float, *, for_end: bool) -> bool:
        """Wait for durable events of a run, or for its end. False when the time is up or the engine stops."""
        if self.engine.stopping:
            self.engine.check_not_failed()
            return False
        left_s = until_s - self.clock.monotonic_s()
        return left_s > 0 and await self.shard.waiters.wait(run_key, left_s, for_end=for_end)

    def _nothing(self, namespace: str, token: HistoryToken) -> m.GetWorkflowExecutionHistoryResponse:
        response = _response([])
        response.next_page_token = self.tokens.history(namespace, token)
        return response

    async def _task_page(
        self, namespace: str, token: HistoryToken, max_events: int
    ) -> m.GetWorkflowExecutionHistoryResponse:
        """A further page of a workflow task's history."""
        left = token.last_event_id + 1 - token.event_id
        page = await self.reader.page(
            token.run_key,
            token.event_id,
            max_events=min(max_events, left),
            max_bytes=self.config.history_page_bytes,
            durable_only=not self.in_process,
        )
        frames = page.frames
        slot = self.cache.loaded.get(token.run_key)
        if slot is not None and token.handout and slot.handout == token.handout and slot.run.live.task is not None:
            if slot.run.frames_first_event_id <= page.next_event_id <= token.last_event_id:
                tail = history.task_frames(slot.run, page.next_event_id)
                frames = cut(frames + tail, min(max_events, left), self.config.history_page_bytes)
        response = _response(frames)
        next_id = token.event_id + len(frames)
        if frames and next_id <= token.last_event_id:
            response.next_page_token = self.tokens.history(namespace, token._replace(event_id=next_id))
        return response

    async def get_workflow_execution_history_reverse(
        self, request: m.GetWorkflowExecutionHistoryReverseRequest
    ) -> m.GetWorkflowExecutionHistoryReverseResponse:
        """A page of a history, last event first.

        Raises:
            RpcError: NOT_FOUND, INVALID_ARGUMENT, DATA_LOSS.
        """
        self.check(request.namespace)
        if request.next_page_token:
            token = self.tokens.open_history(request.namespace, request.next_page_token, reverse=True)
        else:
            slot = await self._find(request.namespace, request.execution)
            token = HistoryToken(slot.key, slot.durable_event_id)
        frames = await self.reader.page_reverse(
            token.run_key,
            token.event_id,
            max_events=self._page_events(request.maximum_page_size),
            max_bytes=self.config.history_page_bytes,
        )
        response = m.GetWorkflowExecutionHistoryReverseResponse()
        response.history.MergeFromString(b"".join(frames))
        next_id = token.event_id - len(frames)
        if frames and next_id >= 1:
            next_token = HistoryToken(token.run_key, next_id)
            response.next_page_token = self.tokens.history(request.namespace, next_token, reverse=True)
        return response


def _response(frames: list[bytes]) -> m.GetWorkflowExecutionHistoryResponse:
    response = m.GetWorkflowExecutionHistoryResponse()
    response.history.MergeFromString(b"".join(frames))
    return response
