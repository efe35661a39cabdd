"""What workflow code may ask about itself and its time, and how it waits."""

from __future__ import annotations

import asyncio
import logging
import random as random_module
import uuid
from collections.abc import Awaitable, Callable, Generator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, TypeVarTuple, cast, overload

from perdure.common import RetryPolicy, TypedSearchAttributes
from perdure.converter import DataConverter
from perdure.converter.attributes import decode_search_attributes
from perdure.replay import context, guard
from perdure.replay.definition import UNSET
from perdure.replay.described import CURRENT_DETAILS
from perdure.replay.events import RESET_RUN_ID
from perdure.replay.info import Info as PlainInfo
from perdure.replay.runtime import WorkflowRuntime

__all__ = [
    "Info",
    "LoggerAdapter",
    "all_handlers_finished",
    "cancellation_reason",
    "deprecate_patch",
    "get_current_details",
    "get_last_completion_result",
    "get_last_failure",
    "has_last_completion_result",
    "in_workflow",
    "info",
    "instance",
    "logger",
    "memo",
    "memo_value",
    "new_random",
    "now",
    "patched",
    "payload_converter",
    "random",
    "random_seed",
    "set_current_details",
    "sleep",
    "step",
    "time",
    "time_ns",
    "unsafe",
    "upsert_memo",
    "uuid4",
    "uuid7",
    "wait_condition",
]

_T = TypeVar("_T")
_R = TypeVar("_R")
_Args = TypeVarTuple("_Args")

_RANDOM = "random"
_INFO = "info"
_INFO_FIELDS = tuple(field.name for field in fields(PlainInfo))

MICROSECOND_NS = 1000


def in_workflow() -> bool:
    """Whether this is workflow code, running in a worker."""
    return context.current() is not None


class Info(PlainInfo):
    """The running workflow. `original_execution_run_id` outlives a reset, `run_id` does not."""

    __slots__ = ()

    @property
    def typed_search_attributes(self) -> TypedSearchAttributes:
        """The search attributes this workflow has now."""
        runtime = context.must_be()
        return decode_search_attributes(runtime.converter, runtime.raw_search_attributes())


def info() -> Info:
    """What is known about the running workflow."""
    runtime = context.must_be()
    found = runtime.scratch.get(_INFO)
    if found is None:
        plain = runtime.info()
        found = runtime.scratch[_INFO] = Info(**{name: getattr(plain, name) for name in _INFO_FIELDS})
    return cast("Info", found)


def get_current_details() -> str:
    """What `set_current_details` has set last."""
    return cast("str", context.must_be().scratch.get(CURRENT_DETAILS, ""))


def set_current_details(details: str) -> None:
    """Say in a few lines, for people who look at the running workflow, what it is doing. Nothing is recorded."""
    runtime = context.must_be()
    runtime.check_writable("set the current details")
    runtime.scratch[CURRENT_DETAILS] = details


def instance() -> Any:
    """The running workflow's object; None for a workflow that is a function."""
    return context.must_be().instance


def now() -> datetime:
    """The workflow's time, aware, in UTC: when the current workflow task started. It stands still while code runs."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=context.must_be().now_ns // MICROSECOND_NS)


def time() -> float:
    """The workflow's time in seconds since the epoch."""
    return context.must_be().now_ns / 1e9


def time_ns() -> int:
    """The workflow's time in nanoseconds since the epoch."""
    return context.must_be().now_ns


def random() -> random_module.Random:
    """This run's random numbers: the same ones at every replay. Not for secrets."""
    runtime = context.must_be()
    runtime.check_writable("use up random numbers")
    run_id = _seeding_run_id(runtime)
    found, seeded_by = cast("tuple[random_module.Random | None, str]", runtime.scratch.get(_RANDOM, (None, "")))
    if found is None:
        found = random_module.Random(random_seed())
    elif seeded_by != run_id:
        found.seed(random_seed())
    runtime.scratch[_RANDOM] = found, run_id
    return found


def _seeding_run_id(runtime: WorkflowRuntime) -> str:
    """The run whose id seeds chance: the first one of this history, or the one that took it up by a reset."""
    return cast("str", runtime.scratch.get(RESET_RUN_ID, runtime.original_run_id))


def random_seed() -> int:
    """The seed of this run's random numbers. A reset changes it, from the point it was reset to."""
    return uuid.uuid5(uuid.NAMESPACE_OID, _seeding_run_id(context.must_be())).int


