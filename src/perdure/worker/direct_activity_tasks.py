"""Activity tasks that come by the short way (see `perdure.api.direct`).

An activity begins in the call that brings it, and its result goes back by a call from its own asyncio task, which then
has nothing left to wait for. Everything else about it (failures, heartbeats, cancellation) goes by messages.
"""

from __future__ import annotations

import logging
from contextvars import copy_context
from functools import partial
from typing import Any

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.api.direct import ActivityTask, Direct
from perdure.api.wire import sized
from perdure.worker.activity_tasks import ONE_PAYLOAD, ActivityTaskWorker
from perdure.worker.pollers import Pool
from perdure.worker.running import RunningActivity
from perdure.worker.standing import StandingPool

__all__ = ["DirectActivityTaskWorker"]

_logger = logging.getLogger("perdure.worker")


class DirectActivityTaskWorker(ActivityTaskWorker):
    """An `ActivityTaskWorker` that is a `perdure.api.direct.ActivityTaker`.

    Args:
        short_way: to the service.
        options: as for `ActivityTaskWorker`.
    """

    def __init__(self, short_way: Direct, **options: Any) -> None:
        self._short_way = short_way
        # An activity runs in the context of whoever started the worker, not in that of an engine's turn.
        self._context = copy_context()
        self._full = False
        super().__init__(**options)

    def _make_pool(self, request: m.PollActivityTaskQueueRequest) -> Pool:
        self._standing = StandingPool(
            f"activity tasks of {self._task_queue}",
            begin=lambda: [self._short_way.poll_activities(request, self)],
            on_fatal=self._on_fatal,
        )
        return self._standing

    def take_activity(self, task: ActivityTask) -> None:
        """See `perdure.api.direct.ActivityTaker`."""
        slots = self._slots
        slots.free -= 1
        if slots.free <= 0:
            self._full = True
            self._standing.pause()
        activity = self._activities.get(task.activity_type) or self._activities.get(None)
        if activity is None:
            self._standing.run(self._refuse(task.message()))
        else:
            self._begin(activity, task, self._context.copy())

    def release(self) -> None:
        """See `ActivityTaskWorker.release`."""
        super().release()
        if self._full:
            self._full = False
            self._standing.resume()

    async def _complete(self, running: RunningActivity, payload: bytes) -> None:
        task: Any = running.given
        result = ONE_PAYLOAD + sized(payload)
        try:
            task.complete(result, partial(self._again, running, result))
        except RpcError as error:
            if error.code is StatusCode.NOT_FOUND:
                _logger.debug("completion of an activity is not wanted any more: %s", error.message)
            else:
                await self._complete_by_message(running.task, result)

    def _again(self, running: RunningActivity, result: bytes, error: RpcError) -> None:
        """The result could not be written: report it by message, until it is."""
        _logger.info("completion of an activity is repeated: %s", error)
        self._standing.run(self._complete_by_message(running.task, result))
