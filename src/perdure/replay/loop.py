"""A deterministic asyncio event loop: the same calls in the same order give the same run, every time.

The loop has a ready queue and no selector, no clock and no threads. Time is what the workflow task says it is and
stands still while code runs; `call_later` asks its owner for a durable timer. It is driven by `run`, which may be
called while another loop runs in the same thread: the running loop is swapped for the duration.

What asyncio leaves to chance is taken away from it. Sets of tasks and futures iterate by hash, which for plain
objects is their address: here every task and future hashes by its number within the run, spread by the run's id so
that the tasks of many runs do not collide in asyncio's global registries. `asyncio.as_completed` and `asyncio.wait`
put what they are given into a set: inside a workflow that set keeps the given order.

Every pending task is held strongly until `close`, so that no coroutine is ever finalised by the garbage collector
at a moment of its choosing. `close` makes the loop inert (whatever is asked of it is accepted and forgotten) and then
closes the coroutines; a `finally` block that awaits gets no further than its await.
"""

from __future__ import annotations

import asyncio
import re
import sys
import warnings
from asyncio import events, tasks
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterable
from contextlib import contextmanager
from contextvars import Context, copy_context
from itertools import repeat
from typing import Any, Protocol, TypeVar, cast

from perdure.exceptions import ReadOnlyContextError
from perdure.replay.generators import GeneratorHooks, hooks_of_thread
from perdure.replay.guard import refusal
from perdure.replay.ports import Guard

__all__ = [
    "MAX_CALLBACKS",
    "NOBODY",
    "LoopOwner",
    "ReadyHandle",
    "WorkflowFuture",
    "WorkflowLoop",
    "WorkflowTask",
    "detach",
]

MAX_CALLBACKS = 5_000_000
"""Callbacks one activation may run before the code counts as one that never waits."""

MAX_CLOSE_ATTEMPTS = 1000
"""Coroutines in a chain of awaits, and awaits in `finally` blocks, that closing a task goes through."""

_HASH_MASK = (1 << 60) - 1
_HASH_SPREAD = 0x9E3779B97F4A7C15

_T = TypeVar("_T")

_get_running_loop = events._get_running_loop
_set_running_loop = events._set_running_loop
# From 3.14 on the current task belongs to the thread, not to a loop, and has to step aside as well.
_swap_current_task: Callable[[Any, Any], Any] | None = getattr(tasks, "_swap_current_task", None)

_NEVER_AWAITED = ("ignore", re.compile("coroutine .* was never awaited"), RuntimeWarning, None, 0)
"""As an entry of `warnings.filters`."""

_undying: list[list[Any]] = []
"""Coroutines that answer every request to close with another await: kept, so that nothing wakes them again."""


class LoopOwner(Protocol):
    """Whose code the loop runs.

    Attributes:
        conditions: what `poll_conditions` looks at; empty = it need not be called.
    """

    conditions: list[Any]

    def start_timer(
        self, delay_s: float, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None
    ) -> asyncio.TimerHandle:
        """A durable timer that puts itself into the loop's ready queue when it fires."""
        ...

    def poll_conditions(self) -> bool:
        """Called whenever the ready queue is empty; True if something became ready."""
        ...

    def report(self, message: str, error: BaseException | None) -> None:
        """An error that nothing waits for."""
        ...


class _Nobody:
    """Owner of a loop whose run has been evicted: nothing happens any more."""

    def __init__(self) -> None:
        self.conditions: list[Any] = []

    def start_timer(
        self, delay_s: float, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None
    ) -> asyncio.TimerHandle:
        return asyncio.TimerHandle(delay_s, callback, args, cast("Any", self), context)

    def poll_conditions(self) -> bool:
        return False

    def report(self, message: str, error: BaseException | None) -> None:
        """Nobody is interested."""

    def get_debug(self) -> bool:
        """What a timer's handle asks of its loop."""
        return False

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """What a timer's handle tells its loop."""


NOBODY = _Nobody()


class ReadyHandle(asyncio.Handle):
    """A callback in the ready queue; `asyncio.Handle` without what only a real loop needs."""

    __slots__ = ()

    # Asyncio sets these in debug mode only, which this loop does not have.
    _repr = None
    _source_traceback = None

    def __init__(
        self, callback: Callable[..., object], args: tuple[Any, ...], loop: WorkflowLoop, context: Context
    ) -> None:
        self._context = context
        self._callback = callback
        self._args = args
        self._loop = loop
        self._cancelled = False


