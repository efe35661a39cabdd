"""Running `workflow.step` functions: small side effects recorded in the history, without an activity.

A step runs outside of the workflow's loop, in the worker's own (async functions) or on a thread (plain ones), with its
own retries and timeout. It may outlive the workflow task it began in; if the run is evicted it is cancelled and runs
again later, as nothing of it was recorded.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any

from perdure.api import messages as m
from perdure.common import RetryPolicy
from perdure.converter import DataConverter
from perdure.exceptions import ApplicationError
from perdure.replay.outcome import StepCall
from perdure.worker.threads import Threads

__all__ = ["RunningSteps", "StepOutcome", "run_step"]

_logger = logging.getLogger("perdure.worker")

StepOutcome = tuple[m.Payload | None, m.Failure | None]
"""A result or a failure."""

_DEFAULT_MAX_INTERVAL_FACTOR = 100


class RunningSteps:
    """The steps of one run that are under way, or whose outcome has not been fetched yet."""

    __slots__ = ("_ended", "_newest", "_running", "_waiter")

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Task[StepOutcome]] = {}
        self._ended: deque[str] = deque()
        self._newest = ""
        self._waiter: asyncio.Future[bool] | None = None

    def __len__(self) -> int:
        return len(self._running)

    def keep(self, calls: Sequence[StepCall], threads: Threads, converter: DataConverter) -> None:
        """Begin the steps asked for that are not running, abandon running ones no longer asked for."""
        newest = calls[-1].step_id
        if newest == self._newest and len(calls) == len(self._running):
            # A run lists its steps in the order it asked for them, so these are the very ones.
            return
        self._newest = newest
        wanted = {call.step_id for call in calls}
        for step_id in self._running.keys() - wanted:
            self._running.pop(step_id).cancel()
        loop = asyncio.get_running_loop()
        for call in calls:
            if call.step_id not in self._running:
                step = loop.create_task(run_step(call, threads, converter), name=f"perdure-step-{call.name}")
                self._running[call.step_id] = step
                step.add_done_callback(partial(self._on_end, call.step_id))

    def _on_end(self, step_id: str, step: asyncio.Task[StepOutcome]) -> None:
        if self._running.get(step_id) is step:
            self._ended.append(step_id)
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_result(True)

    async def next_ended(self, deadline: float) -> tuple[str, StepOutcome] | None:
        """The id and outcome of a step that has ended, in order of ending; None if none has by then (loop time)."""
        loop = asyncio.get_running_loop()
        while True:
            while self._ended:
                step_id = self._ended.popleft()
                step = self._running.pop(step_id, None)
                if step is not None:
                    return step_id, step.result()
            self._waiter = loop.create_future()
            timer = loop.call_at(deadline, _set_unless_done, self._waiter)
            try:
                if not await self._waiter:
                    return None
            finally:
                timer.cancel()
                self._waiter = None

    def cancel_all(self) -> None:
        """Abandon all. Harmless to repeat."""
        running, self._running = self._running, {}
        self._ended.clear()
        for step in running.values():
            step.cancel()


def _set_unless_done(waiter: asyncio.Future[bool]) -> None:
    if not waiter.done():
        waiter.set_result(False)


async def run_step(call: StepCall, threads: Threads, converter: DataConverter) -> StepOutcome:
    """Run a step until it succeeds or its retries are used up."""
    attempt = 0
    while True:
        attempt += 1
        try:
            result = await _attempt(call, threads)
            return converter.to_payload(result, call.return_type), None
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and _is_abandoned():
                raise
            delay_s = _delay_before_retry(call.retry_policy, attempt, error)
            if delay_s is None:
                return None, converter.to_failure(error)
            _logger.info(
                "step %s failed (attempt %d) and is tried again in %.2f s: %s", call.name, attempt, delay_s, error
            )
        await asyncio.sleep(delay_s)


def _is_abandoned() -> bool:
    """Whether the step has been cancelled; its function may also have raised the error by itself."""
    me = asyncio.current_task()
    return me is not None and me.cancelling() > 0


async def _attempt(call: StepCall, threads: Threads) -> Any:
    timeout_s = call.timeout.total_seconds() if call.timeout is not None else None
    limit = asyncio.timeout(timeout_s)
    try:
        async with limit:
            if inspect.iscoroutinefunction(call.fn):
                return await call.fn(*call.args)
            result = await threads.submit(partial(call.fn, *call.args))
            return await result if inspect.isawaitable(result) else result
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise ApplicationError(f"step {call.name} took longer than {timeout_s} s", type="StepTimeout") from error


def _delay_before_retry(policy: RetryPolicy | None, attempt: int, error: BaseException) -> float | None:
    """Seconds until the next attempt; None if there is none."""
    if policy is None or (policy.maximum_attempts and attempt >= policy.maximum_attempts):
        return None
    kind = type(error).__name__
    if isinstance(error, ApplicationError):
        if error.non_retryable:
            return None
        if error.next_retry_delay is not None:
            return error.next_retry_delay.total_seconds()
        kind = error.type or kind
    if kind in (policy.non_retryable_error_types or ()):
        return None
    first_s = policy.initial_interval.total_seconds()
    longest = policy.maximum_interval
    longest_s = longest.total_seconds() if longest is not None else first_s * _DEFAULT_MAX_INTERVAL_FACTOR
    # The exponent is bounded so that the power cannot overflow; by then the longest wait has long been reached.
    return min(first_s * policy.backoff_coefficient ** min(attempt - 1, 64), longest_s)
