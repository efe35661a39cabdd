"""Workers: their reports, and who they are."""

from __future__ import annotations

from perdure.api import messages as m
from perdure.engine.service.base import ServiceTopic, invalid
from perdure.engine.workers import filter_of

__all__ = ["WorkerTopic"]

_PAGE = 1000
_SAID = (
    "worker_instance_key",
    "worker_identity",
    "task_queue",
    "sdk_name",
    "sdk_version",
    "status",
)
"""Plain fields that a report and a line of the list share."""


class WorkerTopic(ServiceTopic):
    """RecordWorkerHeartbeat and the calls that show what came of it."""

    async def record_worker_heartbeat(self, request: m.RecordWorkerHeartbeatRequest) -> m.RecordWorkerHeartbeatResponse:
        """Raises RpcError NOT_FOUND (namespace), INVALID_ARGUMENT."""
        self.check(request.namespace)
        self.workers.record(request.namespace, request.worker_heartbeat, self.clock.now_ms())
        return m.RecordWorkerHeartbeatResponse()

    async def describe_worker(self, request: m.DescribeWorkerRequest) -> m.DescribeWorkerResponse:
        """Raises RpcError NOT_FOUND (namespace, worker)."""
        self.check(request.namespace)
        report = self.workers.get(request.namespace, request.worker_instance_key, self.clock.now_ms())
        return m.DescribeWorkerResponse(worker_info=m.WorkerInfo(worker_heartbeat=report))

    async def list_workers(self, request: m.ListWorkersRequest) -> m.ListWorkersResponse:
        """In order of their keys.

        Raises:
            RpcError: NOT_FOUND (namespace), INVALID_ARGUMENT (filter, page token).
        """
        found = self._found(request.namespace, request.query)
        after = self._open_page(request.namespace, request.next_page_token)
        if after:
            found = [report for report in found if report.worker_instance_key > after]
        limit = min(request.page_size, _PAGE) if request.page_size > 0 else _PAGE
        response = m.ListWorkersResponse()
        for report in found[:limit]:
            response.workers_info.add().worker_heartbeat.CopyFrom(report)
            response.workers.append(_line(report))
        if len(found) > limit:
            last = found[limit - 1].worker_instance_key
            response.next_page_token = self.tokens.names_page(f"{request.namespace}\0{last}")
        return response

    async def count_workers(self, request: m.CountWorkersRequest) -> m.CountWorkersResponse:
        """Raises RpcError NOT_FOUND (namespace), INVALID_ARGUMENT (filter)."""
        return m.CountWorkersResponse(count=len(self._found(request.namespace, request.query)))

    def _found(self, namespace: str, query: str) -> list[m.WorkerHeartbeat]:
        """The workers a filter asks for."""
        self.check(namespace)
        now_ms = self.clock.now_ms()
        wanted = filter_of(query, now_ms)
        return [report for report in self.workers.of(namespace, now_ms) if wanted(report)]

    def _open_page(self, namespace: str, token: bytes) -> str:
        """The key after which a page begins; empty for the first one."""
        if not token:
            return ""
        of_namespace, _, key = self.tokens.open_names_page(token).partition("\0")
        if of_namespace != namespace or not key:
            raise invalid("the page token is not one of a list of this namespace's workers")
        return key


def _line(report: m.WorkerHeartbeat) -> m.WorkerListInfo:
    line = m.WorkerListInfo(
        host_name=report.host_info.host_name,
        worker_grouping_key=report.host_info.worker_grouping_key,
        process_id=report.host_info.process_id,
        plugins=report.plugins,
        drivers=report.drivers,
    )
    for name in _SAID:
        setattr(line, name, getattr(report, name))
    for name in ("deployment_version", "start_time"):
        if report.HasField(name):
            getattr(line, name).CopyFrom(getattr(report, name))
    return line
