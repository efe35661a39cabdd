"""A batch job: what is to be done, to which workflows, and how far it is.

    running → completed     every workflow has had its turn
    running → failed        stopped by a caller, or its workflows can't be listed

A job works through pages of workflows, in order: `page` and `at` say whose turn it is. Its rows are small named blobs
of the store, so that progress enters the same commit as what it speaks of:

    batches             the index: each job's number, namespace and id
    batch/N             the request, written once
    batch/N/page        the present page, written when it is turned
    batch/N/progress    state and counts, written with every workflow
    batch/N/failures    the last workflows that could not be served, and why

Numbers are used again when old jobs are forgotten, which bounds the rows there can be.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Final

import msgspec
from msgspec import Struct

from perdure.api import RpcError
from perdure.api import messages as m
from perdure.engine.commit import Group

__all__ = ["INDEX", "Entry", "Failure", "Job", "JobState", "Page", "Progress", "decode_index", "encode_index"]

INDEX: Final = "batches"
FAILURES_KEPT: Final = 100
_MESSAGE_KEPT: Final = 500
"""Characters of a refusal."""

_encode = msgspec.msgpack.Encoder().encode


class JobState(IntEnum):
    """Values of BatchOperationState."""

    RUNNING = 1
    COMPLETED = 2
    FAILED = 3


class Progress(Struct, array_like=True):
    """How far a job is."""

    state: int
    operation_type: int
    """A BatchOperationType value."""
    started_at_ms: int
    closed_at_ms: int = 0
    total: int = 0
    """Workflows there were when it began; at its end, those that have had their turn."""
    completed: int = 0
    failed: int = 0
    at: int = 0
    """Whose turn it is in the page."""
    pages: int = 0
    """Pages turned."""
    closing_reason: str = ""
    """Why it was stopped, or could not go on."""
    closing_identity: str = ""


class Page(Struct, array_like=True):
    """Some workflows of a job."""

    executions: list[tuple[str, str]] = []
    """(workflow id, run id)"""
    next_token: bytes = b""
    """Of the list, for the page after this one; empty on the last."""


class Failure(Struct, array_like=True, frozen=True):
    """A workflow that could not be served."""

    workflow_id: str
    run_id: str
    code: int
    """A gRPC status code."""
    message: str


class Entry(Struct, array_like=True, frozen=True):
    """A job in the index."""

    number: int
    namespace: str
    job_id: str


_entries = msgspec.msgpack.Decoder(list[Entry])
_progress = msgspec.msgpack.Decoder(Progress)
_page = msgspec.msgpack.Decoder(Page)
_failures = msgspec.msgpack.Decoder(list[Failure])


def encode_index(entries: list[Entry]) -> bytes:
    return _encode(entries)


def decode_index(data: bytes) -> list[Entry]:
    """Raises msgspec.MsgspecError if it is damaged."""
    return _entries.decode(data)


class Job:
    """A job in memory.

    Args:
        entry: its place in the index.
        progress: how far it is.
    """

    __slots__ = ("entry", "failures", "groups", "page", "progress", "request")

    def __init__(self, entry: Entry, progress: Progress) -> None:
        self.entry = entry
        self.progress = progress
        self.page = Page()
        self.failures: list[Failure] = []
        self.request: m.StartBatchOperationRequest | None = None
        """While it runs."""
        self.groups: list[Group] = []
        """Commits with rows of it whose outcome has not been seen yet."""

    @property
    def is_running(self) -> bool:
        return self.progress.state == JobState.RUNNING

    def name(self, part: str = "") -> str:
        """Under which the store keeps a part of it."""
        return f"batch/{self.entry.number}{part}"

    # -- steps

    def turn_page(self, page: Page) -> None:
        """The next workflows."""
        self.page = page
        self.progress.at = 0
        self.progress.pages += 1

    def whose_turn(self) -> tuple[str, str] | None:
        """The workflow to serve; None at the end of the page."""
        page, at = self.page.executions, self.progress.at
        return page[at] if at < len(page) else None

    def served(self, error: RpcError | None) -> None:
        """The workflow whose turn it was has been served, or can't be."""
        progress = self.progress
        workflow_id, run_id = self.page.executions[progress.at]
        progress.at += 1
        if error is None:
            progress.completed += 1
            return
        progress.failed += 1
        self.failures.append(Failure(workflow_id, run_id, int(error.code), error.message[:_MESSAGE_KEPT]))
        del self.failures[:-FAILURES_KEPT]

    def close(self, state: JobState, at_ms: int, *, reason: str = "", identity: str = "") -> None:
        """The job has come to its end (precondition: it runs)."""
        assert self.is_running, "a job ends once"
        progress = self.progress
        progress.state = state
        progress.closed_at_ms = at_ms
        progress.closing_reason = reason
        progress.closing_identity = identity
        if state is JobState.COMPLETED:
            progress.total = progress.completed + progress.failed
        self.page = Page()
        self.request = None

    # -- rows

    def progress_row(self) -> tuple[str, bytes]:
        return self.name("/progress"), _encode(self.progress)

    def page_row(self) -> tuple[str, bytes]:
        return self.name("/page"), _encode(self.page)

    def failures_row(self) -> tuple[str, bytes]:
        return self.name("/failures"), _encode(self.failures)

    def erasure(self) -> Iterator[tuple[str, bytes]]:
        """Rows in place of those it had."""
        return ((self.name(part), b"") for part in ("", "/page", "/progress", "/failures"))

    def load(self, progress: bytes, page: bytes, failures: bytes) -> None:
        """Take over what the store says. Raises msgspec.MsgspecError if it is damaged."""
        self.progress = _progress.decode(progress)
        self.page = _page.decode(page) if page else Page()
        self.failures = _failures.decode(failures) if failures else []
