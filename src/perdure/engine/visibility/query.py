"""List filters: a conjunction of comparisons, parsed into bound values.

    query       = [ condition { AND condition } ] [ GROUP BY ExecutionStatus ]
    condition   = field "=" value
                | ExecutionStatus IN "(" value { "," value } ")"
                | time ( "=" | "<" | "<=" | ">" | ">=" ) value
                | time BETWEEN value AND value
                | "(" condition ")"
    field       = WorkflowId | WorkflowType | RunId | ExecutionStatus
    time        = StartTime | CloseTime

Values are quoted with ' or " (doubled inside to quote themselves); times are ISO 8601 or epoch nanoseconds, statuses
names (`Running`) or numbers. Nothing of a query's text reaches a database: the result is a `VisibilityFilter`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.engine.store.port import VisibilityFilter

__all__ = ["ListQuery", "parse"]

MAX_QUERY_LENGTH = 8192
MAX_CONDITIONS = 50

_TOKEN = re.compile(
    r"""\s*(?:(?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")|(?P<number>-?\d+)|(?P<word>[A-Za-z_][A-Za-z0-9_]*)"""
    r"""|(?P<sign><=|>=|!=|<>|[=<>(),]))"""
)
_TEXT_FIELDS = {"WorkflowId": "workflow_id", "WorkflowType": "workflow_type", "RunId": "run_id"}
_TIME_FIELDS = {"StartTime": "start", "CloseTime": "close"}
_STATUSES = {
    "".join(part.capitalize() for part in name.removeprefix("WORKFLOW_EXECUTION_STATUS_").split("_")): number
    for name, number in m.WorkflowExecutionStatus.items()
    if number
}
_SUPPORTED = (
    "supported are WorkflowId, WorkflowType, RunId and ExecutionStatus with =, ExecutionStatus with IN, StartTime and"
    " CloseTime with =, <, <=, >, >= and BETWEEN, joined by AND"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


class _Token(NamedTuple):
    kind: str
    text: str


@dataclass(slots=True)
class ListQuery:
    """A parsed list filter."""

    where: VisibilityFilter
    group_by_status: bool = False
    contradictory: bool = False
    """No run can satisfy it."""


def _error(message: str) -> RpcError:
    return RpcError(StatusCode.INVALID_ARGUMENT, f"invalid list filter: {message}; {_SUPPORTED}")


def parse(namespace: str, query: str) -> ListQuery:
    """Parse a list filter.

    Raises:
        RpcError: INVALID_ARGUMENT, naming what is wrong and what is supported.
    """
    if len(query) > MAX_QUERY_LENGTH:
        raise _error(f"it is longer than {MAX_QUERY_LENGTH} characters")
    return _Parser(namespace, _tokens(query)).run()


def _tokens(query: str) -> list[_Token]:
    tokens: list[_Token] = []
    at = 0
    end = len(query.rstrip())
    while at < end:
        found = _TOKEN.match(query, at)
        if found is None:
            raise _error(f"unexpected text at {query[at : at + 20].strip()!r}")
        kind = found.lastgroup or ""
        tokens.append(_Token(kind, found.group(kind)))
        at = found.end()
    return tokens


@dataclass(slots=True)
class _Parser:
    namespace: str
    tokens: list[_Token]
    at: int = 0
    result: ListQuery = field(init=False)

    def __post_init__(self) -> None:
        self.result = ListQuery(VisibilityFilter(namespace=self.namespace))

    def run(self) -> ListQuery:
        if self.tokens and not self._is_word("GROUP"):
            conditions = 1
            self._condition()
            while self._is_word("AND"):
                self.at += 1
                self._condition()
                conditions += 1
                if conditions > MAX_CONDITIONS:
                    raise _error(f"it has more than {MAX_CONDITIONS} conditions")
        if self._is_word("GROUP"):
            self._group_by()
        if self.at < len(self.tokens):
            raise _error(f"{self.tokens[self.at].text!r} is not understood here")
        return self.result

    def _is_word(self, word: str) -> bool:
        if self.at >= len(self.tokens):
            return False
        token = self.tokens[self.at]
        return token.kind == "word" and token.text.upper() == word

    def _next(self, wanted: str) -> _Token:
        if self.at >= len(self.tokens):
            raise _error(f"it ends where {wanted} should stand")
        self.at += 1
        return self.tokens[self.at - 1]

    def _sign(self, text: str) -> None:
        token = self._next(repr(text))
        if token.text != text:
            raise _error(f"{text!r} is missing before {token.text!r}")

    def _group_by(self) -> None:
        self.at += 1
        if not self._is_word("BY"):
            raise _error("GROUP must be followed by BY")
        self.at += 1
        if self._next("a field").text != "ExecutionStatus":
            raise _error("only ExecutionStatus can be grouped by")
        self.result.group_by_status = True

    def _condition(self) -> None:
        depth = 0
        while self.at < len(self.tokens) and self.tokens[self.at].text == "(":
            self.at += 1
            depth += 1
        name = self._next("a field")
        if name.text in _TEXT_FIELDS and name.kind == "word":
            self._sign("=")
            self._narrow_text(_TEXT_FIELDS[name.text], self._value())
        elif name.text == "ExecutionStatus":
            self._status_condition()
        elif name.text in _TIME_FIELDS and name.kind == "word":
            self._time_condition(_TIME_FIELDS[name.text])
        elif name.kind == "word" and name.text.upper() in ("ORDER", "NOT", "OR"):
            raise _error(f"{name.text.upper()} is not supported")
        else:
            raise _error(f"no field is named {name.text!r}")
        for _ in range(depth):
            self._sign(")")

    def _value(self) -> str:
        token = self._next("a value")
        if token.kind == "text":
            quote = token.text[0]
            return token.text[1:-1].replace(quote * 2, quote)
        if token.kind == "number":
            return token.text
        raise _error(f"{token.text!r} should be a quoted value")

    # -- narrowing -------------------------------------------------------------------------------------------------

    def _narrow_text(self, column: str, value: str) -> None:
        known: str | None = getattr(self.result.where, column)
        if known is not None and known != value:
            self.result.contradictory = True
        self.result.where = replace(self.result.where, **{column: value})

    def _status_condition(self) -> None:
        if self._is_word("IN"):
            self.at += 1
            self._sign("(")
            statuses = {_status(self._value())}
            while self.at < len(self.tokens) and self.tokens[self.at].text == ",":
                self.at += 1
                statuses.add(_status(self._value()))
            self._sign(")")
        else:
            self._sign("=")
            statuses = {_status(self._value())}
        known = self.result.where.statuses
        if known is not None:
            statuses &= set(known)
        if not statuses:
            self.result.contradictory = True
        self.result.where = replace(self.result.where, statuses=tuple(sorted(statuses)))

    def _time_condition(self, column: str) -> None:
        if self._is_word("BETWEEN"):
            self.at += 1
            low = _instant(self._value())
            if not self._is_word("AND"):
                raise _error("BETWEEN needs two values joined by AND")
            self.at += 1
            high = _instant(self._value())
            self._narrow_time(column, -(-low // _MS), high // _MS)
            return
        sign = self._next("a comparison").text
        if sign not in ("=", "<", "<=", ">", ">="):
            raise _error(f"{sign!r} can't compare times")
        instant = _instant(self._value())
        floor_ms, ceiling_ms = instant // _MS, -(-instant // _MS)
        match sign:
            case "=":
                # A stored instant is a whole millisecond; asked for one in between, the one it lies in is meant.
                self._narrow_time(column, floor_ms, floor_ms)
            case "<":
                self._narrow_time(column, None, ceiling_ms - 1)
            case "<=":
                self._narrow_time(column, None, floor_ms)
            case ">":
                self._narrow_time(column, floor_ms + 1, None)
            case _:
                self._narrow_time(column, ceiling_ms, None)

    def _narrow_time(self, column: str, low_ms: int | None, high_ms: int | None) -> None:
        where = self.result.where
        from_name, to_name = f"{column}_from_ms", f"{column}_to_ms"
        lows = [ms for ms in (getattr(where, from_name), low_ms) if ms is not None]
        highs = [ms for ms in (getattr(where, to_name), high_ms) if ms is not None]
        low, high = max(lows, default=None), min(highs, default=None)
        if low is not None and high is not None and low > high:
            self.result.contradictory = True
        self.result.where = replace(where, **{from_name: low, to_name: high})


def _status(text: str) -> int:
    if text in _STATUSES:
        return _STATUSES[text]
    if text.isdigit() and int(text) in _STATUSES.values():
        return int(text)
    raise _error(f"no status is named {text!r}; there are {', '.join(_STATUSES)}")


def _instant(text: str) -> timedelta:
    """An instant as the span since the epoch."""
    try:
        if re.fullmatch(r"-?\d+", text):
            if abs(int(text)) >= 1 << 63:
                raise ValueError("nanoseconds have 64 bits")
            return timedelta(microseconds=int(text) / 1000)
        instant = datetime.fromisoformat(text)
    except (ValueError, OverflowError) as error:
        raise _error(f"{text!r} is no time: {error}") from error
    return (instant if instant.tzinfo is not None else instant.replace(tzinfo=UTC)) - _EPOCH
