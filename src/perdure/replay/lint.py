"""The static half of the determinism guard: reads the code of a workflow when it is registered.

`lint_definition` follows a workflow's functions through every function of user code that they call and answers a
`Finding` for each forbidden call. A name is judged by what it is bound to in the module (``from datetime import
datetime as dt; dt.now()``), never by how it is spelled, so early-imported names and aliases are seen and a user's own
`time` is not mistaken for another. This finds what cannot be caught at run time, and the rest before the first run.

It reads source, not bytecode, and holds to one side: what it cannot resolve (a call on a local variable, say) it
lets pass. Not looked at: activities, functions handed to `workflow.step`, blocks under `workflow.unsafe.guard_off()`,
the standard library, third-party packages, and lines marked ``# perdure: allow``.

The walk over functions is here, the meaning of names in `lint_names`.
"""

from __future__ import annotations

import ast
import functools
import inspect
import linecache
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import CodeType, FunctionType, MethodType
from typing import Any, TypeAlias, cast

from perdure.exceptions import Finding, ForbiddenCodeError
from perdure.replay.definition import WorkflowDefinition
from perdure.replay.guard import is_third_party
from perdure.replay.guard_patches import harmless, rules_by_callable
from perdure.replay.guard_rules import ENVIRONMENT, NO_EXECUTOR, NO_RANDOM, NO_WALL_CLOCK, STATIC_PREFIXES, Rule, Target
from perdure.replay.lint_names import UNKNOWN, FunctionNode, Names, bound_names, local_imports

__all__ = ["lint_definition", "require_clean"]

ALLOW_COMMENT = "# perdure: allow"
MAX_FUNCTIONS = 5_000
"""Functions followed from one definition; beyond it the rest is left to the run-time guard."""

_STDLIB = sys.stdlib_module_names
_DEFERRING = frozenset({"step", "execute_local_activity", "start_local_activity"})
_SUSPENDING = frozenset({"guard_off", "sandbox_unrestricted", "suspended"})

_CALL_WITHOUT_ARGUMENTS = ast.Call(func=ast.Constant(value=None), args=[], keywords=[])

AnyFunction: TypeAlias = Callable[..., Any]


def require_clean(definitions: Iterable[WorkflowDefinition]) -> None:
    """Refuse workflows whose code contains forbidden calls; called when a worker starts.

    Raises:
        ForbiddenCodeError: it does; the error lists all of them.
    """
    linter = _Linter()
    for definition in definitions:
        handlers = (*definition.signals.values(), *definition.queries.values(), *definition.updates.values())
        for function in (definition.run, *(handler.fn for handler in handlers)):
            linter.add(function, definition.cls)
        for handler in definition.updates.values():
            if handler.validator is not None:
                linter.add(handler.validator, definition.cls)
        if definition.cls is not None:
            linter.add_class(definition.cls)
    findings = linter.run()
    if findings:
        raise ForbiddenCodeError(findings)


def lint_definition(functions: Iterable[AnyFunction], owner: type | None = None) -> list[Finding]:
    """Find forbidden calls in workflow code.

    Args:
        functions: the workflow's run function and its handlers, as plain functions.
        owner: the class they are methods of, so that calls of ``self.method()`` can be followed.

    Returns:
        Every finding once, in the order in which the code leads to them. Functions without source have none.
    """
    linter = _Linter()
    for function in functions:
        linter.add(function, owner)
    return linter.run()


