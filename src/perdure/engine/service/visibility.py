"""Listing and counting workflows."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable
from dataclasses import replace
from operator import itemgetter
from typing import NamedTuple, TypeVar

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.api.durations import timestamp_ms
from perdure.engine import history
from perdure.engine.reads import read
from perdure.engine.service.base import ServiceTopic, invalid
from perdure.engine.store.port import StoreCorruptError, VisibilityFilter
from perdure.engine.tokens import ListToken
from perdure.engine.visibility.query import ListQuery, parse

__all__ = ["VisibilityTopic"]

_T = TypeVar("_T")
_RUNNING = int(m.WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_RUNNING)
_CLOSED = tuple(sorted(set(m.WorkflowExecutionStatus.values()) - {0, _RUNNING}))
_OF_THE_PAGE = ("next_page_token", "maximum_page_size")


class _Page(NamedTuple):
    executions: list[m.WorkflowExecutionInfo]
    next_token: bytes


class VisibilityTopic(ServiceTopic):
    """Lists and counts: durable runs only."""

    async def list_workflow_executions(
        self, request: m.ListWorkflowExecutionsRequest
    ) -> m.ListWorkflowExecutionsResponse:
        """A page of runs, newest start first. Raises RpcError NOT_FOUND (namespace), INVALID_ARGUMENT."""
        self.check(request.namespace)
        page = await self._list_page(
            self._list_query(request.namespace, request.query),
            request.query,
            request.next_page_token,
            request.page_size,
        )
        return m.ListWorkflowExecutionsResponse(executions=page.executions, next_page_token=page.next_token)

    async def scan_workflow_executions(
        self, request: m.ScanWorkflowExecutionsRequest
    ) -> m.ScanWorkflowExecutionsResponse:
        """The same as a list. Raises RpcError NOT_FOUND (namespace), INVALID_ARGUMENT."""
        self.check(request.namespace)
        page = await self._list_page(
            self._list_query(request.namespace, request.query),
            request.query,
            request.next_page_token,
            request.page_size,
        )
        return m.ScanWorkflowExecutionsResponse(executions=page.executions, next_page_token=page.next_token)

    async def list_open_workflow_executions(
        self, request: m.ListOpenWorkflowExecutionsRequest
    ) -> m.ListOpenWorkflowExecutionsResponse:
        """Raises RpcError NOT_FOUND (namespace), INVALID_ARGUMENT."""
        self.check(request.namespace)
        where = _narrowed(VisibilityFilter(namespace=request.namespace, statuses=(_RUNNING,)), request, "start")
        text = f"open {_text_of(request)}"
        page = await self._list_page(ListQuery(where), text, request.next_page_token, request.maximum_page_size)
        return m.ListOpenWorkflowExecutionsResponse(executions=page.executions, next_page_token=page.next_token)

    async def list_closed_workflow_executions(
        self, request: m.ListClosedWorkflowExecutionsRequest
    ) -> m.ListClosedWorkflowExecutionsResponse:
        """Raises RpcError NOT_FOUND (namespace), INVALID_ARGUMENT."""
        self.check(request.namespace)
        statuses = _CLOSED
        if request.HasField("status_filter"):
            statuses = (int(request.status_filter.status),)
            if statuses[0] not in _CLOSED:
                raise invalid("StatusFilter must be specified and must be not Running.")
        where = _narrowed(VisibilityFilter(namespace=request.namespace, statuses=statuses), request, "close")
        text = f"closed {_text_of(request)}"
        page = await self._list_page(ListQuery(where), text, request.next_page_token, request.maximum_page_size)
        return m.ListClosedWorkflowExecutionsResponse(executions=page.executions, next_page_token=page.next_token)

    def _list_query(self, namespace: str, text: str) -> ListQuery:
        query = parse(namespace, text)
        if query.group_by_status:
            raise invalid("a list can't be grouped; count can")
        return query

    async def _list_page(self, query: ListQuery, text: str, token: bytes, page_size: int) -> _Page:
        """A page of a list.

        Args:
            text: what was asked; a page token belongs to it.
        """
        namespace = query.where.namespace
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        after: tuple[int, int] | None = None
        if token:
            opened = self.tokens.open_list_page(namespace, token)
            if opened.filter_digest != digest:
                raise invalid("the page token belongs to a list with another filter")
            after = (opened.start_ms, opened.run_key)
        if query.contradictory:
            return _Page([], b"")
        limit = min(page_size, self.config.list_page) if page_size > 0 else self.config.list_page
        rows = await self._read(self.shard.store.list_visibility(query.where, after, limit + 1))
        executions: list[m.WorkflowExecutionInfo] = []
        for row in rows[:limit]:
            info = m.WorkflowExecutionInfo()
            history.fill_info(info, history.VisibilityFields(*row))
            executions.append(info)
        if len(rows) <= limit:
            return _Page(executions, b"")
        last = rows[limit - 1]
        return _Page(executions, self.tokens.list_page(namespace, ListToken(last.start_ms, last.run_key, digest)))

    async def count_workflow_executions(
        self, request: m.CountWorkflowExecutionsRequest
    ) -> m.CountWorkflowExecutionsResponse:
        """How many runs match, in all or by status. Raises RpcError NOT_FOUND (namespace), INVALID_ARGUMENT."""
        self.check(request.namespace)
        query = parse(request.namespace, request.query)
        response = m.CountWorkflowExecutionsResponse()
        if query.contradictory:
            return response
        if not query.group_by_status:
            response.count = await self._read(self.shard.store.count_visibility(query.where))
            return response
        counts = await self._read(self.shard.store.count_by_status(query.where))
        for status, count in sorted(counts.items()):
            group = response.groups.add(count=count)
            value = group.group_values.add()
            value.metadata["encoding"] = b"json/plain"
            value.metadata["type"] = b"Keyword"
            value.data = f'"{_status_name(status)}"'.encode()
            response.count += count
        return response

    async def _read(self, call: Awaitable[_T]) -> _T:
        try:
            return await read(call)
        except StoreCorruptError as error:
            raise RpcError(StatusCode.DATA_LOSS, f"the list of workflows is damaged: {error}") from error


def _text_of(request: m.ListOpenWorkflowExecutionsRequest | m.ListClosedWorkflowExecutionsRequest) -> str:
    """What tells one list of open or closed runs from another."""
    fields = [(field.name, value) for field, value in request.ListFields() if field.name not in _OF_THE_PAGE]
    return repr(sorted(fields, key=itemgetter(0)))


def _narrowed(
    where: VisibilityFilter,
    request: m.ListOpenWorkflowExecutionsRequest | m.ListClosedWorkflowExecutionsRequest,
    time: str,
) -> VisibilityFilter:
    """With what the request filters by. Raises RpcError INVALID_ARGUMENT."""
    span = request.start_time_filter
    if span.HasField("earliest_time"):
        where = replace(where, **{f"{time}_from_ms": timestamp_ms(span.earliest_time)})
    if span.HasField("latest_time"):
        where = replace(where, **{f"{time}_to_ms": timestamp_ms(span.latest_time)})
        if span.HasField("earliest_time") and timestamp_ms(span.earliest_time) > timestamp_ms(span.latest_time):
            raise invalid("EarliestTime in StartTimeFilter should not be larger than LatestTime.")
    if request.HasField("execution_filter"):
        execution = request.execution_filter
        where = replace(where, workflow_id=execution.workflow_id or None, run_id=execution.run_id or None)
    if request.HasField("type_filter"):
        where = replace(where, workflow_type=request.type_filter.name)
    return where


def _status_name(status: int) -> str:
    name = m.WorkflowExecutionStatus.Name(m.WorkflowExecutionStatus.ValueType(status))
    parts = name.removeprefix("WORKFLOW_EXECUTION_STATUS_").split("_")
    return "".join(part.capitalize() for part in parts)
