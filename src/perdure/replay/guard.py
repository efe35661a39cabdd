"""The determinism guard: a forbidden call made by workflow code raises, naming the call, the line and a remedy.

Workflow code is replayed, so it must not ask what answers differently the next time (clock, chance, environment) nor
do what must not happen twice (files, sockets, processes, threads). Its runner calls `enter` before and `exit` after
each stretch of workflow code; in between, and only on that thread, a call listed in `guard_rules` raises
`ForbiddenCallError`. Nothing is imported anew and no module is replaced: `install` adds one audit hook, wraps the
functions that have no audit event, and changes nothing that other threads or code outside workflows could notice.

A call is judged in two steps. Cheap, for every call: does this thread run workflow code, is the guard not suspended,
is no garbage collection under way (finalizers of foreign objects run wherever they happen to)? Thorough, only if so:
the stack is walked from the call outwards to the runner. A frame of the import system, of logging, of a debugger or
of other machinery in between acquits the call; so does the absence of any frame of user code. Otherwise the innermost
frame of user code is named.

What the guard cannot see is the static check's business (`perdure.replay.lint`), and said in docs/determinism.md.

Invariants: `_active` holds exactly the threads between `enter` and `exit`; with `_active` empty every wrapper and the
hook return after one test.
"""

from __future__ import annotations

import gc
import os
import sys
from _thread import allocate_lock, get_ident
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from types import CodeType, FrameType, TracebackType
from typing import Any

from perdure.exceptions import ForbiddenCallError
from perdure.replay import guard_patches
from perdure.replay.guard_rules import (
    ADVICE_BY_MODULE,
    AUDIT_NAMESPACES,
    AUDIT_RULES,
    MACHINERY,
    OBSERVERS,
    QUIET_EVENTS,
    QUIET_MODULES,
    Rule,
)

__all__ = ["enter", "exit", "install", "refusal", "suspended", "take_violation"]

_MAX_DEBUGGERS = 16
_RUNNER = "perdure.replay."
_SELF = frozenset({__name__, guard_patches.__name__})
# Perdure's own code on the workflow's side; what it does on its own account is none of the guard's business.
_OWN = ("perdure.replay", "perdure.workflow", "perdure.activity", "perdure.converter")
_STDLIB = sys.stdlib_module_names

_active: dict[int, int] = {}
_collecting: set[int] = set()
_violations: dict[int, ForbiddenCallError] = {}
_suspended: ContextVar[bool] = ContextVar("perdure_guard_suspended", default=False)

_machinery: set[str] = set(MACHINERY)
_passed: set[str] = set(OBSERVERS)
_debuggers: set[CodeType] = set()
_install_lock = allocate_lock()
_hooked = False


def install(pass_modules: Iterable[str] = ()) -> None:
    """Make `enter` effective in this process; called when a worker or replayer starts. Harmless to repeat.

    Args:
        pass_modules: modules (with everything below them) whose own calls are let through when workflow code leads
            to them, e.g. a tracing library. They add up over several calls.
    """
    global _hooked
    with _install_lock:
        _passed.update(pass_modules)
        if not _hooked:
            _machinery.update(_own_debugger())
            gc.callbacks.append(_on_collection)
            sys.addaudithook(_on_audit)
            if sys.platform != "win32":
                os.register_at_fork(after_in_child=_forget_threads)
            _hooked = True
        guard_patches.apply(_active, check)


def enter() -> None:
    """Workflow code is about to run in this thread. May be nested."""
    thread = get_ident()
    if _violations and thread not in _active:
        # What nobody asked for (a query's error has been answered) must not be taken for this run's.
        _violations.pop(thread, None)
    _active[thread] = _active.get(thread, 0) + 1


def exit() -> None:
    """The stretch of workflow code that the last `enter` announced has ended."""
    thread = get_ident()
    depth = _active.get(thread, 0)
    if depth > 1:
        _active[thread] = depth - 1
    else:
        _active.pop(thread, None)


def take_violation() -> ForbiddenCallError | None:
    """The first error raised since this thread last began to run workflow code, for runners to ask after `exit`.

    Workflow code may catch `Exception`; the task has to fail all the same. The answer is a copy without traceback.
    """
    return _violations.pop(get_ident(), None) if _violations else None