class WorkflowFuture(asyncio.Future[_T]):
    """A future whose hash is its number within the run."""

    __slots__ = ("_number",)

    def __init__(self, loop: WorkflowLoop) -> None:
        super().__init__(loop=loop)
        self._number = loop.next_number()

    def __hash__(self) -> int:
        return self._number


class WorkflowTask(asyncio.Task[Any]):
    """A task whose hash is its number within the run."""

    __slots__ = ("_number",)

    def __init__(
        self, coro: Coroutine[Any, Any, Any], loop: WorkflowLoop, name: str | None, context: Context | None
    ) -> None:
        # Before super(): asyncio registers the task, which hashes it.
        self._number = loop.next_number()
        super().__init__(coro, loop=loop, name=name or f"Task-{loop._number}", context=context)

    def __hash__(self) -> int:
        return self._number


class WorkflowLoop(asyncio.AbstractEventLoop):
    """The loop of one run.

    Attributes:
        owner: whose code runs.
        now_s: the workflow's time in seconds since the epoch.
        read_only: what runs that may schedule nothing, e.g. "a query handler"; empty while everything may.
        inert: whatever is asked is accepted and forgotten.
        tasks: in order of creation, done ones included until they are pruned.
    """

    def __init__(self, owner: LoopOwner) -> None:
        self.owner = owner
        self.now_s = 0.0
        self.read_only = ""
        self.inert = False
        self.ready: deque[Any] = deque()
        """Handles; asyncio's types do not name what is in them."""
        self.context = Context()
        self._running = False
        self._number = 0
        self._hash_base = 0
        self.tasks: list[WorkflowTask] = []
        self._prune_at = 64
        self._exception_handler: Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object] | None = None
        self._task_factory: Any = None

    def seed(self, seed: int) -> None:
        """Spread this run's hashes; before the first task."""
        self._hash_base = seed * _HASH_SPREAD & _HASH_MASK

    def next_number(self) -> int:
        """The hash of the next task or future."""
        self._number += 1
        return (self._hash_base + self._number) & _HASH_MASK

    # Running.

    def run(self, guard: Guard) -> bool:
        """Run until nothing is ready any more.

        Returns:
            False if the code did not come to rest within MAX_CALLBACKS callbacks.
        """
        ready = self.ready
        take = ready.popleft
        owner = self.owner
        state = self._enter()
        guard.enter()
        try:
            for _ in repeat(None, MAX_CALLBACKS):
                if not ready:
                    if owner.conditions and owner.poll_conditions():
                        continue
                    return True
                handle = take()
                if not handle._cancelled:
                    try:
                        handle._context.run(handle._callback, *handle._args)
                    except (Exception, SystemExit) as error:
                        owner.report(f"exception in callback {handle._callback!r}", error)
            return not ready
        finally:
            guard.exit()
            self._leave(state)

    def call(self, guard: Guard, fn: Callable[..., _T], *args: Any) -> _T:
        """Call a function the way a callback is called, with whatever it raises passed on."""
        state = self._enter()
        guard.enter()
        try:
            return self.context.copy().run(fn, *args)
        finally:
            guard.exit()
            self._leave(state)

    @contextmanager
    def reading(self, what: str) -> Generator[None]:
        """Let nothing be scheduled within the block, which leaves no trace in what comes after it.

        Args:
            what: what runs, for messages.
        """
        number = self._number
        self.read_only = what
        try:
            yield
        finally:
            self.read_only = ""
            self._number = number

    def _enter(self) -> tuple[asyncio.AbstractEventLoop | None, Any, Any]:
        outer = _get_running_loop()
        outer_task = None
        if outer is not None and _swap_current_task is not None:
            outer_task = _swap_current_task(outer, None)
        finalizer = sys.get_asyncgen_hooks().finalizer
        known = type(getattr(finalizer, "__self__", None)) is GeneratorHooks
        hooks = None if known else hooks_of_thread(_closer_of)
        _set_running_loop(self)
        self._running = True
        return outer, outer_task, hooks

    def _leave(self, state: tuple[asyncio.AbstractEventLoop | None, Any, Any]) -> None:
        outer, outer_task, hooks = state
        self._running = False
        _set_running_loop(outer)
        if hooks is not None:
            sys.set_asyncgen_hooks(*hooks)
        if outer_task is not None and _swap_current_task is not None:
            _swap_current_task(outer, outer_task)

    def close_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        """Close an abandoned generator in a task of its own, as asyncio does."""
        if not self.inert and not self.read_only:
            self.create_task(cast("Coroutine[Any, Any, Any]", generator.aclose()))

    def pending_tasks(self) -> list[WorkflowTask]:
        """Tasks that are not done, in order of creation."""
        return [task for task in self.tasks if not task.done()]

    def tasks_by_wait(self) -> dict[Any, WorkflowTask]:
        """Pending tasks by the future each waits for."""
        return {getattr(task, "_fut_waiter", None): task for task in self.pending_tasks()}

    def close(self) -> None:
        """End every coroutine; nothing they do on the way out has an effect. Harmless to repeat."""
        self.inert = True
        self.ready.clear()
        closing, self.tasks = self.tasks, []
        if all(task.done() for task in closing):
            for task in closing:
                _close_task(task)
            return
        state = self._enter()
        # A task that never began lets go of the coroutines it was to await. `catch_warnings` would do the same for ten
        # times the work, most of it in making every module forget what it has warned of.
        filters = warnings.filters
        warnings.filters = [_NEVER_AWAITED, *filters]
        try:
            for task in closing:
                _close_task(task)
            task = None
            closing.clear()
            self.ready.clear()
        finally:
            warnings.filters = filters
            self._leave(state)

    # What asyncio and users call.

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> asyncio.Handle:
        handle = ReadyHandle(callback, args, self, context if context is not None else copy_context())
        if self.read_only:
            raise ReadOnlyContextError(f"{self.read_only} may not schedule anything: do it in a signal handler")
        if not self.inert:
            self.ready.append(handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        if self.read_only:
            raise ReadOnlyContextError(f"{self.read_only} may not start timers: do it in a signal handler")
        return self.owner.start_timer(delay, callback, args, context)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_later(when - self.now_s, callback, *args, context=context)

    def time(self) -> float:
        return self.now_s

    def create_future(self) -> WorkflowFuture[Any]:
        return WorkflowFuture(self)

    def create_task(
        self, coro: Any, *, name: str | None = None, context: Context | None = None, **_options: Any
    ) -> Any:
        if self.inert or self.read_only:
            coro.close()
            if self.read_only:
                raise ReadOnlyContextError(f"{self.read_only} may not start tasks: do it in a signal handler")
            return cast("WorkflowFuture[Any]", WorkflowFuture(self))
        if self._task_factory is not None:
            return self._task_factory(self, coro)
        task = WorkflowTask(coro, self, name, context)
        self.tasks.append(task)
        if len(self.tasks) > self._prune_at:
            self.tasks = self.pending_tasks()
            self._prune_at = max(64, 2 * len(self.tasks))
        return task

    def set_task_factory(self, factory: Any) -> None:
        self._task_factory = factory

    def get_task_factory(self) -> Any:
        return self._task_factory

    def is_running(self) -> bool:
        return self._running

    def is_closed(self) -> bool:
        return False

    # Asyncio asks this of every future and task that is made: answered without a frame, `bool()` is False.
    get_debug = staticmethod(bool)  # pyright: ignore[reportAssignmentType] - callable as the method is

    def set_debug(self, enabled: bool) -> None:
        """Accepted and ignored: asyncio's debug mode looks at clocks."""

    def get_exception_handler(self) -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object] | None:
        return self._exception_handler

    def set_exception_handler(
        self, handler: Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object] | None
    ) -> None:
        self._exception_handler = handler

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.owner.report(str(context.get("message") or "unhandled exception"), context.get("exception"))

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        # Asyncio calls this from finalisers too, when the run may be gone or replaying: the owner decides.
        if self._exception_handler is not None and self._running:
            self._exception_handler(self, context)
        else:
            self.default_exception_handler(context)


