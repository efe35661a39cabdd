"""Signal and query handlers of one run.

Signals wait, in order, until the run has a handler for them: those that arrive before the code has begun, and those
whose name nobody handles yet. Each delivered signal becomes a callback or a task that runs before the code which the
same workflow task wakes. Queries are answered at once and may change nothing.
"""

from __future__ import annotations

import logging
from asyncio import CancelledError
from collections.abc import Callable, Sequence
from inspect import iscoroutine, iscoroutinefunction
from typing import TYPE_CHECKING, Any
from weakref import proxy

from perdure.api import messages as m
from perdure.common import RawValue
from perdure.exceptions import DefinitionError
from perdure.replay.definition import HandlerDefinition, Signature
from perdure.replay.loop import ReadyHandle

if TYPE_CHECKING:
    from perdure.replay.runtime import WorkflowRuntime

__all__ = ["Handlers"]

log = logging.getLogger("perdure.workflow")

STACK_TRACE_QUERY = "__stack_trace"

_ANSWERED = m.QueryResultType.QUERY_RESULT_TYPE_ANSWERED
_FAILED = m.QueryResultType.QUERY_RESULT_TYPE_FAILED


class _Handler:
    """A callable and what it takes."""

    __slots__ = ("dynamic", "fn", "signature")

    def __init__(self, fn: Callable[..., Any], signature: Signature, *, dynamic: bool) -> None:
        self.fn = fn
        self.signature = signature
        self.dynamic = dynamic


class Handlers:
    """What answers this run's signals and queries.

    Attributes:
        active: signal handlers that have been delivered a signal and have not finished.
    """

    __slots__ = ("_installed", "_queries", "_runtime", "_signals", "_waiting", "active")

    def __init__(self, runtime: WorkflowRuntime) -> None:
        # The runtime holds its handlers: held weakly in turn, so that dropping a run frees both at once.
        self._runtime: WorkflowRuntime = proxy(runtime)
        self._signals: dict[str | None, _Handler] = {}
        self._queries: dict[str | None, _Handler] = {}
        self._waiting: list[tuple[str, list[m.Payload]]] = []
        self._installed = False
        self.active = 0

    def install(self, instance: Any) -> None:
        """Bind the definition's handlers, and deliver what has waited for them."""
        definition = self._runtime.definition
        for table, handlers in ((self._signals, definition.signals), (self._queries, definition.queries)):
            for name, handler in handlers.items():
                table[name] = _bind(handler, instance)
        self._installed = True
        self._drain()

    def signal(self, name: str, payloads: Sequence[m.Payload]) -> None:
        """A signal has arrived."""
        handler = self._find(self._signals, name) if self._installed else None
        if handler is None:
            self._waiting.append((name, list(payloads)))
        else:
            self._deliver(handler, name, payloads)

    def set_signal(self, name: str | None, fn: Callable[..., Any] | None) -> None:
        """Set or remove a handler; None as name is the handler of all other names."""
        _set(self._signals, name, fn)
        self._drain()

    def set_query(self, name: str | None, fn: Callable[..., Any] | None) -> None:
        """Set or remove a query handler."""
        if fn is not None and iscoroutinefunction(fn):
            raise DefinitionError("a query handler may not be async: it has to answer at once")
        _set(self._queries, name, fn)

    def get_signal(self, name: str | None) -> Callable[..., Any] | None:
        """The handler set for exactly this name."""
        handler = self._signals.get(name)
        return handler.fn if handler is not None else None

    def get_query(self, name: str | None) -> Callable[..., Any] | None:
        """The query handler set for exactly this name."""
        handler = self._queries.get(name)
        return handler.fn if handler is not None else None

    def _drain(self) -> None:
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        for name, payloads in waiting:
            self.signal(name, payloads)

    def _find(self, table: dict[str | None, _Handler], name: str) -> _Handler | None:
        found = table.get(name)
        return found if found is not None else table.get(None)

    def _deliver(self, handler: _Handler, name: str, payloads: Sequence[m.Payload]) -> None:
        runtime = self._runtime
        loop = runtime.loop
        if loop.inert:
            return
        try:
            args = self._arguments(handler, name, payloads, f"signal {name}")
        except Exception as error:
            # One caller's mistake must not stop the workflow for everybody else.
            if not runtime.replaying:
                log.error("%s: signal %r is dropped: %s", runtime.describe(), name, error)
            return
        self.active += 1
        if iscoroutinefunction(handler.fn):
            loop.create_task(self._run(handler.fn, args), name=f"signal {name}", context=loop.context.copy())
        else:
            loop.ready.append(ReadyHandle(self._call, (handler.fn, args, name), loop, loop.context.copy()))

    def _arguments(self, handler: _Handler, name: str, payloads: Sequence[m.Payload], what: str) -> list[Any]:
        if handler.dynamic:
            return [name, [RawValue(payload) for payload in payloads]]
        # More arguments than parameters come from a newer caller: the handler takes those it knows.
        known = payloads if handler.signature.maximum is None else payloads[: handler.signature.maximum]
        args = self._runtime.converter.from_payloads(known, handler.signature.arg_types)
        handler.signature.check(args, what)
        return args

    def _call(self, fn: Callable[..., Any], args: list[Any], name: str) -> None:
        runtime = self._runtime
        try:
            result = fn(*args)
        except BaseException as error:
            self.active -= 1
            self._conclude(error)
            return
        if iscoroutine(result):
            runtime.loop.create_task(self._run(lambda: result, ()), name=f"signal {name}")
        else:
            self.active -= 1

    async def _run(self, fn: Callable[..., Any], args: Sequence[Any]) -> None:
        try:
            await fn(*args)
        except GeneratorExit:
            raise
        except BaseException as error:
            self.active -= 1
            self._conclude(error)
        else:
            self.active -= 1

    def _conclude(self, error: BaseException) -> None:
        if isinstance(error, KeyboardInterrupt):
            raise error
        if not isinstance(error, CancelledError):
            self._runtime.conclude(error)

    def answer(self, query: m.WorkflowQuery) -> m.WorkflowQueryResult:
        """Answer a query; the loop is read-only and the running one."""
        runtime = self._runtime
        name = query.query_type
        try:
            if name == STACK_TRACE_QUERY:
                value, hint = runtime.stack_trace(), str
            else:
                handler = self._find(self._queries, name)
                if handler is None:
                    known = ", ".join(sorted(key for key in self._queries if key is not None)) or "none"
                    raise LookupError(f"this workflow has no query {name!r}; it has: {known}")
                args = self._arguments(handler, name, query.query_args.payloads, f"query {name}")
                value, hint = handler.fn(*args), handler.signature.return_type
            payloads = runtime.converter.to_payloads((value,), (hint,))
            return m.WorkflowQueryResult(result_type=_ANSWERED, answer=payloads)
        except Exception as error:
            return m.WorkflowQueryResult(
                result_type=_FAILED, error_message=str(error), failure=runtime.converter.to_failure(error)
            )


def _bind(definition: HandlerDefinition, instance: Any) -> _Handler:
    fn = definition.fn if instance is None else definition.fn.__get__(instance)
    return _Handler(fn, definition.signature, dynamic=definition.name is None)


def _set(table: dict[str | None, _Handler], name: str | None, fn: Callable[..., Any] | None) -> None:
    if fn is None:
        table.pop(name, None)
    else:
        table[name] = _Handler(fn, Signature(fn), dynamic=name is None)
