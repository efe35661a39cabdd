"""The batch jobs of an engine: started, worked off, stopped, found again after a restart.

Each running job has a task of its own that serves one workflow after the other, at its pace. A workflow's change and
the job's progress are made in one turn of the event loop and so enter one commit: after a crash the job goes on with
the workflow after the last one whose change is durable, and no workflow is served twice. When a commit fails, the job
is read again like any run.

Workflows come from the request, or from a list of those that match its query, page by page. A page is kept with the
job, so that serving its workflows, which may then match no longer, does not move what follows.

A workflow that is gone, or closed where that is the aim, counts as served. One that can't be reached just now is
tried again a few times; what is refused counts as failed, and the job goes on.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

import msgspec
from google.protobuf.message import DecodeError

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.engine.batches.job import (
    FAILURES_KEPT,
    INDEX,
    Entry,
    Job,
    JobState,
    Page,
    Progress,
    decode_index,
    encode_index,
)
from perdure.engine.batches.operations import Work, operation_of
from perdure.engine.commit import Group
from perdure.engine.reads import read

if TYPE_CHECKING:
    from collections.abc import Callable

    from perdure.engine.reading import HistoryReader
    from perdure.engine.shard import Shard

__all__ = ["Batches", "Lister"]

_logger = logging.getLogger("perdure.batches")

JOBS_KEPT: Final = 1000
"""Jobs remembered; beyond it the oldest that have ended are forgotten."""
PAGE: Final = 100
"""Workflows listed at a time."""
_TRIES: Final = 3
"""For a workflow that can't be reached."""
_TRY_AGAIN_MS: Final = 1000
_BURST_MS: Final = 100
"""What a job was too slow for it may make up for within this span."""
_SERVED_A_TURN: Final = 20
_AGAIN = frozenset((StatusCode.UNAVAILABLE, StatusCode.RESOURCE_EXHAUSTED, StatusCode.ABORTED))


class Lister(Protocol):
    """How workflows are found."""

    async def list_workflow_executions(
        self, request: m.ListWorkflowExecutionsRequest
    ) -> m.ListWorkflowExecutionsResponse: ...

    async def count_workflow_executions(
        self, request: m.CountWorkflowExecutionsRequest
    ) -> m.CountWorkflowExecutionsResponse: ...