_ADVICE = {
    "run_in_executor": "run blocking code in an activity or a workflow.step",
    "call_soon_threadsafe": "other threads may not touch a workflow: send it a signal",
    "run_forever": "the worker runs this loop",
    "run_until_complete": "the worker runs this loop; await instead",
    "stop": "the worker runs this loop; return from the workflow instead",
}
_FORBIDDEN = (
    *_ADVICE,
    "add_reader", "add_signal_handler", "add_writer", "connect_accepted_socket", "connect_read_pipe",
    "connect_write_pipe", "create_connection", "create_datagram_endpoint", "create_server", "create_unix_connection",
    "create_unix_server", "getaddrinfo", "getnameinfo", "remove_reader", "remove_signal_handler", "remove_writer",
    "sendfile", "set_default_executor", "shutdown_asyncgens", "shutdown_default_executor", "sock_accept",
    "sock_connect", "sock_recv", "sock_recv_into", "sock_recvfrom", "sock_recvfrom_into", "sock_sendall",
    "sock_sendfile", "sock_sendto", "start_tls", "subprocess_exec", "subprocess_shell",
)  # fmt: skip


def _closer_of(loop: object) -> Callable[[AsyncGenerator[Any, Any]], None] | None:
    return loop.close_generator if isinstance(loop, WorkflowLoop) else None


