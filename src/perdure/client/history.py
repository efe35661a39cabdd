"""Histories as a client sees them: fetched page by page, kept as a value, written to JSON and read back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, cast

from google.protobuf import json_format

from perdure.api import messages as m

__all__ = ["WorkflowHistory", "WorkflowHistoryEventFilterType"]


class WorkflowHistoryEventFilterType(IntEnum):
    """Which events are fetched."""

    ALL_EVENT = 1
    CLOSE_EVENT = 2


@dataclass(frozen=True, slots=True)
class WorkflowHistory:
    """The events of one run, e.g. for `perdure.testing.Replayer`.

    The JSON form is protobuf's own, with an ``events`` array, as Temporal's tools write it.
    """

    workflow_id: str
    events: Sequence[m.HistoryEvent]

    @property
    def run_id(self) -> str:
        """The run's id, from its first event.

        Raises:
            ValueError: the history does not begin with the run's start.
        """
        if not self.events or not self.events[0].HasField("workflow_execution_started_event_attributes"):
            raise ValueError("a history begins with its WorkflowExecutionStarted event")
        return self.events[0].workflow_execution_started_event_attributes.original_execution_run_id

    @staticmethod
    def from_json(workflow_id: str, history: str | Mapping[str, Any]) -> WorkflowHistory:
        """Read a history from JSON text or from what `json.loads` made of it.

        Raises:
            ValueError: it is not the JSON of a history.
        """
        try:
            document: Any = json.loads(history) if isinstance(history, str) else history
            if not isinstance(document, Mapping):
                raise TypeError("a history is a JSON object")
            plain = dict(cast("Mapping[str, Any]", document))
            parsed = json_format.ParseDict(plain, m.History(), ignore_unknown_fields=True)
        except (json_format.ParseError, json.JSONDecodeError, RecursionError, TypeError) as error:
            raise ValueError(f"not the JSON of a workflow history: {error}") from error
        return WorkflowHistory(workflow_id, list(parsed.events))

    def to_json(self) -> str:
        """This history as JSON text."""
        return json.dumps(self.to_json_dict())

    def to_json_dict(self) -> dict[str, Any]:
        """This history as plain JSON values."""
        return json_format.MessageToDict(m.History(events=self.events))
