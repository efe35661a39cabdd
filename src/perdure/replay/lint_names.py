"""What the names in a function's source are bound to, as far as that can be known without running it.

`Names` answers for an expression the object it denotes, or UNKNOWN. Globals, closures and builtins are looked up where
the function would find them; local variables are unknown unless an import statement bound them; attributes are
followed on modules, classes and objects without running any code of theirs.
"""

from __future__ import annotations

import ast
import builtins
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import FunctionType, ModuleType
from typing import Any, Final, TypeAlias

__all__ = ["UNKNOWN", "FunctionNode", "Names", "bound_names", "local_imports"]

FunctionNode: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


class _Unknown:
    """Not known; has no attribute worth asking for."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN: Final = _Unknown()


@dataclass(frozen=True, slots=True)
class _Instance:
    """Some instance of a class: `self`."""

    cls: type


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """The names visible in one function.

    Attributes:
        outer: what lies around all of its scopes: globals, and cells of the closure.
        builtins: looked up last.
        scopes: names bound in this function and those around it, the innermost last, with what is known of them.
        owner: the class the function is a method of.
    """

    outer: Mapping[str, object]
    builtins: Mapping[str, object]
    scopes: tuple[Mapping[str, object], ...]
    owner: type | None = None
    cells: Mapping[str, object] = field(default_factory=dict[str, object])

    @staticmethod
    def of_function(function: FunctionType, node: FunctionNode, owner: type | None) -> Names:
        """The names of a function that exists."""
        cells: dict[str, object] = {}
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                cells[name] = cell.cell_contents
            except ValueError:  # not yet filled
                cells[name] = UNKNOWN
        scope: dict[str, object] = dict.fromkeys(bound_names(node), UNKNOWN)
        scope.update(local_imports(node, function.__globals__))
        if owner is not None and function.__code__.co_argcount > 0:
            first = function.__code__.co_varnames[0]
            static = inspect.getattr_static(owner, function.__name__, None)
            if isinstance(static, classmethod):
                scope[first] = owner
            elif not isinstance(static, staticmethod):
                scope[first] = _Instance(owner)
        found = function.__globals__.get("__builtins__", builtins)
        return Names(
            outer=function.__globals__,
            builtins=vars(found) if isinstance(found, ModuleType) else found,
            scopes=(scope,),
            owner=owner,
            cells=cells,
        )

    def inner(self, bound: frozenset[str], imports: Mapping[str, object]) -> Names:
        """The names of a function defined within this one."""
        scope: dict[str, object] = dict.fromkeys(bound, UNKNOWN)
        scope.update(imports)
        return Names(
            outer=self.outer,
            builtins=self.builtins,
            scopes=(*self.scopes, scope),
            owner=self.owner,
            cells=self.cells,
        )

    def resolve(self, expression: ast.expr) -> object:
        """What an expression denotes, or UNKNOWN."""
        found = self.resolve_call(expression)[0]
        return UNKNOWN if isinstance(found, _Instance) else found

    def resolve_call(self, expression: ast.expr) -> tuple[Any, type | None]:
        """What a called expression denotes, or UNKNOWN; and for a method the class it was looked up on."""
        if isinstance(expression, ast.Name):
            return self._name(expression.id), None
        if isinstance(expression, ast.Attribute):
            if _is_super(expression.value) and self.owner is not None:
                return _attribute_after(self.owner, expression.attr), self.owner
            base = self.resolve_call(expression.value)[0]
            return _attribute(base, expression.attr), _class_of(base)
        return UNKNOWN, None

    def _name(self, name: str) -> object:
        for scope in reversed(self.scopes):
            if name in scope:
                return scope[name]
        for mapping in (self.cells, self.outer, self.builtins):
            if name in mapping:
                return mapping[name]
        return UNKNOWN


def _attribute(base: object, name: str) -> object:
    if base is UNKNOWN:
        return UNKNOWN
    if isinstance(base, _Instance):
        return inspect.getattr_static(base.cls, name, UNKNOWN)
    if isinstance(base, ModuleType):
        return vars(base).get(name, UNKNOWN)
    static = inspect.getattr_static(base, name, UNKNOWN)
    if isinstance(base, type):
        # C methods of classes (datetime.now) are told apart by the class they are bound to.
        bound = type(static).__name__ in ("classmethod_descriptor", "classmethod", "builtin_function_or_method")
        return getattr(base, name, UNKNOWN) if bound else static
    if isinstance(static, FunctionType):
        return static.__get__(base)
    return static


def _attribute_after(owner: type, name: str) -> object:
    for cls in owner.__mro__[1:]:
        if name in vars(cls):
            return vars(cls)[name]
    return UNKNOWN


def _class_of(base: object) -> type | None:
    if isinstance(base, _Instance):
        return base.cls
    if base is UNKNOWN or isinstance(base, ModuleType):
        return None
    return base if isinstance(base, type) else type(base)


def _is_super(expression: ast.expr) -> bool:
    return isinstance(expression, ast.Call) and isinstance(expression.func, ast.Name) and expression.func.id == "super"


def _own_nodes(node: FunctionNode) -> list[ast.AST]:
    """The nodes of a function, without those of functions and classes within it."""
    found: list[ast.AST] = []
    stack: list[ast.AST] = [node.body] if isinstance(node, ast.Lambda) else list(node.body)
    while stack:
        current = stack.pop()
        found.append(current)
        if not isinstance(current, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            stack.extend(ast.iter_child_nodes(current))
    return found


def bound_names(node: FunctionNode) -> frozenset[str]:
    """The names that a function binds itself. (Comprehension variables count too: that errs on the quiet side.)"""
    arguments = node.args
    names = {a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
    names |= {a.arg for a in (arguments.vararg, arguments.kwarg) if a is not None}
    foreign: set[str] = set()
    for current in _own_nodes(node):
        match current:
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
                names.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                names.add(name)
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                names.update((alias.asname or alias.name.partition(".")[0]) for alias in aliases)
            case ast.Global(names=declared) | ast.Nonlocal(names=declared):
                foreign.update(declared)
            case _:
                pass
    return frozenset(names - foreign)


def local_imports(node: FunctionNode, module_globals: Mapping[str, Any]) -> dict[str, object]:
    """What a function's own import statements bind, as far as the modules are already loaded."""
    found: dict[str, object] = {}
    for current in _own_nodes(node):
        if isinstance(current, ast.Import):
            for alias in current.names:
                name = alias.name if alias.asname else alias.name.partition(".")[0]
                found[alias.asname or name] = sys.modules.get(name, UNKNOWN)
        elif isinstance(current, ast.ImportFrom):
            module = _imported_module(current, module_globals)
            for alias in current.names:
                found[alias.asname or alias.name] = UNKNOWN if module is None else _attribute(module, alias.name)
    return found


def _imported_module(node: ast.ImportFrom, module_globals: Mapping[str, Any]) -> ModuleType | None:
    name = "." * node.level + (node.module or "")
    if node.level:
        try:
            name = importlib.util.resolve_name(name, module_globals.get("__package__") or "")
        except ImportError:
            return None
    return sys.modules.get(name)
