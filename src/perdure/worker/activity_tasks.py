"""Activity tasks: poll, run, answer.

Each task it gets runs in an asyncio task of its own, in one of a bounded number of slots. The outcome of
the function decides the answer: a result completes it, an exception fails the attempt, a cancellation that was asked
for is reported as such. An answer the service does not want any more is dropped.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from perdure.activity.context import CURRENT, CancelReason, CompleteAsync
from perdure.activity.definition import Activity
from perdure.api import RpcError, WorkflowService
from perdure.api import messages as m
from perdure.api.durations import duration_ms
from perdure.api.wire import sized, sized_tag
from perdure.common import RawValue
from perdure.converter import DataConverter
from perdure.converter.arguments import decode_serialized_arguments
from perdure.exceptions import (
    ApplicationError,
    ApplicationErrorCategory,
    CancelledError,
    ConversionError,
    DefinitionError,
    TimeoutError,
    TimeoutType,
)
from perdure.replay.endings import leaves_debugger
from perdure.worker.deadlines import Deadlines
from perdure.worker.heartbeats import HeartbeatSender
from perdure.worker.pollers import PollerPool, PollSettings, Pool
from perdure.worker.processes import ProcessPool, ProcessRun
from perdure.worker.registry import unknown_activity_message
from perdure.worker.running import (
    COMPLETES_ASYNC_KEY,
    AsyncRun,
    Given,
    GivenByMessage,
    RunningActivities,
    RunningActivity,
    ShutdownNotice,
    Surroundings,
    ThreadRun,
)
from perdure.worker.service_calls import respond, respond_again
from perdure.worker.slots import Slots
from perdure.worker.threads import Threads

__all__ = ["ONE_PAYLOAD", "ActivityTaskWorker"]

_logger = logging.getLogger("perdure.worker")

Task = m.PollActivityTaskQueueResponse

_TASK_TOKEN = sized_tag(m.RespondActivityTaskCompletedRequest, "task_token")
_RESULT = sized_tag(m.RespondActivityTaskCompletedRequest, "result")
ONE_PAYLOAD = sized_tag(m.Payloads, "payloads")
"""How ``Payloads`` begin; the payload's size follows."""

_HEARTBEAT_SHARE = 0.8
_STOPPED_BY_PEOPLE = {
    CancelReason.PAUSED: ("ActivityPause", "the activity stopped because it was paused"),
    CancelReason.RESET: ("ActivityReset", "the activity stopped because it was reset"),
}
"""Type and message of the failure of an attempt that ends so; the types are those of Temporal's SDKs."""
_LAST_WORDS_S = 2.0
"""How long cancelled activities may take to end when the worker stops."""