class _Linter:
    """One reading: what was asked for, and whatever it leads to."""

    def __init__(self) -> None:
        self._rules = rules_by_callable()
        self._queue: deque[tuple[FunctionType, type | None]] = deque()
        self._seen: set[tuple[CodeType, type | None]] = set()
        self._findings: dict[tuple[str, int, str], Finding] = {}
        self._sources: dict[str, dict[tuple[str, int], list[FunctionNode]]] = {}
        self._packages: set[str] = set()
        self._random: object = getattr(sys.modules.get("random"), "_inst", None)
        self._environ: object = getattr(sys.modules.get("os"), "environ", None)

    def add(self, function: AnyFunction, owner: type | None) -> None:
        """Read a function; the code of its package counts as user code wherever it is installed."""
        for plain in _plain_functions(function):
            self._packages.add(plain.__module__.partition(".")[0])
            self._enqueue(plain, owner)

    def add_class(self, cls: type) -> None:
        """Read the constructor of a workflow's class."""
        self._follow_class(cls)

    def run(self) -> list[Finding]:
        while self._queue and len(self._seen) <= MAX_FUNCTIONS:
            function, owner = self._queue.popleft()
            code = function.__code__
            for node in self._source(function).get((code.co_name, code.co_firstlineno), ()):
                _Visitor(self, function, Names.of_function(function, node, owner)).visit_body(node)
        return list(self._findings.values())

    def follow(self, target: object, owner: type | None = None) -> None:
        """Queue what a call leads to, if it is user code that runs as part of the workflow."""
        if isinstance(target, type):
            self._follow_class(target)
            return
        if str(type(target).__module__).startswith("perdure."):
            return  # An activity: calling it schedules it.
        for plain in _plain_functions(target):
            if self._is_user_code(plain.__module__, plain.__code__.co_filename):
                self._enqueue(plain, owner)

    def _follow_class(self, cls: type) -> None:
        if not self._is_user_code(cls.__module__, getattr(sys.modules.get(cls.__module__), "__file__", None) or ""):
            return
        for name in ("__new__", "__init__", "__post_init__"):
            method = inspect.getattr_static(cls, name, None)
            for plain in _plain_functions(method):
                if self._is_user_code(plain.__module__, plain.__code__.co_filename):
                    self._enqueue(plain, cls)

    def _is_user_code(self, module: str | None, file: str) -> bool:
        top = (module or "").partition(".")[0]
        if top in self._packages:
            return True
        return top not in _STDLIB and top != "perdure" and not is_third_party(module or "", file)

    def _enqueue(self, function: FunctionType, owner: type | None) -> None:
        owner = owner or _owner_by_name(function)
        key = (function.__code__, owner)
        if key not in self._seen:
            self._seen.add(key)
            self._queue.append((function, owner))

    def _source(self, function: FunctionType) -> dict[tuple[str, int], list[FunctionNode]]:
        """The functions of the file that a function is written in; empty without source."""
        file = function.__code__.co_filename
        if file not in self._sources:
            linecache.checkcache(file)
            self._sources[file] = _functions_in("".join(linecache.getlines(file, function.__globals__)))
        return self._sources[file]

    def rule(self, target: object, call: ast.Call) -> Rule | None:
        """The rule that a call of `target` breaks, None if it is allowed."""
        known = self._known(target)
        if known is not None:
            if known.harmless_with is not None and call.keywords:
                return None
            return None if harmless(known, tuple(_constant(argument) for argument in call.args)) else known.rule
        receiver = getattr(target, "__self__", None)
        name = str(getattr(target, "__name__", ""))
        if receiver is not None:
            if receiver is self._environ:
                return ENVIRONMENT
            if receiver is self._random:
                return Rule(call=f"random.{name}", advice=NO_RANDOM.advice)
            if isinstance(receiver, type) and _is_clock(receiver, name):
                return Rule(call=f"{receiver.__module__}.{receiver.__name__}.{name}", advice=NO_WALL_CLOCK.advice)
        full = _full_name(target)
        for prefix, rule in STATIC_PREFIXES.items():
            if full.startswith(prefix):
                return rule
        return None

    def _known(self, target: object) -> Target | None:
        try:
            return self._rules.get(target)
        except TypeError:
            return None

    def is_environment(self, target: object) -> bool:
        return self._environ is not None and target is self._environ

    def report(self, function: FunctionType, node: ast.expr, rule: Rule) -> None:
        file = function.__code__.co_filename
        last = node.end_lineno or node.lineno
        lines = (linecache.getline(file, number) for number in range(node.lineno, last + 1))
        if not any(ALLOW_COMMENT in line for line in lines):
            key = (file, node.lineno, rule.call)
            self._findings.setdefault(key, Finding(call=rule.call, file=file, line=node.lineno, advice=rule.advice))


