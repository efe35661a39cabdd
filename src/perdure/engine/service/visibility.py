"""Listing and counting workflows.

A filter is read against the namespace's search attributes (`visibility.parsing`), the store carries it out. What is
listed is durable; a run's own attributes are shown if the namespace still has them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable
from operator import itemgetter
from typing import NamedTuple, TypeVar

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.api.durations import timestamp_ms
from perdure.engine import history
from perdure.engine.reads import read
from perdure.engine.service.base import ServiceTopic, invalid
from perdure.engine.store.port import StoreCorruptError
from perdure.engine.tokens import ListToken
from perdure.engine.visibility.attributes import BOOL, DATETIME, KEYWORD, TYPE_NAMES
from perdure.engine.visibility.expressions import (
    And,
    Attribute,
    Expression,
    In,
    Not,
    Order,
    Range,
    Value,
    VisibilityQuery,
)
from perdure.engine.visibility.literals import STATUS_NAMES
from perdure.engine.visibility.parsing import WORKFLOWS, ListFilter, Population, own_division, parse

__all__ = ["GROUPS", "VisibilityTopic", "group_value"]

GROUPS = 1000
"""Groups that a count may have."""

_T = TypeVar("_T")
_RUNNING = int(m.WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_RUNNING)
_STATUS = Attribute("ExecutionStatus", KEYWORD)
_START_TIME = Attribute("StartTime", DATETIME)
_PAUSED = int(m.WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_PAUSED)
_IS_OPEN = In(_STATUS, (_RUNNING, _PAUSED))
_OF_THE_PAGE = ("next_page_token", "maximum_page_size")

SimpleRequest = m.ListOpenWorkflowExecutionsRequest | m.ListClosedWorkflowExecutionsRequest


class Page(NamedTuple):
    executions: list[m.WorkflowExecutionInfo]
    next_token: bytes


class VisibilityTopic(ServiceTopic):
    """Lists and counts."""

    async def list_workflow_executions(
        self, request: m.ListWorkflowExecutionsRequest
    ) -> m.ListWorkflowExecutionsResponse:
        """A page of runs: open ones first, then those that closed last, unless the filter orders them.

        Raises:
            RpcError: NOT_FOUND (namespace); INVALID_ARGUMENT, the filter or the page token.
        """
        self.check(request.namespace)
        query = self.list_query(request.namespace, request.query)
        page = await self.list_page(query, request.query, request.next_page_token, request.page_size)
        return m.ListWorkflowExecutionsResponse(executions=page.executions, next_page_token=page.next_token)

    async def scan_workflow_executions(
        self, request: m.ScanWorkflowExecutionsRequest
    ) -> m.ScanWorkflowExecutionsResponse:
        """The same in the order of their starts, in which no run changes its place meanwhile.

        Raises:
            RpcError: NOT_FOUND (namespace); INVALID_ARGUMENT, the filter or the page token.
        """
        self.check(request.namespace)
        query = self.list_query(request.namespace, request.query, (Order(_START_TIME, descending=True),))
        page = await self.list_page(query, request.query, request.next_page_token, request.page_size)
        return m.ScanWorkflowExecutionsResponse(executions=page.executions, next_page_token=page.next_token)

    async def list_open_workflow_executions(
        self, request: m.ListOpenWorkflowExecutionsRequest
    ) -> m.ListOpenWorkflowExecutionsResponse:
        """Raises RpcError NOT_FOUND (namespace), INVALID_ARGUMENT."""
        self.check(request.namespace)
        where = And((_IS_OPEN, *_conditions(request, "StartTime")))
        page = await self._simple_page(request, where)
        return m.ListOpenWorkflowExecutionsResponse(executions=page.executions, next_page_token=page.next_token)

    async def list_closed_workflow_executions(
        self, request: m.ListClosedWorkflowExecutionsRequest
    ) -> m.ListClosedWorkflowExecutionsResponse:
        """Raises RpcError NOT_FOUND (namespace), INVALID_ARGUMENT."""
        self.check(request.namespace)
        closed: Expression = Not(_IS_OPEN)
        if request.HasField("status_filter"):
            status = int(request.status_filter.status)
            if status in (_RUNNING, _PAUSED) or status not in STATUS_NAMES:
                raise invalid("StatusFilter must be specified and must be not Running.")
            closed = In(_STATUS, (status,))
        page = await self._simple_page(request, And((closed, *_conditions(request, "CloseTime"))))
        return m.ListClosedWorkflowExecutionsResponse(executions=page.executions, next_page_token=page.next_token)

    async def count_workflow_executions(
        self, request: m.CountWorkflowExecutionsRequest
    ) -> m.CountWorkflowExecutionsResponse:
        """How many runs match, in all or by group. Raises RpcError NOT_FOUND (namespace), INVALID_ARGUMENT."""
        self.check(request.namespace)
        return await self.count_runs(request.namespace, request.query)

    async def count_runs(
        self, namespace: str, text: str, *, population: Population = WORKFLOWS
    ) -> m.CountWorkflowExecutionsResponse:
        """How many runs match, in all or by group. Raises RpcError NOT_FOUND (namespace), INVALID_ARGUMENT."""
        asked = self._parse(namespace, text, population)
        query = VisibilityQuery(namespace=namespace, where=asked.where)
        if asked.group_by is None:
            return m.CountWorkflowExecutionsResponse(count=await self._read(self.shard.store.count_visibility(query)))
        groups = await self._read(self.shard.store.group_visibility(query, asked.group_by, GROUPS + 1))
        if len(groups) > GROUPS:
            raise invalid(f"the runs are of more than {GROUPS} groups; narrow the filter")
        response = m.CountWorkflowExecutionsResponse()
        for value, count in groups:
            response.groups.add(count=count, group_values=[group_value(asked.group_by, value)])
            response.count += count
        return response

    # -- queries ---------------------------------------------------------------------------------------------------

    def _parse(self, namespace: str, text: str, population: Population) -> ListFilter:
        return parse(text, self.namespaces.get(namespace).attributes, self.clock.now_ms(), population)

    def list_query(
        self, namespace: str, text: str, order: tuple[Order, ...] = (), *, population: Population = WORKFLOWS
    ) -> VisibilityQuery:
        """What a list filter asks; `order` is for one that has none. Raises RpcError INVALID_ARGUMENT."""
        asked = self._parse(namespace, text, population)
        if asked.group_by is not None:
            raise invalid("invalid list filter: a list can't be grouped; count can")
        return VisibilityQuery(namespace=namespace, where=asked.where, order=asked.order or order)

    async def _simple_page(self, request: SimpleRequest, where: Expression) -> Page:
        query = VisibilityQuery(namespace=request.namespace, where=own_division(where))
        fields = [(field.name, value) for field, value in request.ListFields() if field.name not in _OF_THE_PAGE]
        text = f"{type(request).__name__} {sorted(fields, key=itemgetter(0))}"
        return await self.list_page(query, text, request.next_page_token, request.maximum_page_size)

    async def list_page(self, query: VisibilityQuery, text: str, token: bytes, page_size: int) -> Page:
        """A page of a list.

        Args:
            text: what was asked; a page token belongs to it.
        """
        namespace = query.namespace
        digest = hashlib.blake2b(f"{text}\0{query.order}".encode(), digest_size=8).digest()
        after = None
        if token:
            opened = self.tokens.open_list_page(namespace, token)
            if opened.filter_digest != digest:
                raise invalid("the page token belongs to a list with another filter")
            after = opened.place
        limit = min(page_size, self.config.list_page) if page_size > 0 else self.config.list_page
        page = await self._read(self.shard.store.list_visibility(query, after, limit))
        executions: list[m.WorkflowExecutionInfo] = []
        for row in page.rows:
            info = m.WorkflowExecutionInfo()
            history.fill_info(info, history.VisibilityFields(*row))
            self.show_attributes(namespace, info)
            executions.append(info)
        if page.next is None:
            return Page(executions, b"")
        return Page(executions, self.tokens.list_page(namespace, ListToken(page.next, digest)))

    async def _read(self, call: Awaitable[_T]) -> _T:
        try:
            return await read(call)
        except StoreCorruptError as error:
            raise RpcError(StatusCode.DATA_LOSS, f"the list of workflows is damaged: {error}") from error


def _conditions(request: SimpleRequest, time: str) -> list[Expression]:
    """What a list of open or closed runs asks for. Raises RpcError INVALID_ARGUMENT."""
    conditions: list[Expression] = []
    span = request.start_time_filter
    if request.HasField("start_time_filter"):
        low = timestamp_ms(span.earliest_time) if span.HasField("earliest_time") else None
        high = timestamp_ms(span.latest_time) if span.HasField("latest_time") else None
        if low is not None and high is not None and low > high:
            raise invalid("EarliestTime in StartTimeFilter should not be larger than LatestTime.")
        conditions.append(Range(Attribute(time, DATETIME), low, None if high is None else high + 1))
    for name, value in (
        ("WorkflowId", request.execution_filter.workflow_id),
        ("RunId", request.execution_filter.run_id),
        ("WorkflowType", request.type_filter.name),
    ):
        if value:
            conditions.append(In(Attribute(name, KEYWORD), (value,)))
    return conditions


def group_value(attribute: Attribute, value: Value) -> m.Payload:
    """A group's value as a payload."""
    shown: object = value
    if attribute == _STATUS:
        shown = STATUS_NAMES[int(value)]
    elif attribute.type == BOOL:
        shown = bool(value)
    metadata = {"encoding": b"json/plain", "type": TYPE_NAMES[attribute.type].encode()}
    return m.Payload(metadata=metadata, data=json.dumps(shown, ensure_ascii=False).encode())