def new_random() -> random_module.Random:
    """Random numbers of one's own, seeded from `random`."""
    return random_module.Random(random().getrandbits(64))


def uuid4() -> uuid.UUID:
    """A random UUID, the same at every replay. Not for secrets."""
    return uuid.UUID(bytes=random().getrandbits(128).to_bytes(16, "big"), version=4)


def uuid7() -> uuid.UUID:
    """A UUID that sorts by the workflow's time, the same at every replay. Not for secrets."""
    milliseconds = time_ns() // 1_000_000 & 0xFFFF_FFFF_FFFF
    chance = random()
    return uuid.UUID(
        int=milliseconds << 80 | 0x7 << 76 | chance.getrandbits(12) << 64 | 0b10 << 62 | chance.getrandbits(62)
    )


def _seconds(duration: float | timedelta) -> float:
    return duration.total_seconds() if isinstance(duration, timedelta) else duration


async def sleep(duration: float | timedelta, *, summary: str | None = None) -> None:
    """Sleep durably, be it for months; `asyncio.sleep` does the same.

    Args:
        duration: seconds, or a timedelta.
        summary: one line for people.
    """
    runtime = context.must_be()
    seconds = _seconds(duration)
    if seconds <= 0:
        await asyncio.sleep(0)
        return
    future = runtime.loop.create_future()
    timer = runtime.start_timer(seconds, _release, (future,), None, summary)
    try:
        await future
    finally:
        timer.cancel()