class _Visitor(ast.NodeVisitor):
    """Reads one function; functions within it are read as part of it, with their own names."""

    def __init__(self, linter: _Linter, function: FunctionType, names: Names) -> None:
        self._linter = linter
        self._function = function
        self._names = names
        self._deferred: set[str] = set()

    def visit_body(self, node: FunctionNode) -> None:
        """Read the statements of a function (not its decorators and defaults, which run elsewhere)."""
        body: list[ast.stmt] | list[ast.expr] = [node.body] if isinstance(node, ast.Lambda) else node.body
        self._deferred |= _handed_over(body, self._is_deferring)
        for statement in body:
            self.visit(statement)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._visit_inner(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._visit_inner(node)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._visit_inner(node)

    def visit_With(self, node: ast.With) -> None:
        if not any(self._suspends(item.context_expr) for item in node.items):
            self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        target, owner = self._names.resolve_call(node.func)
        if target is UNKNOWN:
            if isinstance(node.func, ast.Attribute) and node.func.attr == "run_in_executor":
                self._linter.report(self._function, node, NO_EXECUTOR)
        else:
            rule = self._linter.rule(target, node)
            if rule is not None:
                self._linter.report(self._function, node, rule)
            else:
                self._linter.follow(target, owner)
                self._visit_defaults(target, node)
        self.visit(node.func)
        skip_functions = _is_deferring_target(target)
        for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
            if not (skip_functions and isinstance(argument, ast.Lambda)):
                self.visit(argument)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if self._linter.is_environment(self._names.resolve(node.value)):
            self._linter.report(self._function, node, ENVIRONMENT)
        self.generic_visit(node)

    def _visit_inner(self, node: FunctionNode) -> None:
        if not isinstance(node, ast.Lambda) and node.name in self._deferred:
            return
        outer = self._names
        self._names = outer.inner(bound_names(node), local_imports(node, self._function.__globals__))
        self.visit_body(node)
        self._names = outer

    def _visit_defaults(self, target: object, node: ast.Call) -> None:
        """Judge the default factories that constructing a dataclass or model calls."""
        for factory in _default_factories(target, node):
            rule = self._linter.rule(factory, _CALL_WITHOUT_ARGUMENTS)
            if rule is not None:
                self._linter.report(self._function, node, rule)
            else:
                self._linter.follow(factory)

    def _is_deferring(self, call: ast.Call) -> bool:
        return _is_deferring_target(self._names.resolve_call(call.func)[0])

    def _suspends(self, expression: ast.expr) -> bool:
        if not isinstance(expression, ast.Call):
            return False
        target = self._names.resolve_call(expression.func)[0]
        return _of_perdure(target) and getattr(target, "__name__", "") in _SUSPENDING


def _parse(text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except SystemError:
        # Some releases of Python lose count of the depth when the garbage collector runs meanwhile and something it
        # ends is logged, which parses lines, too (python/cpython issue 106905).
        return ast.parse(text)


def _functions_in(text: str) -> dict[tuple[str, int], list[FunctionNode]]:
    """The functions of a source text by name and first line, as code objects have them; lambdas may share both."""
    found: dict[tuple[str, int], list[FunctionNode]] = {}
    try:
        tree = _parse(text)
    except (SyntaxError, ValueError):
        return found
    for node in ast.walk(tree):
        if isinstance(node, ast.Lambda):
            found.setdefault(("<lambda>", node.lineno), []).append(node)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            line = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            found.setdefault((node.name, line), []).append(node)
    return found


def _default_factories(target: object, node: ast.Call) -> Iterator[object]:
    """Default factories of the fields of a dataclass or pydantic model that a call gives no value for."""
    if not isinstance(target, type) or any(keyword.arg is None for keyword in node.keywords):
        return
    given = {keyword.arg for keyword in node.keywords}
    fields: Any = inspect.getattr_static(target, "__dataclass_fields__", None)
    if fields is None:
        fields = inspect.getattr_static(target, "__pydantic_fields__", None)
    if not isinstance(fields, dict):
        return
    for index, (name, described) in enumerate(cast("dict[str, Any]", fields).items()):
        factory = getattr(described, "default_factory", None)
        if name not in given and index >= len(node.args) and callable(factory):
            yield factory


def _handed_over(body: Iterable[ast.AST], defers: Callable[[ast.Call], bool]) -> set[str]:
    """Names that occur only as the function argument of `workflow.step` and its like."""
    handed: set[str] = set()
    arguments: set[ast.Name] = set()
    nodes = [node for statement in body for node in ast.walk(statement)]
    for node in nodes:
        if isinstance(node, ast.Call) and defers(node):
            for argument in node.args[:1]:
                if isinstance(argument, ast.Name):
                    handed.add(argument.id)
                    arguments.add(argument)
    used = {node.id for node in nodes if isinstance(node, ast.Name) and node not in arguments}
    return handed - used


def _is_deferring_target(target: object) -> bool:
    return _of_perdure(target) and getattr(target, "__name__", "") in _DEFERRING


def _of_perdure(target: object) -> bool:
    return str(getattr(target, "__module__", "")).startswith("perdure.")


def _is_clock(receiver: type, name: str) -> bool:
    """Whether ``receiver.name`` is `datetime.now` or its kin on a class derived from `datetime` or `date`."""
    return name in ("now", "utcnow", "today") and any(base.__module__ == "datetime" for base in receiver.__mro__)


def _full_name(target: object) -> str:
    """The name `STATIC_PREFIXES` knows a function by; methods of a module's hidden instance count as its own."""
    module = getattr(target, "__module__", None)
    if module is None:
        module = type(getattr(target, "__self__", None)).__module__
    return f"{module}.{getattr(target, '__qualname__', '')}"


def _constant(argument: ast.expr) -> object:
    """The value of an argument as far as `harmless` cares: None, or something."""
    return argument.value if isinstance(argument, ast.Constant) else argument


def _plain_functions(target: object) -> Iterator[FunctionType]:
    """The Python functions behind a callable: what a decorator returned and what it wraps."""
    for _ in range(100):
        if isinstance(target, functools.partial):
            target = cast("functools.partial[Any]", target).func
        elif isinstance(target, staticmethod | classmethod | MethodType):
            target = cast(Any, target).__func__
        elif isinstance(target, property):
            target = target.fget
        else:
            if isinstance(target, FunctionType):
                yield target
            wrapped = inspect.getattr_static(target, "__wrapped__", None)
            if wrapped is None:
                return
            target = wrapped


def _owner_by_name(function: FunctionType) -> type | None:
    """The class a function is written in, found by its qualified name; None for functions and local classes."""
    found: object = sys.modules.get(function.__module__)
    for name in function.__qualname__.split(".")[:-1]:
        found = inspect.getattr_static(found, name, None)
    return found if isinstance(found, type) else None
