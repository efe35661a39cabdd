"""What operators ask and change besides single workflows: search attributes, and task queues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from typing import TYPE_CHECKING, Any, cast

from perdure.api import messages as m
from perdure.api.durations import datetime_of_ms, duration_ms, timestamp_ms
from perdure.client.calls import call
from perdure.common import SearchAttributeKey
from perdure.replay.checks import check_text

if TYPE_CHECKING:
    from perdure.client.client import Client

__all__ = ["AdministrationCalls", "TaskQueueDescription", "TaskQueuePoller", "TaskQueueStats", "TaskQueueType"]

_TYPES = {
    "Text": m.IndexedValueType.INDEXED_VALUE_TYPE_TEXT,
    "Keyword": m.IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    "Int": m.IndexedValueType.INDEXED_VALUE_TYPE_INT,
    "Double": m.IndexedValueType.INDEXED_VALUE_TYPE_DOUBLE,
    "Bool": m.IndexedValueType.INDEXED_VALUE_TYPE_BOOL,
    "Datetime": m.IndexedValueType.INDEXED_VALUE_TYPE_DATETIME,
    "KeywordList": m.IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD_LIST,
}
_NAMES = {number: name for name, number in _TYPES.items()}


class TaskQueueType(IntEnum):
    """Which tasks of a queue's name are meant: the two kinds wait separately."""

    WORKFLOW = 1
    ACTIVITY = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskQueuePoller:
    """A worker that has asked a queue for tasks of late."""

    identity: str
    last_access_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskQueueStats:
    """What waits in a queue, and how fast tasks come and go.

    Attributes:
        backlog_count: how many tasks wait, about.
        backlog_age: how long the oldest of them has waited.
        add_rate: tasks that came in, per second.
        dispatch_rate: tasks that went to workers, per second.
    """

    backlog_count: int
    backlog_age: timedelta
    add_rate: float
    dispatch_rate: float

    @classmethod
    def of(cls, stats: m.TaskQueueStats) -> TaskQueueStats:
        """Make it from the API's message."""
        return cls(
            backlog_count=stats.approximate_backlog_count,
            backlog_age=timedelta(milliseconds=duration_ms(stats.approximate_backlog_age)),
            add_rate=stats.tasks_add_rate,
            dispatch_rate=stats.tasks_dispatch_rate,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskQueueDescription:
    """A task queue; `raw` is the message it was made from."""

    pollers: Sequence[TaskQueuePoller]
    stats: TaskQueueStats
    stats_by_priority: Mapping[int, TaskQueueStats]
    raw: m.DescribeTaskQueueResponse


class AdministrationCalls:
    """The part of `Client` for operators."""

    async def add_search_attributes(self, *keys: SearchAttributeKey[Any]) -> None:
        """Register search attributes for the client's namespace; usable as soon as this returns.

            await client.add_search_attributes(SearchAttributeKey.for_keyword("City"))

        Attributes registered already with the same type stay.

        Raises:
            ServiceError: one is registered with another type, or there are too many.
        """
        client = cast("Client", self)
        request = m.AddSearchAttributesRequest(namespace=client.namespace)
        for key in keys:
            check_text(key.name, "a search attribute's name")
            request.search_attributes[key.name] = _TYPES[key.metadata_type]
        await call(client.service.add_search_attributes, request)

    async def remove_search_attributes(self, *names: str) -> None:
        """Take search attributes out of the client's namespace.

        Raises:
            ServiceError: one is not registered.
        """
        client = cast("Client", self)
        request = m.RemoveSearchAttributesRequest(namespace=client.namespace, search_attributes=names)
        await call(client.service.remove_search_attributes, request)

    async def list_search_attributes(self) -> list[SearchAttributeKey[Any]]:
        """The search attributes registered for the client's namespace, by name."""
        client = cast("Client", self)
        request = m.ListSearchAttributesRequest(namespace=client.namespace)
        response = await call(client.service.list_search_attributes, request)
        custom = sorted(response.custom_attributes.items())
        return [SearchAttributeKey(name, _NAMES[number]) for name, number in custom if number in _NAMES]

    async def describe_task_queue(
        self, task_queue: str | None = None, *, type: TaskQueueType = TaskQueueType.WORKFLOW
    ) -> TaskQueueDescription:
        """Who polls a task queue, and what waits in it.

        Args:
            task_queue: its name; the client's own when None.
            type: of which of its two kinds of tasks.
        """
        client = cast("Client", self)
        request = m.DescribeTaskQueueRequest(
            namespace=client.namespace,
            task_queue=m.TaskQueue(name=task_queue or client.task_queue),
            task_queue_type=type.value,  # pyright: ignore[reportArgumentType] - an open enum is an int
            report_stats=True,
        )
        response = await call(client.service.describe_task_queue, request)
        return TaskQueueDescription(
            pollers=[
                TaskQueuePoller(
                    identity=poller.identity, last_access_time=datetime_of_ms(timestamp_ms(poller.last_access_time))
                )
                for poller in response.pollers
            ],
            stats=TaskQueueStats.of(response.stats),
            stats_by_priority={key: TaskQueueStats.of(stats) for key, stats in response.stats_by_priority_key.items()},
            raw=response,
        )