def _release(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _expire(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_exception(TimeoutError("the condition did not become true in time"))


async def wait_condition(
    fn: Callable[[], bool], *, timeout: timedelta | float | None = None, timeout_summary: str | None = None
) -> None:
    """Wait until a condition about the workflow's own state holds.

        await workflow.wait_condition(lambda: self.approved, timeout=timedelta(days=7))

    Args:
        fn: looked at whenever the workflow's code has come to rest; it must not change anything.
        timeout: seconds or a timedelta; a durable timer.
        timeout_summary: one line for people about that timer.

    Raises:
        TimeoutError: Python's own: the time passed first.
    """
    runtime = context.must_be()
    if fn():
        return
    future = runtime.loop.create_future()
    runtime.add_condition(fn, future)
    if timeout is None:
        await future
        return
    timer = runtime.start_timer(_seconds(timeout), _expire, (future,), None, timeout_summary)
    try:
        await future
    finally:
        timer.cancel()


@overload
async def step(
    fn: Callable[[*_Args], Awaitable[_R]],
    *args: *_Args,
    name: str | None = None,
    retry_policy: RetryPolicy | None = None,
    timeout: timedelta | None = None,
) -> _R: ...


@overload
async def step(
    fn: Callable[[*_Args], _R],
    *args: *_Args,
    name: str | None = None,
    retry_policy: RetryPolicy | None = None,
    timeout: timedelta | None = None,
) -> _R: ...


async def step(
    fn: Callable[..., Any],
    *args: Any,
    name: str | None = None,
    retry_policy: RetryPolicy | None = None,
    timeout: timedelta | None = None,
) -> Any:
    """Run a small function outside of the workflow and record its result in the history.

        token = await workflow.step(secrets.token_hex, 16)

    The worker that holds the workflow runs it, with no activity in between: for a quick call whose repetition does no
    harm. It runs at least once; as soon as its result is recorded, never again. Anything long, or that needs its own
    workers, heartbeats or rate limits, belongs in an activity.

    Args:
        fn: sync or async function; it may do I/O, and must not touch the workflow's objects.
        args: its arguments.
        name: for the history; the function's name when None.
        retry_policy: None = no retries.
        timeout: of one attempt.

    Raises:
        ApplicationError: the function failed; its type is the original error's class name.
    """
    own_name = name or getattr(fn, "__name__", type(fn).__name__)
    return await context.must_be().step(fn, args, name=own_name, retry_policy=retry_policy, timeout=timeout)


def patched(id: str) -> bool:
    """Whether this run takes the new branch of a change.

        if workflow.patched("charge-before-label"):
            ...  # runs that reach this point for the first time with the new code
        else:
            ...  # runs that passed it with the old code

    Args:
        id: a name for the change, unique among the workflow's changes.
    """
    return context.must_be().patched(id, deprecated=False)


def deprecate_patch(id: str) -> None:
    """Stand in for `patched` once no run takes the old branch any more; removable when no run has the marker."""
    context.must_be().patched(id, deprecated=True)


def payload_converter() -> DataConverter:
    """The converter of this workflow's worker."""
    return cast("DataConverter", context.must_be().converter)


def memo() -> Mapping[str, Any]:
    """The memo's values."""
    runtime = context.must_be()
    return {key: runtime.converter.from_payload(payload) for key, payload in runtime.raw_memo().items()}


@overload
def memo_value(key: str) -> Any: ...


@overload
def memo_value(key: str, *, type_hint: type[_T]) -> _T: ...


@overload
def memo_value(key: str, default: Any, *, type_hint: type[_T] | None = None) -> Any: ...


def memo_value(key: str, default: Any = UNSET, *, type_hint: type[Any] | None = None) -> Any:
    """One value of the memo, or `default`.

    Raises:
        KeyError: there is none, and no default.
    """
    runtime = context.must_be()
    payload = runtime.raw_memo().get(key)
    if payload is None:
        if default is UNSET:
            raise KeyError(f"the memo has no value {key!r}")
        return default
    return runtime.converter.from_payload(payload, type_hint)


def upsert_memo(updates: Mapping[str, Any]) -> None:
    """Set values of the memo, shown by list and describe; None removes one."""
    context.must_be().upsert_memo(updates)


def all_handlers_finished() -> bool:
    """Whether no signal or update handler is under way: ``await workflow.wait_condition(all_handlers_finished)``."""
    return context.must_be().handlers.active == 0


def cancellation_reason() -> str | None:
    """Why the workflow was asked to cancel; None if it was not."""
    return context.must_be().cancel_reason


def has_last_completion_result() -> bool:
    """Whether an earlier run of this workflow's retries or schedule left a result."""
    return bool(context.must_be().started_attributes().last_completion_result.payloads)


def get_last_completion_result(type_hint: type[Any] | None = None) -> Any:
    """The result an earlier run left, or None."""
    runtime = context.must_be()
    payloads = runtime.started_attributes().last_completion_result.payloads
    return runtime.converter.from_payload(payloads[0], type_hint) if payloads else None


def get_last_failure() -> BaseException | None:
    """Why the run before this one failed, if this one is its retry."""
    runtime = context.must_be()
    attrs = runtime.started_attributes()
    return runtime.converter.from_failure(attrs.continued_failure) if attrs.HasField("continued_failure") else None


class LoggerAdapter(logging.LoggerAdapter[logging.Logger]):
    """A logger for workflow code: silent while the workflow is replayed.

    Records carry the workflow's details as attribute ``perdure_workflow``.

    Attributes:
        log_during_replay: say everything again at each replay.
    """

    log_during_replay = False

    def isEnabledFor(self, level: int) -> bool:
        runtime = context.current()
        if runtime is not None and not self.log_during_replay and (runtime.replaying or runtime.loop.inert):
            # A query is answered now, however long ago the workflow's own code ran.
            if not runtime.loop.read_only:
                return False
        return super().isEnabledFor(level)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        runtime = context.current()
        if runtime is not None:
            kwargs["extra"] = {**(kwargs.get("extra") or {}), "perdure_workflow": _log_details(runtime)}
        return msg, kwargs


def _log_details(runtime: WorkflowRuntime) -> Mapping[str, str]:
    return {
        "workflow_id": runtime.workflow_id,
        "run_id": runtime.run_id,
        "workflow_type": runtime.definition.name or "",
        "task_queue": runtime.task_queue,
        "namespace": runtime.namespace,
    }


logger = LoggerAdapter(logging.getLogger("perdure.workflow"), None)
"""The logger for workflow code: silent while the workflow is replayed."""


class unsafe:
    """What needs a second thought in workflow code."""

    @staticmethod
    def is_replaying() -> bool:
        """Whether the code runs for a workflow task that has been completed before. Must not steer the workflow."""
        return context.must_be().replaying

    @staticmethod
    @contextmanager
    def guard_off() -> Generator[None]:
        """Let forbidden calls through within the block. What they answer must not steer the workflow."""
        with guard.suspended():
            yield

    @staticmethod
    @contextmanager
    def sandbox_unrestricted() -> Generator[None]:
        """The same as `guard_off`, by the name it has in Temporal's SDK."""
        with guard.suspended():
            yield

    @staticmethod
    @contextmanager
    def imports_passed_through() -> Generator[None]:
        """Nothing to do: modules are never imported anew. For code written for Temporal's SDK."""
        yield
