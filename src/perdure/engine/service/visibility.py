"""Listing and counting workflows."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable
from typing import TypeVar

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.engine import history
from perdure.engine.reads import read
from perdure.engine.service.base import ServiceTopic, invalid
from perdure.engine.store.port import StoreCorruptError
from perdure.engine.tokens import ListToken
from perdure.engine.visibility.query import parse

__all__ = ["VisibilityTopic"]

_T = TypeVar("_T")


class VisibilityTopic(ServiceTopic):
    """ListWorkflowExecutions and CountWorkflowExecutions: durable runs only."""

    async def list_workflow_executions(
        self, request: m.ListWorkflowExecutionsRequest
    ) -> m.ListWorkflowExecutionsResponse:
        """A page of runs, newest start first. Raises RpcError NOT_FOUND (namespace), INVALID_ARGUMENT."""
        self.check(request.namespace)
        query = parse(request.namespace, request.query)
        if query.group_by_status:
            raise invalid("a list can't be grouped; count can")
        digest = hashlib.blake2b(request.query.encode(), digest_size=8).digest()
        after: tuple[int, int] | None = None
        if request.next_page_token:
            token = self.tokens.open_list_page(request.namespace, request.next_page_token)
            if token.filter_digest != digest:
                raise invalid("the page token belongs to a list with another filter")
            after = (token.start_ms, token.run_key)
        response = m.ListWorkflowExecutionsResponse()
        if query.contradictory:
            return response
        limit = min(request.page_size, self.config.list_page) if request.page_size > 0 else self.config.list_page
        rows = await self._read(self.shard.store.list_visibility(query.where, after, limit + 1))
        for row in rows[:limit]:
            history.fill_info(response.executions.add(), history.VisibilityFields(*row))
        if len(rows) > limit:
            last = rows[limit - 1]
            token = ListToken(last.start_ms, last.run_key, digest)
            response.next_page_token = self.tokens.list_page(request.namespace, token)
        return response

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


def _status_name(status: int) -> str:
    name = m.WorkflowExecutionStatus.Name(m.WorkflowExecutionStatus.ValueType(status))
    parts = name.removeprefix("WORKFLOW_EXECUTION_STATUS_").split("_")
    return "".join(part.capitalize() for part in parts)
