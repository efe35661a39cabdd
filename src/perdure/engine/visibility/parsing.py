"""Reading a list filter: from its text to what it asks.

Two passes. The parser (`grammar.lark`, LALR) turns the text into `_Condition`s and `_Joined`s as it reads, so that the
depth of what it builds is known, and refused, before anything recurses into it. Then each condition is understood: its
name by the attributes there are, its values by the attribute's type, its operator as one of the three leaves of
`expressions`.

    =, IN                     In
    <, <=, >, >=, BETWEEN     Range; on integers every bound is a whole number
    STARTS_WITH               Range, up to the next text that does not start so
    !=, NOT …                 Not of the same without
    IS NULL                   Missing
    = on a Text               In, of its words: one of them is enough

A run is its own root if it has no other, so a condition on RootWorkflowId or RootRunId holds for the attribute, or for
the run's own id where that is missing. Runs in a namespace division are asked for by name only.

A refusal is an RpcError INVALID_ARGUMENT that says where in the text, counted from 1, and what is expected there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from fractions import Fraction
from functools import cache
from importlib.resources import files
from typing import Any, Final, NamedTuple, cast

from lark import Lark, Token, Transformer
from lark.exceptions import UnexpectedCharacters, UnexpectedToken

from perdure.api import RpcError, StatusCode
from perdure.engine.visibility.attributes import (
    BOOL,
    DATETIME,
    DOUBLE,
    INT,
    KEYWORD,
    KEYWORD_LIST,
    NAMESPACE_DIVISION,
    PREDEFINED,
    SYSTEM,
    TEXT,
    TYPE_NAMES,
    ValueType,
)
from perdure.engine.visibility.expressions import (
    EVERYTHING,
    NOTHING,
    And,
    Attribute,
    Expression,
    In,
    Missing,
    Not,
    Or,
    Order,
    Range,
    Value,
)
from perdure.engine.visibility.literals import Literal, Point, point_of, span_ns
from perdure.engine.visibility.values import INT_MAX, INT_MIN, words

__all__ = ["WORKFLOWS", "ListFilter", "Population", "own_division", "parse"]

MAX_LENGTH: Final = 16_384
"""Characters of a filter."""
MAX_DEPTH: Final = 100
"""AND, OR and NOT inside each other."""
MAX_CONDITIONS: Final = 500
MAX_VALUES: Final = 2_000
"""In all lists of a filter."""
MAX_ORDER: Final = 5
"""Attributes to order by."""

_EQUALITY: Final = frozenset(("=", "!=", "IN"))
_COMPARISON: Final = _EQUALITY | {"<", "<=", ">", ">=", "BETWEEN"}
_OPERATORS: Final[Mapping[ValueType, frozenset[str]]] = {
    BOOL: _EQUALITY,
    DATETIME: _COMPARISON,
    DOUBLE: _COMPARISON,
    INT: _COMPARISON,
    KEYWORD: _COMPARISON | {"STARTS_WITH"},
    KEYWORD_LIST: _EQUALITY,
    TEXT: frozenset(("=", "!=")),
}
"""What may be asked of a type; IS NULL may of all."""
_STATUS: Final = "ExecutionStatus"
_ROOTS: Final = {"RootWorkflowId": "WorkflowId", "RootRunId": "RunId"}
"""What a run's root is if it has none."""
_GROUPED: Final = frozenset((KEYWORD, BOOL))
"""Types that counts may be grouped by."""

_EXPECTED: Final[Mapping[str, str]] = {
    "NAME": "a search attribute",
    "QUOTED_NAME": "a search attribute",
    "STRING": "a value",
    "NUMBER": "a value",
    "TRUE": "a value",
    "FALSE": "a value",
    "NOW": "a value",
    "SPAN": "a span of time",
    "COMPARE": "a comparison",
    "COMMA": "','",
    "LPAR": "'('",
    "RPAR": "')'",
    "$END": "the end",
}
"""Terminals as a message names them; keywords go by their own name."""