def _forbid(name: str) -> None:
    advice = _ADVICE.get(name, "do I/O in an activity or a workflow.step")

    def method(self: WorkflowLoop, *args: object, **options: object) -> object:
        raise refusal(f"loop.{name}()", advice)

    method.__name__ = name
    setattr(WorkflowLoop, name, method)


for _name in _FORBIDDEN:
    _forbid(_name)


def detach(future: Any) -> None:
    """Take away whatever waits for a future that nothing will resolve, since the two hold each other."""
    for callback, _ in getattr(future, "_callbacks", None) or ():
        future.remove_done_callback(callback)


def _close_task(task: WorkflowTask) -> None:
    if not task.done():
        detach(getattr(task, "_fut_waiter", None))
        detach(task)
        task._log_destroy_pending = False  # pyright: ignore[reportAttributeAccessIssue] C attribute
        _close_coroutine(task.get_coro())
    task._log_traceback = False  # pyright: ignore[reportAttributeAccessIssue] C attribute


def _close_coroutine(coro: Any) -> None:
    """Close a suspended coroutine, innermost await first.

    `close` alone would let an inner coroutine that awaits in a `finally` block escape: the error about it ends the
    outer one, and the inner one is left to the garbage collector.
    """
    for _ in range(MAX_CLOSE_ATTEMPTS):
        chain = _unfinished(coro)
        if not chain:
            return
        try:
            while chain:
                chain.pop().close()
        except KeyboardInterrupt:
            raise
        except BaseException:
            # It awaited again, and goes on from there; or it ended with an error of its own, which nobody waits for.
            continue
    # In a circle: when the interpreter ends and lets go of the list, they must not come to life once more.
    held: list[Any] = [coro]
    held.append(held)
    _undying.append(held)


def _unfinished(coro: Any) -> list[Any]:
    """Those that have not ended in a chain of awaits of coroutines and generators, the outermost first."""
    chain: list[Any] = []
    for _ in range(MAX_CLOSE_ATTEMPTS):
        if getattr(coro, "cr_frame", None) is not None:
            chain.append(coro)
            coro = coro.cr_await
        elif getattr(coro, "gi_frame", None) is not None:
            chain.append(coro)
            coro = coro.gi_yieldfrom
        else:
            break
    return chain


def _set_in_order(items: Iterable[Any] = ()) -> Any:
    """Stands in for `set` inside `asyncio.tasks`: within a workflow, distinct items in the order given."""
    distinct = dict.fromkeys(items)
    if distinct and type(_get_running_loop()) is WorkflowLoop:
        return list(distinct)
    return set(distinct)


def _hash_of_gathering(future: Any) -> int:
    """A hash for what `asyncio.gather` returns: numbered within a workflow, by address elsewhere."""
    number: int | None = getattr(future, "_perdure_number", None)
    if number is None:
        loop = future.get_loop()
        number = loop.next_number() if type(loop) is WorkflowLoop else object.__hash__(future)
        future._perdure_number = number
    return number


def _settle_order_in_asyncio() -> None:
    # The only two places where asyncio's combinators depend on addresses; outside of workflows nothing changes.
    tasks.__dict__["set"] = _set_in_order
    gathering: Any = tasks.__dict__.get("_GatheringFuture")
    if gathering is not None:
        gathering.__hash__ = _hash_of_gathering


_settle_order_in_asyncio()
