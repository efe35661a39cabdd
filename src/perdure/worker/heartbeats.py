"""Heartbeats of one running activity, throttled.

The first is sent at once; after that one in each interval (80 % of the heartbeat timeout), always with the latest
details. The answers tell whether the activity should stop. `poke` asks at once, without waiting for the interval.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from perdure.activity.context import CancelReason
from perdure.api import RpcError, StatusCode, WorkflowService
from perdure.api import messages as m

__all__ = ["HeartbeatSender"]

_logger = logging.getLogger("perdure.worker")


class HeartbeatSender:
    """Sends heartbeats; belongs to the event loop's thread.

    Args:
        service: where to.
        template: a request with the task's token, identity and namespace.
        details: what an earlier attempt left; sent by a poke until there is something newer.
        interval_s: least seconds between two heartbeats.
        on_cancel: told why the activity should stop.

    Attributes:
        details: the latest.
        unsent: whether `details` have not reached the service yet.
    """

    def __init__(
        self,
        service: WorkflowService,
        template: m.RecordActivityTaskHeartbeatRequest,
        details: m.Payloads | None,
        interval_s: float,
        on_cancel: Callable[[CancelReason], None],
    ) -> None:
        self._service = service
        self._template = template
        self._interval_s = interval_s
        self._on_cancel = on_cancel
        self._loop = asyncio.get_running_loop()
        self._next_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._sending: asyncio.Task[None] | None = None
        self._again = False
        self._stopped = False
        self.details = details
        self.unsent = False

    def beat(self, details: m.Payloads | None) -> None:
        """Take the latest details; send them now or when the interval is over."""
        self.details = details
        self.unsent = True
        if self._sending is None and self._timer is None:
            self._arm()

    def poke(self) -> None:
        """Ask at once whether to stop."""
        if self._sending is not None:
            self._again = True
        else:
            self._send_now()

    def _arm(self) -> None:
        if self._stopped:
            return
        delay_s = self._next_at - self._loop.time()
        if delay_s <= 0:
            self._send_now()
        else:
            self._timer = self._loop.call_later(delay_s, self._send_now)

    def _send_now(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._stopped:
            self._sending = self._loop.create_task(self._send(), name="perdure-heartbeat")

    async def _send(self) -> None:
        request = m.RecordActivityTaskHeartbeatRequest()
        request.CopyFrom(self._template)
        if self.details is not None:
            request.details.CopyFrom(self.details)
        self.unsent = False
        try:
            response = await self._service.record_activity_task_heartbeat(request)
            if response.cancel_requested:
                self._on_cancel(CancelReason.REQUESTED)
            elif response.activity_paused:
                self._on_cancel(CancelReason.PAUSED)
            elif response.activity_reset:
                self._on_cancel(CancelReason.RESET)
        except RpcError as error:
            if error.code is StatusCode.NOT_FOUND:
                self._on_cancel(CancelReason.GONE)
                self._stopped = True
            else:
                _logger.info("a heartbeat failed and is sent again with the next: %s", error)
                self.unsent = True
        self._sending = None
        self._next_at = self._loop.time() + self._interval_s
        if self._again:
            self._again = False
            self._send_now()
        elif self.unsent:
            self._arm()

    def stop(self) -> None:
        """Send no more. Harmless to repeat."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._sending is not None:
            # Whether it has arrived is unknown, so its details still count as unsent.
            self._sending.cancel()
            self._sending = None
            self.unsent = True
