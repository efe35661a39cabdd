"""Signal and query handlers of one run; updates have theirs in `perdure.replay.updates`.

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
from perdure.replay.described import BUILT_IN_QUERIES
from perdure.replay.loop import ReadyHandle
from perdure.replay.ports import PayloadConverter
from perdure.replay.unfinished import HandlerUnfinishedPolicy

if TYPE_CHECKING:
    from perdure.replay.runtime import WorkflowRuntime

__all__ = ["Handler", "Handlers"]

log = logging.getLogger("perdure.workflow")

_ANSWERED = m.QueryResultType.QUERY_RESULT_TYPE_ANSWERED
_FAILED = m.QueryResultType.QUERY_RESULT_TYPE_FAILED


class Handler:
    """A callable and what it takes."""

    __slots__ = ("dynamic", "fn", "signature", "unfinished_policy", "validator")

    def __init__(
        self,
        fn: Callable[..., Any],
        signature: Signature,
        *,
        dynamic: bool,
        unfinished_policy: HandlerUnfinishedPolicy = HandlerUnfinishedPolicy.WARN_AND_ABANDON,
        validator: Callable[..., Any] | None = None,
    ) -> None:
        self.fn = fn
        self.signature = signature
        self.dynamic = dynamic
        self.unfinished_policy = unfinished_policy
        self.validator = validator

    @staticmethod
    def bind(definition: HandlerDefinition, instance: Any) -> Handler:
        """A definition's handler for one workflow's object."""
        fn, validator = definition.fn, definition.validator
        return Handler(
            fn if instance is None else fn.__get__(instance),
            definition.signature,
            dynamic=definition.name is None,
            unfinished_policy=definition.unfinished_policy,
            validator=validator if instance is None or validator is None else validator.__get__(instance),
        )

    def arguments(self, converter: PayloadConverter, name: str, payloads: Sequence[m.Payload], what: str) -> list[Any]:
        """What to call it with.

        Raises:
            ConversionError: an argument is not of the type that is hinted.
            TypeError: too few arguments.
        """
        if self.dynamic:
            return [name, [RawValue(payload) for payload in payloads]]
        # More arguments than parameters come from a newer caller: the handler takes those it knows.
        known = payloads if self.signature.maximum is None else payloads[: self.signature.maximum]
        args = converter.from_payloads(known, self.signature.arg_types)
        self.signature.check(args, what)
        return args


class Handlers:
    """What answers this run's signals and queries.

    Attributes:
        active: handlers that have been delivered a signal or an update and have not finished.
        installed: the definition's handlers are bound: the code has begun.
    """

    __slots__ = ("_queries", "_runtime", "_signals", "_waiting", "active", "installed")

    def __init__(self, runtime: WorkflowRuntime) -> None:
        # The runtime holds its handlers: held weakly in turn, so that dropping a run frees both at once.
        self._runtime: WorkflowRuntime = proxy(runtime)
        self._signals: dict[str | None, Handler] = {}
        self._queries: dict[str | None, Handler] = {}
        self._waiting: list[tuple[str, list[m.Payload]]] = []
        self.installed = False
        self.active = 0

    def install(self, instance: Any) -> None:
        """Bind the definition's handlers, and deliver what has waited for them."""
        definition = self._runtime.definition
        for table, handlers in ((self._signals, definition.signals), (self._queries, definition.queries)):
            for name, handler in handlers.items():
                table[name] = Handler.bind(handler, instance)
        self.installed = True
        self._drain()

    def signal(self, name: str, payloads: Sequence[m.Payload]) -> None:
        """A signal has arrived."""
        handler = self._find(self._signals, name) if self.installed else None
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

    def signal_names(self) -> list[str | None]:
        """Names that have a signal handler; None for the dynamic one."""
        return list(self._signals)

    def query_names(self) -> list[str | None]:
        """Likewise for queries."""
        return list(self._queries)

    def _drain(self) -> None:
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        for name, payloads in waiting:
            self.signal(name, payloads)

    def _find(self, table: dict[str | None, Handler], name: str) -> Handler | None:
        found = table.get(name)
        return found if found is not None else table.get(None)

    def _deliver(self, handler: Handler, name: str, payloads: Sequence[m.Payload]) -> None:
        runtime = self._runtime
        loop = runtime.loop
        if loop.inert:
            return
        try:
            args = handler.arguments(self._runtime.converter, name, payloads, f"signal {name}")
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

    def unfinished(self) -> list[str]:
        """Names of the signals whose handlers are under way and may not be abandoned silently."""
        found: list[str] = []
        for task in self._runtime.loop.pending_tasks():
            if getattr(task.get_coro(), "cr_code", None) is Handlers._run.__code__:
                name = task.get_name().removeprefix("signal ")
                handler = self._find(self._signals, name)
                if handler is None or handler.unfinished_policy is HandlerUnfinishedPolicy.WARN_AND_ABANDON:
                    found.append(name)
        return found

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
            built_in = BUILT_IN_QUERIES.get(name)
            if built_in is not None:
                value, hint = built_in[0](runtime), built_in[1]
            else:
                handler = self._find(self._queries, name)
                if handler is None:
                    known = ", ".join(sorted(key for key in self._queries if key is not None)) or "none"
                    raise LookupError(f"this workflow has no query {name!r}; it has: {known}")
                args = handler.arguments(runtime.converter, name, query.query_args.payloads, f"query {name}")
                value, hint = handler.fn(*args), handler.signature.return_type
            payloads = runtime.converter.to_payloads((value,), (hint,))
            return m.WorkflowQueryResult(result_type=_ANSWERED, answer=payloads)
        except Exception as error:
            return m.WorkflowQueryResult(
                result_type=_FAILED, error_message=str(error), failure=runtime.converter.to_failure(error)
            )


def _set(table: dict[str | None, Handler], name: str | None, fn: Callable[..., Any] | None) -> None:
    if fn is None:
        table.pop(name, None)
    else:
        table[name] = Handler(fn, Signature(fn), dynamic=name is None)
