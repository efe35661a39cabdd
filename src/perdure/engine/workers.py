"""The workers that say they are there: what each reported last.

Workers report now and then, and once more when they leave. Nothing depends on it, so it lives in memory; a worker that
has not been heard of for a while is forgotten, and so are the ones heard of longest ago when there are too many.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.api.durations import timestamp_ms
from perdure.engine.visibility.attributes import KEYWORD
from perdure.engine.visibility.expressions import Attribute, Value, matches
from perdure.engine.visibility.parsing import parse

__all__ = ["Workers", "filter_of"]

_KEPT = 10_000
_REPORT_BYTES = 64 * 1024
"""A report may have so many."""
_SILENT_MS = 5 * 60_000
"""A worker that has been silent for longer is forgotten."""


_STATUS = "WORKER_STATUS_"

_ATTRIBUTES: Final[dict[str, Callable[[m.WorkerHeartbeat], Value]]] = {
    "WorkerInstanceKey": lambda report: report.worker_instance_key,
    "WorkerIdentity": lambda report: report.worker_identity,
    "HostName": lambda report: report.host_info.host_name,
    "TaskQueue": lambda report: report.task_queue,
    "DeploymentName": lambda report: report.deployment_version.deployment_name,
    "BuildId": lambda report: report.deployment_version.build_id,
    "SdkName": lambda report: report.sdk_name,
    "SdkVersion": lambda report: report.sdk_version,
    "StartTime": lambda report: timestamp_ms(report.start_time),
    "Status": lambda report: _status_name(report.status),
}
"""What a filter may speak of, and where a report says it."""
_TYPES: Final = dict.fromkeys(_ATTRIBUTES, KEYWORD)


def _status_name(status: m.WorkerStatus.ValueType) -> str:
    """``WORKER_STATUS_SHUTTING_DOWN`` as ShuttingDown."""
    return m.WorkerStatus.Name(status).removeprefix(_STATUS).title().replace("_", "")


def filter_of(query: str, now_ms: int) -> Callable[[m.WorkerHeartbeat], bool]:
    """What a list filter asks of workers. Raises RpcError INVALID_ARGUMENT."""
    if not query.strip():
        return lambda report: True
    where = parse(query, _TYPES, now_ms).where

    def is_wanted(report: m.WorkerHeartbeat) -> bool:
        def values_of(attribute: Attribute) -> tuple[Value, ...]:
            read = _ATTRIBUTES.get(attribute.name)
            value = read(report) if read is not None else ""
            return (value,) if value else ()

        return matches(where, values_of)

    return is_wanted


class Workers:
    """Reports by namespace and key of the worker, the latest one last."""

    def __init__(self) -> None:
        self._reports: OrderedDict[tuple[str, str], tuple[int, m.WorkerHeartbeat]] = OrderedDict()

    def record(self, namespace: str, reports: Iterable[m.WorkerHeartbeat], now_ms: int) -> None:
        """Take in reports; those of a worker without a key are passed over.

        Raises:
            RpcError: INVALID_ARGUMENT, one is too large; nothing was taken in.
        """
        taken = [report for report in reports if report.worker_instance_key]
        for report in taken:
            if report.ByteSize() > _REPORT_BYTES:
                raise RpcError(
                    StatusCode.INVALID_ARGUMENT,
                    f"what worker {report.worker_instance_key!r} reports exceeds the limit of {_REPORT_BYTES} bytes",
                )
        for report in taken:
            key = (namespace, report.worker_instance_key)
            self._reports[key] = (now_ms, report)
            self._reports.move_to_end(key)
        self._forget(now_ms)

    def _forget(self, now_ms: int) -> None:
        reports = self._reports
        while reports:
            at_ms, _ = next(iter(reports.values()))
            if len(reports) <= _KEPT and now_ms - at_ms <= _SILENT_MS:
                return
            reports.popitem(last=False)

    def get(self, namespace: str, key: str, now_ms: int) -> m.WorkerHeartbeat:
        """What a worker reported last. Raises RpcError NOT_FOUND."""
        self._forget(now_ms)
        found = self._reports.get((namespace, key))
        if found is None:
            raise RpcError(StatusCode.NOT_FOUND, f"no worker {key!r} has reported in namespace {namespace!r} of late")
        return found[1]

    def of(self, namespace: str, now_ms: int) -> list[m.WorkerHeartbeat]:
        """The workers of a namespace, in order of their keys."""
        self._forget(now_ms)
        found = [report for (of_namespace, _), (_, report) in self._reports.items() if of_namespace == namespace]
        return sorted(found, key=lambda report: report.worker_instance_key)