_ESCAPE: Final = re.compile(r"\\(.)|''|\"\"", re.DOTALL)
_ESCAPED: Final = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "0": "\0", "Z": "\x1a"}
_LAST_CODE_POINT: Final = 0x10FFFF
_SURROGATES: Final = range(0xD800, 0xE000)


class ListFilter(NamedTuple):
    """A filter, understood."""

    where: Expression
    order: tuple[Order, ...]
    group_by: Attribute | None


def _refusal(message: str, at: int | None = None) -> RpcError:
    place = "" if at is None else f" at position {at}"
    return RpcError(StatusCode.INVALID_ARGUMENT, f"invalid list filter{place}: {message}")


# -- the text ----------------------------------------------------------------------------------------------------------


class _Condition(NamedTuple):
    """One attribute and what is asked of it."""

    name: str
    at: int
    operator: str
    values: tuple[Literal | _Now, ...] = ()
    is_negated: bool = False


class _Now(NamedTuple):
    """NOW(), and the span after it."""

    at: int
    offset_ns: int


class _Joined(NamedTuple):
    """Conditions joined by AND or OR, or one negated."""

    kind: Callable[[tuple[Expression, ...]], Expression]
    operands: tuple[_Condition | _Joined, ...]
    depth: int


class _Name(NamedTuple):
    text: str
    at: int


class _Grouping(NamedTuple):
    """GROUP BY."""

    names: tuple[_Name, ...]


class _Ordering(NamedTuple):
    """ORDER BY: names, and whether they descend."""

    terms: tuple[tuple[_Name, bool], ...]


def _position(token: Token) -> int:
    return (token.start_pos or 0) + 1


def _negation(operands: tuple[Expression, ...]) -> Expression:
    return Not(operands[0])


def _join(kind: Callable[[tuple[Expression, ...]], Expression], operands: Sequence[Any]) -> _Joined:
    depth = 1 + max(each.depth if isinstance(each, _Joined) else 0 for each in operands)
    if depth > MAX_DEPTH:
        raise _refusal(f"AND, OR and NOT are nested more than {MAX_DEPTH} deep")
    return _Joined(kind, tuple(operands), depth)


def _condition(operator: str, *, is_negated: bool = False) -> Callable[[Any, list[Any]], _Condition]:
    def build(_: Any, children: list[Any]) -> _Condition:
        name, *values = children
        return _Condition(name.text, name.at, operator, tuple(values), is_negated)

    return build


class _Reader(Transformer[Any, Any]):
    """Builds while the parser reads; its functions are named after the grammar's rules."""

    listed = _condition("IN")
    not_listed = _condition("IN", is_negated=True)
    between = _condition("BETWEEN")
    not_between = _condition("BETWEEN", is_negated=True)
    starts_with = _condition("STARTS_WITH")
    not_starts_with = _condition("STARTS_WITH", is_negated=True)
    missing = _condition("IS NULL")
    present = _condition("IS NULL", is_negated=True)

    def start(self, children: list[Any]) -> list[Any]:
        return children

    def either(self, children: list[Any]) -> _Joined:
        return _join(Or, children)

    def both(self, children: list[Any]) -> _Joined:
        return _join(And, children)

    def negated(self, children: list[Any]) -> _Joined:
        return _join(_negation, children)

    def compared(self, children: list[Any]) -> _Condition:
        name, sign, value = children
        operator = "!=" if sign == "<>" else str(sign)
        return _Condition(name.text, name.at, operator, (value,))

    def group(self, children: list[Any]) -> _Grouping:
        return _Grouping(tuple(children))

    def order(self, children: list[Any]) -> _Ordering:
        return _Ordering(tuple(children))

    def term(self, children: list[Any]) -> tuple[_Name, bool]:
        return children[0], len(children) > 1 and children[1].type == "DESC"

    def name(self, children: list[Token]) -> _Name:
        return _Name(str(children[0]).strip("`"), _position(children[0]))

    def value(self, children: list[Token]) -> Literal:
        token = children[0]
        return Literal(_LITERALS[token.type](str(token)), _position(token))

    def now(self, children: list[Token]) -> _Now:
        at = _position(children[0])
        if len(children) == 1:
            return _Now(at, 0)
        try:
            return _Now(at, math.floor(span_ns("".join(children[1].split()).lower())))
        except ValueError as error:
            raise _refusal(str(error), _position(children[1])) from None