class ActivityTaskWorker:
    """Polls for activity tasks of one task queue and runs them.

    Args:
        service: where they come from.
        namespace: of their workflows.
        task_queue: the queue's name.
        identity: the worker's.
        activities: by activity type; None = dynamic.
        converter: values and failures.
        threads: for plain functions.
        processes: for those that ask for a process.
        running: shared with the workers of this process that use the same service.
        max_concurrent: most activities at once.
        default_throttle_s: least seconds between heartbeats of activities without a heartbeat timeout.
        max_throttle_s: most seconds between heartbeats.
        polls: how to poll.
        on_fatal: told of an error after which polling is pointless.
    """

    def __init__(
        self,
        service: WorkflowService,
        *,
        namespace: str,
        task_queue: str,
        identity: str,
        activities: Mapping[str | None, Activity[Any, Any]],
        converter: DataConverter,
        threads: Threads,
        processes: ProcessPool,
        running: RunningActivities,
        max_concurrent: int,
        default_throttle_s: float,
        max_throttle_s: float,
        polls: PollSettings,
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        self._service = service
        self._namespace = namespace
        self._task_queue = task_queue
        self._identity = identity
        self._activities = activities
        self._converter = converter
        self._threads = threads
        self._processes = processes
        self._running = running
        self._default_throttle_s = default_throttle_s
        self._max_throttle_s = max_throttle_s
        self._loop = asyncio.get_running_loop()
        self._notice = ShutdownNotice()
        self._surroundings = Surroundings(
            task_queue=task_queue, converter=converter, notice=self._notice, make_heartbeats=self._heartbeats_of
        )
        self._slots = Slots(max_concurrent)
        self._deadlines = Deadlines[RunningActivity](_time_out)
        self._executions: dict[asyncio.Task[None], RunningActivity] = {}
        self._hand_back = True
        completed = m.RespondActivityTaskCompletedRequest(identity=identity, namespace=namespace)
        self._completed = completed.SerializeToString()
        poll = m.PollActivityTaskQueueRequest(
            namespace=namespace,
            task_queue=m.TaskQueue(name=task_queue, kind=m.TaskQueueKind.TASK_QUEUE_KIND_NORMAL),
            identity=identity,
            worker_instance_key=polls.worker_key,
        )
        self._on_fatal = on_fatal
        self._polls = polls
        self._pool = self._make_pool(poll)

    def _make_pool(self, request: m.PollActivityTaskQueueRequest) -> Pool:
        """What polls with this request."""
        return PollerPool[Task](
            f"activity tasks of {self._task_queue}",
            poll=partial(self._service.poll_activity_task_queue, request),
            handle=self.take,
            max_pollers=self._polls.ahead,
            on_fatal=self._on_fatal,
            outage=self._polls.outage,
            ahead=self._polls.ahead,
            slots=self._slots,
        )

    def start(self) -> None:
        """Begin polling."""
        self._pool.start()

    def stop_polling(self) -> None:
        """Begin no more polls."""
        self._pool.stop_polling()

    async def wait_polls(self, timeout_s: float) -> None:
        """Wait, at most for `timeout_s` seconds, until the polls under way have been answered."""
        await self._pool.wait_polls(timeout_s)

    @property
    def running_count(self) -> int:
        """How many activities run."""
        return len(self._executions)

    async def stop(self, timeout_s: float, *, hand_back: bool) -> None:
        """Let running activities finish, at most for `timeout_s` seconds; then cancel them.

        Args:
            timeout_s: the graceful part.
            hand_back: tell the service of cancelled ones, so that it retries them at once. Otherwise nothing is said:
                an engine that stops too hands them out again when it is back, as the same attempt.
        """
        self._pool.cancel_polls()
        self._hand_back = hand_back
        self._notice.give()
        await self._pool.wait_stopped(None)
        await self._wait_executions(timeout_s)
        for running in tuple(self._executions.values()):
            running.cancel(CancelReason.SHUTDOWN)
        await self._wait_executions(_LAST_WORDS_S)
        left = tuple(self._executions)
        for execution in left:
            execution.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        self._executions.clear()

    async def _wait_executions(self, timeout_s: float) -> None:
        if self._executions:
            await asyncio.wait(tuple(self._executions), timeout=timeout_s)

    def reserve(self) -> bool:
        """Keep room for an activity that comes without a poll; False if there is none."""
        return not self._notice.given and self._slots.take_nowait()

    def release(self) -> None:
        """Give that room back."""
        self._slots.release()

    async def take(self, task: Task) -> None:
        """Run an activity that room was kept for; returns once it has begun."""
        name = task.activity_type.name
        activity = self._activities.get(name) or self._activities.get(None)
        if activity is None:
            await self._refuse(task)
        else:
            self._begin(activity, GivenByMessage.of(task))

    async def _refuse(self, task: Task) -> None:
        """There is no such activity here."""
        message = unknown_activity_message(task.activity_type.name, self._task_queue, self._activities)
        _logger.error("%s", message)
        try:
            await self._fail(task, ApplicationError(message, type="UnknownActivityType"))
        finally:
            self.release()

    def _begin(self, activity: Activity[Any, Any], given: Given, context: contextvars.Context | None = None) -> None:
        """Run an activity, in a slot that has been taken."""
        kind = AsyncRun if activity.is_async else ProcessRun if activity.executor == "process" else ThreadRun
        running = kind(activity, given, self._surroundings)
        # Named, and made directly: the loop's own way counts names and formats them.
        execution = asyncio.Task(self._execute(running), loop=self._loop, name="perdure-activity", context=context)
        running.runner = execution
        self._executions[execution] = running

    async def _execute(self, running: RunningActivity) -> None:
        me = running.runner
        assert me is not None, "it is set before the task first runs"
        run_id = running.given.run_id
        self._running.add(run_id, running)
        timeout_ms = running.given.start_to_close_ms
        place = self._deadlines.add(running, timeout_ms / 1000) if timeout_ms else None
        try:
            payload = await self._call(running)
        except BaseException as error:
            running.finish()
            if me.cancelling() and running.cancel_reason is None:
                raise
            if leaves_debugger(error) or (isinstance(error, KeyboardInterrupt) and isinstance(running, AsyncRun)):
                # Whoever pressed the keys means the process, and the event loop passes it on. The activity runs again
                # when the process is back.
                me.add_done_callback(_retrieve)
                raise KeyboardInterrupt from None
            me.uncancel()
            await self._answer_error(running, error)
        else:
            running.finish()
            if me.cancelling():
                me.uncancel()
            await self._complete(running, payload)
        finally:
            self._running.remove(run_id, running)
            if place is not None:
                self._deadlines.remove(running, place)
            del self._executions[me]
            self.release()
            running.runner = None  # The task's context holds what runs: a circle, which only the collector would break.

    async def _call(self, running: RunningActivity) -> bytes:
        """Run the function; its result as a serialized payload."""
        activity = running.activity
        is_async = isinstance(running, AsyncRun)
        if not is_async and isinstance(running, ProcessRun):
            return await self._processes.call(running, self._task_queue)
        if activity.name is None:
            args: list[Any] = [[RawValue(payload) for payload in running.task.input.payloads]]
        else:
            args = decode_serialized_arguments(
                self._converter, running.given.input, activity.signature, activity.shown_name
            )
        CURRENT.set(running)
        if is_async:
            result = await activity.fn(*args)
        else:
            assert isinstance(running, ThreadRun)
            call = partial(contextvars.copy_context().run, running.call, args)
            result = await self._threads.submit(call)
        return self._result(activity, result)

    def _result(self, activity: Activity[Any, Any], result: Any) -> bytes:
        try:
            return self._converter.to_payload_bytes(result, activity.signature.return_type)
        except ConversionError as error:
            raise type(error)(f"the result of activity {activity.__name__}: {error}") from error

    async def _complete(self, running: RunningActivity, payload: bytes) -> None:
        """Report a result."""
        await self._complete_by_message(running.task, ONE_PAYLOAD + sized(payload))

    async def _complete_by_message(self, task: Task, result: bytes) -> None:
        parts = (self._completed, _TASK_TOKEN, sized(task.task_token), _RESULT, sized(result))
        request = m.RespondActivityTaskCompletedRequest.FromString(b"".join(parts))
        method = self._service.respond_activity_task_completed
        try:
            try:
                await method(request)
            except RpcError as error:
                await respond_again(error, method, request, "completion of an activity")
        except RpcError as error:
            message = f"the result of activity {task.activity_type.name} was refused: {error.message}"
            await self._fail(task, ApplicationError(message, type="ResultRefused", non_retryable=True))

    async def _answer_error(self, running: RunningActivity, error: BaseException) -> None:
        task = running.task
        if isinstance(error, CompleteAsync):
            await self._leave_open(running)
        elif isinstance(error, (asyncio.CancelledError, CancelledError)) and running.cancel_reason is not None:
            await self._answer_cancelled(running, running.cancel_reason)
        elif isinstance(error, asyncio.CancelledError):
            raised = ApplicationError(
                "the activity raised CancelledError, but nobody cancelled it", type="CancelledError"
            )
            raised.__cause__ = error
            await self._fail(task, raised, running.unsent_details)
        else:
            self._log_failure(task, error)
            await self._fail(task, error, running.unsent_details)

    async def _answer_cancelled(self, running: RunningActivity, reason: CancelReason) -> None:
        task = running.task
        if reason is CancelReason.REQUESTED:
            request = m.RespondActivityTaskCanceledRequest(
                task_token=task.task_token, identity=self._identity, namespace=self._namespace
            )
            await self._respond(self._service.respond_activity_task_canceled, request, "cancellation of an activity")
        elif reason is CancelReason.TIMED_OUT:
            error = TimeoutError("activity StartToClose timeout", type=TimeoutType.START_TO_CLOSE)
            await self._fail(task, error, running.unsent_details)
        elif reason in _STOPPED_BY_PEOPLE:
            kind, message = _STOPPED_BY_PEOPLE[reason]
            await self._fail(task, ApplicationError(message, type=kind), running.unsent_details)
        elif reason is CancelReason.SHUTDOWN and self._hand_back and not _is_last_attempt(task):
            await self._fail(
                task, ApplicationError("the worker was shut down", type="WorkerShutdown"), running.unsent_details
            )

    async def _leave_open(self, running: RunningActivity) -> None:
        """Tell the service that somebody will complete the activity later."""
        request = self._heartbeat_request(running.task)
        if running.latest_details is not None:
            request.details.CopyFrom(running.latest_details)
        mark = request.details.payloads.add()
        mark.CopyFrom(self._converter.to_payload(None))
        mark.metadata[COMPLETES_ASYNC_KEY] = b"true"
        await self._respond(self._service.record_activity_task_heartbeat, request, "async completion of an activity")

    async def _fail(self, task: Task, error: BaseException, unsent_details: m.Payloads | None = None) -> None:
        failure = self._converter.to_failure(error)
        if isinstance(error, (ConversionError, DefinitionError)):
            # The same code with the same payloads cannot succeed.
            failure.application_failure_info.non_retryable = True
        request = m.RespondActivityTaskFailedRequest(
            task_token=task.task_token, failure=failure, identity=self._identity, namespace=self._namespace
        )
        if unsent_details is not None:
            request.last_heartbeat_details.CopyFrom(unsent_details)
        await self._respond(self._service.respond_activity_task_failed, request, "failure of an activity")

    async def _respond(self, method: Any, request: Any, what: str) -> None:
        try:
            await respond(method, request, what)
        except RpcError as error:
            _logger.warning("%s was refused: %s", what, error)

    def _log_failure(self, task: Task, error: BaseException) -> None:
        benign = isinstance(error, ApplicationError) and error.category is ApplicationErrorCategory.BENIGN
        _logger.log(
            logging.DEBUG if benign else logging.WARNING,
            "activity %s of %s failed, attempt %d: %s: %s",
            task.activity_type.name,
            task.workflow_execution.workflow_id,
            task.attempt,
            type(error).__name__,
            error,
        )

    def _heartbeat_request(self, task: Task) -> m.RecordActivityTaskHeartbeatRequest:
        return m.RecordActivityTaskHeartbeatRequest(
            task_token=task.task_token, identity=self._identity, namespace=self._namespace
        )

    def _heartbeats_of(self, running: RunningActivity) -> HeartbeatSender:
        task = running.task
        timeout_s = duration_ms(task.heartbeat_timeout) / 1000
        interval_s = timeout_s * _HEARTBEAT_SHARE if timeout_s else self._default_throttle_s
        return HeartbeatSender(
            self._service,
            self._heartbeat_request(task),
            task.heartbeat_details if task.HasField("heartbeat_details") else None,
            min(interval_s, self._max_throttle_s),
            running.cancel,
        )


def _time_out(running: RunningActivity) -> None:
    running.cancel(CancelReason.TIMED_OUT)


def _is_last_attempt(task: Task) -> bool:
    """Whether a failure would be final, which a mere shutdown must not be."""
    maximum = task.retry_policy.maximum_attempts
    return not task.HasField("retry_policy") or (maximum > 0 and task.attempt >= maximum)


def _retrieve(execution: asyncio.Task[None]) -> None:
    """Keep asyncio from saying that nobody looked at a task's error."""
    if not execution.cancelled():
        execution.exception()
