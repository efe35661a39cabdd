"""Dynamic configuration: the settings that Temporal's server has and this one knows, by Temporal's keys.

``--dynamic-config-value key=value`` sets bounds of runs (`Limits`) and of the engine (`EngineConfig`). Keys are
understood in any case; values are JSON, or plain text where that is no JSON. A span of time is written as Go does:
``"10s"``, ``"1m30s"``. Keys that mean nothing here are named, so that a log line can say that they were left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, cast

from perdure.engine import EngineConfig
from perdure.engine.config import Address

__all__ = ["KNOWN_KEYS", "Configured", "SettingError", "configure"]

_SPAN = re.compile(r"(?:\d+(?:\.\d+)?(?:h|ms|m|s))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s)")
_UNIT_MS = {"h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
_MOST = 1 << 40


class SettingError(Exception):
    """A value that its key can't have. The message names both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configured:
    """An engine's configuration, and what had no part in it."""

    config: EngineConfig
    ignored: tuple[str, ...]
    """Keys that mean nothing here."""


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST:
        raise ValueError("a number")
    return value


def _share(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError("a number from 0 to 1")
    return float(value)


def _milliseconds(value: object) -> int:
    if not isinstance(value, str) or not _SPAN.fullmatch(value):
        raise ValueError('a span of time such as "10s"')
    return round(sum(float(number) * _UNIT_MS[unit] for number, unit in _PART.findall(value)))


def _seconds(value: object) -> float:
    return _milliseconds(value) / 1000


def _addresses(value: object) -> tuple[Address, ...]:
    wanted = 'a list such as [{"Pattern": "*.example.com", "AllowInsecure": false}]'
    if not isinstance(value, list):
        raise ValueError(wanted)
    found: list[Address] = []
    for entry in cast("list[object]", value):
        if not isinstance(entry, dict):
            raise ValueError(wanted)
        said = {str(name).lower(): each for name, each in cast("dict[object, object]", entry).items()}
        pattern = said.get("pattern")
        insecure = said.get("allowinsecure", False)
        if not isinstance(pattern, str) or not isinstance(insecure, bool):
            raise ValueError(wanted)
        found.append(Address(pattern=pattern, allow_insecure=insecure))
    return tuple(found)


_Reader = Callable[[object], int | float | tuple[Address, ...]]

_OF_RUNS: dict[str, tuple[str, _Reader]] = {
    "component.nexusoperations.limit.header.size": ("nexus_header_bytes", _count),
    "component.nexusoperations.limit.operation.concurrency": ("pending_nexus_operations", _count),
    "component.nexusoperations.request.timeout": ("nexus_request_timeout_ms", _milliseconds),
    "component.nexusoperations.retryPolicy.initialInterval": ("nexus_backoff_initial_ms", _milliseconds),
    "component.nexusoperations.retryPolicy.maxInterval": ("nexus_backoff_max_ms", _milliseconds),
    "history.defaultWorkflowTaskTimeout": ("default_task_timeout_ms", _milliseconds),
    "history.maxInFlightUpdates": ("updates_in_flight", _count),
    "history.maximumSignalsPerExecution": ("signals_per_run", _count),
    "history.maxTotalUpdates": ("updates_per_run", _count),
    "history.maxTotalUpdates.suggestContinueAsNewThreshold": ("updates_suggest", _share),
    "history.workflowTaskRetryMaxInterval": ("task_backoff_max_ms", _milliseconds),
    "limit.blobSize.error": ("blob_bytes", _count),
    "limit.historyCount.error": ("history_events_max", _count),
    "limit.historyCount.suggestContinueAsNew": ("history_events_suggest", _count),
    "limit.historySize.error": ("history_bytes_max", _count),
    "limit.historySize.suggestContinueAsNew": ("history_bytes_suggest", _count),
    "limit.maxIDLength": ("id_length", _count),
    "limit.memoSize.error": ("memo_bytes", _count),
    "limit.numPendingActivities.error": ("pending_activities", _count),
    "limit.numPendingCancelRequests.error": ("pending_cancels", _count),
    "limit.numPendingChildExecutions.error": ("pending_children", _count),
    "limit.numPendingSignals.error": ("pending_signals", _count),
    "system.maxCallbacksPerWorkflow": ("callbacks", _count),
}
_OF_ENGINES: dict[str, tuple[str, _Reader]] = {
    "component.callbacks.allowedAddresses": ("callback_addresses", _addresses),
    "frontend.historyMaxPageSize": ("history_page_events", _count),
    "frontend.visibilityMaxPageSize": ("list_page", _count),
    "history.maxBufferedQueryCount": ("max_queries_per_run", _count),
    "matching.longPollExpirationInterval": ("poll_timeout_s", _seconds),
    "matching.PollerHistoryTTL": ("poller_seen_ms", _milliseconds),
    "matching.stickyPollerUnavailableWindow": ("sticky_alive_ms", _milliseconds),
}
_RUNS = {key.lower(): setting for key, setting in _OF_RUNS.items()}
_ENGINES = {key.lower(): setting for key, setting in _OF_ENGINES.items()}

KNOWN_KEYS: dict[str, str] = {key: name for key, (name, _) in sorted((_OF_RUNS | _OF_ENGINES).items())}
"""The keys that mean something here, and the setting each stands for."""


def configure(pairs: Iterable[str], config: EngineConfig | None = None) -> Configured:
    """An engine's configuration with these settings.

    Args:
        pairs: ``key=value`` each; of a key given twice the last counts.
        config: what to begin with.

    Raises:
        SettingError: a pair has no ``=``, or a known key a value it can't have.
    """
    begun = config or EngineConfig()
    of_runs: dict[str, Any] = {}
    of_engine: dict[str, Any] = {}
    ignored: list[str] = []
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise SettingError(f"{pair!r} is not KEY=VALUE")
        known = key.strip().lower()
        for table, found in ((_RUNS, of_runs), (_ENGINES, of_engine)):
            if known in table:
                name, reader = table[known]
                found[name] = _read(key, text, reader)
                break
        else:
            ignored.append(key)
    limits = replace(begun.limits, **of_runs)
    return Configured(config=replace(begun, limits=limits, **of_engine), ignored=tuple(ignored))


def _read(key: str, text: str, reader: _Reader) -> int | float | tuple[Address, ...]:
    try:
        value: object = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        value = text
    try:
        return reader(value)
    except ValueError as error:
        raise SettingError(f"{key} must be {error}, not {text!r}") from error
