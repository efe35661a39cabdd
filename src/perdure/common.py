"""Options and policies shared by workflows, activities and clients, named as in `temporalio.common`.

Values are frozen, so that option sets can be compared, hashed and cached. Conversions to the API's messages stand
beside the values they convert.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Any, Generic, NamedTuple, TypeVar

from perdure.api import messages as m
from perdure.api.durations import duration_ms, ms_of_timedelta, set_duration_ms

__all__ = [
    "ParentClosePolicy",
    "Priority",
    "QueryRejectCondition",
    "RawValue",
    "RetryPolicy",
    "SearchAttributeKey",
    "SearchAttributePair",
    "SearchAttributeUpdate",
    "TypedSearchAttributes",
    "WorkflowIDConflictPolicy",
    "WorkflowIDReusePolicy",
]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When a failed activity or workflow is tried again.

    Attributes:
        initial_interval: wait before the first retry.
        backoff_coefficient: factor between one wait and the next, at least 1.
        maximum_interval: longest wait; 100 × `initial_interval` when None.
        maximum_attempts: attempts in all; 0 = no limit, 1 = no retries.
        non_retryable_error_types: error types (class names, or ApplicationError types) that end the retries.
    """

    initial_interval: timedelta = timedelta(seconds=1)
    backoff_coefficient: float = 2.0
    maximum_interval: timedelta | None = None
    maximum_attempts: int = 0
    non_retryable_error_types: Sequence[str] | None = None

    def __post_init__(self) -> None:
        types = self.non_retryable_error_types
        if isinstance(types, str):
            raise TypeError("non_retryable_error_types takes a list of names, not one string")
        if types is not None:
            object.__setattr__(self, "non_retryable_error_types", tuple(types))
        if self.maximum_attempts < 0:
            raise ValueError("maximum_attempts may not be negative (0 means no limit)")
        for interval in (self.initial_interval, self.maximum_interval):
            if interval is not None:
                ms_of_timedelta(interval)
        if self.maximum_attempts == 1:
            return
        if self.initial_interval < timedelta(0):
            raise ValueError("initial_interval may not be negative")
        if not self.backoff_coefficient >= 1:
            raise ValueError("backoff_coefficient may not be less than 1")
        if self.maximum_interval is not None and self.maximum_interval < self.initial_interval:
            raise ValueError("maximum_interval may not be shorter than initial_interval")

    @staticmethod
    def from_proto(proto: m.RetryPolicy) -> RetryPolicy:
        """The policy an API message holds."""
        maximum_ms = duration_ms(proto.maximum_interval) if proto.HasField("maximum_interval") else 0
        return RetryPolicy(
            initial_interval=timedelta(milliseconds=duration_ms(proto.initial_interval)),
            backoff_coefficient=proto.backoff_coefficient or 2.0,
            maximum_interval=timedelta(milliseconds=maximum_ms) if maximum_ms else None,
            maximum_attempts=proto.maximum_attempts,
            non_retryable_error_types=tuple(proto.non_retryable_error_types) or None,
        )

    def apply_to_proto(self, proto: m.RetryPolicy) -> None:
        """Write this policy into an API message."""
        set_duration_ms(proto.initial_interval, ms_of_timedelta(self.initial_interval))
        proto.backoff_coefficient = self.backoff_coefficient
        maximum = self.maximum_interval if self.maximum_interval is not None else self.initial_interval * 100
        set_duration_ms(proto.maximum_interval, ms_of_timedelta(maximum))
        proto.maximum_attempts = self.maximum_attempts
        if self.non_retryable_error_types:
            proto.non_retryable_error_types.extend(self.non_retryable_error_types)


@dataclass(frozen=True, slots=True, kw_only=True)
class Priority:
    """Which of several waiting tasks goes first.

    Attributes:
        priority_key: 1 (first) to 5 (last); None = the default, 3.
        fairness_key: tasks of different keys take turns.
        fairness_weight: how often this key's turn comes, relative to the others.

    Raises:
        TypeError: the priority key is not a whole number.
        ValueError: it is below 1.
    """

    priority_key: int | None = None
    fairness_key: str | None = None
    fairness_weight: float | None = None

    def __post_init__(self) -> None:
        key: object = self.priority_key
        if key is not None and (not isinstance(key, int) or isinstance(key, bool)):
            raise TypeError(f"priority_key has to be a whole number, not {key!r}")
        if key is not None and key < 1:
            raise ValueError("priority_key begins at 1, which goes first")

    @staticmethod
    def from_proto(proto: m.Priority) -> Priority:
        """The priority an API message holds."""
        return Priority(
            priority_key=proto.priority_key if proto.priority_key > 0 else None,
            fairness_key=proto.fairness_key or None,
            fairness_weight=proto.fairness_weight or None,
        )

    def apply_to_proto(self, proto: m.Priority) -> None:
        """Write this priority into an API message."""
        proto.priority_key = self.priority_key or 0
        proto.fairness_key = self.fairness_key or ""
        proto.fairness_weight = self.fairness_weight or 0.0


