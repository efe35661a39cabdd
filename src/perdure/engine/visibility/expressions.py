"""What a list filter asks, with all names and values understood: a small frozen tree.

Every run has, for each attribute, a set of values: none when it lacks the attribute, one as a rule, several for a
KeywordList or the words of a Text. A leaf holds for a run if one of its values fits; a run that lacks the attribute
fits no leaf but `Missing`. There are two truth values: what does not hold is not so, and `Not` turns it around.

Values are integers and texts only, in the form they are stored in:

    Keyword, KeywordList                        the text
    Text                                        its words (`values.words`), and "" to say that there is one
    Int, Bool                                   the number; 1 or 0
    Double                                      `values.double_key`, an integer of the same order
    Datetime, custom                            microseconds since the epoch
    StartTime, ExecutionTime, CloseTime         milliseconds since the epoch
    ExecutionDuration                           milliseconds
    ExecutionStatus                             a ``WorkflowExecutionStatus``

Integers have 64 bits. Texts compare by code points, which is how their UTF-8 bytes compare.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from msgspec import Struct

__all__ = [
    "EVERYTHING",
    "NOTHING",
    "And",
    "Attribute",
    "Expression",
    "In",
    "Missing",
    "Not",
    "Or",
    "Order",
    "Position",
    "Range",
    "Value",
    "VisibilityQuery",
    "matches",
]

Value = int | str


class Attribute(Struct, frozen=True, order=True):
    """A search attribute."""

    name: str
    type: int
    """A `ValueType`."""


class In(Struct, frozen=True):
    """A value is one of these."""

    attribute: Attribute
    values: tuple[Value, ...]


class Range(Struct, frozen=True):
    """A value is at least `low` and less than `high`; None = no bound."""

    attribute: Attribute
    low: Value | None
    high: Value | None


class Missing(Struct, frozen=True):
    """There is no value."""

    attribute: Attribute


class Not(Struct, frozen=True):
    operand: Expression


class And(Struct, frozen=True):
    """All of them; of none, true."""

    operands: tuple[Expression, ...]


class Or(Struct, frozen=True):
    """One of them; of none, false."""

    operands: tuple[Expression, ...]


Expression = In | Range | Missing | Not | And | Or

EVERYTHING: Final = And(())
NOTHING: Final = Or(())


class Order(Struct, frozen=True):
    """By an attribute's value: its least one when ascending, its greatest when descending. Runs without it come last,
    except by CloseTime: a run that is open counts as closing later than any other."""

    attribute: Attribute
    descending: bool = False


Position = tuple[Value | None, ...]
"""A run's place in an order: its value of each `Order`, then its run key."""


class VisibilityQuery(Struct, frozen=True, kw_only=True):
    """What to list or count.

    Without an order: open runs first, then those that closed last. Runs alike are in the order of their keys, which
    is the order they were started in: ascending if the last `Order` ascends, else the newest first.
    """

    namespace: str
    where: Expression = EVERYTHING
    order: tuple[Order, ...] = ()

    @property
    def descending(self) -> bool:
        """Whether runs alike come newest first."""
        return self.order[-1].descending if self.order else True


def matches(expression: Expression, values_of: Callable[[Attribute], Sequence[Value]]) -> bool:
    """Whether a run fits.

    Args:
        expression: not deeper than a parsed filter can be.
        values_of: the run's values of an attribute.
    """
    match expression:
        case In(attribute, values):
            return any(value in values for value in values_of(attribute))
        case Range(attribute, low, high):
            return any(_within(value, low, high) for value in values_of(attribute))
        case Missing(attribute):
            return not values_of(attribute)
        case Not(operand):
            return not matches(operand, values_of)
        case And(operands):
            return all(matches(operand, values_of) for operand in operands)
        case Or(operands):
            return any(matches(operand, values_of) for operand in operands)


def _within(value: Value, low: Value | None, high: Value | None) -> bool:
    return (low is None or low <= value) and (high is None or value < high)  # type: ignore[operator]  # Of one type.