def _string(text: str) -> str:
    return _ESCAPE.sub(_unescaped, text[1:-1])


def _unescaped(found: re.Match[str]) -> str:
    sign = found[1]
    return found[0][0] if sign is None else _ESCAPED.get(sign, sign)


def _number(text: str) -> int | Fraction:
    number = Fraction("".join(text.split()))
    return number.numerator if number.denominator == 1 else number


_LITERALS: Final[Mapping[str, Callable[[str], str | int | Fraction | bool]]] = {
    "STRING": _string,
    "NUMBER": _number,
    "TRUE": lambda _: True,
    "FALSE": lambda _: False,
}


@cache
def _parser() -> Lark:
    grammar = files("perdure.engine.visibility").joinpath("grammar.lark").read_text(encoding="utf-8")
    return Lark(grammar, parser="lalr", transformer=_Reader(), maybe_placeholders=False)


def _read(text: str) -> list[_Condition | _Joined | _Grouping | _Ordering]:
    """The parts of a filter: a condition, GROUP BY, ORDER BY, each if it is there."""
    if len(text) > MAX_LENGTH:
        raise _refusal(f"it is longer than {MAX_LENGTH} characters")
    try:
        return cast(Any, _parser()).parse(text)
    except UnexpectedToken as error:
        token = cast(Token, error.token)
        expected = _alternatives(cast("Iterable[str]", error.accepts or error.expected))
        if token.type == "$END":
            raise _refusal(f"it ends; expected {expected}", len(text.rstrip()) + 1) from None
        advice = " (a text stands in quotes)" if token.type == "NAME" and "value" in expected else ""
        raise _refusal(f"unexpected {str(token)[:50]!r}; expected {expected}{advice}", _position(token)) from None
    except UnexpectedCharacters as error:
        at = cast(int, error.pos_in_stream)
        expected = _alternatives(cast("Iterable[str]", error.allowed or ()))
        raise _refusal(f"unexpected {text[at : at + 20]!r}; expected {expected}", at + 1) from None
    except ValueError:
        raise _refusal("it holds a number of too many digits") from None


def _alternatives(terminals: Iterable[str]) -> str:
    names = {_EXPECTED.get(terminal) or terminal.strip("_") for terminal in terminals}
    *others, last = sorted(names) or ["something else"]
    return f"{', '.join(others)} or {last}" if others else last


# -- what it means -----------------------------------------------------------------------------------------------------


class Population(NamedTuple):
    """What a list filter speaks of, unless it names a namespace division."""

    names: Mapping[str, str] = {}
    """Search attributes under the names that such runs have for them."""
    division: str = ""
    """Empty: runs that are in none."""

    def within(self, where: Expression) -> Expression:
        """The same for these runs alone."""
        division = Attribute(NAMESPACE_DIVISION, KEYWORD)
        return And((where, In(division, (self.division,)) if self.division else Missing(division)))


WORKFLOWS: Final = Population()


def own_division(where: Expression) -> Expression:
    """The same for runs that are in no namespace division."""
    return WORKFLOWS.within(where)


def parse(text: str, custom: Mapping[str, ValueType], now_ms: int, population: Population = WORKFLOWS) -> ListFilter:
    """Read a list filter.

    Args:
        text: the filter.
        custom: the types of the namespace's own search attributes, by name.
        now_ms: what NOW() means, epoch milliseconds.
        population: what is listed.

    Raises:
        RpcError: INVALID_ARGUMENT, with the place and what is expected there.
    """
    meaning = _Meaning(custom, now_ms, population.names)
    where: Expression = EVERYTHING
    order: tuple[Order, ...] = ()
    group_by: Attribute | None = None
    for part in _read(text):
        match part:
            case _Grouping():
                group_by = meaning.group_by(part)
            case _Ordering():
                order = meaning.order_by(part)
            case _:
                where = meaning.of(part)
    if population.division or not meaning.speaks_of_divisions:
        where = population.within(where)
    return ListFilter(where, order, group_by)