class Batches:
    """All jobs of an engine.

    Args:
        shard: whose workflows they serve.
        reader: of histories.
        lister: finds workflows.
        on_settled: called when a job has come to rest.
    """

    def __init__(self, shard: Shard, reader: HistoryReader, lister: Lister, on_settled: Callable[[], None]) -> None:
        self.jobs: dict[tuple[str, str], Job] = {}
        """By namespace and job id, oldest first."""
        self._shard = shard
        self._reader = reader
        self._lister = lister
        self._on_settled = on_settled
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._resting = 0
        """Tasks that wait for time to pass."""
        self._written: dict[str, tuple[Group, int]] = {}
        """By name: the group that a row was put into last, and where, so that a later version takes its place."""

    # -- life

    async def start(self) -> None:
        """Go on with the jobs that an earlier engine left; one whose rows are damaged has failed.

        Raises:
            RpcError: UNAVAILABLE, the store can't be read.
        """
        data = await read(self._shard.store.load_meta(INDEX))
        entries: list[Entry] = []
        with suppress(msgspec.MsgspecError):
            entries = decode_index(data) if data else []
        for entry in entries:
            job = Job(entry, Progress(JobState.FAILED, 0, 0))
            self.jobs[entry.namespace, entry.job_id] = job
            try:
                await self._load(job)
            except (msgspec.MsgspecError, DecodeError):
                job.progress = Progress(JobState.FAILED, 0, 0, closing_reason="its rows in the store are damaged")
            if job.is_running:
                self._begin(job)

    async def stop(self) -> None:
        """Leave the jobs where they are."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def busy(self) -> bool:
        """Some job is at work, and does not wait for time to pass."""
        return len(self._tasks) > self._resting

    async def _load(self, job: Job) -> None:
        """Read a job's rows."""
        store = self._shard.store
        parts = [await read(store.load_meta(job.name(part))) for part in ("/progress", "/page", "/failures")]
        job.load(*[part or b"" for part in parts])
        if job.is_running:
            job.request = await self.request_of(job)

    async def request_of(self, job: Job) -> m.StartBatchOperationRequest:
        """What a job was asked to do."""
        return m.StartBatchOperationRequest.FromString(await read(self._shard.store.load_meta(job.name())) or b"")

    # -- calls

    async def start_job(self, request: m.StartBatchOperationRequest, executions: list[tuple[str, str]]) -> None:
        """Begin a job; returns when it is durable.

        Args:
            request: checked.
            executions: the workflows to serve; empty = those that match the query.

        Raises:
            RpcError: ALREADY_EXISTS; RESOURCE_EXHAUSTED, too many jobs run; what the list filter is refused with.
        """
        shard = self._shard
        total = len(executions)
        if not executions:
            count = m.CountWorkflowExecutionsRequest(namespace=request.namespace, query=request.visibility_query)
            total = (await self._lister.count_workflow_executions(count)).count
        key = request.namespace, request.job_id
        if key in self.jobs:
            raise RpcError(
                StatusCode.ALREADY_EXISTS, f"batch operation {request.job_id!r} exists already; use another job id"
            )
        entry = Entry(self._free_number(), *key)
        progress = Progress(JobState.RUNNING, int(operation_of(request)[0].type), shard.clock.now_ms(), total=total)
        job = Job(entry, progress)
        job.request = request
        if executions:
            job.turn_page(Page(executions))
        self.jobs[key] = job
        self._put(
            job,
            self._index_row(),
            (job.name(), request.SerializeToString()),
            job.failures_row(),
            job.page_row(),
            job.progress_row(),
        )
        try:
            await self._kept(job)
        except RpcError:
            if self.jobs.get(key) is job:
                del self.jobs[key]
            raise
        self._begin(job)

    def _index_row(self) -> tuple[str, bytes]:
        return INDEX, encode_index([job.entry for job in self.jobs.values()])

    def _free_number(self) -> int:
        """A number for a new job, that of the oldest one that has ended if there are too many."""
        if len(self.jobs) >= JOBS_KEPT:
            for key, job in self.jobs.items():
                if not job.is_running and key not in self._tasks:
                    del self.jobs[key]
                    self._put(job, *job.erasure())
                    return job.entry.number
            raise RpcError(
                StatusCode.RESOURCE_EXHAUSTED, f"{JOBS_KEPT} batch operations are running; wait until some have ended"
            )
        taken = {job.entry.number for job in self.jobs.values()}
        return next(number for number in range(JOBS_KEPT) if number not in taken)

    def get(self, namespace: str, job_id: str) -> Job:
        """A job. Raises RpcError NOT_FOUND."""
        job = self.jobs.get((namespace, job_id))
        if job is None:
            raise RpcError(StatusCode.NOT_FOUND, f"no batch operation has the job id {job_id!r}")
        return job

    async def stop_job(self, namespace: str, job_id: str, *, reason: str, identity: str) -> None:
        """End a job where it is. Raises RpcError NOT_FOUND, it does not exist or has ended."""
        job = self.get(namespace, job_id)
        if not job.is_running:
            raise RpcError(StatusCode.NOT_FOUND, f"batch operation {job_id!r} has ended already")
        self._close(job, JobState.FAILED, reason=reason, identity=identity)
        task = self._tasks.get((namespace, job_id))
        if task is not None:
            task.cancel()
        try:
            await self._kept(job)
        except RpcError:
            if self._shard.is_running:
                self._begin(job, again=True)
            raise

    # -- rows

    def _put(self, job: Job, *rows: tuple[str, bytes]) -> None:
        """Write rows of a job with the accumulating group; earlier versions of them there are replaced."""
        committer = self._shard.committer
        group = committer.group
        for row in rows:
            known, at = self._written.get(row[0], (None, 0))
            if known is group:
                group.metas[at] = row
            else:
                self._written[row[0]] = group, len(group.metas)
                group.metas.append(row)
        if not job.groups or job.groups[-1] is not group:
            job.groups = [each for each in job.groups if each.lost or not each.settled]
            job.groups.append(group)
        committer.touch()

    def _close(self, job: Job, state: JobState, *, reason: str = "", identity: str = "") -> None:
        job.close(state, self._shard.clock.now_ms(), reason=reason, identity=identity)
        self._put(job, job.page_row(), job.progress_row())

    async def _kept(self, job: Job) -> None:
        """Until everything a job has written is durable. Raises the RpcError of a commit that failed."""
        groups, job.groups = job.groups, []
        for group in groups:
            await group.durable()

    # -- work

    def _begin(self, job: Job, *, again: bool = False) -> None:
        """Put a job to work; `again`: what memory knows of it is not to be trusted."""
        key = job.entry.namespace, job.entry.job_id
        task = asyncio.get_running_loop().create_task(self._run(job, again), name=f"perdure-batch {job.entry.job_id}")
        self._tasks[key] = task
        task.add_done_callback(lambda _: self._ended(key, job, task))

    def _ended(self, key: tuple[str, str], job: Job, task: asyncio.Task[None]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]
        if not job.is_running:
            for name, _ in job.erasure():
                self._written.pop(name, None)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            failure = RpcError(StatusCode.INTERNAL, f"the engine stopped: {error!r}")
            failure.__cause__ = error
            self._shard.fail(failure)
        self._on_settled()

    async def _run(self, job: Job, again: bool) -> None:
        """Work a job off; when a commit fails, read it again and go on."""
        wait_ms = self._shard.config.retry_ms
        while again or job.is_running:
            try:
                if again:
                    job.groups = []
                    await self._load(job)
                    again = False
                await self._work(job)
            except RpcError as error:
                if not self._shard.is_running:
                    return
                if error.code not in _AGAIN:
                    self._close(job, JobState.FAILED, reason=error.message)
                    return
                again = True
                await self._rest(wait_ms)
                wait_ms = min(2 * wait_ms, self._shard.config.retry_max_ms)

    async def _work(self, job: Job) -> None:
        request = job.request
        if request is None:
            return
        work = Work(shard=self._shard, reader=self._reader, request=request)
        pace = Pace(self._interval_ms(request))
        while job.is_running:
            execution = job.whose_turn()
            if execution is None:
                await self._kept(job)
                if job.progress.pages and not job.page.next_token:
                    self._close(job, JobState.COMPLETED)
                    await self._kept(job)
                    return
                job.turn_page(await self._next_page(job, request))
                self._put(job, job.page_row(), job.progress_row())
                continue
            late_ms = pace.wait_ms(self._shard.clock.now_ms())
            if late_ms:
                await self._rest(late_ms)
            await self._serve(job, work, *execution)
            if job.progress.at % _SERVED_A_TURN == 0:
                await asyncio.sleep(0)

    def _interval_ms(self, request: m.StartBatchOperationRequest) -> float:
        most = self._shard.config.batch_operations_per_second
        asked = request.max_operations_per_second
        return 1000 / (min(asked, most) if asked > 0 else most)

    async def _next_page(self, job: Job, request: m.StartBatchOperationRequest) -> Page:
        asked = m.ListWorkflowExecutionsRequest(
            namespace=request.namespace,
            query=request.visibility_query,
            page_size=PAGE,
            next_page_token=job.page.next_token,
        )
        listed = await self._lister.list_workflow_executions(asked)
        found = [(info.execution.workflow_id, info.execution.run_id) for info in listed.executions]
        return Page(found, listed.next_page_token)

    async def _serve(self, job: Job, work: Work, workflow_id: str, run_id: str) -> None:
        """Do to one workflow what the job is about, and note it in the same turn."""
        operation, particulars = operation_of(work.request)
        error: RpcError | None = None
        for _ in range(_TRIES):
            error = None
            try:
                slot = await self._shard.cache.find(work.request.namespace, workflow_id, run_id)
                await operation.act(work, slot, particulars)
            except RpcError as refused:
                if refused.code is not StatusCode.NOT_FOUND:
                    error = refused
            if error is None or error.code not in _AGAIN:
                break
            await self._rest(_TRY_AGAIN_MS)
        if any(group.lost for group in job.groups):
            # What was just done is done again, which the workflow recognises by its request id.
            raise RpcError(StatusCode.UNAVAILABLE, "a commit failed; the batch operation goes on from the last one")
        job.served(error)
        self._put(job, job.progress_row())
        if error is not None:
            self._put(job, job.failures_row())
            if job.progress.failed <= FAILURES_KEPT:  # The API counts them, and has no word for why.
                entry, failed = job.entry, job.failures[-1]
                _logger.warning(
                    "batch operation %r of namespace %s cannot serve workflow %r, run %s: %s",
                    *(entry.job_id, entry.namespace, failed.workflow_id, failed.run_id, error),
                )

    async def _rest(self, span_ms: int) -> None:
        """Wait; an engine that does nothing else is idle."""
        clock = self._shard.clock
        rested: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        handle = clock.call_at(clock.now_ms() + span_ms, lambda: None if rested.done() else rested.set_result(None))
        self._resting += 1
        self._on_settled()
        try:
            await rested
        finally:
            self._resting -= 1
            handle.cancel()


class Pace:
    """Spreads steps over time.

    Args:
        interval_ms: between two steps.
    """

    def __init__(self, interval_ms: float) -> None:
        self._interval_ms = interval_ms
        self._due_ms = 0.0

    def wait_ms(self, now_ms: int) -> int:
        """How long to wait before the next step, milliseconds; the step counts as made."""
        self._due_ms = max(self._due_ms, now_ms - _BURST_MS)
        wait_ms = max(0, -int(-(self._due_ms - now_ms) // 1))
        self._due_ms += self._interval_ms
        return wait_ms