class suspended:
    """Lets forbidden calls through within a ``with`` block, in the task (or plain code) that entered it.

    For what is known to be harmless, such as a library that measures itself. An await within the block is fine:
    other tasks of the workflow stay guarded. May be nested.
    """

    __slots__ = ("_before",)

    def __init__(self) -> None:
        self._before = False

    def __enter__(self) -> None:
        self._before = _suspended.get()
        _suspended.set(True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Not a token's reset: an evicted workflow's coroutine is closed in a context other than its own.
        _suspended.set(self._before)


def refusal(call: str, advice: str) -> ForbiddenCallError:
    """The error for a call that is never right in workflow code, with the caller's place if user code is on the stack.

    For stand-ins that exist only inside a workflow, e.g. the methods its event loop does not have; they raise it
    whether or not the guard is installed.

    Args:
        call: the call as its author knows it.
        advice: what to do instead.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and str(frame.f_globals.get("__name__")).startswith(_OWN):
        frame = frame.f_back
    blame = _blame(frame)
    return ForbiddenCallError(call, advice) if blame is None else blame.error(Rule(call=call, advice=advice))


def check(rule: Rule) -> None:
    """Judge a call that is about to happen.

    Raises:
        ForbiddenCallError: workflow code of this thread is responsible for it.
    """
    thread = get_ident()
    if thread not in _active or thread in _collecting or _suspended.get():
        return
    blame = _blame(sys._getframe(1))
    if blame is None:
        return
    error = blame.error(rule)
    if thread not in _violations:
        _violations[thread] = blame.error(rule)
    raise error


def _on_audit(event: str, args: tuple[Any, ...]) -> None:
    # Runs for every audit event of the process, so it asks for the least that may let it go.
    if _active and event not in QUIET_EVENTS:
        _judge_event(event, args)


def _judge_event(event: str, args: tuple[Any, ...]) -> None:
    rule = AUDIT_RULES.get(event)
    if rule is None:
        if event == "builtins.breakpoint":
            _note_debugger(args[0])
            return
        advice = AUDIT_NAMESPACES.get(event.partition(".")[0])
        if advice is None:
            return
        rule = Rule(call=event, advice=advice)
    elif event == "open" and args[1] == "r" and isinstance(args[0], str) and _opened_by_interpreter(args[0]):
        return
    check(rule)


def _opened_by_interpreter(path: str) -> bool:
    """Whether a file may be one that C code opens without a frame that would tell: source for a traceback, a zone."""
    zones: tuple[str, ...] = getattr(sys.modules.get("zoneinfo"), "TZPATH", ())
    return path.endswith(".py") or path.startswith(zones)


def _own_debugger() -> list[str]:
    """The package of the debugger that PYTHONBREAKPOINT names, if any."""
    package = os.environ.get("PYTHONBREAKPOINT", "").partition(".")[0]
    return [package] if package else []


def _note_debugger(hook: object) -> None:
    """Whatever `breakpoint()` is about to call may do everything; its frames are known by their code."""
    if get_ident() in _active and len(_debuggers) < _MAX_DEBUGGERS:
        code = _code_of(hook)
        if code is not None:
            _debuggers.add(code)


def _code_of(target: object) -> CodeType | None:
    """The code of a function or bound method."""
    code = getattr(target, "__code__", None) or getattr(getattr(target, "__func__", None), "__code__", None)
    return code if isinstance(code, CodeType) else None


def _forget_threads() -> None:
    """A forked child has none of the other threads, but may give their numbers to new ones."""
    _active.clear()
    _collecting.clear()
    _violations.clear()


def _on_collection(phase: str, info: dict[str, int]) -> None:
    if phase == "start":
        if _active:
            _collecting.add(get_ident())
    elif _collecting:
        _collecting.discard(get_ident())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Blame:
    """Who is responsible for a call.

    Attributes:
        file: source file of the innermost frame of user code.
        line: the line it is at.
        stdlib: the standard library's function, as (module, qualified name), that user or library code called; None
            if the forbidden function itself was called.
        library: the third-party function that user code called, or "".
    """

    file: str
    line: int
    stdlib: tuple[str, str] | None
    library: str

    def error(self, rule: Rule) -> ForbiddenCallError:
        call, advice, through = rule.call, rule.advice, self.library
        if self.stdlib is not None:
            module, name = self.stdlib
            full = _readable(module, name)
            if module in ADVICE_BY_MODULE:
                call, advice = full, ADVICE_BY_MODULE[module] or advice
            elif not through and module not in QUIET_MODULES:
                through = full
        return ForbiddenCallError(call, advice, filename=self.file, lineno=self.line, through=through)


def _blame(frame: FrameType | None) -> _Blame | None:
    """Walk the stack outwards; None if the call is nobody's fault. The stack's depth bounds the loop."""
    stdlib: tuple[str, str] | None = None
    library = ""
    user: tuple[str, int] | None = None
    fallback: tuple[str, int] | None = None
    # Whoever watches the garbage collector is called wherever it happens to run.
    observers = _debuggers.union(map(_code_of, gc.callbacks))
    while frame is not None:
        module: str = frame.f_globals.get("__name__") or ""
        code = frame.f_code
        if _is_within(module, _machinery) or code in observers or code.co_name == "__del__":
            return None
        if user is not None or fallback is not None:
            if module.startswith(_RUNNER) and module not in _SELF:
                break
        if user is None and module not in _SELF:
            if module.partition(".")[0] in _STDLIB:
                if fallback is None:
                    stdlib = (module, code.co_qualname)
            elif module.startswith(_OWN):
                if fallback is None:
                    return None
            elif _is_within(module, _passed):
                return None
            elif code.co_filename == "<string>" or is_third_party(module, code.co_filename):
                fallback = fallback or (code.co_filename, frame.f_lineno)
                library = _readable(module, code.co_qualname)
            else:
                user = (code.co_filename, frame.f_lineno)
        frame = frame.f_back
    place = user or fallback
    if place is None:
        return None
    return _Blame(file=place[0], line=place[1], stdlib=stdlib, library=library if user else "")


def _is_within(module: str, modules: set[str]) -> bool:
    """Whether a module, or a package above it, is among those given."""
    while module:
        if module in modules:
            return True
        module = module.rpartition(".")[0]
    return False


def is_third_party(module: str, file: str) -> bool:
    if module.startswith("perdure.") and not module.startswith("perdure.cli."):
        return True
    return "site-packages" in file or "dist-packages" in file


def _readable(module: str, name: str) -> str:
    """A function's dotted name without what a reader need not know: hidden classes, inner functions, constructors."""
    name = name.partition(".<")[0]
    for suffix in (".__init__", ".__new__", ".__call__", ".__enter__"):
        name = name.removesuffix(suffix)
    if module == "random":
        name = name.removeprefix("Random.")
    return f"{module}.{name}"