class _Meaning:
    """Understands the conditions of one filter."""

    def __init__(self, custom: Mapping[str, ValueType], now_ms: int, names: Mapping[str, str]) -> None:
        self._custom = custom
        self._names = names
        self._now_ns = now_ms * 1_000_000
        self._conditions = 0
        self._values = 0
        self.speaks_of_divisions = False

    def of(self, part: _Condition | _Joined) -> Expression:
        """What a part of the filter asks."""
        if isinstance(part, _Joined):
            return part.kind(tuple(self.of(operand) for operand in part.operands))
        self._conditions += 1
        self._values += len(part.values)
        if self._conditions > MAX_CONDITIONS:
            raise _refusal(f"it has more than {MAX_CONDITIONS} conditions", part.at)
        if self._values > MAX_VALUES:
            raise _refusal(f"it has more than {MAX_VALUES} values", part.at)
        attribute = self._attribute(_Name(part.name, part.at))
        if attribute.name not in _ROOTS:
            return self._leaf(part, attribute)
        if part.operator == "IS NULL":
            return EVERYTHING if part.is_negated else NOTHING
        plain = part._replace(is_negated=False, operator="=" if part.operator == "!=" else part.operator)
        own = Attribute(_ROOTS[attribute.name], KEYWORD)
        either = Or((self._leaf(plain, attribute), And((Missing(attribute), self._leaf(plain, own)))))
        return either if plain == part else Not(either)

    def group_by(self, grouping: _Grouping) -> Attribute:
        """The attribute to group by."""
        name, *more = grouping.names
        if more:
            raise _refusal("'GROUP BY' clause supports only a single field", more[0].at)
        attribute = self._attribute(name)
        if attribute.type not in _GROUPED or attribute.name in _ROOTS:
            raise _refusal(
                f"'GROUP BY' clause is not supported for search attribute {attribute.name}: group by"
                f" {_STATUS}, WorkflowType, or another attribute of type Keyword or Bool",
                name.at,
            )
        return attribute

    def order_by(self, ordering: _Ordering) -> tuple[Order, ...]:
        """The attributes to order by."""
        if len(ordering.terms) > MAX_ORDER:
            raise _refusal(f"it orders by more than {MAX_ORDER} search attributes", ordering.terms[MAX_ORDER][0].at)
        orders: list[Order] = []
        for name, descending in ordering.terms:
            attribute = self._attribute(name)
            if attribute.type == TEXT or attribute.name in _ROOTS:
                what = attribute.name if attribute.name in _ROOTS else f"type {TYPE_NAMES[TEXT]}"
                raise _refusal(f"unable to sort by search attribute {what}", name.at)
            orders.append(Order(attribute, descending))
        return tuple(orders)

    def _attribute(self, name: _Name) -> Attribute:
        """The attribute of a name, which may lack the prefix "Temporal"."""
        for known, text in (
            (self._custom, name.text),
            (SYSTEM, self._names.get(name.text, name.text)),
            (PREDEFINED, name.text),
            (PREDEFINED, f"Temporal{name.text}"),
            (PREDEFINED, name.text.removeprefix("Temporal")),
        ):
            value_type = known.get(text)
            if value_type is not None:
                if text == NAMESPACE_DIVISION:
                    self.speaks_of_divisions = True
                return Attribute(text, value_type)
        close = get_close_matches(name.text, [*self._custom, *SYSTEM, *PREDEFINED], 1)
        advice = f"; did you mean {close[0]}?" if close else ""
        raise _refusal(f"invalid search attribute: {name.text}{advice}", name.at)

    def _leaf(self, condition: _Condition, attribute: Attribute) -> Expression:
        operator = condition.operator
        if operator == "IS NULL":
            leaf: Expression = Missing(attribute)
        else:
            allowed = _EQUALITY if attribute.name == _STATUS else _OPERATORS[attribute.type]
            if operator not in allowed:
                raise _refusal(
                    f"operator {operator} is not supported for search attribute {attribute.name} of type"
                    f" {TYPE_NAMES[attribute.type]}; expected {', '.join(sorted(allowed))} or IS NULL",
                    condition.at,
                )
            points = [self._point(attribute, value) for value in condition.values]
            leaf = _LEAVES[operator](attribute, points)
        return Not(leaf) if condition.is_negated or operator == "!=" else leaf

    def _point(self, attribute: Attribute, value: Literal | _Now) -> Point:
        literal = value if isinstance(value, Literal) else Literal(self._now_ns + value.offset_ns, value.at, is_ns=True)
        try:
            point = point_of(attribute, literal)
        except ValueError as error:
            raise _refusal(
                f"invalid value for search attribute {attribute.name} of type {TYPE_NAMES[attribute.type]}: {error}",
                literal.at,
            ) from None
        if attribute.type == TEXT and not words(cast(str, point)):
            raise _refusal(
                f"no tokens found filtering on Text type search attribute {attribute.name}; expected a word", literal.at
            )
        return point


