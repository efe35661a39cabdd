"""Search attributes: the names there are, and their types.

Three kinds. *System* attributes are what the engine knows of every run; nobody sets them. *Predefined* ones have a
fixed type and are set like custom ones, mostly by SDKs and by the service itself. *Custom* ones belong to a namespace,
which registers their names and types.

Types are the numbers of the API's ``IndexedValueType``; payloads carry their names ("KeywordList") as ``type``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from perdure.api import messages as m

__all__ = [
    "BOOL",
    "CUSTOM_NAME_LENGTH",
    "DATETIME",
    "DOUBLE",
    "INT",
    "KEYWORD",
    "KEYWORD_LIST",
    "NAMESPACE_DIVISION",
    "PREDEFINED",
    "SYSTEM",
    "TEXT",
    "TYPES",
    "TYPE_NAMES",
    "ValueType",
    "is_reserved",
    "type_of",
]

ValueType = int
"""An ``IndexedValueType``."""

TEXT: Final = 1
KEYWORD: Final = 2
INT: Final = 3
DOUBLE: Final = 4
BOOL: Final = 5
DATETIME: Final = 6
KEYWORD_LIST: Final = 7

CUSTOM_NAME_LENGTH: Final = 255
"""Characters in the name of a custom attribute, at most."""

TYPE_NAMES: Final[Mapping[ValueType, str]] = {
    number: name.removeprefix("INDEXED_VALUE_TYPE_").title().replace("_", "")
    for name, number in m.IndexedValueType.items()
    if number
}
TYPES: Final[Mapping[str, ValueType]] = {name: number for number, name in TYPE_NAMES.items()}

SYSTEM: Final[Mapping[str, ValueType]] = {
    "WorkflowId": KEYWORD,
    "RunId": KEYWORD,
    "WorkflowType": KEYWORD,
    "TaskQueue": KEYWORD,
    "ExecutionStatus": KEYWORD,
    "StartTime": DATETIME,
    "ExecutionTime": DATETIME,
    "CloseTime": DATETIME,
    "ExecutionDuration": INT,
    "HistoryLength": INT,
    "HistorySizeBytes": INT,
    "StateTransitionCount": INT,
    "ParentWorkflowId": KEYWORD,
    "ParentRunId": KEYWORD,
    "RootWorkflowId": KEYWORD,
    "RootRunId": KEYWORD,
}
NAMESPACE_DIVISION: Final = "TemporalNamespaceDivision"
"""Runs that have it are listed only when a filter speaks of it."""
PREDEFINED: Final[Mapping[str, ValueType]] = {
    "BatcherNamespace": KEYWORD,
    "BatcherUser": KEYWORD,
    "BinaryChecksums": KEYWORD_LIST,
    "BuildIds": KEYWORD_LIST,
    "TemporalChangeVersion": KEYWORD_LIST,
    NAMESPACE_DIVISION: KEYWORD,
    "TemporalPauseInfo": KEYWORD_LIST,
    "TemporalReportedProblems": KEYWORD_LIST,
    "TemporalScheduledById": KEYWORD,
    "TemporalScheduledStartTime": DATETIME,
    "TemporalSchedulePaused": BOOL,
    "TemporalUsedWorkerDeploymentVersions": KEYWORD_LIST,
    "TemporalWorkerDeployment": KEYWORD,
    "TemporalWorkerDeploymentVersion": KEYWORD,
    "TemporalWorkflowVersioningBehavior": KEYWORD,
}

_PREFIX: Final = "Temporal"
_INTERNAL: Final = frozenset(("Memo", "MemoEncoding", "NamespaceId", "VisibilityTaskKey"))


def is_reserved(name: str) -> bool:
    """Whether a custom attribute may not have this name."""
    return name in SYSTEM or name in PREDEFINED or name in _INTERNAL or name.startswith(_PREFIX)


def type_of(name: str, custom: Mapping[str, ValueType]) -> ValueType | None:
    """The type of an attribute that can be set; None if there is none of this name.

    Args:
        custom: the types of the namespace's own attributes, by name.
    """
    return custom.get(name) or PREDEFINED.get(name)