class WorkflowIDReusePolicy(IntEnum):
    """What happens when a *closed* workflow of the same id exists."""

    ALLOW_DUPLICATE = 1
    ALLOW_DUPLICATE_FAILED_ONLY = 2
    REJECT_DUPLICATE = 3
    TERMINATE_IF_RUNNING = 4


class WorkflowIDConflictPolicy(IntEnum):
    """What happens when a *running* workflow of the same id exists."""

    UNSPECIFIED = 0
    FAIL = 1
    USE_EXISTING = 2
    TERMINATE_EXISTING = 3


class ParentClosePolicy(IntEnum):
    """What happens to a child when its parent closes."""

    UNSPECIFIED = 0
    TERMINATE = 1
    ABANDON = 2
    REQUEST_CANCEL = 3


class QueryRejectCondition(IntEnum):
    """When a query is refused rather than answered."""

    NONE = 1
    NOT_OPEN = 2
    NOT_COMPLETED_CLEANLY = 3


@dataclass(frozen=True, slots=True)
class RawValue:
    """A payload that is passed on as it is, unconverted, as an argument or a result."""

    payload: m.Payload


@dataclass(frozen=True)
class SearchAttributeKey(Generic[_T]):
    """The name and type of a search attribute; made with one of the ``for_…`` methods.

    Attributes:
        name: as registered with the service.
        metadata_type: the type's name in payload metadata, e.g. "Keyword".
    """

    name: str
    metadata_type: str

    def value_set(self, value: _T) -> SearchAttributeUpdate[_T]:
        """An update that sets this attribute."""
        return SearchAttributeUpdate(self, value)

    def value_unset(self) -> SearchAttributeUpdate[_T]:
        """An update that removes this attribute."""
        return SearchAttributeUpdate(self, None)

    @staticmethod
    def for_text(name: str) -> SearchAttributeKey[str]:
        """Text, searched by its words."""
        return SearchAttributeKey(name, "Text")

    @staticmethod
    def for_keyword(name: str) -> SearchAttributeKey[str]:
        """Text, compared as a whole."""
        return SearchAttributeKey(name, "Keyword")

    @staticmethod
    def for_int(name: str) -> SearchAttributeKey[int]:
        """A whole number."""
        return SearchAttributeKey(name, "Int")

    @staticmethod
    def for_float(name: str) -> SearchAttributeKey[float]:
        """A number."""
        return SearchAttributeKey(name, "Double")

    @staticmethod
    def for_bool(name: str) -> SearchAttributeKey[bool]:
        """True or false."""
        return SearchAttributeKey(name, "Bool")

    @staticmethod
    def for_datetime(name: str) -> SearchAttributeKey[datetime]:
        """An instant."""
        return SearchAttributeKey(name, "Datetime")

    @staticmethod
    def for_keyword_list(name: str) -> SearchAttributeKey[Sequence[str]]:
        """Several texts, each compared as a whole."""
        return SearchAttributeKey(name, "KeywordList")


@dataclass(frozen=True)
class SearchAttributeUpdate(Generic[_T]):
    """A change of one search attribute; a value of None removes it."""

    key: SearchAttributeKey[_T]
    value: _T | None


class SearchAttributePair(NamedTuple, Generic[_T]):
    """A search attribute with its value."""

    key: SearchAttributeKey[_T]
    value: _T


class TypedSearchAttributes:
    """Search attributes with their values, sorted by name.

    Raises:
        ValueError: a name occurs twice.
    """

    __slots__ = ("search_attributes",)

    def __init__(self, search_attributes: Iterable[SearchAttributePair[Any]] = ()) -> None:
        self.search_attributes = tuple(sorted(search_attributes, key=lambda pair: pair.key.name))
        names = [pair.key.name for pair in self.search_attributes]
        if len(set(names)) < len(names):
            raise ValueError("a search attribute is given twice")

    def __len__(self) -> int:
        return len(self.search_attributes)

    def __iter__(self) -> Iterator[SearchAttributePair[Any]]:
        return iter(self.search_attributes)

    def __contains__(self, key: object) -> bool:
        return any(pair.key == key for pair in self.search_attributes)

    def __getitem__(self, key: SearchAttributeKey[_T]) -> _T:
        for pair in self.search_attributes:
            if pair.key == key:
                return pair.value
        raise KeyError(key)

    def get(self, key: SearchAttributeKey[_T], default: Any = None) -> Any:
        """The value of an attribute, or `default`."""
        return next((pair.value for pair in self.search_attributes if pair.key == key), default)