# -- leaves ------------------------------------------------------------------------------------------------------------


def _equal(attribute: Attribute, points: Sequence[Point]) -> Expression:
    if attribute.type == TEXT:
        return In(attribute, tuple(words(cast(str, points[0]))))
    values: dict[Value, None] = {}
    for point in points:
        if isinstance(point, str):
            values[point] = None
        elif point == math.floor(point) and INT_MIN <= point <= INT_MAX:
            values[math.floor(point)] = None
    return In(attribute, tuple(values)) if values else NOTHING


def _at_least(point: Point) -> Value:
    """The least value not below a point."""
    return point if isinstance(point, str) else math.ceil(point)


def _beyond(point: Point) -> Value:
    """The least value above a point. No text lies between one and the same with a NUL after it."""
    return point + "\0" if isinstance(point, str) else math.floor(point) + 1


def _range(attribute: Attribute, low: Value | None, high: Value | None) -> Expression:
    """The values from `low` to below `high`, kept within 64 bits."""
    if isinstance(low, int):
        if low > INT_MAX:
            return NOTHING
        low = None if low <= INT_MIN else low
    if isinstance(high, int):
        if high <= INT_MIN:
            return NOTHING
        high = None if high > INT_MAX else high
    if low is not None and high is not None and low >= high:  # type: ignore[operator]  # Of one type, as the attribute's are.
        return NOTHING
    return Range(attribute, low, high)


def _prefix(attribute: Attribute, points: Sequence[Point]) -> Expression:
    prefix = cast(str, points[0])
    return Range(attribute, prefix, _after_all_with(prefix))


def _after_all_with(prefix: str) -> str | None:
    """The least text above all that start with a prefix; None if there is none."""
    for at in range(len(prefix) - 1, -1, -1):
        code = ord(prefix[at])
        if code < _LAST_CODE_POINT:
            code = _SURROGATES.stop if code + 1 in _SURROGATES else code + 1
            return prefix[:at] + chr(code)
    return None


_LEAVES: Final[Mapping[str, Callable[[Attribute, Sequence[Point]], Expression]]] = {
    "=": _equal,
    "!=": _equal,
    "IN": _equal,
    "<": lambda attribute, points: _range(attribute, None, _at_least(points[0])),
    "<=": lambda attribute, points: _range(attribute, None, _beyond(points[0])),
    ">": lambda attribute, points: _range(attribute, _beyond(points[0]), None),
    ">=": lambda attribute, points: _range(attribute, _at_least(points[0]), None),
    "BETWEEN": lambda attribute, points: _range(attribute, _at_least(points[0]), _beyond(points[1])),
    "STARTS_WITH": _prefix,
}
