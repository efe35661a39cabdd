"""Workflow tasks: poll, activate, answer.

A task is activated synchronously (replay is pure computation) between the poll and the answer. Runs stay cached and
sticky: the service sends their next tasks to this worker's own queue with only the new events. When the cache does not
hold a run, or holds an older state of it, the missing events are fetched in pages and replayed as they come.

Nothing that goes wrong with one task may touch another: an error fails the task with a message that says why, and
evicts the run, which waits until a later attempt succeeds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import TypeAlias

from perdure.api import RpcError, StatusCode, WorkflowService
from perdure.api import messages as m
from perdure.api.durations import ms_of_timedelta, set_duration_ms
from perdure.api.wire import sized, sized_tag, varint
from perdure.client.calls import repeat
from perdure.client.eager import dismiss, enlist
from perdure.converter import DataConverter
from perdure.exceptions import ApplicationError
from perdure.replay.definition import WorkflowDefinition
from perdure.replay.endings import leaves_debugger
from perdure.replay.outcome import Outcome, StepsNeeded, TaskCompleted, TaskFailed
from perdure.replay.ports import Guard
from perdure.replay.run import WorkflowRun
from perdure.worker.cache import CachedRun, RunCache
from perdure.worker.eager import EagerActivities
from perdure.worker.pollers import PollerPool, PollSettings, Pool
from perdure.worker.registry import unknown_workflow_message
from perdure.worker.service_calls import respond, respond_again
from perdure.worker.slots import Slots
from perdure.worker.threads import Threads
from perdure.worker.watchdog import Watchdog

__all__ = ["UNHANDLED", "Task", "WorkflowTaskWorker"]

_logger = logging.getLogger("perdure.worker")

Task: TypeAlias = m.PollWorkflowTaskQueueResponse

_OVERTAKEN = "UnhandledCommand"
"""How the service begins its refusal to close a run whose latest events the code has not seen: no mistake of its."""
_SHARE_OF_TASK_FOR_STEPS = 0.5
_HISTORY_PAGE_EVENTS = 1000
UNHANDLED = m.WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_WORKFLOW_WORKER_UNHANDLED_FAILURE
_TASK_TOKEN = sized_tag(m.RespondWorkflowTaskCompletedRequest, "task_token")
_COMMAND = sized_tag(m.RespondWorkflowTaskCompletedRequest, "commands")


class WorkflowTaskWorker:
    """Polls for workflow tasks of one task queue and answers them.

    Args:
        service: where they come from.
        raw_service: the same without a payload codec: what tells services apart.
        namespace: of the runs.
        task_queue: the normal queue's name.
        sticky_queue: this worker's own queue's name.
        sticky_timeout: how long a task may wait in the sticky queue.
        identity: the worker's.
        definitions: by workflow type; None = dynamic.
        converter: values and failures.
        guard: active while workflow code runs.
        threads: for plain functions of steps.
        max_concurrent: most tasks at once, and most pollers of each queue.
        max_cached_bytes: bound of the cache.
        polls: how to poll.
        on_fatal: told of an error after which polling is pointless.
        poke_activities: told the run id when a run has cancelled activities or closed.
        deadlock_warning_s: how long workflow code may run without awaiting before a warning; 0 = for ever.
    """

    def __init__(
        self,
        service: WorkflowService,
        *,
        raw_service: WorkflowService,
        namespace: str,
        task_queue: str,
        sticky_queue: str,
        sticky_timeout: timedelta,
        identity: str,
        definitions: Mapping[str | None, WorkflowDefinition],
        converter: DataConverter,
        guard: Guard,
        threads: Threads,
        max_concurrent: int,
        max_cached_bytes: int,
        polls: PollSettings,
        on_fatal: Callable[[BaseException], None],
        poke_activities: Callable[[str], None],
        deadlock_warning_s: float = 0,
    ) -> None:
        self._service = service
        self._raw_service = raw_service
        self._respond_completed = service.respond_workflow_task_completed
        self._namespace = namespace
        self._task_queue = task_queue
        self._identity = identity
        self._definitions = definitions
        self._converter = converter
        self._guard = guard
        self._threads = threads
        self._poke_activities = poke_activities
        self.cache = RunCache(max_cached_bytes)
        self._watchdog = Watchdog(deadlock_warning_s, self.cache.__contains__)
        self._slots = Slots(max_concurrent)
        completed = m.RespondWorkflowTaskCompletedRequest(
            identity=identity, namespace=namespace, return_new_workflow_task=True
        )
        completed.capabilities.discard_speculative_workflow_task_with_events = True
        normal = m.TaskQueue(name=task_queue, kind=m.TaskQueueKind.TASK_QUEUE_KIND_NORMAL)
        sticky = m.TaskQueue(name=sticky_queue, kind=m.TaskQueueKind.TASK_QUEUE_KIND_STICKY, normal_name=task_queue)
        queues = [normal]
        if max_cached_bytes > 0:
            queues.append(sticky)
            attributes = completed.sticky_attributes
            attributes.worker_task_queue.CopyFrom(sticky)
            set_duration_ms(attributes.schedule_to_start_timeout, ms_of_timedelta(sticky_timeout))
        self._completed = completed.SerializeToString()
        self.eager: EagerActivities | None = None
        """Asks for activities in completions; None = they come by polls alone."""
        self._given: set[asyncio.Task[None]] = set()
        self._max_concurrent = max_concurrent
        self._polls = polls
        self._on_fatal = on_fatal
        requests = [
            m.PollWorkflowTaskQueueRequest(
                namespace=namespace, task_queue=queue, identity=identity, worker_instance_key=polls.worker_key
            )
            for queue in queues
        ]
        self._pools: list[Pool] = self._make_pools(requests, completed)

    def _make_pools(
        self,
        requests: Sequence[m.PollWorkflowTaskQueueRequest],
        completed: m.RespondWorkflowTaskCompletedRequest,
    ) -> list[Pool]:
        """What polls: for each of these requests, to be completed with what `completed` says."""
        return [
            PollerPool[Task](
                f"workflow tasks of {request.task_queue.name}",
                # The same request again and again: the receiver may keep it and nobody changes it.
                poll=partial(self._service.poll_workflow_task_queue, request),
                handle=self._handle_in_slot,
                max_pollers=self._max_concurrent,
                on_fatal=self._on_fatal,
                outage=self._polls.outage,
                ahead=self._polls.ahead,
            )
            for request in requests
        ]

    def start(self) -> None:
        """Begin polling."""
        for pool in self._pools:
            pool.start()
        enlist(self._raw_service, self._namespace, self._task_queue, self)

    def reserve(self, workflow_type: str) -> bool:
        """Keep room for the first task of a workflow that this process starts; False if there is none."""
        known = workflow_type in self._definitions or None in self._definitions
        return known and self._slots.take_nowait()

    def take(self, task: Task | None) -> None:
        """Do the task that room was kept for; None gives the room back."""
        if task is None:
            self._slots.release()
            return
        given = asyncio.get_running_loop().create_task(self._handle_given(task), name="perdure-eager-start")
        self._given.add(given)
        given.add_done_callback(self._given.discard)

    async def _handle_given(self, task: Task) -> None:
        try:
            following: Task | None = task
            while following is not None:
                following = await self._handle(following)
        finally:
            self._slots.release()

    def stop_polling(self) -> None:
        """Begin no more polls."""
        dismiss(self._raw_service, self._namespace, self._task_queue, self)
        for pool in self._pools:
            pool.stop_polling()

    async def wait_polls(self, timeout_s: float) -> None:
        """Wait, at most for `timeout_s` seconds, until the polls under way have been answered."""
        await asyncio.gather(*(pool.wait_polls(timeout_s) for pool in self._pools))

    async def stop(self, timeout_s: float) -> None:
        """Finish the tasks taken, at most for `timeout_s` seconds, and let go of every run."""
        self.stop_polling()
        for pool in self._pools:
            pool.cancel_polls()
            await pool.wait_stopped(timeout_s)
        if self._given:
            await asyncio.wait(self._given, timeout=timeout_s)
        for pool in self._pools:
            await pool.kill()
        for given in tuple(self._given):
            given.cancel()
        self._watchdog.stop()
        self.cache.clear()

    @property
    def poller_count(self) -> int:
        """How many poller coroutines there are."""
        return sum(pool.size for pool in self._pools)

    async def _handle_in_slot(self, task: Task, begun: tuple[CachedRun, Outcome] | None = None) -> None:
        slots = self._slots
        if not slots.take_nowait():
            await slots.take()
        try:
            following = await self._handle(task, begun)
            while following is not None:
                following = await self._handle(following)
        finally:
            slots.release()

    async def _handle(self, task: Task, begun: tuple[CachedRun, Outcome] | None = None) -> Task | None:
        """Do one task; the next one of the same run, if the answer brought it.

        Args:
            task: the task.
            begun: the run, which is busy with it, and what the task has come to so far; if it has been activated.
        """
        entry: CachedRun | None = None
        if self._watchdog.is_asleep:
            self._watchdog.wake()
        try:
            if begun is not None:
                entry, outcome = begun
            else:
                found = self.cache.get(task.workflow_execution.run_id)
                if found is None or found.busy:
                    found = await self._entry_for(task)
                    if found is None:
                        return await self._fail_unknown(task)
                entry = found
                entry.busy = True
                if task.HasField("query"):
                    return await self._answer_query(task, entry)
                run = entry.run
                run.begin(task)
                if not self._feed_nowait(task, run):
                    await self._feed(task, run)
                outcome = run.outcome()
            if isinstance(outcome, StepsNeeded):
                outcome = await self._run_steps(entry, outcome)
            if isinstance(outcome, TaskFailed):
                if leaves_debugger(outcome.error):
                    raise KeyboardInterrupt
                self._log_failure(task, outcome)
                self.cache.drop(entry)
                return await self._fail(task, outcome.cause, outcome.failure)
            if self.eager is not None:
                return await self._complete_eagerly(self.eager, task, entry, outcome)
            request = self._completion(task, outcome)
            try:
                response = await self._respond_completed(request)
            except RpcError as error:
                what = f"workflow task of {entry.run_id}"
                response = await respond_again(error, self._respond_completed, request, what)
            return self._after_completion(entry, outcome, response)
        except RpcError as error:
            self._log_given_up(task, error)
            self._drop(entry)
            return None
        except Exception as error:
            _logger.exception("workflow task of %s failed", task.workflow_execution.workflow_id)
            self._drop(entry)
            return await self._fail(task, UNHANDLED, self._converter.to_failure(error))
        finally:
            if entry is not None:
                entry.release()

    def _drop(self, entry: CachedRun | None) -> None:
        if entry is not None:
            self.cache.drop(entry)

    async def _entry_for(self, task: Task) -> CachedRun | None:
        """The cached run, once nobody else uses it, or a fresh one. None if its type is unknown."""
        run_id = task.workflow_execution.run_id
        entry = self.cache.get(run_id)
        while entry is not None and entry.busy:
            await entry.wait_free()
            entry = self.cache.get(run_id)
        return entry or self._new_entry(run_id, task.workflow_type.name)

    def _new_entry(self, run_id: str, workflow_type: str) -> CachedRun | None:
        """A fresh run in the cache. None if its type is unknown."""
        definition = self._definitions.get(workflow_type) or self._definitions.get(None)
        if definition is None:
            return None
        run = WorkflowRun(definition, namespace=self._namespace, converter=self._converter, guard=self._guard)
        entry = CachedRun(run_id, run)
        self.cache.put(entry)
        return entry

    def _feed_nowait(self, task: Task, run: WorkflowRun) -> bool:
        """Give the run its events if the task brings all it lacks; False if something has to be fetched."""
        if task.next_page_token:
            return False
        events = task.history.events
        if not events or events[0].event_id > run.next_event_id:
            return False
        run.feed(events, last=True)
        return True

    async def _feed(self, task: Task, run: WorkflowRun) -> None:
        """Give the run the events it lacks: fetched ones first, then the task's own and its further pages."""
        events = task.history.events
        page_token = task.next_page_token
        if not events and not page_token:
            # A sticky query brings no history: the service takes it that the run is cached.
            if run.next_event_id == 1:
                await self._feed_missing(task, run, None)
            return
        first_id = events[0].event_id if events else 1
        if run.next_event_id < first_id:
            await self._feed_missing(task, run, first_id)
        if events or not page_token:
            run.feed(events, last=not page_token)
        while page_token:
            page = await self._page(task, page_token)
            page_token = page.next_page_token
            run.feed(page.history.events, last=not page_token)

    async def _feed_missing(self, task: Task, run: WorkflowRun, until_id: int | None) -> None:
        """Fetch what lies between what the run knows and the task's first event; all there is if that is None.

        The service always pages from the beginning; the run skips what it knows. It shows what is durable, and a worker
        of its process may have completed a task before that: such a task is waited for.
        """
        needed_id = task.previous_started_event_id + 1 if until_id is None else until_id - 1
        shown_id = 0
        page_token = b""
        while True:
            page = await self._page(task, page_token, waits=shown_id < needed_id)
            events: Sequence[m.HistoryEvent] = page.history.events
            shown_id = events[-1].event_id if events else shown_id
            page_token = page.next_page_token
            done = not page_token
            if until_id is not None and events and events[-1].event_id >= until_id:
                events = [event for event in events if event.event_id < until_id]
                done = True
            run.feed(events, last=done and until_id is None)
            if done:
                break
        if until_id is not None and run.next_event_id < until_id:
            raise RuntimeError(
                f"the history of {task.workflow_execution.workflow_id} ends before event {until_id}, "
                "where its task begins"
            )

    async def _page(
        self, task: Task, page_token: bytes, *, waits: bool = False
    ) -> m.GetWorkflowExecutionHistoryResponse:
        request = m.GetWorkflowExecutionHistoryRequest(
            namespace=self._namespace,
            execution=task.workflow_execution,
            maximum_page_size=_HISTORY_PAGE_EVENTS,
            next_page_token=page_token,
            wait_new_event=waits,
        )
        return await repeat(self._service.get_workflow_execution_history, request)

    def _completion(self, task: Task, outcome: TaskCompleted) -> m.RespondWorkflowTaskCompletedRequest:
        parts = [self._completed, _TASK_TOKEN, sized(task.task_token)]
        for command in outcome.encoded_commands:
            parts += (_COMMAND, varint(len(command)), command)
        request = m.RespondWorkflowTaskCompletedRequest.FromString(b"".join(parts))
        if outcome.query_results:
            for query_id, result in outcome.query_results.items():
                request.query_results[query_id].CopyFrom(result)
        if outcome.messages:
            request.messages.extend(outcome.messages)
        if outcome.force_new_task:
            request.force_create_new_workflow_task = True
        return request

    async def _complete_eagerly(
        self, eager: EagerActivities, task: Task, entry: CachedRun, outcome: TaskCompleted
    ) -> Task | None:
        """Complete a task and ask for activities it schedules; the next task of the same run, if the answer has it."""
        commands = outcome.encoded_commands
        asked = eager.ask(commands)
        outcome.asked = [*commands]
        activities: Sequence[m.PollActivityTaskQueueResponse] = ()
        try:
            request = self._completion(task, outcome)
            response = await respond(self._respond_completed, request, f"workflow task of {entry.run_id}")
            if response is not None:
                activities = response.activity_tasks
        finally:
            await eager.settle(asked, activities)
        return self._after_completion(entry, outcome, response)

    def _after_completion(
        self, entry: CachedRun, outcome: TaskCompleted, response: m.RespondWorkflowTaskCompletedResponse | None
    ) -> Task | None:
        """The task has been completed, or nobody wants it any more (None)."""
        if response is None or outcome.closes:
            # Refused: the run in memory has gone on where the recorded one has not.
            self.cache.drop(entry)
        else:
            if response.reset_history_event_id:
                entry.run.forget_task()
            self.cache.measure(entry)
        if outcome.closes or outcome.cancels_activities:
            self._poke_activities(entry.run_id)
        if response is not None and response.HasField("workflow_task") and response.workflow_task.task_token:
            return response.workflow_task
        return None

    async def _run_steps(self, entry: CachedRun, needed: StepsNeeded) -> TaskCompleted | TaskFailed:
        """Run steps until the task can be completed, or until half of its time is over."""
        now = asyncio.get_running_loop().time()
        deadline = now + entry.run.task_timeout_s * _SHARE_OF_TASK_FOR_STEPS
        outcome: Outcome = needed
        while isinstance(outcome, StepsNeeded):
            entry.steps.keep(outcome.calls, self._threads, self._converter)
            ended = await entry.steps.next_ended(deadline)
            if ended is None:
                return entry.run.suspend_steps()
            step_id, (result, failure) = ended
            outcome = entry.run.resolve_step(step_id, result=result, failure=failure)
        return outcome

    async def _answer_query(self, task: Task, entry: CachedRun) -> None:
        run = entry.run
        request = m.RespondQueryTaskCompletedRequest(task_token=task.task_token, namespace=self._namespace)
        try:
            run.begin(task)
            await self._feed(task, run)
            result = run.query(task.query)
            request.completed_type = result.result_type
            request.error_message = result.error_message
            if result.HasField("answer"):
                request.query_result.CopyFrom(result.answer)
            if result.HasField("failure"):
                request.failure.CopyFrom(result.failure)
        except RpcError:
            raise
        except Exception as error:
            _logger.warning("query %s of %s failed", task.query.query_type, entry.run_id, exc_info=True)
            self.cache.drop(entry)
            request.completed_type = m.QueryResultType.QUERY_RESULT_TYPE_FAILED
            request.error_message = str(error)
            request.failure.CopyFrom(self._converter.to_failure(error))
        if run.closed:
            self.cache.drop(entry)
        else:
            self.cache.measure(entry)
        await respond(self._service.respond_query_task_completed, request, f"query of {entry.run_id}")

    async def _fail_unknown(self, task: Task) -> None:
        message = unknown_workflow_message(task.workflow_type.name, self._task_queue, self._definitions)
        if _is_power_of_two(task.attempt):
            _logger.error("workflow %s: %s", task.workflow_execution.workflow_id, message)
        error = ApplicationError(message, type="UnknownWorkflowType")
        failure = self._converter.to_failure(error)
        if not task.HasField("query"):
            await self._fail(task, UNHANDLED, failure)
            return
        request = m.RespondQueryTaskCompletedRequest(
            task_token=task.task_token,
            namespace=self._namespace,
            completed_type=m.QueryResultType.QUERY_RESULT_TYPE_FAILED,
            error_message=message,
            failure=failure,
        )
        await respond(self._service.respond_query_task_completed, request, "query of an unknown workflow type")

    async def _fail(self, task: Task, cause: int, failure: m.Failure) -> None:
        request = m.RespondWorkflowTaskFailedRequest(
            task_token=task.task_token,
            cause=cause,  # pyright: ignore[reportArgumentType] - an open enum is an int
            failure=failure,
            identity=self._identity,
            namespace=self._namespace,
        )
        await respond(self._service.respond_workflow_task_failed, request, "failure of a workflow task")

    def _log_given_up(self, task: Task, error: RpcError) -> None:
        if error.code is not StatusCode.INVALID_ARGUMENT or error.message.startswith(_OVERTAKEN):
            _logger.info("workflow task of %s given up: %s", task.workflow_execution.workflow_id, error)
        elif _is_power_of_two(task.attempt):
            _logger.error(
                "what workflow %s (%s) asked for was refused, attempt %d: %s The run is kept and the task tried again: "
                "change the code, and it goes on",
                task.workflow_execution.workflow_id,
                task.workflow_type.name,
                task.attempt,
                error.message,
            )

    def _log_failure(self, task: Task, outcome: TaskFailed) -> None:
        # Attempts repeat until good code is deployed: say it often at first, then ever more rarely.
        if _is_power_of_two(task.attempt):
            _logger.warning(
                "workflow task of %s (%s) failed, attempt %d; the run is kept and the task tried again",
                task.workflow_execution.workflow_id,
                task.workflow_type.name,
                task.attempt,
                exc_info=outcome.error,
            )


def _is_power_of_two(number: int) -> bool:
    return number & (number - 1) == 0
